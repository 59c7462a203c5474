"""A server under test: started, watched from outside, stopped."""

import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from http_bytes import Client, get_request
from timing import DO_NOTHING, rss_mib

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.2
SETTLED_MS = 20.0
SETTLE_TIMEOUT_S = 60.0
LAG_BUCKET = re.compile(r'^whichmodel_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', re.MULTILINE)
LAG_MAX = re.compile(r"^whichmodel_event_loop_lag_max_seconds (\S+)", re.MULTILINE)
"""The greatest lag since the last scrape."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers at a port of this machine."""

    pid: int
    port: int

    def get(self, path: str) -> str | None:
        """Return the body of a path, None where there is no such path."""
        client = Client(self.port)
        answer = client.ask(get_request(path))
        client.close()
        return answer.body.decode() if answer.status == 200 else None

    def settle(self) -> float:
        """Wait until the server answers at once again, and return the seconds that took.

        Raises:
            TimeoutError: it did not within a minute.
        """
        client, start, quick = Client(self.port), time.perf_counter(), 0
        while quick < 5:
            if time.perf_counter() - start > SETTLE_TIMEOUT_S:
                raise TimeoutError(f"the server was still slow {SETTLE_TIMEOUT_S:.0f} s after the load")
            _, took_ms = client.timed(get_request("/healthz"))
            quick = quick + 1 if took_ms < SETTLED_MS else 0
            time.sleep(0.05)
        client.close()
        return time.perf_counter() - start


@contextmanager
def serving(command: Sequence[str], *, cwd: Path | None = None) -> Iterator[Served]:
    """Start a server that prints its URL, and stop it in the end; its line per decision is written, to nowhere."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=cwd) as process:
        try:
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found is None:
                sys.exit(f"{' '.join(command[:4])} ... did not start: {line.strip() or 'no line on stdout'}")
            yield Served(process.pid, int(found[1]))
        finally:
            process.terminate()


def serving_artifact(directory: Path) -> "contextmanager[Served]":
    """Serve an artifact with ``whichmodel serve``."""
    return serving([sys.executable, "-m", "router.cli", "serve", str(directory), "--port", "0"])


def serving_nothing() -> "contextmanager[Served]":
    """Serve the do-nothing FastAPI endpoint: the ceiling of any service on this stack."""
    return serving([sys.executable, "-c", DO_NOTHING])


@dataclass(slots=True)
class Watch:
    """Samples of processes, five a second: seconds on the monotonic clock, CPU seconds and resident MiB of each."""

    pids: Sequence[int]
    at_s: list[float] = field(default_factory=list)
    cpu_s: list[list[float]] = field(default_factory=list)
    rss_mib: list[list[float]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._sample_until_stopped, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def cpu_share(self, which: int, start_s: float, end_s: float) -> float:
        """Return how many cores a process used between two times, on average."""
        used = np.interp([start_s, end_s], self.at_s, [one[which] for one in self.cpu_s])
        return float((used[1] - used[0]) / (end_s - start_s))

    def memory_mib(self, which: int, start_s: float, end_s: float) -> dict[str, float]:
        """Return the most that was resident between two times, and by how much it grew from the first to the last."""
        own = [rss[which] for at, rss in zip(self.at_s, self.rss_mib, strict=True) if start_s <= at <= end_s]
        return {"max": max(own), "growth": own[-1] - own[0]} if own else {}

    def _sample_until_stopped(self) -> None:
        while True:
            try:
                cpu, rss = [cpu_s(one) for one in self.pids], [rss_mib(one) for one in self.pids]
            except (FileNotFoundError, ProcessLookupError, StopIteration):  # one has ended; a zombie has no VmRSS
                return
            self.at_s.append(time.perf_counter())
            self.cpu_s.append(cpu)
            self.rss_mib.append(rss)
            if self._stop.wait(SAMPLE_S):
                return


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process and its threads have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def loop_lag_ms(before: str | None, after: str | None) -> dict[str, float | None]:
    """Read from two scrapes of /metrics how late the event loop woke between them: p99 and max in ms.

    p99 is the upper bound of its bucket in the histogram, None in the last one. Empty: there is no such metric.
    """
    if after is None:
        return {}
    found: dict[str, float | None] = {}
    counts = _lag_buckets(after)
    for bound_s, n in _lag_buckets(before or "").items():
        counts[bound_s] -= n
    if counts and (total := max(counts.values())) > 0:
        p99_s = min(bound_s for bound_s, n in counts.items() if n >= 0.99 * total)
        found["p99_at_most"] = 1e3 * p99_s if math.isfinite(p99_s) else None
    if highest := LAG_MAX.search(after):
        found["max"] = 1e3 * float(highest[1])
    return found


def _lag_buckets(text: str) -> dict[float, float]:
    return {float(bound_s.replace("+Inf", "inf")): float(n) for bound_s, n in LAG_BUCKET.findall(text)}
