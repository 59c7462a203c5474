"""The tables of docs/latency.md and its plots, made from results/latency.json.

python benchmarks/latency_tables.py
"""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from latency_plots import plot_all
from load import TIERS
from load_summary import across
from tables import HERE, README, fill, table

RECORD = HERE / "results" / "latency.json"
PAGE = HERE.parent / "docs" / "latency.md"
NOT_YET = "Not recorded yet."


def main() -> None:
    if RECORD.is_file():
        fill_page(json.loads(RECORD.read_text())["parts"])


def fill_page(parts: dict[str, Any]) -> None:
    """Write the tables of all parts into docs/latency.md, and the plots beside it."""
    text = PAGE.read_text()
    for name, content in tables(parts).items():
        text = fill(text, name, content)
    PAGE.write_text(text)
    if {"ladder", "unloaded"} <= set(parts):
        README.write_text(fill(README.read_text(), "latency", in_short(parts)))
    plot_all({name: one["numbers"] for name, one in parts.items()}, PAGE.parent)


def tables(parts: dict[str, Any]) -> dict[str, str]:
    """Return the Markdown of every part."""
    made: dict[str, Callable[[dict[str, Any]], str]] = {
        "ladder": ladder,
        "unloaded": unloaded,
        "budgets": budgets,
        "throughput": throughput,
        "peers": peers,
    }
    return {
        name: f"{made_by(parts[name])}\n\n{make(parts[name]['numbers'])}" if name in parts else NOT_YET
        for name, make in made.items()
    }


def in_short(parts: dict[str, Any]) -> str:
    """Return the README's tables: one request at a time, and the loads."""
    alone, loads = parts["unloaded"]["numbers"]["latency_ms"], parts["ladder"]["numbers"]["loads"]
    one_by_one = table(
        ["one 32-token prompt at a time", "p50 ms", "p99 ms"],
        [[name, _ms(one["p50"]), _ms(one["p99"])] for name, one in alone.items()],
    )
    under_load = table(
        ["load, budget 50 ms", "offered per s", "in budget, %", "full / static / prior, %", "p99 ms"],
        [[row[0], row[1].split(" ")[0], row[2], row[4], row[9].split(" ")[0]] for row in map(_named, loads.items())],
    )
    return f"{one_by_one}\n\n{under_load}"


def _named(load: tuple[str, list[dict[str, Any]]]) -> list[str]:
    return _answered(*load)


def made_by(part: dict[str, Any]) -> str:
    """Return commit, machine and time of a part in one line."""
    machine, seconds = part["machine"], part["numbers"]["seconds"]
    return f"Commit `{part['commit']}`, {machine['cores']} cores ({machine['cpu']}), {seconds / 60:.0f} minutes."


def ladder(numbers: dict[str, Any]) -> str:
    loads = numbers["loads"]
    parts = [
        _sustained(numbers),
        table(
            [
                *("load", "offered per s", "in budget, %", "degraded, %", "full / static / prior, %"),
                *("429", "5xx", "lost", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "recovery s", "runs"),
            ],
            [_answered(name, runs) for name, runs in loads.items()],
        ),
        table(
            [
                *("load", "send lag p50 ms", "p99 ms", "max ms", "generator, cores", "server, cores"),
                *("loop lag p99 ms, at most", "loop lag max ms"),
                *("server memory, MiB", "grown by, MiB", "connections"),
            ],
            [_behind(name, runs) for name, runs in loads.items()],
        ),
        *(_mixed(name, runs) for name, runs in loads.items() if "by_budget" in runs[0]),
        "![Share in budget and tiers against load](latency_load.png)",
        "![Quantiles of latency per load](latency_quantiles.png)",
    ]
    return "\n\n".join(parts)


def unloaded(numbers: dict[str, Any]) -> str:
    rows = [
        [name, *(_ms(one[key]) for key in ("p50", "p99", "p99.9", "max")), _tiers(numbers["tiers"].get(name))]
        for name, one in numbers["latency_ms"].items()
    ]
    failed = sum(numbers["not_200"].values())
    head = ["", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "full / static / prior, %"]
    return f"{numbers['n']:,} requests each, {failed} not answered 200.\n\n{table(head, rows)}"


def budgets(numbers: dict[str, Any]) -> str:
    rows = [
        [
            name,
            _percent(one["in_budget"]),
            _percent(one["do_nothing_in_budget"]),
            _tiers(one["tiers_of_answered"]),
            *(_ms(one["latency_ms"][key]) for key in ("p50", "p99", "p99.9", "max")),
            _percent(one["budget_met_by_server"]),
            str(one["not_200"]),
        ]
        for name, one in numbers["budgets_ms"].items()
    ]
    head = [
        *(
            "budget ms",
            "in budget, %",
            "do-nothing endpoint within it, %",
            "full / static / prior, %",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "max ms",
        ),
        *("in budget by the server's clock, %", "not 200"),
    ]
    n = next(iter(numbers["budgets_ms"].values()))["n"]
    plot = "![Tiers and share in budget per budget](latency_budgets.png)"
    return f"{n:,} requests each.\n\n{table(head, rows)}\n\n{plot}"


def throughput(numbers: dict[str, Any]) -> str:
    rows = [
        [
            name,
            *(_spread([one[key] for one in turns], form) for key, form in (("per_s", ",.0f"), ("p50_ms", ".2f"))),
            _spread([one["p99_ms"] for one in turns], ".2f"),
            str(sum(one["not_200"] + one["socket_errors"] for one in turns)),
        ]
        for name, turns in numbers["turns"].items()
    ]
    head = ["", "requests per s", "p50 ms", "p99 ms", "failed"]
    ratio = f"Static tier over do-nothing endpoint: {numbers['ratio']:.2f} (median of the turns)."
    return f"{table(head, rows)}\n\n{ratio}"


