"""How much each comparison counts: less with age, and no more than one key's say where many keys speak.

A key is what the log names as a row's judge: the API key that feedback came with, or a person. Rows without one are
the owner's own and are never held back for whose they are.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from router.errors import DataError
from router.types import JsonObject
from training.comparisons import Comparison, PreferenceLog
from training.trust import judge_keys

DAY_S = 86_400.0
MAX_KEY_SHARE = 0.05
# With few keys no share can be kept to; then none has more than so many times an equal one.
OVER_EQUAL = 2.0
# What is older counts for no less than this, so that weights stay above 0.
LEAST_DECAY = 1e-6


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A key that counts for less than its rows. factor: what they were multiplied by, 0 where they were left out."""

    key: str
    n_comparisons: int
    factor: float
    reason: str


@dataclass(frozen=True, slots=True)
class Weighed:
    """log: with the weights to learn with. n_keys: in the log as it was. held_back: the strongest first."""

    log: PreferenceLog
    n_keys: int
    held_back: tuple[HeldBack, ...] = ()
    settings: JsonObject = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Return what a report keeps of it."""
        return {**self.settings, "n_keys": self.n_keys, "held_back": [asdict(one) for one in self.held_back]}


def weigh(
    log: PreferenceLog,
    *,
    vectors: NDArray[np.float32] | None = None,
    half_life_days: float | None = None,
    max_key_share: float = MAX_KEY_SHARE,
) -> Weighed:
    """Return the log with the weights that it is learnt from with.

    vectors: float32 (n_comparisons, dim), unit length, of the prompts; with them, keys are judged by what the others
    say of similar ones. half_life_days: a comparison counts half as much for every so many days that it is older than
    the newest; one without a timestamp keeps its weight. max_key_share: 1 lets every key count in full.

    Raises:
        DataError: a half-life is wanted and no row has a timestamp, or every row is of a key that was left out.
    """
    if half_life_days is not None and not half_life_days > 0:
        raise ValueError(f"half_life_days must be above 0, got {half_life_days}")
    if not 0 < max_key_share <= 1:
        raise ValueError(f"max_key_share must be above 0 and at most 1, got {max_key_share}")
    settings: JsonObject = {"half_life_days": half_life_days, "max_key_share": max_key_share}
    if half_life_days is not None:
        log = replace_rows(log, _decayed(log, half_life_days))
    counts = Counter(one.judge for one in log.comparisons if one.judge is not None)
    if not counts or max_key_share == 1:
        return Weighed(log, len(counts), (), settings)
    opinion = judge_keys(log, vectors)
    rows = [one for one in log.comparisons if one.judge not in opinion.contradicted]
    if not rows:
        raise DataError("no comparison is left: every key disagrees with all others; see --max-key-share")
    doubted = _typical_factors(rows, opinion.doubted)
    rows = _apply(rows, doubted)
    shares = _share_factors(rows, max_key_share)
    rows = _apply(rows, shares)
    held = [HeldBack(key, counts[key], 0.0, "contradicted by all others") for key in opinion.contradicted]
    held += [HeldBack(key, counts[key], factor, "differs from most others") for key, factor in doubted.items()]
    held += [HeldBack(key, counts[key], factor, "above its share") for key, factor in shares.items()]
    held.sort(key=lambda one: (one.factor, one.key))
    return Weighed(replace_rows(log, rows), len(counts), tuple(held), settings)


def replace_rows(log: PreferenceLog, rows: list[Comparison]) -> PreferenceLog:
    """Return the log with other comparisons, and what it says of its sources."""
    return replace(log, comparisons=rows)


def _decayed(log: PreferenceLog, half_life_days: float) -> list[Comparison]:
    newest = max((one.timestamp for one in log.comparisons if one.timestamp is not None), default=None)
    if newest is None:
        raise DataError("a half-life needs timestamps; no row of the log has one")
    return [
        one
        if one.timestamp is None
        else _times(one, max(0.5 ** ((newest - one.timestamp) / (DAY_S * half_life_days)), LEAST_DECAY))
        for one in log.comparisons
    ]


def _apply(rows: list[Comparison], factors: Mapping[str, float]) -> list[Comparison]:
    return [one if one.judge is None else _times(one, factors.get(one.judge, 1.0)) for one in rows]


def _times(one: Comparison, factor: float) -> Comparison:
    return replace(one, weight=one.weight * factor)


def _typical_factors(rows: list[Comparison], doubted: Sequence[str]) -> dict[str, float]:
    """Return the factor of every doubted key that has more than the median key."""
    totals: dict[str, float] = defaultdict(float)
    for one in rows:
        if one.judge is not None:
            totals[one.judge] += one.weight
    typical = float(np.median(list(totals.values()))) if totals else 0.0
    return {key: typical / totals[key] for key in doubted if totals[key] > typical}


def _share_factors(rows: list[Comparison], max_share: float) -> dict[str, float]:
    """Return the factor of every key that has more than its share of what all have after it was applied."""
    totals: dict[str, float] = defaultdict(float)
    free = 0.0
    for one in rows:
        if one.judge is None:
            free += one.weight
        else:
            totals[one.judge] += one.weight
    if not totals:
        return {}
    share = max(max_share, OVER_EQUAL / len(totals))
    left = free + sum(totals.values())
    factors: dict[str, float] = {}
    capped: list[str] = []
    limit = float("inf")
    for key, total in sorted(totals.items(), key=lambda item: (-item[1], item[0])):
        # With what is capped so far, the limit is this share of everything; it falls with every further key.
        limit = share * left / (1.0 - share * len(capped)) if share * len(capped) < 1.0 else float("inf")
        if total <= limit:
            break
        capped.append(key)
        left -= total
    for key in capped:
        factors[key] = limit / totals[key]
    return factors
