"""Files of rows: JSON Lines, JSON arrays, CSV and Parquet, read into rows that know their line.

What a row means is not known here; formats are told apart in detect.py.
"""

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from router.errors import DataError

EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
MAX_FIELD_CHARS = 64 * 1024 * 1024
"""Longest field that is read from a CSV file; the standard library's own limit is 128 KiB."""
BATCH_ROWS = 4096
TRUTH = {"true": True, "false": False}

Values = dict[str, Any]
OnBadRow = Callable[[int, str], None]
RowReader = Callable[[OnBadRow, Sequence[str] | None], Iterator[tuple[int, Values]]]


@dataclass(frozen=True, slots=True)
class Profile:
    """What a column holds: ``bool``, ``int``, ``float``, ``text``, ``other`` or ``empty``; the range of its numbers."""

    kind: str
    low: float = math.nan
    high: float = math.nan

    @property
    def in_unit_interval(self) -> bool:
        """True when every value could be a score."""
        return self.kind == "bool" or (self.kind in ("int", "float") and self.low >= 0.0 and self.high <= 1.0)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one source, read as often as wanted. ``read`` yields (line or row number from 1, values by column)."""

    name: str
    columns: tuple[str, ...]
    read: RowReader
    path: Path | None = None
    sha256: str | None = None
    n_rows: int | None = None

    def first(self) -> Values:
        """Return the first readable row, or an empty one."""
        return next((values for _, values in self.read(lambda _line, _message: None, None)), {})


def open_table(path: Path) -> Table:
    """Open one file of rows by its extension.

    Raises:
        DataError: the file is missing, empty, not of a known kind, or damaged.
    """
    name, extension = str(path), path.suffix.lower()
    if extension not in EXTENSIONS:
        raise DataError(f"{name}: cannot read files of type {extension!r}, expected one of {', '.join(EXTENSIONS)}")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{name}: the file is empty, expected rows")
        if extension == ".parquet":
            return _open_parquet(path)
        if extension == ".csv":
            return _open_csv(path)
        if extension == ".json" and _first_character(path) == b"[":
            return _open_json_array(path)
        if extension == ".json" and _is_one_object(path):
            raise DataError(f"{name}: one JSON object, expected an array of objects or one object a line")
        return _open_json_lines(path)
    except OSError as exc:
        raise DataError(f"{name}: cannot be read: {exc.strerror or exc}") from exc


def profile(table: Table) -> dict[str, Profile]:
    """Read all rows once and return what each column holds; in CSV, text that spells numbers counts as numbers."""
    if table.path is not None and table.path.suffix.lower() == ".parquet":
        return _profile_parquet(table.path)
    kinds: dict[str, set[str]] = {column: set() for column in table.columns}
    lows = dict.fromkeys(table.columns, math.inf)
    highs = dict.fromkeys(table.columns, -math.inf)
    for _, values in table.read(lambda _line, _message: None, None):
        for column, value in values.items():
            if value is None or value == "":
                continue
            kind, number = _kind(value)
            kinds[column].add(kind)
            if number is not None:
                lows[column] = min(lows[column], number)
                highs[column] = max(highs[column], number)
    return {column: Profile(_join(kinds[column]), lows[column], highs[column]) for column in table.columns}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that came from a file.

    Raises:
        ValueError: it is not JSON (which one line explains), or it is nested too deeply.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        raise ValueError(f"not valid JSON ({exc.msg} at character {exc.pos + 1})") from exc
    except UnicodeDecodeError as exc:
        raise ValueError("not UTF-8 text") from exc
    except RecursionError as exc:
        raise ValueError("JSON is nested too deeply") from exc


def _first_character(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _is_one_object(path: Path) -> bool:
    text = path.read_bytes().strip()
    try:
        return b"\n" in text and isinstance(parse_json(text), dict)
    except ValueError:
        return False


def _open_json_lines(path: Path) -> Table:
    columns: dict[str, None] = {}
    n_rows = 0

    def read(on_bad_row: OnBadRow, _columns: Sequence[str] | None) -> Iterator[tuple[int, Values]]:
        with path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                text = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
                if not text.strip():
                    continue
                try:
                    values = parse_json(text)
                except ValueError as exc:
                    on_bad_row(line, f"{exc}, expected one JSON object a line")
                    continue
                if isinstance(values, dict):
                    yield line, values
                else:
                    on_bad_row(line, f"a JSON {type(values).__name__}, expected an object")

    bad: list[str] = []
    for _, values in read(lambda line, message: bad.append(f"{path}:{line}: {message}"), None):
        columns.update(dict.fromkeys(values))
        n_rows += 1
    if not n_rows:
        raise DataError(bad[0] if bad else f"{path}: the file holds no rows")
    return Table(str(path), tuple(columns), read, path, file_sha256(path), n_rows + len(bad))


def _open_json_array(path: Path) -> Table:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise DataError(f"{path}: not UTF-8 text, expected a JSON array of rows") from exc
    items = list(_array_items(path, text))
    columns: dict[str, None] = {}
    for _, item in items:
        if isinstance(item, dict):
            columns.update(dict.fromkeys(item))
    if not columns:
        raise DataError(f"{path}: no rows, expected a JSON array of objects")

    def read(on_bad_row: OnBadRow, _columns: Sequence[str] | None) -> Iterator[tuple[int, Values]]:
        for line, item in items:
            if isinstance(item, dict):
                yield line, item
            else:
                on_bad_row(line, f"a JSON {type(item).__name__}, expected an object")

    return Table(str(path), tuple(columns), read, path, file_sha256(path), len(items))


def _array_items(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Yield the items of a JSON array with the line on which each begins."""
    decoder = json.JSONDecoder()
    position, line = text.index("[") + 1, 1
    counted = 0
    expects_item, empty = True, True
    while True:
        while position < len(text) and text[position] in " \t\r\n":
            position += 1
        line += text.count("\n", counted, position)
        counted = position
        mark = text[position : position + 1]
        if mark == "]" and (empty or not expects_item):
            return
        if mark == "," and not expects_item:
            position, expects_item = position + 1, True
            continue
        if not expects_item or not mark:
            raise DataError(f"{path}:{line}: the JSON array breaks off, expected ',' or ']'")
        try:
            item, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as exc:
            raise DataError(f"{path}:{exc.lineno}: not valid JSON ({exc.msg}), expected an array of objects") from exc
        except (ValueError, RecursionError) as exc:
            raise DataError(f"{path}:{line}: JSON that cannot be read (huge number or too deep nesting)") from exc
        yield line, item
        expects_item = empty = False


