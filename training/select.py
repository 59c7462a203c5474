"""Choosing the estimator's numbers by cross-validation, on training rows only.

Two schemes are averaged: near-duplicates together (the usual cross-validation) and whole clusters held out (what
happens on prompts unlike any seen). Gaps in value under half a point are ties; among tied settings those count that
predict the outcomes best, and among these the most cautious one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    well_tested,
)
from training.calibrate import Slopes
from training.evidence import Table
from training.fit import fit_evidence
from training.hold_out import Far, HoldOut, Place, blocks
from training.value import value_matrix

N_NEIGHBORS = (30, 100, 300)
# The wider the mean, the fewer prompts change their model when a word of them is changed. Tried with the flattest
# weights alone, and only in logs of so many times the rows: half a small log is no neighbourhood.
WIDE_NEIGHBORS = 600
ROWS_PER_WIDE_NEIGHBOR = 6
TEMPERATURES = (0.1, 0.2)
FEATURE_WEIGHTS = (0.0, 0.5, 1.0)
SHRINKAGES = (1.0, 3.0, 10.0, 30.0)  # in comparisons
INTENT_PRIORS = (False, True)
INTENT_SHRINKAGE = 10.0  # in neighbours of full weight
GUARDS = (0.0, 0.25, 0.5)
TIE = 0.005
GUARD_TIE = 0.001
# Of the best improvement in prediction over the prior alone, a setting must keep so much to stay among the tied.
KEPT_IMPROVEMENT = 0.95
# With costs, settings are judged by mean utility: where cost does not matter, and where a unit of quality is worth so
# many times the spread of the models' mean costs, which is where the curves of the logs seen so far bend.
JUDGED_AT = (30.0, 10.0)
# Rows listed per row, for the most neighbours that are tried: two folds of five are left out inside the report's folds.
LISTED = 1.6


@dataclass(frozen=True, slots=True)
class Config:
    """One point of the grid."""

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
            float(not self.intent_prior),
            self.n_neighbors,
            self.shrinkage,
            self.temperature,
            -self.feature_weight,
            self.guard_z,
        )

    def settings(self, far: Far, kind: str) -> EstimatorSettings:
        """Return the estimator's settings for evidence of ``kind``, not yet calibrated."""
        return EstimatorSettings(
            usual_similarity=far.usual_similarity,
            far_temperature=far.far_temperature,
            max_unknown_share=far.max_unknown_share,
            n_neighbors=self.n_neighbors,
            temperature=self.temperature,
            shrinkage=self.shrinkage * SUPPORT_UNIT[kind],
            intent_shrinkage=INTENT_SHRINKAGE,
            guard_z=self.guard_z,
        )


@dataclass(frozen=True, slots=True)
class Chosen:
    """What selection settles on: a configuration, and the slopes that calibrate it."""

    config: Config
    slopes: Slopes

    def settings(self, far: Far, kind: str) -> EstimatorSettings:
        """Return the estimator's settings for evidence of ``kind``."""
        return replace(
            self.config.settings(far, kind),
            difficulty_slope=self.slopes.difficulty,
            contrast_slope=self.slopes.contrast,
        )


def n_listed(configs: Sequence[Config]) -> int:
    """Return how many nearest rows are worth finding before these are tried."""
    return int(LISTED * max(one.n_neighbors for one in configs))


def grid(table: Table) -> tuple[Config, ...]:
    """Return all configurations worth trying on this table."""
    intents = INTENT_PRIORS if len(table.intent_names) > 1 else INTENT_PRIORS[:1]
    widths = [*product(N_NEIGHBORS, TEMPERATURES)]
    if len(table) >= ROWS_PER_WIDE_NEIGHBOR * WIDE_NEIGHBORS:
        widths.append((WIDE_NEIGHBORS, max(TEMPERATURES)))
    points = product(SHRINKAGES, widths, intents, GUARDS, FEATURE_WEIGHTS)
    return tuple(
        Config(shrinkage, n_neighbors, intent_prior, guard_z, temperature, feature_weight)
        for shrinkage, (n_neighbors, temperature), intent_prior, guard_z, feature_weight in points
    )


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """How every configuration did on held-out rows, each float64 (n_configs,), summed over the rows by their weight.

    utility: value minus cost at the willingness to pay, averaged over the amounts that are judged by. loss: error of
    the predicted differences between models, minus the same of the priors alone: squared on scores, logarithmic on
    battles. weight: of the rows, in all.
    """

    utility: NDArray[np.float64]
    loss: NDArray[np.float64]
    weight: float


