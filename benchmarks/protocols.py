"""The sets and how each is split and scored; docs of the published protocols stand beside each builder.

Without ``test`` only training rows are read, and every set is scored cross-fitted on them. With it, methods learn from
all training rows and are scored on the published test rows. DATA.md says where the files come from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from measures import Aiq, Apgr, LogLoss, Measure, Value
from numpy.typing import NDArray
from ours import shipped_encoder
from pools import Pool, Split, cross_fit, one_battle_each, stack
from record import data_folder

from router.prompt import find_template
from training import Comparison, PreferenceLog, load
from training.embed import embed_texts
from training.evidence import Table, tabulate
from training.split import near_duplicate_groups

CACHE = Path(__file__).parent.parent / "build" / "bench" / "vectors"
N_FOLDS = 5
SEED = 0
MMLU_TRAIN_ROWS = 1500
MMLU_DRAWS = 10
PAPER_ROWS_PER_TASK = 1000
QUICK_ROWS = 600
ROUTERDC_TASKS = ("mmlu", "gsm8k", "cmmlu", "arc_challenge", "humaneval")
MIXTRAL, GPT_4 = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"


@dataclass(frozen=True, slots=True)
class Options:
    """test: score published test rows instead of cross-fitting. draws: of one battle per prompt. quick: few rows."""

    test: bool = False
    draws: int = 5
    quick: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One split with the labels of one or more draws. draws: (number of the draw, table of the pool's labels)."""

    split: Split
    draws: tuple[tuple[int, Table], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Protocol:
    """One row block of the results: pool, splits, and the measures, of which the first chooses the peers' settings.

    strata: int64 (n_rows,), resampled apart. ignored: bool (n_rows,), asked rows left out in a second count. files:
    what was read.
    """

    title: str
    pool: Pool
    tasks: tuple[Task, ...]
    measures: tuple[Measure, ...]
    strata: NDArray[np.int64]
    files: tuple[Path, ...]
    ignored: NDArray[np.bool_] | None = None


def llmrouter(options: Options) -> Protocol:
    """LLMRouter's 5,608 training queries, 5-fold; or its test queries that are not in train (in_other_split)."""
    pool, train, asked, files = _llmrouter_rows(options)
    splits = _splits(pool, train, asked)
    title = "llmrouter, its 381 unseen test rows" if options.test else "llmrouter, 5-fold"
    return Protocol(title, pool, _labelled(pool, splits), (Value(),), _one(pool), files)


def one_battle(options: Options) -> Protocol:
    """The same rows, each reduced to one battle of two random models; choices are scored with all the scores."""
    pool, train, asked, files = _llmrouter_rows(options)
    draws = [(draw, one_battle_each(pool.table, draw)) for draw in range(options.draws)]
    splits = _splits(pool, train, asked)
    if options.test:  # one split: its draws are spread over the processes instead
        tasks = tuple(Task(one, (draw,)) for one in splits for draw in draws)
    else:
        tasks = tuple(Task(one, tuple(draws)) for one in splits)
    title = f"llmrouter, one battle a prompt, {options.draws} draws" + (", 381 test rows" if options.test else "")
    return Protocol(title, pool, tasks, (Value(),), _one(pool), files)


def routerdc(options: Options) -> Protocol:
    """RouterDC's five tasks (Chen et al. 2024): one model per question, unweighted mean of the tasks' accuracies.

    Scored as evaluation_router.py does: right or wrong for multiple choice, the pass rate otherwise. Questions that
    stand in both splits (19 in the files) are counted, and left out in a second count.
    """
    return _routerdc(options, None)


def routerdc_paper_rows(options: Options) -> Protocol:
    """The same with the paper's training rows: the first 1,000 of each task's file, 3,935 in all."""
    return _routerdc(options, PAPER_ROWS_PER_TASK)


def _routerdc(options: Options, per_task: int | None) -> Protocol:
    folder = data_folder() / "routerdc"
    files = [file_of(folder, task, "train") for task in ROUTERDC_TASKS]
    log = PreferenceLog(comparisons=[row for file in files for row in load(file).comparisons[:per_task]])
    train = _quick(tabulate(log), options)
    n_train = f"{len(log):,} training rows"
    if not options.test:
        pool = _pool([train])
        rows = np.arange(len(train))
        tasks = _labelled(pool, cross_fit(pool, rows, N_FOLDS, SEED))
        title = f"routerdc, mean of 5 tasks, 5-fold on {n_train}"
        return Protocol(title, pool, tasks, (Value(by_task=True),), pool.table.intents, tuple(files))
    test_files = [file_of(folder, task, "test") for task in ROUTERDC_TASKS]
    asked = [tabulate(load(file), models=train.models) for file in test_files]
    pool = _pool([train, *asked])
    rows = np.arange(len(pool.table))
    split = Split(pool, rows[: len(train)], rows[len(train) :], SEED)
    known = set(train.originals)
    shared = np.array([text in known for text in pool.table.originals])
    title = f"routerdc, mean of 5 tasks, test files, {n_train}"
    measures = (Value(by_task=True),)
    return Protocol(
        title, pool, _labelled(pool, [split]), measures, pool.table.intents, (*files, *test_files), ignored=shared
    )


def mmlu(options: Options) -> Protocol:
    """RouteLLM's MMLU rows (Ong et al. 2024) without the contaminated ones: draws of 1,500 rows to learn from.

    Asked are the 1,500 themselves, 5-fold, or with ``test`` all the others. Repeated prompts are one row.
    """
    pool, file = _routellm("mmlu", options)
    splits = []
    for draw in range(1 if options.quick else MMLU_DRAWS):
        order = np.random.default_rng(draw).permutation(len(pool.table))
        some, rest = np.sort(order[:MMLU_TRAIN_ROWS]), np.sort(order[MMLU_TRAIN_ROWS:])
        parts = [Split(pool, some, rest, SEED)] if options.test else cross_fit(pool, some, N_FOLDS, SEED)
        splits += [Task(one, ((draw, pool.table),)) for one in parts]
    where = "the rest" if options.test else "5-fold inside"
    n_draws = len({task.draws[0][0] for task in splits})
    title = f"routellm mmlu, {n_draws} draws of 1,500 rows, {where}"
    return Protocol(title, pool, tuple(splits), (_apgr(pool.table),), _one(pool), (file,))


def gsm8k(options: Options) -> Protocol:
    """RouteLLM's GSM8K rows without the contaminated ones, 5-fold; the set has no separate training rows."""
    pool, file = _routellm("gsm8k", options)
    splits = cross_fit(pool, np.arange(len(pool.table)), N_FOLDS, SEED)
    return Protocol("routellm gsm8k, 5-fold", pool, _labelled(pool, splits), (_apgr(pool.table),), _one(pool), (file,))


def routerbench(options: Options) -> Protocol:
    """Three RouterBench tasks pooled, exemplars cut, no task label: AIQ from the cheapest to the dearest model."""
    folder = data_folder() / "routerbench"
    file = folder / "train.parquet"
    log = load(file)
    train = _quick(tabulate(log), options)
    if not options.test:
        pool = _pool([train])
        splits = cross_fit(pool, np.arange(len(train)), N_FOLDS, SEED)
        title = "routerbench, 3 tasks pooled, 5-fold"
        return Protocol(title, pool, _labelled(pool, splits), (Aiq(),), _one(pool), (file,))
    template = find_template([one.prompt for one in log.comparisons])
    test_file = folder / "test.parquet"
    asked = tabulate(load(test_file), template=template, models=train.models)
    pool = _pool([train, asked])
    rows = np.arange(len(pool.table))
    split = Split(pool, rows[: len(train)], rows[len(train) :], SEED)
    title = "routerbench, 3 tasks pooled, test rows"
    return Protocol(title, pool, _labelled(pool, [split]), (Aiq(),), _one(pool), (file, test_file))


def alpacaeval(options: Options) -> Protocol:
    """AlpacaEval's battles against gpt4_1106_preview, 5-fold by prompt; choices score their annotated preference.

    The few annotations that are missing count as the model's mean.
    """
    folder = data_folder() / "alpacaeval"
    files = (folder / "battles.parquet", folder / "annotations.parquet")
    battles = pd.read_parquet(files[0], columns=["prompt", "prompt_id"]).drop_duplicates("prompt")
    prompt_id = dict(zip(battles["prompt"], battles["prompt_id"], strict=True))
    table = _quick(tabulate(load(files[0])), options)
    annotated = pd.read_parquet(files[1], columns=["prompt_id", "model", "preference"])
    preferred = annotated.pivot_table(index="prompt_id", columns="model", values="preference") - 1.0
    truth = preferred.reindex(index=[prompt_id[one] for one in table.originals], columns=list(table.models))
    pool = _pool([table], truth=truth.fillna(truth.mean()).to_numpy())
    splits = cross_fit(pool, np.arange(len(table)), N_FOLDS, SEED)
    measures = (Value(), LogLoss())
    return Protocol("alpacaeval battles, 5-fold", pool, _labelled(pool, splits), measures, _one(pool), files)


BUILDERS: dict[str, Callable[[Options], Protocol]] = {
    "llmrouter": llmrouter,
    "routerdc": routerdc,
    "routerdc-paper-rows": routerdc_paper_rows,
    "mmlu": mmlu,
    "gsm8k": gsm8k,
    "routerbench": routerbench,
    "one-battle": one_battle,
    "alpacaeval": alpacaeval,
}
TESTED = ("llmrouter", "routerdc", "routerdc-paper-rows", "mmlu", "routerbench", "one-battle")
"""Sets with rows of their own to test on."""


@cache
def build(name: str, options: Options) -> Protocol:
    """Return the protocol of a set; read and embedded once per process."""
    return BUILDERS[name](options)


def _llmrouter_rows(
    options: Options,
) -> tuple[Pool, NDArray[np.int64], NDArray[np.int64] | None, tuple[Path, ...]]:
    """Return (pool, training rows, test rows or None, files)."""
    folder = data_folder() / "llmrouter"
    train = _quick(tabulate(load(folder / "train.parquet")), options)
    files = [folder / "train.parquet"]
    if not options.test:
        return _pool([train]), np.arange(len(train)), None, tuple(files)
    files.append(folder / "test.parquet")
    seen = set(pd.read_parquet(files[1]).query("in_other_split")["prompt"])
    tested = tabulate(load(files[1]), models=train.models)
    asked = tested.take(np.array([row for row, text in enumerate(tested.originals) if text not in seen]))
    pool = _pool([train, asked])
    rows = np.arange(len(pool.table))
    return pool, rows[: len(train)], rows[len(train) :], tuple(files)


def _routellm(name: str, options: Options) -> tuple[Pool, Path]:
    file = data_folder() / "routellm" / f"{name}.parquet"
    rows = pd.read_parquet(file)
    rows = rows[~rows["contaminated"]]
    subject = rows["subject"] if "subject" in rows else [name] * len(rows)
    scores = zip(rows["prompt"], subject, rows[MIXTRAL], rows[GPT_4], strict=True)
    log = PreferenceLog(
        comparisons=[
            Comparison(prompt=prompt, scores={MIXTRAL: float(weak), GPT_4: float(strong)}, intent=intent)
            for prompt, intent, weak, strong in scores
        ]
    )
    table = tabulate(log)
    return _pool([_quick(table, options) if name == "gsm8k" else table]), file


def _pool(tables: Sequence[Table], *, truth: NDArray[np.float64] | None = None) -> Pool:
    table = stack(tables)
    encoder = shipped_encoder()
    embedded = embed_texts(encoder, table.texts, cache=CACHE)
    groups = near_duplicate_groups(embedded.vectors)
    truth = table.scores if truth is None else truth
    return Pool(table, embedded.vectors, embedded.features, embedded.unknown_share, truth, groups)


def _splits(pool: Pool, train: NDArray[np.int64], asked: NDArray[np.int64] | None) -> list[Split]:
    return cross_fit(pool, train, N_FOLDS, SEED) if asked is None else [Split(pool, train, asked, SEED)]


def _labelled(pool: Pool, splits: Sequence[Split]) -> tuple[Task, ...]:
    return tuple(Task(one, ((0, pool.table),)) for one in splits)


def _apgr(table: Table) -> Apgr:
    return Apgr(weak=table.models.index(MIXTRAL), strong=table.models.index(GPT_4))


def _one(pool: Pool) -> NDArray[np.int64]:
    """Return one stratum for all rows."""
    return np.zeros(len(pool.table), dtype=np.int64)


def _quick(table: Table, options: Options) -> Table:
    if not options.quick or len(table) <= QUICK_ROWS:
        return table
    return table.take(np.sort(np.random.default_rng(SEED).permutation(len(table))[:QUICK_ROWS]))


def file_of(folder: Path, task: str, role: str) -> Path:
    """Return the file of a task: the publisher writes both gsm8k-train and mmlu_train."""
    under = folder / f"{task}_{role}.parquet"
    return under if under.is_file() else folder / f"{task}-{role}.parquet"
