"""Estimates of rows by an estimator that was fitted, and chosen, without them."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.estimate import estimate, prior_quality, relative_size
from router.index import Hits
from training.calibrate import Forecast, Slopes, fit_slopes
from training.evidence import Table
from training.fit import fit_evidence
from training.hold_out import HoldOut, Place, blocks, folds_of, hold_out
from training.select import Chosen, Config, Trial, best_fixed, grid, n_listed, pick, try_all
from training.value import ValueMatrix, value_matrix


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
        cluster_folds: NDArray[np.int64] | None,
        progress: Callable[[str, int, int], object],
        costs_usd: NDArray[np.float64] | None = None,
        *,
        blocks_in_time: NDArray[np.int64] | None = None,
        sizes: NDArray[np.float32] | None = None,
        config: Config | None = None,
    ) -> None:
        """Find the neighbours of every row under both schemes. folds, cluster_folds: int64 (n_rows,).

        costs_usd: float64 (n_rows, n_models), expected cost of each answer, or None where costs are unknown.
        blocks_in_time: int64 (n_rows,), 0 the oldest; with them, each block but the first is tested on what came before
        it, instead of each fold on the others. sizes: as in ``predict``. config: what is taken without trying others;
        cluster_folds, of use for trials alone, may then be None.
        """
        self._table, self._places, self._progress, self._costs_usd = table, places, progress, costs_usd
        self._sizes = sizes
        self._configs, self._config = grid(table), config
        n_near = n_listed(self._configs if config is None else [config])
        wanted = [one for one in (folds, cluster_folds) if one is not None]
        n_listings = len(places) * (len(wanted) if blocks_in_time is None else len(wanted) + 1)
        listed = 0

        def advance() -> None:
            nonlocal listed
            listed += 1
            progress("neighbours", listed, n_listings)

        self._schemes = tuple(hold_out(places, one, n_near, advance) for one in wanted)
        if blocks_in_time is None:
            self._outer = folds_of(self._schemes[0], np.ones(len(table), dtype=bool))
        else:
            forward = hold_out(places, blocks_in_time, n_near, advance)
            self._outer = [
                HoldOut(forward, blocks_in_time < one, np.flatnonzero(blocks_in_time == one))
                for one in np.unique(blocks_in_time)[1:]
            ]
        every = np.ones(len(table), dtype=bool)
        masks = [every, *(one.train for one in self._outer)]
        self._n_trials = sum(len(folds_of(scheme, mask)) for mask in masks for scheme in self._schemes)
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
            folds = folds_of(self._schemes[0], held.train)
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
        splits = [folds_of(scheme, inside) for scheme in self._schemes]
        if self._config is not None:
            return Chosen(self._config, self._slopes(splits[0], self._config))
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