def peers(numbers: dict[str, Any]) -> str:
    failed = sum(sum(found["not_200"].values()) for found in numbers["http"].values() if "not_200" in found)
    parts = [
        f"{numbers['n']} prompts each, {failed} requests not answered 200. *Times*: how many times as long as ours it "
        "takes, at p50 / at p99."
    ]
    for where, title in (("in_process", "in process"), ("http", "over HTTP")):
        for name, found in numbers[where].items():
            if "latency_ms" in found:
                parts.append(_peers(f"{title}, {name}", found))
    memory = ", ".join(f"{name} {one:.0f}" for name, one in numbers["http"]["rss_mib"].items())
    return "\n\n".join([*parts, f"Resident memory of the servers, MiB: {memory}."])


def _peers(title: str, found: dict[str, Any]) -> str:
    ours = list(found["ratios"])
    rows = []
    for name, one in found["latency_ms"].items():
        factors = [found["ratios"][own].get(name) for own in ours]
        # Told as how many times faster ours is, which reads more easily than a small fraction.
        cells = ["" if one is None else f"{1 / one['p50']:.1f} / {1 / one['p99']:.1f}" for one in factors]
        rows.append([name, _ms(one["p50"]), _ms(one["p99"]), *cells])
    return table([title, "p50 ms", "p99 ms", *(f"times {own}" for own in ours)], rows)


def _sustained(numbers: dict[str, Any]) -> str:
    if "sustained" not in numbers:
        return f"The rate was given: {numbers['rate_per_s']:.0f} requests per second of the mix."
    found = ", ".join(f"{name}: {one['rate_per_s']:.0f} per second" for name, one in numbers["sustained"].items())
    return f"Sustained in full quality (99.5 % in 50 ms, at most 1 % degraded): {found}. 1x is the mix's."


def _answered(name: str, runs: list[dict[str, Any]]) -> list[str]:
    valid = _valid(runs)
    tiers = [_spread([_scaled(one["tiers_of_answered"][tier]) for one in valid], ".1f") for tier in TIERS]
    # Of the middle run alone: three spreads in one cell would be unreadable.
    return [
        name,
        _spread([one["offered_per_s"] for one in valid], ",.0f"),
        _spread([_scaled(one["in_budget"]) for one in valid], ".2f"),
        _spread([_scaled(one["degraded_of_answered"]) for one in valid], ".1f"),
        " / ".join(one.split(" ")[0] for one in tiers),
        *(str(sum(one[key] for one in valid)) for key in ("status_429", "status_5xx", "lost")),
        *(_spread([one["latency_ms"][key] for one in valid], ".1f") for key in ("p50", "p99", "p99.9", "max")),
        _recovery([one.get("recovery_s") for one in valid]),
        _runs(runs),
    ]


def _behind(name: str, runs: list[dict[str, Any]]) -> list[str]:
    return [
        name,
        *(_spread([one["send_lag_ms"][key] for one in runs], ".1f") for key in ("p50", "p99", "max")),
        _spread([one["generator_cpu"] for one in runs], ".2f"),
        _spread([one["server_cpu"] for one in runs], ".2f"),
        *(_spread([one["loop_lag_ms"].get(key) for one in runs], ".1f") for key in ("p99_at_most", "max")),
        _spread([one["server_rss_mib"].get("max") for one in runs], ".0f"),
        _spread([one["server_rss_mib"].get("growth") for one in runs], ".1f"),
        _spread([float(one["connections"]) for one in runs], ".0f"),
    ]


def _mixed(name: str, runs: list[dict[str, Any]]) -> str:
    valid = _valid(runs)
    rows = []
    for budget in sorted(runs[0]["by_budget"], key=float):
        own = [one["by_budget"][budget] for one in valid if budget in one.get("by_budget", {})]
        tiers = [
            _spread([_scaled(one["tiers_of_answered"][tier]) for one in own], ".1f").split(" ")[0] for tier in TIERS
        ]
        quantiles = [_spread([one["latency_ms"][key] for one in own], ".1f") for key in ("p50", "p99")]
        rows.append([budget, _spread([_scaled(one["in_budget"]) for one in own], ".2f"), " / ".join(tiers), *quantiles])
    return table([f"{name}: budget ms", "in budget, %", "full / static / prior, %", "p50 ms", "p99 ms"], rows)


def _valid(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in runs if not one["void"]]


def _runs(runs: list[dict[str, Any]]) -> str:
    void = sum(one["void"] for one in runs)
    return f"{len(runs)}, **{void} VOID**" if void else str(len(runs))


def _recovery(found: Sequence[float | None]) -> str:
    """Return the spread, or in how many runs all was not well within the time that was watched."""
    never = sum(one is None for one in found)
    return f"not in {never} of {len(found)}" if never else _spread(found, ".1f")


def _spread(values: Sequence[float | None], form: str) -> str:
    """Return the median and, where there are several values, the least and the most."""
    found = across(values)
    if found is None:
        return "-"
    median, least, most = (format(found[key], form) for key in ("median", "min", "max"))
    return median if len(values) == 1 or least == most else f"{median} ({least} to {most})"


def _tiers(shares: dict[str, float] | None) -> str:
    return " / ".join(f"{100 * (shares[name] or 0.0):.1f}" for name in TIERS) if shares else "-"


def _scaled(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _ms(value: float | None) -> str:
    return "-" if value is None or math.isinf(value) else f"{value:.2f}"


if __name__ == "__main__":
    main()
