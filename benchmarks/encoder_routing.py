"""What an encoder is worth to the router: the cross-fitted suite of quality.py, only the encoder differs.

Folds and near-duplicate groups are those of the encoder that ships, so that every encoder answers the same rows from
the same rows; what is chosen inside a fold is chosen on the encoder's own vectors.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from encoder_zoo import BASE, PRECISIONS, Candidate, unknown_shares_of, vectors_of
from numpy.typing import NDArray
from ours import ground, whichmodel
from paired import difference, resampled_means
from peers import best_fixed
from pools import Split
from protocols import SEED, Options, Protocol, build
from quality import mean_costs
from tqdm import tqdm

SETS = ("llmrouter", "routerdc", "routerbench", "alpacaeval")
FIXED = "best fixed"
DECIDED = "llmrouter"
"""The set on which decisions of int8 and float32 are compared."""
SLICED, SLICE = "routerdc", "cmmlu"
"""The set with a foreign language, and which of its tasks that is."""


@dataclass(frozen=True, slots=True, eq=False)
class Routed:
    """What one encoder made of one fold. raw: one array per measure. choices: int64 (n_asked,), quality alone."""

    encoder: str
    raw: tuple[NDArray[np.float64], ...]
    choices: NDArray[np.int64]


def embed_set(name: str, candidate: Candidate, options: Options) -> None:
    """Encode a set's prompts once, for all folds."""
    if candidate.directory is not None:
        table = build(name, options).pool.table
        vectors_of(candidate.fit(table.texts), table.texts)


def route_fold(name: str, fold: int, candidate: Candidate | None, options: Options) -> Routed:
    """Route one fold of a set from the others; without a candidate, always to the best fixed model."""
    protocol = build(name, options)
    task = protocol.tasks[fold]
    labels, split, pool = task.draws[0][1], task.split, protocol.pool
    known, asked = labels.take(split.train), pool.table.take(split.asked)
    if candidate is None:
        prediction = best_fixed(split, known, ())
    else:
        encoder = candidate.fit([pool.table.texts[row] for row in split.train])
        vectors, unknown = (of(encoder, pool.table.texts) for of in (vectors_of, unknown_shares_of))
        own = replace(pool, vectors=vectors, unknown_share=unknown, encoder=encoder)
        prediction = whichmodel(Split(own, split.train, split.asked, split.seed), known, ())
        ground.cache_clear()  # it is kept by split, and this one is not asked again
    costs = mean_costs(known)
    raw = tuple(one.raw(prediction, asked, pool.truth[split.asked], costs) for one in protocol.measures)
    return Routed(candidate.name if candidate else FIXED, raw, prediction.choices(np.zeros(len(known.models))))


def route_all(candidates: Sequence[Candidate], options: Options, workers: int) -> dict[str, list[list[Routed]]]:
    """Return, per set and fold, what every encoder made of it, the best fixed model last; over several processes."""
    routed: dict[str, list[list[Routed]]] = {}
    jobs = []
    for name in SETS:
        routed[name] = [[] for _ in build(name, options).tasks]
        # float32 is there to be compared with int8, on one set.
        asked = [one for one in candidates if name == DECIDED or one.name not in PRECISIONS.values()]
        jobs += [(name, fold, one) for fold in range(len(routed[name])) for one in (*asked, None)]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        # By encoder: one file per encoder keeps its vectors, and only one process at a time may write it.
        run_bar([pool.submit(_embed_sets, one, options) for one in candidates], "embedding")
        waiting = {pool.submit(route_fold, *job, options): job for job in jobs}
        for done in run_bar(list(waiting), "routing"):
            name, fold, _ = waiting[done]
            routed[name][fold].append(done.result())
    return routed


def _embed_sets(candidate: Candidate, options: Options) -> None:
    for name in (DECIDED,) if candidate.name in PRECISIONS.values() else SETS:
        embed_set(name, candidate, options)


def run_bar(waiting: Sequence[Any], what: str) -> list[Any]:
    """Wait for all with a bar; failures are raised as they come."""
    finished = []
    for done in tqdm(as_completed(waiting), total=len(waiting), desc=what, unit="job", mininterval=5):
        done.result()
        finished.append(done)
    return finished


