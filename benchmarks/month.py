"""A month of use: start from 300 rows, serve, see the outcome of the chosen model alone, retrain every night.

    WHICHMODEL_DATA=... python benchmarks/month.py [--per-day 40]

Four fifths of llmrouter's training prompts are asked in random order, the last fifth (whole groups of near-duplicates)
is the fixed set that every night's artifact is measured on. Arms:

- full: every model's score of every prompt that was asked becomes known. What partial feedback costs is measured
  against it;
- plain: the chosen model's score alone, a tenth of the decisions explore (`Policy.explore_share`), all rows alike;
- inverse: the same, each row weighted by one over its decision's propensity, at most MAX_WEIGHT;
- greedy: plain, without exploration.

Quality is that of the artifact's own choices ("routed"), and of what it serves, its verdict respected ("served").
Training is `training.train` with fewer settings to try than it has (GRID), which the length of a benchmark asks for.
"""

import argparse
import random
import time
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from record import data_folder, write

from router.artifact import RouterArtifact
from router.encoder import OnnxEncoder
from router.router import Router
from router.types import Policy
from training import Comparison, PreferenceLog, load, train
from training.embed import embed_texts
from training.evidence import Table, tabulate
from training.split import deal_folds, near_duplicate_groups
from training.value import paired_gain

BUILD = Path(__file__).parent.parent / "build" / "bench" / "month"
PLOT = Path(__file__).parent.parent / "docs" / "month.png"
N_START, N_DAYS = 300, 30
EXPLORE_SHARE = 0.1
MAX_WEIGHT = 20.0
ARMS = {"full": EXPLORE_SHARE, "plain": EXPLORE_SHARE, "inverse": EXPLORE_SHARE, "greedy": 0.0}
GRID: dict[str, tuple[Any, ...]] = {
    "N_NEIGHBORS": (100, 300),
    "TEMPERATURES": (0.2,),
    "FEATURE_WEIGHTS": (1.0,),
    "SHRINKAGES": (3.0, 10.0),
    "GUARDS": (0.5,),
    "INTENT_PRIORS": (False,),
}
COLORS = {"full": "#2a6f97", "plain": "#e09f3e", "inverse": "#9e2a2b", "greedy": "#6a994e"}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--per-day", type=int, default=40)
    arguments.add_argument("--seed", type=int, default=0)
    args = arguments.parse_args()
    source = data_folder() / "llmrouter" / "train.parquet"
    started = time.perf_counter()
    table = tabulate(load(source))
    groups = near_duplicate_groups(embed_texts(OnnxEncoder.load("static"), table.texts, cache=BUILD).vectors)
    folds = deal_folds(groups, 5, args.seed)
    tested = np.flatnonzero(folds == 0)
    asked = np.random.default_rng(args.seed).permutation(np.flatnonzero(folds != 0))
    worth = table.scores[tested]
    fixed = int(np.argmax(worth.mean(axis=0)))
    arms: dict[str, Any] = {}
    routed: dict[str, NDArray[np.float64]] = {}
    for name, share in ARMS.items():
        days, routed[name] = run_arm(table, asked, tested, name, share, args.per_day, args.seed)
        arms[name] = days
        print(f"{name:<8} {time.perf_counter() - started:5.0f} s", flush=True)
    last = {}
    for name, choices in routed.items():
        against = {"best fixed": worth[:, fixed]} | ({} if name == "full" else {"full": routed["full"]})
        last[name] = {
            other: dict(zip(("mean", "low", "high"), interval(choices - values, groups[tested]), strict=True))
            for other, values in against.items()
        }
    numbers = {
        "best_fixed": {"model": table.models[fixed], "quality": float(worth[:, fixed].mean())},
        "oracle": float(worth.max(axis=1).mean()),
        "n_tested": len(tested),
        "n_asked_per_day": args.per_day,
        "explore_share": EXPLORE_SHARE,
        "days": arms,
        "last_day": last,
        "seconds": round(time.perf_counter() - started),
    }
    draw(numbers, PLOT)
    for name, days in arms.items():
        shown = ", ".join(f"day {day}: {days['routed'][day]:.4f}" for day in (0, 5, 10, 20, 30))
        mean = float(np.mean(days["earned"]))
        print(f"{name:<8} {shown}; earned while serving {mean:.4f}; last day {last[name]}")
    print(f"best fixed {numbers['best_fixed']}, oracle {numbers['oracle']:.4f}")
    write("month", numbers, arguments={"per_day": args.per_day, "seed": args.seed, "grid": GRID}, files=[source])


