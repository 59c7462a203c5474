"""training/calibrate.py: slopes that are known are found, and predictions meet the outcomes that test them."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from router.estimate import EstimatorSettings, stretched
from training import calibrate  # pytest would take logged_predictions for a test
from training.calibrate import MAX_SLOPE, SLOPE_SPREAD, Forecast, Slopes, calibration_of, fit_slopes
from training.evidence import Battles, Table
from training.metrics import reliability

N_MODELS = 4
PRIOR = np.array([0.55, 0.5, 0.45, 0.6])
NO_BATTLES = Battles(*(np.zeros(0, dtype=kind) for kind in (int, int, int, float, bool, float)))


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.metrics.N_DRAWS", 60)


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def logit(quality: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(quality / (1 - quality))


def settings_of(difficulty: float, contrast: float) -> EstimatorSettings:
    return EstimatorSettings(n_neighbors=1, difficulty_slope=difficulty, contrast_slope=contrast)


def table_of(
    scores: NDArray[np.float64] | None, battles: Battles, n: int, weight: NDArray[np.float64] | None = None
) -> Table:
    empty = np.full((n, N_MODELS), np.nan)
    names = tuple(map(str, range(n)))
    return Table(
        texts=names,
        originals=names,
        models=tuple("abcd"),
        kind="battles" if scores is None else "scores",
        scores=empty if scores is None else scores,
        battles=battles,
        costs_usd=empty,
        output_tokens=empty,
        row_weight=np.ones(n) if weight is None else weight,
        intents=np.full(n, -1),
        intent_names=(),
        timestamps=np.full(n, np.nan),
        input_tokens=np.ones(n, dtype=np.int64),
    )


def scored(
    difficulty: float, contrast: float, n: int = 4000, seed: int = 0, noise: float = 0.15
) -> tuple[Table, Forecast]:
    """Scores around the estimates stretched by known slopes; a third is missing, and weights differ."""
    rng = np.random.default_rng(seed)
    shared, apart = rng.normal(0, 0.07, (n, 1)), rng.normal(0, 0.05, (n, N_MODELS))
    quality = PRIOR + shared + apart
    truth = stretched(quality, PRIOR, settings_of(difficulty, contrast))
    scores = truth + rng.normal(0, noise, truth.shape)
    scores[rng.random(scores.shape) < 0.33] = np.nan
    table = table_of(scores, NO_BATTLES, n, rng.uniform(0.5, 2, n))
    return table, Forecast(np.arange(n), quality, np.broadcast_to(PRIOR, quality.shape))


def fought(contrast: float, n: int = 4000, seed: int = 0, spread: float = 0.7) -> tuple[Table, Forecast]:
    """Battles drawn from the estimates' leads stretched by a known slope; equals tie, a tenth is both bad."""
    rng = np.random.default_rng(seed)
    prior = np.array([0.5, 0.2, -0.1, -0.6])
    distance = rng.normal(0, spread, (n, N_MODELS))
    distance -= distance.mean(axis=1, keepdims=True)
    truth = prior + contrast * distance
    rows = np.arange(n)
    a = rng.integers(0, N_MODELS, n)
    b = (a + rng.integers(1, N_MODELS, n)) % N_MODELS
    p = sigmoid(truth[rows, a] - truth[rows, b])
    y = (rng.random(n) < p).astype(float)
    both_bad = rng.random(n) < 0.1
    y[both_bad] = 0.5
    y[(rng.random(n) < 0.5) & (np.abs(p - 0.5) < 0.1)] = 0.5
    battles = Battles(rows, a, b, y, both_bad, rng.uniform(0.5, 2, n))
    return table_of(None, battles, n), Forecast(
        rows, sigmoid(prior + distance), np.broadcast_to(sigmoid(prior), (n, N_MODELS))
    )


@pytest.mark.parametrize(("difficulty", "contrast"), [(1.0, 1.0), (1.8, 0.6), (0.5, 1.5), (2.5, 0.2)])
def test_slopes_of_scores_are_found(difficulty: float, contrast: float) -> None:
    slopes = fit_slopes(*scored(difficulty, contrast))
    assert (slopes.difficulty, slopes.contrast) == pytest.approx((difficulty, contrast), abs=0.1)


@pytest.mark.parametrize("contrast", [0.3, 1.0, 1.8])
def test_the_slope_of_battles_is_found(contrast: float) -> None:
    slopes = fit_slopes(*fought(contrast))
    assert slopes.contrast == pytest.approx(contrast, abs=0.12)
    assert slopes.difficulty == 1.0, "battles say nothing of what all models share"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [5, 60, 500])
