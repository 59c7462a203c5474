"""How much feedback a second does the service acknowledge over HTTP, and how soon?

    python benchmarks/feedback_http.py

64 clients in a process of their own, each on one connection, give a rating to a decision that the service has made
before, wait for the acknowledgement, and give the next (a closed loop). In the same run and folder, in turns: the
floor, what the disk can sync (append 4 KiB and fdatasync, one at a time), and the ceiling, what the same clients get of
an endpoint that does nothing. The server routes with the static tier; every decision is kept with its vector. Beside it,
one client asks /route one request at a time, with and without a feedback store, and while the 64 give feedback. The
median of the runs is reported, with the lowest and the highest.
"""

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop
from feedback_rate import floor, spread, summary
from http_bytes import HEAD_END, HOST, Client, post_request, read_answer
from record import write
from served import Served, serving, serving_nothing

sys.path.insert(0, str(Path(__file__).parent.parent))

N_CLIENTS = 64
N_ROWS = 600
N_ALONE = 2_000
BAR_PER_S, BAR_P99_MS = 2_000, 30.0
MODELS = ("coder-medium", "chef-large", "guide-small")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=5.0, help="of each run")
    arguments.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk to measure (default: here)")
    arguments.add_argument("--load", type=Path, help=argparse.SUPPRESS)  # the other process is this script, too
    args = arguments.parse_args()
    if args.load is not None:
        give(args.load)
        return
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        made(folder / "artifact")
        for run in range(args.runs):
            for label, one in measured(folder, run, args.seconds).items():
                runs.setdefault(label, []).append(one)
            print(f"run {run + 1}: {json.dumps({label: many[-1] for label, many in runs.items()})}", file=sys.stderr)
    numbers: dict[str, Any] = {label: spread(many) for label, many in runs.items()}
    got = numbers[f"POST /feedback, {N_CLIENTS} clients"]
    numbers["bar"] = {
        "per_s": BAR_PER_S,
        "p99_ms": BAR_P99_MS,
        "met": got["per_s"][0] >= BAR_PER_S and got["p99_ms"][0] <= BAR_P99_MS,
    }
    write("feedback_http", numbers, arguments={"runs": args.runs, "seconds": args.seconds}, files=[])


