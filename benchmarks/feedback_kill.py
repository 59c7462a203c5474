"""Is every acknowledged event there after kill -9, once and whole?

    python benchmarks/feedback_kill.py --rounds 500

A process adds feedback in 8 threads and is killed 0 to 500 ms after the store is open; every fifth time 0 to 150 ms
after it began to open it, that is while it recovers from the kill before. Ten kills hit the same store, then comes a
new one. After each the store is opened, which checks its structure and every CRC; all events that were ever
acknowledged must be there under their number, once, and be what was sent, and what was not acknowledged must be there
whole or not at all. Then every thread's last event is sent again, as a client does that got no answer.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from feedback_client import event_of
from record import write_part

from router.feedback import sqlite_file
from router.feedback.sqlite_store import SqliteStore

CLIENT = Path(__file__).parent / "feedback_client.py"
N_THREADS = 8
ROUNDS_PER_STORE = 10
MAX_WAIT_MS, MAX_EARLY_MS = 500, 150


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=500)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--print", action="store_true", help="print the numbers and write no record")
    args = arguments.parse_args()
    sqlite_file.logger.disabled = True
    numbers = kill_many(args.rounds, args.seed)
    print(json.dumps(numbers))
    if not args.print:
        write_part("feedback_proofs", "kill", numbers, arguments=vars(args), files=[])
    if numbers["lost"] or numbers["doubled"] or numbers["altered"]:
        sys.exit("an acknowledged event is not there once and whole")


def kill_many(n_rounds: int, seed: int) -> dict[str, Any]:
    """Return what was acknowledged, and what of it was lost, doubled or altered."""
    rng = random.Random(seed)
    totals = dict.fromkeys(("acknowledged", "unacknowledged_kept", "retried", "retries_known"), 0)
    totals |= dict.fromkeys(("lost", "doubled", "altered"), 0)
    done = 0
    while done < n_rounds:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            store, acked = Path(folder) / "feedback.db", dict[str, int]()
            for _ in range(min(ROUNDS_PER_STORE, n_rounds - done)):
                fresh = killed(store, done, rng)
                totals["acknowledged"] += len(fresh)
                acked |= fresh
                for name, value in examined(store, done, acked, fresh).items():
                    totals[name] += value
                done += 1
    return {"rounds": n_rounds, "threads": N_THREADS, **totals}


def killed(store: Path, number: int, rng: random.Random) -> dict[str, int]:
    """Run a client, kill it, and return what it was told: {key: seq}."""
    early = number % 5 == 4
    wait_s = rng.uniform(0, MAX_EARLY_MS if early else MAX_WAIT_MS) / 1000
    command = [sys.executable, str(CLIENT), str(store), "--round", str(number), "--threads", str(N_THREADS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        begun = [client.stdout.readline() for _ in range(1 if early else 2)]  # type: ignore[union-attr]
        if begun != [b"open\n", b"ready\n"][: len(begun)]:
            raise RuntimeError(f"the client did not begin: {begun}")
        # Killed from beside: what it says meanwhile must not fill the pipe.
        killer = threading.Timer(wait_s, client.kill)
        killer.start()
        said = client.stdout.read().decode()  # type: ignore[union-attr]
        killer.join()
    if client.returncode != -signal.SIGKILL or "error" in said:
        raise RuntimeError(f"the client ended by itself: {said[-200:]}")
    whole = said[: said.rfind("\n") + 1].splitlines()
    return {line.split()[1]: int(line.split()[2]) for line in whole if line.startswith("ack ")}


def examined(store: Path, number: int, acked: dict[str, int], fresh: dict[str, int]) -> dict[str, int]:
    """Open the store and return what is not as it was acknowledged; then send again what had no answer."""
    with SqliteStore(store) as opened:
        found = [(one.seq, one.event) for one in opened.events()]
        seqs = {str(event.details.idempotency_key): seq for seq, event in found}
        numbers = {
            "lost": sum(seqs.get(key) != seq for key, seq in acked.items()),
            "doubled": len(found) - len(seqs),
            "altered": sum(event != event_of(str(event.details.idempotency_key)) for _, event in found),
            "unacknowledged_kept": len([key for key in seqs if key.startswith(f"{number}-") and key not in fresh]),
        }
        unanswered = [f"{number}-{thread}-{last_of(fresh, number, thread) + 1}" for thread in range(N_THREADS)]
        receipts = {key: opened.add_event(event_of(key)).result(10) for key in unanswered}
        again = [str(one.event.details.idempotency_key) for one in opened.events()]
        numbers["doubled"] += len(again) - len(set(again))
        numbers["lost"] += len(set(receipts) - set(again))
        numbers["retried"] = len(receipts)
        numbers["retries_known"] = sum(one.known for one in receipts.values())
        wrong = [key for key, one in receipts.items() if one.known != (key in seqs)]
    acked |= {key: one.seq for key, one in receipts.items()}
    numbers["altered"] += len(wrong)
    return numbers


def last_of(fresh: dict[str, int], number: int, thread: int) -> int:
    prefix = f"{number}-{thread}-"
    return max((int(key.removeprefix(prefix)) for key in fresh if key.startswith(prefix)), default=-1)


if __name__ == "__main__":
    main()
