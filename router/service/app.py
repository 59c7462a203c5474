"""The HTTP application: endpoints, keys at the door, and one form for every error. The only async room."""

import asyncio
import json
import logging
import traceback
import uuid
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from router.deadline import now_ms
from router.errors import PolicyError, PromptError
from router.router import Router
from router.service.auth import ApiKeys, offered_key
from router.service.body import BodyError, check_content_headers, parse_json, read_body
from router.service.schema import (
    ANSWER_EXAMPLE,
    REQUEST_EXAMPLES,
    ErrorAnswer,
    RouteAnswer,
    RouteRequest,
    StatusAnswer,
    component_schemas,
    error_body,
    error_details,
)
from router.service.settings import Settings
from router.types import Decision, JsonObject

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
# Folding, stripping and cutting a prompt cost time per character (about 10 ms for a million), so long ones leave the
# event loop to others. The way to a thread and back takes 0.1 ms, as long as encoding a short one: those stay.
LONG_PROMPT_CHARS = 4_000
WARM_UP_PROMPT = "warm up "

_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
_KINDS = {404: "not_found", 405: "method_not_allowed"}
_ERRORS = {
    400: "The body is not strict JSON.",
    401: "The API key is missing or wrong.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    422: "A field is wrong (`validation`), the prompt is unusable (`prompt`) or no model is left (`policy`).",
    500: "A fault of the server.",
}


class Service(FastAPI):
    """FastAPI whose OpenAPI document also has the schema of the request, which the endpoint reads by itself."""

    def openapi(self) -> JsonObject:
        """Return the OpenAPI document."""
        document = super().openapi()
        document["components"]["schemas"].update(component_schemas())
        return document


def create_app(router: Router, settings: Settings) -> FastAPI:
    """Return the application that serves one loaded router; it is ready once its lifespan has begun."""
    # One thread: a second one would only compete for the same cores.
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="route")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        router.route(WARM_UP_PROMPT)
        executor.submit(router.route, WARM_UP_PROMPT * LONG_PROMPT_CHARS).result()
        app.state.ready = True
        yield
        app.state.ready = False
        executor.shutdown(wait=False, cancel_futures=True)

    app = Service(
        title="whichmodel",
        summary="Which model should take this prompt?",
        description=f"Serving artifact `{router.artifact.id}`. {router.artifact.verdict.text}",
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        # Spans and records of FastAPI's own carry the texts of exceptions, which may quote the prompt.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        exception_handlers={
            HTTPException: _on_http_error,
            BodyError: _on_body_error,
            ValidationError: _on_validation_error,
            PromptError: _on_prompt_error,
            PolicyError: _on_policy_error,
            Exception: _on_unexpected_error,
        },
        responses={401: {"model": ErrorAnswer, "description": _ERRORS[401]}} if settings.api_keys else None,
    )
    app.state.ready = False

    @app.post(
        "/route",
        summary="Decide which model should take a prompt",
        response_model=RouteAnswer,
        response_model_exclude_unset=True,
        responses={
            200: {"content": {"application/json": {"example": ANSWER_EXAMPLE}}},
            **{
                status: {"model": ErrorAnswer, "description": text} for status, text in _ERRORS.items() if status != 401
            },
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"$ref": "#/components/schemas/RouteRequest"},
                        "examples": REQUEST_EXAMPLES,
                    }
                },
            }
        },
    )
    async def route(request: Request) -> Response:
        check_content_headers(request.headers.get("content-type"), request.headers.get("content-encoding"))
        raw = await read_body(request, max_bytes=settings.max_body_bytes, chunk_timeout_s=settings.chunk_timeout_s)
        asked = RouteRequest.model_validate(parse_json(raw))
        decide = partial(
            router.route,
            asked.to_prompt(),
            asked.policy.to_policy() if asked.policy else None,
            latency_budget_ms=asked.latency_budget_ms or settings.latency_budget_ms,
            arrived_ms=request.state.arrived_ms,
        )
        if asked.n_chars > LONG_PROMPT_CHARS:
            decision = await asyncio.get_running_loop().run_in_executor(executor, decide)
        else:
            decision = decide()
        return json_response(200, decision.to_json(explain=asked.explain), _decision_headers(decision))

    @app.get("/healthz", summary="The process answers", response_model=StatusAnswer)
    async def healthz() -> Response:
        return json_response(200, {"status": "ok"})

    @app.get(
        "/readyz",
        summary="The router is loaded and warm",
        response_model=StatusAnswer,
        responses={503: {"model": ErrorAnswer, "description": "Not ready, or shutting down."}},
    )
    async def readyz() -> Response:
        if app.state.ready:
            return json_response(200, {"status": "ok"})
        return json_response(503, error_body("not_ready", "the router is not ready"))

    @app.get("/artifact", summary="What is served: models, verdict and held-out report")
    async def artifact() -> Response:
        return json_response(200, router.describe())

    app.add_middleware(KeyCheck, keys=settings.api_keys)
    app.add_middleware(Arrival)  # added last, so it runs first
    return app


