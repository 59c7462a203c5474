"""Choosing the estimator's numbers by cross-validation, on training rows only.

Two schemes are averaged: near-duplicates together (the usual cross-validation) and whole clusters held out (what
happens on prompts unlike any seen). Gaps under half a point are ties, and ties go to more shrinkage.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from router.estimate import (
    SUPPORT_UNIT,
    EstimatorSettings,
    Evidence,
    blended_prior,
    intent_shares,
    lead_error,
    local_sums,
    neighbor_weights,
    paired_squares,
    posterior,
    quality_per_z,
    to_quality,
)
from router.space import Space
from training.evidence import Table
from training.fit import fit_evidence
from training.value import ValueMatrix, value_matrix

N_NEIGHBORS = (30, 100, 300)
TEMPERATURES = (0.1, 0.3)
FEATURE_WEIGHTS = (0.0, 0.25, 0.5)
SHRINKAGES = (1.0, 3.0, 10.0, 30.0)  # in comparisons
INTENT_PRIORS = (False, True)
INTENT_SHRINKAGE = 10.0  # in neighbours of full weight
GUARDS = (0.0, 0.5, 1.0)
TIE = 0.005
# With costs, settings are judged by mean utility: where cost does not matter, and where a unit of quality is worth so
# many times the spread of the models' mean costs, which is where the curves of the logs seen so far bend.
JUDGED_AT = (30.0, 10.0)
# Prompts per block of the batched estimate: bounds the memory of (block, 300, n_models) arrays.
BLOCK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """One point of the grid, in the order in which more shrinkage is preferred among ties."""

    shrinkage: float
    n_neighbors: int
    intent_prior: bool
    guard_z: float
    temperature: float
    feature_weight: float

    @property
    def caution(self) -> tuple[float, ...]:
        """Sort key: a larger one trusts the neighbours less."""
        return (
            self.shrinkage,
            self.n_neighbors,
            float(not self.intent_prior),
            self.guard_z,
            self.temperature,
            -self.feature_weight,
        )

    def settings(self, far: "Far", kind: str) -> EstimatorSettings:
        """Return the estimator's settings for evidence of ``kind``."""
        return EstimatorSettings(
            usual_similarity=far.usual_similarity,
            far_temperature=far.far_temperature,
            n_neighbors=self.n_neighbors,
            temperature=self.temperature,
            shrinkage=self.shrinkage * SUPPORT_UNIT[kind],
            intent_shrinkage=INTENT_SHRINKAGE,
            guard_z=self.guard_z,
        )


@dataclass(frozen=True, slots=True)
class Far:
    """How near a row usually is to its nearest other row, and how fast trust falls below that; both in cosine."""

    usual_similarity: float
    far_temperature: float


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The training rows in one candidate space. vectors: float32 (n_rows, dim), unit length."""

    space: Space
    vectors: NDArray[np.float32]
    far: Far


def grid(table: Table) -> tuple[Config, ...]:
    """Return all configurations worth trying on this table."""
    intents = INTENT_PRIORS if len(table.intent_names) > 1 else INTENT_PRIORS[:1]
    return tuple(
        Config(*point) for point in product(SHRINKAGES, N_NEIGHBORS, intents, GUARDS, TEMPERATURES, FEATURE_WEIGHTS)
    )


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What every configuration chose on held-out rows, and what each choice was worth.

    rows: int64 (n,). choices: int16 (n_configs, n), where cost does not matter. utility: float64 (n_configs,), sum over
    the rows of weight times value minus cost at the willingness to pay, averaged over the amounts that are judged by.
    worth: the value matrix of the rows. fixed: column of the model that was best on the training rows.
    """

    rows: NDArray[np.int64]
    choices: NDArray[np.int16]
    utility: NDArray[np.float64]
    worth: ValueMatrix
    fixed: int


