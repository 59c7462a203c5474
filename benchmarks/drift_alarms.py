"""Does drift raise an alarm where prompts are of another kind, and none where they are held out of the same log?

    WHICHMODEL_DATA=... python benchmarks/drift_alarms.py

An artifact is trained on 70 % of llmrouter's rows, drawn at random. Windows of prompts are drawn from the others
(without replacement within a window; windows overlap, as there are only so many rows), from the test rows of that log,
and from logs of other kinds; and windows of which a part is of another kind, to see how much of it is noticed. A set
that is no larger than a window is one window. Every prompt is decided once, as the service does without a hurry.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from record import data_folder, write
from tables import HERE, fill, table

from router.drift import SIGNALS, DriftReport, DriftWindow, Reference, reference_of
from router.router import Router
from router.types import Decision
from training import load, train

PAGE = HERE.parent / "docs" / "watch.md"
TRAIN_SHARE = 0.7
OTHERS = {
    "RouterDC's CMMLU (Chinese)": ("routerdc/cmmlu_test.parquet", "routerdc/cmmlu_train.parquet"),
    "RouterDC's HumanEval (code)": ("routerdc/humaneval_test.parquet", "routerdc/humaneval_train.parquet"),
    "Arena-Hard (chat)": ("arenahard/questions_v0_1.parquet", "arenahard/questions_v2_0.parquet"),
}
MIXED = "RouterDC's CMMLU (Chinese)"
PARTS = (0.02, 0.05, 0.1, 0.2)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--windows", type=int, default=100)
    arguments.add_argument("--size", type=int, default=1_000, help="prompts of a window, where there are as many")
    arguments.add_argument("--encoder", default="static")
    arguments.add_argument("--no-record", action="store_true")
    args = arguments.parse_args()
    data, rng = data_folder(), np.random.default_rng(args.seed)
    home = data / "llmrouter" / "train.parquet"
    rows = pd.read_parquet(home)
    learnt = rng.random(len(rows)) < TRAIN_SHARE
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "learnt.parquet"
        rows[learnt].to_parquet(path, index=False)
        artifact, _ = train(load(path), seed=args.seed, encoder=args.encoder)
    router = Router(artifact)
    began = time.perf_counter()
    reference = reference_of(router)
    numbers: dict[str, Any] = {"reference_s": round(time.perf_counter() - began, 2), "sets": {}}
    test = pd.read_parquet(data / "llmrouter" / "test.parquet")
    sets = {
        "llmrouter, held out": decided(router, rows[~learnt]["prompt"]),
        "llmrouter, its test rows": decided(router, test[~test["in_other_split"]]["prompt"]),
        **{
            name: decided(router, pd.concat([prompts_of(data / one) for one in files]))
            for name, files in OTHERS.items()
        },
    }
    same, other = sets["llmrouter, held out"], sets[MIXED]
    for name, decisions in sets.items():
        size = min(args.size, len(decisions))
        n_windows = args.windows if size < len(decisions) else 1
        windows = [[decisions[one] for one in drawn(rng, len(decisions), size)] for _ in range(n_windows)]
        numbers["sets"][name] = found(windows, reference)
    for part in PARTS:
        n_other = round(part * args.size)
        windows = [
            [
                *(same[one] for one in drawn(rng, len(same), args.size - n_other)),
                *(other[one] for one in drawn(rng, len(other), n_other)),
            ]
            for _ in range(args.windows)
        ]
        numbers["sets"][f"llmrouter, held out, with {100 * part:.0f} % CMMLU"] = found(windows, reference)
    router.close()
    print(table_of(numbers))
    if not args.no_record:
        files = [home, home.with_name("test.parquet"), *(data / one for some in OTHERS.values() for one in some)]
        write("drift_alarms", numbers, arguments=vars(args), files=files)
        PAGE.write_text(fill(PAGE.read_text(), "drift-alarms", table_of(numbers)))


def prompts_of(file: Path) -> "pd.Series[str]":
    """Return the prompts of a file; RouterDC calls them questions."""
    rows = pd.read_parquet(file)
    return rows["prompt" if "prompt" in rows else "question"]


def drawn(rng: np.random.Generator, n: int, size: int) -> Sequence[int]:
    """Return ``size`` different places among ``n``."""
    return [int(one) for one in rng.choice(n, size, replace=False)]


def decided(router: Router, prompts: "pd.Series[str]") -> list[Decision]:
    """Decide every distinct prompt."""
    texts = [one for one in dict.fromkeys(prompts) if one.strip()]
    return [router.answer_of(router.artifact.best.name, one, explain=False) for one in texts]


def found(windows: list[list[Decision]], reference: Reference) -> dict[str, Any]:
    """Return how many windows say what, and the median values of the signals."""
    reports: list[DriftReport] = []
    for decisions in windows:
        window = DriftWindow(len(decisions))
        for one in decisions:
            window.observe(one)
        reports.append(window.report(reference))
    return {
        "windows": len(reports),
        "size": len(windows[0]),
        "status": dict(Counter(one.status for one in reports)),
        "signals": {
            name: {
                "status": dict(Counter(one.signal(name).status for one in reports)),
                "p50": median([one.signal(name).value for one in reports]),
                "max": max((one.signal(name).value or 0.0 for one in reports), default=0.0),
            }
            for name in SIGNALS
        },
    }


def median(values: list[float | None]) -> float | None:
    """Return the median of what is known."""
    known = [one for one in values if one is not None]
    return float(np.median(known)) if known else None


def table_of(numbers: dict[str, Any]) -> str:
    """Return the Markdown of docs/watch.md."""
    rows = [
        [
            f"{name} ({own['size']:,})",
            *(f"{own['status'].get(status, 0)} of {own['windows']}" for status in ("watch", "alarm")),
            *(f"{100 * own['signals'][signal]['p50']:.1f} %" for signal in ("far", "unreadable")),
            *(f"{own['signals'][signal]['p50']:.2f}" for signal in ("intents", "models")),
        ]
        for name, own in numbers["sets"].items()
    ]
    head = ["prompts (of a window)", "watch", "alarm", "far", "unreadable", "PSI of intents", "PSI of models"]
    return table(head, rows)


if __name__ == "__main__":
    main()
