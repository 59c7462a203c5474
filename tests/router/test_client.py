"""The client against servers of every kind on loopback: it names a model, and it does so in time."""

import contextlib
import gzip
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from router import client as client_module
from router.client import MAX_ANSWER_BYTES, Answer, Client, ClientError

DEFAULT = "gpt-small"
SLACK_MS = 50.0
SHORT_MS = 150.0  # for servers that use up the time
LONG_MS = 5000.0  # for servers that answer at once
KEY = "sesame-0123456789"


class Peer:
    """The server's end of one connection."""

    def __init__(self, connection: socket.socket, stopped: threading.Event) -> None:
        self.connection = connection
        self.stopped = stopped
        self.head = b""

    def read_request(self) -> bytes:
        """Return the body of the next request; raise EOFError where there is none."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._recv()
        self.head, _, body = data.partition(b"\r\n\r\n")
        length = int(self.head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += self._recv()
        return body

    def _recv(self) -> bytes:
        if not (chunk := self.connection.recv(65_536)):
            raise EOFError
        return chunk

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def trickle(self, data: bytes) -> None:
        """Send a byte every 20 ms, until the client is gone."""
        for byte in data:
            self.send(bytes([byte]))
            time.sleep(0.02)

    def wait_for_the_end(self) -> None:
        """Read nothing, until the test is over."""
        self.stopped.wait()

    def wait_until_left(self) -> None:
        while self.connection.recv(65_536):
            pass

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


Serve = Callable[[Peer], None]


class Server:
    """Serves every connection on a thread of its own; leaving it closes and joins everything."""

    def __init__(self, serve: Serve, listener: socket.socket | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.serve = serve
        self.tls = tls
        self.n_connections = 0
        self.peers: list[Peer] = []
        self.threads: list[threading.Thread] = []
        self.stopped = threading.Event()
        self.listener = listener or bound()
        self.url = url_of(self.listener)

    def __enter__(self) -> "Server":
        self.listener.listen(64)
        self.accepting = threading.Thread(target=self._accept)
        self.accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.accepting.join()
        self.listener.close()
        for peer in self.peers:
            with contextlib.suppress(OSError):
                peer.connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.n_connections += 1
            thread = threading.Thread(target=self._run, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), contextlib.ExitStack() as stack:
            stack.enter_context(connection)
            if self.tls:
                connection = stack.enter_context(self.tls.wrap_socket(connection, server_side=True))
            peer = Peer(connection, self.stopped)
            self.peers.append(peer)
            self.serve(peer)


def bound() -> socket.socket:
    """Return a socket that refuses connections until it listens."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener


def url_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]).encode() + body


def decision(model: str = "large", **more: Any) -> bytes:
    return response(json.dumps({"model": model, "reason": "best", **more}).encode())


def error(status: str, message: str, *headers: str, details: Any = ()) -> bytes:
    content = {"error": {"type": "kind", "message": message, "details": details}}
    return response(json.dumps(content).encode(), status, *headers)


def always(answer: bytes) -> Serve:
    """Answer every request on a connection with the same bytes."""

    def serve(peer: Peer) -> None:
        while True:
            peer.read_request()
            peer.send(answer)

    return serve


def once(answer: bytes) -> Serve:
    """Answer one request, and close."""

    def serve(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer)

    return serve


def after_request(action: Callable[[Peer], None]) -> Serve:
    def serve(peer: Peer) -> None:
        peer.read_request()
        action(peer)

    return serve


def new_client(url: str, **settings: Any) -> Client:
    return Client(url, **{"default_model": DEFAULT, "timeout_ms": LONG_MS, **settings})


def default_in_time(client: Client, **request: Any) -> str:
    """Ask, check that the default came in time, and return the problem.

    A call that is late is made twice more: a busy machine may stop any one of them for longer than the slack, while
    what a server does holds up all.
    """
    elapsed_ms: list[float] = []
    while not elapsed_ms or elapsed_ms[-1] > client.timeout_ms + SLACK_MS:
        assert len(elapsed_ms) < 3, f"late every time: {elapsed_ms}"
        started = time.monotonic()
        answer = client.route(**{"prompt": "hello", **request})
        elapsed_ms.append(max((time.monotonic() - started) * 1000, answer.elapsed_ms))
    assert (answer.model, answer.from_default, answer.decision) == (DEFAULT, True, None)
    assert answer.problem is not None and KEY not in answer.problem
    return answer.problem


