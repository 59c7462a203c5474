"""The wire: what a request may hold, what answers look like, and the examples shown in the API documentation.

Requests are validated with these models; answers are written by ``Decision.to_json`` and only described here.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from router.types import JsonObject, Messages, Policy

MAX_PROMPT_CHARS = 1_000_000
MAX_MESSAGES = 1_000
MAX_NAMES = 1_000
MAX_NAME_CHARS = 256
MAX_USD = 1e9
MAX_DETAILS = 20


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("nul", "must not have a NUL character")
    return text


Text = Annotated[str, AfterValidator(_without_nul)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS), AfterValidator(_without_nul)]
Names = Annotated[list[Name], Field(max_length=MAX_NAMES, fail_fast=True)]
Usd = Annotated[float, Field(ge=0, le=MAX_USD)]


class WireModel(BaseModel):
    """Strict types (true is no number, "5" is no number), finite numbers, no unknown fields, no input in errors."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class ContentPart(WireModel):
    """One part of a message's content; parts that are no text are accepted and not read."""

    model_config = ConfigDict(extra="ignore")

    type: str = "text"
    text: Text | None = None


class Message(WireModel):
    """One OpenAI chat message; fields such as name or tool_calls are accepted and not read."""

    model_config = ConfigDict(extra="ignore")

    role: Name
    content: Text | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None

    def texts(self) -> list[str]:
        """Return the message's texts, in order."""
        if isinstance(self.content, list):
            return [part.text for part in self.content if part.text is not None]
        return [] if self.content is None else [self.content]


class RequestPolicy(WireModel):
    """What this request asks of the choice."""

    candidates: Names | None = Field(None, description="The only models allowed; null: all.")
    exclude: Names = Field([], description="Models not allowed.")
    max_cost_usd: Usd | None = Field(None, description="Ceiling of the expected cost of the answer, in USD.")
    strategy: Literal["quality", "balanced", "cheap"] | None = Field(
        None, description="A named point between quality and cost; null: the one that the artifact's verdict is about."
    )
    willingness_to_pay_usd: Usd | None = Field(
        None, description="USD that one whole unit of quality is worth, instead of a strategy."
    )
    route_anyway: bool = Field(False, description="Use the neighbours even where the verdict is not ROUTE.")
    fallback: Name | None = Field(None, description="Model to answer with when nothing is left, instead of an error.")

    @model_validator(mode="after")
    def _one_trade_off(self) -> "RequestPolicy":
        if self.strategy is not None and self.willingness_to_pay_usd is not None:
            raise ValueError("strategy and willingness_to_pay_usd exclude each other")
        return self

    def to_policy(self) -> Policy:
        """Return the policy that the router understands."""
        return Policy(
            candidates=None if self.candidates is None else tuple(self.candidates),
            exclude=tuple(self.exclude),
            max_cost_usd=self.max_cost_usd,
            strategy=self.strategy,
            willingness_to_pay_usd=self.willingness_to_pay_usd,
            route_anyway=self.route_anyway,
            fallback=self.fallback,
        )


class RouteRequest(WireModel):
    """Exactly one of ``prompt`` and ``messages``; everything else is optional."""

    prompt: Annotated[Text, StringConstraints(min_length=1, max_length=MAX_PROMPT_CHARS)] | None = Field(
        None, description="The prompt as one text."
    )
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)] | None = Field(
        None, description=f"OpenAI chat messages, oldest first; {MAX_PROMPT_CHARS} characters of text in all."
    )
    latency_budget_ms: float | None = Field(
        None, ge=1, le=10_000, description="Milliseconds from the request's arrival; null: the server's default."
    )
    policy: RequestPolicy | None = Field(None, description="Constraints and preferences of this request.")
    cache: bool = Field(True, description="The decision may be one that was made before for the same text and policy.")
    explain: bool = Field(False, description="Add the estimates, neighbours and exclusions behind the choice.")

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("one_prompt", "exactly one of prompt and messages is needed")
        if self.n_chars > MAX_PROMPT_CHARS:
            raise PydanticCustomError("too_long", f"messages have more than {MAX_PROMPT_CHARS} characters of text")
        return self

    @property
    def n_chars(self) -> int:
        """Characters of text in the request."""
        if self.prompt is not None:
            return len(self.prompt)
        return sum(len(text) for message in self.messages or () for text in message.texts())

    def to_prompt(self) -> str | Messages:
        """Return the prompt or the messages as the router takes them."""
        if self.prompt is not None:
            return self.prompt
        return [message.model_dump() for message in self.messages or ()]


