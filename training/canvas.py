"""A figure to draw on, and what all plots share; the only room that knows matplotlib, imported when it is used."""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from router.errors import ConfigError
from training.metrics import Measured

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


def require_matplotlib() -> None:
    """Raise ConfigError where matplotlib is missing."""
    _figure_class()


def png(draw: Callable[[Any, Any], None], data: object) -> bytes:
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


def log_locator(ratio: float) -> Any:
    """Return ticks at 1, 2 and 5 of every decade, or at whole decades where that would be many."""
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1.0, 2.0, 5.0) if ratio < 1e3 else (1.0,), numticks=20)


def label_points(figure: Any, axes: Any, named: Sequence[tuple[str, float, float]], lines: Sequence[Any]) -> None:
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
            short(name),
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


def ends(measured: Measured) -> tuple[float, float]:
    """Return the ends of an interval; without one, twice the number itself."""
    if measured.low is None or measured.high is None:
        return measured.value, measured.value
    return measured.low, measured.high


def short(name: str) -> str:
    """Return a name short enough for a plot, what cannot be printed as question marks."""
    printable = "".join(one if one.isprintable() else "?" for one in name)
    return printable if len(printable) <= MAX_NAME_CHARS else f"{printable[: MAX_NAME_CHARS - 1]}…"


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise ConfigError(
            f"{exc.name} is missing; install the training extra: pip install 'whichmodel[train]'"
        ) from exc
    return Figure


def _box(mark: Any, offset: Any, width: float, height: float) -> tuple[float, float, float, float]:
    """Return the box of a text that hangs with its nearer side at ``mark + offset``, in pixels."""
    anchor = mark + offset
    x0 = anchor[0] - (0.0 if offset[0] > 0 else width if offset[0] < 0 else width / 2)
    y0 = anchor[1] - (0.0 if offset[1] > 0 else height if offset[1] < 0 else height / 2)
    return float(x0), float(y0), float(x0 + width), float(y0 + height)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
