"""Named policies: whom they are bound to, and that a request can tighten what is bound to it and never loosen it."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.catalogue import Catalogue
from router.constraints import offers_of
from router.errors import ConfigError, PolicyError
from router.policies import CONDITIONS, MAX_LISTED, Binding, PolicyBook, is_constrained, tightened
from router.types import STRATEGIES, UNKNOWN_INTENT, Endpoint, ModelProfile, Needs, Policy

MODELS = ("a", "b", "c", "d")
ROLES = ("planner", "reviewer")
REGIONS = ("eu", "us", "ch")
CAPABILITIES = ("vision", "tools", "json")

names = st.lists(st.sampled_from(MODELS), max_size=3, unique=True).map(tuple)
shares = st.sampled_from([0.0, 0.05, 0.2, 0.99, 1.0])
amounts = st.none() | st.sampled_from([0.0, 0.001, 0.01, 100.0, 1000.0])


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Any policy of a few models."""
    strategy = draw(st.none() | st.sampled_from(STRATEGIES))
    return Policy(
        candidates=draw(st.none() | names),
        exclude=draw(names),
        require=draw(st.lists(st.sampled_from(CAPABILITIES), max_size=2, unique=True).map(tuple)),
        role=draw(st.none() | st.sampled_from(ROLES)),
        local_only=draw(st.booleans()),
        region=draw(st.none() | st.lists(st.sampled_from(REGIONS), min_size=1, unique=True).map(tuple)),
        max_cost_usd=draw(amounts),
        max_latency_ms=draw(amounts),
        min_uptime=draw(st.none() | shares),
        strategy=strategy,
        willingness_to_pay_usd=None if strategy else draw(amounts),
        willingness_to_wait_ms=None if strategy else draw(amounts),
        min_gain=draw(shares),
        switch_margin=draw(shares),
        explore_share=draw(shares),
        route_anyway=draw(st.booleans()),
        fallback=draw(st.none() | st.sampled_from(MODELS)),
    )


endpoints = st.builds(
    Endpoint,
    name=st.just("e"),
    usd_per_mtok_in=amounts,
    usd_per_mtok_out=amounts,
    latency_p50_ms=amounts,
    uptime=st.none() | shares,
    locality=st.sampled_from([None, "local", "remote"]),
    region=st.none() | st.sampled_from(REGIONS),
)


@st.composite
def catalogues(draw: st.DrawFn) -> Catalogue:
    """A few models of which much or little is known; one role is called as two at once would be."""
    subsets = st.none() | st.lists(st.sampled_from(CAPABILITIES), unique=True).map(tuple)
    roles = st.lists(st.sampled_from([*ROLES, "planner and reviewer"]), unique=True).map(tuple)
    profiles = {
        name: ModelProfile(
            name, endpoints=tuple(draw(st.lists(endpoints, max_size=3))), capabilities=draw(subsets), roles=draw(roles)
        )
        for name in MODELS
    }
    return Catalogue(MODELS, profiles)


def allowed(catalogue: Catalogue, policy: Policy) -> np.ndarray:
    return offers_of(catalogue, policy, Needs(100)).n_violations == 0


@settings(max_examples=200, deadline=None)
@given(catalogue=catalogues(), bound=policies(), asked=policies())
def test_merged_allows_what_both_allow_and_nothing_else(catalogue: Catalogue, bound: Policy, asked: Policy) -> None:
    merged = tightened(bound, asked)
    both = allowed(catalogue, bound) & allowed(catalogue, asked)
    if bound.role and asked.role and bound.role != asked.role:
        both = np.zeros_like(both)  # a policy has one role, and a model may have two: these are refused, not guessed
    assert (allowed(catalogue, merged) == both).all()


@given(bound=policies(), asked=policies())
def test_a_request_prefers_what_it_likes_and_the_fallback_is_of_what_is_bound(bound: Policy, asked: Policy) -> None:
    merged = tightened(bound, asked)
    trade_off = [
        (one.strategy, one.willingness_to_pay_usd, one.willingness_to_wait_ms) for one in (bound, asked, merged)
    ]
    assert trade_off[2] == (trade_off[1] if any(one is not None for one in trade_off[1]) else trade_off[0])
    assert merged.stays_local == (bound.stays_local or asked.stays_local)
    for name in ("min_gain", "switch_margin", "explore_share", "route_anyway"):
        own = getattr(asked, name)
        assert getattr(merged, name) == (own if own != getattr(Policy(), name) else getattr(bound, name))
        assert getattr(tightened(bound, asked, {name}), name) == own
        assert getattr(tightened(bound, asked, set()), name) == getattr(bound, name)
    if is_constrained(bound):
        assert merged.fallback == bound.fallback
    else:
        assert merged.fallback == (asked.fallback or bound.fallback)


