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
from training.evidence import Battles, battles_of
from training.fit import bradley_terry

DAY_S = 86_400.0
MAX_KEY_SHARE = 0.05
# With few keys no share can be kept to; then none has more than so many times an equal one.
OVER_EQUAL = 2.0
# What is older counts for no less than this, so that weights stay above 0.
LEAST_DECAY = 1e-6
# A key is left out where its word on a model is off from the others' by more than this (logits; points of score), and
# by more than so many standard errors. 1.5 logits: 82 % wins where the others see 50 %.
MAX_SHIFT = {"battles": 1.5, "scores": 0.4}
MAX_ERRORS = 5.0
# In a crowd of at least so many keys, one whose word is off by more than this counts for as much as a typical key: an
# honest one that sees other prompts is still heard, and one that lies half of the time has no more than a say.
MIN_CROWD = 20
DOUBTED_SHIFT = {"battles": 0.5, "scores": 0.15}
# Fewer keys cannot outvote one of them, unless the log has rows without a key.
MIN_KEYS = 4
FEW_KEYS_SHARE = 0.1
MIN_SEEN = 0.5
RIDGE = 0.5
ROUNDS = 4


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


def weigh(log: PreferenceLog, *, half_life_days: float | None = None, max_key_share: float = MAX_KEY_SHARE) -> Weighed:
    """Return the log with the weights that it is learnt from with.

    half_life_days: a comparison counts half as much for every so many days that it is older than the newest; one
    without a timestamp keeps its weight. max_key_share: 1 lets every key count in full.

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
    opinion = judge_keys(log)
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


@dataclass(frozen=True, slots=True)
class Opinion:
    """Keys by what the others say of their word: contradicted outright, or doubted; each sorted."""

    contradicted: tuple[str, ...] = ()
    doubted: tuple[str, ...] = ()


def judge_keys(log: PreferenceLog) -> Opinion:
    """Return the keys whose word on a model is far from everybody else's, and those whose is somewhat off.

    What the others say is a Bradley-Terry fit, or the models' mean scores, in which no key's word on a pair of models,
    or on a model, counts for more than a typical one. A key that is contradicted is left out of it in the next round.
    Most keys, not most rows, must be honest.
    """
    votes = _votes(log)
    n_keys = len(votes.keys)
    keyed = votes.key >= 0
    if not keyed.any() or (n_keys < MIN_KEYS and keyed.all()):
        return Opinion()
    equal = votes.equal_say()
    if n_keys < MIN_KEYS:  # the rows without a key decide
        free = float(votes.weight[~keyed].sum())
        heard = np.bincount(votes.key[keyed], weights=equal[keyed], minlength=n_keys)
        equal[keyed] *= np.minimum(1.0, FEW_KEYS_SHARE * free / np.maximum(heard, 1e-12))[votes.key[keyed]]
    trusted = np.ones(n_keys, dtype=bool)
    for _ in range(ROUNDS):
        off = votes.off(equal * np.append(trusted, True)[votes.key], MAX_SHIFT)  # the last: rows without a key
        if (off == ~trusted).all():
            break
        trusted = ~off
    doubted = np.zeros(n_keys, dtype=bool)
    if n_keys >= MIN_CROWD:
        doubted = trusted & votes.off(equal * np.append(trusted, True)[votes.key], DOUBTED_SHIFT, centred=True)
    return Opinion(
        tuple(name for name, good in zip(votes.keys, trusted, strict=True) if not good),
        tuple(name for name, bad in zip(votes.keys, doubted, strict=True) if bad),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Votes:
    """Battles, or single scores in ``y`` with ``b`` unused. key: int64, -1 without; the rest as in Battles."""

    kind: str
    keys: tuple[str, ...]
    n_models: int
    key: NDArray[np.int64]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    y: NDArray[np.float64]
    weight: NDArray[np.float64]

    def equal_say(self) -> NDArray[np.float64]:
        """Return weights with which no key says more of a pair of models, or of a model, than is usual: (n_votes,)."""
        low, high = np.minimum(self.a, self.b), np.maximum(self.a, self.b)
        subject = low * self.n_models + high if self.kind == "battles" else self.a
        cell = np.unique(self.key * self.n_models**2 + subject, return_inverse=True)[1]
        said = np.bincount(cell, weights=self.weight)
        usual = float(np.median(said[np.unique(cell[self.key >= 0])]))
        factor = np.minimum(1.0, usual / np.maximum(said, 1e-12))[cell]
        return np.asarray(self.weight * np.where(self.key >= 0, factor, 1.0))

    def off(
        self, weight: NDArray[np.float64], max_shift: Mapping[str, float], *, centred: bool = False
    ) -> NDArray[np.bool_]:
        """Return which keys are off by more than this from what all say by these weights: bool (n_keys,).

        centred: of scores, a key's own mean does not count: its prompts may be easy ones.
        """
        pull, mass = np.zeros((2, len(self.keys) + 1, self.n_models))
        if self.kind == "battles":
            heard = weight > 0
            battles = Battles(self.key, self.a, self.b, self.y, np.zeros(len(self.y), dtype=bool), weight)
            theta = bradley_terry(battles.where(heard), np.zeros(self.n_models), RIDGE)
            p = 1.0 / (1.0 + np.exp(theta[self.b] - theta[self.a]))
            for column, sign in ((self.a, 1.0), (self.b, -1.0)):
                np.add.at(pull, (self.key, column), sign * (self.y - p))
                np.add.at(mass, (self.key, column), p * (1 - p))
            noise = mass
        else:
            count = np.bincount(self.a, weights=weight, minlength=self.n_models)
            mean = np.bincount(self.a, weights=weight * self.y, minlength=self.n_models) / np.maximum(count, 1e-12)
            spread = float(np.average(np.square(self.y - mean[self.a]), weights=np.maximum(weight, 1e-12)))
            np.add.at(pull, (self.key, self.a), self.y - mean[self.a])
            np.add.at(mass, (self.key, self.a), 1.0)
            noise = mass * spread
            if centred:
                pull -= mass * pull.sum(axis=1, keepdims=True) / np.maximum(mass.sum(axis=1, keepdims=True), MIN_SEEN)
        shift, errors = np.abs(pull) / (mass + MIN_SEEN), np.abs(pull) / np.sqrt(np.maximum(noise, 1e-12))
        wrong = np.logical_and(shift > max_shift[self.kind], errors > MAX_ERRORS)
        return np.asarray(np.any(wrong[:-1], axis=1), dtype=bool)


def _votes(log: PreferenceLog) -> _Votes:
    keys = tuple(sorted({one.judge for one in log.comparisons if one.judge is not None}))
    models = log.models
    number: Mapping[str | None, int] = {None: -1} | {name: row for row, name in enumerate(keys)}
    column = {name: index for index, name in enumerate(models)}
    kind = "battles" if any(one.scores is None for one in log.comparisons) else "scores"
    votes: list[tuple[int, int, int, float, float]] = []
    for one in log.comparisons:
        key = number[one.judge]
        if kind == "battles":
            votes += [(key, a, b, y, w) for _, a, b, y, bad, w in battles_of(one, 0, column) if not bad]
        else:
            votes += [(key, column[name], 0, score, one.weight) for name, score in (one.scores or {}).items()]
    key_of, a, b, y, weight = zip(*votes, strict=True) if votes else ((),) * 5
    return _Votes(
        kind=kind,
        keys=keys,
        n_models=len(models),
        key=np.array(key_of, dtype=np.int64),
        a=np.array(a, dtype=np.int64),
        b=np.array(b, dtype=np.int64),
        y=np.array(y, dtype=np.float64),
        weight=np.array(weight, dtype=np.float64),
    )
