"""training/metrics.py: every formula against brute force, or a case with a known answer."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.integrate

from training.metrics import (
    MIN_BIN_ROWS,
    N_BINS,
    VOTE_CHUNK_ROWS,
    VOTE_TEMPERATURE,
    VOTERS,
    aiq,
    hull_quality,
    neighbor_accuracy,
    neighbor_labels,
    non_decreasing_hull,
    percentile_interval,
    reliability,
    resamples,
    share_interval,
    strong_share_curve,
)


def best_mixture(points: np.ndarray, cost: float) -> float:
    """The highest quality of any two points mixed to exactly ``cost``, or of one point that costs no more."""
    best = max((y for x, y in points if x <= cost), default=0.0)
    for (x0, y0), (x1, y1) in itertools.permutations(points.tolist(), 2):
        if x0 <= cost <= x1 and x0 < x1:
            best = max(best, y0 + (y1 - y0) * (cost - x0) / (x1 - x0))
    return best


@pytest.mark.parametrize("seed", range(20))
def test_the_hull_is_the_best_mixture_of_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 8, size=(rng.integers(1, 9), 2)) / 7.0  # few values: many ties and collinear points
    hull = non_decreasing_hull(points)
    assert (np.diff(hull, axis=0) > 0).all()
    assert {tuple(one) for one in hull} <= {tuple(one) for one in points}
    costs = np.linspace(points[:, 0].min(), 1.2, 50)
    np.testing.assert_allclose(hull_quality(hull, costs), [best_mixture(points, one) for one in costs], atol=1e-12)


def test_aiq_of_a_known_polygon() -> None:
    points = np.array([[1.0, 0.2], [2.0, 0.6], [3.0, 0.5], [2.0, 0.1], [5.0, 0.8]])
    # (0.2 + 0.6) / 2 over 1 USD, then (0.6 + 0.8) / 2 over 3 USD.
    assert aiq(points, 1.0, 5.0) == pytest.approx((0.4 + 2.1) / 4)
    assert aiq(points, 5.0, 7.0) == pytest.approx(0.8)  # flat beyond the last point
    assert aiq(points, 0.0, 1.0) == 0.0  # nothing costs so little
    assert aiq(points, 0.0, 2.0) == pytest.approx(0.2)
    assert aiq(points, 1.5, 2.5) == pytest.approx(0.5 * (0.4 + 0.6) / 2 + 0.5 * (0.6 + 0.6 + 0.5 * 0.2 / 3) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_aiq_is_the_mean_height_of_the_hull(seed: int) -> None:
    points = np.random.default_rng(seed).random((6, 2))
    low, high = float(points[:, 0].min()), float(points[:, 0].max())
    costs = low + (high - low) * (np.arange(4000) + 0.5) / 4000
    assert aiq(points, low, high) == pytest.approx(np.mean([best_mixture(points, one) for one in costs]), abs=1e-3)


def routellm_points(score: np.ndarray, weak: np.ndarray, strong: np.ndarray) -> pd.DataFrame:
    """The published procedure, word by word: pandas' deciles, >= at each threshold and > at the last."""
    _, thresholds = pd.qcut(pd.Series(score), 10, retbins=True)
    points = []
    for i, threshold in enumerate(thresholds):
        selected = score > threshold if i == len(thresholds) - 1 else score >= threshold
        points.append((100 * selected.mean(), np.where(selected, strong, weak).mean()))
    return pd.DataFrame(points, columns=["percent", "accuracy"]).sort_values("percent")


@pytest.mark.parametrize("n_rows", [12, 40, 104, 1307])  # where no decile lies exactly on a row, but for rounding
def test_apgr_and_cpt_as_published(n_rows: int) -> None:
    rng = np.random.default_rng(n_rows)
    score = rng.random(n_rows)
    weak = (rng.random(n_rows) < 0.5).astype(float)
    strong = (rng.random(n_rows) < 0.6 + 0.3 * score).astype(float)
    curve, wanted = strong_share_curve(score, weak, strong), routellm_points(score, weak, strong)
    np.testing.assert_allclose(curve.shares, wanted.percent / 100, atol=1e-12)
    np.testing.assert_allclose(curve.qualities, wanted.accuracy, atol=1e-12)
    area = scipy.integrate.trapezoid(wanted.accuracy, wanted.percent / 100)
    assert curve.apgr() == pytest.approx((area - weak.mean()) / (strong.mean() - weak.mean()))
    for recovered in (0.5, 0.8):
        target = weak.mean() + recovered * (strong.mean() - weak.mean())
        assert 100 * curve.cpt(recovered) == pytest.approx(np.interp(target, wanted.accuracy, wanted.percent))


