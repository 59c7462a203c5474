"""``whichmodel publish``, ``rollback`` and ``versions``: which artifact is live, and which one was before."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from router.arguments import add_json
from router.artifact import RouterArtifact
from router.live import Version, publish, rollback, versions

Command = Callable[..., argparse.ArgumentParser]

EPILOG = """The link moves in one step: whoever loads through it meanwhile gets the old version or the new one, whole.
A service takes the new version over when it is told to reload. Nothing is copied or deleted.

examples:
  whichmodel publish models/v7 --live models/live
  whichmodel serve models/live
  whichmodel rollback --live models/live
"""


def add_live(commands: Any, command: Command) -> None:
    """Add the three verbs to the command line."""
    made = command(commands, "publish", _publish, "verify an artifact and let the live link point to it", EPILOG)
    made.add_argument("artifact", help="directory written by 'whichmodel train --out'")
    _add_live(made)
    back = command(commands, "rollback", _rollback, "let the live link point to the version before, verified", EPILOG)
    _add_live(back)
    back.add_argument("--to", metavar="DIR", help="this version instead of the one that was live before")
    shown = command(commands, "versions", _versions, "list the artifacts beside the live link", EPILOG)
    _add_live(shown)
    add_json(shown)


def _add_live(command: argparse.ArgumentParser) -> None:
    command.add_argument("--live", required=True, metavar="LINK", help="the link, such as models/live")


def _publish(args: argparse.Namespace) -> int:
    _say(args.live, publish(args.artifact, args.live))
    return 0


def _rollback(args: argparse.Namespace) -> int:
    _say(args.live, rollback(args.live, args.to))
    return 0


def _say(live: str, artifact: RouterArtifact) -> None:
    (name,) = (one.name for one in versions(live) if one.live)
    print(f"{live} -> {name} (artifact {artifact.id}, {artifact.n_rows} rows, {artifact.verdict.label})")


def _versions(args: argparse.Namespace) -> int:
    found = versions(args.live)
    print(render_versions(found))
    if args.json:
        print(json.dumps({"versions": [one.to_json() for one in found]}, ensure_ascii=False, allow_nan=False))
    return 0


def render_versions(found: list[Version]) -> str:
    """Return the versions for people, one line each; gains in points of quality."""
    width = max(len(one.name) for one in found)
    lines = []
    for one in found:
        head = f"{'*' if one.live else ' '} {one.name:<{width}}  "
        if one.problem:
            lines.append(f"{head}cannot be read: {one.problem}")
            continue
        gain = "-"
        if one.gain is not None:
            mean, low, high = (100 * one.gain[name] for name in ("mean", "low", "high"))
            gain = f"{mean:+.1f} points ({low:+.1f} to {high:+.1f})"
        lines.append(f"{head}{one.artifact_id}  {one.verdict:<15}  {one.n_rows:>8} rows  {gain}")
    return "\n".join(lines)
