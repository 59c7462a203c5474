"""The SQLite store: what goes in comes out, once; limits, retries, failures, files that are not what they should be."""

import logging
import os
import random
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import (
    FeedbackError,
    JudgedDecisionError,
    ReusedKeyError,
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFailedError,
    StoreFullError,
    StoreLockedError,
    UnknownDecisionError,
)
from router.feedback import sqlite_rows, sqlite_writer
from router.feedback.events import Battle, Details, FeedbackEvent, PendingDecision, Score, Surface, Vector, Verdict
from router.feedback.sqlite_file import has_wal_reset_bug
from router.feedback.sqlite_store import SqliteReader, SqliteStore
from router.feedback.sqlite_writer import StoreLimits
from router.feedback.store import Deletion, FeedbackStore, Receipt, Selection
from router.prompt import prompt_hash

NOW_S = 1_800_000_000.0
NOBODY = Selection(user="nobody at all")


def battle(number=0, *, key=None, judge="k", user=None, received_s=NOW_S, text=None, vectors=()):
    return FeedbackEvent.of_prompt(
        text or f"prompt {number}",
        Battle("small", "large", "model_a"),
        judge=judge,
        received_s=received_s,
        details=Details(idempotency_key=key, user=user),
        vectors=vectors,
    )


def verdict(decision_id, score=0.5, *, key=None, judge="k"):
    return FeedbackEvent(
        received_s=NOW_S,
        judge=judge,
        outcome=Score("small", score),
        prompt_hash="h" * 32,
        details=Details(idempotency_key=key),
        decision_id=decision_id,
    )


def pending(number, *, created_s=NOW_S, user=None, text=None):
    return PendingDecision(
        decision_id=f"decision-{number}",
        created_s=created_s,
        expires_s=created_s + 100,
        key_id="k",
        artifact_id="a",
        tier="full",
        candidates=("small", "large"),
        model="small",
        propensity=1.0,
        prompt_hash=prompt_hash(text or f"prompt {number}"),
        prompt=text,
        user=user,
        vectors=(Vector("e", bytes(16)),),
    )


def open_store(path, limits=None, now_s=NOW_S):
    return SqliteStore(path / "f.db", limits, clock=lambda: now_s)


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path) as opened:
        yield opened


def settled(store):
    """Wait until all that was queued before is written."""
    return store.delete(NOBODY).result(10)


NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=12)
AMOUNTS = st.none() | st.builds(lambda value: {"small": value}, st.floats(0, 1e12) | st.integers(0, 10**12))
EVENTS = st.builds(
    FeedbackEvent,
    received_s=st.integers(0, 10**13).map(lambda ms: ms / 1000),
    judge=NAMES,
    outcome=st.builds(Battle, st.just("small"), NAMES.filter("small".__ne__), st.sampled_from(("tie", "both_bad")))
    | st.builds(Score, st.just("small"), st.floats(0, 1)),
    prompt_hash=NAMES,
    prompt=st.none() | NAMES,
    details=st.builds(
        Details,
        costs_usd=AMOUNTS,
        latencies_ms=AMOUNTS,
        output_tokens=AMOUNTS,
        user=st.none() | NAMES,
        metadata=st.none() | st.dictionaries(NAMES, st.none() | st.booleans() | st.floats(0, 1) | NAMES, max_size=3),
    ),
    artifact_id=st.none() | NAMES,
    tier=st.none() | NAMES,
    intent=st.none() | NAMES,
    candidates=st.lists(NAMES, max_size=3).map(tuple),
    propensity=st.none() | st.floats(0, 1),
    vectors=st.lists(st.builds(Vector, NAMES, st.binary(min_size=1, max_size=8).map(lambda b: b * 4)), max_size=2).map(
        tuple
    ),
)


@settings(max_examples=150, deadline=None)
@given(event=EVENTS)
def test_a_row_gives_back_the_event(event):
    row = sqlite_rows.event_row(event)

    assert sqlite_rows.read_event(7, row, "f.db").event == event


