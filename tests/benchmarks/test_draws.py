"""benchmarks/draws.py, no_signal.py, battle_coverage.py: counts with their bounds, sets that are what they claim."""

import math

import battle_coverage
import no_signal
import numpy as np
import pytest
from draws import clopper_pearson, spread
from scipy.stats import binomtest

from training import Comparison, PreferenceLog


@pytest.mark.parametrize(("hits", "n"), [(0, 200), (10, 200), (190, 200), (200, 200), (3, 7)])
def test_clopper_pearson_is_scipys(hits: int, n: int) -> None:
    exact = binomtest(hits, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(hits, n) == pytest.approx((exact.low, exact.high))


def test_outcomes_come_in_the_order_of_the_jobs() -> None:
    assert spread(math.pow, [(2, power) for power in range(5)], 2) == [1, 2, 4, 8, 16]


@pytest.fixture(scope="module")
def log() -> PreferenceLog:
    """1,200 prompts whose scores tell their number: 10,000 x number + model."""
    names = "abcdefg"
    return PreferenceLog(
        comparisons=[
            Comparison(f"p{row}", scores={name: 10_000.0 * row + at for at, name in enumerate(names)}, intent="x")
            for row in range(1200)
        ]
    )


def test_permuted_rows_stay_whole_and_leave_their_prompts(log: PreferenceLog) -> None:
    made = no_signal.permuted(log, 3)
    assert (len(made), len(made.models)) == (no_signal.N_PROMPTS, no_signal.N_MODELS)
    numbers = [{int(score // 10_000) for score in one.scores.values()} for one in made.comparisons]
    assert all(len(one) == 1 for one in numbers), "a row of scores was torn apart"
    rows, prompts = [one.pop() for one in numbers], [int(one.prompt[1:]) for one in made.comparisons]
    assert sorted(rows) == sorted(prompts), "the same scores, and each once"
    assert np.mean(np.array(rows) == np.array(prompts)) < 0.01
    assert abs(np.corrcoef(rows, prompts)[0, 1]) < 0.1
    assert {one.intent for one in made.comparisons} == {None}
    other = no_signal.permuted(log, 4)
    assert [one.prompt for one in other.comparisons] != [one.prompt for one in made.comparisons]


def test_summary_counts_verdicts() -> None:
    said = ["ROUTE"] * 11 + ["DO NOT ROUTE"] * 189
    gains = [[0.02, 0.01, 0.03]] * 11 + [[0.0, 0.0, 0.0]] * 189
    draws = [
        {"seed": seed, "verdict": label, "gain": gain, "share_of_fixed": 1.0, "seconds": 1.0}
        for seed, (label, gain) in enumerate(zip(said, gains, strict=True))
    ]
    found = no_signal.summary(draws)
    assert (found["route"]["hits"], found["route"]["ok"], found["always_fixed"]["hits"]) == (11, False, 189)
    assert no_signal.summary(draws[1:] + draws[-1:])["route"]["ok"], "10 of 200 are allowed"


def test_win_rates_by_hand() -> None:
    scores = np.array([[0.9, 0.5, 0.5], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(battle_coverage.win_rates(scores), [[2.5 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.5]])


def test_errors_of_cross_fitted_folds_go_together() -> None:
    """The factor that the README of the benchmarks states: two equal models, the better-looking one taken per fold."""
    rng = np.random.default_rng(0)
    for n_folds in (2, 5, 10):
        lead = rng.standard_normal((200_000, n_folds))  # of the one model over the other, in each fold's battles
        taken = lead.sum(axis=1, keepdims=True) - lead > 0  # by what the other folds say
        factor = np.var((lead * taken).sum(axis=1)) / (n_folds / 2)
        assert factor == pytest.approx(1 + (n_folds - 1) / (np.pi * np.sqrt(2 * n_folds - 3)), abs=0.02)


def test_coverage_counts_truths_inside() -> None:
    draws = [
        {"seed": seed, "gain": [0.0, -0.1, 0.1], "true": true, "seconds": 1.0}
        for seed, true in enumerate([0.0, 0.05, -0.2, 0.2, 0.1])
    ]
    found = battle_coverage.summary(draws)
    assert (found["covered"]["hits"], found["above"], found["below"], found["covered"]["ok"]) == (3, 1, 1, False)
