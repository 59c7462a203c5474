"""A process that adds feedback in many threads, to be killed, to lose power, or to meet a failing disk.

    python benchmarks/feedback_client.py STORE --round 0 --threads 8

Prints ``open`` before it opens the store and ``ready`` after; then ``ack KEY SEQ`` for every receipt, each line in one
write, and at the first error ``error CLASS: MESSAGE`` and no more from that thread.
"""

import argparse
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from router.errors import StoreError
from router.feedback import sqlite_file
from router.feedback.events import Battle, Details, FeedbackEvent, PendingDecision, Vector
from router.feedback.sqlite_store import SqliteStore
from router.feedback.sqlite_writer import StoreLimits

# The disk is full after so many bytes, where --full says so.
FULL_BYTES = 400_000


def event_of(key: str, user: str = "stays") -> FeedbackEvent:
    """Return the event of a key: what is found under the key must be this."""
    return FeedbackEvent.of_prompt(
        f"prompt {key} {'x' * (sum(key.encode()) * 37 % 1500)}",
        Battle("small", "large", "model_a"),
        judge="client",
        received_s=1_800_000_000.0,
        details=Details(idempotency_key=key, user=user),
    )


def pending_of(key: str) -> PendingDecision:
    created_s = time.time()
    return PendingDecision(
        *(f"decision {key}", created_s, created_s + 86_400, "k", "a", "full", ("small", "large"), "small", 1.0, "h"),
        vectors=(Vector("e", bytes(1024)),),
    )


def add_some(store: SqliteStore, name: str, n_events: int, say: Callable[[str], object], user: str = "stays") -> None:
    """Add events one after the other, each once the one before is acknowledged; stop at the first error."""
    for n in range(n_events):
        key = f"{name}-{n}"
        try:
            if n % 4 == 0:
                store.add_pending(pending_of(key))
            receipt = store.add_event(event_of(key, user)).result()
        except StoreError as exc:
            say(f"error {type(exc).__name__}: {exc}")
            return
        say(f"ack {key} {receipt.seq}")


def in_threads(
    store: SqliteStore, prefix: str, n_threads: int, n_events: int, say: Callable[[str], object], user: str = "stays"
) -> None:
    threads = [
        threading.Thread(target=add_some, args=(store, f"{prefix}-{number}", n_events, say, user))
        for number in range(n_threads)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("store")
    arguments.add_argument("--round", type=int, default=0)
    arguments.add_argument("--threads", type=int, default=8)
    arguments.add_argument("--events", type=int, default=10**9, help="of each thread")
    arguments.add_argument("--full", action="store_true", help="no file may grow beyond 400,000 bytes")
    arguments.add_argument("--arm", help="make this file, at which the disk begins to fail, after 10 events a thread")
    arguments.add_argument("--uid", type=int, help="become this user before the store is opened")
    args = arguments.parse_args()
    if args.uid is not None:
        os.setuid(args.uid)
    if args.full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_BYTES, FULL_BYTES))
    # As in a long-lived service, but the log is moved to the database often: that is where most can go wrong.
    sqlite_file.logger.disabled = True
    say("open")
    try:
        store = SqliteStore(args.store, StoreLimits(checkpoint_pages=50))
    except StoreError as exc:
        say(f"error {type(exc).__name__}: {exc}")
        return
    say("ready")
    if args.arm:
        in_threads(store, f"{args.round}-before", args.threads, 10, say)
        Path(args.arm).touch()
    in_threads(store, f"{args.round}", args.threads, args.events, say)
    if args.arm:
        Path(args.arm).unlink()  # the disk is well again; the store must not take anything all the same
        in_threads(store, f"{args.round}-after", args.threads, 10, say)
    store.close()


if __name__ == "__main__":
    main()
