"""The HTTP application: endpoints, keys at the door, and one form for every error. The only async room."""

import asyncio
import logging
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from operator import attrgetter, methodcaller
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from router.live import LiveRouter
from router.router import Router
from router.service.admin import add_admin
from router.service.answers import ANSWER_EXAMPLE, ErrorAnswer, RouteAnswer, StatusAnswer
from router.service.arrivals import Arrivals
from router.service.auth import ApiKeys
from router.service.backlog import ROUTE_PATH, Backlog
from router.service.feedback import FEEDBACK_PATH, Feedback
from router.service.feedback_schema import FEEDBACK_EXAMPLES, FeedbackAnswer, FeedbackRequest
from router.service.keeper import LONG_PROMPT_CHARS
from router.service.metrics import CONTENT_TYPE, Metrics, watch_loop, what_is_served
from router.service.profiles_file import ProfilesFile
from router.service.reloads import Reloaded, Reloads
from router.service.respond import error_response, json_response, unauthorized
from router.service.route import RouteEndpoint
from router.service.schema import REQUEST_EXAMPLES, component_schemas, schemas_of
from router.service.settings import Settings
from router.service.watch import Watch
from router.types import JsonObject, Messages, ModelProfile, Seen

Value = TypeVar("Value")

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
WARM_UP_PROMPT = "warm up "
DRIFT_OFF = "drift is not watched: drift.window is 0 in the settings, or WHICHMODEL_DRIFT_WINDOW"

_KINDS = {404: "not_found", 405: "method_not_allowed"}
_ERRORS = {
    400: "The body is not strict JSON.",
    401: "The API key is missing or wrong.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    422: "A field is wrong (`validation`), the prompt is unusable (`prompt`) or no model is left (`policy`).",
    429: "Too many requests wait for their turn; `Retry-After` says when to come again.",
    500: "A fault of the server.",
}
_FEEDBACK_ERRORS = {
    403: "The decision id was not signed by this service, or not for this API key.",
    404: "The decision is not held (`unknown_decision`), or the service takes no feedback (`feedback_off`).",
    409: "This API key has judged the decision already, or the idempotency key stands for other feedback.",
    410: "The decision was made too long ago.",
    422: "A field is wrong, or does not fit the decision.",
    429: "Too much feedback is under way.",
    503: "The store is busy or has failed: nothing was acknowledged.",
    507: "The store is full: nothing was acknowledged.",
}


