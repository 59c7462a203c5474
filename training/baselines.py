"""What a router must beat: the fixed models, chance, and the bound that none can pass."""

import numpy as np
from numpy.typing import NDArray

from router.types import JsonObject
from training.value import ValueMatrix


def baselines(
    models: tuple[str, ...], worth: ValueMatrix, costs_usd: NDArray[np.float64] | None
) -> dict[str, JsonObject]:
    """Return quality, cost and model of: best_in_hindsight, cheapest (only with prices), random.

    costs_usd: float64 (n_rows, n_models) expected cost of each answer, or None.
    """
    quality = worth.weight @ worth.values / max(float(worth.weight.sum()), 1e-12)
    cost = None if costs_usd is None else costs_usd.mean(axis=0)
    best = int(np.argmax(quality))
    out = {"best_in_hindsight": _fixed(models, best, quality, cost)}
    if cost is not None:
        out["cheapest"] = _fixed(models, int(np.argmin(cost)), quality, cost)
    mean_cost = None if cost is None else float(cost.mean())
    out["random"] = {"quality": float(quality.mean()), "cost_usd": mean_cost, "model": None}
    return out


def oracle_quality(scores: NDArray[np.float64], weight: NDArray[np.float64]) -> float | None:
    """Return the mean of each row's best score, or None unless every score of every row is known.

    scores: float64 (n_rows, n_models), NaN where not scored. weight: float64 (n_rows,).
    """
    if np.isnan(scores).any() or not len(scores):
        return None
    return float(scores.max(axis=1) @ weight / weight.sum())


def _fixed(
    models: tuple[str, ...], column: int, quality: NDArray[np.float64], cost: NDArray[np.float64] | None
) -> JsonObject:
    return {
        "quality": float(quality[column]),
        "cost_usd": None if cost is None else float(cost[column]),
        "model": models[column],
    }
