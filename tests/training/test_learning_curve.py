"""training/learning_curve.py: what to expect of a larger log, against formulas written out here."""

import math
from dataclasses import asdict

import numpy as np
import pytest

from router.types import Gain
from training.learning_curve import CurvePoint, LearningCurve, projection, read_learning_curve
from training.verdict import HeldOut, gain_of, rows_needed, rule


def points(*means: float, error: float = 0.02) -> tuple[CurvePoint, ...]:
    return tuple(CurvePoint(100 * 2**k, gain_of(mean, error)) for k, mean in enumerate(means))


def test_the_band_shrinks_with_the_root_of_the_rows() -> None:
    found = projection(points(0.0, 0.01, 0.03), 400, 1600, 0.01)
    assert found is not None and found.target == 0.03
    assert (found.n_rows[0], found.n_rows[-1]) == (400, 1600) and list(found.n_rows) == sorted(set(found.n_rows))
    half = 1.959964 * 0.02
    assert (found.low[0], found.high[0]) == pytest.approx((0.03 - half, 0.03 + half))
    assert (found.low[-1], found.high[-1]) == pytest.approx((0.03 - half / 2, 0.03 + half / 2))
    for n, low, high in zip(found.n_rows, found.low, found.high, strict=True):
        assert (high - low) / 2 == pytest.approx(half * math.sqrt(400 / n)) and (high + low) / 2 == pytest.approx(0.03)


@pytest.mark.parametrize(("mean", "target"), [(0.03, 0.03), (0.004, 0.01), (-0.02, 0.01)])
def test_it_leaves_zero_where_the_error_is_half_of_the_target(mean: float, target: float) -> None:
    held_out = HeldOut("best", gain_of(mean, 0.02), None, None, 400, None)
    needed = rows_needed(held_out, 0.01)
    found = projection(points(mean), 400, needed, 0.01)
    assert found is not None and found.target == target and found.leaves_zero_at is not None
    at = found.leaves_zero_at
    assert at == math.ceil(400 * (1.959964 * 0.02 / target) ** 2)
    # 80 % power takes (1.96 + 0.84)^2 where an even chance takes 1.96^2.
    assert needed is not None and needed / at == pytest.approx((2.8016 / 1.96) ** 2, rel=0.01)
    low = np.interp(at, found.n_rows, found.low)
    assert low == pytest.approx(0.0, abs=1e-3)


def test_rows_of_another_reason_may_be_too_few_to_leave_zero() -> None:
    found = projection(points(0.01, error=0.1), 100, 200, 0.01)
    assert found is not None and found.leaves_zero_at is None and max(found.low) < 0
    surely = projection(points(0.5, error=0.01), 100, 200, 0.01)
    assert surely is not None and surely.leaves_zero_at == 100


@pytest.mark.parametrize(
    ("some", "needed", "margin"),
    [
        (points(0.03), None, 0.01),
        (points(0.03), 100, 0.01),
        ((), 1000, 0.01),
        (points(0.03, error=0.0), 1000, 0.01),
        (points(-0.03), 1000, 0.0),
    ],
)
def test_nothing_is_projected_where_nothing_is_asked_for(
    some: tuple[CurvePoint, ...], needed: int | None, margin: float
) -> None:
    assert projection(some, 100, needed, margin) is None


def test_the_last_doubling() -> None:
    curve = LearningCurve(points(0.0, 0.01, 0.03), 400, None, None)
    assert curve.last_doubling() == pytest.approx(0.02)
    uneven = (CurvePoint(100, Gain(0.0, 0, 0)), CurvePoint(400, Gain(0.02, 0, 0)), CurvePoint(500, Gain(0.03, 0, 0)))
    at_half = 0.02 * math.log(250 / 100) / math.log(4)
    assert LearningCurve(uneven, 500, None, None).last_doubling() == pytest.approx(0.03 - at_half)
    assert LearningCurve(uneven[1:], 500, None, None).last_doubling() is None


def test_reading_what_training_wrote() -> None:
    written = {
        "n_prompts": 400,
        "details": {
            "learning_curve": [asdict(one) for one in points(0.0, 0.002, 0.004)],
            "rows_needed": 8000,
            "margin": 0.02,
        },
    }
    curve = read_learning_curve(written)
    assert curve is not None and curve.points == points(0.0, 0.002, 0.004)
    assert curve.projection == projection(curve.points, 400, 8000, 0.02)
    for older in ({}, {"details": {}}, {"details": {"rows_needed": 5}}, {"details": {"learning_curve": []}}):
        assert read_learning_curve(older) is None


def test_the_number_in_the_verdict_is_the_number_beside_it() -> None:
    ruling = rule(HeldOut("best", gain_of(0.01, 0.02), None, None, 400, None))
    assert f"about {ruling.rows_needed} rows needed" in ruling.verdict.text
