"""The one thread that writes the SQLite store: one transaction and one sync for many events; one failure ends it."""

import logging
import shutil
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from router.errors import (
    FeedbackError,
    JudgedDecisionError,
    ReusedKeyError,
    StoreBusyError,
    StoreError,
    StoreFailedError,
    StoreFullError,
    UnknownDecisionError,
)
from router.feedback.events import FeedbackEvent, PendingDecision, Verdict
from router.feedback.sqlite_rows import (
    EVENT_COLUMNS,
    PENDING_COLUMNS,
    Row,
    event_row,
    pending_row,
    read_pending,
    same_content,
)
from router.feedback.store import Deletion, Receipt, Selection

logger = logging.getLogger(__name__)

# Events gather while the batch before them is synced. To wait for more of them gained nothing with 64 clients, and
# with 8 it halved the rate.
MAX_BATCH = 512
# Pending decisions are written with the next events, when there are so many, or after so long.
PENDING_BATCH = 256
PENDING_S = 0.2
MAX_QUEUED_PENDING = 4_096
# How often what is too old is deleted, and how much of it at a time.
TIDY_S = 600.0
TIDY_ROWS = 1_000
# Times its size that must be free to write a store anew: in the log and, if that is the same disk, in a temporary file.
REWRITE_ROOM = 2.5
DAY_S = 86_400.0


def _insert_sql(table: str, columns: tuple[str, ...]) -> str:
    values = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values}) ON CONFLICT DO NOTHING"  # noqa: S608


INSERT_EVENT = _insert_sql("event", EVENT_COLUMNS)
INSERT_PENDING = _insert_sql("pending", PENDING_COLUMNS)
SELECT_EVENT = f"SELECT seq, {', '.join(EVENT_COLUMNS)} FROM event"  # noqa: S608
SELECT_PENDING = f"SELECT {', '.join(PENDING_COLUMNS)} FROM pending WHERE decision_id"  # noqa: S608


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How much a store may hold.

    max_bytes: of the database file; above it events are refused. retention_days: older events are deleted (None:
    never). max_pending: decisions that wait for a verdict. max_waiting: events that wait to be written.
    checkpoint_pages: of 4 KiB in the write-ahead log, before they are moved to the database.
    """

    max_bytes: int = 4 << 30
    retention_days: float | None = None
    max_pending: int = 100_000
    max_waiting: int = 4_096
    checkpoint_pages: int = 4_000

    def __post_init__(self) -> None:
        """Raise ValueError for a limit below 1."""
        for name in ("max_bytes", "max_pending", "max_waiting", "checkpoint_pages"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.retention_days is not None and not self.retention_days > 0:
            raise ValueError(f"retention_days must be above 0, got {self.retention_days}")


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict that is yet to be joined with its decision. judge: id of the API key. received_s: since 1970."""

    verdict: Verdict
    judge: str
    received_s: float


Refusal = FeedbackError | StoreError


@dataclass(slots=True)
class _Batch:
    """What is written in one transaction."""

    events: list[tuple[Row | Judged, "Future[Receipt]"]] = field(default_factory=list)
    deletions: list[tuple[Selection, "Future[Deletion]"]] = field(default_factory=list)
    pending: list[PendingDecision] = field(default_factory=list)
    tidy: bool = False


