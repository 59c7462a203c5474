"""training/near.py: what is listed once answers like a search anew, whatever is held out."""

import numpy as np
import pytest
from numpy.typing import NDArray

from router.estimate import EstimatorSettings, neighbor_weights
from training import near
from training.near import NOWHERE, list_near_rows, nearest

DIM = 6


def coarse(n: int, seed: int) -> NDArray[np.float32]:
    """Vectors of small whole numbers: exact products, and many of them equal."""
    return np.random.default_rng(seed).integers(-1, 2, (n, DIM)).astype(np.float32)


def fine(n: int, seed: int) -> NDArray[np.float32]:
    """Vectors of multiples of 1/256: exact products in float32, hardly any of them equal."""
    return np.asarray(np.round(np.random.default_rng(seed).normal(size=(n, DIM)) * 256) / 256, dtype=np.float32)


def by_sorting(
    vectors: NDArray[np.float32], asked: NDArray[np.int64], candidates: NDArray[np.int64], k: int
) -> tuple[list[list[float]], list[list[int]]]:
    """The k most similar candidates of each row asked, one by one; equal ones by row number."""
    similarities, rows = [], []
    for row in asked:
        similar = {int(other): float(vectors[row] @ vectors[other]) for other in candidates}
        order = sorted(similar, key=lambda other: (-similar[other], other))[:k]
        similarities.append([similar[other] for other in order])
        rows.append(order)
    return similarities, rows


