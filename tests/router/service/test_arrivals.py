"""router/service/arrivals.py: the earliest moment at which a request can have arrived."""

from collections.abc import Callable

import pytest

from router.service import arrivals as room
from router.service.arrivals import IDLE_MS, Arrivals


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the clock."""

    def set_clock(now_ms: float) -> None:
        monkeypatch.setattr(room, "now_ms", lambda: now_ms)

    return set_clock


def test_on_an_idle_loop_it_is_now(at: Callable[[float], None]) -> None:
    arrivals = Arrivals()
    for now in (1_000.0, 1_500.0, 9_000.0):
        at(now)
        assert arrivals.read() == now


def test_after_work_it_is_when_the_loop_looked_before(at: Callable[[float], None]) -> None:
    arrivals = Arrivals()
    at(1_000.0)
    arrivals.read()
    at(1_030.0)
    arrivals.worked()
    for now in (1_030.05, 1_030.1):  # read in the same turn, right after 30 ms of work
        at(now)
        assert arrivals.read() == 1_000.0
    at(1_040.0)
    arrivals.worked()
    at(1_040.1)
    assert arrivals.read() == 1_030.05


def test_work_that_ended_long_ago_kept_nobody(at: Callable[[float], None]) -> None:
    arrivals = Arrivals()
    at(1_000.0)
    arrivals.read()
    at(1_030.0)
    arrivals.worked()
    at(1_030.0 + 2 * IDLE_MS)
    assert arrivals.read() == 1_030.0 + 2 * IDLE_MS


def test_what_was_read_and_never_worked_on_keeps_nobody(at: Callable[[float], None]) -> None:
    arrivals = Arrivals()
    at(1_000.0)
    arrivals.read()
    at(4_000.0)
    assert arrivals.read() == 4_000.0


def test_it_is_never_later_than_now_and_never_goes_back(at: Callable[[float], None]) -> None:
    arrivals, last, now = Arrivals(), 0.0, 1_000.0
    for step in range(200):
        now += 0.15 * (step % 3)
        at(now)
        if step % 4 == 1:
            arrivals.worked()
        else:
            earliest = arrivals.read()
            assert last <= earliest <= now
            last = earliest