class IntentAnswer(WireModel):
    """The intent read from the neighbours, and the shares of their weight and of their number that carry it."""

    label: str
    confidence: float
    neighbor_share: float


class CandidateAnswer(WireModel):
    """What one model is expected to be worth on this prompt."""

    model: str
    quality: float
    low: float
    high: float
    support: float
    cost_usd: float | None
    utility: float


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


class ExplanationAnswer(WireModel):
    """The evidence behind the choice."""

    candidates: list[CandidateAnswer]
    excluded: list[ExclusionAnswer]
    neighbors: list[NeighborAnswer]
    runner_up: RunnerUpAnswer | None
    summary: str


class RouteAnswer(WireModel):
    """The decision. ``fallbacks`` are best first; ``explanation`` is there only when asked for."""

    model: str
    reason: str
    intent: IntentAnswer | None
    quality: float | None
    cost_usd: float | None
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
    """Every answer that is not 200; nothing of the request is repeated in it."""

    error: ErrorContent


def error_body(kind: str, message: str, details: Iterable[tuple[str, str]] = ()) -> JsonObject:
    """Return the wire form of an error; details are pairs of field and message."""
    listed = [{"field": field, "message": text} for field, text in details]
    return {"error": {"type": kind, "message": message, "details": listed}}


def error_details(errors: Iterable[ErrorDetails]) -> list[tuple[str, str]]:
    """Return at most MAX_DETAILS pairs of field and message, from what pydantic found.

    An unknown field is reported at the object that holds it and not by its name, which the caller chose.
    """
    messages: dict[str, list[str]] = {}
    for error in errors:
        unknown = error["type"] == "extra_forbidden"
        path = _field_path(error["loc"][:-1] if unknown else error["loc"])
        message = f"has an unknown field; known: {_known_fields(path)}" if unknown else error["msg"]
        if message not in messages.setdefault(path, []):
            messages[path].append(message)
    return [(path, " or ".join(texts)) for path, texts in list(messages.items())[:MAX_DETAILS]]


def _field_path(location: tuple[int | str, ...]) -> str:
    """Leave out what pydantic adds for the members of a union, such as ``list[ContentPart]``."""
    return ".".join(str(part) for part in location if isinstance(part, int) or part in _FIELDS)


def _known_fields(path: str) -> str:
    model: type[BaseModel] = RequestPolicy if path == "policy" else RouteRequest
    return ", ".join(model.model_fields)


_FIELDS = {name for model in (RouteRequest, RequestPolicy, Message, ContentPart) for name in model.model_fields}


def component_schemas() -> JsonObject:
    """Return the JSON schemas of the request for the OpenAPI document's components."""
    schema: JsonObject = RouteRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    components: JsonObject = schema.pop("$defs")
    return {**components, "RouteRequest": schema}


REQUEST_EXAMPLES: dict[str, Any] = {
    "prompt": {
        "summary": "One text",
        "value": {"prompt": "Write a SQL query that lists the ten customers with the most orders last month."},
    },
    "messages": {
        "summary": "A conversation, with a budget of 10 ms",
        "value": {
            "messages": [
                {"role": "system", "content": "You are a patient maths tutor."},
                {"role": "user", "content": "Prove that the square root of 2 is irrational."},
            ],
            "latency_budget_ms": 10,
        },
    },
    "policy": {
        "summary": "Two candidates, a cost ceiling, and the reasons",
        "value": {
            "prompt": "Translate 'good morning' into Portuguese.",
            "policy": {"candidates": ["small-fast", "coder-medium"], "max_cost_usd": 0.002, "fallback": "small-fast"},
            "explain": True,
        },
    },
}

ANSWER_EXAMPLE: JsonObject = {
    "model": "coder-medium",
    "reason": "best",
    "intent": {"label": "code", "confidence": 0.8123, "neighbor_share": 0.74},
    "quality": 0.713204,
    "cost_usd": 0.00042,
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