@settings(max_examples=150, deadline=None)
@given(event=EVENTS, column=st.integers(0, 8), data=st.data())
def test_a_row_that_was_altered_is_damaged(event, column, data):
    row = list(sqlite_rows.event_row(event))
    other = data.draw(st.none() | st.integers(0, 10) | NAMES | st.binary(max_size=8))
    changed = type(other) is not type(row[column]) or other != row[column]
    row[column] = other

    if changed:
        with pytest.raises(StoreDamagedError, match="event 7 is damaged"):
            sqlite_rows.read_event(7, tuple(row), "f.db")


def test_text_that_moves_to_the_next_column_is_seen():
    crc = sqlite_rows._crc

    assert crc(("ab", "c")) != crc(("a", "bc"))
    assert crc((None, "x")) != crc(("None", "x"))


def test_events_come_back_in_order_and_stay(tmp_path):
    sent = [battle(n, vectors=(Vector("e", os.urandom(64)),)) for n in range(1200)]
    with open_store(tmp_path) as store:
        receipts = [one.result(10) for one in [store.add_event(event) for event in sent]]
        assert [one.event for one in store.events()] == sent
    assert [one.seq for one in receipts] == list(range(1, 1201))
    assert not any(one.known for one in receipts)

    with SqliteReader(tmp_path / "f.db") as reader:
        assert [one.event for one in reader.events()] == sent
        assert [one.seq for one in reader.events(after=1190)] == list(range(1191, 1201))
        assert reader.check() == 1200


def test_the_store_keeps_its_protocol(store):
    def takes(it: FeedbackStore) -> "Future[Receipt]":
        return it.add_event(battle())

    assert takes(store).result(10) == Receipt(1, known=False)


def test_a_number_is_never_given_twice(tmp_path):
    with open_store(tmp_path) as store:
        for n in range(3):
            store.add_event(battle(n, user="ann")).result(10)
        store.delete(Selection(user="ann")).result(10)
    with open_store(tmp_path) as store:
        assert store.add_event(battle(9)).result(10).seq == 4
        assert store.stats().last_seq == 4


# Retries


def test_the_same_key_and_content_is_the_same_event(store):
    first = store.add_event(battle(1, key="once")).result(10)
    again = store.add_event(battle(1, key="once", received_s=NOW_S + 60, vectors=(Vector("e", b"1234"),))).result(10)

    assert first == Receipt(1, known=False)
    assert again == Receipt(1, known=True)
    assert store.stats().n_events == 1


def test_a_retry_in_the_same_batch_is_known_too(store):
    futures = [store.add_event(battle(1, key="once")) for _ in range(50)]

    assert sorted(one.result(10).known for one in futures) == [False] + [True] * 49
    assert {one.result(10).seq for one in futures} == {1}


def test_the_same_key_with_other_content_is_refused(store):
    store.add_event(battle(1, key="once")).result(10)

    with pytest.raises(ReusedKeyError, match="'once' stands for another event, number 1"):
        store.add_event(battle(2, key="once")).result(10)


def test_keys_of_two_judges_do_not_meet(store):
    assert store.add_event(battle(1, key="once", judge="a")).result(10).seq == 1
    assert store.add_event(battle(2, key="once", judge="b")).result(10).seq == 2


def test_one_verdict_for_each_key(store):
    assert store.add_event(verdict("d1", key="x")).result(10) == Receipt(1, known=False)
    assert store.add_event(verdict("d1", key="x")).result(10) == Receipt(1, known=True)
    other = store.add_event(verdict("d1", judge="other")).result(10)
    assert not other.known
    for second in (verdict("d1", key="y"), verdict("d1"), verdict("d1", 0.9)):
        with pytest.raises(JudgedDecisionError, match="judged it already, event 1"):
            store.add_event(second).result(10)
    assert store.add_event(verdict("d1", judge="other")).result(10) == Receipt(other.seq, known=True)
    with pytest.raises(JudgedDecisionError, match=f"event {other.seq}"):
        store.add_event(verdict("d1", 0.9, judge="other")).result(10)
    assert store.stats().n_events == 2


# Pending decisions


