"""What do rigged votes cost? One key with 5,000 of them, and ten keys with 500 each, with and without key shares.

    WHICHMODEL_DATA=... python benchmarks/poisoning.py [--seeds 10] [--first-seed 0]

Four fifths of llmrouter's training prompts are judged by 150 honest keys, one battle of two random models (or one
rating of one random model) a prompt; then come the rigged votes, on prompts drawn from the same. Quality is that of the
choices on the last fifth, where every score is known: poisoned minus clean, paired by seed. Settings are fixed and the
verdict is left aside, so that nothing but the votes differs.

The lies: the worst model always wins (against anyone, or against the best one), the best one always loses, a middling
model always wins, or it wins half of the time whatever happened ("half"). "specialists" is no lie: ten honest keys of
500 votes, each on one task alone. No rule was made for the rest (MEASURED): lies three times in ten, and a middling
model that wins on the prompts of one task, by keys that see no other, or that are honest on all others.

Seeds from 100 are to try rules out on; with any but 0 to 9 nothing is recorded.
"""

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import data_folder, write

from router.encoder import OnnxEncoder
from router.estimate import estimate
from router.index import Hits
from training import Comparison, PreferenceLog, load
from training.embed import embed_texts, make_places
from training.evidence import Table, tabulate
from training.fit import fit_evidence
from training.hold_out import Place
from training.near import nearest
from training.select import Config, best_fixed, guarded_choices
from training.split import deal_folds, near_duplicate_groups
from training.weights import weigh

CACHE = Path(__file__).parent.parent / "build" / "bench" / "poisoning"
N_HONEST = 150
CONFIG = Config(shrinkage=3.0, n_neighbors=300, intent_prior=False, guard_z=0.5, temperature=0.2, feature_weight=1.0)
LIES = {
    "battles": ("worst wins", "worst beats best", "best loses", "middling wins", "half"),
    "ratings": ("worst wins", "best loses"),
}
MEASURED = {
    "battles": ("three in ten", "one task", "one task, else honest"),
    "ratings": ("half", "three in ten", "one task", "one task, else honest"),
}
HONEST_SHARE = {"half": 0.5, "three in ten": 0.7}
LIARS = {"1 key x 5,000": (1, 5000), "10 keys x 500": (10, 500)}
SHARES = {"caps off": 1.0, "caps on": 0.05}

