"""The tables of docs/encoders.md and its plot, made from results/encoders.json.

python benchmarks/encoder_tables.py
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from tables import HERE, fill, record, table

PAGE = HERE.parent / "docs" / "encoders.md"
PLOT = HERE.parent / "docs" / "encoders.png"
ROUTING = {
    "llmrouter": ("llmrouter", "value"),
    "routerdc": ("routerdc", "value"),
    "routerbench": ("routerbench, AIQ", "AIQ"),
    "alpacaeval": ("alpacaeval, log-loss", "log-loss"),
}
PLOT_LENGTH = "32"


def main() -> None:
    if (HERE / "results" / "encoders.json").is_file():
        fill_page()


def fill_page() -> None:
    """Write the tables into docs/encoders.md, and the plot beside it."""
    numbers = record("encoders")
    PAGE.write_text(fill(PAGE.read_text(), "encoders", tables(numbers)))
    plot(numbers, PLOT)


def tables(numbers: dict[str, Any]) -> str:
    """Return all tables as Markdown; those whose numbers were not made are left out."""
    parts = [
        _titled("Intent", intents(numbers)),
        _titled("Routing", routing(numbers)),
        _titled("Time of `encode`", latency(numbers)),
        _titled("int8 against float32, ONNX against PyTorch", precision(numbers)),
        _titled("By script", scripts(numbers)),
        _titled("What is cut away", truncation(numbers)),
        _titled("Folding of chats", folding(numbers)),
        *(f"Skipped: {name}, {why}." for name, why in numbers["skipped"].items()),
    ]
    return "\n\n".join(one for one in parts if one)


def intents(numbers: dict[str, Any]) -> str:
    rows = []
    for name, one in _with_quality(numbers):
        cells = [_share(one[key]) for key in ("intents", "autoj", "autoj_groups")]
        minus = [_points(one[key].get("minus_base")) for key in ("intents", "autoj")]
        rows.append([name, one["what"], cells[0], minus[0], cells[1], minus[1], cells[2]])
    head = ["encoder", "", "66 intents", "minus base", "Auto-J scenarios", "minus base", "Auto-J groups"]
    note = (
        "Share of right labels by a vote of the 10 nearest labelled prompts, % with 95 % interval. Base: MiniLM int8; "
        "differences are paired, in points, bold where the interval excludes 0."
    )
    return f"{note}\n\n{table(head, rows)}"


def routing(numbers: dict[str, Any]) -> str:
    if "routing" in numbers["skipped"]:
        return ""
    rows = []
    for name, one in numbers["encoders"].items():
        if "routing" not in one:
            continue
        cells = []
        for key, (_, measure) in ROUTING.items():
            if key not in one["routing"]:
                cells += ["", ""]
                continue
            found = one["routing"][key][measure]
            own = _points(found["gain"]) if measure != "log-loss" else f"{found['value']:.4f}"
            cells += [own, _points(found["minus_base"])]
        rows.append([name, *cells])
    head = ["encoder", *(cell for title, _ in ROUTING.values() for cell in (title, "minus base"))]
    note = (
        "Cross-fitted gain over the best fixed model in points (log-loss: itself, lower is better; its differences are "
        "turned so that above 0 is better), and the paired difference to the base."
    )
    sliced = [
        [name, *(_points(part) for part in one["routing"]["routerdc"]["slices"].values())]
        for name, one in numbers["encoders"].items()
        if "slices" in one.get("routing", {}).get("routerdc", {}) and name != "best fixed"
    ]
    slices = table(["gain on routerdc", "cmmlu (Chinese)", "other tasks"], sliced)
    return f"{note}\n\n{table(head, rows)}\n\n{slices}"


def latency(numbers: dict[str, Any]) -> str:
    rows = []
    for name, one in _timed(numbers):
        cells = []
        for cell in one["latency_ms"].values():
            ratio = "" if cell["encode_over_bare"] is None else f", x{cell['encode_over_bare']:.2f}"
            cells.append(f"{cell['p50']:.2f} / {cell['p99']:.2f}{ratio}")
        rows.append([name, *cells, f"{one['disk_mib']:.1f}", f"{one['memory_mib']:.0f}"])
    lengths = next(list(one["latency_ms"]) for _, one in _timed(numbers))
    limits = [f"{name} {one['max_tokens']}" for name, one in _timed(numbers) if one["max_tokens"]]
    note = (
        "p50 / p99 in ms by tokens of text, one prompt at a time on one thread, and how many times the bare network "
        "that p50 is. Disk and memory in MiB; memory is what loading and one run add to a process that has imported "
        f"what it needs. At most so many tokens are read: {', '.join(limits)}."
    )
    return f"{note}\n\n{table(['encoder', *lengths, 'disk', 'memory'], rows)}"


def precision(numbers: dict[str, Any]) -> str:
    rows = []
    for name, one in numbers.get("int8_against_fp32", {}).items():
        cells = [name]
        if "same_decisions" in one:
            cells += [f"{100 * one['same_decisions']:.1f} %", _points(one["int8_minus_fp32"])]
        else:
            cells += ["-", "-"]
        for key in ("intents", "autoj"):
            cells += [f"{100 * one[key]['same']:.1f} %", _points(one[key]["int8_minus_fp32"])]
        rows.append(cells)
    head = ["int8 against float32", "same decisions (llmrouter)", "minus", "same intents", "minus", "same scenarios"]
    parity = [
        [name, f"{one['lowest']:.7f}", f"{one['mean']:.7f}", str(one["n"])]
        for name, one in numbers["onnx_against_pytorch"].items()
    ]
    return "\n\n".join(
        [
            table([*head, "minus"], rows),
            table(["ONNX float32 against PyTorch", "lowest cosine", "mean cosine", "prompts"], parity),
        ]
    )


def scripts(numbers: dict[str, Any]) -> str:
    names = list(dict.fromkeys(script for one in numbers["scripts"].values() for script in one))
    sizes = {script: one[script]["n"] for one in numbers["scripts"].values() for script in one}
    rows = []
    for name, one in numbers["scripts"].items():
        cells = []
        for script in names:
            unknown = one[script]["unknown_share"]
            cells.append(_share(one[script]) + ("" if unknown is None else f", {100 * unknown:.0f} % unknown"))
        rows.append([name, *cells])
    note = (
        "All of data/intents, 20 folds, by the script of the prompt; with the mean share of unknown tokens. The "
        "encoders that ship learnt from nine tenths of these prompts: their rows compare scripts, no more."
    )
    return f"{note}\n\n{table(['encoder', *(f'{one} (n = {sizes[one]})' for one in names)], rows)}"


def truncation(numbers: dict[str, Any]) -> str:
    rows = [
        [name, kept, *(_share(places[place]) for place in ("start", "end", "alone"))]
        for name, one in numbers["truncation"].items()
        for kept, places in one.items()
    ]
    note = (
        "Short held-out instructions with a pasted text of more than 300 tokens; intent accuracy by what is cut away."
    )
    return f"{note}\n\n{table(['encoder', 'cut away', 'instruction first', 'instruction last', 'alone'], rows)}"


def folding(numbers: dict[str, Any]) -> str:
    rows = [
        [name, rule, _share(found), _points(found["minus_current"])]
        for name, one in numbers["folding"].items()
        for rule, found in one.items()
    ]
    note = "Intent accuracy on the chats of data/intents, 20 folds; differences to all user turns are paired."
    return f"{note}\n\n{table(['encoder', 'rule', 'accuracy', 'minus all user turns'], rows)}"


def plot(numbers: dict[str, Any], target: Path) -> None:
    """Draw quality against the time of 32 tokens: Auto-J's scenarios, and the gain on llmrouter."""
    panels: list[tuple[str, Callable[[dict[str, Any]], dict[str, Any] | None]]] = [
        ("Auto-J scenarios, % right", lambda one: _interval_of(one["autoj"], "value")),
        ("llmrouter, points above the best fixed model", _llmrouter_gain),
    ]
    figure, all_axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for axes, (title, read) in zip(all_axes, panels, strict=True):
        for (name, one), marker in zip(_timed(numbers), itertools.cycle("os^vD*XP"), strict=False):
            found = read(numbers["encoders"][one["quality_of"]])
            if found is None:
                continue
            x, y = one["latency_ms"][PLOT_LENGTH]["p50"], 100 * found["value"]
            reach = [[y - 100 * found["low"]], [100 * found["high"] - y]]
            axes.errorbar(x, y, yerr=reach, fmt=marker, ms=6, capsize=2, label=name)
        axes.set_xscale("log")
        axes.set_xlabel(f"p50 of encode at {PLOT_LENGTH} tokens, ms")
        axes.set_ylabel(title)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(target, dpi=100)
    plt.close(figure)


def _llmrouter_gain(one: dict[str, Any]) -> dict[str, Any] | None:
    return _interval_of(one["routing"]["llmrouter"]["value"]["gain"], "mean") if "routing" in one else None


def _interval_of(one: dict[str, Any], key: str) -> dict[str, Any]:
    return {"value": one[key], "low": one["low"], "high": one["high"]}


def _with_quality(numbers: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, one) for name, one in numbers["encoders"].items() if "intents" in one)


def _timed(numbers: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, one) for name, one in numbers["encoders"].items() if "latency_ms" in one)


def _titled(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _share(one: dict[str, Any]) -> str:
    return f"{100 * one['value']:.1f} ({100 * one['low']:.1f} to {100 * one['high']:.1f})"


def _points(one: dict[str, Any] | None) -> str:
    if one is None:
        return "-"
    text = f"{100 * one['mean']:+.2f} ({100 * one['low']:+.2f} to {100 * one['high']:+.2f})"
    return f"**{text}**" if one["low"] > 0 or one["high"] < 0 else text


if __name__ == "__main__":
    main()
