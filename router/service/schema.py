"""The wire: what a request may hold, and the examples of it in the API documentation; it is validated with these."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from router.needs import Hints, needs_of
from router.service.answers import WireModel
from router.types import DEFAULT_SWITCH_MARGIN, JsonObject, Messages, Needs, Policy

MAX_PROMPT_CHARS = 1_000_000
MAX_MESSAGES = 1_000
MAX_NAMES = 1_000
MAX_NAME_CHARS = 256
MAX_TOOLS = 1_000
MAX_CONTEXT_TOKENS = 100_000_000
MAX_USD = 1e9
MAX_MS = 1e9
MAX_DETAILS = 20


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("nul", "must not have a NUL character")
    return text


def printable(text: str) -> str:
    """Return a text of printable characters; raise the error of any other."""
    if not text.isprintable():
        raise PydanticCustomError("printable", "must have printable characters alone")
    return text


Text = Annotated[str, AfterValidator(_without_nul)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS), AfterValidator(_without_nul)]
# What is kept and shown by other programs.
PlainName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS), AfterValidator(printable)]
Names = Annotated[list[Name], Field(max_length=MAX_NAMES, fail_fast=True)]
Usd = Annotated[float, Field(ge=0, le=MAX_USD)]
Ms = Annotated[float, Field(ge=0, le=MAX_MS)]
Share = Annotated[float, Field(ge=0, le=1)]


class ContentPart(WireModel):
    """One part of a message's content; parts that are no text are accepted and not read."""

    model_config = ConfigDict(extra="ignore")

    type: str = "text"
    text: Text | None = None


class Message(WireModel):
    """One OpenAI chat message, with what of it is embedded; what else it asks of a model is read by ``to_needs``."""

    model_config = ConfigDict(extra="ignore")

    role: Name
    content: Text | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None

    def texts(self) -> list[str]:
        """Return the message's texts, in order."""
        if isinstance(self.content, list):
            return [part.text for part in self.content if part.text is not None]
        return [] if self.content is None else [self.content]


class RequestPolicy(WireModel):
    """What this request asks of the choice: constraints, and preferences between the models left."""

    candidates: Names | None = Field(None, description="The only models allowed; null: all.")
    exclude: Names = Field([], description="Models not allowed.")
    require: Names = Field([], description="Capabilities that a model's profile must name, such as vision or tools.")
    role: Name | None = Field(None, description="A role that a model's profile must name, such as planner.")
    local_only: bool = Field(False, description="Only endpoints known to be local.")
    region: Name | Annotated[list[Name], Field(min_length=1, max_length=MAX_NAMES, fail_fast=True)] | None = Field(
        None, description="Only endpoints known to be in this region, or in one of these."
    )
    max_cost_usd: Usd | None = Field(None, description="Ceiling of the expected cost of the answer, in USD.")
    max_latency_ms: Ms | None = Field(None, description="Ceiling of the expected time of the model's answer, in ms.")
    min_uptime: Share | None = Field(None, description="Floor of the endpoint's uptime.")
    strategy: Literal["quality", "balanced", "cheap", "fast", "private"] | None = Field(
        None, description="A named trade-off; null: the one that the artifact's verdict is about."
    )
    willingness_to_pay_usd: Usd | None = Field(
        None, description="USD that one whole unit of quality is worth, instead of a strategy."
    )
    willingness_to_wait_ms: Ms | None = Field(
        None, description="Milliseconds of the answer that one whole unit of quality is worth, instead of a strategy."
    )
    min_gain: Share = Field(0.0, description="Lead in utility below which the best fixed model answers.")
    switch_margin: Share = Field(
        DEFAULT_SWITCH_MARGIN, description="Lead in utility above which a session changes its model."
    )
    explore_share: Share = Field(0.0, description="Share of decisions that take any allowed model at random.")
    route_anyway: bool = Field(False, description="Use the neighbours even where the verdict is not ROUTE.")
    fallback: Name | None = Field(None, description="Model to answer with when nothing is left, instead of an error.")

    @model_validator(mode="after")
    def _one_trade_off(self) -> "RequestPolicy":
        for name in ("willingness_to_pay_usd", "willingness_to_wait_ms"):
            if self.strategy is not None and getattr(self, name) is not None:
                raise PydanticCustomError("one_trade_off", "strategy and {name} exclude each other", {"name": name})
        return self

    def to_policy(self) -> Policy:
        """Return the policy that the router understands."""
        return Policy(
            candidates=None if self.candidates is None else tuple(self.candidates),
            exclude=tuple(self.exclude),
            require=tuple(self.require),
            role=self.role,
            local_only=self.local_only,
            region=(self.region,) if isinstance(self.region, str) else tuple(self.region) if self.region else None,
            max_cost_usd=self.max_cost_usd,
            max_latency_ms=self.max_latency_ms,
            min_uptime=self.min_uptime,
            strategy=self.strategy,
            willingness_to_pay_usd=self.willingness_to_pay_usd,
            willingness_to_wait_ms=self.willingness_to_wait_ms,
            min_gain=self.min_gain,
            switch_margin=self.switch_margin,
            explore_share=self.explore_share,
            route_anyway=self.route_anyway,
            fallback=self.fallback,
        )


class RequestHints(WireModel):
    """What the caller says of content that it does not send."""

    context_tokens: Annotated[int, Field(ge=0, le=MAX_CONTEXT_TOKENS)] = Field(
        0, description="Tokens of all that the model will read; what is sent counts, too, and the larger number holds."
    )
    has_images: bool = Field(False, description="The model will see images.")
    has_tools: bool = Field(False, description="The model will be given tools.")


class ResponseFormat(WireModel):
    """The form of the answer, as in OpenAI's API; only its type is read."""

    model_config = ConfigDict(extra="ignore")

    type: Name = Field(description="json_object, json_schema or another that begins with json; or text.")


