"""training/value.py on battles whose every outcome is known: the gain's interval covers the true gain.

Rows and choices stay, each draw keeps one battle of two random models per row. The truth is what those very choices
win against a uniformly random model.
"""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from training.evidence import Battles, Table
from training.fit import fit_evidence
from training.value import paired_gain, value_matrix
from training.verdict import gain_of

N_ROWS, N_MODELS, N_DRAWS, N_FOLDS = 300, 4, 200, 3
MIN_COVERED = 0.9
# Mean score of every model on two kinds of prompts: the best model on average is best on neither.
MEANS = np.array([[0.8, 0.6, 0.4, 0.1], [0.1, 0.6, 0.4, 0.8]])
KINDS = np.arange(N_ROWS) % 2
SCORES = MEANS[KINDS] + 0.3 * np.random.default_rng(0).standard_normal((N_ROWS, N_MODELS))
SCORES = np.round(SCORES, 1)  # so that there are ties
WINS = np.stack([0.5 + 0.5 * np.sign(SCORES[:, [model]] - SCORES).mean(axis=1) for model in range(N_MODELS)], axis=1)
FIXED = np.full(N_ROWS, 1)
POLICIES = {"best of its kind": np.array([0, 3])[KINDS], "worst of its kind": np.array([3, 0])[KINDS]}


def battles_of(seed: int) -> Table:
    """Each row's scores reduced to one battle of two random models."""
    rng = np.random.default_rng((seed, 1))
    rows = np.arange(N_ROWS)
    a = rng.integers(N_MODELS, size=N_ROWS)
    b = (a + rng.integers(1, N_MODELS, size=N_ROWS)) % N_MODELS
    y = 0.5 + 0.5 * np.sign(SCORES[rows, a] - SCORES[rows, b])
    texts, empty = tuple(map(str, rows)), np.full(SCORES.shape, np.nan)
    battles = Battles(rows, a, b, y, np.zeros(N_ROWS, dtype=bool), np.ones(N_ROWS))
    no_intents, no_times = np.full(N_ROWS, -1), np.full(N_ROWS, np.nan)
    return Table(
        texts,
        texts,
        tuple("abcd"),
        "battles",
        empty,
        battles,
        empty,
        empty,
        np.ones(N_ROWS),
        no_intents,
        (),
        no_times,
        np.ones(N_ROWS, dtype=np.int64),
    )


def corrected(table: Table) -> NDArray[np.float64]:
    """The value matrix, each fold by an outcome model fitted on the others."""
    values = np.zeros((N_ROWS, N_MODELS))
    folds = np.arange(N_ROWS) // 2 % N_FOLDS
    for fold in range(N_FOLDS):
        rows = np.flatnonzero(folds == fold)
        values[rows] = value_matrix(table, fit_evidence(table, folds != fold, use_intents=False), rows).values
    return values


def by_model_alone(table: Table) -> NDArray[np.float64]:
    """The same without the logged outcomes: the global strengths against the two that fought."""
    prior = fit_evidence(table, np.ones(N_ROWS, dtype=bool), use_intents=False).prior
    p = 1 / (1 + np.exp(prior[None, :] - prior[:, None]))
    return (p[:, table.battles.a].T + p[:, table.battles.b].T) / 2


def half_corrected(table: Table) -> NDArray[np.float64]:
    """Halfway between the two: what a wrong propensity would give."""
    return (corrected(table) + by_model_alone(table)) / 2


def coverage(value_of: Callable[[Table], NDArray[np.float64]], choices: NDArray[np.int64]) -> float:
    """The share of draws whose interval holds the true gain of the choices."""
    at = np.arange(N_ROWS)
    true = float((WINS[at, choices] - WINS[at, FIXED]).mean())
    n_covered = 0
    for seed in range(N_DRAWS):
        values = value_of(battles_of(seed))
        gain = gain_of(*paired_gain(values[at, choices] - values[at, FIXED], np.ones(N_ROWS), at))
        n_covered += gain.low <= true <= gain.high
    return n_covered / N_DRAWS


@pytest.mark.parametrize("policy", POLICIES)
def test_the_interval_covers_the_true_gain(policy: str) -> None:
    assert coverage(corrected, POLICIES[policy]) >= MIN_COVERED


@pytest.mark.parametrize("value_of", [by_model_alone, half_corrected])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_wrong_value_would_not_cover_it(policy: str, value_of: Callable[[Table], NDArray[np.float64]]) -> None:
    """The outcome model knows nothing of the two kinds: what the test above is worth."""
    assert coverage(value_of, POLICIES[policy]) < MIN_COVERED


def test_opponents_are_uniform_in_the_truth() -> None:
    """Over many draws the mean value of every model is its win rate, row for row where it fought often enough."""
    mean = np.mean([corrected(battles_of(seed)) for seed in range(N_DRAWS)], axis=0)
    np.testing.assert_allclose(mean.mean(axis=0), WINS.mean(axis=0), atol=0.01)
