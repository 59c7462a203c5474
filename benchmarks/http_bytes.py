"""HTTP/1.1 messages as bytes: requests built once, answers read without a client library, and a blocking client.

What measures must cost less than what is measured: http.client alone takes as long as a static decision.
"""

import json
import socket
import time
from dataclasses import dataclass
from typing import Any

HOST = "127.0.0.1"
TIMEOUT_S = 10.0
HEAD_END = b"\r\n\r\n"


def post_request(path: str, fields: dict[str, Any]) -> bytes:
    """Return the whole request that posts the fields as JSON."""
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + HEAD_END + body


def get_request(path: str) -> bytes:
    """Return the whole request for a path."""
    return f"GET {path} HTTP/1.1\r\nhost: {HOST}".encode() + HEAD_END


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer. keeps_alive: the connection may take the next request."""

    status: int
    body: bytes
    keeps_alive: bool


def read_answer(received: bytes) -> Answer | None:
    """Return the answer once its last byte is there, None before. Answers have a content-length."""
    head_end = received.find(HEAD_END)
    if head_end < 0:
        return None
    head = received[:head_end].lower()
    at = head.find(b"\r\ncontent-length:")
    n_bytes = 0 if at < 0 else int(head[at + 17 :].split(b"\r\n", 1)[0])
    start = head_end + len(HEAD_END)
    if len(received) < start + n_bytes:
        return None
    return Answer(int(head[9:12]), received[start : start + n_bytes], b"\r\nconnection: close" not in head)


class Client:
    """One kept-alive connection, one request at a time; a new one where the server has closed it in between."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def ask(self, request: bytes) -> Answer:
        """Send a request and return its answer.

        Raises:
            OSError: the server is gone, or silent for ten seconds.
        """
        kept_alive = self._socket is not None
        try:
            return self._ask(request)
        except ConnectionError:
            self.close()
            if not kept_alive:
                raise
            return self._ask(request)

    def timed(self, request: bytes) -> tuple[Answer, float]:
        """Return the answer and the milliseconds from before the send to its last byte."""
        start = time.perf_counter_ns()
        answer = self.ask(request)
        return answer, (time.perf_counter_ns() - start) / 1e6

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, request: bytes) -> Answer:
        if self._socket is None:
            self._socket = socket.create_connection((HOST, self._port), timeout=TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        received = b""
        while (answer := read_answer(received)) is None:
            more = self._socket.recv(65_536)
            if not more:
                raise ConnectionResetError("the server closed the connection before the answer was whole")
            received += more
        if not answer.keeps_alive:
            self.close()
        return answer
