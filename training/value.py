"""What a choice was worth on logged rows, although most choices were never tried.

A doubly robust estimate: an outcome model fitted on other rows, corrected by the logged outcome where the choice took
part, in inverse proportion to how often it takes part (Dudik, Langford & Li 2011).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from router.estimate import Z95, Evidence
from training.evidence import Table

MIN_PROPENSITY = 0.01
MIN_GROUPS = 1.5  # Kish's number of groups that weigh alike


@dataclass(frozen=True, slots=True, eq=False)
class ValueMatrix:
    """Value per row and model that could be chosen there.

    values: float64 (n_rows, n_models); for scores the score, for battles the win rate against the logged opponents.
    weight: float64 (n_rows,), 0 where a row says nothing. correction: float64 (n_rows, n_models), the inverse
    propensity with which the logged outcome entered, 0 where it did not.
    """

    values: NDArray[np.float64]
    weight: NDArray[np.float64]
    correction: NDArray[np.float64]

    def of(self, choices: NDArray[np.signedinteger[Any]]) -> NDArray[np.float64]:
        """Return the value of choosing ``choices``, int64 (..., n_rows), on each row: float64, same shape."""
        values: NDArray[np.float64] = self.values[np.arange(len(self.values)), choices]
        return values

    def effective_comparisons(self, choices: NDArray[np.int64]) -> float:
        """Return (sum w)^2 / sum w^2 over the logged outcomes that the choices took part in."""
        w = self.correction[np.arange(len(self.correction)), choices]
        return float(w.sum() ** 2 / max(np.square(w).sum(), 1e-12))


def value_matrix(table: Table, evidence: Evidence, rows: NDArray[np.int64]) -> ValueMatrix:
    """Return the value of every model on ``rows``, int64 (n,), by an outcome model fitted elsewhere.

    evidence: fitted on other rows; its priors are the outcome model.
    """
    return _from_scores(table, evidence, rows) if table.kind == "scores" else _from_battles(table, evidence, rows)


def _from_scores(table: Table, evidence: Evidence, rows: NDArray[np.int64]) -> ValueMatrix:
    scores = table.scores[rows]
    seen = ~np.isnan(scores)
    logged = ~np.isnan(table.scores)
    propensity = np.maximum(logged.sum(axis=0) / max(int(logged.any(axis=1).sum()), 1), MIN_PROPENSITY)
    expected = np.broadcast_to(evidence.prior, scores.shape)
    correction = seen / propensity
    values = expected + correction * np.where(seen, scores - expected, 0.0)
    return ValueMatrix(values, table.row_weight[rows] * seen.any(axis=1), correction)


def _from_battles(table: Table, evidence: Evidence, rows: NDArray[np.int64]) -> ValueMatrix:
    n_models = len(table.models)
    position = np.full(len(table), -1)
    position[rows] = np.arange(len(rows))
    battles = table.battles.where(position[table.battles.rows] >= 0)
    p = 1.0 / (1.0 + np.exp(evidence.prior[None, :] - evidence.prior[:, None]))
    propensity = pair_propensity(table)
    values, correction = np.zeros((len(rows), n_models)), np.zeros((len(rows), n_models))
    weight = np.zeros(len(rows))
    # Every battle is seen from both sides: a model against an opponent, and how it went.
    for model, opponent, outcome in ((battles.a, battles.b, battles.y), (battles.b, battles.a, 1.0 - battles.y)):
        at = position[battles.rows]
        np.add.at(weight, at, battles.weight)
        np.add.at(values, at, battles.weight[:, None] * p[:, opponent].T)
        inverse = 1.0 / np.maximum(propensity[model, opponent], MIN_PROPENSITY)
        np.add.at(values, (at, model), battles.weight * inverse * (outcome - p[model, opponent]))
        np.add.at(correction, (at, model), battles.weight * inverse)
    values = np.divide(values, weight[:, None], out=np.zeros_like(values), where=weight[:, None] > 0)
    return ValueMatrix(values, weight, correction)


def pair_propensity(table: Table) -> NDArray[np.float64]:
    """Return P(model | opponent) in the log: float64 (n_models, n_models), columns are opponents."""
    games = np.zeros((len(table.models), len(table.models)))
    np.add.at(games, (table.battles.a, table.battles.b), table.battles.weight)
    games = games + games.T
    return np.asarray(games / np.maximum(games.sum(axis=0, keepdims=True), 1e-12), dtype=np.float64)


def cross_fit_factor(n_parts: int) -> float:
    """Return by how much the standard error of a gain grows because ``n_parts`` folds were decided by one another.

    An outcome that moves the other folds' choices is scored in its own fold, too: the folds' errors go together, and
    rows that are taken as independent give too narrow an interval (Bates, Hastie & Tibshirani 2021). For one choice
    between two equal models in K folds the variance is 1 + (K - 1) / (pi sqrt(2 K - 3)) times as large.
    """
    if n_parts < 2:
        return 1.0
    return math.sqrt(1.0 + (n_parts - 1) / (math.pi * math.sqrt(2 * n_parts - 3)))


def paired_gain(
    difference: NDArray[np.float64], weight: NDArray[np.float64], groups: NDArray[np.int64]
) -> tuple[float, float]:
    """Return (weighted mean, standard error) of per-row differences; rows of one group are not independent.

    The error is widened by Student's quantile over the normal one, for as many groups as weigh alike (Kish), so that
    1.96 of it are the 95 % interval of a handful of groups as well. Less than two of them say nothing: the error is the
    whole scale.
    """
    total = float(weight.sum())
    mean = float((weight * difference).sum() / max(total, 1e-12))
    codes = np.unique(groups, return_inverse=True)[1]
    residual = np.bincount(codes, weights=weight * (difference - mean))
    n_groups = len(residual)
    shares = np.bincount(codes, weights=weight)
    alike = float(shares.sum() ** 2 / max(np.square(shares).sum(), 1e-12))
    if alike < MIN_GROUPS:
        return mean, 1.0
    error = float(np.sqrt(np.square(residual).sum() * n_groups / (n_groups - 1)) / max(total, 1e-12))
    return mean, error * float(student.ppf(0.975, alike - 1.0)) / Z95
