"""A thousand random policies over 30 models with several endpoints, through the router, each checked by hand.

What is right is read from the profiles by plain Python here, not by the code under test; a flip is right when the same
request with the changed policy gets the model that it tells.
"""

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from router.artifact import RouterArtifact
from router.errors import PolicyError
from router.estimate import Evidence
from router.policy import FAST_WAIT_MS
from router.router import Router
from router.types import STRATEGIES, Decision, Endpoint, Estimate, ModelProfile, Needs, Policy, Verdict

N_MODELS, N_POLICIES, N_PER_CATALOGUE = 30, 1_000, 25
MODELS = tuple(f"model-{number:02}" for number in range(N_MODELS))
PROMPTS = (
    "Why does my parser lose the last array element?",
    "Which herbs go with salmon and rice?",
    "Is the castle near the lagoon open on a Sunday in winter?",
    "Explain a socket to somebody who only knows pumpkin soup",
)
CAPABILITIES, ROLES, REGIONS = ("json", "reasoning", "tools", "vision"), ("planner", "reviewer"), ("asia", "eu", "us")
TRADE_OFFS_USD = {"quality": None, "balanced": 0.02, "cheap": 0.001}
OWN_REASONS = ("best", "prior", "only_candidate")
REASONS_SEEN = (
    "best",
    "only_candidate",
    "verdict",
    "guard",
    "min_gain",
    "session",
    "tool_call",
    "deadline",
    "fallback",
)
RELEASED = ("route_anyway", "min_gain", "switch_margin")
CONSTRAINED = (
    *("candidates", "exclude", "require", "role", "local_only", "region"),
    *("min_uptime", "max_cost_usd", "max_latency_ms"),
)
CODES = {
    *("not_a_candidate", "unknown_model", "excluded", "lacks_capability", "capabilities_unknown", "lacks_role"),
    *("lacks_needed_capability", "not_local", "locality_unknown", "wrong_region", "region_unknown", "low_uptime"),
    *("uptime_unknown", "context_too_short", "over_max_cost", "cost_unknown", "over_max_latency", "latency_unknown"),
}
LONG_MS = 1e6
# Amounts that differ by less may be the same sum in another order.
LEVEL = 1.0 + 1e-9
# A flip is told this much beyond the point where two models are level.
A_LITTLE = 1.002
# At which willingness to pay a choice is looked at again where flips must not be missed.
GRID_USD = tuple(10.0 ** (power / 3) for power in range(-18, 4))


@dataclass(frozen=True)
class Ask:
    """One request: all that is asked beside the policy. held: what the session is with, None without one."""

    prompt: str
    needs: Needs
    held: str | None
    blind: bool


def thirty_models(artifact: RouterArtifact, guard_z: float, label: str) -> RouterArtifact:
    """Return the artifact with 30 models; two are the same in all that the log says of them, and some reach 1."""
    rng = np.random.default_rng(11)
    codes = artifact.best.evidence.intents
    skills = rng.uniform(0.2, 1.0, (len(artifact.intents), N_MODELS))
    scores = np.clip(skills[codes] + rng.normal(0.0, 0.2, (len(codes), N_MODELS)), 0.0, 1.0)
    scores[:, 7] = scores[:, 6]
    scores[:, 8:10] = np.maximum(scores[:, 8:10], 0.99)
    priors = np.stack([scores[codes == code].mean(axis=0) for code in range(len(artifact.intents))])
    best = MODELS[int(scores.mean(axis=0)[:8].argmax())]
    evidence = Evidence(
        kind="scores",
        h=np.ones(scores.shape, dtype=np.float32),
        g=(scores - priors[codes]).astype(np.float32),
        intents=codes,
        prior=scores.mean(axis=0),
        intent_priors=priors,
        variance=scores.var(axis=0),
        sizes=artifact.best.evidence.sizes,
    )
    tier = replace(
        artifact.best,
        evidence=evidence,
        settings=replace(artifact.best.settings, guard_z=guard_z, contrast_slope=1.2),
        verdict=Verdict(label, label, best),
        strategies=TRADE_OFFS_USD,
    )
    return replace(
        artifact,
        models=MODELS,
        tiers=(tier,),
        won=scores == scores.max(axis=1, keepdims=True),
        intent_quality=priors,
        profiles={},
        best_fixed=best,
        default_strategy="balanced",
    )


