"""The log as arrays: one row per distinct prompt, scores as a matrix or battles as a list. No fitting here."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.errors import DataError
from router.features import FEATURE_NAMES
from router.needs import CHARS_PER_TOKEN, count_tokens
from router.prompt import Template, find_template, prompt_hash
from training.comparisons import Comparison, Kept, PreferenceLog

Battle = tuple[int, int, int, float, bool, float]
"""row, column of model_a, of model_b, outcome for model_a, both bad, weight."""
RowKey = tuple[str, str]
"""A row's text and, only where it has none, the hash of its prompt."""
OUTCOMES = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "both_bad": 0.5}


@dataclass(frozen=True, slots=True, eq=False)
class Battles:
    """Pairwise comparisons, one per element.

    rows: int64 (n_battles,), the prompt. a, b: int64, columns of the two models. y: float64, 1 when a won, 0 when b
    did, 0.5 for a tie. both_bad: bool. weight: float64, above 0.
    """

    rows: NDArray[np.int64]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    y: NDArray[np.float64]
    both_bad: NDArray[np.bool_]
    weight: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, keep: NDArray[np.bool_]) -> "Battles":
        """Return the battles marked in ``keep``: bool (n_battles,)."""
        return Battles(
            self.rows[keep], self.a[keep], self.b[keep], self.y[keep], self.both_bad[keep], self.weight[keep]
        )


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Distinct prompts against models.

    texts: what is embedded, one per row. originals: the prompts as logged. kind: 'scores' or 'battles'. scores:
    float64 (n_rows, n_models), NaN where not scored; all NaN for battles. costs_usd: float64, same shape, mean
    measured cost, NaN where none. output_tokens: float64, same shape, mean measured length of the answer, NaN where
    none. row_weight: float64 (n_rows,). intents: int64 (n_rows,), -1 without. timestamps: float64 (n_rows,), NaN
    without. input_tokens: int64 (n_rows,), of the prompts as logged: costs are reckoned without their texts.
    kept: what takes the place of the text where a row has none (its text and original are then empty), None where it
    has one; () where no row is without.
    """

    texts: tuple[str, ...]
    originals: tuple[str, ...]
    models: tuple[str, ...]
    kind: str
    scores: NDArray[np.float64]
    battles: Battles
    costs_usd: NDArray[np.float64]
    output_tokens: NDArray[np.float64]
    row_weight: NDArray[np.float64]
    intents: NDArray[np.int64]
    intent_names: tuple[str, ...]
    timestamps: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    kept: tuple[Kept | None, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def hashes(self) -> list[str]:
        """The hash of every row's text; of a row without text, of the text as it was asked."""
        return self._hashed(self.texts)

    @property
    def original_hashes(self) -> list[str]:
        """The hash of every row's prompt as logged."""
        return self._hashed(self.originals)

    def _hashed(self, texts: Sequence[str]) -> list[str]:
        kept = self.kept or (None,) * len(self)
        return [prompt_hash(text) if one is None else one.prompt_hash for text, one in zip(texts, kept, strict=True)]

    def take(self, rows: NDArray[np.int64]) -> "Table":
        """Return the table of ``rows`` alone, in this order; int64, none twice."""
        position = np.full(len(self), -1)
        position[rows] = np.arange(len(rows))
        battles = self.battles.where(position[self.battles.rows] >= 0)
        return replace(
            self,
            texts=tuple(self.texts[row] for row in rows),
            originals=tuple(self.originals[row] for row in rows),
            scores=self.scores[rows],
            battles=replace(battles, rows=position[battles.rows]),
            costs_usd=self.costs_usd[rows],
            output_tokens=self.output_tokens[rows],
            row_weight=self.row_weight[rows],
            intents=self.intents[rows],
            timestamps=self.timestamps[rows],
            input_tokens=self.input_tokens[rows],
            kept=tuple(self.kept[row] for row in rows) if self.kept else (),
        )

    def naming_used_intents(self) -> "Table":
        """Return the table with only those intents named that a row has."""
        used, codes = np.unique(self.intents, return_inverse=True)
        n_without = int((used < 0).sum())
        names = tuple(self.intent_names[code] for code in used[n_without:])
        return replace(self, intents=(codes - n_without).astype(np.int64), intent_names=names)


