"""``whichmodel whatif``: a log of prompts replayed under several policies, and the policies as they are written."""

import argparse
import difflib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from router.arguments import add_json, count, seed
from router.artifact import load_artifact
from router.deadline import now_ms
from router.encoder import TIERS
from router.errors import ConfigError
from router.misnamed import misnamed
from router.profiles import read_profiles
from router.service.config import read_policies as read_book
from router.types import STRATEGIES, Policy

Command = Callable[..., argparse.ArgumentParser]
AddOptions = Callable[[argparse.ArgumentParser], None]
LoadLog = Callable[[argparse.Namespace], Any]
Bars = Callable[[], Any]

PROMPTS = "prompts"
NO_POLICY = "no policy"
# Every field but the name, by the type that its value has.
FIELDS = {one.name: one.type for one in fields(Policy) if one.name != "name"}
NAMES, FLAG, TEXT = (tuple[str, ...], tuple[str, ...] | None), (bool,), (str | None,)
TRUTH = {"true": True, "false": False}

EPILOG = f"""A POLICY is one of
  NAME                           the table [policies.NAME] of the --config FILE
  LABEL:field=value,field=value  such as cheap:strategy=cheap,max_cost_usd=0.01,require=vision+tools,local_only=true;
                                 'LABEL:' alone is the policy that asks for nothing
  a JSON object                  such as {{"name": "cheap", "strategy": "cheap", "candidates": ["a", "b"]}}
with the fields {", ".join(FIELDS)}.
Every further policy is compared with the first; a single one is compared with '{NO_POLICY}'.

A SOURCE is a preference log, whose distinct prompts are replayed, or lines of {{"prompt": "..."}} or
{{"messages": [...]}} as 'route --input' takes them ('-': stdin); '--format {PROMPTS}' reads any JSON Lines file so.
What is said of quality, cost and time is what the router expects; see docs/whatif.md.
"""


def add_whatif(commands: Any, command: Command, add_log_options: AddOptions, load_log: LoadLog, bars: Bars) -> None:
    """Add ``whatif`` to the command line. bars: makes the context of progress bars."""
    whatif = command(
        commands,
        "whatif",
        lambda args: _whatif(args, load_log, bars),
        "replay a log of prompts under several policies: share per model, expected quality, cost and latency",
        EPILOG,
    )
    whatif.add_argument("artifact", help="directory written by 'whichmodel train --out'")
    add_log_options(whatif)
    whatif.add_argument(
        "--policy", action="append", required=True, metavar="POLICY", help="a policy to replay (repeatable); see below"
    )
    whatif.add_argument(
        "--config", metavar="FILE", help="the service's TOML file, with the policies that are given by name"
    )
    whatif.add_argument("--profiles", metavar="FILE", help="profiles of models, laid over the artifact's")
    whatif.add_argument("--tier", choices=TIERS, help="decide by this tier of the artifact (default: its best)")
    whatif.add_argument("--sample", type=count, metavar="N", help="replay N of the prompts, drawn at random")
    whatif.add_argument("--seed", type=seed, default=0, help="seed of the sample and of explore_share (default 0)")
    whatif.add_argument("--out", metavar="DIR", help="write index.html, its plots and whatif.json there")
    add_json(whatif)


def _whatif(args: argparse.Namespace, load_log: LoadLog, bars: Bars) -> int:
    policies = read_policies(args.policy, args.config)
    profiles = read_profiles(args.profiles) if args.profiles else None
    import training  # says itself which extra is missing

    del training
    from training.replay import holds_prompts_alone, prompts_of_lines, prompts_of_log, replay
    from training.report_page import check_directory
    from training.whatif import what_if
    from training.whatif_page import render, write_page

    if args.out is not None:
        check_directory(args.out)
    artifact = load_artifact(args.artifact).only(args.tier)
    for line in misnamed(policies, artifact.models):
        _say(line)
    unnamed = args.format is None and all(holds_prompts_alone(one, _listed(args.models)) for one in args.sources)
    if args.format == PROMPTS or unnamed:
        prompts = prompts_of_lines(args.sources)
        _say("no outcomes are recognised in the source: its lines are read as prompts alone", unnamed)
    else:
        prompts = prompts_of_log(load_log(args), artifact)
    if prompts.refused:
        _say(f"{len(prompts.refused)} rows refused; the first: {prompts.refused[0]}")
    if args.sample is not None:
        prompts = prompts.sample(args.sample, args.seed)
        _say(f"sampled {len(prompts):,} of {prompts.n_in_log:,} prompts (seed {args.seed})")
    began = now_ms()
    with bars() as shown:
        done = replay(artifact, prompts.asked, policies, profiles=profiles, progress=shown.show, seed=args.seed)
    took_s = (now_ms() - began) / 1e3
    _say(f"{len(done):,} prompts replayed under {len(policies)} policies in {took_s:.1f} s, {len(done) / took_s:.0f}/s")
    found = what_if(
        done,
        artifact_id=artifact.id,
        verdict=artifact.verdict,
        table=prompts.table,
        n_in_log=prompts.n_in_log,
        seed=args.seed,
    )
    print(render(found))
    if args.out is not None:
        print(f"wrote {write_page(args.out, found, done)}")
    if args.json:
        print(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False), flush=True)
    return 0


