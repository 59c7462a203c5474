"""One run of the load generator against a server, watched from outside."""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from load import NO_BUDGET, Answers, Plan
from load_summary import by_budget, recovery_s, summary
from numpy.typing import NDArray
from prompt_mix import Drawn
from schedule import Schedule
from served import Served, Watch, loop_lag_ms

GENERATOR = Path(__file__).with_name("load.py")


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """What is sent: times, prompts, and a budget for each request (float64 (n,)); None: the server's own."""

    schedule: Schedule
    drawn: Drawn
    budget_ms: NDArray[np.float64] | None = None


def offer_load(server: Served, offer: Offer, *, bypass_cache: bool, loaded: int = 1) -> dict[str, Any]:
    """Send the offer and return the summary of its phase ``loaded``: answers, both processes, memory, recovery."""
    before = server.get("/metrics")
    answers, watch = send(server, offer, bypass_cache=bypass_cache)
    after = server.get("/metrics")
    plan = offer.schedule
    asked = plan.phase == loaded
    end_s = answers.started_s + plan.ends_s[loaded]
    start_s = answers.started_s + (plan.ends_s[loaded - 1] if loaded else 0.0)
    numbers = summary(answers, asked)
    numbers["offered_per_s"] = numbers["offered"] / (end_s - start_s)
    numbers["generator_cpu"] = answers.cpu_s / answers.wall_s
    numbers["server_cpu"] = watch.cpu_share(0, start_s, end_s)
    numbers["server_rss_mib"] = watch.memory_mib(0, start_s, end_s)
    numbers["loop_lag_ms"] = loop_lag_ms(before, after)
    numbers["connections"] = answers.connections
    numbers["resent"], numbers["unsent"] = answers.resent, answers.unsent
    if offer.budget_ms is not None:
        numbers["by_budget"] = by_budget(answers, asked)
    if len(plan.ends_s) == 3:
        numbers["recovery_s"] = recovery_s(answers, plan)
        numbers["p99_before_ms"] = summary(answers, plan.phase == 0)["latency_ms"]["p99"]
    return numbers


def send(server: Served, offer: Offer, *, bypass_cache: bool) -> tuple[Answers, Watch]:
    """Run the generator and return all answers, and how the server fared meanwhile."""
    n = len(offer.schedule)
    budget_ms = np.full(n, NO_BUDGET) if offer.budget_ms is None else offer.budget_ms
    plan = Plan(
        port=server.port,
        prompts=list(offer.drawn.prompts),
        at_s=offer.schedule.at_s.tolist(),
        prompt=offer.drawn.order[:n].tolist(),
        budget_ms=budget_ms.tolist(),
        bypass_cache=bypass_cache,
    )
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "plan.json", Path(folder) / "answers.npz"
        source.write_text(json.dumps(asdict(plan)))
        with Watch([server.pid]) as watch:
            subprocess.run([sys.executable, str(GENERATOR), str(source), str(target)], check=True)
        return Answers.load(target), watch
