"""The nouns of a decision: plain frozen values without I/O, shared by every other room."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRATEGIES = ("quality", "balanced", "cheap")
Embedding = NDArray[np.float32]
"""float32 (dim,), unit length."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model runs, and what a token costs there in USD per million tokens."""

    name: str
    usd_per_mtok_in: float
    usd_per_mtok_out: float


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """What is known of a model besides its quality.

    mean_output_tokens: mean length of an answer, learned from the log where it shows one. mean_cost_usd: mean of the
    costs in the log, used where no endpoint's price is known.
    """

    name: str
    mean_output_tokens: float = 256.0
    endpoints: tuple[Endpoint, ...] = ()
    mean_cost_usd: float | None = None

    def cost_usd(self, input_tokens: int, relative_size: float = 1.0) -> float | None:
        """Return the expected USD of one answer at the cheapest endpoint, or None where nothing is known.

        relative_size: the answer's size in units of the mean one, 0 or more; times the mean length in tokens or,
        without endpoints, times the mean cost.
        """
        if not self.endpoints:
            return None if self.mean_cost_usd is None else self.mean_cost_usd * relative_size
        output_tokens = self.mean_output_tokens * relative_size
        return min(
            (end.usd_per_mtok_in * input_tokens + end.usd_per_mtok_out * output_tokens) / 1e6 for end in self.endpoints
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """What one request asks of the choice.

    candidates: the only models allowed (None: all). exclude: models not allowed. max_cost_usd: ceiling of the
    expected cost of the answer. strategy: one of STRATEGIES, a point on the artifact's cost-quality curve (None: the
    artifact's own). willingness_to_pay_usd: USD that one whole unit of quality is worth, instead of a strategy.
    route_anyway: use the neighbours even where the held-out verdict is not ROUTE. fallback: model to answer with when
    nothing is left, instead of an error.
    """

    candidates: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    max_cost_usd: float | None = None
    strategy: str | None = None
    willingness_to_pay_usd: float | None = None
    route_anyway: bool = False
    fallback: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for an amount that is no number of at least 0, an unknown strategy, or both at once."""
        if self.strategy is not None and self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {self.strategy!r}")
        if self.strategy is not None and self.willingness_to_pay_usd is not None:
            raise ValueError("strategy and willingness_to_pay_usd must not both be given")
        for name in ("max_cost_usd", "willingness_to_pay_usd"):
            amount = getattr(self, name)
            if amount is not None and not amount >= 0:
                raise ValueError(f"{name} must be at least 0, got {amount}")


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
    interval. support: effective number of comparisons near the prompt. cost_usd: None without prices.
    utility: quality minus cost at the request's willingness to pay. lead_error: standard error of the lead in quality
    over the best feasible fixed model, 0 where the artifact has no guard; not in the wire form.
    """

    model: str
    quality: float
    low: float
    high: float
    support: float
    cost_usd: float | None
    utility: float
    lead_error: float = 0.0


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A model that was not up for choice: a code for programs, a detail for people."""

    model: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one request. ``estimates`` and ``fallbacks`` are best first.

    tier: what answered, 'full', 'static', or 'prior' where there was no time to encode. degraded: the artifact has a
    better tier. cached: decided before, for the same text and policy. Unless the request asked for an explanation,
    summary and neighbors are empty, and estimates hold the first model's alone. budget_met: elapsed_ms is within
    latency_budget_ms.
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

    def estimate(self, model: str) -> Estimate | None:
        """Return the estimate of one model, or None where it was not a candidate."""
        return next((one for one in self.estimates if one.model == model), None)

    def to_json(self, *, explain: bool = False) -> dict[str, Any]:
        """Return the wire form, the same for the command line and HTTP; ``explanation`` only when asked."""
        chosen = self.estimate(self.model)
        out: dict[str, Any] = {
            "model": self.model,
            "reason": self.reason,
            "intent": self.intent.to_json() if self.intent else None,
            "quality": round(chosen.quality, 6) if chosen else None,
            "cost_usd": chosen.cost_usd if chosen else None,
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
                "neighbors": [_neighbor_json(one) for one in self.neighbors],
                "runner_up": {
                    "model": runner_up.model,
                    "quality": round(runner_up.quality, 6),
                    "margin": round(chosen.utility - runner_up.utility, 6),
                }
                if runner_up and chosen
                else None,
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
        "cost_usd": one.cost_usd,
        "utility": round(one.utility, 6),
    }


def _neighbor_json(one: Neighbor) -> dict[str, Any]:
    out: dict[str, Any] = {
        "row": one.row,
        "similarity": round(one.similarity, 6),
        "intent": one.intent,
        "winners": list(one.winners),
    }
    if one.prompt is not None:
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
    "Gain",
    "Intent",
    "JsonObject",
    "Messages",
    "ModelProfile",
    "Neighbor",
    "Policy",
    "Verdict",
]
