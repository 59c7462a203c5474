"""Would more data help? The gain along the number of training rows, and what is to be expected of a larger log."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from router.types import Gain, JsonObject
from training.verdict import DEFAULT_MARGIN

N_PROJECTED = 60


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The cross-fitted gain over the best fixed model when only ``n_rows`` training rows are used."""

    n_rows: int
    gain: Gain


@dataclass(frozen=True, slots=True)
class Projection:
    """Where the gain's 95 % interval is to be expected in larger logs, if the true gain were ``target``.

    n_rows: ascending, from the log as it is to the rows that the verdict asks for; low, high: the interval there, in
    quality, which shrinks with the root of the rows. leaves_zero_at: rows from which low is not below 0, None where
    even the last is too few. There the true interval leaves zero as often as not; at the rows that the verdict asks
    for it does in 80 % of logs.
    """

    target: float
    n_rows: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    leaves_zero_at: int | None


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """points: ascending in rows. n_rows: of the whole log. rows_needed: that the training verdict asks for, or None."""

    points: tuple[CurvePoint, ...]
    n_rows: int
    rows_needed: int | None
    projection: Projection | None

    def last_doubling(self) -> float | None:
        """Return what the last doubling of the training rows added to the gain, in quality.

        Between points the gain is interpolated along the logarithm of the rows. None where no point has half as few.
        """
        last = self.points[-1]
        half = last.n_rows / 2
        if self.points[0].n_rows > half:
            return None
        sizes = [math.log(one.n_rows) for one in self.points]
        return last.gain.mean - float(np.interp(math.log(half), sizes, [one.gain.mean for one in self.points]))


def projection(points: Sequence[CurvePoint], n_rows: int, rows_needed: int | None, margin: float) -> Projection | None:
    """Return what to expect between ``n_rows`` and ``rows_needed`` rows at a true gain of max(observed, margin).

    points: ascending; the last one's gain is the observed one, of all ``n_rows`` rows of the log. margin: in quality.
    None where no more rows are asked for, or the observed interval has no width.
    """
    if not points or rows_needed is None or rows_needed <= n_rows:
        return None
    observed = points[-1].gain
    half, target = (observed.high - observed.low) / 2, max(observed.mean, margin)
    if half <= 0 or target <= 0:
        return None
    sizes = np.unique(np.round(np.geomspace(n_rows, rows_needed, N_PROJECTED)).astype(np.int64))
    reach = half * np.sqrt(n_rows / sizes)
    leaves = max(math.ceil(n_rows * (half / target) ** 2), n_rows)
    return Projection(
        target=target,
        n_rows=tuple(sizes.tolist()),
        low=tuple((target - reach).tolist()),
        high=tuple((target + reach).tolist()),
        leaves_zero_at=leaves if leaves <= rows_needed else None,
    )


def read_learning_curve(report: JsonObject) -> LearningCurve | None:
    """Return the learning curve in the training report of an artifact, or None where it holds none.

    report: ``RouterArtifact.report``; its details hold learning_curve and rows_needed.
    """
    details = report.get("details", {})
    if not details.get("learning_curve"):
        return None
    points = tuple(CurvePoint(one["n_rows"], Gain(**one["gain"])) for one in details["learning_curve"])
    n_rows, needed = points[-1].n_rows, details.get("rows_needed")
    margin = details.get("margin", DEFAULT_MARGIN)
    return LearningCurve(points, n_rows, needed, projection(points, n_rows, needed, margin))
