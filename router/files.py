"""Plain files, hashed: read without following links, parsed without pickle, and written all at once or not at all."""

import glob
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.errors import ArtifactError
from router.types import JsonObject

MAX_FILE_BYTES = 8 << 30


def read_file(path: Path, entry: object) -> bytes:
    """Read one file without following links; with a manifest ``entry``, only if size and hash agree with it.

    Raises:
        ArtifactError: the file cannot be read, is too large or is not what the entry says; it is named.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if isinstance(entry, dict) and entry.get("bytes") != size:
                raise ArtifactError(f"{path}: {size} bytes, the manifest says {entry.get('bytes')}")
            if size > MAX_FILE_BYTES:
                raise ArtifactError(f"{path}: {size} bytes is above the limit of {MAX_FILE_BYTES}")
            raw = file.read()
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}") from exc
    if entry is not None:
        wanted = entry.get("sha256") if isinstance(entry, dict) else None
        if hashlib.sha256(raw).hexdigest() != wanted:
            raise ArtifactError(f"{path}: altered or damaged, its SHA-256 is not the manifest's")
    return raw


def parse_array(raw: bytes, dtype: str, axes: int, path: Path) -> NDArray[Any]:
    """Return the array of a .npy file, of ``dtype`` and with so many axes.

    Raises:
        ArtifactError: it is anything else; ``path`` is named.
    """
    try:
        array = np.load(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as exc:
        raise ArtifactError(f"{path}: not a .npy array: {exc}") from exc
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype) or array.ndim != axes:
        raise ArtifactError(f"{path}: expected a {axes}-axis array of {dtype}")
    return np.ascontiguousarray(array)


def check_arrays(expected: Mapping[str, tuple[NDArray[Any], tuple[int, ...]]], directory: Path) -> None:
    """Raise ArtifactError where an array has not its shape, or holds NaN or infinity; its name is the key."""
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ArtifactError(f"{directory / name}: shape {array.shape}, expected {shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ArtifactError(f"{directory / name}: holds NaN or infinity")


def parse_json(raw: bytes, path: Path) -> JsonObject:
    """Return the JSON object of a file.

    Raises:
        ArtifactError: it is no JSON, or no object; ``path`` is named.
    """
    try:
        parsed = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise ArtifactError(f"{path}: not JSON: {exc}") from exc
    if not isinstance(parsed, dict):
        raise ArtifactError(f"{path}: expected a JSON object")
    return parsed


def npy_bytes(array: NDArray[Any]) -> bytes:
    """Return the content of an array's .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def json_bytes(value: JsonObject) -> bytes:
    """Return the content of a JSON file; NaN is a ValueError."""
    return (json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode()


def write_synced(path: Path, raw: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def tidy(target: Path) -> None:
    """Undo what killed writers left beside ``target``: put the last whole artifact back, delete the rest."""
    for rest in target.parent.glob(f".{glob.escape(target.name)}.*"):
        number, _, kind = rest.name.removeprefix(f".{target.name}.").partition(".")
        if kind not in ("old", "tmp") or not number.isdecimal() or _is_another_process(int(number)):
            continue
        if kind == "old" and not target.exists():
            rest.rename(target)
        else:
            shutil.rmtree(rest, ignore_errors=True)


def _is_another_process(number: int) -> bool:
    if number == os.getpid():
        return False
    try:
        os.kill(number, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def swap(beside: Path, target: Path) -> None:
    """Put ``beside`` in the place of ``target``; what was there before is deleted last."""
    old = beside.with_suffix(".old")
    if target.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    try:
        beside.rename(target)
    finally:  # an interrupt, too, must not leave the target gone
        if not target.exists() and old.is_dir():
            old.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
