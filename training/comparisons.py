"""The canonical training record, and the log that all readers make of their rows.

Readers of published formats live in sources/; arrays for fitting are made in evidence.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Fewer distinct prompts than this are refused by train.
MIN_PROMPTS = 20
WINNERS = ("model_a", "model_b", "tie", "both_bad")


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What is left of a prompt whose text was not kept.

    prompt_hash: of the text as it was asked. vectors: by encoder id, float32 (dim,). features: float64 (N_FEATURES,),
    or None where there are none, or of another rule.
    """

    prompt_hash: str
    vectors: Mapping[str, NDArray[np.float32]]
    features: NDArray[np.float64] | None

    def can_be_placed(self, dims: Mapping[str, int]) -> bool:
        """Tell whether all of these encoders, {id: dimensions}, have seen the prompt, and its features are known."""
        return self.features is not None and all(
            one in self.vectors and self.vectors[one].shape == (dim,) for one, dim in dims.items()
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one logged row says about models on one prompt: either a battle or a set of scores.

    prompt: the folded text (router.prompt.fold_messages), empty only where ``kept`` takes its place. A battle has
    model_a, model_b and winner (one of WINNERS); a scored row has ``scores`` {model: 0..1}. costs_usd, latencies_ms and
    output_tokens (length of the answer): {model: measured value of that one call}. weight: relative trust in the row,
    above 0. timestamp: seconds since 1970 (UTC). where: FILE:LINE.
    """

    prompt: str
    model_a: str | None = None
    model_b: str | None = None
    winner: str | None = None
    scores: Mapping[str, float] | None = None
    costs_usd: Mapping[str, float] | None = None
    latencies_ms: Mapping[str, float] | None = None
    output_tokens: Mapping[str, float] | None = None
    intent: str | None = None
    weight: float = 1.0
    judge: str | None = None
    user: str | None = None
    timestamp: float | None = None
    where: str = ""
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """What a reader did with one column of a source: its role, or why it was left alone."""

    name: str
    role: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row that was not usable: ``FILE:LINE`` and what is wrong, what was expected."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """How one source was read: the format, how it was recognised, its columns, its rows."""

    name: str
    format: str
    recognised_by: str
    n_rows: int
    n_kept: int
    columns: tuple[Column, ...]
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class FeedbackRead:
    """How a feedback store was read, in events. n_with_text, n_without_text: of all, whether their prompt is kept.

    n_placeless: neither text nor vectors tell what was asked. n_without_model: nothing is said of a model that is
    wanted, or under no usable name. All others are in comparisons, a battle alone, scores of one prompt together.
    """

    name: str
    n_with_text: int
    n_without_text: int
    n_placeless: int
    n_without_model: int

    @property
    def n_events(self) -> int:
        """How many events the store held."""
        return self.n_with_text + self.n_without_text

    @property
    def n_taken(self) -> int:
        """How many are in comparisons."""
        return self.n_events - self.n_placeless - self.n_without_model


@dataclass(slots=True)
class PreferenceLog:
    """All comparisons of one or more sources, with what was refused and why.

    notes: rules that were applied to rows (self-battles dropped, NaN scores ignored ...) with their counts. feedback:
    how the feedback store among the sources was read, None without one.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    sources: list[SourceSummary] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    feedback: FeedbackRead | None = None

    def __len__(self) -> int:
        return len(self.comparisons)

    @property
    def texts(self) -> list[str]:
        """The prompts of all rows that have their text."""
        return [row.prompt for row in self.comparisons if row.kept is None]

    @property
    def models(self) -> list[str]:
        """All models named by any row, sorted."""
        names: set[str] = set()
        for row in self.comparisons:
            if row.scores is not None:
                names.update(row.scores)
            else:
                names.update(name for name in (row.model_a, row.model_b) if name is not None)
        return sorted(names)
