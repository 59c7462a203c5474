"""What would flip a decision: the nearest changes of the policy by which another model is chosen.

Every flip was tried: the choice is made again as it would be with the changed policy, and only what then goes to
another model is told.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.constraints import CONSTRAINTS, Constraint, Offers
from router.estimate import LocalEstimate
from router.policy import (
    FAST_WAIT_MS,
    LEAST_WORTH,
    Choice,
    Circumstances,
    Field,
    TradeOff,
    Utilities,
    known_or_largest,
    pick,
)
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
# A field's value that rules nobody out, where that is not None.
_OPEN: dict[str, object] = {"exclude": (), "require": (), "local_only": False}

Changes = tuple[tuple[str, Any], ...]
Found = Iterator[tuple[int, Changes]]


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


def flips_of(decided: Decided) -> tuple[Flip, ...]:
    """Return what would flip a choice: first what held a better model back, then prices, then each constraint."""
    retrial = _Retrial(decided)
    names = decided.offers.catalogue.models
    found = [*_released(retrial)]
    if decided.choice.reason != "explore":  # with what was drawn, nothing else is compared
        found += [*_repriced(retrial), *_unconstrained(retrial)]
    return tuple(Flip(names[column], changes) for column, changes in found)


class _Entrant(NamedTuple):
    """A model (row) at an endpoint (place) that one constraint alone keeps away, with what it would be worth there."""

    row: int
    place: int
    rank: float
    utility: float
    cost_usd: float
    latency_ms: float


class _Retrial:
    """Makes one choice again under changes."""

    def __init__(self, decided: Decided) -> None:
        self.decided = decided
        self.column = decided.choice.column
        self._utility: list[float] = decided.choice.utility.tolist()
        self._by_fixed = {decided.field.fixed: decided.local}
        self.best = self._best(decided.choice.ranking[:2], self._utility, decided.field.costs_usd)

    def with_policy(self, policy: Policy) -> int:
        """Return the column chosen with other margins."""
        return self._pick(self._utility, self.best, self.decided.field.fixed, policy, ())

    def with_more(self, entrants: Iterable[_Entrant]) -> int:
        """Return the column chosen where these are allowed, too."""
        decided, field = self.decided, self.decided.field
        at: dict[int, _Entrant] = {}
        for one in entrants:
            known = at.get(one.row)
            if known is None or (one.rank, one.place) < (known.rank, known.place):
                at[one.row] = one
        rank = field.penalties.rank
        for row in [row for row in at if field.feasible[row]]:
            place = int(field.endpoints[row])
            if (rank[row, place], place) < (at[row].rank, at[row].place):
                del at[row]
        utility, costs = self._utility.copy(), field.costs_usd.copy()
        for row, one in at.items():
            utility[row], costs[row] = one.utility, one.cost_usd
        best = self._best([*at, *([self.best] if self.best >= 0 else [])], utility, costs)
        rivals = [*at, *([field.fixed] if field.fixed >= 0 else [])]
        fixed = max(rivals, key=lambda row: (decided.fixed_quality[row], -row))
        return self._pick(utility, best, fixed, decided.offers.policy, at)

    def _best(self, columns: Sequence[int], utility: Utilities, costs: NDArray[np.float64]) -> int:
        """Return the column of highest utility, of equals the cheapest, then the first; -1 of none."""
        if len(columns) < 2:
            return columns[0] if columns else -1
        most = max(utility[column] for column in columns)
        level = [column for column in columns if utility[column] == most]
        return min(level, key=lambda column: (_or_infinite(float(costs[column])), column))

    def _pick(self, utility: Utilities, best: int, fixed: int, policy: Policy, entered: Iterable[int]) -> int:
        decided, held = self.decided, self.decided.around.held
        if held >= 0 and not (decided.field.feasible[held] or held in entered):
            held = -1
        local = decided.local
        if best != fixed and decided.around.guard_z > 0:  # only the lead's error depends on who is the fixed one
            if fixed not in self._by_fixed:
                self._by_fixed[fixed] = decided.estimate_for(fixed)
            local = self._by_fixed[fixed]
        is_open = decided.offers.needs.tool_call_open
        return pick(local, utility, best, fixed, held, policy, decided.around, tool_call_open=is_open)[0]


def _or_infinite(amount: float) -> float:
    return math.inf if math.isnan(amount) else amount


def _released(retrial: _Retrial) -> Found:
    change = _RELEASES.get(retrial.decided.choice.reason)
    if change is not None:
        freed = Flip("", (change,)).applied_to(retrial.decided.offers.policy)
        column = retrial.with_policy(freed)
        if column != retrial.column:
            yield column, (change,)


def _repriced(retrial: _Retrial) -> Found:
    """Find the nearest smaller and the nearest larger willingness to pay at which another model is chosen."""
    lines = _lines_of(retrial.decided)
    if lines is None:
        return
    usd = retrial.decided.trade_off.usd
    now = 0.0 if usd is None else 1.0 / max(usd, LEAST_WORTH)
    levels = lines.levels()
    for turns in (lines.turns(now, [one for one in levels if one > now]), lines.turns(now, _downward(levels, now))):
        for level in turns:
            if not 1.0 / MOST_USD <= level <= 1.0 / LEAST_USD:
                continue
            told = float(f"{1.0 / level:.{DIGITS}g}")
            column = lines.winner(1.0 / told)
            if column != retrial.column:
                yield column, (*_spelt_out(retrial.decided.offers.policy), ("willingness_to_pay_usd", told))
                break


def _downward(levels: Sequence[float], now: float) -> list[float]:
    return [one for one in reversed(levels) if one < now] + ([0.0] if now > 0 else [])


def _spelt_out(policy: Policy) -> Iterator[tuple[str, Any]]:
    """Yield what else a strategy asks for, where a willingness to pay takes its place."""
    if policy.strategy is not None:
        yield "strategy", None
    if policy.strategy == "private":
        yield "local_only", True
    if policy.strategy == "fast":
        yield "willingness_to_wait_ms", FAST_WAIT_MS


Line = tuple[float, float, int]
"""An allowed endpoint: its cost c in USD, what else its utility is made of, q, and its model's column."""


