"""The plots of the report page as PNG bytes; the only room that knows matplotlib, imported when it is used."""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from router.errors import ConfigError
from training.findings import CostQuality, Findings, IntentLine, Share, TwoModels
from training.learning_curve import LearningCurve
from training.metrics import Measured, Reliability
from training.verdict import rounded

BLUE, ORANGE, GREY, GREEN, LIGHT = "#1f5fa8", "#d9700a", "#6b7280", "#2e7d32", "#d5dae1"
STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e7eaee",
    "legend.frameon": False,
    "legend.fontsize": 10,
    # Names are data: a dollar sign in one is no formula.
    "text.parse_math": False,
}
DPI = 120
# Where a label may hang from its point, the preferred first.
DIRECTIONS = (
    *((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8)),
    *((0.1, 1.0), (-0.1, 1.0), (0.1, -1.0), (-0.1, -1.0)),
)
WIDTH = 8.6
MAX_NAME_CHARS = 34
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
        plots["cost-quality.png"] = _png(_draw_cost_quality, found.cost_quality)
    if found.two_models is not None:
        plots["two-models.png"] = _png(_draw_two_models, found.two_models)
    if found.intents:
        plots["intents.png"] = _png(_draw_intents, found.intents[:MAX_INTENTS])
    if found.reliability:
        plots["reliability.png"] = _png(_draw_reliability, found.reliability)
    if found.learning_curve is not None:
        plots["learning-curve.png"] = _png(_draw_learning_curve, found.learning_curve)
    plots["shares.png"] = _png(lambda figure, shares: _draw_shares(figure, shares, best_fixed), found.shares)
    return plots


def require_matplotlib() -> None:
    """Raise ConfigError where matplotlib is missing."""
    _figure_class()


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise ConfigError(
            f"{exc.name} is missing; install the training extra: pip install 'whichmodel[train]'"
        ) from exc
    return Figure


def _png(draw: Callable[[Any, Any], None], data: object) -> bytes:
    """Draw on a figure of its own: no window, no global state of pyplot."""
    figure_class = _figure_class()
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    out = io.BytesIO()
    with rc_context(STYLE), warnings.catch_warnings():
        # Names in scripts that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = figure_class(figsize=(WIDTH, 5.0), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure, data)
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


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
        axes.xaxis.set_major_locator(_log_locator(costs.max() / costs.min()))
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
    _label(figure, axes, named, [mixed, curve])


def _log_locator(ratio: float) -> Any:
    """Return ticks at 1, 2 and 5 of every decade, or at whole decades where that would be many."""
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1.0, 2.0, 5.0) if ratio < 1e3 else (1.0,), numticks=20)


