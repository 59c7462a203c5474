"""POST /route as a bare ASGI application: a framework's way to an endpoint takes as long as half a decision."""

import asyncio
import weakref
from concurrent.futures import Executor
from functools import partial

from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from router.deadline import Deadline, now_ms
from router.errors import PolicyError, PromptError
from router.live import LiveRouter
from router.policies import Resolved
from router.router import Pending, Router
from router.rung import Outcome, settled
from router.service.arrivals import Arrivals
from router.service.auth import Caller
from router.service.backlog import Backlog
from router.service.batcher import Batcher
from router.service.body import BodyError, ClientGoneError, check_content_headers, parse_json, read_body
from router.service.decision_log import DecisionLog
from router.service.keeper import LONG_PROMPT_CHARS, Keeper
from router.service.metrics import Metrics
from router.service.respond import decision_headers, error_response, json_bytes, refused_body, unauthorized
from router.service.schema import RequestPolicy, RouteRequest, error_details
from router.service.settings import Settings
from router.service.watch import Watch
from router.types import Decision, Messages, Needs, Seen
from router.worker import Ticket

RETRY_AFTER_S = "1"


class _Desk:
    """One router, and what gathers questions for it: no batch is decided by another one than began it."""

    __slots__ = ("router", "settle", "static")

    def __init__(self, router: Router, arrivals: Arrivals) -> None:
        self.router = router
        self.static = Batcher(router.static_all, arrivals.worked)
        self.settle = Batcher(router.settle_all, arrivals.worked)


