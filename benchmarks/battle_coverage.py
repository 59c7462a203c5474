"""Does the interval of the gain on battles cover the true gain?

    WHICHMODEL_DATA=... python benchmarks/battle_coverage.py [--draws N] [--workers N]

Rows of llmrouter with all nine scores, so that every battle's outcome is known. Each draw keeps one battle of two
random models per row, estimates the gain from those battles alone as `train` does (training/value.py), and asks whether
its 95 % interval holds the true gain of the very same choices: their win rate against a uniformly random opponent, 0.5
against themselves, minus the fixed model's. Three questions:

- train: the choices that `train` cross-fits to the draw's battles, on 2,000 rows that stay the same.
- fixed routers: choices that do not depend on the draw, on rows drawn with replacement, where the truth is the gain
  over all rows. One router takes the best model of the row's task, the other deals the same choices to the wrong rows.
- a learning router: in each of five folds, the model that the battles of the other folds say is best at the row's
  task; its truth over all rows is known as well. What it adds to the fixed routers is cross-fitting: a fold's battles
  move the choices of the others, so that the errors of the folds go together; the interval is widened for it
  (training/value.py, cross_fit_factor).

A full run writes results/battle_coverage.json and the table of README.md beside this file.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

# One thread per process, several processes. Read by BLAS as numpy is imported, hence before it.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
from draws import counted, fill_readme, share_text, spread
from numpy.typing import NDArray
from ours import ground
from pools import Pool, Split, one_battle_each
from protocols import Options, build
from record import write

from training.cross_fit import Selection
from training.evidence import Table
from training.fit import fit_evidence
from training.value import ValueMatrix, cross_fit_factor, paired_gain, value_matrix
from training.verdict import gain_of

TRAIN, LEARNING = "train", "learning the best of the task"
TASK_BEST, MISDEALT = "best of the task", "best of the task, misdealt"
QUESTIONS = {
    TRAIN: "choices of `train`, the same rows",
    LEARNING: "a router that learns the best model of the task on the other folds, other rows",
    TASK_BEST: "a fixed router (best model of the task), other rows",
    MISDEALT: "a fixed router (its choices dealt to the wrong rows), other rows",
}
N_DRAWS = 200
N_ROWS = 2000
N_FOLDS = 5
SEED = 0
FIRST_DRAW = 1000  # other seeds than those that rows and folds are dealt by
ROW_STREAM = 1
MIN_COVERAGE = 0.9


def main() -> None:
    args = _arguments()
    started = time.perf_counter()
    protocol = build("llmrouter", Options())  # embedded once, by all processes' parent
    jobs = [(question, seed) for question in QUESTIONS for seed in range(FIRST_DRAW, FIRST_DRAW + args.draws)]
    outcomes = spread(run_draw, jobs, args.workers)
    numbers: dict[str, Any] = {
        question: summary([one for one in outcomes if one["question"] == question]) for question in QUESTIONS
    }
    numbers["seconds"] = round(time.perf_counter() - started, 1)
    print(table(numbers))
    if args.draws != N_DRAWS:
        print("not the full run: nothing is written", file=sys.stderr)
        return
    arguments = {"draws": args.draws, "seed": SEED, "first_draw": FIRST_DRAW, "n_rows": N_ROWS}
    write("battle_coverage", numbers, arguments=arguments, files=list(protocol.files))
    fill_readme("coverage", table(numbers))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=N_DRAWS, help=f"draws per question (default {N_DRAWS})")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


@cache
def population() -> Pool:
    """Return all rows with all their scores, read once per process."""
    return build("llmrouter", Options()).pool


@cache
def fixed_set() -> Split:
    """Return the rows that `train` is given in every draw."""
    rows = np.sort(np.random.default_rng(SEED).choice(len(population().table), N_ROWS, replace=False))
    return Split(population(), rows, rows, SEED)


def win_rates(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return every model's win rate on every row against a uniformly random one, float64 (n_rows, n_models).

    A tie is half a win, and so is the model itself as the opponent, as training/value.py has it. With two random
    models in each battle, the logged opponents are uniform.
    """
    return np.stack(
        [0.5 + 0.5 * np.sign(scores[:, [model]] - scores).mean(axis=1) for model in range(scores.shape[1])], axis=1
    )


def run_draw(question: str, seed: int) -> dict[str, Any]:
    """Return the estimated gain of one draw and the true one."""
    started = time.perf_counter()
    estimated, true = _of_train(seed) if question == TRAIN else _of_tasks(question, seed)
    mean, low, high = estimated
    return {
        "question": question,
        "seed": seed,
        "gain": [mean, low, high],
        "true": true,
        "seconds": time.perf_counter() - started,
    }


def _of_train(seed: int) -> tuple[tuple[float, float, float], float]:
    split = fixed_set()
    scored = population().table.take(split.train)
    choices, fixed, worth = cross_fitted(split, one_battle_each(scored, seed))
    wins, at = win_rates(scored.scores), np.arange(len(scored))
    true = float((wins[at, choices] - wins[at, fixed]).mean())
    factor = cross_fit_factor(N_FOLDS)
    return _estimated(worth, choices, fixed, population().groups[split.train], factor), true


def cross_fitted(split: Split, battles: Table) -> tuple[NDArray[np.int64], NDArray[np.int64], ValueMatrix]:
    """Return (choices, fixed models, worth) as training/build.py makes them for its report, for every training row."""
    prepared = ground(split)
    fit = Selection(battles, prepared.places, prepared.folds, prepared.cluster_folds, _silent).cross_fitted()
    return fit.choose(), fit.fixed, fit.worth