def test_a_pending_decision_is_found_at_once_and_after_a_restart(tmp_path):
    with open_store(tmp_path) as store:
        store.add_pending(pending(1))
        assert store.find_pending("decision-1") == pending(1)
        settled(store)
        assert store._writer.queued("decision-1") is None
        assert store.find_pending("decision-1") == pending(1)
        store.add_pending(pending(2))
    with open_store(tmp_path) as store:
        assert store.find_pending("decision-1") == pending(1)
        assert store.find_pending("decision-2") == pending(2)
        assert store.find_pending("decision-3") is None


def test_pending_decisions_are_written_without_an_event(store, monkeypatch):
    store.add_pending(pending(1))
    written = threading.Event()
    monkeypatch.setattr(store._writer, "queued", lambda _: None)

    for _ in range(500):
        if store.find_pending("decision-1"):
            written.set()
            break
        written.wait(0.01)

    assert written.is_set()


def test_the_oldest_pending_decisions_make_room(tmp_path):
    with open_store(tmp_path, StoreLimits(max_pending=10)) as store:
        for n in range(25):
            store.add_pending(pending(n))
            if n % 7 == 0:
                settled(store)
        settled(store)
        held = [n for n in range(25) if store.find_pending(f"decision-{n}")]
        assert held == list(range(15, 25))
        assert store.stats().n_pending == 10
        assert store.n_pending_dropped == 15
    with open_store(tmp_path, StoreLimits(max_pending=4)) as store:
        store.add_pending(pending(25))
        settled(store)
        assert store.stats().n_pending == 4


def test_waiting_pending_decisions_are_bounded_while_nothing_can_be_written(store, monkeypatch):
    monkeypatch.setattr(sqlite_writer, "MAX_QUEUED_PENDING", 100)
    with blocked(store):
        for n in range(500):
            store.add_pending(pending(n))
        assert len(store._writer._pending) <= 101
        assert store.find_pending("decision-0") is None or store.n_pending_dropped >= 399
        assert store.find_pending("decision-499") == pending(499)


def test_expired_decisions_are_deleted(tmp_path):
    with open_store(tmp_path) as store:
        for n in range(3):
            store.add_pending(pending(n, created_s=NOW_S + n))
        settled(store)
        assert store.stats().n_pending == 3
    with open_store(tmp_path, now_s=NOW_S + 101) as store:
        settled(store)
        assert store.find_pending("decision-0") is None
        assert store.find_pending("decision-1") is None
        assert store.find_pending("decision-2") is not None


# Limits


class blocked:
    """Hold the writing thread inside a batch, so that what is added meanwhile waits."""

    def __init__(self, store):
        self._go, self._there = threading.Event(), threading.Event()
        self._store = store

    def __enter__(self):
        self._future = self._store.delete(NOBODY)
        self._future.result(10)
        write = self._store._writer._write

        def wait_first(batch):
            self._there.set()
            self._go.wait(10)
            self._store._writer._write = write
            write(batch)

        self._store._writer._write = wait_first
        self._store.delete(NOBODY)
        assert self._there.wait(10)
        return self

    def __exit__(self, *_):
        self._go.set()


def test_too_many_waiting_events_are_refused_and_the_rest_kept(tmp_path):
    with open_store(tmp_path, StoreLimits(max_waiting=5)) as store:
        with blocked(store):
            futures = [store.add_event(battle(n)) for n in range(5)]
            with pytest.raises(StoreBusyError, match="5 events wait already"):
                store.add_event(battle(5))
        assert [one.result(10).seq for one in futures] == [1, 2, 3, 4, 5]
        assert store.add_event(battle(6)).result(10).seq == 6


def test_above_the_cap_events_are_refused_until_there_is_room(tmp_path):
    with open_store(tmp_path, StoreLimits(max_bytes=300_000)) as store:
        texts = [f"{n} " + "x" * 5000 for n in range(200)]
        futures = []
        for n, text in enumerate(texts):
            futures.append(store.add_event(battle(n, key=f"k{n}", user="ann", text=text)))
            futures[-1].exception(10)
        added = sum(one.exception() is None for one in futures)
        assert 20 < added < 100
        with pytest.raises(StoreFullError, match="cap of 300000 bytes"):
            futures[added].result()
        known = store.add_event(battle(0, key="k0", user="ann", text=texts[0])).result(10)
        assert known == Receipt(1, known=True)
        assert store.stats().n_events == added
        assert (tmp_path / "f.db").stat().st_size < 400_000
        store.delete(Selection(user="ann")).result(10)
        assert store.add_event(battle(1000)).result(10).seq > added