def drawn_profiles(draw: random.Random) -> dict[str, ModelProfile]:
    """Return profiles in which much is unknown; some models have none, some catalogues no prices or no times at all."""
    prices, times = draw.random() > 0.1, draw.random() > 0.1

    def known(value: float, wanted: bool = True) -> float | None:
        return value if wanted and draw.random() > 0.15 else None

    def endpoint(number: int) -> Endpoint:
        usd = 10 ** draw.uniform(-1, 1.5)
        return Endpoint(
            f"endpoint-{number}",
            usd_per_mtok_in=known(usd, prices),
            usd_per_mtok_out=known(4 * usd, prices),
            latency_p50_ms=known(draw.choice([250.0, 500.0, draw.uniform(100, 2_000)]), times),
            latency_p95_ms=known(draw.uniform(2_000, 4_000), times),
            tokens_per_s=known(draw.uniform(20, 200), times),
            uptime=known(draw.uniform(0.9, 1.0)),
            locality=draw.choice(["local", "remote", None]),
            region=draw.choice([*REGIONS, None]),
        )

    return {
        name: ModelProfile(
            name,
            mean_output_tokens=draw.uniform(50, 900),
            endpoints=tuple(endpoint(number) for number in range(draw.choice([0, 1, 1, 2, 3, 4]))),
            mean_cost_usd=known(draw.uniform(0.0005, 0.02), prices and draw.random() < 0.5),
            capabilities=draw.choice([None, *[tuple(draw.sample(CAPABILITIES, size)) for size in (1, 2, 3, 4, 4)]]),
            context_tokens=draw.choice([None, 2_000, 8_000, 128_000]),
            roles=tuple(draw.sample(ROLES, draw.choice([0, 1, 2]))),
            locality=draw.choice(["local", "remote", None]),
            region=draw.choice([*REGIONS, None]),
        )
        for name in MODELS
        if draw.random() > 0.1
    }


def drawn_policy(draw: random.Random) -> Policy:
    def some(value: object, share: float = 0.25) -> object:
        return value if draw.random() < share else None

    trade_off: dict[str, object] = {}
    which = draw.random()
    if which < 0.4:
        trade_off["strategy"] = draw.choice(STRATEGIES)
    elif which < 0.8:
        trade_off["willingness_to_pay_usd"] = some(10 ** draw.uniform(-4, 0), 0.8)
        trade_off["willingness_to_wait_ms"] = some(10 ** draw.uniform(3, 5.5), 0.4)
    return Policy(
        candidates=some(tuple(draw.sample([*MODELS, "unheard-of"], draw.randint(1, 20))), 0.2),  # type: ignore[arg-type]
        exclude=tuple(draw.sample(MODELS, draw.choice([0, 0, 1, 5]))),
        require=tuple(draw.sample(CAPABILITIES, draw.choice([0, 0, 0, 1, 2]))),
        role=some(draw.choice(ROLES), 0.1),  # type: ignore[arg-type]
        local_only=draw.random() < 0.1,
        region=some(tuple(draw.sample(REGIONS, draw.choice([1, 2])))),  # type: ignore[arg-type]
        max_cost_usd=some(10 ** draw.uniform(-3.5, -1.5)),  # type: ignore[arg-type]
        max_latency_ms=some(10 ** draw.uniform(2.5, 4.3)),  # type: ignore[arg-type]
        min_uptime=some(draw.uniform(0.9, 0.97)),  # type: ignore[arg-type]
        min_gain=draw.choice([0.0, 0.0, 0.02, 0.2]),
        switch_margin=draw.choice([0.0, 0.05, 0.3]),
        route_anyway=draw.random() < 0.3,
        fallback=some("elsewhere", 0.3),  # type: ignore[arg-type]
        **trade_off,  # type: ignore[arg-type]
    )


def drawn_ask(draw: random.Random) -> Ask:
    prompt = draw.choice(PROMPTS)
    needs = Needs(
        draw.choice([20, 400, 4_000]),
        tuple(sorted(draw.sample(("tools", "vision"), draw.choice([0, 0, 1])))),
        tool_call_open=draw.random() < 0.15,
    )
    held = draw.choice(MODELS) if draw.random() < 0.4 else None
    return Ask(prompt, needs, held, blind=held is None and draw.random() < 0.1)


