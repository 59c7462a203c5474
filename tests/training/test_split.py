"""training/split.py: what belongs together stays together, and folds are even."""

import numpy as np
import pytest

from training.split import cluster_groups, deal_folds, near_duplicate_groups


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
