"""router/router.py's ladder: which tier answers, when, and that nothing else changes what it says."""

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from router.artifact import RouterArtifact
from router.encoder import Encoding, OnnxEncoder
from router.errors import ConfigError, PolicyError
from router.router import Router
from router.types import Decision, Policy

PROMPT = "Why does my parser lose the last array element?"
LONG_MS = 10_000.0
# What a shared machine may add to anything.
SLACK_MS = 500.0


class Encoder:
    """The full encoder, with another way to encode."""

    def __init__(self, encoder: OnnxEncoder, encode_ids: Callable[[list[int]], Encoding]) -> None:
        self._encoder = encoder
        self._warm = False
        self.encode_ids = encode_ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


def with_full(both: RouterArtifact, encode_ids: Callable[[list[int]], Encoding]) -> Router:
    """A router whose full encoder encodes so, after it has warmed up with the real one."""
    full, static = both.tiers
    encoder = Encoder(full.encoder, full.encoder.encode_ids)
    router = Router(replace(both, tiers=(replace(full, encoder=encoder), static)))
    router._worker._encode = encode_ids
    return router


@pytest.fixture(scope="module")
def router(both_tiers: RouterArtifact) -> Iterator[Router]:
    router = Router(both_tiers)
    yield router
    router.close()


def said(decision: Decision) -> dict[str, Any]:
    """What a decision says, without what differs from call to call."""
    moment = ("elapsed_ms", "budget_met", "latency_budget_ms", "decision_id", "cached", "degraded")
    return {name: value for name, value in decision.to_json(explain=True).items() if name not in moment}


def test_with_time_the_full_tier_answers(router: Router) -> None:
    decision = router.route(PROMPT, latency_budget_ms=LONG_MS, cache=False)
    assert (decision.tier, decision.degraded, decision.cached, decision.budget_met) == ("full", False, False, True)
    assert said(decision) == said(router.answer_of("full", PROMPT))


def test_what_does_not_fit_is_never_begun(both_tiers: RouterArtifact) -> None:
    asked: list[list[int]] = []
    router = with_full(both_tiers, asked.append)  # type: ignore[arg-type]
    for n_tokens in (1, 2, 4, 8, 16, 32, 64, 128):
        router._encoding_takes.warm(n_tokens, [2 * LONG_MS])
    decision = router.route(PROMPT, latency_budget_ms=LONG_MS)
    assert (decision.tier, decision.degraded, decision.budget_met) == ("static", True, True) and not asked
    assert said(decision) == said(router.answer_of("static", PROMPT))


def test_without_time_for_any_encoder_the_priors_answer(router: Router) -> None:
    decision = router.route(PROMPT, latency_budget_ms=1e-6)
    assert (decision.tier, decision.degraded, decision.reason) == ("prior", True, "deadline")
    assert decision.neighbors == () and decision.intent is None and not decision.budget_met
    assert "left no time" in decision.summary
    assert said(decision) == said(router.answer_of("prior", PROMPT))


def test_an_encoder_that_overruns_is_given_up_at_the_deadline(both_tiers: RouterArtifact) -> None:
    def slow(ids: list[int]) -> Encoding:
        time.sleep(5.0)
        raise RuntimeError("nobody waits for this")

    router = with_full(both_tiers, slow)
    began = time.perf_counter()
    decision = router.route(PROMPT, latency_budget_ms=1_000.0)
    assert (decision.tier, decision.degraded) == ("static", True)
    assert (time.perf_counter() - began) * 1e3 < 1_000.0 + SLACK_MS
    assert said(decision) == said(router.answer_of("static", PROMPT))


def test_what_the_encoder_takes_is_learnt_from_every_run(both_tiers: RouterArtifact) -> None:
    encoder = both_tiers.tiers[0].encoder
    router, learnt = Router(both_tiers), []
    router._encoding_takes.observe = lambda size, took_ms, _: learnt.append((size, took_ms))  # type: ignore[method-assign]
    assert router.route(PROMPT, latency_budget_ms=LONG_MS, cache=False).tier == "full"
    ((size, took_ms),) = learnt
    assert size == len(encoder.token_ids(both_tiers.template.strip(PROMPT))) and took_ms > 0
    router.close()


def test_in_doubt_the_static_answer_is_in_hand_before(both_tiers: RouterArtifact) -> None:
    router = with_full(both_tiers, lambda ids: time.sleep(0.3))  # type: ignore[arg-type,return-value]
    for n_tokens in (1, 2, 4, 8, 16, 32, 64, 128):
        router._encoding_takes.warm(n_tokens, [150.0])
    pending = router.begin(PROMPT, None, deadline(200.0), explain=False, cache=False)
    assert not isinstance(pending, Decision) and pending.ticket is not None and pending.in_doubt
    sure = router.begin(PROMPT, None, deadline(LONG_MS), explain=False, cache=False)
    assert not isinstance(sure, Decision) and sure.ticket is not None and not sure.in_doubt
    (in_hand,) = router.static_all([pending])
    assert isinstance(in_hand, Decision) and in_hand.tier == "static"
    pending.in_hand = in_hand
    (decision,) = router.settle_all([pending])
    assert decision == replace(in_hand, elapsed_ms=decision.elapsed_ms, budget_met=decision.budget_met)
    assert pending.ticket.cancelled
    sure.ticket.cancelled = True
    router.close()


