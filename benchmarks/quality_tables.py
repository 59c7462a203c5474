"""The table and the plots of benchmarks/README.md, made from results/quality.json.

python benchmarks/quality_tables.py
"""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from tables import fill

HERE = Path(__file__).parent
README = HERE / "README.md"
RESULTS = HERE / "results"
OURS = "whichmodel"
POOLS = {"pooled": "all sets", "pooled_scores": "score sets", "pooled_battles": "battle sets"}
CURVES = (OURS, "best fixed", "best-tuned kNN", "ridge", "task-known best", "oracle")


def main() -> None:
    fill_readme()


def fill_readme() -> None:
    """Write tables and plots of both records, where there are any, into README.md."""
    text = README.read_text()
    for name in ("quality", "quality_test"):
        file = RESULTS / f"{name}.json"
        if not file.is_file():
            continue
        record = json.loads(file.read_text())
        plot_differences(record["numbers"], RESULTS / f"{name}_differences.png")
        plot_curves(record["numbers"], RESULTS / f"{name}_routerbench.png")
        minutes = record["numbers"]["seconds"] / 60
        head = f"Commit `{record['commit']}`, {minutes:.0f} minutes on {record['machine']['cores']} cores."
        text = fill(text, name, f"{head}\n\n{results_table(record['numbers'])}\n{pictures(name)}")
    README.write_text(text)


def results_table(numbers: dict[str, Any]) -> str:
    """Return three tables as Markdown: values, what ours gains over each method per set, and pooled."""
    return "\n\n".join([checks(numbers), values(numbers), differences(numbers), pooled(numbers)])


def checks(numbers: dict[str, Any]) -> str:
    lines = ["| recomputed from labels | here | published | |", "|---|---|---|---|"]
    for one in numbers["checks"]:
        lines.append(f"| {one['what']} | {one['got']:.4f} | {one['published']} | {'OK' if one['ok'] else 'FAIL'} |")
    return "\n".join(lines)


def values(numbers: dict[str, Any]) -> str:
    columns = {key: {m: found["mean"] for m, found in one["methods"].items()} for key, one in numbers["sets"].items()}
    titles = {key: f"{one['title']} ({one['measure']})" for key, one in numbers["sets"].items()}
    for key, one in numbers["sets"].items():
        if "without_shared" in one:
            columns[f"{key} without"] = one["without_shared"]
            titles[f"{key} without"] = f"{one['title']}, without questions that stand in both splits"
    lines = [_row("method", list(titles.values())), "|" + "---|" * (len(titles) + 1)]
    for method in _methods(numbers):
        cells = [f"{columns[key][method]:.4f}" if method in columns[key] else "-" for key in titles]
        lines.append(_row(_name(method), cells))
    return "Value of each method by the set's own measure (log-loss: lower is better):\n\n" + "\n".join(lines)


def differences(numbers: dict[str, Any]) -> str:
    titles = [f"{one['title']} ({one['measure']})" for one in numbers["sets"].values()]
    lines = [_row("ours minus", titles), "|" + "---|" * (len(titles) + 1)]
    for method in _methods(numbers):
        if method == OURS:
            continue
        cells = []
        for one in numbers["sets"].values():
            found = one["methods"].get(method)
            cells.append("-" if found is None else _interval(found["ours_minus_this"]))
        lines.append(_row(_name(method), cells))
    note = (
        "Ours minus the method, in points (0.01; log-loss turned so that above 0 is better), with 95 % interval; "
        "bold where it excludes 0:"
    )
    return f"{note}\n\n" + "\n".join(lines)