@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("contrast", [-0.5, 0.0, 0.5, 2.0])
def test_the_slope_of_battles_is_the_best_one(contrast: float, spread: float, n: int, seed: int) -> None:
    """However sure the estimates are, and however wrong: against a search of scipy's."""
    table, forecast = fought(contrast, n, seed, spread)
    battles = table.battles.where(~table.battles.both_bad)
    leads = [
        logit(one)[battles.rows, battles.a] - logit(one)[battles.rows, battles.b]
        for one in (forecast.quality, forecast.prior)
    ]
    distance = leads[0] - leads[1]

    def loss(slope: float) -> float:
        lead = leads[1] + slope * distance
        likelihood = battles.weight @ (np.logaddexp(0, lead) - battles.y * lead)
        return float(likelihood + (slope - 1) ** 2 / (2 * SLOPE_SPREAD**2))

    best = minimize_scalar(loss, bounds=(0, MAX_SLOPE), method="bounded", options={"xatol": 1e-7}).x
    assert fit_slopes(table, forecast).contrast == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_a_handful_of_rows_says_little(seed: int) -> None:
    few = fit_slopes(*scored(2.5, 0.2, n=3, seed=seed, noise=0.3))
    assert (few.difficulty, few.contrast) == pytest.approx((1.0, 1.0), abs=0.5)
    assert fit_slopes(*fought(2.5, n=3, seed=seed)).contrast == pytest.approx(1.0, abs=0.5)


def test_no_rows_say_nothing() -> None:
    table, forecast = scored(2.0, 0.2, n=50)
    assert fit_slopes(replace(table, scores=np.full_like(table.scores, np.nan)), forecast) == Slopes()
    table, forecast = fought(2.0, n=50)
    bad = replace(table, battles=replace(table.battles, both_bad=np.ones(50, dtype=bool)))
    assert fit_slopes(bad, forecast).contrast == pytest.approx(1.0)
    none = Forecast(np.zeros(0, dtype=np.int64), np.zeros((0, N_MODELS)), np.zeros((0, N_MODELS)))
    assert fit_slopes(table, none).contrast == pytest.approx(1.0)
    assert fit_slopes(scored(2.0, 0.2, n=50)[0], none) == Slopes()


def test_noise_is_not_believed() -> None:
    """Estimates that have nothing to do with the outcomes are taken back to the prior."""
    table, forecast = scored(0.0, 0.0)
    slopes = fit_slopes(table, forecast)
    assert slopes.difficulty < 0.1 and slopes.contrast < 0.1
    assert fit_slopes(*fought(0.0)).contrast < 0.1


def test_one_slope_does_not_speak_for_the_other() -> None:
    """How hard a prompt is may be well known where what sets the models apart is noise."""
    slopes = fit_slopes(*scored(1.0, 0.0))
    assert slopes.difficulty == pytest.approx(1.0, abs=0.1) and slopes.contrast < 0.1


def test_slopes_are_bounded() -> None:
    steep = fit_slopes(*scored(9.0, 9.0))
    table, forecast = scored(2.0, 2.0)
    backwards = fit_slopes(table, replace(forecast, quality=2 * forecast.prior - forecast.quality))
    assert (steep.difficulty, steep.contrast) == (MAX_SLOPE, MAX_SLOPE)
    assert (backwards.difficulty, backwards.contrast) == (0.0, 0.0)
    assert fit_slopes(*fought(9.0, spread=0.3)).contrast == pytest.approx(MAX_SLOPE)
    assert fit_slopes(*fought(-2.0, spread=0.3)).contrast == pytest.approx(0.0, abs=1e-6)


def test_a_row_of_double_weight_counts_twice() -> None:
    table, forecast = scored(1.8, 0.6, n=40)
    weight = np.where(np.arange(40) < 20, 2.0, 1.0)
    twice = np.concatenate([np.arange(20), np.arange(40)])
    copied = table.take(np.arange(40))
    copied = table_of(table.scores[twice], NO_BATTLES, 60)
    again = Forecast(np.arange(60), forecast.quality[twice], forecast.prior[twice])
    weighted, repeated = fit_slopes(replace(table, row_weight=weight), forecast), fit_slopes(copied, again)
    assert (weighted.difficulty, weighted.contrast) == pytest.approx((repeated.difficulty, repeated.contrast), rel=1e-6)
    table, forecast = fought(1.8, n=40)
    battles = table.battles
    weighted = fit_slopes(replace(table, battles=replace(battles, weight=weight)), forecast)
    all_twice = Battles(
        battles.rows[twice], battles.a[twice], battles.b[twice], battles.y[twice], battles.both_bad[twice], np.ones(60)
    )
    repeated = fit_slopes(replace(table, battles=all_twice), forecast)
    assert weighted.contrast == pytest.approx(repeated.contrast, rel=1e-6)


