"""Preference logs in: ``load`` reads any mix of files, folders and datasets into one PreferenceLog.

Formats live in the modules beside this one, each built from its publisher's document; docs/formats.md describes
them. The rules that hold for every row are in intake.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from router.errors import DataError
from training.comparisons import PreferenceLog, SourceSummary
from training.from_feedback import FORMAT as FEEDBACK
from training.from_feedback import read_feedback
from training.sources import huggingface, pulze
from training.sources.detect import READERS, Read, detect
from training.sources.files import OnBadRow, Table, Values, open_table
from training.sources.intake import Intake

__all__ = ["FORMATS", "load"]

FORMATS = tuple(READERS)
"""Names of the formats, as ``load(format=...)`` takes them."""
FOLDER_EXTENSIONS = ((".parquet", ".jsonl", ".ndjson"), (".csv", ".json"))
SHOWN_REFUSALS = 3


def load(
    *sources: str | Path,
    format: str | None = None,
    models: Sequence[str] | None = None,
    aliases: Mapping[str, str] | None = None,
    drop_models: Sequence[str] = (),
    on_bad_row: str = "skip",
    feedback: str | Path | None = None,
    progress: bool = False,
) -> PreferenceLog:
    """Read preference logs: files, folders, or ``hf:OWNER/NAME[:SPLIT]``, each in the format its columns show.

    format: one of FORMATS instead of detection. models: keep only these; in wide rows they also say which columns are
    models. aliases: {old name: new name}, applied first; two names that become one have their scores averaged, and
    their battles with each other dropped. drop_models: left out of every row. on_bad_row: ``skip`` records rows that
    cannot be used as refusals, ``fail`` stops at the first. feedback: a feedback store to read as well. progress: bars
    on stderr. The rules for winners, scores and prompts are those of docs/formats.md; how often each was applied is in
    ``notes``.

    Raises:
        DataError: a source cannot be read, its format or models cannot be told, a named model never occurs, or there
            is too little to learn from: no usable row, or fewer than two models.
        StoreError: the feedback store is not there, cannot be read, or is none.
        ConfigError: there is no format of that name.
    """
    if not sources and feedback is None:
        raise ValueError("load() got no source, expected at least one")
    if on_bad_row not in ("skip", "fail"):
        raise ValueError(f"on_bad_row is {on_bad_row!r}, expected 'skip' or 'fail'")
    renamed = dict(aliases or {})
    intake = Intake(
        aliases=renamed,
        drop_models=frozenset(renamed.get(name, name) for name in drop_models),
        models=frozenset(renamed.get(name, name) for name in models) if models is not None else None,
        fail_on_bad_row=on_bad_row == "fail",
    )
    done: set[Path] = set()
    for source in sources:
        for table in _tables(source):
            _read(table, format, intake, done, progress)
    if feedback is not None:
        intake.log.feedback = said = read_feedback(feedback, intake)
        intake.log.sources.append(
            SourceSummary(said.name, FEEDBACK, "--from-feedback", said.n_events, said.n_taken, ())
        )
    _check_names(intake, [*(models or ()), *renamed, *drop_models])
    _check_enough(intake.log)
    return intake.log


def _read(table: Table, wanted: str | None, intake: Intake, done: set[Path], progress: bool) -> None:
    name, recognised_by = detect(table, wanted, intake)
    if name == "pulze":
        table = pulze.points_of(table)
        if table.path is not None and table.path.resolve() in done:
            return
    if table.path is not None:
        if table.path.resolve() in done:
            raise DataError(f"{table.name}: given twice")
        done.add(table.path.resolve())
    read: Read = READERS[name].read
    reading = read(_with_bar(table) if progress else table, intake)
    summary = SourceSummary(
        name=table.name,
        format=name,
        recognised_by=recognised_by,
        n_rows=table.n_rows or 0,
        n_kept=reading.n_kept,
        columns=reading.columns,
        sha256=table.sha256,
    )
    intake.log.sources.extend((summary, *reading.also))


def _tables(source: str | Path) -> Iterator[Table]:
    if isinstance(source, str) and source.startswith(huggingface.PREFIX):
        yield huggingface.open_hub(source)
        return
    path = Path(source)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if not path.is_dir():
        yield open_table(path)
    elif huggingface.is_saved_dataset(path):
        yield huggingface.open_saved(path)
    elif (path / "points.jsonl").is_file() and (path / "targets.jsonl").is_file():
        yield open_table(path / "points.jsonl")
    else:
        for file in _files_in(path):
            yield open_table(file)


def _files_in(folder: Path) -> list[Path]:
    for extensions in FOLDER_EXTENSIONS:
        found = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix.lower() in extensions and not _is_hidden(path, folder)
        ]
        if found:
            return found
    raise DataError(f"{folder}: the folder holds no .parquet, .jsonl, .csv or .json file, and is no saved dataset")


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)


def _with_bar(table: Table) -> Table:
    from tqdm import tqdm

    def read(on_bad_row: OnBadRow, columns: Sequence[str] | None) -> Iterator[tuple[int, Values]]:
        rows = table.read(on_bad_row, columns)
        yield from tqdm(rows, total=table.n_rows, desc=table.name, unit=" rows", leave=False)

    return replace(table, read=read)


def _check_names(intake: Intake, asked: Sequence[str]) -> None:
    seen = intake.names_seen | {intake.rename(name) for name in intake.names_seen}
    for name in asked:
        if name not in seen:
            shown = sorted(intake.names_seen)
            more = f" and {len(shown) - 20} more" if len(shown) > 20 else ""
            raise DataError(f"no model is named {name!r} in the sources; seen: {', '.join(shown[:20]) or 'none'}{more}")


def _check_enough(log: PreferenceLog) -> None:
    names = log.models
    if len(log) and len(names) >= 2:
        return
    told = "no usable row" if not len(log) else f"only one model ({names[0]}), expected at least two"
    counted = [f"{len(log.refusals)} rows refused"] if log.refusals else []
    counted += [f"{count} {rule}" for rule, count in log.notes.items()]
    first = [str(refusal) for refusal in log.refusals[:SHOWN_REFUSALS]]
    where = ", ".join(source.name for source in log.sources)
    raise DataError(f"{where}: {told}" + "".join(f"; {part}" for part in (*counted, *first)))
