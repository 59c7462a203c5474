"""What `train` says of other published logs: a star of battles, llmrouter as single battles, routerbench, routerdc.

WHICHMODEL_DATA=... python benchmarks/log_verdicts.py
"""

import argparse
import random
import time
from typing import Any

from record import data_folder, write

from training import Comparison, PreferenceLog, load, train
from training.inspect import inspect_log

ROUTERDC_TRAIN = ("mmlu_train", "gsm8k-train", "cmmlu_train", "arc_challenge_train", "humaneval_train")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=0)
    args = arguments.parse_args()
    folder = data_folder()
    files = [
        folder / "alpacaeval" / "battles.parquet",
        folder / "llmrouter" / "train.parquet",
        folder / "routerbench" / "train.parquet",
        *(folder / "routerdc" / f"{name}.parquet" for name in ROUTERDC_TRAIN),
    ]
    logs = {
        "alpacaeval battles": load(files[0]),
        "llmrouter, one battle per prompt": one_battle_per_prompt(load(files[1]), args.seed),
        "routerbench": load(files[2]),
        "routerdc": load(*files[3:]),
    }
    numbers: dict[str, Any] = {}
    for name, log in logs.items():
        started = time.perf_counter()
        _, report = train(log, seed=args.seed)
        seconds = round(time.perf_counter() - started, 1)
        print(f"== {name} ({seconds} s)\n{report.render()}")
        graph = inspect_log(log)["graph"]
        print(f"graph: {graph}")
        numbers[name] = {"train_seconds": seconds, "report": report.to_json(), "graph": graph}
        numbers[name]["report"]["details"].pop("sources")
    write("log_verdicts", numbers, arguments={"seed": args.seed}, files=files)


def one_battle_per_prompt(log: PreferenceLog, seed: int) -> PreferenceLog:
    """Return the log with each prompt's scores reduced to one battle of two random models."""
    rng = random.Random(seed)
    battles = []
    for one in log.comparisons:
        model_a, model_b = rng.sample(sorted(one.scores), 2)
        lead = one.scores[model_a] - one.scores[model_b]
        winner = "tie" if lead == 0 else "model_a" if lead > 0 else "model_b"
        battles.append(
            Comparison(prompt=one.prompt, model_a=model_a, model_b=model_b, winner=winner, intent=one.intent)
        )
    return PreferenceLog(comparisons=battles)


if __name__ == "__main__":
    main()
