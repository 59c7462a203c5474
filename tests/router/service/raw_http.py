"""HTTP in bytes over a socket: what no client library would send, and answers as they come."""

import contextlib
import json
import re
import socket
from typing import Any


def exchange(port: int, data: bytes) -> bytes:
    """Send bytes, then read until the server closes; it may do so, and reset, before it has read everything."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        received = b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65_536):
                received += chunk
        return received


def first_answer(port: int, data: bytes) -> bytes:
    """Send bytes and read one answer; whatever is sent, the server answers, or loses patience and says so."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> bytes:
    """Read one whole answer."""
    head, body = b"", b""
    while not head.endswith(b"\r\n\r\n"):
        if not (byte := connection.recv(1)):
            raise ConnectionError(f"closed after {head!r}")
        head = (head + byte).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = int(re.findall(rb"content-length: (\d+)", head)[0])
    while len(body) < length:
        body += connection.recv(length - len(body))
    return head + body


def parse(answer: bytes) -> tuple[int, Any]:
    """Return the status and the JSON of the first answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    length = int(re.findall(rb"content-length: (\d+)", head)[0])
    return status, json.loads(body[:length])
