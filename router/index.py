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


class NeighborIndex:
    """Exact search over unit vectors, rebuilt in memory at load: no index file is ever parsed."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        """Index ``vectors``: float32 (n_rows, dim), unit length, C-contiguous."""
        # Each request searches one vector: FAISS threads would only fight over the cores.
        faiss.omp_set_num_threads(1)
        self._index = faiss.IndexFlatIP(int(vectors.shape[1]))
        self._index.add(vectors)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, vector: Embedding, n_neighbors: int) -> Hits:
        """Return the ``n_neighbors`` rows most similar to ``vector`` (all rows when there are fewer)."""
        similarities, rows = self._index.search(vector[None, :], min(n_neighbors, len(self)))
        return Hits(rows=rows[0], similarities=similarities[0])
