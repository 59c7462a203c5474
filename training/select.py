"""Choosing the estimator's numbers by cross-validation, on training rows only.

Two schemes are averaged: near-duplicates together (the usual cross-validation) and whole clusters held out (what
happens on prompts unlike any seen). Gaps in value under half a point are ties; among tied settings those count that
predict the outcomes best, and among these the most cautious one.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from router.estimate import (
    SUPPORT_UNIT,
    EstimatorSettings,
    Evidence,
    blended_prior,
    estimate,
    intent_shares,
    lead_error,
    local_sums,
    neighbor_weights,
    paired_squares,
    posterior,
    prior_quality,
    quality_per_z,
    relative_size,
    to_quality,
    well_tested,
)
from router.index import Hits
from router.space import Space
from training.calibrate import Forecast, Slopes, fit_slopes
from training.evidence import Table
from training.fit import fit_evidence
from training.near import NearRows, list_near_rows
from training.value import ValueMatrix, value_matrix

N_NEIGHBORS = (30, 100, 300)
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
# Prompts per block of the batched estimate: bounds the memory of (block, n_neighbors, n_models) arrays.
BLOCK_BYTES = 64 << 20


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

    def settings(self, far: "Far", kind: str) -> EstimatorSettings:
        """Return the estimator's settings for evidence of ``kind``, not yet calibrated."""
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
class Chosen:
    """What selection settles on: a configuration, and the slopes that calibrate it."""

    config: Config
    slopes: Slopes

    def settings(self, far: "Far", kind: str) -> EstimatorSettings:
        """Return the estimator's settings for evidence of ``kind``."""
        return replace(
            self.config.settings(far, kind),
            difficulty_slope=self.slopes.difficulty,
            contrast_slope=self.slopes.contrast,
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


@dataclass(frozen=True, slots=True, eq=False)
class Scheme:
    """A way to hold rows out. folds: int64 (n_rows,). near: per feature weight, the nearest rows outside the fold."""

    folds: NDArray[np.int64]
    near: Mapping[float, NearRows]


@dataclass(frozen=True, slots=True, eq=False)
class HoldOut:
    """train: bool (n_rows,), the rows to learn from. asked: int64 (n_asked,), the rows to answer."""

    scheme: Scheme
    train: NDArray[np.bool_]
    asked: NDArray[np.int64]


def hold_out(places: Sequence[Place], folds: NDArray[np.int64], done: Callable[[], object] = lambda: None) -> Scheme:
    """Return the scheme of ``folds``, int64 (n_rows,), in every candidate space; ``done`` is called after each."""
    n_listed = int(LISTED * max(N_NEIGHBORS))
    near = {}
    for place in places:
        near[place.space.feature_weight] = list_near_rows(place.vectors, folds, n_listed)
        done()
    return Scheme(folds, near)


def grid(table: Table) -> tuple[Config, ...]:
    """Return all configurations worth trying on this table."""
    intents = INTENT_PRIORS if len(table.intent_names) > 1 else INTENT_PRIORS[:1]
    return tuple(
        Config(*point) for point in product(SHRINKAGES, N_NEIGHBORS, intents, GUARDS, TEMPERATURES, FEATURE_WEIGHTS)
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


def blocks(n_rows: int, n_neighbors: int, n_models: int) -> Iterator[slice]:
    """Yield slices of the rows whose neighbours' evidence fits into BLOCK_BYTES."""
    size = max(1, BLOCK_BYTES // (8 * n_neighbors * n_models))
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


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
    bound = KEPT_IMPROVEMENT * min(float(loss[tied].min()), 0.0)
    sharp = tied[loss[tied] <= bound]
    best = configs[max(sharp if len(sharp) else tied, key=lambda index: configs[index].caution)]
    own = [index for index, one in enumerate(configs) if replace(one, guard_z=best.guard_z) == best]
    bound = max(utility[index] for index in own) - GUARD_TIE
    return int(max((index for index in own if utility[index] >= bound), key=lambda index: configs[index].guard_z))


def _mean(sums: list[NDArray[np.float64]], trials: list[Trial]) -> NDArray[np.float64]:
    """Return each configuration's mean over all held-out rows of a scheme: float64 (n_configs,)."""
    total = sum(trial.weight for trial in trials)
    return np.asarray(np.sum(sums, axis=0) / max(total, 1e-12))


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """quality: float64 (n, n_models), as serving estimates it. error: float64, same shape, of the lead over fixed.

    sizes: float64 (n,), expected size of the answers in units of their models' means.
    """

    quality: NDArray[np.float64]
    error: NDArray[np.float64]
    sizes: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class CrossFit:
    """What was estimated for every tested row by an estimator that was fitted, and chosen, without it.

    rows: int64 (n,), the tested rows of the table, ascending; the other arrays are in their order. prediction: over
    the tested rows. guard_z: float64 (n,). fixed: int64 (n,), column of the model that was best on the rows that each
    row was estimated from. worth: what each choice was worth.
    """

    rows: NDArray[np.int64]
    prediction: Prediction
    guard_z: NDArray[np.float64]
    fixed: NDArray[np.int64]
    worth: ValueMatrix

    def choose(
        self, willingness_to_pay_usd: float | None = None, expected_costs_usd: NDArray[np.float64] | None = None
    ) -> NDArray[np.int64]:
        """Return the column that serving would choose on every row, int64 (n,): router.policy.choose, in bulk.

        expected_costs_usd: float64 (n, n_models), or None where costs are unknown.
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
    table: Table, places: Sequence[Place], held: HoldOut, chosen: Chosen, sizes: NDArray[np.float32] | None = None
) -> CrossFit:
    """Estimate every model on the asked rows from the rows to learn from, by the estimator that serves.

    sizes: float32 (n_rows,), size of each row's answers in units of their models' means; 1 when left out.
    """
    place = next(one for one in places if one.space.feature_weight == chosen.config.feature_weight)
    evidence = fit_evidence(table, held.train, use_intents=chosen.config.intent_prior)
    if sizes is not None:
        evidence = replace(evidence, sizes=sizes)
    fixed = best_fixed(table, evidence, np.flatnonzero(held.train))
    settings = chosen.settings(place.far, table.kind)
    near = held.scheme.near[chosen.config.feature_weight]
    quality, error = np.empty((2, len(held.asked), len(table.models)))
    own_sizes = np.empty(len(held.asked))
    for some in blocks(len(held.asked), settings.n_neighbors, len(table.models)):
        similarities, rows = near.among(held.asked[some], held.train, settings.n_neighbors)
        hits = Hits(rows=rows, similarities=similarities)
        local = estimate(hits, evidence, settings, fixed=fixed)
        quality[some], error[some] = local.quality, local.lead_error
        own_sizes[some] = relative_size(hits, evidence, settings)
    n_asked = len(held.asked)
    return CrossFit(
        rows=held.asked,
        prediction=Prediction(quality, error, own_sizes),
        guard_z=np.full(n_asked, settings.guard_z),
        fixed=np.full(n_asked, fixed),
        worth=value_matrix(table, evidence, held.asked),
    )


def join(parts: Sequence[CrossFit]) -> CrossFit:
    """Return the cross-fit of all parts together, in the order of the table's rows."""
    order = np.argsort(np.concatenate([one.rows for one in parts]), kind="stable")

    def merged(arrays: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.concatenate(arrays)[order]

    return CrossFit(
        rows=np.concatenate([one.rows for one in parts])[order],
        prediction=Prediction(
            merged([one.prediction.quality for one in parts]),
            merged([one.prediction.error for one in parts]),
            merged([one.prediction.sizes for one in parts]),
        ),
        guard_z=merged([one.guard_z for one in parts]),
        fixed=np.concatenate([one.fixed for one in parts])[order],
        worth=ValueMatrix(
            merged([one.worth.values for one in parts]),
            merged([one.worth.weight for one in parts]),
            merged([one.worth.correction for one in parts]),
        ),
    )


class Selection:
    """The cross-validation of one table: the final choice of settings, and estimates that were never trained on."""

    def __init__(
        self,
        table: Table,
        places: Sequence[Place],
        folds: NDArray[np.int64],
        cluster_folds: NDArray[np.int64],
        progress: Callable[[str, int, int], object],
        costs_usd: NDArray[np.float64] | None = None,
        *,
        blocks_in_time: NDArray[np.int64] | None = None,
        sizes: NDArray[np.float32] | None = None,
    ) -> None:
        """Find the neighbours of every row under both schemes. folds, cluster_folds: int64 (n_rows,).

        costs_usd: float64 (n_rows, n_models), expected cost of each answer, or None where costs are unknown.
        blocks_in_time: int64 (n_rows,), 0 the oldest; with them, each block but the first is tested on what came before
        it, instead of each fold on the others. sizes: as in ``predict``.
        """
        self._table, self._places, self._progress, self._costs_usd = table, places, progress, costs_usd
        self._sizes = sizes
        self._configs = grid(table)
        n_listings = len(places) * (2 if blocks_in_time is None else 3)
        listed = 0

        def advance() -> None:
            nonlocal listed
            listed += 1
            progress("neighbours", listed, n_listings)

        self._schemes = tuple(hold_out(places, one, advance) for one in (folds, cluster_folds))
        if blocks_in_time is None:
            self._outer = _folds_of(self._schemes[0], np.ones(len(table), dtype=bool))
        else:
            forward = hold_out(places, blocks_in_time, advance)
            self._outer = [
                HoldOut(forward, blocks_in_time < one, np.flatnonzero(blocks_in_time == one))
                for one in np.unique(blocks_in_time)[1:]
            ]
        every = np.ones(len(table), dtype=bool)
        masks = [every, *(one.train for one in self._outer)]
        self._n_trials = sum(len(_folds_of(scheme, mask)) for mask in masks for scheme in self._schemes)
        self._n_done = 0
        self._chosen_outside: list[Chosen] = []

    def final(self) -> Chosen:
        """Return what is chosen on all rows."""
        return self._chosen(np.ones(len(self._table), dtype=bool))

    def cross_fitted(self) -> CrossFit:
        """Return, for every tested row, what was estimated without it.

        Each fold is decided by what the rows that it is estimated from chose among themselves, slopes included.
        """
        self._chosen_outside = [self._chosen(held.train) for held in self._outer]
        return self._predicted(self._outer)

    def cross_fitted_from(self, rows: NDArray[np.bool_]) -> CrossFit:
        """Return the same, estimated from the marked rows alone, bool (n_rows,), by the same settings.

        Call ``cross_fitted`` first.
        """
        return self._predicted([replace(one, train=one.train & rows) for one in self._outer])

    def inside(self) -> list[CrossFit | None]:
        """Return, for each tested part, the rows that it is learnt from, each estimated without its own fold.

        What is chosen on them (the strategies) never saw the part. None where they cannot be split once more. Call
        ``cross_fitted`` first.
        """
        out: list[CrossFit | None] = []
        for held, chosen in zip(self._outer, self._chosen_outside, strict=True):
            folds = _folds_of(self._schemes[0], held.train)
            parts = [predict(self._table, self._places, one, chosen, self._sizes) for one in folds]
            out.append(join(parts) if parts else None)
        return out

    def can_learn_from(self, rows: NDArray[np.bool_]) -> bool:
        """Return whether every tested row keeps some of the marked rows to learn from."""
        return all((one.train & rows).any() for one in self._outer)

    def _predicted(self, outer: Sequence[HoldOut]) -> CrossFit:
        return join(
            [
                predict(self._table, self._places, held, chosen, self._sizes)
                for held, chosen in zip(outer, self._chosen_outside, strict=True)
            ]
        )

    def _chosen(self, inside: NDArray[np.bool_]) -> Chosen:
        """Choose among the rows marked in ``inside``, bool (n_rows,), and calibrate on their folds."""
        splits = [_folds_of(scheme, inside) for scheme in self._schemes]
        trials = self._trials([held for one in splits for held in one])
        config = self._configs[pick([trials[: len(splits[0])], trials[len(splits[0]) :]], self._configs)]
        return Chosen(config, self._slopes(splits[0], config))

    def _slopes(self, splits: Sequence[HoldOut], config: Config) -> Slopes:
        forecasts = []
        for held in splits:
            fit = predict(self._table, self._places, held, Chosen(config, Slopes()))
            usual = prior_quality(fit_evidence(self._table, held.train, use_intents=False))
            forecasts.append(Forecast(fit.rows, fit.prediction.quality, np.broadcast_to(usual, fit.worth.values.shape)))
        if not forecasts:
            return Slopes()
        return fit_slopes(
            self._table,
            Forecast(
                np.concatenate([one.rows for one in forecasts]),
                np.concatenate([one.quality for one in forecasts]),
                np.concatenate([one.prior for one in forecasts]),
            ),
        )

    def _trials(self, splits: Sequence[HoldOut]) -> list[Trial]:
        def run(held: HoldOut) -> Trial:
            return try_all(self._table, self._places, held, self._configs, self._costs_usd)

        trials = []
        # numpy lets go of the GIL in the sums that take the time, so threads are enough.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for trial in pool.map(run, splits):
                trials.append(trial)
                self._n_done += 1
                self._progress("selecting", self._n_done, self._n_trials)
        return trials


def _folds_of(scheme: Scheme, inside: NDArray[np.bool_]) -> list[HoldOut]:
    """Hold out each fold in turn among the rows marked in ``inside``, bool (n_rows,)."""
    splits = []
    for fold in np.unique(scheme.folds[inside]):
        held_out = inside & (scheme.folds == fold)
        train = inside & ~held_out
        if held_out.any() and train.any():
            splits.append(HoldOut(scheme, train, np.flatnonzero(held_out)))
    return splits
