"""The tables of docs/stability.md, made from results/stability.json.

python benchmarks/stability_tables.py
"""

import json
from pathlib import Path
from typing import Any

from edits import EDITS, ONE_WORD
from tables import fill, table

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "stability.md"
ONE_WORD_KEPT, ONE_WORD_KEPT_IN_SESSION, COST = 0.92, 0.99, 0.005


def main() -> None:
    fill_docs()


def fill_docs() -> None:
    """Write the tables of both records, where there are any, into docs/stability.md."""
    text = DOCS.read_text()
    for name in ("stability", "stability_test"):
        file = HERE / "results" / f"{name}.json"
        if file.is_file():
            record = json.loads(file.read_text())
            minutes = record["numbers"]["seconds"] / 60
            head = f"Commit `{record['commit']}`, {minutes:.0f} minutes on {record['machine']['cores']} cores."
            text = fill(text, name, f"{head}\n\n{tables(record['numbers'])}")
    DOCS.write_text(text)


def tables(numbers: dict[str, Any]) -> str:
    """Return the goals and, per set and tier, what every method kept under every edit, as Markdown."""
    parts = [goals(numbers)]
    for title, tiers in numbers["sets"].items():
        for tier, found in tiers.items():
            widths = "; ".join(f"{name}: {', '.join(map(str, one))}" for name, one in found["n_neighbors"].items())
            parts += [f"*{title}, {tier} encoder*, {found['n_prompts']:,} prompts. Neighbours: {widths}.", kept(found)]
            if "value" in found:
                parts.append(values(found))
    return "\n\n".join(parts)


def goals(numbers: dict[str, Any]) -> str:
    """Return whether one-word edits keep the model as often as promised, and at what cost."""
    rows = []
    for title, tiers in numbers["sets"].items():
        for tier, found in tiers.items():
            own, held = (
                [found["kept"][method][edit]["share"] for edit in ONE_WORD]
                for method in ("whichmodel", "whichmodel, in a session")
            )
            rows.append([title, tier, _judged(own, ONE_WORD_KEPT), _judged(held, ONE_WORD_KEPT_IN_SESSION)])
            if "value" in found:
                paired = found["value"]["whichmodel, at most 300 neighbours"]["ours_minus_this"]
                rows[-1].append(f"{_points(paired)} {'OK' if paired['mean'] >= -COST else 'MISSED'}")
            else:
                rows[-1].append("-")
    edits = ", ".join(ONE_WORD)
    head = ["set", "tier", f"kept ({edits}), %; at least {100 * ONE_WORD_KEPT:.0f}"]
    head += [f"the same in a session; at least {100 * ONE_WORD_KEPT_IN_SESSION:.0f}"]
    return table([*head, f"value against at most 300 neighbours, points; at least {-100 * COST}"], rows)


def _judged(shares: list[float], least: float) -> str:
    numbers = ", ".join(f"{100 * one:.1f}" for one in shares)
    return f"{numbers} {'OK' if min(shares) >= least else 'MISSED'}"


def kept(found: dict[str, Any]) -> str:
    """Return the share of prompts that kept their model, with its interval, per edit and method."""
    methods = list(found["kept"])
    rows = [[edit, *(_share(found["kept"][one][edit]) for one in methods)] for edit in EDITS]
    common = ["(share of the commonest choice)", *(f"{100 * found['commonest_share'][one]:.0f}" for one in methods)]
    return table(["kept, %", *methods], [*rows, common])


def _share(count: dict[str, float]) -> str:
    return f"{100 * count['share']:.1f} ({100 * count['low']:.1f} to {100 * count['high']:.1f})"


def values(found: dict[str, Any]) -> str:
    """Return every method's value on the prompts as they are, and ours minus it."""
    rows = [
        [name, f"{one['mean']:.4f}", "" if name == "whichmodel" else _points(one["ours_minus_this"])]
        for name, one in found["value"].items()
    ]
    return table(["method", "value", "ours minus this, points"], rows)


def _points(paired: dict[str, float]) -> str:
    return f"{100 * paired['mean']:+.2f} ({100 * paired['low']:+.2f} to {100 * paired['high']:+.2f})"


if __name__ == "__main__":
    main()