@dataclass(frozen=True, slots=True)
class _Lines:
    """With v = 1 / willingness to pay, every endpoint's utility is a line q - v c.

    best: those that are the highest one somewhere, by falling v. fixed, held: those of the best fixed model and of the
    session's. doubt: by the best ones' column, what its lead over the fixed one has to be above. margin: the session's.
    """

    chosen: int
    best: list[Line]
    fixed: list[Line]
    held: list[Line]
    doubt: dict[int, float]
    margin: float

    def levels(self) -> list[float]:
        """Return, in rising order, every v above 0 at which the choice may turn.

        The best one gives way to the next; or two are as far apart as the rule asks for: the best one and the fixed
        one by the doubt, one of them and the session's by the margin.
        """
        gaps = [(two[1] - one[1], two[0] - one[0]) for one, two in zip(self.best, self.best[1:], strict=False)]
        gaps += [(one[1] - two[1] - self.doubt[one[2]], one[0] - two[0]) for one in self.best for two in self.fixed]
        gaps += [
            (one[1] - two[1] - self.margin, one[0] - two[0]) for one in (*self.best, *self.fixed) for two in self.held
        ]
        for own in (self.fixed, self.held):
            gaps += [(one[1] - two[1], one[0] - two[0]) for one in own for two in own]
        levels = {quality / cost for quality, cost in gaps if cost != 0}
        return sorted(one for one in levels if 0 < one <= 1.0 / LEAST_USD)

    def turns(self, now: float, edges: Sequence[float]) -> Iterator[float]:
        """Yield, from now on, one v in every stretch between two edges in which another model is chosen.

        It lies just beyond the edge where that begins. After the last edge, unless it is 0, nothing changes any more.
        """
        edge = now
        for end in (*edges, None):
            if end is None and edge == 0 < now:
                return
            point = (edge + end) / 2.0 if end is not None else 2.0 * edge if edge > 0 else 1.0
            if self.winner(point) != self.chosen:
                step = BEYOND * edge
                yield point if edge == 0 else edge + min(max(point - edge, -step), step)
            if end is not None:
                edge = end

    def winner(self, v: float) -> int:
        """Return the column that is chosen at v, as router.policy chooses."""
        won, most = -1, -math.inf
        for cost, quality, column in self.best:
            if quality - v * cost > most:
                won, most = column, quality - v * cost
        fixed = self.fixed[0][2]
        if won != fixed:
            level = max(quality - v * cost for cost, quality, _ in self.fixed)
            if won < 0 or not most - level > self.doubt[won]:
                won, most = fixed, level
        if self.held and won != self.held[0][2]:
            level = max(quality - v * cost for cost, quality, _ in self.held)
            if not most - level > self.margin:
                won = self.held[0][2]
        return won


