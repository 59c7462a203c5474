"""training/value.py: what a policy is worth, against the truth that only a simulation knows."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t as student

from router.estimate import Evidence
from training.evidence import Battles, Table
from training.fit import fit_evidence
from training.value import cross_fit_factor, pair_propensity, paired_gain, value_matrix

N_MODELS = 4
# Logits of every model on two kinds of prompts: the best fixed model is best on neither.
STRENGTH = np.array([[1.5, 0.8, 0.0, -1.5], [-1.5, 0.8, 0.0, 1.5]])
BEAT = 1 / (1 + np.exp(STRENGTH[:, None, :] - STRENGTH[:, :, None]))
# How often each pair is logged: far from evenly.
PAIRS = np.array([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])
PAIR_SHARE = np.array([0.3, 0.05, 0.2, 0.1, 0.3, 0.05])


def table_of(rows: int, models: int, battles: Battles, scores: NDArray[np.float64] | None = None) -> Table:
    empty = np.full((rows, models), np.nan)
    return Table(
        texts=tuple(map(str, range(rows))),
        originals=tuple(map(str, range(rows))),
        models=tuple("abcdefgh"[:models]),
        kind="battles" if scores is None else "scores",
        scores=empty if scores is None else scores,
        battles=battles,
        costs_usd=empty,
        output_tokens=empty,
        row_weight=np.ones(rows),
        intents=np.full(rows, -1),
        intent_names=(),
        timestamps=np.full(rows, np.nan),
        input_tokens=np.ones(rows, dtype=np.int64),
    )


def simulate(n: int, seed: int) -> tuple[Table, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, n)
    pairs = PAIRS[rng.choice(len(PAIRS), n, p=PAIR_SHARE)]
    y = (rng.random(n) < BEAT[kinds, pairs[:, 0], pairs[:, 1]]).astype(float)
    swap = rng.random(n) < 0.5
    a, b = np.where(swap, pairs[:, 1], pairs[:, 0]), np.where(swap, pairs[:, 0], pairs[:, 1])
    battles = Battles(np.arange(n), a, b, np.where(swap, 1 - y, y), np.zeros(n, dtype=bool), np.ones(n))
    return table_of(n, N_MODELS, battles), kinds


def truth(policy: NDArray[np.int64]) -> float:
    """The win rate of ``policy[kind]`` against the opponents as they are logged; 0.5 against itself."""
    opponents = np.zeros(N_MODELS)
    np.add.at(opponents, PAIRS.ravel(), np.repeat(PAIR_SHARE / 2, 2))
    return float(np.mean([BEAT[kind, policy[kind]] @ opponents for kind in range(2)]))


@pytest.mark.parametrize("policy", [[0, 3], [1, 1], [3, 0]])
def test_doubly_robust_value_covers_the_truth(policy: list[int]) -> None:
    """From one battle a prompt, although the outcome model knows nothing of the two kinds of prompts."""
    outside, _ = simulate(2000, seed=999)
    evidence = fit_evidence(outside, np.ones(2000, dtype=bool), use_intents=False)
    estimates, errors = [], []
    for seed in range(60):
        table, kinds = simulate(600, seed)
        worth = value_matrix(table, evidence, np.arange(600))
        mean, error = paired_gain(worth.of(np.array(policy)[kinds]), worth.weight, np.arange(600))
        estimates.append(mean)
        errors.append(error)
    wanted = truth(np.array(policy))
    bias, spread = np.mean(estimates) - wanted, np.std(estimates)
    assert abs(bias) < 3 * spread / np.sqrt(60), f"biased by {bias:.4f}"
    covered = np.mean(np.abs(np.array(estimates) - wanted) < 1.96 * np.array(errors))
    assert covered >= 0.85
    outcome_model = np.mean(evidence.prior[np.array(policy)]) if policy != [1, 1] else None
    assert outcome_model is None or abs(bias) < 0.03, "by its model alone the estimate would be off by far more"


def test_the_outcome_model_alone_would_be_wrong() -> None:
    """What the test above is worth: without the correction the same policy is misjudged."""
    table, kinds = simulate(2000, seed=1)
    evidence = fit_evidence(table, np.ones(2000, dtype=bool), use_intents=False)
    opponents = np.zeros(N_MODELS)
    np.add.at(opponents, PAIRS.ravel(), np.repeat(PAIR_SHARE / 2, 2))
    p = 1 / (1 + np.exp(evidence.prior[None, :] - evidence.prior[:, None]))
    by_model = np.mean([p[model] @ opponents for model in (0, 3)])
    assert abs(by_model - truth(np.array([0, 3]))) > 0.1
    worth = value_matrix(table, evidence, np.arange(2000))
    assert abs(worth.of(np.array([0, 3])[kinds]).mean() - truth(np.array([0, 3]))) < 0.05


def evidence_of(prior: list[float], kind: str) -> Evidence:
    nothing = np.zeros((0, len(prior)), dtype=np.float32)
    return Evidence(
        kind,
        nothing,
        nothing,
        np.zeros(0, np.int32),
        np.array(prior),
        np.zeros((0, len(prior))),
        np.ones(len(prior)),
        np.ones(0, np.float32),
    )


NO_BATTLES = Battles(*(np.zeros(0, dtype=kind) for kind in (int, int, int, float, bool, float)))


def test_full_scores_are_the_value() -> None:
    scores = np.random.default_rng(0).random((30, 3))
    table = replace(table_of(30, 3, NO_BATTLES, scores), row_weight=np.random.default_rng(1).uniform(0.5, 2, 30))
    worth = value_matrix(table, evidence_of([0.1, 0.9, 0.5], "scores"), np.arange(30))
    np.testing.assert_array_equal(worth.values, scores)
    np.testing.assert_array_equal(worth.weight, table.row_weight)
    choices = np.random.default_rng(2).integers(0, 3, (4, 30))
    np.testing.assert_array_equal(
        worth.of(choices), np.take_along_axis(scores[None], choices[..., None], axis=2)[..., 0]
    )


def test_partial_scores_are_unbiased_whatever_the_outcome_model() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random((4000, 2)) * [0.6, 0.9]
    seen = rng.random(scores.shape) < [0.7, 0.3]
    table = table_of(4000, 2, NO_BATTLES, np.where(seen, scores, np.nan))
    for prior in ([0.0, 0.0], [1.0, 1.0]):
        worth = value_matrix(table, evidence_of(prior, "scores"), np.arange(4000))
        told = worth.weight > 0
        np.testing.assert_allclose(worth.values[told].mean(axis=0), scores.mean(axis=0), atol=0.05)
    assert (worth.weight == seen.any(axis=1)).all()


def test_battle_values_by_hand() -> None:
    battles = Battles(
        np.array([0, 0, 1]),
        np.array([0, 0, 1]),
        np.array([1, 1, 2]),
        np.array([1.0, 0.5, 0.0]),
        np.zeros(3, bool),
        np.array([1.0, 1.0, 2.0]),
    )
    table = table_of(3, 3, battles)
    # Games by weight: 0 and 1 met twice, 1 and 2 twice: against 1, half are fought by 0 and half by 2.
    np.testing.assert_allclose(pair_propensity(table), [[0, 0.5, 0], [1, 0, 1], [0, 0.5, 0]])
    worth = value_matrix(table, evidence_of([0.0, 0.0, 0.0], "battles"), np.arange(3))
    # Row 0: model 0 met 1 twice, 1 met 0 twice; all priors say 0.5.
    np.testing.assert_allclose(worth.values[0], [0.5 + (0.5 + 0.0) / 0.5 / 4, 0.5 - (0.5 + 0.0) / 1 / 4, 0.5])
    np.testing.assert_allclose(worth.values[1], [0.5, 0.5 - 2 * 0.5 / 1 / 4, 0.5 + 2 * 0.5 / 0.5 / 4])
    assert worth.weight.tolist() == [4.0, 4.0, 0.0] and not worth.values[2].any()


@pytest.mark.parametrize("seed", range(3))
def test_propensities_sum_to_one(seed: int) -> None:
    propensity = pair_propensity(simulate(500, seed)[0])
    np.testing.assert_allclose(propensity.sum(axis=0), 1)
    assert not propensity.diagonal().any() and (propensity >= 0).all()


def test_effective_comparisons_count_what_tests_the_choice() -> None:
    table, _ = simulate(600, seed=0)
    worth = value_matrix(table, evidence_of([0.0] * N_MODELS, "battles"), np.arange(600))
    fights = [(table.battles.a == model) | (table.battles.b == model) for model in range(N_MODELS)]
    for model in range(N_MODELS):
        effective = worth.effective_comparisons(np.full(600, model))
        assert 0 < effective <= fights[model].sum() + 1e-9
    idle = np.array([next(m for m in range(N_MODELS) if not fights[m][row]) for row in range(600)])
    assert worth.effective_comparisons(idle) == 0
    full = value_matrix(table_of(30, 2, NO_BATTLES, np.ones((30, 2))), evidence_of([0.5, 0.5], "scores"), np.arange(30))
    assert full.effective_comparisons(np.zeros(30, dtype=int)) == pytest.approx(30)


def test_paired_gain_is_the_textbook_standard_error() -> None:
    difference = np.random.default_rng(0).normal(0.1, 1, 200)
    mean, error = paired_gain(difference, np.ones(200), np.arange(200))
    assert mean == pytest.approx(difference.mean())
    wider = student.ppf(0.975, 199) / 1.959964
    assert error == pytest.approx(wider * difference.std(ddof=1) / np.sqrt(200))
    # Twenty copies of ten answers say no more than ten.
    copied = np.repeat(difference[:10], 20)
    groups = np.repeat(np.arange(10), 20)
    wider = student.ppf(0.975, 9) / 1.959964
    error = paired_gain(copied, np.ones(200), groups)[1]
    assert error == pytest.approx(wider * difference[:10].std(ddof=1) / np.sqrt(10))
    assert paired_gain(copied, np.ones(200), np.zeros(200))[1] == 1.0, "one group says nothing"
    # Rows without weight do not count.
    weight = np.repeat([1.0, 0.0], 100)
    assert paired_gain(difference, weight, np.arange(200))[0] == pytest.approx(difference[:100].mean())
    assert paired_gain(difference, weight, np.arange(200))[1] == pytest.approx(
        paired_gain(difference[:100], weight[:100], np.arange(100))[1], rel=0.01
    )


@pytest.mark.parametrize(
    ("n_parts", "factor"),
    [(0, 1.0), (1, 1.0), (2, np.sqrt(1 + 1 / np.pi)), (5, np.sqrt(1 + 4 / (np.pi * np.sqrt(7)))), (5, 1.21706)],
)
def test_folds_that_decide_each_other_widen_the_error(n_parts: int, factor: float) -> None:
    assert cross_fit_factor(n_parts) == pytest.approx(factor, abs=1e-4)


def test_more_folds_widen_it_more() -> None:
    factors = [cross_fit_factor(n) for n in range(1, 12)]
    assert factors == sorted(factors) and len(set(factors)) == 11


@pytest.mark.parametrize("n_folds", [2, 5])
def test_the_widened_error_is_the_spread_of_cross_fitted_gains(n_folds: int) -> None:
    """Two equal models: each fold takes the one that looked better on the others, and the true gain is 0."""
    rng = np.random.default_rng(n_folds)
    folds = np.arange(60) % n_folds
    gains, errors = [], []
    for _ in range(2000):
        lead = rng.normal(0, 0.3, 60)  # of the other model over the fixed one, row by row
        taken = np.array([lead[folds != fold].sum() > 0 for fold in range(n_folds)])[folds]
        mean, error = paired_gain(lead * taken, np.ones(60), np.arange(60))
        gains.append(mean)
        errors.append(error)
    spread, stated = np.std(gains), np.sqrt(np.mean(np.square(errors)))
    assert abs(np.mean(gains)) < 4 * spread / np.sqrt(2000)
    assert spread / stated == pytest.approx(cross_fit_factor(n_folds), abs=0.06)
    assert spread / stated > 1.08, "without the factor the interval would be too narrow"
