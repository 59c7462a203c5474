"""What encoders know of intent: the label by nearest labelled prompts, and the same by script."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from encoder_zoo import Candidate, unknown_shares_of, vectors_of
from numpy.typing import NDArray
from paired import difference, resampled_means

from router.encoder import Encoder, OnnxEncoder
from router.prompt import fold_messages
from training.metrics import neighbor_labels, share_interval

INTENTS = Path(__file__).parent.parent / "data" / "intents"
N_FOLDS = 20  # about what leaving one out gives, at a twentieth of the index's copies
SEED = 0
FOREIGN_SHARE = 0.2
QUICK_ROWS = 300

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """texts: prompts. names: their labels. messages: the chats that texts were folded from, None for single prompts."""

    texts: list[str]
    names: list[str]
    messages: list[Messages | None]

    def __add__(self, other: "Labelled") -> "Labelled":
        return Labelled(self.texts + other.texts, self.names + other.names, self.messages + other.messages)

    def take(self, rows: Iterable[int]) -> "Labelled":
        """Return some rows."""
        rows = list(rows)
        return Labelled(*([one[row] for row in rows] for one in (self.texts, self.names, self.messages)))


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """predicted, truth: label per query. correct: float64 (n_queries,)."""

    predicted: NDArray[np.str_]
    truth: NDArray[np.str_]

    @property
    def correct(self) -> NDArray[np.float64]:
        return (self.predicted == self.truth).astype(np.float64)


def read_intents(name: str) -> Labelled:
    """Read data/intents/NAME.jsonl; chats are folded as serving folds them."""
    rows = [json.loads(line) for line in (INTENTS / f"{name}.jsonl").read_text().splitlines()]
    texts = [row["prompt"] if "prompt" in row else fold_messages(row["messages"]) for row in rows]
    return Labelled(texts, [row["intent"] for row in rows], [row.get("messages") for row in rows])


def read_autoj(folder: Path, role: str) -> Labelled:
    """Read Auto-J's scenarios, role 'train' or 'test'."""
    rows = pd.read_parquet(folder / f"scenario_{role}.parquet")
    return Labelled(rows["text"].tolist(), rows["category"].tolist(), [None] * len(rows))


def groups_of(folder: Path) -> dict[str, str]:
    """Return the group of each of Auto-J's scenarios; one without (and 'default') is a group of its own."""
    rows = pd.read_parquet(folder / "scenarios.parquet")
    groups = {one: str(group) for one, group in zip(rows["scenario"], rows["group"], strict=True) if pd.notna(group)}
    return {one: groups.get(one, one) for one in [*rows["scenario"], "default"]}


@dataclass(frozen=True, slots=True, eq=False)
class Sets:
    """train, held_out: data/intents. scenarios, scenario_tests, groups: Auto-J's, index and queries."""

    train: Labelled
    held_out: Labelled
    scenarios: Labelled
    scenario_tests: Labelled
    groups: dict[str, str]


def read_sets(autoj: Path, *, quick: bool = False) -> Sets:
    """Read both sets; quick: some rows of each."""
    parts = [read_intents("train"), read_intents("held_out"), read_autoj(autoj, "train"), read_autoj(autoj, "test")]
    if quick:
        parts = [one.take(np.random.default_rng(SEED).permutation(len(one.texts))[:QUICK_ROWS]) for one in parts]
    return Sets(*parts, groups=groups_of(autoj))


def ask(encoder: Encoder, index: Labelled, queries: Labelled) -> Asked:
    """Label the queries by the nearest rows of the index."""
    names, codes = np.unique(index.names, return_inverse=True)
    labels = neighbor_labels(vectors_of(encoder, index.texts), codes, vectors_of(encoder, queries.texts))
    return Asked(names[labels], np.array(queries.names))


