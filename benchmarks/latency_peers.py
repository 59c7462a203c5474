"""Ours beside semantic-router and a plain kNN, in process and over HTTP: same rows, same prompts, in turns of 20.

Needs the extra ``encoders`` and semantic-router.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from http_bytes import Answer, Client
from latency_unloaded import BARE_FULL, FULL, NOTHING, STATIC, request_of, tier_shares
from load_summary import quantiles
from peer_routers import KNN, SEMANTIC_ROUTER, peer, rows
from router_process import interleaved
from served import serving, serving_artifact, serving_nothing
from timing import measure, rss_mib

from router import Router
from router.encoder import OnnxEncoder

TURN = 20
GENEROUS_MS = 10_000.0
OURS_FULL, OURS_STATIC = "route, full tier", "route, static tier"
PEERS: dict[str, tuple[str, int | None]] = {
    "semantic-router, 1 thread": (SEMANTIC_ROUTER, 1),
    "semantic-router, default threads": (SEMANTIC_ROUTER, None),
    "sentence-transformers + scikit-learn kNN, 1 thread": (KNN, 1),
    "sentence-transformers + scikit-learn kNN, default threads": (KNN, None),
}
"""What is shown: which peer, and on how many of PyTorch's threads."""
HERE = Path(__file__).parent


def in_process(
    full: Path, static: Path, prompt_sets: Mapping[str, Sequence[str]], *, bypass_cache: bool
) -> dict[str, dict[str, Any]]:
    """Return p50 and p99 in ms of every router on every set of prompts, and the tiers that ours answered from."""
    rows()  # encoded once, before each process wants them
    makes = {
        OURS_FULL: partial(_ours, full, bypass_cache),
        OURS_STATIC: partial(_ours, static, bypass_cache),
        BARE_FULL: _bare,
        **{title: partial(peer, *one) for title, one in PEERS.items()},
    }
    encoder = OnnxEncoder.load("full")
    # One pass for all sets, since loading takes longer than routing.
    prompts = [one for own in prompt_sets.values() for one in own]
    inputs: dict[str, Sequence[Any]] = dict.fromkeys(makes, prompts)
    inputs[BARE_FULL] = [encoder.token_ids(one) for one in prompts]
    found = interleaved(makes, inputs, TURN)
    out, first = {}, 0
    for name, own in prompt_sets.items():
        part = {title: one[first : first + len(own)] for title, one in found.items()}
        first += len(own)
        times = {title: quantiles(np.array([took_ms for took_ms, _ in one])) for title, one in part.items()}
        tiers = {title: Counter(said for _, said in part[title]) for title in (OURS_FULL, OURS_STATIC)}
        out[name] = {"latency_ms": times, "tiers": tiers, "ratios": ratios(times, (OURS_FULL, OURS_STATIC))}
    return out


def over_http(
    full: Path, static: Path, prompt_sets: Mapping[str, Sequence[str]], *, bypass_cache: bool
) -> dict[str, dict[str, Any]]:
    """Return p50 and p99 in ms of one request at a time at every server, and what each holds in memory."""
    with ExitStack() as stack:
        servers = {
            FULL: stack.enter_context(serving_artifact(full)),
            STATIC: stack.enter_context(serving_artifact(static)),
            NOTHING: stack.enter_context(serving_nothing()),
        }
        for title, (name, n_threads) in PEERS.items():
            command = [sys.executable, str(HERE / "peer_routers.py"), name]
            servers[title] = stack.enter_context(serving(command + ([str(n_threads)] if n_threads else [])))
        out: dict[str, dict[str, Any]] = {}
        for name, prompts in prompt_sets.items():
            answers: dict[str, list[Answer]] = {title: [] for title in servers}
            calls = {
                title: _asking(server.port, prompts, answers[title], title in (FULL, STATIC), bypass_cache)
                for title, server in servers.items()
            }
            times = measure(calls, len(prompts), turn=TURN)
            out[name] = {
                "latency_ms": times,
                "tiers": {title: tier_shares(answers[title]) for title in (FULL, STATIC)},
                "not_200": {title: sum(one.status != 200 for one in found) for title, found in answers.items()},
                "ratios": ratios(times, (FULL, STATIC)),
            }
        out["rss_mib"] = {title: rss_mib(server.pid) for title, server in servers.items()}
        return out


def ratios(
    latency_ms: Mapping[str, Mapping[str, float]], ours: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return ours over each peer, p50 and p99: below 1 we are faster."""
    peers = [one for one in latency_ms if one in PEERS]
    return {
        own: {other: {key: latency_ms[own][key] / latency_ms[other][key] for key in ("p50", "p99")} for other in peers}
        for own in ours
    }


def _ours(directory: Path, bypass_cache: bool) -> Callable[[str], str]:
    router = Router.load(directory)
    options = {"latency_budget_ms": GENEROUS_MS} | ({"cache": False} if bypass_cache else {})
    return lambda prompt: router.route(prompt, **options).tier


def _bare() -> Callable[[list[int]], None]:
    encoder = OnnxEncoder.load("full")

    def run(ids: list[int]) -> None:
        encoder.run(ids)

    return run


def _asking(
    port: int, prompts: Sequence[str], kept: list[Answer], ours: bool, bypass_cache: bool
) -> Callable[[int], object]:
    # A long prompt may not be answered in full within the default budget; what is compared here is the full tier.
    budget_ms = GENEROUS_MS if ours else None
    requests = [request_of(one, bypass_cache=bypass_cache and ours, budget_ms=budget_ms) for one in prompts]
    client = Client(port)
    return lambda at: kept.append(client.ask(requests[at % len(requests)]))
