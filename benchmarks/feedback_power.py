"""Is every acknowledged event there after a power cut? Cuts are replayed from what SQLite did to its files.

    python benchmarks/feedback_power.py --cuts 1000

A process adds feedback in 4 threads, deletes a user's, closes the store, opens it again and goes on. A preloaded
library (feedback_shim.c) records every write, truncation, creation, deletion and sync of the database, its write-ahead
log and its journal, and the process records between them what was acknowledged. A cut is a point of this record: what
was synced before it is on the disk; of what was not, any part may be: none, all, some of the writes, or some of the
512-byte sectors of each; of files made and deleted since the directory's last sync, any first part. The files are put
together and opened as after a restart. All events acknowledged before the cut must be there and be what was sent, all
that was acknowledged as deleted must be gone, and the store must be sound.

The control must fail: the same with synchronous = OFF and with NORMAL, where commits are not synced.
"""

import argparse
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from feedback_client import event_of, in_threads, pending_of
from record import write_part

from router.errors import StoreError
from router.feedback import sqlite_file
from router.feedback.sqlite_store import SqliteStore
from router.feedback.sqlite_writer import StoreLimits
from router.feedback.store import Selection

SHIM = Path(__file__).parent / "feedback_shim.c"
HEADER = struct.Struct("=c3xiqq")
SUFFIXES = ("", "-wal", "-journal")
SECTOR_BYTES = 512
KEPT = ("none", "all", "writes", "sectors")
N_THREADS, N_EVENTS = 4, 30
CUTS_PER_TRACE = 250
GOES = "goes"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cuts", type=int, default=1_000, help="of each level")
    arguments.add_argument("--levels", default="FULL,NORMAL,OFF", help="of PRAGMA synchronous; FULL is the store's own")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--print", action="store_true", help="print the numbers and write no record")
    arguments.add_argument("--record-for", help=argparse.SUPPRESS)  # the process that is recorded
    args = arguments.parse_args()
    sqlite_file.logger.disabled = True
    if args.record_for:
        work(Path(args.record_for), args.levels)
        return
    numbers = {level: cut_many(level, args.cuts, args.seed) for level in args.levels.split(",")}
    print(json.dumps(numbers))
    if not args.print:
        write_part("feedback_proofs", "power", numbers, arguments=vars(args), files=[SHIM])
    if any(numbers["FULL"][name] for name in ("cuts_with_loss", "cuts_damaged")):
        sys.exit("an acknowledged event did not survive")
    if not all(one["cuts_with_loss"] or one["cuts_damaged"] for level, one in numbers.items() if level != "FULL"):
        sys.exit("the control found no loss: the harness proves nothing")


# What is recorded


