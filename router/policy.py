"""Estimates, offers and the request's policy to a choice: who may be chosen, who is, and why. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.catalogue import Table
from router.constraints import Offers, why_empty
from router.errors import PolicyError
from router.estimate import LocalEstimate
from router.types import Policy

# With less than one comparison's worth of neighbours, the prior outweighs them at any shrinkage that is tried.
MIN_SUPPORT = 1.0
# What strategy 'fast' takes one whole unit of quality to be worth: a second of waiting costs five points.
FAST_WAIT_MS = 20_000.0
# A unit of quality that is worth nothing is worth this much: the cheapest is taken, and nothing divides by zero.
LEAST_WORTH = 1e-12
# What is not known comes after what is, but before what is not allowed, which is infinite.
UNKNOWN_LAST = 1e300
REASONS = {
    "best": "it has the highest expected utility on prompts like this one",
    "prior": "too little in the log is near this prompt, so what is known of the models in general decides",
    "unreadable": "the prompt cannot be read well enough to ask its neighbours, so what is known of the models in "
    "general decides",
    "deadline": "the latency budget left no time to look at its neighbours, so what is known of the models in general "
    "decides",
    "guard": "no model's lead over it is large enough to be trusted",
    "min_gain": "no model's lead over it is as large as the policy asks for",
    "verdict": "routing has not been shown to be worth it on held-out rows, so the best fixed model answers",
    "only_candidate": "no other model meets the request's constraints",
    "session": "the session began with it, and no model's lead over it is large enough to change",
    "tool_call": "it called a tool, and is to read the result",
    "explore": "it was drawn at random from the allowed models, as the policy's share of exploration wants",
    "fallback": "no model meets the request's constraints, and the policy names this fallback",
}


Utilities = NDArray[np.float64] | Sequence[float]
"""One per model."""


@dataclass(frozen=True, slots=True)
class TradeOff:
    """What one whole unit of quality is worth, in USD and in milliseconds of the answer; None: any amount."""

    usd: float | None = None
    wait_ms: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Penalties:
    """What every endpoint's cost and time take from the utility: float64 (n_models, n_endpoints).

    costs, latencies: None where that is nothing; unknown amounts count as the largest known. rank: by which a model's
    endpoint is picked, the least first.
    """

    costs: Table | None
    latencies: Table | None
    rank: Table


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """The models that may be chosen now, each at its best allowed endpoint; arrays are (n_models,).

    feasible: bool. endpoints: int64, its place. costs_usd, latencies_ms: float64, NaN where unknown. cost_penalties,
    latency_penalties: float64, what these take from the utility. fixed: column of the best feasible fixed model, -1
    when nothing is feasible. penalties: those of all endpoints. by_cost: the feasible columns, the cheapest first and
    the unknown last, of equals the earlier: the order of models of one utility.
    """

    feasible: NDArray[np.bool_]
    endpoints: NDArray[np.int64]
    costs_usd: NDArray[np.float64]
    latencies_ms: NDArray[np.float64]
    cost_penalties: NDArray[np.float64]
    latency_penalties: NDArray[np.float64]
    fixed: int
    penalties: Penalties
    by_cost: tuple[int, ...]


# These two are made for every decision; a named tuple takes a fifth of the time of a frozen dataclass.
class Circumstances(NamedTuple):
    """What else bears on a choice.

    routes: the held-out verdict is ROUTE. guard_z: of EstimatorSettings. blind: the reason for which the neighbours
    were not asked and the estimates are the priors, 'unreadable' or 'deadline'. held: column of the session's model,
    -1 without. roll: drawn evenly from 0..1, decides on exploration.
    """

    routes: bool
    guard_z: float
    blind: str = ""
    held: int = -1
    roll: float = 1.0


class Choice(NamedTuple):
    """column: the chosen model, -1 for the policy's fallback. ranking: feasible columns, the chosen one first, the
    others by utility. utility: float64 (n_models,). propensity: the probability with which this one was chosen.
    """

    column: int
    reason: str
    ranking: tuple[int, ...]
    utility: NDArray[np.float64]
    propensity: float = 1.0


def field_of(offers: Offers, trade_off: TradeOff, fixed_quality: NDArray[np.float64]) -> Field:
    """Return which models may be chosen, each at the allowed endpoint of least penalty; of equals, at the cheapest.

    fixed_quality: float64 (n_models,), by which the best fixed model is found.

    Raises:
        PolicyError: none may, and the policy names no fallback.
    """
    catalogue, allowed, feasible = offers.catalogue, offers.allowed, offers.feasible
    fixed = -1
    if feasible.any():
        fixed = int(np.where(feasible, fixed_quality, -np.inf).argmax())
    elif offers.policy.fallback is None:
        raise PolicyError(f"no model is left: {why_empty(offers)}")
    penalties = penalties_of(offers, trade_off)
    endpoints = catalogue.first_endpoints
    at: tuple[Any, Any] = (slice(None), 0)
    if allowed.shape[1] > 1:
        endpoints = np.where(allowed, penalties.rank, np.inf).argmin(axis=1)
        at = catalogue.rows, endpoints
    nothing = catalogue.nothing
    costs_usd = offers.costs_usd[at]
    by_cost = np.flatnonzero(feasible)
    if catalogue.has_prices:
        by_cost = by_cost[costs_usd[by_cost].argsort(kind="stable")]  # which puts NaN last
    return Field(
        feasible,
        endpoints,
        costs_usd,
        offers.latencies_ms[at],
        nothing if penalties.costs is None else penalties.costs[at],
        nothing if penalties.latencies is None else penalties.latencies[at],
        fixed,
        penalties,
        tuple(by_cost.tolist()),
    )


def penalties_of(offers: Offers, trade_off: TradeOff) -> Penalties:
    """Return what the endpoints' amounts take from the utility; where nothing does, the cheapest one is picked."""
    catalogue = offers.catalogue
    costs = _penalties(offers.costs_usd, trade_off.usd) if catalogue.has_prices else None
    latencies = _penalties(offers.latencies_ms, trade_off.wait_ms) if catalogue.has_latencies else None
    if costs is not None:
        rank = costs if latencies is None else costs + latencies
    elif latencies is not None:
        rank = latencies
    else:
        amounts = offers.costs_usd if catalogue.has_prices else offers.latencies_ms
        rank = np.where(np.isnan(amounts), UNKNOWN_LAST, amounts)
    return Penalties(costs, latencies, rank)


