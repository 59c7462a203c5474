"""Nearest neighbours: the only room that knows FAISS and its notion of distance."""

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from router.types import Embedding


@dataclass(frozen=True, slots=True)
class Hits:
    """rows: int64 (k,), nearest first. similarities: float32 (k,), cosine, descending."""

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]


NO_HITS = Hits(rows=np.zeros(0, dtype=np.int64), similarities=np.zeros(0, dtype=np.float32))


METRIC = "cosine"
# FAISS's half-precision kernels work in steps of 16 dimensions and fall back to scalar code (8 times slower) otherwise.
DIM_STEP = 16
ADD_ROWS = 65_536


class NeighborIndex:
    """Exhaustive search over unit vectors, rebuilt in memory at load: no index file is ever parsed.

    A search of a few thousand rows is bound by memory, so rows are kept in half precision, as the artifact stores them:
    a third faster than single precision, and the same similarities as long as the stored rows are what was trained on.
    """

    def __init__(self, vectors: NDArray[np.float16]) -> None:
        """Index ``vectors``: float16 (n_rows, dim), unit length."""
        self._dim = vectors.shape[1]
        padded_dim = -(-self._dim // DIM_STEP) * DIM_STEP
        half = faiss.ScalarQuantizer.QT_fp16
        self._index = faiss.IndexScalarQuantizer(padded_dim, half, faiss.METRIC_INNER_PRODUCT)
        self._query = np.zeros((1, padded_dim), dtype=np.float32)
        for start in range(0, len(vectors), ADD_ROWS):
            rows = vectors[start : start + ADD_ROWS]
            padded = np.zeros((len(rows), padded_dim), dtype=np.float32)
            padded[:, : self._dim] = rows
            self._index.add(padded)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, vector: Embedding, n_neighbors: int) -> Hits:
        """Return the ``n_neighbors`` rows most similar to ``vector`` (all rows when there are fewer)."""
        # The setting holds for the calling thread only; for one vector, threads would only fight over the cores.
        faiss.omp_set_num_threads(1)
        query = self._query.copy()  # requests may search at the same time
        query[0, : self._dim] = vector
        similarities, rows = self._index.search(query, min(n_neighbors, len(self)))
        return Hits(rows=rows[0], similarities=similarities[0])
