"""Request bodies: read under a cap and a timeout, then parsed by rules stricter than Python's own.

Nothing here knows what the fields mean, and no refusal repeats what was sent.
"""

import asyncio
import json
import math
from typing import Any, NoReturn

from starlette.types import Receive

# Longest time for a whole body, however steadily it trickles.
BODY_TIMEOUT_S = 60.0
MAX_DEPTH = 32
# Bounds the work and the memory of parsing: 4 MiB of '[],[],...' would be a million lists and 100 MB.
MAX_VALUES = 50_000
MAX_INTEGER_CHARS = 32
MAX_FLOAT_CHARS = 400

_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))


class BodyError(Exception):
    """A body that is refused before its fields are looked at: HTTP status, kind for programs, message for people."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


def check_content_headers(content_type: bytes | None, content_encoding: bytes | None) -> None:
    """Accept plain UTF-8 JSON, or silence about it.

    Raises:
        BodyError: 415.
    """
    if content_encoding is not None and content_encoding.strip().lower() != b"identity":
        raise BodyError(415, "media_type", "a compressed body is not accepted")
    if content_type is None or content_type == b"application/json":
        return
    media_type, *parameters = (part.strip().lower() for part in content_type.decode("latin-1").split(";"))
    if media_type != "application/json":
        raise BodyError(415, "media_type", "the content type must be application/json")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') not in {"utf-8", "utf8"}:
            raise BodyError(415, "media_type", "the charset must be utf-8")


async def read_body(receive: Receive, content_length: bytes | None, *, max_bytes: int, chunk_timeout_s: float) -> bytes:
    """Return the whole body.

    Raises:
        BodyError: 413 as soon as more than ``max_bytes`` are announced or have arrived; 408 after
            ``chunk_timeout_s`` of silence or BODY_TIMEOUT_S in all.
        ClientGoneError: before the end of the body.
    """
    announced = content_length or b""
    if announced.isdigit() and (len(announced) > 18 or int(announced) > max_bytes):
        raise _too_large(max_bytes)
    clock = asyncio.get_running_loop().time
    end = clock() + BODY_TIMEOUT_S
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(chunk_timeout_s) as limit:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                chunks.append(chunk)
                more = message.get("more_body", False)
                if more:
                    limit.reschedule(min(clock() + chunk_timeout_s, end))
    except TimeoutError as exc:
        raise BodyError(408, "timeout", "the body came too slowly") from exc
    return b"".join(chunks)


def parse_json(raw: bytes) -> Any:
    """Return the JSON value: plain UTF-8, no NaN or infinity, no repeated key, at most MAX_DEPTH deep.

    Raises:
        BodyError: 400 when it is not that; 422 for a lone surrogate in any string.
    """
    _check_structure(raw)
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise BodyError(400, "body", "the body is not UTF-8") from exc
    except json.JSONDecodeError as exc:
        raise BodyError(400, "body", f"the body is not JSON: line {exc.lineno}, column {exc.colno}") from exc
    if b"\\ud" in raw or b"\\uD" in raw:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as exc:
            raise BodyError(422, "validation", "a string has half a surrogate pair") from exc
    return value


def _check_structure(raw: bytes) -> None:
    """Bound nesting and number of values before any parsing, with whole-buffer operations only.

    Up to the first syntax error, where the parser stops, a quote is escaped exactly when it follows an odd number of
    backslashes, so what remains outside the quotes below is the structure that the parser would see.
    """
    openings = raw.count(b"[") + raw.count(b"{")
    if openings <= MAX_DEPTH and raw.count(b",") <= MAX_VALUES - MAX_DEPTH:
        return
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if unescaped.count(b'"') > 4 * MAX_VALUES:
        raise _too_many()
    structure = b"".join(unescaped.split(b'"')[::2])
    if structure.count(b",") + structure.count(b"[") + structure.count(b"{") > MAX_VALUES:
        raise _too_many()
    depth = 0
    for bracket in structure.translate(None, _NO_BRACKET):
        depth += 1 if bracket in b"[{" else -1
        if depth < 0:  # a syntax error, which the parser will name
            return
        if depth > MAX_DEPTH:
            raise BodyError(400, "body", f"the body is nested more than {MAX_DEPTH} deep")


def _too_many() -> BodyError:
    return BodyError(400, "body", f"the body has more than {MAX_VALUES} values")


def _too_large(max_bytes: int) -> BodyError:
    return BodyError(413, "too_large", f"the body has more than {max_bytes} bytes")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise BodyError(400, "body", "an object has the same key twice")
    return out


def _constant(name: str) -> NoReturn:
    raise BodyError(400, "body", f"{name} is not JSON")


def _integer(text: str) -> int:
    if len(text) > MAX_INTEGER_CHARS:
        raise BodyError(400, "body", f"an integer has more than {MAX_INTEGER_CHARS} characters")
    return int(text)


def _float(text: str) -> float:
    value = float(text) if len(text) <= MAX_FLOAT_CHARS else math.inf
    if not math.isfinite(value):
        raise BodyError(400, "body", "a number is out of range")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_float)
