"""Does the service keep its latency budgets, unloaded and overloaded? Each part is written to results/latency.json.

    WHICHMODEL_DATA=... python benchmarks/latency.py [--only ladder,unloaded,budgets,throughput,peers] [--quick]

ladder      open-loop loads of 0.5 to 10 times the rate that is sustained in full quality; bursts; recovery
unloaded    one request at a time, both tiers, beside the do-nothing endpoint and the bare encoder run
budgets     budgets of 1 to 50 ms, one request at a time: what is kept, and from which tier
throughput  closed loop, static tier, beside the do-nothing endpoint (needs wrk)
peers       beside semantic-router and a plain kNN (needs the extra ``encoders`` and semantic-router)
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import latency_ladder
from http_bytes import Client
from latency_throughput import CONNECTIONS, find_wrk, ratio, throughput
from latency_unloaded import (
    BARE_FULL,
    BARE_STATIC,
    FULL,
    NOTHING,
    STATIC,
    budgets,
    request_of,
    unloaded,
)
from prompt_mix import files_of, mixed, real_prompts, texts_of_length
from record import data_folder, write_part
from served import Served, serving_artifact, serving_nothing
from tokenizers import Tokenizer

from router.encoder import OnnxEncoder

BUILD = Path("build/bench/latency")
BOTH, STATIC_ONLY = "both", "static"
N_TOKENS = 32
N_PEER_PROMPTS = 300
PEER_PACKAGES = ("sentence_transformers", "semantic_router")


@dataclass(frozen=True, slots=True)
class Run:
    """What all parts share."""

    args: argparse.Namespace
    data: Path
    texts: list[str]
    one_length: list[str]
    full: Path
    static: Path
    bypass_cache: bool


def main() -> None:
    args = _arguments()
    data = data_folder()
    full, static = args.artifact or trained(data, BOTH), args.static_artifact or trained(data, STATIC_ONLY)
    texts = real_prompts(data)
    tokenizer = Tokenizer.from_buffer(OnnxEncoder.load("full").files["tokenizer.json"])
    one_length = texts_of_length(texts, tokenizer, N_TOKENS)
    run = Run(args, data, texts, one_length, full, static, bypass_cache=not args.may_cache)
    for part in args.only:
        started = time.perf_counter()
        numbers = PARTS[part](run)
        if numbers is None:
            continue
        numbers["seconds"] = round(time.perf_counter() - started, 1)
        if args.quick:
            say(f"{part}: --quick, nothing is written")
            print(json.dumps(numbers))
            continue
        files = [data / "llmrouter" / "train.parquet", *files_of(data)]
        write_part("latency", part, numbers, arguments=_recorded(args), files=files)
        say(f"{part}: written after {numbers['seconds']:.0f} s")


def ladder(run: Run) -> dict[str, Any]:
    args = run.args
    steps = latency_ladder.Ladder(
        texts=run.texts,
        one_length=run.one_length,
        seconds=args.seconds,
        repeats=args.repeats,
        trial_s=args.trial_s,
        seed=args.seed,
        bypass_cache=run.bypass_cache,
        say=say,
    )
    with serving_artifact(run.full) as server:
        check(server, run.bypass_cache)
        return latency_ladder.run(server, steps, args.rate)


def unloaded_part(run: Run) -> dict[str, Any]:
    with ExitStack() as stack:
        servers = {
            FULL: stack.enter_context(serving_artifact(run.full)),
            STATIC: stack.enter_context(serving_artifact(run.static)),
            NOTHING: stack.enter_context(serving_nothing()),
        }
        for name in (FULL, STATIC):
            check(servers[name], run.bypass_cache)
        ports = {name: one.port for name, one in servers.items()}
        encoders = {BARE_FULL: OnnxEncoder.load("full"), BARE_STATIC: OnnxEncoder.load("static")}
        numbers = unloaded(ports, encoders, run.one_length, run.args.n, bypass_cache=run.bypass_cache)
    for name, one in numbers["latency_ms"].items():
        say(f"{name:<28} p50 {one['p50']:.3f}  p99 {one['p99']:.3f}  max {one['max']:.3f} ms")
    return numbers


def budgets_part(run: Run) -> dict[str, Any]:
    drawn = mixed(run.texts, run.args.n, run.args.seed)
    prompts = [drawn.prompts[at] for at in drawn.order]
    with serving_artifact(run.full) as server, serving_nothing() as nothing:
        check(server, run.bypass_cache)
        found = budgets(server.port, nothing.port, prompts, run.args.n, run.args.seed, bypass_cache=run.bypass_cache)
    for name, one in found.items():
        say(f"budget {name} ms: {one['in_budget']:.4f} in budget, tiers {one['tiers_of_answered']}")
    return {"budgets_ms": found}


def throughput_part(run: Run) -> dict[str, Any] | None:
    if find_wrk() is None:
        say("throughput: SKIPPED, wrk is not installed (Debian: apt install wrk)")
        return None
    with serving_artifact(run.static) as ours, serving_nothing() as nothing:
        check(ours, run.bypass_cache)
        ports = {STATIC: ours.port, NOTHING: nothing.port}
        seconds = 2 if run.args.quick else 10
        found = throughput(ports, run.one_length[:N_PEER_PROMPTS], seconds, bypass_cache=run.bypass_cache)
    return {"connections": CONNECTIONS, "turns": found, "ratio": ratio(found, STATIC, NOTHING)}


def peers(run: Run) -> dict[str, Any] | None:
    missing = [one for one in PEER_PACKAGES if importlib.util.find_spec(one) is None]
    if missing:
        say(f"peers: SKIPPED, {sys.executable} has no {', '.join(missing)}; `make bench-latency` makes an environment")
        return None
    from latency_peers import in_process, over_http

    n = 40 if run.args.quick else N_PEER_PROMPTS
    drawn = mixed(run.texts, n, run.args.seed)
    prompt_sets = {
        f"{N_TOKENS} tokens": run.one_length[:n],
        "mix": [drawn.prompts[at] for at in drawn.order],
    }
    return {
        "n": n,
        "in_process": in_process(run.full, run.static, prompt_sets, bypass_cache=run.bypass_cache),
        "http": over_http(run.full, run.static, prompt_sets, bypass_cache=run.bypass_cache),
    }


PARTS: dict[str, Callable[[Run], dict[str, Any] | None]] = {
    "ladder": ladder,
    "unloaded": unloaded_part,
    "budgets": budgets_part,
    "throughput": throughput_part,
    "peers": peers,
}


def trained(data: Path, encoder: str) -> Path:
    """Return the artifact on llmrouter with an encoder, trained if it is not there yet."""
    directory = BUILD / encoder
    if not (directory / "manifest.json").is_file():
        say(f"training {directory}")
        source = str(data / "llmrouter" / "train.parquet")
        command = [sys.executable, "-m", "router.cli", "train", source, "--out", str(directory), "--encoder", encoder]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return directory


def check(server: Served, bypass_cache: bool) -> None:
    """Ask once, and leave with the server's own words where it does not answer."""
    answer = Client(server.port).ask(request_of("What is the capital of France?", bypass_cache=bypass_cache))
    if answer.status != 200:
        hint = "; --may-cache leaves the field `cache` out" if bypass_cache and answer.status == 422 else ""
        sys.exit(f"POST /route answered {answer.status}: {answer.body.decode()}{hint}")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _recorded(args: argparse.Namespace) -> dict[str, Any]:
    kept = {name: value for name, value in vars(args).items() if name not in ("only", "quick")}
    return {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}


