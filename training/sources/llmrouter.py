"""LLMRouter's rows: ``query, model_name, performance`` as its pipeline writes them, and per-model columns.

Built from ulab-uiuc/LLMRouter llmrouter/data/README.md, "Routing Data JSONL" (default_routing_train_data.jsonl), and
from tables that hold its data/dcrouter_preprocessed with one column per model beside task_name and metric.
"""

from collections.abc import Collection

from training.sources.files import Table, Values
from training.sources.intake import Details, Intake, Reading, describe, prompt_of, read_label, take
from training.sources.long_rows import read_long
from training.sources.wide_rows import model_columns

LONG_NAMES = {
    "query": "prompt",
    "model_name": "model",
    "performance": "score",
    "task_name": "intent",
    "response_time": "latency_ms",
}
ROLES = {
    "query": ("prompt", "the prompt; rows of one query make one comparison"),
    "prompt": ("prompt", "the prompt"),
    "model_name": ("model", "the model that was scored"),
    "performance": ("score", "its score, 0..1"),
    "task_name": ("intent", "the benchmark the query is from"),
    "response_time": ("latency_ms", "seconds of that one call, as milliseconds"),
}
# Only a row of one model says whose answer was that long.
LONG_ROLES = ROLES | {"output_tokens": ("output_tokens", "length of the model's answer")}
IGNORED = {
    "metric": "how performance was computed",
    "in_other_split": "a flag: the prompt also stands in the other split",
    "cluster_id": "a cluster number of the publisher",
    "ground_truth": "the right answer, not an outcome",
    "choices": "options of the question",
    "task_id": "an identifier",
    "response": "the model's text",
    "token_num": "token count of prompt and answer together",
    "input_tokens": "token count of the prompt, which is counted from its text",
    "output_tokens": "token count of an answer, it is not said whose",
    "api_key_used": "an identifier of a key",
    "embedding_id": "points to vectors of another encoder",
    "user_id": "reserved by the publisher, always empty",
    "fig_id": "reserved by the publisher, always empty",
}


def recognise(columns: Collection[str]) -> str | None:
    """Return by what a table of these columns is known as this format, or None."""
    if {"query", "model_name", "performance"}.issubset(columns):
        return "columns query, model_name, performance"
    prompt = next((name for name in ("prompt", "query") if name in columns), None)
    if prompt and {"task_name", "metric"}.issubset(columns):
        return f"columns {prompt}, task_name, metric beside one column per model"
    return None


def read(table: Table, intake: Intake) -> Reading:
    """Read LLMRouter's rows, long or wide, into the intake.

    Raises:
        DataError: in the wide layout, a column may be a model or not.
    """
    if "model_name" in table.columns:
        n_kept = read_long(table, intake, LONG_NAMES, ms_per_latency_unit=1000.0)
        return Reading(describe(table, LONG_ROLES, IGNORED, "not part of the format"), n_kept)
    prompt = "prompt" if "prompt" in table.columns else "query"
    models = model_columns(table, intake, {**IGNORED, prompt: "", "task_name": ""}, layout="llmrouter")

    def keep(where: str, values: Values) -> bool:
        scores = {name: values.get(name) for name in models}
        details = Details(intent=read_label(values.get("task_name")))
        return intake.scored(where, prompt_of(values, prompt), scores, details)

    n_kept = take(table, intake, [prompt, "task_name", *models], keep)
    reason = "a model: every other column of the layout is known" if intake.models is None else "named by the caller"
    roles = ROLES | dict.fromkeys(models, ("score", reason))
    return Reading(describe(table, roles, IGNORED, "not a known column, and not numbers"), n_kept)
