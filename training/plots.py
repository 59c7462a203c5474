"""The plots of the report page as PNG bytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.canvas import BLUE, GREEN, GREY, ORANGE, WIDTH, ends, label_points, log_locator, png, short
from training.findings import CostQuality, Findings, IntentLine, Share, TwoModels
from training.learning_curve import LearningCurve
from training.metrics import Reliability
from training.verdict import rounded

MAX_INTENTS = 30
# Above this ratio of the dearest to the cheapest point, costs are drawn on a logarithmic axis.
LOG_RATIO = 8.0
ANSWERS = 1000.0
POINTS = 100.0


def draw_plots(found: Findings, best_fixed: str) -> dict[str, bytes]:
    """Return the PNG of every plot that there is something to draw for: file name to bytes.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    plots: dict[str, bytes] = {}
    if found.cost_quality is not None:
        plots["cost-quality.png"] = png(_draw_cost_quality, found.cost_quality)
    if found.two_models is not None:
        plots["two-models.png"] = png(_draw_two_models, found.two_models)
    if found.intents:
        plots["intents.png"] = png(_draw_intents, found.intents[:MAX_INTENTS])
    if found.reliability:
        plots["reliability.png"] = png(_draw_reliability, found.reliability)
    if found.learning_curve is not None:
        plots["learning-curve.png"] = png(_draw_learning_curve, found.learning_curve)
    plots["shares.png"] = png(lambda figure, shares: _draw_shares(figure, shares, best_fixed), found.shares)
    return plots


def _draw_cost_quality(figure: Any, plane: CostQuality) -> None:
    axes = figure.add_subplot()
    hull = np.array(plane.hull)
    low, high = plane.range_usd
    settings = np.array([(one.cost_usd, one.quality) for one in plane.settings])
    points = [*plane.models, plane.router, *([plane.oracle] if plane.oracle is not None else [])]
    costs = np.array([one.cost_usd for one in points])
    log = costs.min() > 0 and settings[:, 0].min() > 0 and costs.max() > LOG_RATIO * costs.min()
    # A mixture of two models is a straight line in cost, so a curved one on the logarithmic axis.
    grid = np.unique(np.concatenate([np.geomspace(low, high, 200) if log else [low, high], hull[:, 0]]))
    mixed = np.column_stack([ANSWERS * grid, np.interp(grid, hull[:, 0], hull[:, 1])])
    curve = settings[np.lexsort((settings[:, 1], settings[:, 0]))] * [ANSWERS, 1.0]
    axes.plot(*mixed.T, color=GREY, lw=1.5, ls="--", zorder=2)
    axes.plot(*curve.T, color=BLUE, lw=2, marker=".", ms=5, zorder=3)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(log_locator(costs.max() / costs.min()))
        axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("USD per 1,000 answers")
    axes.set_ylabel("quality")
    axes.margins(0.08)
    models = [(one.name, ANSWERS * one.cost_usd, one.quality) for one in plane.models]
    for _, x, y in models:
        axes.plot(x, y, "o", color="black", ms=6, zorder=4)
    axes.plot(ANSWERS * plane.router.cost_usd, plane.router.quality, "*", color=BLUE, ms=17, mec="white", zorder=5)
    named = [*models, ("router", ANSWERS * plane.router.cost_usd, plane.router.quality)]
    if plane.oracle is not None:
        axes.plot(ANSWERS * plane.oracle.cost_usd, plane.oracle.quality, "D", color=GREEN, ms=8, zorder=4)
        named.append(("oracle", ANSWERS * plane.oracle.cost_usd, plane.oracle.quality))
    labels = ["zero router: hull of the fixed models", "router, over willingness to pay"]
    figure.legend(axes.get_lines()[:2], labels, loc="outside lower center", ncols=2)
    label_points(figure, axes, named, [mixed, curve])


def _draw_two_models(figure: Any, pair: TwoModels) -> None:
    axes = figure.add_subplot()
    curve = pair.curve
    shares = 100 * np.array(curve.shares)
    axes.plot(shares, curve.qualities, color=BLUE, lw=2, marker="o", ms=5, label="router")
    axes.plot([0, 100], [curve.weak, curve.strong], color=GREY, ls="--", label="a coin")
    # The stronger model's name stands where the curve is low, the weaker one's where it is high.
    for quality, name, x, side in ((curve.weak, pair.weak, 100, "right"), (curve.strong, pair.strong, 0, "left")):
        axes.axhline(quality, color="black", lw=0.8)
        axes.annotate(short(name), (x, quality), xytext=(0, 3), textcoords="offset points", ha=side, fontsize=9.5)
    axes.set_xlabel(f"% of prompts sent to {short(pair.strong)}")
    axes.set_ylabel("quality")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.08))


