"""The file in which a shadow's decisions stand beside those that were served: JSON Lines without any text, bounded."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from router.errors import ConfigError, DataError
from router.types import Decision, JsonObject

# The file itself and those before it, FILE.1 being the newest of them; each holds its part of what is allowed.
N_FILES = 4


@dataclass(frozen=True, slots=True)
class Side:
    """What one of two routers decided; quality and cost (USD) as it expects them itself, None where it does not."""

    artifact_id: str
    model: str
    endpoint: str | None
    quality: float | None
    cost_usd: float | None
    tier: str
    reason: str

    @classmethod
    def of(cls, decision: Decision) -> "Side":
        """Return what of a decision is kept."""
        chosen = decision.estimate(decision.model)
        return cls(
            artifact_id=decision.artifact_id,
            model=decision.model,
            endpoint=decision.endpoint,
            quality=None if chosen is None else chosen.quality,
            cost_usd=None if chosen is None else chosen.cost_usd,
            tier=decision.tier,
            reason=decision.reason,
        )


@dataclass(frozen=True, slots=True)
class ShadowRecord:
    """One request, decided twice.

    time_s: seconds since 1970. intent: as served. policy: a configured one, by name. propensity: the probability with
    which the served model was chosen; explore_share: of the policy; the shadow never explores. shadow: None where it
    could not decide, and then problem says why. drawable: the shadow's model could have been served. served_quality,
    served_cost_usd: what the shadow expects of the served model, None where it does not know it.
    """

    time_s: float
    decision_id: str
    prompt_hash: str
    intent: str | None
    policy: str | None
    propensity: float
    explore_share: float
    served: Side
    shadow: Side | None = None
    problem: str | None = None
    drawable: bool = False
    served_quality: float | None = None
    served_cost_usd: float | None = None

    @property
    def explored(self) -> bool:
        """Whether the served model was drawn at random."""
        return self.served.reason == "explore"

    def to_json(self) -> JsonObject:
        """Return the line of the file."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "ShadowRecord":
        """Return what a line says.

        Raises:
            KeyError, TypeError, ValueError: it is no such line.
        """
        known = {one.name: raw[one.name] for one in fields(cls) if one.name in raw}
        known["served"] = Side(**raw["served"])
        known["shadow"] = None if raw["shadow"] is None else Side(**raw["shadow"])
        record = cls(**known)
        for name in ("time_s", "propensity", "explore_share"):
            if not isinstance(getattr(record, name), int | float):
                raise TypeError(f"{name} is no number")
        for side in (record.served, record.shadow):
            if side is not None and not all(isinstance(one, str) for one in (side.model, side.artifact_id)):
                raise TypeError("a model or an artifact is no text")
        return record


class ShadowLog:
    """Appends records; when the file is full, it becomes FILE.1 and the oldest one is deleted. Not for threads."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """max_bytes: of all N_FILES together. Nothing is opened before the first record."""
        self._path = path
        self._most = max(1, max_bytes // N_FILES)
        self._file: TextIO | None = None
        self._n_bytes = 0

    def write(self, record: ShadowRecord) -> None:
        """Append one line.

        Raises:
            OSError: it cannot be written; the next one is tried anew.
        """
        line = json.dumps(record.to_json(), allow_nan=False) + "\n"
        try:
            if self._file is None:
                self._open()
            if self._n_bytes and self._n_bytes + len(line) > self._most:
                self._rotate()
            if self._file is not None:
                self._file.write(line)
                self._file.flush()
                self._n_bytes += len(line)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:  # what could not be written before cannot now, and was told
                return

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._file = os.fdopen(descriptor, "a", encoding="ascii")
        self._n_bytes = os.fstat(descriptor).st_size
        if self._n_bytes and os.pread(descriptor, 1, self._n_bytes - 1) != b"\n":
            self._file.write("\n")  # behind a line that a crash has cut
            self._n_bytes += 1

    def _rotate(self) -> None:
        self.close()
        files = files_of(self._path)
        for older, newer in zip(files[-1:0:-1], files[-2::-1], strict=True):
            if newer.exists():
                newer.replace(older)
        self._open()


def check_log(path: Path) -> None:
    """Refuse a path that no disk with more room would make a file.

    Raises:
        ConfigError: it is a directory, or in none.
    """
    if path.is_dir():
        raise ConfigError(f"shadow.log: {path} is a directory: expected a file, made where there is none")
    if not path.parent.is_dir():
        raise ConfigError(f"shadow.log: {path} is in no directory that there is")


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the file and those before it, the newest first, whether they are there or not."""
    return (path, *(path.with_name(f"{path.name}.{number}") for number in range(1, N_FILES)))


def read_shadow(path: str | Path) -> "Iterator[ShadowRecord | None]":
    """Yield the records of a file and of those before it, oldest first; None for a line that is damaged.

    Raises:
        DataError: the file cannot be read.
    """
    newest, *older = files_of(Path(path))
    for one in (*reversed([old for old in older if old.exists()]), newest):
        try:
            with one.open(encoding="utf-8", errors="replace") as file:
                for line in file:
                    if line.strip():
                        yield _record(line)
        except OSError as exc:
            raise DataError(f"{one}: cannot be read: {exc.strerror}") from exc


def _record(line: str) -> ShadowRecord | None:
    try:
        return ShadowRecord.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