@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_only_the_rows_of_the_forecast_count_in_any_order(kind: str) -> None:
    table, forecast = scored(1.5, 0.7, n=300) if kind == "scores" else fought(1.5, n=300)
    some = np.random.default_rng(5).permutation(300)[:120]
    part = Forecast(some, forecast.quality[some], forecast.prior[some])
    slopes = fit_slopes(table, part)
    outside = ~np.isin(np.arange(300), some)
    if kind == "scores":
        poisoned = replace(table, scores=np.where(outside[:, None], 1 - table.scores, table.scores))
    else:
        y = np.where(outside[table.battles.rows], 1 - table.battles.y, table.battles.y)
        poisoned = replace(table, battles=replace(table.battles, y=y))
    assert fit_slopes(poisoned, part) == slopes
    alone = fit_slopes(table.take(some), replace_rows(part))
    assert (alone.difficulty, alone.contrast) == pytest.approx((slopes.difficulty, slopes.contrast), rel=1e-9)
    assert fit_slopes(table, forecast) != slopes


def replace_rows(forecast: Forecast) -> Forecast:
    """The same forecast of a table of its rows alone."""
    return replace(forecast, rows=np.arange(len(forecast.rows)))


def test_swapping_the_sides_changes_no_slope() -> None:
    table, forecast = fought(1.5, n=300)
    battles = table.battles
    swapped = replace(battles, a=battles.b, b=battles.a, y=1 - battles.y)
    assert fit_slopes(replace(table, battles=swapped), forecast).contrast == pytest.approx(
        fit_slopes(table, forecast).contrast, rel=1e-9
    )


@pytest.mark.parametrize("shape", [(N_MODELS,), (30, N_MODELS)])
def test_stretching_by_one_changes_nothing(shape: tuple[int, ...]) -> None:
    z = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_array_equal(stretched(z, PRIOR, settings_of(1.0, 1.0)), z)


@pytest.mark.parametrize("difficulty", [0.0, 0.4, 2.7])
def test_difficulty_moves_all_models_alike(difficulty: float) -> None:
    z = np.random.default_rng(0).normal(size=(200, N_MODELS))
    moved = stretched(z, PRIOR, settings_of(difficulty, 1.0))
    shift = (moved - z)[:, 0]
    np.testing.assert_allclose(moved - z, np.repeat(shift[:, None], N_MODELS, axis=1), atol=1e-12)
    np.testing.assert_array_equal(moved.argmax(axis=1), z.argmax(axis=1))
    np.testing.assert_allclose((moved - PRIOR).mean(axis=1), difficulty * (z - PRIOR).mean(axis=1), atol=1e-12)


@pytest.mark.parametrize("contrast", [0.0, 0.4, 2.7])
def test_contrast_moves_what_sets_the_models_apart(contrast: float) -> None:
    z = np.random.default_rng(1).normal(size=(200, N_MODELS))
    moved = stretched(z, PRIOR, settings_of(1.0, contrast))
    np.testing.assert_allclose(moved.mean(axis=1), z.mean(axis=1), atol=1e-12)
    leads = [one[:, :1] - one - (PRIOR[0] - PRIOR) for one in (moved, z)]
    np.testing.assert_allclose(leads[0], contrast * leads[1], atol=1e-12)
    if contrast == 0.0:
        assert set(moved.argmax(axis=1)) == {3}, "without contrast the best fixed model is best everywhere"


@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_slopes_calibrate(kind: str) -> None:
    """Fitted on some rows, and applied as serving does, they predict other rows better."""
    table, forecast = scored(2.4, 0.3) if kind == "scores" else fought(0.3, spread=1.5)
    half = np.arange(0, 4000, 2)
    slopes = fit_slopes(table, Forecast(half, forecast.quality[half], forecast.prior[half]))
    settings = settings_of(slopes.difficulty, slopes.contrast)
    if kind == "scores":
        after = stretched(forecast.quality, forecast.prior, settings)
    else:
        after = sigmoid(stretched(logit(forecast.quality), logit(forecast.prior), settings))
    rest = np.arange(1, 4000, 2)
    before, calibrated = (
        calibration_of(table.take(rest), quality[rest], np.zeros(2000, dtype=np.int64), np.arange(2000))["all models"]
        for quality in (forecast.quality, after)
    )
    assert before.error.value > 0.05 and before.n == calibrated.n
    assert calibrated.error.value < before.error.value / 3
    assert calibrated.ece < before.ece


