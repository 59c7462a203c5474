"""What the report page says, as plain values: made from a judged log, drawn by plots.py, written by report_page.py."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.prompt import prompt_hash
from router.types import Gain, JsonObject
from training.calibrate import calibration_of
from training.cross_fit import CrossFit, Prediction
from training.curve import trace
from training.evaluate import Judged
from training.learning_curve import LearningCurve, read_learning_curve
from training.metrics import (
    N_DRAWS,
    Measured,
    Reliability,
    StrongShareCurve,
    aiq,
    non_decreasing_hull,
    percentile_interval,
    resamples,
    share_interval,
    strong_share_curve,
)
from training.value import paired_gain
from training.verdict import gain_of

SEED = 0
N_EXAMPLES = 10
# Below this a normal interval means nothing.
MIN_INTERVAL_ROWS = 10


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the main table. gain: over the best fixed model. regret: against the oracle, None without one."""

    name: str
    model: str | None
    quality: Measured
    gain: Measured
    cost_usd: Measured | None
    regret: Measured | None


@dataclass(frozen=True, slots=True)
class Setting:
    """One point of the router's cost-quality curve: USD for a whole unit of quality, and what came of it.

    willingness_to_pay_usd: None where cost does not matter.
    """

    willingness_to_pay_usd: float | None
    cost_usd: float
    quality: float


@dataclass(frozen=True, slots=True)
class Point:
    """A model, or the oracle, in the cost-quality plane."""

    name: str
    cost_usd: float
    quality: float


@dataclass(frozen=True, slots=True)
class CostQuality:
    """The cost-quality plane. hull: of the fixed models, (cost, quality) cheapest first. range: where AIQ is taken."""

    settings: tuple[Setting, ...]
    models: tuple[Point, ...]
    hull: tuple[tuple[float, float], ...]
    oracle: Point | None
    router: Point
    range_usd: tuple[float, float]
    aiq: Measured
    zero_router_aiq: Measured
    aiq_gain: Measured


@dataclass(frozen=True, slots=True)
class TwoModels:
    """A log of two models: shares of strong calls, 0..1, and what they earn."""

    weak: str
    strong: str
    curve: StrongShareCurve
    apgr: Measured
    cpt50: Measured
    cpt80: Measured


@dataclass(frozen=True, slots=True)
class IntentLine:
    """Quality on the rows of one intent; support is the mean number of comparisons behind the chosen model."""

    intent: str
    n: int
    router: Measured
    fixed: Measured
    gain: Measured
    support: float
    most_chosen: str


@dataclass(frozen=True, slots=True)
class Share:
    """How often the router chose a model."""

    model: str
    n: int
    share: Measured


@dataclass(frozen=True, slots=True)
class Tally:
    """The rows where the router left the fixed model for ``model`` (None: for any).

    wins, ties, losses: rows on which both outcomes are logged. gain: mean over all of them, None without rows.
    """

    model: str | None
    n: int
    wins: int
    ties: int
    losses: int
    gain: Measured | None


@dataclass(frozen=True, slots=True)
class Example:
    """A row where the router left the fixed model, both outcomes known; gain: chosen minus fixed, -1..1."""

    row: int
    prompt_hash: str
    chosen: str
    predicted_lead: float
    gain: float


