"""Wide rows: one line per prompt, one column per model, as in RouterBench (``MODEL`` and ``MODEL|total_cost``).

Built from the layout of withmartian/routerbench as kept in shuhao02/RouterDC datasets/routerbench_zs/*.csv:
sample_id, prompt (a Python list as text), eval_name, per model NAME, NAME|model_response, NAME|total_cost, and
oracle_model_to_route_to. A column is taken for a model only if the caller names it, if it has a ``|total_cost``
twin, or if everything else in a known layout is accounted for; else the source is refused.
"""

import ast
import re
from collections.abc import Collection, Mapping, Sequence

from router.errors import DataError
from router.prompt import TURN_SEPARATOR
from training.sources.files import Profile, Table, Values, profile
from training.sources.intake import (
    Details,
    Intake,
    Reading,
    describe,
    prompt_of,
    read_amounts,
    read_label,
    take,
)

PROMPTS = ("prompt", "messages", "query", "question", "instruction")
INTENTS = ("intent", "category", "task_name", "eval_name", "subject", "task")
COST = "|total_cost"
NOT_A_MODEL = {
    "sample_id": "an identifier",
    "id": "an identifier",
    "oracle_model_to_route_to": "derived from the scores",
    "split": "bookkeeping of the publisher",
    "source": "bookkeeping of the publisher",
    "__index_level_0__": "row numbers that pandas wrote",
    "Unnamed: 0": "row numbers that pandas wrote",
}
MAX_SHOWN = 12
_LIKE_A_MODEL = re.compile(r"[0-9/:@-]")


def recognise(columns: Collection[str]) -> str | None:
    """Return by what a table of these columns is known as this format, or None."""
    if not any(name in columns for name in PROMPTS):
        return None
    twins = sum(name + COST in columns for name in columns)
    return f"{twins} columns MODEL with a twin MODEL{COST} (RouterBench)" if twins else None


def read(table: Table, intake: Intake) -> Reading:
    """Read a table of wide rows into the intake.

    Raises:
        DataError: it cannot be told which columns are models.
    """
    prompt = prompt_column(table)
    intent = next((name for name in INTENTS if name in table.columns and not intake.is_model(name)), None)
    models = model_columns(table, intake, {**NOT_A_MODEL, prompt: "the prompt"}, layout=None)
    costs = {name: name + COST for name in models if name + COST in table.columns}
    wanted = [name for name in table.columns if name in {prompt, intent, *models, *costs.values()}]

    def keep(where: str, values: Values) -> bool:
        text = values.get(prompt)
        joined = _joined_list(text) if costs and isinstance(text, str) else None
        details = Details(
            intent=read_label(values.get(intent)) if intent else None,
            costs_usd=read_amounts({name: values.get(twin) for name, twin in costs.items()}, "cost_usd"),
        )
        scores = {name: values.get(name) for name in models}
        return intake.scored(where, prompt_of({prompt: joined or text}, prompt), scores, details)

    n_kept = take(table, intake, wanted, keep)
    roles = {prompt: ("prompt", "the prompt")} | ({intent: ("intent", "the row's intent")} if intent else {})
    reason = "named as a model by the caller" if intake.models is not None else f"a model: it has a twin {COST}"
    roles |= dict.fromkeys(models, ("score", reason))
    roles |= dict.fromkeys(costs.values(), ("cost_usd", "measured cost of the model it is named after"))
    return Reading(describe(table, roles, why_ignored(table, intake, models), "not named as a model"), n_kept)


def prompt_column(table: Table) -> str:
    """Return the column that holds the prompt.

    Raises:
        DataError: there is none.
    """
    found = next((name for name in PROMPTS if name in table.columns), None)
    if found is None:
        raise DataError(f"{table.name}: no prompt, expected a column named {', '.join(PROMPTS)}")
    return found


def model_columns(table: Table, intake: Intake, known: Mapping[str, str], *, layout: str | None) -> tuple[str, ...]:
    """Return the columns that are models, in the table's order. No column is taken for a model by guessing.

    ``known`` {column that is no model: reason}. ``layout`` names a format in which all other columns are models;
    even there a boolean or whole-number column may be a flag, and a name like a plain word may be a statistic.

    Raises:
        DataError: the models cannot be told from other columns; it names the candidates and ``--models``.
    """
    if intake.models is not None:
        named = tuple(name for name in table.columns if intake.is_model(name))
        if not named:
            raise DataError(f"{table.name}: no column has a name from --models; columns: {_list(table.columns)}")
        return named
    twins = tuple(name for name in table.columns if name + COST in table.columns)
    if twins:
        return twins
    profiles = profile(table)
    others = [
        name for name in table.columns if name not in {*known, *NOT_A_MODEL} and not _belongs_to(name, table.columns)
    ]
    candidates = [name for name in others if profiles[name].kind in ("bool", "int", "float")]
    doubtful = [name for name in candidates if not _surely_scores(name, profiles[name])]
    if layout is None or doubtful or not candidates:
        raise DataError(_ambiguity(table, candidates, doubtful if layout else [], profiles))
    return tuple(candidates)


def why_ignored(table: Table, intake: Intake, models: Sequence[str]) -> dict[str, str]:
    """Return {column: why it was not taken} for the columns of wide tables that can be explained."""
    reasons = {name: reason for name, reason in NOT_A_MODEL.items() if name in table.columns}
    for name in table.columns:
        if _belongs_to(name, table.columns):
            reasons[name] = "about the model it is named after, but not its quality or cost"
        elif intake.models is None and name not in models and name not in reasons:
            reasons[name] = f"has no twin MODEL{COST}, so it is not known to be a model"
    return reasons


def _belongs_to(name: str, columns: Sequence[str]) -> bool:
    owner, mark, _ = name.rpartition("|")
    return bool(mark) and owner in columns


def _surely_scores(name: str, found: Profile) -> bool:
    return found.kind == "float" and found.in_unit_interval and _LIKE_A_MODEL.search(name) is not None


def _ambiguity(table: Table, candidates: list[str], doubtful: list[str], profiles: Mapping[str, Profile]) -> str:
    scores = [name for name in candidates if profiles[name].in_unit_interval]
    if not candidates:
        return f"{table.name}: no column of numbers could be a model's scores; columns: {_list(table.columns)}"
    about = f"{_list(scores or candidates)} could be scores"
    if doubtful:
        about = f"{_list(doubtful)} may be a flag or a measure"
    return (
        f"{table.name}: cannot tell which columns are models ({about}); "
        "name the models' columns with --models A,B (in Python: models=[...])"
    )


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:MAX_SHOWN])
    return shown if len(names) <= MAX_SHOWN else f"{shown} and {len(names) - MAX_SHOWN} more"


def _joined_list(text: str) -> str | None:
    """RouterBench keeps prompts as a Python list of strings in text form; return its parts as one text."""
    if not text.startswith(("['", '["')) or not text.endswith("]"):
        return None
    try:
        parts = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    texts = isinstance(parts, list) and all(isinstance(part, str) for part in parts)
    return TURN_SEPARATOR.join(parts) if texts else None
