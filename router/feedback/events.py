"""The nouns of feedback: decisions that wait for a verdict, what was found of models, and the events that are kept."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from router.errors import FeedbackError
from router.prompt import prompt_hash
from router.types import JsonObject

WINNERS = ("model_a", "model_b", "tie", "both_bad")
VERDICTS = ("decision", "other", "tie", "both_bad")
MAX_PROMPT_BYTES = 1_000_000  # as in training: what it would refuse is not worth keeping
MAX_METADATA_BYTES = 2_048
MAX_NAME_CHARS = 256
MAX_IDEMPOTENCY_CHARS = 128
MAX_VECTOR_BYTES = 65_536
MAX_SURFACE_BYTES = 4_096
MAX_AMOUNT = 1e12


@dataclass(frozen=True, slots=True)
class Vector:
    """A prompt as one encoder sees it. data: float32, little-endian; encoder_id: as in encoder.json's pins."""

    encoder_id: str
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Raise FeedbackError for bytes that are no float32 values, or too many."""
        _check_name("encoder_id", self.encoder_id)
        if not self.data or len(self.data) % 4 or len(self.data) > MAX_VECTOR_BYTES:
            raise FeedbackError(
                f"vector of {self.encoder_id}: got {len(self.data)} bytes, expected float32 values, 4 bytes each, "
                f"and at most {MAX_VECTOR_BYTES}"
            )


@dataclass(frozen=True, slots=True)
class Surface:
    """How a prompt is written. rule: what computed it (router.features.FEATURES). data: float64, little-endian.

    With a vector it places a prompt among the rows of an artifact, without its text.
    """

    rule: str
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Raise FeedbackError for bytes that are no float64 values, or too many."""
        _check_name("surface rule", self.rule)
        if not self.data or len(self.data) % 8 or len(self.data) > MAX_SURFACE_BYTES:
            raise FeedbackError(
                f"surface of {self.rule}: got {len(self.data)} bytes, expected float64 values, 8 bytes each, "
                f"and at most {MAX_SURFACE_BYTES}"
            )


@dataclass(frozen=True, slots=True)
class Battle:
    """Two models on one prompt, and who won: one of WINNERS."""

    model_a: str
    model_b: str
    winner: str

    def __post_init__(self) -> None:
        """Raise FeedbackError for an unknown winner, a name that is none, or a model against itself."""
        _check_name("model_a", self.model_a)
        _check_name("model_b", self.model_b)
        if self.model_a == self.model_b:
            raise FeedbackError(f"model_b: got {self.model_b!r} on both sides, expected two different models")
        if self.winner not in WINNERS:
            raise FeedbackError(f"winner: got {_shown(self.winner)}, expected one of {', '.join(WINNERS)}")

    @property
    def models(self) -> tuple[str, ...]:
        """Both models."""
        return self.model_a, self.model_b


@dataclass(frozen=True, slots=True)
class Score:
    """How good one model's answer was: 0..1."""

    model: str
    score: float

    def __post_init__(self) -> None:
        """Raise FeedbackError for a score outside of 0..1 or a name that is none."""
        _check_name("model", self.model)
        _check_number("score", self.score, most=1.0)

    @property
    def models(self) -> tuple[str, ...]:
        """The one model."""
        return (self.model,)


Outcome = Battle | Score


@dataclass(frozen=True, slots=True)
class Details:
    """What may come with any feedback, from whoever gives it.

    costs_usd, latencies_ms, output_tokens: {model: value} of the calls that were judged. user: who asked. metadata: a
    JSON object of at most 2,048 bytes, kept and given back, never looked at. idempotency_key: the same key with the
    same content is the same event, however often it is sent.
    """

    costs_usd: Mapping[str, float] | None = None
    latencies_ms: Mapping[str, float] | None = None
    output_tokens: Mapping[str, float] | None = None
    user: str | None = None
    metadata: JsonObject | None = None
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
        """Raise FeedbackError, saying what was got and wanted, for anything that is not as described."""
        for name in ("costs_usd", "latencies_ms", "output_tokens"):
            for model, value in (getattr(self, name) or {}).items():
                _check_name(name, model)
                _check_number(f"{name} of {model}", value)
        if self.user is not None:
            _check_name("user", self.user)
        if self.idempotency_key is not None:
            _check_name("idempotency_key", self.idempotency_key, MAX_IDEMPOTENCY_CHARS)
        if self.metadata is not None:
            _check_metadata(self.metadata)


NOTHING_ELSE = Details()