def _lines_of(decided: Decided) -> _Lines | None:
    """Return the lines of a choice, None where no willingness to pay changes it."""
    offers, field, choice, around = decided.offers, decided.field, decided.choice, decided.around
    policy = offers.policy
    held = around.held if around.held >= 0 and field.feasible[around.held] else -1
    routes = around.routes or policy.route_anyway
    if len(choice.ranking) < 2 or not offers.catalogue.has_prices:
        return None
    if (held < 0 and not routes) or (held >= 0 and (around.blind or offers.needs.tool_call_open)):
        return None
    if field.penalties.latencies is None:  # then a model's cheapest endpoint is the best at any price
        rows = np.flatnonzero(field.feasible)
        places = field.endpoints[rows]
        quality = decided.local.quality[rows]
    else:
        rows, places = np.nonzero(offers.n_violations == 0)
        quality = decided.local.quality[rows] - field.penalties.latencies[rows, places]
    costs = offers.costs_usd[rows, places]
    unknown = np.isnan(costs)
    if unknown.any():
        costs = known_or_largest(offers.costs_usd)[rows, places]
    # Of equals, the one that would be chosen comes first.
    ordered = sorted(zip(costs.tolist(), (-quality).tolist(), unknown.tolist(), rows.tolist(), strict=True))
    lines = [(cost, -negated, row) for cost, negated, _, row in ordered]
    best = _highest(lines) if routes else []
    return _Lines(
        choice.column,
        best,
        [one for one in lines if one[2] == field.fixed],
        [one for one in lines if one[2] == held],
        {row: max(around.guard_z * decided.local.lead_error.item(row), policy.min_gain) for _, _, row in best},
        policy.switch_margin,
    )


def _highest(lines: Iterable[Line]) -> list[Line]:
    """Return those of the lines, given by rising cost, that are the highest one at some v of at least 0."""
    found: list[Line] = []
    for line in lines:
        if found and line[1] <= found[-1][1]:
            continue  # as dear, and no better
        while len(found) > 1 and _level(found[-2], line) >= _level(found[-2], found[-1]):
            found.pop()
        found.append(line)
    return found


def _level(one: Line, two: Line) -> float:
    """Return the v at which two lines cross; two must cost more than one."""
    return (two[1] - one[1]) / (two[0] - one[0])


def _unconstrained(retrial: _Retrial) -> Found:
    """Find for each constraint whether without it another model is chosen, and the least change that lets it in."""
    for constraint, entrants in _kept_away(retrial):
        column = retrial.with_more(entrants)
        if column == retrial.column:
            continue
        changes, entering = _least_change(constraint, retrial.decided.offers, column, entrants)
        least = column if len(entering) == len(entrants) else retrial.with_more(entering)
        if least != retrial.column:
            yield least, changes
        else:
            yield column, ((constraint.field, _OPEN.get(constraint.field)),)