def _label(figure: Any, axes: Any, named: Sequence[tuple[str, float, float]], lines: Sequence[Any]) -> None:
    """Write names beside their points, each where it covers least of what is drawn already."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    # Boxes in pixels: (x0, y0, x1, y1).
    marks = axes.transData.transform([(x, y) for _, x, y in named])
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in marks]
    for line in lines:
        corners = axes.transData.transform(line)
        steps = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
        along = np.arange(0.0, steps[-1] + 5, 5)
        drawn = zip(np.interp(along, steps, corners[:, 0]), np.interp(along, steps, corners[:, 1]), strict=True)
        taken += [(x - 3, y - 3, x + 3, y + 3) for x, y in drawn]
    places = [(dx * far, dy * far) for far in (9, 18, 30) for dx, dy in DIRECTIONS]
    for (name, x, y), mark in zip(named, marks, strict=True):
        text = axes.annotate(
            _short(name),
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=9.5,
            zorder=6,
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.6, "shrinkA": 1, "shrinkB": 5},
        )
        extent = text.get_window_extent(renderer)
        best: tuple[float, Any, Any] | None = None
        for place in places:
            box = _box(mark, np.array(place) * figure.dpi / 72, extent.width, extent.height)
            outside = box[0] < frame.x0 or box[1] < frame.y0 or box[2] > frame.x1 or box[3] > frame.y1
            cost = sum(_overlap(box, one) for one in taken) + 1e5 * outside + np.hypot(*place)
            if best is None or cost < best[0]:
                best = (cost, place, box)
        if best is None:
            continue
        _, (dx, dy), box = best
        text.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
        text.set_verticalalignment("bottom" if dy > 0 else "top" if dy < 0 else "center")
        text.xyann = (dx, dy)
        text.arrow_patch.set_visible(bool(np.hypot(dx, dy) > 15))
        taken.append(box)


def _box(mark: Any, offset: Any, width: float, height: float) -> tuple[float, float, float, float]:
    """Return the box of a text that hangs with its nearer side at ``mark + offset``, in pixels."""
    anchor = mark + offset
    x0 = anchor[0] - (0.0 if offset[0] > 0 else width if offset[0] < 0 else width / 2)
    y0 = anchor[1] - (0.0 if offset[1] > 0 else height if offset[1] < 0 else height / 2)
    return float(x0), float(y0), float(x0 + width), float(y0 + height)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)


def _draw_two_models(figure: Any, pair: TwoModels) -> None:
    axes = figure.add_subplot()
    curve = pair.curve
    shares = 100 * np.array(curve.shares)
    axes.plot(shares, curve.qualities, color=BLUE, lw=2, marker="o", ms=5, label="router")
    axes.plot([0, 100], [curve.weak, curve.strong], color=GREY, ls="--", label="a coin")
    # The stronger model's name stands where the curve is low, the weaker one's where it is high.
    for quality, name, x, side in ((curve.weak, pair.weak, 100, "right"), (curve.strong, pair.strong, 0, "left")):
        axes.axhline(quality, color="black", lw=0.8)
        axes.annotate(_short(name), (x, quality), xytext=(0, 3), textcoords="offset points", ha=side, fontsize=9.5)
    axes.set_xlabel(f"% of prompts sent to {_short(pair.strong)}")
    axes.set_ylabel("quality")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.08))


def _draw_intents(figure: Any, lines: Sequence[IntentLine]) -> None:
    figure.set_size_inches(WIDTH, 1.4 + 0.34 * len(lines))
    axes = figure.add_subplot()
    at = np.arange(len(lines))[::-1]
    for y, one in zip(at.tolist(), lines, strict=True):
        low, high = _ends(one.router)
        axes.plot([low, high], [y, y], color=BLUE, lw=5, alpha=0.22, solid_capstyle="butt")
    axes.plot([one.fixed.value for one in lines], at, "o", color=ORANGE, ms=7, label="best fixed model")
    axes.plot(
        [one.router.value for one in lines], at, "*", color=BLUE, ms=12, mec="white", label="router, 95 % interval"
    )
    axes.set_yticks(at, [f"{_short(one.intent)}  ({one.n})" for one in lines])
    axes.set_ylim(-0.7, len(lines) - 0.3)
    axes.set_xlabel("quality; in brackets the number of prompts")
    figure.legend(loc="outside upper center", ncols=2)


def _draw_reliability(figure: Any, reliability: dict[str, Reliability]) -> None:
    figure.set_size_inches(WIDTH, 4.6)
    panels = figure.subplots(1, len(reliability), squeeze=False)[0]
    for axes, (name, found) in zip(panels, reliability.items(), strict=True):
        bins = found.bins
        ends = [value for one in bins for value in (one.predicted, one.outcome.value, *_ends(one.outcome))]
        low, high = max(min(ends), 0.0) - 0.03, min(max(ends), 1.0) + 0.03
        axes.plot([low, high], [low, high], color=GREY, ls="--", lw=1.2)
        predicted = [one.predicted for one in bins]
        for one in bins:
            axes.plot([one.predicted] * 2, _ends(one.outcome), color=BLUE, lw=1.6, alpha=0.6)
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
        low, high = _ends(one.share)
        axes.plot([100 * low, 100 * high], [y, y], color="black", lw=1.2)
        axes.annotate(
            f"{100 * one.share.value:.1f} %",
            (100 * high, y),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
        )
    names = [f"{_short(one.model)} (best fixed)" if one.model == best_fixed else _short(one.model) for one in shares]
    axes.set_yticks(at, names)
    axes.set_xlim(0, 1.12 * max(100 * _ends(one.share)[1] for one in shares))
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
        axes.xaxis.set_major_locator(_log_locator(max(rows) / min(rows)))
        axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("training rows")
    axes.set_ylabel("gain over the best fixed model, points")
    figure.legend(loc="outside upper center", ncols=2)


def _ends(measured: Measured) -> tuple[float, float]:
    if measured.low is None or measured.high is None:
        return measured.value, measured.value
    return measured.low, measured.high


def _short(name: str) -> str:
    printable = "".join(one if one.isprintable() else "?" for one in name)
    return printable if len(printable) <= MAX_NAME_CHARS else f"{printable[: MAX_NAME_CHARS - 1]}…"