@dataclass(frozen=True, slots=True)
class PendingDecision:
    """A decision that was given out and may still be judged.

    decision_id: signed (signing.py). created_s, expires_s: seconds since 1970. key_id: whose request it was.
    vectors: of every tier that encoded the prompt. propensity: the probability with which the model was chosen.
    quality: what was expected of it, 0..1. prompt: None unless somebody opted in to keeping it.
    """

    decision_id: str
    created_s: float
    expires_s: float
    key_id: str
    artifact_id: str
    tier: str
    candidates: tuple[str, ...]
    model: str
    propensity: float
    prompt_hash: str
    prompt: str | None = field(default=None, repr=False)
    intent: str | None = None
    user: str | None = None
    vectors: tuple[Vector, ...] = ()
    surface: Surface | None = None
    quality: float | None = None

    def __post_init__(self) -> None:
        """Raise FeedbackError for names or numbers that are none."""
        for name in ("decision_id", "key_id", "artifact_id", "tier", "model", "prompt_hash"):
            _check_name(name, getattr(self, name))
        for name in ("user", "intent"):
            if getattr(self, name) is not None:
                _check_name(name, getattr(self, name))
        _check_models(self.candidates)
        _check_number("propensity", self.propensity, most=1.0)
        if self.quality is not None:
            _check_number("quality", self.quality, most=1.0)
        if self.prompt is not None:
            check_prompt(self.prompt)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What somebody says of a decision: a rating of its model in 0..1, or who won against another model.

    winner: one of VERDICTS, with ``against``, the other model; 'decision' is the model that was decided for. cost_usd,
    latency_ms, output_tokens: of that model, for who does not know its name; ``details`` have them by name.
    """

    decision_id: str
    rating: float | None = None
    against: str | None = None
    winner: str | None = None
    details: Details = NOTHING_ELSE
    cost_usd: float | None = None
    latency_ms: float | None = None
    output_tokens: float | None = None

    def __post_init__(self) -> None:
        """Raise FeedbackError unless there is either a rating, or a winner and against whom."""
        if (self.rating is None) == (self.winner is None) or (self.winner is None) != (self.against is None):
            raise FeedbackError("verdict: expected either a rating, or a winner and the model it is against")
        if self.rating is not None:
            _check_number("rating", self.rating, most=1.0)
        if self.against is not None:
            _check_name("against", self.against)
        if self.winner is not None and self.winner not in VERDICTS:
            raise FeedbackError(f"winner: got {_shown(self.winner)}, expected one of {', '.join(VERDICTS)}")

    def on(self, decided: PendingDecision, judge: str, received_s: float) -> "FeedbackEvent":
        """Return the event that this verdict on its decision is.

        Raises:
            FeedbackError: the other model is the decision's own, or the decision was made for another user.
        """
        if self.rating is not None:
            outcome: Outcome = Score(decided.model, self.rating)
        else:
            winner = {"decision": "model_a", "other": "model_b"}.get(str(self.winner), str(self.winner))
            outcome = Battle(decided.model, str(self.against), winner)
        if None not in (decided.user, self.details.user) and decided.user != self.details.user:
            raise FeedbackError(f"user: got {self.details.user!r}, but the decision was made for another one")
        return FeedbackEvent(
            received_s=received_s,
            judge=judge,
            outcome=outcome,
            prompt_hash=decided.prompt_hash,
            prompt=decided.prompt,
            details=self._details_of(decided),
            decision_id=self.decision_id,
            artifact_id=decided.artifact_id,
            tier=decided.tier,
            intent=decided.intent,
            candidates=decided.candidates,
            propensity=decided.propensity,
            vectors=decided.vectors,
            surface=decided.surface,
            quality=decided.quality,
        )

    def _details_of(self, decided: PendingDecision) -> Details:
        """Return the details with the user of the decision, and with the amounts of its model under its name."""
        own: dict[str, Any] = {}
        if self.details.user is None and decided.user is not None:
            own["user"] = decided.user
        for name, amount in (
            ("costs_usd", self.cost_usd),
            ("latencies_ms", self.latency_ms),
            ("output_tokens", self.output_tokens),
        ):
            if amount is not None:
                own[name] = {**(getattr(self.details, name) or {}), decided.model: amount}
        return replace(self.details, **own) if own else self.details


@dataclass(frozen=True, slots=True)
class FeedbackEvent:
    """One thing that was found of models on a prompt, as the store keeps it.

    received_s: seconds since 1970. judge: id of the API key that gave it. What follows decision_id is the decision's,
    where the event is a verdict on one, but for vectors and surface, which any event may have.
    """

    received_s: float
    judge: str
    outcome: Outcome
    prompt_hash: str
    prompt: str | None = field(default=None, repr=False)
    details: Details = NOTHING_ELSE
    decision_id: str | None = None
    artifact_id: str | None = None
    tier: str | None = None
    intent: str | None = None
    candidates: tuple[str, ...] = ()
    propensity: float | None = None
    vectors: tuple[Vector, ...] = ()
    surface: Surface | None = None
    quality: float | None = None

    def __post_init__(self) -> None:
        """Raise FeedbackError for names or text that are none, or amounts of models that the outcome does not name."""
        _check_number("received_s", self.received_s)
        for name in ("judge", "prompt_hash"):
            _check_name(name, getattr(self, name))
        for name in ("decision_id", "artifact_id", "tier", "intent"):
            if getattr(self, name) is not None:
                _check_name(name, getattr(self, name))
        for name in ("propensity", "quality"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), most=1.0)
        _check_models(self.candidates)
        if self.prompt is not None:
            check_prompt(self.prompt)
        for name in ("costs_usd", "latencies_ms", "output_tokens"):
            others = sorted(set(getattr(self.details, name) or ()) - set(self.outcome.models))
            if others:
                raise FeedbackError(f"{name}: got {others[0]!r}, expected only {' and '.join(self.outcome.models)}")

    @classmethod
    def of_prompt(
        cls,
        prompt: str,
        outcome: Outcome,
        *,
        judge: str,
        received_s: float,
        details: Details = NOTHING_ELSE,
        vectors: tuple[Vector, ...] = (),
        surface: Surface | None = None,
        keep_text: bool = True,
    ) -> "FeedbackEvent":
        """Return a free-standing event: a battle or a score that belongs to no decision.

        Raises:
            FeedbackError: the prompt is empty, too long or no text.
        """
        check_prompt(prompt)  # before it is hashed
        return cls(
            received_s=received_s,
            judge=judge,
            outcome=outcome,
            prompt_hash=prompt_hash(prompt),
            prompt=prompt if keep_text else None,
            details=details,
            vectors=vectors,
            surface=surface,
        )

    @property
    def user(self) -> str | None:
        """Who asked the prompt."""
        return self.details.user

    @property
    def kind(self) -> str:
        """What it is: 'verdict', 'battle' or 'score'."""
        if self.decision_id is not None:
            return "verdict"
        return "battle" if isinstance(self.outcome, Battle) else "score"

    def to_canonical(self) -> JsonObject:
        """Return the row that training reads (docs/formats.md); without text, there is its hash instead of it."""
        row: JsonObject = {"prompt_hash": self.prompt_hash} if self.prompt is None else {"prompt": self.prompt}
        if isinstance(self.outcome, Battle):
            row.update(model_a=self.outcome.model_a, model_b=self.outcome.model_b, winner=self.outcome.winner)
        else:
            row["scores"] = {self.outcome.model: self.outcome.score}
        optional: JsonObject = {
            "cost_usd": self.details.costs_usd,
            "latency_ms": self.details.latencies_ms,
            "output_tokens": self.details.output_tokens,
            "intent": self.intent,
            "user": self.user,
            "propensity": self.propensity,
        }
        row.update({name: value for name, value in optional.items() if value is not None})
        return {**row, "judge": self.judge, "timestamp": round(self.received_s, 3)}


def check_prompt(prompt: str) -> None:
    """Raise FeedbackError for a prompt that training would refuse: blank, too long, half characters or a NUL."""
    raw = _utf8("prompt", prompt)
    if not prompt.strip():
        raise FeedbackError("prompt: got no text, expected some")
    if "\0" in prompt:
        raise FeedbackError("prompt: got a NUL character, expected text")
    if len(raw) > MAX_PROMPT_BYTES:
        raise FeedbackError(f"prompt: got {len(raw)} bytes, expected at most {MAX_PROMPT_BYTES}")


def _check_name(what: str, name: object, most_chars: int = MAX_NAME_CHARS) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= most_chars or not name.isprintable():
        raise FeedbackError(f"{what}: got {_shown(name)}, expected 1 to {most_chars} printable characters")


def _check_number(what: str, value: object, most: float = MAX_AMOUNT) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        raise FeedbackError(f"{what}: got {_shown(value)}, expected a number in 0..{most:g}")


def _check_models(models: tuple[str, ...]) -> None:
    if not "".join(models).isprintable() or not all(models):  # all at once: every decision comes by here
        raise FeedbackError("candidates: got a name that is empty or not printable, expected names of models")


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict):
        raise FeedbackError(f"metadata: got a {type(metadata).__name__}, expected a JSON object")
    try:
        text = json.dumps(metadata, allow_nan=False, ensure_ascii=False)
        same = json.loads(text) == metadata  # a number as a key, or a tuple, would come back as something else
    except (TypeError, ValueError, RecursionError) as exc:
        raise FeedbackError(f"metadata: expected a JSON object: {exc}") from exc
    if not same:
        raise FeedbackError("metadata: expected a JSON object, of lists and of objects with strings as keys")
    n_bytes = len(_utf8("metadata", text))
    if n_bytes > MAX_METADATA_BYTES:
        raise FeedbackError(f"metadata: got {n_bytes} bytes as JSON, expected at most {MAX_METADATA_BYTES}")


def _utf8(what: str, text: object) -> bytes:
    if not isinstance(text, str):
        raise FeedbackError(f"{what}: got a {type(text).__name__}, expected text")
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise FeedbackError(f"{what}: got half a character (a lone surrogate), expected text") from exc


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
