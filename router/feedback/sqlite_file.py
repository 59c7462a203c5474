"""The files of the SQLite store: who may write, how a connection is opened, and whether all is what was written."""

import fcntl
import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from router.errors import StoreDamagedError, StoreError, StoreLockedError
from router.feedback.sqlite_rows import EVENT_COLUMNS, check_crc, check_schema, migrate

logger = logging.getLogger(__name__)

# FULL syncs the write-ahead log at every commit. With NORMAL a power cut takes acknowledged events away.
SYNCHRONOUS = "FULL"
SYNCHRONOUS_LEVELS = {"OFF": 0, "NORMAL": 1, "FULL": 2}
# What a reader waits for the writer, and the writer for a reader that keeps it from emptying the log.
BUSY_TIMEOUT_S = 1.0
# Up to this size a store is checked whole when it is opened; of a larger one, the newest events are.
FULL_CHECK_BYTES = 256 << 20
N_NEWEST_CHECKED = 20_000
# Versions whose two connections can corrupt a database by writing and checkpointing at once (sqlite.org/wal.html).
WAL_RESET_BUG = ((3, 7, 0), (3, 51, 2))
WAL_RESET_FIXED = {(3, 44): 6, (3, 50): 7}


class WriterLock:
    """Holds STORE.lock: one process writes a store. Let go of by ``close``, and by the system when the process ends."""

    def __init__(self, store: Path) -> None:
        """Raise StoreLockedError where another one holds it, StoreError where it cannot be had at all."""
        path = Path(f"{store}.lock")
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise StoreError(f"{path}: cannot be made: {exc.strerror}") from exc
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise StoreLockedError(
                f"{store}: written by process {holder} (a running service?): only one may write; stop it first"
            ) from exc
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:  # a full disk: the number is for people, the lock holds without it
            logger.warning("%s: the number of this process could not be written", path)

    def close(self) -> None:
        """Let go of the lock. The file stays: deleting it could let two processes hold one each."""
        os.close(self._descriptor)


def open_writer(store: Path, *, checkpoint_pages: int) -> sqlite3.Connection:
    """Open, recover, migrate and check a store for its one writer, who holds the lock.

    Raises:
        StoreDamagedError: it is not what was written.
        StoreError: it cannot be opened or made, is another program's database, or of a newer version.
    """
    _warn_of_bug()
    try:
        # Made by hand, so that nobody else may ever read it; SQLite gives the log the same mode.
        os.close(os.open(store, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        raise StoreError(f"{store}: cannot be opened for writing: {exc.strerror}") from exc
    connection = None
    try:
        connection = sqlite3.connect(store, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        check_schema(connection, str(store), may_be_empty=True)  # before anything is changed
        _set_up(connection, store, checkpoint_pages)
        migrate(connection, str(store))
        sync_directory(store)
        check_content(connection, store, whole=store.stat().st_size <= FULL_CHECK_BYTES)
    except sqlite3.DatabaseError as exc:
        _close(connection)
        raise opening_error(store, exc) from exc
    except (StoreError, OSError) as exc:
        _close(connection)
        if isinstance(exc, OSError):
            raise StoreError(f"{store}: cannot be opened for writing: {exc.strerror}") from exc
        raise
    return connection


def open_reader(store: Path) -> sqlite3.Connection:
    """Open a store for reading only, beside the process that writes it.

    Raises:
        StoreError: it is not there, cannot be read, is no store or of a newer version.
    """
    if not store.is_file():
        raise StoreError(f"{store}: no such file, expected a feedback store")
    connection = None
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(store.absolute()))}?mode=ro",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        check_schema(connection, str(store))
    except sqlite3.DatabaseError as exc:
        _close(connection)
        raise opening_error(store, exc) from exc
    except StoreError:
        _close(connection)
        raise
    return connection


def opening_error(store: Path, exc: sqlite3.Error) -> StoreError:
    """Return what a failure to open or read means for whoever has to mend it."""
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreDamagedError(f"{store}: damaged or no SQLite database ({exc}); restore a backup")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StoreError(f"{store}: {exc}; its directory must be writable, for readers too (the log's index)")
    return StoreError(f"{store}: {exc}")


def check_content(connection: sqlite3.Connection, store: Path, *, whole: bool) -> int:
    """Check the newest events or, ``whole``, all of them and the database's structure; return how many events.

    Raises:
        StoreDamagedError: something is not what was written.
    """
    if whole:
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
        if found != ["ok"]:
            raise StoreDamagedError(f"{store}: damaged ({'; '.join(found)}); restore a backup")
    sql = f"SELECT seq, {', '.join(EVENT_COLUMNS)} FROM event ORDER BY seq DESC"  # noqa: S608
    n_checked = 0
    with closing(connection.execute(sql if whole else f"{sql} LIMIT {N_NEWEST_CHECKED:d}")) as rows:
        for seq, *row in rows:
            check_crc(f"event {seq}", tuple(row), str(store))
            n_checked += 1
    return n_checked


def sync_directory(store: Path) -> None:
    """Wait until the names of new files in a store's directory are on the disk; OSError where that fails."""
    descriptor = os.open(store.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Tell whether a version of SQLite can corrupt a database that two connections write and checkpoint at once."""
    low, high = WAL_RESET_BUG
    major, minor, patch = version[:3]
    fixed_patch = WAL_RESET_FIXED.get((major, minor))
    return low <= (major, minor, patch) <= high and (fixed_patch is None or patch < fixed_patch)


def _warn_of_bug() -> None:
    if has_wal_reset_bug(sqlite3.sqlite_version_info):
        logger.warning(
            "SQLite %s has the WAL-reset bug (fixed in 3.51.3, 3.50.7, 3.44.6): harmless as long as nothing but "
            "whichmodel writes the feedback store",
            sqlite3.sqlite_version,
        )


def _set_up(connection: sqlite3.Connection, store: Path, checkpoint_pages: int) -> None:
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(f"{store}: SQLite cannot keep a write-ahead log here (got {mode}); is it a network drive?")
    for name, value in (
        ("synchronous", SYNCHRONOUS),
        ("fullfsync", "ON"),  # on macOS an fsync alone leaves data in the drive
        ("checkpoint_fullfsync", "ON"),
        ("secure_delete", "ON"),
        ("mmap_size", "0"),
        ("wal_autocheckpoint", str(checkpoint_pages)),
    ):
        connection.execute(f"PRAGMA {name} = {value}")
    level = connection.execute("PRAGMA synchronous").fetchone()[0]
    if level != SYNCHRONOUS_LEVELS[SYNCHRONOUS] or connection.execute("PRAGMA secure_delete").fetchone()[0] != 1:
        raise StoreError(f"{store}: this SQLite does not take synchronous = {SYNCHRONOUS} or secure_delete = ON")


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        connection.close()
