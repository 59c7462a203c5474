"""What can be set about the service: one table of names, types, defaults, ranges and help, and the values in force.

The fields of ``Settings`` are that table. File, environment, command line and docs are all made from it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from router.errors import ConfigError
from router.policies import PolicyBook
from router.service.auth import ApiKeys

KEYS_VARIABLE = "WHICHMODEL_API_KEYS"
LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
KEPT = ("all", "asked", "none")
# Longest part of a wrong value that an error repeats.
SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. table: where it stands in the file. low, high: of numbers, both allowed."""

    name: str
    table: str
    kind: type
    default: Any
    help: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()

    @property
    def short_name(self) -> str:
        """Name in its table of the file: what begins with the table's own name is there without it."""
        return self.name.removeprefix(f"{self.table}_")

    @property
    def key(self) -> str:
        """Name in the file, with its table."""
        return f"{self.table}.{self.short_name}"

    @property
    def variable(self) -> str:
        """Name in the environment."""
        return f"WHICHMODEL_{self.name.upper()}"

    @property
    def option(self) -> str:
        """Name on the command line, where the artifact is the one argument."""
        return self.name.upper() if self.name == "artifact" else f"--{self.name.replace('_', '-')}"

    @property
    def wanted(self) -> str:
        """What an error says was expected."""
        if self.kind in (int, float):
            number = "a whole number" if self.kind is int else "a number"
            unit = f" ({self.unit})" if self.unit else ""
            return f"{number} from {self.low:,} to {self.high:,}{unit}"
        if self.kind is bool:
            return "true or false"
        if self.choices:
            return " or ".join(self.choices)
        return "a path" if self.kind is Path else "a text without spaces"

    def checked(self, value: object, where: str) -> Any:
        """Return a value as it is kept. where: what an error names as its place.

        Raises:
            ConfigError: the value has another type or is out of range.
        """
        kept = self._kept(value)
        if kept is None and (value is not None or self.default is not None):
            raise ConfigError(f"{where} has {got(value)}: expected {self.wanted}")
        return kept

    def from_text(self, text: str, where: str) -> Any:
        """Return the value that a text stands for, as it is kept. where: what an error names as its place.

        Raises:
            ConfigError: the text is no such value, or it is out of range.
        """
        value: object = text.strip()
        if self.kind in (int, float):
            try:
                value = self.kind(text)
            except ValueError:
                value = None
        elif self.kind is bool:
            value = {"true": True, "false": False}.get(text.strip().lower())
        kept = self._kept(value)
        if kept is None:
            raise ConfigError(f"{where} has {got(text)}: expected {self.wanted}")
        return kept

    def shown(self, value: Any) -> str:
        """Return a kept value for people, with its unit."""
        if value is None:
            return "none"
        if self.kind in (int, float):
            return f"{repr(value).removesuffix('.0')} {self.unit}".rstrip()
        if self.kind is bool:
            return str(value).lower()
        text = str(value)
        return text if text.isprintable() else repr(text)

    def _kept(self, value: object) -> Any:
        if self.kind is bool:
            return value if isinstance(value, bool) else None
        if self.kind in (int, float):
            if isinstance(value, bool) or not isinstance(value, int if self.kind is int else int | float):
                return None
            return self.kind(value) if self.low <= value <= self.high else None
        if self.kind is Path:
            return Path(value) if isinstance(value, str | Path) and str(value) and "\0" not in str(value) else None
        if not isinstance(value, str) or not value or not value.isprintable() or " " in value:
            return None
        if self.choices:
            return value.lower() if value.lower() in self.choices else None
        return value


