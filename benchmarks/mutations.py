"""Damaged artifacts, thousands of them: is one ever accepted and wrong, and does one crash or hang who loads it?

Every mutation is loaded in a child process with a limit of time and memory. Accepted, it must answer 200 prompts, on
every tier, exactly as the whole artifact does. A third of the mutations comes with a manifest that was rewritten to
match. Two controls load rewritten mutations without some of the checks: they must find wrong answers.
"""

import argparse
import hashlib
import json
import os
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import record
from mutate import draw, is_changed, rebuild, rewrite_manifest

HERE = Path(__file__).resolve()
SAMPLE = HERE.parent.parent / "data" / "sample"
N_PROMPTS, N_PRIOR_PROMPTS = 200, 20
TIMEOUT_S = 30.0
MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - the artifact is written thousands of times
MAX_MEMORY_BYTES = 4 << 30
ACCEPTED_SAME, ACCEPTED_WRONG, REFUSED, CRASHED, HUNG = "accepted", "accepted and wrong", "refused", "crashed", "hung"
OUTCOMES = (REFUSED, ACCEPTED_SAME, ACCEPTED_WRONG, CRASHED, HUNG)
# What is switched off in a control, by its name in the record.
CONTROLS = {"without fingerprints": ("fingerprints",), "without fingerprints and answers": ("fingerprints", "answers")}
# Which check refused, by what its message says; the first that fits.
DEFENCES = (
    ("fingerprint", re.compile(r"altered, its (fingerprint|id) is not the one in|'fingerprints' must|'encoders' must")),
    ("answers", re.compile(r"for the canary|not the answers to|'answers' must|canaries\.json: \w+: answers of shape")),
    ("hash", re.compile("SHA-256 is not the manifest's|its artifact_id is not that")),
    ("kind or size of file", re.compile(r"cannot be read|hard links|bytes, the manifest says|above the limit|no such")),
    ("form of the manifest", re.compile(r"manifest\.json: ")),
    ("encoder", re.compile("/encoder")),
    ("form of a file", re.compile(r"not a \.npy|not JSON|expected a|takes \d+$|shape \(")),
)


@dataclass(frozen=True, slots=True)
class Load:
    """What came of loading one mutation. detail: the error's text, or how the child ended."""

    number: int
    kind: str
    rewritten: bool
    outcome: str
    detail: str

    @property
    def defence(self) -> str:
        """What refused it; empty where nothing did."""
        if self.outcome != REFUSED:
            return ""
        return next((name for name, sign in DEFENCES if sign.search(self.detail)), "range of a number")