def asked(router: Router, ask: Ask, policy: Policy, *, explain: bool = True) -> Decision:
    """Return the decision; a session is begun with its model first, so that every call finds the same."""
    if ask.blind:
        return router.answer_of("prior", ask.prompt, policy, explain=explain, needs=ask.needs)
    session = None
    if ask.held is not None:
        session = "the session"
        begun = Policy(candidates=(ask.held,))
        router.route(ask.prompt, begun, session_id=session, needs=Needs(1), latency_budget_ms=LONG_MS, explain=False)
    return router.route(
        ask.prompt, policy, session_id=session, needs=ask.needs, latency_budget_ms=LONG_MS, explain=explain
    )


# What is right, read from the profiles.


def cost_of(profile: ModelProfile, endpoint: Endpoint | None, needs: Needs) -> float | None:
    priced = [one for one in profile.endpoints if None not in (one.usd_per_mtok_in, one.usd_per_mtok_out)]
    if not priced:
        return profile.mean_cost_usd
    if endpoint not in priced or endpoint is None:
        return None
    usd_in, usd_out = endpoint.usd_per_mtok_in or 0.0, endpoint.usd_per_mtok_out or 0.0
    return (usd_in * needs.input_tokens + usd_out * profile.mean_output_tokens) / 1e6


def latency_of(profile: ModelProfile, endpoint: Endpoint | None) -> float | None:
    if endpoint is None:
        return None
    first = endpoint.latency_p95_ms if endpoint.latency_p50_ms is None else endpoint.latency_p50_ms
    if first is None:
        return None
    return first + (1e3 * profile.mean_output_tokens / endpoint.tokens_per_s if endpoint.tokens_per_s else 0.0)


def codes_of(profile: ModelProfile, endpoint: Endpoint | None, policy: Policy, needs: Needs) -> set[str]:
    """Return every code for which a model is not to be asked at an endpoint."""
    return _codes_of_model(profile, policy, needs) | _codes_of_endpoint(profile, endpoint, policy, needs)


def _codes_of_model(profile: ModelProfile, policy: Policy, needs: Needs) -> set[str]:
    has = profile.capabilities
    length = needs.input_tokens + profile.mean_output_tokens
    return {
        code
        for code, is_true in {
            "not_a_candidate": policy.candidates is not None and profile.name not in policy.candidates,
            "excluded": profile.name in policy.exclude,
            "capabilities_unknown": bool(policy.require) and has is None,
            "lacks_capability": has is not None and any(one not in has for one in policy.require),
            "lacks_needed_capability": has is not None and any(one not in has for one in needs.capabilities),
            "lacks_role": policy.role is not None and policy.role not in profile.roles,
            "context_too_short": profile.context_tokens is not None and length > profile.context_tokens,
        }.items()
        if is_true
    }


def _codes_of_endpoint(profile: ModelProfile, endpoint: Endpoint | None, policy: Policy, needs: Needs) -> set[str]:
    where = endpoint or Endpoint("")
    locality, region = where.locality or profile.locality, where.region or profile.region
    cost, latency = cost_of(profile, endpoint, needs), latency_of(profile, endpoint)
    codes = set()
    if (policy.local_only or policy.strategy == "private") and locality != "local":
        codes.add("locality_unknown" if locality is None else "not_local")
    if policy.region is not None and region not in policy.region:
        codes.add("region_unknown" if region is None else "wrong_region")
    if policy.min_uptime is not None and not (where.uptime or 0.0) >= policy.min_uptime:
        codes.add("uptime_unknown" if where.uptime is None else "low_uptime")
    if policy.max_cost_usd is not None and not (math.inf if cost is None else cost) <= policy.max_cost_usd * LEVEL:
        codes.add("cost_unknown" if cost is None else "over_max_cost")
    if policy.max_latency_ms is not None and not (latency or math.inf) <= policy.max_latency_ms * LEVEL:
        codes.add("latency_unknown" if latency is None else "over_max_latency")
    return codes


def worth_of(policy: Policy) -> tuple[float | None, float | None]:
    """Return what one unit of quality is worth, in USD and in milliseconds."""
    if policy.willingness_to_pay_usd is not None or policy.willingness_to_wait_ms is not None:
        return policy.willingness_to_pay_usd, policy.willingness_to_wait_ms
    if policy.strategy == "fast":
        return None, FAST_WAIT_MS
    return TRADE_OFFS_USD.get(policy.strategy or "balanced", TRADE_OFFS_USD["balanced"]), None


