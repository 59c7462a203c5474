"""``whichmodel route``: a prompt, or a file of them, to a decision, with the reasons for people."""

import argparse
import difflib
import json
import sys
from collections.abc import Callable
from typing import Any

from router.arguments import amount, budget_ms, names, share, tokens
from router.errors import ConfigError
from router.misnamed import misnamed
from router.needs import Hints, needs_of
from router.policies import PolicyBook
from router.profiles import read_profiles
from router.prompt_lines import read_prompts
from router.router import Router
from router.service.config import read_policies
from router.types import STRATEGIES, Decision, Flip, Policy

Command = Callable[..., argparse.ArgumentParser]

EPILOG = """with --input, FILE holds one JSON object per line, {"prompt": "..."} or {"messages": [...]}; "-" is stdin.

examples:
  whichmodel route models/v1 "Fix this SQL query" --explain
  whichmodel route models/v1 "Summarise this contract" --profiles profiles.yaml --local-only --require tools
  whichmodel route models/v1 "Summarise this contract" --config whichmodel.toml --policy legal
  whichmodel route models/v1 --input prompts.jsonl --strategy cheap | jq -r .model
"""


def add_route(commands: Any, command: Command) -> None:
    """Add ``route`` to the command line."""
    route = command(commands, "route", _route, "say which model should take a prompt", EPILOG)
    route.add_argument("artifact", help="directory written by 'whichmodel train --out'")
    route.add_argument("prompt", nargs="?", help="the prompt; or use --input")
    route.add_argument("--input", metavar="FILE.jsonl", help="route every line of a file instead, in order")
    route.add_argument(
        "--explain", action="store_true", help="all candidates, what was excluded, the nearest rows, what would flip it"
    )
    route.add_argument("--profiles", metavar="FILE", help="profiles over those of the artifact; see docs/profiles.md")
    route.add_argument(
        "--latency-budget-ms", type=budget_ms, default=50.0, metavar="MS", help="1 to 10,000; default 50"
    )
    route.add_argument("--json", action="store_true", help="print each decision as one JSON line")
    named = route.add_argument_group("a policy of the service, which the options below can only tighten")
    named.add_argument("--config", metavar="FILE", help="the service's TOML file of settings and policies")
    named.add_argument("--policy", metavar="NAME", help="its table [policies.NAME]")
    _add_constraints(route.add_argument_group("constraints, which always hold"))
    _add_preferences(route.add_argument_group("preferences between what is left"))
    hints = route.add_argument_group("what the prompt does not show")
    hints.add_argument("--context-tokens", type=tokens, default=0, metavar="N", help="length of all that is to be read")
    hints.add_argument("--has-images", action="store_true", help="images come with it: only models with vision")
    hints.add_argument("--has-tools", action="store_true", help="tools come with it: only models that call tools")


def _add_constraints(group: Any) -> None:
    group.add_argument("--candidates", metavar="A,B", help="choose among these models only")
    group.add_argument("--exclude", metavar="A,B", help="never choose these models")
    group.add_argument("--require", metavar="A,B", help="only models with these capabilities: vision, tools, json ...")
    group.add_argument("--role", help="only models whose profile names this role")
    group.add_argument("--local-only", action="store_true", help="only local endpoints")
    group.add_argument("--region", metavar="A,B", help="only endpoints in one of these regions")
    group.add_argument("--max-cost-usd", type=amount, metavar="USD", help="ceiling of the expected cost of the answer")
    group.add_argument("--max-latency-ms", type=amount, metavar="MS", help="ceiling of the expected time of the answer")
    group.add_argument("--min-uptime", type=share, metavar="SHARE", help="floor of the endpoint's uptime, 0 to 1")


def _add_preferences(group: Any) -> None:
    trade = group.add_mutually_exclusive_group()
    trade.add_argument("--strategy", choices=STRATEGIES, help="a named trade-off (default: the artifact's own)")
    trade.add_argument(
        "--willingness-to-pay-usd", type=amount, metavar="USD", help="USD that one whole unit of quality is worth"
    )
    group.add_argument(
        "--willingness-to-wait-ms", type=amount, metavar="MS", help="milliseconds that one unit of quality is worth"
    )
    group.add_argument(
        "--min-gain",
        type=share,
        metavar="SHARE",
        help="lead in utility, 0 to 1, below which the best fixed model answers (default 0)",
    )
    group.add_argument(
        "--explore-share",
        type=share,
        metavar="SHARE",
        help="share of decisions that take any allowed model (default 0)",
    )
    group.add_argument("--route-anyway", action="store_true", help="route even where the verdict is not ROUTE")
    group.add_argument("--fallback", metavar="MODEL", help="answer with it when nothing is left, instead of an error")


