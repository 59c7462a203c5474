"""router/index.py against brute force."""

import numpy as np
import pytest

from router.index import NeighborIndex


def unit(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """Return unit vectors in half precision, as the artifact stores them."""
    vectors = rng.normal(size=(n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("dim", [1, 16, 21, 279])
@pytest.mark.parametrize("k", [1, 5, 40, 99])
def test_search_is_exact_and_descending(dim: int, k: int) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = unit(rng, 40, dim), unit(rng, 10, dim).astype(np.float32)
    index = NeighborIndex(vectors)
    assert len(index) == 40
    for query in queries:
        hits = index.search(query, k)
        similar = vectors.astype(np.float64) @ query
        assert len(set(hits.rows.tolist())) == len(hits.rows) == min(k, 40) and hits.rows.dtype == np.int64
        np.testing.assert_allclose(hits.similarities, np.sort(similar)[::-1][:k], atol=1e-6)
        np.testing.assert_allclose(hits.similarities, similar[hits.rows], atol=1e-6)


def test_a_row_finds_itself_first() -> None:
    vectors = unit(np.random.default_rng(1), 7, 16)
    index = NeighborIndex(vectors)
    assert [int(index.search(one.astype(np.float32), 3).rows[0]) for one in vectors] == list(range(7))
