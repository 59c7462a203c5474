"""What are the tools worth on somebody's own intents? Encoders tuned on Auto-J's training texts; measured, not shipped.

    whichmodel encoder tune ... ; whichmodel encoder export ... ; whichmodel encoder distill ...
    WHICHMODEL_DATA=... python benchmarks/intent_tuning.py --full DIR --static DIR

Accuracy on the published test texts by a vote of the nearest training texts, and by group of scenarios; the same by the
tiers that ship. Writes results/intent_tuning.json and docs/intent_confusion.png.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from encoder_intents import Asked, accuracy, ask, groups_of, paired_difference, read_autoj
from numpy.typing import NDArray
from record import data_folder, write

from router.encoder import OnnxEncoder

PLOT = Path(__file__).parent.parent / "docs" / "intent_confusion.png"
FILES = ("scenario_train", "scenario_test", "scenarios")
SHIPPED = {"full": "full tuned on Auto-J", "static": "static tuned on Auto-J"}
"""The tiers that ship, and what the tuned encoders of each are called."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--full", type=Path, required=True, help="encoder directory tuned on Auto-J's training texts"
    )
    arguments.add_argument("--static", type=Path, required=True, help="the same of the static tier")
    args = arguments.parse_args()
    folder = data_folder() / "autoj"
    index, queries, groups = read_autoj(folder, "train"), read_autoj(folder, "test"), groups_of(folder)
    numbers: dict[str, Any] = {}
    for tier, title in SHIPPED.items():
        before = ask(OnnxEncoder.load(tier), index, queries)
        tuned = OnnxEncoder.load(vars(args)[tier])
        after = ask(tuned, index, queries)
        numbers[tier] = {"scenarios": accuracy(before), "groups": accuracy(before, groups)}
        numbers[title] = {"scenarios": accuracy(after), "groups": accuracy(after, groups)} | {
            "minus_shipped": paired_difference(after.correct, before.correct),
            "encoder_id": tuned.id,
        }
        if tier == "full":
            numbers["group_confusion"] = confusion(after, groups, PLOT)
        print(f"{title}: {numbers[title]['scenarios']['value']:.3f} of scenarios, shipped {before.correct.mean():.3f}")
    files = [folder / f"{one}.parquet" for one in FILES]
    write("intent_tuning", numbers, arguments={}, files=files)


def confusion(asked: Asked, groups: dict[str, str], target: Path) -> dict[str, Any]:
    """Draw which scenario is read as which, sorted by group, and return the same by group."""
    names = sorted(set(asked.truth) | set(asked.predicted), key=lambda name: (groups[name], name))
    shares = row_shares(asked.truth, asked.predicted, names)
    figure, axes = plt.subplots(figsize=(9, 8))
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=5)
    axes.set_yticks(range(len(names)), names, fontsize=5)
    own = [groups[name] for name in names]
    for at in range(1, len(own)):
        if own[at] != own[at - 1]:
            axes.axhline(at - 0.5, color="tab:gray", lw=0.6)
            axes.axvline(at - 0.5, color="tab:gray", lw=0.6)
    for group in dict.fromkeys(own):
        rows = [at for at, one in enumerate(own) if one == group]
        if len(rows) > 1:
            axes.text(len(names), float(np.mean(rows)), group, fontsize=7, va="center")
    axes.set_xlabel("read as")
    axes.set_ylabel("labelled; lines: groups of scenarios")
    axes.set_title("share of a row's prompts, white 0 to blue 1", fontsize=9)
    figure.tight_layout()
    figure.savefig(target, dpi=90)
    plt.close(figure)
    labels = sorted(set(own))
    truth, predicted = (np.array([groups[name] for name in one]) for one in (asked.truth, asked.predicted))
    return {"groups": labels, "shares": row_shares(truth, predicted, labels).round(3).tolist()}


def row_shares(truth: NDArray[np.str_], predicted: NDArray[np.str_], names: list[str]) -> NDArray[np.float64]:
    """Return how often each true name is read as each name: float64 (n_names, n_names), rows sum to 1 or are 0."""
    counts = np.zeros((len(names), len(names)))
    place = {name: at for at, name in enumerate(names)}
    np.add.at(counts, ([place[one] for one in truth], [place[one] for one in predicted]), 1.0)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)


if __name__ == "__main__":
    main()
