"""The project's own record: a battle (model_a, model_b, winner) or a set of scores ({model: 0..1}) on one prompt.

Built from docs/formats.md of this project. JSON Lines, JSON, CSV or Parquet; battles and scores may be mixed.
"""

from collections.abc import Collection

from training.sources.files import Table, Values
from training.sources.intake import (
    Details,
    Intake,
    Reading,
    RowError,
    describe,
    is_missing,
    prompt_of,
    read_amounts,
    read_label,
    read_mapping,
    read_timestamp,
    read_weight,
    take,
)

BATTLE = ("model_a", "model_b", "winner")
ROLES = {
    "prompt": ("prompt", "the prompt"),
    "messages": ("prompt", "a conversation; its user turns are the prompt"),
    "model_a": ("model_a", "one side of a battle"),
    "model_b": ("model_b", "the other side"),
    "winner": ("winner", "the outcome of a battle"),
    "scores": ("scores", "{model: 0..1}"),
}
DETAIL_ROLES = {
    "intent": ("intent", "the row's intent"),
    "cost_usd": ("cost_usd", "measured cost of the calls"),
    "latency_ms": ("latency_ms", "measured latency of the calls"),
    "output_tokens": ("output_tokens", "measured length of the answers"),
    "weight": ("weight", "relative trust in the row"),
    "judge": ("judge", "who or what judged"),
    "user": ("user", "who asked"),
    "timestamp": ("timestamp", "when"),
}


def recognise(columns: Collection[str]) -> str | None:
    """Return by what a table of these columns is known as this format, or None."""
    prompt = next((name for name in ("prompt", "messages") if name in columns), None)
    if prompt is None:
        return None
    if all(name in columns for name in BATTLE):
        return f"columns {prompt}, model_a, model_b, winner"
    return f"columns {prompt}, scores" if "scores" in columns else None


def read(table: Table, intake: Intake) -> Reading:
    """Read a table of canonical records into the intake."""
    roles = ROLES | DETAIL_ROLES
    wanted = [name for name in table.columns if name in roles]
    has_details = any(name in DETAIL_ROLES for name in wanted)

    def keep(where: str, values: Values) -> bool:
        prompt = prompt_of(values, "prompt")
        details = read_details(values) if has_details else Details()
        has_scores = not is_missing(values.get("scores"))
        if any(not is_missing(values.get(name)) for name in BATTLE):
            if has_scores:
                raise RowError("both a battle and scores, expected one of them")
            return intake.battle(
                where, prompt, values.get("model_a"), values.get("model_b"), values.get("winner"), details
            )
        if not has_scores:
            raise RowError("neither model_a, model_b, winner nor scores, expected one of them")
        return intake.scored(where, prompt, read_mapping(values["scores"], "scores"), details)

    n_kept = take(table, intake, wanted, keep)
    return Reading(describe(table, roles, {}, "not part of the canonical record"), n_kept)


def read_details(values: Values, model: str | None = None) -> Details:
    """Return a row's optional fields; ``model`` is the row's only model, to which plain amounts belong.

    Raises:
        RowError: one of them is not what it should be.
    """
    return Details(
        intent=read_label(values.get("intent")),
        costs_usd=read_amounts(values.get("cost_usd"), "cost_usd", model),
        latencies_ms=read_amounts(values.get("latency_ms"), "latency_ms", model),
        output_tokens=read_amounts(values.get("output_tokens"), "output_tokens", model),
        weight=read_weight(values.get("weight")),
        judge=read_label(values.get("judge")),
        user=read_label(values.get("user")),
        timestamp=read_timestamp(values.get("timestamp")),
    )