def run_arm(
    table: Table,
    asked: NDArray[np.int64],
    tested: NDArray[np.int64],
    arm: str,
    explore_share: float,
    per_day: int,
    seed: int,
) -> tuple[dict[str, list[Any]], NDArray[np.float64]]:
    """Return what each night's artifact is worth (the first is before the first day), and the last one's scores.

    routed, served: on the tested prompts. earned: mean score of what was answered on that day, exploration included.
    verdicts: of each artifact. The scores are float64 (n_tested,).
    """
    rolls = random.Random(seed)
    rows = [scored(table, row) for row in asked[:N_START].tolist()]
    days: dict[str, list[Any]] = {"routed": [], "served": [], "earned": [], "verdicts": []}
    scores = np.zeros(len(tested))
    for day in range(N_DAYS + 1):
        artifact = trained(rows, seed)
        router = Router(artifact)
        column = np.array([table.models.index(name) for name in artifact.models])
        choices = decided(router, table, tested, Policy(route_anyway=True))
        scores = table.scores[tested, column[choices]]
        fixed = column[artifact.models.index(artifact.best_fixed)]
        days["routed"].append(float(scores.mean()))
        days["served"].append(float((scores if artifact.verdict.routes else table.scores[tested, fixed]).mean()))
        days["verdicts"].append(artifact.verdict.label)
        if day == N_DAYS:
            break
        start = N_START + day * per_day
        today = asked[start : start + per_day].tolist()
        earned = []
        # A decision's id is also its roll; drawn with a seed, a run can be repeated.
        ids = (f"{rolls.getrandbits(128):032x}" for _ in today)
        with mock.patch("router.rung.new_decision_id", side_effect=ids):
            for row in today:
                policy = Policy(explore_share=explore_share)
                decision = router.answer_of("static", table.originals[row], policy)
                chosen = table.models.index(decision.model)
                earned.append(table.scores[row, chosen])
                weight = min(1.0 / decision.propensity, MAX_WEIGHT) if arm == "inverse" else 1.0
                rows.append(scored(table, row, None if arm == "full" else chosen, weight))
        days["earned"].append(float(np.mean(earned)))
        router.close()
    return days, scores


def trained(rows: list[Comparison], seed: int) -> RouterArtifact:
    weights = mock.patch("training.build.FEATURE_WEIGHTS", GRID["FEATURE_WEIGHTS"])
    with mock.patch.multiple("training.select", **GRID), weights:
        return train(PreferenceLog(comparisons=rows), seed=seed, cache=BUILD)[0]


def scored(table: Table, row: int, only: int | None = None, weight: float = 1.0) -> Comparison:
    """Return what is known of a prompt: every model's score, or that of one column."""
    columns = range(len(table.models)) if only is None else (only,)
    scores = {table.models[column]: float(table.scores[row, column]) for column in columns}
    return Comparison(prompt=table.originals[row], scores=scores, weight=weight)


def decided(router: Router, table: Table, rows: NDArray[np.int64], policy: Policy) -> NDArray[np.int64]:
    """Return the artifact's columns that are chosen on ``rows``: int64 (n,)."""
    number = {name: column for column, name in enumerate(router.artifact.models)}
    return np.array(
        [number[router.answer_of("static", table.originals[row], policy, explain=False).model] for row in rows.tolist()]
    )


def interval(difference: NDArray[np.float64], groups: NDArray[np.int64]) -> tuple[float, float, float]:
    mean, error = paired_gain(difference, np.ones(len(difference)), groups)
    return mean, mean - 1.96 * error, mean + 1.96 * error


def draw(numbers: dict[str, Any], target: Path) -> None:
    """Draw quality per day, the arms against the best fixed model and against each other."""
    figure, axes = plt.subplots(figsize=(10, 4.2), layout="constrained")
    for name, days in numbers["days"].items():
        axes.plot(range(len(days["routed"])), days["routed"], color=COLORS[name], label=name)
    fixed = numbers["best_fixed"]
    axes.axhline(fixed["quality"], color="black", linestyle="--", label=f"best fixed in hindsight ({fixed['model']})")
    axes.set_xlabel(f"day, {numbers['n_asked_per_day']} prompts each; {N_START} scored rows before the first")
    axes.set_ylabel(f"quality on {numbers['n_tested']} prompts never asked")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(target, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
