"""Paired differences between methods: bootstrap over near-duplicate groups, pooling over sets, Holm's correction."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 2000
CHUNK = 100


@dataclass(frozen=True, slots=True)
class Difference:
    """mean, low and high: a paired difference with its 95 % interval. p: two-sided, by the same resamples."""

    mean: float
    low: float
    high: float
    p: float


def resampled_means(
    values: NDArray[np.float64], groups: NDArray[np.int64], strata: NDArray[np.int64], seed: int
) -> NDArray[np.float64]:
    """Return each method's mean in every resample: float64 (n_methods, N_RESAMPLES).

    Groups are drawn with replacement within their stratum, the same ones for all methods (Efron 1979).
    values: float64 (n_methods, n_rows). groups, strata: int64 (n_rows,).
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((len(values), N_RESAMPLES))
    size = np.zeros(N_RESAMPLES)
    for stratum in np.unique(strata):
        own = np.flatnonzero(strata == stratum)
        codes = np.unique(groups[own], return_inverse=True)[1]
        n_groups = int(codes.max()) + 1
        sums = np.stack([np.bincount(codes, one[own], n_groups) for one in values])
        counts = np.bincount(codes, minlength=n_groups)
        for start in range(0, N_RESAMPLES, CHUNK):
            drawn = rng.multinomial(n_groups, np.full(n_groups, 1.0 / n_groups), size=min(CHUNK, N_RESAMPLES - start))
            some = slice(start, start + len(drawn))
            total[:, some] += sums @ drawn.T
            size[some] += drawn @ counts
    return total / size


def difference(mean: float, resampled: NDArray[np.float64]) -> Difference:
    """Return the difference with its percentile interval. resampled: float64 (N_RESAMPLES,)."""
    low, high = np.percentile(resampled, (2.5, 97.5))
    tail = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    return Difference(mean, float(low), float(high), min(1.0, 2.0 * (tail + 1) / (len(resampled) + 1)))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's adjusted p-values (Holm 1979)."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return adjusted