def _penalties(amounts: Table, worth: float | None) -> Table | None:
    """Return what amounts take from the utility, None where that is nothing; unknown ones are the largest known."""
    if worth is None:
        return None
    return known_or_largest(amounts) / max(worth, LEAST_WORTH)


def known_or_largest(amounts: Table) -> Table:
    """Return amounts with the largest known one in the place of those that are not; one must be known."""
    return np.where(np.isnan(amounts), np.fmax.reduce(amounts, axis=None), amounts)  # nanmax takes five times as long


def choose(
    local: LocalEstimate, field: Field, policy: Policy, around: Circumstances, *, tool_call_open: bool
) -> Choice:
    """Choose the feasible model of highest utility; ties go to the fixed one, then to the cheaper, the earlier column.

    The best feasible fixed model is taken instead where the verdict is not ROUTE (unless the policy says
    ``route_anyway``), and where no lead over it is above ``guard_z`` of its standard errors and above ``min_gain``. A
    session keeps its model where the lead over that is not above ``switch_margin``, and while a tool call is open.
    What neither a session nor the only candidate decides may be left to exploration.
    """
    utility = local.quality - field.cost_penalties - field.latency_penalties
    ranking = tuple(sorted(field.by_cost, key=(-utility).tolist().__getitem__))
    if not ranking:
        return Choice(-1, "fallback", (), utility)
    if len(ranking) == 1:
        return Choice(ranking[0], "only_candidate", ranking, utility)
    held = around.held if around.held >= 0 and field.feasible[around.held] else -1
    column, reason = pick(local, utility, ranking[0], field.fixed, held, policy, around, tool_call_open=tool_call_open)
    if held < 0 and policy.explore_share > 0:
        return _explored(column, reason, ranking, utility, policy.explore_share, around.roll)
    return Choice(column, reason, _first(column, ranking), utility)


def pick(
    local: LocalEstimate,
    utility: Utilities,
    best: int,
    fixed: int,
    held: int,
    policy: Policy,
    around: Circumstances,
    *,
    tool_call_open: bool,
) -> tuple[int, str]:
    """Return what is chosen without exploration, and why.

    best: the column of highest utility. fixed: of the best feasible fixed model. held: of the session's model, -1 where
    there is none or it is not feasible.
    """
    column, reason = _greedy(local, utility, best, fixed, policy, around)
    if held >= 0:
        if tool_call_open:
            return held, "tool_call"
        # The priors know nothing of the prompt, and give no reason to change.
        if column != held and (around.blind or not utility[column] - utility[held] > policy.switch_margin):
            return held, "session"
    return column, reason


def _greedy(
    local: LocalEstimate, utility: Utilities, best: int, fixed: int, policy: Policy, around: Circumstances
) -> tuple[int, str]:
    """Return what is chosen without regard to sessions, and why."""
    if not (around.routes or policy.route_anyway):
        return fixed, "verdict"
    if best != fixed:
        lead = utility[best] - utility[fixed]
        if lead <= around.guard_z * local.lead_error[best]:
            return fixed, around.blind or "guard"
        if lead <= policy.min_gain:
            return fixed, "min_gain"
    if around.blind:
        return best, around.blind
    return best, "best" if local.support[best] >= MIN_SUPPORT else "prior"


def _explored(
    column: int, reason: str, ranking: Sequence[int], utility: NDArray[np.float64], share: float, roll: float
) -> Choice:
    """Take any of the ranking with probability ``share``, evenly: what was chosen anyway can be drawn, too."""
    each = share / len(ranking)
    if roll < share:
        drawn = ranking[min(int(roll / each), len(ranking) - 1)]
        if drawn != column:
            return Choice(drawn, "explore", _first(drawn, ranking), utility, each)
    return Choice(column, reason, _first(column, ranking), utility, 1.0 - share + each)


def _first(column: int, ranking: Sequence[int]) -> tuple[int, ...]:
    return tuple(ranking) if ranking[0] == column else (column, *[one for one in ranking if one != column])
