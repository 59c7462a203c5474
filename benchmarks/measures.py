"""What a set of choices is worth, as values per row whose mean is the published metric.

Ratios and areas (APGR, AIQ) are not means of rows. Their rows carry the metric plus what the row adds to it, to first
order (ratios: by the derivative; areas: the jackknife's pseudo-values, Tukey 1958), so that paired differences have the
right mean and the right variance.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from peers import Prediction

from training.evidence import Table
from training.metrics import aiq, strong_share_curve

WILLINGNESS_TO_PAY_USD = tuple(np.geomspace(1e-4, 1e1, 41).tolist())


@dataclass(frozen=True, slots=True)
class Value:
    """Mean score of the chosen model; with ``by_task`` the unweighted mean over tasks."""

    by_task: bool = False
    name: str = "value"
    higher_is_better: bool = True

    def raw(
        self, prediction: Prediction, table: Table, truth: NDArray[np.float64], costs_usd: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return (value, task) per asked row: float64 (n, 2). table: the asked rows; costs_usd: mean per model."""
        return np.column_stack([prediction.of(truth, np.zeros(truth.shape[1])), table.intents])

    def rows(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values whose mean is the metric: float64 (n,)."""
        if not self.by_task:
            return raw[:, 0]
        tasks, codes, counts = np.unique(raw[:, 1], return_inverse=True, return_counts=True)
        return raw[:, 0] * (len(raw) / (len(tasks) * counts))[codes]

    def score(self, raw: NDArray[np.float64]) -> float:
        """Return the metric."""
        return float(self.rows(raw).mean())


@dataclass(frozen=True, slots=True)
class Apgr:
    """Average performance gap recovered between two models (RouteLLM), ranked within the rows asked together.

    weak, strong: columns. Ties of a router's score are broken at random, by a fixed seed.
    """

    weak: int
    strong: int
    name: str = "APGR"
    higher_is_better: bool = True

    def raw(
        self, prediction: Prediction, table: Table, truth: NDArray[np.float64], costs_usd: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return (share of the curve on which the row goes to the strong model, what that model adds there)."""
        lead = prediction.quality[:, self.strong] - prediction.quality[:, self.weak]
        gain = truth[:, self.strong] - truth[:, self.weak]
        order = np.random.default_rng(0).permutation(len(lead))
        curve = strong_share_curve(lead[order], truth[order, self.weak], truth[order, self.strong])
        place = np.empty(len(lead), dtype=np.int64)
        place[order[np.argsort(-lead[order], kind="stable")]] = np.arange(len(lead))
        shares = np.array(curve.shares)
        taken = (place[:, None] < np.round(shares * len(lead))).astype(np.float64)
        return np.column_stack([np.trapezoid(taken, shares, axis=1) / (shares[-1] - shares[0]), gain])

    def rows(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values whose mean is the metric: float64 (n,)."""
        share, gain = raw.T
        apgr = (share * gain).mean() / gain.mean()
        return apgr + (share * gain - apgr * gain) / gain.mean()

    def score(self, raw: NDArray[np.float64]) -> float:
        """Return the metric."""
        return float(self.rows(raw).mean())


@dataclass(frozen=True, slots=True)
class Aiq:
    """Average improvement in quality (RouterBench) over the range from the cheapest to the dearest single model.

    Every router also has the cheapest model alone as its cheapest point, as it had at a willingness to pay of 0.
    """

    name: str = "AIQ"
    higher_is_better: bool = True

    def raw(
        self, prediction: Prediction, table: Table, truth: NDArray[np.float64], costs_usd: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return, per asked row, quality and cost in USD at every willingness to pay, then of every single model."""
        expected = costs_usd if prediction.costs_usd is None else prediction.costs_usd
        points = []
        for willingness in WILLINGNESS_TO_PAY_USD:
            penalty = expected / willingness
            points += [prediction.of(truth, penalty), prediction.of(table.costs_usd, penalty)]
        singles = np.stack([truth, table.costs_usd], axis=2).reshape(len(truth), -1)
        return np.column_stack([*points, singles])

    def rows(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values whose mean is the metric: float64 (n,)."""
        n_rows, total = len(raw), raw.sum(axis=0)
        without = np.array([_area(_as_points((total - one) / (n_rows - 1))) for one in raw])
        return self.score(raw) + (n_rows - 1) * (without.mean() - without)

    def score(self, raw: NDArray[np.float64]) -> float:
        """Return the metric."""
        return _area(self.points(raw))

    def points(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (mean cost in USD, mean quality) per willingness to pay, then per single model: float64 (n, 2)."""
        return _as_points(raw.mean(axis=0))


@dataclass(frozen=True, slots=True)
class LogLoss:
    """Mean negative log-likelihood of the battles, in nats, a tie being half of each outcome."""

    name: str = "log-loss"
    higher_is_better: bool = False

    def raw(
        self, prediction: Prediction, table: Table, truth: NDArray[np.float64], costs_usd: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return (sum of the losses, number of battles) per asked row; NaN for a method without strengths."""
        if prediction.logits is None:
            return np.full((len(truth), 2), np.nan)
        battles = table.battles
        lead = prediction.logits[battles.rows, battles.a] - prediction.logits[battles.rows, battles.b]
        loss = np.logaddexp(0.0, lead) - battles.y * lead
        n_rows = len(truth)
        return np.column_stack(
            [np.bincount(battles.rows, loss, n_rows), np.bincount(battles.rows, minlength=n_rows).astype(np.float64)]
        )

    def rows(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values whose mean is the metric: float64 (n,)."""
        loss, n_battles = raw.T
        mean = loss.sum() / n_battles.sum()
        return mean + (loss - mean * n_battles) / n_battles.mean()

    def score(self, raw: NDArray[np.float64]) -> float:
        """Return the metric."""
        return float(self.rows(raw).mean())


Measure = Value | Apgr | Aiq | LogLoss


def _as_points(means: NDArray[np.float64]) -> NDArray[np.float64]:
    return means.reshape(-1, 2)[:, ::-1]


def _competing(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rows of ``points`` that a router may use: its own, and the cheapest single model."""
    n_routed = len(WILLINGNESS_TO_PAY_USD)
    return np.append(np.arange(n_routed), n_routed + int(np.argmin(points[n_routed:, 0])))


def _area(points: NDArray[np.float64]) -> float:
    singles = points[len(WILLINGNESS_TO_PAY_USD) :, 0]
    return aiq(points[_competing(points)], float(singles.min()), float(singles.max()))
