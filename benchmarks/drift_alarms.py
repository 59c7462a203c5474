"""Does drift raise an alarm where prompts are of another kind, and none where they are held out of the same log?

    WHICHMODEL_DATA=... python benchmarks/drift_alarms.py

An artifact is trained on 70 % of llmrouter's rows, drawn at random, and another one on another draw, four in all.
Windows of prompts are drawn from the others (without replacement within a window; windows of a split overlap, as there
are only so many rows). From the first artifact's view: windows of the log's test rows, of logs of other kinds, and such
of which a part is of another kind, to see how much of it is noticed. A set that is no larger than a window is one
window. Every prompt is decided once, as the service does without a hurry.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from record import data_folder, write
from tables import HERE, fill, table

from router.artifact import RouterArtifact
from router.drift import SIGNALS, DriftReport, DriftWindow, Reference, reference_of
from router.router import Router
from router.types import Decision
from training import load, train

Window = tuple[list[Decision], Reference]

PAGE = HERE.parent / "docs" / "watch.md"
TRAIN_SHARE = 0.7
OTHERS = {
    "RouterDC's CMMLU (Chinese)": ("routerdc/cmmlu_test.parquet", "routerdc/cmmlu_train.parquet"),
    "RouterDC's HumanEval (code)": ("routerdc/humaneval_test.parquet", "routerdc/humaneval_train.parquet"),
    "Arena-Hard (chat)": ("arenahard/questions_v0_1.parquet", "arenahard/questions_v2_0.parquet"),
}
MIXED = "RouterDC's CMMLU (Chinese)"
SAME = "llmrouter, held out"
PARTS = (0.02, 0.05, 0.1, 0.2)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--splits", type=int, default=4, help="artifacts, each of which has its part of the windows")
    arguments.add_argument("--windows", type=int, default=100)
    arguments.add_argument("--size", type=int, default=1_000, help="prompts of a window, where there are as many")
    arguments.add_argument("--encoder", default="static")
    arguments.add_argument("--no-record", action="store_true")
    args = arguments.parse_args()
    data, rng = data_folder(), np.random.default_rng(args.seed)
    home = data / "llmrouter" / "train.parquet"
    rows = pd.read_parquet(home)
    learnt = rng.random(len(rows)) < TRAIN_SHARE
    windows: dict[str, list[Window]] = {}
    took_s = []
    for split in range(args.splits):
        learnt = rng.random(len(rows)) < TRAIN_SHARE
        router = Router(trained(rows[learnt], args.seed, args.encoder))
        began = time.perf_counter()
        reference = reference_of(router)
        took_s.append(time.perf_counter() - began)
        same = decided(router, rows[~learnt]["prompt"])
        n_windows = args.windows // args.splits
        add = partial(add_windows, windows, rng, reference)
        add(SAME, [(same, args.size)], n_windows)
        if split == 0:
            test = pd.read_parquet(data / "llmrouter" / "test.parquet")
            unseen = decided(router, test[~test["in_other_split"]]["prompt"])
            add("llmrouter, its test rows", [(unseen, args.size)], args.windows)
            for name, files in OTHERS.items():
                some = decided(router, pd.concat([prompts_of(data / one) for one in files]))
                add(name, [(some, args.size)], args.windows)
                if name == MIXED:
                    other = some
            for part in PARTS:
                n_other = round(part * args.size)
                add(
                    f"{SAME}, with {100 * part:.0f} % CMMLU",
                    [(same, args.size - n_other), (other, n_other)],
                    args.windows,
                )
        router.close()
    numbers: dict[str, Any] = {
        "reference_s": [round(one, 2) for one in took_s],
        "sets": {name: found(own) for name, own in windows.items()},
    }
    print(table_of(numbers))
    if not args.no_record:
        files = [home, home.with_name("test.parquet"), *(data / one for some in OTHERS.values() for one in some)]
        write("drift_alarms", numbers, arguments=vars(args), files=files)
        PAGE.write_text(fill(PAGE.read_text(), "drift-alarms", table_of(numbers)))


def prompts_of(file: Path) -> "pd.Series[str]":
    """Return the prompts of a file; RouterDC calls them questions."""
    rows = pd.read_parquet(file)
    return rows["prompt" if "prompt" in rows else "question"]


def add_windows(
    windows: dict[str, list[Window]],
    rng: np.random.Generator,
    reference: Reference,
    name: str,
    parts: Sequence[tuple[list[Decision], int]],
    n_windows: int,
) -> None:
    """Draw windows, each of so many decisions of every part; one window where all of a part is in it."""
    if len(parts) == 1 and len(parts[0][0]) <= parts[0][1]:
        n_windows = 1
    for _ in range(n_windows):
        some = [
            one[place]
            for one, size in parts
            for place in rng.choice(len(one), min(size, len(one)), replace=False).tolist()
        ]
        windows.setdefault(name, []).append((some, reference))


def trained(rows: pd.DataFrame, seed: int, encoder: str) -> RouterArtifact:
    """Train on some rows."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "learnt.parquet"
        rows.to_parquet(path, index=False)
        return train(load(path), seed=seed, encoder=encoder)[0]


def decided(router: Router, prompts: "pd.Series[str]") -> list[Decision]:
    """Decide every distinct prompt."""
    texts = [one for one in dict.fromkeys(prompts) if one.strip()]
    return [router.answer_of(router.artifact.best.name, one, explain=False) for one in texts]


def found(windows: list[Window]) -> dict[str, Any]:
    """Return how many windows say what, and the median values of the signals."""
    reports: list[DriftReport] = []
    for decisions, reference in windows:
        window = DriftWindow(len(decisions))
        for one in decisions:
            window.observe(one)
        reports.append(window.report(reference))
    return {
        "windows": len(reports),
        "size": len(windows[0][0]),
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
