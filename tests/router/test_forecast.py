"""router/forecast.py: what a stage will take, from what it took."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.forecast import HORIZON_MS, WINDOW, Forecast


def test_nothing_seen_costs_nothing() -> None:
    assert Forecast().predict_ms(30, 0.0) == 0.0


def test_it_predicts_a_high_quantile_of_what_was_seen_lately() -> None:
    forecast = Forecast()
    for took in range(1, 11):
        forecast.observe(30, float(took), now_ms=0.0)
    assert forecast.predict_ms(30, 0.0) == 10.0 and forecast.predict_ms(17, 0.0) == 10.0


def test_one_slow_run_in_many_does_not_count() -> None:
    forecast = Forecast()
    for took in (1.0,) * 30 + (500.0,):
        forecast.observe(30, took, now_ms=0.0)
    assert forecast.predict_ms(30, 0.0) == 1.0


def test_the_window_moves_on() -> None:
    forecast = Forecast()
    for took in (9.0,) * WINDOW + (1.0,) * WINDOW:
        forecast.observe(30, took, now_ms=0.0)
    assert forecast.predict_ms(30, 0.0) == 1.0


def test_what_was_slow_under_load_is_as_quick_as_ever_after_it() -> None:
    """Otherwise the stage would be left out for good, and nobody would see that it is quick again."""
    forecast = Forecast()
    forecast.warm(30, [1.0, 1.0, 1.0])
    for at in range(20):
        forecast.observe(30, 80.0, now_ms=float(at))
    assert forecast.predict_ms(30, 20.0) == 80.0
    assert forecast.predict_ms(30, 20.0 + HORIZON_MS) == 1.0
    forecast.observe(30, 2.0, now_ms=20.0 + HORIZON_MS)
    assert forecast.predict_ms(30, 21.0 + HORIZON_MS) == 2.0


def test_old_runs_leave_one_by_one() -> None:
    forecast = Forecast()
    forecast.observe(30, 80.0, now_ms=0.0)
    forecast.observe(30, 2.0, now_ms=900.0)
    assert forecast.predict_ms(30, 900.0) == 80.0
    assert forecast.predict_ms(30, HORIZON_MS + 1.0) == 2.0


@pytest.mark.parametrize(("size", "expected_ms"), [(1, 2.0), (20, 2.0), (40, 4.0), (100, 8.0), (120, 8.0), (500, 32.0)])
def test_other_sizes_are_reckoned_from_the_nearest_and_never_cheaper(size: int, expected_ms: float) -> None:
    forecast = Forecast()
    forecast.warm(20, [2.0])
    forecast.warm(100, [8.0])
    assert forecast.predict_ms(size, 0.0) == expected_ms


@pytest.fixture
def _threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_threads_take_turns_often")
def test_threads_may_share_it() -> None:
    forecast = Forecast()

    def use(_: int) -> None:
        for n in range(5_000):
            forecast.observe(1, 1.0, now_ms=n)
            forecast.predict_ms(1, n)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(use, range(2))) == [None, None]


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 1.0, 300.0, 2 * HORIZON_MS]), st.sampled_from([0.5, 1.0, 2.0, 7.0])),
        max_size=2 * WINDOW,
    )
)
def test_it_knows_exactly_the_last_of_the_horizon(steps: list[tuple[float, float]]) -> None:
    forecast, now_ms, seen = Forecast(), 0.0, []
    for rest_ms, took_ms in steps:
        now_ms += rest_ms
        forecast.observe(30, took_ms, now_ms)
        seen.append((now_ms, took_ms))
        recent = sorted(took for when, took in seen[-WINDOW:] if when >= now_ms - HORIZON_MS)
        assert forecast.usual_ms(30, now_ms) == recent[len(recent) // 2]
        assert forecast.predict_ms(30, now_ms) == recent[int(0.9 * len(recent))]
    later_ms = now_ms + HORIZON_MS + 1.0
    assert forecast.usual_ms(30, later_ms) == min((took for _, took in seen), default=0.0)
