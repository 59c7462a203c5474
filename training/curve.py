"""Cost against quality: what choices cost and are worth along the willingness to pay, and its named points.

    quality    cost does not matter
    balanced   the cheapest point within a quarter of a point of the best that costs no more than the best fixed model
    cheap      the cheapest point that keeps 95 % of the best quality

The points are chosen on cross-fitted rows; for the report, on rows held out among those that a fold is learnt from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.types import TRADE_OFFS
from training.cross_fit import CrossFit

N_POINTS = 49
BALANCED_LOSS = 0.0025
CHEAP_SHARE = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Choices along the willingness to pay, dearest first.

    amounts_usd: willingness to pay, None where cost does not matter (the first). choices: int64 (n_points, n_rows).
    values, costs_usd: float64 (n_points, n_rows), what each choice was worth and cost. model_costs_usd: float64
    (n_rows, n_models). fixed_costs_usd: float64 (n_rows,), what the best fixed model would have cost. weight:
    float64 (n_rows,).
    """

    amounts_usd: tuple[float | None, ...]
    choices: NDArray[np.int64]
    values: NDArray[np.float64]
    costs_usd: NDArray[np.float64]
    model_costs_usd: NDArray[np.float64]
    fixed_costs_usd: NDArray[np.float64]
    weight: NDArray[np.float64]

    def named_amounts_usd(self) -> dict[str, float | None]:
        """Return each strategy's willingness to pay, None where cost does not matter."""
        value = self.values @ self.weight / max(float(self.weight.sum()), 1e-12)
        cost = self.costs_usd.mean(axis=1)
        affordable = cost <= self.fixed_costs_usd.mean()
        within = affordable & (value >= np.max(value, where=affordable, initial=-np.inf) - BALANCED_LOSS)
        keeps = value >= CHEAP_SHARE * value.max()
        points = (0, _cheapest(within, cost), _cheapest(keeps, cost))
        return {name: self.amounts_usd[point] for name, point in zip(TRADE_OFFS, points, strict=True)}


def _cheapest(allowed: NDArray[np.bool_], cost: NDArray[np.float64]) -> int:
    """Return the cheapest allowed point; where none is, the cheapest of all."""
    return int(np.argmin(np.where(allowed, cost, np.inf) if allowed.any() else cost))


def trace(fit: CrossFit, expected_costs_usd: NDArray[np.float64], costs_usd: NDArray[np.float64]) -> Curve:
    """Return the curve of a cross-fitted log.

    expected_costs_usd: float64 (n_rows, n_models), by which is chosen. costs_usd: same shape, what is then counted.
    """
    amounts = willingness_grid(expected_costs_usd)
    choices = np.stack([fit.choose(usd, expected_costs_usd) for usd in amounts])
    at = np.arange(choices.shape[1])
    return Curve(
        amounts_usd=tuple(amounts),
        choices=choices,
        values=fit.worth.of(choices),
        costs_usd=costs_usd[at, choices],
        model_costs_usd=costs_usd,
        fixed_costs_usd=costs_usd[at, fit.fixed],
        weight=fit.worth.weight,
    )


def willingness_grid(costs_usd: NDArray[np.float64]) -> Sequence[float | None]:
    """Return N_POINTS amounts from 'cost does not matter' down to where the cheapest model always wins.

    A unit of quality at the spread of the models' mean costs makes a difference of quality as large as the whole scale
    worth the dearest model; quality differences of interest are a thousandth to the whole of that scale.
    """
    spread = float(np.ptp(costs_usd.mean(axis=0)))
    if spread == 0:
        return [None]
    return [None, *(float(usd) for usd in spread * np.geomspace(1e3, 1.0, N_POINTS - 1))]
