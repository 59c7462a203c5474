"""How much routing gains over the best fixed model on llmrouter: on cross-fitted training rows, and on test rows.

    WHICHMODEL_DATA=... python benchmarks/llmrouter_gain.py [--test]

The test rows can hardly tell methods apart (381 rows) and are for the close of a piece of work: only --test reads them.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from record import data_folder, write

from training import load, train
from training.calibrate import calibration_of
from training.evaluate import judge_log


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--test", action="store_true", help="also score the 381 test rows that are not in train")
    args = arguments.parse_args()
    folder = data_folder() / "llmrouter"
    log = load(folder / "train.parquet")
    started = time.perf_counter()
    artifact, report = train(log, seed=args.seed)
    seconds = time.perf_counter() - started
    print(report.render())
    print(f"trained in {seconds:.1f} s, embedding included")
    numbers = {"train_seconds": round(seconds, 1), "cross_fitted": report.to_json()}
    files = [folder / "train.parquet"]
    if args.test:
        rows = pd.read_parquet(folder / "test.parquet")
        rows = rows[~rows["in_other_split"]]
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "test.parquet"
            rows.to_parquet(path, index=False)
            judged = judge_log(artifact, load(path))
        tested = judged.report()
        print(tested.render())
        numbers["test"] = tested.to_json()
        calibration = calibration_of(judged.table, judged.quality, judged.choices, judged.groups, args.seed)
        numbers["test"]["details"]["calibration"] = {name: asdict(one) for name, one in calibration.items()}
        files.append(folder / "test.parquet")
    for part in ("cross_fitted", "test"):
        for source in numbers.get(part, {}).get("details", {}).get("sources", []):
            source["name"] = Path(source["name"]).name
    write(
        "llmrouter_gain", json.loads(json.dumps(numbers)), arguments={"seed": args.seed, "test": args.test}, files=files
    )


if __name__ == "__main__":
    main()
