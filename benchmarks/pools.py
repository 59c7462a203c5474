"""Prompts as points, and how they are split: what every method of a benchmark is given alike.

A pool holds all prompts of one set; splits name rows of it. Neighbours and clusters are computed once per split,
so that methods that use them see the same ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from router.encoder import Encoder
from training.evidence import Battles, Table
from training.near import nearest
from training.split import deal_folds

MAX_NEIGHBORS = 300
N_INNER_FOLDS = 3
CHUNK_ROWS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """All prompts of one set.

    table: texts, models, intents, costs, and the labels (scores or battles) that may be learnt from. vectors: float32
    (n_rows, dim), as the encoder gives them. features: float64 (n_rows, n_features). unknown_share: float64
    (n_rows,), of the tokens. truth: float64 (n_rows, n_models), what a choice is worth; only ever read where methods
    are scored. groups: int64 (n_rows,), near-duplicates share one. encoder: what made the vectors; None: the static
    one that ships.
    """

    table: Table
    vectors: NDArray[np.float32]
    features: NDArray[np.float64]
    unknown_share: NDArray[np.float64]
    truth: NDArray[np.float64]
    groups: NDArray[np.int64]
    encoder: Encoder | None = None


class Split:
    """Rows to learn from and rows to route, of one pool. train, asked: int64 row numbers."""

    def __init__(self, pool: Pool, train: NDArray[np.int64], asked: NDArray[np.int64], seed: int) -> None:
        self.pool, self.train, self.asked, self.seed = pool, train, asked, seed
        self._clusters: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The training rows' vectors: float32 (n_train, dim)."""
        return self.pool.vectors[self.train]

    @property
    def queries(self) -> NDArray[np.float32]:
        """The asked rows' vectors: float32 (n_asked, dim)."""
        return self.pool.vectors[self.asked]

    @cached_property
    def neighbors(self) -> NDArray[np.int64]:
        """Positions in ``train`` of each asked row's nearest, nearest first: int64 (n_asked, up to 300)."""
        vectors = self.vectors
        everyone = np.arange(len(vectors))
        found = [
            nearest(self.queries[start : start + CHUNK_ROWS], vectors, everyone, MAX_NEIGHBORS)[1]
            for start in range(0, len(self.asked), CHUNK_ROWS)
        ]
        return np.concatenate(found)

    def clusters(self, n_clusters: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (cluster of each training row, clusters of each asked row, nearest first)."""
        if n_clusters not in self._clusters:
            means = KMeans(min(n_clusters, len(self.train)), n_init=1, max_iter=50, random_state=self.seed)
            labels = means.fit(self.vectors).labels_
            self._clusters[n_clusters] = labels, np.argsort(means.transform(self.queries), axis=1)
        return self._clusters[n_clusters]

    @cached_property
    def inner(self) -> tuple["Split", ...]:
        """Folds of the training rows alone, near-duplicates together: where settings are chosen."""
        folds = deal_folds(self.pool.groups[self.train], N_INNER_FOLDS, self.seed)
        return tuple(
            Split(self.pool, self.train[folds != fold], self.train[folds == fold], self.seed)
            for fold in range(N_INNER_FOLDS)
        )


def cross_fit(pool: Pool, rows: NDArray[np.int64], n_folds: int, seed: int) -> list[Split]:
    """Return ``n_folds`` splits of ``rows``, each row asked once, near-duplicates together."""
    folds = deal_folds(pool.groups[rows], n_folds, seed)
    return [Split(pool, rows[folds != fold], rows[folds == fold], seed) for fold in range(n_folds)]


def stack(tables: Sequence[Table]) -> Table:
    """Return the rows of all tables in one; models must be the same, intents are told by name."""
    first = tables[0]
    names = tuple(sorted({name for one in tables for name in one.intent_names}))
    intents = []
    for one in tables:
        code = np.array([names.index(name) for name in one.intent_names] + [-1], dtype=np.int64)
        intents.append(code[one.intents])
    starts = np.cumsum([0] + [len(one) for one in tables])
    columns = {
        name: np.concatenate([getattr(one.battles, name) for one in tables])
        for name in ("a", "b", "y", "both_bad", "weight")
    }
    rows = np.concatenate([one.battles.rows + start for one, start in zip(tables, starts[:-1], strict=True)])
    return replace(
        first,
        texts=tuple(text for one in tables for text in one.texts),
        originals=tuple(text for one in tables for text in one.originals),
        scores=np.concatenate([one.scores for one in tables]),
        battles=Battles(rows=rows, **columns),
        costs_usd=np.concatenate([one.costs_usd for one in tables]),
        output_tokens=np.concatenate([one.output_tokens for one in tables]),
        row_weight=np.concatenate([one.row_weight for one in tables]),
        intents=np.concatenate(intents),
        intent_names=names,
        timestamps=np.concatenate([one.timestamps for one in tables]),
        input_tokens=np.concatenate([one.input_tokens for one in tables]),
    )


def outcomes(table: Table) -> NDArray[np.float64]:
    """Return how every model did on every row: its score, or its mean outcome (1, 0.5, 0) in battles; NaN if unseen."""
    if table.kind == "scores":
        return table.scores
    battles = table.battles
    points, games = np.zeros((2, *table.scores.shape))
    for column, outcome in ((battles.a, battles.y), (battles.b, 1.0 - battles.y)):
        np.add.at(points, (battles.rows, column), battles.weight * outcome)
        np.add.at(games, (battles.rows, column), battles.weight)
    return np.divide(points, games, out=np.full_like(points, np.nan), where=games > 0)


def one_battle_each(table: Table, seed: int) -> Table:
    """Return the table with each row's scores reduced to one battle of two random models, the higher score winning."""
    rng = np.random.default_rng(seed)
    n_rows, n_models = table.scores.shape
    rows = np.arange(n_rows)
    a = rng.integers(n_models, size=n_rows)
    b = (a + rng.integers(1, n_models, size=n_rows)) % n_models
    y = 0.5 * (1.0 + np.sign(table.scores[rows, a] - table.scores[rows, b]))
    battles = Battles(rows, a, b, y, np.zeros(n_rows, dtype=bool), np.ones(n_rows))
    return replace(table, kind="battles", scores=np.full_like(table.scores, np.nan), battles=battles)