def summary(name: str, options: Options, routed: list[list[Routed]]) -> dict[str, dict[str, Any]]:
    """Return, per encoder: value, gain over the best fixed model, and the difference to the base, by each measure."""
    protocol = build(name, options)
    rows = np.concatenate([task.split.asked for task in protocol.tasks])
    encoders = [one.encoder for one in routed[0]]
    out: dict[str, dict[str, Any]] = {one: {} for one in encoders}
    for at, measure in enumerate(protocol.measures):
        raw = {one: np.concatenate([_of(fold, one).raw[at] for fold in routed]) for one in encoders}
        values = np.stack([measure.rows(raw[one]) for one in encoders])
        means = resampled_means(values, protocol.pool.groups[rows], protocol.strata[rows], SEED)
        sign = 1.0 if measure.higher_is_better else -1.0
        for encoder in encoders:
            out[encoder][measure.name] = {"value": float(measure.score(raw[encoder]))} | {
                key: _minus(encoders, sign * values, sign * means, encoder, other)
                for key, other in (("gain", FIXED), ("minus_base", BASE))
            }
    if name == SLICED:
        for encoder in encoders:
            out[encoder]["slices"] = _slices(protocol, rows, routed, encoder)
    return out


def _minus(
    encoders: Sequence[str], values: NDArray[np.float64], means: NDArray[np.float64], a: str, b: str
) -> dict[str, float] | None:
    """Return a minus b with its interval, turned so that above 0 is better; None for itself or without b."""
    if a == b or b not in encoders:
        return None
    first, second = encoders.index(a), encoders.index(b)
    return asdict(difference(float((values[first] - values[second]).mean()), means[first] - means[second]))


def _slices(protocol: Protocol, rows: NDArray[np.int64], routed: list[list[Routed]], encoder: str) -> dict[str, Any]:
    """Return the gain over the best fixed model on the rows of one task, and on all others."""
    values = np.stack([np.concatenate([_of(fold, one).raw[0][:, 0] for fold in routed]) for one in (encoder, FIXED)])
    table = protocol.pool.table
    foreign = np.array([SLICE in table.intent_names[code] for code in table.intents[rows]])
    out = {}
    for title, own in ((SLICE, foreign), ("others", ~foreign)):
        if not own.any():
            continue
        means = resampled_means(values[:, own], protocol.pool.groups[rows[own]], np.zeros(own.sum(), dtype=int), SEED)
        gain = float((values[0, own] - values[1, own]).mean())
        out[title] = asdict(difference(gain, means[0] - means[1])) | {"n": int(own.sum())}
    return out


def _of(fold: Sequence[Routed], encoder: str) -> Routed:
    return next(one for one in fold if one.encoder == encoder)


def precision_decisions(options: Options, routed: list[list[Routed]]) -> dict[str, dict[str, Any]]:
    """Return, per int8 encoder with a float32 form here: share of the same choices, and the paired difference."""
    protocol = build(DECIDED, options)
    rows = np.concatenate([task.split.asked for task in protocol.tasks])
    encoders = {one.encoder for one in routed[0]}
    out = {}
    for small, plain in PRECISIONS.items():
        if not {small, plain} <= encoders:
            continue
        pair = [[_of(fold, one) for fold in routed] for one in (small, plain)]
        same = np.concatenate([a.choices == b.choices for a, b in zip(*pair, strict=True)])
        values = np.stack([np.concatenate([one.raw[0][:, 0] for one in each]) for each in pair])
        means = resampled_means(values, protocol.pool.groups[rows], protocol.strata[rows], SEED)
        gain = difference(float((values[0] - values[1]).mean()), means[0] - means[1])
        out[small] = {"same_decisions": float(same.mean()), "n": len(rows), "int8_minus_fp32": asdict(gain)}
    return out


def files_of(options: Options) -> set[Any]:
    """Return the files that the sets were read from."""
    return {file for name in SETS for file in build(name, options).files}