def main() -> int:
    """Run the proof and its controls, and return 1 where either fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--both", type=int, default=500, help="of these, on an artifact of both tiers (default 500)")
    parser.add_argument("--control", type=int, default=300, help="mutations of each control (default 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--no-record", action="store_true", help="print only")
    args = parser.parse_args()
    if args.child:
        answer_parent(Path(args.child[0]), args.child[1:])
        return 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        artifacts = {name: Path(home) / name for name in ("static", "both")}
        for name, directory in artifacts.items():
            _train(name, directory)
        loads = [
            *run(artifacts["static"], range(args.both, args.mutations), args.seed, args.processes),
            *run(artifacts["both"], range(args.both), args.seed, args.processes),
        ]
        took_s = time.monotonic() - began
        controls = {
            name: run(artifacts["static"], range(args.control), args.seed + 1, args.processes, without)
            for name, without in CONTROLS.items()
        }
    numbers = {"mutations": summary(loads), "controls": {name: summary(own) for name, own in controls.items()}}
    numbers["seconds"] = round(took_s)
    _print(numbers)
    if not args.no_record:
        record.write("mutations", numbers, arguments=vars(args), files=[])
    return 0 if proves(loads, controls["without fingerprints and answers"]) else 1


def proves(loads: Sequence[Load], control: Sequence[Load]) -> bool:
    """Tell whether no mutation did harm, and whether the control shows that harm would have been seen."""
    fails = any(one.outcome not in (REFUSED, ACCEPTED_SAME) for one in loads)
    sees = any(one.outcome == ACCEPTED_WRONG for one in control)
    if not sees:
        print("the control finds no wrong answers: the proof could not fail", file=sys.stderr)
    return sees and not fails


def _train(encoder: str, directory: Path) -> None:
    """Train the artifact that is damaged, on the sample log."""
    from router.profiles import read_profiles
    from training import load, train

    log = load(str(SAMPLE / "battles.jsonl"))
    profiles = read_profiles(str(SAMPLE / "models.yaml"))
    train(log, encoder=encoder, profiles=profiles, store_prompts="full")[0].write(directory)


def run(
    artifact: Path, numbers: Sequence[int], seed: int, n_processes: int = 1, without: Sequence[str] = ()
) -> list[Load]:
    """Load the mutations of these numbers of an artifact; of a control only rewritten ones, ``without`` some checks."""
    shares = [numbers[place::n_processes] for place in range(n_processes)]
    with ThreadPoolExecutor(n_processes) as pool:
        done = pool.map(lambda share: list(_run_share(artifact, share, seed, without)), shares)
        return sorted((one for share in done for one in share), key=lambda one: one.number)


def _run_share(artifact: Path, numbers: Sequence[int], seed: int, without: Sequence[str]) -> Iterator[Load]:
    """Load mutations one after the other; a child that crashes or hangs is replaced."""
    child = None
    for number in numbers:
        if child is None:
            child = _Child(artifact, without)
        mutation, rewritten, _ = draw(number, seed, bool(without))
        said = child.ask({"number": number, "seed": seed})
        load = Load(number, mutation.__name__, rewritten, said["outcome"], said["detail"])
        if not without and load.outcome not in (REFUSED, ACCEPTED_SAME):
            print(load, file=sys.stderr, flush=True)
        yield load
        if said["outcome"] in (CRASHED, HUNG) or not child.lives:
            child.end()
            child = None
    if child is not None:
        child.end()


class _Child:
    """A process that loads mutations."""

    def __init__(self, artifact: Path, without: Sequence[str]) -> None:
        command = [sys.executable, str(HERE), "--child", str(artifact), *without]
        # The code beside this file, not another checkout that happens to be installed.
        paths = [str(HERE.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self._expect({"outcome": "ready", "detail": ""})

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def ask(self, question: dict[str, Any]) -> dict[str, str]:
        """Return what came of a mutation."""
        try:
            self._to.write(json.dumps(question) + "\n")
            self._to.flush()
        except BrokenPipeError:
            return {"outcome": CRASHED, "detail": f"exit code {self._process.wait()} before it was asked"}
        if not select.select([self._from], [], [], TIMEOUT_S)[0]:
            return {"outcome": HUNG, "detail": f"nothing within {TIMEOUT_S:g} s"}
        line = self._from.readline()
        if not line:
            return {"outcome": CRASHED, "detail": f"exit code {self._process.wait()}"}
        said: dict[str, str] = json.loads(line)
        return said

    def _expect(self, wanted: dict[str, str]) -> None:
        line = self._from.readline()
        if not line or json.loads(line) != wanted:
            self.end()
            raise RuntimeError(f"the child did not begin: {line!r}, exit code {self._process.returncode}")

    def end(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.communicate()

    @property
    def _to(self) -> TextIO:
        if self._process.stdin is None:
            raise RuntimeError("no stdin")
        return self._process.stdin

    @property
    def _from(self) -> TextIO:
        if self._process.stdout is None:
            raise RuntimeError("no stdout")
        return self._process.stdout


def answer_parent(artifact: Path, without: Sequence[str]) -> None:
    """Load what stdin asks for, one mutation per line, and say on stdout what came of it."""
    from router.artifact import load_artifact

    _switch_off(without)
    whole = load_artifact(artifact)
    wanted = _answers(whole)
    names = [str(one.relative_to(artifact)) for one in artifact.rglob("*") if one.is_file()]
    pristine = {name: (artifact / name).read_bytes() for name in names}
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    with tempfile.TemporaryDirectory(dir=MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None) as folder:
        home = Path(folder) / "artifact"
        _say("ready", "")
        for line in sys.stdin:
            asked = json.loads(line)
            mutation, rewritten, rng = draw(asked["number"], asked["seed"], bool(without))
            rebuild(home, pristine)
            while not is_changed(home, pristine):  # a file exchanged with itself is no damage
                mutation(home, rng)
                if rewritten:
                    rewrite_manifest(home)
            _say(*_load(home, wanted))


def _say(outcome: str, detail: str) -> None:
    print(json.dumps({"outcome": outcome, "detail": detail[:400]}), flush=True)


def _load(home: Path, wanted: str) -> tuple[str, str]:
    """Return what comes of loading; an error that is not the project's own would end a server's reload badly."""
    from router.artifact import load_artifact
    from router.errors import RouterError

    try:
        artifact = load_artifact(home)
    except RouterError as exc:
        return REFUSED, str(exc)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is what the proof looks for
        return CRASHED, f"at load: {exc!r}"
    try:
        return (ACCEPTED_SAME, "") if _answers(artifact) == wanted else (ACCEPTED_WRONG, "other answers")
    except Exception as exc:  # noqa: BLE001
        return ACCEPTED_WRONG, f"at an answer: {exc!r}"


def _answers(artifact: Any) -> str:
    """Return a hash of what every tier answers to every prompt, and of what the artifact says of itself."""
    from router.router import Router
    from router.types import Policy

    router = Router(artifact)
    digest = hashlib.sha256()
    rows = [json.loads(line) for line in (SAMPLE / "battles.jsonl").read_text("utf-8").splitlines()]
    prompts = [str(row["prompt"]) for row in rows if "prompt" in row][:N_PROMPTS]
    policies = Policy(), Policy(route_anyway=True), Policy(route_anyway=True, strategy=artifact.default_strategy)
    for tier in (*(one.name for one in artifact.tiers), "prior"):
        # The priors do not read the prompt.
        for nth, prompt in enumerate(prompts[: N_PRIOR_PROMPTS if tier == "prior" else None]):
            decision = router.answer_of(tier, f"{prompt} ({nth})", policies[nth % len(policies)]).to_json(explain=True)
            for changing in ("artifact_id", "decision_id", "elapsed_ms", "budget_met", "latency_budget_ms"):
                del decision[changing]
            digest.update(json.dumps(decision, sort_keys=True).encode())
    about = router.describe()
    del about["artifact_id"]
    digest.update(json.dumps(about, sort_keys=True).encode())
    router.close()
    return digest.hexdigest()


def _switch_off(without: Sequence[str]) -> None:
    """Leave checks out, for the controls: there is no setting that does."""
    import router.artifact
    from router.canaries import CANARIES
    from router.files import parse_json

    if "fingerprints" in without:
        router.artifact.read_canaries = lambda contents, _, root: parse_json(contents[CANARIES], root / CANARIES)
    if "answers" in without:
        router.artifact.check_canaries = lambda *_: None  # type: ignore[assignment]


def summary(loads: Sequence[Load]) -> dict[str, Any]:
    """Return how many came to what: in all, of rewritten ones, by kind, and what refused them."""
    kinds = sorted({one.kind for one in loads})
    return {
        "n": len(loads),
        "n_rewritten": sum(one.rewritten for one in loads),
        "outcomes": _counts(loads),
        "outcomes_rewritten": _counts([one for one in loads if one.rewritten]),
        "by_kind": {kind: _counts([one for one in loads if one.kind == kind]) for kind in kinds},
        "refused_by": dict(Counter(one.defence for one in loads if one.outcome == REFUSED).most_common()),
        "refused_by_rewritten": dict(
            Counter(one.defence for one in loads if one.outcome == REFUSED and one.rewritten).most_common()
        ),
    }


def _counts(loads: Sequence[Load]) -> dict[str, int]:
    return {outcome: sum(one.outcome == outcome for one in loads) for outcome in OUTCOMES}


def _print(numbers: dict[str, Any]) -> None:
    for name, own in (("mutations", numbers["mutations"]), *numbers["controls"].items()):
        print(f"{name}: {own['n']}, manifest rewritten in {own['n_rewritten']}")
        for kind, counts in (*own["by_kind"].items(), ("of rewritten ones", own["outcomes_rewritten"])):
            print(f"  {kind:<18}" + "".join(f"{counts[one]:>8} {one}" for one in OUTCOMES))
        print(f"  refused by {own['refused_by']}")


if __name__ == "__main__":
    sys.exit(main())
