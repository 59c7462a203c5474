"""Log lines of a server, as text or JSON: one line per record, without prompts, keys or the text of exceptions.

A message is data: whoever gets a line break into it must not be able to write a line of their own.
"""

import json
import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from router.service.settings import Settings
from router.types import JsonObject

# The attribute of a record under which its fields stand in JSON already: of decisions, which come by the thousand.
WRITTEN_FIELDS = "whichmodel_fields"
# What every record has, and uvicorn's message in colours: all else was given as ``extra``.
_COMMON = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"}


def logging_config(settings: Settings) -> JsonObject:
    """Return the configuration of ``logging`` for a server, in the form of ``logging.config.dictConfig``."""
    level = getattr(logging, settings.log_level.upper())
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {
            "not_logged_yet": {"()": NotLoggedYet},
            "without_reprs": {"()": WithoutReprs},
        },
        "formatters": {
            "text": {"()": TextFormatter},
            "json": {"()": JsonFormatter},
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": settings.log_format}},
        "loggers": {
            "router": {"level": level},
            "uvicorn": {"level": "ERROR"},
            "uvicorn.error": {"filters": ["not_logged_yet"]},
            "asyncio": {"filters": ["without_reprs"]},
        },
        # Without a handler at the root, Python writes what others log, exceptions with their text and all.
        "root": {"handlers": ["stderr"], "level": max(level, logging.WARNING)},
    }


class TextFormatter(logging.Formatter):
    """``TIME LEVEL LOGGER: MESSAGE key=value ...``, the values as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line = _printable(f"{_time(record)} {record.levelname} {record.name}: {_message(record)}")
        written: Mapping[str, str] | None = vars(record).get(WRITTEN_FIELDS)
        if written is not None:
            return line + "".join([f" {key}={value}" for key, value in written.items() if value != "null"])
        return line + "".join(f" {_printable(key)}={_json(value)}" for key, value in _extras(record).items())


class JsonFormatter(logging.Formatter):
    """One JSON object in ASCII: time, level, logger, message, and what was given as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        written: Mapping[str, str] | None = vars(record).get(WRITTEN_FIELDS)
        if written is not None:
            return _json(line)[:-1] + "".join([f', "{key}": {value}' for key, value in written.items()]) + "}"
        return _json({**line, **_extras(record), **line})  # extras come behind, and replace nothing


class NotLoggedYet(logging.Filter):
    """Drops uvicorn's own record of an exception: the application has logged it, without the exception's text."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is news."""
        return record.exc_info is None


class WithoutReprs(logging.Filter):
    """Replaces the messages of asyncio, which quote tasks, arguments and exceptions, and with them prompts."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record, without its message."""
        record.msg, record.args = "trouble in the event loop", ()
        return True


def _time(record: logging.LogRecord) -> str:
    """Return when it happened, in UTC as RFC 3339."""
    seconds, ms = divmod(int(record.created * 1000), 1000)
    return f"{_second(seconds)}.{ms:03}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def _message(record: logging.LogRecord) -> str:
    """Return the message, with the type of the exception that came with it."""
    message, args = str(record.msg), record.args
    if isinstance(args, tuple):
        args = tuple(_type_name(one) if isinstance(one, BaseException) else one for one in args)
    if args:
        try:
            message = message % args
        except (TypeError, ValueError, KeyError):
            # A template that its arguments do not fit; logging would write both to stderr as they are.
            message += " (its arguments do not fit)"
    raised = record.exc_info[1] if record.exc_info else None
    return f"{message} ({_type_name(raised)})" if raised else message


def _type_name(exc: BaseException) -> str:
    return type(exc).__name__


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: _plain(value) for key, value in vars(record).items() if key not in _COMMON}


def _plain(value: object) -> Any:
    """Return a value that JSON has, text for any other."""
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, BaseException):
        return _type_name(value)
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else str(value)


_json = json.JSONEncoder(allow_nan=False).encode


def _printable(text: str) -> str:
    """Escape what could break a line or steer a terminal: all that is not printable."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