def _route(args: argparse.Namespace) -> int:
    if (args.prompt is None) == (args.input is None):
        print("whichmodel route: give either a PROMPT or --input FILE", file=sys.stderr)
        return 2
    if args.strategy is not None and args.willingness_to_wait_ms is not None:
        print("whichmodel route: --strategy and --willingness-to-wait-ms exclude each other", file=sys.stderr)
        return 2
    if (args.config is None) != (args.policy is None):
        print("whichmodel route: --config FILE and --policy NAME go together", file=sys.stderr)
        return 2
    profiles = read_profiles(args.profiles) if args.profiles else None
    policy = _policy(args)
    router = Router.load(args.artifact)
    if profiles is not None:
        router.use_profiles(profiles)
    for line in misnamed([policy], router.artifact.models):
        print(f"whichmodel: {line}", file=sys.stderr)
    hints = Hints(args.context_tokens, args.has_images, args.has_tools)
    prompts = [args.prompt] if args.input is None else (prompt for _, prompt in read_prompts(args.input))
    for prompt in prompts:
        needs = needs_of(prompt, hints=hints)
        decision = router.route(prompt, policy, latency_budget_ms=args.latency_budget_ms, needs=needs)
        if args.json or args.input is not None:
            print(json.dumps(decision.to_json(explain=args.explain), ensure_ascii=False, allow_nan=False), flush=True)
        else:
            print(render_decision(decision, explain=args.explain))
    return 0


def _policy(args: argparse.Namespace) -> Policy:
    """Return the policy of the options, under the one of the configuration that is named, as if that were bound.

    Raises:
        ConfigError: the configuration is wrong, or has no policy of this name.
        PolicyError: the two exclude each other.
    """
    own = Policy(
        candidates=names(args.candidates),
        exclude=names(args.exclude) or (),
        require=names(args.require) or (),
        role=args.role,
        local_only=args.local_only,
        region=names(args.region),
        max_cost_usd=args.max_cost_usd,
        max_latency_ms=args.max_latency_ms,
        min_uptime=args.min_uptime,
        strategy=args.strategy,
        willingness_to_pay_usd=args.willingness_to_pay_usd,
        willingness_to_wait_ms=args.willingness_to_wait_ms,
        min_gain=args.min_gain or 0.0,
        explore_share=args.explore_share or 0.0,
        route_anyway=args.route_anyway,
        fallback=args.fallback,
    )
    if args.policy is None:
        return own
    known = read_policies(args.config).policies
    if args.policy not in known:
        near = difflib.get_close_matches(args.policy, known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        wanted = f"expected one of {', '.join(known)}" if known else "it has no table [policies.NAME]"
        raise ConfigError(f"{args.config}: no policy has the name {args.policy!r}: {hint}{wanted}")
    # A preference at its default is stated, too: it takes the place of the configured one.
    given = {name for name in ("min_gain", "explore_share") if getattr(args, name) is not None}
    given |= {"route_anyway"} if args.route_anyway else set()
    return PolicyBook(known, default=args.policy).resolve(own, given=frozenset(given))[0]


def render_decision(decision: Decision, *, explain: bool) -> str:
    """Return a decision for people."""
    lines = [decision.summary]
    lines.append(f"  tier {decision.tier}, {decision.elapsed_ms:.2f} ms, reason {decision.reason}")
    if not explain:
        return "\n".join(lines)
    lines += _candidate_lines(decision)
    lines += [f"  excluded {one.model}: {one.code}, {one.detail}" for one in decision.excluded]
    for near in decision.neighbors:
        text = "" if near.prompt is None else f'  "{" ".join(near.prompt.split())[:60]}"'
        won = ", ".join(near.winners) or "nobody"
        lines.append(f"  near {near.similarity:.3f}  {near.intent or '-'}  won: {won}{text}")
    lines += [f"  would be {one.model} with {_changes(one)}" for one in decision.flips]
    return "\n".join(lines)


def _candidate_lines(decision: Decision) -> list[str]:
    """Return a table of all candidates, best first; of what is unknown of all, no column."""
    header = ["model", "endpoint", "quality", "95 % interval", "support", "cost USD", "time ms", "utility"]
    rows = [
        [
            one.model,
            one.endpoint or "-",
            f"{one.quality:.3f}",
            f"{one.low:.3f} to {one.high:.3f}",
            f"{one.support:.1f}",
            "-" if one.cost_usd is None else f"{one.cost_usd:.6f}",
            "-" if one.latency_ms is None else f"{one.latency_ms:.0f}",
            f"{one.utility:.3f}",
        ]
        for one in decision.estimates
    ]
    shown = [at for at in range(len(header)) if any(row[at] != "-" for row in rows)]
    widths = {at: max(len(row[at]) for row in [header, *rows]) for at in shown}
    return [
        "  " + "  ".join(f"{row[at]:<{widths[at]}}" if at < 2 else f"{row[at]:>{widths[at]}}" for at in shown)
        for row in [header, *rows]
    ]


def _changes(flip: Flip) -> str:
    return " and ".join(f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in flip.changes)