class Clock:
    """The monotonic clock, and hands that move."""

    ahead_ms = 0.0

    def __call__(self) -> float:
        return time.monotonic() * 1000 + self.ahead_ms


def test_the_answer_is_the_routers_choice() -> None:
    with Server(always(decision("large", quality=0.8))) as server, new_client(server.url) as client:
        answer = client.route("hello")
    assert answer == Answer(
        "large", False, None, {"model": "large", "reason": "best", "quality": 0.8}, answer.elapsed_ms
    )
    assert 0 < answer.elapsed_ms < LONG_MS


def test_what_is_sent() -> None:
    asked: list[tuple[bytes, Any]] = []

    def serve(peer: Peer) -> None:
        while True:
            body = peer.read_request()
            asked.append((peer.head, json.loads(body or b"null")))
            peer.send(decision())

    with Server(serve) as server, new_client(server.url + "/router/", api_key=KEY) as client:
        client.route("Grüße 🙂", latency_budget_ms=50, policy={"exclude": ["a"]}, explain=True, cache=False)
        client.route(messages=({"role": "user", "content": "hi"},))
        assert client.healthy()
    heads, contents = zip(*asked, strict=True)
    assert [head.split(b"\r\n")[0] for head in heads] == [
        b"POST /router/route HTTP/1.1",
        b"POST /router/route HTTP/1.1",
        b"GET /router/readyz HTTP/1.1",
    ]
    assert f"\r\nauthorization: Bearer {KEY}".encode() in heads[0]
    assert f"\r\nhost: {server.url.removeprefix('http://')}\r\n".encode() in heads[0]
    assert contents == (
        {"prompt": "Grüße 🙂", "latency_budget_ms": 50, "policy": {"exclude": ["a"]}, "explain": True, "cache": False},
        {"messages": [{"role": "user", "content": "hi"}]},
        None,
    )


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{"m\r\nf\r\nodel": "large"}\r\n0\r\n\r\n',
            id="chunks",
        ),
        pytest.param(b'HTTP/1.1 200 OK\r\n\r\n{"model": "large"}', id="until the end"),
        pytest.param(b'HTTP/1.0 200 OK\r\n\r\n{"model": "large"}', id="HTTP/1.0"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + decision(), id="100 first"),
    ],
)
def test_every_form_of_an_answer_is_read(answer: bytes) -> None:
    with Server(once(answer)) as server, new_client(server.url) as client:
        assert [client.route("x").model for _ in range(2)] == ["large", "large"]