def read_policies(texts: Sequence[str], config: str | Path | None = None) -> list[Policy]:
    """Return the policies that are written so, each with a name of its own; a single one comes after NO_POLICY.

    Raises:
        ConfigError: a policy is unknown, is not understood or has the name of another; or the file cannot be read.
    """
    tables = {} if config is None else read_book(config).policies
    policies = [_policy(text, tables, config) for text in texts]
    if len(policies) == 1:
        policies.insert(0, Policy(name=NO_POLICY))
    names = [one.name for one in policies]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"--policy: two policies are named {twice!r}: expected names that differ, as in LABEL:...")
    return policies


def _policy(text: str, tables: Mapping[str, Policy], config: str | Path | None) -> Policy:
    where = f"--policy {text}"
    if text.lstrip().startswith("{"):
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise ConfigError(f"{where}: not JSON ({exc}); expected one object") from exc
        label = raw.pop("name", text)
        if not isinstance(label, str) or not label:
            raise ConfigError(f"{where}: name: expected a text, got {label!r}")
        return policy_from(raw, label, where)
    if text in tables:
        return tables[text]
    head, equals, _ = text.partition("=")
    label, colon, rest = text.partition(":") if ":" in head else ("", "", text)
    if colon or equals:
        return policy_from(_inline(rest, where), label or text, where)
    near = difflib.get_close_matches(text, tables, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    if config is None:
        wanted = f"expected --config FILE with a table [policies.{text}], or LABEL:field=value,..."
    else:
        wanted = f"expected one of {config}: {', '.join(tables) or 'it has no table [policies.NAME]'}"
    raise ConfigError(f"{where}: no policy of this name is known: {hint}{wanted}")


def _inline(text: str, where: str) -> dict[str, str]:
    """Return the values of ``field=value,field=value`` as they are written."""
    raw: dict[str, str] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        name, equals, value = (one.strip() for one in part.partition("="))
        if not equals:
            raise ConfigError(f"{where}: {part.strip()!r}: expected field=value")
        if name in raw:
            raise ConfigError(f"{where}: {name} is given twice")
        raw[name] = value
    return raw


def policy_from(raw: Mapping[str, Any], label: str, where: str) -> Policy:
    """Return the policy of these fields, whose values are those of JSON, or texts as on the command line.

    Raises:
        ConfigError: a field is unknown or its value is not what it should be; ``where`` is named.
    """
    values: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"{where}: unknown field {name!r}: {hint}expected one of {', '.join(FIELDS)}")
        if value is not None:
            values[name] = _value(value, FIELDS[name], f"{where}: {name}")
    strategy = values.get("strategy")
    near = difflib.get_close_matches(strategy, STRATEGIES, 1) if strategy is not None else []
    if near and strategy not in STRATEGIES:
        raise ConfigError(
            f"{where}: strategy: got {strategy!r}, did you mean {near[0]}? expected one of {', '.join(STRATEGIES)}"
        )
    try:
        return Policy(**values, name=label)
    except ValueError as exc:
        raise ConfigError(f"{where}: {exc}") from exc


def _value(value: Any, kind: object, where: str) -> Any:
    if kind in NAMES:
        names = value.split("+") if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(one, str) and one.strip() for one in names):
            raise ConfigError(f"{where}: expected names, as in a+b or a list, got {value!r}")
        return tuple(one.strip() for one in names)
    if kind in FLAG:
        found = TRUTH.get(value.lower()) if isinstance(value, str) else value
        if not isinstance(found, bool):
            raise ConfigError(f"{where}: expected true or false, got {value!r}")
        return found
    if kind in TEXT:
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{where}: expected a text, got {value!r}")
        return value
    return _amount(value, where)


def _amount(value: Any, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, str | int | float) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{where}: expected a finite number, got {value!r}")
    return number


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [one.strip() for one in text.split(",")]


def _say(text: str, when: bool = True) -> None:
    if when:
        print(f"whichmodel: {text}", file=sys.stderr)
