"""The held-out report of training: what routing would have gained on rows that it was not learnt from.

Every tested row is decided by an estimator, settings, slopes and strategy that were learnt without it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from router.profiles import expected_costs_usd
from router.types import STRATEGIES, Gain, JsonObject, ModelProfile
from training.calibrate import calibration_of
from training.curve import Curve, trace
from training.evaluate import costs_of, score_choices
from training.evidence import Table
from training.learning_curve import CurvePoint
from training.report import Report
from training.select import CrossFit, Selection
from training.value import cross_fit_factor, paired_gain
from training.verdict import gain_of

# Where costs are known, the verdict is about routing that costs no more than the fixed model.
DEFAULT_STRATEGY = "balanced"
LEARNING_SHARES = (0.125, 0.25, 0.5)
MIN_LEARNING_ROWS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Test:
    """How the rows were held out.

    table: all rows. groups: int64 (n_rows,), near-duplicates share one. parts: int64 (n_rows,), the fold or the block
    in time that a row is tested in. in_time: each part is decided by the parts before it, not by all others.
    """

    table: Table
    groups: NDArray[np.int64]
    parts: NDArray[np.int64]
    in_time: bool

    @property
    def protocol(self) -> str:
        """Return in words how the rows were held out."""
        n_parts = len(np.unique(self.parts))
        if self.in_time:
            return f"{n_parts} blocks in time, each but the oldest decided by those before it, selection nested"
        return f"{n_parts}-fold cross-fitted, near-duplicates together, selection nested"


@dataclass(frozen=True, slots=True)
class HeldOutReport:
    """report: the numbers. strategies: USD that a unit of quality is worth, None where cost does not matter."""

    report: Report
    strategies: Mapping[str, float | None]
    default_strategy: str


def report_held_out(
    test: Test,
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
    run = _Run(test, profiles, selection.cross_fitted())
    strategies: dict[str, float | None] = dict.fromkeys(STRATEGIES)
    trade_off: JsonObject = {}
    if run.curve is not None:
        points = run.curve.named_points(np.ones(len(run.fit.rows), dtype=bool))
        strategies = {name: run.curve.amounts_usd[point] for name, point in points.items()}
        trade_off = run.trade_off(run.curve)
    choices = run.choices()
    report = score_choices(
        run.table,
        run.fit.worth,
        choices,
        run.fit.fixed,
        best_fixed,
        run.groups,
        run.costs_usd,
        protocol=test.protocol,
        details={
            **details,
            "split": "time" if test.in_time else "random",
            "strategy": DEFAULT_STRATEGY if trade_off else "quality",
            **trade_off,
            **_leaks(test, run, choices),
            "calibration": {
                name: asdict(one)
                for name, one in calibration_of(
                    run.table, run.fit.prediction.quality, choices, run.groups, seed
                ).items()
            },
        },
        margin=margin,
        error_factor=run.error_factor,
    )
    report.details["learning_curve"] = [
        asdict(one) for one in _learning_curve(test, selection, profiles, report.gain, seed)
    ]
    return HeldOutReport(report, strategies, DEFAULT_STRATEGY if trade_off else "quality")


class _Run:
    """One cross-fit beside the costs of its rows."""

    def __init__(self, test: Test, profiles: Mapping[str, ModelProfile], fit: CrossFit) -> None:
        self.fit = fit
        self.table = test.table.take(fit.rows)
        self.groups, self.parts = test.groups[fit.rows], test.parts[fit.rows]
        self.error_factor = cross_fit_factor(len(np.unique(self.parts)))
        sizes = fit.prediction.sizes.tolist()
        expected = np.stack(
            [
                expected_costs_usd(profiles, self.table.models, text, size)
                for text, size in zip(self.table.originals, sizes, strict=True)
            ]
        )
        self.costs_usd = costs_of(self.table, expected)
        self.curve: Curve | None = None
        if self.costs_usd is not None and not np.isnan(expected).any():
            self.curve = trace(fit, expected, self.costs_usd)

    def choices(self) -> NDArray[np.int64]:
        """Return the choices that the verdict is about, int64 (n_tested,)."""
        return self.fit.choose() if self.curve is None else self.curve.cross_fitted(DEFAULT_STRATEGY, self.parts)

    def gain(self, choices: NDArray[np.int64], rows: NDArray[np.bool_] | None = None) -> Gain:
        """Return the gain of ``choices`` over the fixed model, on the marked rows or on all."""
        some = np.ones(len(choices), dtype=bool) if rows is None else rows
        difference = self.fit.worth.of(choices) - self.fit.worth.of(self.fit.fixed)
        mean, error = paired_gain(difference[some], self.fit.worth.weight[some], self.groups[some])
        return gain_of(mean, self.error_factor * error)

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
            "strategies": {name: outcome(curve.cross_fitted(name, self.parts)) for name in STRATEGIES},
        }


def _leaks(test: Test, run: _Run, choices: NDArray[np.int64]) -> JsonObject:
    """Return how many near-duplicates there are and, where some stand on both sides of a split, the gain without."""
    out: JsonObject = {"n_near_duplicates": len(test.table) - len(np.unique(test.groups))}
    if not test.in_time:
        return out  # kept together in one fold
    first = np.full(int(test.groups.max()) + 1, np.inf)
    np.minimum.at(first, test.groups, test.parts)
    repeats = first[run.groups] < run.parts
    out["n_near_duplicates_of_earlier"] = int(repeats.sum())
    if repeats.any() and not repeats.all():
        out["gain_without_near"] = asdict(run.gain(choices, ~repeats))
    return out


def _learning_curve(
    test: Test, selection: Selection, profiles: Mapping[str, ModelProfile], whole: Gain, seed: int
) -> list[CurvePoint]:
    """Return the gain when only a share of the rows is learnt from, near-duplicates together, settings unchanged."""
    names, codes = np.unique(test.groups, return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(names))[codes] / len(names)
    points = []
    for share in LEARNING_SHARES:
        learnt = place < share
        if learnt.sum() >= MIN_LEARNING_ROWS and selection.can_learn_from(learnt):
            run = _Run(test, profiles, selection.cross_fitted_from(learnt))
            points.append(CurvePoint(int(learnt.sum()), run.gain(run.choices())))
    return [*points, CurvePoint(len(test.table), whole)]