@dataclass(frozen=True, slots=True)
class Part:
    """The outcome on a part of the rows."""

    name: str
    n: int
    router: Measured
    fixed: Measured
    gain: Measured


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything on the page.

    reliability: name of what is predicted to its calibration. n_trained_on: prompts that are training rows word for
    word; n_near: further ones that are near-duplicates of one. learning_curve: from the training of the artifact, None
    where that left none.
    """

    lines: tuple[Line, ...]
    cost_quality: CostQuality | None
    two_models: TwoModels | None
    intents: tuple[IntentLine, ...]
    intents_from: str
    reliability: dict[str, Reliability]
    shares: tuple[Share, ...]
    deviations: tuple[Tally, ...]
    best: tuple[Example, ...]
    worst: tuple[Example, ...]
    n_trained_on: int
    n_near: int
    parts: tuple[Part, ...]
    learning_curve: LearningCurve | None


def findings(judged: Judged, training_report: JsonObject | None = None) -> Findings:
    """Return what the judged log shows. training_report: of the artifact, with its learning curve."""
    intents, intents_from = _intents(judged)
    deviations, examples = _deviations(judged)
    return Findings(
        lines=_lines(judged),
        cost_quality=cost_quality(judged),
        two_models=two_models(judged),
        intents=intents,
        intents_from=intents_from,
        reliability=calibration_of(judged.table, judged.quality, judged.choices, judged.groups, SEED),
        shares=_shares(judged),
        deviations=deviations,
        best=tuple(one for one in examples if one.gain > 0)[:N_EXAMPLES],
        worst=tuple(sorted((one for one in examples if one.gain < 0), key=lambda one: one.gain))[:N_EXAMPLES],
        n_trained_on=int(judged.trained_on.sum()),
        n_near=int(judged.near_duplicate.sum()),
        parts=tuple(_part(judged, name, rows) for name, rows in _leaked_parts(judged) if rows.any()),
        learning_curve=read_learning_curve(training_report or {}),
    )


def _measured(gain: Gain, n: int) -> Measured:
    if n < MIN_INTERVAL_ROWS:
        return Measured(gain.mean, None, None)
    return Measured(gain.mean, gain.low, gain.high)


def _resampled(value: float, draws: list[float], n: int) -> Measured:
    return percentile_interval(value, draws) if n >= MIN_INTERVAL_ROWS else Measured(value, None, None)


def _mean(judged: Judged, values: NDArray[np.float64], rows: NDArray[np.bool_] | None = None) -> Measured:
    """Return the weighted mean of per-row values with its interval, over the rows marked in ``rows``."""
    rows = np.ones(len(values), dtype=bool) if rows is None else rows
    mean, error = paired_gain(values[rows], judged.worth.weight[rows], judged.groups[rows])
    return _measured(gain_of(mean, error), int(rows.sum()))


def _mean_cost(judged: Judged, costs_usd: NDArray[np.float64]) -> Measured:
    return _measured(gain_of(*paired_gain(costs_usd, np.ones(len(costs_usd)), judged.groups)), len(costs_usd))


def _complete(judged: Judged) -> bool:
    return judged.table.kind == "scores" and not bool(np.isnan(judged.table.scores).any())


def _lines(judged: Judged) -> tuple[Line, ...]:
    models, values, costs = judged.table.models, judged.worth.values, judged.costs_usd
    at = np.arange(len(values))
    hindsight = int(np.argmax(judged.worth.weight @ values))
    theirs = judged.worth.of(judged.fixed)
    best = values.max(axis=1) if _complete(judged) else None

    def line(name: str, model: str | None, quality: NDArray[np.float64], costs_usd: NDArray[np.float64] | None) -> Line:
        return Line(
            name=name,
            model=model,
            quality=_mean(judged, quality),
            gain=_mean(judged, quality - theirs),
            cost_usd=None if costs_usd is None else _mean_cost(judged, costs_usd),
            regret=None if best is None else _mean(judged, best - quality),
        )

    def fixed(name: str, column: int) -> Line:
        return line(name, models[column], values[:, column], None if costs is None else costs[:, column])

    lines = [
        line("router", None, judged.worth.of(judged.choices), None if costs is None else costs[at, judged.choices]),
        fixed("best fixed model", models.index(judged.best_fixed)),
        fixed("best in hindsight", hindsight),
    ]
    if costs is not None:
        lines.append(fixed("cheapest", int(np.argmin(costs.mean(axis=0)))))
    lines.append(line("random", None, values.mean(axis=1), None if costs is None else costs.mean(axis=1)))
    if best is not None:
        lines.append(line("oracle", None, best, None if costs is None else _oracle_costs(values, costs)))
    return tuple(lines)


def _oracle_costs(values: NDArray[np.float64], costs_usd: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cost of the cheapest among the best models of each row."""
    best = values == values.max(axis=1, keepdims=True)
    return np.asarray(np.where(best, costs_usd, np.inf).min(axis=1))