Held = dict[tuple[str, str], list[tuple[int, int]]]
"""(kind, attack) to, per seed, how many honest keys were left out, and how many were held back in any way."""


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """All prompts with every score, where they lie, and what is best.

    row_of: of a prompt. vectors: as the encoder gives them. ranking: columns, the worst model first.
    """

    table: Table
    row_of: dict[str, int]
    vectors: NDArray[np.float32]
    place: Place
    groups: NDArray[np.int64]
    ranking: NDArray[np.int64]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, default=10)
    arguments.add_argument("--first-seed", type=int, default=0, help="100 to try rules out: not recorded")
    arguments.add_argument("--processes", type=int, default=2)
    args = arguments.parse_args()
    source = data_folder() / "llmrouter" / "train.parquet"
    started = time.perf_counter()
    world = make_world(load(source))
    qualities: dict[tuple[str, str, str], list[float]] = {}
    held: Held = {}
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    with ProcessPoolExecutor(args.processes) as pool:
        for seed, (some, kept) in zip(seeds, pool.map(partial(run_seed, world), seeds), strict=True):
            for case, value in some.items():
                qualities.setdefault(case, []).append(value)
            for attack, counts in kept.items():
                held.setdefault(attack, []).append(counts)
            print(f"seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    rows = summary(qualities)
    for row in rows:
        print(
            f"{row['kind']:<8} {row['attack']:<32} {row['caps']:<9} {100 * row['mean']:+7.2f} points"
            f" ({100 * row['low']:+.2f} to {100 * row['high']:+.2f}, worst seed {100 * row['worst']:+.2f})"
        )
    clean = {f"{kind}, {caps}": float(np.mean(q)) for (kind, attack, caps), q in qualities.items() if attack == "none"}
    honest = {
        name: {"left_out": sum(one[0] for one in counts), "held_back": sum(one[1] for one in counts)}
        for name, counts in {
            **{f"{kind}, clean": held[kind, "none"] for kind in LIES},
            **{f"{kind}, specialists": held[kind, "specialists"] for kind in LIES},
        }.items()
    }
    print(f"clean quality {clean}; honest keys, all seeds {honest}")
    numbers = {
        "clean_quality": clean,
        "honest_keys": honest,
        "differences": rows,
        "seconds": round(time.perf_counter() - started),
    }
    if args.first_seed == 0:
        write("poisoning", numbers, arguments={"seeds": args.seeds, "honest_keys": N_HONEST}, files=[source])


def make_world(log: PreferenceLog) -> World:
    encoder = OnnxEncoder.load("static")
    table = tabulate(log)
    embedded = embed_texts(encoder, table.texts, cache=CACHE)
    place = make_places(encoder, table.texts, embedded, [CONFIG.feature_weight], 0)[0]
    row_of = {text: row for row, text in enumerate(table.originals)}
    groups = near_duplicate_groups(embedded.vectors)
    return World(table, row_of, embedded.vectors, place, groups, np.argsort(table.scores.mean(axis=0)))


def run_seed(
    world: World, seed: int
) -> tuple[dict[tuple[str, str, str], float], dict[tuple[str, str], tuple[int, int]]]:
    """Return one seed's qualities by (kind, attack, caps), and what became of honest keys by (kind, attack)."""
    qualities: dict[tuple[str, str, str], float] = {}
    held: dict[tuple[str, str], tuple[int, int]] = {}
    for kind in LIES:
        run_kind(world, kind, seed, qualities, held)
    return qualities, held


def run_kind(
    world: World,
    kind: str,
    seed: int,
    qualities: dict[tuple[str, str, str], float],
    held: dict[tuple[str, str], tuple[int, int]],
) -> None:
    """Add one seed's qualities and counts of one kind of log."""
    rng = np.random.default_rng(seed)
    folds = deal_folds(world.groups, 5, seed)
    learnt, asked = np.flatnonzero(folds != 0), np.flatnonzero(folds == 0)
    honest = honest_votes(world, kind, learnt, rng)
    attacks: dict[str, list[Comparison]] = {"none": []}
    for name, (n_keys, n_votes) in LIARS.items():
        for lie in LIES[kind]:
            attacks[f"{name}, {lie}"] = rigged_votes(world, kind, lie, n_keys, n_votes, learnt, rng)
    attacks["specialists"] = specialists(world, kind, learnt, rng)
    for name, (n_keys, n_votes) in LIARS.items():
        for lie in MEASURED[kind]:
            attacks[f"{name}, {lie}"] = rigged_votes(world, kind, lie, n_keys, n_votes, learnt, rng)
    for attack, more in attacks.items():
        votes = honest + more
        vectors = world.vectors[[world.row_of[one.prompt] for one in votes]]
        for caps, share in SHARES.items():
            weighed = weigh(PreferenceLog(comparisons=votes), vectors=vectors, max_key_share=share)
            qualities[kind, attack, caps] = quality(world, weighed.log, asked)
            if share < 1:
                honest_keys = [one for one in weighed.held_back if not one.key.startswith("liar")]
                out = sum(one.factor == 0 for one in honest_keys)
                held[kind, attack] = (out, len(honest_keys))


def vote(world: World, kind: str, row: int, a: int, b: int, judge: str) -> Comparison:
    """What an honest judge says: of two models, or of the first alone."""
    table = world.table
    if kind == "ratings":
        return Comparison(prompt=table.originals[row], scores={table.models[a]: table.scores[row, a]}, judge=judge)
    first, second = table.scores[row, a], table.scores[row, b]
    winner = "tie" if first == second else "model_a" if first > second else "model_b"
    return Comparison(
        prompt=table.originals[row], model_a=table.models[a], model_b=table.models[b], winner=winner, judge=judge
    )


def honest_votes(world: World, kind: str, rows: NDArray[np.int64], rng: np.random.Generator) -> list[Comparison]:
    out = []
    for row in rows.tolist():
        a, b = rng.choice(len(world.table.models), 2, replace=False).tolist()
        out.append(vote(world, kind, row, a, b, f"honest-{rng.integers(N_HONEST)}"))
    return out


def specialists(world: World, kind: str, rows: NDArray[np.int64], rng: np.random.Generator) -> list[Comparison]:
    """Ten honest keys of 500 votes, each on prompts of one task alone, the tasks taking turns."""
    out = []
    tasks = np.unique(world.table.intents[rows])
    for key in range(10):
        own = rows[world.table.intents[rows] == tasks[key % len(tasks)]]
        for row in rng.choice(own, 500).tolist():
            a, b = rng.choice(len(world.table.models), 2, replace=False).tolist()
            out.append(vote(world, kind, row, a, b, f"specialist-{key}"))
    return out


def rigged_votes(
    world: World, kind: str, lie: str, n_keys: int, n_votes: int, rows: NDArray[np.int64], rng: np.random.Generator
) -> list[Comparison]:
    worst, best = int(world.ranking[0]), int(world.ranking[-1])
    middling = int(world.ranking[len(world.ranking) // 2])
    models, out = world.table.models, []
    intents = world.table.intents
    task = int(rng.choice(np.unique(intents[rows]))) if lie.startswith("one task") else -1
    rows = rows[intents[rows] == task] if lie == "one task" else rows
    for number in range(n_keys * n_votes):
        row, judge = int(rng.choice(rows)), f"liar-{number // n_votes}"
        winner, loser = {"best loses": (-1, best), "worst beats best": (worst, best), "worst wins": (worst, -1)}.get(
            lie, (middling, -1)
        )
        favoured = winner if winner >= 0 else loser
        other = int((favoured + rng.integers(1, len(models))) % len(models))
        winner, loser = (winner if winner >= 0 else other), (loser if loser >= 0 else other)
        prompt = world.table.originals[row]
        spared = lie == "one task, else honest" and intents[row] != task
        if spared or (lie in HONEST_SHARE and rng.random() < HONEST_SHARE[lie]):
            out.append(vote(world, kind, row, winner, loser, judge))
        elif kind == "ratings":
            rated, score = (best, 0.0) if lie == "best loses" else (winner, 1.0)
            out.append(Comparison(prompt=prompt, scores={models[rated]: score}, judge=judge))
        else:
            out.append(
                Comparison(prompt=prompt, model_a=models[winner], model_b=models[loser], winner="model_a", judge=judge)
            )
    return out


def quality(world: World, log: PreferenceLog, asked: NDArray[np.int64]) -> float:
    """Return the mean score of what is chosen on the asked rows by what the log says, 0..1."""
    table = tabulate(log, models=world.table.models)
    rows = np.array([world.row_of[text] for text in table.originals])
    evidence = fit_evidence(table, np.ones(len(table), dtype=bool), use_intents=False)
    fixed = best_fixed(table, evidence, np.arange(len(table)))
    vectors = world.place.vectors
    similar, near = nearest(vectors[asked], vectors[rows], np.arange(len(rows)), CONFIG.n_neighbors)
    settings = CONFIG.settings(world.place.far, table.kind)
    local = estimate(Hits(rows=near, similarities=similar), evidence, settings, fixed=fixed)
    choices = guarded_choices(local.quality, local.lead_error, fixed, [CONFIG.guard_z])[0]
    return float(world.table.scores[asked, choices].mean())


def summary(qualities: dict[tuple[str, str, str], list[float]]) -> list[dict[str, Any]]:
    """Return poisoned minus clean (caps alike) by kind, attack and caps, with the 95 % interval over the seeds."""
    rows: list[dict[str, Any]] = []
    for (kind, attack, caps), poisoned in qualities.items():
        if attack == "none":
            continue
        difference = np.array(poisoned) - np.array(qualities[kind, "none", caps])
        mean, half = float(difference.mean()), reach(difference)
        rows.append(
            {
                "kind": kind,
                "attack": attack,
                "caps": caps,
                "mean": mean,
                "low": mean - half,
                "high": mean + half,
                "worst": float(difference.min()),
            }
        )
    return rows


def reach(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Return half of the 95 % interval of a mean over few seeds, by Student's t."""
    from scipy.stats import t as student

    n = len(values)
    return float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")


if __name__ == "__main__":
    main()
