"""A router of known behaviour, a client for the application, and a server: run as a script, this is that server."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import httpx
from fastapi import FastAPI

from router.deadline import Deadline, now_ms
from router.errors import PolicyError, PromptError
from router.needs import needs_of
from router.prompt import fold_messages
from router.router import Router
from router.service.server import serve
from router.service.settings import Settings
from router.types import (
    Decision,
    Estimate,
    Exclusion,
    Flip,
    Intent,
    JsonObject,
    Messages,
    ModelProfile,
    Needs,
    Neighbor,
    Policy,
    Seen,
    Verdict,
)

Headers = Mapping[str, str] | Sequence[tuple[bytes, bytes]] | None

MODELS = ("small-fast", "coder-medium", "large/careful:v2")


class FakeRouter:
    """Chooses the first model that the policy allows, and keeps what it was asked."""

    def __init__(self) -> None:
        self.artifact = SimpleNamespace(
            id="fake-0001",
            models=MODELS,
            verdict=Verdict("ROUTE", "ROUTE: 3.1 points better than always small-fast.", "small-fast"),
            tiers=(SimpleNamespace(name="static"),),
        )
        self.n_waiting = self.n_cached = self.n_sessions = 0
        self.profiles: dict[str, ModelProfile] = {}
        self.asked: list[dict[str, Any]] = []

    def route(self, prompt: str | Messages, policy: Policy | None = None) -> Decision:
        """Decide without a hurry."""
        return self.begin(prompt, policy, Deadline(now_ms(), 50.0), explain=True, cache=True)

    def begin(
        self,
        prompt: str | Messages,
        policy: Policy | None,
        deadline: Deadline,
        *,
        explain: bool,
        cache: bool,
        session_id: str | None = None,
        needs: Needs | None = None,
        by_intent: Mapping[str, Policy] | None = None,
        n_ahead: int = 0,
        on_done: object = None,
    ) -> Decision:
        """Decide, or raise what the prompt asks for."""
        text = prompt if isinstance(prompt, str) else fold_messages(prompt)
        policy = policy or Policy()
        self.asked.append(
            {
                "text": text,
                "policy": policy,
                "latency_budget_ms": deadline.budget_ms,
                "arrived_ms": deadline.started_ms,
                "cache": cache,
                "session_id": session_id,
                "needs": needs or needs_of(prompt),
                "by_intent": dict(by_intent or {}),
                "thread": threading.current_thread(),
            }
        )
        if not text.strip():
            raise PromptError("the prompt is empty")
        if text.startswith("please fail"):
            raise RuntimeError(f"cannot digest {text}")
        allowed = [one for one in MODELS if policy.candidates is None or one in policy.candidates]
        allowed = [one for one in allowed if one not in policy.exclude]
        if not allowed and policy.fallback is None:
            raise PolicyError("no model is left: candidates names no model of the artifact")
        estimates = tuple(Estimate(one, 0.7, 0.6, 0.8, 12.5, 0.001, 0.7) for one in allowed)
        elapsed_ms = deadline.elapsed_ms()
        return Decision(
            model=allowed[0] if allowed else str(policy.fallback),
            reason="best" if allowed else "fallback",
            summary="it is the first",
            propensity=1.0,
            intent=Intent("code", 0.9, 0.8),
            estimates=estimates,
            fallbacks=tuple(allowed[1:]),
            excluded=tuple(Exclusion(one, "excluded", "excluded by the request") for one in policy.exclude),
            neighbors=(Neighbor(3, 0.91, "code", ("small-fast",), "a stored prompt"), Neighbor(4, 0.9, None, ())),
            tier="static",
            degraded=False,
            cached=False,
            latency_budget_ms=deadline.budget_ms,
            elapsed_ms=elapsed_ms,
            budget_met=elapsed_ms <= deadline.budget_ms,
            artifact_id="fake-0001",
            decision_id="0123456789abcdef",
            policy=policy.name,
            session=None if session_id is None else "new",
            endpoint="eu 1" if allowed else None,
            gateway_model=f"acme/{allowed[0]}" if allowed else None,
            flips=(Flip(MODELS[1], (("exclude", (MODELS[0],)),)),),
        )

    def static_all(self, pending: list[object]) -> list[Decision]:
        """Never be asked."""
        raise NotImplementedError

    settle_all = static_all

    def see(self, prompt: str | Messages, seen: Seen | None = None, *, full: bool = False) -> Seen:
        """See nothing."""
        return seen or Seen({})

    def was_written(self, decision: Decision, arrived_ms: float) -> None:
        """Learn nothing."""

    def use_profiles(self, profiles: Mapping[str, ModelProfile]) -> None:
        """Keep them."""
        self.profiles = dict(profiles)

    def close(self) -> None:
        """Have nothing to close."""

    def describe(self) -> JsonObject:
        """Return a few facts."""
        return {"artifact_id": "fake-0001", "models": list(MODELS)}


def as_router(fake: FakeRouter) -> Router:
    """Let the type checker take the fake for the real one."""
    return cast(Router, fake)


@dataclass
class Answer:
    """An answer, its body parsed."""

    status: int
    headers: httpx.Headers
    json: Any


class Client:
    """Asks an application in this process, started and ready, without sockets."""

    def __init__(self, app: FastAPI, runner: asyncio.Runner) -> None:
        self.app = app
        self.runner = runner
        self.raise_app_exceptions = True

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | AsyncIterator[bytes] | None = None,
        headers: Headers = None,
    ) -> Answer:
        """Send one request; every answer must be JSON."""
        return self.runner.run(self._ask(method, path, body, headers))

    def route(self, body: Any, *, headers: Mapping[str, str] | None = None) -> Answer:
        """Post to /route: bytes as they are, anything else as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", "/route", body=raw, headers={"content-type": "application/json", **(headers or {})})

    async def _ask(self, method: str, path: str, body: bytes | AsyncIterator[bytes] | None, headers: Headers) -> Answer:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=self.raise_app_exceptions)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.request(method, path, content=body, headers=headers)
        return Answer(answer.status_code, answer.headers, json.loads(answer.content))


@dataclass
class ServerProcess:
    """A running server: its process, port and announcement."""

    process: subprocess.Popen[str]
    port: int
    announced: str


def start_server(environment: Mapping[str, str], arguments: Sequence[str] = (__file__,)) -> ServerProcess:
    """Start a server on a free port and wait until it says that it answers.

    Unless the environment says so, it logs no decisions: nobody reads its lines until it is stopped. arguments: of the
    Python that runs it; by default its router is the fake one.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "WHICHMODEL_PORT": "0",
            "WHICHMODEL_LOG_DECISIONS": "false",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if process.stdout is None:
        raise ValueError("no pipe")
    announced = process.stdout.readline()
    if not announced:
        raise RuntimeError(f"the server did not start: {process.communicate()[1]}")
    return ServerProcess(process, int(announced.split(" at http://127.0.0.1:")[1].split(":")[0]), announced.strip())


def stop_server(server: ServerProcess) -> str:
    """Stop a server and return what it logged."""
    server.process.terminate()
    return server.process.communicate(timeout=20)[1]


if __name__ == "__main__":
    serve(as_router(FakeRouter()), Settings.from_environment(os.environ), announce=lambda line: print(line, flush=True))
