"""Does anybody notice when the artifact is replaced? 200 reloads under an open loop of 100 requests a second.

Two versions of one artifact, of disjoint names of models, go live in turns by ``publish`` and POST /admin/reload, once
for an artifact of the static tier and once for one of both. A run has ten rounds, each of some steady seconds and then
20 reloads. No request may fail; no answer may have a model that the artifact it names does not know; and in the median
round, p99 of the requests that were under way while the server loaded may be at most 1.5 times that of the round's
steady ones. Rounds are compared because a machine that others use, too, is another one from minute to minute; requests
of all rounds together are in the record as well. Where it may, the server runs before other processes of the machine,
all its threads alike, and publishing, which verifies the version in this process, after them.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import record
from http_bytes import Client, post_request
from load import Answers
from load_run import Offer, send
from load_summary import across, points, summary
from numpy.typing import NDArray
from prompt_mix import mixed
from schedule import Phase, Schedule, poisson, schedule
from served import Served, loop_lag_ms, serving_artifact

from router.artifact import RouterArtifact
from router.live import publish
from router.worker import yield_to_others

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample"
RATE = 100.0
ALLOWED_RATIO = 1.5
N_ROUNDS = 10
SERVER_PRIORITY = -10
VERSIONS = ("a", "b")
SETTLE_S = 0.5
ENCODERS = ("static", "both")


@dataclass(slots=True)
class Replacements:
    """What became of the reloads: begin and end of each on the monotonic clock, and the answers that were no 200."""

    spans_s: list[tuple[float, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--reloads", type=int, default=200, help="of each artifact (default 200)")
    arguments.add_argument("--every-s", type=float, default=1.8, help="from one reload to the next (default 1.8)")
    arguments.add_argument("--steady-s", type=float, default=8.0, help="before the reloads of each round (default 8)")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", choices=ENCODERS, help="one kind of artifact, instead of both")
    arguments.add_argument("--no-record", action="store_true", help="print only")
    args = arguments.parse_args()
    os.environ["WHICHMODEL_LOG_LEVEL"] = "warning"  # the line of a decision is no part of its latency
    numbers = {}
    for encoder in [args.only] if args.only else ENCODERS:
        with tempfile.TemporaryDirectory() as home:
            ids = written(encoder, Path(home))
            numbers[encoder] = measured(Path(home), ids, args)
        say(encoder, numbers[encoder])
    if args.no_record:
        print(json.dumps(numbers))
    else:
        record.write("reloads", numbers, arguments=vars(args), files=[])
    return 0 if all(proves(one) for one in numbers.values()) else 1


def written(encoder: str, home: Path) -> dict[str, str]:
    """Train on the sample log, write both versions below ``home``, and return the prefix of models by artifact id."""
    from router.profiles import read_profiles
    from training import load, train

    log = load(str(SAMPLE / "battles.jsonl"))
    artifact, _ = train(log, encoder=encoder, profiles=read_profiles(str(SAMPLE / "models.yaml")), store_prompts="full")
    return {renamed(artifact, f"{name}-").write(home / name).id: f"{name}-" for name in VERSIONS}


def renamed(artifact: RouterArtifact, prefix: str) -> RouterArtifact:
    """Return the artifact with other names of its models."""
    tiers = [
        replace(one, verdict=replace(one.verdict, best_fixed=prefix + one.verdict.best_fixed)) for one in artifact.tiers
    ]
    return replace(
        artifact,
        models=tuple(prefix + one for one in artifact.models),
        tiers=tuple(tiers),
        profiles={prefix + name: replace(one, name=prefix + one.name) for name, one in artifact.profiles.items()},
        best_fixed=prefix + artifact.best_fixed,
    )


def measured(home: Path, prefixes: dict[str, str], args: argparse.Namespace) -> dict[str, Any]:
    live = home / "live"
    publish(home / VERSIONS[0], live)
    steady = Phase(RATE, args.steady_s, poisson)
    reloading = Phase(RATE, args.reloads // N_ROUNDS * args.every_s + SETTLE_S, poisson)
    plan = schedule([steady, reloading] * N_ROUNDS, args.seed)
    lines = (SAMPLE / "prompts.jsonl").read_text("utf-8").splitlines()
    texts = [text for text in (json.loads(line).get("prompt") for line in lines) if text]  # others are conversations
    offer = Offer(plan, mixed(texts, len(plan), args.seed))
    with serving_artifact(live) as server:
        first = put_first(server.pid)
        server.settle()
        replaced, before = Replacements(), server.get("/metrics")
        replacing = threading.Thread(target=replace_in_turns, args=(server, home, plan, args, replaced))
        replacing.start()
        answers, watch = send(server, offer, bypass_cache=True)
        replacing.join()
        after = server.get("/metrics")
    numbers = compared(answers, plan.phase, replaced.spans_s, prefixes)
    return {
        **numbers,
        "reload_problems": replaced.problems,
        "load_average": os.getloadavg()[2],
        "server_first": first,
        "server_rss_mib": watch.memory_mib(0, answers.started_s + args.steady_s, answers.started_s + plan.ends_s[-1]),
        "loop_lag_ms": loop_lag_ms(before, after),
    }


def put_first(pid: int) -> bool:
    """Let all threads of the server, and those they start, go before other processes; tell whether that is allowed."""
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), SERVER_PRIORITY)
    except PermissionError:
        return False
    return True


def replace_in_turns(
    server: Served, home: Path, plan: Schedule, args: argparse.Namespace, replaced: Replacements
) -> None:
    """Publish the other version and have it loaded, every so many seconds in the second phase of each round.

    The generator takes a moment to start, so that the rounds of reloads lie a little before those of the plan; which
    requests are steady is told by the times at which the reloads really were.
    """
    yield_to_others(19, "the publisher")
    client, ask = Client(server.port), post_request("/admin/reload", {})
    started_s = time.perf_counter() + SETTLE_S
    per_round = args.reloads // N_ROUNDS
    for nth in range(per_round * N_ROUNDS):
        publish(home / VERSIONS[(nth + 1) % 2], home / "live")
        due_s = started_s + plan.ends_s[2 * (nth // per_round)] + nth % per_round * args.every_s
        time.sleep(max(0.0, due_s - time.perf_counter()))
        began_s = time.perf_counter()
        answer = client.ask(ask)
        replaced.spans_s.append((began_s, time.perf_counter()))
        if answer.status != 200:
            replaced.problems.append(f"{answer.status}: {answer.body.decode()}")
    client.close()


def compared(
    answers: Answers, phase: NDArray[np.int64], spans_s: Sequence[tuple[float, float]], prefixes: dict[str, str]
) -> dict[str, Any]:
    """Return the numbers of the steady requests, of those under way during a reload, and of those between two."""
    during = overlapping(answers, spans_s)
    steady = (phase % 2 == 0) & ~near(answers, spans_s)
    took_s = [end - begin for begin, end in spans_s]
    found = {
        name: of_part(answers, which)
        for name, which in {"steady": steady, "during": during, "between": ~steady & ~during}.items()
    }
    n_mixed = sum(
        not model.startswith(prefixes.get(artifact, "?"))
        for model, artifact in zip(answers.model.tolist(), answers.artifact.tolist(), strict=True)
        if artifact
    )
    rounds = [
        {name: of_part(answers, which & (phase // 2 == nth))["latency_ms"] for name, which in own.items()}
        for own in [{"steady": steady, "during": during}]
        for nth in range(N_ROUNDS)
    ]
    return {
        **found,
        "requests": len(phase),
        "failed": int((answers.status != 200).sum()),
        "mixed": n_mixed,
        "answers_by_version": {name: int((answers.artifact == one).sum()) for one, name in prefixes.items()},
        "reloads": len(spans_s),
        "reload_s": dict(zip(("p50", "p99", "max"), points(np.array(took_s), (0.5, 0.99, 1.0)), strict=True)),
        "rounds": rounds,
        "p99_ratio": across([ratio(one["during"], one["steady"]) for one in rounds]),
        "p99_ratio_of_all": ratio(found["during"]["latency_ms"], found["steady"]["latency_ms"]),
        "resent": answers.resent,
    }


def ratio(times: dict[str, float | None], to: dict[str, float | None]) -> float | None:
    """Return how many times as long p99 is, None where either has none."""
    return None if times["p99"] is None or to["p99"] is None else times["p99"] / to["p99"]


def near(answers: Answers, spans_s: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
    """Tell which requests were sent between the first and the last reload of a round, or within a second of these."""
    return overlapping(answers, [(begin_s - 1.0, end_s + 1.0) for begin_s, end_s in spans_s])


def overlapping(answers: Answers, spans_s: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
    """Tell which requests were under way at any moment of a span on the monotonic clock."""
    sent_s, done_s = answers.started_s + answers.sent_s, answers.started_s + answers.done_s
    during = np.zeros(len(sent_s), dtype=np.bool_)
    for begin_s, end_s in spans_s:
        during |= (sent_s <= end_s) & (done_s >= begin_s)
    return during


def of_part(answers: Answers, which: NDArray[np.bool_]) -> dict[str, Any]:
    found = summary(answers, which)
    kept = ("offered", "in_budget", "tiers_of_answered", "latency_ms", "elapsed_by_server_ms", "send_lag_ms", "void")
    return {name: found[name] for name in kept}


def proves(one: dict[str, Any]) -> bool:
    """Tell whether nobody noticed."""
    harm = one["failed"] or one["mixed"] or one["reload_problems"]
    return not harm and one["p99_ratio"] is not None and one["p99_ratio"]["median"] <= ALLOWED_RATIO


def say(encoder: str, one: dict[str, Any]) -> None:
    for name in ("steady", "during", "between"):
        times = one[name]["latency_ms"]
        tiers = ", ".join(f"{tier} {part:.2f}" for tier, part in one[name]["tiers_of_answered"].items() if part)
        print(
            f"{encoder}, {name}: {one[name]['offered']} requests, p50 {times['p50']:.2f}, p99 {times['p99']:.2f}, "
            f"max {times['max']:.1f} ms, in budget {one[name]['in_budget']:.4f} ({tiers})",
            file=sys.stderr,
        )
    ratios = one["p99_ratio"]
    print(
        f"{encoder}: {one['reloads']} reloads of {one['reload_s']['p50']:.2f} s, {one['failed']} failed, "
        f"{one['mixed']} mixed; p99 {ratios['median']:.2f} times steady in the median round ({ratios['min']:.2f} to "
        f"{ratios['max']:.2f}), {one['p99_ratio_of_all']:.2f} of all: "
        + ("it holds" if proves(one) else "IT DOES NOT HOLD"),
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