def pooled(numbers: dict[str, Any]) -> str:
    """Return the mean differences over all sets, over those with scores and over those with battles, side by side."""
    parts = {title: numbers[key] for key, title in POOLS.items() if numbers.get(key)}
    titles = [cell for title in parts for cell in (f"{title}: sets", "points", "p", "p (Holm)")]
    lines = [_row("ours minus", titles), "|" + "---|" * (len(titles) + 1)]
    for method in dict.fromkeys(name for part in parts.values() for name in part):
        lines.append(_row(_name(method), [cell for part in parts.values() for cell in _pooled(part.get(method))]))
    note = (
        "Mean over the sets (first measure of each), sets resampled apart; Holm's correction over the peers within "
        "each pool, references stand without:"
    )
    return f"{note}\n\n" + "\n".join(lines)


def _pooled(one: dict[str, Any] | None) -> list[str]:
    if one is None:
        return ["-"] * 4
    adjusted = "-" if one["p_holm"] is None else f"{one['p_holm']:.3f}"
    return [str(one["n_sets"]), _interval(one), f"{one['p']:.3f}", adjusted]


def pictures(name: str) -> str:
    return "\n".join(
        [
            "",
            f"![Ours minus each method, per set and pooled](results/{name}_differences.png)",
            "",
            f"![Cost against quality on routerbench](results/{name}_routerbench.png)",
        ]
    )


def plot_differences(numbers: dict[str, Any], target: Path) -> None:
    """Draw ours minus each method: pooled with its interval, and the sets as points."""
    methods = [name for name in numbers["pooled"] if name not in ("oracle", "random")]
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(methods) + 1.5))
    for height, method in enumerate(reversed(methods)):
        one = numbers["pooled"][method]
        for found in numbers["sets"].values():
            if method in found["methods"] and found["measure"] != "log-loss":
                axes.plot(100 * found["methods"][method]["ours_minus_this"]["mean"], height, ".", color="tab:gray")
        axes.plot([100 * one["low"], 100 * one["high"]], [height, height], color="tab:blue", lw=2)
        axes.plot(100 * one["mean"], height, "o", color="tab:blue")
    axes.axvline(0.0, color="black", lw=0.8)
    axes.set_yticks(range(len(methods)), list(reversed(methods)))
    axes.set_xlabel("ours minus the method, points (blue: mean over sets, 95 %; grey: each set)")
    _save(figure, target)


def plot_curves(numbers: dict[str, Any], target: Path) -> None:
    """Draw the cost-quality curves on routerbench, where that set was run."""
    found = next((one for one in numbers["sets"].values() if "curves" in one), None)
    if found is None:
        return
    figure, axes = plt.subplots(figsize=(8, 5))
    for method in CURVES:
        if method not in found["curves"]:
            continue
        points = np.array(found["curves"][method]["routed"])
        points = points[np.argsort(points[:, 0])]
        label = "fixed models' hull (zero router)" if method == "best fixed" else method
        axes.plot(1000 * points[:, 0], points[:, 1], ".-", ms=4, label=label)
    fixed = np.array(found["curves"][OURS]["fixed"])
    axes.plot(1000 * fixed[:, 0], fixed[:, 1], "kx", label="each fixed model")
    axes.set_xscale("log")
    axes.set_xlabel("USD per 1,000 prompts")
    axes.set_ylabel("quality")
    axes.legend()
    _save(figure, target)


def _save(figure: Any, target: Path) -> None:
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    plt.close(figure)


def _row(first: str, cells: list[str]) -> str:
    return "| " + " | ".join([first, *cells]) + " |"


def _methods(numbers: dict[str, Any]) -> list[str]:
    names = dict.fromkeys(name for one in numbers["sets"].values() for name in one["methods"])
    return sorted(names, key=lambda name: name != OURS)


def _name(method: str) -> str:
    return f"**{method}**" if method == OURS else method


def _interval(one: dict[str, float]) -> str:
    text = f"{100 * one['mean']:+.2f} ({100 * one['low']:+.2f} to {100 * one['high']:+.2f})"
    return f"**{text}**" if one["low"] > 0 or one["high"] < 0 else text


if __name__ == "__main__":
    main()
