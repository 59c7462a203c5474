"""Nearest neighbours: 8-bit points, compared exactly; the only room that knows numkong and the notion of distance."""

import math
from typing import NamedTuple

import numkong
import numpy as np
from numpy.typing import NDArray

from router.types import Embedding


class Hits(NamedTuple):
    """rows: int64 (k,), nearest first. similarities: float32 (k,), cosine, descending. Of many prompts: (n, k)."""

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]

    def of(self, prompt: int) -> "Hits":
        """Return one prompt's part of the hits of many."""
        return Hits(self.rows[prompt], self.similarities[prompt])


NO_HITS = Hits(rows=np.zeros(0, dtype=np.int64), similarities=np.zeros(0, dtype=np.float32))


METRIC = "cosine-int8"
# The largest 8-bit component; -128 stays unused, so that a point and its opposite are rounded alike.
TOP = 127
# A point whose components are all smaller has no direction.
MIN_COMPONENT = 1e-30
# One row in STRIDE tells, before all are looked at, how similar the k-th one will about be.
STRIDE = 8
# numkong's kernels take 64 components at a step, and a third longer where the last step is a part of one.
DIM_STEP = 64


def round_points(points: NDArray[np.float32]) -> NDArray[np.int8]:
    """Round points, float32 (n, dim), to 8 bits, int8 (n, dim): each so scaled that its largest component is TOP.

    A cosine does not see the scale; what it loses by the rounding is 0.001 in the mean at a few hundred dimensions.
    """
    return _whole_numbers(points).astype(np.int8)


def _whole_numbers(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what ``round_points`` does, not yet in 8 bits."""
    largest = np.abs(points).max(axis=1, keepdims=True)
    numbers: NDArray[np.float32] = points * (TOP / np.maximum(largest, MIN_COMPONENT))
    return np.rint(numbers, out=numbers)


def unit_points(rounded: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return what ``round_points`` kept, with unit length: float32 (n, dim)."""
    points = rounded.astype(np.float32)
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))


class NeighborIndex:
    """Exhaustive search over 8-bit points, packed in memory at load: no index file is ever parsed.

    The dot products are sums of integers, the same in any order and on any machine; looking at every row is faster here
    than any graph, and no row is ever missed (benchmarks/README.md has the measurements).
    """

    def __init__(self, points: NDArray[np.int8]) -> None:
        """Index ``points``: int8 (n_rows, dim), as ``round_points`` gives them."""
        self._n_rows, self._dim = points.shape
        self._padded_dim = -(-self._dim // DIM_STEP) * DIM_STEP
        padded = np.zeros((self._n_rows, self._padded_dim), dtype=np.int8)
        padded[:, : self._dim] = points
        self._packed = numkong.dots_pack(padded)
        self._inverse_lengths = (1.0 / np.linalg.norm(points.astype(np.float32), axis=1)).astype(np.float32)

    def __len__(self) -> int:
        return int(self._n_rows)

    def search(self, point: Embedding, n_neighbors: int) -> Hits:
        """Return the ``n_neighbors`` rows most similar to ``point`` (all rows when there are fewer)."""
        return self.search_many(point[None], n_neighbors).of(0)

    def search_many(self, points: NDArray[np.float32], n_neighbors: int) -> Hits:
        """Return the same for many points, float32 (n, dim), in half the time that one by one would take.

        The cosine is that of the rounded points to the rounded rows.
        """
        queries = np.zeros((len(points), self._padded_dim), dtype=np.int8)
        numbers = _whole_numbers(points)
        queries[:, : self._dim] = numbers
        dots = np.asarray(numkong.dots_packed(queries, self._packed))
        lengths = np.sqrt(np.square(numbers, out=numbers).sum(axis=1))
        rows, similar = _largest(dots.astype(np.float32) * self._inverse_lengths, min(n_neighbors, self._n_rows))
        return Hits(rows, similar / np.maximum(lengths, 1.0)[:, None])


def _largest(values: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return positions and values of the ``k`` largest of each row, largest first: (n, k) each, of float32 (n, m)."""
    n_sampled = -(-values.shape[1] // STRIDE)
    # Three standard deviations more than the share of the sample that is expected, so that k are nearly always found.
    rank = math.ceil(k / STRIDE + 3 * math.sqrt(k / STRIDE))
    positions, largest = np.empty((len(values), k), dtype=np.int64), np.empty((len(values), k), dtype=np.float32)
    if rank < n_sampled:
        sample = values[:, ::STRIDE].copy()
        sample.partition(n_sampled - rank, axis=1)
        above = values >= sample[:, n_sampled - rank, None]
    else:
        above = np.ones(values.shape, dtype=bool)
    for place, row in enumerate(values):
        found = above[place].nonzero()[0]
        some = found if len(found) >= k else np.arange(len(row))
        own = row.take(some)
        order = (-own).argsort()[:k]
        positions[place], largest[place] = some.take(order), own.take(order)
    return positions, largest