@given(bound=policies(), asked=policies(), third=policies())
def test_merging_again_changes_no_constraint(bound: Policy, asked: Policy, third: Policy) -> None:
    catalogue = Catalogue(
        MODELS, {name: ModelProfile(name, roles=ROLES, endpoints=(Endpoint("e", 1, 1),)) for name in MODELS}
    )
    merged = tightened(bound, asked)
    assert (allowed(catalogue, tightened(merged, asked)) == allowed(catalogue, merged)).all()
    assert not (allowed(catalogue, tightened(merged, third)) & ~allowed(catalogue, bound)).any()


def test_every_field_of_a_policy_is_merged() -> None:
    """A field that is new to Policy must be thought of here: merged from either side, it is not lost."""
    stated: dict[str, Any] = {
        "candidates": ("a",),
        "exclude": ("b",),
        "require": ("tools",),
        "role": "planner",
        "local_only": True,
        "region": ("eu",),
        "max_cost_usd": 1.0,
        "max_latency_ms": 1.0,
        "min_uptime": 0.5,
        "strategy": "fast",
        "willingness_to_pay_usd": 2.0,
        "willingness_to_wait_ms": 2.0,
        "min_gain": 0.1,
        "switch_margin": 0.1,
        "explore_share": 0.1,
        "route_anyway": True,
        "fallback": "d",
    }
    assert set(stated) == {one.name for one in fields(Policy)} - {"name"}
    for name, value in stated.items():
        one = replace(Policy(), **{name: value})
        assert getattr(tightened(one, Policy()), name) == value
        assert getattr(tightened(Policy(), one), name) == value


LEGAL = Policy(region=("eu", "ch"), max_cost_usd=0.01, exclude=("d",), fallback="a")
CODE = Policy(require=("tools",))
BOOK = PolicyBook(
    {"legal": LEGAL, "house": Policy(strategy="cheap", min_gain=0.02), "code": CODE, "review": Policy(role="reviewer")},
    (
        Binding("code", key="firm", task="code"),
        Binding("legal", key="firm"),
        Binding("review", application="ide", role="reviewer"),
        Binding("code", application="ide", task="code"),
        Binding("legal", task="contracts"),
        Binding("code", task="contracts"),
    ),
    default="house",
)


@pytest.mark.parametrize(
    ("about", "name", "by_intent"),
    [
        ({}, "house", {"contracts": "legal"}),
        ({"key": "firm"}, "legal", {"code": "code"}),
        ({"key": "firm", "task": "code"}, "code", {}),
        ({"key": "firm", "task": "cooking"}, "legal", {}),
        ({"key": "other", "task": "cooking"}, "house", {}),
        ({"key": "other", "task": "contracts"}, "legal", {}),
        ({"application": "ide"}, "house", {"code": "code", "contracts": "legal"}),
        ({"application": "ide", "role": "reviewer"}, "review", {}),
        ({"role": "reviewer"}, "house", {"contracts": "legal"}),
        ({"application": "IDE", "role": "reviewer"}, "house", {"contracts": "legal"}),
        ({"application": "firm", "role": "firm", "task": "firm"}, "house", {}),
    ],
)
def test_the_first_binding_that_holds_is_applied(about: dict[str, str], name: str, by_intent: dict[str, str]) -> None:
    policy, found = BOOK.resolve(**about)
    named = {intent: one.name for intent, one in found.items() if intent != UNKNOWN_INTENT}
    assert (policy.name, named) == (name, by_intent)
    assert policy == replace(BOOK.policies[name], name=name)


def test_what_a_key_is_bound_to_holds_whatever_its_requests_say_of_themselves() -> None:
    """Also where bindings without a key stand above it, and where the intent is read."""
    book = PolicyBook(
        {"legal": Policy(region=("eu", "us")), "private": Policy(strategy="private"), "open": Policy(exclude=("x",))},
        (Binding("legal", task="contracts"), Binding("open", application="ide"), Binding("private", key="clinic")),
    )
    for about in ({}, {"task": "contracts"}, {"application": "ide"}, {"role": "any"}):
        policy, by_intent = book.resolve(key="clinic", **about)
        assert all(one.stays_local for one in (policy, *by_intent.values()))
    policy, _ = book.resolve(key="clinic", task="contracts")
    assert (policy.name, policy.region) == ("private+legal", ("eu", "us"))
    assert not book.resolve(task="contracts")[0].stays_local


def test_where_no_intent_can_be_read_nothing_leaves_the_house_that_a_task_keeps_in() -> None:
    book = PolicyBook(
        {"records": Policy(local_only=True), "eu": Policy(region=("eu", "ch")), "cheap": Policy(max_cost_usd=0.01)},
        (Binding("records", task="records"), Binding("eu", task="contracts"), Binding("cheap", task="chat")),
    )
    policy, by_intent = book.resolve()
    unread = by_intent[UNKNOWN_INTENT]
    assert (unread.stays_local, unread.region, unread.max_cost_usd) == (True, ("eu", "ch"), None)
    assert policy == Policy()
    assert (
        UNKNOWN_INTENT not in PolicyBook({"cheap": Policy(max_cost_usd=1)}, (Binding("cheap", task="a"),)).resolve()[1]
    )


