"""Tables of the SQLite store, how they came to be, and the rows in them: to nouns and back, each with its CRC."""

import json
import sqlite3
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from router.errors import FeedbackError, StoreDamagedError, StoreError
from router.feedback.events import Battle, Details, FeedbackEvent, Outcome, PendingDecision, Score, Surface, Vector
from router.feedback.store import StoredEvent
from router.types import JsonObject

# "wmfb": tells a store from any other SQLite database.
APPLICATION_ID = 0x776D6662

# Script n takes a store from schema n to n + 1. They are never edited once released: another one is added.
MIGRATIONS = (
    """
    CREATE TABLE event (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        received_ms INTEGER NOT NULL,
        judge TEXT NOT NULL,
        idempotency_key TEXT,
        decision_id TEXT,
        user TEXT,
        prompt_hash TEXT NOT NULL,
        prompt TEXT,
        vectors BLOB,
        body TEXT NOT NULL,
        crc INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX event_once ON event (judge, idempotency_key) WHERE idempotency_key IS NOT NULL;
    CREATE UNIQUE INDEX event_verdict ON event (decision_id, judge) WHERE decision_id IS NOT NULL;
    CREATE INDEX event_user ON event (user) WHERE user IS NOT NULL;
    CREATE INDEX event_prompt ON event (prompt_hash);
    CREATE INDEX event_received ON event (received_ms);
    CREATE TABLE pending (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        decision_id TEXT NOT NULL UNIQUE,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        user TEXT,
        prompt_hash TEXT NOT NULL,
        prompt TEXT,
        vectors BLOB,
        body TEXT NOT NULL,
        crc INTEGER NOT NULL
    );
    CREATE INDEX pending_expires ON pending (expires_ms);
    """,
    """
    ALTER TABLE event ADD COLUMN surface BLOB;
    ALTER TABLE pending ADD COLUMN surface BLOB;
    """,
)

EVENT_COLUMNS = (
    *("received_ms", "judge", "idempotency_key", "decision_id", "user", "prompt_hash", "prompt", "vectors", "body"),
    *("surface", "crc"),
)
PENDING_COLUMNS = (
    *("decision_id", "created_ms", "expires_ms", "user", "prompt_hash", "prompt", "vectors", "body"),
    *("surface", "crc"),
)
# Columns before the CRC that schema 1 had not: where they are empty, its CRCs hold.
N_ADDED = 1
_UNSAID = ("received_ms", "prompt", "vectors", "surface", "crc")
_SAID = tuple(n for n, name in enumerate(EVENT_COLUMNS) if name not in _UNSAID)
_VECTOR = struct.Struct("<HI")
_SURFACE = struct.Struct("<H")
Row = tuple[Any, ...]


