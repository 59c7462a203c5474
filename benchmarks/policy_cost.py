"""What do a policy and its explanation add to an in-process route?

    WHICHMODEL_DATA=... python benchmarks/policy_cost.py

The artifact is the static tier with 5,000 rows: prompts of Arena-Hard, four times each with noise on their vectors, and
drawn outcomes of 30 or 64 models, each with three endpoints. The prompts asked are those of cje_arena. Every prompt is
routed in each way once a round, one right after the other and each round in another order, so that what one way adds
is the difference of two calls a moment apart. All happens in the caller's thread; beside the time that passes, the
time that this thread ran is taken, in which other processes do not count.
"""

import argparse
import gc
import time
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from record import data_folder, write
from tables import HERE, fill, table
from timing import summary

from router.artifact import RouterArtifact
from router.encoder import OnnxEncoder, embed
from router.estimate import EstimatorSettings, Evidence
from router.features import surface_features
from router.index import round_points
from router.prompt import Template
from router.router import Router
from router.space import fit_space
from router.tier import Tier
from router.types import Decision, Endpoint, ModelProfile, Policy, Verdict

PAGE = HERE.parent / "docs" / "policies.md"
ROWS, ASKED = ("arenahard/questions_v0_1", "arenahard/questions_v2_0"), "cje_arena/prompts"
N_ROWS, N_INTENTS, N_ENDPOINTS, N_NEIGHBORS = 5_000, 12, 3, 100
NOISE = 0.02
# Models, and the milliseconds that policy and explanation may add in the median.
ALLOWED_MS = {30: 0.2, 64: 0.5}
BUDGET_MS = 10_000.0
POLICY = Policy(
    exclude=("model-3",),
    require=("tools",),
    region=("eu", "us"),
    min_uptime=0.97,
    max_cost_usd=0.01,
    max_latency_ms=12_000.0,
    strategy="balanced",
)
WAYS: dict[str, dict[str, Any]] = {
    "bare": {"policy": Policy(), "explain": False},
    "policy": {"policy": POLICY, "explain": False},
    "policy, explained": {"policy": POLICY, "explain": True},
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3, help="times that every prompt is asked in every way")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--quick", action="store_true", help="one round, and no record")
    args = arguments.parse_args()
    data = data_folder()
    files = [data / f"{one}.parquet" for one in (*ROWS, ASKED)]
    prompts = prompts_of(files[-1:])
    numbers = {}
    for n_models, allowed_ms in ALLOWED_MS.items():
        router = Router(made_artifact(prompts_of(files[:-1]), n_models, args.seed))
        found = measured(router, prompts, 1 if args.quick else args.rounds)
        router.close()
        numbers[str(n_models)] = {**found, "allowed_ms": allowed_ms}
        for way, times in found["ms"].items():
            print(f"{n_models} models, {way}: p50 {times['p50']:.3f} ms, p99 {times['p99']:.3f} ms")
        for way, times in found["added_ms"].items():
            cpu_ms = found["added_cpu_ms"][way]["p50"]
            print(f"{n_models} models, {way} adds: p50 {times['p50']:.3f} ms, of its thread's time {cpu_ms:.3f} ms")
        print(f"allowed in the median: {allowed_ms} ms; {found['left_p50']:.0f} models left in the median")
    if not args.quick:
        write("policy_cost", numbers, arguments={"rounds": args.rounds, "seed": args.seed}, files=files)
        PAGE.write_text(fill(PAGE.read_text(), "policy-cost", table_of(numbers)))


def table_of(numbers: dict[str, Any]) -> str:
    """Return the Markdown of docs/policies.md."""
    rows = [
        [
            f"{n_models} models, {way}",
            *(f"{found['ms'][way][quantile]:.3f}" for quantile in ("p50", "p99")),
            *(f"{found[kind][way]['p50']:.3f}" if way != "bare" else "-" for kind in ("added_ms", "added_cpu_ms")),
            f"{found['allowed_ms']:.1f}" if way == "policy, explained" else "-",
        ]
        for n_models, found in numbers.items()
        for way in found["ms"]
    ]
    head = ["one route", "p50 ms", "p99 ms", "adds, p50 ms", "of its thread's time, p50 ms", "wanted at most"]
    return table(head, rows)


def prompts_of(files: list[Path]) -> list[str]:
    """Return the distinct prompts of files, in order."""
    found = (text for file in files for text in pd.read_parquet(file, columns=["prompt"])["prompt"])
    return list(dict.fromkeys(text for text in found if text.strip()))


