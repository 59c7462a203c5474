"""Whose word counts: every key is judged by what all others say of the same models, on similar prompts.

An honest key that sees one kind of prompts differs from the others as much as one that lies half of the time, until
both are compared with what the others say of that kind. Kinds are clusters of the prompts' vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.comparisons import PreferenceLog
from training.discover import n_clusters
from training.evidence import Battles, battles_of
from training.fit import bradley_terry
from training.split import cluster_groups

# A key is left out where its word on a model is off from the others' by more than this (logits; points of score), and
# by more than so many standard errors. 1.5 logits: 82 % wins where the others see 50 %.
MAX_SHIFT = {"battles": 1.5, "scores": 0.4}
MAX_ERRORS = 5.0
# In a crowd of at least so many keys this is enough, on similar prompts (62 % wins where the others see 50 %); fewer
# cannot tell how much keys differ.
MIN_CROWD = 20
CROWD_SHIFT = {"battles": 0.5, "scores": 0.15}
# Where more of them are off by that much, people differ, and only MAX_SHIFT is held against them.
MAX_OFF = 0.25
# In a crowd, one that is off by this on similar prompts counts as a typical key; or by CROWD_SHIFT on all prompts,
# where too little is known of those like its own.
DOUBTED_SHIFT = {"battles": 0.3, "scores": 0.1}
# How much models differ between kinds of prompts, as a standard deviation: what is assumed of kinds nobody else knows.
USUAL_SHIFT = {"battles": 1.0, "scores": 0.3}
# And within a kind: a key's own prompts of it are like the others' up to this share of that.
WITHIN_KIND = 0.4
# Others vouch for a key where it would be seen to be off by MAX_SHIFT at so many standard errors.
VOUCHED_ERRORS = 2.0
# Fewer keys cannot outvote one of them, unless the log has rows without a key.
MIN_KEYS = 4
FEW_KEYS_SHARE = 0.1
MIN_SEEN = 0.5
# Votes on which all agree still leave room for a slip: noise below this share of a coin's is not believed.
MIN_SPREAD = {"battles": 0.1, "scores": 0.01}
RIDGE = 0.5
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Opinion:
    """Keys by what the others say of their word: contradicted outright, or doubted; each sorted."""

    contradicted: tuple[str, ...] = ()
    doubted: tuple[str, ...] = ()


def judge_keys(log: PreferenceLog, vectors: NDArray[np.float32] | None = None) -> Opinion:
    """Return the keys whose word on a model is far from everybody else's, and those whose is somewhat off.

    What the others say is a Bradley-Terry fit, or the models' mean scores, in which no key's word on a pair of models,
    or on a model, counts for more than a typical one. A key that is contradicted is left out of it in the next round.
    Most keys, not most rows, must be honest.

    vectors: float32 (n_comparisons, dim), unit length, of the prompts; without them, all prompts are of one kind, and a
    key that differs in a crowd is doubted at most.
    """
    votes = _votes(log, vectors)
    n_keys = len(votes.keys)
    keyed = votes.key >= 0
    if not keyed.any() or (n_keys < MIN_KEYS and keyed.all()):
        return Opinion()
    equal = votes.equal_say()
    if n_keys < MIN_KEYS:  # the rows without a key decide
        free = float(votes.weight[~keyed].sum())
        heard = np.bincount(votes.key[keyed], weights=equal[keyed], minlength=n_keys)
        equal[keyed] *= np.minimum(1.0, FEW_KEYS_SHARE * free / np.maximum(heard, 1e-12))[votes.key[keyed]]
    crowd = n_keys >= MIN_CROWD
    trusted = np.ones(n_keys, dtype=bool)
    for _ in range(ROUNDS):
        weight = equal * np.append(trusted, True)[votes.key]  # the last: rows without a key
        if not weight.any():  # all contradict all
            break
        similar = votes.shifts(weight, votes.prompt_kind)
        off = similar.beyond(MAX_SHIFT[votes.kind])
        if crowd and vectors is not None:
            differ = similar.contrast().beyond(CROWD_SHIFT[votes.kind])
            off = off | differ if differ.mean() <= MAX_OFF else off
        if (off == ~trusted).all():
            break
        trusted = ~off
    doubted = np.zeros(n_keys, dtype=bool)
    if crowd and trusted.any():
        weight = equal * np.append(trusted, True)[votes.key]
        vouched = np.zeros((n_keys, len(log.models)), dtype=bool)
        if vectors is not None:
            similar = votes.shifts(weight, votes.prompt_kind)
            vouched = similar.error * VOUCHED_ERRORS <= MAX_SHIFT[votes.kind]
            doubted = similar.contrast().beyond(DOUBTED_SHIFT[votes.kind])
        overall = votes.shifts(weight, np.zeros_like(votes.prompt_kind))
        doubted = trusted & (doubted | overall.contrast().beyond(CROWD_SHIFT[votes.kind], unless=vouched))
    return Opinion(
        tuple(name for name, good in zip(votes.keys, trusted, strict=True) if not good),
        tuple(name for name, bad in zip(votes.keys, doubted, strict=True) if bad),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Shifts:
    """How far every key's word on every model is off, and that number's standard error: float64 (n_keys, n_models).

    mildness: float64 (n_keys, 1), how much of it is said of all models alike.
    """

    shift: NDArray[np.float64]
    error: NDArray[np.float64]
    mildness: NDArray[np.float64]

    def contrast(self) -> "_Shifts":
        """Return the shifts between models alone: a judge that is mild, or sees easy prompts, misleads nobody."""
        return _Shifts(np.where(np.isfinite(self.error), self.shift - self.mildness, 0.0), self.error, self.mildness)

    def beyond(self, most: float, unless: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """Return which keys are off by more than this on a model: bool (n_keys,). unless: bool (n_keys, n_models)."""
        wrong = (np.abs(self.shift) > most) & (np.abs(self.shift) > MAX_ERRORS * self.error)
        return np.asarray(np.any(wrong if unless is None else wrong & ~unless, axis=1), dtype=bool)


@dataclass(frozen=True, slots=True, eq=False)
class _Votes:
    """Battles, or single scores in ``y`` with ``b`` unused. key: int64, -1 without; the rest as in Battles.

    prompt_kind: int64, from 0.
    """

    kind: str
    keys: tuple[str, ...]
    n_models: int
    key: NDArray[np.int64]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    y: NDArray[np.float64]
    weight: NDArray[np.float64]
    prompt_kind: NDArray[np.int64]

    def equal_say(self) -> NDArray[np.float64]:
        """Return weights with which no key says more of a pair of models, or of a model, than is usual: (n_votes,)."""
        low, high = np.minimum(self.a, self.b), np.maximum(self.a, self.b)
        subject = low * self.n_models + high if self.kind == "battles" else self.a
        cell = np.unique(self.key * self.n_models**2 + subject, return_inverse=True)[1]
        said = np.bincount(cell, weights=self.weight)
        usual = float(np.median(said[np.unique(cell[self.key >= 0])]))
        factor = np.minimum(1.0, usual / np.maximum(said, 1e-12))[cell]
        return np.asarray(self.weight * np.where(self.key >= 0, factor, 1.0))

    def shifts(self, weight: NDArray[np.float64], prompt_kind: NDArray[np.int64]) -> _Shifts:
        """Return how far each key is off from what the others say by these weights, on its kinds of prompts.

        One Newton step from the fit over all prompts gives each kind its own strengths, from the votes of the others
        alone and held to the fit by USUAL_SHIFT; how little they may know goes into the errors.
        """
        residual, information = self._beside_all(weight)
        n_kinds = int(prompt_kind.max()) + 1
        within = WITHIN_KIND * USUAL_SHIFT[self.kind] if n_kinds > 1 else 0.0
        every = np.arange(len(self.y))
        said, known = self._sums(every, weight * residual, weight * information, prompt_kind, n_kinds)
        prior = np.eye(self.n_models) / USUAL_SHIFT[self.kind] ** 2
        local = np.linalg.solve(known + prior, said[:, :, None])[:, :, 0]
        rest = residual - information * local[prompt_kind, self.a]
        if self.kind == "battles":
            rest += information * local[prompt_kind, self.b]
        n_free = np.linalg.solve(known + prior, known).trace(axis1=1, axis2=2).sum()
        n_heard = weight.sum() ** 2 / np.square(weight).sum()
        spread = float(weight @ np.square(rest) / (weight @ information)) / max(1.0 - n_free / n_heard, 0.1)
        spread = max(spread, MIN_SPREAD[self.kind])
        prior *= spread
        pull, mass = np.zeros((2, len(self.keys), self.n_models))
        noise = np.ones((len(self.keys), self.n_models))  # a vote moves a pull by 1 at most: one may be a slip
        order = np.argsort(self.key, kind="stable")
        ends = np.searchsorted(self.key[order], np.arange(len(self.keys) + 1))
        for key in range(len(self.keys)):
            own = order[ends[key] : ends[key + 1]]
            kinds, code = np.unique(prompt_kind[own], return_inverse=True)
            own_pull, own_mass = self._sums(own, residual[own], information[own], code, len(kinds))
            weighed = weight[own]
            own_said, own_known = self._sums(own, weighed * residual[own], weighed * information[own], code, len(kinds))
            loose = np.linalg.inv(known[kinds] - own_known + prior)
            expected = own_mass @ (loose @ (said[kinds] - own_said)[:, :, None])
            pull[key] = (own_pull - expected[:, :, 0]).sum(axis=0)
            masses = np.einsum("kmm->km", own_mass)
            mass[key] = masses.sum(axis=0)
            doubt = mass[key] + np.einsum("kmn,knl,klm->m", own_mass, loose, own_mass)
            noise[key] += spread * doubt + within**2 * np.square(masses).sum(axis=0)
        # Models that a key never judged show no mildness. In battles there is none.
        mildness = (pull / (mass + MIN_SEEN)).mean(axis=1, keepdims=True) * (self.kind == "scores")
        seen = mass > 0
        per_mass = np.divide(1.0, mass, out=np.zeros_like(mass), where=seen)
        return _Shifts(pull * per_mass, np.where(seen, np.sqrt(noise) * per_mass, np.inf), mildness)

    def _beside_all(self, weight: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what each vote says beyond a fit to all, and how much it tells of a shift: float64 (n_votes,) both."""
        if self.kind == "battles":
            battles = Battles(self.key, self.a, self.b, self.y, np.zeros(len(self.y), dtype=bool), weight)
            theta = bradley_terry(battles.where(weight > 0), np.zeros(self.n_models), RIDGE)
            p = 1.0 / (1.0 + np.exp(theta[self.b] - theta[self.a]))
            return self.y - p, p * (1 - p)
        count = np.bincount(self.a, weights=weight, minlength=self.n_models)
        mean = np.bincount(self.a, weights=weight * self.y, minlength=self.n_models) / np.maximum(count, 1e-12)
        return self.y - mean[self.a], np.ones(len(self.y))

    def _sums(
        self,
        some: NDArray[np.int64],
        residual: NDArray[np.float64],
        information: NDArray[np.float64],
        kind: NDArray[np.int64],
        n_kinds: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return gradients (n_kinds, n_models) and their information matrices (n_kinds, n_models, n_models)."""
        a, b = self.a[some], self.b[some]
        gradient = np.zeros((n_kinds, self.n_models))
        matrix = np.zeros((n_kinds, self.n_models, self.n_models))
        np.add.at(gradient, (kind, a), residual)
        np.add.at(matrix, (kind, a, a), information)
        if self.kind == "battles":
            np.add.at(gradient, (kind, b), -residual)
            np.add.at(matrix, (kind, b, b), information)
            np.add.at(matrix, (kind, a, b), -information)
            np.add.at(matrix, (kind, b, a), -information)
        return gradient, matrix


def _votes(log: PreferenceLog, vectors: NDArray[np.float32] | None) -> _Votes:
    keys = tuple(sorted({one.judge for one in log.comparisons if one.judge is not None}))
    models = log.models
    number: Mapping[str | None, int] = {None: -1} | {name: row for row, name in enumerate(keys)}
    column = {name: index for index, name in enumerate(models)}
    kind = "battles" if any(one.scores is None for one in log.comparisons) else "scores"
    prompt_kinds = np.zeros(len(log), dtype=np.int64) if vectors is None else _kinds(vectors)
    votes: list[tuple[int, int, int, float, float, int]] = []
    for one, prompt_kind in zip(log.comparisons, prompt_kinds.tolist(), strict=True):
        key = number[one.judge]
        if kind == "battles":
            votes += [(key, a, b, y, w, prompt_kind) for _, a, b, y, bad, w in battles_of(one, 0, column) if not bad]
        else:
            votes += [(key, column[name], 0, y, one.weight, prompt_kind) for name, y in (one.scores or {}).items()]
    key_of, a, b, y, weight, kind_of = zip(*votes, strict=True) if votes else ((),) * 6
    return _Votes(
        kind=kind,
        keys=keys,
        n_models=len(models),
        key=np.array(key_of, dtype=np.int64),
        a=np.array(a, dtype=np.int64),
        b=np.array(b, dtype=np.int64),
        y=np.array(y, dtype=np.float64),
        weight=np.array(weight, dtype=np.float64) / (np.mean(weight) if votes else 1.0),
        prompt_kind=np.array(kind_of, dtype=np.int64),
    )


def _kinds(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the kind of every prompt, int64 (n_comparisons,): a prompt that is judged a thousand times is one."""
    prompts, row = np.unique(vectors, axis=0, return_inverse=True)
    return cluster_groups(prompts, n_clusters(len(prompts)), 0)[row]
