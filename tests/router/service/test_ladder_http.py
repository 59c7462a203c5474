"""The ladder over HTTP: a real server on an artifact of both tiers, under load, hostile bytes and leaving clients."""

import asyncio
import functools
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_service import ServerProcess, start_server, stop_server
from prometheus_client.parser import text_string_to_metric_families
from raw_http import exchange, parse, read_answer
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Message

from router import worker as worker_room
from router.artifact import RouterArtifact
from router.encoder import Encoding
from router.router import Router
from router.service.answers import ErrorAnswer, RouteAnswer
from router.service.app import Service, create_app
from router.service.auth import ApiKeys
from router.service.schema import RequestPolicy, RouteRequest
from router.service.settings import Settings
from router.types import Decision

LONG_MS = 10_000
WAIT_S = 20.0
TIERS = ("full", "static", "prior")
# What differs between two answers that say the same.
MOMENT = ("elapsed_ms", "budget_met", "latency_budget_ms", "decision_id", "cached", "degraded")
PROMPTS = [
    f"{opening} {n}?"
    for n in range(25)
    for opening in ("Why does my parser lose element", "Which herbs go with salmon for", "Is the museum open on day")
]
POLICIES: list[dict[str, Any] | None] = [None, {"exclude": ["coder-medium"]}, {"strategy": "cheap"}]
# As many tokens as the encoder reads, so that one takes a while.
LONG_PROMPT = "Our {} test is flaky since we changed the socket cache, what should I look at first? " * 40
KEY = "a-key"


