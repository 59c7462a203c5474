"""Does a prompt keep its model when it is edited a little?

    WHICHMODEL_DATA=... python benchmarks/stability.py [--quick] [--test]

Every artifact is made by ``train`` with both encoders and asked by the path that serves, once with the prompt as it is
and once for each edit (edits.py). routerdc: five folds of its training rows, each asked of an artifact that learnt from
the others; the value of the choices is counted on the same held-out rows. --test asks the published test files instead
and is for the close of a piece of work. cje_arena has prompts alone; they are asked of artifacts that learnt from
llmrouter's scores and from alpacaeval's battles. Peers choose by the same encoder's vectors and the same rows. Writes
results/stability.json (stability_test.json) and the tables of docs/stability.md.
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
import pandas as pd
from draws import counted
from edits import EDITS, edited
from numpy.typing import NDArray
from paired import difference, resampled_means
from peers import best_fixed, knn
from pools import Pool, Split
from protocols import CACHE, SEED, Options, build
from record import data_folder, write
from tqdm import tqdm

from router.artifact import RouterArtifact
from router.encoder import OnnxEncoder
from router.router import Router
from router.tier import Tier
from router.types import Decision, Policy
from training import Comparison, PreferenceLog, load, select, train
from training.embed import embed_texts
from training.evidence import Table, tabulate

TIERS = ("full", "static")
N_PROMPTS = 600
QUICK_PROMPTS = 100
SESSION_MARGIN = 0.05
OURS, IN_SESSION, NARROW = "whichmodel", "whichmodel, in a session", "whichmodel, at most 300 neighbours"
PEERS = {"constant": (best_fixed, ()), "kNN, k = 8": (knn, (8.0,)), "kNN, k = 100": (knn, (100.0,))}
ANYWAY = Policy(route_anyway=True)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A log to learn from, its table, and what is asked of it.

    prompts: those that are edited. valued: further prompts, asked only for the value of the choices. truth: float64
    (n_prompts + n_valued, n_models) in the order of both, or None. groups: int64, near-duplicates share one.
    """

    log: PreferenceLog
    table: Table
    prompts: tuple[str, ...]
    valued: tuple[str, ...] = ()
    truth: NDArray[np.float64] | None = None
    groups: NDArray[np.int64] | None = None
    strata: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What one part's methods chose, per method: columns of the prompts as they are, and of each edit, -1 without one.

    before: int64 (n_prompts + n_valued,). after: per edit, int64 (n_prompts,). n_neighbors: what training settled on.
    """

    before: dict[str, NDArray[np.int64]]
    after: dict[str, dict[str, NDArray[np.int64]]]
    n_neighbors: dict[str, int] = field(default_factory=dict)


def main() -> None:
    args = _arguments()
    started = time.perf_counter()
    n_prompts = QUICK_PROMPTS if args.quick else N_PROMPTS
    numbers: dict[str, Any] = {"session_margin": SESSION_MARGIN, "sets": {}}
    files: list[Path] = []
    for title, (parts, own_files) in sets(n_prompts, test=args.test, quick=args.quick).items():
        asked = [ask(one) for one in tqdm(parts, desc=title, disable=None)]
        numbers["sets"][title] = {tier: summary(parts, [one[tier] for one in asked]) for tier in TIERS}
        files += own_files
    numbers["seconds"] = round(time.perf_counter() - started, 1)
    from stability_tables import fill_docs, tables

    print(tables(numbers))
    if not args.quick:
        name = "stability_test" if args.test else "stability"
        write(name, numbers, arguments={"test": args.test, "seed": SEED}, files=sorted(set(files)))
        fill_docs()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 prompts a set, one fold; nothing is written")
    parser.add_argument("--test", action="store_true", help="ask routerdc's test files, once, at a close")
    return parser.parse_args()


def sets(n_prompts: int, *, test: bool, quick: bool) -> dict[str, tuple[list[Part], list[Path]]]:
    """Return the parts of every set and the files they were read from."""
    protocol = build("routerdc", Options(test=test))
    splits = [task.split for task in protocol.tasks]
    splits = splits[:1] if quick else splits
    out = {"routerdc": ([_part(one, n_prompts // len(splits)) for one in splits], list(protocol.files))}
    file = data_folder() / "cje_arena" / "prompts.parquet"
    arena = pd.read_parquet(file)["prompt"].drop_duplicates().tolist()
    some = np.sort(np.random.default_rng(SEED).permutation(len(arena))[:n_prompts])
    prompts = tuple(arena[at] for at in some)
    for name, source in (("llmrouter", "llmrouter/train.parquet"), ("alpacaeval", "alpacaeval/battles.parquet")):
        log = load(data_folder() / source)
        out[f"cje_arena, learnt on {name}"] = ([Part(log, tabulate(log), prompts)], [file, data_folder() / source])
    return out


def _part(split: Split, n_prompts: int) -> Part:
    """Return what a split learns from and asks; the first prompts, drawn at random, are edited."""
    table, rows = split.pool.table, np.random.default_rng(SEED).permutation(split.asked)
    prompts = tuple(table.originals[row] for row in rows)
    known = table.take(split.train)
    return Part(
        log=_log_of(known),
        table=known,
        prompts=prompts[:n_prompts],
        valued=prompts[n_prompts:],
        truth=split.pool.truth[rows],
        groups=split.pool.groups[rows],
        strata=table.intents[rows],
    )


def _log_of(table: Table) -> PreferenceLog:
    scores = [dict(zip(table.models, row, strict=True)) for row in table.scores.tolist()]
    intents = [table.intent_names[code] for code in table.intents]
    rows = zip(table.originals, scores, intents, strict=True)
    return PreferenceLog(comparisons=[Comparison(prompt=text, scores=one, intent=name) for text, one, name in rows])


def ask(part: Part) -> dict[str, Asked]:
    """Let every method choose, per tier, on every prompt before and after every edit."""
    changed = {name: [edited(name, text, SEED) for text in part.prompts] for name in EDITS}
    artifact, narrow = train(part.log, encoder="both", cache=CACHE)[0], _train_narrow(part)
    asked = {}
    for tier, narrow_tier in zip(artifact.tiers, narrow.tiers, strict=True):
        ours = _ask_tier(artifact, tier, part, changed)
        # Where both settled on the same numbers they are the same router.
        same = (tier.settings, tier.space.feature_weight) == (narrow_tier.settings, narrow_tier.space.feature_weight)
        other = ours if same else _ask_tier(narrow, narrow_tier, part, changed)
        peers = _ask_peers(tier.name, part, changed)
        asked[tier.name] = Asked(
            before=ours.before | {NARROW: other.before[OURS]} | peers.before,
            after=ours.after | {NARROW: other.after[OURS]} | peers.after,
            n_neighbors={OURS: tier.settings.n_neighbors, NARROW: narrow_tier.settings.n_neighbors},
        )
    return asked


def _train_narrow(part: Part) -> RouterArtifact:
    """Train as if no log were large enough for wide neighbourhoods."""
    needed = select.ROWS_PER_WIDE_NEIGHBOR
    select.ROWS_PER_WIDE_NEIGHBOR = len(part.table)
    try:
        return train(part.log, encoder="both", cache=CACHE)[0]
    finally:
        select.ROWS_PER_WIDE_NEIGHBOR = needed


def _ask_tier(artifact: RouterArtifact, tier: Tier, part: Part, changed: dict[str, list[str | None]]) -> Asked:
    """Ask one tier by the path that serves."""
    column = {model: at for at, model in enumerate(part.table.models)}
    router = Router(artifact, cache_entries=0)

    def decide(text: str) -> Decision:
        return router.answer_of(tier.name, text, ANYWAY, explain=True)

    try:
        decisions = [decide(text) for text in (*part.prompts, *part.valued)]
        before = np.array([column[one.model] for one in decisions])
        after: dict[str, dict[str, NDArray[np.int64]]] = {OURS: {}, IN_SESSION: {}}
        for name, texts in changed.items():
            chosen, held = np.full((2, len(texts)), -1)
            for at, text in enumerate(texts):
                if text is not None:
                    decision = decide(text)
                    chosen[at] = column[decision.model]
                    held[at] = column[in_session(decision, decisions[at].model)]
            after[OURS][name], after[IN_SESSION][name] = chosen, held
    finally:
        router.close()
    return Asked({OURS: before, IN_SESSION: before}, after)


def in_session(decision: Decision, held: str) -> str:
    """Return the session's model, unless the new choice is expected to be better by more than the margin."""
    utility = {one.model: one.utility for one in decision.estimates}
    return decision.model if utility[decision.model] - utility[held] > SESSION_MARGIN else held


