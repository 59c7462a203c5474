"""One request at a time: both tiers beside their floor and ceiling, and what a budget buys."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from http_bytes import Answer, Client, post_request
from load import TIERS
from load_summary import QUANTILES, points, quantiles, share
from timing import measure

from router.encoder import OnnxEncoder

TURN = 20
BUDGETS_MS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
THINK_S = 0.002
FULL, STATIC = "POST /route, full tier", "POST /route, static tier"
NOTHING = "do-nothing endpoint"
BARE_FULL, BARE_STATIC = "bare onnxruntime run, full", "bare onnxruntime run, static"


def request_of(prompt: str, *, bypass_cache: bool, budget_ms: float | None = None) -> bytes:
    """Return the request that asks for a decision."""
    fields: dict[str, Any] = {"prompt": prompt}
    if budget_ms is not None:
        fields["latency_budget_ms"] = budget_ms
    if bypass_cache:
        fields["cache"] = False
    return post_request("/route", fields)


def unloaded(
    ports: dict[str, int], encoders: dict[str, OnnxEncoder], prompts: Sequence[str], n: int, *, bypass_cache: bool
) -> dict[str, Any]:
    """Return quantiles in ms of servers and bare encoder runs on the same prompts, in turns of 20.

    ports, encoders: by the name that their numbers get.
    """
    requests = [request_of(one, bypass_cache=bypass_cache) for one in prompts]
    answers: dict[str, list[Answer]] = {name: [] for name in ports}

    def asking(name: str) -> Callable[[int], object]:
        client, kept = Client(ports[name]), answers[name]
        return lambda at: kept.append(client.ask(requests[at % len(requests)]))

    def running(encoder: OnnxEncoder) -> Callable[[int], object]:
        ids = [encoder.token_ids(one) for one in prompts]
        return lambda at: encoder.run(ids[at % len(ids)])

    calls = {name: asking(name) for name in ports} | {name: running(one) for name, one in encoders.items()}
    times = measure(calls, n, turn=TURN)
    return {
        "n": n,
        "latency_ms": times,
        "tiers": {name: tier_shares(found) for name, found in answers.items()},
        "not_200": {name: sum(one.status != 200 for one in found) for name, found in answers.items()},
    }


def budgets(
    port: int, nothing_port: int, prompts: Sequence[str], n: int, seed: int, *, bypass_cache: bool
) -> dict[str, Any]:
    """Return, per budget, the share answered within it by the client's clock, and by which tier.

    Each prompt is asked with every budget, and once of the do-nothing endpoint, in an order drawn anew, with a pause of
    2 ms before each.
    """
    client, nothing, drawn = Client(port), Client(nothing_port), random.Random(seed)
    nothing_ms: list[float] = []
    times: dict[float, list[float]] = {one: [] for one in BUDGETS_MS}
    answers: dict[float, list[Answer]] = {one: [] for one in BUDGETS_MS}
    for at in range(n):
        time.sleep(THINK_S)
        nothing_ms.append(nothing.timed(request_of(prompts[at % len(prompts)], bypass_cache=False))[1])
        for budget_ms in drawn.sample(BUDGETS_MS, len(BUDGETS_MS)):
            request = request_of(prompts[at % len(prompts)], bypass_cache=bypass_cache, budget_ms=budget_ms)
            time.sleep(THINK_S)
            answer, took_ms = client.timed(request)
            times[budget_ms].append(took_ms)
            answers[budget_ms].append(answer)
    return {f"{one:g}": _of_budget(one, times[one], answers[one], nothing_ms) for one in BUDGETS_MS}


def _of_budget(
    budget_ms: float, times_ms: list[float], answers: list[Answer], nothing_ms: list[float]
) -> dict[str, Any]:
    import numpy as np

    took = np.array(times_ms)
    ok = np.array([one.status == 200 for one in answers])
    read = [json.loads(one.body) for one in answers if one.status == 200]
    return {
        "n": len(answers),
        "not_200": int((~ok).sum()),
        "in_budget": share(ok & (took <= budget_ms)),
        "do_nothing_in_budget": share(np.array(nothing_ms) <= budget_ms),
        "budget_met_by_server": share(np.array([bool(one.get("budget_met")) for one in read])),
        "tiers_of_answered": tier_shares(answers),
        "latency_ms": quantiles(took[ok]),
        "quantiles_ms": points(took[ok], QUANTILES),
    }


def tier_shares(answers: Sequence[Answer]) -> dict[str, float]:
    """Return the share of each tier among the answers that name one."""
    counts = Counter(json.loads(one.body).get("tier") for one in answers if one.status == 200)
    total = sum(counts[name] for name in TIERS)
    return {name: counts[name] / total for name in TIERS} if total else {}
