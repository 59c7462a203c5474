"""Published numbers that follow from the labels alone, recomputed: is the harness scoring as the publishers did?

No router is run here and nothing is learnt; the test files are read for their labels only.
"""

from typing import Any

import numpy as np
import pandas as pd
from measures import Apgr
from peers import Prediction
from protocols import GPT_4, MIXTRAL, ROUTERDC_TASKS, file_of
from record import data_folder

from training import load
from training.metrics import aiq


def checks() -> list[dict[str, Any]]:
    """Return {what, got, published, ok} per number; ok where it rounds to the published digits."""
    return [*_routerdc(), *_routerbench(), *_routellm(), *_commercial()]


def _routerdc() -> list[dict[str, Any]]:
    """RouterDC's in-distribution test files (Chen et al. 2024): per cent, unweighted mean of five tasks."""
    folder = data_folder() / "routerdc"
    single, best = [], []
    for task in ROUTERDC_TASKS:
        log = load(file_of(folder, task, "test"))
        scores = np.array([[row.scores[name] for name in log.models] for row in log.comparisons])
        single.append(scores.mean(axis=0))
        best.append(scores.max(axis=1).mean())
    means = 100 * np.mean(single, axis=0)
    return [
        _check("routerdc test files, best single model, %", float(means.max()), 54.56, 2),
        _check("routerdc test files, random model, %", float(means.mean()), 47.67, 2),
        _check("routerdc test files, oracle, %", 100 * float(np.mean(best)), 77.52, 2),
    ]


def _routerbench() -> list[dict[str, Any]]:
    """The zero router's AIQ on three test sets, RouterBench's formula on the range of single-model costs."""
    rows = pd.read_parquet(data_folder() / "routerbench" / "test.parquet")
    models = [name.removesuffix("|total_cost") for name in rows if name.endswith("|total_cost")]
    out = []
    for task, published in (("arc-challenge", 0.9292), ("mbpp", 0.6832), ("winogrande", 0.7901)):
        own = rows[rows["eval_name"].str.startswith(task)]
        points = np.column_stack([own[[f"{name}|total_cost" for name in models]].mean(), own[models].mean()])
        got = aiq(points, float(points[:, 0].min()), float(points[:, 0].max()))
        out.append(_check(f"routerbench {task}, zero router's AIQ", got, published, 4))
    return out


def _routellm() -> list[dict[str, Any]]:
    """APGR of the best possible order, RouteLLM's curve of 11 points, contaminated rows left out."""
    out = []
    for name, published in (("mmlu", 1.268), ("gsm8k", 1.115)):
        rows = pd.read_parquet(data_folder() / "routellm" / f"{name}.parquet")
        scores = rows.loc[~rows["contaminated"], [MIXTRAL, GPT_4]].to_numpy(dtype=np.float64)
        measure = Apgr(weak=0, strong=1)
        raw = measure.raw(Prediction(scores), None, scores, np.zeros(2))
        out.append(_check(f"routellm {name}, APGR of the best order", float(measure.rows(raw).mean()), published, 3))
    return out


def _commercial() -> list[dict[str, Any]]:
    """MT-Bench scores of two commercial routers (RouteLLM's benchmarks/README.md), as FastChat counts them.

    The mean over both turns of all 80 questions, contaminated ones too; a judgement that could not be read (-1, one of
    Unify's) is missing. Unify's published share of GPT-4 calls, 45.625 % (73 of 160 turns), does not follow from the
    files: they name one model per question, GPT-4 for 40 of 80.
    """
    rows = pd.read_parquet(data_folder() / "routellm" / "mtbench_judgements.parquet")
    means = rows[rows["score"] >= 0].groupby("model")["score"].mean()
    return [
        _check("routellm mt-bench, Unify's router", float(means["unify"]), 8.757862, 6),
        _check("routellm mt-bench, Martian's router", float(means["martian"]), 8.3125, 4),
    ]


def _check(what: str, got: float, published: float, digits: int) -> dict[str, Any]:
    # One unit of the last published digit: sums in another order may round the other way.
    return {"what": what, "got": got, "published": published, "ok": abs(got - published) < 1.01 * 10.0**-digits}
