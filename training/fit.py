"""Priors and residuals: what a set of training rows says before any neighbour is looked at.

The formulas that use them are the estimator's (router/estimate.py); both kinds of evidence end in the same arrays.
"""

import numpy as np
from numpy.typing import NDArray

from router.estimate import Evidence
from training.evidence import Battles, Table

# Rows that the mean over all models, or the global prior, is worth against a model's own, or an intent's own, rows.
MODEL_PSEUDO_ROWS = 5.0
INTENT_PSEUDO_ROWS = 20.0
# Ridge on Bradley-Terry strengths, in comparisons (h = 0.25 each): keeps separated models finite.
BATTLE_PSEUDO_COMPARISONS = 2.0
NEWTON_STEPS = 50
NEWTON_TOLERANCE = 1e-8


def fit_evidence(table: Table, train: NDArray[np.bool_], *, use_intents: bool) -> Evidence:
    """Fit priors on the rows marked in ``train`` and return evidence for all rows of the table.

    Rows outside ``train`` get h = g = 0, so that looking them up by mistake changes nothing. Without
    ``use_intents`` every intent's prior is the global one; the rows keep their labels.
    train: bool (n_rows,).
    """
    labels = np.where(train, table.intents, -1).astype(np.int32)
    own = labels if use_intents else np.full(len(table), -1, dtype=np.int32)
    fit = _fit_scores if table.kind == "scores" else _fit_battles
    return fit(table, train, labels, own)


def _fit_scores(
    table: Table, train: NDArray[np.bool_], labels: NDArray[np.int32], intents: NDArray[np.int32]
) -> Evidence:
    seen = ~np.isnan(table.scores) & train[:, None]
    h = seen * table.row_weight[:, None]
    scores = np.where(seen, table.scores, 0.0)
    total, count = (h * scores).sum(0), h.sum(0)
    overall = total.sum() / max(count.sum(), 1e-12)
    prior = (total + MODEL_PSEUDO_ROWS * overall) / (count + MODEL_PSEUDO_ROWS)
    intent_priors = np.tile(prior, (len(table.intent_names), 1))
    for intent in np.unique(intents[intents >= 0]):
        own = intents == intent
        mass = h[own].sum(0)
        intent_priors[intent] = ((h * scores)[own].sum(0) + INTENT_PSEUDO_ROWS * prior) / (mass + INTENT_PSEUDO_ROWS)
    row_prior = _row_priors(prior, intent_priors, intents)
    g = h * (scores - row_prior)
    squares = (h * np.square(scores - row_prior)).sum(0)
    pooled = squares.sum() / max(count.sum(), 1e-12)
    variance = (squares + MODEL_PSEUDO_ROWS * pooled) / (count + MODEL_PSEUDO_ROWS)
    return Evidence("scores", _f32(h), _f32(g), labels, prior, intent_priors, variance, _ones(len(table)))


def _fit_battles(
    table: Table, train: NDArray[np.bool_], labels: NDArray[np.int32], intents: NDArray[np.int32]
) -> Evidence:
    battles = table.battles.where(train[table.battles.rows])
    telling = battles.where(~battles.both_bad)
    n_models = len(table.models)
    ridge = 0.25 * BATTLE_PSEUDO_COMPARISONS
    prior = bradley_terry(telling, np.zeros(n_models), ridge)
    intent_priors = np.tile(prior, (len(table.intent_names), 1))
    for intent in np.unique(intents[intents >= 0]):
        own = telling.where(intents[telling.rows] == intent)
        intent_priors[intent] = bradley_terry(own, prior, 0.25 * INTENT_PSEUDO_ROWS)
    theta = _row_priors(prior, intent_priors, intents)
    h, g = np.zeros((len(table), n_models)), np.zeros((len(table), n_models))
    rows, a, b, weight = battles.rows, battles.a, battles.b, battles.weight
    p = _sigmoid(theta[rows, a] - theta[rows, b])
    bad = battles.both_bad
    paired = np.where(bad, 0.0, weight)
    for column, sign in ((a, 1.0), (b, -1.0)):
        np.add.at(h, (rows, column), paired * p * (1 - p))
        np.add.at(g, (rows, column), sign * paired * (battles.y - p))
    # Both bad says nothing of one against the other: either model loses to the average candidate instead.
    for column in (a[bad], b[bad]):
        strength = theta[rows[bad], column] - theta[rows[bad]].mean(axis=1)
        against_average = _sigmoid(strength)
        np.add.at(h, (rows[bad], column), weight[bad] * against_average * (1 - against_average))
        np.add.at(g, (rows[bad], column), -weight[bad] * against_average)
    return Evidence("battles", _f32(h), _f32(g), labels, prior, intent_priors, np.ones(n_models), _ones(len(table)))


def bradley_terry(battles: Battles, center: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """Return Bradley-Terry strengths in logits, float64 (n_models,): a ridge fit around ``center``.

    Newton's method on sum_i w_i log-likelihood - ridge / 2 * |theta - center|^2 (Bradley & Terry 1952; ties count
    half a win each).
    """
    n_models = len(center)
    wins, games = np.zeros((n_models, n_models)), np.zeros((n_models, n_models))
    np.add.at(wins, (battles.a, battles.b), battles.weight * battles.y)
    np.add.at(wins, (battles.b, battles.a), battles.weight * (1 - battles.y))
    np.add.at(games, (battles.a, battles.b), battles.weight)
    np.add.at(games, (battles.b, battles.a), battles.weight)
    theta = center.copy()
    for _ in range(NEWTON_STEPS):
        p = _sigmoid(theta[:, None] - theta[None, :])
        gradient = (wins - games * p).sum(axis=1) - ridge * (theta - center)
        curvature = games * p * (1 - p)
        hessian = np.diag(curvature.sum(axis=1) + ridge) - curvature
        step = np.linalg.solve(hessian, gradient)
        step *= min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        theta = theta + step
        if np.abs(step).max() < NEWTON_TOLERANCE:
            break
    return theta


def _row_priors(
    prior: NDArray[np.float64], intent_priors: NDArray[np.float64], intents: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Return the prior of every row, (n_rows, n_models): its intent's, or the global one."""
    return np.vstack([intent_priors, prior])[intents]


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-x))


def _ones(n_rows: int) -> NDArray[np.float32]:
    """Return the sizes of answers of which nothing is known."""
    return np.ones(n_rows, dtype=np.float32)


def _f32(array: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, dtype=np.float32)
