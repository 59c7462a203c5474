"""The verbs of ``whichmodel feedback``: list, export, delete and stats of a feedback store."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from router.arguments import add_json, count
from router.errors import DataError, StoreLockedError
from router.feedback.events import Battle, FeedbackEvent
from router.types import JsonObject

if TYPE_CHECKING:
    from router.feedback.sqlite_store import SqliteReader
    from router.feedback.store import StoredEvent

SHOWN_CHARS = 60

Command = Callable[..., argparse.ArgumentParser]


def add_feedback(commands: Any, command: Command) -> None:
    """Add ``feedback`` and its verbs to the command line."""
    feedback = commands.add_parser(
        "feedback",
        help="look at, export and delete what a service was told of its decisions",
        description="Look at, export and delete what a service was told of its decisions. See docs/feedback.md.",
    )
    verbs = feedback.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = command(verbs, "list", _list, "print events, oldest first", "works beside a running service")
    _add_store(listing)
    _add_after(listing)
    listing.add_argument("--limit", type=count, default=50, metavar="N", help="at most so many (default 50)")
    listing.add_argument("--json", action="store_true", help="print each event as one JSON line, with all that is kept")
    export = command(
        verbs,
        "export",
        _export,
        "write events as a preference log, JSON Lines that 'whichmodel train' reads",
        "Works beside a running service. Events whose text is not kept cannot be trained on: they are left out and\n"
        "counted. Next time, --after the number that it ends with exports only what is new.",
    )
    _add_store(export)
    _add_after(export)
    export.add_argument("--out", metavar="FILE", help="write there, all or nothing (default: stdout)")
    export.add_argument(
        "--with-hashes", action="store_true", help="events without text, too, with prompt_hash instead of prompt"
    )
    delete = command(
        verbs,
        "delete",
        _delete,
        "delete events and pending decisions, from the files, too",
        "Of several conditions, all must be met. A running service writes its store alone: stop it before. Copies\n"
        "elsewhere (exports, artifacts trained on them, backups, snapshots of the disk) are not touched.",
    )
    _add_store(delete)
    delete.add_argument("--user", metavar="U", help="all that this user asked")
    delete.add_argument("--prompt-hash", metavar="H", help="all on this prompt (as 'feedback list' shows it)")
    delete.add_argument(
        "--before", type=_date, metavar="DATE", help="all from before a day or time, ISO 8601, UTC unless it says so"
    )
    delete.add_argument("--yes", action="store_true", help="do not ask")
    stats = command(verbs, "stats", _stats, "say what a store holds", "works beside a running service")
    _add_store(stats)
    stats.add_argument("--check", action="store_true", help="check the whole file, and the CRC of every event")
    add_json(stats)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", required=True, metavar="FILE", help="the feedback store, an SQLite file")


def _add_after(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--after", type=int, default=0, metavar="SEQ", help="only events with a higher number")


def _date(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"expected a date like 2026-01-31 or 2026-01-31T12:00, got {text}") from exc
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _list(args: argparse.Namespace) -> int:
    with _reader(args.store) as store:
        events = store.events(args.after)
        for one in islice(events, args.limit):
            if args.json:
                print(json.dumps(_full_json(one.seq, one.event), ensure_ascii=False))
            else:
                print(_line(one.seq, one.event))
        following = next(events, None)
    if following is not None:
        print(f"whichmodel: there are more; go on with --after {following.seq - 1}", file=sys.stderr)
    return 0


def _export(args: argparse.Namespace) -> int:
    counts = {"exported": 0, "hashes": 0, "last": args.after}
    with _reader(args.store) as store:
        lines = _canonical_lines(store.events(args.after), counts, with_hashes=args.with_hashes)
        if args.out is None:
            _write_lines(sys.stdout, lines)
        else:
            _write_file(Path(args.out), lines)
    print(f"whichmodel: {counts['exported']} events exported; the next time, --after {counts['last']}", file=sys.stderr)
    if counts["hashes"]:
        done = "exported without it; train will refuse them" if args.with_hashes else "left out"
        print(f"whichmodel: {counts['hashes']} events whose text is not kept: {done}", file=sys.stderr)
    return 0


def _delete(args: argparse.Namespace) -> int:
    from router.feedback.sqlite_store import SqliteStore
    from router.feedback.store import Selection

    selection = Selection(args.user, args.prompt_hash, args.before)
    _reader(args.store).close()  # a misspelt name must not make a new store
    wanted = {"user": args.user, "prompt hash": args.prompt_hash, "before": _iso(args.before) if args.before else None}
    shown = ", ".join(f"{name} {value}" for name, value in wanted.items() if value is not None)
    if not args.yes and not _agreed(f"delete all feedback of {shown} from {args.store}? [y/N] "):
        print("whichmodel: nothing was deleted", file=sys.stderr)
        return 1
    try:
        store = SqliteStore(args.store)
    except StoreLockedError as exc:
        raise StoreLockedError(f"{exc}, delete, and start it again; nothing was deleted") from exc
    with store:
        done = store.delete(selection).result()
    print(f"deleted {done.n_events} events and {done.n_pending} pending decisions ({shown})")
    if not done.wiped:
        print(
            "whichmodel: deleted text may be left in the files: another process reads the store, or there is no room "
            "to write it anew; mend that and delete again",
            file=sys.stderr,
        )
    return 0


def _stats(args: argparse.Namespace) -> int:
    with _reader(args.store) as store:
        if args.check:
            print(f"ok: the structure is sound, and {store.check()} events are as they were written")
        stats = store.stats()
    if args.json:
        print(json.dumps(asdict(stats)))
        return 0
    kinds = ", ".join(f"{n} {kind}{'' if n == 1 else 's'}" for kind, n in stats.kinds.items())
    print(
        f"events   {stats.n_events} ({kinds}); {stats.n_with_text} with their text; the last number is {stats.last_seq}"
    )
    if stats.first_received_s is not None and stats.last_received_s is not None:
        print(f"received {_iso(stats.first_received_s)} to {_iso(stats.last_received_s)}")
    print(f"pending  {stats.n_pending} decisions, {stats.n_expired} of them expired")
    print(f"size     {stats.file_bytes / 2**20:.1f} MiB, schema {stats.schema_version}")
    return 0


def _reader(path: str) -> "SqliteReader":
    from router.feedback.sqlite_store import SqliteReader  # needs a lock that not every system has

    return SqliteReader(path)


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        print("whichmodel: not asking without a terminal; say --yes", file=sys.stderr)
        return False
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _canonical_lines(events: "Iterator[StoredEvent]", counts: dict[str, int], *, with_hashes: bool) -> Iterator[str]:
    for one in events:
        counts["last"] = one.seq
        counts["hashes"] += one.event.prompt is None
        if one.event.prompt is not None or with_hashes:
            counts["exported"] += 1
            yield json.dumps({**one.event.to_canonical(), "seq": one.seq}, ensure_ascii=False, allow_nan=False)


def _write_lines(file: TextIO, lines: Iterator[str]) -> None:
    for line in lines:
        file.write(f"{line}\n")


def _write_file(path: Path, lines: Iterator[str]) -> None:
    """Write a file under another name first, which only its owner may read: it holds prompts."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            _write_lines(file, lines)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as exc:
        raise DataError(f"{path}: cannot be written: {exc.strerror}") from exc
    finally:
        beside.unlink(missing_ok=True)


def _line(seq: int, event: FeedbackEvent) -> str:
    outcome = event.outcome
    if isinstance(outcome, Battle):
        said = f"{outcome.model_a} against {outcome.model_b}: {outcome.winner}"
    else:
        said = f"{outcome.model}: {outcome.score:g}"
    text = event.prompt_hash if event.prompt is None else f'"{" ".join(event.prompt.split())[:SHOWN_CHARS]}"'
    return f"{seq:>7}  {_iso(event.received_s)}  {event.kind:<7}  {said}  {text}"


def _full_json(seq: int, event: FeedbackEvent) -> JsonObject:
    """Return all that is kept of an event; of vectors only whose they are."""
    row = {"seq": seq, "kind": event.kind, **event.to_canonical(), "prompt_hash": event.prompt_hash}
    optional = {
        "decision_id": event.decision_id,
        "artifact_id": event.artifact_id,
        "tier": event.tier,
        "candidates": list(event.candidates) or None,
        "encoders": [one.encoder_id for one in event.vectors] or None,
        "idempotency_key": event.details.idempotency_key,
        "metadata": event.details.metadata,
    }
    return {**row, **{name: value for name, value in optional.items() if value is not None}}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
