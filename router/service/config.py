"""The configuration of a server: file, environment and command line, one over the other, and where each value is from.

The file is TOML with the tables that SETTINGS names, policies, and whom these are bound to. It holds no API keys.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from router.errors import ConfigError
from router.policies import CONDITIONS, REQUEST, Binding, PolicyBook
from router.service.auth import ApiKeys
from router.service.settings import KEYS_VARIABLE, SETTINGS, Settings, got, read_environment, unknown_key
from router.types import Policy

MAX_FILE_BYTES = 2**16
MAX_POLICIES = 256
MAX_BINDINGS = 256
MAX_NAME_CHARS = 64
MAX_VALUE_CHARS = 256
POLICIES, BINDINGS, DEFAULT = "policies", "bindings", "default"
# What stands for something else where policies are counted and answers name them.
RESERVED = (REQUEST, DEFAULT, "other")

_BY_NAME = {one.name: one for one in SETTINGS}
_SETTING_TABLES = tuple(dict.fromkeys(one.table for one in SETTINGS))
_TABLES = (*_SETTING_TABLES, POLICIES, BINDINGS)
_KEYS = ("api_keys", "api_keys_file")
_POLICY_NAME = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_NAME_CHARS}}}")
_BINDING_HEAD = re.compile(rf"\s*\[\[\s*{BINDINGS}\s*\]\]")


@dataclass(frozen=True, slots=True)
class Config:
    """Settings in force, and where each that is not a default came from, by name.

    Of a policy the name is ``policies.NAME``, of a binding ``bindings[PLACE]``.
    """

    settings: Settings
    sources: Mapping[str, str]

    def render(self) -> str:
        """Return one line per setting, key with a name, policy and binding: key, value, source.

        Of API keys only how many there are, and the names and rights of those with a name.
        """
        rows = [
            (one.key, one.shown(getattr(self.settings, one.name)), self.sources.get(one.name, "default"))
            for one in SETTINGS
        ]
        keys_from = next((self.sources[name] for name in _KEYS if name in self.sources), "default")
        api_keys, book = self.settings.api_keys, self.settings.policies
        rows.append(("API keys", str(len(api_keys.hashes)), keys_from))
        rows += [
            (f"API key {one.name}", f"may {' and '.join(sorted(one.may)) or 'nothing more'}", keys_from)
            for one in api_keys.callers
            if one.name in api_keys.names
        ]
        shown = [(f"{POLICIES}.{name}", _stated(policy)) for name, policy in book.policies.items()]
        if book.default is not None:
            shown.append((f"{POLICIES}.{DEFAULT}", book.default))
        shown += [(f"{BINDINGS}[{place}]", _bound(one)) for place, one in enumerate(book.bindings)]
        rows += [(key, value, self.sources.get(key, "default")) for key, value in shown]
        keys, values = (max(len(row[column]) for row in rows) for column in (0, 1))
        return "\n".join(f"{key:<{keys}}  {value:<{values}}  {source}" for key, value, source in rows)


def read_config(file: str | Path | None, environ: Mapping[str, str], options: Mapping[str, Any]) -> Config:
    """Return what the file says, the environment over it, and the options of the command line over both.

    options: checked values by name of the setting. Paths in the file are relative to the file.

    Raises:
        ConfigError: the file cannot be read or is not TOML, it has a table or key that is unknown, a value is wrong,
            a policy or a binding is wrong, or the API keys cannot be read.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    content = None if file is None else _Content.read(Path(file))
    for name, value, source in chain(
        () if content is None else _settings_of(content),
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
    if content is not None:
        values["policies"] = _book_of(content, values.get("api_keys", ApiKeys()))
        sources |= _book_sources(content)
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


@dataclass(frozen=True, slots=True)
class _Content:
    """A file: its text, and what that says."""

    path: Path
    text: str
    document: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "_Content":
        text = _read(path)
        return cls(path, text, _parse(path, text))

    def place(self, *keys: str | int) -> str:
        """Return the file with the line that something ends on: the first up to which the file is TOML that has it.

        keys: the way to it, tables first; the place in an array is a number. Without a line where that is not found:
        a value of several lines, a key written with escapes.
        """
        lines = self.text.split("\n")
        name = next(one for one in reversed(keys) if isinstance(one, str))
        first = _head(keys, lines)
        for number, line in enumerate(lines[first:], start=first + 1):
            if name in line:
                try:
                    content: Any = tomllib.loads("\n".join(lines[:number]))
                except (ValueError, RecursionError):
                    continue
                if _has(content, keys):
                    return f"{self.path}:{number}"
        return f"{self.path}"


def _head(keys: tuple[str | int, ...], lines: list[str]) -> int:
    """Return the line, from 0, at which a policy or a binding begins where it has a head as usual, else the first."""
    which = keys[1] if len(keys) > 1 else None
    if isinstance(which, int):
        heads = [number for number, line in enumerate(lines) if _BINDING_HEAD.match(line)]
        return heads[which] if which < len(heads) else 0
    if keys[0] == POLICIES and which is not None:
        head = re.compile(rf"\s*\[\s*{POLICIES}\s*\.\s*{re.escape(which)}\s*\]")
        return next((number for number, line in enumerate(lines) if head.match(line)), 0)
    return 0


def _has(content: Any, keys: tuple[str | int, ...]) -> bool:
    for key in keys:
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _settings_of(file: _Content) -> Iterator[tuple[str, Any, str]]:
    """Yield name, value and source of the settings in a file."""
    for table, content in file.document.items():
        if table not in _TABLES:
            _refuse(file.place(table), table, "", _TABLES)
        if table not in _SETTING_TABLES:
            continue
        if not isinstance(content, dict):
            raise ConfigError(f"{file.place(table)}: {table} is a value: expected a table, [{table}]")
        known = {one.short_name: one for one in SETTINGS if one.table == table}
        for key, value in content.items():
            at = file.place(table, key)
            if key not in known:
                _refuse(at, key, f" in [{table}]", tuple(known))
            setting = known[key]
            kept = setting.checked(value, f"{at}: {setting.key}")
            yield setting.name, file.path.parent / kept if setting.kind is Path else kept, f"file {at}"


def _book_of(file: _Content, keys: ApiKeys) -> PolicyBook:
    """Return the policies of a file and whom they are bound to. keys: those in force, wherever they came from."""
    tables = file.document.get(POLICIES, {})
    if not isinstance(tables, dict):
        raise ConfigError(f"{file.place(POLICIES)}: {POLICIES} is a value: expected tables, [{POLICIES}.NAME]")
    policies = {name: _policy(file, name, table) for name, table in tables.items() if name != DEFAULT}
    if len(policies) > MAX_POLICIES:
        raise ConfigError(f"{file.path}: {len(policies)} policies: expected at most {MAX_POLICIES}")
    default = tables.get(DEFAULT)
    if default is not None:
        _check_policy(default, policies, lambda: file.place(POLICIES, DEFAULT), f"{POLICIES}.{DEFAULT}")
    listed = file.document.get(BINDINGS, [])
    if not isinstance(listed, list):
        raise ConfigError(f"{file.place(BINDINGS)}: {BINDINGS} is no array: expected tables, [[{BINDINGS}]]")
    if len(listed) > MAX_BINDINGS:
        raise ConfigError(f"{file.path}: {len(listed)} bindings: expected at most {MAX_BINDINGS}")
    return PolicyBook(
        policies, tuple(_binding(file, nth, one, policies, keys) for nth, one in enumerate(listed)), default
    )


def _policy(file: _Content, name: str, table: Any) -> Policy:
    """Read a table of the fields that a request's policy has, with the same types and ranges."""
    from pydantic import ValidationError  # with the wire, most of the time that the command line takes to start

    from router.service.schema import RequestPolicy

    where = f"{POLICIES}.{name}"
    if not _POLICY_NAME.fullmatch(name) or name in RESERVED:
        raise ConfigError(
            f"{file.place(POLICIES, name)}: the name of [{where}] is none: expected 1 to {MAX_NAME_CHARS} letters, "
            f"digits, '_', '.' or '-', and not {', '.join(RESERVED)}"
        )
    if not isinstance(table, dict):
        raise ConfigError(f"{file.place(POLICIES, name)}: {where} has {got(table)}: expected a table, [{where}]")
    known = tuple(RequestPolicy.model_fields)
    for key in table:
        if key not in known:
            _refuse(file.place(POLICIES, name, key), key, f" in [{where}]", known)
    try:
        return RequestPolicy.model_validate(table).to_policy()
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=False)
    location = errors[0]["loc"]
    if not location:  # about several fields together
        raise ConfigError(f"{file.place(POLICIES, name)}: [{where}]: {errors[0]['msg']}")
    key = str(location[0])
    where, value = f"{where}.{key}", table[key]
    about = [one for one in errors if one["loc"][0] == key]
    inside = [(one["loc"][-1], one) for one in about if isinstance(one["loc"][-1], int)]
    if inside and isinstance(value, list):
        nth = int(inside[0][0])
        where, value = f"{where}[{nth}]", value[nth]
        about = [one for place, one in inside if place == nth]
    wanted = " or ".join(dict.fromkeys(_wanted(one["msg"]) for one in about))
    raise ConfigError(f"{file.place(POLICIES, name, key)}: {where} has {got(value)}: expected {wanted}")


