"""POST /feedback as a bare ASGI application: 200 once it is on the disk, and never before."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from router.deadline import now_ms
from router.errors import (
    ExpiredDecisionError,
    FeedbackError,
    ForgedDecisionError,
    JudgedDecisionError,
    PromptError,
    ReusedKeyError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    UnknownDecisionError,
)
from router.feedback.desk import FeedbackDesk
from router.feedback.events import MAX_IDEMPOTENCY_CHARS, FeedbackEvent, check_prompt
from router.feedback.signing import DecisionSigner, secret_beside
from router.feedback.store import Receipt
from router.prompt import fold_messages
from router.service.arrivals import Arrivals
from router.service.auth import Caller
from router.service.body import BodyError, ClientGoneError, check_content_headers, parse_json, read_body
from router.service.feedback_metrics import FeedbackMetrics
from router.service.feedback_schema import FeedbackRequest
from router.service.keeper import Keeper, key_id, surface_of, vectors_of
from router.service.respond import error_response, unauthorized
from router.service.schema import error_details
from router.service.settings import Settings
from router.types import Messages, Seen
from router.worker import yield_to_others

FEEDBACK_PATH = "/feedback"
# Each takes the event loop for a tenth of a millisecond, and all that came at once keep a request to /route waiting.
MAX_IN_FLIGHT = 128
# Prompts that wait to be encoded, which takes milliseconds each, by one thread.
MAX_ENCODING = 16
RETRY_SOON_S, RETRY_LATER_S = "1", "10"
OFF = "feedback is off: name a file to keep it in, as feedback.store in the settings or WHICHMODEL_FEEDBACK_STORE"

# Status and type of what is answered to an error, the first that fits; what follows are headers.
_STATUSES: tuple[tuple[type[Exception], int, str], ...] = (
    (ForgedDecisionError, 403, "forged"),
    (ExpiredDecisionError, 410, "expired"),
    (UnknownDecisionError, 404, "unknown_decision"),
    (JudgedDecisionError, 409, "judged"),
    (ReusedKeyError, 409, "reused_key"),
    (PromptError, 422, "prompt"),
    (FeedbackError, 422, "feedback"),
    (StoreBusyError, 503, "store_busy"),
    (StoreFullError, 507, "store_full"),
    (StoreError, 503, "store_failed"),
)
# The errors of a store name its file, which is nobody's business but the operator's.
_STORE_MESSAGES = {
    "store_busy": "too much feedback waits to be written: nothing was acknowledged",
    "store_full": "the feedback store is full: nothing was acknowledged",
    "store_failed": "the feedback store has failed: nothing was acknowledged",
}
# What does not fit a decision, by how errors begin; they repeat what was sent, and answers do not.
_UNFIT = {
    "model_b": ("against", "must be another model than the one that was decided for"),
    "costs_usd": ("cost_usd", "names a model that was not judged"),
    "latencies_ms": ("latency_ms", "names a model that was not judged"),
    "output_tokens": ("output_tokens", "names a model that was not judged"),
    "user": ("user", "the decision was made for another one"),
}


def open_desk(settings: Settings) -> FeedbackDesk | None:
    """Open the feedback store that the settings name, None where they name none.

    Raises:
        StoreError: it or its secret cannot be opened, or another process writes it.
    """
    if settings.feedback_store is None:
        return None
    from router.feedback.sqlite_store import SqliteStore  # needs a lock that not every system has
    from router.feedback.sqlite_writer import StoreLimits

    limits = StoreLimits(
        max_bytes=settings.feedback_max_bytes,
        retention_days=settings.feedback_retention_days or None,
        max_pending=settings.feedback_max_pending,
    )
    signer = DecisionSigner(secret_beside(settings.feedback_store), settings.feedback_ttl_s)
    return FeedbackDesk(SqliteStore(settings.feedback_store, limits), signer, only_own=settings.feedback_only_own)


@dataclass(frozen=True, slots=True)
class Feedback:
    """All that a service has for feedback. Without a store, decisions are not kept, and the endpoint says so."""

    keeper: Keeper
    endpoint: "FeedbackEndpoint"
    metrics: FeedbackMetrics
    _desk: FeedbackDesk | None
    _encoding: Executor

    @classmethod
    def open(
        cls,
        settings: Settings,
        registry: CollectorRegistry,
        arrivals: Arrivals,
        executor: Executor,
        look: "LookInFull",
        judged: "OnVerdict",
    ) -> "Feedback":
        """Open the store that the settings name. executor: where long prompts are read. look: Router.see.

        judged: told on the event loop of the event that a verdict became, once it is on the disk.

        Raises:
            StoreError: it cannot be opened.
        """
        desk = open_desk(settings)
        keeper = Keeper(desk, settings, executor)
        encoding = ThreadPoolExecutor(1, "feedback-encode", yield_to_others, (settings.encoder_nice, "feedback"))
        metrics = FeedbackMetrics(
            registry, in_flight=lambda: endpoint.n_in_flight, store=None if desk is None else desk.store
        )
        endpoint = FeedbackEndpoint(desk, keeper, settings, metrics, arrivals, look, judged, encoding)
        return cls(keeper, endpoint, metrics, desk, encoding)

    def close(self) -> None:
        """Write what waits, and close the store."""
        self._encoding.shutdown(wait=False, cancel_futures=True)
        if self._desk is not None:
            self._desk.store.close()


OnVerdict = Callable[[FeedbackEvent], object]
"""Hears of a verdict on a decision."""


class LookInFull(Protocol):
    """As Router.see."""

    def __call__(self, prompt: str | Messages, seen: Seen | None = None, *, full: bool = False) -> Seen:
        """Return what encoders see of a prompt."""


class FeedbackEndpoint:
    """Reads feedback, hands it in at the desk, and answers when it is durable; without a desk, that it is off."""

    def __init__(
        self,
        desk: FeedbackDesk | None,
        keeper: Keeper,
        settings: Settings,
        metrics: FeedbackMetrics,
        arrivals: Arrivals,
        look: LookInFull,
        judged: "OnVerdict",
        encoding: Executor,
    ) -> None:
        """encoding: where prompts are encoded."""
        self._desk = desk
        self._keeper = keeper
        self._settings = settings
        self._metrics = metrics
        self._arrivals = arrivals
        self._look = look
        self._judged = judged
        self._encoding = encoding
        self._receipts = _Receipts()
        self._n_encoding = 0
        self.n_in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, unless its client has gone."""
        admitted = self._admit(scope)
        if isinstance(admitted, Response):
            self._metrics.refused(admitted.status_code)
            await admitted(scope, receive, send)
            return
        caller, desk = admitted
        began_ms = now_ms()
        self.n_in_flight += 1
        try:
            receipt = await self._take(desk, caller, scope, receive)
            self._metrics.acknowledged(receipt.known, now_ms() - began_ms)
            await _acknowledge(receipt, send)
        except ClientGoneError:
            self._metrics.client_gone()
        except (BodyError, ValidationError, PromptError, FeedbackError, StoreError) as exc:
            refusal = _error(exc)
            self._metrics.refused(refusal.status_code)
            await refusal(scope, receive, send)
        finally:
            self.n_in_flight -= 1
            self._arrivals.worked()

    def _admit(self, scope: Scope) -> tuple[Caller, FeedbackDesk] | Response:
        """Return who gives feedback, and the desk, or what is answered to a request that is not read at all."""
        caller = self._settings.api_keys.caller_of(scope["headers"])
        if caller is None:
            return unauthorized()
        if scope["method"] != "POST":
            return error_response(405, "method_not_allowed", "method not allowed", headers={"allow": "POST"})
        if self._desk is None:
            return error_response(404, "feedback_off", OFF)
        if self.n_in_flight >= MAX_IN_FLIGHT:
            return _overloaded()
        return caller, self._desk

    async def _take(self, desk: FeedbackDesk, caller: Caller, scope: Scope, receive: Receive) -> Receipt:
        headers = dict(reversed(scope["headers"]))  # of one that is there twice, the first counts
        check_content_headers(headers.get(b"content-type"), headers.get(b"content-encoding"))
        raw = await read_body(
            receive,
            headers.get(b"content-length"),
            max_bytes=self._settings.max_body_bytes,
            chunk_timeout_s=self._settings.chunk_timeout_s,
        )
        asked = FeedbackRequest.model_validate(parse_json(raw))
        key = _idempotency_key(headers.get(b"idempotency-key"), asked)
        if asked.decision_id is None:
            return await self._report(desk, caller, asked, key)
        verdict, judge = asked.to_verdict(key), key_id(caller)
        await self._keeper.settled(verdict.decision_id)
        receipt = await self._receipts.of(desk.judge(verdict, judge=judge))
        if receipt.judged is not None:
            self._judged(receipt.judged)
        return receipt

    async def _report(self, desk: FeedbackDesk, caller: Caller, asked: FeedbackRequest, key: str | None) -> Receipt:
        """Hand in a battle or a score, with what the encoders see of its prompt."""
        if self._n_encoding >= MAX_ENCODING:
            raise StoreBusyError("too many prompts wait to be encoded")
        report, prompt = asked.to_report(key), asked.to_prompt()
        self._n_encoding += 1
        try:
            text, seen = await asyncio.get_running_loop().run_in_executor(self._encoding, self._seen, prompt)
        finally:
            self._n_encoding -= 1
        return await self._receipts.of(
            desk.report(
                text,
                report.outcome,
                judge=key_id(caller),
                details=report.details,
                vectors=vectors_of(seen),
                surface=surface_of(seen),
                keep_text=self._settings.feedback_keep_prompts,
            )
        )

    def _seen(self, prompt: str | Messages) -> tuple[str, Seen]:
        text = prompt if isinstance(prompt, str) else fold_messages(prompt)
        check_prompt(text)
        return text, self._look(text, full=True)


