"""router/router.py: the stages in order, from a prompt to a decision and its wire form."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from router.artifact import RouterArtifact
from router.deadline import now_ms
from router.encoder import Encoding, OnnxEncoder
from router.errors import PolicyError, PromptError
from router.prompt import Template
from router.router import Router
from router.rung import SHOWN_NEIGHBORS
from router.types import TRADE_OFFS, Decision, Policy

CODE, FOOD = "Why does my parser lose the last array element?", "Which herbs go with salmon and rice?"
WIRE = {
    "model",
    "reason",
    "intent",
    "quality",
    "cost_usd",
    "gateway_model",
    "endpoint",
    "latency_ms",
    "policy",
    "session",
    "fallbacks",
    "propensity",
    "tier",
    "degraded",
    "cached",
    "latency_budget_ms",
    "elapsed_ms",
    "budget_met",
    "artifact_id",
    "decision_id",
}


def with_best(artifact: RouterArtifact, **changes: Any) -> RouterArtifact:
    return replace(artifact, tiers=(replace(artifact.best, **changes),))


@pytest.fixture(scope="module")
def router(artifact: RouterArtifact, tmp_path_factory: pytest.TempPathFactory) -> Router:
    directory = tmp_path_factory.mktemp("router") / "v1"
    artifact.write(directory)
    return Router.load(directory)


def stable(decision: Decision) -> dict[str, Any]:
    """The wire form without what differs from call to call."""
    out = decision.to_json(explain=True)
    return {name: value for name, value in out.items() if name not in ("elapsed_ms", "budget_met", "decision_id")}


def test_each_intent_goes_to_its_model(router: Router) -> None:
    for prompt, model, intent in ((CODE, "coder-medium", "code"), (FOOD, "chef-large", "cooking")):
        decision = router.route(prompt)
        assert (decision.model, decision.reason) == (model, "best")
        assert decision.intent is not None and decision.intent.label == intent and 0.5 < decision.intent.confidence <= 1
        assert model in decision.summary and intent in decision.summary and decision.summary.endswith(".")


def test_a_decision_is_whole(router: Router) -> None:
    decision = router.route(FOOD)
    assert (decision.tier, decision.degraded, decision.propensity) == ("static", False, 1.0)
    assert decision.artifact_id == router.artifact.id and decision.artifact_id
    utilities = [one.utility for one in decision.estimates]
    assert len(utilities) == 3 and utilities == sorted(utilities, reverse=True)
    assert decision.fallbacks == tuple(one.model for one in decision.estimates[1:])
    similarities = [one.similarity for one in decision.neighbors]
    assert len(similarities) == SHOWN_NEIGHBORS and similarities == sorted(similarities, reverse=True)
    assert all(one.intent == "cooking" and one.winners == ("chef-large",) for one in decision.neighbors[:3])
    assert all(one.low <= one.quality <= one.high and one.support > 0 for one in decision.estimates)
    # 36 characters are 9 tokens: 9 * 8 + 256 * 16 USD per million tokens.
    chosen = decision.estimate("chef-large")
    assert chosen is not None and chosen.cost_usd == pytest.approx((9 * 8 + 256 * 16) / 1e6)
    assert decision.estimate("elsewhere") is None


def test_text_and_messages_are_the_same_prompt(router: Router) -> None:
    assert stable(router.route([{"role": "user", "content": FOOD}])) == stable(router.route(FOOD))


def test_all_that_the_model_reads_is_paid_for(router: Router) -> None:
    """A system prompt of 400 characters is 100 tokens, at 8 USD a million."""
    messages = [{"role": "system", "content": "x" * 400}, {"role": "user", "content": FOOD}]
    with_system, alone = (router.route(one).estimate("chef-large") for one in (messages, FOOD))
    assert with_system is not None and alone is not None
    assert with_system.cost_usd == pytest.approx(alone.cost_usd + 100 * 8 / 1e6)
    assert with_system.quality == alone.quality


def test_batch_equals_single(router: Router) -> None:
    prompts = [CODE, FOOD, [{"role": "user", "content": CODE}], "\ud800", "漢字" * 3000]
    batch = router.route_batch(prompts)
    assert [stable(one) for one in batch] == [stable(router.route(one)) for one in prompts]
    assert len({one.decision_id for one in batch}) == len(prompts)


@pytest.mark.parametrize("prompt", ["", " \n\t", "\u2003", [], [{"role": "user", "content": " "}], [{"role": "user"}]])
def test_an_empty_prompt_is_refused(router: Router, prompt: Any) -> None:
    with pytest.raises(PromptError):
        router.route(prompt)


@pytest.mark.parametrize(
    "prompt", ["\ud800", "a\udfffb" * 9, "\x00", "\u200b", "🤷" * 999, "x" * 300_000, "]" * 9999, "\n.\n" * 3000]
)
def test_hostile_prompts_are_routed(router: Router, prompt: str) -> None:
    decision = router.route(prompt)
    assert decision.model in router.artifact.models
    assert all(np.isfinite([one.quality, one.low, one.high, one.support]).all() for one in decision.estimates)
    json.dumps(decision.to_json(explain=True), allow_nan=False).encode()


def test_explain_gives_the_wire_form(router: Router) -> None:
    decision = router.route(FOOD, Policy(exclude=("guide-small",)))
    assert set(decision.to_json()) == WIRE
    out = json.loads(json.dumps(decision.to_json(explain=True), allow_nan=False))
    assert set(out) == WIRE | {"explanation"}
    explanation = out["explanation"]
    assert set(explanation) == {"candidates", "excluded", "neighbors", "runner_up", "flips", "summary"}
    assert set(out["intent"]) == {"label", "confidence", "neighbor_share"}
    assert [set(one) for one in explanation["candidates"]] == [
        {
            *("model", "quality", "low", "high", "support"),
            *("endpoint", "cost_usd", "latency_ms", "utility", "utility_parts"),
        }
    ] * 2
    assert [one["code"] for one in explanation["excluded"]] == ["excluded"]
    assert set(explanation["neighbors"][0]) == {"row", "similarity", "intent", "winners"}
    first, second = explanation["candidates"]
    assert explanation["runner_up"]["model"] == second["model"] == "coder-medium"
    assert explanation["runner_up"]["margin"] == pytest.approx(first["utility"] - second["utility"], abs=2e-6)
    assert (out["quality"], out["cost_usd"]) == (first["quality"], first["cost_usd"])


def test_prompts_are_shown_only_where_they_are_stored(artifact: RouterArtifact, router: Router) -> None:
    assert all(one.prompt is None for one in router.route(FOOD).neighbors)
    stored = tuple(f"text {row}" for row in range(artifact.n_rows))
    neighbors = Router(replace(artifact, prompts=stored)).route(FOOD).neighbors
    assert [one.prompt for one in neighbors] == [f"text {one.row}" for one in neighbors]
    assert (
        Router(replace(artifact, prompts=stored))
        .route(FOOD)
        .to_json(explain=True)["explanation"]["neighbors"][0]["prompt"]
    )


def test_budget_met_is_measured(router: Router) -> None:
    late, in_time = router.route(FOOD, latency_budget_ms=1e-6), router.route(FOOD, latency_budget_ms=1e9)
    assert (late.budget_met, in_time.budget_met) == (False, True)
    assert (late.tier, late.degraded, late.reason) == ("prior", True, "deadline")
    assert in_time.elapsed_ms > 0
    arrived_long_ago = router.route(FOOD, latency_budget_ms=100.0, arrived_ms=now_ms() - 5000)
    assert not arrived_long_ago.budget_met and arrived_long_ago.elapsed_ms > 5000


def test_no_model_left_is_an_error_or_the_fallback(router: Router) -> None:
    impossible = Policy(max_cost_usd=1e-9)
    with pytest.raises(PolicyError, match="max_cost_usd"):
        router.route(FOOD, impossible)
    decision = router.route(FOOD, replace(impossible, fallback="elsewhere"))
    assert (decision.model, decision.reason, decision.estimates, decision.fallbacks) == (
        "elsewhere",
        "fallback",
        (),
        (),
    )
    out = decision.to_json(explain=True)
    assert (out["quality"], out["cost_usd"], out["explanation"]["runner_up"]) == (None, None, None)
    assert {one["code"] for one in out["explanation"]["excluded"]} == {"over_max_cost"}


def test_without_prices_cost_is_null(artifact: RouterArtifact) -> None:
    decision = Router(replace(artifact, profiles={})).route(FOOD)
    assert decision.to_json()["cost_usd"] is None


@pytest.mark.parametrize("label", ["DO NOT ROUTE", "NOT ENOUGH DATA"])
def test_outside_route_the_model_of_the_verdict_answers(
    artifact: RouterArtifact, with_verdict: Callable[[str], RouterArtifact], label: str
) -> None:
    """best_fixed is measured on the log; it need not be the model of the highest prior."""
    by_prior = artifact.models[int(np.argmax(artifact.best.evidence.prior))]
    for best_fixed in artifact.models:
        verdict = replace(with_verdict(label).verdict, best_fixed=best_fixed)
        router = Router(with_best(replace(artifact, best_fixed=best_fixed), verdict=verdict))
        decisions = [router.route(prompt) for prompt in (CODE, FOOD)]
        assert {(one.model, one.reason) for one in decisions} == {(best_fixed, "verdict")}
        assert all(best_fixed not in one.fallbacks and len(one.fallbacks) == 2 for one in decisions)
        assert router.route(FOOD, Policy(route_anyway=True)).model == "chef-large"
        assert router.route(FOOD, Policy(exclude=(best_fixed,))).reason == "verdict"
    without = Router(replace(with_verdict(label), best_fixed=by_prior)).route(FOOD, Policy(exclude=(by_prior,)))
    rest = np.where(np.array(artifact.models) == by_prior, -np.inf, artifact.best.evidence.prior)
    assert without.model == artifact.models[int(np.argmax(rest))]


def test_the_template_is_cut_before_encoding(artifact: RouterArtifact) -> None:
    template = Template(prefixes=("Answer as in the examples above.\n",), suffixes=("\nThink first.",))
    router = Router(replace(artifact, template=template))
    wrapped = router.route(template.prefixes[0] + FOOD + template.suffixes[0])
    assert wrapped.neighbors == router.route(FOOD).neighbors
    assert router.route(template.prefixes[0]).model in artifact.models


def test_describe_holds_no_prompt(artifact: RouterArtifact) -> None:
    secret = "nobody may read this"
    stored = Router(replace(artifact, prompts=(secret,) * artifact.n_rows))
    described = stored.describe()
    assert secret not in json.dumps(described, allow_nan=False)
    assert (
        described["prompts_stored"] is True and described["n_rows"] == 150 and described["tiers"][0]["tier"] == "static"
    )


class Illiterate:
    """An encoder that knows so much of every prompt, and whose vectors are those of another."""

    def __init__(self, encoder: OnnxEncoder, unknown_share: float) -> None:
        self.settings, self.id, self._encoder, self._unknown_share = encoder.settings, "", encoder, unknown_share

    def token_ids(self, text: str) -> list[int]:
        return self._encoder.token_ids(text)

    def encode_ids(self, ids: list[int]) -> Encoding:
        return replace(self._encoder.encode_ids(ids), unknown_share=self._unknown_share)


def illiterate(artifact: RouterArtifact, unknown_share: float, max_unknown_share: float = 0.4) -> Router:
    encoder: Any = Illiterate(artifact.best.encoder, unknown_share)
    settings = replace(artifact.best.settings, max_unknown_share=max_unknown_share)
    return Router(with_best(artifact, encoder=encoder, settings=settings))


def test_of_an_unreadable_prompt_the_priors_decide(artifact: RouterArtifact) -> None:
    router = illiterate(artifact, 0.62)
    decision = router.route(FOOD)
    prior = artifact.best.evidence.prior
    assert decision.model == artifact.models[int(np.argmax(prior))]
    assert (decision.reason, decision.intent, decision.neighbors) == ("unreadable", None, ())
    assert decision.summary.startswith(
        f"{decision.model}: the prompt cannot be read well enough to ask its neighbours, so what is known of the "
        "models in general decides (the encoder does not know 62 % of the prompt)"
    )
    for one in decision.estimates:
        assert one.quality == pytest.approx(prior[artifact.models.index(one.model)]) and one.support == 0
        assert one.low < one.quality < one.high
    other = router.route(CODE)
    assert (other.model, other.reason, other.fallbacks) == (decision.model, decision.reason, decision.fallbacks)
    json.dumps(decision.to_json(explain=True), allow_nan=False)


def test_of_an_unreadable_prompt_the_policy_is_kept(
    artifact: RouterArtifact, with_verdict: Callable[[str], RouterArtifact]
) -> None:
    router = illiterate(artifact, 0.62)
    order = [artifact.models[column] for column in np.argsort(-artifact.best.evidence.prior)]
    assert [router.route(FOOD, Policy(exclude=tuple(order[:n]))).model for n in range(3)] == order
    assert router.route(FOOD, Policy(willingness_to_pay_usd=1e-6)).model == "guide-small"
    fixed = illiterate(with_verdict("DO NOT ROUTE"), 0.62).route(FOOD)
    assert (fixed.model, fixed.reason) == (artifact.best_fixed, "verdict")
    assert fixed.summary.endswith("(the encoder does not know 62 % of the prompt).")


def test_up_to_the_artifacts_share_a_prompt_is_readable(artifact: RouterArtifact) -> None:
    plain = stable(Router(artifact).route(FOOD))
    for share, most in ((0.4, 0.4), (0.0, 0.0), (1.0, 1.0)):
        assert stable(illiterate(artifact, share, most).route(FOOD)) == plain
    assert illiterate(artifact, 0.401).route(FOOD).reason == "unreadable"


def test_a_chinese_prompt_is_unreadable_to_the_shipped_encoder(artifact: RouterArtifact) -> None:
    router = Router(with_best(artifact, settings=replace(artifact.best.settings, max_unknown_share=0.4)))
    decision = router.route("用Python写一个快速排序函数，并解释它的时间复杂度。")
    assert (decision.reason, decision.neighbors) == ("unreadable", ())
    for readable in (CODE, FOOD, "Wie röste ich Kürbis mit Lachs?", "def f(x): return x"):
        assert router.route(readable).reason != "unreadable"


def test_what_else_is_in_flight_changes_no_decision(artifact: RouterArtifact) -> None:
    """Bit for bit, vectors included: short and long prompts, readable and not, every thread another one at a time."""
    router = Router(with_best(artifact, settings=replace(artifact.best.settings, max_unknown_share=0.4)))
    n_threads = 8
    texts = [f"{opening} {word}?" for opening in (CODE, FOOD, "Plan") for word in ("castle", "regex", "beans", "cache")]
    texts += ["漢字" * 99, "word " * 3000, FOOD * 200, "\ud800", "x", "🤷" * 9]
    start = Barrier(n_threads)

    def decide(text: str) -> tuple[bytes, Decision]:
        decision = router.route(text, Policy(route_anyway=True), latency_budget_ms=10_000)
        vector = artifact.best.encoder.encode(text).vector.tobytes()
        return vector, replace(decision, elapsed_ms=0.0, budget_met=True, decision_id="")

    def decide_all(thread: int) -> list[tuple[bytes, Decision]]:
        start.wait()
        shifted = [(thread * 5 + at) % len(texts) for at in range(len(texts))]
        found = {at: decide(texts[at]) for at in shifted}
        return [found[at] for at in range(len(texts))]

    alone = [decide(text) for text in texts]
    assert {one.reason for _, one in alone} >= {"best", "unreadable"}
    with ThreadPoolExecutor(n_threads) as pool:
        for together in pool.map(decide_all, range(n_threads)):
            assert together == alone


def test_concurrent_requests_get_their_own_answers(router: Router) -> None:
    prompts = [CODE, FOOD] * 20
    with ThreadPoolExecutor(4) as pool:
        models = [one.model for one in pool.map(router.route, prompts)]
    assert models == ["coder-medium", "chef-large"] * 20


def test_load_names_what_is_missing(tmp_path: Path) -> None:
    from router.errors import ArtifactError

    with pytest.raises(ArtifactError, match="no such directory"):
        Router.load(tmp_path / "none")


def test_a_strategy_needs_prices(artifact: RouterArtifact) -> None:
    unpriced = with_best(artifact, strategies=dict.fromkeys(TRADE_OFFS))
    assert Router(unpriced).route("hello there", Policy(strategy="quality")).model
    with pytest.raises(PolicyError, match="no prices"):
        Router(unpriced).route("hello there", Policy(strategy="cheap"))
