"""What can be set about the service, its ranges, and how it is read from the environment."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from router.errors import ConfigError
from router.service.auth import ApiKeys

RANGES: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "max_body_bytes": (1_024, 2**26),
    "latency_budget_ms": (1, 10_000),
    "chunk_timeout_s": (0.01, 600),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one server.

    port: 0 takes a free one. latency_budget_ms: for requests that name none. chunk_timeout_s: longest silence
    inside a request's body, and longest time for its head.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    max_body_bytes: int = 4 * 2**20
    latency_budget_ms: float = 50.0
    chunk_timeout_s: float = 5.0
    api_keys: ApiKeys = field(default_factory=ApiKeys)

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a number is out of its range.
        """
        for name in RANGES:
            _check_range(name, getattr(self, name), name)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read ``WHICHMODEL_HOST``, ``_PORT``, ``_MAX_BODY_BYTES``, ``_LATENCY_BUDGET_MS``, ``_CHUNK_TIMEOUT_S``
        and ``_API_KEYS`` (separated by commas) or ``_API_KEYS_FILE``; what is absent or empty keeps its default.

        Raises:
            ConfigError: a value is not a number or out of range, or the keys cannot be read.
        """
        default = cls()
        return cls(
            host=environ.get("WHICHMODEL_HOST") or default.host,
            port=_whole(environ, "port", default.port),
            max_body_bytes=_whole(environ, "max_body_bytes", default.max_body_bytes),
            latency_budget_ms=_number(environ, "latency_budget_ms", default.latency_budget_ms),
            chunk_timeout_s=_number(environ, "chunk_timeout_s", default.chunk_timeout_s),
            api_keys=_keys(environ),
        )


def _keys(environ: Mapping[str, str]) -> ApiKeys:
    listed, path = environ.get("WHICHMODEL_API_KEYS"), environ.get("WHICHMODEL_API_KEYS_FILE")
    if listed and path:
        raise ConfigError("WHICHMODEL_API_KEYS and WHICHMODEL_API_KEYS_FILE are both set: expected one of them")
    if path:
        return ApiKeys.from_file(path)
    return ApiKeys.from_lines(listed.split(","), "WHICHMODEL_API_KEYS") if listed else ApiKeys()


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    key = f"WHICHMODEL_{name.upper()}"
    text = environ.get(key)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError as exc:
        raise ConfigError(f"{key} has the value {text!r}: expected a number") from exc
    _check_range(name, value, key)
    return value


def _whole(environ: Mapping[str, str], name: str, default: int) -> int:
    value = _number(environ, name, default)
    if value != int(value):
        raise ConfigError(f"WHICHMODEL_{name.upper()} has the value {value!r}: expected a whole number")
    return int(value)


def _check_range(name: str, value: float, label: str) -> None:
    low, high = RANGES[name]
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"{label} has the value {value!r}: expected a number from {low} to {high}")
