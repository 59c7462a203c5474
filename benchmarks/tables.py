"""Write the tables of README.md from the records in results/ and a decision of the demo's artifact.

python benchmarks/tables.py          # after the benchmarks and `make demo`
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
DEMO = HERE.parent / "build" / "demo"
DEMO_PROMPT = "SQL query for the top 5 customers by revenue per month"


def main() -> None:
    text = README.read_text()
    text = fill(text, "results", results_table())
    if (DEMO / "manifest.json").is_file():
        text = fill(text, "decision", decision())
    README.write_text(text)


def fill(text: str, name: str, content: str) -> str:
    """Replace what stands between the two markers of ``name``."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(pattern, lambda found: f"{found[1]}{content}\n{found[2]}", text, flags=re.DOTALL)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(one) + " |" for one in lines)


def record(name: str) -> dict[str, Any]:
    return json.loads((HERE / "results" / f"{name}.json").read_text())["numbers"]


def results_table() -> str:
    lines = [
        "| log | prompts | models | best fixed | router | oracle | gain | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    llmrouter = record("llmrouter_gain")
    lines.append(results_row("llmrouter, cross-fitted", llmrouter["cross_fitted"]))
    if "test" in llmrouter:
        lines.append(results_row("llmrouter, its 381 unseen test rows", llmrouter["test"]))
    lines += [results_row(f"{name}, cross-fitted", one["report"]) for name, one in record("log_verdicts").items()]
    return "\n".join(lines)


def results_row(name: str, report: dict[str, Any]) -> str:
    gain = report["gain"]
    interval = f"{100 * gain['mean']:+.1f} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
    oracle = f"{report['oracle']['quality']:.3f}" if report["oracle"] else "-"
    fixed, router = report["best_fixed"], report["router"]
    cells = [
        name,
        f"{report['n_prompts']:,}",
        str(report["n_models"]),
        with_cost(fixed),
        with_cost(router),
        oracle,
        interval,
        report["verdict"]["label"],
    ]
    return "| " + " | ".join(cells) + " |"


def with_cost(outcome: dict[str, Any]) -> str:
    cost = "" if outcome["cost_usd"] is None else f" at {1000 * outcome['cost_usd']:.2f} USD per 1,000"
    return f"{outcome['quality']:.3f}{cost}"


def decision() -> str:
    command = [sys.executable, "-m", "router.cli", "route", str(DEMO), DEMO_PROMPT, "--explain"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = f'$ whichmodel route build/demo "{DEMO_PROMPT}" --explain\n{done.stdout.rstrip()}'
    return f"```\n{shown}\n```"


if __name__ == "__main__":
    main()
