"""Ours beside semantic-router and a plain kNN, in process and over HTTP: same rows, same prompts, in turns of 20.

Needs the extra ``encoders`` and semantic-router.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from http_bytes import Client
from latency_unloaded import BARE_FULL, FULL, NOTHING, STATIC, request_of
from peer_routers import KNN, SEMANTIC_ROUTER, nearest_neighbors, rows, semantic_router
from route_latency import measure, rss_mib
from served import serving, serving_artifact, serving_nothing

from router import Router
from router.encoder import OnnxEncoder

TURN = 20
GENEROUS_MS = 10_000.0
OURS_FULL, OURS_STATIC = "route, full tier", "route, static tier"
KNN_ONE = "sentence-transformers + scikit-learn kNN, 1 thread"
KNN_ALL = "sentence-transformers + scikit-learn kNN, default threads"
PEER_TITLES = {SEMANTIC_ROUTER: "semantic-router", KNN: KNN_ALL}
HERE = Path(__file__).parent


def in_process(
    full: Path, static: Path, bare: OnnxEncoder, prompt_sets: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Return p50 and p99 in ms of every router on every set of prompts, and the tiers that ours answered from."""
    import torch

    own = rows()
    default_threads = torch.get_num_threads()
    theirs, knn = semantic_router(own), nearest_neighbors(own)
    routers = {OURS_FULL: Router.load(full), OURS_STATIC: Router.load(static)}
    out = {}
    for name, prompts in prompt_sets.items():
        ids = [bare.token_ids(one) for one in prompts]
        calls = {
            **{title: _ours(router, prompts) for title, router in routers.items()},
            BARE_FULL: lambda at, ids=ids: bare.run(ids[at % len(ids)]),
            "semantic-router": _on_threads(theirs, prompts, default_threads),
            KNN_ONE: _on_threads(knn, prompts, 1),
            KNN_ALL: _on_threads(knn, prompts, default_threads),
        }
        tiers = {
            title: router.route(prompts[0], latency_budget_ms=GENEROUS_MS).tier for title, router in routers.items()
        }
        out[name] = {"latency_ms": _p50_p99(measure(calls, len(prompts), turn=TURN)), "tiers": tiers}
        out[name]["ratios"] = ratios(out[name]["latency_ms"], (OURS_FULL, OURS_STATIC))
    out["threads"] = {"default": default_threads}
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
        for name, title in PEER_TITLES.items():
            command = [sys.executable, str(HERE / "peer_routers.py"), name]
            servers[title] = stack.enter_context(serving(command))
        out: dict[str, dict[str, Any]] = {}
        for name, prompts in prompt_sets.items():
            calls = {title: _asking(server.port, title, prompts, bypass_cache) for title, server in servers.items()}
            out[name] = {"latency_ms": _p50_p99(measure(calls, len(prompts), turn=TURN))}
            out[name]["ratios"] = ratios(out[name]["latency_ms"], (FULL, STATIC))
        out["rss_mib"] = {title: rss_mib(server.pid) for title, server in servers.items()}
        return out


def ratios(
    latency_ms: Mapping[str, Mapping[str, float]], ours: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return ours over each peer, p50 and p99: below 1 we are faster."""
    peers = [one for one in latency_ms if one in ("semantic-router", KNN_ONE, KNN_ALL)]
    return {
        own: {peer: {key: latency_ms[own][key] / latency_ms[peer][key] for key in ("p50", "p99")} for peer in peers}
        for own in ours
    }


def _ours(router: Router, prompts: Sequence[str]) -> Callable[[int], object]:
    return lambda at: router.route(prompts[at % len(prompts)], latency_budget_ms=GENEROUS_MS)


def _on_threads(route: Callable[[str], object], prompts: Sequence[str], n_threads: int) -> Callable[[int], object]:
    import torch

    def call(at: int) -> object:
        torch.set_num_threads(n_threads)
        return route(prompts[at % len(prompts)])

    return call


def _asking(port: int, title: str, prompts: Sequence[str], bypass_cache: bool) -> Callable[[int], object]:
    ours = title in (FULL, STATIC)
    # A long prompt may not be answered in full within the default budget; what is compared here is the full tier.
    budget_ms = GENEROUS_MS if ours else None
    requests = [request_of(one, bypass_cache=bypass_cache and ours, budget_ms=budget_ms) for one in prompts]
    client = Client(port)

    def call(at: int) -> None:
        answer = client.ask(requests[at % len(requests)])
        if answer.status != 200:
            sys.exit(f"{title} answered {answer.status}: {answer.body[:200]!r}")

    return call


def _p50_p99(times: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {key: one[key] for key in ("p50", "p99", "max")} for name, one in times.items()}