def test_old_events_are_deleted_where_a_retention_is_set(tmp_path):
    with open_store(tmp_path) as store:
        for n in range(2500):
            store.add_event(battle(n, received_s=NOW_S - (2499 - n)))
        settled(store)
    with open_store(tmp_path, StoreLimits(retention_days=1), now_s=NOW_S + 86_400 - 10) as store:
        while store.stats().n_events > 11:
            settled(store)
        assert [one.seq for one in store.events()] == list(range(2490, 2501))
    with open_store(tmp_path, now_s=NOW_S + 1e8) as store:
        settled(store)
        assert store.stats().n_events == 11


@pytest.mark.parametrize("wrong", [{"max_bytes": 0}, {"max_pending": 0}, {"retention_days": 0}])
def test_a_limit_that_is_none_is_a_mistake(wrong):
    with pytest.raises(ValueError, match="must be"):
        StoreLimits(**wrong)


# Deleting


def bytes_of(path):
    return b"".join(one.read_bytes() for one in sorted(path.iterdir()) if one.is_file())


@pytest.mark.parametrize("seed", range(6))
def test_deleted_text_is_gone_from_the_files(tmp_path, seed):
    rng = random.Random(seed)
    users = ("ann", "bob", "cleo")
    with open_store(tmp_path, StoreLimits(checkpoint_pages=rng.choice((5, 1000)))) as store:
        for n in range(400):
            user = rng.choice(users)
            filler = "y" * rng.choice((10, 900, 3000, 12_000))
            text = f"{user} {n} secret-of-{user} {filler} secret-of-{user}"
            event = battle(n, key=f"{user}-key-{n}", user=user, text=text)
            store.add_event(event)
            if rng.random() < 0.3:
                store.add_pending(pending(n, user=user, text=f"{n} pending secret-of-{user} {filler}"))
        settled(store)
        before = store.stats()
        assert b"secret-of-bob" in bytes_of(tmp_path)
        n_bob = sum(one.event.user == "bob" for one in store.events())

        done = store.delete(Selection(user="bob")).result(10)

        assert (done.n_events, done.wiped) == (n_bob, True)
        assert done.n_pending > 0
        raw = bytes_of(tmp_path)
        assert b"secret-of-bob" not in raw
        assert b"bob-key-" not in raw
        assert b"secret-of-ann" in raw
        after = store.stats()
        assert (after.n_events, after.n_pending) == (before.n_events - n_bob, before.n_pending - done.n_pending)
        assert store.check() == after.n_events


def test_without_room_to_write_it_anew_a_deletion_says_that_text_may_be_left(store, monkeypatch):
    store.add_event(battle(1, user="ann"))
    monkeypatch.setattr("router.feedback.sqlite_writer.REWRITE_ROOM", 1e15)

    assert store.delete(Selection(user="ann")).result(10) == Deletion(1, 0, wiped=False)


def test_what_is_deleted_by_prompt_by_date_and_by_both(store):
    for n in range(6):
        store.add_event(battle(n, received_s=NOW_S + n, text=f"text {n % 2}"))
        store.add_pending(pending(n, created_s=NOW_S + n, text=f"text {n % 2}"))
    odd = prompt_hash("text 1")

    assert store.delete(Selection(prompt_hash=odd, before_s=NOW_S + 2)).result(10) == Deletion(1, 1, wiped=True)
    assert store.delete(Selection(before_s=NOW_S + 2)).result(10) == Deletion(1, 1, wiped=True)
    assert store.delete(Selection(prompt_hash=odd)).result(10) == Deletion(2, 2, wiped=True)
    assert [one.seq for one in store.events()] == [3, 5]


def test_a_deletion_of_everything_is_refused():
    with pytest.raises(FeedbackError, match="got no condition"):
        Selection()


