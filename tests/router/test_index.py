"""router/index.py against brute force."""

import numpy as np
import pytest

from router.index import TOP, NeighborIndex, _largest, round_points, unit_points


def points(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    return rng.normal(size=(n, dim)).astype(np.float32)


def test_rounding_keeps_the_direction_and_not_the_length() -> None:
    some = points(np.random.default_rng(2), 50, 280)
    rounded = round_points(some)
    assert rounded.dtype == np.int8 and (np.abs(rounded).max(axis=1) == TOP).all()
    np.testing.assert_array_equal(round_points(7.5 * some), rounded)
    np.testing.assert_array_equal(round_points(-some), -rounded)
    np.testing.assert_array_equal(round_points(unit_points(rounded)), rounded)
    exact = some / np.linalg.norm(some, axis=1, keepdims=True)
    assert (exact * unit_points(rounded)).sum(axis=1).min() > 0.999


def test_a_point_without_any_direction_is_rounded_to_zero() -> None:
    assert not round_points(np.zeros((1, 4), dtype=np.float32)).any()


@pytest.mark.parametrize("dim", [1, 16, 21, 64, 279, 1500])
@pytest.mark.parametrize("k", [1, 5, 40, 99])
def test_search_is_exact_and_descending(dim: int, k: int) -> None:
    rng = np.random.default_rng(0)
    rows, queries = round_points(points(rng, 40, dim)), points(rng, 10, dim)
    index = NeighborIndex(rows)
    assert len(index) == 40
    for query in queries:
        hits = index.search(query, k)
        similar = unit_points(rows).astype(np.float64) @ unit_points(round_points(query[None]))[0]
        assert len(set(hits.rows.tolist())) == len(hits.rows) == min(k, 40) and hits.rows.dtype == np.int64
        np.testing.assert_allclose(hits.similarities, np.sort(similar)[::-1][:k], atol=1e-6)
        np.testing.assert_allclose(hits.similarities, similar[hits.rows], atol=1e-6)


def test_a_row_finds_itself_first() -> None:
    some = points(np.random.default_rng(1), 7, 16)
    index = NeighborIndex(round_points(some))
    assert [int(index.search(one, 3).rows[0]) for one in some] == list(range(7))


@pytest.mark.parametrize("n", [1, 7, 64, 700, 5000])
@pytest.mark.parametrize("k", [1, 20, 300, 5000])
def test_the_largest_are_found_whatever_the_sample_says(n: int, k: int) -> None:
    rng = np.random.default_rng(n)
    spread = rng.normal(size=n).astype(np.float32)
    sampled_high = spread + 10 * (np.arange(n) % 8 == 0)  # the sample promises far more than there is
    flat = np.ones(n, dtype=np.float32)
    for values in (spread, np.sort(spread), sampled_high.astype(np.float32), flat):
        positions, largest = _largest(np.stack([values, values[::-1]]), min(k, n))
        for found, own, row in zip(positions, largest, (values, values[::-1]), strict=True):
            assert len(set(found.tolist())) == len(found) == min(k, n)
            np.testing.assert_array_equal(row[found], own)
            np.testing.assert_array_equal(own, np.sort(values)[::-1][:k])


def test_many_points_are_searched_as_each_alone() -> None:
    rng = np.random.default_rng(3)
    index, queries = NeighborIndex(round_points(points(rng, 3000, 70))), points(rng, 9, 70)
    many = index.search_many(queries, 50)
    for place, query in enumerate(queries):
        alone, own = index.search(query, 50), many.of(place)
        np.testing.assert_array_equal(own.rows, alone.rows)
        np.testing.assert_array_equal(own.similarities, alone.similarities)
