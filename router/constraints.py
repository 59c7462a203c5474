"""What a request rules out: which endpoints it allows, and of those it does not, why."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.catalogue import Catalogue, Table
from router.types import Exclusion, Needs, Policy

MAX_NAMED = 3
# What is worked out for a policy that names more than these is not kept: it could be made to fill the memory.
MAX_KEPT_NAMES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Offers:
    """What every endpoint would cost and take, and which constraints stand in its way.

    costs_usd, latencies_ms: as in the catalogue. violations: bool (n_constraints, n_models, n_endpoints), in the order
    of CONSTRAINTS. n_violations: int64 (n_models, n_endpoints). allowed: bool, likewise, where that is 0. feasible:
    bool (n_models,), whether any endpoint is allowed. said: exclusions by constraint, row and place, kept for later
    requests of the same policy where they do not depend on the prompt.
    """

    catalogue: Catalogue
    policy: Policy
    needs: Needs
    relative_size: float
    costs_usd: Table
    latencies_ms: Table
    violations: NDArray[np.bool_]
    n_violations: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    feasible: NDArray[np.bool_]
    said: "dict[tuple[int, int, int], Exclusion]"


Detail = Callable[[Offers, int, int], str | None]
"""What is said of a model (row) at an endpoint (place) that is ruled out; None where nothing is known of it."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """One thing that rules models out. field: of Policy, empty where it is the request itself. empties: said where it
    leaves no model. code, detail: said of a model; unknown: its code where nothing is known of it.
    """

    code: str
    field: str
    empties: str
    detail: Detail
    unknown: str = ""


def _missing(offers: Offers, row: int, wanted: tuple[str, ...], why: str = "") -> str | None:
    own = offers.catalogue.profiles[row].capabilities
    return None if own is None else f"has no {_few(sorted(set(wanted) - set(own)), ' and no ')}{why}"


def _few(names: Sequence[str], between: str) -> str:
    """Name some of them: a request may state as many as it likes, and the answer need not repeat them all."""
    if len(names) <= MAX_NAMED:
        return between.join(names)
    return f"{between.join(names[:MAX_NAMED])} and {len(names) - MAX_NAMED} more"


def _at(offers: Offers, row: int, place: int) -> str:
    endpoints = offers.catalogue.endpoints[row]
    return f" at endpoint {endpoints[place].name}" if len(endpoints) > 1 else ""


def _not_local(offers: Offers, row: int, place: int) -> str | None:
    return f"is not local{_at(offers, row, place)}" if offers.catalogue.knows_locality[row, place] else None


def _wrong_region(offers: Offers, row: int, place: int) -> str | None:
    region = offers.catalogue.regions[row][place]
    return None if region is None else f"is in region {region}{_at(offers, row, place)}"


def _low_uptime(offers: Offers, row: int, place: int) -> str | None:
    uptime = offers.catalogue.uptimes.item(row, place)
    wanted = offers.policy.min_uptime
    return None if math.isnan(uptime) else f"uptime {uptime:.6g}{_at(offers, row, place)}, wanted {wanted:.6g}"


def _too_short(offers: Offers, row: int, place: int) -> str:
    answer = offers.catalogue.profiles[row].mean_output_tokens * offers.relative_size
    room = offers.catalogue.context_tokens.item(row)
    return f"{offers.needs.input_tokens} tokens and an answer of about {answer:.0f} do not fit in {room:.0f}"


def _over_cost(offers: Offers, row: int, place: int) -> str | None:
    cost, most = offers.costs_usd.item(row, place), offers.policy.max_cost_usd
    return None if math.isnan(cost) else f"expected {cost:.6g} USD{_at(offers, row, place)}, allowed {most:.6g} USD"


def _over_latency(offers: Offers, row: int, place: int) -> str | None:
    took, most = offers.latencies_ms.item(row, place), offers.policy.max_latency_ms
    return None if math.isnan(took) else f"expected {took:.6g} ms{_at(offers, row, place)}, allowed {most:.6g} ms"


CONSTRAINTS = (
    Constraint(
        "not_a_candidate",
        "candidates",
        "candidates names no model of the artifact",
        lambda *_: "not among the policy's candidates",
    ),
    Constraint("excluded", "exclude", "exclude removes every remaining model", lambda *_: "excluded by the policy"),
    Constraint(
        "lacks_capability",
        "require",
        "require: no remaining model is known to have {require}",
        lambda offers, row, _: _missing(offers, row, offers.policy.require),
        "capabilities_unknown",
    ),
    Constraint(
        "lacks_needed_capability",
        "",
        "the request needs {needed}, which no remaining model has",
        lambda offers, row, _: _missing(offers, row, offers.needs.capabilities, ", which the request needs"),
    ),
    Constraint(
        "lacks_role",
        "role",
        "role: no remaining model is meant for {role}",
        lambda offers, *_: f"is not meant for the role {offers.policy.role}",
    ),
    Constraint(
        "not_local",
        "local_only",
        "local_only: no remaining model is known to have a local endpoint",
        _not_local,
        "locality_unknown",
    ),
    Constraint(
        "wrong_region",
        "region",
        "region: no remaining model is known to have an endpoint in {region}",
        _wrong_region,
        "region_unknown",
    ),
    Constraint(
        "low_uptime",
        "min_uptime",
        "min_uptime {min_uptime} is above what is known of every remaining endpoint",
        _low_uptime,
        "uptime_unknown",
    ),
    Constraint("context_too_short", "", "prompt and answer are too long for every remaining model", _too_short),
    Constraint(
        "over_max_cost",
        "max_cost_usd",
        "max_cost_usd {max_cost_usd} is below every remaining model's expected cost, or they have no price",
        _over_cost,
        "cost_unknown",
    ),
    Constraint(
        "over_max_latency",
        "max_latency_ms",
        "max_latency_ms {max_latency_ms} is below every remaining model's expected time, or it is unknown",
        _over_latency,
        "latency_unknown",
    ),
)
_PLACE = {one.code: place for place, one in enumerate(CONSTRAINTS)}
# What stands in the way of one prompt and not of another.
_CONTEXT, _COST, _LATENCY = _PLACE["context_too_short"], _PLACE["over_max_cost"], _PLACE["over_max_latency"]


def offers_of(catalogue: Catalogue, policy: Policy, needs: Needs, relative_size: float = 1.0) -> Offers:
    """Return what every endpoint offers for a request. relative_size: of the answer, in units of its model's mean."""
    costs_usd = catalogue.costs_usd(needs.input_tokens, relative_size)
    latencies_ms = catalogue.latencies_ms(relative_size)
    work_out = _lasting_violations if policy.n_names <= MAX_KEPT_NAMES else _lasting_violations.__wrapped__
    lasting = work_out(catalogue, _lasting_part(policy), needs.capabilities)
    moving = []
    if catalogue.knows_context:
        too_long = needs.input_tokens + catalogue.output_tokens(relative_size) > catalogue.context_tokens
        moving.append((_CONTEXT, too_long[:, None]))
    if policy.max_cost_usd is not None:
        moving.append((_COST, ~(costs_usd <= policy.max_cost_usd)))
    if policy.max_latency_ms is not None:
        moving.append((_LATENCY, ~(latencies_ms <= policy.max_latency_ms)))
    if moving:
        violations, n_violations = lasting.violations.copy(), lasting.n_violations.copy()
        for place, violated in moving:
            violations[place] = violated
            n_violations += violated
        lasting = _counted(violations, n_violations, lasting.said)
    return Offers(catalogue, policy, needs, relative_size, costs_usd, latencies_ms, *lasting)