def test_a_reader_in_a_transaction_keeps_text_in_the_log_and_the_deletion_says_so(tmp_path):
    with open_store(tmp_path) as store:
        store.add_event(battle(1, user="ann", text="secret-of-ann")).result(10)
        with closing(sqlite3.connect(f"file:{tmp_path / 'f.db'}?mode=ro", uri=True)) as other:
            other.execute("BEGIN")
            assert other.execute("SELECT count(*) FROM event").fetchone() == (1,)
            assert store.delete(Selection(user="ann")).result(10) == Deletion(1, 0, wiped=False)
            assert store.add_event(battle(2)).result(10).seq == 2
        assert store.delete(NOBODY).result(10) == Deletion(0, 0, wiped=True)
        assert b"secret-of-ann" not in bytes_of(tmp_path)


# Failures


class Failing:
    """A connection whose n-th statement that begins with a word raises what SQLite raises on such a disk."""

    def __init__(self, connection, word, message, at=1):
        self._connection, self._word, self._message, self._left = connection, word, message, at

    def execute(self, sql, values=()):
        if sql.lstrip().startswith(self._word):
            self._left -= 1
            if self._left <= 0:
                raise sqlite3.OperationalError(self._message)
        return self._connection.execute(sql, values)

    def __getattr__(self, name):
        return getattr(self._connection, name)


@pytest.mark.parametrize("word", ["BEGIN", "INSERT INTO event", "COMMIT"])
def test_after_the_first_failure_nothing_is_taken_until_it_is_opened_again(tmp_path, word, caplog):
    with open_store(tmp_path) as store:
        store.add_event(battle(1)).result(10)
        store._writer._connection = Failing(store._writer._connection, word, "disk I/O error")
        with pytest.raises(StoreFailedError, match="may not be on the disk: disk I/O error"):
            store.add_event(battle(2)).result(10)
        store._writer._thread.join(10)
        assert store.failure.startswith("disk I/O error")
        with pytest.raises(StoreFailedError, match="nothing is taken since a write failed"):
            store.add_event(battle(3))
        with pytest.raises(StoreFailedError, match="nothing is taken"):
            store.delete(NOBODY)
        store.add_pending(pending(1))
        assert store.find_pending("decision-1") is None
        assert [one.seq for one in store.events()] == [1]
        assert "no more feedback is taken: disk I/O error" in caplog.text
    with open_store(tmp_path) as store:
        assert store.failure is None
        assert store.add_event(battle(3)).result(10).seq == 2


def test_everybody_who_waits_is_told_of_a_failure(tmp_path):
    with open_store(tmp_path) as store:
        with blocked(store):
            futures = [store.add_event(battle(n)) for n in range(600)]
            deletion = store.delete(NOBODY)
            store._writer._connection = Failing(store._writer._connection, "COMMIT", "database or disk is full", at=2)
        for one in [*futures, deletion]:
            assert isinstance(one.exception(10), StoreFailedError)
        assert not list(store.events())


def test_an_unexpected_end_of_the_thread_leaves_nobody_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with open_store(tmp_path) as store:
        settled(store)

        def broken(batch):
            raise RuntimeError("a bug")

        store._writer._write = broken
        with pytest.raises(StoreFailedError, match="ended unexpectedly"):
            store.add_event(battle(1)).result(10)
        store._writer._thread.join(10)
        with pytest.raises(StoreFailedError):
            store.add_event(battle(2))


def test_close_writes_what_waits_and_then_nothing_is_taken(tmp_path):
    store = open_store(tmp_path)
    with blocked(store):
        futures = [store.add_event(battle(n)) for n in range(1000)]
        store.add_pending(pending(1))
    store.close()
    store.close()

    assert [one.result(0).seq for one in futures] == list(range(1, 1001))
    with pytest.raises(StoreFailedError, match="closed"):
        store.add_event(battle(1))
    with pytest.raises(StoreError, match="closed"):
        list(store.events())
    assert sorted(one.name for one in tmp_path.iterdir()) == ["f.db", "f.db.lock"]
    with SqliteReader(tmp_path / "f.db") as reader:
        assert reader.find_pending("decision-1") == pending(1)


def test_a_waiter_that_leaves_does_not_take_its_event_along(store):
    with blocked(store):
        future = store.add_event(battle(1))
        assert not future.cancel()
    assert future.result(10).seq == 1