def _wanted(message: str) -> str:
    """Return what an error of the wire says was expected, to stand behind that word."""
    for start, instead in (("Input should be ", ""), ("String should have ", "a text of "), ("List should have ", "")):
        if message.startswith(start):
            return instead + message.removeprefix(start).replace(" after validation", "").split(", not ")[0]
    return message


def _binding(file: _Content, nth: int, table: Any, policies: Mapping[str, Policy], keys: ApiKeys) -> Binding:
    known, where = ("policy", *CONDITIONS), f"{BINDINGS}[{nth}]"
    if not isinstance(table, dict):
        raise ConfigError(f"{file.place(BINDINGS, nth)}: {where} is no table: expected [[{BINDINGS}]]")
    for name, value in table.items():
        if name not in known:  # not as of settings: 'key' is one of ours, and its value a name
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            at = file.place(BINDINGS, nth, name)
            raise ConfigError(f"{at}: unknown key {name!r} in {where}: {hint}expected one of {', '.join(known)}")
        if name != "policy" and not (isinstance(value, str) and 0 < len(value) <= MAX_VALUE_CHARS):
            shown = "another value" if name == "key" else got(value)
            at = file.place(BINDINGS, nth, name)
            raise ConfigError(f"{at}: {where}.{name} has {shown}: expected a text of 1 to {MAX_VALUE_CHARS} characters")
    if "policy" not in table:
        raise ConfigError(f"{file.place(BINDINGS, nth)}: {where} has no policy: expected policy = NAME")
    _check_policy(table["policy"], policies, lambda: file.place(BINDINGS, nth, "policy"), f"{where}.policy")
    if len(table) == 1:
        raise ConfigError(
            f"{file.place(BINDINGS, nth)}: {where} binds everybody: expected one of {', '.join(CONDITIONS)}; "
            f"[{POLICIES}] {DEFAULT} = NAME is for whom no binding names"
        )
    if "key" in table and table["key"] not in keys.names:
        raise ConfigError(unknown_key(f"{file.place(BINDINGS, nth, 'key')}: {where}.key", keys))
    return Binding(**table)


