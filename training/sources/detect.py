"""Which format a table is in: each reader says by which columns it knows its own."""

from collections.abc import Callable, Collection
from types import ModuleType

from router.errors import ConfigError, DataError
from training.sources import canonical, chatbot_arena, llmrouter, long_rows, pulze, routerdc, wide_rows
from training.sources.files import Table
from training.sources.intake import Intake, Reading

READERS: dict[str, ModuleType] = {
    "pulze": pulze,
    "chatbot_arena": chatbot_arena,
    "routerdc": routerdc,
    "canonical": canonical,
    "long_rows": long_rows,
    "llmrouter": llmrouter,
    "wide_rows": wide_rows,
}
"""Every format by name, the most particular first: the first that knows the columns reads them."""

Recognise = Callable[[Collection[str]], str | None]
Read = Callable[[Table, Intake], Reading]


def detect(table: Table, wanted: str | None, intake: Intake) -> tuple[str, str]:
    """Return the name of a table's format and by what it was recognised.

    Raises:
        ConfigError: there is no format of the wanted name.
        DataError: no format, or not the wanted one, has these columns.
    """
    if wanted is not None:
        return _forced(table, wanted)
    for name, reader in READERS.items():
        recognise: Recognise = reader.recognise
        found = recognise(table.columns)
        if found:
            return name, found
    if intake.models is not None and any(intake.is_model(name) for name in table.columns):
        return "wide_rows", "columns named by --models"
    if any(name in table.columns for name in wide_rows.PROMPTS):
        wide_rows.model_columns(table, intake, wide_rows.NOT_A_MODEL, layout=None)
    shown = ", ".join(table.columns[:12]) + (" ..." if len(table.columns) > 12 else "")
    raise DataError(f"{table.name}: no known format has these columns: {shown}; see docs/formats.md")


def _forced(table: Table, wanted: str) -> tuple[str, str]:
    name = wanted.replace("-", "_")
    if name not in READERS:
        raise ConfigError(f"unknown format {wanted!r}, expected one of {', '.join(READERS)}")
    recognise: Recognise = READERS[name].recognise
    if recognise(table.columns) is None and name != "wide_rows":
        shown = ", ".join(table.columns[:12])
        raise DataError(f"{table.name}: not in format {name}, its columns are {shown}; see docs/formats.md")
    return name, "named by the caller"