def _lasting_part(policy: Policy) -> Policy:
    """Return a policy without the amounts in which many differ, and which rule out other endpoints for every prompt."""
    amounts = (policy.max_cost_usd, policy.max_latency_ms, policy.willingness_to_pay_usd, policy.willingness_to_wait_ms)
    if amounts == (None, None, None, None):
        return policy
    return Policy(
        policy.candidates,
        *(policy.exclude, policy.require, policy.role, policy.stays_local, policy.region),
        min_uptime=policy.min_uptime,
    )


class _Violations(NamedTuple):
    """The last fields of Offers."""

    violations: NDArray[np.bool_]
    n_violations: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    feasible: NDArray[np.bool_]
    said: dict[tuple[int, int, int], Exclusion]


def _counted(
    violations: NDArray[np.bool_], n_violations: NDArray[np.int64], said: dict[tuple[int, int, int], Exclusion]
) -> _Violations:
    allowed = n_violations == 0
    return _Violations(violations, n_violations, allowed, allowed.any(axis=1), said)


@lru_cache(maxsize=64)
def _lasting_violations(catalogue: Catalogue, policy: Policy, capabilities: tuple[str, ...]) -> _Violations:
    """Return the violations that are the same for all prompts, and where to keep what is said of them.

    An endpoint that there is not counts as violating.
    """
    violated = np.zeros((len(CONSTRAINTS), *catalogue.exists.shape), dtype=bool)
    by_model = {
        "not_a_candidate": [
            policy.candidates is not None and name not in policy.candidates for name in catalogue.models
        ],
        "excluded": [name in policy.exclude for name in catalogue.models],
        "lacks_capability": [not set(policy.require) <= set(one.capabilities or ()) for one in catalogue.profiles],
        # What the request only implies excludes those that are known to lack it: of many, nothing is known.
        "lacks_needed_capability": [
            one.capabilities is not None and not set(capabilities) <= set(one.capabilities)
            for one in catalogue.profiles
        ],
        "lacks_role": [policy.role is not None and policy.role not in one.roles for one in catalogue.profiles],
    }
    for code, excluded in by_model.items():
        violated[_PLACE[code]] = np.array(excluded)[:, None]
    if policy.stays_local:
        violated[_PLACE["not_local"]] = ~catalogue.is_local
    if policy.region is not None:
        for row, regions in enumerate(catalogue.regions):
            outside = [one not in policy.region for one in regions]
            violated[_PLACE["wrong_region"], row, : len(outside)] = outside
    if policy.min_uptime is not None:
        violated[_PLACE["low_uptime"]] = ~(catalogue.uptimes >= policy.min_uptime)
    n_violated = violated.sum(axis=0) + ~catalogue.exists * len(CONSTRAINTS)
    return _counted(violated, n_violated, {})


