"""The server process: listening socket, bounds on the HTTP head, signals and logging around the application."""

import asyncio
import gc
import json
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from router.errors import ConfigError
from router.router import Router
from router.service.answers import error_body
from router.service.app import create_app
from router.service.arrivals import Arrivals
from router.service.auth import check_bind
from router.service.backlog import Backlog
from router.service.logs import logging_config
from router.service.settings import Settings

MAX_HEAD_BYTES = 2**16
SHUTDOWN_TIMEOUT_S = 5
BACKLOG = 2048


def serve(router: Router, settings: Settings, *, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight and return; at SIGHUP, reload the artifact.

    ``announce`` gets one line with the URL, the artifact and its verdict once requests are answered.

    Raises:
        ConfigError: the address is open to others and there is no key, or it cannot be listened on.
    """
    check_bind(settings.host, settings.api_keys)
    with _listen(settings.host, settings.port) as listener:
        line = f"whichmodel serves {router.artifact.id} at {_url(listener)}: {router.artifact.verdict.text}"
        app = create_app(router, settings)
        del router  # another one may take its place
        config = uvicorn.Config(
            app,
            http=partial(  # type: ignore[arg-type]
                BoundedHttpProtocol,
                head_timeout_s=settings.chunk_timeout_s,
                backlog=app.backlog,
                arrivals=app.arrivals,
            ),
            ws="none",
            loop="auto",
            lifespan="on",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
            log_config=logging_config(settings),
        )
        server = _AnnouncingServer(config, announce=lambda: announce(line), on_hangup=app.reloads.on_signal)
        with _obey_signals(server):
            server.run(sockets=[listener])
        app.live.close()


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with what it lacks: a cap and a timeout on the request head, and errors in JSON."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        head_timeout_s: float,
        backlog: Backlog,
        arrivals: Arrivals,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_timeout_s = head_timeout_s
        self._backlog = backlog
        self._arrivals = arrivals
        self._head_timer: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None
        self._begin_head()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head."""
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and tell the request that is being answered.

        uvicorn tells the newest one; where requests are pipelined that is another, and the answer would be encoded for
        nobody and written to a connection that is closed.
        """
        self._stop_head_timer()
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Count what arrives before the end of a head."""
        if self._in_head:
            self._head_bytes += len(data)
            self._start_head_timer()
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, "too_large", f"the request head has more than {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """Note when the request arrived: what it waits from then on, its turn included, counts against its budget."""
        super().on_message_begin()
        self.scope["state"]["arrived_ms"] = self._arrivals.read()

    def on_headers_complete(self) -> None:
        """Hand the request to the application."""
        self._in_head = False
        self._stop_head_timer()
        super().on_headers_complete()
        if not self.pipeline:  # a pipelined request waits for those before it alone, and for ever if its client leaves
            self._backlog.enter(cast(Scope, self.scope))

    def on_message_complete(self) -> None:
        """Expect the next head."""
        super().on_message_complete()
        self._begin_head()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP in the form of every other error."""
        self._refuse(400, "http", "the request is not valid HTTP")

    def _begin_head(self) -> None:
        self._in_head = True
        self._head_bytes = 0

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_timeout_s, self._on_head_timeout)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(408, "timeout", "the request head came too slowly")

    def _refuse(self, status: int, kind: str, message: str) -> None:
        # An answer that is still being written must not be cut in two by this one.
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = json.dumps(error_body(kind, message)).encode()
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()


class _AnnouncingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, *, announce: Callable[[], None], on_hangup: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce
        self._on_hangup = on_hangup
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is loaded stays: to look through all of it for cycles would stop everything for 50 ms at a time. A router
        # that another one replaces has no cycles, so that it is freed all the same.
        gc.collect()
        gc.freeze()
        self._loop = asyncio.get_running_loop()
        self._announce()

    def hang_up(self) -> None:
        """Reload, as SIGHUP asks for; before the start is over, what is served was only just loaded."""
        if self._loop is not None and not self.should_exit:
            self._loop.call_soon_threadsafe(self._on_hangup)


@contextmanager
def _obey_signals(server: _AnnouncingServer) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the server and nothing more, and SIGHUP, where there is one, reload.

    After a graceful stop uvicorn raises the signal once more for whoever handled it before: with Python's own
    handlers the process would die of it, or show a KeyboardInterrupt, instead of leaving with exit code 0.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    def reload(number: int, frame: FrameType | None) -> None:
        server.hang_up()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    if sys.platform != "win32":
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, reload)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    """Bind and listen at once, so that a port in use is an error before anything else starts."""
    try:
        # IPv4 first: 'localhost' also names ::1, where few clients look for a server.
        found = sorted(
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE),
            key=lambda one: one[0] != socket.AF_INET,
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as exc:
        raise ConfigError(f"cannot listen on {host} port {port}: {exc.strerror or exc}") from exc
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
