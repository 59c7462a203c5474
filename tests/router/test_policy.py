"""router/policy.py: the rule of the choice, on numbers written by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.catalogue import Catalogue
from router.constraints import offers_of
from router.errors import PolicyError
from router.estimate import LocalEstimate
from router.policy import (
    FAST_WAIT_MS,
    MIN_SUPPORT,
    REASONS,
    Choice,
    Circumstances,
    Field,
    TradeOff,
    choose,
    field_of,
)
from router.types import Endpoint, ModelProfile, Needs, Policy

MODELS = ("a", "b", "c", "d")
NOTHING = Needs(0)
NO_COSTS = (None, None, None, None)
COSTS = (0.04, 0.03, 0.02, 0.01)
FLAT = np.full(4, 0.5)


def local_of(quality: list[float] | np.ndarray, lead_error: float = 0.0, support: float = 9.0) -> LocalEstimate:
    values = np.array(quality, dtype=np.float64)
    return LocalEstimate(
        values, values, values, np.full(len(values), support), np.full(len(values), lead_error), np.zeros(0)
    )


def catalogue_of(costs: tuple[float | None, ...]) -> Catalogue:
    return Catalogue(
        MODELS, {name: ModelProfile(name, mean_cost_usd=usd) for name, usd in zip(MODELS, costs, strict=True)}
    )


def decide(
    quality: list[float],
    policy: Policy,
    costs: tuple[float | None, ...] = NO_COSTS,
    *,
    fixed_quality: np.ndarray = FLAT,
    routes: bool = True,
    guard_z: float = 0.0,
    lead_error: float = 0.0,
    support: float = 9.0,
    blind: str = "",
    held: int = -1,
    roll: float = 1.0,
    tool_call_open: bool = False,
) -> tuple[Field, Choice]:
    field = field_of(
        offers_of(catalogue_of(costs), policy, NOTHING), TradeOff(policy.willingness_to_pay_usd), fixed_quality
    )
    around = Circumstances(routes, guard_z, blind, held, roll)
    return field, choose(local_of(quality, lead_error, support), field, policy, around, tool_call_open=tool_call_open)


names = st.lists(st.sampled_from([*MODELS, "unknown"]), max_size=4).map(tuple)
policies = st.builds(
    Policy,
    candidates=st.none() | names,
    exclude=names,
    max_cost_usd=st.none() | st.floats(0, 0.05),
    willingness_to_pay_usd=st.none() | st.floats(1e-3, 10),
    route_anyway=st.booleans(),
    fallback=st.none() | st.sampled_from(["b", "elsewhere"]),
)
qualities = st.lists(st.floats(0, 1), min_size=4, max_size=4)
prices = st.lists(st.none() | st.floats(0, 0.05), min_size=4, max_size=4).map(tuple)


@given(qualities, qualities, prices, policies, st.booleans(), st.floats(0, 2), st.floats(0, 0.3))
def test_any_request_is_answered_within_its_constraints(
    quality: list[float],
    fixed_quality: list[float],
    costs: tuple[float | None, ...],
    policy: Policy,
    routes: bool,
    guard_z: float,
    error: float,
) -> None:
    fixed_values = np.array(fixed_quality)

    def allowed(column: int) -> bool:
        name, cost = MODELS[column], costs[column]
        listed = policy.candidates is None or name in policy.candidates
        affordable = policy.max_cost_usd is None or (cost is not None and cost <= policy.max_cost_usd)
        return listed and name not in policy.exclude and affordable

    feasible = [column for column in range(4) if allowed(column)]
    if not feasible and policy.fallback is None:
        with pytest.raises(PolicyError, match=r"max_cost_usd|exclude|candidates"):
            decide(quality, policy, costs, fixed_quality=fixed_values)
        return
    field, choice = decide(
        quality, policy, costs, fixed_quality=fixed_values, routes=routes, guard_z=guard_z, lead_error=error
    )
    assert np.flatnonzero(field.feasible).tolist() == feasible == sorted(choice.ranking)
    assert choice.reason in REASONS and choice.propensity == 1.0
    if not feasible:
        assert (choice.column, choice.reason, field.fixed) == (-1, "fallback", -1)
        return
    assert choice.column == choice.ranking[0] and choice.column in feasible
    rest = [choice.utility[column] for column in choice.ranking[1:]]
    assert rest == sorted(rest, reverse=True)
    if choice.reason in ("best", "prior", "only_candidate"):
        assert choice.utility[choice.column] == max(choice.utility[feasible])
    else:
        assert choice.column == field.fixed
        assert fixed_values[field.fixed] == max(fixed_values[feasible])


def test_ties_go_to_the_fixed_one_then_to_the_cheaper_then_to_the_earlier() -> None:
    costs = (0.03, 0.02, 0.02, 0.01)
    quality = [0.7, 0.7, 0.7, 0.1]
    _, choice = decide(quality, Policy(), costs, fixed_quality=np.eye(4)[3])
    assert choice.ranking == (1, 2, 0, 3)
    _, choice = decide(quality, Policy(), costs, fixed_quality=np.eye(4)[0])
    assert choice.ranking == (0, 1, 2, 3)
    _, choice = decide(quality, Policy(), (None, None, 0.02, 0.01), fixed_quality=np.eye(4)[3])
    assert choice.ranking == (2, 0, 1, 3)  # an unknown price is no cheap one


@pytest.mark.parametrize(("usd", "best"), [(None, 0), (10.0, 0), (0.1, 2), (0.01, 3), (0.0, 3)])
def test_willingness_to_pay_trades_quality_for_cost(usd: float | None, best: int) -> None:
    assert decide([0.7, 0.5, 0.6, 0.2], Policy(willingness_to_pay_usd=usd), COSTS)[1].column == best


def test_unknown_costs_count_as_the_dearest() -> None:
    policy = Policy(willingness_to_pay_usd=0.1)
    field, choice = decide([0.5, 0.5, 0.5, 0.5], policy, (0.04, None, 0.02, 0.01))
    np.testing.assert_allclose(choice.utility, [0.1, 0.1, 0.3, 0.4])
    assert np.isnan(field.costs_usd[1])
    assert decide([0.5, 0.5, 0.5, 0.5], policy)[1].utility.tolist() == [0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("routes", "route_anyway", "column", "reason"),
    [(True, False, 3, "best"), (False, False, 1, "verdict"), (False, True, 3, "best")],
)
def test_outside_route_the_best_fixed_model_answers(routes: bool, route_anyway: bool, column: int, reason: str) -> None:
    fixed_quality = np.array([0.5, 0.6, 0.5, 0.5])
    policy = Policy(route_anyway=route_anyway)
    _, choice = decide([0.1, 0.2, 0.3, 0.4], policy, fixed_quality=fixed_quality, routes=routes)
    assert (choice.column, choice.reason, choice.ranking[0]) == (column, reason, column)
    # The best fixed model that is feasible: with 'b' excluded and its like, the next best.
    without = Policy(route_anyway=route_anyway, exclude=("b", "a"))
    _, choice = decide([0.1, 0.2, 0.3, 0.4], without, fixed_quality=fixed_quality, routes=routes)
    assert choice.column == (3 if reason == "best" else 2)


@pytest.mark.parametrize(("error", "column", "reason"), [(0.05, 3, "best"), (0.1, 1, "guard"), (0.3, 1, "guard")])
def test_guard_wants_a_lead_above_its_error(error: float, column: int, reason: str) -> None:
    fixed_quality = np.array([0.5, 0.6, 0.5, 0.5])
    quality = [0.25, 0.5, 0.5, 0.75]
    _, choice = decide(quality, Policy(), fixed_quality=fixed_quality, guard_z=2.5, lead_error=error)
    assert (choice.column, choice.reason) == (column, reason)


@pytest.mark.parametrize(("gain", "column", "reason"), [(0.2, 3, "best"), (0.25, 1, "min_gain"), (1.0, 1, "min_gain")])
def test_min_gain_wants_a_lead_above_it(gain: float, column: int, reason: str) -> None:
    fixed_quality = np.array([0.5, 0.6, 0.5, 0.5])
    _, choice = decide([0.25, 0.5, 0.5, 0.75], Policy(min_gain=gain), fixed_quality=fixed_quality)
    assert (choice.column, choice.reason) == (column, reason)


def test_guard_says_best_where_the_fixed_model_leads_anyway() -> None:
    _, choice = decide([0.1, 0.9, 0.3, 0.4], Policy(), fixed_quality=np.eye(4)[1], guard_z=9.0, lead_error=9.0)
    assert (choice.column, choice.reason) == (1, "best")


def test_far_from_the_log_the_reason_is_the_prior() -> None:
    supports = (0.0, 0.5 * MIN_SUPPORT, MIN_SUPPORT, 100.0)
    reasons = [decide([0.1, 0.2, 0.3, 0.4], Policy(), support=one)[1].reason for one in supports]
    assert reasons == ["prior", "prior", "best", "best"]


def test_one_candidate_left_needs_no_estimate() -> None:
    assert decide([0.1, 0.9, 0.3, 0.4], Policy(candidates=("c",)), routes=False)[1].reason == "only_candidate"


@pytest.mark.parametrize("blind", ["unreadable", "deadline"])
def test_where_neighbors_were_not_asked_the_reason_says_why(blind: str) -> None:
    fixed_quality = np.array([0.9, 0.0, 0.0, 0.0])

    def reason(quality: list[float], policy: Policy, *, routes: bool = True) -> tuple[str, str]:
        choice = decide(quality, policy, fixed_quality=fixed_quality, routes=routes, blind=blind)[1]
        return MODELS[choice.column], choice.reason

    assert reason([0.1, 0.5, 0.3, 0.2], Policy()) == ("b", blind)
    assert reason([0.5, 0.5, 0.3, 0.2], Policy()) == ("a", blind)
    assert reason([0.1, 0.5, 0.3, 0.2], Policy(exclude=("b",))) == ("c", blind)
    assert reason([0.1, 0.5, 0.3, 0.2], Policy(), routes=False) == ("a", "verdict")
    assert reason([0.1, 0.5, 0.3, 0.2], Policy(candidates=("d",))) == ("d", "only_candidate")


@pytest.mark.parametrize(
    ("change", "column", "reason"),
    [
        ({}, 2, "session"),
        ({"policy": Policy(switch_margin=0.25)}, 2, "session"),  # a lead as large as the margin is not above it
        ({"policy": Policy(switch_margin=0.2)}, 3, "best"),
        ({"policy": Policy(switch_margin=0.0), "tool_call_open": True}, 2, "tool_call"),
        ({"policy": Policy(switch_margin=0.0), "blind": "deadline"}, 2, "session"),
        ({"policy": Policy(switch_margin=0.0, exclude=("c",)), "tool_call_open": True}, 3, "best"),
        ({"held": 3}, 3, "best"),
        ({"held": 3, "tool_call_open": True}, 3, "tool_call"),
        ({"held": 0, "routes": False, "policy": Policy(switch_margin=0.1)}, 1, "verdict"),
        (
            {"policy": Policy(explore_share=1.0, switch_margin=0.3), "roll": 0.0},
            2,
            "session",
        ),  # what a session decides is not drawn
    ],
)
def test_a_session_keeps_its_model_unless_the_lead_is_above_the_margin(
    change: dict[str, object], column: int, reason: str
) -> None:
    asked: dict[str, object] = {"policy": Policy(switch_margin=0.3), "held": 2, **change}
    _, choice = decide([0.0, 0.375, 0.5, 0.75], fixed_quality=np.eye(4)[1], **asked)  # type: ignore[arg-type]
    assert (choice.column, choice.reason, choice.propensity) == (column, reason, 1.0)
    assert choice.ranking[0] == column


def test_exploration_draws_every_allowed_model_alike_and_says_how_likely_it_was() -> None:
    policy = Policy(explore_share=0.4, exclude=("b",))
    rolls = np.linspace(0, 1, 3_000, endpoint=False)
    found = [decide([0.1, 0.9, 0.3, 0.4], policy, roll=float(roll))[1] for roll in rolls]
    for column, wanted in ((0, 0.4 / 3), (2, 0.4 / 3), (3, 0.6 + 0.4 / 3)):
        own = [one for one in found if one.column == column]
        assert len(own) / len(found) == pytest.approx(wanted, abs=1e-3)
        assert all(one.propensity == pytest.approx(wanted) for one in own)
        assert {one.reason for one in own} == {"best" if column == 3 else "explore"}
        assert {one.ranking[0] for one in own} == {column}
    assert 1 not in {one.column for one in found}
    everyone = {one.column: one.propensity for one in found}
    assert sum(everyone.values()) == pytest.approx(1.0)


def test_of_several_endpoints_the_one_of_least_penalty_that_is_allowed_is_taken() -> None:
    ends = (
        Endpoint("slow", 1.0, 1.0, latency_p50_ms=5_000.0, uptime=0.999),
        Endpoint("fast", 9.0, 9.0, latency_p50_ms=100.0, uptime=0.999),
        Endpoint("shaky", 0.5, 0.5, latency_p50_ms=50.0, uptime=0.5),
        Endpoint("unpriced", latency_p50_ms=10.0, uptime=0.999),
    )
    catalogue = Catalogue(["m"], {"m": ModelProfile("m", 1_000.0, ends)})

    def taken(trade_off: TradeOff, policy: Policy) -> str:
        field = field_of(offers_of(catalogue, policy, Needs(1_000)), trade_off, np.zeros(1))
        return ends[int(field.endpoints[0])].name

    steady = Policy(min_uptime=0.99)
    assert taken(TradeOff(usd=0.1), Policy()) == "shaky"
    assert taken(TradeOff(usd=0.1), steady) == "slow"
    assert taken(TradeOff(), steady) == "slow"  # where nothing is traded off, the cheapest
    assert taken(TradeOff(wait_ms=FAST_WAIT_MS), steady) == "unpriced"
    # Of unknown price is as dear as the dearest, and no dearer.
    assert taken(TradeOff(usd=1.0, wait_ms=FAST_WAIT_MS), steady) == "unpriced"
    assert taken(TradeOff(usd=1.0, wait_ms=FAST_WAIT_MS), replace(steady, max_cost_usd=0.1)) == "fast"
    assert taken(TradeOff(usd=1e-3, wait_ms=FAST_WAIT_MS), steady) == "slow"
    assert taken(TradeOff(usd=1.0, wait_ms=FAST_WAIT_MS), replace(steady, max_cost_usd=0.01)) == "slow"
    # Without prices, the fastest.
    timed = (Endpoint("one", latency_p50_ms=9.0), Endpoint("two", latency_p50_ms=8.0))
    catalogue = Catalogue(["m"], {"m": ModelProfile("m", endpoints=timed)})
    field = field_of(offers_of(catalogue, Policy(), NOTHING), TradeOff(usd=1.0), np.zeros(1))
    assert timed[int(field.endpoints[0])].name == "two" and field.cost_penalties.tolist() == [0.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {name: value}
        for name in ("max_cost_usd", "willingness_to_pay_usd", "max_latency_ms", "willingness_to_wait_ms", "min_gain")
        for value in (float("nan"), -1.0)
    ]
    + [{name: 1.5} for name in ("min_uptime", "min_gain", "switch_margin", "explore_share")]
    + [{"strategy": "cheapest"}],
)
def test_impossible_policies_are_the_callers_mistake(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Policy(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["willingness_to_pay_usd", "willingness_to_wait_ms"])
def test_a_strategy_and_an_amount_contradict_each_other(name: str) -> None:
    with pytest.raises(ValueError, match=f"strategy and {name}"):
        Policy(strategy="cheap", **{name: 1.0})  # type: ignore[arg-type]


levels = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@given(
    st.tuples(*[levels] * 4).map(list),
    st.tuples(*[st.none() | st.sampled_from([0.01, 0.02, 0.03])] * 4),
    st.sets(st.sampled_from(MODELS)).map(tuple),
    st.none() | st.sampled_from([1e-3, 1.0]),
)
def test_the_ranking_goes_by_utility_then_cost_then_place(
    quality: list[float], costs: tuple[float | None, ...], exclude: tuple[str, ...], usd: float | None
) -> None:
    policy = Policy(exclude=exclude, willingness_to_pay_usd=usd, fallback="a", route_anyway=True)
    field, choice = decide(quality, policy, costs)
    known = [np.inf if np.isnan(cost) else cost for cost in field.costs_usd]
    left = [column for column, name in enumerate(MODELS) if name not in exclude]
    expected = sorted(left, key=lambda column: (-choice.utility[column], known[column], column))
    others = [column for column in expected if column != choice.column]
    assert list(choice.ranking) == ([choice.column, *others] if left else [])
    assert list(field.by_cost) == sorted(left, key=lambda column: (known[column], column))