class SqliteWriter:
    """Owns the writing connection, and the thread that alone uses it."""

    def __init__(
        self, connection: sqlite3.Connection, where: str, limits: StoreLimits, clock: Callable[[], float]
    ) -> None:
        """clock: seconds since 1970."""
        self._connection = connection
        self._where = where
        self._limits = limits
        self._clock = clock
        self._changed = threading.Condition()
        self._events: deque[tuple[Row | Judged, Future[Receipt]]] = deque()
        self._deletions: deque[tuple[Selection, Future[Deletion]]] = deque()
        # By decision id, oldest first; each stays until it is on the disk, so that it is found all the time.
        self._pending: dict[str, PendingDecision] = {}
        self._pending_due_s = 0.0
        self._tidy_due_s = monotonic()
        self._n_dropped = 0
        self._closing = False
        self._failure: str | None = None
        self._log_is_stale = False
        self._n_pending = int(connection.execute("SELECT count(*) FROM pending").fetchone()[0])
        page_bytes = int(connection.execute("PRAGMA page_size").fetchone()[0])
        self._max_pages = max(1, limits.max_bytes // page_bytes)
        self._thread = threading.Thread(target=self._run, name="feedback", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str | None:
        """Why nothing is taken any more, or None."""
        return self._failure

    @property
    def n_dropped(self) -> int:
        """How many pending decisions were not kept, or not for their whole life, since the store was opened."""
        return self._n_dropped

    @property
    def n_pending(self) -> int:
        """How many pending decisions are held, on the disk or on their way there."""
        return self._n_pending + len(self._pending)

    @property
    def n_waiting(self) -> int:
        """How many events wait to be written."""
        return len(self._events)

    def add(self, event: Row | Judged) -> "Future[Receipt]":
        """Queue an event; raises StoreFailedError or StoreBusyError at once where it cannot be taken."""
        with self._changed:
            self._check()
            if len(self._events) >= self._limits.max_waiting:
                raise StoreBusyError(f"{self._where}: {len(self._events)} events wait already; try again")
            future: Future[Receipt] = Future()
            future.set_running_or_notify_cancel()  # it is written even if whoever waits for it leaves
            self._events.append((event, future))
            if len(self._events) == 1:  # with others waiting, the thread is awake
                self._changed.notify()
            return future

    def delete(self, selection: Selection) -> "Future[Deletion]":
        """Queue a deletion; raises StoreFailedError where it cannot be taken."""
        with self._changed:
            self._check()
            future: Future[Deletion] = Future()
            future.set_running_or_notify_cancel()
            self._deletions.append((selection, future))
            self._changed.notify()
            return future

    def remember(self, pending: PendingDecision) -> None:
        """Queue a pending decision, in the place of the oldest where too many wait."""
        with self._changed:
            if self._failure is not None or self._closing:
                self._n_dropped += 1
                return
            if len(self._pending) >= MAX_QUEUED_PENDING:
                del self._pending[next(iter(self._pending))]
                self._n_dropped += 1
            if not self._pending:
                self._pending_due_s = monotonic() + PENDING_S
                self._changed.notify()
            self._pending[pending.decision_id] = pending
            if len(self._pending) == PENDING_BATCH:
                self._changed.notify()

    def queued(self, decision_id: str) -> PendingDecision | None:
        """Return a pending decision that is not on the disk yet, or None."""
        with self._changed:
            return self._pending.get(decision_id)

    def close(self) -> None:
        """Write what waits, end the thread and close the connection; again is harmless."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._connection.close()

    def _check(self) -> None:
        if self._failure is not None:
            raise StoreFailedError(f"{self._where}: nothing is taken since a write failed ({self._failure})")
        if self._closing:
            raise StoreFailedError(f"{self._where}: the store is closed")

    def _run(self) -> None:
        failure: str | None = "the writing thread ended unexpectedly"
        try:
            while (batch := self._next()) is not None:
                try:
                    self._write(batch)
                except sqlite3.Error as exc:
                    failure = f"{exc}, {getattr(exc, 'sqlite_errorname', 'SQLITE_ERROR')}"
                    logger.error("%s: a write failed, no more feedback is taken: %s", self._where, failure)
                    return
                finally:
                    _give_up(batch, f"{self._where}: it may not be on the disk: {failure}")
            failure = None
        finally:
            self._stop(failure)

    def _next(self) -> _Batch | None:
        """Wait for something to write and take it; None once all is written and the store is closed."""
        with self._changed:
            while not (self._events or self._deletions or self._closing):
                now = monotonic()
                due_s = min(self._tidy_due_s, self._pending_due_s if self._pending else float("inf"))
                if due_s <= now or len(self._pending) >= PENDING_BATCH:
                    break
                self._changed.wait(due_s - now)
            batch = _Batch(
                events=[self._events.popleft() for _ in range(min(MAX_BATCH, len(self._events)))],
                deletions=list(self._deletions),
                pending=list(self._pending.values()),
                tidy=monotonic() >= self._tidy_due_s and not self._closing,
            )
            self._deletions.clear()
            if self._closing and not (batch.events or batch.deletions or batch.pending):
                return None
            return batch

    def _write(self, batch: _Batch) -> None:
        """Write a batch and, once it is on the disk, tell everybody.

        Raises:
            sqlite3.Error: it is not on the disk, or may not be; nobody was told that it is.
        """
        self._connection.execute("BEGIN IMMEDIATE")
        self._remember(batch.pending)
        full = bool(batch.events) and self._is_full()
        answers = self._add_all(self._joined([event for event, _ in batch.events]), full=full)
        deleted = [self._delete(selection) for selection, _ in batch.deletions]
        more = self._tidy() if batch.tidy else False
        self._connection.execute("COMMIT")
        for (_, future), answer in zip(batch.events, answers, strict=True):
            if isinstance(answer, Receipt):
                future.set_result(answer)
            else:
                future.set_exception(answer)
        with self._changed:
            for one in batch.pending:
                self._pending.pop(one.decision_id, None)
            self._pending_due_s = monotonic() + PENDING_S
        if batch.tidy:
            self._tidy_due_s = monotonic() + (PENDING_S if more else TIDY_S)
        wiped = self._rewrite() if batch.deletions else False
        if self._log_is_stale and batch.tidy and not more:
            self._empty_log()
        for (_, deletion), (n_events, n_pending) in zip(batch.deletions, deleted, strict=True):
            deletion.set_result(Deletion(n_events, n_pending, wiped))

    def _joined(self, events: Sequence[Row | Judged]) -> list[Row | FeedbackEvent | Refusal]:
        """Return each event as it came, but verdicts joined with their decisions, or refused."""
        ids = [one.verdict.decision_id for one in events if isinstance(one, Judged)]
        marks = ", ".join("?" * len(ids))
        rows = self._connection.execute(f"{SELECT_PENDING} IN ({marks})", ids).fetchall() if ids else []
        decisions = {row[0]: row for row in rows}
        return [self._join(one, decisions) if isinstance(one, Judged) else one for one in events]

    def _join(self, judged: Judged, decisions: Mapping[str, Row]) -> FeedbackEvent | Refusal:
        found = decisions.get(judged.verdict.decision_id)
        if found is None:
            return UnknownDecisionError(
                "decision_id: the decision is not held: it was deleted, made room for newer ones, or was never kept"
            )
        try:
            return judged.verdict.on(read_pending(found, self._where), judged.judge, judged.received_s)
        except (FeedbackError, StoreError) as exc:
            return exc

    def _add_all(self, joined: Sequence[Row | FeedbackEvent | Refusal], *, full: bool) -> list[Receipt | Refusal]:
        """Add events as ``_add`` each; what was refused stays so."""
        accepted = [one for one in joined if isinstance(one, tuple | FeedbackEvent)]
        rows = [event_row(one) if isinstance(one, FeedbackEvent) else one for one in accepted]
        added = iter(self._add_rows(rows, full=full))
        return [_told(next(added), one) if isinstance(one, tuple | FeedbackEvent) else one for one in joined]

    def _add_rows(self, rows: list[Row], *, full: bool) -> Sequence[Receipt | Refusal]:
        """Add events as ``_add`` each: in one go where all are new, as most are, which takes half the time."""
        if full or len(rows) < 2:
            return [self._add(row, full=full) for row in rows]
        before = self._connection.total_changes
        self._connection.execute("SAVEPOINT together")
        self._connection.executemany(INSERT_EVENT, rows)
        all_new = self._connection.total_changes - before == len(rows)
        if not all_new:
            self._connection.execute("ROLLBACK TO together")
        self._connection.execute("RELEASE together")
        if not all_new:
            return [self._add(row, full=False) for row in rows]
        ((last,),) = self._connection.execute("SELECT last_insert_rowid()").fetchall()
        # This is the only writer, and what AUTOINCREMENT gives in a transaction has no gaps.
        return [Receipt(seq, known=False) for seq in range(last - len(rows) + 1, last + 1)]

    def _add(self, row: Row, *, full: bool) -> Receipt | Refusal:
        """Add one event, unless it is there already; what it gives is told to its sender after the commit."""
        if not full:
            cursor = self._connection.execute(INSERT_EVENT, row)
            if cursor.rowcount == 1:
                return Receipt(int(cursor.lastrowid or 0), known=False)
        values = dict(zip(EVENT_COLUMNS, row, strict=True))
        judge, key, decision_id = values["judge"], values["idempotency_key"], values["decision_id"]
        earlier = self._one(f"{SELECT_EVENT} WHERE judge = ? AND idempotency_key = ?", (judge, key))
        if earlier is not None:
            if same_content(row, earlier[1:]):
                return Receipt(earlier[0], known=True)
            return ReusedKeyError(f"idempotency_key: {key!r} stands for another event, number {earlier[0]}")
        earlier = self._one(f"{SELECT_EVENT} WHERE decision_id = ? AND judge = ?", (decision_id, judge))
        if earlier is not None:
            if key is None and same_content(row, earlier[1:]):
                return Receipt(earlier[0], known=True)
            return JudgedDecisionError(f"decision_id: this API key has judged it already, event {earlier[0]}")
        return StoreFullError(
            f"{self._where}: has reached its cap of {self._limits.max_bytes} bytes; delete old events or raise it"
        )

    def _remember(self, pending: list[PendingDecision]) -> None:
        before = self._connection.total_changes
        self._connection.executemany(INSERT_PENDING, [pending_row(one) for one in pending])
        self._n_pending += self._connection.total_changes - before
        above = self._n_pending - self._limits.max_pending
        if above > 0:
            # The oldest, expired or not; numbers only rise.
            self._n_dropped += above
            self._drop_pending("seq IN (SELECT seq FROM pending ORDER BY seq LIMIT ?)", (above,))

    def _delete(self, selection: Selection) -> tuple[int, int]:
        """Delete what is selected; return how many events and how many pending decisions."""
        before_ms = None if selection.before_s is None else round(selection.before_s * 1000)
        wanted = (("user", selection.user), ("prompt_hash", selection.prompt_hash))
        terms = [f"{column} = ?" for column, value in wanted if value is not None]
        values: list[str | int] = [value for _, value in wanted if value is not None]
        times = (["received_ms < ?"], ["created_ms < ?"]) if before_ms is not None else ([], [])
        values += [] if before_ms is None else [before_ms]
        n_events = self._drop_events(" AND ".join([*terms, *times[0]]), tuple(values))
        return n_events, self._drop_pending(" AND ".join([*terms, *times[1]]), tuple(values))

    def _tidy(self) -> bool:
        """Delete some of what is too old; tell whether there may be more."""
        now_ms = round(self._clock() * 1000)
        n_most = self._drop_pending(
            "seq IN (SELECT seq FROM pending WHERE expires_ms <= ? LIMIT ?)", (now_ms, TIDY_ROWS)
        )
        if self._limits.retention_days is not None:
            before_ms = now_ms - round(self._limits.retention_days * DAY_S * 1000)
            n_old = self._drop_events(
                "seq IN (SELECT seq FROM event WHERE received_ms < ? LIMIT ?)", (before_ms, TIDY_ROWS)
            )
            n_most = max(n_most, n_old)
        return n_most >= TIDY_ROWS

    def _drop_events(self, condition: str, values: tuple[str | int, ...]) -> int:
        n = self._connection.execute(f"DELETE FROM event WHERE {condition}", values).rowcount  # noqa: S608
        self._log_is_stale |= n > 0
        return n

    def _drop_pending(self, condition: str, values: tuple[str | int, ...]) -> int:
        n = self._connection.execute(f"DELETE FROM pending WHERE {condition}", values).rowcount  # noqa: S608
        self._n_pending -= n
        self._log_is_stale |= n > 0
        return n

    def _rewrite(self) -> bool:
        """Write the database anew, so that nothing deleted is left in it; False where that could not be done.

        Overwriting (secure_delete) is not enough: when rows move from page to page, SQLite leaves copies behind in
        unused parts of pages, and these outlive the row.
        """
        store = Path(self._where)
        size_bytes = store.stat().st_size
        if shutil.disk_usage(store.absolute().parent).free < REWRITE_ROOM * size_bytes:
            logger.error("%s: deleted text may be left in it: no room to write it anew", self._where)
            return False
        self._connection.execute("VACUUM")
        return self._empty_log()

    def _empty_log(self) -> bool:
        """Move the write-ahead log to the database and cut it to nothing; False where a reader is in the way."""
        busy, *_ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._log_is_stale = int(busy) != 0
        return not self._log_is_stale

    def _is_full(self) -> bool:
        n_pages, n_free = (self._one(f"PRAGMA {name}", ()) for name in ("page_count", "freelist_count"))
        return int((n_pages or (0,))[0]) - int((n_free or (0,))[0]) >= self._max_pages

    def _one(self, sql: str, values: tuple[object, ...]) -> Row | None:
        row: Row | None = self._connection.execute(sql, values).fetchone()
        return row

    def _stop(self, failure: str | None) -> None:
        """Take nothing any more, and tell those who wait."""
        with self._changed:
            self._failure = failure
            self._closing = True
            rest = _Batch(events=list(self._events), deletions=list(self._deletions))
            self._n_dropped += len(self._pending)
            self._events.clear()
            self._deletions.clear()
            self._pending.clear()
        _give_up(rest, f"{self._where}: it was not written: {failure}")
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):  # the disk is gone, perhaps; what was not committed is not there either way
                self._connection.rollback()


def _told(answer: Receipt | Refusal, event: Row | FeedbackEvent) -> Receipt | Refusal:
    """Return what is told of an event that was handed in: with the event where it was made of a verdict, and added."""
    if isinstance(answer, Receipt) and isinstance(event, FeedbackEvent) and not answer.known:
        return Receipt(answer.seq, answer.known, event)
    return answer


def _give_up(batch: _Batch, why: str) -> None:
    """Tell whoever has no answer yet."""
    futures: list[Future[Any]] = [*(one for _, one in batch.events), *(one for _, one in batch.deletions)]
    for future in futures:
        if not future.done():
            future.set_exception(StoreFailedError(why))