@pytest.fixture(scope="module")
def directory(both_tiers: RouterArtifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("artifacts") / "both"
    both_tiers.write(directory)
    return directory


@pytest.fixture(scope="module")
def router(directory: Path) -> Iterator[Router]:
    """The same artifact in this process, to answer alone."""
    router = Router.load(directory)
    yield router
    router.close()


def serve_both(directory: Path, **environment: str) -> ServerProcess:
    return start_server(environment, ("-m", "router.cli", "serve", str(directory)))


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[ServerProcess]:
    started = serve_both(directory)
    yield started
    assert stop_server(started) == ""  # nothing in this module is worth a line


def post(content: Any, *headers: str) -> bytes:
    """Return the bytes of a request to /route."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = "\r\n".join(("POST /route HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers))
    return head.encode() + b"\r\n\r\n" + body


def send(port: int, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
    connection.sendall(data)
    return connection


def route(port: int, content: Any, *headers: str) -> tuple[int, Any]:
    with send(port, post(content, *headers)) as connection:
        return parse(read_answer(connection))


def metrics_of(text: str) -> dict[str, float]:
    """Return the values of what is exposed, requests by their outcome in any tier."""
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            name = one.name.removeprefix("whichmodel_")
            name = f"{name} {one.labels['outcome']}" if "outcome" in one.labels else name
            values[name] = values.get(name, 0) + one.value
    return values


def metrics(port: int, headers: Mapping[str, str] | None = None) -> dict[str, float]:
    answer = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=headers, timeout=WAIT_S)
    assert answer.status_code == 200
    return metrics_of(answer.text)


def wait_until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.005)


def said(content: Mapping[str, Any]) -> dict[str, Any]:
    """What an answer says, without what differs from call to call."""
    return {name: value for name, value in content.items() if name not in MOMENT}


def test_a_thousand_requests_at_once_get_the_lone_answers(server: ServerProcess, router: Router) -> None:
    asked = [
        {
            "prompt": PROMPTS[n % len(PROMPTS)],
            "policy": POLICIES[n % len(POLICIES)],
            "latency_budget_ms": (LONG_MS, 50, 5, 1)[n % 4],
            "explain": n % 7 == 0,
            "cache": False,
        }
        for n in range(1_000)
    ]

    @functools.cache
    def lone(tier: str, prompt: str, policy_at: int) -> Decision:
        policy = RouteRequest(prompt=prompt, policy=POLICIES[policy_at]).policy
        return router.answer_of(tier, prompt, policy.to_policy() if isinstance(policy, RequestPolicy) else None)

    async def ask_all() -> list[httpx.Response]:
        at_once = asyncio.Semaphore(64)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=WAIT_S) as client:

            async def ask(content: Any) -> httpx.Response:
                async with at_once:
                    return await client.post("/route", json=content)

            return await asyncio.gather(*map(ask, asked))

    answers = asyncio.run(ask_all())
    assert {one.status_code for one in answers} == {200}
    for n, (one, answer) in enumerate(zip(asked, answers, strict=True)):
        content = answer.json()
        expected = lone(content["tier"], one["prompt"], n % len(POLICIES)).to_json(explain=one["explain"])
        assert said(content) == said(json.loads(json.dumps(expected)))
        assert content["degraded"] == (content["tier"] != "full") and not content["cached"]
        assert content["tier"] == "full" or one["latency_budget_ms"] != LONG_MS


@pytest.mark.parametrize("budget_ms", [1, 2, 5, 10, 20, 50])
def test_every_budget_gets_an_answer_that_says_what_it_is(server: ServerProcess, budget_ms: int) -> None:
    for n in range(5):
        asked = {"prompt": f"Fix the regex in thread {budget_ms} {n}", "latency_budget_ms": budget_ms, "cache": False}
        answer = httpx.post(f"http://127.0.0.1:{server.port}/route", json=asked)
        content = RouteAnswer.model_validate(answer.json())
        assert answer.status_code == 200 and content.tier in TIERS
        assert content.latency_budget_ms == budget_ms
        assert content.degraded == (content.tier != "full")
        assert content.budget_met == (content.elapsed_ms <= budget_ms)
        assert (content.tier == "prior") == (content.reason == "deadline")
        headers = {name: value for name, value in answer.headers.items() if name.startswith("x-whichmodel-")}
        assert headers == {
            "x-whichmodel-model": content.model,
            "x-whichmodel-tier": content.tier,
            "x-whichmodel-degraded": json.dumps(content.degraded),
            "x-whichmodel-cached": json.dumps(content.cached),
            "x-whichmodel-artifact": content.artifact_id,
            "x-whichmodel-elapsed-ms": f"{content.elapsed_ms:.4f}",
            "x-whichmodel-budget-met": json.dumps(content.budget_met),
            "x-whichmodel-endpoint": content.endpoint,
        }


def test_a_decision_is_remembered_for_whoever_does_not_ask_for_a_fresh_one(server: ServerProcess) -> None:
    asked = {"prompt": "Plan three days around the lagoon", "latency_budget_ms": LONG_MS}
    before = metrics(server.port)
    first, again, fresh = (route(server.port, asked | {"cache": cache})[1] for cache in (True, True, False))
    assert [one["cached"] for one in (first, again, fresh)] == [False, True, False]
    assert said(first) == said(again) == said(fresh)
    after = metrics(server.port)
    assert after["cache_hits_total"] - before["cache_hits_total"] == 1
    assert after["cache_entries"] - before["cache_entries"] == 1


def test_profiles_are_taken_over_while_it_serves(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "profiles.json"

    def write(text: str) -> None:
        beside = tmp_path / "new"
        beside.write_text(text)
        beside.replace(path)

    def profiles(endpoint: str) -> str:
        price = {"name": endpoint, "usd_per_mtok_in": 1, "usd_per_mtok_out": 1}
        return json.dumps({name: {"endpoints": [price]} for name in ("coder-medium", "chef-large", "guide-small")})

    write(profiles("first"))
    started = serve_both(directory, WHICHMODEL_PROFILES=str(path))
    try:
        asked = {"prompt": "How long do I roast pumpkin?", "latency_budget_ms": LONG_MS}
        assert [route(started.port, asked)[1]["endpoint"] for _ in range(2)] == ["first", "first"]
        write(profiles("second"))
        wait_until(lambda: route(started.port, asked)[1]["endpoint"] == "second")
        write("{")
        wait_until(lambda: metrics(started.port)["profiles_reloads_total failed"] == 1)
        assert route(started.port, asked)[1]["endpoint"] == "second"
        assert metrics(started.port)["profiles_reloads_total ok"] == 1
    finally:
        logged = stop_server(started)
    (line,) = [one for one in logged.splitlines() if " ERROR " in one]
    assert f"the profiles stay as they are: {path}" in line


def busy(port: int, n: int) -> list[socket.socket]:
    """Give the encoder of a server work for a while, and return the connections that wait for it."""
    asked = ({"prompt": f"{one} {LONG_PROMPT}", "latency_budget_ms": LONG_MS, "cache": False} for one in range(n))
    return [send(port, post(one)) for one in asked]


def test_clients_that_leave_are_counted_and_the_others_answered(server: ServerProcess) -> None:
    before = metrics(server.port)["requests_total client_gone"]
    with ExitStack() as stack:
        waiting = [stack.enter_context(one) for one in busy(server.port, 60)]
        for n in range(50):
            send(server.port, post({"prompt": f"leaves {n}", "latency_budget_ms": LONG_MS, "cache": False})).close()
        answers = [parse(read_answer(one)) for one in waiting]
    assert {(status, content["tier"]) for status, content in answers} == {(200, "full")}
    wait_until(lambda: metrics(server.port)["in_flight_requests"] == 0)
    assert metrics(server.port)["requests_total client_gone"] - before >= 50


def test_requests_that_wait_for_the_encoder_are_answered_after_sigterm(directory: Path) -> None:
    started = serve_both(directory)
    with ExitStack() as stack:
        waiting = [stack.enter_context(one) for one in busy(started.port, 40)]
        wait_until(lambda: metrics(started.port)["encoder_waiting_requests"] > 0)
        started.process.send_signal(signal.SIGTERM)
        answers = [parse(read_answer(one)) for one in waiting]
    assert {(status, content["tier"]) for status, content in answers} == {(200, "full")}
    _, logged = started.process.communicate(timeout=WAIT_S)
    line = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (INFO|WARNING|ERROR) [\w.]+: .+")
    assert started.process.returncode == 0
    assert all(line.fullmatch(one) for one in logged.splitlines())


@pytest.fixture(scope="module")
def narrow(directory: Path) -> Iterator[ServerProcess]:
    started = serve_both(directory, WHICHMODEL_MAX_BACKLOG="1", WHICHMODEL_API_KEYS=KEY)
    yield started
    assert stop_server(started) == ""


@pytest.fixture
def for_two(directory: Path) -> Iterator[ServerProcess]:
    started = serve_both(directory, WHICHMODEL_MAX_BACKLOG="2", WHICHMODEL_API_KEYS=KEY)
    yield started
    assert stop_server(started) == ""


class TestBacklog:
    """With room for one request that waits for its turn."""

    HEADERS = f"x-api-key: {KEY}"

    @staticmethod
    def at_once(server: ServerProcess, requests: list[bytes]) -> list[bytes]:
        """Let requests arrive on a connection each while the server does nothing, and return their answers."""
        with ExitStack() as stack:
            connections = [stack.enter_context(send(server.port, b"GET /healthz HTTP/1.1\r\n\r\n")) for _ in requests]
            assert {parse(read_answer(one))[0] for one in connections} == {200}
            server.process.send_signal(signal.SIGSTOP)
            for connection, request in zip(connections, requests, strict=True):
                connection.sendall(request)
            server.process.send_signal(signal.SIGCONT)
            return [read_answer(one) for one in connections]

    def test_what_is_too_much_gets_429_and_the_rest_its_answer(self, narrow: ServerProcess) -> None:
        probes = [
            b"GET /healthz HTTP/1.1\r\n\r\n",
            f"GET /metrics HTTP/1.1\r\n{self.HEADERS}\r\n\r\n".encode(),
        ]
        asked = [post({"prompt": f"How long do I roast {n}"}, self.HEADERS) for n in range(40)]
        *answers, health, exposed = self.at_once(narrow, asked + probes)
        assert all(one.startswith(b"HTTP/1.1 200 ") for one in (health, exposed))
        statuses = {parse(one)[0] for one in answers}
        assert statuses == {200, 429}
        for one in answers:
            status, content = parse(one)
            if status == 429:
                assert ErrorAnswer.model_validate(content).error.type == "overloaded"
                assert re.search(rb"\r\nretry-after: [1-9]\d*\r\n", one)
        after = metrics(narrow.port, {"x-api-key": KEY})
        assert after["queue_requests"] == 0
        assert after["requests_total shed"] == sum(parse(one)[0] == 429 for one in answers)

    @pytest.mark.parametrize(
        ("request_bytes", "status"),
        [
            pytest.param(post({"prompt": "x"}), 401, id="no key"),
            pytest.param(f"GET /route HTTP/1.1\r\n{HEADERS}\r\n\r\n".encode(), 405, id="another method"),
            pytest.param(post(b"{", HEADERS), 400, id="no JSON"),
        ],
    )
    def test_what_is_refused_leaves_it(self, narrow: ServerProcess, request_bytes: bytes, status: int) -> None:
        answers = self.at_once(narrow, [request_bytes] * 10)
        assert {parse(one)[0] for one in answers} == {status, 429}
        assert metrics(narrow.port, {"x-api-key": KEY})["queue_requests"] == 0
        assert route(narrow.port, {"prompt": "still there?"}, self.HEADERS)[0] == 200

    def test_what_is_pipelined_waits_for_its_own_connection_only(self, for_two: ServerProcess) -> None:
        """The request of that connection that has its turn may wait for a decision; those behind it do not count."""

        def now() -> dict[str, float]:
            return metrics(for_two.port, {"x-api-key": KEY})

        def n_begun() -> float:
            return sum(value for name, value in now().items() if name.startswith("requests_total"))

        slow = {"prompt": LONG_PROMPT, "latency_budget_ms": LONG_MS, "cache": False}
        n_before = n_begun()
        with send(for_two.port, post(slow, self.HEADERS) * 20) as connection:
            wait_until(lambda: now()["in_flight_requests"] == 1)
            assert route(for_two.port, {"prompt": "me too"}, self.HEADERS)[0] == 200
            assert parse(read_answer(connection))[0] == 200
        # Those of a client that has gone have no turn any more, but the one that had it when the news came.
        wait_until(lambda: now()["in_flight_requests"] == 0)
        n_then = n_begun()
        time.sleep(0.3)
        # The first, the one beside it, and of the others two at most: one may have been answered to nobody.
        assert n_begun() == n_then <= n_before + 4
        assert (now()["in_flight_requests"], now()["queue_requests"], now()["requests_total failed"]) == (0, 0, 0)
        assert route(for_two.port, {"prompt": "still there?"}, self.HEADERS)[0] == 200


class TestHostile:
    @pytest.mark.parametrize(
        ("types", "status"), [(("application/json", "text/plain"), 200), (("text/plain", "application/json"), 415)]
    )
    def test_of_two_content_types_the_first_counts(
        self, server: ServerProcess, types: tuple[str, ...], status: int
    ) -> None:
        got, _ = route(server.port, {"prompt": "x"}, *(f"content-type: {one}" for one in types))
        assert got == status

    @pytest.mark.parametrize("length", ["0x10", "+15", "1e1", "15 15", "15,15", "fifteen", "-15", "9" * 30, "\xb9\xb5"])
    def test_a_length_that_is_no_number(self, server: ServerProcess, length: str) -> None:
        head = f"POST /route HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
        status, content = parse(exchange(server.port, head.encode("latin-1") + b'{"prompt": "x"}'))
        assert (status, ErrorAnswer.model_validate(content).error.type) == (400, "http")

    def test_pipelined_requests_are_answered_in_order(self, server: ServerProcess) -> None:
        # The first takes the longest way, the second is refused, the third has no time, the last is the first again.
        first = {"prompt": LONG_PROMPT, "latency_budget_ms": LONG_MS}
        asked = [first, {"prompt": " "}, {"prompt": "x", "latency_budget_ms": 1}, {"prompt": "x" * 20_000}, first]
        with send(server.port, b"".join(map(post, asked))) as connection:
            answers = [parse(read_answer(connection)) for _ in asked]
        assert [status for status, _ in answers] == [200, 422, 200, 200, 200]
        assert [content.get("latency_budget_ms") for _, content in answers] == [LONG_MS, None, 1, 50, LONG_MS]
        assert [content.get("tier") for _, content in answers][::4] == ["full", "full"]
        assert answers[4][1]["cached"]

    def test_a_client_that_expects_100_continue_is_told_to_go_on(self, server: ServerProcess) -> None:
        head, _, body = post({"prompt": "x"}, "expect: 100-continue").partition(b"\r\n\r\n")
        with send(server.port, head + b"\r\n\r\n") as connection:
            interim = b"HTTP/1.1 100 Continue\r\n\r\n"
            assert connection.recv(len(interim), socket.MSG_WAITALL) == interim
            connection.sendall(body)
            assert parse(read_answer(connection))[0] == 200

    @pytest.mark.parametrize("method", ["HEAD", "GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
    def test_other_methods_are_405(self, server: ServerProcess, method: str) -> None:
        answer = httpx.request(method, f"http://127.0.0.1:{server.port}/route")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert answer.headers["content-type"] == "application/json"
        if method != "HEAD":
            assert ErrorAnswer.model_validate(answer.json()).error.type == "method_not_allowed"

    @pytest.mark.parametrize("method", ["PUT", "DELETE"])
    def test_what_a_refused_request_carries_is_not_the_next_one(self, server: ServerProcess, method: str) -> None:
        refused = post({"prompt": "x"}).replace(b"POST", method.encode(), 1)
        with send(server.port, refused + post({"prompt": "x"})) as connection:
            assert [parse(read_answer(connection))[0] for _ in range(2)] == [405, 200]

    @pytest.mark.parametrize("path", ["/route/", "//route", "/route/x", "/Route", "/route%2f", "/x/../route"])
    def test_other_paths_are_404(self, server: ServerProcess, path: str) -> None:
        request = post({"prompt": "x"}, "connection: close").replace(b"/route", path.encode(), 1)
        status, content = parse(exchange(server.port, request))
        assert (status, ErrorAnswer.model_validate(content).error.type) == (404, "not_found")


@dataclass
class Scene:
    """An application in this process, whose full encoder can be exchanged, and a loop that it runs in."""

    router: Router
    app: Service
    runner: asyncio.Runner

    def encode_by(self, encode: Callable[[list[int]], Encoding]) -> None:
        worker = self.router._worker
        assert worker is not None
        worker._encode = encode

    def route(self, **asked: Any) -> tuple[int, Any]:
        """Ask over httpx, whose scope has no state."""

        async def ask() -> tuple[int, Any]:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                answer = await client.post("/route", json={"latency_budget_ms": LONG_MS, "cache": False, **asked})
                return answer.status_code, answer.json()

        return self.runner.run(ask())

    def metrics(self) -> dict[str, float]:
        async def ask() -> str:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return (await client.get("/metrics")).text

        return metrics_of(self.runner.run(ask()))


@pytest.fixture
def scene(directory: Path) -> Iterator[Scene]:
    router = Router.load(directory, encoder_threads=1)
    app = create_app(router, Settings())
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        yield Scene(router, app, runner)
        runner.run(lifespan.__aexit__(None, None, None))


@dataclass
class Gate:
    """An encoder that waits until it is let go, and counts what it was given."""

    encode: Callable[[list[int]], Encoding]
    n_asked: int = 0
    busy: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)

    def __call__(self, ids: list[int]) -> Encoding:
        self.n_asked += 1
        self.busy.set()
        self.open.wait(WAIT_S)
        return self.encode(ids)


@pytest.fixture
def gate(scene: Scene) -> Iterator[Gate]:
    gate = Gate(scene.router.artifact.best.encoder.encode_ids)
    scene.encode_by(gate)
    yield gate
    gate.open.set()


@dataclass
class Caller:
    """One request to an application, by hand: what it sent, and a client that leaves when told to."""

    prompt: str
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[Message] = field(default_factory=list)
    n_received: int = 0

    async def receive(self) -> Message:
        self.n_received += 1
        if self.n_received == 1:
            asked = {"prompt": self.prompt, "latency_budget_ms": LONG_MS, "cache": False}
            return {"type": "http.request", "body": json.dumps(asked).encode(), "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def ask(self, app: Service) -> Awaitable[None]:
        scope = {"type": "http", "method": "POST", "path": "/route", "headers": [], "query_string": b""}
        return app(scope, self.receive, self.send)


def test_a_client_that_leaves_costs_no_encoding(scene: Scene, gate: Gate) -> None:
    async def ask_and_leave() -> None:
        stays = Caller("stays")
        answered = asyncio.ensure_future(stays.ask(scene.app))
        await asyncio.to_thread(gate.busy.wait, WAIT_S)
        callers = [Caller(f"leaves {n}") for n in range(50)]
        asked = [asyncio.ensure_future(one.ask(scene.app)) for one in callers]
        while scene.router.n_waiting < len(callers):
            await asyncio.sleep(0)
        for one in callers:
            one.gone.set()
        await asyncio.gather(*asked)
        assert not any(one.sent for one in callers)
        worker = scene.router._worker
        assert worker is not None and all(ticket.cancelled for _, _, ticket in worker._waiting)
        gate.open.set()
        await answered
        assert stays.sent[0]["status"] == 200

    scene.runner.run(ask_and_leave())
    assert scene.route(prompt="afterwards")[1]["tier"] == "full"
    assert gate.n_asked == 2
    after = scene.metrics()
    assert (after["requests_total client_gone"], after["requests_total answered"]) == (50, 2)
    assert (after["in_flight_requests"], after["encoder_waiting_requests"]) == (0, 0)


def test_a_request_that_is_cut_off_gives_its_ticket_up(scene: Scene, gate: Gate) -> None:
    async def ask_and_cancel() -> None:
        stays = asyncio.ensure_future(Caller("stays").ask(scene.app))
        await asyncio.to_thread(gate.busy.wait, WAIT_S)
        cut_off = asyncio.ensure_future(Caller("is cut off").ask(scene.app))
        while scene.router.n_waiting < 1:
            await asyncio.sleep(0)
        cut_off.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut_off
        gate.open.set()
        await stays

    scene.runner.run(ask_and_cancel())
    assert scene.route(prompt="afterwards")[1]["tier"] == "full"
    assert gate.n_asked == 2 and scene.metrics()["in_flight_requests"] == 0


def test_an_encoder_that_fails_every_time(scene: Scene) -> None:
    def failing(ids: list[int]) -> Encoding:
        raise RuntimeError("no")

    scene.encode_by(failing)
    for n in range(3):
        status, content = scene.route(prompt=f"Why does the parser fail {n}?")
        assert (status, content["tier"], content["degraded"]) == (200, "static", True)
        lone = scene.router.answer_of("static", f"Why does the parser fail {n}?").to_json()
        assert said(content) == said(json.loads(json.dumps(lone)))
    after = scene.metrics()
    assert (after["encoder_failures_total"], after["requests_total degraded"]) == (3, 3)
    assert after["requests_total failed"] == 0


def test_an_encoder_that_hangs_is_replaced(scene: Scene, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_room, "HUNG_MS", 100.0)
    budget_ms = 1_000
    status, content = scene.route(prompt="one hangs", latency_budget_ms=budget_ms)
    assert (status, content["tier"], content["degraded"]) == (200, "static", True)
    assert content["elapsed_ms"] < budget_ms + 500  # what a shared machine may add
    scene.encode_by(gate.encode)
    for n in range(3):
        assert scene.route(prompt=f"another does not {n}")[1]["tier"] == "full"
    assert gate.n_asked == 1 and scene.metrics()["in_flight_requests"] == 0


def test_without_our_server_the_budget_runs_from_the_application(scene: Scene) -> None:
    status, content = scene.route(prompt="How long do I roast pumpkin?", explain=True)
    assert (status, content["tier"]) == (200, "full") and 0 < content["elapsed_ms"] < LONG_MS
    assert scene.metrics()["queue_requests"] == 0


@pytest.mark.parametrize("settings", [Settings(), Settings(api_keys=ApiKeys.from_lines([KEY], "the test"))])
def test_mounted_in_another_application(router: Router, settings: Settings) -> None:
    outer = Starlette(routes=[Mount("/prefix", app=create_app(router, settings))])
    headers = {"x-api-key": KEY}

    async def ask() -> None:
        transport = httpx.ASGITransport(outer)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            asked = {"prompt": "How long do I roast pumpkin?", "latency_budget_ms": LONG_MS}
            answer = await client.post("/prefix/route", json=asked, headers=headers)
            assert (answer.status_code, answer.json()["tier"]) == (200, "full")
            assert (await client.post("/prefix/route", json={}, headers=headers)).status_code == 422
            assert (await client.get("/prefix/route", headers=headers)).status_code == 405
            assert (await client.post("/route", json=asked, headers=headers)).status_code == 404
            assert (await client.get("/prefix/metrics", headers=headers)).status_code == 200
            assert (await client.get("/prefix/healthz")).status_code == 200
            open_status = 401 if settings.api_keys else 200
            assert (await client.post("/prefix/route", json=asked)).status_code == open_status

    asyncio.run(ask())