class _Outcomes:
    """The logged outcomes of the asked rows, against which predictions are scored."""

    def __init__(self, table: Table, asked: NDArray[np.int64]) -> None:
        self._kind = table.kind
        if table.kind == "scores":
            scores = table.scores[asked]
            seen = ~np.isnan(scores)
            self._scores, self._seen = _centred(np.where(seen, scores, 0.0), seen), seen
            self._weight = table.row_weight[asked] / np.maximum(seen.sum(axis=1), 1)
            return
        position = np.full(len(table), -1)
        position[asked] = np.arange(len(asked))
        battles = table.battles.where((position[table.battles.rows] >= 0) & ~table.battles.both_bad)
        order = np.argsort(position[battles.rows], kind="stable")
        self._at = position[battles.rows][order]
        self._a, self._b, self._y = battles.a[order], battles.b[order], battles.y[order]
        self._battle_weight = battles.weight[order]

    def loss(self, z: NDArray[np.float64], some: slice) -> float:
        """Return the loss of predictions, float64 (n_some, n_models), of a slice of the asked rows."""
        if self._kind == "scores":
            seen = self._seen[some]
            gap = _centred(np.where(seen, z, 0.0), seen) - self._scores[some]
            return float(np.einsum("ij,ij,i->", gap, gap, self._weight[some]))
        first, last = np.searchsorted(self._at, (some.start, some.stop))
        own = slice(first, last)
        at = self._at[own] - some.start
        lead = z[at, self._a[own]] - z[at, self._b[own]]
        return float(self._battle_weight[own] @ (np.logaddexp(0.0, lead) - self._y[own] * lead))


def _centred(values: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return each row's values less their mean over the models seen there, 0 where unseen."""
    mean = values.sum(axis=1, keepdims=True) / np.maximum(seen.sum(axis=1, keepdims=True), 1)
    return np.asarray((values - mean) * seen)


def try_all(
    table: Table,
    places: Sequence[Place],
    held: HoldOut,
    configs: tuple[Config, ...],
    costs_usd: NDArray[np.float64] | None = None,
) -> Trial:
    """Fit on the rows to learn from, and score every configuration on the rows asked.

    costs_usd: float64 (n_rows, n_models), expected; with them, configurations are judged along the cost-quality curve.
    """
    plain = fit_evidence(table, held.train, use_intents=False)
    by_intent = fit_evidence(table, held.train, use_intents=True) if len(table.intent_names) > 1 else plain
    fixed = best_fixed(table, plain, np.flatnonzero(held.train))
    worth = value_matrix(table, plain, held.asked)
    outcomes = _Outcomes(table, held.asked)
    utility, loss = np.zeros((2, len(configs)))
    largest = max(one.n_neighbors for one in configs)
    for place in places:
        here = [i for i, one in enumerate(configs) if one.feature_weight == place.space.feature_weight]
        near = held.scheme.near[place.space.feature_weight]
        for some in blocks(len(held.asked) if here else 0, largest, len(table.models)):
            rows = held.asked[some]
            hits = near.among(rows, held.train, largest)
            values, weight = worth.values[some], worth.weight[some]
            fees = _fees(costs_usd, rows, values.shape)
            usual = outcomes.loss(np.broadcast_to(plain.prior, values.shape), some)
            at = np.arange(len(rows))
            for with_intents, evidence in ((False, plain), (True, by_intent)):
                wanted = [i for i in here if configs[i].intent_prior == with_intents]
                for members, z, choices in _choices(*hits, evidence, configs, wanted, place.far, fixed, fees):
                    loss[members] += outcomes.loss(z, some) - usual
                    for index, chosen in zip(members, choices, strict=True):
                        net = [values[at, own] - fee[at, own] for own, fee in zip(chosen, fees, strict=True)]
                        utility[index] += float(np.mean(net, axis=0) @ weight)
    return Trial(utility, loss, float(worth.weight.sum()))


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
) -> Iterator[tuple[list[int], NDArray[np.float64], list[list[NDArray[np.int64]]]]]:
    """Yield (configurations that differ in the guard alone, their z, their choices per prompt under each fee).

    Sums over neighbours are shared: those of the first 30 are a part of those of the first 100.
    """
    if not wanted:
        return
    h, g = evidence.h[neighbors], evidence.g[neighbors]
    g_squared, g_fixed = g * g, g * g[..., fixed : fixed + 1]
    intents = evidence.intents[neighbors]
    by_sums: dict[tuple[float, int], dict[float, list[int]]] = {}
    for index in sorted(wanted, key=lambda i: (configs[i].temperature, configs[i].n_neighbors)):
        one = configs[index]
        by_sums.setdefault((one.temperature, one.n_neighbors), {}).setdefault(one.shrinkage, []).append(index)
    n_summed, temperature = 0, 0.0
    mass, pull, squares, products = (np.zeros((len(neighbors), h.shape[2])) for _ in range(4))
    for (own_temperature, n_neighbors), by_shrinkage in by_sums.items():
        first = configs[next(iter(by_shrinkage.values()))[0]]
        k = min(n_neighbors, neighbors.shape[1])
        w = neighbor_weights(similarities[:, :k], first.settings(far, evidence.kind)).astype(np.float32)
        if own_temperature != temperature:
            n_summed, temperature = 0, own_temperature
            mass, pull, squares, products = (np.zeros((len(neighbors), h.shape[2])) for _ in range(4))
        more = slice(n_summed, k)
        for sums, added in (
            ((mass, pull), local_sums(w[:, more], h[:, more], g[:, more])),
            ((squares, products), paired_squares(w[:, more], g_squared[:, more], g_fixed[:, more])),
        ):
            sums[0][:] += added[0]
            sums[1][:] += added[1]
        n_summed = k
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
            guards = [configs[index].guard_z for index in members]
            yield members, z, _by_guard([guarded_choices(one, error, fixed, guards) for one in utilities])