def test_many_threads_add_everything_once(store):
    def work(number):
        for n in range(100):
            shared = store.add_event(battle(n, key=f"shared-{n}"))
            store.add_event(battle(f"{number} {n}", key=f"{number}-{n}")).result(10)
            shared.result(10)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    keys = [one.event.details.idempotency_key for one in store.events()]
    assert len(keys) == len(set(keys)) == 900


# Files


def test_only_one_may_write(tmp_path):
    with open_store(tmp_path) as store:
        with pytest.raises(StoreLockedError, match=f"written by process {os.getpid()}"):
            open_store(tmp_path)
        assert store.add_event(battle(1)).result(10).seq == 1
    open_store(tmp_path).close()


def test_another_process_cannot_write_but_read(tmp_path):
    code = (
        "import sys\n"
        "from router.errors import StoreLockedError\n"
        "from router.feedback.sqlite_store import SqliteReader, SqliteStore\n"
        "with SqliteReader(sys.argv[1]) as reader: print(reader.stats().n_events)\n"
        "try: SqliteStore(sys.argv[1])\n"
        "except StoreLockedError as exc: print(exc)\n"
    )
    with open_store(tmp_path) as store:
        store.add_event(battle(1)).result(10)
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "f.db"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        )
        assert done.stdout.splitlines()[0] == "1"
        assert "only one may write" in done.stdout.splitlines()[1]


def test_files_are_the_owners_alone(tmp_path):
    with open_store(tmp_path) as store:
        store.add_event(battle(1)).result(10)
        modes = {one.name: one.stat().st_mode & 0o777 for one in tmp_path.iterdir()}

    assert set(modes) == {"f.db", "f.db-wal", "f.db-shm", "f.db.lock"}
    assert set(modes.values()) == {0o600}


def test_every_commit_is_synced_and_deleted_content_overwritten(store):
    pragmas = {
        name: store._writer._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "secure_delete", "mmap_size", "checkpoint_fullfsync")
    }

    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "secure_delete": 1,
        "mmap_size": 0,
        "checkpoint_fullfsync": 1,
    }


def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    open_store(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "f.db")) as other:
        other.execute("PRAGMA user_version = 99")
    before = (tmp_path / "f.db").read_bytes()

    for opens in (open_store, lambda path: SqliteReader(path / "f.db")):
        with pytest.raises(StoreError, match="schema 99 of a newer whichmodel, expected at most 2"):
            opens(tmp_path)
    assert (tmp_path / "f.db").read_bytes() == before


def test_another_programs_database_is_refused_and_left_alone(tmp_path):
    with closing(sqlite3.connect(tmp_path / "f.db")) as other:
        other.execute("CREATE TABLE mine (x)")
    before = (tmp_path / "f.db").read_bytes()

    for opens in (open_store, lambda path: SqliteReader(path / "f.db")):
        with pytest.raises(StoreError, match="not a feedback store, but some other SQLite database"):
            opens(tmp_path)
    assert (tmp_path / "f.db").read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    (tmp_path / "f.db").write_bytes(b"not a database, but long enough to look at" * 100)

    for opens in (open_store, lambda path: SqliteReader(path / "f.db")):
        with pytest.raises(StoreDamagedError, match="no SQLite database"):
            opens(tmp_path)


def test_a_store_that_is_not_there_or_cannot_be_made(tmp_path):
    with pytest.raises(StoreError, match="no such file"):
        SqliteReader(tmp_path / "f.db")
    with pytest.raises(StoreError, match="cannot be made: No such file"):
        SqliteStore(tmp_path / "nowhere" / "f.db")
    (tmp_path / "d.db").mkdir()
    with pytest.raises(StoreError, match="cannot be opened for writing: Is a directory"):
        SqliteStore(tmp_path / "d.db")
    SqliteStore(tmp_path / "g.db").close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_write_permission(tmp_path):
    (tmp_path / "closed").mkdir(0o500)

    with pytest.raises(StoreError, match="Permission denied"):
        SqliteStore(tmp_path / "closed" / "f.db")