def measured(router: Router, prompts: list[str], n_rounds: int) -> dict[str, Any]:
    """Return what every way takes and adds to the bare one, in ms, and what came of it."""
    calls: dict[str, Callable[[str], Decision]] = {
        way: lambda prompt, options=options: router.route(  # type: ignore[misc]
            prompt, latency_budget_ms=BUDGET_MS, cache=False, **options
        )
        for way, options in WAYS.items()
    }
    times_ms: dict[str, list[float]] = {way: [] for way in calls}
    cpu_ms: dict[str, list[float]] = {way: [] for way in calls}
    explained = [calls["policy, explained"](prompt) for prompt in prompts]  # warms everything up, too
    orders = list(permutations(calls))
    gc.collect()
    for number in range(n_rounds * len(prompts)):
        prompt = prompts[number % len(prompts)]
        for way in orders[(number + number // len(prompts)) % len(orders)]:
            began, began_cpu = time.perf_counter_ns(), time.thread_time_ns()
            calls[way](prompt)
            cpu_ms[way].append((time.thread_time_ns() - began_cpu) / 1e6)
            times_ms[way].append((time.perf_counter_ns() - began) / 1e6)
    return {
        "calls": len(times_ms["bare"]),
        "ms": {way: summary(own) for way, own in times_ms.items()},
        "added_ms": added_to_bare(times_ms),
        "added_cpu_ms": added_to_bare(cpu_ms),
        "left_p50": float(np.median([len(one.estimates) for one in explained])),
        "excluded_p50": float(np.median([len(one.excluded) for one in explained])),
        "flips_mean": float(np.mean([len(one.flips) for one in explained])),
        "reasons": dict(Counter(one.reason for one in explained)),
    }


def added_to_bare(times_ms: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return what every other way adds, call by call."""
    bare = np.array(times_ms["bare"])
    return {way: summary((np.array(own) - bare).tolist()) for way, own in times_ms.items() if way != "bare"}


def made_artifact(texts: list[str], n_models: int, seed: int) -> RouterArtifact:
    """Return an artifact of real prompts, on which drawn models differ by intent."""
    rng = np.random.default_rng(seed)
    encoder = OnnxEncoder.load("static")
    places = np.arange(N_ROWS) % len(texts)
    vectors = embed(encoder, texts)[places]
    vectors += rng.normal(0.0, NOISE, vectors.shape).astype(np.float32)
    features = np.stack([surface_features(text) for text in texts])[places]
    space = fit_space(vectors, features, 0.5)
    intents = nearest_of(vectors, rng.choice(len(vectors), N_INTENTS, replace=False))
    skills = np.clip(rng.normal(0.6, 0.04, n_models) + rng.normal(0.0, 0.12, (N_INTENTS, n_models)), 0.05, 0.95)
    scores = np.clip(skills[intents] + rng.normal(0.0, 0.25, (N_ROWS, n_models)), 0.0, 1.0)
    prior = scores.mean(axis=0)
    intent_priors = np.stack([scores[intents == one].mean(axis=0) for one in range(N_INTENTS)])
    models = tuple(f"model-{number}" for number in range(n_models))
    best_fixed = models[int(prior.argmax())]
    names = tuple(f"intent-{number}" for number in range(N_INTENTS))
    tier = Tier(
        encoder=encoder,
        space=space,
        vectors=round_points(space.place_all(vectors, features)),
        evidence=Evidence(
            kind="scores",
            h=np.ones(scores.shape, dtype=np.float32),
            g=(scores - intent_priors[intents]).astype(np.float32),
            intents=intents,
            prior=prior,
            intent_priors=intent_priors,
            variance=scores.var(axis=0),
            sizes=rng.lognormal(0.0, 0.5, N_ROWS).astype(np.float32),
        ),
        settings=EstimatorSettings(N_NEIGHBORS, usual_similarity=0.5, far_temperature=0.2, guard_z=0.5),
        verdict=Verdict("ROUTE", "ROUTE: drawn.", best_fixed),
        strategies={"quality": None, "balanced": 0.2, "cheap": 0.02},
        report={},
    )
    return RouterArtifact(
        models=models,
        tiers=(tier,),
        won=scores == scores.max(axis=1, keepdims=True),
        prompt_hashes=np.zeros((N_ROWS, 16), dtype=np.uint8),
        intents=names,
        intents_from="given",
        intent_quality=intent_priors,
        template=Template(),
        profiles={name: made_profile(name, rng) for name in models},
        best_fixed=best_fixed,
        default_strategy="balanced",
    )


def nearest_of(vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return which of some rows lies nearest to every row."""
    return np.asarray((vectors @ vectors[rows].T).argmax(axis=1).astype(np.int32))


def made_profile(name: str, rng: np.random.Generator) -> ModelProfile:
    """Return a drawn profile with several endpoints; one in ten of its numbers is unknown."""

    def known(value: float) -> float | None:
        return None if rng.random() < 0.1 else float(value)

    usd = float(np.exp(rng.uniform(np.log(0.1), np.log(15.0))))
    return ModelProfile(
        name,
        mean_output_tokens=float(rng.uniform(150, 900)),
        endpoints=tuple(
            Endpoint(
                f"endpoint-{place}",
                usd_per_mtok_in=known(usd * rng.uniform(0.8, 1.3)),
                usd_per_mtok_out=known(4 * usd * rng.uniform(0.8, 1.3)),
                latency_p50_ms=known(rng.uniform(150, 1_500)),
                tokens_per_s=known(rng.uniform(40, 200)),
                uptime=known(rng.uniform(0.95, 1.0)),
                region=("eu", "us", "asia")[int(rng.integers(3))],
            )
            for place in range(N_ENDPOINTS)
        ),
        capabilities=tuple(one for one in ("json", "tools", "vision") if rng.random() < 0.8),
        context_tokens=int(rng.choice([8_192, 32_768, 131_072])),
    )


if __name__ == "__main__":
    main()
