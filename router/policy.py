"""Estimates, costs and the request's policy to a choice: who may be chosen, who is, and why. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.errors import PolicyError
from router.estimate import LocalEstimate
from router.types import Exclusion, Policy, Verdict

# With less than one comparison's worth of neighbours, the prior outweighs them at any shrinkage that is tried.
MIN_SUPPORT = 1.0
REASONS = {
    "best": "it has the highest expected utility on prompts like this one",
    "prior": "too little in the log is near this prompt, so what is known of the models in general decides",
    "unreadable": "the prompt cannot be read well enough to ask its neighbours, so what is known of the models in "
    "general decides",
    "deadline": "the latency budget left no time to look at its neighbours, so what is known of the models in general "
    "decides",
    "guard": "no model's lead over it is large enough to be trusted",
    "verdict": "routing has not been shown to be worth it on held-out rows, so the best fixed model answers",
    "only_candidate": "no other model meets the request's constraints",
    "fallback": "no model meets the request's constraints, and the request names this fallback",
}


@dataclass(frozen=True, slots=True)
class Field:
    """The models of the artifact that may be chosen now.

    feasible: bool (n_models,). costs_usd: float64 (n_models,), NaN where unknown. fixed: column of the best
    feasible fixed model, -1 when nothing is feasible.
    """

    feasible: NDArray[np.bool_]
    costs_usd: NDArray[np.float64]
    excluded: tuple[Exclusion, ...]
    fixed: int


@dataclass(frozen=True, slots=True)
class Choice:
    """column: the chosen model, -1 for the policy's fallback. ranking: feasible columns, best first."""

    column: int
    reason: str
    ranking: tuple[int, ...]
    utility: NDArray[np.float64]


def field_of(
    models: Sequence[str],
    costs_usd: NDArray[np.float64],
    fixed_quality: NDArray[np.float64],
    policy: Policy,
) -> Field:
    """Return which models the policy allows; every excluded one gets a code and a detail.

    Raises:
        PolicyError: none is left and the policy names no fallback.
    """
    if policy.candidates is None and not policy.exclude and policy.max_cost_usd is None:
        return Field(np.ones(len(models), dtype=bool), costs_usd, (), int(fixed_quality.argmax()))
    excluded = [
        exclusion
        for model, cost in zip(models, costs_usd.tolist(), strict=True)
        if (exclusion := _exclusion(model, cost, policy)) is not None
    ]
    out = {one.model for one in excluded}
    feasible = np.array([model not in out for model in models])
    for name in sorted(set(policy.candidates or ()) - set(models)):
        excluded.append(Exclusion(name, "unknown_model", "the artifact has no evidence on a model of this name"))
    if not feasible.any() and policy.fallback is None:
        raise PolicyError(f"no model is left: {_why_empty(excluded, policy)}")
    fixed = int(np.argmax(np.where(feasible, fixed_quality, -np.inf))) if feasible.any() else -1
    return Field(feasible, costs_usd, tuple(excluded), fixed)


def _exclusion(model: str, cost_usd: float, policy: Policy) -> Exclusion | None:
    if policy.candidates is not None and model not in policy.candidates:
        return Exclusion(model, "not_a_candidate", "not among the request's candidates")
    if model in policy.exclude:
        return Exclusion(model, "excluded", "excluded by the request")
    if policy.max_cost_usd is not None:
        if np.isnan(cost_usd):
            return Exclusion(model, "cost_unknown", "max_cost_usd is set and this model has no price")
        if cost_usd > policy.max_cost_usd:
            return Exclusion(
                model, "over_max_cost", f"expected {cost_usd:.6g} USD, allowed {policy.max_cost_usd:.6g} USD"
            )
    return None


def _why_empty(excluded: Sequence[Exclusion], policy: Policy) -> str:
    """Name the constraint that took the last models away."""
    codes: Mapping[str, str] = {
        "over_max_cost": f"max_cost_usd {policy.max_cost_usd} is below every remaining model's expected cost",
        "cost_unknown": "max_cost_usd is set, but the remaining models have no price",
        "excluded": "exclude removes every remaining model",
        "not_a_candidate": "candidates names no model of the artifact",
    }
    present = {one.code for one in excluded}
    return next(text for code, text in codes.items() if code in present)


def utility_of(
    quality: NDArray[np.float64], costs_usd: NDArray[np.float64], willingness_to_pay_usd: float | None
) -> NDArray[np.float64]:
    """Return quality - cost / willingness_to_pay; models of unknown cost are taken at the dearest known one."""
    if willingness_to_pay_usd is None or np.isnan(costs_usd).all():
        return quality
    costs = np.where(np.isnan(costs_usd), np.nanmax(costs_usd), costs_usd)
    return quality - costs / max(willingness_to_pay_usd, 1e-12)


def choose(
    local: LocalEstimate,
    field: Field,
    policy: Policy,
    *,
    verdict: Verdict,
    willingness_to_pay_usd: float | None,
    guard_z: float,
    blind: str = "",
) -> Choice:
    """Choose the feasible model of highest utility; ties go to the fixed one, then to the cheaper, the earlier column.

    The best feasible fixed model is taken instead where the verdict is not ROUTE (unless the policy says
    ``route_anyway``), and where no lead over it is above ``guard_z`` of its standard errors. blind: the
    reason for which the neighbours were not asked and ``local`` holds the priors alone, 'unreadable' or 'deadline'.
    """
    utility = utility_of(local.quality, field.costs_usd, willingness_to_pay_usd)
    columns = np.flatnonzero(field.feasible)
    costs = np.where(np.isnan(field.costs_usd), np.inf, field.costs_usd)
    order = np.lexsort((columns, costs[columns], -utility[columns]))
    ranking = tuple(columns[order].tolist())
    if not ranking:
        return Choice(-1, "fallback", (), utility)
    if len(ranking) == 1:
        return Choice(ranking[0], "only_candidate", ranking, utility)
    if not (verdict.routes or policy.route_anyway):
        return Choice(field.fixed, "verdict", _first(field.fixed, ranking), utility)
    best = ranking[0]
    if best != field.fixed and utility[best] - utility[field.fixed] <= guard_z * local.lead_error[best]:
        return Choice(field.fixed, blind or "guard", _first(field.fixed, ranking), utility)
    if blind:
        return Choice(best, blind, ranking, utility)
    return Choice(best, "best" if local.support[best] >= MIN_SUPPORT else "prior", ranking, utility)


def _first(column: int, ranking: tuple[int, ...]) -> tuple[int, ...]:
    return (column, *(one for one in ranking if one != column))