def _parts(text: str) -> list[str]:
    found = text.split(",")
    if unknown := [one for one in found if one not in PARTS]:
        raise argparse.ArgumentTypeError(f"unknown parts {unknown}, expected some of {', '.join(PARTS)}")
    return found


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", type=_parts, default=list(PARTS), metavar="A,B", help="parts to run (default all)")
    arguments.add_argument("--artifact", type=Path, metavar="DIR", help="artifact under test, instead of training one")
    arguments.add_argument("--static-artifact", type=Path, metavar="DIR", help="artifact with the static encoder alone")
    arguments.add_argument("--seconds", type=float, default=60.0, help="length of each load (default 60)")
    arguments.add_argument("--repeats", type=int, default=3, help="runs of each load (default 3)")
    arguments.add_argument("--trial-s", type=float, default=12.0, help="length of a trial of a rate (default 12)")
    arguments.add_argument("--rate", type=float, help="sustained rate of the mix per second, instead of looking for it")
    arguments.add_argument("--n", type=int, default=2000, help="requests per server or budget, unloaded (default 2000)")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument(
        "--may-cache", action="store_true", help='do not send "cache": false, which older services refuse'
    )
    arguments.add_argument("--quick", action="store_true", help="5 s x 1, few requests; nothing is written")
    args = arguments.parse_args()
    if args.quick:
        args.seconds, args.repeats, args.trial_s, args.n = 5.0, 1, 3.0, 100
    return args


if __name__ == "__main__":
    main()
