"""The held-out report of training: what routing would have gained on rows that it was not learnt from.

Every tested row is decided by an estimator, settings, slopes and strategy that were learnt without its outcomes. What
has no outcome in it is learnt from all rows: the space, and the mean costs and lengths of answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from router.types import TRADE_OFFS, Gain, JsonObject, ModelProfile
from training.calibrate import calibration_of
from training.cost import expected_costs
from training.cross_fit import CrossFit, Selection
from training.curve import Curve, trace
from training.evaluate import costs_of, gain_over, score_choices
from training.evidence import Table
from training.learning_curve import CurvePoint
from training.report import Report
from training.value import ValueMatrix, cross_fit_factor

# Where costs are known, the verdict is about routing that costs no more than the fixed model.
DEFAULT_STRATEGY = "balanced"
Amounts = dict[str, float | None]
"""Strategy to USD that a unit of quality is worth, None where cost does not matter."""
LEARNING_SHARES = (0.125, 0.25, 0.5)
MIN_LEARNING_ROWS = 20
UNKNOWN_COST_USD = 1e300


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How the rows were held out.

    table: all rows. groups: int64 (n_rows,), near-duplicates share one. parts: int64 (n_rows,), the fold or the block
    in time that a row is tested in. in_time: each part is decided by the parts before it, not by all others.
    settings_kept: the settings were not chosen anew without the tested rows, only slopes and strategies were.
    """

    table: Table
    groups: NDArray[np.int64]
    parts: NDArray[np.int64]
    in_time: bool
    settings_kept: bool = False

    @property
    def protocol(self) -> str:
        """Return in words how the rows were held out."""
        n_parts = len(np.unique(self.parts))
        selection = "settings kept" if self.settings_kept else "selection nested"
        if self.in_time:
            return f"{n_parts} blocks in time, each but the oldest decided by those before it, {selection}"
        return f"{n_parts}-fold cross-fitted, near-duplicates together, {selection}"


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutReport:
    """report: the numbers. strategies: chosen on all tested rows. default_strategy: what the report is about.

    choices: int64 (n_tested,), columns chosen on the tested rows. worth: what each choice was worth there. groups:
    int64 (n_tested,), near-duplicates share one. error_factor: by how much cross-fitting widens the error of a gain.
    """

    report: Report
    strategies: Amounts
    default_strategy: str
    choices: NDArray[np.int64]
    worth: ValueMatrix
    groups: NDArray[np.int64]
    error_factor: float

    def gain_over(self, other: "HeldOutReport") -> Gain:
        """Return the gain of these choices over those of another report on the same tested rows, row by row."""
        return gain_over(self.worth, self.choices, other.choices, self.groups, error_factor=self.error_factor)


def report_held_out(
    plan: Plan,
    selection: Selection,
    profiles: Mapping[str, ModelProfile],
    best_fixed: str,
    details: JsonObject,
    *,
    margin: float,
    seed: int,
) -> HeldOutReport:
    """Cross-fit, choose the strategies, and compare with the fixed model that was best where each row was learnt from.

    best_fixed: the model that is best on all rows, which the report names. details: what else the report keeps.
    """
    fit = selection.cross_fitted()
    amounts = _amounts_inside(plan, profiles, selection)
    run = _Run(plan, profiles, fit, amounts)
    strategies: Amounts = dict.fromkeys(TRADE_OFFS)
    trade_off: JsonObject = {}
    default = "quality"
    curve = run.curve()
    if curve is not None:
        default, strategies, trade_off = DEFAULT_STRATEGY, curve.named_amounts_usd(), run.trade_off(curve)
    choices = run.choices(default)
    calibration = calibration_of(run.table, run.fit.prediction.quality, choices, run.groups, seed)
    learning_curve = _learning_curve(plan, selection, profiles, amounts, run.gain(choices), default, seed)
    report = score_choices(
        run.table,
        run.fit.worth,
        choices,
        run.fit.fixed,
        best_fixed,
        run.groups,
        run.costs_usd,
        protocol=plan.protocol,
        details={
            **details,
            "split": "time" if plan.in_time else "random",
            "strategy": default,
            **trade_off,
            **_leaks(plan, run, choices),
            "calibration": {
                name: {**asdict(one), "bins": [asdict(part) for part in one.bins]} for name, one in calibration.items()
            },
            "learning_curve": [asdict(one) for one in learning_curve],
        },
        margin=margin,
        error_factor=run.error_factor,
        n_logged=len(plan.table),
    )
    return HeldOutReport(
        report=report,
        strategies=strategies,
        default_strategy=default,
        choices=choices,
        worth=run.fit.worth,
        groups=run.groups,
        error_factor=run.error_factor,
    )