def _row(table: str, text: str, **more: Any) -> dict[str, Any]:
    return {"table": table, "help": text, **more}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one server; what each means, its range and its unit stand beside it, here and nowhere else.

    api_keys: no row of the table, because keys stand in no configuration file; read from ``api_keys_file`` where that
    is given and they are not. policies: tables of their own in the file.
    """

    host: str = field(
        default="127.0.0.1", metadata=_row("server", "address to listen on; beyond this machine only with API keys")
    )
    port: int = field(
        default=8080, metadata=_row("server", "port to listen on; 0 takes a free one", low=0, high=65_535)
    )
    artifact: Path | None = field(
        default=None, metadata=_row("server", "artifact to serve: a directory written by 'whichmodel train --out'")
    )
    api_keys_file: Path | None = field(
        default=None, metadata=_row("server", "file of API keys, one per line; lines that begin with # are skipped")
    )
    max_body_bytes: int = field(
        default=4 * 2**20,
        metadata=_row("server", "largest body of a request", unit="bytes", low=1_024, high=2**26),
    )
    chunk_timeout_s: float = field(
        default=5.0,
        metadata=_row(
            "server",
            "longest silence inside a request's body, and longest time for its head",
            unit="s",
            low=0.01,
            high=600,
        ),
    )
    max_backlog: int = field(
        default=128,
        metadata=_row(
            "server",
            "requests that wait for their turn before more are refused with 429",
            unit="requests",
            low=1,
            high=100_000,
        ),
    )
    log_format: str = field(default="text", metadata=_row("server", "form of the log lines", choices=LOG_FORMATS))
    log_level: str = field(
        default="info", metadata=_row("server", "least severe log lines that are written", choices=LOG_LEVELS)
    )
    log_decisions: bool = field(
        default=True, metadata=_row("server", "one log line, of level info, per decision, without the prompt")
    )
    latency_budget_ms: float = field(
        default=50.0,
        metadata=_row("routing", "latency budget of requests that name none", unit="ms", low=1, high=10_000),
    )
    cache_entries: int = field(
        default=4096,
        metadata=_row(
            "routing", "decisions kept for repeated requests; 0 keeps none", unit="entries", low=0, high=1_000_000
        ),
    )
    max_waiting: int = field(
        default=1024,
        metadata=_row("routing", "requests that may wait for the full encoder", unit="requests", low=1, high=100_000),
    )
    encoder_threads: int = field(
        default=2,
        metadata=_row("routing", "prompts that the full encoder encodes at a time", unit="threads", low=1, high=64),
    )
    encoder_nice: int = field(
        default=10,
        metadata=_row("routing", "by how much the full encoder's threads yield to the others", low=0, high=19),
    )
    profiles: Path | None = field(
        default=None,
        metadata=_row("routing", "file of profiles, over those of the artifact; read again when it changes"),
    )
    max_sessions: int = field(
        default=10_000,
        metadata=_row(
            "routing",
            "sessions whose model is remembered; 0 remembers none",
            unit="sessions",
            low=0,
            high=10_000_000,
        ),
    )
    session_ttl_s: float = field(
        default=1_800.0,
        metadata=_row("routing", "time after which an unused session begins anew", unit="s", low=1, high=604_800),
    )
    feedback_store: Path | None = field(
        default=None,
        metadata=_row(
            "feedback", "file in which feedback is kept, made where there is none; without it, none is taken"
        ),
    )
    feedback_keep_decisions: str = field(
        default="all",
        metadata=_row(
            "feedback", "decisions kept to be judged: all, those whose requests ask for it, or none", choices=KEPT
        ),
    )
    feedback_keep_prompts: bool = field(
        default=False, metadata=_row("feedback", "keep the texts of prompts, too, not only vectors and a hash")
    )
    feedback_ttl_s: float = field(
        default=86_400.0,
        metadata=_row("feedback", "how long a decision may be judged", unit="s", low=1, high=2_592_000),
    )
    feedback_only_own: bool = field(
        default=False, metadata=_row("feedback", "a decision may be judged only with the API key that it was made for")
    )
    feedback_max_pending: int = field(
        default=100_000,
        metadata=_row(
            "feedback",
            "decisions that wait to be judged; the oldest make room for new ones",
            unit="decisions",
            low=1,
            high=100_000_000,
        ),
    )
    feedback_max_bytes: int = field(
        default=4 * 2**30,
        metadata=_row(
            "feedback", "size of the store above which feedback is refused", unit="bytes", low=2**20, high=2**46
        ),
    )
    feedback_retention_days: float = field(
        default=0.0,
        metadata=_row("feedback", "feedback that is older is deleted; 0 keeps it", unit="days", low=0, high=36_500),
    )
    api_keys: ApiKeys = field(default_factory=ApiKeys)
    policies: PolicyBook = field(default_factory=PolicyBook)

    def __post_init__(self) -> None:
        """Check every value, and read the file of keys if there is one and no keys were given.

        Raises:
            ConfigError: a value has another type or is out of its range, the keys cannot be read, or a policy is bound
                to a key that none is called.
        """
        for setting in SETTINGS:
            object.__setattr__(self, setting.name, setting.checked(getattr(self, setting.name), setting.name))
        if self.api_keys_file is not None and not self.api_keys:
            object.__setattr__(self, "api_keys", ApiKeys.from_file(self.api_keys_file))
        for place, one in enumerate(self.policies.bindings):
            if one.key is not None and one.key not in self.api_keys.names:
                raise ConfigError(unknown_key(f"bindings[{place}].key", self.api_keys))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Return the settings that the environment gives, with defaults for the others.

        Raises:
            ConfigError: as ``read_environment``, or the keys cannot be read.
        """
        return cls(**dict(read_environment(environ)))


def read_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield name and value of every setting that has a variable; one that is empty counts as absent.

    Raises:
        ConfigError: a value is wrong, ``WHICHMODEL_API_KEYS`` holds no key, or a file of keys is named as well.
    """
    for setting in SETTINGS:
        if text := environ.get(setting.variable):
            yield setting.name, setting.from_text(text, setting.variable)
    if listed := environ.get(KEYS_VARIABLE):
        if environ.get(f"{KEYS_VARIABLE}_FILE"):
            raise ConfigError(f"{KEYS_VARIABLE} and {KEYS_VARIABLE}_FILE are both set: expected one of them")
        yield "api_keys", ApiKeys.from_lines(listed.split(","), KEYS_VARIABLE)


def _table() -> tuple[Setting, ...]:
    kinds = get_type_hints(Settings)
    return tuple(
        Setting(
            one.name, kind=(get_args(kinds[one.name]) or (kinds[one.name],))[0], default=one.default, **one.metadata
        )
        for one in fields(Settings)
        if one.metadata
    )


def unknown_key(where: str, keys: ApiKeys) -> str:
    """Return the error of a binding to a key that none is called; what it says instead may be the key itself."""
    known = f"expected one of {', '.join(keys.names)}" if keys.names else "no key was given a name"
    return f"{where} is not the name of an API key: {known}"


def got(value: object) -> str:
    """Return what was given instead of a value, in the words of the configuration file."""
    if isinstance(value, list):
        return "an array"  # of keys, perhaps: not to be repeated
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return f"the value {str(value).lower()}"
    shown = repr(value)
    return f"the value {shown if len(shown) <= SHOWN_CHARS else shown[:SHOWN_CHARS] + '...'}"


SETTINGS = _table()
