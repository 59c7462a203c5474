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

    rows: int64 (n,). choices: int16 (n_configs, n). worth: the value matrix of the rows. fixed: column of the model
    that was best on the training rows.
    """

    rows: NDArray[np.int64]
    choices: NDArray[np.int16]
    worth: ValueMatrix
    fixed: int


def try_all(
    table: Table,
    places: Sequence[Place],
    train: NDArray[np.bool_],
    rows: NDArray[np.int64],
    configs: tuple[Config, ...],
) -> Trial:
    """Fit on the rows marked in ``train``, bool (n_rows,), and let every configuration choose on ``rows``."""
    plain = fit_evidence(table, train, use_intents=False)
    by_intent = fit_evidence(table, train, use_intents=True) if len(table.intent_names) > 1 else plain
    fixed = best_fixed(table, plain, np.flatnonzero(train))
    choices = np.full((len(configs), len(rows)), fixed, dtype=np.int16)
    train_rows = np.flatnonzero(train)
    largest = max(one.n_neighbors for one in configs)
    block = max(1, BLOCK_BYTES // (8 * largest * len(table.models)))
    for place in places:
        here = [i for i, one in enumerate(configs) if one.feature_weight == place.space.feature_weight]
        for start in range(0, len(rows) if here else 0, block):
            some = slice(start, start + block)
            hits = nearest(place.vectors[rows[some]], place.vectors, train_rows, largest)
            for with_intents, evidence in ((False, plain), (True, by_intent)):
                wanted = [i for i in here if configs[i].intent_prior == with_intents]
                for index, chosen in _choices(*hits, evidence, configs, wanted, place.far, fixed):
                    choices[index, some] = chosen
    return Trial(rows, choices, value_matrix(table, plain, rows), fixed)


def _choices(
    similarities: NDArray[np.float32],
    neighbors: NDArray[np.int64],
    evidence: Evidence,
    configs: tuple[Config, ...],
    wanted: list[int],
    far: Far,
    fixed: int,
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield (index of a configuration, its choice per prompt); the sums over neighbours are shared among them."""
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
            for index in members:
                yield index, guarded_choice(z, error, fixed, configs[index].guard_z)


def guarded_choice(z: NDArray[np.float64], error: NDArray[np.float64], fixed: int, guard_z: float) -> NDArray[np.int64]:
    """Return the best column per prompt, or ``fixed`` where its lead is not above ``guard_z`` standard errors."""
    best = np.argmax(z, axis=1)
    at = np.arange(len(z))
    lead = z[at, best] - z[:, fixed]
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
    """Return the index of the configuration to use, given the trials of each scheme's folds."""
    means = np.mean([_scheme_values(trials_of_scheme) for trials_of_scheme in trials], axis=0)
    tied = np.flatnonzero(means >= means.max() - TIE)
    return int(max(tied, key=lambda index: configs[index].caution))


def _scheme_values(trials: list[Trial]) -> NDArray[np.float64]:
    """Return each configuration's mean value over all held-out rows of a scheme: float64 (n_configs,)."""
    total = np.zeros(len(trials[0].choices))
    weight = 0.0
    for trial in trials:
        total += trial.worth.of(trial.choices) @ trial.worth.weight
        weight += float(trial.worth.weight.sum())
    return np.asarray(total / max(weight, 1e-12))


class Selection:
    """The cross-validation of one table: the final choice of settings, and choices that were never trained on."""

    def __init__(
        self,
        table: Table,
        places: Sequence[Place],
        folds: NDArray[np.int64],
        cluster_folds: NDArray[np.int64],
        progress: Callable[[str, int, int], object],
    ) -> None:
        """Try all configurations on every fold. folds, cluster_folds: int64 (n_rows,), the two schemes."""
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

    def cross_fitted(self) -> tuple[NDArray[np.int64], NDArray[np.int64], ValueMatrix]:
        """Return (router's choices, best fixed columns, value matrix), one entry per row of the table.

        Each fold is decided by the configuration that the other folds, among themselves, chose.
        """
        n_rows, n_models = len(self._table), len(self._table.models)
        choices, fixed = np.zeros(n_rows, dtype=np.int64), np.zeros(n_rows, dtype=np.int64)
        values, correction = np.zeros((n_rows, n_models)), np.zeros((n_rows, n_models))
        weight = np.zeros(n_rows)
        for trial in self._outer:
            inside = np.ones(n_rows, dtype=bool)
            inside[trial.rows] = False
            schemes = [self._trials(self._folds, inside), self._trials(self._cluster_folds, inside)]
            choices[trial.rows] = trial.choices[pick(schemes, self._configs)]
            fixed[trial.rows] = trial.fixed
            values[trial.rows], weight[trial.rows] = trial.worth.values, trial.worth.weight
            correction[trial.rows] = trial.worth.correction
        return choices, fixed, ValueMatrix(values, weight, correction)

    def _trials(self, folds: NDArray[np.int64], inside: NDArray[np.bool_]) -> list[Trial]:
        """Hold out each fold in turn among the rows marked ``inside``, bool (n_rows,)."""
        splits = []
        for fold in np.unique(folds[inside]):
            held_out = inside & (folds == fold)
            if held_out.any() and (inside & ~held_out).any():
                splits.append((inside & ~held_out, np.flatnonzero(held_out)))

        def run(split: tuple[NDArray[np.bool_], NDArray[np.int64]]) -> Trial:
            return try_all(self._table, self._places, *split, self._configs)

        trials = []
        # numpy lets go of the GIL in the sums that take the time, so threads are enough.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for trial in pool.map(run, splits):
                trials.append(trial)
                self._n_done += 1
                self._progress("selecting", min(self._n_done, self._n_trials), self._n_trials)
        return trials
