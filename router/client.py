"""A client of the HTTP service that always names a model: the router's choice or, in time, the caller's default.

Needs the standard library only, and nothing else of this project: the file may be copied into a gateway. That is also
why its one exception does not belong to the tree of ``router.errors``.
"""

import http.client
import io
import json
import math
import os
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlsplit

MAX_IDLE_CONNECTIONS = 8
# Parsing JSON cannot be interrupted: of more than this, the worst would take longer than a call may.
MAX_ANSWER_BYTES = 2**19
MAX_MESSAGE_CHARS = 200
MAX_DETAILS = 20
FEEDBACK_PATIENCE = 10
# What passes when it is asked again: too slow, too early, too many.
_TRANSIENT = {408, 425, 429}


@dataclass(frozen=True, slots=True)
class Answer:
    """A model to take, and where it came from.

    model: the router's choice, or the client's default. from_default: the router gave none. problem: why, beginning
    with one of "timeout", "unreachable", "status", "bad answer" and "paused"; None where the router chose. decision:
    the service's whole answer, or None. elapsed_ms: time of the call.
    """

    model: str
    from_default: bool
    problem: str | None
    decision: dict[str, Any] | None
    elapsed_ms: float


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of feedback.

    acknowledged: the service has it on its disk. sequence: its number there. duplicate: it was there already. problem:
    why it was not acknowledged, in the words of Answer; it may be there all the same.
    """

    acknowledged: bool
    sequence: int | None
    duplicate: bool
    problem: str | None


class FeedbackFailedError(Exception):
    """Feedback was not acknowledged; raised only where it was asked for. The message is the receipt's problem."""


class ClientError(Exception):
    """The service says that the request is wrong (a 4xx); raised by a strict client only.

    status: of HTTP. type, message: the service's words, empty where it gave none. details: pairs of field and message.
    """

    def __init__(self, status: int, type: str, message: str, details: tuple[tuple[str, str], ...]) -> None:
        super().__init__(_status_problem(status, "; ".join([message, *(": ".join(one) for one in details)])))
        self.status = status
        self.type = type
        self.message = message
        self.details = details


def _monotonic_ms() -> float:
    return time.monotonic_ns() / 1e6


