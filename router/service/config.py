"""The configuration of a server: file, environment and command line, one over the other, and where each value is from.

The file is TOML with the tables that SETTINGS names. It holds no API keys.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from router.errors import ConfigError
from router.service.auth import ApiKeys
from router.service.settings import KEYS_VARIABLE, SETTINGS, Settings, read_environment

MAX_FILE_BYTES = 2**16

_BY_NAME = {one.name: one for one in SETTINGS}
_TABLES = tuple(dict.fromkeys(one.table for one in SETTINGS))
_KEYS = ("api_keys", "api_keys_file")


@dataclass(frozen=True, slots=True)
class Config:
    """Settings in force, and where each that is not a default came from, by name."""

    settings: Settings
    sources: Mapping[str, str]

    def render(self) -> str:
        """Return one line per setting: key, value, source. Of API keys only how many there are."""
        rows = [
            (one.key, one.shown(getattr(self.settings, one.name)), self.sources.get(one.name, "default"))
            for one in SETTINGS
        ]
        keys_from = next((self.sources[name] for name in _KEYS if name in self.sources), "default")
        rows.append(("API keys", str(len(self.settings.api_keys.hashes)), keys_from))
        keys, values = (max(len(row[column]) for row in rows) for column in (0, 1))
        return "\n".join(f"{key:<{keys}}  {value:<{values}}  {source}" for key, value, source in rows)


def read_config(file: str | Path | None, environ: Mapping[str, str], options: Mapping[str, Any]) -> Config:
    """Return what the file says, the environment over it, and the options of the command line over both.

    options: checked values by name of the setting. Paths in the file are relative to the file.

    Raises:
        ConfigError: the file cannot be read or is not TOML, it has a table or key that is unknown, a value is wrong,
            or the API keys cannot be read.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, value, source in chain(
        _from_file(Path(file)) if file is not None else (),
        ((name, value, f"environment {_variable(name)}") for name, value in read_environment(environ)),
        ((name, value, f"option {_BY_NAME[name].option}") for name, value in options.items()),
    ):
        if name in _KEYS:  # keys from one place: those of the layer below are not added to
            for other in _KEYS:
                values.pop(other, None)
                sources.pop(other, None)
        values[name], sources[name] = value, source
    if "api_keys_file" in values:
        try:
            values["api_keys"] = ApiKeys.from_file(values["api_keys_file"])
        except ConfigError as exc:
            raise ConfigError(f"api_keys_file ({sources['api_keys_file']}): {exc}") from exc
    return Config(Settings(**values), sources)


def misspelt_variables(environ: Mapping[str, str]) -> list[str]:
    """Return one line for every variable that looks like a setting and is none; what is far from all is not ours."""
    known = [*(one.variable for one in SETTINGS), KEYS_VARIABLE]
    lines = []
    for name in sorted(environ):
        near = difflib.get_close_matches(name, known, 1, cutoff=0.85)
        if near and name not in known:
            lines.append(f"{name} is no setting and is not read, did you mean {near[0]}?")
    return lines


def _from_file(path: Path) -> Iterator[tuple[str, Any, str]]:
    """Yield name, value and source of what a file sets."""
    text = _read(path)
    document = _parse(path, text)
    for table, content in document.items():
        at = _place(path, text, table)
        if table not in _TABLES:
            _refuse(at, table, "", _TABLES)
        if not isinstance(content, dict):
            raise ConfigError(f"{at}: {table} is a value: expected a table, [{table}]")
        known = tuple(one.name for one in SETTINGS if one.table == table)
        for key, value in content.items():
            at = _place(path, text, table, key)
            if key not in known:
                _refuse(at, key, f" in [{table}]", known)
            setting = _BY_NAME[key]
            kept = setting.checked(value, f"{at}: {setting.key}")
            yield key, path.parent / kept if setting.kind is Path else kept, f"file {at}"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"{path}: the configuration cannot be read: {exc.strerror}") from exc
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: more than {MAX_FILE_BYTES:,} bytes: expected a configuration file")
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{path}:{line}: byte {exc.start} is not UTF-8: expected TOML, which is") from exc


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        # tomllib gives the place in its message alone.
        found = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", str(exc))
        what = str(exc)[: found.start()] if found else str(exc)
        line = found[1] if found and found[1] else text.count("\n") + (not text.endswith("\n"))
        column = f", column {found[2]}" if found and found[2] else ""
        at = f"{path}:{line}" if found else f"{path}"
        raise ConfigError(f"{at}: not TOML{column}: {what[:1].lower()}{what[1:]}") from exc


def _place(path: Path, text: str, table: str, key: str | None = None) -> str:
    """Return the file with the line that a key (or table) ends on: the first up to which the file is TOML that has it.

    Without a line where that is not found: a value of several lines, a key written with escapes.
    """
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if (key or table) in line:
            try:
                content = tomllib.loads("\n".join(lines[:number])).get(table)
            except (ValueError, RecursionError):
                continue
            if content is not None and (key is None or (isinstance(content, dict) and key in content)):
                return f"{path}:{number}"
    return f"{path}"


def _refuse(at: str, name: str, inside: str, known: tuple[str, ...]) -> NoReturn:
    """Raise the error of an unknown table or key; its value is not repeated, it may be a secret."""
    if name.lower().rstrip("s") in ("api_key", "apikey", "key"):
        raise ConfigError(
            f"{at}: {name} is not taken from this file, which is no place for keys: expected server.api_keys_file "
            f"(a file with one key per line), or {KEYS_VARIABLE} in the environment"
        )
    what = "key" if inside else "table"
    near = difflib.get_close_matches(name, known, 1)
    if name in _BY_NAME:
        hint = f"it belongs in [{_BY_NAME[name].table}]; "
    elif near:
        hint = f"did you mean {near[0]}? "
    else:
        hint = ""
    raise ConfigError(f"{at}: unknown {what} {name!r}{inside}: {hint}expected one of {', '.join(known)}")


def _variable(name: str) -> str:
    return _BY_NAME[name].variable if name in _BY_NAME else KEYS_VARIABLE