def _ask_peers(tier: str, part: Part, changed: dict[str, list[str | None]]) -> Asked:
    encoder = OnnxEncoder.load(tier)
    asked = (*part.prompts, *part.valued)
    edits = [text for texts in changed.values() for text in texts if text is not None]
    before, after = {}, {name: {} for name in PEERS}
    columns = _choices_of(encoder, part.table, (*asked, *edits))
    for name, chosen in columns.items():
        before[name] = chosen[: len(asked)]
        rest = iter(chosen[len(asked) :])
        for edit, texts in changed.items():
            after[name][edit] = np.array([-1 if text is None else next(rest) for text in texts])
    return Asked(before, after)


def _choices_of(encoder: OnnxEncoder, table: Table, texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Return what each peer chooses on the texts: int64 (n_texts,), columns."""
    known = embed_texts(encoder, table.texts, cache=CACHE)
    asked = embed_texts(encoder, texts, cache=CACHE)
    n_known = len(table)
    rows = np.arange(n_known + len(texts))
    pool = Pool(
        table=table,
        vectors=np.concatenate([known.vectors, asked.vectors]),
        features=np.concatenate([known.features, asked.features]),
        unknown_share=np.concatenate([known.unknown_share, asked.unknown_share]),
        truth=table.scores,
        groups=rows,
    )
    split = Split(pool, rows[:n_known], rows[n_known:], SEED)
    nothing = np.zeros(len(table.models))
    return {name: predict(split, table, config).choices(nothing) for name, (predict, config) in PEERS.items()}


def summary(parts: Sequence[Part], asked: Sequence[Asked]) -> dict[str, Any]:
    """Return, per method: per edit the share that kept its model, and the share of its commonest choice; the values."""
    out: dict[str, Any] = {
        "n_prompts": sum(len(one.prompts) for one in parts),
        "n_neighbors": {method: sorted(one.n_neighbors[method] for one in asked) for method in asked[0].n_neighbors},
        "kept": {},
        "commonest_share": {},
    }
    for method in asked[0].after:
        out["kept"][method] = {
            edit: counted(*_kept([(one.before[method], one.after[method][edit]) for one in asked])) for edit in EDITS
        }
        chosen = np.concatenate([one.before[method] for one in asked])
        out["commonest_share"][method] = max(Counter(chosen.tolist()).values()) / len(chosen)
    if all(one.truth is not None for one in parts):
        out["value"] = values(parts, asked)
    return out


def _kept(pairs: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> tuple[int, int]:
    """Return (pairs with the same model, pairs in all); prompts without an edit are left out."""
    same = n = 0
    for before, after in pairs:
        there = after >= 0
        same += int((before[: len(after)] == after)[there].sum())
        n += int(there.sum())
    return same, n


def values(parts: Sequence[Part], asked: Sequence[Asked]) -> dict[str, Any]:
    """Return every method's value on the prompts as they are, the mean of the tasks, and ours minus it."""
    methods = [one for one in asked[0].before if one != IN_SESSION]
    worth = {
        method: np.concatenate(
            [part.truth[np.arange(len(part.truth)), one.before[method]] for part, one in zip(parts, asked, strict=True)]
        )
        for method in methods
    }
    groups = np.concatenate([one.groups for one in parts])
    strata = np.concatenate([one.strata for one in parts])
    # Tasks count alike, as in the published protocol.
    sizes = np.bincount(strata)
    weight = len(strata) / (len(np.unique(strata)) * sizes[strata])
    means = resampled_means(np.stack([worth[one] * weight for one in methods]), groups, strata, SEED)
    ours = methods.index(OURS)
    return {
        method: {
            "mean": float((worth[method] * weight).mean()),
            "ours_minus_this": asdict(
                difference(float(((worth[OURS] - worth[method]) * weight).mean()), means[ours] - means[at])
            ),
        }
        for at, method in enumerate(methods)
    }


if __name__ == "__main__":
    main()