def test_damage_is_found_at_opening(tmp_path):
    """A byte of a prompt, one of the structure, and a cut end: none is taken for what was written."""
    with open_store(tmp_path) as store:
        for n in range(300):
            store.add_event(battle(n, text=f"findable prompt {n} " + "z" * 200))
    whole = (tmp_path / "f.db").read_bytes()
    at = whole.index(b"findable prompt 7 ")
    header = len(whole) // 4096 // 2 * 4096

    for damaged in (
        whole[:at] + b"F" + whole[at + 1 :],
        whole[:header] + bytes(100) + whole[header + 100 :],
        whole[: len(whole) // 2],
    ):
        (tmp_path / "f.db").write_bytes(damaged)
        with pytest.raises(StoreDamagedError):
            open_store(tmp_path)
    (tmp_path / "f.db").write_bytes(whole)
    open_store(tmp_path).close()


def test_of_a_large_store_the_newest_events_are_checked(tmp_path, monkeypatch):
    with open_store(tmp_path) as store:
        for n in range(300):
            store.add_event(battle(n, text=f"findable prompt {n} " + "z" * 200))
    whole = (tmp_path / "f.db").read_bytes()
    monkeypatch.setattr("router.feedback.sqlite_file.FULL_CHECK_BYTES", 1000)
    monkeypatch.setattr("router.feedback.sqlite_file.N_NEWEST_CHECKED", 50)

    (tmp_path / "f.db").write_bytes(whole.replace(b"findable prompt 260 ", b"Findable prompt 260 "))
    with pytest.raises(StoreDamagedError, match="event 261 is damaged"):
        open_store(tmp_path)
    (tmp_path / "f.db").write_bytes(whole.replace(b"findable prompt 100 ", b"Findable prompt 100 "))
    with open_store(tmp_path) as store:
        with pytest.raises(StoreDamagedError, match="event 101 is damaged"):
            store.check()
        with pytest.raises(StoreDamagedError, match="event 101 is damaged"):
            list(store.events())


NEXT = "ALTER TABLE event ADD COLUMN colour TEXT; UPDATE event SET colour = 'blue'"


def test_a_migration_takes_a_store_with_its_events_along(tmp_path):
    with open_store(tmp_path) as store:
        store.add_event(battle(1)).result(10)

    with closing(sqlite3.connect(tmp_path / "f.db", isolation_level=None)) as connection:
        assert sqlite_rows.migrate(connection, "f.db", (*sqlite_rows.MIGRATIONS, NEXT)) == 2
        assert connection.execute("SELECT colour, user_version FROM event, pragma_user_version").fetchone() == (
            "blue",
            3,
        )
        assert sqlite_rows.migrate(connection, "f.db", (*sqlite_rows.MIGRATIONS, NEXT)) == 3


# As schema 1 was written: the values of its columns, with their CRCs.
EVENT_1 = (1_800_000_000_000, "k", "x", None, "ann", "h" * 32, "which tea?", b"\1\0\20\0\0\0e" + bytes(range(16)))
PENDING_1 = ("decision-1", 1_800_000_000_000, 1_800_000_100_000, None, "h" * 32, None, EVENT_1[7])
BODY_1 = '{"model_a":"small","model_b":"large","winner":"tie"}'
PENDING_BODY_1 = (
    '{"key_id":"k","artifact_id":"a","tier":"full","candidates":["small","large"],"model":"small","propensity":1.0}'
)


def test_what_schema_1_holds_is_whole_in_the_newest(tmp_path):
    with closing(sqlite3.connect(tmp_path / "f.db", isolation_level=None)) as connection:
        sqlite_rows.migrate(connection, "f.db", sqlite_rows.MIGRATIONS[:1])
        for table, columns, row in (
            ("event", sqlite_rows.EVENT_COLUMNS, (*EVENT_1, BODY_1, 3999133226)),
            ("pending", sqlite_rows.PENDING_COLUMNS, (*PENDING_1, PENDING_BODY_1, 110970034)),
        ):
            names = ", ".join(one for one in columns if one != "surface")
            connection.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", row)
    (tmp_path / "f.db").chmod(0o600)
    with pytest.raises(StoreError, match="schema 1 of an older whichmodel, expected 2"):
        SqliteReader(tmp_path / "f.db")

    with open_store(tmp_path) as store:
        assert store.stats().schema_version == 2
        assert store.check() == 1
        (stored,) = store.events()
        assert (stored.event.user, stored.event.surface, stored.event.vectors[0].data) == (
            "ann",
            None,
            bytes(range(16)),
        )
        decided = store.find_pending("decision-1")
        assert (decided.model, decided.surface, decided.quality) == ("small", None, None)


def test_a_surface_comes_back_and_is_covered_by_the_crc(tmp_path):
    surface = Surface("surface-1", bytes(range(32)))
    with open_store(tmp_path) as store:
        store.add_pending(replace(pending(1), surface=surface, quality=0.25))
        store.add_event(replace(battle(1), surface=surface)).result(10)
    with open_store(tmp_path) as store:
        assert [one.event.surface for one in store.events()] == [surface]
        decided = store.find_pending("decision-1")
        assert (decided.surface, decided.quality) == (surface, 0.25)
    with closing(sqlite3.connect(tmp_path / "f.db")) as connection, connection:
        connection.execute("UPDATE event SET surface = NULL")
    with pytest.raises(StoreDamagedError, match="event 1 is damaged"):
        open_store(tmp_path)


def test_verdicts_written_together_are_each_joined_with_their_own_decision(tmp_path):
    with open_store(tmp_path) as store:
        for n in range(4):
            store.add_pending(pending(n))
        settled(store)
        store.add_pending(pending(4))  # written with the verdicts
        said = [Verdict(f"decision-{n}", rating=n / 10) for n in (4, 9, 2, 0)]
        said.append(Verdict("decision-3", against="small", winner="tie"))  # it is what was decided for
        futures = [store.add_verdict(one, "k", NOW_S) for one in said]
        answers = [one.exception(10) or one.result() for one in futures]

        assert [type(one) for one in answers] == [Receipt, UnknownDecisionError, Receipt, Receipt, FeedbackError]
        held = [one.event for one in store.events()]
        assert [(one.decision_id, one.outcome) for one in held] == [
            (f"decision-{n}", Score("small", n / 10)) for n in (4, 2, 0)
        ]
        assert [one.judged for one in answers if isinstance(one, Receipt)] == held
        assert store.add_verdict(said[0], "k", NOW_S).result(10) == Receipt(answers[0].seq, known=True)


def test_a_migration_that_fails_leaves_the_store_as_it_was(tmp_path):
    with open_store(tmp_path) as store:
        store.add_event(battle(1)).result(10)

    with closing(sqlite3.connect(tmp_path / "f.db", isolation_level=None)) as connection:
        with pytest.raises(sqlite3.OperationalError):
            sqlite_rows.migrate(connection, "f.db", (*sqlite_rows.MIGRATIONS, NEXT, "UPDATE nothing SET x = 1"))
        assert not connection.in_transaction
    with open_store(tmp_path) as store:
        assert store.stats().schema_version == 2
        assert store.add_event(battle(2)).result(10).seq == 2


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_versions_with_the_wal_reset_bug(version, affected):
    assert has_wal_reset_bug(version) is affected


@pytest.mark.parametrize(("version", "n_warnings"), [((3, 40, 1), 1), ((3, 51, 3), 0)])
def test_a_version_with_the_bug_is_warned_of(tmp_path, monkeypatch, caplog, version, n_warnings):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    with caplog.at_level(logging.WARNING):
        open_store(tmp_path).close()

    assert sum("WAL-reset bug" in one.message for one in caplog.records) == n_warnings


def test_counts_of_what_is_held(store):
    store.add_event(battle(1, received_s=NOW_S - 50))
    store.add_event(verdict("d1"))
    store.add_event(FeedbackEvent.of_prompt("x", Score("m", 1), judge="k", received_s=NOW_S))
    store.add_pending(pending(1))
    store.add_pending(pending(2, created_s=NOW_S - 100))
    store.add_pending(pending(3, created_s=NOW_S - 500))
    settled(store)

    stats = store.stats()
    assert stats.kinds == {"verdict": 1, "battle": 1, "score": 1}
    assert (stats.n_events, stats.n_with_text, stats.last_seq) == (3, 2, 3)
    assert (stats.first_received_s, stats.last_received_s) == (NOW_S - 50, NOW_S)
    assert stats.n_pending >= 1
    assert stats.file_bytes > 4096
