"""Is the router better than others on the same vectors and folds, and where is it not?

    WHICHMODEL_DATA=... python benchmarks/quality.py [--sets a,b] [--quick] [--draws N] [--test]

Every method learns from the same rows and is asked the same ones; peers choose their settings on inner folds of the
training rows, ours by its own selection. --test scores the published test rows and is for the close of a piece of
work. The full run writes results/quality.json (quality_test.json) and the table of README.md beside this file.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

# One thread per process, several processes: fits this small only lose by sharing a matrix product. Read by BLAS as
# numpy is imported, hence before it.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
from measures import WILLINGNESS_TO_PAY_USD, Aiq, Measure
from numpy.typing import NDArray
from ours import whichmodel
from paired import Difference, difference, holm, resampled_means
from peers import BATTLE_PEERS, BY_TASK, PEERS, REFERENCES, Config, Peer, Prediction
from pools import Split
from protocols import BUILDERS, SEED, TESTED, Options, Protocol, build
from published import checks
from record import write
from tqdm import tqdm

from training.evidence import Table
from training.fit import fit_evidence
from training.value import value_matrix

OURS = "whichmodel"
ORACLE = "oracle"
DRAWS, TEST_DRAWS = 5, 30
SUBSETS = ("routerdc-paper-rows",)
"""Sets that are a part of another one: never pooled beside it."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What one method made of one split and draw. raw: one array per measure. config: the point of its grid."""

    method: str
    draw: int
    config: Config
    raw: tuple[NDArray[np.float64], ...]
    seconds: float


def main() -> None:
    args = _arguments()
    draws = args.draws or (TEST_DRAWS if args.test else DRAWS)
    options = Options(test=args.test, draws=draws, quick=args.quick)
    names = args.sets.split(",") if args.sets else list(TESTED if args.test else _cross_fitted())
    unknown = sorted(set(names) - set(BUILDERS))
    if unknown:
        sys.exit(f"unknown sets {unknown}, expected some of {', '.join(BUILDERS)}")
    started = time.perf_counter()
    numbers: dict[str, Any] = {"checks": checks()}
    for check in numbers["checks"]:
        print(
            f"{'OK  ' if check['ok'] else 'FAIL'} {check['what']}: {check['got']:.4f}, published {check['published']}"
        )
    answers = run_all(names, options, args.workers)
    numbers["sets"], resampled = {}, {}
    for seed, name in enumerate(names, start=SEED):
        protocol = build(name, options)
        for measure_index, measure in enumerate(protocol.measures):
            key = name if measure_index == 0 else f"{name} {measure.name}"
            numbers["sets"][key], means = summary(protocol, measure_index, answers[name], seed)
            if measure_index == 0 and name not in SUBSETS:
                resampled[name] = means
    numbers |= pooled_by_labels(numbers["sets"], resampled)
    numbers["seconds"] = round(time.perf_counter() - started, 1)
    from quality_tables import fill_readme, results_table

    print(results_table(numbers))
    files = sorted({file for name in names for file in build(name, options).files})
    if args.quick or args.sets:
        print("part of the suite: nothing is written", file=sys.stderr)
        return
    arguments = {"test": args.test, "draws": draws, "seed": SEED}
    write("quality_test" if args.test else "quality", numbers, arguments=arguments, files=files)
    fill_readme()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", help=f"some of {','.join(BUILDERS)}; nothing is written then")
    parser.add_argument("--quick", action="store_true", help="600 rows a set, to see that all runs; nothing is written")
    parser.add_argument("--draws", type=int, help="draws of one battle per prompt (default 5; 30 with --test)")
    parser.add_argument("--test", action="store_true", help="score the published test rows, once, at a close")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def _cross_fitted() -> Iterator[str]:
    """Yield the sets of the cross-fitted suite."""
    return (name for name in BUILDERS if name not in SUBSETS)


def run_all(names: Sequence[str], options: Options, workers: int) -> dict[str, list[list[Answer]]]:
    """Return, per set and task, what every method answered; tasks are spread over processes."""
    jobs = [(name, index) for name in names for index in range(len(build(name, options).tasks))]
    answers: dict[str, list[list[Answer]]] = {name: [[] for _ in build(name, options).tasks] for name in names}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting = {pool.submit(run_task, name, index, options): (name, index) for name, index in jobs}
        with tqdm(total=len(jobs), unit="split", disable=None) as bar:
            for done in as_completed(waiting):
                name, index = waiting[done]
                answers[name][index] = done.result()
                bar.set_postfix_str(name)
                bar.update(1)
    return answers