class Client:
    """Asks a running service which model should take a prompt; safe to share between threads.

    Redirects and the proxies of the environment are not followed. At most MAX_IDLE_CONNECTIONS connections are kept
    for later calls. After ``breaker_failures`` calls in a row that timed out or did not get through, calls answer with
    the default at once ("paused"); every ``breaker_pause_ms`` one is let through, and the first that is answered ends
    the pause.
    """

    def __init__(
        self,
        url: str,
        *,
        default_model: str,
        timeout_ms: float = 100.0,
        api_key: str | None = None,
        strict: bool = False,
        breaker_failures: int = 5,
        breaker_pause_ms: float = 1000.0,
        tls: ssl.SSLContext | None = None,
        clock_ms: Callable[[], float] = _monotonic_ms,
    ) -> None:
        """Check everything, and connect to nothing yet.

        Args:
            url: where the service is, ``http://`` or ``https://``, with a path where a proxy adds one.
            default_model: the model to answer with whenever the router does not answer.
            timeout_ms: bound on a whole call: lookup of the name, connecting, sending, and reading the whole answer.
            api_key: sent as ``authorization: Bearer``.
            strict: raise ClientError for a 4xx (but 408, 425 and 429), in development; else it is a problem like any.
            breaker_failures: timeouts and failed connections in a row before calls pause; 1 or more.
            breaker_pause_ms: how long until the next call is let through.
            tls: certificates to trust with https; None: the system's.
            clock_ms: a monotonic clock, for tests.

        Raises:
            ValueError: an argument is not as described; the message holds neither the key nor a password.
        """
        if not default_model:
            raise ValueError("default_model must not be empty")
        for name, amount_ms in (("timeout_ms", timeout_ms), ("breaker_pause_ms", breaker_pause_ms)):
            if not (amount_ms > 0 and math.isfinite(amount_ms)):
                raise ValueError(f"{name} must be a finite number above 0, got {amount_ms}")
        if breaker_failures < 1:
            raise ValueError(f"breaker_failures must be at least 1, got {breaker_failures}")
        if api_key is not None and not (api_key and api_key.isascii() and api_key.isprintable() and " " not in api_key):
            raise ValueError("api_key must be printable ASCII without spaces")
        self.default_model = default_model
        self.timeout_ms = timeout_ms
        self.strict = strict
        self._key = api_key
        self._clock_ms = clock_ms
        self._breaker = _Breaker(breaker_failures, breaker_pause_ms, clock_ms)
        self._pool = _Pool()
        self._server = _Server.from_url(url, tls)
        self._url = url

    def __repr__(self) -> str:
        return f"Client({self._url!r}, default_model={self.default_model!r}, timeout_ms={self.timeout_ms})"

    def route(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        latency_budget_ms: float | None = None,
        policy: Mapping[str, Any] | str | None = None,
        session_id: str | None = None,
        application: str | None = None,
        role: str | None = None,
        task: str | None = None,
        tools: Sequence[Any] | None = None,
        response_format: Mapping[str, Any] | None = None,
        hints: Mapping[str, Any] | None = None,
        user: str | None = None,
        feedback: bool | None = None,
        explain: bool = False,
        cache: bool = True,
    ) -> Answer:
        """Return a model for one prompt, or for OpenAI chat messages, within ``timeout_ms``.

        Args:
            prompt: the prompt as one text.
            messages: or the messages, oldest first.
            latency_budget_ms: what the router may take, counted from the request's arrival; None: the service's own.
            policy: the request's constraints, as in docs/service.md, or the name of a configured policy.
            session_id: the conversation, which stays with its model unless another one leads.
            application: who asks; policies may be bound to it, and to the next two.
            role: on whose behalf.
            task: what it is about.
            tools: those that the model will be given; only whether there are any is read.
            response_format: as in OpenAI's API; a form of JSON requires a model that can.
            hints: what the prompt holds that is not sent.
            user: whose prompt it is, kept with a decision that may be judged.
            feedback: keep the decision to be judged, or do not; None: as the service is set.
            explain: ask for the evidence: ``explanation`` in the decision.
            cache: the decision may be one that was made before.

        Raises:
            TypeError, ValueError: not exactly one of prompt and messages, or something that is not JSON in UTF-8.
            ClientError: the client is strict, and the service says that the request is wrong.
        """
        deadline = _Deadline(self._clock_ms, self.timeout_ms)
        if (prompt is None) == (messages is None):
            raise ValueError("exactly one of prompt and messages is needed")
        content = _request_json(
            prompt=prompt,
            messages=messages,
            latency_budget_ms=latency_budget_ms,
            policy=policy if policy is None or isinstance(policy, str) else dict(policy),
            session_id=session_id,
            application=application,
            role=role,
            task=task,
            tools=None if tools is None else list(tools),
            response_format=None if response_format is None else dict(response_format),
            hints=None if hints is None else dict(hints),
            user=user,
            feedback=feedback,
            explain=True if explain else None,
            cache=None if cache else False,
        )
        if not self._breaker.admits():
            return self._default("paused", deadline)
        try:
            status, body = self._ask("POST", "/route", content, deadline)
        except _NoAnswer as exc:
            self._breaker.record(failed=exc.counts)
            return self._default(str(exc), deadline)
        self._breaker.record(failed=False)
        if status != 200:
            return self._refused(status, body, deadline)
        decision = _parse_object(body)
        if decision is None:
            return self._default("bad answer: not a JSON object", deadline)
        model = decision.get("model")
        if not isinstance(model, str) or not model:
            return self._default("bad answer: names no model", deadline)
        return Answer(model, False, None, decision, deadline.elapsed_ms())

    def feedback(
        self,
        *,
        decision_id: str | None = None,
        rating: float | None = None,
        winner: str | None = None,
        against: str | None = None,
        prompt: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        model_a: str | None = None,
        model_b: str | None = None,
        model: str | None = None,
        score: float | None = None,
        cost_usd: float | Mapping[str, float] | None = None,
        latency_ms: float | Mapping[str, float] | None = None,
        output_tokens: float | Mapping[str, float] | None = None,
        user: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        timeout_ms: float | None = None,
        must: bool = False,
    ) -> Receipt:
        """Say how good a decision was, or what was found of models on a prompt; tell whether it was acknowledged.

        One of: decision_id and rating; decision_id, winner and against; a prompt with model_a, model_b and winner; a
        prompt with model and score. docs/service.md says what each field means. It is sent once more where the
        connection broke before an answer came, and is there once: idempotency_key is drawn where none is given.
        timeout_ms bounds the whole call; None is FEEDBACK_PATIENCE times the client's, as a disk is slower than a
        decision. must: raise instead of returning a receipt that is none.

        Raises:
            TypeError, ValueError: something is not JSON in UTF-8.
            FeedbackFailedError: ``must``, and it was not acknowledged.
        """
        deadline = _Deadline(self._clock_ms, FEEDBACK_PATIENCE * self.timeout_ms if timeout_ms is None else timeout_ms)
        content = _request_json(
            decision_id=decision_id,
            rating=rating,
            winner=winner,
            against=against,
            prompt=prompt,
            messages=messages,
            model_a=model_a,
            model_b=model_b,
            model=model,
            score=score,
            cost_usd=_amounts(cost_usd),
            latency_ms=_amounts(latency_ms),
            output_tokens=_amounts(output_tokens),
            user=user,
            metadata=None if metadata is None else dict(metadata),
            idempotency_key=idempotency_key or secrets.token_urlsafe(16),
        )
        receipt = self._told(content, deadline)
        if must and not receipt.acknowledged:
            raise FeedbackFailedError(receipt.problem)
        return receipt

    def _told(self, content: bytes, deadline: "_Deadline") -> Receipt:
        try:
            try:
                status, body = self._ask("POST", "/feedback", content, deadline)
            except _NoAnswer as exc:
                if not exc.broke:
                    raise
                status, body = self._ask("POST", "/feedback", content, deadline)
        except _NoAnswer as exc:
            return Receipt(False, None, False, str(exc))
        answer = _parse_object(body) or {}
        if status != 200:
            error = answer.get("error")
            message = self._plain(error.get("message")) if isinstance(error, dict) else ""
            return Receipt(False, None, False, _status_problem(status, message))
        sequence, duplicate = answer.get("sequence"), answer.get("duplicate")
        if not isinstance(sequence, int) or not isinstance(duplicate, bool):
            return Receipt(False, None, False, "bad answer: no receipt")
        return Receipt(True, sequence, duplicate, None)

    def healthy(self) -> bool:
        """Tell whether the service is ready to route (``GET /readyz``), within ``timeout_ms``; also while paused."""
        try:
            status, _ = self._ask("GET", "/readyz", b"", _Deadline(self._clock_ms, self.timeout_ms))
        except _NoAnswer:
            return False
        return status == 200

    def close(self) -> None:
        """Close the idle connections, and keep none from now on."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _default(self, problem: str, deadline: "_Deadline") -> Answer:
        return Answer(self.default_model, True, problem, None, deadline.elapsed_ms())

    def _refused(self, status: int, body: bytes, deadline: "_Deadline") -> Answer:
        error = (_parse_object(body) or {}).get("error")
        error = error if isinstance(error, dict) else {}
        message = self._plain(error.get("message"))
        if self.strict and 400 <= status < 500 and status not in _TRANSIENT:
            listed = error.get("details")
            details = tuple(
                (self._plain(one.get("field")), self._plain(one.get("message")))
                for one in (listed[:MAX_DETAILS] if isinstance(listed, list) else [])
                if isinstance(one, dict)
            )
            raise ClientError(status, self._plain(error.get("type")), message, details)
        return self._default(_status_problem(status, message), deadline)

    def _plain(self, text: object) -> str:
        """Return a server's words fit for a log: one short line, and without the key, should it repeat that."""
        if not isinstance(text, str):
            return ""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join("".join(one if one.isprintable() else " " for one in text[:MAX_MESSAGE_CHARS]).split())

    def _ask(self, method: str, path: str, content: bytes, deadline: "_Deadline") -> tuple[int, bytes]:
        """Return status and body of an answer that arrived whole and in time; raise _NoAnswer for any other end."""
        request = self._server.request(method, path, content, self._key)
        try:
            idle = self._pool.take()
            if idle is not None:
                try:
                    return self._exchange(idle, request, deadline)
                except _StaleError:
                    pass  # closed by the server while the request was under way; asking again changes nothing there
            return self._exchange(self._server.connect(deadline), request, deadline)
        except TimeoutError as exc:
            raise _NoAnswer("timeout", counts=True) from exc
        except OSError as exc:
            raise _NoAnswer(f"unreachable: {self._plain(exc.strerror or str(exc))}", counts=True, broke=True) from exc
        except http.client.IncompleteRead as exc:
            raise _NoAnswer("bad answer: it ends early", broke=True) from exc
        except (http.client.HTTPException, ValueError) as exc:
            raise _NoAnswer("bad answer: not valid HTTP") from exc

    def _exchange(self, connection: socket.socket, request: bytes, deadline: "_Deadline") -> tuple[int, bytes]:
        """Send and read; keep the connection only after a whole request and a whole answer."""
        reader = _Reader(connection, deadline)
        buffer = _Buffer(reader)
        reusable = False
        try:
            sent = _send(connection, request, deadline)
            response = http.client.HTTPResponse(cast(socket.socket, buffer))  # it only calls makefile
            response.begin()
            body = b"".join(iter(lambda: response.read(2**16), b""))
            if response.length:
                raise http.client.IncompleteRead(body, response.length)
            reader.ended = True
            reusable = sent and response.status >= 200 and not response.will_close and not buffer.peek(1)
            return response.status, body
        except ConnectionError as exc:
            if reader.n_bytes:
                raise
            raise _StaleError(exc.errno, exc.strerror or "connection closed without an answer") from exc
        finally:
            if reusable:
                self._pool.give_back(connection)
            else:
                connection.close()


