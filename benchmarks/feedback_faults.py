"""Does a failing disk ever get a false acknowledgement out of the store?

    python benchmarks/feedback_faults.py

A process adds feedback in 4 threads while the disk fails: the log cannot be synced (EIO), a write fails (EIO, ENOSPC,
EROFS), each once or for good, by a preloaded library (feedback_shim.c); no file may grow further (RLIMIT_FSIZE); a
tmpfs of 1 MiB is full (where this may be mounted); the directory is not writable (as another user, where this one is
root). What the process was told is compared with what is there when the disk is well again: every acknowledged event,
once; after the first error nothing more is acknowledged, even if the disk is well again at once.
"""

import argparse
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from feedback_client import event_of
from feedback_power import SHIM, compiled
from record import write_part

from router.feedback import sqlite_file
from router.feedback.sqlite_store import SqliteStore

CLIENT = Path(__file__).parent / "feedback_client.py"
N_THREADS = 4
# Added by each thread before the disk fails, and tried after it is well again.
N_BEFORE = 10
NOBODY_UID = 65_534
SHIMMED = {
    f"{call} fails with {errno.errorcode[code]} {'once' if once else 'for good'}": (call, code, once)
    for call, code in (("sync", errno.EIO), ("write", errno.EIO), ("write", errno.ENOSPC), ("write", errno.EROFS))
    for once in (True, False)
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--print", action="store_true", help="print the numbers and write no record")
    args = arguments.parse_args()
    sqlite_file.logger.disabled = True
    numbers = fail_all()
    print(json.dumps(numbers))
    if not args.print:
        write_part("feedback_proofs", "faults", numbers, arguments=vars(args), files=[SHIM])
    if any(one.get("lost") or one.get("false_acks") or not one.get("errors", True) for one in numbers.values()):
        sys.exit("a failing disk was not told of, or an acknowledged event is not there")


def fail_all() -> dict[str, dict[str, Any]]:
    """Return, for every fault, what was acknowledged, what of it is there, and which errors were given."""
    numbers = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        shim = compiled(folder)
        for number, (fault, (call, code, once)) in enumerate(SHIMMED.items()):
            numbers[fault] = shimmed(folder / f"{number}", shim, call, code, once=once)
        (folder / "limited").mkdir()
        numbers["no file may exceed 400,000 bytes"] = told_and_there(folder / "limited" / "feedback.db", ["--full"])
        numbers["a tmpfs of 1 MiB is full"] = on_small_disk(folder / "tmpfs")
    numbers["the directory is not writable"] = not_writable()
    return numbers


def shimmed(folder: Path, shim: Path, call: str, code: int, *, once: bool) -> dict[str, Any]:
    folder.mkdir()
    store, armed = folder / "feedback.db", folder / "armed"
    shim_settings = {"LD_PRELOAD": str(shim), "SHIM_STORE": str(store), "SHIM_ARMED": str(armed)}
    shim_settings |= {"SHIM_FAIL": call, "SHIM_ERRNO": str(code)} | ({"SHIM_ONCE": "1"} if once else {})
    return told_and_there(store, ["--arm", str(armed), "--events", "50"], shim_settings)


def on_small_disk(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        return {"skipped": "no tmpfs may be mounted here"}
    try:
        return told_and_there(folder / "feedback.db", [])
    finally:
        subprocess.run(["umount", folder], check=True)


def not_writable() -> dict[str, Any]:
    """Try to open a store where that is not allowed, in a directory that everybody may look into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    try:
        user = ["--uid", str(NOBODY_UID)] if os.geteuid() == 0 else []
        said, errors = told(folder / "feedback.db", user)
        return {"acknowledged": len(said), "errors": errors, "false_acks": len(said)}
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def told(store: Path, arguments: list[str], environment: dict[str, str] | None = None) -> tuple[dict[str, int], Any]:
    """Run a client; return what was acknowledged, {key: seq}, and how often which error was given."""
    command = [sys.executable, str(CLIENT), str(store), "--threads", str(N_THREADS), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | (environment or {}), check=True)
    lines = done.stdout.splitlines()
    acked = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("ack ")}
    errors = Counter(line.replace(str(store), "STORE") for line in lines if line.startswith("error "))
    return acked, dict(errors.most_common())


def told_and_there(store: Path, arguments: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    acked, errors = told(store, arguments, environment)
    with SqliteStore(store) as opened:
        found = {str(one.event.details.idempotency_key): one for one in opened.events()}
        n_events = opened.stats().n_events
    altered = sum(one.event != event_of(key) for key, one in found.items())
    return {
        "acknowledged": len(acked),
        "there": n_events,
        "lost": sum(key not in found or found[key].seq != seq for key, seq in acked.items())
        + altered
        + (n_events - len(found)),
        "false_acks": sum("-after-" in key for key in acked),
        "errors": errors,
    }


if __name__ == "__main__":
    main()
