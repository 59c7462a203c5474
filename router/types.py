"""The nouns of a decision: plain frozen values without I/O, shared by every other room."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRADE_OFFS = ("quality", "balanced", "cheap")
"""The strategies that are points between quality and cost, each learnt by training; the others stand on one of them."""
STRATEGIES = (*TRADE_OFFS, "fast", "private")
LOCALITIES = ("local", "remote")
UNKNOWN_INTENT = ""
"""Where policies go by intent, that of a prompt of which none can be read."""
# What a request may ask to switch over to a better model within a session, in quality (0.01 = one point).
DEFAULT_SWITCH_MARGIN = 0.05
Embedding = NDArray[np.float32]
"""float32 (dim,), unit length."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model runs, and what is known of it there; None is unknown.

    usd_per_mtok_in, usd_per_mtok_out: USD per million tokens. latency_p50_ms, latency_p95_ms: until the first token
    where tokens_per_s is known, else until the end of the answer. uptime: share of requests answered, 0..1. locality:
    one of LOCALITIES; it and the region are the model's own where left out.
    """

    name: str
    usd_per_mtok_in: float | None = None
    usd_per_mtok_out: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    tokens_per_s: float | None = None
    uptime: float | None = None
    locality: str | None = None
    region: str | None = None

    def cost_usd(self, input_tokens: float, output_tokens: float) -> float | None:
        """Return the USD of one answer, or None where a price is unknown."""
        if self.usd_per_mtok_in is None or self.usd_per_mtok_out is None:
            return None
        return (self.usd_per_mtok_in * input_tokens + self.usd_per_mtok_out * output_tokens) / 1e6


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """What is known of a model besides its quality.

    mean_output_tokens: mean length of an answer, learned from the log where it shows one. mean_cost_usd: mean of the
    costs in the log, used where no endpoint's price is known. capabilities: such as vision, tools, json, reasoning;
    None where nobody said. context_tokens: longest prompt and answer together. roles: what it is meant for, such as
    planner or reviewer. gateway_model: its name at the gateway, where that is not its name in the log.
    """

    name: str
    mean_output_tokens: float = 256.0
    endpoints: tuple[Endpoint, ...] = ()
    mean_cost_usd: float | None = None
    gateway_model: str | None = None
    capabilities: tuple[str, ...] | None = None
    modalities: tuple[str, ...] | None = None
    context_tokens: int | None = None
    roles: tuple[str, ...] = ()
    locality: str | None = None
    region: str | None = None

    @property
    def is_priced(self) -> bool:
        """Whether an endpoint has a price."""
        return any(one.cost_usd(0, 0) is not None for one in self.endpoints)

    def cost_usd(self, input_tokens: int, relative_size: float = 1.0) -> float | None:
        """Return the expected USD of one answer at the cheapest endpoint, or None where nothing is known.

        relative_size: the answer's size in units of the mean one, 0 or more; times the mean length in tokens or,
        without a price, times the mean cost.
        """
        output_tokens = self.mean_output_tokens * relative_size
        costs = [cost for one in self.endpoints if (cost := one.cost_usd(input_tokens, output_tokens)) is not None]
        if costs:
            return min(costs)
        return None if self.mean_cost_usd is None else self.mean_cost_usd * relative_size


@dataclass(frozen=True, slots=True)
class Needs:
    """What a request asks of a model without saying so.

    input_tokens: length of all that the model will read. capabilities: sorted, such as vision where there are images.
    tool_call_open: a tool was called, and its result has not been answered yet.
    """

    input_tokens: int
    capabilities: tuple[str, ...] = ()
    tool_call_open: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """What one request asks of the choice: constraints, which always hold, and preferences between what is left.

    candidates: the only models allowed (None: all). exclude: models not allowed. require: capabilities that a model's
    profile must name. role: a role that it must name. local_only: of its endpoints, only local ones. region: only
    those in one of these. max_cost_usd: ceiling of the expected cost of the answer. max_latency_ms: ceiling of the
    expected time of the answer. min_uptime: floor of the endpoint's uptime, 0..1.

    strategy: one of STRATEGIES (None: the artifact's own). willingness_to_pay_usd, willingness_to_wait_ms: what one
    whole unit of quality is worth in USD and in the milliseconds of the answer, instead of a strategy. min_gain: lead
    in utility below which the best fixed model answers. switch_margin: lead in utility above which a session changes
    its model. explore_share: share of decisions that take any allowed model, so that feedback tells of all.
    route_anyway: use the neighbours even where the held-out verdict is not ROUTE. fallback: model to answer with when
    nothing is left, instead of an error. name: what the policy is called where it is configured.
    """

    candidates: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    role: str | None = None
    local_only: bool = False
    region: tuple[str, ...] | None = None
    max_cost_usd: float | None = None
    max_latency_ms: float | None = None
    min_uptime: float | None = None
    strategy: str | None = None
    willingness_to_pay_usd: float | None = None
    willingness_to_wait_ms: float | None = None
    min_gain: float = 0.0
    switch_margin: float = DEFAULT_SWITCH_MARGIN
    explore_share: float = 0.0
    route_anyway: bool = False
    fallback: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for an amount that is no number in its range, an unknown strategy, or two trade-offs.

        Lists of names are taken as tuples, by which policies can be told apart and remembered.
        """
        for name in ("candidates", "exclude", "require", "region"):
            names = getattr(self, name)
            if isinstance(names, str):
                raise ValueError(f"{name} must be a tuple of names, got the text {names!r}")
            if names is not None and not isinstance(names, tuple):
                object.__setattr__(self, name, tuple(names))
        if self.strategy is not None and self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {self.strategy!r}")
        for name in ("willingness_to_pay_usd", "willingness_to_wait_ms"):
            if self.strategy is not None and getattr(self, name) is not None:
                raise ValueError(f"strategy and {name} must not both be given")
        for name, most in _AMOUNTS.items():
            amount = getattr(self, name)
            if amount is not None and not 0 <= amount <= most:
                wanted = "at least 0" if most == np.inf else f"within 0 and {most:g}"
                raise ValueError(f"{name} must be {wanted}, got {amount}")

    @property
    def n_names(self) -> int:
        """How many models, capabilities and regions it names."""
        return len(self.candidates or ()) + len(self.exclude) + len(self.require) + len(self.region or ())

    @property
    def stays_local(self) -> bool:
        """Whether only local endpoints are allowed, be it by name or by strategy."""
        return self.local_only or self.strategy == "private"


_AMOUNTS = {
    "max_cost_usd": np.inf,
    "max_latency_ms": np.inf,
    "min_uptime": 1.0,
    "willingness_to_pay_usd": np.inf,
    "willingness_to_wait_ms": np.inf,
    "min_gain": 1.0,
    "switch_margin": 1.0,
    "explore_share": 1.0,
}


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One training row near the prompt: cosine similarity, its intent, the models that did best there."""

    row: int
    similarity: float
    intent: str | None
    winners: tuple[str, ...]
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """The intent read from the neighbours, and how much of them stands behind it; both shares in 0..1.

    confidence: the share of the neighbours' weight that carries the label, after what the global prior keeps back; the
    near count more, and far from everything it falls towards 0. neighbor_share: the plain share of those looked at.
    """

    label: str
    confidence: float
    neighbor_share: float

    def to_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "label": self.label,
            "confidence": round(self.confidence, 4),
            "neighbor_share": round(self.neighbor_share, 4),
        }


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one model is expected to be worth on one prompt.

    quality: 0..1, a score or (from battles) the probability to beat the average candidate; low, high: its 95 %
    interval. support: effective number of comparisons near the prompt. cost_usd, latency_ms: of the answer at the
    endpoint that would give it, None where unknown. utility: quality minus the penalties, which are what cost and time
    weigh at the request's willingness to pay and to wait. lead_error: standard error of the lead in quality over the
    best feasible fixed model, 0 where the artifact has no guard; not in the wire form.
    """

    model: str
    quality: float
    low: float
    high: float
    support: float
    cost_usd: float | None
    utility: float
    lead_error: float = 0.0
    latency_ms: float | None = None
    cost_penalty: float = 0.0
    latency_penalty: float = 0.0
    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A model that was not up for choice: a code for programs, a detail for people."""

    model: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Flip:
    """A change of the request's policy by which another model would be chosen, all else the same.

    changes: fields of Policy and their new values.
    """

    model: str
    changes: tuple[tuple[str, Any], ...]

    def applied_to(self, policy: Policy) -> Policy:
        """Return the policy with which ``model`` is chosen."""
        return replace(policy, **dict(self.changes))

    def to_json(self) -> dict[str, Any]:
        """Return the wire form, whose ``policy`` has the form of a request's."""
        return {"model": self.model, "policy": {name: _wire(value) for name, value in self.changes}}


@dataclass(slots=True, eq=False)
class Seen:
    """A prompt as encoders saw it: all that feedback on it is learnt by, without its text.

    vectors: by encoder id, float32 (dim,) each. features: of how it is written, float64 (n,); None until they are read.
    """

    vectors: dict[str, Embedding]
    features: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one request. ``estimates`` and ``fallbacks`` are best first.

    endpoint: where the model is to be asked, None where it has no profile. gateway_model: what it is called there.
    tier: what answered, 'full', 'static', or 'prior' where there was no time to encode. degraded: the artifact has a
    better tier. cached: decided before, for the same text and policy. policy: what is configured and applied, by name.
    propensity: the probability with which this model was chosen. session: 'new', 'kept' or 'switched' where the
    request names a session. Unless it asked for an explanation, summary, excluded, neighbors and flips are empty, and
    estimates hold the first model's alone. budget_met: elapsed_ms is within latency_budget_ms. seen: what was read of
    the prompt, None where it was not encoded; not in the wire form, and shared by the decisions of a cache.
    """

    model: str
    reason: str
    summary: str
    propensity: float
    intent: Intent | None
    estimates: tuple[Estimate, ...]
    fallbacks: tuple[str, ...]
    excluded: tuple[Exclusion, ...]
    neighbors: tuple[Neighbor, ...]
    tier: str
    degraded: bool
    cached: bool
    latency_budget_ms: float
    elapsed_ms: float
    budget_met: bool
    artifact_id: str
    decision_id: str
    endpoint: str | None = None
    gateway_model: str | None = None
    policy: str | None = None
    session: str | None = None
    flips: tuple[Flip, ...] = ()
    seen: Seen | None = field(default=None, repr=False, compare=False)

    def estimate(self, model: str) -> Estimate | None:
        """Return the estimate of one model, or None where it was not a candidate."""
        return next((one for one in self.estimates if one.model == model), None)

    def to_json(self, *, explain: bool = False, show_prompts: bool = True) -> dict[str, Any]:
        """Return the wire form, the same for the command line and HTTP; ``explanation`` only when asked.

        show_prompts: with the texts of the neighbours, where the artifact has them.
        """
        chosen = self.estimate(self.model)
        out: dict[str, Any] = {
            "model": self.model,
            "gateway_model": self.gateway_model,
            "endpoint": self.endpoint,
            "reason": self.reason,
            "intent": self.intent.to_json() if self.intent else None,
            "quality": round(chosen.quality, 6) if chosen else None,
            "cost_usd": chosen.cost_usd if chosen else None,
            "latency_ms": chosen.latency_ms if chosen else None,
            "policy": self.policy,
            "session": self.session,
            "fallbacks": list(self.fallbacks),
            "propensity": self.propensity,
            "tier": self.tier,
            "degraded": self.degraded,
            "cached": self.cached,
            "latency_budget_ms": self.latency_budget_ms,
            "elapsed_ms": round(self.elapsed_ms, 4),
            "budget_met": self.budget_met,
            "artifact_id": self.artifact_id,
            "decision_id": self.decision_id,
        }
        if explain:
            others = [one for one in self.estimates if one.model != self.model]
            runner_up = others[0] if others else None
            out["explanation"] = {
                "candidates": [_estimate_json(one) for one in self.estimates],
                "excluded": [{"model": one.model, "code": one.code, "detail": one.detail} for one in self.excluded],
                "neighbors": [_neighbor_json(one, show_prompts) for one in self.neighbors],
                "runner_up": {
                    "model": runner_up.model,
                    "quality": round(runner_up.quality, 6),
                    "margin": round(chosen.utility - runner_up.utility, 6),
                }
                if runner_up and chosen
                else None,
                "flips": [one.to_json() for one in self.flips],
                "summary": self.summary,
            }
        return out


def _estimate_json(one: Estimate) -> dict[str, Any]:
    return {
        "model": one.model,
        "quality": round(one.quality, 6),
        "low": round(one.low, 6),
        "high": round(one.high, 6),
        "support": round(one.support, 3),
        "endpoint": one.endpoint,
        "cost_usd": one.cost_usd,
        "latency_ms": None if one.latency_ms is None else round(one.latency_ms, 3),
        "utility": round(one.utility, 6),
        "utility_parts": {
            "quality": round(one.quality, 6),
            "cost": round(0.0 - one.cost_penalty, 6),
            "latency": round(0.0 - one.latency_penalty, 6),
        },
    }


def _wire(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _neighbor_json(one: Neighbor, show_prompts: bool) -> dict[str, Any]:
    out: dict[str, Any] = {
        "row": one.row,
        "similarity": round(one.similarity, 6),
        "intent": one.intent,
        "winners": list(one.winners),
    }
    if show_prompts and one.prompt is not None:
        out["prompt"] = one.prompt
    return out


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether routing beats the best fixed model on held-out rows: the label, one sentence, and the fixed model.

    label: ``ROUTE``, ``DO NOT ROUTE`` or ``NOT ENOUGH DATA``.
    """

    label: str
    text: str
    best_fixed: str

    @property
    def routes(self) -> bool:
        """True when the held-out rows say that routing is worth it."""
        return self.label == "ROUTE"


@dataclass(frozen=True, slots=True)
class Gain:
    """A mean paired difference with its 95 % interval, in units of quality (0.01 = one point)."""

    mean: float
    low: float
    high: float


Messages = Sequence[Mapping[str, Any]]
JsonObject = dict[str, Any]

__all__ = [
    "Decision",
    "Embedding",
    "Endpoint",
    "Estimate",
    "Exclusion",
    "Flip",
    "Gain",
    "Intent",
    "JsonObject",
    "Messages",
    "ModelProfile",
    "Needs",
    "Neighbor",
    "Policy",
    "Seen",
    "Verdict",
]
