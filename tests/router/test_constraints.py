"""router/constraints.py: who is ruled out, by which code, and what is said of it."""

from dataclasses import replace

import numpy as np
import pytest

from router.catalogue import Catalogue
from router.constraints import exclusions, offers_of
from router.errors import PolicyError
from router.policy import TradeOff, field_of
from router.types import Endpoint, ModelProfile, Needs, Policy

EU = Endpoint("frankfurt", 1.0, 2.0, latency_p50_ms=300.0, tokens_per_s=100.0, uptime=0.999, region="eu")
US = Endpoint("oregon", 0.5, 1.0, latency_p50_ms=200.0, tokens_per_s=100.0, uptime=0.95, region="us")
PROFILES = {
    "known": ModelProfile(
        "known",
        100.0,
        (EU, US),
        capabilities=("json", "tools"),
        context_tokens=1_000,
        roles=("reviewer",),
        locality="remote",
    ),
    "at home": ModelProfile("at home", 100.0, (Endpoint("cellar", 0.0, 0.0),), capabilities=(), locality="local"),
    "blank": ModelProfile("blank"),
}
MODELS = tuple(PROFILES)
SHORT = Needs(100)


def said(policy: Policy, needs: Needs = SHORT, size: float = 1.0) -> dict[str, tuple[str, str]]:
    offers = offers_of(Catalogue(MODELS, PROFILES), policy, needs, size)
    return {one.model: (one.code, one.detail) for one in exclusions(offers)}


def codes(policy: Policy, needs: Needs = SHORT) -> dict[str, str]:
    return {model: code for model, (code, _) in said(policy, needs).items()}


def test_nothing_asked_rules_nobody_out() -> None:
    assert said(Policy()) == {}


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (
            Policy(candidates=("known", "zzz")),
            {"at home": "not_a_candidate", "blank": "not_a_candidate", "zzz": "unknown_model"},
        ),
        (Policy(exclude=("known", "zzz")), {"known": "excluded", "zzz": "unknown_model"}),
        (Policy(require=("tools",)), {"at home": "lacks_capability", "blank": "capabilities_unknown"}),
        (Policy(role="reviewer"), {"at home": "lacks_role", "blank": "lacks_role"}),
        (Policy(local_only=True), {"known": "not_local", "blank": "locality_unknown"}),
        (Policy(strategy="private"), {"known": "not_local", "blank": "locality_unknown"}),
        (Policy(region=("eu",)), {"at home": "region_unknown", "blank": "region_unknown"}),
        (Policy(region=("asia",)), {"known": "wrong_region", "at home": "region_unknown", "blank": "region_unknown"}),
        (Policy(min_uptime=0.9999), {"known": "low_uptime", "at home": "uptime_unknown", "blank": "uptime_unknown"}),
        (Policy(max_cost_usd=0.0), {"known": "over_max_cost", "blank": "cost_unknown"}),
        (
            Policy(max_latency_ms=1.0),
            {"known": "over_max_latency", "at home": "latency_unknown", "blank": "latency_unknown"},
        ),
    ],
)
def test_every_constraint_has_its_code_and_another_where_nothing_is_known(
    policy: Policy, wanted: dict[str, str]
) -> None:
    assert codes(policy) == wanted


def test_what_a_request_implies_rules_out_only_those_that_are_known_to_lack_it() -> None:
    assert codes(Policy(), Needs(100, ("tools",))) == {"at home": "lacks_needed_capability"}
    assert codes(Policy(), Needs(900)) == {}  # with an answer of 100 tokens it fits in 1,000 exactly
    assert codes(Policy(), Needs(901)) == {"known": "context_too_short"}
    assert set(said(Policy(), Needs(801), size=2.0)) == {"known"}  # a longer answer needs room, too


@pytest.mark.parametrize(
    ("policy", "needs", "model", "detail"),
    [
        (Policy(require=("vision", "audio", "json")), SHORT, "known", "has no audio and no vision"),
        (Policy(), Needs(1, ("tools",)), "at home", "has no tools, which the request needs"),
        (Policy(role="planner"), SHORT, "known", "is not meant for the role planner"),
        (Policy(local_only=True), SHORT, "known", "is not local at endpoint frankfurt"),
        (Policy(local_only=True), SHORT, "blank", "local_only is set, and this is not known"),
        (Policy(region=("asia",)), SHORT, "known", "is in region eu at endpoint frankfurt"),
        (Policy(min_uptime=0.9999), SHORT, "known", "uptime 0.999 at endpoint frankfurt, wanted 0.9999"),
        (Policy(), Needs(901), "known", "901 tokens and an answer of about 100 do not fit in 1000"),
        (Policy(max_cost_usd=1e-4), SHORT, "known", "expected 0.0003 USD at endpoint frankfurt, allowed 0.0001 USD"),
        (Policy(max_latency_ms=9.0), SHORT, "known", "expected 1300 ms at endpoint frankfurt, allowed 9 ms"),
        (Policy(max_latency_ms=9.0), SHORT, "at home", "max_latency_ms is set, and this is not known"),
    ],
)
def test_details_say_what_is_and_what_was_wanted(policy: Policy, needs: Needs, model: str, detail: str) -> None:
    assert said(policy, needs)[model][1] == detail