def ask_cross_fitted(encoder: Encoder, rows: Labelled, texts: Sequence[str] | None = None) -> Asked:
    """Label every row by the nearest of the other folds. texts: the rows' texts, where they are not their own."""
    names, codes = np.unique(rows.names, return_inverse=True)
    vectors = vectors_of(encoder, rows.texts if texts is None else texts)
    folds = np.random.default_rng(SEED).permutation(len(vectors)) % N_FOLDS
    labels = np.empty(len(vectors), dtype=np.int64)
    for fold in range(N_FOLDS):
        asked = folds == fold
        labels[asked] = neighbor_labels(vectors[~asked], codes[~asked], vectors[asked])
    return Asked(names[labels], np.array(rows.names))


def accuracy(asked: Asked, groups: Mapping[str, str] | None = None) -> dict[str, float | int | None]:
    """Return the share of right labels (or right groups) with Wilson's interval."""
    right = int(asked.correct.sum())
    if groups is not None:
        right = sum(groups[a] == groups[b] for a, b in zip(asked.predicted, asked.truth, strict=True))
    return asdict(share_interval(right, len(asked.truth))) | {"n": len(asked.truth)}


def paired_difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> dict[str, float]:
    """Return mean of a minus b, by row, with its interval."""
    rows, one = np.arange(len(a)), np.zeros(len(a), dtype=np.int64)
    first, second = resampled_means(np.stack([a, b]), rows, one, SEED)
    return asdict(difference(float((a - b).mean()), first - second))


def script_of(text: str) -> str:
    """Return the script of a text, as far as its letters tell.

    A foreign script counts from a fifth of the letters on: instructions around it are often English, and a Chinese
    letter is a word. Latin text with letters beyond ASCII is most likely not English.
    """
    letters = Counter(_script_of_letter(one) for one in text if one.isalpha())
    foreign = {name: n for name, n in letters.items() if not name.startswith("Latin")}
    if foreign and sum(foreign.values()) >= FOREIGN_SHARE * sum(letters.values()):
        return max(foreign, key=foreign.__getitem__)
    return "Latin, beyond ASCII" if letters["Latin, beyond ASCII"] else "Latin, ASCII"


def _script_of_letter(letter: str) -> str:
    if letter.isascii():
        return "Latin, ASCII"
    name = unicodedata.name(letter, "")
    for prefix, script in _SCRIPTS.items():
        if name.startswith(prefix):
            return script
    return "other"


_SCRIPTS = {
    "LATIN": "Latin, beyond ASCII",
    "CJK": "CJK",
    "HIRAGANA": "CJK",
    "KATAKANA": "CJK",
    "HANGUL": "CJK",
    "CYRILLIC": "Cyrillic",
    "ARABIC": "Arabic",
}


def by_script(encoder: Encoder, rows: Labelled, asked: Asked) -> dict[str, Any]:
    """Return, per script, the accuracy and the mean share of unknown tokens (None where the encoder has no tokens)."""
    scripts = np.array([script_of(text) for text in rows.texts])
    unknown = unknown_shares_of(encoder, rows.texts) if isinstance(encoder, OnnxEncoder) else None
    out = {}
    for script, n in Counter(scripts.tolist()).most_common():
        own = scripts == script
        share = None if unknown is None else float(unknown[own].mean())
        right = int(asked.correct[own].sum())
        out[script] = asdict(share_interval(right, n)) | {"n": n, "unknown_share": share}
    return out


def quality(candidate: Candidate, sets: Sets) -> tuple[dict[str, Any], dict[str, Asked], dict[str, Any]]:
    """Return (accuracies, the answers behind them by set, accuracy by script) of one encoder."""
    encoder = candidate.fit(sets.train.texts)
    asked = {
        "intents": ask(encoder, sets.train, sets.held_out),
        "autoj": ask(candidate.fit(sets.scenarios.texts), sets.scenarios, sets.scenario_tests),
    }
    numbers = {name: accuracy(one) for name, one in asked.items()}
    numbers["autoj_groups"] = accuracy(asked["autoj"], sets.groups)
    rows = sets.train + sets.held_out
    return numbers, asked, by_script(encoder, rows, ask_cross_fitted(encoder, rows))