def _policy_form(value: object) -> str:
    return "by-name" if isinstance(value, str) else "in-full"


class PromptRequest(WireModel):
    """What may hold a prompt, or messages instead."""

    prompt: Annotated[Text, StringConstraints(min_length=1, max_length=MAX_PROMPT_CHARS)] | None = Field(
        None, description="The prompt as one text."
    )
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)] | None = Field(
        None, description=f"OpenAI chat messages, oldest first; {MAX_PROMPT_CHARS} characters of text in all."
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.messages is not None and self.n_chars > MAX_PROMPT_CHARS:
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


class RouteRequest(PromptRequest):
    """Exactly one of ``prompt`` and ``messages``; everything else is optional."""

    latency_budget_ms: float | None = Field(
        None, ge=1, le=10_000, description="Milliseconds from the request's arrival; null: the server's default."
    )
    # The tags keep pydantic from trying both, and telling of what is wrong with either.
    policy: (
        Annotated[
            Annotated[RequestPolicy, Tag("in-full")] | Annotated[Name, Tag("by-name")], Discriminator(_policy_form)
        ]
        | None
    ) = Field(None, description="Constraints and preferences of this request, or the name of a configured policy.")
    session_id: Name | None = Field(
        None, description="The conversation, which stays with its model unless another one leads by a margin."
    )
    application: Name | None = Field(None, description="Who asks: policies can be bound to it.")
    role: Name | None = Field(None, description="On whose behalf: policies can be bound to it.")
    task: Name | None = Field(
        None,
        description="What it is about, instead of the intent read from the neighbours: policies can be bound to it.",
    )
    tools: Annotated[list[Any], Field(max_length=MAX_TOOLS)] | None = Field(
        None, description="The tools that the model will be given; only whether there are any is read."
    )
    response_format: ResponseFormat | None = Field(None, description="A form of JSON requires a model to have it.")
    hints: RequestHints | None = Field(None, description="What the prompt holds that is not sent.")
    user: PlainName | None = Field(
        None, description="Whose prompt it is: kept with a decision that may be judged, so that it can be deleted."
    )
    feedback: bool | None = Field(
        None, description="Keep the decision to be judged, or do not; null: as the server is set."
    )
    cache: bool = Field(True, description="The decision may be one that was made before for the same text and policy.")
    explain: bool = Field(False, description="Add the estimates, neighbours and exclusions behind the choice.")

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("one_prompt", "exactly one of prompt and messages is needed")
        return self

    def to_needs(self, sent: JsonObject) -> Needs | None:
        """Return what the request asks of a model; None where the prompt is all.

        sent: the request as it was validated: what is left out here, images and what tools were called with and gave,
        is paid for and has to fit, too.
        """
        if self.messages is None and self.tools is None and self.response_format is None and self.hints is None:
            return None
        said = None if self.hints is None else Hints(**self.hints.__dict__)
        needs = needs_of(self.prompt or sent["messages"], tools=self.tools or (), hints=said)
        if self.response_format is None or not self.response_format.type.startswith("json"):
            return needs
        return replace(needs, capabilities=tuple(sorted({*needs.capabilities, "json"})))


def error_details(errors: Iterable[ErrorDetails], request: type[BaseModel] | None = None) -> list[tuple[str, str]]:
    """Return at most MAX_DETAILS pairs of field and message, from what pydantic found in a request (RouteRequest).

    An unknown field is reported at the object that holds it and not by its name, which the caller chose.
    """
    messages: dict[str, list[str]] = {}
    for error in errors:
        unknown = error["type"] == "extra_forbidden"
        names = _FIELDS if request is None else {*request.model_fields, *_FIELDS}
        path = _field_path(error["loc"][:-1] if unknown else error["loc"], names)
        known = _BY_PATH.get(path, request or RouteRequest).model_fields
        message = f"has an unknown field; known: {', '.join(known)}" if unknown else error["msg"]
        if message not in messages.setdefault(path, []):
            messages[path].append(message)
    return [(path, " or ".join(texts)) for path, texts in list(messages.items())[:MAX_DETAILS]]


def _field_path(location: tuple[int | str, ...], names: Collection[str]) -> str:
    """Leave out what pydantic adds for the members of a union, such as ``list[ContentPart]``."""
    return ".".join(str(part) for part in location if isinstance(part, int) or part in names)


_BY_PATH: dict[str, type[BaseModel]] = {"policy": RequestPolicy, "hints": RequestHints}
_FIELDS = {
    name
    for model in (RouteRequest, RequestPolicy, RequestHints, ResponseFormat, Message, ContentPart)
    for name in model.model_fields
}


def component_schemas() -> JsonObject:
    """Return the JSON schemas of the request for the OpenAPI document's components."""
    return schemas_of(RouteRequest)


def schemas_of(request: type[BaseModel]) -> JsonObject:
    """Return the JSON schema of a request and of all its parts, by name."""
    schema: JsonObject = request.model_json_schema(ref_template="#/components/schemas/{model}")
    components: JsonObject = schema.pop("$defs", {})
    return {**components, request.__name__: schema}


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
    "session": {
        "summary": "One turn of a session with tools, for a planner, whose answer is to be JSON and short of waiting",
        "value": {
            "messages": [{"role": "user", "content": "Plan three days around the lagoon."}],
            "session_id": "trip-17",
            "application": "travel-desk",
            "role": "planner",
            "task": "itinerary",
            "tools": [{"type": "function", "function": {"name": "find_hotels"}}],
            "response_format": {"type": "json_object"},
            "hints": {"context_tokens": 12_000},
            "policy": {"strategy": "fast", "switch_margin": 0.1, "fallback": "small-fast"},
        },
    },
}
