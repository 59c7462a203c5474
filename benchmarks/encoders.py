"""What is each encoder worth, and what does it cost? The ones that ship beside their base and simpler ones, in one run.

    WHICHMODEL_DATA=... python benchmarks/encoders.py [--tuned DIR] [--only a,b] [--skip-routing] [--quick]

Intent accuracy, routing gain (the suite of quality.py, only the encoder differs), time, size and memory; int8 against
float32 and ONNX against PyTorch; by script, by what is cut away, by how chats are folded. The full run writes
results/encoders.json and docs/encoders.md.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# One thread per process, as in serving; read by BLAS and PyTorch as they are imported, hence before them.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

import numpy as np
import pandas as pd
from encoder_cost import disk_mib, latencies, load_all, memory_mib, parity
from encoder_inputs import by_folding, by_truncation, long_texts
from encoder_intents import INTENTS, Asked, Sets, paired_difference, quality, read_sets
from encoder_routing import DECIDED, SETS, files_of, precision_decisions, route_all, summary
from encoder_zoo import BASE, BASE_FP32, FULL, FULL_FP32, PRECISIONS, SAME_VECTORS, STATIC, Candidate, gather
from protocols import SEED, Options
from record import data_folder, write
from tokenizers import Tokenizer

from router.encoder import OnnxEncoder, find_encoder

N_LATENCY = 300
N_PARITY = 500
AUTOJ = ("scenario_train", "scenario_test", "scenarios")
LONG = ("arenahard/questions_v0_1", "arenahard/questions_v2_0", "cje_arena/prompts")


def main() -> None:
    args = _arguments()
    data = data_folder()
    started = time.perf_counter()
    options = Options(quick=args.quick)
    sets = read_sets(data / "autoj", quick=args.quick)
    numbers: dict[str, Any] = {"skipped": {}}
    if args.tuned is None:
        numbers["skipped"][FULL_FP32] = "no --tuned DIR, the sentence-transformers directory that the full tier is"
    if args.skip_routing:
        numbers["skipped"]["routing"] = "--skip-routing"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        say("making the base's encoders")
        candidates = gather(folder, args.full, args.tuned)
        if args.only:
            unknown = sorted(set(args.only.split(",")) - set(candidates))
            if unknown:
                sys.exit(f"unknown encoders {unknown}, expected some of {', '.join(candidates)}")
            candidates = {name: one for name, one in candidates.items() if name in args.only.split(",")}
        for name, why in numbers["skipped"].items():
            say(f"SKIPPED {name}: {why}")
        # Time and memory first, while no other process of this run is busy.
        numbers["encoders"] = costs(candidates, sets, data, folder, 20 if args.quick else N_LATENCY)
        numbers["onnx_against_pytorch"] = pytorch(candidates, args.tuned, data, 20 if args.quick else N_PARITY)
        asked = intents(candidates, sets, numbers)
        inputs(candidates, sets, data, numbers)
        if not args.skip_routing:
            routing(routed_by(candidates, args.routing), options, args.workers, numbers)
        precisions(asked, numbers)
    numbers["seconds"] = round(time.perf_counter() - started, 1)
    from encoder_tables import fill_page, tables

    print(tables(numbers))
    if args.quick or args.only or args.skip_routing:
        say("part of the comparison: nothing is written")
        return
    arguments = {
        "routing": args.routing or "all",
        "seed": SEED,
        "n_latency": N_LATENCY,
        "tuned": args.tuned is not None,
    }
    write("encoders", numbers, arguments=arguments, files=_files(data, options))
    fill_page()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", type=Path, help="directory of the full tier (default: the one that ships)")
    parser.add_argument("--tuned", type=Path, help="what the full tier was exported from, by `whichmodel encoder tune`")
    parser.add_argument("--only", help="some of the encoders, by name; nothing is written then")
    parser.add_argument("--routing", help="route by these encoders only (names with commas between); default all")
    parser.add_argument("--skip-routing", action="store_true", help="without the routing suite; nothing is written")
    parser.add_argument("--quick", action="store_true", help="few rows, to see that all runs; nothing is written")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    args.full = find_encoder(args.full or FULL)
    return args


def say(line: str) -> None:
    """Tell where the run is."""
    print(line, file=sys.stderr, flush=True)


def costs(candidates: dict[str, Candidate], sets: Sets, data: Path, folder: Path, n: int) -> dict[str, dict[str, Any]]:
    """Return, per encoder, what it is, size, memory, and latency by length."""
    from training.torch_encoder import default_base

    max_tokens = OnnxEncoder.load(candidates[BASE].directory).settings.max_tokens if BASE in candidates else 128
    timed = load_all(candidates, default_base(), sets.train.texts, folder, max_tokens)
    found = latencies(timed, prompts(data), n, say)
    out = {}
    for name, one in timed.items():
        say(f"memory of {name}")
        candidate = candidates.get(name)
        out[name] = {
            "what": candidate.what if candidate else f"vectors of {SAME_VECTORS[name]}",
            "quality_of": SAME_VECTORS.get(name, name),
            "dim": one.onnx.settings.dim if one.onnx else None,
            "max_tokens": one.onnx.settings.max_tokens if one.onnx else None,
            "disk_mib": disk_mib(one.place),
            "memory_mib": memory_mib(one),
            "latency_ms": found[name],
        }
    return out


def prompts(data: Path) -> list[str]:
    """Return real prompts, no outcomes."""
    return list(pd.read_parquet(data / "cje_arena" / "prompts.parquet", columns=["prompt"])["prompt"])


def pytorch(candidates: dict[str, Candidate], tuned: Path | None, data: Path, n: int) -> dict[str, Any]:
    """Return the parity with PyTorch of every float32 encoder."""
    from training.torch_encoder import default_base

    say("ONNX against PyTorch")
    bases = {BASE_FP32: default_base(), FULL_FP32: tuned}
    pairs = {name: (candidates[name].directory, base) for name, base in bases.items() if name in candidates}
    return parity(pairs, prompts(data)[:n])


def intents(candidates: dict[str, Candidate], sets: Sets, numbers: dict[str, Any]) -> dict[str, dict[str, Asked]]:
    """Fill in accuracies, with the paired difference to the base, and slices by script; return the answers."""
    answers, numbers["scripts"] = {}, {}
    for name, one in candidates.items():
        say(f"intents by {name}")
        found, answers[name], numbers["scripts"][name] = quality(one, sets)
        numbers["encoders"][name] |= found
    for name, asked in answers.items():
        for key, own in asked.items():
            minus = paired_difference(own.correct, answers[BASE][key].correct) if BASE in answers else None
            numbers["encoders"][name][key]["minus_base"] = minus if name != BASE else None
    return answers


def inputs(candidates: dict[str, Candidate], sets: Sets, data: Path, numbers: dict[str, Any]) -> None:
    """Fill in what cutting and folding do, for the tiers that ship."""
    numbers["truncation"], numbers["folding"] = {}, {}
    for name in (STATIC, FULL):
        if name not in candidates:
            continue
        say(f"truncation and folding by {name}")
        encoder = OnnxEncoder.load(candidates[name].directory)
        bodies = long_texts(
            [data / f"{one}.parquet" for one in LONG], Tokenizer.from_buffer(encoder.files["tokenizer.json"])
        )
        numbers["truncation"][name] = by_truncation(encoder, sets.train, sets.held_out, bodies)
        numbers["folding"][name] = by_folding(encoder, sets.train + sets.held_out)


def routed_by(candidates: dict[str, Candidate], names: str | None) -> list[Candidate]:
    """Return the encoders that the routing suite is run with."""
    return [one for name, one in candidates.items() if names is None or name in names.split(",")]


def routing(candidates: list[Candidate], options: Options, workers: int, numbers: dict[str, Any]) -> None:
    """Fill in what each encoder is worth to the router, and whether int8 decides as float32 does."""
    routed = route_all(candidates, options, workers)
    for name in SETS:
        for encoder, found in summary(name, options, routed[name]).items():
            numbers["encoders"].setdefault(encoder, {}).setdefault("routing", {})[name] = found
    numbers["int8_against_fp32"] = precision_decisions(options, routed[DECIDED])


def precisions(answers: dict[str, dict[str, Asked]], numbers: dict[str, Any]) -> None:
    """Fill in how often int8 and float32 read the same intent, and what that costs."""
    out = numbers.setdefault("int8_against_fp32", {})
    for small, plain in PRECISIONS.items():
        if not {small, plain} <= set(answers):
            continue
        for key in ("intents", "autoj"):
            a, b = answers[small][key], answers[plain][key]
            out.setdefault(small, {})[key] = {
                "same": float(np.mean(a.predicted == b.predicted)),
                "n": len(a.truth),
                "int8_minus_fp32": paired_difference(a.correct, b.correct),
            }


def _files(data: Path, options: Options) -> list[Path]:
    names = [f"autoj/{one}" for one in AUTOJ] + list(LONG)
    own = [INTENTS / f"{one}.jsonl" for one in ("train", "held_out")]
    return sorted({*files_of(options), *(data / f"{name}.parquet" for name in names), *own})


if __name__ == "__main__":
    main()
