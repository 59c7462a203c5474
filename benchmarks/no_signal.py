"""How often is routing advised where there is nothing to route by?

    WHICHMODEL_DATA=... python benchmarks/no_signal.py [--draws N] [--workers N]

A set is 1,000 prompts of llmrouter's training rows and five of its nine models, the rows of scores permuted jointly:
every model keeps its mean and goes with the others as before, but a prompt says nothing of its own row. Task labels are
left out. The same set once more with each row as one battle of two random models, ties kept. Both go through `train` as
a user would call it. A full run writes results/no_signal.json and the table of README.md beside this file.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

# One thread per process, several processes. Read by BLAS as numpy is imported, hence before it.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
from draws import counted, fill_readme, share_text, spread
from log_verdicts import one_battle_per_prompt
from ours import shipped_encoder
from record import data_folder, write

from training import Comparison, PreferenceLog, load, train
from training.embed import embed_texts

CACHE = Path(__file__).parent.parent / "build" / "bench" / "vectors"
KINDS = ("scores", "battles")
N_DRAWS = 200
N_PROMPTS = 1000
N_MODELS = 5
SEED = 0
SET_STREAM = 1
MAX_ROUTE_SHARE = 0.05
"""The 97.5 % lower bound of the gain promises half of this; the other half is room for the chance of the count."""


def main() -> None:
    args = _arguments()
    started = time.perf_counter()
    # Embedded once, by all processes' parent: they only read what is there.
    embed_texts(shipped_encoder(), [one.prompt for one in source().comparisons], cache=CACHE)
    jobs = [(kind, seed) for kind in KINDS for seed in range(SEED, SEED + args.draws)]
    outcomes = spread(judge_draw, jobs, args.workers)
    numbers: dict[str, Any] = {kind: summary([one for one in outcomes if one["kind"] == kind]) for kind in KINDS}
    numbers["seconds"] = round(time.perf_counter() - started, 1)
    print(table(numbers))
    if args.draws != N_DRAWS:
        print("not the full run: nothing is written", file=sys.stderr)
        return
    arguments = {"draws": args.draws, "seed": SEED, "n_prompts": N_PROMPTS, "n_models": N_MODELS}
    write("no_signal", numbers, arguments=arguments, files=[_file()])
    fill_readme("no_signal", table(numbers))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=N_DRAWS, help=f"sets of each kind (default {N_DRAWS})")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def _file() -> Path:
    return data_folder() / "llmrouter" / "train.parquet"


@cache
def source() -> PreferenceLog:
    """Return the log that all sets are drawn from, read once per process."""
    return load(_file())


def permuted(log: PreferenceLog, seed: int) -> PreferenceLog:
    """Return a set without signal: sampled prompts and models, rows of scores dealt anew to the prompts."""
    rng = np.random.default_rng((seed, SET_STREAM))  # not the stream that ``train`` deals folds by
    rows = rng.choice(len(log), N_PROMPTS, replace=False)
    models = sorted(rng.choice(log.models, N_MODELS, replace=False).tolist())
    return PreferenceLog(
        comparisons=[
            Comparison(
                prompt=log.comparisons[row].prompt,
                scores={name: (log.comparisons[other].scores or {})[name] for name in models},
            )
            for row, other in zip(rows, rng.permutation(rows), strict=True)
        ]
    )


def judge_draw(kind: str, seed: int) -> dict[str, Any]:
    """Return what ``train`` says of one set."""
    started = time.perf_counter()
    log = permuted(source(), seed)
    if kind == "battles":
        log = one_battle_per_prompt(log, seed)
    _, report = train(log, seed=seed, cache=CACHE)
    return {
        "kind": kind,
        "seed": seed,
        "verdict": report.verdict.label,
        "gain": [report.gain.mean, report.gain.low, report.gain.high],
        "share_of_fixed": report.shares.get(report.best_fixed, 0.0),
        "seconds": time.perf_counter() - started,
    }


def summary(outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the counts of verdicts and the spread of the gains, with every draw's own numbers."""
    n = len(outcomes)
    mean, low, high = np.array([one["gain"] for one in outcomes]).T
    routed = counted(sum(one["verdict"] == "ROUTE" for one in outcomes), n)
    return {
        "route": routed | {"ok": routed["hits"] <= MAX_ROUTE_SHARE * n},
        "verdicts": dict(Counter(one["verdict"] for one in outcomes)),
        "gain_above_0": counted(int((low > 0).sum()), n),
        "gain_below_0": counted(int((high < 0).sum()), n),
        "always_fixed": counted(int(((mean == 0) & (low == high)).sum()), n),
        "gain_percentiles": dict(
            zip(("2.5", "25", "50", "75", "97.5"), np.percentile(mean, (2.5, 25, 50, 75, 97.5)).tolist(), strict=True)
        ),
        "seconds_per_draw": round(float(np.mean([one["seconds"] for one in outcomes])), 2),
        "draws": [
            {"seed": one["seed"], "verdict": one["verdict"], "gain": [round(value, 6) for value in one["gain"]]}
            | {"share_of_fixed": round(one["share_of_fixed"], 4)}
            for one in outcomes
        ],
    }


def table(numbers: dict[str, Any]) -> str:
    """Return the counts as Markdown."""
    lines = [
        "| sets without signal | ROUTE | DO NOT ROUTE | NOT ENOUGH DATA | ROUTE, % (95 % interval) | at most 5 % "
        "| never left the fixed model | gain, points: 2.5 %, median, 97.5 % of the sets |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        one = numbers[kind]
        said = [str(one["verdicts"].get(label, 0)) for label in ("ROUTE", "DO NOT ROUTE", "NOT ENOUGH DATA")]
        gains = ", ".join(f"{100 * one['gain_percentiles'][key]:+.2f}" for key in ("2.5", "50", "97.5"))
        cells = [
            f"{one['route']['n']} of {kind}",
            *said,
            share_text(one["route"]),
            "OK" if one["route"]["ok"] else "FAIL",
            str(one["always_fixed"]["hits"]),
            gains,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