def _amounts(value: float | Mapping[str, float] | None) -> float | dict[str, float] | None:
    return dict(value) if isinstance(value, Mapping) else value


def _request_json(*, messages: Sequence[Mapping[str, Any]] | None, **fields: Any) -> bytes:
    """Return a request of the fields that are not None."""
    content = {name: value for name, value in fields.items() if value is not None}
    if messages is not None:
        content["messages"] = [dict(one) for one in messages]
    try:
        # Not in ASCII: an escape has six bytes, and the service bounds the bytes of a request.
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError as exc:
        raise ValueError("the request is nested too deeply") from exc


def _parse_object(body: bytes) -> dict[str, Any] | None:
    """Return a JSON object, or None for anything else."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _status_problem(status: int, message: str) -> str:
    return f"status {status}: {message}" if message else f"status {status}"


class _NoAnswer(Exception):  # noqa: N818 (an outcome, not an error: it never leaves this module)
    """The call ended without an answer. counts: the breaker counts it as a failure. broke: the connection did."""

    def __init__(self, problem: str, *, counts: bool = False, broke: bool = False) -> None:
        super().__init__(problem)
        self.counts = counts
        self.broke = broke


class _StaleError(ConnectionError):
    """The connection broke before a byte of the answer came."""


class _Deadline:
    """The time of one call, from its first line to its last."""

    def __init__(self, clock_ms: Callable[[], float], timeout_ms: float) -> None:
        self._clock_ms = clock_ms
        self._started_ms = clock_ms()
        self._timeout_ms = timeout_ms

    def elapsed_ms(self) -> float:
        return self._clock_ms() - self._started_ms

    def left_s(self) -> float:
        """Return the seconds left, above 0; raise TimeoutError where there are none."""
        left_ms = self._timeout_ms - self.elapsed_ms()
        if left_ms <= 0:
            raise TimeoutError
        return left_ms / 1000


class _Reader(io.RawIOBase):
    """Reads one answer. A socket's timeout is per read and starts anew with every byte: it is set before each."""

    def __init__(self, connection: socket.socket, deadline: _Deadline) -> None:
        super().__init__()
        self._connection = connection
        self._deadline = deadline
        self.n_bytes = 0
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.ended:
            return 0
        self._connection.settimeout(self._deadline.left_s())
        count = self._connection.recv_into(buffer)
        self.n_bytes += count
        if self.n_bytes > MAX_ANSWER_BYTES:
            raise _NoAnswer(f"bad answer: more than {MAX_ANSWER_BYTES} bytes")
        return count