def test_without_any_book_a_request_gets_what_it_asks_for() -> None:
    assert PolicyBook().resolve() == (Policy(), {})
    asked = Policy(exclude=("a",))
    assert PolicyBook().resolve(asked, key="firm", task="code") == (asked, {})
    assert PolicyBook({"legal": LEGAL}).resolve("legal") == (replace(LEGAL, name="legal"), {})


def test_the_name_says_what_was_applied() -> None:
    asked = Policy(exclude=("b",))
    assert BOOK.resolve(asked)[0].name == "house+request"
    assert BOOK.resolve(asked)[1]["contracts"].name == "legal+request"
    assert BOOK.resolve("code")[0].name == "house+code"
    assert BOOK.resolve("house")[0].name == "house"
    assert BOOK.resolve(Policy())[0].name == "house"
    only_bound = PolicyBook({"legal": LEGAL}, (Binding("legal", task="contracts"),))
    policy, by_intent = only_bound.resolve(asked)
    assert (policy, by_intent["contracts"].name) == (asked, "legal+request")


def test_preferences_that_are_stated_at_their_defaults_win_too() -> None:
    assert BOOK.resolve(Policy(), given=frozenset({"min_gain"}))[0].min_gain == 0.0
    assert BOOK.resolve(Policy(), given=frozenset())[0].min_gain == 0.02
    assert BOOK.resolve(Policy(exclude=("a",)))[0].min_gain == 0.02


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Policy(fallback="d"), "fallback: policy legal is bound to this request and has constraints"),
        (Policy(fallback="CANARY", exclude=("b",)), "so the fallback is its own"),
        ("none", "policy: none of this name is configured; known: legal, house, code, review"),
        ("", "policy: none of this name"),
        ("Legal", "policy: none of this name"),
    ],
)
def test_what_a_request_may_not_ask_is_said(asked: Policy | str, message: str) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        BOOK.resolve(asked, key="firm")
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Policy(candidates=("CANARY",)), "candidates"),
        (Policy(region=("CANARY",)), "region"),
        (Policy(role="CANARY"), "role"),
    ],
)
def test_an_impossible_constraint_is_named_unless_there_is_a_fallback(asked: Policy, field: str) -> None:
    strict = Policy(candidates=("a", "b"), region=("eu",), role="planner")
    bindings = (Binding("strict", key="firm"),)
    with pytest.raises(PolicyError, match=f"no model is left: {field}: ") as caught:
        PolicyBook({"strict": strict}, bindings).resolve(asked, key="firm")
    assert "strict" in str(caught.value) and "CANARY" not in str(caught.value)
    policy, _ = PolicyBook({"strict": replace(strict, fallback="c")}, bindings).resolve(asked, key="firm")
    known = Catalogue(MODELS, {"a": ModelProfile("a", roles=("planner", "CANARY"), region="eu")})
    assert policy.fallback == "c" and not allowed(known, policy).any()


def test_what_is_bound_to_an_intent_refuses_nobody_before_it_is_read() -> None:
    book = PolicyBook({"legal": Policy(role="planner")}, (Binding("legal", key="firm", task="contracts"),))
    asked = Policy(role="reviewer", fallback="b")
    policy, by_intent = book.resolve(asked, key="firm")
    assert policy == asked
    assert by_intent["contracts"].fallback is None  # what is bound has constraints: a fallback would break them
    with pytest.raises(PolicyError, match="fallback"):
        book.resolve(asked, key="firm", task="contracts")


def test_many_names_are_not_listed() -> None:
    book = PolicyBook({f"p{n}": Policy() for n in range(MAX_LISTED + 1)})
    with pytest.raises(PolicyError) as caught:
        book.resolve("none")
    assert str(caught.value) == "policy: none of this name is configured"


def test_long_lists_are_merged_as_short_ones() -> None:
    asked = Policy(exclude=tuple(f"m{n}" for n in range(1_000)))
    first, again = (BOOK.resolve(asked, key="firm")[0] for _ in range(2))
    assert first == again == replace(tightened(replace(LEGAL, name="legal"), asked))


def test_repeated_requests_are_resolved_once() -> None:
    asked = Policy(exclude=("b",))
    first = BOOK.resolve(asked, key="firm", application="x1")
    assert BOOK.resolve(replace(asked), key="firm", application="x2")[0] is first[0]


def test_bindings_and_defaults_need_a_policy_and_a_condition() -> None:
    with pytest.raises(ConfigError, match=r"'legl'.*expected one of legal"):
        PolicyBook({"legal": LEGAL}, (Binding("legl", key="a"),))
    with pytest.raises(ConfigError, match="'none'"):
        PolicyBook({"legal": LEGAL}, default="none")
    with pytest.raises(ValueError, match=", ".join(CONDITIONS)):
        Binding("legal")
