"""Pulze's pair of files: ``points.jsonl`` (point_uid, category, utterance, embedding) and ``targets.jsonl``
(point_uid, target, score).

Built from pulzeai-oss/knn-router README.md ("Generating deployment artifacts") and deploy/docker-compose/data. Its
embeddings come from another encoder and are ignored, so a point needs its ``utterance``: the index published as
pulze-intent-v0.1 has none, and its points are refused by name.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from router.errors import DataError
from training.comparisons import SourceSummary
from training.sources.files import Table, Values, open_table
from training.sources.intake import (
    NOT_SCORED,
    Details,
    Intake,
    Reading,
    RowError,
    describe,
    is_missing,
    read_label,
    read_name,
    read_prompt,
    read_score,
    take,
)

POINT_ROLES = {
    "point_uid": ("key", "joins a point with its targets"),
    "category": ("intent", "the point's intent"),
    "utterance": ("prompt", "the prompt"),
}
TARGET_ROLES = {
    "point_uid": ("key", "joins a target with its point"),
    "target": ("model", "the model that was scored"),
    "score": ("score", "its score, 0..1"),
}
IGNORED = {"embedding": "a vector of another encoder"}


def recognise(columns: Collection[str]) -> str | None:
    """Return by what a table of these columns is known as this format, or None."""
    if {"point_uid", "target", "score"}.issubset(columns):
        return "columns point_uid, target, score"
    return "columns point_uid, category" if {"point_uid", "category"}.issubset(columns) else None


def points_of(table: Table) -> Table:
    """Return the points of the pair to which this file belongs.

    Raises:
        DataError: the file beside it is missing.
    """
    return _beside(table, "targets", "points") if "target" in table.columns else table


def read(table: Table, intake: Intake) -> Reading:
    """Read points, and the targets in the file beside them, into the intake.

    Raises:
        DataError: there is no targets file beside the points.
    """
    targets = _beside(table, "points", "targets")
    scores: dict[str, dict[str, float]] = {}
    wheres: dict[str, str] = {}
    points: set[str] = set()

    def keep_target(where: str, values: Values) -> bool:
        point = _key(values.get("point_uid"))
        model = read_name(values.get("target"), "target")
        score = read_score(values.get("score"), model)
        if score is None:
            intake.note(NOT_SCORED)
            return False
        known = scores.setdefault(point, {})
        if model in known:
            raise RowError(f"a second score of {model} for point {point}, expected one")
        known[model] = score
        wheres.setdefault(point, where)
        return True

    def keep_point(where: str, values: Values) -> bool:
        point = _key(values.get("point_uid"))
        if point in points:
            raise RowError(f"point {point} appears twice, expected once")
        points.add(point)
        if is_missing(values.get("utterance")):
            raise RowError(f"point {point} has no utterance; expected its text, as the embedding is of another encoder")
        details = Details(intent=read_label(values.get("category")))
        return intake.scored(where, read_prompt(values["utterance"]), scores.get(point, {}), details)

    n_targets = take(targets, intake, [name for name in targets.columns if name in TARGET_ROLES], keep_target)
    n_points = take(table, intake, [name for name in table.columns if name in POINT_ROLES], keep_point)
    for point in sorted(scores.keys() - points):
        intake.refuse(wheres[point], f"target of point {point}, which is not among the points")
        n_targets -= len(scores[point])
    beside = SourceSummary(
        name=targets.name,
        format="pulze",
        recognised_by=f"stands beside {table.name}",
        n_rows=targets.n_rows or 0,
        n_kept=n_targets,
        columns=describe(targets, TARGET_ROLES, {}, "not part of the format"),
        sha256=targets.sha256,
    )
    return Reading(describe(table, POINT_ROLES, IGNORED, "not part of the format"), n_points, (beside,))


def _beside(table: Table, this: str, other: str) -> Table:
    path = table.path
    partner: Path | None = path.with_name(path.name.replace(this, other)) if path and this in path.name else None
    if partner is None or not partner.is_file():
        raise DataError(f"{table.name}: expected {other}.jsonl beside {this}.jsonl, both are needed")
    return open_table(partner)


def _key(value: Any) -> str:
    if is_missing(value):
        raise RowError("point_uid is missing, expected the point's identifier")
    return str(value)
