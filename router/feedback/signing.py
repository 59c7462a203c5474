"""Decision ids that nobody else can make: random, signed, and of limited life. Checked without any database."""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from router.errors import ExpiredDecisionError, ForgedDecisionError, StoreError

TTL_S = 24 * 3600.0
SECRET_BYTES = 32
# Random part, seconds since 1970 at which it expires, which API key asked, and the signature of all these.
_LAYOUT = struct.Struct(">12sI4s12s")
ID_CHARS = -(-_LAYOUT.size * 4 // 3)
NONCE_BYTES = 12
_PURPOSE = b"whichmodel decision 1\0"


@dataclass(frozen=True, slots=True)
class DecisionSigner:
    """Makes decision ids and checks them: 43 characters of A-Z, a-z, 0-9, '-' and '_'.

    secret: at least 16 bytes. ttl_s: how long a decision may be judged.
    """

    secret: bytes = field(repr=False)
    ttl_s: float = TTL_S

    def __post_init__(self) -> None:
        """Raise ValueError for a secret that is too short to be one, or a life of no length."""
        if len(self.secret) < 16:
            raise ValueError(f"the secret must have at least 16 bytes, got {len(self.secret)}")
        if not 1 <= self.ttl_s < 2**31:
            raise ValueError(f"ttl_s must be 1 to 2^31, got {self.ttl_s}")

    def new_id(self, key_id: str, now_s: float, nonce: bytes | None = None) -> str:
        """Return the id of a decision that is made now for an API key.

        now_s: seconds since 1970. nonce: its NONCE_BYTES random bytes; drawn where left out.
        """
        asker = _asker(key_id)
        head = (nonce or secrets.token_bytes(NONCE_BYTES), int(now_s + self.ttl_s), asker)
        return base64.urlsafe_b64encode(_LAYOUT.pack(*head, self._tag(*head))).decode().rstrip("=")

    def check(self, decision_id: str, now_s: float, *, only_for: str | None = None) -> float:
        """Return when a decision id expires, in seconds since 1970. only_for: the API key it must have been made for.

        Raises:
            ForgedDecisionError: it was not made with this secret, or not for that key.
            ExpiredDecisionError: its time is over.
        """
        raw = _decoded(decision_id)
        if raw is None:
            raise ForgedDecisionError(f"decision_id: expected the {ID_CHARS} characters that came with the decision")
        nonce, expires_s, asker, tag = _LAYOUT.unpack(raw)
        if not hmac.compare_digest(tag, self._tag(nonce, expires_s, asker)):
            raise ForgedDecisionError("decision_id: its signature is not this service's")
        if only_for is not None and not hmac.compare_digest(asker, _asker(only_for)):
            raise ForgedDecisionError("decision_id: the decision was made for another API key")
        if now_s >= expires_s:
            raise ExpiredDecisionError(
                f"decision_id: expired {now_s - expires_s:.0f} s ago; a decision can be judged for {self.ttl_s:.0f} s"
            )
        return float(expires_s)

    def _tag(self, nonce: bytes, expires_s: int, asker: bytes) -> bytes:
        signed = _PURPOSE + _LAYOUT.pack(nonce, expires_s, asker, bytes(12))
        # hmac.digest would do, but lets go of Python's lock, and gets it back up to 5 ms later.
        keyed = _keyed(self.secret).copy()
        keyed.update(signed)
        return keyed.digest()[:12]


def secret_beside(store: str | Path) -> bytes:
    """Return the secret in the file STORE.secret, which is made, readable by its owner alone, where there is none.

    Raises:
        StoreError: it cannot be read or made, others may read it, or it is no secret.
    """
    path = Path(f"{store}.secret")
    try:
        if not path.exists():
            _make_secret(path)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            secret = file.read(SECRET_BYTES + 1)
    except OSError as exc:
        raise StoreError(f"{path}: the secret of decision ids cannot be read or made: {exc.strerror}") from exc
    if os.name == "posix" and mode & 0o077:
        raise StoreError(f"{path}: got mode {mode:03o}, expected 600: others may read the secret; chmod 600 it")
    if len(secret) != SECRET_BYTES:
        raise StoreError(f"{path}: not a secret, expected {SECRET_BYTES} bytes; delete it to have another one made")
    return secret


def _make_secret(path: Path) -> None:
    """Write a secret under another name first: two processes that start together end with the same one."""
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(beside, path)
        except FileExistsError:
            return
    finally:
        beside.unlink()


@lru_cache(maxsize=8)
def _keyed(secret: bytes) -> hmac.HMAC:
    return hmac.new(secret, digestmod="sha256")


@lru_cache(maxsize=1024)
def _asker(key_id: str) -> bytes:
    return hashlib.sha256(key_id.encode("utf-8", "surrogatepass")).digest()[:4]


def _decoded(decision_id: str) -> bytes | None:
    if len(decision_id) != ID_CHARS or not decision_id.isascii():
        return None
    try:
        raw = base64.b64decode(decision_id + "=" * (-ID_CHARS % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    # The last character has bits that no byte takes: only one spelling of an id is its own.
    spelt = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    return raw if spelt == decision_id and len(raw) == _LAYOUT.size else None
