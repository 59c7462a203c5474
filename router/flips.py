"""What would flip a decision: the nearest changes of the policy by which another model is chosen.

Every flip was tried: the choice is made again as it would be with the changed policy, and only what then goes to
another model is told.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.constraints import CONSTRAINTS, Constraint, Offers, relaxed
from router.errors import PolicyError
from router.estimate import LocalEstimate
from router.policy import FAST_WAIT_MS, Choice, Circumstances, Field, TradeOff, choose, field_of
from router.types import Flip, Policy

# How far beyond the point where two models are level a flip is told, as a share of the amount.
BEYOND = 1e-3
DIGITS = 6
# What a request may state as its willingness to pay.
LEAST_USD, MOST_USD = 1e-9, 1e9
# Where nothing but this field of the policy kept the better model away, and the value that no longer does.
_RELEASES: dict[str, tuple[str, object]] = {
    "verdict": ("route_anyway", True),
    "min_gain": ("min_gain", 0.0),
    "session": ("switch_margin", 0.0),
    "explore": ("explore_share", 0.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """A choice with all that it came from. estimate_for: returns the estimates where another model is the fixed one."""

    offers: Offers
    trade_off: TradeOff
    fixed_quality: NDArray[np.float64]
    field: Field
    around: Circumstances
    local: LocalEstimate
    choice: Choice
    estimate_for: Callable[[int], LocalEstimate]

    def again(self, *, policy: Policy | None = None, offers: Offers | None = None, usd: float | None = None) -> int:
        """Return the column chosen with another policy's preferences, other offers, or another willingness to pay.

        -1 where no model is left.
        """
        trade_off = self.trade_off if usd is None else replace(self.trade_off, usd=usd)
        try:
            field = field_of(offers or self.offers, trade_off, self.fixed_quality)
        except PolicyError:
            return -1
        same = field.fixed == self.field.fixed or self.around.guard_z == 0
        local = self.local if same else self.estimate_for(max(field.fixed, 0))
        asked, is_open = policy or self.offers.policy, self.offers.needs.tool_call_open
        return choose(local, field, asked, self.around, tool_call_open=is_open).column


def flips_of(decided: Decided) -> tuple[Flip, ...]:
    """Return what would flip a choice: first what held a better model back, then prices, then each constraint."""
    names = decided.offers.catalogue.models
    found = [*_released(decided)]
    if decided.choice.reason != "explore":  # with what was drawn, nothing else is compared
        found += [*_repriced(decided), *_unconstrained(decided)]
    return tuple(Flip(names[column], changes) for column, changes in found)


Found = Iterator[tuple[int, tuple[tuple[str, Any], ...]]]


def _released(decided: Decided) -> Found:
    change = _RELEASES.get(decided.choice.reason)
    if change is not None:
        freed = Flip("", (change,)).applied_to(decided.offers.policy)
        column = decided.again(policy=freed)
        if column != decided.choice.column:
            yield column, (change,)


def _repriced(decided: Decided) -> Found:
    """Find the nearest smaller and the nearest larger willingness to pay at which another model is chosen."""
    for usd in _turning_points(decided):
        column = decided.again(usd=usd)
        if column not in (decided.choice.column, -1):
            yield column, (*_spelt_out(decided.offers.policy), ("willingness_to_pay_usd", usd))


def _spelt_out(policy: Policy) -> Iterator[tuple[str, Any]]:
    """Yield what else a strategy asks for, where a willingness to pay takes its place."""
    if policy.strategy is not None:
        yield "strategy", None
    if policy.strategy == "private":
        yield "local_only", True
    if policy.strategy == "fast":
        yield "willingness_to_wait_ms", FAST_WAIT_MS


def _turning_points(decided: Decided) -> Iterator[float]:
    """Yield amounts, in USD, just beyond the nearest ones at which the choice turns, the smaller one first.

    With v = 1 / willingness to pay, every utility is a line q - v c, and what is chosen changes only where two lines
    are as far apart as the rule asks: by 0 for the best, by its doubt for the guard, by the margin for the session. So
    one look between any two of these points finds the first change in either direction.
    """
    offers, field, choice, around = decided.offers, decided.field, decided.choice, decided.around
    policy, column = offers.policy, choice.column
    if column < 0 or not (around.routes or policy.route_anyway) or len(choice.ranking) < 2:
        return
    if not offers.catalogue.has_prices:
        return
    columns = np.flatnonzero(field.feasible)
    costs = np.where(np.isnan(field.costs_usd), np.nanmax(offers.costs_usd), field.costs_usd)[columns]
    quality = (decided.local.quality - field.latency_penalties)[columns]
    doubt = np.maximum(around.guard_z * decided.local.lead_error[columns], policy.min_gain)
    place = np.full(len(field.feasible), -1)
    place[columns] = np.arange(len(columns))
    chosen, fixed = int(place[column]), int(place[field.fixed])
    held = int(place[around.held]) if around.held >= 0 else -1
    gaps = [
        (quality - quality[chosen], costs - costs[chosen]),
        (quality - quality[fixed] - doubt, costs - costs[fixed]),
    ]
    if held >= 0:
        if offers.needs.tool_call_open:
            return
        gaps.append((quality - quality[held] - policy.switch_margin, costs - costs[held]))
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.concatenate([quality_gap / cost_gap for quality_gap, cost_gap in gaps])
    now = 0.0 if decided.trade_off.usd is None else 1.0 / max(decided.trade_off.usd, 1e-12)
    levels = np.unique(levels[np.isfinite(levels) & (levels > 0)])
    above = np.concatenate([[now], levels[levels > now]])
    below = np.concatenate([[now], levels[levels < now][::-1], [0.0] if now > 0 else []])
    for edges in (above, below):
        between = _between(edges)
        winners = _winners(quality - between[:, None] * costs, doubt, fixed, held, policy.switch_margin)
        turned = np.flatnonzero(winners != chosen)
        if turned.size:
            edge, point = edges[turned[0]], between[turned[0]]
            level = edge + np.clip(point - edge, -BEYOND * edge, BEYOND * edge)
            if level > 0 and LEAST_USD <= 1.0 / level <= MOST_USD:
                yield float(f"{1.0 / level:.{DIGITS}g}")


def _between(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one point after every edge and before the next; after the last, one well beyond it."""
    beyond = 2.0 * edges[-1] if len(edges) < 2 or edges[-1] > edges[-2] else 0.5 * edges[-1]
    return np.asarray((edges + np.append(edges[1:], beyond)) / 2.0)


