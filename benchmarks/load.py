"""The load generator, a process of its own: sends every request at its time, whether earlier ones are answered or not.

    python benchmarks/load.py PLAN.json ANSWERS.npz

Open loop: a server that slows down is asked no less for it (a closed loop would wait, and hide what users would see).
One request is in flight per connection; where none is free, a new one is opened. Written on raw protocols so that
thousands of requests a second take part of one core: the server under test lives on the same machine.
"""

import asyncio
import gc
import json
import math
import os
import resource
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import uvloop
from http_bytes import HOST, post_request, read_answer
from numpy.typing import NDArray

LOST_AFTER_S = 2.0
WARM_CONNECTIONS = 64
MAX_CONNECTIONS = 1000
PRIORITY = -10
TIERS = ("full", "static", "prior")
NO_BUDGET = 0.0
"""As the budget of a request: the field is left out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sent where and when; lists have one entry per request. prompt: its place in ``prompts``."""

    port: int
    prompts: list[str]
    at_s: list[float]
    prompt: list[int]
    budget_ms: list[float]
    bypass_cache: bool = False
    path: str = "/route"

    def request(self, prompt: int, budget_ms: float) -> bytes:
        """Return the bytes of a request."""
        fields: dict[str, Any] = {"prompt": self.prompts[prompt]}
        if budget_ms != NO_BUDGET:
            fields["latency_budget_ms"] = budget_ms
        if self.bypass_cache:
            fields["cache"] = False
        return post_request(self.path, fields)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What became of every request, arrays of (n,); times in seconds from the start of the run.

    sent_s, done_s: actual send and last byte, NaN where there was none. status: 0 where there was no answer. tier:
    place in TIERS, -1 where the answer named none. degraded, cached: 1, 0, or -1 where the answer did not say.
    started_s: the start on the machine's monotonic clock. cpu_s: what the generator itself took while it sent, over
    wall_s. resent: requests sent again since a kept-alive connection had been closed by the server. unsent: requests
    that found all of MAX_CONNECTIONS busy; they count as lost. model, artifact: what the answer named, empty where it
    named none.
    """

    at_s: NDArray[np.float64]
    sent_s: NDArray[np.float64]
    done_s: NDArray[np.float64]
    budget_ms: NDArray[np.float64]
    status: NDArray[np.int64]
    tier: NDArray[np.int64]
    degraded: NDArray[np.int64]
    cached: NDArray[np.int64]
    elapsed_ms: NDArray[np.float64]
    started_s: float
    cpu_s: float
    wall_s: float
    connections: int
    resent: int
    unsent: int
    model: NDArray[np.str_] = field(default_factory=lambda: np.array([], dtype=np.str_))
    artifact: NDArray[np.str_] = field(default_factory=lambda: np.array([], dtype=np.str_))

    def save(self, path: Path) -> None:
        """Write one .npz."""
        np.savez(path, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``save`` wrote."""
        with np.load(path) as found:
            return cls(**{name: found[name] if found[name].ndim else found[name].item() for name in found.files})


class Connection(asyncio.Protocol):
    """One connection; ``request`` is the place of the request in flight, -1 while it is free."""

    __slots__ = ("generator", "n_answered", "received", "request", "transport")

    def __init__(self, generator: "Generator", request: int) -> None:
        self.generator = generator
        self.request = request
        self.received = b""
        self.n_answered = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        if self.request >= 0:
            self.transport.write(self.generator.requests[self.request])
        else:
            self.generator.free.append(self)

    def take(self, request: int) -> None:
        self.request = request
        self.received = b""
        self.transport.write(self.generator.requests[request])

    def data_received(self, data: bytes) -> None:
        if self.request < 0:
            return
        self.received = self.received + data if self.received else data
        answer = read_answer(self.received)
        if answer is None:
            return
        generator, request = self.generator, self.request
        generator.answered(request, answer.status, answer.body)
        self.request = -1
        self.n_answered += 1
        if answer.keeps_alive:
            generator.free.append(self)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.generator.lost(self)


