"""The formulas of the evaluation report, each with its source. Arrays in, numbers out: nothing here knows a log."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.estimate import Z95

N_DRAWS = 1000
N_BINS = 10
MIN_BIN_ROWS = 10
N_DECILES = 10
PERCENTILES = (2.5, 97.5)

# The vote on a prompt's intent: how many nearest rows take part, and how sharply the nearer count more.
VOTERS = 10
VOTE_TEMPERATURE = 0.1
VOTE_CHUNK_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Measured:
    """A number with its 95 % interval; low and high are None where too few rows carry it."""

    value: float
    low: float | None
    high: float | None


def resamples(groups: NDArray[np.int64], n_draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each row is drawn, float64 (n_rows,), ``n_draws`` times: whole groups, with replacement.

    The bootstrap of Efron (1979), by groups, because the rows of one group are not independent.
    groups: int64 (n_rows,).
    """
    codes = np.unique(groups, return_inverse=True)[1]
    n_groups = int(codes.max()) + 1
    rng = np.random.default_rng(seed)
    for _ in range(n_draws):
        drawn = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
        yield drawn[codes].astype(np.float64)


def percentile_interval(value: float, draws: list[float]) -> Measured:
    """Return ``value`` with the bootstrap's percentile interval (Efron 1979)."""
    low, high = np.percentile(draws, PERCENTILES)
    return Measured(value, float(low), float(high))


def share_interval(count: int, n: int) -> Measured:
    """Return count / n with Wilson's score interval (Wilson 1927), which stays inside 0..1."""
    share = count / n
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return Measured(share, float(max(centre - half, 0.0)), float(min(centre + half, 1.0)))


def non_decreasing_hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners of the non-decreasing convex hull above ``points``, cheapest first.

    RouterBench (Hu et al. 2024, section 3): what can be reached by mixing the points at random, never paying more for
    less. Over the single models this is the zero router. points: float64 (n, 2), cost and quality; returns (m, 2).
    """
    corners: list[tuple[float, float]] = []
    for x, y in points[np.lexsort((-points[:, 1], points[:, 0]))].tolist():
        if corners and y <= corners[-1][1]:
            continue
        while len(corners) >= 2:
            (x0, y0), (x1, y1) = corners[-2:]
            if (y1 - y0) * (x - x1) > (y - y1) * (x1 - x0):
                break
            corners.pop()
        corners.append((x, y))
    return np.array(corners, dtype=np.float64)


def hull_quality(hull: NDArray[np.float64], costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the hull's quality at ``costs``, float64 (n,): flat beyond its last corner, 0 before its first."""
    quality: NDArray[np.float64] = np.interp(costs, hull[:, 0], hull[:, 1], left=0.0)
    return quality


def aiq(points: NDArray[np.float64], low: float, high: float) -> float:
    """Return AIQ, the mean height of the non-decreasing convex hull of ``points`` between two costs.

    RouterBench (Hu et al. 2024, section 3): 1 / (high - low) * integral of the hull. The range must be the same for
    all that are compared: the mean costs of the cheapest and of the dearest single model. Below the hull's first
    corner nothing is earned. points: float64 (n, 2), cost and quality. low < high, in the unit of the costs.
    """
    hull = non_decreasing_hull(points)
    start = max(low, float(hull[0, 0]))
    if start >= high:
        return 0.0
    inside = hull[(hull[:, 0] > start) & (hull[:, 0] < high), 0]
    costs = np.concatenate([[start], inside, [high]])
    return _area(hull_quality(hull, costs), costs) / (high - low)


def _area(heights: NDArray[np.float64], at: NDArray[np.float64]) -> float:
    """Return the area under a line through points, by trapezoids."""
    return float((np.diff(at) * (heights[1:] + heights[:-1]) / 2).sum())


@dataclass(frozen=True, slots=True)
class StrongShareCurve:
    """Quality against the share of rows that the strong model takes, at 11 thresholds, smallest share first.

    shares, qualities: in 0..1. weak, strong: quality of either model alone.
    """

    shares: tuple[float, ...]
    qualities: tuple[float, ...]
    weak: float
    strong: float

    def apgr(self) -> float:
        """Return the average performance gap recovered: 0 is the weak model, 1 the strong one, 0.5 a coin.

        RouteLLM (Ong et al. 2024; routellm/evals/evaluate.py): the area under the curve above the weak model's, by
        trapezoids, divided by the same of the strong model.
        """
        shares = np.array(self.shares)
        above = _area(np.array(self.qualities) - self.weak, shares)
        return float(above / ((self.strong - self.weak) * (shares[-1] - shares[0])))

    def cpt(self, recovered: float) -> float:
        """Return the share of strong calls, 0..1, at which ``recovered`` of the gap between the models is recovered.

        RouteLLM's call-performance threshold, by the same linear interpolation over quality. As there, the answer is
        rough where the curve is not monotone, and stays at an end that the curve does not pass.
        """
        wanted = self.weak + recovered * (self.strong - self.weak)
        return float(np.interp(wanted, self.qualities, self.shares))