class Arrival:
    """Notes when a request arrived, on the clock that its latency budget runs on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass every request on."""
        scope.setdefault("state", {})["arrived_ms"] = now_ms()
        await self.app(scope, receive, send)


class KeyCheck:
    """Asks for a key before anything else looks at the request, at every path but OPEN_PATHS, known or not."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what has a key or needs none; answer 401 to the rest."""
        if self.keys and scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            key = offered_key(scope["headers"])
            if key is None or not self.keys.accept(key):
                body = error_body("unauthorized", "an API key is needed: Authorization: Bearer KEY, or x-api-key: KEY")
                await json_response(401, body, {"www-authenticate": "Bearer"})(scope, receive, send)
                return
        await self.app(scope, receive, send)


def json_response(status: int, content: JsonObject, headers: Mapping[str, str] | None = None) -> Response:
    """Return strict JSON in ASCII: any string can be written so, and NaN is an error here, not at the caller."""
    return Response(_ENCODER.encode(content), status_code=status, headers=headers, media_type="application/json")


def _decision_headers(decision: Decision) -> dict[str, str]:
    return {
        "x-whichmodel-model": _header_text(decision.model),
        "x-whichmodel-tier": _header_text(decision.tier),
        "x-whichmodel-artifact": _header_text(decision.artifact_id),
        "x-whichmodel-elapsed-ms": f"{decision.elapsed_ms:.4f}",
        "x-whichmodel-budget-met": "true" if decision.budget_met else "false",
    }


def _header_text(text: str) -> str:
    """Percent-encode all but letters, digits and ``_.-~/:@+``: names are data and may hold line breaks."""
    return quote(text, safe="/:@+")


async def _on_http_error(request: Request, exc: HTTPException) -> Response:
    phrase = HTTPStatus(exc.status_code).phrase.lower()
    return json_response(exc.status_code, error_body(_KINDS.get(exc.status_code, "http"), phrase), exc.headers)


async def _on_body_error(request: Request, exc: BodyError) -> Response:
    # What is left of an unread body is not worth waiting for.
    headers = {"connection": "close"} if exc.status in {408, 413} else None
    return json_response(exc.status, error_body(exc.kind, str(exc)), headers)


async def _on_validation_error(request: Request, exc: ValidationError) -> Response:
    details = error_details(exc.errors(include_url=False, include_context=False, include_input=False))
    return json_response(422, error_body("validation", "the request has fields that are wrong", details))


async def _on_prompt_error(request: Request, exc: PromptError) -> Response:
    return json_response(422, error_body("prompt", str(exc)))


async def _on_policy_error(request: Request, exc: PolicyError) -> Response:
    return json_response(422, error_body("policy", str(exc)))


async def _on_unexpected_error(request: Request, exc: Exception) -> Response:
    """Log where it happened; not the exception's own text, which may quote the prompt."""
    error_id = uuid.uuid4().hex
    frames = "".join(traceback.format_tb(exc.__traceback__))
    logger.error("unexpected %s, error id %s\n%s", type(exc).__name__, error_id, frames.rstrip())
    return json_response(500, error_body("internal", f"unexpected error, logged with the id {error_id}"))
