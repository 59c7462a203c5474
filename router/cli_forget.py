"""whichmodel forget: take rows out of an artifact at once, without the log that it was trained on."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from router.arguments import add_json
from router.artifact import RouterArtifact, check_target, load_artifact
from router.types import JsonObject

Commands = Any  # argparse keeps the type of its subparsers private
EPILOG = """A row is one distinct prompt. With a user go all rows that this user stands behind, also if others do, too.
Priors, intents' priors, slopes, mean costs, the best fixed model, the verdict and the held-out report are fitted
anew; what needs the texts (the space, the settings, names of discovered intents) stays: see docs/memory.md.

examples:
  whichmodel forget models/v1 --user ann@example.com
  whichmodel forget models/v1 --prompt "How do I get to 12 Elm Street?" --out models/v2
"""


def add_forget(commands: Commands, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the verb. command: what makes a subcommand (router.cli)."""
    forget = command(commands, "forget", _forget, "take the rows of a prompt or a user out of an artifact", EPILOG)
    forget.add_argument("artifact", help="directory written by 'whichmodel train --out'")
    forget.add_argument(
        "--prompt-hash", action="append", default=[], metavar="H", help="32 hex digits, as decisions show (repeatable)"
    )
    forget.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="a prompt's text (repeatable)")
    forget.add_argument("--user", action="append", default=[], metavar="U", help="as in the log (repeatable)")
    forget.add_argument(
        "--out", metavar="DIR", help="write the artifact without the rows there (default: replace it where it is)"
    )
    add_json(forget)


def _forget(args: argparse.Namespace) -> int:
    target = args.out or args.artifact
    check_target(target)
    import training  # says itself which extra is missing  # noqa: F401
    from training.forget import Wanted, forget, other_holders

    before = load_artifact(args.artifact)
    done = forget(before, Wanted(args.prompt_hash, args.prompt, args.user))
    after = done.artifact.write(target)
    holders = other_holders(target, args.artifact, done.hashes, args.user)
    facts = [_facts(one) for one in (before, after)]
    print(f"forgot {len(done.hashes)} of {before.n_rows} rows")
    for name in facts[0]:
        print(f"  {name:<11} {facts[0][name]}  ->  {facts[1][name]}")
    print(f"wrote {target} (artifact {after.id})")
    for one in holders:
        what = f"cannot be read: {one.why}" if one.n_rows is None else f"still holds {one.n_rows} of these rows"
        print(f"{one.directory}: {what}")
    if args.json:
        print(
            json.dumps(
                {
                    "n_forgotten": len(done.hashes),
                    "artifact_id": after.id,
                    "before": _numbers(before),
                    "after": _numbers(after),
                    "holders": [{"directory": one.directory, "n_rows": one.n_rows} for one in holders],
                }
            )
        )
    return 0


def _facts(artifact: RouterArtifact) -> dict[str, str]:
    gain = artifact.report["gain"]
    return {
        "rows": str(artifact.n_rows),
        "gain": f"{gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})",
        "best fixed": artifact.best_fixed,
        "verdict": artifact.verdict.label,
        "held out": artifact.report["protocol"],
    }


def _numbers(artifact: RouterArtifact) -> JsonObject:
    return {
        "artifact_id": artifact.id,
        "n_rows": artifact.n_rows,
        "gain": artifact.report["gain"],
        "verdict": artifact.verdict.label,
        "best_fixed": artifact.best_fixed,
    }
