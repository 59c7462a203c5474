"""Chatbot Arena battles in the shapes that were published.

Built from the dataset cards of lmsys/chatbot_arena_conversations (33k, columns as in its copy under d-llm/),
lmsys/lmsys-arena-human-preference-55k (and the Kaggle competition lmsys-chatbot-arena behind it),
lmarena-ai/arena-human-preference-100k and lmarena-ai/arena-human-preference-140k. Prompts are the user turns of
``conversation_a`` (both sides share them) or, in the 55k table, a JSON list of turns.
"""

from collections.abc import Collection

from training.sources.files import Table, Values
from training.sources.intake import (
    Details,
    Intake,
    Reading,
    RowError,
    describe,
    read_label,
    read_messages,
    read_number,
    read_timestamp,
    read_turns,
    take,
)

WINNER_COLUMNS = {"winner_model_a": "model_a", "winner_model_b": "model_b", "winner_tie": "tie"}
ROLES = {
    "model_a": ("model_a", "one side of the battle"),
    "model_b": ("model_b", "the other side"),
    "winner": ("winner", "the vote"),
    "winner_model_a": ("winner", "1 where model_a won"),
    "winner_model_b": ("winner", "1 where model_b won"),
    "winner_tie": ("winner", "1 for a tie, good or bad"),
    "judge": ("user", "who voted"),
    "judge_hash": ("user", "who voted"),
    "evaluation_session_id": ("user", "the session the vote is from"),
    "tstamp": ("timestamp", "when the vote was cast"),
    "timestamp": ("timestamp", "when the vote was cast"),
}
IGNORED = {
    "id": "an identifier",
    "question_id": "an identifier",
    "conversation_b": "the other side's answers; the user turns are those of conversation_a",
    "full_conversation": "holds answers of models that are not judged here",
    "response_a": "the model's text",
    "response_b": "the model's text",
    "turn": "number of turns, seen from the prompt",
    "anony": "whether names were hidden; published votes are",
    "language": "not an intent",
    "openai_moderation": "says nothing about quality",
    "toxic_chat_tag": "says nothing about quality",
    "conv_metadata": "style counts of the answers",
    "category_tag": "flags, not one intent",
    "is_code": "a flag, not an intent",
    "is_refusal": "a flag about the answers",
    "dedup_tag": "bookkeeping of the publisher",
    "evaluation_order": "bookkeeping of the publisher",
}
USERS = ("judge", "judge_hash", "evaluation_session_id")


def recognise(columns: Collection[str]) -> str | None:
    """Return by what a table of these columns is known as this format, or None."""
    if not {"model_a", "model_b"}.issubset(columns):
        return None
    if set(WINNER_COLUMNS).issubset(columns) and "prompt" in columns:
        return "columns winner_model_a, winner_model_b, winner_tie (the 55k table)"
    has_both = {"winner", "conversation_a"}.issubset(columns)
    return "columns model_a, model_b, winner, conversation_a" if has_both else None


def read(table: Table, intake: Intake) -> Reading:
    """Read Arena battles into the intake."""
    as_table = "winner_tie" in table.columns
    prompt = "prompt" if as_table else "conversation_a"
    user = next((name for name in USERS if name in table.columns), None)
    when = next((name for name in ("tstamp", "timestamp") if name in table.columns), None)
    used = {prompt, "model_a", "model_b", user, when, *(WINNER_COLUMNS if as_table else ("winner",))}

    def keep(where: str, values: Values) -> bool:
        text = read_turns(values.get("prompt")) if as_table else read_messages(values.get("conversation_a"), prompt)
        details = Details(
            user=read_label(values.get(user)) if user else None,
            timestamp=read_timestamp(values.get(when)) if when else None,
        )
        winner = _one_of_three(values) if as_table else values.get("winner")
        return intake.battle(where, text, values.get("model_a"), values.get("model_b"), winner, details)

    n_kept = take(table, intake, [name for name in table.columns if name in used], keep)
    reason = "a JSON list of user turns" if as_table else "its user turns are the prompt"
    roles = {name: role for name, role in ROLES.items() if name in used} | {prompt: ("prompt", reason)}
    return Reading(describe(table, roles, IGNORED, "not part of the format"), n_kept)


def _one_of_three(values: Values) -> str:
    marks = {name: read_number(values.get(name), name) for name in WINNER_COLUMNS}
    chosen = [outcome for name, outcome in WINNER_COLUMNS.items() if marks[name] == 1.0]
    if len(chosen) != 1 or any(mark not in (0.0, 1.0) for mark in marks.values()):
        raise RowError("winner_model_a, winner_model_b and winner_tie are not one 1 and two 0")
    return chosen[0]