class _Buffer(io.BufferedReader):
    """What HTTPResponse takes for a socket and its file; it stays open, to see whether more than an answer came."""

    def makefile(self, mode: str) -> io.BufferedReader:
        return self

    def close(self) -> None:
        """Leave closing to the owner of the connection."""


def _send(connection: socket.socket, request: bytes, deadline: _Deadline) -> bool:
    """Send as much as the server takes, and tell whether it was all.

    A server that refuses early (a body too large, say) answers and closes: what it said may still be read.
    """
    left = memoryview(request)
    try:
        while left:
            connection.settimeout(deadline.left_s())
            left = left[connection.send(left) :]
    except ConnectionError:
        return False
    return True


class _Server:
    """Where the service is: addresses, TLS and what its requests begin with."""

    def __init__(self, host: str, port: int, authority: str, path: str, tls: ssl.SSLContext | None) -> None:
        self._host = host
        self._port = port
        self._authority = authority
        self._path = path
        self._tls = tls
        self._lookup: _Lookup | None = None
        self._lock = threading.Lock()
        try:
            self._numeric = _getaddrinfo(host, port, socket.AI_NUMERICHOST)
        except OSError:
            self._numeric = []

    @classmethod
    def from_url(cls, url: str, tls: ssl.SSLContext | None) -> Self:
        """Take a URL apart; raise ValueError where it is none that can be asked."""
        if not (url.isascii() and url.isprintable()) or " " in url:
            raise ValueError("url must be ASCII without spaces; write other host names in punycode")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"url must begin with http:// or https://, got the scheme {parts.scheme!r}")
        if "@" in parts.netloc:
            raise ValueError("url must not hold a user or a password; a key is given as api_key")
        try:
            named = bool((parts.hostname or "").encode("idna"))
        except UnicodeError:
            named = False
        if not parts.hostname or not named:
            raise ValueError(f"url names no host: {url!r}")
        if parts.query or parts.fragment:
            raise ValueError(f"url must end with its path: {url!r}")
        secure = parts.scheme == "https"
        port = parts.port if parts.port is not None else 443 if secure else 80
        if port == 0:
            raise ValueError("url names the port 0")
        if not secure:
            tls = None
        elif tls is None:
            tls = ssl.create_default_context()
        return cls(parts.hostname, port, parts.netloc, parts.path.rstrip("/"), tls)

    def request(self, method: str, path: str, content: bytes, key: str | None) -> bytes:
        head = [
            f"{method} {self._path}{path} HTTP/1.1",
            f"host: {self._authority}",
            "accept: application/json",
            "accept-encoding: identity",
            "user-agent: whichmodel-client",
            "content-type: application/json",
            f"content-length: {len(content)}",
        ]
        if key is not None:
            head.append(f"authorization: Bearer {key}")
        return "\r\n".join([*head, "", ""]).encode() + content

    def connect(self, deadline: _Deadline) -> socket.socket:
        """Return a connection to the first address that takes one; raise OSError."""
        addresses = self._addresses(deadline)
        failure = OSError("the host has no address")
        for position, (family, kind, protocol, _, address) in enumerate(addresses):
            try:
                connection = socket.socket(family, kind, protocol)
            except OSError as exc:
                failure = exc
                continue
            try:
                # A share of the time: an address that stays silent leaves some to the next.
                connection.settimeout(deadline.left_s() / (len(addresses) - position))
                connection.connect(address)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is None:
                    return connection
                connection.settimeout(deadline.left_s())
                return self._tls.wrap_socket(connection, server_hostname=self._host)
            except OSError as exc:
                connection.close()
                failure = exc
        raise failure

    def _addresses(self, deadline: _Deadline) -> "list[_Address]":
        if self._numeric:
            return self._numeric
        with self._lock:
            if self._lookup is None or not self._lookup.thread.is_alive():
                self._lookup = _Lookup(self._host, self._port)
            lookup = self._lookup
        return lookup.wait(deadline)


