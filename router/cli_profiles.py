"""The verbs of ``whichmodel profiles``: check a profile file, and import one from a published catalogue."""

import argparse
import difflib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from router.arguments import add_json
from router.artifact import load_artifact
from router.errors import ConfigError
from router.price_doubts import CODES, count_by_code
from router.profile_import import ProfileImport, check_out, select, write_text
from router.profiles import GivenProfiles, profiles_to_json, read_profiles
from router.published_catalogue import READERS, read_catalogue
from router.types import Endpoint, JsonObject, ModelProfile

Command = Callable[..., argparse.ArgumentParser]

COLUMNS = (
    "model",
    "endpoint",
    "USD in",
    "USD out",
    "p50 ms",
    "tokens/s",
    "context",
    "capabilities",
    "locality",
    "region",
)
# What requests need without saying so, of what a published catalogue may leave out.
IMPLIED = ("vision", "tools", "json")
FROM = {"litellm": "LiteLLM's model_prices_and_context_window.json", "models-dev": "a snapshot of models.dev"}
CODES_HELP = "codes of doubtful prices:\n" + "\n".join(f"  {code:<24}{meaning}" for code, meaning in CODES.items())


def add_profiles(commands: Any, command: Command) -> None:
    """Add ``profiles`` and its verbs to the command line."""
    profiles = commands.add_parser(
        "profiles",
        help="check profiles of models, or import them from a published catalogue",
        description="Check profiles of models, or import them from a published catalogue; see docs/profiles.md.",
    )
    verbs = profiles.add_subparsers(dest="verb", required=True, metavar="VERB")
    check = command(
        verbs,
        "check",
        _check,
        "read a profile file and show what it says",
        "exit code 1, with file and line, where it cannot be read; prices are in USD per million tokens",
    )
    check.add_argument("file", metavar="FILE", help="YAML or JSON")
    check.add_argument("--artifact", metavar="DIR", help="also say which of its models the file does not describe")
    add_json(check)
    importing = verbs.add_parser(
        "import",
        help="write a profile file from a published catalogue",
        description="Write a profile file from a published catalogue. Doubtful prices are left out, and listed.",
    )
    sources = importing.add_subparsers(dest="source", required=True, metavar="SOURCE")
    for kind in READERS:
        _add_import(sources, command, kind)


def _add_import(sources: Any, command: Command, kind: str) -> None:
    source = command(sources, kind, _import, f"write a profile file from {FROM[kind]}", CODES_HELP)
    source.add_argument("file", metavar="FILE", help=f"{FROM[kind]}, as published")
    source.add_argument("--out", required=True, metavar="FILE", help="profile file to write")
    source.add_argument("--artifact", metavar="DIR", help="the models of this artifact")
    source.add_argument("--models", metavar="A,B", help="these models, as the log names them")
    source.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="GATEWAY=LOGGED",
        help="a model that the log names otherwise than the catalogue (repeatable)",
    )
    source.add_argument("--all", action="store_true", help="all models of the catalogue, too")
    source.add_argument("--force", action="store_true", help="replace the file that is there")
    source.set_defaults(kind=kind)
    add_json(source)


def _check(args: argparse.Namespace) -> int:
    given = read_profiles(args.file)
    models = load_artifact(args.artifact).models if args.artifact is not None else None
    print(render_profiles(given.values()))
    for line in _remarks(given):
        print(line)
    without_profile = [one for one in models or () if one not in given]
    without_model = [one for one in given if models is not None and one not in models]
    if models is not None:
        print(f"artifact   {len(models) - len(without_profile)} of its {len(models)} models have a profile")
        _print_unmatched("no profile", without_profile, given)
        _print_unmatched("no model", without_model, models)
    n_endpoints = sum(len(one.endpoints) for one in given.values())
    print(f"ok         {args.file}: {len(given)} models, {n_endpoints} endpoints")
    if args.json:
        out = {"profiles": profiles_to_json(given), "without_profile": without_profile, "without_model": without_model}
        _print_json(out)
    return 0


def render_profiles(profiles: Iterable[ModelProfile]) -> str:
    """Return a table with a row per endpoint; empty is unknown."""
    rows: list[Sequence[str]] = [COLUMNS]
    for one in profiles:
        for place, end in enumerate(one.endpoints or (Endpoint(""),)):
            about = (
                one.name if place == 0 else "",
                *(end.name, _shown(end.usd_per_mtok_in), _shown(end.usd_per_mtok_out)),
                *(_shown(end.latency_p50_ms), _shown(end.tokens_per_s)),
                _shown(one.context_tokens) if place == 0 else "",
                _said(one.capabilities) if place == 0 else "",
                *(end.locality or one.locality or "", end.region or one.region or ""),
            )
            rows.append(about)
    kept = [place for place in range(len(COLUMNS)) if any(row[place] for row in rows[1:])]
    widths = [max(len(row[place]) for row in rows) for place in kept]
    return "\n".join(
        "  ".join(f"{row[place]:<{width}}" for place, width in zip(kept, widths, strict=True)).rstrip() for row in rows
    )


