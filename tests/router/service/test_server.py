"""The real server on a real socket: hostile bytes before HTTP is even parsed, signals, and refusals to start."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import uvicorn
from fake_service import FakeRouter, ServerProcess, as_router, start_server, stop_server
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from raw_http import exchange, first_answer, parse, read_answer

from router.client import Client, ClientError
from router.errors import ConfigError
from router.service.answers import ErrorAnswer
from router.service.auth import ApiKeys
from router.service.server import MAX_HEAD_BYTES, serve
from router.service.settings import Settings

VALID = b'POST /route HTTP/1.1\r\nhost: x\r\ncontent-length: 15\r\n\r\n{"prompt": "x"}'


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    started = start_server({"WHICHMODEL_CHUNK_TIMEOUT_S": "0.3"})
    yield started
    logged = stop_server(started)
    assert logged == ""  # nothing that was sent in this module is worth a line, nor may be in one


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def route(port: int, content: Any) -> tuple[http.client.HTTPResponse, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/route", json.dumps(content), {"content-type": "application/json"})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer, content


def test_one_line_tells_url_artifact_and_verdict(server: ServerProcess) -> None:
    assert re.fullmatch(
        r"whichmodel serves fake-0001 at http://127\.0\.0\.1:\d+: ROUTE: 3\.1 points better .*", server.announced
    )


def test_it_answers_and_does_not_name_its_make(server: ServerProcess) -> None:
    answer, content = route(server.port, {"prompt": "hello"})
    assert (answer.status, content["model"]) == (200, "small-fast")
    assert answer.getheader("server") is None


def test_the_client_asks_it(server: ServerProcess) -> None:
    with Client(f"http://127.0.0.1:{server.port}", default_model="mine", timeout_ms=10_000) as client:
        assert client.healthy()
        answer = client.route("hello", policy={"exclude": ["small-fast"]}, latency_budget_ms=500, explain=True)
        assert (answer.model, answer.problem) == ("coder-medium", None)
        assert answer.decision is not None and answer.decision["explanation"]["excluded"]
        assert client.route(messages=[{"role": "user", "content": "hi"}]).model == "small-fast"
        refused = client.route("hello", policy={"best": True})
        assert (refused.model, refused.problem) == ("mine", "status 422: the request has fields that are wrong")
        large = client.route("x" * 5_000_000)
        assert large.problem is not None and large.problem.startswith("status 413: ")
    strict = Client(f"http://127.0.0.1:{server.port}", default_model="mine", timeout_ms=10_000, strict=True)
    with strict, pytest.raises(ClientError) as raised:
        strict.route("hello", latency_budget_ms=0)
    assert raised.value.details[0][0] == "latency_budget_ms"


def test_one_connection_serves_many_requests(server: ServerProcess) -> None:
    last = VALID.replace(b"host: x", b"host: x\r\nconnection: close")
    assert exchange(server.port, VALID * 20 + last).count(b"HTTP/1.1 200 OK") == 21


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n", 400, id="TLS"),
        pytest.param(b"\x00" * 100, 400, id="NULs"),
        pytest.param(b"CANARY\r\n\r\n", 400, id="no request line"),
        pytest.param(b"GET /\xff\xfe HTTP/1.1\r\n\r\n", 400, id="a path that is not ASCII"),
        pytest.param(b"GET /%ff%00%0d%0a HTTP/1.1\r\nconnection: close\r\n\r\n", 404, id="a path of odd bytes"),
        pytest.param(b"OPTIONS * HTTP/1.1\r\nconnection: close\r\n\r\n", 404, id="asterisk"),
        pytest.param(b"CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n", 400, id="CONNECT"),
        pytest.param(b"GET http://[::1/ HTTP/1.1\r\n\r\n", 400, id="a URL that is none"),
        pytest.param(b"GET / HTTP/9.9\r\n\r\n", 400, id="another version"),
        pytest.param(b"POST /route HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400, id="negative length"),
        pytest.param(b"POST /route HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx", 400, id="two lengths"),
        pytest.param(
            b"POST /route HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            id="length and chunks",
        ),
        pytest.param(
            b"POST /route HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400, id="a chunk size of letters"
        ),
        pytest.param(b"POST /route HTTP/1.1\r\na: b\r\n folded\r\n\r\n", 400, id="folded header"),
        pytest.param(b"POST /route HTTP/1.1\r\na\x00: b\r\n\r\n", 400, id="NUL in a header"),
        pytest.param(
            b"GET /healthz HTTP/1.1\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n", 200, id="websocket"
        ),
        pytest.param(b"POST /route HTTP/1.1\r\ncontent-length: 5000000\r\n\r\n", 413, id="announced too large"),
        pytest.param(
            b"POST /route HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
            + (b"10000\r\n" + b" " * 65_536 + b"\r\n") * 100,
            413,
            id="too large in chunks",
        ),
    ],
)
def test_hostile_bytes_get_an_error_in_json(server: ServerProcess, data: bytes, status: int) -> None:
    got, content = parse(exchange(server.port, data))
    assert got == status
    assert "CANARY" not in json.dumps(content)
    if status != 200:
        ErrorAnswer.model_validate(content)
    assert route(server.port, {"prompt": "still there?"})[0].status == 200


@hypothesis_settings(max_examples=100)
@given(
    data=st.binary(max_size=300)
    | st.tuples(st.integers(0, len(VALID)), st.integers(0, 9), st.binary(max_size=9)).map(
        lambda edit: VALID[: edit[0]] + edit[2] + VALID[edit[0] + edit[1] :]
    )
)
def test_random_bytes_never_get_a_5xx(server: ServerProcess, data: bytes) -> None:
    status, content = parse(first_answer(server.port, data))
    assert 200 <= status < 500
    if status != 200:
        ErrorAnswer.model_validate(content)


@pytest.mark.parametrize("sent", [b"", VALID[:9], VALID[:25], VALID[:-3]])
def test_a_slow_head_or_body_gets_408(server: ServerProcess, sent: bytes) -> None:
    status, content = parse(exchange(server.port, sent))
    assert (status, ErrorAnswer.model_validate(content).error.type) == (408, "timeout")


def test_a_slow_head_after_a_request_gets_408_too(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(VALID)
        assert parse(read_answer(connection))[0] == 200
        connection.sendall(VALID[:9])
        assert parse(read_answer(connection))[0] == 408


def test_an_endless_head_is_cut_off_without_being_kept(server: ServerProcess) -> None:
    before = resident_bytes(server.process.pid)
    for start in (b"GET /", b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 100_000):
        status, content = parse(exchange(server.port, start + b"a" * 30_000_000))
        assert (status, ErrorAnswer.model_validate(content).error.type) == (431, "too_large")
    assert resident_bytes(server.process.pid) - before < 20_000_000


def test_a_head_below_the_cap_passes(server: ServerProcess) -> None:
    head = b"GET /healthz HTTP/1.1\r\nconnection: close\r\nx: " + b"a" * (MAX_HEAD_BYTES - 100) + b"\r\n\r\n"
    assert parse(exchange(server.port, head))[0] == 200


def test_clients_that_leave_early_do_no_harm(server: ServerProcess) -> None:
    for length in range(0, len(VALID), 7):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(VALID[:length])
    assert route(server.port, {"prompt": "still there?"})[0].status == 200


def test_a_200_comes_on_one_connection_while_others_stall(server: ServerProcess) -> None:
    stalled = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
    for connection in stalled:
        connection.sendall(VALID[:-1])
    assert route(server.port, {"prompt": "hello"})[0].status == 200
    for connection in stalled:
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_with_exit_code_0(number: signal.Signals) -> None:
    started = start_server({})
    assert route(started.port, {"prompt": "hello"})[0].status == 200
    started.process.send_signal(number)
    _, logged = started.process.communicate(timeout=20)
    assert (started.process.returncode, logged) == (0, "")


def test_a_request_in_flight_is_finished_after_sigterm() -> None:
    started = start_server({})
    with socket.create_connection(("127.0.0.1", started.port), timeout=10) as connection:
        connection.sendall(VALID[:-3])
        time.sleep(0.1)
        started.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        connection.sendall(VALID[-3:])
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")
    started.process.communicate(timeout=20)
    assert started.process.returncode == 0


def test_an_unexpected_error_is_logged_once_without_the_prompt() -> None:
    started = start_server({})
    answer, content = route(started.port, {"prompt": "please fail on CANARY"})
    logged = stop_server(started)
    assert answer.status == 500
    (error_id,) = re.findall(r"[0-9a-f]{32}", content["error"]["message"])
    assert logged.count("unexpected RuntimeError") == 1
    assert error_id in logged
    assert logged.count(" in begin") == 1 and "cannot digest" not in logged
    assert "CANARY" not in logged


def test_keys_are_asked_for_and_never_logged() -> None:
    started = start_server({"WHICHMODEL_API_KEYS": "CANARY-KEY"})
    try:
        assert route(started.port, {"prompt": "hello"})[0].status == 401
        for path in (
            b"/healthz/../artifact",
            b"/artifact/../healthz",
            b"/%2e/artifact",
            b"//artifact",
            b"/artifact?/healthz",
        ):
            assert parse(exchange(started.port, b"GET " + path + b" HTTP/1.1\r\nconnection: close\r\n\r\n"))[0] == 401
        answer = exchange(started.port, b"GET /artifact HTTP/1.1\r\nx-api-key: CANARY-KEY\r\nconnection: close\r\n\r\n")
        assert parse(answer)[0] == 200
    finally:
        logged = stop_server(started)
    assert "CANARY" not in logged + started.announced


def refuse(settings: Settings) -> str:
    """Return the error of a server that must not start."""
    announced: list[str] = []
    started = AssertionError("the server has started")
    with pytest.raises(ConfigError) as caught, mock.patch.object(uvicorn.Server, "run", side_effect=started):
        serve(as_router(FakeRouter()), settings, announce=announced.append)
    assert announced == []
    return str(caught.value)


def test_an_open_bind_without_keys_is_refused() -> None:
    assert "without an API key" in refuse(Settings(host="0.0.0.0", port=0))


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refuse(Settings(port=port)) == f"cannot listen on 127.0.0.1 port {port}: Address already in use"


def test_an_address_of_another_machine_is_one_line() -> None:
    keys = ApiKeys.from_lines(["a-key"], "the test")
    message = refuse(Settings(host="192.0.2.1", port=0, api_keys=keys))
    assert message.startswith("cannot listen on 192.0.2.1 port 0: ")
    assert "\n" not in message
    assert refuse(Settings(host="no-such-host.invalid", port=0, api_keys=keys)).startswith("cannot listen on no-such")


def test_the_service_imports_nothing_heavy(server: ServerProcess) -> None:
    assert resident_bytes(server.process.pid) < 250_000_000
    heavy = "{'torch', 'pandas', 'sklearn', 'datasets', 'sentence_transformers', 'matplotlib', 'training'}"
    code = f"import sys, router.service.server; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
