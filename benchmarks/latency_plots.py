"""The plots of docs/latency.md."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from load import TIERS
from load_summary import DEFAULT_BUDGET_MS, QUANTILES, across
from matplotlib.axes import Axes

COLORS = {"full": "#2a6f97", "static": "#e09f3e", "prior": "#9e2a2b"}


def plot_all(numbers: dict[str, Any], folder: Path) -> None:
    """Draw what the parts at hand allow."""
    if "ladder" in numbers:
        against_load(numbers["ladder"], folder / "latency_load.png")
        per_load(numbers["ladder"], folder / "latency_quantiles.png")
    if "budgets" in numbers:
        per_budget(numbers["budgets"], folder / "latency_budgets.png")


def against_load(ladder: dict[str, Any], target: Path) -> None:
    """Draw, per load, the tiers of the answers as bars, and the share in budget of all requests over them."""
    loads = _valid(ladder)
    figure, axes = plt.subplots(figsize=(10, 4.2), layout="constrained")
    shares = {
        tier: [_median([one["tiers_of_answered"][tier] for one in runs]) for runs in loads.values()] for tier in TIERS
    }
    _bars(axes, list(loads), shares)
    found = [across([one["in_budget"] for one in runs]) for runs in loads.values()]
    middle = np.array([100 * one["median"] if one else np.nan for one in found])
    reach = [
        [100 * (one["median"] - one["min"]) if one else 0.0 for one in found],
        [100 * (one["max"] - one["median"]) if one else 0.0 for one in found],
    ]
    axes.errorbar(np.arange(len(found)), middle, yerr=reach, fmt="ko", ms=5, capsize=3, label="in budget, of offered")
    axes.set_ylabel("%")
    axes.set_xlabel(f"load, as a multiple of {ladder['rate_per_s']:.0f} requests per second")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    _save(figure, target)


def per_load(ladder: dict[str, Any], target: Path) -> None:
    """Draw the latency of answers against the share that was faster, both on log axes that open up the tail."""
    figure, axes = plt.subplots(figsize=(10, 4.2), layout="constrained")
    shown = [at for at, share in enumerate(QUANTILES) if 0.0 < share < 1.0]
    x = [1 / (1 - QUANTILES[at]) for at in shown]
    for name, runs in _valid(ladder).items():
        y = [_median([one["quantiles_ms"][at] for one in runs]) for at in shown]
        axes.plot(x, y, marker=".", label=name)
    axes.axhline(DEFAULT_BUDGET_MS, color="grey", ls="--", lw=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    marks = (0.5, 0.9, 0.99, 0.999)
    axes.set_xticks([1 / (1 - one) for one in marks], [f"{100 * one:g} %" for one in marks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("share of answers that were at least as fast")
    axes.set_ylabel("ms from send to last byte")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    _save(figure, target)


def per_budget(budgets: dict[str, Any], target: Path) -> None:
    """Draw, per budget, the tiers of the answers as bars, and the share in budget over them."""
    found = budgets["budgets_ms"]
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    shares = {tier: [one["tiers_of_answered"].get(tier) or 0.0 for one in found.values()] for tier in TIERS}
    _bars(axes, list(found), shares)
    axes.plot(np.arange(len(found)), [100 * one["in_budget"] for one in found.values()], "ko", ms=5, label="in budget")
    axes.set_xlabel("latency_budget_ms of the request")
    axes.set_ylabel("%")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    _save(figure, target)


def _bars(axes: Axes, names: list[str], shares: dict[str, list[float]]) -> None:
    bottom = np.zeros(len(names))
    for tier, values in shares.items():
        height = 100 * np.nan_to_num(np.array(values, dtype=float))
        axes.bar(
            np.arange(len(names)), height, 0.65, bottom=bottom, color=COLORS[tier], alpha=0.75, label=f"{tier} tier"
        )
        bottom += height
    axes.set_xticks(np.arange(len(names)), [one.replace(", ", ",\n") for one in names])
    axes.set_ylim(0, 103)


def _valid(ladder: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the runs that count; a load without any is left out."""
    runs = {name: [one for one in found if not one["void"]] for name, found in ladder["loads"].items()}
    return {name: found for name, found in runs.items() if found}


def _median(values: list[float | None]) -> float:
    found = across(values)
    return float("nan") if found is None else found["median"]


def _save(figure: plt.Figure, target: Path) -> None:
    figure.savefig(target, dpi=100)
    plt.close(figure)