class Service(FastAPI):
    """FastAPI that takes the short way to some paths, and whose OpenAPI document has their requests' schemas, too."""

    live: LiveRouter
    reloads: Reloads
    arrivals: Arrivals
    backlog: Backlog
    short_ways: dict[str, ASGIApp]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        short_way = self.short_ways.get(scope["path"]) if scope["type"] == "http" else None
        if short_way is not None:
            await short_way(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def openapi(self) -> JsonObject:
        """Return the OpenAPI document."""
        document = super().openapi()
        with self.live.lease() as router:
            document["info"]["description"] = f"Serving artifact `{router.artifact.id}`. {router.artifact.verdict.text}"
        document["components"]["schemas"].update(component_schemas() | schemas_of(FeedbackRequest))
        return document


def create_app(router: Router, settings: Settings) -> Service:
    """Return the application that serves one loaded router; it is ready once its lifespan has begun.

    ``live`` of the application holds the router, and whatever takes its place; closing it is the caller's business.

    Raises:
        ConfigError: the file of profiles that the settings name cannot be read, or something in it is wrong.
        ArtifactError, EncoderError: the shadow's artifact cannot be loaded.
        StoreError: the feedback store that they name cannot be opened.
    """
    # One thread: a second one would only compete for the same cores.
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="route")
    live = LiveRouter(router)
    arrivals, backlog = Arrivals(), Backlog(settings.max_backlog)
    metrics = Metrics(
        **what_is_served(router.artifact),
        queue_length=lambda: backlog.n_waiting,
        encoder_waiting=partial(_ask, live, attrgetter("n_waiting")),
        in_flight=lambda: endpoint.n_in_flight,
        cache_entries=partial(_ask, live, attrgetter("n_cached")),
        sessions=partial(_ask, live, attrgetter("n_sessions")),
        policies=settings.policies.policies,
    )
    del router  # from here on, whoever needs one asks for the one that is live
    watch = Watch(settings)
    metrics.include(watch)
    profiles = ProfilesFile(settings.profiles, watch.over(partial(_use_profiles, live)), metrics.profiles_reloaded)
    profiles.load()
    # Last of what may fail: it holds a lock.
    feedback = Feedback.open(settings, metrics.registry, arrivals, executor, partial(_see, live), watch.judged)
    endpoint = RouteEndpoint(live, settings, metrics, arrivals, backlog, executor, feedback.keeper, watch)
    reloads = Reloads(live, settings, profiles, partial(_on_reload, live, endpoint, metrics, watch))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        executor.submit(_ask, live, methodcaller("route", WARM_UP_PROMPT * LONG_PROMPT_CHARS)).result()
        tasks = [asyncio.create_task(one) for one in (watch_loop(metrics), profiles.watch())]
        _ask(live, watch.start)
        app.state.ready = True
        yield
        app.state.ready = False
        reloads.close()
        for task in tasks:
            task.cancel()
        watch.close()
        executor.shutdown(wait=False, cancel_futures=True)
        feedback.close()

    app = Service(
        title="whichmodel",
        summary="Which model should take this prompt?",
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        # Spans and records of FastAPI's own carry the texts of exceptions, which may quote the prompt.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        exception_handlers={HTTPException: _on_http_error, Exception: _on_unexpected_error},
        responses={401: {"model": ErrorAnswer, "description": _ERRORS[401]}} if settings.api_keys else None,
    )
    app.live, app.reloads, app.arrivals, app.backlog = live, reloads, arrivals, backlog
    app.short_ways = {
        ROUTE_PATH: ServerErrorMiddleware(endpoint, handler=_counted(metrics.refused)),
        FEEDBACK_PATH: ServerErrorMiddleware(feedback.endpoint, handler=_counted(feedback.metrics.refused)),
    }
    app.state.ready = False

    @app.post(
        ROUTE_PATH,
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
    async def route() -> Response:
        # Only where this application is mounted in another one does a request come this way.
        return _Answering(endpoint)

    _describe_feedback(app, feedback.endpoint)
    _add_drift(app, watch)

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
        return error_response(503, "not_ready", "the router is not ready")

    @app.get("/artifact", summary="What is served: models, verdict and held-out report")
    async def artifact() -> Response:
        return json_response(200, _ask(live, methodcaller("describe")))

    @app.get("/metrics", summary="Counters and gauges for Prometheus", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    add_admin(app, reloads, settings)
    app.add_middleware(KeyCheck, keys=settings.api_keys)
    return app


def _ask(live: LiveRouter, read: Callable[[Router], Value]) -> Value:
    """Return what the router says that is live now."""
    with live.lease() as router:
        return read(router)


def _on_reload(live: LiveRouter, endpoint: RouteEndpoint, metrics: Metrics, watch: Watch, done: Reloaded) -> None:
    endpoint.renew()
    _ask(live, watch.follow)
    metrics.reloaded(done.outcome, what_is_served(_ask(live, attrgetter("artifact"))))


def _use_profiles(live: LiveRouter, profiles: Mapping[str, ModelProfile]) -> None:
    with live.lease() as router:
        router.use_profiles(profiles)


def _see(live: LiveRouter, prompt: str | Messages, seen: Seen | None = None, *, full: bool = False) -> Seen:
    """Return what the encoders of the live router see of a prompt."""
    with live.lease() as router:
        return router.see(prompt, seen, full=full)


def _describe_feedback(app: Service, endpoint: ASGIApp) -> None:
    """Put POST /feedback into the document, and where the application is mounted in another one also answer there."""

    @app.post(
        FEEDBACK_PATH,
        summary="Say how good a decision was, or what was found of models on a prompt",
        response_model=FeedbackAnswer,
        responses={
            status: {"model": ErrorAnswer, "description": text}
            for status, text in sorted({**_ERRORS, **_FEEDBACK_ERRORS}.items())
            if status != 401
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"$ref": "#/components/schemas/FeedbackRequest"},
                        "examples": FEEDBACK_EXAMPLES,
                    }
                },
            }
        },
    )
    async def feedback() -> Response:
        return _Answering(endpoint)


def _add_drift(app: Service, watch: Watch) -> None:
    """Add GET /drift; it tells no more of anybody's prompts than the metrics do, and needs no other right."""

    @app.get(
        "/drift",
        summary="How the prompts that come differ from those that were learnt from",
        responses={404: {"model": ErrorAnswer, "description": "Drift is not watched (`drift_off`)."}},
    )
    async def drift() -> Response:
        if not watch.sees_drift:
            return error_response(404, "drift_off", DRIFT_OFF)
        return json_response(200, watch.to_json())


class KeyCheck:
    """Asks for a key before anything else looks at the request, at every path but OPEN_PATHS, known or not."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what has a key or needs none; answer 401 to the rest."""
        if scope["type"] == "http" and not _is_open(scope) and self.keys.caller_of(scope["headers"]) is None:
            await unauthorized()(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _is_open(scope: Scope) -> bool:
    # Mounted in another application, the path begins with where that is.
    return scope["path"].removeprefix(scope.get("root_path", "")) in OPEN_PATHS


class _Answering(Response):
    """Leaves the answer to another application."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _counted(refused: Callable[[int], object]) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return what answers to an unexpected error, counted among those that were refused."""

    async def on_error(request: Request, exc: Exception) -> Response:
        refused(500)
        return await _on_unexpected_error(request, exc)

    return on_error


async def _on_http_error(request: Request, exc: HTTPException) -> Response:
    phrase = HTTPStatus(exc.status_code).phrase.lower()
    return error_response(exc.status_code, _KINDS.get(exc.status_code, "http"), phrase, headers=exc.headers)


async def _on_unexpected_error(request: Request, exc: Exception) -> Response:
    """Log where it happened; not the exception's own text, which may quote the prompt."""
    error_id = uuid.uuid4().hex
    frames = [f"{one.filename}:{one.lineno} in {one.name}" for one in traceback.extract_tb(exc.__traceback__)]
    logger.error("unexpected %s", type(exc).__name__, extra={"error_id": error_id, "frames": frames})
    return error_response(500, "internal", f"unexpected error, logged with the id {error_id}")
