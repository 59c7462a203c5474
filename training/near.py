"""The nearest rows under any hold-out, found once: cross-validation asks the same rows over and over."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHUNK_ROWS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class NearRows:
    """Every row's nearest rows outside its own fold, nearest first.

    vectors: float32 (n_rows, dim), unit length. similarities: float32 (n_rows, n_listed), -inf where the list is
    shorter. rows: int32, same shape.
    """

    vectors: NDArray[np.float32]
    similarities: NDArray[np.float32]
    rows: NDArray[np.int32]

    def among(
        self, asked: NDArray[np.int64], train: NDArray[np.bool_], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return what ``nearest`` returns for the rows ``asked`` among those marked in ``train``, bool (n_rows,).

        ``train`` must hold no row of an asked row's own fold: such rows are not listed.
        """
        candidates = np.flatnonzero(train)
        k = min(k, len(candidates))
        listed = self.rows[asked]
        usable = train[listed] & np.isfinite(self.similarities[asked])
        # A stable sort brings the usable ones to the front in their order.
        first = np.argsort(~usable, axis=1, kind="stable")[:, :k]
        similarities = np.take_along_axis(self.similarities[asked], first, axis=1)
        rows = np.take_along_axis(listed, first, axis=1).astype(np.int64)
        short = np.flatnonzero(usable.sum(axis=1) < k)
        if similarities.shape[1] < k:  # the lists themselves are shorter than k
            similarities, rows = np.empty((len(asked), k), dtype=np.float32), np.empty((len(asked), k), dtype=np.int64)
        for start in range(0, len(short), CHUNK_ROWS):
            some = short[start : start + CHUNK_ROWS]
            similarities[some], rows[some] = nearest(self.vectors[asked[some]], self.vectors, candidates, k)
        return similarities, rows


def list_near_rows(vectors: NDArray[np.float32], folds: NDArray[np.int64], n_listed: int) -> NearRows:
    """Find every row's ``n_listed`` nearest rows outside its own fold. folds: int64 (n_rows,)."""
    n_rows = len(vectors)
    n_listed = min(n_listed, n_rows)
    similarities = np.empty((n_rows, n_listed), dtype=np.float32)
    rows = np.empty((n_rows, n_listed), dtype=np.int32)
    for start in range(0, n_rows, CHUNK_ROWS):
        some = slice(start, start + CHUNK_ROWS)
        similar = vectors[some] @ vectors.T
        similar[folds[some, None] == folds[None, :]] = -np.inf
        similarities[some], rows[some] = _largest(similar, n_listed)
    return NearRows(vectors, similarities, rows)


def nearest(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], rows: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return (similarities, row numbers), each (n_queries, k), of the nearest among ``rows``, nearest first."""
    similarities, positions = _largest(queries @ vectors[rows].T, min(k, len(rows)))
    return similarities, rows[positions]


def _largest(similar: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the k largest of each row and their columns, largest first; equal ones go by column."""
    n_columns = similar.shape[1]
    if k < n_columns:
        top = np.argpartition(similar, n_columns - k, axis=1)[:, -k:]
    else:
        top = np.broadcast_to(np.arange(n_columns), similar.shape).copy()
    # Sorted by column first, so that the order of equals never depends on the partition.
    top.sort(axis=1)
    found = np.take_along_axis(similar, top, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(top, order, axis=1)