def _winners(
    utility: NDArray[np.float64], doubt: NDArray[np.float64], fixed: int, held: int, margin: float
) -> NDArray[np.int64]:
    """Return who is chosen in each row of utilities, float64 (n_points, n_feasible), as ``choose`` would."""
    points = np.arange(len(utility))
    best = utility.argmax(axis=1)
    won = np.where(utility[points, best] - utility[:, fixed] > doubt[best], best, fixed)
    if held >= 0:
        won = np.where(utility[points, won] - utility[:, held] > margin, won, held)
    return won


def _unconstrained(decided: Decided) -> Found:
    """Find for each constraint whether without it another model is chosen, and the least change that lets it in."""
    offers = decided.offers
    for place, constraint in enumerate(CONSTRAINTS):
        if not constraint.field or not _alone_rules_out(offers, place):
            continue
        column = decided.again(offers=relaxed(offers, place))
        if column in (decided.choice.column, -1):
            continue
        least, violated = _least_change(constraint, offers, column)
        if violated is None or decided.again(offers=relaxed(offers, place, violated)) == column:
            yield column, least


def _alone_rules_out(offers: Offers, place: int) -> bool:
    """Tell whether a constraint is the only one that stands in some endpoint's way."""
    return bool((offers.violations[place] & (offers.n_violations == 1)).any())


def _least_change(
    constraint: Constraint, offers: Offers, column: int
) -> tuple[tuple[tuple[str, Any], ...], NDArray[np.bool_] | None]:
    """Return the change of a field that lets a model in, and whom the constraint still rules out (None: nobody)."""
    policy, catalogue, field = offers.policy, offers.catalogue, constraint.field
    place = CONSTRAINTS.index(constraint)
    name, profile = catalogue.models[column], catalogue.profiles[column]
    if field in ("candidates", "exclude"):
        violated = offers.violations[place].copy()
        violated[column] = False
        listed = (*(policy.candidates or ()), name) if field == "candidates" else _without(policy.exclude, name)
        return ((field, listed),), violated
    if field == "require":
        kept = tuple(one for one in policy.require if one in (profile.capabilities or ()))
        lacking = [not set(kept) <= set(one.capabilities or ()) for one in catalogue.profiles]
        return ((field, kept),), np.array(lacking)[:, None]
    if field == "local_only":
        strategy = (("strategy", None),) if policy.strategy == "private" else ()
        return (*strategy, (field, False)), None
    amounts = {"max_cost_usd": offers.costs_usd, "max_latency_ms": offers.latencies_ms}.get(field)
    if amounts is not None:
        blocked = offers.violations[place, column] & (offers.n_violations[column] == 1)
        needed = amounts[column][blocked]
        if needed.size and not np.isnan(needed).all():
            most = _rounded_up(float(np.nanmin(needed)))
            return ((field, most),), ~(amounts <= most)
    return ((field, None),), None


def _without(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(one for one in names if one != name)


def _rounded_up(amount: float) -> float:
    """Return the least amount of DIGITS digits that is not below this one."""
    if amount == 0:
        return 0.0
    digits = DIGITS - 1 - math.floor(math.log10(amount))
    rounded = float(f"{amount:.{DIGITS - 1}e}")
    return rounded if rounded >= amount else float(f"{rounded + 10.0**-digits:.{DIGITS - 1}e}")