def _amounts_inside(plan: Plan, profiles: Mapping[str, ModelProfile], selection: Selection) -> list[Amounts]:
    """Return each tested part's strategies, chosen on what it is learnt from; none where costs are unknown."""
    if any(profile.cost_usd(1) is None for profile in profiles.values()):
        return []
    curves = [None if fit is None else _Run(plan, profiles, fit, []).curve() for fit in selection.inside()]
    return [dict.fromkeys(TRADE_OFFS) if one is None else one.named_amounts_usd() for one in curves]


class _Run:
    """One cross-fit beside the costs of its rows. amounts: per tested part, its strategies; empty without costs."""

    def __init__(
        self, plan: Plan, profiles: Mapping[str, ModelProfile], fit: CrossFit, amounts: Sequence[Amounts]
    ) -> None:
        self.fit, self._amounts = fit, amounts
        self.table = plan.table.take(fit.rows)
        self.groups, self.parts = plan.groups[fit.rows], plan.parts[fit.rows]
        # Blocks in time are decided by earlier ones alone: their errors do not go together.
        self.error_factor = 1.0 if plan.in_time else cross_fit_factor(len(np.unique(self.parts)))
        self._expected_costs_usd = expected_costs(self.table, profiles, fit.prediction.sizes)
        self.costs_usd = costs_of(self.table, self._expected_costs_usd)

    def curve(self) -> Curve | None:
        """Return the cost-quality curve, None unless every cost is known."""
        if self.costs_usd is None or np.isnan(self._expected_costs_usd).any():
            return None
        return trace(self.fit, self._expected_costs_usd, self.costs_usd)

    def choices(self, strategy: str) -> NDArray[np.int64]:
        """Return the choices under a strategy, int64 (n_tested,), each part by its own willingness to pay."""
        if not self._amounts:
            known = np.nan_to_num(self._expected_costs_usd, nan=UNKNOWN_COST_USD)
            return self.fit.choose(None, known)  # costs only settle ties
        out = np.empty(len(self.parts), dtype=np.int64)
        for part, amounts in zip(np.unique(self.parts), self._amounts, strict=True):
            own = self.parts == part
            out[own] = self.fit.choose(amounts[strategy], self._expected_costs_usd)[own]
        return out

    def gain(self, choices: NDArray[np.int64], rows: NDArray[np.bool_] | None = None) -> Gain:
        """Return the gain of ``choices`` over the fixed model, on the marked rows or on all."""
        worth, fixed = self.fit.worth, self.fit.fixed
        return gain_over(worth, choices, fixed, self.groups, rows, error_factor=self.error_factor)

    def trade_off(self, curve: Curve) -> JsonObject:
        """Return the curve and its named points for the report, both cross-fitted."""
        weight = self.fit.worth.weight

        def outcome(choices: NDArray[np.int64]) -> JsonObject:
            quality = float(self.fit.worth.of(choices) @ weight / max(float(weight.sum()), 1e-12))
            cost = float(curve.model_costs_usd[np.arange(len(choices)), choices].mean())
            return {"quality": quality, "cost_usd": cost, "gain": asdict(self.gain(choices))}

        return {
            "curve": [
                {"willingness_to_pay_usd": usd, **outcome(choices)}
                for usd, choices in zip(curve.amounts_usd, curve.choices, strict=True)
            ],
            "strategies": {name: outcome(self.choices(name)) for name in TRADE_OFFS},
        }


def _leaks(plan: Plan, run: _Run, choices: NDArray[np.int64]) -> JsonObject:
    """Return how many near-duplicates there are and, where some stand on both sides of a split, the gain without."""
    out: JsonObject = {"n_near_duplicates": len(plan.table) - len(np.unique(plan.groups))}
    if not plan.in_time:
        return out  # kept together in one fold
    first = np.full(int(plan.groups.max()) + 1, np.inf)
    np.minimum.at(first, plan.groups, plan.parts)
    repeats = first[run.groups] < run.parts
    out["n_near_duplicates_of_earlier"] = int(repeats.sum())
    if repeats.any() and not repeats.all():
        out["gain_without_near"] = asdict(run.gain(choices, ~repeats))
    return out


def _learning_curve(
    plan: Plan,
    selection: Selection,
    profiles: Mapping[str, ModelProfile],
    amounts: Sequence[Amounts],
    whole: Gain,
    strategy: str,
    seed: int,
) -> list[CurvePoint]:
    """Return the gain when only a share of the rows is learnt from, near-duplicates together, settings unchanged."""
    names, codes = np.unique(plan.groups, return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(names))[codes] / len(names)
    points = []
    for share in LEARNING_SHARES:
        learnt = place < share
        if learnt.sum() >= MIN_LEARNING_ROWS and selection.can_learn_from(learnt):
            run = _Run(plan, profiles, selection.cross_fitted_from(learnt), amounts)
            points.append(CurvePoint(int(learnt.sum()), run.gain(run.choices(strategy))))
    return [*points, CurvePoint(len(plan.table), whole)]