def test_scores_are_tested_where_they_were_logged() -> None:
    rng = np.random.default_rng(0)
    scores, quality = rng.random((20, N_MODELS)), rng.random((20, N_MODELS))
    scores[rng.random(scores.shape) < 0.4] = np.nan
    found = calibrate.logged_predictions(table_of(scores, NO_BATTLES, 20), quality, np.zeros(20, dtype=np.int64))
    wanted = [
        (row, column, quality[row, column], scores[row, column])
        for row in range(20)
        for column in range(N_MODELS)
        if not np.isnan(scores[row, column])
    ]
    assert list(zip(*(one.tolist() for one in found), strict=True)) == wanted


def test_battles_are_tested_from_the_side_of_the_choice() -> None:
    """Row 0 chose model_a, row 1 model_b, row 2 neither; row 3 has no battle, row 4 two."""
    quality = np.random.default_rng(1).uniform(0.2, 0.8, (5, N_MODELS))
    battles = Battles(
        rows=np.array([0, 1, 2, 4, 4]),
        a=np.array([2, 3, 0, 1, 2]),
        b=np.array([1, 0, 3, 0, 1]),
        y=np.array([1.0, 1.0, 0.0, 0.5, 1.0]),
        both_bad=np.zeros(5, dtype=bool),
        weight=np.ones(5),
    )
    rows, columns, predicted, outcome = calibrate.logged_predictions(
        table_of(None, battles, 5), quality, np.array([2, 0, 2, 0, 1])
    )
    assert rows.tolist() == [0, 1, 2, 4, 4] and columns.tolist() == [2, 0, 0, 1, 1]
    assert outcome.tolist() == [1.0, 0.0, 0.0, 0.5, 0.0]

    def beats(row: int, one: int, other: int) -> float:
        p, q = quality[row, one], quality[row, other]
        return float(p * (1 - q) / (p * (1 - q) + q * (1 - p)))

    wanted = [beats(0, 2, 1), beats(1, 0, 3), beats(2, 0, 3), beats(4, 1, 0), beats(4, 1, 2)]
    np.testing.assert_allclose(predicted, wanted)


def test_sure_estimates_stay_numbers() -> None:
    battles = Battles(*(np.array(one) for one in ([0], [0], [1], [1.0], [False], [1.0])))
    quality = np.array([[1.0, 0.0, 0.5, 0.5]])
    assert calibrate.logged_predictions(table_of(None, battles, 1), quality, np.array([0]))[2][0] == pytest.approx(1.0)
    assert calibrate.logged_predictions(table_of(None, battles, 1), quality, np.array([1]))[2][0] == pytest.approx(0.0)


@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_calibration_is_the_reliability_of_what_was_tested(kind: str) -> None:
    table, forecast = scored(1.5, 0.5, n=300) if kind == "scores" else fought(0.5, n=300)
    choices = forecast.quality.argmax(axis=1)
    groups = np.arange(300) // 2
    rows, columns, predicted, outcome = calibrate.logged_predictions(table, forecast.quality, choices)
    chosen = columns == choices[rows]
    assert 0 < chosen.sum() < len(rows)
    found = calibration_of(table, forecast.quality, choices, groups, seed=4)
    assert list(found) == ["chosen model", "all models"]
    assert found["all models"] == reliability(predicted, outcome, groups[rows], 4)
    assert found["chosen model"] == reliability(predicted[chosen], outcome[chosen], groups[rows[chosen]], 4)


def test_choices_that_were_never_tried_have_no_calibration() -> None:
    table, forecast = scored(1.0, 1.0, n=50)
    scores = table.scores.copy()
    scores[:, 2] = np.nan
    found = calibration_of(replace(table, scores=scores), forecast.quality, np.full(50, 2), np.arange(50))
    assert list(found) == ["all models"]
    nothing = replace(table, scores=np.full_like(scores, np.nan))
    assert calibration_of(nothing, forecast.quality, np.full(50, 2), np.arange(50)) == {}
