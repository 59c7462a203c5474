"""When requests are sent: fixed before the first one leaves, so that no answer can slow the next request down."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BURST = 50

Arrivals = Callable[[float, float, np.random.Generator], NDArray[np.float64]]
"""Requests per second, seconds and a generator to ascending times in [0, seconds)."""


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """at_s: float64 (n,), ascending from the start of the run. phase: int64 (n,), which phase a request belongs to.

    ends_s: when each phase ends, float64 (n_phases,).
    """

    at_s: NDArray[np.float64]
    phase: NDArray[np.int64]
    ends_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.at_s)


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time under one mean rate, in requests per second."""

    rate: float
    seconds: float
    arrivals: Arrivals


def poisson(rate: float, seconds: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the times of a Poisson process: independent users."""
    n = rng.poisson(rate * seconds)
    return np.sort(rng.uniform(0.0, seconds, n))


def bursts(rate: float, seconds: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return bursts of 50 at once, evenly spaced, at the mean rate."""
    starts = np.arange(0.0, seconds, BURST / rate)
    return np.repeat(starts, BURST)


def schedule(phases: Sequence[Phase], seed: int) -> Schedule:
    """Return the phases one after the other."""
    rng = np.random.default_rng(seed)
    ends_s = np.cumsum([one.seconds for one in phases])
    times = [
        end - one.seconds + one.arrivals(one.rate, one.seconds, rng) for one, end in zip(phases, ends_s, strict=True)
    ]
    phase = np.repeat(np.arange(len(phases)), [len(one) for one in times])
    return Schedule(np.concatenate(times), phase, ends_s)