class Reading:
    """All that the profiles say of one request."""

    def __init__(self, profiles: Mapping[str, ModelProfile], policy: Policy, needs: Needs) -> None:
        self.usd, self.wait_ms = worth_of(policy)
        self.offers: dict[str, dict[str | None, tuple[set[str], float | None, float | None]]] = {}
        for name in MODELS:
            profile = profiles.get(name, ModelProfile(name))
            self.offers[name] = {
                one.name if one else None: (
                    codes_of(profile, one, policy, needs),
                    cost_of(profile, one, needs),
                    latency_of(profile, one),
                )
                for one in (profile.endpoints or (None,))
            }
        known = [one for ends in self.offers.values() for one in ends.values()]
        self._dearest = max((cost for _, cost, _ in known if cost is not None), default=0.0)
        self._slowest = max((latency for *_, latency in known if latency is not None), default=0.0)

    def allowed(self) -> set[str]:
        return {name for name, ends in self.offers.items() if any(not codes for codes, *_ in ends.values())}

    def penalties(self, name: str, endpoint: str | None) -> tuple[float, float]:
        _, cost, latency = self.offers[name][endpoint]
        of_cost = 0.0 if self.usd is None else (self._dearest if cost is None else cost) / self.usd
        of_time = 0.0 if self.wait_ms is None else (self._slowest if latency is None else latency) / self.wait_ms
        return of_cost, of_time


def check_estimate(one: Estimate, reading: Reading) -> None:
    """It is at an allowed endpoint, of which none asks less, and its utility is the sum of its parts."""
    codes, cost, latency = reading.offers[one.model][one.endpoint]
    assert not codes
    assert one.cost_usd == (cost if cost is None else pytest.approx(cost))
    assert one.latency_ms == (latency if latency is None else pytest.approx(latency))
    assert (one.cost_penalty, one.latency_penalty) == pytest.approx(reading.penalties(one.model, one.endpoint))
    assert one.utility == pytest.approx(one.quality - one.cost_penalty - one.latency_penalty)
    least = min(
        sum(reading.penalties(one.model, name)) for name, (codes, *_) in reading.offers[one.model].items() if not codes
    )
    assert one.cost_penalty + one.latency_penalty == pytest.approx(least)
    assert 0 <= one.low <= one.quality <= one.high <= 1


def check_rule(decision: Decision, policy: Policy, ask: Ask, artifact: RouterArtifact) -> None:
    """The best one is chosen only where it leads the best fixed one by enough, and a held one is left only then."""
    if not decision.estimates:
        return
    by_name = {one.model: one for one in decision.estimates}
    means = dict(zip(MODELS, artifact.best.evidence.prior.tolist(), strict=True))
    fixed = by_name[max(by_name, key=lambda name: (name == artifact.best_fixed, means[name]))]
    chosen, held = by_name[decision.model], by_name.get(ask.held or "")
    routes = artifact.verdict.routes or policy.route_anyway
    if decision.reason in ("verdict", "guard", "min_gain"):
        assert chosen is fixed and (decision.reason == "verdict") == (not routes)
    elif decision.reason in OWN_REASONS:
        assert chosen.utility == max(one.utility for one in decision.estimates)
        lead = chosen.utility - fixed.utility
        doubt = max(policy.min_gain, artifact.best.settings.guard_z * chosen.lead_error)
        assert chosen is fixed or (routes and lead > doubt)
    if held is not None and chosen is not held:
        assert not ask.needs.tool_call_open and chosen.utility - held.utility > policy.switch_margin
    if decision.reason in ("session", "tool_call"):
        assert chosen is held


