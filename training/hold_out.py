"""Which rows are learnt from and which are asked, and what is near what under each way to hold rows out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.space import Space
from training.near import NearRows, list_near_rows

# Prompts per block of the batched estimate: bounds the memory of (block, n_neighbors, n_models) arrays.
BLOCK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Far:
    """How near a row usually is to its nearest other row, and how fast trust falls below that; both in cosine.

    max_unknown_share: as in router.estimate; above it nothing is near.
    """

    usual_similarity: float
    far_temperature: float
    max_unknown_share: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The training rows in one candidate space. vectors: float32 (n_rows, dim), unit length.

    unreadable: bool (n_rows,), rows of which the encoder knows too little to ask their neighbours; None for no row.
    """

    space: Space
    vectors: NDArray[np.float32]
    far: Far
    unreadable: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Scheme:
    """A way to hold rows out. folds: int64 (n_rows,). near: per feature weight, the nearest rows outside the fold."""

    folds: NDArray[np.int64]
    near: Mapping[float, NearRows]


@dataclass(frozen=True, slots=True, eq=False)
class HoldOut:
    """train: bool (n_rows,), the rows to learn from. asked: int64 (n_asked,), the rows to answer."""

    scheme: Scheme
    train: NDArray[np.bool_]
    asked: NDArray[np.int64]


def hold_out(
    places: Sequence[Place], folds: NDArray[np.int64], n_listed: int, done: Callable[[], object] = lambda: None
) -> Scheme:
    """Return the scheme of ``folds``, int64 (n_rows,), in every candidate space; ``done`` is called after each.

    n_listed: rows found per row; where a trial needs others, they are found then.
    """
    near = {}
    for place in places:
        near[place.space.feature_weight] = list_near_rows(place.vectors, folds, n_listed, place.unreadable)
        done()
    return Scheme(folds, near)


def folds_of(scheme: Scheme, inside: NDArray[np.bool_]) -> list[HoldOut]:
    """Hold out each fold in turn among the rows marked in ``inside``, bool (n_rows,)."""
    splits = []
    for fold in np.unique(scheme.folds[inside]):
        held_out = inside & (scheme.folds == fold)
        train = inside & ~held_out
        if held_out.any() and train.any():
            splits.append(HoldOut(scheme, train, np.flatnonzero(held_out)))
    return splits


def blocks(n_rows: int, n_neighbors: int, n_models: int) -> Iterator[slice]:
    """Yield slices of the rows whose neighbours' evidence fits into BLOCK_BYTES."""
    size = max(1, BLOCK_BYTES // (8 * n_neighbors * n_models))
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))
