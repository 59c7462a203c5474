"""training/split.py: what belongs together stays together, and folds are even."""

import numpy as np
import pytest

from router.errors import DataError
from training.split import choose_split, cluster_groups, deal_folds, near_duplicate_groups, time_blocks

DAY = 86_400.0


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.parametrize("n", [1, 50, 2100])
def test_chains_of_near_duplicates_are_one_group(n: int) -> None:
    rng = np.random.default_rng(0)
    lonely = unit(rng.normal(size=(n, 64)))
    angles = 0.25 * np.arange(4)  # neighbours at cosine 0.969, the ends at 0.73
    chain = np.zeros((4, 64), dtype=np.float32)
    chain[:, 0], chain[:, 1] = np.cos(angles), np.sin(angles)
    order = rng.permutation(n + 4)
    groups = near_duplicate_groups(np.vstack([lonely, chain])[order])
    of_chain = groups[np.isin(order, np.arange(n, n + 4))]
    assert len(set(of_chain)) == 1 and len(set(groups)) == n + 1 and groups.dtype == np.int64


@pytest.mark.parametrize("n_folds", [2, 5])
def test_folds_are_even_and_never_split_a_group(n_folds: int) -> None:
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 60, 400) * 7
    folds = deal_folds(groups, n_folds, seed=3)
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))
    sizes = np.bincount(folds, minlength=n_folds)
    assert sizes.min() > 0 and sizes.max() - sizes.min() <= np.bincount(groups).max()
    np.testing.assert_array_equal(folds, deal_folds(groups, n_folds, seed=3))
    assert (folds != deal_folds(groups, n_folds, seed=4)).any()


def test_one_large_group_is_alone_in_its_fold() -> None:
    folds = deal_folds(np.array([0] * 90 + list(range(1, 11))), 2, seed=0)
    assert len(set(folds[:90])) == 1 and set(folds[90:]) == {1 - folds[0]}


@pytest.mark.parametrize("n_distinct", [1, 3, 40])
def test_clusters_of_repeated_points(n_distinct: int) -> None:
    """Logs repeat prompts; fewer distinct points than clusters is no reason to warn."""
    points = unit(np.random.default_rng(2).normal(size=(n_distinct, 8)))
    labels = cluster_groups(np.repeat(points, 2, axis=0), 10, seed=0)
    assert labels.shape == (2 * n_distinct,) and (labels[::2] == labels[1::2]).all()
    assert len(set(labels)) == min(n_distinct, 10)


@pytest.mark.parametrize(
    ("days", "wanted", "split"),
    [
        ((0.0, 14.0), None, "random"),
        ((0.0, 14.001), None, "time"),
        ((0.0, 14.001), "random", "random"),
        ((0.0, 1e-5), "time", "time"),
        ((0.0, 365.0, np.nan), None, "random"),
        ((np.nan, np.nan), None, "random"),
        ((np.nan, np.nan), "random", "random"),
        ((3.0, 3.0), None, "random"),
    ],
)
def test_time_is_taken_where_every_row_has_one_and_they_span_weeks(
    days: tuple[float, ...], wanted: str | None, split: str
) -> None:
    for order in (slice(None), slice(None, None, -1)):
        assert choose_split(1e9 + DAY * np.array(days)[order], wanted) == split


def test_time_that_is_wanted_must_be_known() -> None:
    stamps = 1e9 + DAY * np.arange(10.0)
    stamps[[2, 5, 6]] = np.nan
    with pytest.raises(DataError, match="3 of 10 have none"):
        choose_split(stamps, "time")
    with pytest.raises(DataError, match="2 of 2 have none"):
        choose_split(np.full(2, np.nan), "time")
    with pytest.raises(DataError, match="all are the same"):
        choose_split(np.full(10, 1e9), "time")
    with pytest.raises(ValueError, match="'date'"):
        choose_split(stamps, "date")


@pytest.mark.parametrize("n_blocks", [2, 5])
@pytest.mark.parametrize("n", [5, 23, 100, 101])
def test_distinct_times_make_even_blocks(n: int, n_blocks: int) -> None:
    rng = np.random.default_rng(n)
    stamps = 1e9 + rng.permutation(np.cumsum(rng.exponential(DAY, n)))  # quiet and busy days, in no order
    blocks = time_blocks(stamps, n_blocks)
    sizes = np.bincount(blocks)
    assert blocks.dtype == np.int64 and len(sizes) == n_blocks and sizes.max() - sizes.min() <= 1
    assert (np.diff(blocks[np.argsort(stamps)]) >= 0).all(), "0 is the oldest"


@pytest.mark.parametrize("n_distinct", [2, 3, 8, 40])
@pytest.mark.parametrize("seed", range(5))
def test_equal_times_stay_together_in_order(n_distinct: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stamps = 1e9 + DAY * rng.choice(n_distinct, 200, p=rng.dirichlet(np.ones(n_distinct)))
    blocks = time_blocks(stamps, 5)
    assert set(blocks) == set(range(blocks.max() + 1)), "no number is left out"
    assert blocks.max() < 5
    times = np.unique(stamps)
    of_time = [set(blocks[stamps == one]) for one in times]
    assert all(len(one) == 1 for one in of_time)
    order = [one.pop() for one in of_time]
    assert order == sorted(order) and order[0] == 0
    assert len(set(order)) > 1 or len(times) == 1, "two times are enough to test one on the other"


@pytest.mark.parametrize("n_old", [1, 19, 20, 50, 80, 81, 99])
def test_two_times_are_two_blocks(n_old: int) -> None:
    old = np.random.default_rng(0).permutation(100) < n_old
    np.testing.assert_array_equal(time_blocks(np.where(old, 5.0, 7.0), 5), np.where(old, 0, 1))


def test_one_time_is_one_block() -> None:
    assert not time_blocks(np.full(30, 1e9), 5).any()