def _remarks(given: GivenProfiles) -> Iterable[str]:
    implied = [name for name, said in given.said.items() if "modalities" in said and "capabilities" not in said]
    if implied:
        yield f"note       modalities without capabilities, taken to have no others: {', '.join(implied)}"
    yield from _unnamed(one.capabilities for one in given.values())
    unpriced = [one.name for one in given.values() if not one.is_priced]
    if unpriced:
        yield f"note       no price: {', '.join(unpriced)}"


def _unnamed(said: Iterable[Sequence[str] | None]) -> Iterable[str]:
    """Yield a remark on what requests imply and no model is said to have, though all say what they have."""
    stated = list(said)
    if not stated or None in stated:
        return
    named = {capability for one in stated for capability in one or ()}
    missing = [one for one in IMPLIED if one not in named]
    if missing:
        yield (
            f"note       no model names {', '.join(missing)}: requests that need "
            f"{'it' if len(missing) == 1 else 'one of them'} are refused (422) until a profile does"
        )


def _print_unmatched(what: str, names: Sequence[str], others: Iterable[str]) -> None:
    for name in names:
        near = difflib.get_close_matches(name, [*others], 1)
        print(f"{what:<10} {name}{f' (is it {near[0]}?)' if near else ''}")


def _import(args: argparse.Namespace) -> int:
    renamed = [_pair(text) for text in args.map]
    if args.artifact is None and args.models is None and not renamed and not args.all:
        print(f"whichmodel profiles import {args.kind}: give --artifact, --models, --map or --all", file=sys.stderr)
        return 2
    out = Path(args.out)
    check_out(out, force=args.force)
    names = [name.strip() for name in (args.models or "").split(",") if name.strip()]
    if args.artifact is not None:
        names += load_artifact(args.artifact).models
    found = select(read_catalogue(args.file, args.kind), list(dict.fromkeys(names)), renamed, every=args.all)
    if not found.models:
        listed = "; ".join(f"{name}{_hint(near)}" for name, near in found.missing.items())
        raise ConfigError(f"{args.file}: none of the models is in it: {listed}")
    write_text(out, found.render(), force=args.force)
    report = _report(found)
    _print_report(args, found, report)
    if args.json:
        _print_json({"file": str(out), **report})
    return 0


def _report(found: ProfileImport) -> JsonObject:
    catalogue = found.catalogue
    endpoints = [end for one in found.models for end in one.offers]
    return {
        "source": catalogue.kind,
        "entries": catalogue.n_entries,
        "skipped": dict(catalogue.skipped),
        "chat_models": len(catalogue.offers),
        "distinct_models": len({one.identity for one in catalogue.offers}),
        "priced": sum(one.is_priced for one in catalogue.offers),
        "flagged": count_by_code(found.doubts),
        "written": {
            "models": len(found.models),
            "endpoints": len(endpoints),
            "priced": sum(found.is_priced(one) for one in endpoints),
        },
        "left_out": [{"endpoint": one.key, "code": one.code, "detail": one.detail} for one in found.left_out],
        "missing": {name: list(near) for name, near in found.missing.items()},
    }


def _print_report(args: argparse.Namespace, found: ProfileImport, report: JsonObject) -> None:
    flagged = {code: number for code, number in report["flagged"].items() if number}
    print(f"read       {args.file}: {report['entries']} entries, {report['chat_models']} of chat models")
    print(f"           {report['distinct_models']} different ones, {report['priced']} entries with a price")
    print(f"skipped    {_counts(report['skipped'])}")
    print(f"flagged    {_counts(flagged)}")
    print(f"wrote      {args.out}: " + ", ".join(f"{number} {what}" for what, number in report["written"].items()))
    for one in found.left_out:
        print(f"no price   {one.key}: {one.code}: {one.detail}")
    for line in _unnamed(one.offers[0].capabilities for one in found.models):
        print(line)
    for name, near in found.missing.items():
        print(f"not found  {name}{_hint(near)}")


def _counts(counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{number} {what}" for what, number in counts.items())
    return f"{sum(counts.values())}{': ' if listed else ''}{listed}"


def _hint(near: Sequence[str]) -> str:
    return f" (is it {' or '.join(near)}? then --map GATEWAY=LOGGED)" if near else ""


def _pair(text: str) -> tuple[str, str]:
    key, equals, name = text.rpartition("=")
    if not equals or not key.strip() or not name.strip():
        raise ConfigError(f"--map {text}: expected GATEWAY=LOGGED")
    return key.strip(), name.strip()


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else f"{value:,}"


def _said(names: Sequence[str] | None) -> str:
    return "" if names is None else ", ".join(names) or "none"


def _print_json(value: JsonObject) -> None:
    print(json.dumps(value, ensure_ascii=False))
