"""Open-loop loads: the rate that is sustained in full quality, then fractions and multiples of it, and recovery."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from load_run import Offer, offer_load
from prompt_mix import Drawn, mixed, repeated
from schedule import Arrivals, Phase, bursts, poisson, schedule
from served import Served

MAX_DEGRADED = 0.01
MIN_IN_BUDGET = 0.995
START_RATE, LOWEST_RATE, HIGHEST_RATE = 50.0, 1.0, 5000.0
RESOLUTION = 1.05
"""The rate found and the lowest that failed differ by no more than this factor."""
LEAD_S = 1.0
BEFORE_S, AFTER_S, BACKGROUND = 5.0, 5.0, 0.3
"""Seconds of steady load before and after each load, and its rate as a multiple of the sustained one."""
MULTIPLES = (0.5, 1.0, 2.0, 5.0, 10.0)
MIXED_BUDGETS_MS = (10.0, 50.0, 200.0)
MIXED_BUDGETS_AT = 1.5


@dataclass(frozen=True, slots=True)
class Load:
    """One step of the ladder. multiple: of the sustained rate. budgets_ms: drawn for each request; empty: none sent."""

    name: str
    multiple: float
    arrivals: Arrivals = poisson
    budgets_ms: tuple[float, ...] = ()


LOADS = (
    *(Load(f"{multiple:g}x", multiple) for multiple in MULTIPLES),
    Load("bursts of 50, 1x", 1.0, bursts),
    Load(f"budgets 10/50/200 ms, {MIXED_BUDGETS_AT:g}x", MIXED_BUDGETS_AT, budgets_ms=MIXED_BUDGETS_MS),
)


@dataclass(frozen=True, slots=True)
class Ladder:
    """How long the loads last, how often they are repeated, and what is asked."""

    texts: list[str]
    one_length: list[str]
    seconds: float
    repeats: int
    trial_s: float
    seed: int
    bypass_cache: bool
    say: Callable[[str], None]


def run(server: Served, ladder: Ladder, rate: float | None) -> dict[str, Any]:
    """Return the sustained rates and what became of every load. rate: of the mix, None: it is looked for."""
    numbers: dict[str, Any] = {"loads": {}}
    if rate is None:
        draws: dict[str, Callable[[int], Drawn]] = {
            "32 tokens": lambda n: repeated(ladder.one_length, n),
            "mix": lambda n: mixed(ladder.texts, n, ladder.seed),
        }
        numbers["sustained"] = {name: sustained_rate(server, ladder, name, drawn) for name, drawn in draws.items()}
        rate = numbers["sustained"]["mix"]["rate_per_s"]
    numbers["rate_per_s"] = rate
    # Repeats outside, loads inside, so that a noisy minute does not fall on one load alone.
    for repeat in range(ladder.repeats):
        for load in LOADS:
            server.settle()
            found = offer_load(server, offer_of(load, ladder, rate, repeat), bypass_cache=ladder.bypass_cache)
            numbers["loads"].setdefault(load.name, []).append(found)
            ladder.say(f"{load.name}, run {repeat + 1}: {line(found)}")
    return numbers


def offer_of(load: Load, ladder: Ladder, rate: float, repeat: int) -> Offer:
    """Return a steady background load, the load, and the background again."""
    seed = ladder.seed + 1000 * repeat
    background = Phase(BACKGROUND * rate, BEFORE_S, poisson)
    plan = schedule(
        [
            background,
            Phase(load.multiple * rate, ladder.seconds, load.arrivals),
            Phase(background.rate, AFTER_S, poisson),
        ],
        seed,
    )
    budget_ms = None
    if load.budgets_ms:
        budget_ms = np.random.default_rng(seed).choice(load.budgets_ms, size=len(plan))
    return Offer(plan, mixed(ladder.texts, len(plan), seed), budget_ms)


def sustained_rate(server: Served, ladder: Ladder, name: str, drawn: Callable[[int], Drawn]) -> dict[str, Any]:
    """Look for the highest rate with at most 1 % degraded and at least 99.5 % in budget, in short Poisson trials."""
    trials = []

    def holds(rate: float) -> bool:
        # A void trial says nothing of the server: it is made once more.
        for attempt in range(2):
            server.settle()
            phases = [Phase(rate, LEAD_S, poisson), Phase(rate, ladder.trial_s, poisson)]
            plan = schedule(phases, ladder.seed + len(trials))
            found = offer_load(server, Offer(plan, drawn(len(plan))), bypass_cache=ladder.bypass_cache)
            held = is_sustained(found)
            trials.append({"rate_per_s": rate, "held": held, **_in_short(found)})
            ladder.say(
                f"{name}, {rate:.0f}/s for {ladder.trial_s:g} s: {'held' if held else 'not held'}, {line(found)}"
            )
            if not found["void"] or attempt:
                break
        return held

    return {"rate_per_s": highest(holds), "trials": trials}


def is_sustained(found: dict[str, Any]) -> bool:
    """Tell whether a trial counts as full quality in time."""
    return (
        not found["void"]
        and found["in_budget"] is not None
        and found["in_budget"] >= MIN_IN_BUDGET
        and (found["degraded_of_answered"] or 0.0) <= MAX_DEGRADED
    )


def highest(holds: Callable[[float], bool]) -> float:
    """Return the highest rate that holds, to within RESOLUTION: doubled or halved to a bracket, then bisected."""
    low = high = START_RATE
    if holds(START_RATE):
        while low < HIGHEST_RATE:
            high = 2 * low
            if not holds(high):
                break
            low = high
        else:
            return low
    else:
        while not holds(low := high / 2):
            high = low
            if low < LOWEST_RATE:
                return low
    while high / low > RESOLUTION:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def line(found: dict[str, Any]) -> str:
    """Return a run in one line."""
    shares = ", ".join(f"{name} {_percent(one)}" for name, one in found["tiers_of_answered"].items() if one)
    parts = [
        f"{found['offered_per_s']:.0f}/s offered",
        f"{_percent(found['in_budget'])} in budget",
        f"{_percent(found['degraded_of_answered'])} degraded ({shares})",
        f"p50 {_ms(found['latency_ms']['p50'])}, p99 {_ms(found['latency_ms']['p99'])}",
        f"429 {found['status_429']}, 5xx {found['status_5xx']}, lost {found['lost']}",
        f"send lag p99 {_ms(found['send_lag_ms']['p99'])}",
        f"cores: server {found['server_cpu']:.2f}, generator {found['generator_cpu']:.2f}",
    ]
    return "; ".join([*parts, *_notes(found)])


def _notes(found: dict[str, Any]) -> Iterator[str]:
    if "recovery_s" in found:
        yield "not recovered" if found["recovery_s"] is None else f"recovered after {found['recovery_s']:.1f} s"
    if found["void"]:
        yield "VOID"


def _in_short(found: dict[str, Any]) -> dict[str, Any]:
    kept = ("offered_per_s", "in_budget", "degraded_of_answered", "latency_ms", "send_lag_ms", "void", "lost")
    return {key: found[key] for key in kept}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ms"
