"""Plain files, hashed: read without following links, parsed without pickle, and written all at once or not at all."""

import errno
import glob
import hashlib
import io
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.errors import ArtifactError
from router.types import JsonObject

MAX_FILE_BYTES = 8 << 30
MAX_HEADER_BYTES = 1 << 10
_HEADER_START = 10
# What np.save writes of version 1.0; no other header is read, so that none has to be interpreted.
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<|][a-z]\d)', 'fortran_order': False, "
    rb"'shape': \((\d{1,12}),(?: (\d{1,12}))?\), \} *\n",
    re.DOTALL,
)
# A FIFO or a device is opened without waiting for its other end, and then refused.
_PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_FOLDER = os.O_RDONLY | os.O_DIRECTORY


class Folder:
    """A directory, opened once: all that is read below it is of this very one, wherever its name leads meanwhile.

    A link to the directory is followed, once. Below it none is, be it to a file or to a folder.
    """

    def __init__(self, directory: str | Path) -> None:
        """Open the directory.

        Raises:
            ArtifactError: there is none.
        """
        self.root = Path(directory)
        try:
            self.root = self.root.resolve(strict=True)
            self._descriptor = os.open(self.root, _FOLDER)
        except PermissionError as exc:
            raise ArtifactError(f"{directory}: cannot be read: {exc.strerror}") from exc
        except (OSError, RuntimeError) as exc:  # RuntimeError: links in a circle
            raise ArtifactError(
                f"{directory}: no such directory; expected an artifact written by 'whichmodel train --out'"
            ) from exc

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read(self, name: str, *, at_most: int = MAX_FILE_BYTES, entry: object = None) -> bytes:
        """Read one plain file with no other name; with a manifest ``entry``, only if size and hash agree with it.

        name: with '/' between folders.

        Raises:
            ArtifactError: it cannot be read, has above ``at_most`` bytes or is not what the entry says; it is named.
        """
        path = self.root / name
        size = 0
        try:
            descriptor = self._open(name)
            try:
                size = _checked_size(os.fstat(descriptor), at_most, path)
                if isinstance(entry, dict) and entry.get("bytes") != size:
                    raise ArtifactError(f"{path}: {size} bytes, the manifest says {entry.get('bytes')}")
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    raw = file.read(size + 1)
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise ArtifactError(f"{path}: cannot be read: {_why(exc)}") from exc
        except MemoryError as exc:
            raise ArtifactError(f"{path}: cannot be read: not enough memory for its {size} bytes") from exc
        if len(raw) != size:
            raise ArtifactError(f"{path}: was written to while it was read")
        if entry is not None:
            wanted = entry.get("sha256") if isinstance(entry, dict) else None
            if hashlib.sha256(raw).hexdigest() != wanted:
                raise ArtifactError(f"{path}: altered or damaged, its SHA-256 is not the manifest's")
        return raw

    def _open(self, name: str) -> int:
        *folders, last = name.split("/")
        opened: list[int] = []
        try:
            home = self._descriptor
            for folder in folders:
                home = os.open(folder, _FOLDER | os.O_NOFOLLOW, dir_fd=home)
                opened.append(home)
            return os.open(last, _PLAIN, dir_fd=home)
        finally:
            for one in opened:
                os.close(one)


def _checked_size(status: os.stat_result, at_most: int, path: Path) -> int:
    """Return the size of what was opened, if it is a plain file that nothing else can change under another name."""
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError(f"{path}: cannot be read: not a plain file")
    if status.st_nlink != 1:
        raise ArtifactError(f"{path}: has {status.st_nlink} names (hard links); expected a file of its own, so copy it")
    if status.st_size > at_most:
        raise ArtifactError(f"{path}: {status.st_size} bytes is above the limit of {at_most}")
    return status.st_size


def _why(exc: OSError) -> str:
    if exc.errno == errno.ELOOP:
        return "it is a link"
    return exc.strerror or type(exc).__name__


def parse_array(raw: bytes, dtype: str, axes: int, path: Path) -> NDArray[Any]:
    """Return the array of a .npy file, of ``dtype`` and with so many axes (1 or 2): the bytes themselves, read-only.

    Raises:
        ArtifactError: it is anything else; ``path`` is named.
    """
    header = _NPY.match(raw, 0, MAX_HEADER_BYTES)
    if header is None or header.end() != _HEADER_START + int.from_bytes(raw[8:_HEADER_START], "little"):
        raise ArtifactError(f"{path}: not a .npy array as they are written here, version 1.0 in the order of C")
    wanted = np.dtype(dtype)
    shape = tuple(int(one) for one in header.groups()[1:] if one is not None)
    if header.group(1).decode() != wanted.str or len(shape) != axes:
        raise ArtifactError(f"{path}: expected a {axes}-axis array of {dtype}")
    n_bytes = math.prod(shape) * wanted.itemsize
    if len(raw) - header.end() != n_bytes:
        raise ArtifactError(
            f"{path}: {len(raw) - header.end()} bytes, but the shape {shape} of {dtype} takes {n_bytes}"
        )
    values = np.frombuffer(raw, dtype=np.uint8, offset=header.end())
    if wanted.kind == "b" and values.max(initial=0) > 1:
        raise ArtifactError(f"{path}: a truth value must be 0 or 1, got {values.max()}")
    return values.view(wanted).reshape(shape)


def no_pause() -> None:
    """Go on at once: what loads while nobody waits for an answer."""


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
        parsed = json.loads(raw, parse_constant=_no_number)
    except (ValueError, RecursionError) as exc:
        raise ArtifactError(f"{path}: not JSON: {exc}") from exc
    if not isinstance(parsed, dict):
        raise ArtifactError(f"{path}: expected a JSON object")
    return parsed


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


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
    sync_directory(target.parent)


def sync_directory(directory: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
