"""router/worker.py: order, what is left out, and an encoder that fails or hangs."""

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from router import worker as worker_room
from router.deadline import now_ms
from router.encoder import Encoding
from router.worker import EncoderWorker, Ticket

LONG_MS = 60_000.0
WAIT_S = 20.0


class Gate:
    """An encoder that notes what it is asked for, and waits at [0] until it is let go."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.busy, self.open = threading.Event(), threading.Event()

    def encode(self, ids: list[int]) -> Encoding:
        self.asked.append(ids[0])
        if ids[0] == 0:
            self.busy.set()
            self.open.wait(WAIT_S)
        if ids[0] < 0:
            raise RuntimeError("no")
        return Encoding(np.ones(1, dtype=np.float32), len(ids), 0.0)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def worker(gate: Gate) -> Iterator[EncoderWorker]:
    worker = EncoderWorker(gate.encode, n_threads=1, nice=0, max_waiting=5, ran=lambda *_: None)
    yield worker
    gate.open.set()
    worker.close()


def ticket(number: int, in_ms: float = LONG_MS, cost_ms: float = 1.0, on_done: Callable[[], object] = int) -> Ticket:
    return Ticket([number], now_ms() + in_ms, cost_ms, on_done)


def hold(worker: EncoderWorker, gate: Gate) -> Ticket:
    """Keep the worker busy until the gate opens."""
    first = ticket(0)
    assert worker.submit(first) and gate.busy.wait(WAIT_S)
    return first


def test_earliest_deadline_first(worker: EncoderWorker, gate: Gate) -> None:
    hold(worker, gate)
    tickets = [ticket(number, LONG_MS + due) for number, due in ((1, 300.0), (2, 100.0), (3, 200.0), (4, 100.0))]
    assert all(worker.submit(one) for one in tickets) and len(worker) == 4
    gate.open.set()
    assert all(one.done.wait(WAIT_S) for one in tickets)
    assert gate.asked == [0, 2, 4, 3, 1]
    assert all(one.encoding is not None and one.took_ms >= 0 and one.done_ms <= now_ms() for one in tickets)


def test_what_would_be_late_is_left_out_before_it_is_begun(worker: EncoderWorker, gate: Gate) -> None:
    hold(worker, gate)
    called = threading.Event()
    late = ticket(1, in_ms=0.0, on_done=called.set)
    assert worker.submit(late)
    gate.open.set()
    assert late.done.wait(WAIT_S) and called.wait(WAIT_S) and late.encoding is None and not late.failed
    assert gate.asked == [0]


def test_what_is_cancelled_is_never_encoded(worker: EncoderWorker, gate: Gate) -> None:
    hold(worker, gate)
    gone, kept = ticket(1), ticket(2)
    assert worker.submit(gone) and worker.submit(kept)
    gone.cancelled = True
    assert worker.wait_ms(gone.needed_by_ms + 1) < gone.cost_ms + kept.cost_ms + 1e-9
    gate.open.set()
    assert kept.done.wait(WAIT_S) and gate.asked == [0, 2]


def test_the_wait_counts_what_comes_before(worker: EncoderWorker, gate: Gate) -> None:
    assert worker.wait_ms(now_ms() + LONG_MS) == 0.0
    busy = ticket(0, 1e9, cost_ms=1e6)
    worker.submit(busy)
    assert gate.busy.wait(WAIT_S)
    worker.submit(ticket(1, LONG_MS, cost_ms=1e4))
    worker.submit(ticket(2, 2 * LONG_MS, cost_ms=1e5))
    before, between, after = (worker.wait_ms(now_ms() + LONG_MS * share) for share in (0.5, 1.5, 2.5))
    slack_ms = 5_000.0  # the busy one has less and less to go
    assert 1e6 - slack_ms < before <= 1e6
    assert 1e4 - slack_ms < between - before <= 1e4
    assert 1e5 - slack_ms < after - between <= 1e5


def test_two_threads_encode_two_prompts_and_halve_the_wait(gate: Gate) -> None:
    worker = EncoderWorker(gate.encode, n_threads=2, nice=0, max_waiting=5, ran=lambda *_: None)
    held, free = ticket(0, 1e9, cost_ms=1e6), ticket(1)
    assert worker.submit(held) and gate.busy.wait(WAIT_S)
    assert worker.submit(free) and free.done.wait(WAIT_S) and not held.done.is_set()
    assert worker.wait_ms(now_ms() + LONG_MS) == 0.0
    gate.open.set()
    assert held.done.wait(WAIT_S)
    worker.close()


def test_too_many_may_not_wait(worker: EncoderWorker, gate: Gate) -> None:
    hold(worker, gate)
    assert [worker.submit(ticket(number)) for number in range(1, 7)] == [True] * 5 + [False]


def test_a_failure_is_told_and_the_next_one_is_encoded(worker: EncoderWorker) -> None:
    failing, next_one = ticket(-1), ticket(1)
    assert worker.submit(failing) and worker.submit(next_one)
    assert next_one.done.wait(WAIT_S) and failing.failed and failing.encoding is None and not next_one.failed


def test_a_thread_that_hangs_is_replaced(
    worker: EncoderWorker, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_room, "HUNG_MS", 0.0)
    hanging = hold(worker, gate)
    other = ticket(1)
    assert worker.submit(other) and other.done.wait(WAIT_S) and other.encoding is not None
    assert "the encoder has hung" in caplog.text and not hanging.done.is_set()
    gate.open.set()
    assert hanging.done.wait(WAIT_S), "it may come back, but takes no more tickets"
    monkeypatch.undo()
    last = ticket(2)
    assert worker.submit(last) and last.done.wait(WAIT_S)


def test_a_thread_that_hangs_is_replaced_also_where_the_queue_is_full(
    worker: EncoderWorker, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(worker, gate)
    given_up = [ticket(number) for number in range(1, 6)]
    assert all(worker.submit(one) for one in given_up)
    for one in given_up:
        one.cancelled = True
    monkeypatch.setattr(worker_room, "HUNG_MS", 0.0)
    last, ends_ms = ticket(6), now_ms() + 1_000.0
    while not worker.submit(last):  # those that were given up may have to go first
        assert now_ms() < ends_ms
    assert last.done.wait(WAIT_S) and gate.asked == [0, 6]


def test_closed_it_takes_nothing(worker: EncoderWorker) -> None:
    worker.close()
    assert not worker.submit(ticket(1))


def test_its_thread_yields_where_threads_have_priorities(gate: Gate) -> None:
    import os
    import sys

    if sys.platform != "linux":
        pytest.skip("only Linux gives a thread its own priority")
    nice: list[int] = []

    def encode(ids: list[int]) -> Encoding:
        nice.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return gate.encode(ids)

    worker, one = EncoderWorker(encode, n_threads=1, nice=5, max_waiting=1, ran=lambda *_: None), ticket(1)
    worker.submit(one)
    assert one.done.wait(WAIT_S) and nice == [os.getpriority(os.PRIO_PROCESS, 0) + 5]
    worker.close()
