"""The rules that hold for every row of every format: what a prompt, a winner, a score, a name may be.

Readers hand their rows to an Intake, which keeps them as Comparisons, drops them by a counted rule, or refuses
them with a reason. No format is known here.
"""

import datetime as dt
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from router.errors import DataError, PromptError
from router.prompt import TURN_SEPARATOR, fold_messages
from training.comparisons import Column, Comparison, Kept, PreferenceLog, Refusal, SourceSummary
from training.sources.files import Table, Values, parse_json

MAX_PROMPT_BYTES = 1_000_000
MAX_NAME_CHARS = 256
MILLISECONDS_FROM = 1e11
"""Timestamps above this are milliseconds: as seconds they would lie beyond the year 5138, as milliseconds in 1973."""
LATEST_MS = 1e14

SELF_BATTLES = "self-battles dropped"
NOT_SCORED = "empty or NaN scores taken as not scored"
DROPPED = "rows dropped with dropped models"
NOT_ASKED = "rows dropped with models that were not asked for"
MERGED = "scores averaged because two names became one model"
CUT_OFF = "scores of dropped models, or of models not asked for, left out"

WINNER_SPELLINGS = {
    "model_a": "model_a",
    "a": "model_a",
    "model_b": "model_b",
    "b": "model_b",
    "tie": "tie",
    "tie (bothbad)": "both_bad",
    "tie (both bad)": "both_bad",
    "both_bad": "both_bad",
    "bothbad": "both_bad",
    "both bad": "both_bad",
}
_SECONDS = re.compile(r"\s*-?\d+(\.\d*)?(e\+?\d+)?\s*", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class RowError(ValueError):
    """One row is not usable; the text says what is wrong and what was expected."""


@dataclass(slots=True)
class Details:
    """The optional fields of a row, checked. Amounts are {model as the source names it: value}."""

    intent: str | None = None
    costs_usd: Mapping[str, float] = field(default_factory=dict)
    latencies_ms: Mapping[str, float] = field(default_factory=dict)
    output_tokens: Mapping[str, float] = field(default_factory=dict)
    weight: float = 1.0
    judge: str | None = None
    user: str | None = None
    timestamp: float | None = None


@dataclass(slots=True)
class Reading:
    """What a reader says of a source once it is through: its columns, how many of its rows were kept.

    ``also``: the files that were read along with it.
    """

    columns: tuple[Column, ...]
    n_kept: int
    also: tuple[SourceSummary, ...] = ()


@dataclass(slots=True)
class Intake:
    """Collects the comparisons of one or more sources under the options of one load.

    ``models`` and ``drop_models`` hold names after the aliases; ``names_seen`` holds the sources' own names.
    """

    log: PreferenceLog = field(default_factory=PreferenceLog)
    aliases: Mapping[str, str] = field(default_factory=dict)
    drop_models: frozenset[str] = frozenset()
    models: frozenset[str] | None = None
    fail_on_bad_row: bool = False
    names_seen: set[str] = field(default_factory=set)

    def note(self, rule: str, count: int = 1) -> None:
        """Count one application of a rule."""
        self.log.notes[rule] = self.log.notes.get(rule, 0) + count

    def refuse(self, where: str, message: str) -> None:
        """Record a row that is not usable.

        Raises:
            DataError: bad rows were not to be skipped.
        """
        refusal = Refusal(where, message)
        if self.fail_on_bad_row:
            raise DataError(str(refusal))
        self.log.refusals.append(refusal)

    def is_model(self, column: str) -> bool:
        """True when the caller named this column, by its own name or its alias, as one of the models."""
        return self.models is not None and self.rename(column) in self.models

    def rename(self, name: str) -> str:
        """Return the model's name after the aliases."""
        return self.aliases.get(name, name)

    def keep_last(self, kept: Kept) -> None:
        """Put into the comparison that was taken last what takes the place of its text."""
        self.log.comparisons[-1] = replace(self.log.comparisons[-1], kept=kept)

    def battle(self, where: str, prompt: str, model_a: Any, model_b: Any, winner: Any, details: Details) -> bool:
        """Keep one battle; False when a rule drops it.

        Raises:
            RowError: a model or the winner is missing or not understood.
        """
        raw_a, raw_b = self._name(model_a, "model_a"), self._name(model_b, "model_b")
        outcome = read_winner(winner, raw_a, raw_b)
        name_a, name_b = self.rename(raw_a), self.rename(raw_b)
        if name_a == name_b:
            self.note(SELF_BATTLES)
            return False
        for name in (name_a, name_b):
            if not self._wanted(name):
                self.note(DROPPED if name in self.drop_models else NOT_ASKED)
                return False
        self._keep(where, prompt, details, (name_a, name_b), model_a=name_a, model_b=name_b, winner=outcome)
        return True

    def scored(self, where: str, prompt: str, scores: Mapping[str, Any], details: Details) -> bool:
        """Keep one scored row; False when a rule leaves none of its models.

        Raises:
            RowError: a score lies outside 0..1 or is no number, or there is no usable score at all.
        """
        found = self.merge(self.read_scores(scores), MERGED)
        if not found:
            raise RowError("no usable score, expected at least one number in 0..1")
        wanted = {name: score for name, score in found.items() if self._wanted(name)}
        if len(wanted) < len(found):
            self.note(CUT_OFF, len(found) - len(wanted))
        if not wanted:
            self.note(DROPPED if self.drop_models.intersection(found) else NOT_ASKED)
            return False
        self._keep(where, prompt, details, tuple(wanted), scores=wanted)
        return True

    def read_scores(self, scores: Mapping[str, Any]) -> dict[str, float]:
        """Return the usable scores by the source's own model names; empty and NaN ones are counted and left out."""
        usable: dict[str, float] = {}
        for raw, value in scores.items():
            name = self._name(raw, "a model's name")
            score = read_score(value, name)
            if score is None:
                self.note(NOT_SCORED)
            else:
                usable[name] = score
        return usable

    def merge(self, values: Mapping[str, float], rule: str | None = None) -> dict[str, float]:
        """Rename the models; values of two that become one are averaged, and counted under ``rule``."""
        if not self.aliases:
            return dict(values)
        gathered: dict[str, list[float]] = {}
        for name, value in values.items():
            gathered.setdefault(self.rename(name), []).append(value)
        if rule is not None and len(gathered) < len(values):
            self.note(rule, len(values) - len(gathered))
        return {name: sum(group) / len(group) for name, group in gathered.items()}

    def _name(self, value: Any, what: str) -> str:
        if isinstance(value, str) and value in self.names_seen:
            return value
        name = read_name(value, what)
        self.names_seen.add(name)
        return name

    def _wanted(self, name: str) -> bool:
        if name in self.drop_models:
            return False
        return self.models is None or name in self.models

    def _amounts(self, amounts: Mapping[str, float], names: Sequence[str]) -> dict[str, float] | None:
        if not amounts:
            return None
        return {name: amount for name, amount in self.merge(amounts).items() if name in names} or None

    def _keep(
        self,
        where: str,
        prompt: str,
        details: Details,
        names: Sequence[str],
        *,
        model_a: str | None = None,
        model_b: str | None = None,
        winner: str | None = None,
        scores: Mapping[str, float] | None = None,
    ) -> None:
        costs = self._amounts(details.costs_usd, names)
        latencies = self._amounts(details.latencies_ms, names)
        lengths = self._amounts(details.output_tokens, names)
        self.log.comparisons.append(
            Comparison(
                prompt=prompt,
                model_a=model_a,
                model_b=model_b,
                winner=winner,
                scores=scores,
                costs_usd=costs,
                latencies_ms=latencies,
                output_tokens=lengths,
                intent=details.intent,
                weight=details.weight,
                judge=details.judge,
                user=details.user,
                timestamp=details.timestamp,
                where=where,
            )
        )


def is_missing(value: Any) -> bool:
    """True for None, NaN and the empty string, which all mean that nothing was recorded."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value or value.isspace()
    return isinstance(value, float) and math.isnan(value)


def read_prompt(value: Any) -> str:
    """Check a prompt that is one text.

    Raises:
        RowError: it is missing, empty, too long, or holds characters that no encoder can read.
    """
    if not isinstance(value, str):
        raise RowError("the prompt is missing" if is_missing(value) else "the prompt is not a text")
    if not value or value.isspace():
        raise RowError("the prompt is empty, expected a text")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as exc:
        raise RowError("the prompt holds half of a character (a lone surrogate), expected valid Unicode") from exc
    if "\x00" in value:
        raise RowError("the prompt holds a NUL character, expected text")
    if size > MAX_PROMPT_BYTES:
        raise RowError(f"the prompt has {size:,} bytes, expected at most {MAX_PROMPT_BYTES:,}")
    return value


def read_messages(value: Any, what: str = "messages") -> str:
    """Fold a conversation, given as a list of messages or as JSON text of one, to the prompt.

    Raises:
        RowError: it is no conversation, or holds no usable text.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = parse_json(value)
        except ValueError as exc:
            raise RowError(f"{what}: {exc}, expected a list of messages") from exc
    if is_missing(value):
        raise RowError(f"{what} is missing, expected a list of messages")
    if not isinstance(value, list):
        raise RowError(f"{what} is not a list of messages")
    try:
        return read_prompt(fold_messages(value))
    except PromptError as exc:
        raise RowError(f"{what}: {exc}") from exc


def read_turns(value: Any) -> str:
    """Fold a list of user turns (strings or nulls), given as a list or as JSON text of one, to the prompt.

    Raises:
        RowError: it is no such list, or holds no usable text.
    """
    turns = value
    if isinstance(value, str):
        try:
            turns = parse_json(value)
        except ValueError as exc:
            raise RowError(f"prompt: {exc}, expected a JSON list of turns") from exc
    if not isinstance(turns, list) or not all(turn is None or isinstance(turn, str) for turn in turns):
        raise RowError("the prompt is not a JSON list of turns")
    return read_prompt(TURN_SEPARATOR.join(turn for turn in turns if turn and turn.strip()))


def prompt_of(values: Values, prompt_column: str) -> str:
    """Return a row's prompt: the column of that name or, where it is missing, ``messages``.

    Raises:
        RowError: neither is usable.
    """
    if is_missing(values.get(prompt_column)) and not is_missing(values.get("messages")):
        return read_messages(values["messages"])
    value = values.get(prompt_column)
    return read_messages(value, prompt_column) if isinstance(value, list) else read_prompt(value)


def read_name(value: Any, what: str) -> str:
    """Check a model's name.

    Raises:
        RowError: it is missing, not a text, too long or holds control characters.
    """
    if is_missing(value):
        raise RowError(f"{what} is missing, expected a model's name")
    if not isinstance(value, str):
        raise RowError(f"{what} is {value!r}, expected a model's name as text")
    if len(value) > MAX_NAME_CHARS or _CONTROL.search(value):
        raise RowError(f"{what} is no model's name: over {MAX_NAME_CHARS} characters, or control characters in it")
    return value.strip()


def read_winner(value: Any, model_a: str, model_b: str) -> str:
    """Return one of WINNERS from the spellings in use, or from the winning model's own name.

    Raises:
        RowError: it is missing, not understood, or can be read in two ways.
    """
    if is_missing(value):
        raise RowError("the winner is missing, expected model_a, model_b, tie or both_bad")
    text = value.strip() if isinstance(value, str) else ""
    by_spelling = WINNER_SPELLINGS.get(text.casefold())
    by_name = "model_a" if text == model_a else "model_b" if text == model_b else None
    if by_name and by_spelling and by_name != by_spelling and model_a != model_b:
        raise RowError(f"winner {text!r} is a model's name and a side; expected model_a, model_b, tie or both_bad")
    outcome = by_name or by_spelling
    if outcome is None:
        shown = repr(value) if len(repr(value)) <= 80 else type(value).__name__
        raise RowError(f"winner {shown}, expected model_a, model_b, tie, both_bad or the winning model's name")
    return outcome


def read_number(value: Any, what: str) -> float | None:
    """Return a number, or None where there is none; text that spells a number counts, a boolean does not.

    Raises:
        RowError: it is something else, or infinite.
    """
    if is_missing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise RowError(f"{what} is {_shown(value)}, expected a number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as exc:
        raise RowError(f"{what} is {_shown(value)}, expected a number") from exc
    if math.isnan(number):
        return None
    if math.isinf(number):
        raise RowError(f"{what} is infinite, expected a number")
    return number


def read_score(value: Any, model: str) -> float | None:
    """Return a score in 0..1, or None where the model was not scored; true is 1 and false is 0.

    Raises:
        RowError: it is no number, or outside 0..1.
    """
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    score = read_number(value, f"the score of {model}")
    if score is not None and not 0.0 <= score <= 1.0:
        raise RowError(f"the score of {model} is {score:g}, expected 0..1")
    return score


def read_mapping(value: Any, what: str) -> Mapping[str, Any]:
    """Return {model: value} from an object, from JSON text of one, or from an Arrow map; empty when missing.

    Raises:
        RowError: it is something else.
    """
    if is_missing(value):
        return {}
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError as exc:
            raise RowError(f"{what}: {exc}, expected an object {{model: number}}") from exc
    if isinstance(value, list) and value and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        value = dict(value)
    if not isinstance(value, Mapping):
        raise RowError(f"{what} is {_shown(value)}, expected an object {{model: number}}")
    return value


def read_amounts(value: Any, what: str, model: str | None = None) -> dict[str, float]:
    """Return {model: amount of 0 or more}; a plain number belongs to ``model``, the row's only one.

    Raises:
        RowError: an amount is negative or no number, or a plain number stands where the row has several models.
    """
    if is_missing(value):
        return {}
    is_plain = isinstance(value, int | float) or (isinstance(value, str) and value.lstrip()[:1] != "{")
    if model is not None and is_plain:
        value = {model: value}
    amounts: dict[str, float] = {}
    for name, raw in read_mapping(value, what).items():
        amount = read_number(raw, f"{what} of {name}")
        if amount is not None:
            if amount < 0:
                raise RowError(f"{what} of {name} is {amount:g}, expected 0 or more")
            amounts[name] = amount
    return amounts


def read_label(value: Any) -> str | None:
    """Return an intent, judge or user as text, or None where there is none."""
    if is_missing(value):
        return None
    return value.strip() if isinstance(value, str) else str(value)


def read_weight(value: Any) -> float:
    """Return the relative trust in a row, 1 where nothing is said.

    Raises:
        RowError: it is no number above 0.
    """
    weight = read_number(value, "weight")
    if weight is not None and weight <= 0:
        raise RowError(f"weight is {weight:g}, expected a number above 0")
    return 1.0 if weight is None else weight


def read_timestamp(value: Any) -> float | None:
    """Return seconds since 1970 (UTC) from seconds, milliseconds, ISO 8601 or a date; without a zone UTC is meant.

    Raises:
        RowError: it is none of these.
    """
    if is_missing(value):
        return None
    if isinstance(value, str):
        try:
            value = float(value) if _SECONDS.fullmatch(value) else dt.datetime.fromisoformat(value.strip())
        except ValueError as exc:
            raise RowError("timestamp is no date, expected seconds, milliseconds or ISO 8601") from exc
    if isinstance(value, dt.datetime):
        return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).timestamp()
    number = read_number(value, "timestamp")
    if number is None:
        return None
    if abs(number) > LATEST_MS:
        raise RowError(f"timestamp is {number:g}, expected seconds, milliseconds or ISO 8601")
    return number / 1000.0 if abs(number) > MILLISECONDS_FROM else number


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def take(table: Table, intake: Intake, columns: Sequence[str] | None, keep: Callable[[str, Values], bool]) -> int:
    """Hand each row of a table to ``keep``, refuse the ones it cannot use, and return how many it kept."""
    kept = 0
    for line, values in table.read(lambda line, message: intake.refuse(f"{table.name}:{line}", message), columns):
        where = f"{table.name}:{line}"
        try:
            kept += keep(where, values)
        except RowError as exc:
            intake.refuse(where, str(exc))
    return kept


def describe(
    table: Table, roles: Mapping[str, tuple[str, str]], ignored: Mapping[str, str], other: str
) -> tuple[Column, ...]:
    """Say of each column what was done with it: ``roles`` {column: (role, reason)}, ``ignored`` {column: reason}."""
    return tuple(
        Column(name, *roles[name]) if name in roles else Column(name, None, ignored.get(name, other))
        for name in table.columns
    )
