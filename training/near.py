"""The nearest rows under any hold-out, found once: cross-validation asks the same rows over and over."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHUNK_ROWS = 1024
# Farther than any cosine: what lies there has a weight of exactly 0, as if it had not been found.
NOWHERE = np.float32(-1e9)


@dataclass(frozen=True, slots=True, eq=False)
class NearRows:
    """Every row's nearest rows outside its own fold, nearest first.

    vectors: float32 (n_rows, dim), unit length. similarities: float32 (n_rows, n_listed), -inf where the list is
    shorter. rows: int32, same shape. unreadable: bool (n_rows,), rows that serving would not ask the neighbours of, or
    None for no row.
    """

    vectors: NDArray[np.float32]
    similarities: NDArray[np.float32]
    rows: NDArray[np.int32]
    unreadable: NDArray[np.bool_] | None = None

    def among(
        self, asked: NDArray[np.int64], train: NDArray[np.bool_], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return what ``nearest`` returns for the rows ``asked`` among those marked in ``train``, bool (n_rows,).

        ``train`` must hold no row of an asked row's own fold: such rows are not listed. To an unreadable row all are
        NOWHERE.
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
        if self.unreadable is not None:
            similarities[self.unreadable[asked]] = NOWHERE
        return similarities, rows


def list_near_rows(
    vectors: NDArray[np.float32],
    folds: NDArray[np.int64],
    n_listed: int,
    unreadable: NDArray[np.bool_] | None = None,
) -> NearRows:
    """Find every row's ``n_listed`` nearest rows outside its own fold. folds: int64 (n_rows,)."""
    n_rows = len(vectors)
    n_listed = min(n_listed, n_rows)
    similarities = np.empty((n_rows, n_listed), dtype=np.float32)
    rows = np.empty((n_rows, n_listed), dtype=np.int32)

    def fill(start: int) -> None:
        some = slice(start, start + CHUNK_ROWS)
        similar = vectors[some] @ vectors.T
        similar[folds[some, None] == folds[None, :]] = -np.inf
        similarities[some], rows[some] = _largest(similar, n_listed)

    # The product, the partition and the sort let go of the GIL.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for _ in pool.map(fill, range(0, n_rows, CHUNK_ROWS)):
            pass
    return NearRows(vectors, similarities, rows, unreadable)


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
        found = np.take_along_axis(similar, top, axis=1)
        last = found.min(axis=1, keepdims=True)
        # The partition takes any of those that equal the last one.
        for row in np.flatnonzero((similar == last).sum(axis=1) > (found == last).sum(axis=1)):
            above = np.flatnonzero(similar[row] > last[row])
            top[row] = np.concatenate([above, np.flatnonzero(similar[row] == last[row])[: k - len(above)]])
    else:
        top = np.broadcast_to(np.arange(n_columns), similar.shape).copy()
    # One key per candidate, the similarity turned round above the column: one sort settles equals by column, so that
    # their order never depends on the partition.
    keys = np.sort(_falling(np.take_along_axis(similar, top, axis=1)) << np.uint64(32) | top.astype(np.uint64), axis=1)
    columns = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return np.take_along_axis(similar, columns, axis=1), columns


def _falling(similar: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return numbers of 32 bits that fall as the similarities rise."""
    bits = (similar + np.float32(0.0)).view(np.uint32)  # -0.0 becomes 0.0
    rising = np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))
    return (~rising).astype(np.uint64)