def tabulate(log: PreferenceLog, *, template: Template | None = None, models: tuple[str, ...] | None = None) -> Table:
    """Merge a log's comparisons to a Table; the template is found in the prompts when none is given.

    Rules: rows with the same text after cutting the template are one prompt; its scores are averaged by weight, its
    battles all kept, its intent is the most frequent one. A log that holds battles is a log of battles: scored rows
    in it become battles between every two of their models with outcome (1 + score_a - score_b) / 2 and weight
    1 / (n_models - 1). Weights are taken in units of their mean, the time of a prompt is that of its last comparison.
    With ``models``, columns are these, in this order, and other models are dropped.

    Raises:
        DataError: fewer than two models or no rows are left.
    """
    names = models or tuple(log.models)
    column = {name: index for index, name in enumerate(names)}
    if template is None:
        template = find_template(log.texts)
    groups: dict[RowKey, list[Comparison]] = defaultdict(list)
    for key, one in zip(row_keys(log, template), log.comparisons, strict=True):
        groups[key].append(one)
    kind = "battles" if any(one.scores is None for one in log.comparisons) else "scores"
    if len(names) < 2 or not groups:
        raise DataError(f"too little to learn from: {len(groups)} prompts and {len(names)} models; 1 and 2 are needed")
    intent_names = tuple(sorted({one.intent for one in log.comparisons if one.intent is not None}))
    shape = (len(groups), len(names))
    scores, costs, lengths = _Mean(shape), _Mean(shape), _Mean(shape)
    battles: list[Battle] = []
    for row, members in enumerate(groups.values()):
        for one in members:
            costs.add_all(row, one.costs_usd or {}, column, 1.0)
            lengths.add_all(row, one.output_tokens or {}, column, 1.0)
            if kind == "battles":
                battles.extend(battles_of(one, row, column))
            else:
                scores.add_all(row, one.scores or {}, column, one.weight)
    # Weights are relative: in units of their mean, the pseudo-counts of every prior keep their meaning.
    unit = float(np.mean([one.weight for one in log.comparisons]))
    weights = [
        1.0 if kind == "battles" else np.mean([one.weight for one in members]) / unit for members in groups.values()
    ]
    fought = _columns(battles)
    # Of several, the first that has the text.
    originals = tuple(next((one.prompt for one in members if one.kept is None), "") for members in groups.values())
    kept = tuple(_kept_of(members) for members in groups.values())
    return Table(
        texts=tuple(text for text, _ in groups),
        originals=originals,
        models=names,
        kind=kind,
        scores=scores.values(),
        battles=replace(fought, weight=fought.weight / unit),
        costs_usd=costs.values(),
        output_tokens=lengths.values(),
        row_weight=np.array(weights, dtype=np.float64),
        intents=np.array([_intent_of(members, intent_names) for members in groups.values()], dtype=np.int64),
        intent_names=intent_names,
        timestamps=np.array([_latest(members) for members in groups.values()], dtype=np.float64),
        input_tokens=np.array(
            [_n_tokens(text, one) for text, one in zip(originals, kept, strict=True)], dtype=np.int64
        ),
        kept=kept if any(kept) else (),
    )


def placeable(log: PreferenceLog, dims: Mapping[str, int]) -> tuple[PreferenceLog, int]:
    """Return the log without the comparisons that cannot be placed, and how many battles and scores those hold.

    Such have no text, nor has any other of the same prompt, and no vector of one of the encoders, or no features. dims:
    the encoders' dimensions by their ids.
    """
    known = {prompt_hash(text) for text in log.texts}
    rows = [
        one
        for one in log.comparisons
        if one.kept is None or one.kept.prompt_hash in known or one.kept.can_be_placed(dims)
    ]
    if not rows and len(log):
        raise DataError(
            f"none of {len(log)} comparisons has its text, or features and vectors of the encoder that trains; train "
            "with the encoder of the artifact that served (--against takes it), or give sources with texts"
        )
    return replace(log, comparisons=rows), _n_findings(log.comparisons) - _n_findings(rows)


def _n_findings(rows: Sequence[Comparison]) -> int:
    return sum(1 if one.scores is None else len(one.scores) for one in rows)


def n_idle_ratings(log: PreferenceLog) -> int:
    """Return how many scored rows a log of battles cannot use: those of one model, which beat nobody."""
    if all(one.scores is not None for one in log.comparisons):
        return 0
    return sum(one.scores is not None and len(one.scores) < 2 for one in log.comparisons)


