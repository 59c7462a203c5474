"""router/index.py against brute force."""

import numpy as np
import pytest

from router.index import NeighborIndex


def unit(rng: np.random.Generator, n: int, dim: int = 16) -> np.ndarray:
    vectors = rng.normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 5, 40, 99])
def test_search_is_exact_and_descending(k: int) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = unit(rng, 40), unit(rng, 10)
    index = NeighborIndex(vectors)
    assert len(index) == 40
    for query in queries:
        hits = index.search(query, k)
        similar = vectors @ query
        order = np.argsort(-similar)[:k]
        assert hits.rows.tolist() == order.tolist() and hits.rows.dtype == np.int64
        np.testing.assert_allclose(hits.similarities, similar[order], atol=1e-6)


def test_a_row_finds_itself_first() -> None:
    vectors = unit(np.random.default_rng(1), 7)
    index = NeighborIndex(vectors)
    assert [int(index.search(one, 3).rows[0]) for one in vectors] == list(range(7))