_Address = tuple[int, int, int, str, Any]


def _getaddrinfo(host: str, port: int, flags: int = 0) -> list[_Address]:
    return cast(list[_Address], socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags))


class _Lookup:
    """One lookup of a host name, on a thread of its own since the system's knows no timeout; calls share it."""

    def __init__(self, host: str, port: int) -> None:
        self._done = threading.Event()
        self._addresses: list[_Address] = []
        self._failure = ""
        self.thread = threading.Thread(target=self._run, args=(host, port), name="whichmodel-lookup", daemon=True)
        try:
            self.thread.start()
        except RuntimeError as exc:
            raise OSError("no thread is left to look up the host") from exc

    def wait(self, deadline: _Deadline) -> list[_Address]:
        if not self._done.wait(deadline.left_s()):
            raise TimeoutError
        if self._failure:
            raise OSError(self._failure)
        return self._addresses

    def _run(self, host: str, port: int) -> None:
        try:
            self._addresses = _getaddrinfo(host, port)
        except (OSError, UnicodeError) as exc:
            self._failure = getattr(exc, "strerror", None) or "the host name cannot be looked up"
        finally:
            self._done.set()


class _Pool:
    """Idle connections, the last used first."""

    def __init__(self) -> None:
        self._idle: list[tuple[int, socket.socket]] = []
        self._closed = False
        self._lock = threading.Lock()

    def take(self) -> socket.socket | None:
        """Return a connection that is still open and silent, or None."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                owner, connection = self._idle.pop()
            # After a fork both processes hold it, and one would read the other's answer.
            if owner == os.getpid() and _is_silent(connection):
                return connection
            connection.close()

    def give_back(self, connection: socket.socket) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < MAX_IDLE_CONNECTIONS:
                self._idle.append((os.getpid(), connection))
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()


def _is_silent(connection: socket.socket) -> bool:
    """Tell whether nothing waits to be read: neither the server's goodbye nor bytes that nobody asked for."""
    try:
        connection.setblocking(False)
        connection.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    return False


class _Breaker:
    """Counts failures in a row; from the limit on it admits one call per pause."""

    def __init__(self, limit: int, pause_ms: float, clock_ms: Callable[[], float]) -> None:
        self._limit = limit
        self._pause_ms = pause_ms
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        self._n_failures = 0
        self._paused_until_ms = -math.inf

    def admits(self) -> bool:
        with self._lock:
            if self._n_failures < self._limit:
                return True
            now_ms = self._clock_ms()
            if now_ms < self._paused_until_ms:
                return False
            self._paused_until_ms = now_ms + self._pause_ms  # others wait for what this one finds
            return True

    def record(self, *, failed: bool) -> None:
        with self._lock:
            self._n_failures = self._n_failures + 1 if failed else 0
            if self._n_failures >= self._limit:
                self._paused_until_ms = self._clock_ms() + self._pause_ms
