"""What a routing decision needs, in the words of one who built it, sentence by sentence, through Router.route.

The artifact knows three models, each the best of its own kind of task; profiles are laid over it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from router.artifact import RouterArtifact
from router.errors import PolicyError
from router.needs import Hints, needs_of
from router.router import Router
from router.types import Decision, Endpoint, ModelProfile, Needs, Policy

CODER, CHEF, GUIDE = "coder-medium", "chef-large", "guide-small"
CODE, FOOD, TRIP = (
    "Why does my parser lose the last array element?",
    "Which herbs go with salmon and rice?",
    "Is the castle near the lagoon open on a Sunday in winter?",
)
# What a held answer may cost on a shared machine.
LONG_MS = 10_000.0
PROFILES = {
    CODER: ModelProfile(
        CODER,
        mean_output_tokens=200.0,
        endpoints=(
            Endpoint("frankfurt", 1.0, 4.0, latency_p50_ms=400.0, tokens_per_s=100.0, uptime=0.999, region="eu"),
            Endpoint("oregon", 0.5, 2.0, latency_p50_ms=900.0, tokens_per_s=50.0, uptime=0.95, region="us"),
        ),
        gateway_model="vendor/coder-medium-2",
        capabilities=("json", "tools"),
        context_tokens=8_000,
        roles=("planner",),
        locality="remote",
    ),
    CHEF: ModelProfile(
        CHEF,
        mean_output_tokens=400.0,
        endpoints=(Endpoint("iowa", 5.0, 20.0, latency_p50_ms=1_500.0, tokens_per_s=40.0, uptime=0.98, region="us"),),
        capabilities=("json", "tools", "vision"),
        context_tokens=200_000,
        roles=("planner", "reviewer"),
        locality="remote",
    ),
    GUIDE: ModelProfile(
        GUIDE,
        mean_output_tokens=100.0,
        endpoints=(Endpoint("cellar", 0.0, 0.1, latency_p50_ms=50.0, tokens_per_s=30.0, uptime=0.9),),
        capabilities=("json",),
        context_tokens=4_000,
        locality="local",
        region="eu",
    ),
}


@pytest.fixture(scope="module")
def router(artifact: RouterArtifact) -> Iterator[Router]:
    router = Router(artifact)
    router.use_profiles(PROFILES)
    yield router
    router.close()


def route(router: Router, prompt: str, policy: Policy | None = None, **more: object) -> Decision:
    return router.route(prompt, policy, latency_budget_ms=LONG_MS, **more)  # type: ignore[arg-type]


def left_out(decision: Decision) -> dict[str, str]:
    return {one.model: one.code for one in decision.excluded}


# The MODEL's capabilities.


def test_a_model_without_a_required_capability_is_not_chosen(router: Router) -> None:
    assert route(router, CODE).model == CODER
    decision = route(router, CODE, Policy(require=("vision",)))
    assert decision.model == CHEF and left_out(decision) == {CODER: "lacks_capability", GUIDE: "lacks_capability"}


def test_what_the_request_holds_is_required_without_being_asked(router: Router) -> None:
    picture = [{"role": "user", "content": [{"type": "text", "text": CODE}, {"type": "image_url", "image_url": {}}]}]
    decision = router.route(picture, latency_budget_ms=LONG_MS)
    assert decision.model == CHEF and left_out(decision)[CODER] == "lacks_needed_capability"
    decision = route(router, TRIP, needs=needs_of(TRIP, tools=[{"type": "function"}]))
    assert decision.model != GUIDE and left_out(decision) == {GUIDE: "lacks_needed_capability"}
    hinted = needs_of(CODE, hints=Hints(context_tokens=50_000))
    assert left_out(route(router, CODE, needs=hinted)) == {CODER: "context_too_short", GUIDE: "context_too_short"}


def test_prompt_and_expected_answer_together_have_to_fit(router: Router) -> None:
    assert route(router, CODE, needs=Needs(7_800)).model == CODER
    assert route(router, CODE, needs=Needs(7_801)).model == CHEF


def test_no_model_with_the_capabilities_is_an_error_that_names_them(router: Router) -> None:
    with pytest.raises(PolicyError, match="require: no remaining model is known to have audio"):
        route(router, CODE, Policy(require=("audio",)))
    with pytest.raises(PolicyError, match="the request needs vision, which no remaining model has"):
        route(router, CODE, Policy(exclude=(CHEF,)), needs=Needs(10, ("vision",)))
    assert route(router, CODE, Policy(require=("audio",), fallback="a human")).model == "a human"


# The ENDPOINT's latency, reliability and price.


def test_the_answer_comes_from_the_endpoint_that_serves_the_policy_best(router: Router) -> None:
    cheapest = route(router, CODE)
    assert (cheapest.endpoint, cheapest.gateway_model) == ("oregon", "vendor/coder-medium-2")
    assert route(router, CODE, Policy(strategy="fast", candidates=(CODER,))).endpoint == "frankfurt"
    assert route(router, CODE, Policy(min_uptime=0.99)).endpoint == "frankfurt"
    assert route(router, CODE, Policy(region=("eu",))).endpoint == "frankfurt"


def test_latency_is_the_expected_time_of_the_whole_answer(router: Router) -> None:
    times = {one.model: one.latency_ms for one in route(router, CODE).estimates}
    assert times == {CODER: 4_900.0, CHEF: 11_500.0, GUIDE: pytest.approx(3_383.333)}
    decision = route(router, FOOD, Policy(max_latency_ms=5_000.0))
    assert decision.model != CHEF and left_out(decision) == {CHEF: "over_max_latency"}
    assert route(router, FOOD).model == CHEF and route(router, FOOD, Policy(strategy="fast")).model == CODER


def test_reliability_is_a_floor_that_an_unreliable_endpoint_does_not_meet(router: Router) -> None:
    decision = route(router, TRIP, Policy(min_uptime=0.96))
    assert decision.model != GUIDE and left_out(decision) == {GUIDE: "low_uptime"}


def test_price_is_a_ceiling_or_weighed_against_quality(router: Router) -> None:
    needs = Needs(1_000)
    costs = {one.model: one.cost_usd for one in route(router, FOOD, needs=needs).estimates}
    assert costs == {CODER: pytest.approx(9e-4), CHEF: pytest.approx(1.3e-2), GUIDE: pytest.approx(1e-5)}
    assert left_out(route(router, FOOD, Policy(max_cost_usd=1e-2), needs=needs)) == {CHEF: "over_max_cost"}
    assert route(router, FOOD, Policy(willingness_to_pay_usd=1.0), needs=needs).model == CHEF
    assert route(router, FOOD, Policy(willingness_to_pay_usd=1e-4), needs=needs).model == GUIDE
    with pytest.raises(PolicyError, match="max_cost_usd 1e-06 is below every remaining model's expected cost"):
        route(router, FOOD, Policy(max_cost_usd=1e-6), needs=needs)


def test_profiles_are_edited_without_training_again(artifact: RouterArtifact) -> None:
    router = Router(artifact)
    router.use_profiles(PROFILES)
    asked = Policy(willingness_to_pay_usd=0.001)
    assert route(router, CODE, asked, needs=Needs(1_000)).model == GUIDE
    free = replace(PROFILES[CODER], endpoints=(Endpoint("cellar", 0.0, 0.0),))
    router.use_profiles({**PROFILES, CODER: free})
    assert route(router, CODE, asked, needs=Needs(1_000)).model == CODER
    router.close()


# TELEMETRY of how each did on which tasks.


def test_how_each_model_did_on_tasks_like_this_one_decides_and_is_shown(router: Router) -> None:
    for prompt, model, intent in ((CODE, CODER, "code"), (FOOD, CHEF, "cooking"), (TRIP, GUIDE, "travel")):
        decision = route(router, prompt)
        assert (decision.model, decision.reason) == (model, "best")
        first = decision.estimates[0]
        assert first.model == model and first.low < first.quality < first.high and first.support >= 1
        near = decision.neighbors[0]
        assert near.intent == intent and model in near.winners


# The TASK's nature.


def test_the_nature_of_the_task_is_read_from_the_prompt(router: Router) -> None:
    labels = [decision.intent.label for prompt in (CODE, FOOD, TRIP) if (decision := route(router, prompt)).intent]
    assert labels == ["code", "cooking", "travel"]


def test_strategies_are_set_per_task(router: Router) -> None:
    by_intent = {
        "code": Policy(strategy="private", name="code stays here"),
        "cooking": Policy(candidates=(CODER,), name="cooking is cheap"),
    }
    code, food, trip = (
        route(router, prompt, Policy(name="the rest"), by_intent=by_intent) for prompt in (CODE, FOOD, TRIP)
    )
    assert (code.model, code.policy, left_out(code)[CODER]) == (GUIDE, "code stays here", "not_local")
    assert (food.model, food.policy) == (CODER, "cooking is cheap")
    assert (trip.model, trip.policy) == (GUIDE, "the rest")


# ROLES.


def test_a_role_is_played_by_models_that_are_meant_for_it(router: Router) -> None:
    assert route(router, CODE, Policy(role="planner")).model == CODER
    decision = route(router, CODE, Policy(role="reviewer"))
    assert decision.model == CHEF and left_out(decision) == {CODER: "lacks_role", GUIDE: "lacks_role"}
    with pytest.raises(PolicyError, match="role: no remaining model is meant for poet"):
        route(router, CODE, Policy(role="poet"))


# Then strategies: cheapest, private, fastest, best at code ...


@pytest.mark.parametrize(
    ("strategy", "model"),
    [("quality", CHEF), ("balanced", GUIDE), ("cheap", GUIDE), ("fast", CODER), ("private", GUIDE)],
)
def test_a_strategy_is_one_word(router: Router, strategy: str, model: str) -> None:
    decision = route(router, FOOD, Policy(strategy=strategy), needs=Needs(200))
    assert decision.model == model
    for one in decision.estimates:
        assert one.utility == pytest.approx(one.quality - one.cost_penalty - one.latency_penalty)
        assert (one.latency_penalty > 0) == (strategy == "fast")


def test_the_explanation_says_what_would_flip_it_and_it_does(router: Router) -> None:
    policy = Policy(require=("json",), region=("us",), max_latency_ms=8_000.0)
    decision = route(router, FOOD, policy)
    assert decision.model == CODER and left_out(decision) == {CHEF: "over_max_latency", GUIDE: "wrong_region"}
    told = {one.model: one for one in decision.flips}
    assert told[CHEF].changes == (("max_latency_ms", 11_500.0),)
    for flip in decision.flips:
        assert route(router, FOOD, flip.applied_to(policy)).model == flip.model
    assert decision.summary.endswith("; with no region it would be guide-small.")


# Sessions.


def test_a_session_stays_with_its_model_until_another_leads_by_the_margin(artifact: RouterArtifact) -> None:
    router = Router(artifact)
    router.use_profiles(PROFILES)
    stay, go = Policy(switch_margin=0.9), Policy(switch_margin=0.1)
    first = route(router, CODE, stay, session_id="s")
    kept = route(router, FOOD, stay, session_id="s")
    assert [(one.model, one.session) for one in (first, kept)] == [(CODER, "new"), (CODER, "kept")]
    assert kept.reason == "session" and kept.flips[0].changes == (("switch_margin", 0.0),)
    assert route(router, FOOD, stay, session_id="another").session == "new"
    assert route(router, FOOD, stay).session is None
    switched = route(router, FOOD, go, session_id="s")
    assert (switched.model, switched.session, switched.reason) == (CHEF, "switched", "best")
    again = route(router, FOOD, go, session_id="s")
    assert (again.model, again.session) == (CHEF, "kept")
    assert router.n_sessions == 2
    router.close()


def test_a_session_never_switches_while_a_tool_call_is_open(artifact: RouterArtifact) -> None:
    router = Router(artifact)
    router.use_profiles(PROFILES)
    asked = {"role": "user", "content": CODE}
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    result = {"role": "tool", "content": "done"}
    about_food = {"role": "user", "content": FOOD}
    go = Policy(switch_margin=0.0)

    def turn(*messages: dict[str, object]) -> Decision:
        return router.route(messages, go, session_id="s", latency_budget_ms=LONG_MS)

    assert turn(asked).model == CODER
    open_call = turn(about_food, call, result)
    assert (open_call.model, open_call.reason, open_call.session) == (CODER, "tool_call", "kept")
    assert turn(about_food, call, result, {"role": "assistant", "content": "Thyme."}, about_food).model == CHEF
    router.close()


def test_a_constraint_that_excludes_the_sessions_model_is_stronger_than_the_session(artifact: RouterArtifact) -> None:
    router = Router(artifact)
    router.use_profiles(PROFILES)
    assert route(router, CODE, session_id="s").model == CODER
    decision = route(
        router, CODE, Policy(exclude=(CODER,), switch_margin=1.0), session_id="s", needs=Needs(9, (), True)
    )
    assert decision.model != CODER and decision.session == "switched" and left_out(decision) == {CODER: "excluded"}
    router.close()


def test_answers_by_the_priors_neither_begin_nor_move_a_session(artifact: RouterArtifact) -> None:
    router = Router(artifact)
    go = Policy(switch_margin=0.0)
    begun = router.route(FOOD, go, session_id="s", latency_budget_ms=1e-6)
    assert (begun.tier, begun.session, router.n_sessions) == ("prior", None, 0)
    assert route(router, CODE, go, session_id="s").session == "new"
    hurried = router.route(FOOD, go, session_id="s", latency_budget_ms=1e-6)
    assert (hurried.tier, hurried.model, hurried.session) == ("prior", CODER, "kept")
    elsewhere = router.route(FOOD, Policy(exclude=(CODER,)), session_id="s", latency_budget_ms=1e-6)
    assert (elsewhere.tier, elsewhere.session) == ("prior", None) and elsewhere.model != CODER
    assert route(router, CODE, go, session_id="s").model == CODER
    router.close()


def test_neither_a_draw_nor_a_fallback_is_what_a_session_is_with(artifact: RouterArtifact) -> None:
    router = Router(artifact)
    drawn = {route(router, CODE, Policy(explore_share=1.0), session_id=f"d{n}") for n in range(40)}
    assert {one.session for one in drawn if one.reason == "explore"} == {None}
    assert route(router, CODE, session_id="s").session == "new"
    nobody = route(router, CODE, Policy(candidates=(), fallback="elsewhere"), session_id="s")
    assert (nobody.model, nobody.session, nobody.gateway_model) == ("elsewhere", None, None)
    assert route(router, CODE, session_id="s").session == "kept"
    router.close()


def test_a_fallback_that_is_known_has_its_gateway_name(artifact: RouterArtifact) -> None:
    router = Router(artifact)
    router.use_profiles({CODER: ModelProfile(CODER, gateway_model="acme/coder-2")})
    assert route(router, CODE, Policy(candidates=(), fallback=CODER)).gateway_model == "acme/coder-2"
    router.close()


def test_sessions_are_bounded_and_end(artifact: RouterArtifact) -> None:
    router = Router(artifact, max_sessions=3)
    for number in range(9):
        route(router, CODE, session_id=f"s{number}")
    assert router.n_sessions == 3
    assert [route(router, CODE, session_id=one).session for one in ("s8", "s0")] == ["kept", "new"]
    router.close()
    forgetful = Router(artifact, session_ttl_ms=0.0)
    assert [route(forgetful, CODE, session_id="s").session for _ in range(2)] == ["new", "new"]
    forgetful.close()
    none = Router(artifact, max_sessions=0)
    assert [route(none, CODE, session_id="s").session for _ in range(2)] == ["new", "new"]
    none.close()


# Exploration.


def test_exploration_takes_any_allowed_model_as_often_as_it_says(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    rolls = iter(range(10**9))
    monkeypatch.setattr("router.rung.new_decision_id", lambda: f"{next(rolls) * 16**13 // 1_200:013x}" + 19 * "0")
    policy = Policy(explore_share=0.3, min_uptime=0.91)
    found = [route(router, CODE, policy, explain=False) for _ in range(1_200)]
    drawn, likely = Counter(one.model for one in found), {one.model: one.propensity for one in found}
    assert likely == {CODER: pytest.approx(0.85), CHEF: pytest.approx(0.15)} and sum(likely.values()) == pytest.approx(
        1
    )
    assert drawn == {CODER: 1_020, CHEF: 180}
    assert {(one.model, one.reason) for one in found} == {(CODER, "best"), (CHEF, "explore")}
    assert {one.fallbacks for one in found} == {(CHEF,), (CODER,)}


def test_rolls_come_from_the_decisions_own_id_and_are_spread_evenly(router: Router) -> None:
    found = [route(router, CODE, Policy(explore_share=0.5), explain=False, cache=True) for _ in range(600)]
    assert not any(one.cached for one in found) and len({one.decision_id for one in found}) == 600
    for one in found:
        roll = int(one.decision_id[:13], 16) / 16**13
        assert (one.reason == "explore") == (roll < 0.5 and one.model != CODER)
        assert one.propensity == pytest.approx(0.5 / 3 if one.model != CODER else 0.5 + 0.5 / 3)
    # Six standard deviations around a third.
    assert 130 < sum(one.reason == "explore" for one in found) < 270


def test_without_exploration_a_choice_is_certain(router: Router) -> None:
    assert route(router, CODE).propensity == 1.0
    assert route(router, CODE, Policy(explore_share=1.0, candidates=(CODER,))).propensity == 1.0
    assert route(router, CODE, Policy(explore_share=1.0)).propensity == pytest.approx(1 / 3)
