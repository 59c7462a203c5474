"""Timing calls side by side, a server that does nothing, and what a process holds in memory."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TURN = 100
DO_NOTHING = """
import socket, uvicorn
from fastapi import FastAPI, Request, Response
app = FastAPI()
@app.post("/route")
async def route(request: Request) -> Response:
    await request.body()
    return Response(b'{"model":"none"}', media_type="application/json")
listener = socket.create_server(("127.0.0.1", 0))
print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run(sockets=[listener])
"""


def measure(calls: dict[str, Callable[[int], object]], n: int, *, turn: int = TURN) -> dict[str, Any]:
    """Time every call on every prompt: in turns of so many, so that all see the same weather; one warm-up turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for first in range(-turn, n, turn):
        for name, call in calls.items():
            for index in range(first, min(first + turn, n)):
                start = time.perf_counter_ns()
                call(index % n)
                if index >= 0:
                    times[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: summary(one) for name, one in times.items()}


def summary(times_ms: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times_ms, n=1000)
    return {"p50": cuts[499], "p99": cuts[989], "p99.9": cuts[998], "max": max(times_ms)}


def rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))
