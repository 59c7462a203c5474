"""API keys: where they come from, whose they are and what they may, and which binds may do without one.

Of a key only the hash is kept.
"""

import difflib
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from router.errors import ConfigError

RIGHTS = ("prompts", "admin")
"""What a key may be allowed: to see prompts that the artifact stores; to change what is served."""
MAX_NAME_CHARS = 64
_NAME = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_NAME_CHARS}}}")
# What keys without a name are called.
_NUMBERED = re.compile(r"key[0-9]+")
_WANTED = "expected KEY, or KEY name=NAME may=RIGHT+RIGHT"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever has one of our keys. name: empty for anybody, where no key is needed. may: some of RIGHTS."""

    name: str
    may: frozenset[str] = frozenset()

    @property
    def sees_prompts(self) -> bool:
        """Whether stored prompts are shown."""
        return "prompts" in self.may

    @property
    def may_change(self) -> bool:
        """Whether another artifact may be loaded at this one's word."""
        return "admin" in self.may


ANYBODY = Caller("", frozenset(RIGHTS))
"""Who asks where no key is needed, which is on this machine only."""


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The SHA-256 of every key that is accepted, and who has it; without any, the service is open."""

    hashes: tuple[bytes, ...] = field(default=(), repr=False)
    callers: tuple[Caller, ...] = ()

    @classmethod
    def from_lines(cls, lines: Iterable[str], where: str) -> "ApiKeys":
        """Read one key per line: ``KEY``, or ``KEY name=NAME may=RIGHT+RIGHT``, either left out.

        Blank lines and lines that begin with ``#`` are skipped. Keys without a name are called ``key1``, ``key2`` ...
        by their place.

        Raises:
            ConfigError: there is no key, or one has characters that a header cannot carry, something that is neither
                a name nor rights behind it, an unknown right, or another one's name, or is there twice.
        """
        entries = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
        if not entries:
            raise ConfigError(f"{where} holds no API key: expected at least one")
        hashes: list[bytes] = []
        callers: list[Caller] = []
        for position, entry in enumerate(entries, start=1):
            at = f"{where}: key {position}"
            key, *more = entry.split()
            if not (key.isascii() and key.isprintable()):
                raise ConfigError(f"{at} has a character outside printable ASCII")
            digest = hashlib.sha256(key.encode()).digest()
            if digest in hashes:
                raise ConfigError(f"{at} is the same as key {hashes.index(digest) + 1}: expected each once")
            hashes.append(digest)
            callers.append(_caller(more, position, at))
            if callers[-1].name in [one.name for one in callers[:-1]]:
                raise ConfigError(f"{at} has the name {callers[-1].name}, as another one has: expected each once")
        return cls(tuple(hashes), tuple(callers))

    @classmethod
    def from_file(cls, path: str | Path) -> "ApiKeys":
        """Read a file of keys.

        Raises:
            ConfigError: the file cannot be read, or as ``from_lines``.
        """
        try:
            text = Path(path).read_text("utf-8")
        except OSError as exc:
            raise ConfigError(f"{path}: the API keys cannot be read: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise ConfigError(f"{path}: the API keys cannot be read: not UTF-8") from exc
        return cls.from_lines(text.splitlines(), str(path))

    def __bool__(self) -> bool:
        """Tell whether a key is needed at all."""
        return bool(self.hashes)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that were given to keys."""
        return tuple(one.name for one in self.callers if not _NUMBERED.fullmatch(one.name))

    def caller_of(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller | None:
        """Return who sends a request with these headers, names in lower case; None without the key that it needs."""
        if not self.hashes:
            return ANYBODY
        key = offered_key(headers)
        return None if key is None else self.caller_with(key)

    def caller_with(self, key: bytes) -> Caller | None:
        """Return whose key this is, None if it is none of ours: in a time that does not tell which or how nearly."""
        digest = hashlib.sha256(key).digest()
        found = None
        for one, caller in zip(self.hashes, self.callers, strict=True):
            if hmac.compare_digest(digest, one):
                found = caller
        return found


def _caller(words: list[str], position: int, at: str) -> Caller:
    """Read what stands behind a key; no word is repeated but a right, as it may be part of the key."""
    name, may = f"key{position}", frozenset[str]()
    seen = [word.partition("=")[0] for word in words]
    for word in words:
        what, _, value = word.partition("=")
        if what not in ("name", "may") or seen.count(what) > 1:
            raise ConfigError(f"{at} is followed by something else than one name and its rights: {_WANTED}")
        if what == "name":
            if not _NAME.fullmatch(value) or _NUMBERED.fullmatch(value):
                raise ConfigError(
                    f"{at} has a name that is none: expected 1 to {MAX_NAME_CHARS} letters, digits, '_', '.' or '-', "
                    "and not key1, key2 ..., which keys without a name are called"
                )
            name = value
        else:
            may = frozenset(value.split("+"))
            for right in sorted(may - set(RIGHTS)):
                near = difflib.get_close_matches(right, RIGHTS, 1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise ConfigError(f"{at} may do something that is no right: {hint}expected {' or '.join(RIGHTS)}")
    return Caller(name, may)


def offered_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the key of a request: ``x-api-key``, else ``authorization: Bearer KEY``; header names in lower case."""
    offered = None
    for name, value in headers:
        if name == b"x-api-key":
            return value.strip()
        if name == b"authorization" and offered is None:
            scheme, _, rest = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                offered = rest.strip()
    return offered


def check_bind(host: str, keys: ApiKeys) -> None:
    """Refuse to listen beyond this machine without keys; names but ``localhost`` may resolve anywhere.

    Raises:
        ConfigError: the host is not a loopback address and there is no key.
    """
    if not keys and not _is_loopback(host):
        raise ConfigError(
            f"will not listen on {host!r} without an API key: set WHICHMODEL_API_KEYS or WHICHMODEL_API_KEYS_FILE, "
            "or listen on 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
