"""The plots of the what-if page as PNG bytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.canvas import BLUE, GREEN, GREY, LIGHT, ORANGE, WIDTH, ends, label_points, log_locator, png, short
from training.metrics import Measured
from training.whatif import Difference, WhatIf

COLOURS = (GREY, BLUE, ORANGE, GREEN, "#7b3fa0", "#b3261e")
MAX_MODELS, MAX_INTENTS = 25, 30
# Above this ratio of the dearest to the cheapest point, costs are drawn on a logarithmic axis.
LOG_RATIO = 8.0
N_BINS = 40
# What lies beyond is drawn in the outermost bars.
CUT_PERCENTILES = (1.0, 99.0)
Numbers = NDArray[np.float64]


def draw_what_if(found: WhatIf, usd_differences: Sequence[Numbers]) -> dict[str, bytes]:
    """Return the PNG of every plot that there is something to draw for: file name to bytes.

    usd_differences: per difference, of every prompt the USD of 1,000 requests like it, NaN where unknown.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    plots = {"shares.png": png(_draw_shares, found)}
    if any(one.usd_per_1000 is not None and one.quality is not None for one in found.policies):
        plots["cost-quality.png"] = png(_draw_cost_quality, found)
    for nth, (one, own) in enumerate(zip(found.differences, usd_differences, strict=True), start=1):
        known = own[~np.isnan(own)]
        if known.any():
            plots[f"cost-difference-{nth}.png"] = png(_draw_cost_difference, known)
        if any(line.n_changed for line in one.intents):
            plots[f"intents-{nth}.png"] = png(_draw_intents, one)
    return plots


def _draw_shares(figure: Any, found: WhatIf) -> None:
    shares = [{one.model: one.share for one in line.shares} for line in found.policies]
    most = {name: max(own[name].value for own in shares if name in own) for own in shares for name in own}
    names = sorted(most, key=lambda name: (-most[name], name))[:MAX_MODELS]
    height = 0.8 / len(shares)
    figure.set_size_inches(WIDTH, 1.6 + 0.24 * max(len(names), 1) * (1 + len(shares)))
    axes = figure.add_subplot()
    at = np.arange(len(names))[::-1]
    for nth, (line, own) in enumerate(zip(found.policies, shares, strict=True)):
        where = at + 0.4 - height * (nth + 0.5)
        values = [100 * own[name].value if name in own else 0.0 for name in names]
        colour = COLOURS[nth % len(COLOURS)]
        axes.barh(where, values, height=0.9 * height, color=colour, label=short(line.name))
        for y, value in zip(where.tolist(), values, strict=True):
            axes.annotate(
                f"{value:.1f} %", (value, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9
            )
    axes.set_yticks(at, [short(name) for name in names])
    axes.set_ylim(-0.6, max(len(names), 1) - 0.4)
    axes.set_xlim(0, 112 * max(most.values(), default=1.0))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("% of prompts")
    figure.legend(loc="outside upper center", ncols=min(len(shares), 4))


def _draw_cost_quality(figure: Any, found: WhatIf) -> None:
    axes = figure.add_subplot()
    models = [
        (one.model, one.usd_per_1000, one.quality)
        for one in found.alone
        if one.n == found.n_prompts and one.usd_per_1000 is not None and one.quality is not None
    ]
    policies = [
        (nth, one.name, one.usd_per_1000, one.quality)
        for nth, one in enumerate(found.policies)
        if one.usd_per_1000 is not None and one.quality is not None
    ]
    costs = [usd for _, usd, _ in models] + [usd.value for _, _, usd, _ in policies]
    for _, x, y in models:
        axes.plot(x, y, "o", color="black", ms=6, zorder=4)
    for nth, _, usd, quality in policies:
        colour = COLOURS[nth % len(COLOURS)]
        axes.plot([usd.value] * 2, ends(quality), color=colour, lw=1.6, alpha=0.6, zorder=3)
        axes.plot(ends(usd), [quality.value] * 2, color=colour, lw=1.6, alpha=0.6, zorder=3)
        axes.plot(usd.value, quality.value, "*", color=colour, ms=17, mec="white", zorder=5)
    if min(costs) > 0 and max(costs) > LOG_RATIO * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(log_locator(max(costs) / min(costs)))
        axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("expected USD per 1,000 requests")
    axes.set_ylabel("expected quality")
    axes.margins(0.12)
    named = [*models, *((name, usd.value, quality.value) for _, name, usd, quality in policies)]
    label_points(figure, axes, named, [])


def _draw_cost_difference(figure: Any, usd: Numbers) -> None:
    """Draw the prompts whose cost changes; the others, a bar far above all, are counted in the title."""
    figure.set_size_inches(WIDTH, 4.0)
    axes = figure.add_subplot()
    moved = usd[usd != 0]
    low, high = np.percentile(moved, CUT_PERCENTILES)
    low, high = min(low, 0.0), max(high, 0.0)
    # One edge is 0, so that no bar holds dearer and cheaper prompts at once.
    width = (high - low) / N_BINS or 1.0
    edges = width * np.arange(np.floor(low / width + 1e-9), np.ceil(high / width - 1e-9) + 1)
    if len(edges) < 2:
        edges = np.array([-width, 0.0, width])
    counts, _ = np.histogram(np.clip(moved, edges[0], edges[-1]), edges)
    colours = [GREEN if middle < 0 else ORANGE for middle in (edges[:-1] + edges[1:]) / 2]
    axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=colours, ec="white", lw=0.5)
    axes.axvline(0, color="black", lw=0.8)
    axes.axvline(usd.mean(), color=BLUE, lw=1.6, ls="--", label=f"mean of all prompts: {usd.mean():+.3g}")
    axes.set_title(f"{len(usd) - len(moved):,} of {len(usd):,} prompts cost the same and are not drawn")
    axes.set_xlabel("difference in expected USD per 1,000 requests like it")
    axes.set_ylabel("prompts")
    axes.legend()