def test_decided_together_each_says_what_it_says_alone(router: Router) -> None:
    prompts = [
        PROMPT,
        "Which herbs go with salmon and rice?",
        "请把这句话翻译成英文：今天天气很好。",
        PROMPT + "\n" * 50,
    ]
    policies = [
        None,
        Policy(exclude=("coder-medium",)),
        Policy(max_cost_usd=0.0),
        Policy(max_cost_usd=0.0, fallback="x"),
    ]
    pairs = [(prompt, policy) for prompt in prompts for policy in policies]
    pending = [router.begin(*pair, deadline(LONG_MS), explain=True, cache=False) for pair in pairs]
    for one in pending:
        assert not isinstance(one, Decision) and one.ticket is not None
        assert one.ticket.done.wait(LONG_MS / 1e3)
    for tier, outcomes in (("full", router.settle_all(pending)), ("static", router.static_all(pending))):
        for (prompt, policy), outcome in zip(pairs, outcomes, strict=True):
            if isinstance(outcome, Decision):
                assert said(outcome) == said(router.answer_of(tier, prompt, policy))
            else:
                with pytest.raises(PolicyError, match=re.escape(str(outcome))):
                    router.answer_of(tier, prompt, policy)


def test_an_encoder_that_fails_leaves_the_answer_to_the_static_one(both_tiers: RouterArtifact) -> None:
    def failing(ids: list[int]) -> Encoding:
        raise RuntimeError("no")

    router = with_full(both_tiers, failing)
    decision = router.route(PROMPT, latency_budget_ms=LONG_MS)
    assert (decision.tier, decision.degraded, decision.budget_met) == ("static", True, True)
    assert router.n_cached == 0
    router.close()


def test_closed_it_still_answers(both_tiers: RouterArtifact) -> None:
    router = Router(both_tiers)
    router.close()
    assert router.route(PROMPT, latency_budget_ms=LONG_MS).tier == "static"


def test_one_tier_is_no_lesser_one(artifact: RouterArtifact, both_tiers: RouterArtifact) -> None:
    static = Router(artifact).route(PROMPT, latency_budget_ms=LONG_MS)
    assert (static.tier, static.degraded) == ("static", False)
    full_alone = Router(both_tiers.only("full"))
    assert full_alone.route(PROMPT, latency_budget_ms=LONG_MS).tier == "full"
    assert full_alone.route(PROMPT, latency_budget_ms=1e-6, cache=False).tier == "prior"
    with pytest.raises(ConfigError, match="no static tier; it has full"):
        full_alone.answer_of("static", PROMPT)
    full_alone.close()


class TestCache:
    def test_a_full_decision_is_remembered_and_says_so(self, both_tiers: RouterArtifact) -> None:
        router = Router(both_tiers)
        first, again = (router.route(PROMPT, latency_budget_ms=ms) for ms in (LONG_MS, 1.0))
        assert (first.cached, again.cached, again.tier, again.degraded) == (False, True, "full", False)
        assert said(first) == said(again) and again.latency_budget_ms == 1.0
        assert again.decision_id != first.decision_id
        router.clear_cache()
        assert not router.route(PROMPT, latency_budget_ms=LONG_MS).cached
        router.close()

    def test_another_question_is_not_the_same(self, both_tiers: RouterArtifact) -> None:
        router = Router(both_tiers)
        router.route(PROMPT, latency_budget_ms=LONG_MS)
        for prompt, policy, explain in (
            (PROMPT + " ", None, True),
            (PROMPT, Policy(exclude=("coder-medium",)), True),
            (PROMPT, None, False),
        ):
            assert not router.route(prompt, policy, latency_budget_ms=LONG_MS, explain=explain).cached
        assert router.route([{"role": "user", "content": PROMPT}], latency_budget_ms=LONG_MS).cached
        router.close()

    def test_who_asks_for_a_fresh_one_gets_it(self, both_tiers: RouterArtifact) -> None:
        router = Router(both_tiers)
        for _ in range(2):
            assert not router.route(PROMPT, latency_budget_ms=LONG_MS, cache=False).cached
        assert router.n_cached == 0
        router.close()

    def test_lesser_answers_are_not_remembered(self, router: Router, both_tiers: RouterArtifact) -> None:
        fresh = Router(both_tiers)
        fresh.route(PROMPT, latency_budget_ms=1e-6)
        assert fresh.n_cached == 0
        fresh.close()

    def test_it_can_be_switched_off(self, both_tiers: RouterArtifact) -> None:
        router = Router(both_tiers, cache_entries=0)
        assert not any(router.route(PROMPT, latency_budget_ms=LONG_MS).cached for _ in range(3))
        router.close()


def test_whatever_runs_beside_it_every_answer_is_that_of_the_tier_it_names(router: Router) -> None:
    prompts = [f"Which herbs go with salmon and rice for {n} people?" for n in range(60)]
    lone = {
        tier: [json.dumps(said(router.answer_of(tier, one))) for one in prompts] for tier in ("full", "static", "prior")
    }
    budgets = (LONG_MS, 1.0, 3.0, 30.0)

    def ask(at: int) -> Decision:
        return router.route(prompts[at % 60], latency_budget_ms=budgets[at // 60], cache=False)

    with ThreadPoolExecutor(8) as pool:
        decisions = list(pool.map(ask, range(60 * len(budgets))))
    for at, decision in enumerate(decisions):
        assert json.dumps(said(decision)) == lone[decision.tier][at % 60]
    assert {one.tier for one in decisions[:60]} == {"full"}


def deadline(budget_ms: float) -> Any:
    from router.deadline import Deadline, now_ms

    return Deadline(now_ms(), budget_ms)