def test_apgr_of_chance_of_the_best_order_and_of_the_worst() -> None:
    rng = np.random.default_rng(0)
    weak, strong = (rng.random(4000) < 0.4).astype(float), (rng.random(4000) < 0.7).astype(float)
    chance = [strong_share_curve(rng.random(4000), weak, strong) for _ in range(40)]
    assert np.mean([one.apgr() for one in chance]) == pytest.approx(0.5, abs=0.01)
    assert np.mean([one.cpt(0.5) for one in chance]) == pytest.approx(0.5, abs=0.02)
    best = strong_share_curve(strong - weak, weak, strong)
    worst = strong_share_curve(weak - strong, weak, strong)
    assert best.apgr() > 1.0 > 0.5 > 0.0 > worst.apgr()
    # Each row that gains brings 1: half of the gap of 0.3 is recovered after 15 % of the rows.
    assert best.cpt(0.5) == pytest.approx((strong.mean() - weak.mean()) / 2, abs=0.005)
    assert max(best.qualities) == pytest.approx(np.maximum(weak, strong).mean(), abs=0.03)


def test_ties_go_by_row_number() -> None:
    weak, strong = np.zeros(10), np.arange(10.0)
    curve = strong_share_curve(np.zeros(10), weak, strong)
    assert curve.shares == pytest.approx([0.0, *np.arange(1, 11) / 10])
    assert curve.qualities == pytest.approx(np.concatenate([[0.0], np.cumsum(strong)]) / 10)


def test_resamples_draw_whole_groups() -> None:
    groups = np.array([7, 7, 3, 3, 3, 5])
    draws = list(resamples(groups, 300, seed=1))
    assert len(draws) == 300 and all(one.sum() >= 3 for one in draws)
    for one in draws:
        assert one[0] == one[1] and one[2] == one[3] == one[4] and one[0] + one[2] + one[5] == 3
    assert np.mean(draws) == pytest.approx(1.0, abs=0.1)
    np.testing.assert_array_equal(draws[0], next(resamples(groups, 1, seed=1)))


def test_the_percentile_interval_covers() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for seed in range(100):
        sample = rng.exponential(size=80)
        draws = [float(counts @ sample / counts.sum()) for counts in resamples(np.arange(80), 300, seed)]
        one = percentile_interval(float(sample.mean()), draws)
        assert one.low is not None and one.high is not None and one.low < one.value < one.high
        hits += one.low <= 1.0 <= one.high
    assert hits >= 86


def test_wilson_solves_its_equation() -> None:
    """Both ends p satisfy |share - p| = 1.96 sqrt(p (1 - p) / n)."""
    one = share_interval(3, 40)
    for p in (one.low, one.high):
        assert p is not None and abs(3 / 40 - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / 40))
    none, every = share_interval(0, 40), share_interval(40, 40)
    assert none.low == 0.0 and every.high == 1.0
    assert none.high == pytest.approx(1 - (every.low or 0.0)) and 0.05 < (none.high or 0.0) < 0.12


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.metrics.N_DRAWS", 200)