def _check_policy(value: object, policies: Mapping[str, Policy], at: Callable[[], str], where: str) -> None:
    if isinstance(value, str) and value in policies:
        return
    near = difflib.get_close_matches(value, policies, 1) if isinstance(value, str) else []
    hint = f"did you mean {near[0]}? " if near else ""
    known = f"one of {', '.join(policies)}" if policies else f"a table [{POLICIES}.NAME] to be there"
    raise ConfigError(f"{at()}: {where} has {got(value)}, which is no policy: {hint}expected {known}")


def _book_sources(file: _Content) -> dict[str, str]:
    """Return where policies, their default and bindings stand, by what ``Config.render`` calls them."""
    names = {f"{POLICIES}.{name}": (POLICIES, name) for name in file.document.get(POLICIES, {})}
    places: dict[str, tuple[str | int, ...]] = {**names}
    for nth in range(len(file.document.get(BINDINGS, []))):
        places[f"{BINDINGS}[{nth}]"] = (BINDINGS, nth)
    return {name: f"file {file.place(*keys)}" for name, keys in places.items()}


def _stated(policy: Policy) -> str:
    """Return what a policy says that is not said anyway, as the file has it."""
    usual = Policy()
    said = {
        one.name: value
        for one in fields(Policy)
        if one.name != "name" and (value := getattr(policy, one.name)) != getattr(usual, one.name)
    }
    return ", ".join(f"{name} = {_toml(value)}" for name, value in said.items()) or "nothing"


def _bound(one: Binding) -> str:
    conditions = {name: value for name in CONDITIONS if (value := getattr(one, name)) is not None}
    return f"{one.policy} where " + " and ".join(f"{name} = {_toml(value)}" for name, value in conditions.items())


def _toml(value: object) -> str:
    return json.dumps(value) if isinstance(value, str | bool | list | tuple) else f"{value:g}"


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


def _refuse(at: str, name: str, inside: str, known: tuple[str, ...]) -> NoReturn:
    """Raise the error of an unknown table or key; its value is not repeated, it may be a secret."""
    if name.lower().rstrip("s") in ("api_key", "apikey", "key"):
        raise ConfigError(
            f"{at}: {name} is not taken from this file, which is no place for keys: expected server.api_keys_file "
            f"(a file with one key per line), or {KEYS_VARIABLE} in the environment"
        )
    what = "key" if inside else "table"
    near = difflib.get_close_matches(name, known, 1)
    elsewhere = _BY_NAME.get(name) or next((one for one in SETTINGS if one.short_name == name), None)
    if elsewhere is not None:
        hint = f"it is {elsewhere.key}; " if elsewhere.short_name != name else f"it belongs in [{elsewhere.table}]; "
    elif near:
        hint = f"did you mean {near[0]}? "
    else:
        hint = ""
    raise ConfigError(f"{at}: unknown {what} {name!r}{inside}: {hint}expected one of {', '.join(known)}")


def _variable(name: str) -> str:
    return _BY_NAME[name].variable if name in _BY_NAME else KEYS_VARIABLE