def _by_guard(by_fee: list[list[NDArray[np.int64]]]) -> list[list[NDArray[np.int64]]]:
    return [list(one) for one in zip(*by_fee, strict=True)]


def guarded_choices(
    utility: NDArray[np.float64], error: NDArray[np.float64], fixed: int, guards: Sequence[float]
) -> list[NDArray[np.int64]]:
    """Return, per guard, the best column per prompt, or ``fixed`` where its lead is not above so many errors."""
    best = np.argmax(utility, axis=1)
    at = np.arange(len(utility))
    lead, own_error = utility[at, best] - utility[:, fixed], error[at, best]
    return [np.where(lead > guard_z * own_error, best, fixed) for guard_z in guards]


def best_fixed(table: Table, evidence: Evidence, rows: NDArray[np.int64]) -> int:
    """Return the column of the model that is worth most when it serves all of ``rows``, hardly seen models apart."""
    worth = value_matrix(table, evidence, rows)
    return int(np.argmax(np.where(well_tested(evidence), worth.weight @ worth.values, -np.inf)))


def pick(trials: list[list[Trial]], configs: tuple[Config, ...]) -> int:
    """Return the index of the configuration to use, given the trials of each scheme's folds.

    A scheme without trials (a log of a few near-duplicates cannot be split twice) has no say; with none that has, every
    configuration is tied.
    """
    schemes = [one for one in trials if one]
    if not schemes:
        return int(max(range(len(configs)), key=lambda index: configs[index].caution))
    utility = np.mean([_mean([trial.utility for trial in one], one) for one in schemes], axis=0)
    loss = np.mean([_mean([trial.loss for trial in one], one) for one in schemes], axis=0)
    # The guard is chosen last: it changes no prediction.
    unguarded = np.array([one.guard_z for one in configs]) == min(one.guard_z for one in configs)
    tied = np.flatnonzero(unguarded & (utility >= utility[unguarded].max() - TIE))
    # Below 0 where neighbours predict better than the priors alone.
    sharp = tied[loss[tied] <= KEPT_IMPROVEMENT * min(float(loss[tied].min()), 0.0)]
    best = configs[max(sharp if len(sharp) else tied, key=lambda index: configs[index].caution)]
    own = [index for index, one in enumerate(configs) if replace(one, guard_z=best.guard_z) == best]
    enough = max(utility[index] for index in own) - GUARD_TIE
    return int(max((index for index in own if utility[index] >= enough), key=lambda index: configs[index].guard_z))


def _mean(sums: list[NDArray[np.float64]], trials: list[Trial]) -> NDArray[np.float64]:
    """Return each configuration's mean over all held-out rows of a scheme: float64 (n_configs,)."""
    total = sum(trial.weight for trial in trials)
    return np.asarray(np.sum(sums, axis=0) / max(total, 1e-12))