class RouteEndpoint:
    """Reads a request, asks the router, and writes the decision, or an error in the form of all others."""

    def __init__(
        self,
        live: LiveRouter,
        settings: Settings,
        metrics: Metrics,
        arrivals: Arrivals,
        backlog: Backlog,
        executor: Executor,
        keeper: Keeper,
        watch: Watch,
    ) -> None:
        """executor: where long prompts are decided, one at a time. watch: sees what was answered."""
        self._live = live
        self._settings = settings
        self._metrics = metrics
        self._arrivals = arrivals
        self._backlog = backlog
        self._executor = executor
        self._keeper = keeper
        self._watch = watch
        self._log = DecisionLog(settings.log_decisions)
        self._desk: _Desk | None = None
        self.n_in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, unless its client has gone."""
        admitted = self._admit(scope)
        if isinstance(admitted, Response):
            self._metrics.refused(admitted.status_code)
            await admitted(scope, receive, send)
            return
        self.n_in_flight += 1
        try:
            await self._answer(admitted, scope, receive, send)
        except ClientGoneError:
            self._metrics.client_gone()
        except (BodyError, ValidationError, PromptError, PolicyError) as exc:
            refusal = _error(exc)
            self._metrics.refused(refusal.status_code)
            await refusal(scope, receive, send)
        finally:
            self.n_in_flight -= 1
            self._arrivals.worked()

    def renew(self) -> None:
        """Let go of a router that is not live any more; requests that are with it keep it to their end."""
        self._desk = None

    def _admit(self, scope: Scope) -> Caller | Response:
        """Return who asks, or what is answered to a request that is not read at all."""
        if self._backlog.leave(scope):
            message = "too many requests wait for their turn"
            return error_response(429, "overloaded", message, headers={"retry-after": RETRY_AFTER_S})
        caller = self._settings.api_keys.caller_of(scope["headers"])
        if caller is None:
            return unauthorized()
        if scope["method"] != "POST":
            return error_response(405, "method_not_allowed", "method not allowed", headers={"allow": "POST"})
        return caller

    async def _answer(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        arrived_ms = scope.get("state", {}).get("arrived_ms") or now_ms()
        asked, needs = await self._read(scope, receive)
        session = _session_of(caller, asked)
        # From here to the decision one router is asked; then it is let go: a client may read as slowly as it likes.
        with self._live.lease() as router:
            asked_of = weakref.ref(router)
            desk = self._desk_of(router)
            del router
            decision = await self._decide(desk, asked, needs, caller, session, arrived_ms, receive)
            del desk
        decision = self._keeper.named(decision, asked, caller)
        body = json_bytes(decision.to_json(explain=asked.explain, show_prompts=caller.sees_prompts))
        headers = [*decision_headers(decision), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        if (still := asked_of()) is not None:
            still.was_written(decision, arrived_ms)
            del still
        self._metrics.answered(
            decision.tier, decision.degraded, decision.cached, decision.budget_met, decision.elapsed_ms
        )
        if decision.policy is not None:
            self._metrics.decided_under(decision.policy)
        self._log.write(decision, asked, caller, session)
        self._watch.answered(decision, asked, needs, partial(self._policies_of, asked, caller))
        await self._keeper.keep(decision, asked, caller, self._see)

    def _see(self, prompt: str | Messages, seen: Seen | None) -> Seen:
        with self._live.lease() as router:
            return router.see(prompt, seen)

    async def _read(self, scope: Scope, receive: Receive) -> tuple[RouteRequest, Needs | None]:
        headers = dict(reversed(scope["headers"]))  # of one that is there twice, the first counts
        check_content_headers(headers.get(b"content-type"), headers.get(b"content-encoding"))
        raw = await read_body(
            receive,
            headers.get(b"content-length"),
            max_bytes=self._settings.max_body_bytes,
            chunk_timeout_s=self._settings.chunk_timeout_s,
        )
        sent = parse_json(raw)
        asked = RouteRequest.model_validate(sent)
        return asked, asked.to_needs(sent)

    def _desk_of(self, router: Router) -> _Desk:
        """Return where this router decides; the live one's desk is kept, and no later request gets an older router."""
        if self._desk is None or self._desk.router is not router:
            self._desk = _Desk(router, self._arrivals)
        return self._desk

    async def _decide(
        self,
        desk: _Desk,
        asked: RouteRequest,
        needs: Needs | None,
        caller: Caller,
        session: str | None,
        arrived_ms: float,
        receive: Receive,
    ) -> Decision:
        """Decide at one desk from start to end."""
        policy, by_intent = self._policies_of(asked, caller)
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        begin = partial(
            desk.router.begin,
            asked.to_prompt(),
            policy,
            Deadline(arrived_ms, asked.latency_budget_ms or self._settings.latency_budget_ms),
            explain=asked.explain,
            cache=asked.cache,
            session_id=session,
            needs=needs,
            by_intent=by_intent,
            n_ahead=len(desk.static) + len(desk.settle),
            on_done=partial(_wake_from_thread, loop, turn),
        )
        is_long = asked.n_chars > LONG_PROMPT_CHARS
        if is_long:
            with self._backlog.waiting():
                begun = await loop.run_in_executor(self._executor, begin)
        else:
            begun = begin()
            self._arrivals.worked()
        if isinstance(begun, Decision):
            return begun
        if begun.ticket is not None:
            try:
                if begun.in_doubt:
                    begun.in_hand = settled(await self._decide_by(desk.static, begun, is_long))
                await self._wait(begun, begun.ticket, turn, receive)
            except (PolicyError, ClientGoneError, asyncio.CancelledError):
                begun.ticket.cancelled = True
                raise
        return settled(await self._decide_by(desk.settle, begun, is_long))

    def _policies_of(self, asked: RouteRequest, caller: Caller) -> Resolved:
        """Return the policy that this is decided by, and those that take its place by intent.

        Raises:
            PolicyError: as ``PolicyBook.resolve``.
        """
        own = asked.policy
        return self._settings.policies.resolve(
            own.to_policy() if isinstance(own, RequestPolicy) else own,
            given=frozenset(own.model_fields_set) if isinstance(own, RequestPolicy) else None,
            key=caller.name,
            application=asked.application,
            role=asked.role,
            task=asked.task,
        )

    async def _decide_by(self, batcher: Batcher[Pending, Outcome], pending: Pending, is_long: bool) -> Outcome:
        """Decide together with what else is due now; a long prompt keeps nobody else waiting."""
        with self._backlog.waiting():
            if not is_long:
                return await batcher.submit(pending)
            loop = asyncio.get_running_loop()
            return (await loop.run_in_executor(self._executor, batcher.decide, [pending]))[0]

    async def _wait(self, pending: Pending, ticket: Ticket, turn: "asyncio.Future[None]", receive: Receive) -> None:
        """Wait until the prompt is encoded or given up.

        Raises:
            ClientGoneError: nobody waits for the answer any more; the prompt will not be encoded.
        """
        loop = asyncio.get_running_loop()
        timer = loop.call_later(max(0.0, pending.give_up_at_ms - now_ms()) / 1e3, _wake, turn)
        # After its body, all that can still come of a request is the news that its client has gone.
        gone: asyncio.Task[Message] = loop.create_task(receive())  # type: ignore[arg-type]
        gone.add_done_callback(lambda _: _wake(turn))
        try:
            await turn
            if gone.done() and not gone.cancelled():
                raise ClientGoneError
        finally:
            timer.cancel()
            gone.cancel()
        if ticket.failed:
            self._metrics.encoder_failed()


def _session_of(caller: Caller, asked: RouteRequest) -> str | None:
    """Return what the router knows a session by: of two keys that give the same id, each has its own."""
    if asked.session_id is None:
        return None
    return f"{caller.name}\0{asked.session_id}"  # neither has a NUL in it


def _error(exc: BodyError | ValidationError | PromptError | PolicyError) -> Response:
    if isinstance(exc, BodyError):
        return refused_body(exc)
    if isinstance(exc, ValidationError):
        details = error_details(exc.errors(include_url=False, include_context=False, include_input=False))
        return error_response(422, "validation", "the request has fields that are wrong", details=details)
    return error_response(422, "prompt" if isinstance(exc, PromptError) else "policy", str(exc))


def _wake(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_result(None)


def _wake_from_thread(loop: asyncio.AbstractEventLoop, turn: "asyncio.Future[None]") -> None:
    try:
        loop.call_soon_threadsafe(_wake, turn)
    except RuntimeError:  # the loop was closed meanwhile, and nobody waits
        return