def calibrated(n: int, seed: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    predicted = 0.1 + 0.7 * rng.random(n)
    return predicted, (rng.random(n) < predicted + shift).astype(float)


def test_a_calibrated_predictor_gets_no_error_after_debiasing(few_draws: None) -> None:
    many = [reliability(*calibrated(200, seed), np.arange(200)) for seed in range(40)]
    assert np.mean([one.ece for one in many]) > 0.06  # the usual error is all noise here
    assert np.median([one.error.value for one in many]) < 0.04
    assert np.mean([one.error.low == 0.0 for one in many]) > 0.8


def test_a_shift_is_found_at_its_size(few_draws: None) -> None:
    many = [reliability(*calibrated(500, seed, shift=0.15), np.arange(500)) for seed in range(60)]
    assert np.mean([one.error.value for one in many]) == pytest.approx(0.15, abs=0.01)
    assert np.mean([(one.error.low or 0) <= 0.15 <= (one.error.high or 0) for one in many]) >= 0.88


def test_the_debiased_square_is_unbiased(few_draws: None) -> None:
    """For one prediction per bin it is the published formula, whose mean is the true squared gap."""
    rng = np.random.default_rng(4)
    predicted = np.repeat([0.2, 0.6], 30)
    squares = []
    for _ in range(40):
        outcome = (rng.random(60) < np.repeat([0.3, 0.6], 30)).astype(float)
        found = reliability(predicted, outcome, np.arange(60))
        assert [one.n for one in found.bins] == [30, 30]
        by_hand = 0.0
        for value, some in ((0.2, outcome[:30]), (0.6, outcome[30:])):
            by_hand += 0.5 * ((value - some.mean()) ** 2 - some.mean() * (1 - some.mean()) / 29)
        assert found.error.value == pytest.approx(math.sqrt(max(by_hand, 0.0)), abs=1e-7)
        squares.append(by_hand)
    assert np.mean(squares) == pytest.approx(0.5 * 0.1**2, abs=0.003)


@pytest.mark.parametrize("n_rows", [1, 5, 19, 37, 400])
def test_bins_hold_every_row_once_and_never_split_a_tie(n_rows: int) -> None:
    rng = np.random.default_rng(n_rows)
    predicted = rng.integers(0, 6, size=n_rows) / 5.0
    outcome = rng.random(n_rows)
    found = reliability(predicted, outcome, np.arange(n_rows))
    assert found.n == n_rows == sum(one.n for one in found.bins) and len(found.bins) <= N_BINS
    assert len(found.bins) == 1 or min(one.n for one in found.bins) >= MIN_BIN_ROWS
    assert sum(one.n * one.predicted for one in found.bins) == pytest.approx(predicted.sum())
    assert sum(one.n * one.outcome.value for one in found.bins) == pytest.approx(outcome.sum())
    assert np.isfinite([found.ece, found.error.value, found.error.low, found.error.high]).all()
    sizes = np.cumsum([one.n for one in found.bins])[:-1]
    ranked = np.sort(predicted)
    assert all(ranked[end - 1] < ranked[end] for end in sizes)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("n", "n_queries"), [(3, 5), (VOTERS, 1), (200, VOTE_CHUNK_ROWS + 7)])
def test_a_query_has_the_label_that_its_nearest_rows_vote_for(n: int, n_queries: int) -> None:
    rng = np.random.default_rng(0)
    index, queries = unit(rng.normal(size=(n, 4))), unit(rng.normal(size=(n_queries, 4)))
    codes = rng.integers(0, 5, size=n)
    labels = neighbor_labels(index, codes, queries)
    assert labels.dtype == np.int64 and labels.shape == (n_queries,)
    for row in range(0, n_queries, 50):
        cosines = index.astype(np.float64) @ queries[row]
        votes = dict.fromkeys(range(5), 0.0)
        for voter in sorted(range(n), key=lambda one: -cosines[one])[:VOTERS]:
            votes[int(codes[voter])] += math.exp(cosines[voter] / VOTE_TEMPERATURE)
        assert labels[row] == max(votes, key=votes.__getitem__)
    assert neighbor_accuracy(index, codes, queries, labels) == 1
    assert neighbor_accuracy(index, codes, queries, labels + 1) == 0


def test_a_near_row_outvotes_several_far_ones_and_only_the_nearest_vote() -> None:
    def at(degrees: list[float]) -> np.ndarray:
        angles = np.radians(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    # exp(1 / 0.1) against two of exp(cos 60 / 0.1), and against a crowd of which only nine may vote.
    assert neighbor_labels(at([0, 60, 60]), np.array([4, 1, 1]), at([0])).tolist() == [4]
    assert neighbor_labels(at([5, 10, 10]), np.array([4, 1, 1]), at([0])).tolist() == [1]
    far = [41.0] * 50  # a voter there counts 0.086 of one at 0: nine do not outvote it, fifty would
    assert 9 * math.exp((math.cos(math.radians(41)) - 1) / VOTE_TEMPERATURE) < 1
    assert neighbor_labels(at([0, *far]), np.array([4] + [1] * 50), at([0])).tolist() == [4]


def test_the_lowest_label_wins_among_equals() -> None:
    index = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (4, 1))
    queries = np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32)
    assert neighbor_labels(index, np.array([3, 2, 3, 2]), queries).tolist() == [2, 2]
    assert neighbor_accuracy(index, np.array([3, 2, 3, 2]), queries, np.array([2, 3])) == 0.5