def measured(folder: Path, run: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return the numbers of one run, by what was measured."""
    store = folder / f"{run}.db"
    out = {"floor, append 4 KiB and fdatasync": floor(folder, seconds / 2)}
    with ExitStack() as stack:
        nothing = stack.enter_context(serving_nothing())
        out[f"ceiling, do-nothing endpoint, {N_CLIENTS} clients"] = loaded(nothing, folder, "/route", seconds)
    with ExitStack() as stack:
        plain = stack.enter_context(served(folder / "artifact"))
        keeping = stack.enter_context(served(folder / "artifact", "--feedback-store", str(store)))
        out.update(alone({"POST /route, no store": plain, "POST /route, every decision kept": keeping}))
        during = loaded(keeping, folder, "/feedback", seconds, beside=False)
        out[f"POST /feedback, {N_CLIENTS} clients"] = during
        with_route = loaded(keeping, folder, "/feedback", seconds, beside=True)
        out["POST /route, one client beside them"] = {
            name.removeprefix("route_"): value for name, value in with_route.items() if name.startswith("route_")
        }
    return out


def served(artifact: Path, *options: str) -> Any:
    """Serve an artifact, without lines about decisions."""
    command = (sys.executable, "-m", "router.cli", "serve", str(artifact), "--port", "0", "--log-decisions", "false")
    return serving([*command, *options], cwd=Path(__file__).parent.parent)


def alone(servers: dict[str, Served]) -> dict[str, dict[str, float]]:
    """Ask servers one request at a time, in turns of 50, and return what a request takes."""
    requests = [post_request("/route", {"prompt": f"{one} {n}"}) for n, one in enumerate(prompts(100))]
    clients = {name: Client(one.port) for name, one in servers.items()}
    times: dict[str, list[float]] = {name: [] for name in servers}
    for turn in range(-2, N_ALONE // 50):
        for name, client in clients.items():
            for n in range(50):
                _, took_ms = client.timed(requests[(turn * 50 + n) % len(requests)])
                if turn >= 0:
                    times[name].append(took_ms)
    for client in clients.values():
        client.close()
    return {name: summary(one, sum(one) / 1e3) for name, one in times.items()}


def loaded(server: Served, folder: Path, path: str, seconds: float, *, beside: bool = False) -> dict[str, float]:
    """Return what 64 clients in another process get."""
    plan = {"port": server.port, "path": path, "seconds": seconds, "beside": beside}
    (folder / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, __file__, "--load", str(folder / "plan.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    numbers: dict[str, float] = json.loads(done.stdout)
    return numbers


def give(path: Path) -> None:
    """Be the other process."""
    plan = json.loads(path.read_text())
    if plan["path"] == "/feedback":
        ids = uvloop.run(decisions(plan["port"], int(plan["seconds"] * 5_000)))
        bodies = [post_request("/feedback", {"decision_id": one, "rating": 0.5, "user": "u"}) for one in ids]
    else:
        bodies = [post_request(plan["path"], {"decision_id": "x" * 43, "rating": 0.5, "user": "u"})] * 100_000
    gc.collect()
    gc.disable()
    print(json.dumps(uvloop.run(closed_loop(plan["port"], bodies, plan["seconds"], plan["beside"]))))


async def decisions(port: int, n: int) -> list[str]:
    """Have decisions made, and return their ids."""
    ids: list[str] = []
    texts = prompts(200)

    async def client(first: int) -> None:
        connection = await Connection.open(port)
        for at in range(first, n, 16):
            request = post_request("/route", {"prompt": f"{texts[at % len(texts)]} {at}", "latency_budget_ms": 10_000})
            ids.append(json.loads(await connection.ask(request))["decision_id"])
        connection.close()

    await asyncio.gather(*(client(first) for first in range(16)))
    return ids


async def closed_loop(port: int, requests: list[bytes], seconds: float, beside: bool) -> dict[str, float]:
    """Send each request once, on 64 connections, until the time is over or there are no more."""
    connections = [await Connection.open(port) for _ in range(N_CLIENTS)]
    waiting = iter(requests)
    latencies_ms: list[float] = []
    route_ms: list[float] = []
    began = time.perf_counter()

    async def client(connection: Connection) -> None:
        for request in waiting:
            at = time.perf_counter()
            if at - began > seconds:
                return
            await connection.ask(request)
            latencies_ms.append((time.perf_counter() - at) * 1e3)

    async def router() -> None:
        connection = await Connection.open(port)
        request = post_request("/route", {"prompt": prompts(1)[0], "feedback": False})
        while time.perf_counter() - began < seconds:
            await asyncio.sleep(0.01)
            at = time.perf_counter()
            await connection.ask(request)
            route_ms.append((time.perf_counter() - at) * 1e3)
        connection.close()

    await asyncio.gather(*(client(one) for one in connections), *([router()] if beside else []))
    out = summary(latencies_ms, time.perf_counter() - began)
    if beside:
        out |= {f"route_{name}": value for name, value in summary(route_ms, time.perf_counter() - began).items()}
    return out


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: Any = None

    @classmethod
    async def open(cls, port: int) -> "Connection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, HOST, port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        answer = read_answer(self._received)
        if answer is None or self._answer is None:
            return
        self._received, waiting, self._answer = b"", self._answer, None
        if answer.status == 200:
            waiting.set_result(answer.body)
        else:
            waiting.set_exception(RuntimeError(f"status {answer.status}: {answer.body!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None:
            self._answer.set_exception(RuntimeError("the server closed the connection"))

    async def ask(self, request: bytes) -> bytes:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self._transport.close()


def prompts(n: int) -> list[str]:
    words = ("parser", "soup", "castle", "regex", "lentils", "harbour", "thread", "pumpkin", "volcano", "cache")
    return [f"How do I get the {words[k % 10]} of my {words[k // 10 % 10]} right, step by step?" for k in range(n)]


def made(directory: Path) -> None:
    """Write an artifact of the static tier: invented prompts, and outcomes of three models drawn at random."""
    log = directory.with_suffix(".jsonl")
    rows = [
        {"prompt": f"{text} ({n})", "scores": {model: (n * 7 + k * 3) % 10 / 10 for k, model in enumerate(MODELS)}}
        for n, text in enumerate(prompts(N_ROWS))
    ]
    log.write_text("".join(json.dumps(one) + "\n" for one in rows))
    command = (sys.executable, "-m", "router.cli", "train", str(log), "--encoder", "static", "--out", str(directory))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parent.parent)


if __name__ == "__main__":
    main()
