"""router/flips.py: what would flip a choice, on numbers written by hand; any policy is tried in test_any_policy.py."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.catalogue import Catalogue
from router.constraints import offers_of
from router.estimate import LocalEstimate
from router.flips import BEYOND, MOST_USD, Decided, _rounded_up, flips_of
from router.policy import FAST_WAIT_MS, Circumstances, TradeOff, choose, field_of
from router.types import Endpoint, Flip, ModelProfile, Needs, Policy

MODELS = ("a", "b", "c")
USD = (0.03, 0.02, 0.01)
QUALITY = (0.9, 0.8, 0.5)
# Where the lines of two neighbours cross: a tenth of quality is worth a hundredth of a dollar, then three tenths are.
A_TO_B, B_TO_C = 0.1, 0.01 / 0.3
ROUTES, NO_NEEDS = Circumstances(routes=True, guard_z=0.0), Needs(0)


def profiles_of(usd: tuple[float | None, ...] = USD, **more: object) -> dict[str, ModelProfile]:
    return {
        name: ModelProfile(name, mean_cost_usd=one, **more)  # type: ignore[arg-type]
        for name, one in zip(MODELS, usd, strict=True)
    }


def flips(
    policy: Policy,
    *,
    profiles: dict[str, ModelProfile] | None = None,
    quality: tuple[float, ...] = QUALITY,
    lead_error: tuple[float, ...] = (0.0, 0.0, 0.0),
    fixed: int = 2,
    around: Circumstances = ROUTES,
    needs: Needs = NO_NEEDS,
    wait_ms: float | None = None,
    estimate_for: Callable[[int], LocalEstimate] | None = None,
) -> tuple[str, tuple[Flip, ...]]:
    """Return the chosen model and what would flip it."""
    offers = offers_of(Catalogue(MODELS, profiles or profiles_of()), policy, needs)
    trade_off = TradeOff(policy.willingness_to_pay_usd, policy.willingness_to_wait_ms or wait_ms)
    fixed_quality = np.eye(len(MODELS))[fixed]
    field = field_of(offers, trade_off, fixed_quality)
    values = np.array(quality)
    local = LocalEstimate(values, values, values, np.full(3, 9.0), np.array(lead_error), np.zeros(0))
    choice = choose(local, field, policy, around, tool_call_open=needs.tool_call_open)
    decided = Decided(offers, trade_off, fixed_quality, field, around, local, choice, estimate_for or (lambda _: local))
    return MODELS[choice.column] if choice.column >= 0 else str(policy.fallback), flips_of(decided)


def prices(found: tuple[Flip, ...]) -> dict[str, float]:
    return {one.model: value for one in found for name, value in one.changes if name == "willingness_to_pay_usd"}


def test_the_nearest_price_on_either_side_is_told_just_beyond_it() -> None:
    model, found = flips(Policy(willingness_to_pay_usd=0.05))
    assert model == "b" and set(prices(found)) == {"a", "c"}
    assert A_TO_B < prices(found)["a"] < A_TO_B * (1 + 2 * BEYOND)
    assert B_TO_C * (1 - 2 * BEYOND) < prices(found)["c"] < B_TO_C
    for willing, chosen, other in ((1.0, "a", "b"), (None, "a", "b"), (0.01, "c", "b")):
        model, found = flips(Policy(willingness_to_pay_usd=willing))
        assert model == chosen and set(prices(found)) == {other}


def test_a_model_that_is_never_the_best_is_never_told() -> None:
    _, found = flips(Policy(), quality=(0.9, 0.6, 0.5), profiles=profiles_of((0.03, 0.029, 0.01)))
    assert set(prices(found)) == {"c"}


def test_where_quality_is_level_any_price_flips_to_the_cheaper() -> None:
    # The fixed one has the tie as long as nothing weighs against it.
    model, found = flips(Policy(), quality=(0.9, 0.9, 0.5), fixed=0)
    assert model == "a" and 0 < prices(found)["b"] <= MOST_USD


def test_the_guard_and_min_gain_move_the_point() -> None:
    for change in (
        {"lead_error": (0.0, 0.2, 0.0), "around": Circumstances(True, 1.0)},
        {"policy": Policy(min_gain=0.2)},
    ):
        asked = {"policy": Policy(), "quality": (0.0, 0.8, 0.5), **change}
        model, found = flips(**asked)  # type: ignore[arg-type]
        # b leads c by 0.3 and has to by 0.2: a hundredth of a dollar more may cost a tenth.
        assert model == "b" and prices(found)["c"] == pytest.approx(0.1, rel=2 * BEYOND)


def test_behind_a_guarded_best_one_another_is_found() -> None:
    # a is the best one where cost weighs nothing, but it is too unsure; where b is the best one, it is taken.
    around = Circumstances(True, 1.0)
    model, found = flips(Policy(), lead_error=(0.5, 0.01, 0.0), around=around)
    assert model == "c" and prices(found)["b"] == pytest.approx(A_TO_B, rel=2 * BEYOND)


def test_outside_route_no_price_matters_but_route_anyway() -> None:
    model, found = flips(Policy(), around=Circumstances(routes=False, guard_z=0.0))
    assert model == "c" and found == (Flip("a", (("route_anyway", True),)),)


@pytest.mark.parametrize(
    ("policy", "around", "changes"),
    [
        (Policy(min_gain=0.5), Circumstances(True, 0.0), ("min_gain", 0.0)),
        (Policy(switch_margin=0.5), Circumstances(True, 0.0, held=2), ("switch_margin", 0.0)),
        (Policy(explore_share=1.0), Circumstances(True, 0.0, roll=0.99), ("explore_share", 0.0)),
    ],
)
def test_what_held_the_better_one_back_comes_first(
    policy: Policy, around: Circumstances, changes: tuple[str, object]
) -> None:
    model, found = flips(policy, around=around)
    assert model == "c" and found[0] == Flip("a", (changes,))


def test_an_open_tool_call_is_flipped_by_nothing_but_what_lets_its_model_out() -> None:
    needs = Needs(0, tool_call_open=True)
    assert flips(Policy(), around=Circumstances(True, 0.0, held=1), needs=needs) == ("b", ())
    # Its model is excluded: let in, it would be the one.
    model, found = flips(Policy(exclude=("b",)), around=Circumstances(True, 0.0, held=1), needs=needs)
    assert model == "a" and Flip("b", (("exclude", ()),)) in found


def test_a_held_model_that_enters_holds() -> None:
    around = Circumstances(True, 0.0, held=1)
    model, found = flips(Policy(exclude=("b",), switch_margin=0.3), around=around)
    assert model == "a" and Flip("b", (("exclude", ()),)) in found


def test_constraints_are_changed_no_more_than_needed() -> None:
    steady, shaky = (Endpoint("x", uptime=0.99),), (Endpoint("x", uptime=0.9),)
    both = ("tools", "json")
    profiles = {
        "a": ModelProfile("a", mean_cost_usd=0.0312345678, capabilities=("tools",), endpoints=shaky),
        "b": ModelProfile("b", mean_cost_usd=0.02, capabilities=both, endpoints=steady),
        "c": ModelProfile("c", mean_cost_usd=0.01, capabilities=both, endpoints=steady, roles=("planner",)),
    }

    def told(policy: Policy) -> list[tuple[str, tuple[tuple[str, object], ...]]]:
        return [(one.model, one.changes) for one in flips(policy, profiles=profiles)[1]]

    assert ("a", (("candidates", ("c", "b", "a")),)) in told(Policy(candidates=("c", "b")))
    assert ("a", (("exclude", ("c",)),)) in told(Policy(exclude=("a", "c")))
    assert ("a", (("require", ("tools",)),)) in told(Policy(require=("tools", "json")))
    assert ("a", (("role", None),)) in told(Policy(role="planner"))
    assert ("a", (("min_uptime", None),)) in told(Policy(min_uptime=0.95))
    assert ("a", (("max_cost_usd", 0.0312346),)) in told(Policy(max_cost_usd=0.025))  # rounded, but never below


def test_two_constraints_that_keep_the_same_model_away_are_not_told_one_by_one() -> None:
    _, found = flips(Policy(exclude=("a",), max_cost_usd=0.025))
    assert all(one.model != "a" for one in found)


def test_strategies_are_spelt_out_where_a_price_takes_their_place() -> None:
    local = profiles_of(locality="local")
    _, found = flips(Policy(strategy="private"), profiles=local)
    assert found[0].changes[:2] == (("strategy", None), ("local_only", True))
    flipped = found[0].applied_to(Policy(strategy="private"))
    assert flipped.stays_local and flipped.strategy is None
    _, found = flips(Policy(strategy="fast"), profiles=local, wait_ms=FAST_WAIT_MS)
    assert found[0].changes[:2] == (("strategy", None), ("willingness_to_wait_ms", FAST_WAIT_MS))
    remote = {**local, "a": replace(local["a"], locality="remote")}
    _, found = flips(Policy(strategy="private"), profiles=remote)
    assert Flip("a", (("strategy", None), ("local_only", False))) in found


def test_where_time_weighs_too_another_endpoint_may_become_the_best_on_the_way() -> None:
    # c's dear endpoint is fast, its cheap one slow: at a high price in quality it beats b by the cheap one alone.
    profiles = {
        "a": ModelProfile("a"),
        "b": ModelProfile("b", 1_000.0, (Endpoint("only", 0.0, 20.0, latency_p50_ms=1_000.0),)),
        "c": ModelProfile(
            "c",
            1_000.0,
            (Endpoint("fast", 0.0, 30.0, latency_p50_ms=1_000.0), Endpoint("cheap", 0.0, 1.0, latency_p50_ms=3_000.0)),
        ),
    }
    policy = Policy(exclude=("a",), willingness_to_wait_ms=10_000.0)
    model, found = flips(policy, profiles=profiles)
    assert model == "b"
    # b: 0.8 - 0.1 - 0.02 v; c: 0.5 - 0.3 - 0.001 v.
    assert prices(found)["c"] == pytest.approx(0.019 / 0.5, rel=2 * BEYOND)


def test_with_a_fallback_the_constraint_that_empties_the_list_is_told() -> None:
    model, found = flips(Policy(max_cost_usd=0.001, fallback="elsewhere"))
    assert model == "elsewhere" and found == (Flip("a", (("max_cost_usd", 0.03),)),)


def test_a_better_fixed_model_that_enters_is_held_against_the_others_with_its_own_error() -> None:
    asked: list[int] = []

    def estimate_for(column: int) -> LocalEstimate:
        asked.append(column)
        values = np.array(QUALITY)
        return LocalEstimate(values, values, values, np.full(3, 9.0), np.full(3, 0.6), np.zeros(0))

    model, found = flips(Policy(exclude=("c",)), fixed=2, around=Circumstances(True, 1.0), estimate_for=estimate_for)
    # a leads c by 0.4, which is less than its error against c.
    assert model == "a" and Flip("c", (("exclude", ()),)) in found and asked == [2]


def test_without_prices_no_price_flips() -> None:
    assert flips(Policy(), profiles=profiles_of((None, None, None))) == ("a", ())


@given(st.floats(1e-12, 1e12))
def test_amounts_are_rounded_up_to_six_digits(amount: float) -> None:
    rounded = _rounded_up(amount)
    assert amount <= rounded <= amount * (1 + 1.1e-5) and float(f"{rounded:.6g}") == rounded
