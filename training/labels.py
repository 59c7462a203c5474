"""Prompts with an intent each, and what an encoder is tuned on: read from any table with a prompt and a label."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.errors import DataError
from training.evidence import shares_of_points, tabulate
from training.sources import load
from training.sources.files import Table, Values, open_table
from training.sources.intake import prompt_of, read_label, read_messages

PROMPT_COLUMNS = ("prompt", "messages", "text", "instruction", "question", "utterance")
LABEL_COLUMNS = ("intent", "label", "category", "scenario", "task_name", "subject")


@dataclass(frozen=True, slots=True)
class LabelledPrompts:
    """texts: folded prompts, distinct. labels: the intent of each, or None.

    outcomes: float32 (n_texts, n_models), how well each model did, 0..1, NaN where unknown; or None. n_conflicts: texts
    that stood there with two labels; they keep the first.
    """

    texts: tuple[str, ...]
    labels: tuple[str | None, ...]
    outcomes: NDArray[np.float32] | None = None
    n_conflicts: int = 0

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def names(self) -> tuple[str, ...]:
        """All labels, sorted."""
        return tuple(sorted({one for one in self.labels if one is not None}))

    def describe(self) -> str:
        """Return what there is, for people."""
        n_labelled = sum(one is not None for one in self.labels)
        conflicts = f" ({self.n_conflicts} with a second label, which was ignored)" if self.n_conflicts else ""
        return f"{n_labelled} prompts of {len(self.names)} intents{conflicts} and {len(self) - n_labelled} without"


def read_labelled(*sources: str | Path, with_labels: bool = True) -> LabelledPrompts:
    """Read prompts and intents from JSON Lines, JSON, CSV or Parquet files, one after the other.

    The prompt is the first of PROMPT_COLUMNS that the file has, the label the first of LABEL_COLUMNS. A row without a
    label is read as one; without a prompt it is left out. with_labels: False ignores all labels.

    Raises:
        DataError: a file cannot be read or lacks a prompt or a label column, or no row has a prompt and a label.
    """
    found: dict[str, str | None] = {}
    n_conflicts = 0
    for source in sources:
        table = open_table(_existing(source))
        prompt_column = _column(table, PROMPT_COLUMNS, "prompt")
        label_column = _column(table, LABEL_COLUMNS, "label") if with_labels else None
        for _, values in table.read(lambda _line, _message: None, None):
            text = _prompt(values, prompt_column)
            label = read_label(values.get(label_column)) if label_column else None
            if text is None:
                continue
            known = found.get(text)
            found[text] = known or label
            n_conflicts += None not in (known, label) and known != label
    if not found:
        raise DataError(f"{', '.join(map(str, sources))}: no row with a prompt")
    if with_labels and not any(found.values()):
        raise DataError(f"{', '.join(map(str, sources))}: no row with a prompt has a label")
    return LabelledPrompts(tuple(found), tuple(found.values()), n_conflicts=n_conflicts)


def read_outcomes(*sources: str | Path) -> LabelledPrompts:
    """Read preference logs: their prompts, their intents where they have some, and which models did well on each.

    Raises:
        DataError: as ``training.load``.
    """
    table = tabulate(load(*sources))
    labels = tuple(table.intent_names[code] if code >= 0 else None for code in table.intents)
    return LabelledPrompts(table.texts, labels, outcomes=shares_of_points(table).astype(np.float32))


def with_unlabelled(prompts: LabelledPrompts | None, *sources: str | Path) -> LabelledPrompts:
    """Return the prompts and, behind them, those of further files without labels."""
    more = read_labelled(*sources, with_labels=False)
    if prompts is None:
        return more
    known = set(prompts.texts)
    texts = tuple(text for text in more.texts if text not in known)
    outcomes = prompts.outcomes
    if outcomes is not None:
        outcomes = np.vstack([outcomes, np.full((len(texts), outcomes.shape[1]), np.nan, dtype=np.float32)])
    labels = prompts.labels + (None,) * len(texts)
    return LabelledPrompts(prompts.texts + texts, labels, outcomes, prompts.n_conflicts)


def _existing(source: str | Path) -> Path:
    path = Path(source)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return path


def _column(table: Table, names: Sequence[str], what: str) -> str:
    for name in names:
        if name in table.columns:
            return name
    raise DataError(
        f"{table.name}: no {what} column; got {', '.join(table.columns)}, expected one of {', '.join(names)}"
    )


def _prompt(values: Values, column: str) -> str | None:
    try:
        return read_messages(values.get(column)) if column == "messages" else prompt_of(values, column)
    except ValueError:
        return None