def row_keys(log: PreferenceLog, template: Template) -> list[RowKey]:
    """Return which row every comparison belongs to; one without text to that of the same prompt, where it is there."""
    keys = {prompt_hash(text): (template.strip(text), "") for text in log.texts}
    return [
        (template.strip(one.prompt), "")
        if one.kept is None
        else keys.get(one.kept.prompt_hash, ("", one.kept.prompt_hash))
        for one in log.comparisons
    ]


def shares_of_points(table: Table) -> NDArray[np.float64]:
    """Return how well every model did on every row: float64 (n_rows, n_models) in 0..1, NaN where unknown.

    Scores as they are; of battles the share of points that a model took on the row, a tie being half a point.
    """
    if table.kind == "scores":
        return table.scores
    points, games = np.zeros((2, *table.scores.shape))
    battles = table.battles
    for column, outcome in ((battles.a, battles.y), (battles.b, 1.0 - battles.y)):
        np.add.at(points, (battles.rows, column), outcome)
        np.add.at(games, (battles.rows, column), 1.0)
    return np.where(games > 0, points / np.maximum(games, 1.0), np.nan)


class _Mean:
    """A weighted mean per cell, NaN where nothing was added."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.total, self.weight = np.zeros(shape), np.zeros(shape)

    def add_all(self, row: int, values: Mapping[str, float], column: Mapping[str, int], weight: float) -> None:
        for name, value in values.items():
            if name in column:
                self.total[row, column[name]] += weight * value
                self.weight[row, column[name]] += weight

    def values(self) -> NDArray[np.float64]:
        empty = np.full_like(self.total, np.nan)
        return np.divide(self.total, self.weight, out=empty, where=self.weight > 0)


def _intent_of(members: Sequence[Comparison], intent_names: Sequence[str]) -> int:
    """Return the number of the most frequent intent, the first by name among equals; -1 without one."""
    votes = Counter(one.intent for one in members if one.intent is not None)
    return intent_names.index(min(votes, key=lambda name: (-votes[name], name))) if votes else -1


def _kept_of(members: Sequence[Comparison]) -> Kept | None:
    """Return the first member's of a row without text, with the vectors and features of all; None of one with text."""
    kept = [one.kept for one in members if one.kept is not None]
    if len(kept) < len(members):
        return None
    vectors = {name: vector for one in reversed(kept) for name, vector in one.vectors.items()}
    features = next((one.features for one in kept if one.features is not None), None)
    return Kept(kept[0].prompt_hash, vectors, features)


def _n_tokens(text: str, kept: Kept | None) -> int:
    """Return the length of a prompt; without its text from its number of bytes, which is a feature."""
    if kept is None or kept.features is None:
        return count_tokens(text)
    return math.ceil(round(math.expm1(kept.features[FEATURE_NAMES.index("log_bytes")])) / CHARS_PER_TOKEN)


def _latest(members: Sequence[Comparison]) -> float:
    """Return when the last of a prompt's comparisons was made: none of a row's outcomes is newer than the row."""
    return max((one.timestamp for one in members if one.timestamp is not None), default=float("nan"))


def battles_of(one: Comparison, row: int, column: Mapping[str, int]) -> list[Battle]:
    """Return a comparison's battles: its own, or those between every two of its scored models, on ``row``."""
    if one.scores is None:
        if one.model_a is None or one.model_b is None or one.winner is None:
            return []
        if one.model_a not in column or one.model_b not in column:
            return []
        both_bad = one.winner == "both_bad"
        return [(row, column[one.model_a], column[one.model_b], OUTCOMES[one.winner], both_bad, one.weight)]
    scored = [(column[name], score) for name, score in sorted(one.scores.items()) if name in column]
    weight = one.weight / max(len(scored) - 1, 1)
    return [
        (row, a, b, (1.0 + score_a - score_b) / 2.0, False, weight)
        for position, (a, score_a) in enumerate(scored)
        for b, score_b in scored[position + 1 :]
    ]


def _columns(battles: list[Battle]) -> Battles:
    fields = list(zip(*battles, strict=True)) if battles else [()] * 6
    return Battles(
        rows=np.array(fields[0], dtype=np.int64),
        a=np.array(fields[1], dtype=np.int64),
        b=np.array(fields[2], dtype=np.int64),
        y=np.array(fields[3], dtype=np.float64),
        both_bad=np.array(fields[4], dtype=bool),
        weight=np.array(fields[5], dtype=np.float64),
    )
