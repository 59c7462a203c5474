"""Log lines: one per record whatever is in it, and nothing in them that a request or an exception said."""

import io
import json
import logging
import re
import subprocess
import sys
from datetime import datetime
from typing import Any

import pytest

from router.service.logs import logging_config
from router.service.settings import LOG_FORMATS, LOG_LEVELS, Settings

HOSTILE = [
    "two\nlines",
    "a return\r\nand a forged one: 2030-01-01T00:00:00.000Z ERROR router: CANARY",
    "\u2028separators\u2029and\x85next line\x0b\x0c\x1c",
    "\x1b[2J\x1b[31mred\x07\x00",
    "half a pair \ud800, turned \u202e around",
    'quotes " and \\ and {"level": "error"}',
    "%s %d %(x)s {} ${jndi:ldap://x}",
]


def write(log_format: str, message: Any, *args: Any, level: int = logging.ERROR, **more: Any) -> str:
    """Return what a logger in this form writes about one record."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging_config(Settings())["formatters"][log_format]["()"]())
    logger = logging.Logger("router.service.app")
    logger.addHandler(handler)
    logger.log(level, message, *args, **more)
    return stream.getvalue()


@pytest.mark.parametrize("log_format", LOG_FORMATS)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_one_record_is_one_line_whatever_is_in_it(log_format: str, hostile: str) -> None:
    for written in (
        write(log_format, hostile),
        write(log_format, "said %s", hostile),
        write(log_format, "said", extra={"name_of": hostile, "frames": [hostile, hostile], hostile: 1}),
    ):
        assert written.endswith("\n") and len(written.splitlines()) == 1
        assert written[:-1].isprintable()
        assert written.encode()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_json_gives_the_message_back(hostile: str) -> None:
    assert json.loads(write("json", hostile))["message"] == hostile


def test_the_form_of_json() -> None:
    line = json.loads(
        write(
            "json",
            "unexpected %s",
            "RuntimeError",
            extra={"error_id": "ab", "n": 1, "share": 0.5, "nan": float("nan"), "of": (1, None, object)},
        )
    )
    assert list(line) == ["time", "level", "logger", "message", "error_id", "n", "share", "nan", "of"]
    assert (line["level"], line["logger"], line["message"]) == (
        "error",
        "router.service.app",
        "unexpected RuntimeError",
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert abs((datetime.now().astimezone() - datetime.fromisoformat(line["time"])).total_seconds()) < 60
    assert (line["error_id"], line["share"], line["nan"], line["of"]) == (
        "ab",
        0.5,
        "nan",
        [1, None, "<class 'object'>"],
    )


def test_extras_cannot_pose_as_what_every_line_has() -> None:
    line = json.loads(write("json", "true", extra={"level": "CANARY", "logger": "CANARY", "time": "CANARY"}))
    assert "CANARY" not in str(line)


def test_the_form_of_text() -> None:
    written = write("text", "hello", level=logging.WARNING, extra={"error_id": "a b", "n": 2})
    assert re.fullmatch(
        r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING router\.service\.app: hello error_id="a b" n=2\n', written
    )


@pytest.mark.parametrize("log_format", LOG_FORMATS)
def test_exceptions_give_their_type_alone(log_format: str) -> None:
    try:
        raise KeyError("CANARY")
    except KeyError as exc:
        for written in (
            write(log_format, "failed", exc_info=True),
            write(log_format, "failed: %s", exc),
            write(log_format, "failed", extra={"cause": exc}),
            write(log_format, "failed (%s)", "KeyError", stack_info=True),
        ):
            assert "KeyError" in written
            assert "CANARY" not in written and "Traceback" not in written and "Stack" not in written


@pytest.mark.parametrize("log_format", LOG_FORMATS)
def test_arguments_that_do_not_fit_are_not_written(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    for template, args in (
        ("%d", ("CANARY",)),
        ("none", ("CANARY",)),
        ("%s %s", ("CANARY",)),
        ("%(x)s", ({"y": "CANARY"},)),
    ):
        written = write(log_format, template, *args)
        assert template in written and "do not fit" in written
        assert "CANARY" not in written
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("log_level", LOG_LEVELS)
def test_levels(log_level: str) -> None:
    config = logging_config(Settings(log_level=log_level))
    assert config["loggers"]["router"]["level"] == logging.getLevelNamesMapping()[log_level.upper()]
    assert config["root"]["level"] == (logging.ERROR if log_level == "error" else logging.WARNING)


SCRIPT = """
import asyncio, gc, logging, logging.config, sys
from router.service.logs import logging_config
from router.service.settings import Settings

logging.config.dictConfig(logging_config(Settings(log_format=sys.argv[1])))
logging.getLogger("router.service.app").info("first")
logging.getLogger("router.service.app").debug("CANARY: too fine")
logging.getLogger("uvicorn.error").info("CANARY: told on start")
logging.getLogger("uvicorn.access").info("CANARY: GET /")
logging.getLogger("some.library").info("CANARY: chatter")

async def fail():
    raise RuntimeError("CANARY")

async def main():
    task = asyncio.ensure_future(fail())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(lambda prompt: 1 / 0, "CANARY")
    await asyncio.sleep(0.01)

asyncio.run(main())
gc.collect()
try:
    raise RuntimeError("CANARY")
except RuntimeError:
    logging.getLogger("uvicorn.error").exception("CANARY: told by the application already")
    logging.getLogger("some.library").exception("library")
logging.getLogger("uvicorn.error").error("last")
"""


@pytest.mark.parametrize("log_format", LOG_FORMATS)
def test_a_process_writes_these_lines_and_no_others(log_format: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, log_format], capture_output=True, text=True, check=True)
    assert "CANARY" not in done.stderr + done.stdout
    if log_format == "json":
        lines = [(one["logger"], one["message"]) for one in map(json.loads, done.stderr.splitlines())]
    else:
        lines = [tuple(line.split(" ", 2)[2].split(": ", 1)) for line in done.stderr.splitlines()]
    assert sorted(lines) == [
        ("asyncio", "trouble in the event loop (RuntimeError)"),
        ("asyncio", "trouble in the event loop (ZeroDivisionError)"),
        ("router.service.app", "first"),
        ("some.library", "library (RuntimeError)"),
        ("uvicorn.error", "last"),
    ]