def _draw_intents(figure: Any, one: Difference) -> None:
    """Draw, per intent, the share of its prompts that moves, split by the model that they move to."""
    lines = [line for line in one.intents if line.n_changed][:MAX_INTENTS]
    totals: dict[str, int] = {}
    for move in one.moves:
        totals[_named(move.after)] = totals.get(_named(move.after), 0) + move.n
    targets = sorted(totals, key=lambda name: (-totals[name], name))[: len(COLOURS) - 1]
    figure.set_size_inches(WIDTH, 1.8 + 0.34 * len(lines))
    axes = figure.add_subplot()
    at = np.arange(len(lines))[::-1]
    left = np.zeros(len(lines))
    for nth, target in enumerate(targets):
        values = np.array(
            [100 * sum(move.n for move in line.moves if _named(move.after) == target) / line.n for line in lines]
        )
        axes.barh(at, values, left=left, height=0.66, color=COLOURS[nth + 1], label=f"to {short(target)}")
        left += values
    rest = np.array([100 * line.n_changed / line.n for line in lines]) - left
    if rest.max() > 1e-9:
        axes.barh(at, rest, left=left, height=0.66, color=LIGHT, label="other moves")
    for y, line in zip(at.tolist(), lines, strict=True):
        share = 100 * line.n_changed / line.n
        text = f"{share:.0f} %{_points(line.quality)}"
        axes.annotate(text, (share, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(at, [f"{short(line.intent)}  ({line.n})" for line in lines])
    axes.set_ylim(-0.7, len(lines) - 0.3)
    axes.set_xlim(0, 128 * max(line.n_changed / line.n for line in lines))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("% of the intent's prompts that move, and the difference in expected quality")
    figure.legend(loc="outside upper center", ncols=3)


def _points(quality: Measured | None) -> str:
    return "" if quality is None else f", {100 * quality.value:+.1f} points"


def _named(model: str | None) -> str:
    return "no answer" if model is None else model
