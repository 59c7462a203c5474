"""``whichmodel drift`` and ``shadow report``: whether traffic has changed, and what another artifact would do."""

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from router.arguments import add_json
from router.drift import ALARM, drift_of, render
from router.encoder import TIERS
from router.errors import ConfigError, DataError
from router.prompt_lines import read_prompts
from router.router import Router
from router.shadow_log import read_shadow
from router.shadow_report import render as render_shadow
from router.shadow_report import shadow_report
from router.types import JsonObject

Command = Callable[..., argparse.ArgumentParser]

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 1 << 20
MAX_REASON_CHARS = 300

DRIFT_EPILOG = """FILE holds one JSON object per line, {"prompt": "..."} or {"messages": [...]}; "-" is stdin. The exit
code is 0, or 3 where a signal is in alarm. docs/watch.md says what each signal means and where it raises an alarm.

examples:
  whichmodel drift models/v1 --log prompts.jsonl
  whichmodel drift --url http://127.0.0.1:8080
"""
SHADOW_EPILOG = """FILE is what shadow.log names; what was written before (FILE.1 to FILE.3) is read, too. With --store,
verdicts are joined by decision id. docs/watch.md says what can be told from them, and what not.
"""


def add_watch(commands: Any, command: Command) -> None:
    """Add both verbs to the command line."""
    drift = command(commands, "drift", _drift, "say whether prompts are still like those of the log", DRIFT_EPILOG)
    drift.add_argument("artifact", nargs="?", help="directory written by 'whichmodel train --out'; with --log")
    drift.add_argument("--log", metavar="FILE", help="prompts to compare with the artifact's rows")
    drift.add_argument("--tier", choices=TIERS, help="with --log: decide by this tier (default: the best)")
    drift.add_argument("--url", metavar="URL", help="ask a running service instead")
    drift.add_argument("--key-file", metavar="FILE", help="with --url: file whose first line is an API key")
    add_json(drift)
    shadow = commands.add_parser(
        "shadow",
        help="look at what another artifact would have decided",
        description="Look at what another artifact would have decided. See docs/watch.md.",
    )
    verbs = shadow.add_subparsers(dest="verb", required=True, metavar="VERB")
    report = command(
        verbs, "report", _report, "say where two artifacts agree, where not, and what feedback says", SHADOW_EPILOG
    )
    report.add_argument("file", metavar="FILE", help="the file that shadow.log names")
    report.add_argument("--store", metavar="FEEDBACK.db", help="the feedback store, to see how decisions were rated")
    for side in ("served", "shadow"):
        report.add_argument(f"--{side}", metavar="ID", help=f"the {side} artifact (default: that of the last record)")
    add_json(report)


def _drift(args: argparse.Namespace) -> int:
    if (args.url is None) == (args.log is None) or (args.log is None) != (args.artifact is None):
        print("whichmodel drift: give either an ARTIFACT and --log FILE, or --url URL", file=sys.stderr)
        return 2
    if args.url is not None:
        report = _asked(args.url, args.key_file)
    else:
        router = Router.load(args.artifact)
        report = drift_of(router, (prompt for _, prompt in read_prompts(args.log)), args.tier).to_json()
        router.close()
    try:
        print(render(report))
    except (KeyError, TypeError, ValueError) as exc:
        raise DataError(f"{args.url}/drift: its answer is no report of drift ({exc!r})") from exc
    if args.json:
        print(json.dumps(report, ensure_ascii=False, allow_nan=False))
    return 3 if report["status"] == ALARM else 0


def _report(args: argparse.Namespace) -> int:
    records = read_shadow(args.file)
    if args.store is None:
        report = shadow_report(records, served_id=args.served, shadow_id=args.shadow)
    else:
        from router.feedback.sqlite_store import SqliteReader  # needs a lock that not every system has

        with SqliteReader(args.store) as store:
            report = shadow_report(records, store.events(), served_id=args.served, shadow_id=args.shadow)
    print(render_shadow(report))
    if args.json:
        print(json.dumps(report.to_json(), ensure_ascii=False, allow_nan=False))
    return 0


def _asked(url: str, key_file: str | None) -> JsonObject:
    """Return what a service says of drift.

    Raises:
        ConfigError: the URL is none, or the key cannot be read.
        DataError: it does not answer, or with something else.
    """
    address = f"{url.rstrip('/')}/drift"
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"--url has {url!r}: expected one that begins with http:// or https://")
    request = urllib.request.Request(address)  # noqa: S310
    if key_file is not None:
        request.add_header("authorization", f"Bearer {_key(Path(key_file))}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            report = json.loads(answer.read(MAX_ANSWER_BYTES))
    except urllib.error.HTTPError as exc:
        raise DataError(f"{address}: answered with status {exc.code}{_reason(exc)}") from exc
    except (OSError, ValueError) as exc:
        raise DataError(f"{address}: gave no answer that can be read: {exc}") from exc
    if not isinstance(report, dict) or "status" not in report:
        raise DataError(f"{address}: its answer is no report of drift")
    return report


def _reason(refusal: urllib.error.HTTPError) -> str:
    """Return what a service says beside its status, if it says something."""
    try:
        said = json.loads(refusal.read(MAX_ANSWER_BYTES))
        return ": " + " ".join(str(said["error"]["message"]).split())[:MAX_REASON_CHARS]
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _key(path: Path) -> str:
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: the key cannot be read: {exc}") from exc
    words = lines[0].split()
    if not words:
        raise ConfigError(f"{path}: its first line is empty: expected an API key")
    return words[0]
