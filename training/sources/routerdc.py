"""RouterDC's benchmark: a JSON array of ``{"question", "scores": {model: x}, "cluster_id"?}`` per task.

Built from shuhao02/RouterDC datasets/split2_model7/*.json and train_router_mdeberta.py (data types per file); also
reads tables with the columns question, task, role, kind and one column per model. What a score means depends on
the kind: of ``probability`` (softmax of the right option where the model was right, else 0) only right or wrong is
kept, 1 above 0; ``pass_rate_10`` (share of 10 samples) and ``binary`` are taken as they are.
"""

from collections.abc import Collection, Mapping
from typing import Any

from training.sources.files import Table, Values
from training.sources.intake import (
    Details,
    Intake,
    Reading,
    RowError,
    describe,
    prompt_of,
    read_label,
    read_mapping,
    take,
)
from training.sources.wide_rows import model_columns

KINDS = ("probability", "pass_rate_10", "binary")
KIND_OF_TASK = {
    "arc_challenge": "probability",
    "arc_easy": "probability",
    "cmmlu": "probability",
    "ceval": "probability",
    "mmlu": "probability",
    "gsm8k": "pass_rate_10",
    "humaneval": "pass_rate_10",
    "mbpp": "pass_rate_10",
    "javascript": "pass_rate_10",
    "MATH_prealgebra": "binary",
}
PROBABILITIES = "probabilities of the right option read as right (above 0) or wrong"
UNKNOWN_KIND = "rows whose kind of score is not known: scores taken as they are"
ROLES = {
    "question": ("prompt", "the prompt"),
    "scores": ("scores", "{model: score}"),
    "task": ("intent", "the benchmark the question is from"),
    "kind": ("kind", "what the scores mean"),
}
IGNORED = {
    "role": "the publisher's use of the file",
    "cluster_id": "a cluster number of the publisher",
}


def recognise(columns: Collection[str]) -> str | None:
    """Return by what a table of these columns is known as this format, or None."""
    if {"question", "scores"}.issubset(columns):
        return "columns question, scores"
    return "columns question, task, kind" if {"question", "task", "kind"}.issubset(columns) else None


def read(table: Table, intake: Intake) -> Reading:
    """Read a RouterDC table into the intake.

    Raises:
        DataError: in the layout with one column per model, a column may be a model or not.
    """
    task = task_of_file(table)
    models: tuple[str, ...] = ()
    if "scores" not in table.columns:
        models = model_columns(table, intake, {**IGNORED, **dict.fromkeys(ROLES, "")}, layout="routerdc")
    wanted = [name for name in table.columns if name in ROLES or name in models]

    def keep(where: str, values: Values) -> bool:
        prompt = prompt_of(values, "question")
        kind = values["kind"] if "kind" in table.columns else KIND_OF_TASK.get(task or "")
        if kind is not None and kind not in KINDS:
            raise RowError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
        raw: Mapping[str, Any] = {name: values.get(name) for name in models}
        scores = intake.read_scores(raw if models else read_mapping(values["scores"], "scores"))
        if kind == "probability":
            intake.note(PROBABILITIES, len(scores))
            scores = {name: float(score > 0.0) for name, score in scores.items()}
        elif kind is None:
            intake.note(UNKNOWN_KIND)
        return intake.scored(where, prompt, scores, Details(intent=read_label(values.get("task")) or task))

    n_kept = take(table, intake, wanted, keep)
    reason = "a model: every other column of the layout is known" if intake.models is None else "named by the caller"
    roles = ROLES | dict.fromkeys(models, ("score", reason))
    return Reading(describe(table, roles, IGNORED, "not part of the format"), n_kept)


def task_of_file(table: Table) -> str | None:
    """Return the published task that a file is named after (``mmlu_test.json``: mmlu), or None."""
    stem = table.path.stem if table.path else ""
    for ending in ("_train", "_test", "-train", "-test"):
        stem = stem.removesuffix(ending)
    return stem if stem in KIND_OF_TASK else None