def cost_quality(judged: Judged) -> CostQuality | None:
    """Return the curve, or None where costs are not all known, or every model costs the same.

    Choices are those of serving along the grid of training, the guard included.
    """
    costs, expected = judged.costs_usd, judged.expected_costs_usd
    if costs is None or np.isnan(expected).any() or np.ptp(costs.mean(axis=0)) == 0:
        return None
    table, worth = judged.table, judged.worth
    at, n_rows = np.arange(len(table)), len(table)
    estimated = Prediction(judged.quality, judged.lead_error, np.ones(n_rows))
    fit = CrossFit(at, estimated, np.full(n_rows, judged.guard_z), judged.fixed, worth)
    curve = trace(fit, expected, costs)
    n_settings = len(curve.amounts_usd)
    # Columns: the settings, then the models.
    values = np.column_stack([curve.values.T, worth.values])
    prices = np.column_stack([curve.costs_usd.T, costs])

    def plane(counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        weight = counts * worth.weight
        points = np.column_stack([counts @ prices / counts.sum(), weight @ values / max(weight.sum(), 1e-12)])
        return points[:n_settings], points[n_settings:]

    def areas(counts: NDArray[np.float64]) -> tuple[float, float]:
        router, models = plane(counts)
        low, high = float(models[:, 0].min()), float(models[:, 0].max())
        return aiq(router, low, high), aiq(models, low, high)

    once = np.ones(n_rows)
    router, models = plane(once)
    mine, zero = areas(once)
    draws = [areas(counts) for counts in resamples(judged.groups, N_DRAWS, SEED)]
    own = costs[at, judged.choices].mean()
    own_quality = worth.of(judged.choices) @ worth.weight / worth.weight.sum()
    oracle = None
    if _complete(judged):
        top = float(worth.values.max(axis=1) @ worth.weight / worth.weight.sum())
        oracle = Point("oracle", float(_oracle_costs(worth.values, costs).mean()), top)
    return CostQuality(
        settings=tuple(Setting(usd, *one) for usd, one in zip(curve.amounts_usd, router.tolist(), strict=True)),
        models=tuple(Point(name, *one) for name, one in zip(table.models, models.tolist(), strict=True)),
        hull=tuple((x, y) for x, y in non_decreasing_hull(models).tolist()),
        oracle=oracle,
        router=Point("router", float(own), float(own_quality)),
        range_usd=(float(models[:, 0].min()), float(models[:, 0].max())),
        aiq=_resampled(mine, [one for one, _ in draws], n_rows),
        zero_router_aiq=_resampled(zero, [one for _, one in draws], n_rows),
        aiq_gain=_resampled(mine - zero, [one - other for one, other in draws], n_rows),
    )


def two_models(judged: Judged) -> TwoModels | None:
    """Return APGR and CPT, or None unless the log has two models of different quality."""
    worth, models = judged.worth, judged.table.models
    rows = np.flatnonzero(worth.weight > 0)
    means = worth.values[rows].mean(axis=0)
    if len(models) != 2 or means[0] == means[1]:
        return None
    weak, strong = (0, 1) if means[1] > means[0] else (1, 0)
    lead = judged.quality[rows, strong] - judged.quality[rows, weak]
    lows, highs = worth.values[rows, weak], worth.values[rows, strong]

    def numbers(curve: StrongShareCurve) -> tuple[float, float, float]:
        return curve.apgr(), curve.cpt(0.5), curve.cpt(0.8)

    draws = []
    for counts in resamples(judged.groups[rows], N_DRAWS, SEED):
        drawn = np.repeat(np.arange(len(rows)), counts.astype(np.int64))
        curve = strong_share_curve(lead[drawn], lows[drawn], highs[drawn])
        # The two models may be equal in a resample; there is no gap to recover then.
        if curve.strong != curve.weak:
            draws.append(numbers(curve))
    curve = strong_share_curve(lead, lows, highs)
    apgr, cpt50, cpt80 = (
        _resampled(value, [one[index] for one in draws], len(rows)) for index, value in enumerate(numbers(curve))
    )
    return TwoModels(models[weak], models[strong], curve, apgr, cpt50, cpt80)


def _intents(judged: Judged) -> tuple[tuple[IntentLine, ...], str]:
    """Return one line per intent, most rows first, and where the intents are from: 'log', 'neighbours' or 'none'."""
    table, worth = judged.table, judged.worth
    codes, source = table.intents, "log"
    if not (codes >= 0).any():
        codes, source = judged.intents, "neighbours"
    if not (codes >= 0).any():
        return (), "none"
    names = table.intent_names if source == "log" else judged.artifact_intents
    mine, theirs = worth.of(judged.choices), worth.of(judged.fixed)
    support = judged.support[np.arange(len(table)), judged.choices]
    lines = []
    for code in np.unique(codes):
        rows = codes == code
        chosen = int(np.argmax(np.bincount(judged.choices[rows])))
        lines.append(
            IntentLine(
                intent=names[code] if code >= 0 else "(no intent)",
                n=int(rows.sum()),
                router=_mean(judged, mine, rows),
                fixed=_mean(judged, theirs, rows),
                gain=_mean(judged, mine - theirs, rows),
                support=float(support[rows].mean()),
                most_chosen=table.models[chosen],
            )
        )
    return tuple(sorted(lines, key=lambda one: (-one.n, one.intent))), source


def _shares(judged: Judged) -> tuple[Share, ...]:
    counts = np.bincount(judged.choices, minlength=len(judged.table.models)).tolist()
    shares = [
        Share(model, count, share_interval(count, len(judged.table)))
        for model, count in zip(judged.table.models, counts, strict=True)
    ]
    return tuple(sorted(shares, key=lambda one: (-one.n, one.model)))


def _deviations(judged: Judged) -> tuple[tuple[Tally, ...], list[Example]]:
    """Return the tallies, for any model first, and the rows whose outcome is known.

    Rows go by gain, best first; equal gains by the predicted lead, largest first: what was most surely expected.
    """
    table, worth = judged.table, judged.worth
    away = judged.choices != judged.fixed
    known = _logged_differences(judged)
    difference = worth.of(judged.choices) - worth.of(judged.fixed)

    def tally(model: str | None, rows: NDArray[np.bool_]) -> Tally:
        signs = Counter(np.sign(known[rows & ~np.isnan(known)]).tolist())
        gain = _mean(judged, difference, rows) if rows.any() else None
        return Tally(model, int(rows.sum()), signs[1.0], signs[0.0], signs[-1.0], gain)

    by_model = [
        tally(table.models[column], away & (judged.choices == column)) for column in np.unique(judged.choices[away])
    ]
    at = np.arange(len(table))
    lead = judged.quality[at, judged.choices] - judged.quality[at, judged.fixed]
    rows = np.flatnonzero(away & ~np.isnan(known))
    rows = rows[np.lexsort((rows, -lead[rows], -known[rows]))]
    examples = [
        Example(
            row=int(row),
            prompt_hash=prompt_hash(table.texts[row]),
            chosen=table.models[judged.choices[row]],
            predicted_lead=float(lead[row]),
            gain=float(known[row]),
        )
        for row in rows
    ]
    return (tally(None, away), *sorted(by_model, key=lambda one: -one.n)), examples


def _logged_differences(judged: Judged) -> NDArray[np.float64]:
    """Return chosen minus fixed as logged, float64 (n_rows,), NaN where not both are known.

    For battles: the mean of 2 y - 1 over the row's battles between just these two.
    """
    table = judged.table
    if table.kind == "scores":
        at = np.arange(len(table))
        difference: NDArray[np.float64] = table.scores[at, judged.choices] - table.scores[at, judged.fixed]
        return difference
    battles = table.battles
    chosen, fixed = judged.choices[battles.rows], judged.fixed[battles.rows]
    sign = np.where((battles.a == chosen) & (battles.b == fixed), 1.0, 0.0)
    sign -= np.where((battles.b == chosen) & (battles.a == fixed), 1.0, 0.0)
    total = np.bincount(battles.rows, weights=sign * (2 * battles.y - 1) * battles.weight, minlength=len(table))
    weight = np.bincount(battles.rows, weights=np.abs(sign) * battles.weight, minlength=len(table))
    return np.asarray(np.divide(total, weight, out=np.full(len(table), np.nan), where=weight > 0))


def _leaked_parts(judged: Judged) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return all rows, and those that are left without what leaked; a part that would repeat another is left out."""
    parts = [("all prompts", np.ones(len(judged.table), dtype=bool))]
    leaked = judged.trained_on.any()
    if leaked:
        parts.append(("without prompts of the training rows", ~judged.trained_on))
    if judged.near_duplicate.any():
        name = "without these and near-duplicates" if leaked else "without near-duplicates"
        parts.append((name, judged.unlike_training))
    return parts


def _part(judged: Judged, name: str, rows: NDArray[np.bool_]) -> Part:
    mine, theirs = judged.worth.of(judged.choices), judged.worth.of(judged.fixed)
    return Part(
        name=name,
        n=int(rows.sum()),
        router=_mean(judged, mine, rows),
        fixed=_mean(judged, theirs, rows),
        gain=_mean(judged, mine - theirs, rows),
    )