def try_all(
    table: Table,
    places: Sequence[Place],
    train: NDArray[np.bool_],
    rows: NDArray[np.int64],
    configs: tuple[Config, ...],
    costs_usd: NDArray[np.float64] | None = None,
) -> Trial:
    """Fit on the rows marked in ``train``, bool (n_rows,), and let every configuration choose on ``rows``.

    costs_usd: float64 (n_rows, n_models), expected; with them, configurations are judged along the cost-quality curve.
    """
    plain = fit_evidence(table, train, use_intents=False)
    by_intent = fit_evidence(table, train, use_intents=True) if len(table.intent_names) > 1 else plain
    fixed = best_fixed(table, plain, np.flatnonzero(train))
    worth = value_matrix(table, plain, rows)
    choices = np.full((len(configs), len(rows)), fixed, dtype=np.int16)
    utility = np.zeros(len(configs))
    train_rows = np.flatnonzero(train)
    largest = max(one.n_neighbors for one in configs)
    block = max(1, BLOCK_BYTES // (8 * largest * len(table.models)))
    for place in places:
        here = [i for i, one in enumerate(configs) if one.feature_weight == place.space.feature_weight]
        for start in range(0, len(rows) if here else 0, block):
            some = slice(start, start + block)
            hits = nearest(place.vectors[rows[some]], place.vectors, train_rows, largest)
            values, weight = worth.values[some], worth.weight[some]
            fees = _fees(costs_usd, rows[some], values.shape)
            for with_intents, evidence in ((False, plain), (True, by_intent)):
                wanted = [i for i in here if configs[i].intent_prior == with_intents]
                for index, chosen in _choices(*hits, evidence, configs, wanted, place.far, fixed, fees):
                    choices[index, some] = chosen[0]
                    at = np.arange(len(weight))
                    net = [values[at, own] - fee[at, own] for own, fee in zip(chosen, fees, strict=True)]
                    utility[index] += float(np.mean(net, axis=0) @ weight)
    return Trial(rows, choices, utility, worth, fixed)


def _fees(
    costs_usd: NDArray[np.float64] | None, rows: NDArray[np.int64], shape: tuple[int, ...]
) -> list[NDArray[np.float64]]:
    """Return what each model costs in units of quality, at each amount that settings are judged by; free first."""
    if costs_usd is None:
        return [np.zeros(shape)]
    spread = max(float(np.ptp(costs_usd.mean(axis=0))), 1e-12)
    return [np.zeros(shape), *(costs_usd[rows] / (spread * factor) for factor in JUDGED_AT)]


def _choices(
    similarities: NDArray[np.float32],
    neighbors: NDArray[np.int64],
    evidence: Evidence,
    configs: tuple[Config, ...],
    wanted: list[int],
    far: Far,
    fixed: int,
    fees: Sequence[NDArray[np.float64]],
) -> Iterator[tuple[int, list[NDArray[np.int64]]]]:
    """Yield (index of a configuration, its choices per prompt under each fee); sums over neighbours are shared."""
    if not wanted:
        return
    h, g = evidence.h[neighbors], evidence.g[neighbors]
    g_squared, g_fixed = g * g, g * g[..., fixed : fixed + 1]
    intents = evidence.intents[neighbors]
    by_sums: dict[tuple[int, float], dict[float, list[int]]] = {}
    for index in wanted:
        one = configs[index]
        by_sums.setdefault((one.n_neighbors, one.temperature), {}).setdefault(one.shrinkage, []).append(index)
    for (k, _), by_shrinkage in by_sums.items():
        first = configs[next(iter(by_shrinkage.values()))[0]]
        w = neighbor_weights(similarities[:, :k], first.settings(far, evidence.kind)).astype(np.float32)
        mass, pull = local_sums(w, h[:, :k], g[:, :k])
        squares, products = paired_squares(w, g_squared[:, :k], g_fixed[:, :k])
        prior = evidence.prior
        if first.intent_prior:
            shares = intent_shares(w, intents[:, :k], len(evidence.intent_priors), INTENT_SHRINKAGE)
            prior = blended_prior(shares, evidence)
        for members in by_shrinkage.values():
            shrinkage = configs[members[0]].settings(far, evidence.kind).shrinkage
            z = posterior(prior, mass, pull, shrinkage)
            error = lead_error(squares, products, mass, shrinkage, fixed)
            quality = z
            if len(fees) > 1:  # only then does the scale of z matter
                quality = to_quality(z, np.zeros_like(z), evidence.kind)[0]
                error = error * quality_per_z(z, quality, fixed)
            utilities = [quality - fee for fee in fees]
            for index in members:
                guard_z = configs[index].guard_z
                yield index, [guarded_choice(one, error, fixed, guard_z) for one in utilities]


def guarded_choice(
    utility: NDArray[np.float64], error: NDArray[np.float64], fixed: int, guard_z: float
) -> NDArray[np.int64]:
    """Return the best column per prompt, or ``fixed`` where its lead is not above ``guard_z`` standard errors."""
    best = np.argmax(utility, axis=1)
    at = np.arange(len(utility))
    lead = utility[at, best] - utility[:, fixed]
    return np.where(lead > guard_z * error[at, best], best, fixed)


def nearest(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], rows: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return (similarities, row numbers), each (n_queries, k), of the nearest among ``rows``, nearest first."""
    k = min(k, len(rows))
    similar = queries @ vectors[rows].T
    if k < len(rows):
        top = np.argpartition(similar, len(rows) - k, axis=1)[:, -k:]
    else:
        top = np.broadcast_to(np.arange(k), similar.shape).copy()
    # Equal similarities go by row number, so that the order never depends on the partition.
    top.sort(axis=1)
    found = np.take_along_axis(similar, top, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1), rows[np.take_along_axis(top, order, axis=1)]


def best_fixed(table: Table, evidence: Evidence, rows: NDArray[np.int64]) -> int:
    """Return the column of the model that is worth most when it serves all of ``rows``."""
    worth = value_matrix(table, evidence, rows)
    return int(np.argmax(worth.weight @ worth.values))


def pick(trials: list[list[Trial]], configs: tuple[Config, ...]) -> int:
    """Return the index of the configuration to use, given the trials of each scheme's folds.

    A scheme without trials (a log of a few near-duplicates cannot be split twice) has no say; with none that has, every
    configuration is tied.
    """
    schemes = [_scheme_values(one) for one in trials if one]
    means = np.mean(schemes, axis=0) if schemes else np.zeros(len(configs))
    tied = np.flatnonzero(means >= means.max() - TIE)
    return int(max(tied, key=lambda index: configs[index].caution))


def _scheme_values(trials: list[Trial]) -> NDArray[np.float64]:
    """Return each configuration's mean value over all held-out rows of a scheme: float64 (n_configs,)."""
    total = np.zeros(len(trials[0].choices))
    weight = 0.0
    for trial in trials:
        total += trial.utility
        weight += float(trial.worth.weight.sum())
    return np.asarray(total / max(weight, 1e-12))


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """quality: float64 (n, n_models), as serving estimates it. error: float64, same shape, of the lead over fixed."""

    quality: NDArray[np.float64]
    error: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class CrossFit:
    """What was estimated for every row by an estimator that was fitted, and chosen, without it.

    prediction: over all rows. guard_z: float64 (n_rows,). fixed: int64 (n_rows,), column of the model that was best on
    the rows that each row was estimated from. worth: what each choice was worth.
    """

    prediction: Prediction
    guard_z: NDArray[np.float64]
    fixed: NDArray[np.int64]
    worth: ValueMatrix

    def choose(
        self, willingness_to_pay_usd: float | None = None, expected_costs_usd: NDArray[np.float64] | None = None
    ) -> NDArray[np.int64]:
        """Return the column that serving would choose on every row, int64 (n_rows,): router.policy.choose, in bulk.

        expected_costs_usd: float64 (n_rows, n_models), or None where costs are unknown.
        """
        quality, at = self.prediction.quality, np.arange(len(self.fixed))
        utility, ties = quality, np.zeros_like(quality)
        if expected_costs_usd is not None:
            ties = expected_costs_usd
            if willingness_to_pay_usd is not None:
                utility = quality - expected_costs_usd / max(willingness_to_pay_usd, 1e-12)
        top = utility >= utility.max(axis=1, keepdims=True)
        best = np.argmin(np.where(top, ties, np.inf), axis=1)
        lead = utility[at, best] - utility[at, self.fixed]
        return np.where(lead > self.guard_z * self.prediction.error[at, best], best, self.fixed)


def predict(
    table: Table, places: Sequence[Place], train: NDArray[np.bool_], trial: Trial, config: Config
) -> Prediction:
    """Estimate every model on the rows of ``trial`` by ``config``, from the rows marked in ``train``."""
    place = next(one for one in places if one.space.feature_weight == config.feature_weight)
    evidence = fit_evidence(table, train, use_intents=config.intent_prior)
    settings = config.settings(place.far, table.kind)
    similarities, rows = nearest(place.vectors[trial.rows], place.vectors, np.flatnonzero(train), settings.n_neighbors)
    w = neighbor_weights(similarities, settings)
    h, g = evidence.h[rows], evidence.g[rows]
    mass, pull = local_sums(w, h, g)
    shares = intent_shares(w, evidence.intents[rows], len(evidence.intent_priors), settings.intent_shrinkage)
    z = posterior(blended_prior(shares, evidence), mass, pull, settings.shrinkage)
    quality = to_quality(z, np.zeros_like(z), evidence.kind)[0]
    squares, products = paired_squares(w, g * g, g * g[..., trial.fixed : trial.fixed + 1])
    error = lead_error(squares, products, mass, settings.shrinkage, trial.fixed)
    return Prediction(quality, error * quality_per_z(z, quality, trial.fixed))


def _assemble(parts: Sequence[tuple[Trial, Prediction, float]], n_rows: int, n_models: int) -> CrossFit:
    quality, error, values, correction = np.zeros((4, n_rows, n_models))
    guard_z, weight = np.zeros((2, n_rows))
    fixed = np.zeros(n_rows, dtype=np.int64)
    for trial, prediction, guard in parts:
        quality[trial.rows], error[trial.rows] = prediction.quality, prediction.error
        values[trial.rows], weight[trial.rows] = trial.worth.values, trial.worth.weight
        correction[trial.rows] = trial.worth.correction
        guard_z[trial.rows], fixed[trial.rows] = guard, trial.fixed
    return CrossFit(Prediction(quality, error), guard_z, fixed, ValueMatrix(values, weight, correction))


class Selection:
    """The cross-validation of one table: the final choice of settings, and choices that were never trained on."""

    def __init__(
        self,
        table: Table,
        places: Sequence[Place],
        folds: NDArray[np.int64],
        cluster_folds: NDArray[np.int64],
        progress: Callable[[str, int, int], object],
        costs_usd: NDArray[np.float64] | None = None,
    ) -> None:
        """Try all configurations on every fold. folds, cluster_folds: int64 (n_rows,), the two schemes.

        costs_usd: float64 (n_rows, n_models), expected cost of each answer, or None where costs are unknown.
        """
        self._costs_usd = costs_usd
        self._table, self._places, self._progress = table, places, progress
        self._folds, self._cluster_folds = folds, cluster_folds
        self._configs = grid(table)
        n_folds, n_clusters = len(np.unique(folds)), len(np.unique(cluster_folds))
        self._n_trials = n_folds + n_clusters + n_folds * (n_folds - 1 + n_clusters)
        self._n_done = 0
        every = np.ones(len(table), dtype=bool)
        self._outer = self._trials(folds, every)

    def final(self) -> Config:
        """Return the configuration chosen on all rows."""
        every = np.ones(len(self._table), dtype=bool)
        return self._configs[pick([self._outer, self._trials(self._cluster_folds, every)], self._configs)]

    def cross_fitted(self) -> "CrossFit":
        """Return, for every row, what was estimated without it.

        Each fold is decided by the configuration that the other folds, among themselves, chose.
        """
        parts = []
        for trial in self._outer:
            inside = np.ones(len(self._table), dtype=bool)
            inside[trial.rows] = False
            schemes = [self._trials(self._folds, inside), self._trials(self._cluster_folds, inside)]
            config = self._configs[pick(schemes, self._configs)]
            parts.append((trial, predict(self._table, self._places, inside, trial, config), config.guard_z))
        return _assemble(parts, len(self._table), len(self._table.models))

    def _trials(self, folds: NDArray[np.int64], inside: NDArray[np.bool_]) -> list[Trial]:
        """Hold out each fold in turn among the rows marked ``inside``, bool (n_rows,)."""
        splits = []
        for fold in np.unique(folds[inside]):
            held_out = inside & (folds == fold)
            if held_out.any() and (inside & ~held_out).any():
                splits.append((inside & ~held_out, np.flatnonzero(held_out)))

        def run(split: tuple[NDArray[np.bool_], NDArray[np.int64]]) -> Trial:
            return try_all(self._table, self._places, *split, self._configs, self._costs_usd)

        trials = []
        # numpy lets go of the GIL in the sums that take the time, so threads are enough.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for trial in pool.map(run, splits):
                trials.append(trial)
                self._n_done += 1
                self._progress("selecting", min(self._n_done, self._n_trials), self._n_trials)
        return trials
