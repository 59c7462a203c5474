"""The tables of docs/memory.md, from benchmarks/results/poisoning.json and month.json.

python benchmarks/memory_tables.py
"""

from pathlib import Path
from typing import Any

import numpy as np
from tables import fill, record, table

PAGE = Path(__file__).parent.parent / "docs" / "memory.md"
SHOWN_DAYS = (0, 5, 10, 20, 30)


def main() -> None:
    page = PAGE.read_text()
    page = fill(page, "poisoning", poisoning(record("poisoning")))
    PAGE.write_text(fill(page, "month", month(record("month"))))


def poisoning(numbers: dict[str, Any]) -> str:
    """Return the differences with caps off and on, in points, one attack a line."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for one in numbers["differences"]:
        found.setdefault((one["kind"], one["attack"]), {})[one["caps"]] = one
    rows = [
        [kind, attack, points(both["caps off"]), points(both["caps on"]), f"{100 * both['caps on']['worst']:+.1f}"]
        for (kind, attack), both in found.items()
    ]
    return table(["log", "votes added", "all count in full", "as by default", "worst seed"], rows)


def month(numbers: dict[str, Any]) -> str:
    """Return quality by day of every arm, beside what it earned while it served."""
    rows = []
    for name, days in numbers["days"].items():
        last = numbers["last_day"][name]
        rows.append(
            [
                name,
                *(f"{days['routed'][day]:.3f}" for day in SHOWN_DAYS),
                points(last["best fixed"]),
                points(last["full"]) if "full" in last else "",
                f"{np.mean(days['earned']):.3f}",
                str(sum(one == "ROUTE" for one in days["verdicts"])),
            ]
        )
    head = [
        "arm",
        *(f"day {day}" for day in SHOWN_DAYS),
        "day 30 over best fixed",
        "over full",
        "earned",
        "ROUTE",
    ]
    return table(head, rows)


def points(gain: dict[str, float]) -> str:
    return f"{100 * gain['mean']:+.1f} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"


if __name__ == "__main__":
    main()