def _open_csv(path: Path) -> Table:
    def read(on_bad_row: OnBadRow, _columns: Sequence[str] | None) -> Iterator[tuple[int, Values]]:
        previous_limit = csv.field_size_limit(MAX_FIELD_CHARS)
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, strict=True)
                header = next(reader, [])
                line = reader.line_num + 1
                for fields in reader:
                    if len(fields) == len(header):
                        yield line, dict(zip(header, fields, strict=True))
                    elif fields:
                        on_bad_row(line, f"{len(fields)} fields, expected {len(header)} as in the header")
                    line = reader.line_num + 1
        except UnicodeDecodeError as exc:
            raise DataError(f"{path}: not UTF-8 text, expected CSV") from exc
        except csv.Error as exc:
            raise DataError(f"{path}:{reader.line_num}: not valid CSV ({exc})") from exc
        finally:
            csv.field_size_limit(previous_limit)

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), [])
    except (UnicodeDecodeError, csv.Error) as exc:
        raise DataError(f"{path}: the header cannot be read as UTF-8 CSV") from exc
    _check_header(path, header)
    bad: list[int] = []
    n_good = sum(1 for _ in read(lambda line, _message: bad.append(line), None))
    if not n_good:
        raise DataError(f"{path}: no row with {len(header)} fields below the header")
    return Table(str(path), tuple(header), read, path, file_sha256(path), n_good + len(bad))


def _open_parquet(path: Path) -> Table:
    try:
        with pq.ParquetFile(path) as file:
            columns, n_rows = tuple(file.schema_arrow.names), file.metadata.num_rows
    except (pa.ArrowException, OSError) as exc:
        raise DataError(f"{path}: not a Parquet file, or a damaged one") from exc
    _check_header(path, columns)
    if not n_rows:
        raise DataError(f"{path}: the file holds no rows")

    def read(_on_bad_row: OnBadRow, wanted: Sequence[str] | None) -> Iterator[tuple[int, Values]]:
        row = 0
        names = list(wanted) if wanted is not None else list(columns)
        for batch in _batches(path, names):
            lists = [column.to_pylist() for column in batch.columns]
            for fields in zip(*lists, strict=True):
                row += 1
                yield row, dict(zip(names, fields, strict=True))

    return Table(str(path), columns, read, path, file_sha256(path), n_rows)


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                yield batch.select(columns)
    except (pa.ArrowException, OSError) as exc:
        raise DataError(f"{path}: damaged Parquet file ({str(exc).splitlines()[0]})") from exc


def _profile_parquet(path: Path) -> dict[str, Profile]:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
    kinds = {field.name: _arrow_kind(field.type) for field in schema}
    numeric = [name for name, kind in kinds.items() if kind in ("int", "float")]
    lows, highs = dict.fromkeys(numeric, math.inf), dict.fromkeys(numeric, -math.inf)
    for batch in _batches(path, numeric) if numeric else ():
        for name, column in zip(numeric, batch.columns, strict=True):
            known = column.filter(pc.is_finite(column)) if kinds[name] == "float" else column
            limits = pc.min_max(known).as_py()
            if limits["min"] is not None:
                lows[name] = min(lows[name], float(limits["min"]))
                highs[name] = max(highs[name], float(limits["max"]))
    found: dict[str, Profile] = {}
    for name, kind in kinds.items():
        if name in lows and lows[name] > highs[name]:
            kind = "empty"
        found[name] = Profile(kind, lows.get(name, math.nan), highs.get(name, math.nan))
    return found


def _arrow_kind(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "int"
    if pa.types.is_floating(kind):
        return "float"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    return "empty" if pa.types.is_null(kind) else "other"


def _kind(value: Any) -> tuple[str, float | None]:
    if isinstance(value, bool):
        return "bool", None
    if isinstance(value, int | float):
        kind = "int" if isinstance(value, int) else "float"
    elif isinstance(value, str):
        if value.strip().lower() in TRUTH:
            return "bool", None
        kind = "int" if value.strip().lstrip("+-").isdecimal() else "float"
    else:
        return "other", None
    try:
        number = float(value)
    except ValueError:
        return "text", None
    except OverflowError:
        number = math.inf
    return kind, None if math.isnan(number) else number


def _join(kinds: set[str]) -> str:
    if kinds == {"int", "float"}:
        return "float"
    return next(iter(kinds)) if len(kinds) == 1 else "other" if kinds else "empty"


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not any(name.strip() for name in header):
        raise DataError(f"{path}: no column names")
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path}: two columns are named {twice!r}")