def _of_tasks(question: str, seed: int) -> tuple[tuple[float, float, float], float]:
    """Ask a router that knows the row's task alone, on rows drawn one by one: independent, whatever their likeness."""
    scored = population().table
    wins = win_rates(scored.scores)
    # A stream of its own: by the seed of the battles, a row would tell which model fights there.
    rows = np.random.default_rng((seed, ROW_STREAM)).integers(len(scored), size=N_ROWS)
    battles = one_battle_each(scored.take(rows), seed)
    choices, fixed = choices_by_fold(battles, scored, wins, question)
    folds, at = _folds(N_ROWS), np.arange(len(scored))
    gains = [(wins[at, own] - wins[:, best]).mean() for own, best in zip(choices, fixed, strict=True)]
    # The fixed routers' folds do not decide one another.
    factor = cross_fit_factor(N_FOLDS) if question == LEARNING else 1.0
    estimated = _estimated(value_of(battles), choices[folds, rows], fixed[folds], np.arange(N_ROWS), factor)
    return estimated, float(np.array(gains)[folds].mean())


def choices_by_fold(
    battles: Table, scored: Table, wins: NDArray[np.float64], question: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each fold's choices on all rows of ``scored``, int64 (n_folds, n_rows), and its fixed model."""
    if question != LEARNING:
        best, fixed = task_best(wins, scored.intents)
        choices = best[scored.intents]
        if question == MISDEALT:
            choices = np.random.default_rng(SEED).permutation(choices)
        return np.tile(choices, (N_FOLDS, 1)), np.full(N_FOLDS, fixed)
    folds, found = _folds(len(battles)), []
    for fold in range(N_FOLDS):
        known = np.flatnonzero(folds != fold)
        evidence = fit_evidence(battles, folds != fold, use_intents=False)
        best, fixed = task_best(value_matrix(battles, evidence, known).values, battles.intents[known])
        found.append((best[scored.intents], fixed))
    return np.stack([own for own, _ in found]), np.array([fixed for _, fixed in found])


def task_best(worth: NDArray[np.float64], tasks: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Return (the best model of each task, int64 (n_tasks,), the best over all), which stands in for unseen tasks.

    worth: float64 (n_rows, n_models). tasks: int64 (n_rows,), numbers of the log's intents.
    """
    fixed = int(np.argmax(worth.mean(axis=0)))
    best = np.full(len(population().table.intent_names), fixed)
    for task in np.unique(tasks):
        best[task] = np.argmax(worth[tasks == task].mean(axis=0))
    return best, fixed


def _folds(n_rows: int) -> NDArray[np.int64]:
    return np.arange(n_rows) % N_FOLDS


def value_of(battles: Table) -> ValueMatrix:
    """Return the value of every choice on every row, the outcome model of each fold fitted on the others."""
    folds = _folds(len(battles))
    values, correction = np.zeros((2, *battles.scores.shape))
    weight = np.zeros(len(battles))
    for fold in range(N_FOLDS):
        rows = np.flatnonzero(folds == fold)
        worth = value_matrix(battles, fit_evidence(battles, folds != fold, use_intents=False), rows)
        values[rows], weight[rows], correction[rows] = worth.values, worth.weight, worth.correction
    return ValueMatrix(values, weight, correction)


def _estimated(
    worth: ValueMatrix,
    choices: NDArray[np.int64],
    fixed: NDArray[np.int64],
    groups: NDArray[np.int64],
    error_factor: float,
) -> tuple[float, float, float]:
    mean, error = paired_gain(worth.of(choices) - worth.of(fixed), worth.weight, groups)
    gain = gain_of(mean, error_factor * error)
    return gain.mean, gain.low, gain.high


def summary(outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the coverage, and how the estimates lie about the truth, in units of quality."""
    mean, low, high = np.array([one["gain"] for one in outcomes]).T
    true = np.array([one["true"] for one in outcomes])
    error = mean - true
    n = len(outcomes)
    covered = counted(int(((low <= true) & (true <= high)).sum()), n)
    return {
        "covered": covered | {"ok": covered["share"] >= MIN_COVERAGE},
        "above": int((true > high).sum()),
        "below": int((true < low).sum()),
        "true_gain": float(true.mean()),
        "mean_error": float(error.mean()),
        "standard_error_of_mean_error": float(error.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
        "spread_of_errors": float(error.std()),
        "mean_half_width": float((high - low).mean() / 2),
        "no_width": int((low == high).sum()),
        "seconds_per_draw": round(float(np.mean([one["seconds"] for one in outcomes])), 2),
        "draws": [
            {"seed": one["seed"], "gain": [round(value, 6) for value in one["gain"]], "true": round(one["true"], 6)}
            for one in outcomes
        ],
    }


def table(numbers: dict[str, Any]) -> str:
    """Return the coverage as Markdown."""
    lines = [
        "| one battle a row, gain over the fixed model | draws | true gain, points | mean error | spread of errors "
        "| mean half-width | truth covered, % (95 % interval) | at least 90 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for question, title in QUESTIONS.items():
        one = numbers[question]
        cells = [
            title,
            str(one["covered"]["n"]),
            f"{100 * one['true_gain']:+.2f}",
            f"{100 * one['mean_error']:+.2f}",
            f"{100 * one['spread_of_errors']:.2f}",
            f"{100 * one['mean_half_width']:.2f}",
            share_text(one["covered"]),
            "OK" if one["covered"]["ok"] else "FAIL",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _silent(stage: str, done: int, total: int) -> None:
    """Report to nobody: progress is counted in draws."""


if __name__ == "__main__":
    main()