SLOW: dict[str, Serve] = {
    "accepts and never reads": lambda peer: peer.wait_for_the_end(),
    "reads and never answers": after_request(Peer.wait_until_left),
    "trickles the head": after_request(lambda peer: peer.trickle(decision())),
    "trickles the body": after_request(
        lambda peer: (peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n"), peer.trickle(b"{" * 999))
    ),
    "trickles chunks": after_request(
        lambda peer: (
            peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
            peer.trickle(b"1\r\n{\r\n" * 99),
        )
    ),
    "trickles 100 Continue": after_request(lambda peer: peer.trickle(b"HTTP/1.1 100 Continue\r\n\r\n" * 99)),
    "stops in the body": after_request(
        lambda peer: (peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"), peer.wait_until_left())
    ),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_server_does_not_stretch_the_call(name: str) -> None:
    with Server(SLOW[name]) as server, new_client(server.url, timeout_ms=SHORT_MS) as client:
        # Where nobody reads, more than the buffers of the sockets hold: sending takes the time then.
        assert default_in_time(client, prompt="x" * 5_000_000 if "never reads" in name else "x") == "timeout"


def test_a_silent_handshake_does_not_stretch_the_call() -> None:
    with Server(Peer.wait_until_left) as server:
        url = server.url.replace("http:", "https:")
        with new_client(url, timeout_ms=SHORT_MS) as client:
            assert default_in_time(client) == "timeout"


@pytest.mark.skipif(not os.path.exists("/proc/net"), reason="other systems refuse when the queue is full")
def test_a_silent_connect_does_not_stretch_the_call() -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(bound())
        listener.listen(0)
        for _ in range(2):  # fill its queue: what comes later is not answered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        client = stack.enter_context(new_client(url_of(listener), timeout_ms=SHORT_MS))
        assert default_in_time(client) == "timeout"


def test_a_slow_lookup_does_not_stretch_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    found = threading.Event()
    getaddrinfo = socket.getaddrinfo

    def slow(host: str, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("flags"):
            return getaddrinfo(host, *args, **kwargs)
        names.append(host)
        found.wait()
        return getaddrinfo("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with Server(always(decision())) as server:
        url = server.url.replace("127.0.0.1", "router.test")
        with new_client(url, timeout_ms=60) as client:
            assert [default_in_time(client) for _ in range(3)] == ["timeout"] * 3
            assert names == ["router.test"]  # all wait for the same one
            found.set()
        with new_client(url) as client:
            assert client.route("x").model == "large"


def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with new_client("http://nowhere.test") as client:
        assert default_in_time(client) == "unreachable: Name or service not known"


def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with bound() as dead, Server(always(decision())) as server:
        addresses = [dead.getsockname(), server.listener.getsockname()]
        monkeypatch.setattr(
            client_module,
            "_getaddrinfo",
            lambda *_: [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses],
        )
        with new_client("http://two.test") as client:
            assert client.route("x").model == "large"


BROKEN: dict[str, tuple[Serve, str]] = {
    "reset before the answer": (after_request(Peer.reset), "unreachable: Connection reset by peer"),
    "closed before the answer": (
        after_request(lambda peer: None),
        "unreachable: connection closed without an answer",
    ),
    "reset in the body": (
        after_request(lambda peer: (peer.send(decision()[:-5]), peer.reset())),
        "unreachable: Connection reset by peer",
    ),
    "closed in the body": (once(decision()[:-5]), "bad answer: it ends early"),
    "closed in a chunk": (
        once(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{"),
        "bad answer: it ends early",
    ),
    "500": (always(error("500 Internal Server Error", "logged as 17")), "status 500: logged as 17"),
    "503 without a body": (always(response(b"", "503 Service Unavailable")), "status 503"),
    "429": (always(error("429 Too Many Requests", "later", "retry-after: 30")), "status 429: later"),
    "404 in HTML": (always(response(b"<html>", "404 Not Found")), "status 404"),
    "404 in odd JSON": (always(response(b'{"error": [1]}', "404 Not Found")), "status 404"),
    "422": (always(error("422 Unprocessable Entity", "a field is wrong")), "status 422: a field is wrong"),
    "a message for nobody's log": (
        always(error("400 Bad Request", f"\x1b[31m{KEY}\r\nINFO all is well " + "x" * 999)),
        "status 400: [31m*** INFO all is well " + "x" * 173,
    ),
    "redirect": (always(response(b"", "302 Found", "location: http://127.0.0.1:1/")), "status 302"),
    "204": (always(b"HTTP/1.1 204 No Content\r\n\r\n"), "status 204"),
    "101": (always(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), "status 101"),
    "HTML": (always(response(b"<html>sign in</html>")), "bad answer: not a JSON object"),
    "empty": (always(response(b"")), "bad answer: not a JSON object"),
    "a list": (always(response(b"[]")), "bad answer: not a JSON object"),
    "deep": (always(response(b"[" * 100_000)), "bad answer: not a JSON object"),
    "gzip": (
        always(response(gzip.compress(b'{"model": "large"}'), "200 OK", "content-encoding: gzip")),
        "bad answer: not a JSON object",
    ),
    "no model": (always(response(b'{"reason": "best"}')), "bad answer: names no model"),
    "model is a number": (always(response(b'{"model": 5}')), "bad answer: names no model"),
    "model is empty": (always(response(b'{"model": ""}')), "bad answer: names no model"),
    "giant, announced": (
        after_request(lambda peer: peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n" + b"x" * 2**24)),
        f"bad answer: more than {MAX_ANSWER_BYTES} bytes",
    ),
    "giant, until the end": (
        after_request(lambda peer: peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2**24)),
        f"bad answer: more than {MAX_ANSWER_BYTES} bytes",
    ),
    "giant, in a chunk of -1": (
        after_request(
            lambda peer: peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n" + b"x" * 2**24)
        ),
        f"bad answer: more than {MAX_ANSWER_BYTES} bytes",
    ),
    "chunk of -5": (
        once(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\nxxxxx"),
        "bad answer: not valid HTTP",
    ),
    "HTTP/0.9": (once(b"<html>hello</html>\r\n"), "bad answer: not valid HTTP"),
    "garbage": (once(bytes(range(256)) + b"\r\n\r\n"), "bad answer: not valid HTTP"),
    "an endless header": (once(b"HTTP/1.1 200 OK\r\nx: " + b"x" * 70_000), "bad answer: not valid HTTP"),
    "too many headers": (once(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200), "bad answer: not valid HTTP"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_server_gives_the_default(name: str) -> None:
    serve, problem = BROKEN[name]
    with Server(serve) as server, new_client(server.url, api_key=KEY) as client:
        assert default_in_time(client) == problem
        assert default_in_time(client) == problem  # on whatever connection the first call left


def test_a_dead_port() -> None:
    with bound() as nobody, new_client(url_of(nobody)) as client:
        assert default_in_time(client) == "unreachable: Connection refused"
        assert not client.healthy()


def test_an_early_refusal_is_read() -> None:
    """A server need not read a body that it refuses; what it says arrives all the same."""

    def serve(peer: Peer) -> None:
        peer.connection.recv(1000)
        peer.send(error("413 Content Too Large", "the body is too large", "connection: close"))

    with Server(serve) as server, new_client(server.url) as client:
        assert default_in_time(client, prompt="x" * 2**24) == "status 413: the body is too large"


def test_connections_are_kept() -> None:
    with Server(always(decision())) as server, new_client(server.url) as client:
        assert {client.route("x").model for _ in range(5)} == {"large"}
        assert server.n_connections == 1
        client.close()
        assert {client.route("x").model for _ in range(2)} == {"large"}  # kept no more
        assert server.n_connections == 3


def test_a_connection_with_an_unread_answer_is_closed() -> None:
    late = threading.Event()

    def serve(peer: Peer) -> None:
        peer.read_request()
        late.wait(10)
        peer.send(decision("late"))
        peer.wait_until_left()

    with Server(serve) as server, new_client(server.url, timeout_ms=SHORT_MS) as client:
        assert client.route("x").problem == "timeout"
        late.set()
        server.serve = always(decision("mine"))
        client.timeout_ms = LONG_MS
        assert client.route("x").model == "mine"
        assert server.n_connections == 2


@pytest.mark.parametrize(
    "pieces", [[decision("first") + b"HTTP"], [decision("first"), b"HTTP"]], ids=["at once", "later"]
)
def test_a_connection_with_more_than_an_answer_is_closed(pieces: list[bytes]) -> None:
    said_more = threading.Event()

    def serve(peer: Peer) -> None:
        peer.read_request()
        for piece in pieces:
            peer.send(piece)
        said_more.set()
        peer.wait_until_left()

    with Server(serve) as server, new_client(server.url) as client:
        assert client.route("x").model == "first"
        assert said_more.wait(10)
        server.serve = always(decision("second"))
        assert client.route("x").model == "second"


def test_a_connection_closed_while_idle_is_replaced() -> None:
    with Server(once(decision())) as server, new_client(server.url) as client:
        for _ in range(3):
            assert client.route("x").model == "large"
            for thread in server.threads:
                thread.join()  # the server's end is closed
        assert server.n_connections == 3


@pytest.mark.parametrize("leave", [lambda peer: None, Peer.reset], ids=["closed", "reset"])
def test_a_connection_closed_under_way_is_retried_once(leave: Callable[[Peer], None]) -> None:
    """The server closes as the request arrives, as one does whose patience ends at that moment."""
    n_asked = 0

    def serve(peer: Peer) -> None:
        nonlocal n_asked
        peer.read_request()
        peer.send(decision())
        peer.read_request()
        n_asked += 1
        leave(peer)

    with Server(serve) as server, new_client(server.url) as client:
        assert client.route("x").model == "large"
        assert client.route("x").model == "large"
        assert (n_asked, server.n_connections) == (1, 2)
        server.serve = after_request(leave)
        assert default_in_time(client).startswith("unreachable: ")  # the fresh one fails as well: no third
        assert (n_asked, server.n_connections) == (2, 3)


def test_after_a_fork_connections_are_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(always(decision())) as server, new_client(server.url) as client:
        client.route("x")
        monkeypatch.setattr(os, "getpid", lambda: -1)
        assert client.route("x").model == "large"
        assert server.n_connections == 2


def test_many_threads_share_a_client() -> None:
    def serve(peer: Peer) -> None:
        while True:
            peer.send(decision(json.loads(peer.read_request())["prompt"]))

    start = threading.Barrier(32)

    def ask(number: int) -> list[str]:
        start.wait()
        return [client.route(f"{number}-{turn}").model for turn in range(10)]

    with Server(serve) as server, new_client(server.url) as client, ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(ask, range(32)))
        assert answers == [[f"{number}-{turn}" for turn in range(10)] for number in range(32)]
        kept = server.n_connections
        client.route("x")
        assert server.n_connections == kept


def test_the_breaker_opens_probes_and_closes() -> None:
    clock = Clock()
    listener = bound()
    client = new_client(url_of(listener), breaker_failures=3, breaker_pause_ms=60_000, clock_ms=clock)
    refused = "unreachable: Connection refused"
    with client:
        assert [default_in_time(client) for _ in range(5)] == [refused] * 3 + ["paused"] * 2
        clock.ahead_ms += 60_000
        assert [default_in_time(client) for _ in range(2)] == [refused, "paused"]
        with Server(always(decision()), listener):
            assert default_in_time(client) == "paused"
            assert client.healthy()
            clock.ahead_ms += 60_000
            assert [client.route("x").model for _ in range(3)] == ["large"] * 3
        assert [default_in_time(client)[:11] for _ in range(4)] == ["unreachable"] * 3 + ["paused"]


def test_one_probe_at_a_time() -> None:
    clock = Clock()
    listener = bound()
    asked, allowed = threading.Event(), threading.Event()

    def serve(peer: Peer) -> None:
        while True:
            peer.read_request()
            asked.set()
            allowed.wait(10)
            peer.send(decision())

    client = new_client(url_of(listener), breaker_failures=1, breaker_pause_ms=60_000, clock_ms=clock)
    with client, ThreadPoolExecutor(1) as threads:
        assert default_in_time(client) == "unreachable: Connection refused"
        with Server(serve, listener):
            clock.ahead_ms += 60_000
            probe = threads.submit(client.route, "x")
            assert asked.wait(10)
            assert default_in_time(client) == "paused"
            allowed.set()
            assert probe.result().model == "large"
            assert client.route("x").model == "large"


def test_timeouts_open_the_breaker() -> None:
    with (
        Server(after_request(Peer.wait_until_left)) as server,
        new_client(server.url, timeout_ms=60, breaker_failures=2, breaker_pause_ms=60_000) as client,
    ):
        assert [client.route("x").problem for _ in range(3)] == ["timeout", "timeout", "paused"]


@pytest.mark.parametrize("answer", [error("500 Oops", "no"), error("422 No", "no"), response(b"<html>")])
def test_a_server_that_answers_does_not_open_the_breaker(answer: bytes) -> None:
    with Server(always(answer)) as server, new_client(server.url, breaker_failures=1) as client:
        assert "paused" not in [default_in_time(client) for _ in range(3)]


def test_failures_count_in_a_row() -> None:
    turn = iter([Peer.reset, None] * 3)

    def serve(peer: Peer) -> None:
        peer.read_request()
        leave = next(turn)
        leave(peer) if leave else peer.send(response(b"", "200 OK", "connection: close"))

    with Server(serve) as server, new_client(server.url, breaker_failures=2) as client:
        problems = [default_in_time(client).split(":")[0] for _ in range(6)]
    assert problems == ["unreachable", "bad answer"] * 3


def test_strict_raises_what_the_caller_can_mend() -> None:
    details = [{"field": "policy", "message": f"unknown {KEY}"}, "odd"]
    answer = error("422 Unprocessable Entity", "a field is wrong", details=details)
    with Server(always(answer)) as server, new_client(server.url, strict=True, api_key=KEY) as client:
        with pytest.raises(ClientError) as raised:
            client.route("x")
        assert str(raised.value) == "status 422: a field is wrong; policy: unknown ***"
        assert (raised.value.status, raised.value.type, raised.value.message) == (422, "kind", "a field is wrong")
        assert raised.value.details == (("policy", "unknown ***"),)


@pytest.mark.parametrize("status", [302, 408, 425, 429, 500, 503])
def test_strict_raises_nothing_else(status: int) -> None:
    with Server(always(error(f"{status} X", "no"))) as server, new_client(server.url, strict=True) as client:
        assert default_in_time(client) == f"status {status}: no"


def test_strict_raises_where_the_service_says_nothing() -> None:
    serve = always(response(b"", "404 Not Found"))
    with Server(serve) as server, new_client(server.url, strict=True) as client, pytest.raises(ClientError) as raised:
        client.route("x")
    assert str(raised.value) == "status 404"


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        ({}, ValueError),
        ({"prompt": "x", "messages": []}, ValueError),
        ({"prompt": b"bytes"}, TypeError),
        ({"prompt": "half a pair \ud800"}, ValueError),
        ({"messages": ["x"]}, (TypeError, ValueError)),
        ({"prompt": "x", "policy": {"max_cost_usd": float("nan")}}, ValueError),
        ({"prompt": "x", "policy": {"exclude": {"a"}}}, TypeError),
    ],
)
def test_what_cannot_be_sent_is_raised(request_: Any, kind: Any) -> None:
    with bound() as nobody, new_client(url_of(nobody)) as client, pytest.raises(kind):
        client.route(**request_)


def test_what_is_nested_too_deeply_is_raised() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with bound() as nobody, new_client(url_of(nobody)) as client, pytest.raises(ValueError, match="deeply"):
        client.route("x", policy={"exclude": deep})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8080",
        "ftp://host",
        "unix:///socket",
        "http://",
        "http://:80",
        "http://a..b",
        "http://host:port",
        "http://host:0",
        "http://host:70000",
        "http://[::1",
        "http://host/?x=1",
        "http://host/#x",
        "http://ho st",
        "http://host/\r\nx: y",
        "http://hôst",
        f"http://user:{KEY}@host",
    ],
)
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError) as raised:
        new_client(url)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["http://[::1]:8080", "https://host.example/a/b/", "HTTP://LOCALHOST", "http://10.0.0.1/"]
)
def test_other_urls_are_not(url: str) -> None:
    new_client(url).close()


@pytest.mark.parametrize(
    "settings",
    [
        {"default_model": ""},
        {"timeout_ms": 0},
        {"timeout_ms": float("inf")},
        {"timeout_ms": float("nan")},
        {"breaker_pause_ms": -1},
        {"breaker_failures": 0},
        {"api_key": ""},
        {"api_key": f"{KEY} x"},
        {"api_key": f"{KEY}\r\nx: y"},
        {"api_key": f"{KEY}ü"},
    ],
)
def test_wrong_settings_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError) as raised:
        new_client("http://host", **settings)
    assert KEY not in str(raised.value)


def test_the_key_is_not_shown() -> None:
    with new_client("http://127.0.0.1:8080", api_key=KEY) as client:
        assert repr(client) == f"Client('http://127.0.0.1:8080', default_model='{DEFAULT}', timeout_ms=5000.0)"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 and its key, made for this run, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    directory = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    paths = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", paths[0], "-out", paths[1]],
        check=True,
        capture_output=True,
    )
    both = directory / "both.pem"
    both.write_bytes(b"".join(path.read_bytes() for path in paths))
    return both


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[Server]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with Server(always(decision()), tls=tls) as server:
        server.url = server.url.replace("http:", "https:")
        yield server


def test_https_with_a_certificate_of_our_own(tls_server: Server, certificate: Path) -> None:
    tls = ssl.create_default_context(cafile=str(certificate))
    with new_client(tls_server.url, tls=tls) as client:
        assert [client.route("x" * 2**20).model for _ in range(3)] == ["large"] * 3
    assert tls_server.n_connections == 1


def test_https_with_a_certificate_that_is_not_trusted(tls_server: Server) -> None:
    with new_client(tls_server.url) as client:
        problem = default_in_time(client)
    assert problem.startswith("unreachable: ") and "certificate verify failed" in problem
