"""Hugging Face datasets: ``hf:OWNER/NAME[:SPLIT]`` from the hub, and folders written by ``save_to_disk``.

Built from the documentation of ``datasets`` (load_dataset, load_from_disk, Dataset.iter). Only the rows are fetched
here; what they mean is decided by their columns, as for any other source.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from router.errors import DataError
from training.sources.files import BATCH_ROWS, OnBadRow, Table, Values

PREFIX = "hf:"
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
SAVED = ("dataset_info.json", "dataset_dict.json")


def is_saved_dataset(folder: Path) -> bool:
    """True for a folder written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``."""
    return any((folder / name).is_file() for name in SAVED)


def open_hub(source: str) -> Table:
    """Open ``hf:OWNER/NAME[:SPLIT]``.

    Raises:
        DataError: the name is malformed, the dataset cannot be had, or it has several splits and none is named.
    """
    name, _, split = source.removeprefix(PREFIX).partition(":")
    if not _NAME.fullmatch(name):
        raise DataError(f"{source}: expected hf:OWNER/NAME or hf:OWNER/NAME:SPLIT")
    from datasets import load_dataset

    return _open(source, lambda: load_dataset(name, split=split or None))


def open_saved(folder: Path) -> Table:
    """Open a folder written by ``save_to_disk``.

    Raises:
        DataError: it is damaged, or holds several splits.
    """
    from datasets import load_from_disk

    return _open(str(folder), lambda: load_from_disk(str(folder)))


def _open(source: str, fetch: Any) -> Table:
    import httpx
    import pyarrow as pa
    from datasets import DatasetDict
    from datasets.exceptions import DatasetsError

    try:
        found = fetch()
    except (OSError, ValueError, RuntimeError, DatasetsError, httpx.HTTPError, pa.ArrowException) as exc:
        reason = str(exc).strip().splitlines()
        raise DataError(f"{source}: cannot be loaded: {reason[0] if reason else type(exc).__name__}") from exc
    if isinstance(found, DatasetDict):
        if len(found) != 1:
            splits = ", ".join(map(str, found))
            raise DataError(f"{source}: has the splits {splits}; name one, as in {_with_split(source)}")
        found = next(iter(found.values()))
    columns = tuple(found.column_names)
    if not found.num_rows:
        raise DataError(f"{source}: the dataset holds no rows")

    def read(_on_bad_row: OnBadRow, wanted: Sequence[str] | None) -> Iterator[tuple[int, Values]]:
        chosen = found.select_columns(list(wanted)) if wanted is not None else found
        names = list(chosen.column_names)
        row = 0
        for batch in chosen.iter(BATCH_ROWS):
            for fields in zip(*(batch[name] for name in names), strict=True):
                row += 1
                yield row, dict(zip(names, fields, strict=True))

    return Table(source, columns, read, n_rows=found.num_rows)


def _with_split(source: str) -> str:
    return f"{source}:train" if source.startswith(PREFIX) else f"{source}/train"
