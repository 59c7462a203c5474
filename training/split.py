"""Which rows may not be separated, and how the groups are dealt to folds."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import KMeans

from router.errors import DataError

NEAR_DUPLICATE_COSINE = 0.95
CHUNK_ROWS = 1024
SPLITS = ("time", "random")
MIN_SPAN_DAYS = 14


def near_duplicate_groups(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return a group number per row, int64 (n_rows,): rows linked by a cosine above 0.95 share one.

    vectors: float32 (n_rows, dim), unit length.
    """
    n_rows = len(vectors)
    left, right = [], []
    for start in range(0, n_rows, CHUNK_ROWS):
        similar = vectors[start : start + CHUNK_ROWS] @ vectors[start:].T > NEAR_DUPLICATE_COSINE
        rows, columns = np.nonzero(similar)
        left.append(rows + start)
        right.append(columns + start)
    rows, columns = np.concatenate(left), np.concatenate(right)
    links = coo_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(n_rows, n_rows))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)


def cluster_groups(vectors: NDArray[np.float32], n_clusters: int, seed: int) -> NDArray[np.int64]:
    """Return a k-means cluster per row, int64 (n_rows,): held out whole, they show the risk under shift."""
    n_clusters = min(n_clusters, len(np.unique(vectors, axis=0)))
    means = KMeans(n_clusters, n_init=1, max_iter=30, random_state=seed).fit(vectors)
    return np.asarray(means.labels_, dtype=np.int64)


def deal_folds(groups: NDArray[np.int64], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Deal whole groups to folds of nearly equal size and return the fold per row, int64 (n_rows,).

    Groups go in random order, the large ones first, each to the smallest fold so far.
    """
    names, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    fold_of_group = np.empty(len(names), dtype=np.int64)
    filled = np.zeros(n_folds, dtype=np.int64)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        smallest = int(np.argmin(filled))
        fold_of_group[group] = smallest
        filled[smallest] += sizes[group]
    return fold_of_group[codes]


def choose_split(timestamps: NDArray[np.float64], wanted: str | None = None) -> str:
    """Return how to hold rows out: 'time' or 'random', as wanted or else as the timestamps suggest.

    By default by time where every row has a timestamp and they span more than MIN_SPAN_DAYS.
    timestamps: float64 (n_rows,), seconds, NaN where unknown.

    Raises:
        DataError: 'time' is wanted, but rows have no timestamp or all have the same one.
    """
    if wanted is not None and wanted not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {wanted!r}")
    if wanted == "random":
        return wanted
    n_missing = int(np.isnan(timestamps).sum())
    span_s = float(np.ptp(timestamps)) if n_missing == 0 else 0.0
    if wanted is None:
        return "time" if span_s > 86_400 * MIN_SPAN_DAYS else "random"
    if n_missing:
        raise DataError(
            f"a split by time needs a timestamp on every prompt; {n_missing} of {len(timestamps)} have none"
        )
    if span_s == 0:
        raise DataError("a split by time needs timestamps that differ; all are the same")
    return wanted


def time_blocks(timestamps: NDArray[np.float64], n_blocks: int) -> NDArray[np.int64]:
    """Return the block of each row, int64 (n_rows,), 0 the oldest: about equally many rows, equal times together.

    timestamps: float64 (n_rows,), no NaN.
    """
    newest = timestamps.max()
    edges = np.quantile(timestamps, np.arange(1, n_blocks) / n_blocks)
    edges = np.unique(edges[edges < newest])
    if not len(edges):  # most rows are of the newest time
        edges = timestamps[timestamps < newest].max(initial=-np.inf, keepdims=True)
    blocks = np.searchsorted(edges, timestamps, side="left")
    return np.unique(blocks, return_inverse=True)[1].astype(np.int64)
