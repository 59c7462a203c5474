"""The wire: what answers and errors look like; ``Decision.to_json`` writes decisions, which are only described here."""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from router.types import JsonObject


class WireModel(BaseModel):
    """Strict types (true is no number, "5" is no number), finite numbers, no unknown fields, no input in errors."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class IntentAnswer(WireModel):
    """The intent read from the neighbours, and the shares of their weight and of their number that carry it."""

    label: str
    confidence: float
    neighbor_share: float


class UtilityPartsAnswer(WireModel):
    """What the utility is the sum of; cost and time take from it what they weigh at the request's trade-off."""

    quality: float
    cost: float
    latency: float


class CandidateAnswer(WireModel):
    """What one model is expected to be worth on this prompt."""

    model: str
    quality: float
    low: float
    high: float
    support: float
    endpoint: str | None
    cost_usd: float | None
    latency_ms: float | None
    utility: float
    utility_parts: UtilityPartsAnswer


class ExclusionAnswer(WireModel):
    """A model that was not up for choice."""

    model: str
    code: str
    detail: str


class NeighborAnswer(WireModel):
    """One training row near the prompt; its own prompt only where the artifact stores prompts."""

    row: int
    similarity: float
    intent: str | None
    winners: list[str]
    prompt: str | None = None


class RunnerUpAnswer(WireModel):
    """The best of the models that were not chosen."""

    model: str
    quality: float
    margin: float


class FlipAnswer(WireModel):
    """A change of the policy with which another model would be chosen, all else the same."""

    model: str
    policy: JsonObject


class ExplanationAnswer(WireModel):
    """The evidence behind the choice."""

    candidates: list[CandidateAnswer]
    excluded: list[ExclusionAnswer]
    neighbors: list[NeighborAnswer]
    runner_up: RunnerUpAnswer | None
    flips: list[FlipAnswer]
    summary: str


class RouteAnswer(WireModel):
    """The decision. ``fallbacks`` are best first; ``explanation`` is there only when asked for."""

    model: str
    gateway_model: str | None
    endpoint: str | None
    reason: str
    intent: IntentAnswer | None
    quality: float | None
    cost_usd: float | None
    latency_ms: float | None
    policy: str | None
    session: str | None
    fallbacks: list[str]
    propensity: float
    tier: str
    degraded: bool
    cached: bool
    latency_budget_ms: float
    elapsed_ms: float
    budget_met: bool
    artifact_id: str
    decision_id: str
    explanation: ExplanationAnswer | None = None


class StatusAnswer(WireModel):
    """The answer of the two probes."""

    status: str


class ReloadAnswer(WireModel):
    """What is served now, what was before (the same where nothing has changed on the disk), and what it took."""

    artifact_id: str
    previous: str
    seconds: float


class ErrorDetail(WireModel):
    """What is wrong with one field; an empty ``field`` means the request as a whole."""

    field: str
    message: str


class ErrorContent(WireModel):
    """A ``type`` for programs, a ``message`` for people, and details field by field."""

    type: str
    message: str
    details: list[ErrorDetail]


class ErrorAnswer(WireModel):
    """Every answer that is not 200; the prompt is never repeated in it, nor a field's wrong value.

    A 422 of type ``policy`` names constraints and a few of the request's own capability, role or region names.
    """

    error: ErrorContent


def error_body(kind: str, message: str, details: Iterable[tuple[str, str]] = ()) -> JsonObject:
    """Return the wire form of an error; details are pairs of field and message."""
    listed = [{"field": field, "message": text} for field, text in details]
    return {"error": {"type": kind, "message": message, "details": listed}}


ANSWER_EXAMPLE: JsonObject = {
    "model": "coder-medium",
    "gateway_model": "acme/coder-medium-2",
    "endpoint": "acme-eu",
    "reason": "best",
    "intent": {"label": "code", "confidence": 0.8123, "neighbor_share": 0.74},
    "quality": 0.713204,
    "cost_usd": 0.00042,
    "latency_ms": 2350.0,
    "policy": "house",
    "session": "kept",
    "fallbacks": ["large-careful", "small-fast"],
    "propensity": 1.0,
    "tier": "static",
    "degraded": False,
    "cached": False,
    "latency_budget_ms": 50.0,
    "elapsed_ms": 0.4127,
    "budget_met": True,
    "artifact_id": "4f0c3f0a9d1be2c7",
    "decision_id": "8d0c0f6c9a5f4d5f8a2b6c1d2e3f4a5b",
}