def test_of_several_endpoints_the_one_that_comes_nearest_is_spoken_of() -> None:
    # Frankfurt lacks one thing, Oregon two.
    assert said(Policy(region=("asia", "eu"), max_cost_usd=1e-5))["known"] == (
        "over_max_cost",
        "expected 0.0003 USD at endpoint frankfurt, allowed 1e-05 USD",
    )
    assert "known" not in said(Policy(region=("us",)))
    # Each endpoint meets one of the two, which is not enough; both lack one thing, and the first is spoken of.
    assert said(Policy(region=("us",), min_uptime=0.99))["known"][0] == "wrong_region"


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (Policy(candidates=("zzz",)), "candidates names no model"),
        (Policy(candidates=()), "candidates names no model"),
        (Policy(exclude=MODELS), "exclude removes every remaining model"),
        (Policy(candidates=("blank",), exclude=("blank",)), "exclude removes every remaining model"),
        (Policy(require=("vision", "json")), "require: no remaining model is known to have vision and json"),
        (Policy(role="planner"), "role: no remaining model is meant for planner"),
        (Policy(exclude=("at home",), local_only=True), "local_only: no remaining model is known to have a local"),
        (Policy(region=("asia", "africa")), "no remaining model is known to have an endpoint in asia or africa"),
        (Policy(min_uptime=1.0), "min_uptime 1.0 is above"),
        (Policy(exclude=("at home",), max_cost_usd=1e-5), "max_cost_usd 1e-05 is below"),
        (Policy(candidates=("blank",), max_cost_usd=9.0), "or they have no price"),
        (Policy(max_latency_ms=9.0), "max_latency_ms 9.0 is below"),
        # The last one that takes models away is named, not the last one asked for.
        (Policy(role="reviewer", region=("us",), min_uptime=0.99, max_cost_usd=9.0), "min_uptime 0.99 is above"),
    ],
)
def test_the_constraint_that_leaves_nothing_is_named(policy: Policy, wanted: str) -> None:
    offers = offers_of(Catalogue(MODELS, PROFILES), policy, SHORT)
    with pytest.raises(PolicyError, match="no model is left: ") as caught:
        field_of(offers, TradeOff(), np.zeros(3))
    assert wanted in str(caught.value)
    offers = offers_of(Catalogue(MODELS, PROFILES), replace(policy, fallback="elsewhere"), SHORT)
    assert field_of(offers, TradeOff(), np.zeros(3)).fixed == -1


def test_what_the_request_needs_is_named_where_it_leaves_nothing() -> None:
    catalogue = Catalogue(["at home"], PROFILES)
    with pytest.raises(PolicyError, match="the request needs tools and vision, which no remaining model has"):
        field_of(offers_of(catalogue, Policy(), Needs(1, ("tools", "vision"))), TradeOff(), np.zeros(1))
    with pytest.raises(PolicyError, match="prompt and answer are too long for every remaining model"):
        field_of(offers_of(Catalogue(["known"], PROFILES), Policy(), Needs(5_000)), TradeOff(), np.zeros(1))


def test_what_is_remembered_of_one_request_does_not_reach_another() -> None:
    catalogue, policy = Catalogue(MODELS, PROFILES), Policy(max_cost_usd=1e-4)
    before = exclusions(offers_of(catalogue, policy, Needs(0)))
    exclusions(offers_of(catalogue, policy, Needs(5_000)))
    assert exclusions(offers_of(catalogue, policy, Needs(0))) == before
    found = exclusions(offers_of(catalogue, policy, Needs(5_000)))
    assert [one.code for one in found] == ["context_too_short", "cost_unknown"]
    cheaper = {**PROFILES, "known": replace(PROFILES["known"], endpoints=(replace(US, usd_per_mtok_out=0.0),))}
    assert [one.model for one in exclusions(offers_of(Catalogue(MODELS, cheaper), policy, Needs(0)))] == ["blank"]
