"""How long does `train` take on large logs? Embedding is not counted: vectors come from the cache.

    WHICHMODEL_DATA=... python benchmarks/train_time.py

Prompts are llmrouter's; where more are needed, halves of them with a number behind. Outcomes are drawn at random: the
work does not depend on them. Each log is trained twice, the first time to fill the cache.
"""

import argparse
import random
import resource
import time
from pathlib import Path
from typing import Any

from record import data_folder, write

from training import Comparison, PreferenceLog, load, train

CACHE = Path(__file__).parent.parent / "build" / "bench" / "train_time"
N_MODELS = 10
MODELS = tuple(f"model-{number}" for number in range(N_MODELS))
# Prompts, kind, and the seconds that are allowed.
LOGS = ((5_000, "scores", 60.0), (20_000, "battles", 120.0))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seed", type=int, default=0)
    args = arguments.parse_args()
    source = data_folder() / "llmrouter" / "train.parquet"
    log = load(source)
    numbers: dict[str, Any] = {}
    for n_prompts, kind, allowed_seconds in LOGS:
        made = made_log(log, n_prompts, kind, args.seed)
        for _ in range(2):
            started = time.perf_counter()
            train(made, seed=args.seed, cache=CACHE)
            seconds = time.perf_counter() - started
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        numbers[f"{n_prompts} {kind}"] = {
            "prompts": n_prompts,
            "models": N_MODELS,
            "kind": kind,
            "seconds": round(seconds, 1),
            "allowed_seconds": allowed_seconds,
            "process_peak_mib": round(peak_mib),
        }
        print(f"{n_prompts:,} prompts x {N_MODELS} models, {kind}: {seconds:.1f} s (allowed {allowed_seconds:.0f})")
    write("train_time", numbers, arguments={"seed": args.seed}, files=[source])


def made_log(log: PreferenceLog, n_prompts: int, kind: str, seed: int) -> PreferenceLog:
    rng = random.Random(seed)
    rows = []
    for number in range(n_prompts):
        one = log.comparisons[number % len(log)]
        prompt = one.prompt if number < len(log) else half_of(one.prompt, rng)
        if kind == "scores":
            scores = {model: float(rng.random() < 0.5) for model in MODELS}
            rows.append(Comparison(prompt=prompt, scores=scores, intent=one.intent))
        else:
            a, b = rng.sample(MODELS, 2)
            winner = rng.choice(("model_a", "model_b", "tie"))
            rows.append(Comparison(prompt=prompt, model_a=a, model_b=b, winner=winner, intent=one.intent))
    return PreferenceLog(comparisons=rows)


def half_of(prompt: str, rng: random.Random) -> str:
    words = prompt.split()
    n_words = max(3, len(words) // 2)
    start = rng.randrange(max(1, len(words) - n_words))
    return f"{' '.join(words[start : start + n_words])} {rng.randrange(10**6)}"


if __name__ == "__main__":
    main()