class _Receipts:
    """Brings receipts from the thread that writes to the event loop: it is woken once for all that were synced."""

    def __init__(self) -> None:
        self._told: list[asyncio.Future[None]] = []
        # Receipts come from the thread that writes, and from the loop's own where they are there at once: of two that
        # come together, one must see that it is the first.
        self._lock = threading.Lock()

    async def of(self, written: "Future[Receipt]") -> Receipt:
        """Return the receipt, or raise what the store says instead."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        written.add_done_callback(lambda _: self._tell(loop, turn))
        await turn
        return written.result()

    def _tell(self, loop: asyncio.AbstractEventLoop, turn: "asyncio.Future[None]") -> None:
        with self._lock:
            self._told.append(turn)
            is_first = len(self._told) == 1
        if is_first:  # else the loop is on its way already
            with suppress(RuntimeError):  # the loop was closed meanwhile, and nobody waits
                loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        with self._lock:
            told, self._told = self._told, []
        for turn in told:
            if not turn.done():
                turn.set_result(None)


async def _acknowledge(receipt: Receipt, send: Send) -> None:
    body = b'{"sequence":%d,"duplicate":%s}' % (receipt.seq, b"true" if receipt.known else b"false")
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _idempotency_key(header: bytes | None, asked: FeedbackRequest) -> str | None:
    """Return the key of the header or of the field.

    Raises:
        FeedbackError: the header's is no such key, or both are there and differ.
    """
    if header is None:
        return asked.idempotency_key
    key = header.decode("latin-1")
    if not (key.isascii() and key.isprintable() and 0 < len(key) <= MAX_IDEMPOTENCY_CHARS):
        raise FeedbackError(f"idempotency_key: expected 1 to {MAX_IDEMPOTENCY_CHARS} printable ASCII characters")
    if asked.idempotency_key not in (None, key):
        raise FeedbackError("idempotency_key: the header and the field differ, expected one of them")
    return key


def _overloaded() -> Response:
    message = "too much feedback is under way"
    return error_response(429, "overloaded", message, headers={"retry-after": RETRY_SOON_S})


def _error(exc: Exception) -> Response:
    if isinstance(exc, BodyError):
        # What is left of an unread body is not worth waiting for.
        headers = {"connection": "close"} if exc.status in {408, 413} else None
        return error_response(exc.status, exc.kind, str(exc), headers=headers)
    if isinstance(exc, ValidationError):
        found = exc.errors(include_url=False, include_context=False, include_input=False)
        details = error_details(found, FeedbackRequest)
        return error_response(422, "validation", "the request has fields that are wrong", details=details)
    status, kind = next((status, kind) for one, status, kind in _STATUSES if isinstance(exc, one))
    if isinstance(exc, StoreError):
        retry = {"retry-after": RETRY_SOON_S if status == 503 and kind == "store_busy" else RETRY_LATER_S}
        return error_response(status, kind, _STORE_MESSAGES[kind], headers=retry)
    unfit = _UNFIT.get(str(exc).partition(":")[0].partition(" ")[0])
    if kind == "feedback" and unfit is not None:
        return error_response(status, kind, "the feedback does not fit the decision", details=[unfit])
    if kind == "reused_key":
        return error_response(status, kind, "the idempotency key stands for other feedback")
    return error_response(status, kind, str(exc))
