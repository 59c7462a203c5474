"""benchmarks/measures.py: the mean of the rows is the metric, and their spread is the metric's."""

import numpy as np
import pytest
from measures import Aiq, Apgr, LogLoss, Value
from peers import Prediction

from training.evidence import Battles, Table
from training.metrics import aiq, strong_share_curve

N_ROWS = 400


def make_table(costs_usd: np.ndarray, battles: Battles | None = None, intents: np.ndarray | None = None) -> Table:
    n_rows, n_models = costs_usd.shape
    texts = tuple(map(str, range(n_rows)))
    none = Battles(*(np.array([], dtype=kind) for kind in (int, int, int, float, bool, float)))
    ones = np.ones(n_rows)
    codes = np.zeros(n_rows, dtype=np.int64) if intents is None else intents
    models = tuple("abc"[:n_models])
    lengths = np.full(costs_usd.shape, np.nan)
    return Table(
        texts,
        texts,
        models,
        "scores",
        costs_usd,
        battles or none,
        costs_usd,
        lengths,
        ones,
        codes,
        ("x", "y"),
        ones,
        ones.astype(np.int64),
    )


def spread(measure: Apgr | Aiq, raw: np.ndarray) -> tuple[float, float]:
    """Standard error by the rows' own spread, and by resampling the metric itself."""
    rng = np.random.default_rng(1)
    again = [measure.score(raw[rng.integers(len(raw), size=len(raw))]) for _ in range(300)]
    return float(measure.rows(raw).std() / np.sqrt(len(raw))), float(np.std(again))


@pytest.fixture
def truth() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.random((N_ROWS, 2)) < [0.5, 0.8]).astype(np.float64)


def test_apgr_is_that_of_the_report(truth: np.ndarray) -> None:
    quality = truth + np.random.default_rng(2).standard_normal(truth.shape)
    measure = Apgr(weak=0, strong=1)
    raw = measure.raw(Prediction(quality), make_table(truth), truth, np.zeros(2))
    curve = strong_share_curve(quality[:, 1] - quality[:, 0], truth[:, 0], truth[:, 1])
    assert measure.rows(raw).mean() == pytest.approx(curve.apgr(), abs=1e-12)
    assert measure.rows(raw).mean() > 0.6
    mine, resampled = spread(measure, raw)
    assert mine == pytest.approx(resampled, rel=0.15)


def test_apgr_of_a_constant_is_a_coin(truth: np.ndarray) -> None:
    measure = Apgr(weak=0, strong=1)
    # Rows in an order that a tie-break by row number would read: the strong model's gains first.
    ordered = truth[np.argsort(truth[:, 0] - truth[:, 1], kind="stable")]
    raw = measure.raw(Prediction(np.zeros_like(truth)), make_table(truth), ordered, np.zeros(2))
    assert measure.rows(raw).mean() == pytest.approx(0.5, abs=0.1)


def test_aiq_is_the_reports_area_under_the_hull() -> None:
    rng = np.random.default_rng(0)
    quality = (rng.random((N_ROWS, 3)) < [0.4, 0.6, 0.8]).astype(np.float64)
    costs = np.array([1e-4, 5e-4, 4e-3]) * rng.uniform(0.5, 1.5, (N_ROWS, 3))
    table, mean = make_table(costs), costs.mean(axis=0)
    measure = Aiq()
    singles = np.column_stack([mean, quality.mean(axis=0)])
    fixed = Prediction(np.tile(quality.mean(axis=0), (N_ROWS, 1)))
    raw = measure.raw(fixed, table, quality, mean)
    assert measure.rows(raw).mean() == pytest.approx(aiq(singles, mean.min(), mean.max()), abs=1e-9)
    noisy = Prediction(0.5 * quality + 0.3 * rng.random(quality.shape))
    raw = measure.raw(noisy, table, quality, mean)
    assert measure.rows(raw).mean() > aiq(singles, mean.min(), mean.max())
    mine, resampled = spread(measure, raw)
    assert mine == pytest.approx(resampled, rel=0.15)


def test_unweighted_mean_of_tasks() -> None:
    intents = np.array([0, 0, 0, 1])
    truth = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    measure = Value(by_task=True)
    raw = measure.raw(Prediction(truth[:, ::-1].copy()), make_table(truth, intents=intents), truth, np.zeros(2))
    assert measure.rows(raw).mean() == pytest.approx(0.0)
    raw = measure.raw(Prediction(truth), make_table(truth, intents=intents), truth, np.zeros(2))
    assert measure.rows(raw).mean() == pytest.approx((2 / 3 + 1) / 2)


def test_random_gets_the_mean_of_the_models() -> None:
    truth = np.array([[1.0, 0.0], [0.5, 0.0]])
    raw = Value().raw(Prediction(truth, uniform=True), make_table(truth), truth, np.zeros(2))
    assert Value().rows(raw).mean() == pytest.approx(0.375)


def test_log_loss_of_battles_by_hand() -> None:
    battles = Battles(
        np.array([0, 0, 1]),
        np.array([0, 1, 0]),
        np.array([1, 0, 1]),
        np.array([1.0, 0.5, 0.0]),
        np.zeros(3, bool),
        np.ones(3),
    )
    truth = np.zeros((2, 2))
    logits = np.array([[1.0, 0.0], [2.0, 0.0]])
    raw = LogLoss().raw(Prediction(truth, logits), make_table(truth, battles), truth, np.zeros(2))
    sigmoid = 1 / (1 + np.exp(-1.0))
    tie = -0.5 * np.log(sigmoid) - 0.5 * np.log(1 - sigmoid)
    expected = (-np.log(sigmoid) + tie - np.log(1 / (1 + np.exp(2.0)))) / 3
    assert LogLoss().rows(raw).mean() == pytest.approx(expected)
    assert np.isnan(LogLoss().raw(Prediction(truth), make_table(truth, battles), truth, np.zeros(2))).all()
