"""Calibration: the two slopes by which the estimates' distance from the prior is stretched, fitted on held-out rows.

An average over neighbours is duller than the truth (bias) and noisier than it looks (variance); which of the two wins
is measured on rows that the estimates did not see. router/estimate.py applies the slopes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evidence import Table
from training.metrics import Reliability, reliability

# The slopes are shrunk to 1 as by a normal prior of this spread: a handful of rows says nothing of them.
SLOPE_SPREAD = 0.5
MAX_SLOPE = 3.0
BISECTIONS = 40


@dataclass(frozen=True, slots=True)
class Slopes:
    """difficulty: for what all models share, how hard a prompt is. contrast: for what sets the models apart."""

    difficulty: float = 1.0
    contrast: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """Estimates of held-out rows, not stretched, beside the priors that they were stretched away from.

    rows: int64 (n,), rows of the table. quality, prior: float64 (n, n_models), both as router.estimate.to_quality
    gives them: 0..1, for battles against the average candidate.
    """

    rows: NDArray[np.int64]
    quality: NDArray[np.float64]
    prior: NDArray[np.float64]


def fit_slopes(table: Table, forecast: Forecast) -> Slopes:
    """Return the slopes that fit the outcomes of the forecast's rows best."""
    return _fit_scores(table, forecast) if table.kind == "scores" else _fit_battles(table, forecast)


def _fit_scores(table: Table, forecast: Forecast) -> Slopes:
    """Least squares of score - prior on the shared and the separate part of the estimate's distance from the prior."""
    scores = table.scores[forecast.rows]
    distance = forecast.quality - forecast.prior
    shared = np.broadcast_to(distance.mean(axis=1, keepdims=True), distance.shape)
    seen = ~np.isnan(scores)
    x = np.stack([shared[seen], (distance - shared)[seen]], axis=1)
    y = (scores - forecast.prior)[seen]
    weight = np.broadcast_to(table.row_weight[forecast.rows, None], seen.shape)[seen]
    if not len(y):
        return Slopes()
    noise = float(np.average(np.square(y - x.sum(axis=1)), weights=weight))
    gram = (x * weight[:, None]).T @ x + noise / SLOPE_SPREAD**2 * np.eye(2)
    difficulty, contrast = 1.0 + np.linalg.solve(
        gram + 1e-12 * np.eye(2), (x * weight[:, None]).T @ (y - x.sum(axis=1))
    )
    return Slopes(_clip(difficulty), _clip(contrast))


def _fit_battles(table: Table, forecast: Forecast) -> Slopes:
    """Logistic regression of the outcome on the lead's distance from the prior lead, the prior lead being given."""
    position = np.full(len(table), -1)
    position[forecast.rows] = np.arange(len(forecast.rows))
    battles = table.battles.where((position[table.battles.rows] >= 0) & ~table.battles.both_bad)
    at = position[battles.rows]
    lead, usual = (
        logits[at, battles.a] - logits[at, battles.b] for logits in (logit(forecast.quality), logit(forecast.prior))
    )
    distance = lead - usual

    def rising(slope: float) -> float:
        """The derivative of the penalised loss, which rises with the slope."""
        p = 0.5 + 0.5 * np.tanh(0.5 * (usual + slope * distance))  # exp would overflow
        return float(battles.weight @ (distance * (p - battles.y))) + (slope - 1.0) / SLOPE_SPREAD**2

    low, high = 0.0, MAX_SLOPE
    if rising(low) >= 0:
        return Slopes(contrast=low)
    if rising(high) <= 0:
        return Slopes(contrast=high)
    # Bisection: Newton's steps run away where the estimates are sure and wrong.
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return Slopes(contrast=0.5 * (low + high))


def calibration_of(
    table: Table, quality: NDArray[np.float64], choices: NDArray[np.int64], groups: NDArray[np.int64], seed: int = 0
) -> dict[str, Reliability]:
    """Return the calibration of the chosen model's prediction, and of all predictions that were put to the test.

    quality: float64 (n_rows, n_models), estimated. choices, groups: int64 (n_rows,).
    """
    rows, columns, predicted, outcome = logged_predictions(table, quality, choices)
    out = {}
    chosen = choices[rows] == columns
    for name, some in (("chosen model", chosen), ("all models", np.ones(len(rows), dtype=bool))):
        if some.any():
            out[name] = reliability(predicted[some], outcome[some], groups[rows[some]], seed)
    return out


def logged_predictions(
    table: Table, quality: NDArray[np.float64], choices: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return (row, column, prediction, outcome) of every prediction with a logged outcome.

    For scores, the estimated quality against the score. For battles, P(a beats b) against the battle's outcome, from
    the side of the chosen model where it fought, else from that of model_a; without those where both were bad, which
    say nothing of one against the other.
    """
    if table.kind == "scores":
        rows, columns = np.nonzero(~np.isnan(table.scores))
        return rows, columns, quality[rows, columns], table.scores[rows, columns]
    battles = table.battles.where(~table.battles.both_bad)
    turned = choices[battles.rows] == battles.b
    first, second = np.where(turned, battles.b, battles.a), np.where(turned, battles.a, battles.b)
    logits = logit(quality)
    lead = logits[battles.rows, first] - logits[battles.rows, second]
    return battles.rows, first, 1 / (1 + np.exp(-lead)), np.where(turned, 1 - battles.y, battles.y)


def logit(quality: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(q / (1 - q)), finite at 0 and 1."""
    inside = np.clip(quality, 1e-12, 1.0 - 1e-12)
    return np.log(inside) - np.log1p(-inside)


def _clip(slope: float) -> float:
    return float(min(max(slope, 0.0), MAX_SLOPE))