def _draw_intents(figure: Any, lines: Sequence[IntentLine]) -> None:
    figure.set_size_inches(WIDTH, 1.4 + 0.34 * len(lines))
    axes = figure.add_subplot()
    at = np.arange(len(lines))[::-1]
    for y, one in zip(at.tolist(), lines, strict=True):
        low, high = ends(one.router)
        axes.plot([low, high], [y, y], color=BLUE, lw=5, alpha=0.22, solid_capstyle="butt")
    axes.plot([one.fixed.value for one in lines], at, "o", color=ORANGE, ms=7, label="best fixed model")
    axes.plot(
        [one.router.value for one in lines], at, "*", color=BLUE, ms=12, mec="white", label="router, 95 % interval"
    )
    axes.set_yticks(at, [f"{short(one.intent)}  ({one.n})" for one in lines])
    axes.set_ylim(-0.7, len(lines) - 0.3)
    axes.set_xlabel("quality; in brackets the number of prompts")
    figure.legend(loc="outside upper center", ncols=2)


def _draw_reliability(figure: Any, reliability: dict[str, Reliability]) -> None:
    figure.set_size_inches(WIDTH, 4.6)
    panels = figure.subplots(1, len(reliability), squeeze=False)[0]
    for axes, (name, found) in zip(panels, reliability.items(), strict=True):
        bins = found.bins
        values = [value for one in bins for value in (one.predicted, one.outcome.value, *ends(one.outcome))]
        low, high = max(min(values), 0.0) - 0.03, min(max(values), 1.0) + 0.03
        axes.plot([low, high], [low, high], color=GREY, ls="--", lw=1.2)
        predicted = [one.predicted for one in bins]
        for one in bins:
            axes.plot([one.predicted] * 2, ends(one.outcome), color=BLUE, lw=1.6, alpha=0.6)
        axes.plot(predicted, [one.outcome.value for one in bins], "o", color=BLUE, ms=6)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_aspect("equal")
        axes.set_title(f"{name}: error {found.error.value:.3f}")
        axes.set_xlabel("predicted")
        axes.set_ylabel("outcome")


def _draw_shares(figure: Any, shares: Sequence[Share], best_fixed: str) -> None:
    figure.set_size_inches(WIDTH, 1.0 + 0.34 * len(shares))
    axes = figure.add_subplot()
    at = np.arange(len(shares))[::-1]
    values = [100 * one.share.value for one in shares]
    axes.barh(at, values, height=0.66, color=[ORANGE if one.model == best_fixed else BLUE for one in shares])
    for y, one in zip(at.tolist(), shares, strict=True):
        low, high = ends(one.share)
        axes.plot([100 * low, 100 * high], [y, y], color="black", lw=1.2)
        axes.annotate(
            f"{100 * one.share.value:.1f} %",
            (100 * high, y),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
        )
    names = [f"{short(one.model)} (best fixed)" if one.model == best_fixed else short(one.model) for one in shares]
    axes.set_yticks(at, names)
    axes.set_xlim(0, 1.12 * max(100 * ends(one.share)[1] for one in shares))
    axes.set_ylim(-0.7, len(shares) - 0.3)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("% of prompts")


def _draw_learning_curve(figure: Any, curve: LearningCurve) -> None:
    figure.set_size_inches(WIDTH, 4.4)
    axes = figure.add_subplot()
    rows = [one.n_rows for one in curve.points]
    lows, means, highs = (
        [POINTS * value for value in values]
        for values in zip(*((one.gain.low, one.gain.mean, one.gain.high) for one in curve.points), strict=True)
    )
    axes.axhline(0, color="black", lw=0.8, zorder=1)
    axes.vlines(rows, lows, highs, color=BLUE, lw=1.6, alpha=0.6)
    axes.plot(rows, means, color=BLUE, lw=2, marker="o", ms=6, label="held-out gain, 95 % interval", zorder=3)
    ahead = curve.projection
    if ahead is not None:
        low, high = POINTS * np.array(ahead.low), POINTS * np.array(ahead.high)
        axes.fill_between(
            ahead.n_rows, low, high, color=ORANGE, alpha=0.18, lw=0, label="expected interval in a larger log"
        )
        axes.plot(ahead.n_rows, [POINTS * ahead.target] * len(low), color=ORANGE, lw=1.5, ls="--")
        rows = [*rows, ahead.n_rows[-1]]
        marks = [(ahead.n_rows[-1], "asked for")]
        if ahead.leaves_zero_at is not None:
            marks.append((ahead.leaves_zero_at, "leaves zero"))
        for at, text in marks:
            axes.axvline(at, color=GREY, lw=1, ls=":", zorder=1)
            axes.annotate(
                f"{text}: {rounded(at):,}",
                (at, 0.0),
                xycoords=("data", "axes fraction"),
                xytext=(-4, 4),
                textcoords="offset points",
                rotation=90,
                ha="right",
                va="bottom",
                fontsize=9.5,
            )
    if max(rows) > 3 * min(rows):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(log_locator(max(rows) / min(rows)))
        axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("training rows")
    axes.set_ylabel("gain over the best fixed model, points")
    figure.legend(loc="outside upper center", ncols=2)