def agrees(
    vectors: NDArray[np.float32],
    folds: NDArray[np.int64],
    n_listed: int,
    asked: NDArray[np.int64],
    train: NDArray[np.bool_],
    k: int,
) -> None:
    """Assert that the listed rows, a search anew and a plain sort say the same."""
    candidates = np.flatnonzero(train)
    found = list_near_rows(vectors, folds, n_listed).among(asked, train, k)
    anew = nearest(vectors[asked], vectors, candidates, k)
    wanted = by_sorting(vectors, asked, candidates, k)
    shape = (len(asked), min(k, len(candidates)))
    for similarities, rows in (found, anew):
        assert similarities.shape == rows.shape == shape
        assert (similarities.dtype, rows.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(rows, np.reshape(wanted[1], shape))
        np.testing.assert_array_equal(similarities, np.reshape(wanted[0], shape))


@pytest.mark.parametrize("n_listed", [1, 5, 20, 1000])
@pytest.mark.parametrize("k", [1, 5, 30])
@pytest.mark.parametrize("chunk_rows", [7, 1024])
def test_listed_rows_answer_like_a_search_anew(
    n_listed: int, k: int, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists longer and shorter than k, and rows of which much, most and nearly all is left out."""
    monkeypatch.setattr(near, "CHUNK_ROWS", chunk_rows)
    for seed, kept in enumerate((0.9, 0.5, 0.1)):
        rng = np.random.default_rng(seed)
        folds = rng.integers(0, 4, 60)
        asked = np.flatnonzero(folds == 2)
        train = (folds != 2) & (rng.random(60) < kept)
        agrees(fine(60, seed), folds, n_listed, asked, train, k)


@pytest.mark.parametrize("n_listed", [4, 12, 60])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_equals_go_by_row_number(n_listed: int, k: int) -> None:
    """Repeated prompts lie at the same point: which of them are taken must not depend on how they were found."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        vectors = coarse(12, seed)[rng.integers(0, 12, 60)]
        folds = rng.integers(0, 3, 60)
        asked, train = np.flatnonzero(folds == 0), (folds != 0) & (rng.random(60) < 0.6)
        agrees(vectors, folds, n_listed, asked, train, k)


@pytest.mark.parametrize("k", [1, 4])
def test_points_that_are_all_the_same(k: int) -> None:
    vectors = np.tile(np.array([[1, 0]], dtype=np.float32), (40, 1))
    folds = np.arange(40) % 2
    rows = list_near_rows(vectors, folds, 8).among(np.array([0, 6]), folds == 1, k)[1]
    assert rows.tolist() == 2 * [[1, 3, 5, 7][:k]]


def test_one_row_is_left() -> None:
    """It is the farthest from most of those that ask, and so in nobody's list."""
    vectors, folds = fine(50, 3), np.arange(50) % 5
    asked = np.flatnonzero(folds == 0)
    for last in (1, 27, 49):
        agrees(vectors, folds, 6, asked, np.arange(50) == last, 3)


def test_nothing_is_left() -> None:
    vectors, folds = fine(20, 0), np.arange(20) % 2
    similarities, rows = list_near_rows(vectors, folds, 5).among(np.array([0, 2]), np.zeros(20, dtype=bool), 3)
    assert similarities.shape == rows.shape == (2, 0)


def test_nobody_asks() -> None:
    vectors, folds = fine(20, 0), np.arange(20) % 2
    similarities, rows = list_near_rows(vectors, folds, 5).among(np.zeros(0, dtype=np.int64), folds == 1, 3)
    assert similarities.shape == rows.shape == (0, 3)


def test_some_lists_suffice_and_others_do_not() -> None:
    """In one call: rows that are answered from their list stand beside rows that are searched for anew."""
    vectors, folds = fine(80, 4), (np.arange(80) >= 20).astype(np.int64)
    asked = np.arange(20)
    listed = list_near_rows(vectors, folds, 10)
    kept = np.isin(np.arange(80), listed.rows[:5]) | (np.arange(80) % 7 == 0)
    train = kept & (folds == 1)
    n_usable = train[listed.rows[asked]].sum(axis=1)
    assert (n_usable >= 6).any() and (n_usable < 6).any()
    agrees(vectors, folds, 10, asked, train, 6)


def test_nothing_is_near_an_unreadable_row() -> None:
    """Neither from its list nor searched for anew; it may still be near others."""
    vectors, folds, unreadable = fine(60, 2), np.arange(60) % 3, np.arange(60) % 5 == 0
    asked = np.flatnonzero(folds == 1)
    for train in (folds != 1, (folds != 1) & (np.arange(60) % 7 == 0)):
        plain = list_near_rows(vectors, folds, 12).among(asked, train, 8)
        found = list_near_rows(vectors, folds, 12, unreadable).among(asked, train, 8)
        out = unreadable[asked]
        assert (found[0][out] == NOWHERE).all()
        np.testing.assert_array_equal(found[0][~out], plain[0][~out])
        np.testing.assert_array_equal(found[1], plain[1])
        assert unreadable[found[1]].any()
    assert not neighbor_weights(found[0][out], EstimatorSettings(8, usual_similarity=0.9)).any()


@pytest.mark.parametrize("n_listed", [1, 10, 45, 100])
@pytest.mark.parametrize("sizes", [(20, 25), (44, 1), (45,), (1,) * 45])
def test_the_own_fold_is_never_listed(n_listed: int, sizes: tuple[int, ...]) -> None:
    """The nearest of all is each row's twin in the same fold."""
    folds = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    vectors = fine(45, 5)
    vectors[np.flatnonzero(folds == 0)] = vectors[np.flatnonzero(folds == 0)[0]]
    found = list_near_rows(vectors, folds, n_listed)
    assert found.similarities.shape == found.rows.shape == (45, min(n_listed, 45))
    for row in range(45):
        listed = np.isfinite(found.similarities[row])
        others = np.flatnonzero(folds != folds[row])
        assert not listed[listed.sum() :].any(), "what is missing stands last"
        assert listed.sum() == min(n_listed, len(others))
        assert (folds[found.rows[row, listed]] != folds[row]).all()
        wanted = np.sort(vectors[others] @ vectors[row])[::-1][: listed.sum()]
        np.testing.assert_array_equal(found.similarities[row, listed], wanted)