def work(store: Path, level: str) -> None:
    """Use a store as a service does, and write what was acknowledged into the record of its files."""
    sqlite_file.SYNCHRONOUS = level
    trace = os.open(os.environ["SHIM_TRACE"], os.O_WRONLY | os.O_APPEND)

    def say(line: str) -> None:
        raw = line.encode()
        os.write(trace, HEADER.pack(b"A", 0, 0, len(raw)) + raw)

    limits = StoreLimits(checkpoint_pages=20)
    with SqliteStore(store, limits) as opened:
        leaving = threading.Thread(target=in_threads, args=(opened, "first-goes", 2, N_EVENTS, say, GOES))
        leaving.start()
        in_threads(opened, "first", N_THREADS - 2, N_EVENTS, say)
        leaving.join()
        say("deleting")
        opened.delete(Selection(user=GOES)).result()
        say("deleted")
        in_threads(opened, "second", N_THREADS, N_EVENTS // 2, say)
    with SqliteStore(store, limits) as opened:
        in_threads(opened, "third", N_THREADS, N_EVENTS // 2, say)


def recorded(level: str, folder: Path, shim: Path) -> "list[Op]":
    """Return what a process did to a store's files, in order. Raises RuntimeError where that is not the whole truth."""
    store, trace = folder / "store" / "feedback.db", folder / "trace"
    store.parent.mkdir()
    environment = os.environ | {"LD_PRELOAD": str(shim), "SHIM_STORE": str(store), "SHIM_TRACE": str(trace)}
    command = [sys.executable, __file__, "--record-for", str(store), "--levels", level]
    subprocess.run(command, check=True, env=environment)
    ops = read_trace(trace.read_bytes())
    disk = Disk()
    for op in ops:
        disk.take(op)
    whole = disk.after_cut(random.Random(0), "all")
    real = {suffix: Path(f"{store}{suffix}").read_bytes() for suffix in SUFFIXES if Path(f"{store}{suffix}").exists()}
    if whole != real or not real:
        raise RuntimeError(f"the record is not what was done: {[*whole]} and {[*real]}")
    shutil.rmtree(store.parent)
    return ops


@dataclass(frozen=True, slots=True)
class Op:
    """One step: C create, W write, T truncate, U unlink, S sync, D sync of the directory, A what was acknowledged."""

    op: str
    file: int
    offset: int
    data: bytes


def read_trace(raw: bytes) -> list[Op]:
    ops, at = [], 0
    while at < len(raw):
        op, file, offset, length = HEADER.unpack_from(raw, at)
        at += HEADER.size
        ops.append(Op(op.decode(), file, offset, raw[at : at + length]))
        at += length
    return ops


# The disk


@dataclass(slots=True)
class File:
    """What of a file is surely on the disk, and what was done to it since its last sync."""

    synced: bytearray = field(default_factory=bytearray)
    unsynced: list[Op] = field(default_factory=list)


@dataclass(slots=True)
class Disk:
    """Files by number, and their names: those that are surely there, and what was done since the directory's sync."""

    files: dict[int, File] = field(default_factory=dict)
    names: dict[int, int] = field(default_factory=dict)
    unsynced: list[Op] = field(default_factory=list)

    def take(self, op: Op) -> None:
        if op.op in "CU":
            self.files.setdefault(op.file, File())
            self.unsynced.append(op)
        elif op.op in "WT":
            self.files[op.file].unsynced.append(op)
        elif op.op == "S":
            file = self.files[op.file]
            for one in file.unsynced:
                apply(file.synced, one)
            file.unsynced.clear()
        elif op.op == "D":
            rename(self.names, self.unsynced)
            self.unsynced.clear()

    def after_cut(self, rng: random.Random, kept: str) -> dict[str, bytes]:
        """Return {suffix: content} as a restart may find it; kept: how much of what was not synced."""
        names, n_dir = dict(self.names), len(self.unsynced)
        # Names change in order, as in a journal; contents in any order.
        n_dir = {"none": 0, "all": n_dir}.get(kept, rng.randint(0, n_dir))
        rename(names, self.unsynced[:n_dir])
        return {SUFFIXES[name]: bytes(self._content(self.files[file], rng, kept)) for name, file in names.items()}

    def _content(self, file: File, rng: random.Random, kept: str) -> bytearray:
        content = bytearray(file.synced)
        share = rng.choice((0.1, 0.5, 0.9))
        for op in file.unsynced if kept != "none" else ():
            if kept == "all":
                apply(content, op)
            elif kept == "writes" or op.op == "T":
                if rng.random() < share:
                    apply(content, op)
            else:
                for sector in sectors(op):
                    if rng.random() < share:
                        apply(content, sector)
        return content


def apply(content: bytearray, op: Op) -> None:
    if op.op == "T":
        if len(content) > op.offset:
            del content[op.offset :]
        else:
            content.extend(bytes(op.offset - len(content)))
        return
    end = op.offset + len(op.data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[op.offset : end] = op.data


def sectors(op: Op) -> list[Op]:
    """Cut a write where the disk's sectors end: each is written whole or not at all."""
    found, at = [], 0
    while at < len(op.data):
        size = SECTOR_BYTES - (op.offset + at) % SECTOR_BYTES
        found.append(Op("W", op.file, op.offset + at, op.data[at : at + size]))
        at += size
    return found


def rename(names: dict[int, int], ops: list[Op]) -> None:
    for op in ops:
        if op.op == "C":
            names[op.offset] = op.file
        else:
            names.pop(op.offset, None)


# Cuts


def cut_many(level: str, n_cuts: int, seed: int) -> dict[str, Any]:
    """Return how many cuts there were, and of how many something acknowledged was lost."""
    rng = random.Random(seed)
    numbers: dict[str, Any] = dict.fromkeys(
        ("cuts", "traces", "steps", "syncs", "acknowledged", "cuts_with_unsynced", "cuts_with_loss", "cuts_damaged"), 0
    )
    numbers |= {"events_lost": 0, "first_loss": None}
    with tempfile.TemporaryDirectory() as name:
        shim = compiled(Path(name))
        while numbers["cuts"] < n_cuts:
            folder = Path(tempfile.mkdtemp(dir=name))
            ops = recorded(level, folder, shim)
            numbers["traces"] += 1
            numbers["steps"] += sum(one.op != "A" for one in ops)
            numbers["syncs"] += sum(one.op == "S" for one in ops)
            n_here = min(CUTS_PER_TRACE, n_cuts - numbers["cuts"])
            cut_trace(ops, sorted(rng.choices(range(len(ops) + 1), k=n_here)), rng, numbers)
            shutil.rmtree(folder)
    return numbers


def cut_trace(ops: list[Op], cuts: list[int], rng: random.Random, numbers: dict[str, Any]) -> None:
    """Cut the power before each of these steps, and look what is left."""
    disk, acked, at = Disk(), dict[str, int](), 0
    deletion = ""
    # In memory where that can be had: what is looked at here need not survive anything.
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        for cut in cuts:
            for op in ops[at:cut]:
                disk.take(op)
                said = op.data.decode().split() if op.op == "A" else []
                if said[:1] == ["ack"]:
                    acked[said[1]] = int(said[2])
                elif said:
                    deletion = said[0]
                if said[:1] == ["error"]:
                    raise RuntimeError(f"the recorded process failed: {op.data.decode()}")
            at = cut
            numbers["cuts"] += 1
            numbers["cuts_with_unsynced"] += bool(disk.unsynced or any(one.unsynced for one in disk.files.values()))
            kept = rng.choice(KEPT)
            lost, damage = restarted(disk.after_cut(rng, kept), acked, deletion, Path(name) / f"{cut}")
            numbers["cuts_with_loss"] += bool(lost)
            numbers["events_lost"] += lost
            numbers["cuts_damaged"] += damage is not None
            if (lost or damage) and numbers["first_loss"] is None:
                numbers["first_loss"] = f"step {cut} of {len(ops)}, {kept} kept: {lost} lost, {damage}"
    numbers["acknowledged"] += len(acked)


def restarted(files: dict[str, bytes], acked: dict[str, int], deletion: str, folder: Path) -> tuple[int, str | None]:
    """Open what a cut has left; return how many events are lost (or deleted ones there), and what damage there is."""
    folder.mkdir(exist_ok=True)
    for suffix, content in files.items():
        (folder / f"feedback.db{suffix}").write_bytes(content)
    try:
        with SqliteStore(folder / "feedback.db") as opened:
            found = {str(one.event.details.idempotency_key): one for one in opened.events()}
            # It takes what comes next, too.
            opened.add_pending(pending_of("after"))
            opened.add_event(event_of("after")).result(10)
    except StoreError as exc:
        return 0, str(exc).replace(str(folder), "")
    finally:
        shutil.rmtree(folder)
    # While a deletion is on its way, either is right for what it is of.
    wanted = {key: seq for key, seq in acked.items() if "-goes-" not in key or not deletion}
    lost = sum(key not in found or found[key].seq != seq for key, seq in wanted.items())
    lost += sum("-goes-" in key for key in found) if deletion == "deleted" else 0
    altered = [key for key, one in found.items() if one.event != event_of(key, GOES if "-goes-" in key else "stays")]
    return lost, f"altered: {altered}" if altered else None


def compiled(folder: Path) -> Path:
    """Return the compiled shim; raises RuntimeError without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        raise RuntimeError("the shim needs Linux and a C compiler (cc)")
    out = folder / "feedback_shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", out, SHIM, "-ldl", "-lpthread"], check=True)
    return out


if __name__ == "__main__":
    main()