def migrate(connection: sqlite3.Connection, where: str, migrations: Sequence[str] = MIGRATIONS) -> int:
    """Bring a store to the newest schema, all or nothing, and return the version it had.

    Raises:
        StoreError: it is another program's database, or was written by a newer version.
        sqlite3.Error: it could not be written; it is as before.
    """
    version = check_schema(connection, where, migrations, may_be_empty=True)
    if version < len(migrations):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for script in migrations[version:]:
                for statement in filter(str.strip, script.split(";")):
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID:d}")
            connection.execute(f"PRAGMA user_version = {len(migrations):d}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    return version


def check_schema(
    connection: sqlite3.Connection,
    where: str,
    migrations: Sequence[str] = MIGRATIONS,
    *,
    may_be_empty: bool = False,
) -> int:
    """Return the schema version of a store; 0 is one without any table.

    Raises:
        StoreError: it is another program's database, was written by a newer version or, where it may not be empty,
            is empty or of an older one.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    owner = int(connection.execute("PRAGMA application_id").fetchone()[0])
    n_tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    empty = owner == version == n_tables == 0
    if not (empty and may_be_empty) and owner != APPLICATION_ID:
        raise StoreError(f"{where}: not a feedback store, but {'empty' if empty else 'some other SQLite database'}")
    if version > len(migrations):
        raise StoreError(
            f"{where}: schema {version} of a newer whichmodel, expected at most {len(migrations)}; "
            "use that version, nothing was changed"
        )
    if version < len(migrations) and not may_be_empty:
        raise StoreError(
            f"{where}: schema {version} of an older whichmodel, expected {len(migrations)}; "
            "whatever writes it brings it there: start the service on it once"
        )
    return version


def event_row(event: FeedbackEvent) -> Row:
    """Return the values of EVENT_COLUMNS."""
    details = event.details
    body = {
        **_outcome_json(event.outcome),
        "costs_usd": details.costs_usd and dict(details.costs_usd),
        "latencies_ms": details.latencies_ms and dict(details.latencies_ms),
        "output_tokens": details.output_tokens and dict(details.output_tokens),
        "metadata": details.metadata,
        "artifact_id": event.artifact_id,
        "tier": event.tier,
        "intent": event.intent,
        "candidates": event.candidates or None,
        "propensity": event.propensity,
        "quality": event.quality,
    }
    return _sealed(
        _ms(event.received_s),
        event.judge,
        details.idempotency_key,
        event.decision_id,
        event.user,
        event.prompt_hash,
        event.prompt,
        pack_vectors(event.vectors),
        _json(body),
        pack_surface(event.surface),
    )


def pending_row(pending: PendingDecision) -> Row:
    """Return the values of PENDING_COLUMNS."""
    body = {
        "key_id": pending.key_id,
        "artifact_id": pending.artifact_id,
        "tier": pending.tier,
        "intent": pending.intent,
        "candidates": pending.candidates,
        "model": pending.model,
        "propensity": pending.propensity,
        "quality": pending.quality,
    }
    return _sealed(
        pending.decision_id,
        _ms(pending.created_s),
        _ms(pending.expires_s),
        pending.user,
        pending.prompt_hash,
        pending.prompt,
        pack_vectors(pending.vectors),
        _json(body),
        pack_surface(pending.surface),
    )


def read_event(seq: int, row: Row, where: str) -> StoredEvent:
    """Return the event of a row (the values of EVENT_COLUMNS).

    Raises:
        StoreDamagedError: it is not what was written.
    """
    check_crc(f"event {seq}", row, where)
    received_ms, judge, idempotency_key, decision_id, user, prompt_hash, prompt, vectors, body, surface, _ = row
    try:
        rest = json.loads(body)
        details = Details(
            costs_usd=rest.get("costs_usd"),
            latencies_ms=rest.get("latencies_ms"),
            output_tokens=rest.get("output_tokens"),
            user=user,
            metadata=rest.get("metadata"),
            idempotency_key=idempotency_key,
        )
        event = FeedbackEvent(
            received_s=received_ms / 1000,
            judge=judge,
            outcome=_read_outcome(rest),
            prompt_hash=prompt_hash,
            prompt=prompt,
            details=details,
            decision_id=decision_id,
            artifact_id=rest.get("artifact_id"),
            tier=rest.get("tier"),
            intent=rest.get("intent"),
            candidates=tuple(rest.get("candidates") or ()),
            propensity=rest.get("propensity"),
            vectors=unpack_vectors(vectors),
            surface=unpack_surface(surface),
            quality=rest.get("quality"),
        )
    except (ValueError, KeyError, TypeError, struct.error, FeedbackError) as exc:
        raise StoreDamagedError(f"{where}: event {seq} cannot be read: {exc}") from exc
    return StoredEvent(seq, event)


def read_pending(row: Row, where: str) -> PendingDecision:
    """Return the pending decision of a row (the values of PENDING_COLUMNS).

    Raises:
        StoreDamagedError: it is not what was written.
    """
    check_crc(f"pending decision {row[0]}", row, where)
    decision_id, created_ms, expires_ms, user, prompt_hash, prompt, vectors, body, surface, _ = row
    try:
        rest = json.loads(body)
        return PendingDecision(
            decision_id=decision_id,
            created_s=created_ms / 1000,
            expires_s=expires_ms / 1000,
            key_id=rest["key_id"],
            artifact_id=rest["artifact_id"],
            tier=rest["tier"],
            intent=rest.get("intent"),
            candidates=tuple(rest["candidates"]),
            model=rest["model"],
            propensity=rest["propensity"],
            prompt_hash=prompt_hash,
            prompt=prompt,
            user=user,
            vectors=unpack_vectors(vectors),
            surface=unpack_surface(surface),
            quality=rest.get("quality"),
        )
    except (ValueError, KeyError, TypeError, struct.error, FeedbackError) as exc:
        raise StoreDamagedError(f"{where}: pending decision {decision_id} cannot be read: {exc}") from exc


def check_crc(what: str, row: Row, where: str) -> None:
    """Raise StoreDamagedError where a row, with its CRC in the last column, is not what was written."""
    if row[-1] != _crc(row[:-1]):
        raise StoreDamagedError(f"{where}: {what} is damaged, its CRC is not that of its content; restore a backup")


def pack_vectors(vectors: Sequence[Vector]) -> bytes | None:
    """Return the bytes of vectors: for each the lengths of its encoder's id and of its data, and then both."""
    parts = []
    for one in vectors:
        name = one.encoder_id.encode()
        parts.append(_VECTOR.pack(len(name), len(one.data)) + name + one.data)
    return b"".join(parts) or None


def unpack_vectors(raw: bytes | None) -> tuple[Vector, ...]:
    """Return the vectors of such bytes; struct.error, ValueError or FeedbackError where they are something else."""
    found, at = [], 0
    raw = raw or b""
    while at < len(raw):
        n_name, n_data = _VECTOR.unpack_from(raw, at)
        data_at = at + _VECTOR.size + n_name
        found.append(Vector(raw[at + _VECTOR.size : data_at].decode(), raw[data_at : data_at + n_data]))
        at = data_at + n_data
    return tuple(found)


def pack_surface(surface: Surface | None) -> bytes | None:
    """Return the bytes of a surface: the length of its rule's name, that, and its values."""
    if surface is None:
        return None
    name = surface.rule.encode()
    return _SURFACE.pack(len(name)) + name + surface.data


def unpack_surface(raw: bytes | None) -> Surface | None:
    """Return the surface of such bytes; struct.error, ValueError or FeedbackError where they are something else."""
    if raw is None:
        return None
    (n_name,) = _SURFACE.unpack_from(raw)
    data_at = _SURFACE.size + n_name
    return Surface(raw[_SURFACE.size : data_at].decode(), raw[data_at:])


def same_content(one: Row, other: Row) -> bool:
    """Tell whether two event rows say the same, whenever they were received and whatever has encoded their prompt."""
    return [one[n] for n in _SAID] == [other[n] for n in _SAID]


def _sealed(*values: Any) -> Row:
    return (*values, _crc(values))


def _crc(values: Row) -> int:
    crc = 0
    first = len(values) - N_ADDED
    for value in (*values[:first], *[one for one in values[first:] if one is not None]):
        # A tag and a length before every value, so that no text can move from one column to the next unseen.
        raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        crc = zlib.crc32(raw, zlib.crc32(f"{type(value).__name__} {len(raw)} ".encode(), crc))
    return crc


def _outcome_json(outcome: Outcome) -> JsonObject:
    if isinstance(outcome, Battle):
        return {"model_a": outcome.model_a, "model_b": outcome.model_b, "winner": outcome.winner}
    return {"model": outcome.model, "score": outcome.score}


def _read_outcome(body: JsonObject) -> Outcome:
    if "model_a" in body:
        return Battle(body["model_a"], body["model_b"], body["winner"])
    return Score(body["model"], body["score"])


def _json(body: JsonObject) -> str:
    kept = {name: value for name, value in body.items() if value is not None}
    return json.dumps(kept, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
