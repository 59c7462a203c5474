"""From the rows that were learnt from to what an artifact remembers of them, and back to rows without texts."""

from collections.abc import Mapping, Set

import numpy as np
from numpy.typing import NDArray

from router.artifact import RouterArtifact
from router.errors import DataError
from router.memory import HASH_BYTES, Memory, user_hash
from router.prompt import Template, prompt_hash
from training.comparisons import PreferenceLog
from training.evidence import Battles, Table, row_keys
from training.held_out import Plan

UserRows = Mapping[str, Set[int]]
"""User to the rows that he or she stands behind."""


def users_of(log: PreferenceLog, template: Template, table: Table) -> UserRows:
    """Return who stands behind which row of the table; rows without a user have none."""
    row_of = {one: row for row, one in enumerate(table.hashes)}
    users: dict[str, set[int]] = {}
    for (text, own_hash), one in zip(row_keys(log, template), log.comparisons, strict=True):
        row = row_of.get(own_hash or prompt_hash(text))
        if one.user is not None and row is not None:
            users.setdefault(one.user, set()).add(row)
    return users


def remember(
    table: Table,
    plan: Plan,
    unreadable: NDArray[np.bool_],
    users: UserRows,
    *,
    key: bytes,
    hold_out: float,
    seed: int,
    margin: float,
) -> Memory:
    """Return what a refit needs of these rows. unreadable: bool (n_rows, n_tiers)."""
    battles = table.battles
    pairs = sorted((row, user_hash(key, user)) for user, rows in users.items() for row in rows)
    hashes = np.frombuffer(b"".join(one for _, one in pairs), dtype=np.uint8)
    return Memory(
        key=key,
        hold_out=hold_out,
        seed=seed,
        margin=margin,
        in_time=plan.in_time,
        n_forgotten=0,
        groups=plan.groups.astype(np.int32),
        unreadable=unreadable,
        row_weight=_positive(table.row_weight),
        input_tokens=table.input_tokens.astype(np.int32),
        timestamps=table.timestamps if plan.in_time else np.full(len(table), np.nan),
        scores=table.scores.astype(np.float32),
        costs_usd=table.costs_usd.astype(np.float32),
        output_tokens=table.output_tokens.astype(np.float32),
        battles=np.stack([battles.rows, battles.a, battles.b, battles.both_bad], axis=1).astype(np.int32),
        battle_values=np.stack([battles.y.astype(np.float32), _positive(battles.weight)], axis=1),
        user_rows=np.array([row for row, _ in pairs], dtype=np.int32),
        user_hashes=hashes.reshape(len(pairs), HASH_BYTES).copy(),
    )


def recall(artifact: RouterArtifact) -> tuple[Table, Memory]:
    """Return the rows that an artifact was learnt from, their texts empty, and its memory.

    Raises:
        DataError: it has no memory.
    """
    memory = artifact.memory
    if memory is None:
        raise DataError(
            "this artifact was written without a memory of its rows, so that none can be taken out; train it again"
        )
    rows, a, b, both_bad = memory.battles.astype(np.int64).T
    nobody = ("",) * artifact.n_rows
    table = Table(
        texts=nobody,
        originals=nobody,
        models=artifact.models,
        kind=artifact.best.evidence.kind,
        scores=memory.scores.astype(np.float64),
        battles=Battles(
            rows=rows,
            a=a,
            b=b,
            y=memory.battle_values[:, 0].astype(np.float64),
            both_bad=both_bad.astype(bool),
            weight=memory.battle_values[:, 1].astype(np.float64),
        ),
        costs_usd=memory.costs_usd.astype(np.float64),
        output_tokens=memory.output_tokens.astype(np.float64),
        row_weight=memory.row_weight.astype(np.float64),
        intents=artifact.best.evidence.intents.astype(np.int64),
        intent_names=artifact.intents,
        timestamps=memory.timestamps,
        input_tokens=memory.input_tokens.astype(np.int64),
    )
    return table, memory


def _positive(weight: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return weights as float32, in which the tiniest would become 0."""
    return np.maximum(weight, np.finfo(np.float32).tiny).astype(np.float32)
