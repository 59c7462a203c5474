"""How long one decision takes, in process and over HTTP, beside its floor (the bare encoder) and the service's ceiling.

    WHICHMODEL_DATA=... python benchmarks/route_latency.py

One request at a time on real prompts (llmrouter). The bare encoder run, the route, and a do-nothing FastAPI endpoint
are measured in the same run, interleaved, since machines are noisy: the ratios count.
"""

import argparse
import http.client
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from record import data_folder, write

from router import Policy, Router
from training import load, train

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


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--n", type=int, default=2000, help="prompts measured (default 2000)")
    arguments.add_argument("--seed", type=int, default=0)
    args = arguments.parse_args()
    source = data_folder() / "llmrouter" / "train.parquet"
    log = load(source)
    directory = Path("build/bench/llmrouter")
    artifact, _ = train(log, seed=args.seed)
    artifact.write(directory)
    router = Router.load(directory)
    prompts = random.Random(args.seed).sample([one.prompt for one in log.comparisons], args.n)
    numbers: dict[str, Any] = {"rows": artifact.n_rows, "models": len(artifact.models)}
    numbers["in_process_ms"] = in_process(router, prompts)
    numbers["http_ms"], numbers["server_rss_mib"] = over_http(directory, prompts)
    for name, one in {**numbers["in_process_ms"], **numbers["http_ms"]}.items():
        print(f"{name:<28} p50 {one['p50']:.3f}  p99 {one['p99']:.3f}  max {one['max']:.3f} ms")
    print(f"server resident memory {numbers['server_rss_mib']:.0f} MiB")
    write("route_latency", numbers, arguments={"n": args.n, "seed": args.seed}, files=[source])


def in_process(router: Router, prompts: list[str]) -> dict[str, Any]:
    encoder, policy = router.artifact.best.encoder, Policy(route_anyway=True)
    ids = [encoder.token_ids(one) or [0] for one in prompts]
    calls: dict[str, Callable[[int], object]] = {
        "bare encoder run": lambda i: encoder.run(ids[i]),
        "encode (with tokenizer)": lambda i: encoder.encode(prompts[i]),
        "route": lambda i: router.route(prompts[i], policy),
    }
    return measure(calls, len(prompts))


def over_http(directory: Path, prompts: list[str]) -> tuple[dict[str, Any], float]:
    command = [sys.executable, "-m", "router.cli", "serve", str(directory), "--port", "0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        subprocess.Popen([sys.executable, "-c", DO_NOTHING], stdout=subprocess.PIPE, text=True) as nothing,
    ):
        try:
            ours, theirs = Connection(server), Connection(nothing)
            bodies = [json.dumps({"prompt": one}).encode() for one in prompts]
            numbers = measure(
                {
                    "do-nothing endpoint": lambda i: theirs.post(bodies[i]),
                    "POST /route": lambda i: ours.post(bodies[i]),
                },
                len(prompts),
            )
            return numbers, rss_mib(server.pid)
        finally:
            server.terminate()
            nothing.terminate()


class Connection:
    """One kept-alive connection to a server that prints its URL as it starts."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        line = process.stdout.readline()
        port = int(line.split("http://127.0.0.1:")[1].split()[0].rstrip("/,;:"))
        self._http = http.client.HTTPConnection("127.0.0.1", port)

    def post(self, body: bytes) -> None:
        self._http.request("POST", "/route", body, {"Content-Type": "application/json"})
        answer = self._http.getresponse()
        answer.read()
        if answer.status != 200:
            sys.exit(f"POST /route answered {answer.status}")


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


if __name__ == "__main__":
    main()