def strong_share_curve(
    lead: NDArray[np.float64], weak: NDArray[np.float64], strong: NDArray[np.float64]
) -> StrongShareCurve:
    """Return quality against share of strong calls, the rows of largest ``lead`` going to the strong model first.

    RouteLLM (routellm/evals): thresholds are the deciles of the router's score; the strong model takes the rows at or
    above them, and none at the last. Ties go by row number, because a decile inside a tie would otherwise be lost.
    lead, weak, strong: float64 (n_rows,), the router's score and what either model earned.
    """
    n_rows = len(lead)
    order = np.argsort(-lead, kind="stable")
    # earned[k]: the k rows of largest lead go to the strong model.
    earned = np.concatenate([[0.0], np.cumsum((strong - weak)[order])])
    edges = np.quantile(np.arange(n_rows), np.linspace(0.0, 1.0, N_DECILES + 1))
    n_strong = n_rows - np.ceil(edges - 1e-9).astype(np.int64)
    n_strong[-1] = 0
    n_strong = n_strong[::-1]
    return StrongShareCurve(
        shares=tuple((n_strong / n_rows).tolist()),
        qualities=tuple((weak.mean() + earned[n_strong] / n_rows).tolist()),
        weak=float(weak.mean()),
        strong=float(strong.mean()),
    )


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of similar prediction: how many, mean prediction, mean outcome with its 95 % interval."""

    n: int
    predicted: float
    outcome: Measured


@dataclass(frozen=True, slots=True)
class Reliability:
    """Predictions against outcomes.

    ece: expected calibration error as it is usually given, biased upwards. error: root mean square calibration error,
    debiased. n: predictions.
    """

    n: int
    bins: tuple[Bin, ...]
    ece: float
    error: Measured


def reliability(
    predicted: NDArray[np.float64], outcome: NDArray[np.float64], groups: NDArray[np.int64], seed: int = 0
) -> Reliability:
    """Return calibration in up to 10 bins of equally many rows, at least 10 each; equal predictions share a bin.

    ECE: sum of n_b / n |mean prediction - mean outcome| (Naeini, Cooper & Hauskrecht 2015). Debiased error: of the
    squared gap of each bin its variance is subtracted, so that a calibrated predictor gets 0 in the mean (Kumar, Liang
    & Ma 2019, section 4): for outcomes of 0 and 1 and one prediction per bin, mean (1 - mean) / (n_b - 1). The sum is
    cut at 0 before the root. Its interval is the basic bootstrap's.
    predicted, outcome: float64 (n,), 0..1. groups: int64 (n,), rows of one group are not independent.
    """
    codes = _bin_codes(predicted)
    gap = predicted - outcome
    members = np.eye(int(codes.max()) + 1)[codes]
    columns = np.concatenate([members, members * gap[:, None], members * np.square(gap)[:, None]], axis=1)
    once = np.ones(len(gap))
    square, plugin = _square_errors(once @ columns)
    draws = [_square_errors(counts @ columns)[0] for counts in resamples(groups, N_DRAWS, seed)]
    # A resample's gaps scatter around the sample's own, not around the truth: its centre is the plug-in error.
    low, high = (square + plugin - cut for cut in np.percentile(draws, PERCENTILES[::-1]))
    bins = tuple(_bin(predicted[codes == code], outcome[codes == code]) for code in range(members.shape[1]))
    ece = sum(one.n * abs(one.predicted - one.outcome.value) for one in bins) / len(gap)
    return Reliability(len(gap), bins, ece, Measured(_root(square), _root(low), _root(high)))


def _bin_codes(predicted: NDArray[np.float64]) -> NDArray[np.int64]:
    n = len(predicted)
    n_bins = max(1, min(N_BINS, n // MIN_BIN_ROWS))
    ranked = np.sort(predicted)
    starts = [0]
    for bound in (n * np.arange(1, n_bins) // n_bins).tolist():
        start = int(np.searchsorted(ranked, ranked[bound], side="left"))
        if start - starts[-1] >= MIN_BIN_ROWS:
            starts.append(start)
    return np.searchsorted(ranked[starts], predicted, side="right") - 1


def _square_errors(sums: NDArray[np.float64]) -> tuple[float, float]:
    """Return (debiased, plain) mean square calibration error from per-bin counts, gaps and squared gaps."""
    n, total, squares = sums.reshape(3, -1)
    n, total, squares = n[n > 1], total[n > 1], squares[n > 1]
    mean = total / n
    variance_of_mean = (squares / n - np.square(mean)) / (n - 1)
    share = n / n.sum()
    plain = float(share @ np.square(mean))
    return plain - float(share @ variance_of_mean), plain


def _bin(predicted: NDArray[np.float64], outcome: NDArray[np.float64]) -> Bin:
    mean, n = float(outcome.mean()), len(outcome)
    half = Z95 * float(outcome.std(ddof=1)) / np.sqrt(n) if n > 1 else 1.0
    return Bin(n, float(predicted.mean()), Measured(mean, max(mean - half, 0.0), min(mean + half, 1.0)))


def _root(square: float) -> float:
    return float(np.sqrt(max(square, 0.0)))


def neighbor_labels(
    index: NDArray[np.float32], codes: NDArray[np.int64], queries: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return the label of every query by a vote of its nearest rows of the index: int64 (n_queries,).

    index, queries: unit vectors (n, dim). codes: int64 (n_index,), 0 or more. The VOTERS nearest rows vote, each with
    exp(cosine / VOTE_TEMPERATURE); the lowest code wins among equals.
    """
    labels = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), VOTE_CHUNK_ROWS):
        similar = queries[start : start + VOTE_CHUNK_ROWS] @ index.T
        nearest = np.argsort(-similar, axis=1, kind="stable")[:, :VOTERS]
        for row, voters in enumerate(nearest, start=start):
            weights = np.exp((similar[row - start, voters] - similar[row - start, voters[0]]) / VOTE_TEMPERATURE)
            labels[row] = np.argmax(np.bincount(codes[voters], weights=weights))
    return labels


def neighbor_accuracy(
    index: NDArray[np.float32], codes: NDArray[np.int64], queries: NDArray[np.float32], truth: NDArray[np.int64]
) -> float:
    """Return the share of queries whose label by ``neighbor_labels`` is the true one."""
    return float((neighbor_labels(index, codes, queries) == truth).mean())