class Generator:
    """Sends the plan and notes what comes back."""

    def __init__(self, plan: Plan) -> None:
        built: dict[tuple[int, float], bytes] = {}
        for key in zip(plan.prompt, plan.budget_ms, strict=True):
            if key not in built:
                built[key] = plan.request(*key)
        self.plan = plan
        self.requests = [built[key] for key in zip(plan.prompt, plan.budget_ms, strict=True)]
        n = len(self.requests)
        self.sent_s, self.done_s = [math.nan] * n, [math.nan] * n
        self.status, self.bodies = [0] * n, [b""] * n
        self.free: list[Connection] = []
        self.connections = 0
        self.opened = 0
        self.resent = 0
        self.unsent = 0
        self._n_open = n
        self._next = 0

    async def run(self) -> None:
        """Send all, and wait for answers until two seconds after the last request."""
        self._loop = asyncio.get_running_loop()
        self._finished = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        for _ in range(WARM_CONNECTIONS):
            await self._connect(-1)
        usage = _cpu_s()
        self.started_s = time.perf_counter() + 0.05
        self._loop.call_later(0.05, self._tick)
        await asyncio.sleep(0.05 + (self.plan.at_s[-1] if self.plan.at_s else 0.0))
        self.wall_s, self.cpu_s = time.perf_counter() - self.started_s, _cpu_s() - usage
        if self._n_open:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._finished.wait(), LOST_AFTER_S)

    def answered(self, request: int, status: int, body: bytes) -> None:
        self.done_s[request] = time.perf_counter() - self.started_s
        self.status[request] = status
        self.bodies[request] = body
        self._close(request)

    def lost(self, connection: Connection) -> None:
        self.connections -= 1
        request = connection.request
        if request < 0:
            return
        connection.request = -1
        # As every client does: a server may close an idle connection just as the next request leaves on it.
        if connection.n_answered and not connection.received:
            self.resent += 1
            self._open_for(request)
        else:
            self._close(request)

    def _close(self, request: int) -> None:
        self._n_open -= 1
        if not self._n_open:
            self._finished.set()

    def _tick(self) -> None:
        at_s, n = self.plan.at_s, len(self.requests)
        now = time.perf_counter() - self.started_s
        while self._next < n and at_s[self._next] <= now:
            self._send(self._next)
            self._next += 1
            now = time.perf_counter() - self.started_s
        if self._next < n:
            # Timers count whole milliseconds: rounded up, they never fire early and then spin until the time has come.
            self._loop.call_later(max(1, math.ceil((at_s[self._next] - now) * 1e3)) / 1e3, self._tick)

    def _send(self, request: int) -> None:
        self.sent_s[request] = time.perf_counter() - self.started_s
        # The one used last: those that have idled longest are the ones that servers close.
        while self.free:
            connection = self.free.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                connection.take(request)
                return
        self._open_for(request)

    def _open_for(self, request: int) -> None:
        if self.connections >= MAX_CONNECTIONS:
            self.unsent += 1
            self._close(request)
            return
        task = self._loop.create_task(self._connect(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, request: int) -> None:
        self.connections += 1
        self.opened += 1
        try:
            await self._loop.create_connection(lambda: Connection(self, request), HOST, self.plan.port)
        except OSError:
            self.connections -= 1
            if request >= 0:
                self._close(request)

    def answers(self) -> Answers:
        """Read the bodies, after the run."""
        read = [_fields(body) if status == 200 else {} for body, status in zip(self.bodies, self.status, strict=True)]
        return Answers(
            at_s=np.array(self.plan.at_s),
            sent_s=np.array(self.sent_s),
            done_s=np.array(self.done_s),
            budget_ms=np.array(self.plan.budget_ms),
            status=np.array(self.status, dtype=np.int64),
            tier=np.array([tier_code(one.get("tier")) for one in read], dtype=np.int64),
            degraded=np.array([int(one.get("degraded", -1)) for one in read], dtype=np.int64),
            cached=np.array([int(one.get("cached", -1)) for one in read], dtype=np.int64),
            elapsed_ms=np.array([one.get("elapsed_ms", math.nan) for one in read], dtype=np.float64),
            started_s=self.started_s,
            cpu_s=self.cpu_s,
            wall_s=self.wall_s,
            connections=self.opened,
            resent=self.resent,
            unsent=self.unsent,
            model=np.array([one.get("model", "") for one in read], dtype=np.str_),
            artifact=np.array([one.get("artifact_id", "") for one in read], dtype=np.str_),
        )


def tier_code(name: str | None) -> int:
    """Return the place of a tier's name in TIERS, -1 for any other."""
    return TIERS.index(name) if name in TIERS else -1


def _fields(body: bytes) -> dict[str, Any]:
    found = json.loads(body)
    return found if isinstance(found, dict) else {}


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    source, target = (Path(one) for one in sys.argv[1:])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Users are not slowed down by how busy the server's machine is: where it may, the generator goes first.
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    generator = Generator(Plan(**json.loads(source.read_text())))
    gc.collect()
    gc.disable()  # a collection would hold requests back, and there are no cycles to collect
    uvloop.run(generator.run())
    generator.answers().save(target)


if __name__ == "__main__":
    main()
