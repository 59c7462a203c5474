"""How many events a second does the feedback store acknowledge, and how soon, beside what the disk can sync?

    python benchmarks/feedback_rate.py

Clients on one event loop each add an event, wait until it is durable, and add the next (a closed loop: the rate is what
so many clients get, not an offered load). An event is a battle with a prompt of 300 characters and both tiers' vectors
(384 and 256 dimensions). In between, in the same folder, the floor: append 4 KiB to a file and sync it, one at a time.
The median of the runs is reported, with the lowest and the highest.
"""

import argparse
import asyncio
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import write

from router.feedback import sqlite_file
from router.feedback.events import Battle, Details, FeedbackEvent, Vector
from router.feedback.sqlite_store import SqliteStore

N_CLIENTS = (1, 8, 64)
VECTORS = (Vector("f" * 64, bytes(384 * 4)), Vector("s" * 64, bytes(256 * 4)))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=5.0, help="of each run")
    arguments.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk to measure (default: here)")
    args = arguments.parse_args()
    sqlite_file.logger.disabled = True
    runs: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.runs):
        with tempfile.TemporaryDirectory(dir=args.folder) as name:
            runs.setdefault("floor, append 4 KiB and fdatasync", []).append(floor(Path(name), args.seconds / 2))
            for n_clients in N_CLIENTS:
                done = asyncio.run(add(Path(name) / f"{n_clients}.db", n_clients, args.seconds))
                runs.setdefault(f"{n_clients} clients", []).append(done)
    numbers: dict[str, Any] = {name: spread(measured) for name, measured in runs.items()}
    numbers["sqlite"] = sqlite3.sqlite_version
    for name, one in numbers.items():
        print(name, one, file=sys.stderr)
    write("feedback_rate", numbers, arguments={"runs": args.runs, "seconds": args.seconds}, files=[])


def floor(folder: Path, seconds: float) -> dict[str, float]:
    latencies_ms, began = [], time.perf_counter()
    descriptor = os.open(folder / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    block = os.urandom(4096)
    while time.perf_counter() - began < seconds:
        at = time.perf_counter()
        os.write(descriptor, block)
        os.fdatasync(descriptor)
        latencies_ms.append((time.perf_counter() - at) * 1000)
    os.close(descriptor)
    return summary(latencies_ms, time.perf_counter() - began)


async def add(path: Path, n_clients: int, seconds: float) -> dict[str, float]:
    latencies_ms: list[float] = []
    with SqliteStore(path) as store:
        began = time.perf_counter()

        async def client(number: int) -> None:
            n = 0
            while time.perf_counter() - began < seconds:
                n += 1
                at = time.perf_counter()
                await asyncio.wrap_future(store.add_event(event(f"{number}-{n}")))
                latencies_ms.append((time.perf_counter() - at) * 1000)

        await asyncio.gather(*(client(number) for number in range(n_clients)))
        took_s = time.perf_counter() - began
        n_there = store.stats().n_events
    if n_there != len(latencies_ms):
        raise RuntimeError(f"{len(latencies_ms)} events were acknowledged, {n_there} are there")
    return summary(latencies_ms, took_s)


def event(key: str) -> FeedbackEvent:
    return FeedbackEvent.of_prompt(
        f"{key} {'word ' * 60}",
        Battle("small", "large", "model_a"),
        judge="bench",
        received_s=time.time(),
        details=Details(idempotency_key=key, user="somebody"),
        vectors=VECTORS,
    )


def summary(latencies_ms: list[float], took_s: float) -> dict[str, float]:
    percentiles = statistics.quantiles(latencies_ms, n=100, method="inclusive")
    return {"per_s": len(latencies_ms) / took_s, "p50_ms": percentiles[49], "p99_ms": percentiles[98]}


def spread(runs: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return the median, the lowest and the highest of every number."""
    out = {}
    for name in runs[0]:
        values = sorted(one[name] for one in runs)
        out[name] = [round(value, 3) for value in (statistics.median(values), values[0], values[-1])]
    return out


if __name__ == "__main__":
    main()