def check(decision: Decision, policy: Policy, ask: Ask, reading: Reading) -> None:
    allowed = reading.allowed()
    ranked = [one.model for one in decision.estimates]
    assert set(ranked) == allowed and len(ranked) == len(allowed)
    assert decision.fallbacks == tuple(one for one in ranked if one != decision.model)
    if not allowed:
        assert (decision.model, decision.reason) == (policy.fallback, "fallback")
    else:
        assert decision.model == ranked[0] and decision.endpoint == decision.estimates[0].endpoint
        for one in decision.estimates:
            check_estimate(one, reading)
    utilities = [one.utility for one in decision.estimates]
    assert utilities[1:] == sorted(utilities[1:], reverse=True)
    unknown = {one for one in policy.candidates or () if one not in MODELS}
    assert {one.model for one in decision.excluded} == {*MODELS, *unknown} - allowed
    assert len(decision.excluded) == len({one.model for one in decision.excluded})
    for out in decision.excluded:
        assert out.detail
        if out.model in unknown:
            assert out.code == "unknown_model"
        else:
            fewest = min(len(codes) for codes, *_ in reading.offers[out.model].values())
            assert any(out.code in codes and len(codes) == fewest for codes, *_ in reading.offers[out.model].values())


def priced(policy: Policy, usd: float) -> Policy:
    """Return the policy with another willingness to pay, all else the same."""
    return replace(
        policy,
        strategy=None,
        local_only=policy.local_only or policy.strategy == "private",
        willingness_to_wait_ms=FAST_WAIT_MS if policy.strategy == "fast" else policy.willingness_to_wait_ms,
        willingness_to_pay_usd=usd,
    )


def check_nothing_is_missed(router: Router, ask: Ask, policy: Policy, decision: Decision) -> int:
    """Whatever price on the grid gets another model, one as near or nearer to the policy's own was told."""
    told = [
        dict(one.changes)["willingness_to_pay_usd"]
        for one in decision.flips
        if one.changes[-1][0] == "willingness_to_pay_usd"
    ]
    now = worth_of(policy)[0] or math.inf
    n_found = 0
    for usd in GRID_USD:
        if asked(router, ask, priced(policy, usd), explain=False).model != decision.model:
            n_found += 1
            nearer = [
                one for one in told if (usd / A_LITTLE <= one < now if usd < now else now < one <= A_LITTLE * usd)
            ]
            assert nearer, f"{usd} gets another model, told was {told} of {policy}, {ask}"
    return n_found


def test_a_thousand_random_policies(artifact: RouterArtifact) -> None:
    routers = [
        Router(thirty_models(artifact, guard_z, label)) for guard_z in (0.0, 3.0) for label in ("ROUTE", "DO NOT ROUTE")
    ]
    draw = random.Random(23)
    counts: Counter[str] = Counter()
    profiles: dict[str, ModelProfile] = {}
    for number in range(N_POLICIES):
        if number % N_PER_CATALOGUE == 0:
            profiles = drawn_profiles(draw)
            for router in routers:
                router.use_profiles(profiles)
        router, policy, ask = routers[number % len(routers)], drawn_policy(draw), drawn_ask(draw)
        reading = Reading(profiles, policy, ask.needs)
        if not reading.allowed() and policy.fallback is None:
            with pytest.raises(PolicyError, match="no model is left: "):
                asked(router, ask, policy)
            counts["refused"] += 1
            continue
        decision = asked(router, ask, policy)
        check(decision, policy, ask, reading)
        check_rule(decision, policy, ask, router.artifact)
        counts[f"reason {decision.reason}"] += 1
        counts.update(f"code {one.code}" for one in decision.excluded)
        for flip in decision.flips:
            changed = flip.applied_to(policy)
            assert flip.model != decision.model
            assert asked(router, ask, changed, explain=False).model == flip.model, f"{flip} of {policy}, {ask}"
            counts[f"flip {flip.changes[-1][0]}"] += 1
        if number % 8 == 0:
            counts["grid"] += check_nothing_is_missed(router, ask, policy, decision)
    for router in routers:
        router.close()
    told = {name.removeprefix("flip "): n for name, n in counts.items() if name.startswith("flip ")}
    assert set(told) == {*RELEASED, *CONSTRAINED, "willingness_to_pay_usd"}
    assert sum(told.values()) > N_POLICIES and told["willingness_to_pay_usd"] > 400
    assert sum(told[one] for one in CONSTRAINED) > 400 and counts["grid"] > 400
    assert {name.removeprefix("code ") for name in counts if name.startswith("code ")} == CODES
    assert {name for name in counts if name.startswith("reason ")} == {f"reason {one}" for one in REASONS_SEEN}
    assert counts["refused"] < N_POLICIES / 5
