"""API keys: where they come from, how one is checked, and which binds may do without. Only hashes are kept."""

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from router.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The SHA-256 of every key that is accepted; without any, the service is open."""

    hashes: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def from_lines(cls, lines: Iterable[str], where: str) -> "ApiKeys":
        """Read one key per line; blank lines and lines that begin with ``#`` are skipped.

        Raises:
            ConfigError: there is no key, or one has spaces or characters that a header cannot carry.
        """
        keys = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
        if not keys:
            raise ConfigError(f"{where} holds no API key: expected at least one")
        for position, key in enumerate(keys, start=1):
            if not (key.isascii() and key.isprintable()) or " " in key:
                raise ConfigError(f"{where}: key {position} has a space or a character outside printable ASCII")
        return cls(tuple(hashlib.sha256(key.encode()).digest() for key in keys))

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

    def admit(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Tell whether a request with these headers has a key, or none is needed; names in lower case."""
        if not self.hashes:
            return True
        key = offered_key(headers)
        return key is not None and self.accept(key)

    def accept(self, key: bytes) -> bool:
        """Tell whether the key is one of ours, in a time that does not depend on which or how nearly."""
        digest = hashlib.sha256(key).digest()
        accepted = False
        for one in self.hashes:
            accepted |= hmac.compare_digest(digest, one)
        return accepted


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
