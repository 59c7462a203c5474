"""YAML and JSON written by people, read with the line that every value stands on; nothing in it can run or unfold."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from router.errors import ConfigError

MAX_FILE_BYTES = 4 << 20
MAX_DEPTH = 16
_SHOWN_CHARS = 60
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9_]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# What JSON escapes in two halves, YAML knows as one character.
_HALVES = re.compile(r"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})")
# libyaml is ten times as fast, and not in every build of PyYAML.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Marked:
    """A value and its place.

    value: None, bool, int, float, str, list[Marked] or dict[str, Marked]. where: file and line; of a value in a
    mapping the line of its key.
    """

    value: Any
    where: str

    @property
    def shown(self) -> str:
        """What was got, for an error: short, in one line."""
        if isinstance(self.value, dict):
            return "a mapping"
        if isinstance(self.value, list):
            return "a list"
        text = repr(self.value)
        return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def read_marked(path: str | Path) -> Marked:
    """Read a YAML or JSON file.

    Numbers, true, false and null are what they are in JSON; any other word, yes and no among them, is a text. Keys are
    texts as they are written.

    Raises:
        ConfigError: the file cannot be read, is larger than MAX_FILE_BYTES or neither YAML nor JSON, is nested deeper
            than MAX_DEPTH, has a key twice or one that is no text, or holds an alias, a tag or a second document.
    """
    text = _read(Path(path))
    wrong = _UNPRINTABLE.search(text)
    if wrong is not None:
        raise ConfigError(
            f"{path}:{text.count(chr(10), 0, wrong.start()) + 1}: holds a control character, {wrong[0]!r}"
        )
    if str(path).endswith(".json"):
        text = _as_yaml(text, path)
    try:
        return _Tree(str(path)).build(text)
    except yaml.MarkedYAMLError as exc:
        mark, n_lines = exc.problem_mark, len(text.splitlines())  # what ends too soon is missed on the line behind
        line = f":{max(1, min(mark.line + 1, n_lines))}" if mark is not None else ""
        raise ConfigError(f"{path}{line}: neither YAML nor JSON: {exc.problem or exc.context}") from exc
    except (yaml.YAMLError, ValueError) as exc:  # ValueError: an escape beyond the last character
        raise ConfigError(f"{path}: neither YAML nor JSON: {' '.join(str(exc).split())}") from exc


def marked(raw: Any, where: str) -> Marked:
    """Return parsed JSON in the form of ``read_marked``, every value at the same place.

    Raises:
        ConfigError: it is nested deeper than MAX_DEPTH.
    """
    return _marked(raw, where, 0)


def _marked(raw: Any, where: str, depth: int) -> Marked:
    if depth > MAX_DEPTH:
        raise ConfigError(f"{where}: nested deeper than {MAX_DEPTH} levels")
    if isinstance(raw, Mapping):
        return Marked({str(key): _marked(one, where, depth + 1) for key, one in raw.items()}, where)
    if isinstance(raw, list | tuple):
        return Marked([_marked(one, where, depth + 1) for one in raw], where)
    return Marked(raw, where)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as exc:  # ValueError: a path with a NUL in it
        raise ConfigError(f"{path}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes, expected a file written for people")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{path}:{line}: cannot be read: byte {exc.start} is not UTF-8") from exc


def _as_yaml(text: str, path: str | Path) -> str:
    """Return JSON as YAML that has the same lines."""
    try:
        json.loads(text, parse_int=float)
    except json.JSONDecodeError as exc:
        raise ConfigError(f"{path}:{exc.lineno}: not JSON: {exc.msg}") from exc
    except RecursionError as exc:
        raise ConfigError(f"{path}: nested deeper than {MAX_DEPTH} levels") from exc
    # Within its texts, JSON has no tab; between them, YAML takes none.
    return _HALVES.sub(lambda found: found[1] + json.loads(f'"{found[2]}"'), text.replace("\t", " "))


@dataclass(slots=True)
class _Open:
    """A mapping or a list that is not read to its end. key: the mapping's key whose value comes next, and its place."""

    node: Marked
    key: tuple[str, str] | None = None


class _Tree:
    """Builds values from the parser's events, which come one by one: without recursion, and aliases unresolved."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._open: list[_Open] = []
        self._root: Marked | None = None

    def build(self, text: str) -> Marked:
        n_documents = 0
        event: Any  # the stubs know that a mark may be missing; of events from a text it is not
        for event in yaml.parse(text, Loader=_LOADER):
            where = f"{self._name}:{event.start_mark.line + 1}"
            if isinstance(event, yaml.DocumentStartEvent):
                n_documents += 1
                if n_documents > 1:
                    raise ConfigError(f"{where}: a second document begins, expected one")
            elif isinstance(event, yaml.NodeEvent):
                self._begin(event, where)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._put(self._open.pop().node)
        return self._root or Marked(None, f"{self._name}:1")

    def _begin(self, event: Any, where: str) -> None:
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{where}: *{event.anchor} is an alias: expected the value itself, written out")
        if event.tag is not None and event.tag != "!":
            raise ConfigError(f"{where}: the tag {event.tag} is not read: expected a plain value")
        if isinstance(event, yaml.ScalarEvent):
            if self._waits_for_key:
                self._take_key(event.value, where)
            else:
                self._put(Marked(_scalar(event.value) if event.implicit[0] else event.value, where))
            return
        if self._waits_for_key:
            raise ConfigError(f"{where}: a key is a list or a mapping, expected a text")
        if len(self._open) >= MAX_DEPTH:
            raise ConfigError(f"{where}: nested deeper than {MAX_DEPTH} levels")
        container: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        key = self._open[-1].key if self._open else None
        self._open.append(_Open(Marked(container, where if key is None else key[1])))

    @property
    def _waits_for_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].node.value, dict) and self._open[-1].key is None

    def _take_key(self, key: str, where: str) -> None:
        before = self._open[-1].node.value.get(key)
        if before is not None:
            raise ConfigError(f"{where}: {key!r} is there twice, first at {before.where}")
        self._open[-1].key = (key, where)

    def _put(self, node: Marked) -> None:
        if not self._open:
            self._root = node
            return
        above = self._open[-1]
        if above.key is None:
            above.node.value.append(node)
        else:
            key, where = above.key
            above.node.value[key] = Marked(node.value, where)
            above.key = None


def _scalar(text: str) -> Any:
    """Return what a plain word means: more digits than an amount has are infinite, not slow."""
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return int(text.replace("_", "")) if len(text) <= _SHOWN_CHARS else float(text.replace("_", ""))
    if _DECIMAL.fullmatch(text):
        return float(text.replace("_", ""))
    return text