def run_task(name: str, index: int, options: Options) -> list[Answer]:
    """Let every method answer one split, for every draw of its labels."""
    protocol = build(name, options)
    task = protocol.tasks[index]
    answers = []
    for draw, labels in task.draws:
        known, asked = labels.take(task.split.train), protocol.pool.table.take(task.split.asked)
        truth, costs = protocol.pool.truth[task.split.asked], mean_costs(known)
        for method, peer in methods(known).items():
            begun = time.perf_counter()
            config = choose(peer, task.split, labels, protocol.measures[0])
            prediction = peer.predict(task.split, known, config)
            raw = tuple(one.raw(prediction, asked, truth, costs) for one in protocol.measures)
            answers.append(Answer(method, draw, config, raw, time.perf_counter() - begun))
        best = Prediction(truth, costs_usd=asked.costs_usd if _priced(asked) else None)
        raw = tuple(one.raw(best, asked, truth, costs) for one in protocol.measures)
        answers.append(Answer(ORACLE, draw, (), raw, 0.0))
    return answers


def methods(known: Table) -> dict[str, Peer]:
    """Return the methods that can learn from this kind of labels, ours first."""
    out = {OURS: Peer(whichmodel, ((),))}
    out |= {name: one for name, one in PEERS.items() if known.kind == "scores" or not one.needs_scores}
    if known.kind == "battles":
        out |= BATTLE_PEERS
    has_tasks = len(np.unique(known.intents[known.intents >= 0])) > 1
    return out | {
        name: one
        for name, one in REFERENCES.items()
        if (has_tasks or name not in BY_TASK) and (known.kind == "scores" or not one.needs_scores)
    }


def choose(peer: Peer, split: Split, labels: Table, measure: Measure) -> Config:
    """Return the point of the peer's grid with the best measure on inner folds of the training rows."""
    if len(peer.grid) == 1:
        return peer.grid[0]
    raw: list[list[NDArray[np.float64]]] = [[] for _ in peer.grid]
    for inner in split.inner:
        known, asked = labels.take(inner.train), labels.take(inner.asked)
        evidence = fit_evidence(known, np.ones(len(known), dtype=bool), use_intents=False)
        # Only labels are known here: scores are their own value, battles are valued doubly robustly.
        truth = value_matrix(asked, evidence, np.arange(len(asked))).values
        costs = mean_costs(known)
        for index, config in enumerate(peer.grid):
            raw[index].append(measure.raw(peer.predict(inner, known, config), asked, truth, costs))
    sign = 1.0 if measure.higher_is_better else -1.0
    worth = [sign * measure.score(np.concatenate(one)) for one in raw]
    return peer.grid[int(np.argmax(worth))]


def mean_costs(table: Table) -> NDArray[np.float64]:
    """Return each model's mean cost in USD, float64 (n_models,), or zeros where the set has no costs."""
    return table.costs_usd.mean(axis=0) if _priced(table) else np.zeros(len(table.models))


def _priced(table: Table) -> bool:
    return not bool(np.isnan(table.costs_usd).any())