def _kept_away(retrial: _Retrial) -> Iterator[tuple[Constraint, list[_Entrant]]]:
    """Yield every constraint of the policy that alone keeps somebody away who could change the choice, and whom."""
    decided = retrial.decided
    offers, field, fixed_quality = decided.offers, decided.field, decided.fixed_quality
    tells = kept_away = offers.n_violations == 1
    if not kept_away.any():
        return
    penalties = field.penalties
    utility = decided.local.quality[:, None] - (
        np.zeros(offers.costs_usd.shape) if penalties.costs is None else penalties.costs
    )
    if penalties.latencies is not None:
        utility -= penalties.latencies
    if retrial.best >= 0:
        # Who is no better than the best can still be the one that others are held against; and where a model is
        # allowed already, only another endpoint that is no worse changes anything.
        best, held, of = retrial.best, decided.around.held, decided.choice.utility
        as_good = np.where(fixed_quality > fixed_quality[field.fixed], -np.inf, of[best])
        as_good[field.fixed] -= max(decided.around.guard_z * decided.local.lead_error[best], offers.policy.min_gain)
        if held >= 0:
            as_good[[held, field.fixed]] = -np.inf
        as_good = np.where(field.feasible, np.maximum(as_good, of), as_good)
        tells = kept_away & (utility >= as_good[:, None])
    rows, places = np.nonzero(tells)
    tables = (penalties.rank, utility, offers.costs_usd, offers.latencies_ms)
    for number in sorted(set(offers.violations[:, rows, places].argmax(axis=0).tolist())):
        if CONSTRAINTS[number].field:
            # One that tells lets all in: together they may change more, or less, than it alone.
            at = np.flatnonzero(kept_away & offers.violations[number])
            columns = (one.tolist() for one in (*np.divmod(at, utility.shape[1]), *(one.take(at) for one in tables)))
            yield CONSTRAINTS[number], list(map(_Entrant._make, zip(*columns, strict=True)))


def _least_change(
    constraint: Constraint, offers: Offers, column: int, entrants: list[_Entrant]
) -> tuple[Changes, list[_Entrant]]:
    """Return the change of a field that lets a model in, and who then enters."""
    policy, catalogue, field = offers.policy, offers.catalogue, constraint.field
    name, profile = catalogue.models[column], catalogue.profiles[column]
    if field in ("candidates", "exclude"):
        listed = (*(policy.candidates or ()), name) if field == "candidates" else _without(policy.exclude, name)
        return ((field, listed),), [one for one in entrants if one.row == column]
    if field == "require":
        kept = tuple(one for one in policy.require if one in (profile.capabilities or ()))
        able = [set(kept) <= set(one.capabilities or ()) for one in catalogue.profiles]
        return ((field, kept),), [one for one in entrants if able[one.row]]
    if field == "local_only":
        strategy = (("strategy", None),) if policy.strategy == "private" else ()
        return (*strategy, (field, False)), entrants
    if field in ("max_cost_usd", "max_latency_ms"):
        amounts = [one.cost_usd if field == "max_cost_usd" else one.latency_ms for one in entrants]
        known = [
            amount for one, amount in zip(entrants, amounts, strict=True) if one.row == column and amount == amount
        ]
        if known:
            most = _rounded_up(min(known))
            return ((field, most),), [one for one, amount in zip(entrants, amounts, strict=True) if amount <= most]
    return ((field, None),), entrants


def _without(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(one for one in names if one != name)


def _rounded_up(amount: float) -> float:
    """Return the least amount of DIGITS digits that is not below this one."""
    if amount == 0:
        return 0.0
    digits = DIGITS - 1 - math.floor(math.log10(amount))
    rounded = float(f"{amount:.{DIGITS - 1}e}")
    return rounded if rounded >= amount else float(f"{rounded + 10.0**-digits:.{DIGITS - 1}e}")
