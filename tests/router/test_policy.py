"""router/policy.py: constraints hold, ranking is by utility, and every refusal has a name."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import PolicyError
from router.estimate import LocalEstimate
from router.policy import MIN_SUPPORT, REASONS, Choice, Field, choose, field_of, utility_of
from router.types import Policy, Verdict

MODELS = ("a", "b", "c", "d")
ROUTE, FIXED = Verdict("ROUTE", "", "a"), Verdict("DO NOT ROUTE", "", "a")
NO_COSTS = np.full(4, np.nan)
COSTS = np.array([0.04, 0.03, 0.02, 0.01])
FLAT = np.full(4, 0.5)


def local_of(quality: list[float] | np.ndarray, lead_error: float = 0.0, support: float = 9.0) -> LocalEstimate:
    values = np.array(quality, dtype=np.float64)
    return LocalEstimate(
        values, values, values, np.full(len(values), support), np.full(len(values), lead_error), np.zeros(0)
    )


def decide(
    quality: list[float],
    policy: Policy,
    costs: np.ndarray = NO_COSTS,
    *,
    fixed_quality: np.ndarray = FLAT,
    verdict: Verdict = ROUTE,
    guard_z: float = 0.0,
    lead_error: float = 0.0,
    blind: str = "",
) -> tuple[Field, Choice]:
    field = field_of(MODELS, costs, fixed_quality, policy)
    choice = choose(
        local_of(quality, lead_error),
        field,
        policy,
        verdict=verdict,
        willingness_to_pay_usd=policy.willingness_to_pay_usd,
        guard_z=guard_z,
        blind=blind,
    )
    return field, choice


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
prices = st.lists(st.floats(0, 0.05) | st.just(float("nan")), min_size=4, max_size=4)


@given(qualities, qualities, prices, policies, st.sampled_from([ROUTE, FIXED]), st.floats(0, 2), st.floats(0, 0.3))
def test_any_request_is_answered_within_its_constraints(
    quality: list[float],
    fixed_quality: list[float],
    prices: list[float],
    policy: Policy,
    verdict: Verdict,
    guard_z: float,
    error: float,
) -> None:
    costs, fixed_values = np.array(prices), np.array(fixed_quality)

    def allowed(column: int) -> bool:
        name, cost = MODELS[column], costs[column]
        listed = policy.candidates is None or name in policy.candidates
        affordable = policy.max_cost_usd is None or bool(cost <= policy.max_cost_usd)
        return listed and name not in policy.exclude and affordable

    feasible = [column for column in range(4) if allowed(column)]
    if not feasible and policy.fallback is None:
        with pytest.raises(PolicyError, match=r"max_cost_usd|exclude|candidates"):
            field_of(MODELS, costs, fixed_values, policy)
        return
    field = field_of(MODELS, costs, fixed_values, policy)
    choice = choose(
        local_of(quality, error),
        field,
        policy,
        verdict=verdict,
        willingness_to_pay_usd=policy.willingness_to_pay_usd,
        guard_z=guard_z,
    )
    known = {one.model for one in field.excluded if one.model in MODELS}
    assert known == {MODELS[column] for column in range(4) if column not in feasible}
    assert all(one.code and one.detail for one in field.excluded)
    assert sorted(choice.ranking) == feasible and choice.reason in REASONS
    if not feasible:
        assert (choice.column, choice.reason) == (-1, "fallback")
        return
    utility = utility_of(np.array(quality), costs, policy.willingness_to_pay_usd)
    assert choice.column == choice.ranking[0] and choice.column in feasible
    rest = [utility[column] for column in choice.ranking[1:]]
    assert rest == sorted(rest, reverse=True)
    if choice.reason in ("best", "prior", "only_candidate"):
        assert utility[choice.column] == max(utility[feasible])
    else:
        assert choice.column == field.fixed
        assert fixed_values[field.fixed] == max(fixed_values[feasible])


@pytest.mark.parametrize(
    ("policy", "costs", "wanted"),
    [
        (Policy(max_cost_usd=0.001), COSTS, "max_cost_usd 0.001 is below"),
        (Policy(max_cost_usd=0.001), NO_COSTS, "have no price"),
        (Policy(exclude=MODELS), COSTS, "exclude removes"),
        (Policy(candidates=("b",), exclude=("b",)), COSTS, "exclude removes"),
        (Policy(candidates=("x", "y")), COSTS, "candidates names no model"),
        (Policy(candidates=()), COSTS, "candidates names no model"),
        (Policy(candidates=("a", "b"), exclude=("b",), max_cost_usd=0.035), COSTS, "max_cost_usd"),
    ],
)
def test_the_constraint_that_leaves_nothing_is_named(policy: Policy, costs: np.ndarray, wanted: str) -> None:
    with pytest.raises(PolicyError, match=wanted):
        field_of(MODELS, costs, FLAT, policy)
    field, choice = decide([0.1, 0.2, 0.3, 0.4], replace(policy, fallback="elsewhere"), costs)
    assert (choice.column, choice.reason, choice.ranking) == (-1, "fallback", ())
    assert field.fixed == -1


def test_codes_of_exclusions() -> None:
    policy = Policy(candidates=("a", "b", "c", "zzz"), exclude=("b",), max_cost_usd=0.03)
    field = field_of(MODELS, np.array([0.04, 0.01, 0.02, 0.01]), FLAT, policy)
    assert {one.model: one.code for one in field.excluded} == {
        "a": "over_max_cost",
        "b": "excluded",
        "d": "not_a_candidate",
        "zzz": "unknown_model",
    }
    unpriced = field_of(MODELS, np.array([np.nan, 0.01, 0.02, 0.01]), FLAT, Policy(max_cost_usd=1.0))
    assert [(one.model, one.code) for one in unpriced.excluded] == [("a", "cost_unknown")]


def test_ties_go_to_the_cheaper_then_to_the_earlier() -> None:
    costs = np.array([0.03, 0.02, 0.02, 0.01])
    _, choice = decide([0.7, 0.7, 0.7, 0.1], Policy(), costs, fixed_quality=np.eye(4)[3])
    assert choice.ranking == (1, 2, 0, 3)


@pytest.mark.parametrize(("usd", "best"), [(None, 0), (10.0, 0), (0.1, 2), (0.01, 3)])
def test_willingness_to_pay_trades_quality_for_cost(usd: float | None, best: int) -> None:
    assert decide([0.7, 0.5, 0.6, 0.2], Policy(willingness_to_pay_usd=usd), COSTS)[1].column == best


def test_unknown_costs_count_as_the_dearest() -> None:
    costs = np.array([0.04, np.nan, 0.02, 0.01])
    utility = utility_of(np.full(4, 0.5), costs, 0.1)
    np.testing.assert_allclose(utility, [0.1, 0.1, 0.3, 0.4])
    assert utility_of(FLAT, NO_COSTS, 0.1) is FLAT


@pytest.mark.parametrize(
    ("verdict", "route_anyway", "column", "reason"),
    [(ROUTE, False, 3, "best"), (FIXED, False, 1, "verdict"), (FIXED, True, 3, "best")],
)
def test_outside_route_the_best_fixed_model_answers(
    verdict: Verdict, route_anyway: bool, column: int, reason: str
) -> None:
    fixed_quality = np.array([0.5, 0.6, 0.5, 0.5])
    policy = Policy(route_anyway=route_anyway)
    _, choice = decide([0.1, 0.2, 0.3, 0.4], policy, fixed_quality=fixed_quality, verdict=verdict)
    assert (choice.column, choice.reason, choice.ranking[0]) == (column, reason, column)
    # The best fixed model that is feasible: with 'b' excluded and its like, the next best.
    without = Policy(route_anyway=route_anyway, exclude=("b", "a"))
    _, choice = decide([0.1, 0.2, 0.3, 0.4], without, fixed_quality=fixed_quality, verdict=verdict)
    assert choice.column == (3 if reason == "best" else 2)


@pytest.mark.parametrize(("error", "column", "reason"), [(0.05, 3, "best"), (0.1, 1, "guard"), (0.3, 1, "guard")])
def test_guard_wants_a_lead_above_its_error(error: float, column: int, reason: str) -> None:
    fixed_quality = np.array([0.5, 0.6, 0.5, 0.5])
    quality = [0.25, 0.5, 0.5, 0.75]
    _, choice = decide(quality, Policy(), fixed_quality=fixed_quality, guard_z=2.5, lead_error=error)
    assert (choice.column, choice.reason) == (column, reason)


def test_guard_says_best_where_the_fixed_model_leads_anyway() -> None:
    _, choice = decide([0.1, 0.9, 0.3, 0.4], Policy(), fixed_quality=np.eye(4)[1], guard_z=9.0, lead_error=9.0)
    assert (choice.column, choice.reason) == (1, "best")


def test_far_from_the_log_the_reason_is_the_prior() -> None:
    field = field_of(MODELS, NO_COSTS, FLAT, Policy())
    reasons = [
        choose(
            local_of([0.1, 0.2, 0.3, 0.4], support=support),
            field,
            Policy(),
            verdict=ROUTE,
            willingness_to_pay_usd=None,
            guard_z=0.0,
        ).reason
        for support in (0.0, 0.5 * MIN_SUPPORT, MIN_SUPPORT, 100.0)
    ]
    assert reasons == ["prior", "prior", "best", "best"]


def test_one_candidate_left_needs_no_estimate() -> None:
    assert decide([0.1, 0.9, 0.3, 0.4], Policy(candidates=("c",)), verdict=FIXED)[1].reason == "only_candidate"


@pytest.mark.parametrize(
    "wrong", [{name: value} for name in ("max_cost_usd", "willingness_to_pay_usd") for value in (float("nan"), -1.0)]
)
def test_impossible_policies_are_the_callers_mistake(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Policy(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("blind", ["unreadable", "deadline"])
def test_where_neighbors_were_not_asked_the_reason_says_why(blind: str) -> None:
    fixed_quality = np.array([0.9, 0.0, 0.0, 0.0])

    def reason(quality: list[float], policy: Policy, verdict: Verdict = ROUTE) -> tuple[str, str]:
        choice = decide(quality, policy, fixed_quality=fixed_quality, verdict=verdict, blind=blind)[1]
        return MODELS[choice.column], choice.reason

    assert reason([0.1, 0.5, 0.3, 0.2], Policy()) == ("b", blind)
    assert reason([0.5, 0.5, 0.3, 0.2], Policy()) == ("a", blind)
    assert reason([0.1, 0.5, 0.3, 0.2], Policy(exclude=("b",))) == ("c", blind)
    assert reason([0.1, 0.5, 0.3, 0.2], Policy(), FIXED) == ("a", "verdict")
    assert reason([0.1, 0.5, 0.3, 0.2], Policy(candidates=("d",))) == ("d", "only_candidate")
