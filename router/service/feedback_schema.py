"""The wire of POST /feedback: what a request may hold, and the examples shown in the API documentation."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from router.errors import FeedbackError
from router.feedback.events import (
    MAX_AMOUNT,
    MAX_IDEMPOTENCY_CHARS,
    MAX_METADATA_BYTES,
    VERDICTS,
    WINNERS,
    Battle,
    Details,
    Outcome,
    Score,
    Verdict,
)
from router.service.answers import WireModel
from router.service.schema import PlainName, PromptRequest, Share, printable
from router.types import JsonObject

# What a request must have, and nothing else of it: one of these.
FORMS = (
    ("decision_id", "rating"),
    ("decision_id", "winner", "against"),
    ("prompt", "model_a", "model_b", "winner"),
    ("prompt", "model", "score"),
)
_OF_FORMS = frozenset(name for form in FORMS for name in form)
_FORMS = frozenset(frozenset(form) for form in FORMS)
# Of the fields that hold amounts, what events call them.
AMOUNTS = {"cost_usd": "costs_usd", "latency_ms": "latencies_ms", "output_tokens": "output_tokens"}


def _checked_metadata(metadata: JsonObject) -> JsonObject:
    try:
        Details(metadata=metadata)
    except FeedbackError as exc:
        raise PydanticCustomError("metadata", "{what}", {"what": str(exc).partition(": ")[2]}) from exc
    return metadata


Amount = Annotated[float, Field(ge=0, le=MAX_AMOUNT)]
Amounts = Amount | Annotated[dict[PlainName, Amount], Field(max_length=2)] | None
Key = Annotated[str, StringConstraints(min_length=1, max_length=MAX_IDEMPOTENCY_CHARS), AfterValidator(printable)]


@dataclass(frozen=True, slots=True)
class Report:
    """A battle or a score that belongs to no decision, and what came with it."""

    outcome: Outcome
    details: Details


class FeedbackRequest(PromptRequest):
    """A verdict on a decision, or what was found of models on a prompt: one of FORMS; everything else is optional."""

    decision_id: PlainName | None = Field(None, description="The decision that is judged, as its answer named it.")
    rating: Share | None = Field(None, description="How good the answer of the decision's model was.")
    winner: Literal["decision", "other", "model_a", "model_b", "tie", "both_bad"] | None = Field(
        None,
        description="Who won: of a decision against another model, decision, other, tie or both_bad; of a battle, "
        "model_a, model_b, tie or both_bad.",
    )
    against: PlainName | None = Field(None, description="The other model that the decision's was compared with.")
    model_a: PlainName | None = Field(None, description="One model of a battle.")
    model_b: PlainName | None = Field(None, description="The other.")
    model: PlainName | None = Field(None, description="The model of a score.")
    score: Share | None = Field(None, description="How good its answer was.")
    cost_usd: Amounts = Field(
        None, description="USD of the call, of the decision's or the score's model; or an object of models."
    )
    latency_ms: Amounts = Field(None, description="Milliseconds of the call, likewise.")
    output_tokens: Amounts = Field(None, description="Tokens of the answer, likewise.")
    user: PlainName | None = Field(None, description="Whose prompt it was.")
    metadata: Annotated[JsonObject, AfterValidator(_checked_metadata)] | None = Field(
        None, description=f"Anything else, at most {MAX_METADATA_BYTES:,} bytes: kept, given back, never looked at."
    )
    idempotency_key: Key | None = Field(
        None, description="The same key with the same content is the same feedback; or the header Idempotency-Key."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = {name for name in self.model_fields_set & _OF_FORMS if getattr(self, name) is not None}
        if self.messages is not None:
            if self.prompt is not None:
                raise PydanticCustomError("one_prompt", "at most one of prompt and messages is taken")
            given.add("prompt")
        if given not in _FORMS:
            forms = "; ".join(", ".join(form) for form in FORMS)
            raise PydanticCustomError(
                "one_form", f"must have the fields of one of: {forms} (messages may take the place of prompt)"
            )
        if self.winner is not None:
            allowed = WINNERS if self.decision_id is None else VERDICTS
            if self.winner not in allowed:
                raise PydanticCustomError("winner", f"winner must be one of {', '.join(allowed)} here")
            if self.model_a is not None and self.model_a == self.model_b:
                raise PydanticCustomError("two_models", "model_a and model_b must be two different models")
        judged = {one for one in (self.model_a, self.model_b, self.model) if one is not None}
        for name in AMOUNTS:
            amount = getattr(self, name)
            if isinstance(amount, float) and self.model_a is not None:
                raise PydanticCustomError("whose", f"{name} must be an object of models: a battle has two")
            if judged and isinstance(amount, dict) and not judged >= amount.keys():
                raise PydanticCustomError("whose", f"{name} names a model that was not judged")
        return self

    def to_verdict(self, key: str | None) -> Verdict:
        """Return the verdict on a decision that this is; key: the idempotency key."""
        own = {name: amount for name in AMOUNTS if isinstance(amount := getattr(self, name), float)}
        return Verdict(
            str(self.decision_id),
            rating=self.rating,
            against=self.against,
            winner=self.winner,
            details=self._details({}, key),
            **own,
        )

    def to_report(self, key: str | None) -> Report:
        """Return the battle or score that this is; key: the idempotency key."""
        if self.model_a is not None:
            outcome: Outcome = Battle(self.model_a, str(self.model_b), str(self.winner))
            return Report(outcome, self._details({}, key))
        own: dict[str, Any] = {
            AMOUNTS[name]: {self.model: amount} for name in AMOUNTS if isinstance(amount := getattr(self, name), float)
        }
        return Report(Score(str(self.model), float(self.score or 0.0)), self._details(own, key))

    def _details(self, own: dict[str, Any], key: str | None) -> Details:
        by_model = {AMOUNTS[name]: amount for name in AMOUNTS if isinstance(amount := getattr(self, name), dict)}
        return Details(**own, **by_model, user=self.user, metadata=self.metadata, idempotency_key=key)


class FeedbackAnswer(WireModel):
    """The feedback is on the disk. sequence: its number. duplicate: it had been sent before and was not added again."""

    sequence: int
    duplicate: bool


FEEDBACK_EXAMPLES: dict[str, Any] = {
    "rating": {
        "summary": "How good the answer of the model that was decided for was",
        "value": {
            "decision_id": "jQwPbJpfTV-Kbmxgav1p9YpXx9wCAdH4s0r6mQp0m1Qe3zVx8Hk",
            "rating": 0.8,
            "cost_usd": 0.0021,
            "output_tokens": 412,
            "metadata": {"page": "billing"},
        },
    },
    "verdict": {
        "summary": "Another model did better",
        "value": {
            "decision_id": "jQwPbJpfTV-Kbmxgav1p9YpXx9wCAdH4s0r6mQp0m1Qe3zVx8Hk",
            "winner": "other",
            "against": "large-careful",
        },
    },
    "battle": {
        "summary": "Two models on a prompt that was not routed",
        "value": {
            "prompt": "Translate 'good morning' into Portuguese.",
            "model_a": "small-fast",
            "model_b": "coder-medium",
            "winner": "tie",
            "latency_ms": {"small-fast": 310, "coder-medium": 900},
            "user": "ann",
        },
    },
    "score": {
        "summary": "How good one model was",
        "value": {"prompt": "Plan three days around the lagoon.", "model": "small-fast", "score": 0.5},
    },
}
