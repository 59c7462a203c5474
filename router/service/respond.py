"""Answers in bytes: strict JSON, the headers that repeat a decision, and one form for every error."""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import quote

from starlette.responses import Response

from router.service.answers import error_body
from router.service.body import BodyError
from router.types import Decision, JsonObject

_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def json_response(status: int, content: JsonObject, headers: Mapping[str, str] | None = None) -> Response:
    """Return strict JSON in ASCII: any string can be written so, and NaN is an error here, not at the caller."""
    return Response(json_bytes(content), status_code=status, headers=headers, media_type="application/json")


def json_bytes(content: JsonObject) -> bytes:
    """Return strict JSON in ASCII."""
    return _ENCODER.encode(content).encode()


def error_response(
    status: int,
    kind: str,
    message: str,
    *,
    details: Iterable[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error in the one form that all have; ``details`` are pairs of field and message."""
    return json_response(status, error_body(kind, message, details), headers)


def refused_body(exc: BodyError) -> Response:
    """Return what is answered to a body that is refused."""
    # What is left of an unread body is not worth waiting for.
    headers = {"connection": "close"} if exc.status in {408, 413} else None
    return error_response(exc.status, exc.kind, str(exc), headers=headers)


def unauthorized() -> Response:
    """Return what is answered without a key that is known."""
    message = "an API key is needed: Authorization: Bearer KEY, or x-api-key: KEY"
    return error_response(401, "unauthorized", message, headers={"www-authenticate": "Bearer"})


def decision_headers(decision: Decision) -> list[tuple[bytes, bytes]]:
    """Return what a proxy may want to know of a decision without parsing the body."""
    headers = [
        (b"content-type", b"application/json"),
        (b"x-whichmodel-model", _header_text(decision.model)),
        (b"x-whichmodel-tier", _header_text(decision.tier)),
        (b"x-whichmodel-degraded", _flag(decision.degraded)),
        (b"x-whichmodel-cached", _flag(decision.cached)),
        (b"x-whichmodel-artifact", _header_text(decision.artifact_id)),
        (b"x-whichmodel-elapsed-ms", b"%.4f" % decision.elapsed_ms),
        (b"x-whichmodel-budget-met", _flag(decision.budget_met)),
    ]
    if decision.endpoint is not None:
        headers.append((b"x-whichmodel-endpoint", _header_text(decision.endpoint)))
    if decision.gateway_model is not None:
        headers.append((b"x-whichmodel-gateway-model", _header_text(decision.gateway_model)))
    if decision.session is not None:
        headers.append((b"x-whichmodel-session", _header_text(decision.session)))
    return headers


def _flag(value: bool) -> bytes:
    return b"true" if value else b"false"


@lru_cache(maxsize=4096)
def _header_text(text: str) -> bytes:
    """Percent-encode all but letters, digits and ``_.-~/:@+``: names are data and may hold line breaks."""
    return quote(text, safe="/:@+").encode()
