"""Long rows: one line per prompt and model (``prompt, model, score``), as evaluation harnesses write them.

Built from docs/formats.md of this project; LLMRouter's rows (llmrouter.py) have the same shape under other names.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from training.sources.canonical import DETAIL_ROLES, read_details
from training.sources.files import Table, Values
from training.sources.intake import (
    NOT_SCORED,
    Details,
    Intake,
    Reading,
    describe,
    prompt_of,
    read_name,
    read_score,
    take,
)

ROLES = {
    "prompt": ("prompt", "the prompt; rows of one prompt make one comparison"),
    "messages": ("prompt", "a conversation; its user turns are the prompt"),
    "model": ("model", "the model that was scored"),
    "score": ("score", "its score, 0..1"),
} | DETAIL_ROLES


@dataclass(slots=True)
class Group:
    """What is gathered for one comparison; the intent is that of its first row, the timestamp the latest."""

    where: str
    details: Details
    scores: dict[str, float]
    costs_usd: dict[str, float]
    latencies_ms: dict[str, float]
    output_tokens: dict[str, float]


def recognise(columns: Collection[str]) -> str | None:
    """Return by what a table of these columns is known as this format, or None."""
    prompt = next((name for name in ("prompt", "messages") if name in columns), None)
    return f"columns {prompt}, model, score" if prompt and "model" in columns and "score" in columns else None


def read(table: Table, intake: Intake) -> Reading:
    """Read a table of long rows into the intake."""
    n_kept = read_long(table, intake, {})
    return Reading(describe(table, ROLES, {}, "not part of the long rows"), n_kept)


def read_long(table: Table, intake: Intake, names: Mapping[str, str], *, ms_per_latency_unit: float = 1.0) -> int:
    """Group long rows by prompt, judge, user and weight, and hand each group over as one scored comparison.

    ``names`` {column of the table: name used here}. A second score of one model on one prompt begins a second
    comparison. A row whose score is empty or NaN says nothing and is counted, not refused. Returns the rows used.
    """
    wanted = [name for name in table.columns if names.get(name, name) in ROLES]
    groups: dict[tuple[Any, ...], list[Group]] = {}
    prompts: list[tuple[str, Group]] = []

    def keep(where: str, row: Values) -> bool:
        values = {names.get(column, column): value for column, value in row.items()}
        prompt = prompt_of(values, "prompt")
        model = read_name(values.get("model"), "model")
        intake.names_seen.add(model)
        details = read_details(values, model)
        score = read_score(values.get("score"), model)
        if score is None:
            intake.note(NOT_SCORED)
            return False
        siblings = groups.setdefault((prompt, details.judge, details.user, details.weight), [])
        group = next((one for one in siblings if model not in one.scores), None)
        if group is None:
            group = Group(where, details, {}, {}, {}, {})
            siblings.append(group)
            prompts.append((prompt, group))
        group.scores[model] = score
        # None of the comparison's scores is newer than it is.
        times = [one for one in (group.details.timestamp, details.timestamp) if one is not None]
        group.details = replace(group.details, timestamp=max(times, default=None))
        group.costs_usd.update(details.costs_usd)
        group.output_tokens.update(details.output_tokens)
        for name, latency in details.latencies_ms.items():
            group.latencies_ms[name] = latency * ms_per_latency_unit
        return True

    n_kept = take(table, intake, wanted, keep)
    for prompt, group in prompts:
        details = replace(
            group.details,
            costs_usd=group.costs_usd,
            latencies_ms=group.latencies_ms,
            output_tokens=group.output_tokens,
        )
        if not intake.scored(group.where, prompt, group.scores, details):
            n_kept -= len(group.scores)
    return n_kept
