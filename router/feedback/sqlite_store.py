"""The feedback store in one SQLite file: durable before it is acknowledged, readable beside the process that writes."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

from router.errors import StoreError
from router.feedback.events import FeedbackEvent, PendingDecision, Verdict
from router.feedback.sqlite_file import WriterLock, check_content, open_reader, open_writer, opening_error
from router.feedback.sqlite_rows import Row, event_row, read_event, read_pending
from router.feedback.sqlite_writer import SELECT_EVENT, SELECT_PENDING, Judged, SqliteWriter, StoreLimits
from router.feedback.store import Deletion, Receipt, Selection, StoredEvent, StoreStats

# Rows that are read at once: between pages no transaction is open, so that a slow reader does not hold up the log.
PAGE_ROWS = 500
COUNTS = """
    SELECT count(*), count(prompt), count(decision_id),
        coalesce(sum(decision_id IS NULL AND json_extract(body, '$.model_a') IS NOT NULL), 0),
        min(received_ms), max(received_ms)
    FROM event
"""


class SqliteReader:
    """Reads a store, beside the process that writes it or without one. Safe to use from any thread."""

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open a store for reading; clock: seconds since 1970.

        Raises:
            StoreError: it is not there, cannot be read, is no store or of a newer version.
        """
        self._path = Path(path)
        self._clock = clock
        self._reading = threading.Lock()
        self._reader = open_reader(self._path)

    def __enter__(self) -> "SqliteReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def find_pending(self, decision_id: str) -> PendingDecision | None:
        """Return a decision that waits for a verdict, or None."""
        rows = self._rows(f"{SELECT_PENDING} = ?", (decision_id,))
        return read_pending(rows[0], str(self._path)) if rows else None

    def events(self, after: int = 0) -> Iterator[StoredEvent]:
        """Yield events with a number above ``after``, in order; every one's CRC is checked.

        Raises:
            StoreDamagedError: one is not what was written.
            StoreError: the file cannot be read.
        """
        while rows := self._rows(f"{SELECT_EVENT} WHERE seq > ? ORDER BY seq LIMIT ?", (after, PAGE_ROWS)):
            for seq, *row in rows:
                yield read_event(seq, tuple(row), str(self._path))
            after = rows[-1][0]

    def stats(self) -> StoreStats:
        """Return what is held."""
        n_events, n_with_text, n_verdicts, n_battles, first_ms, last_ms = self._rows(COUNTS)[0]
        n_pending, n_expired = self._rows(
            "SELECT count(*), coalesce(sum(expires_ms <= ?), 0) FROM pending", (round(self._clock() * 1000),)
        )[0]
        given = self._rows("SELECT seq FROM sqlite_sequence WHERE name = 'event'")
        files = [Path(f"{self._path}{suffix}") for suffix in ("", "-wal", "-shm")]
        return StoreStats(
            n_events=n_events,
            n_with_text=n_with_text,
            kinds={"verdict": n_verdicts, "battle": n_battles, "score": n_events - n_verdicts - n_battles},
            n_pending=n_pending,
            n_expired=n_expired,
            first_received_s=None if first_ms is None else first_ms / 1000,
            last_received_s=None if last_ms is None else last_ms / 1000,
            last_seq=given[0][0] if given else 0,
            file_bytes=sum(one.stat().st_size for one in files if one.exists()),
            schema_version=self._rows("PRAGMA user_version")[0][0],
        )

    def check(self) -> int:
        """Check the database's structure and the CRC of every event; return how many there are.

        Raises:
            StoreDamagedError: something is not what was written.
        """
        with self._reading:
            try:
                return check_content(self._reader, self._path, whole=True)
            except sqlite3.Error as exc:
                raise opening_error(self._path, exc) from exc

    def close(self) -> None:
        """Let go of the file."""
        with self._reading:
            self._reader.close()

    def _rows(self, sql: str, values: tuple[object, ...] = ()) -> list[Row]:
        with self._reading:
            try:
                return self._reader.execute(sql, values).fetchall()
            except sqlite3.ProgrammingError as exc:
                raise StoreError(f"{self._path}: the store is closed") from exc
            except sqlite3.Error as exc:
                raise opening_error(self._path, exc) from exc


class SqliteStore(SqliteReader):
    """The one writer of a store, and a reader of it. FeedbackStore (store.py) says what each method promises."""

    def __init__(
        self,
        path: str | Path,
        limits: StoreLimits | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open a store, which is made where there is none, recover it and check it.

        Raises:
            StoreLockedError: another process writes it.
            StoreDamagedError: it is not what was written.
            StoreError: it cannot be opened, is another program's database, or of a newer version.
        """
        path, limits = Path(path), limits or StoreLimits()
        self._lock = WriterLock(path)
        try:
            connection = open_writer(path, checkpoint_pages=limits.checkpoint_pages)
            try:
                super().__init__(path, clock=clock)
            except StoreError:
                connection.close()
                raise
        except StoreError:
            self._lock.close()
            raise
        self._closed = False
        self._writer = SqliteWriter(connection, str(path), limits, clock)

    def __enter__(self) -> "SqliteStore":
        return self

    @property
    def failure(self) -> str | None:
        """Why nothing is taken any more, or None."""
        return self._writer.failure

    @property
    def n_pending_dropped(self) -> int:
        """How many pending decisions made room for newer ones, or were lost to a failure, since it was opened."""
        return self._writer.n_dropped

    def add_event(self, event: FeedbackEvent) -> "Future[Receipt]":
        """Queue an event; the future has its receipt once it is on the disk."""
        return self._writer.add(event_row(event))

    def add_verdict(self, verdict: Verdict, judge: str, received_s: float) -> "Future[Receipt]":
        """Queue the event that a verdict on its decision is; the future has its receipt once it is on the disk."""
        return self._writer.add(Judged(verdict, judge, received_s))

    def add_pending(self, pending: PendingDecision) -> None:
        """Remember a decision, soon but not surely; nothing is ever raised."""
        self._writer.remember(pending)

    @property
    def n_pending(self) -> int:
        """How many decisions wait for a verdict, those that have expired and not been deleted yet included."""
        return self._writer.n_pending

    @property
    def n_waiting(self) -> int:
        """How many events wait to be written."""
        return self._writer.n_waiting

    def find_pending(self, decision_id: str) -> PendingDecision | None:
        """Return a decision that waits for a verdict, whether it is on the disk yet or not, or None."""
        return self._writer.queued(decision_id) or super().find_pending(decision_id)

    def delete(self, selection: Selection) -> "Future[Deletion]":
        """Queue a deletion; the future is done when it is on the disk."""
        return self._writer.delete(selection)

    def close(self) -> None:
        """Write what waits, and let go of the files and of the lock; again is harmless."""
        if self._closed:
            return
        self._closed = True
        super().close()  # first, so that the writer is the last one and tidies the log away
        self._writer.close()
        self._lock.close()