def exclusions(offers: Offers) -> tuple[Exclusion, ...]:
    """Return who is not up for choice, and why: of several reasons the first of the endpoint that has fewest."""
    out = [] if offers.feasible.all() else _of_models(offers)
    named = {*(offers.policy.candidates or ()), *offers.policy.exclude}
    for name in sorted(named - set(offers.catalogue.models)):
        out.append(Exclusion(name, "unknown_model", "the artifact has no evidence on a model of this name"))
    return tuple(out)


def _of_models(offers: Offers) -> list[Exclusion]:
    out = []
    rows = np.flatnonzero(~offers.feasible)
    places = offers.n_violations[rows].argmin(axis=1)
    reasons = offers.violations[:, rows, places].argmax(axis=0)
    for at in zip(reasons.tolist(), rows.tolist(), places.tolist(), strict=True):
        known = offers.said.get(at)
        if known is None:
            known = _exclusion(offers, *at)
            if at[0] not in (_CONTEXT, _COST, _LATENCY):
                offers.said[at] = known
        out.append(known)
    return out


def _exclusion(offers: Offers, number: int, row: int, place: int) -> Exclusion:
    constraint = CONSTRAINTS[number]
    code, detail = constraint.code, constraint.detail(offers, row, place)
    if detail is None:
        code = constraint.unknown
        detail = f"{constraint.field} is set, and this is not known{_at(offers, row, place)}"
    return Exclusion(offers.catalogue.models[row], code, detail)


def why_empty(offers: Offers) -> str:
    """Name the constraint that took the last models away, looked at in order."""
    policy, left = offers.policy, offers.catalogue.exists
    left_after = np.logical_and.accumulate(~offers.violations & left, axis=0).any(axis=(1, 2))
    return CONSTRAINTS[int(left_after.argmin())].empties.format(
        require=_few(policy.require, " and "),
        needed=_few(offers.needs.capabilities, " and "),
        role=policy.role,
        region=_few(policy.region or (), " or ") or "a region that all policies allow",
        min_uptime=policy.min_uptime,
        max_cost_usd=policy.max_cost_usd,
        max_latency_ms=policy.max_latency_ms,
    )