def summary(
    protocol: Protocol, measure_index: int, answers: list[list[Answer]], seed: int
) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Return a set's numbers by one measure, and every method's resampled means."""
    measure = protocol.measures[measure_index]
    rows, values, per_draw = collect(protocol, measure_index, answers)
    groups, strata = protocol.pool.groups[rows], protocol.strata[rows]
    names = list(values)
    means = resampled_means(np.stack([values[name] for name in names]), groups, strata, seed)
    by_name = dict(zip(names, means, strict=True))
    used = Counter((one.method, one.config) for task in answers for one in task)
    seconds = Counter[str]()
    for one in (one for task in answers for one in task):
        seconds[one.method] += one.seconds
    out: dict[str, Any] = {
        "title": protocol.title,
        "labels": protocol.tasks[0].draws[0][1].kind,
        "measure": measure.name,
        "higher_is_better": measure.higher_is_better,
        "n_rows": len(np.unique(rows)),
        "n_draws": len(per_draw[names[0]]),
        "methods": {},
    }
    sign = 1.0 if measure.higher_is_better else -1.0
    for name in names:
        low, high = np.percentile(by_name[name], (2.5, 97.5))
        mean = float(values[name].mean())
        paired = difference(sign * (float(values[OURS].mean()) - mean), sign * (by_name[OURS] - by_name[name]))
        out["methods"][name] = {
            "mean": mean,
            "low": float(low),
            "high": float(high),
            "sd_over_draws": float(np.std(per_draw[name], ddof=1)) if len(per_draw[name]) > 1 else None,
            "ours_minus_this": None if name == OURS else asdict(paired),
            "settings": {str(config): n for (method, config), n in used.items() if method == name and config},
            "seconds": round(seconds[name], 1),
        }
    if protocol.ignored is not None:
        keep = ~protocol.ignored[rows]
        out["without_shared"] = {name: float(_rows_of(protocol, measure_index, answers, name, keep)) for name in names}
    if isinstance(measure, Aiq):
        out["curves"] = {name: _curve(measure, answers, measure_index, name) for name in names}
    return out, by_name


def collect(
    protocol: Protocol, measure_index: int, answers: list[list[Answer]]
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]], dict[str, list[float]]]:
    """Return (asked rows, each method's value per row, its mean per draw); rows repeat over draws."""
    measure = protocol.measures[measure_index]
    draws = sorted({one.draw for task in answers for one in task})
    names = list(dict.fromkeys(one.method for task in answers for one in task))
    rows = []
    values: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for draw in draws:
        of_draw = [
            (task.split.asked, {one.method: one.raw[measure_index] for one in got if one.draw == draw})
            for task, got in zip(protocol.tasks, answers, strict=True)
            if any(one.draw == draw for one in got)
        ]
        rows.append(np.concatenate([asked for asked, _ in of_draw]))
        for name in names:
            values[name].append(measure.rows(np.concatenate([got[name] for _, got in of_draw])))
    known = {name: np.concatenate(one) for name, one in values.items() if not np.isnan(one[0]).any()}
    return np.concatenate(rows), known, {name: [float(one.mean()) for one in values[name]] for name in known}


def _rows_of(
    protocol: Protocol, measure_index: int, answers: list[list[Answer]], name: str, keep: NDArray[np.bool_]
) -> float:
    raw = np.concatenate([one.raw[measure_index] for task in answers for one in task if one.method == name])
    return protocol.measures[measure_index].score(raw[keep])


def _curve(measure: Aiq, answers: list[list[Answer]], measure_index: int, name: str) -> dict[str, list[list[float]]]:
    raw = np.concatenate([one.raw[measure_index] for task in answers for one in task if one.method == name])
    points = measure.points(raw)
    n_fixed = len(points) - len(WILLINGNESS_TO_PAY_USD)
    return {"routed": points[:-n_fixed].tolist(), "fixed": points[-n_fixed:].tolist()}


def pooled_by_labels(
    sets: dict[str, Any], resampled: dict[str, dict[str, NDArray[np.float64]]]
) -> dict[str, dict[str, Any]]:
    """Return the comparison over all sets, and apart over those with scores and those with battles to learn from."""
    out = {"pooled": pooled(sets, resampled)}
    for kind in ("scores", "battles"):
        own = {key: means for key, means in resampled.items() if sets[key]["labels"] == kind}
        out[f"pooled_{kind}"] = pooled(sets, own)
    return out


def pooled(sets: dict[str, Any], resampled: dict[str, dict[str, NDArray[np.float64]]]) -> dict[str, Any]:
    """Return ours minus every other method in the mean over the sets that have it, sets resampled apart.

    Holm's correction is over the peers of this one comparison.
    """
    names = [name for name in dict.fromkeys(one for means in resampled.values() for one in means) if name != OURS]
    found: dict[str, Difference] = {}
    n_sets = {}
    for name in names:
        having = [key for key, means in resampled.items() if name in means]
        n_sets[name] = len(having)
        drawn = np.mean([resampled[key][OURS] - resampled[key][name] for key in having], axis=0)
        mean = np.mean([sets[key]["methods"][name]["ours_minus_this"]["mean"] for key in having])
        found[name] = difference(float(mean), drawn)
    adjusted = holm({name: one.p for name, one in found.items() if name in PEERS})
    return {name: asdict(one) | {"n_sets": n_sets[name], "p_holm": adjusted.get(name)} for name, one in found.items()}


if __name__ == "__main__":
    main()
