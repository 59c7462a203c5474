"""The command line. Offline commands import the training half only when they run."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from router import __version__
from router.arguments import above_zero, add_json, amount, held_out_share, key_share, names, seed
from router.artifact import RouterArtifact, check_target, load_artifact
from router.cli_encoder import add_encoder
from router.cli_feedback import add_feedback
from router.cli_forget import add_forget
from router.cli_live import add_live
from router.cli_profiles import add_profiles
from router.cli_route import add_route
from router.cli_serve import add_serve
from router.cli_watch import add_watch
from router.cli_whatif import add_whatif
from router.encoder import TIERS
from router.errors import ConfigError, RouterError
from router.intents import IntentStanding, intent_standings
from router.profiles import read_profiles
from router.router import Router
from router.types import JsonObject, ModelProfile

EPILOG = """examples:
  whichmodel data inspect battles.jsonl
  whichmodel train battles.jsonl --out models/v1 --prices prices.yaml
  whichmodel show models/v1
  whichmodel route models/v1 "Prove that the square root of 2 is irrational." --explain
  whichmodel serve models/v1 --port 8080
  whichmodel publish models/v2 --live models/live
"""
INTENTS_FROM = {
    "given": "labels given in the log",
    "model": "read by the intent model beside the encoder",
    "discovered": "discovered: clusters of the log's prompts, named by their own words",
    "none": "the artifact has none; train with --intents to get some",
}
FEEDBACK_UNUSED = {
    "n_placeless": "with neither text nor vectors",
    "n_lost_to_encoder": "without text, and without features and vectors of the encoder that trains",
    "n_without_model": "of no model that is asked for",
    "n_idle_ratings": "ratings of one model alone, which say nothing beside battles",
}
NOT_PROMOTED = 3
TRAIN_EPILOG = """\
The report is cross-fitted: every prompt is routed by an estimator that never saw it or its near-duplicates.
Only when the verdict is ROUTE does the service route; otherwise it answers with the best fixed model.

examples:
  whichmodel train battles.jsonl --out models/v1 --hold-out 0.2
  whichmodel serve models/v1 --feedback-store feedback.db --feedback-keep-decisions all
  whichmodel train battles.jsonl --from-feedback feedback.db --out models/v2 --against models/v1
"""
LOG_HELP = "preference log: a file, a folder, or hf:OWNER/NAME; see docs/formats.md for the formats"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 with one line on stderr, 2 for wrong usage, or NOT_PROMOTED."""
    args = parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except RouterError as exc:
        print(f"whichmodel: {' '.join(str(exc).split())}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (head, less) has left; point stdout elsewhere so that the interpreter's last flush is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("whichmodel: interrupted; nothing was left half-written", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="whichmodel",
        description="Learn from preference logs which model wins on which kind of prompt, and route by it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"whichmodel {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_eval(commands)
    add_route(commands, _command)
    add_serve(commands, _command)
    add_live(commands, _command)
    show = _command(commands, "show", _show, "say what an artifact holds and what its held-out report promises")
    show.add_argument("artifact", help="directory written by 'whichmodel train --out'")
    add_json(show)
    intents = _command(
        commands, "intents", _intents, "say which model is best on each intent of an artifact, and by how much"
    )
    intents.add_argument("artifact", help="directory written by 'whichmodel train --out'")
    add_json(intents)
    _add_data(commands)
    add_profiles(commands, _command)
    add_whatif(commands, _command, _add_log_options, _load_log, _Bars)
    add_feedback(commands, _command)
    add_forget(commands, _command)
    add_watch(commands, _command)
    add_encoder(commands, _command, _Bars)
    return top


Commands = Any  # argparse keeps the type of its subparsers private


def _command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, epilog: str | None = None
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_log_options(command: argparse.ArgumentParser, n_sources: str = "+") -> None:
    command.add_argument("sources", nargs=n_sources, metavar="SOURCE", help=LOG_HELP)
    command.add_argument("--format", metavar="F", help="name of the format, instead of recognising it")
    command.add_argument(
        "--models", metavar="A,B", help="only these models; says which columns of wide rows are models"
    )
    command.add_argument("--alias", action="append", default=[], metavar="OLD=NEW", help="rename a model (repeatable)")
    command.add_argument(
        "--drop-model", action="append", default=[], metavar="M", help="leave a model out (repeatable)"
    )
    command.add_argument(
        "--on-bad-row",
        choices=("skip", "fail"),
        default="skip",
        help="skip and count unusable rows (default), or stop at the first",
    )


def _add_train(commands: Commands) -> None:
    train = _command(
        commands,
        "train",
        _train,
        "learn an artifact from preference logs and feedback, with a held-out report and a verdict",
        TRAIN_EPILOG,
    )
    _add_log_options(train, "*")
    train.add_argument(
        "--from-feedback",
        metavar="STORE",
        help="learn from the feedback that a service keeps in this file, beside the sources or without any. It is only"
        " read, and the service may run. Where texts are not kept, their vectors take the place of them: train with"
        " the encoders that served, as --against does; see docs/feedback.md",
    )
    train.add_argument("--out", required=True, metavar="DIR", help="directory to write the artifact to")
    train.add_argument("--prices", metavar="FILE", help="profiles with prices, YAML or JSON; see docs/profiles.md")
    train.add_argument(
        "--encoder",
        metavar="static|full|both|DIR",
        help="static (microseconds), full (milliseconds, tells intents apart better), both (an artifact with a tier of"
        " each), or an encoder directory (default: static; with --against, those of CURRENT)",
    )
    train.add_argument("--seed", type=seed, default=0, help="seed of folds and clusters (default 0)")
    train.add_argument(
        "--store-prompts",
        choices=("none", "preview", "full"),
        default="none",
        help="text of the rows kept in the artifact, to be shown with neighbours (default none)",
    )
    train.add_argument(
        "--split",
        choices=("time", "random"),
        help="how rows are held out for the report: random folds, or every block of time decided by what came before it"
        " (default: time where every row has a timestamp and they span more than 14 days)",
    )
    train.add_argument(
        "--margin",
        type=amount,
        default=1.0,
        metavar="POINTS",
        help="quality that counts as nothing, in points (default 1)",
    )
    train.add_argument(
        "--intents",
        choices=("given", "model", "discover", "none"),
        help="where the rows' intents come from: the log's labels, the model beside the encoder, clusters named by"
        " their own words, or nowhere (default: the first of the first three that there is)",
    )
    train.add_argument(
        "--against",
        metavar="CURRENT",
        help="compare with this artifact on rows that neither learns from, and say whether to promote; where not, the"
        f" new artifact is written all the same and the exit code is {NOT_PROMOTED}",
    )
    train.add_argument(
        "--hold-out",
        type=held_out_share,
        metavar="SHARE",
        help="share of the rows that is not learnt from, so that challengers can be compared on it"
        " (default 0; with --against as CURRENT did, or 0.1)",
    )
    train.add_argument(
        "--half-life-days",
        type=above_zero,
        metavar="DAYS",
        help="a row counts half as much for every so many days that it is older than the newest"
        " (default: age does not matter)",
    )
    train.add_argument(
        "--max-key-share",
        type=key_share,
        default=0.05,
        metavar="SHARE",
        help="a judge's rows count for at most this share of all, and one whom all others contradict is left out"
        " (default 0.05; 1: all count in full); see docs/memory.md",
    )
    train.add_argument("--cache", metavar="DIR", help="keep vectors of encoded texts here, for the next training")
    add_json(train)


def _add_eval(commands: Commands) -> None:
    evaluate = _command(commands, "eval", _eval, "measure an artifact on a separate log, against the fixed models")
    evaluate.add_argument("artifact", help="directory written by 'whichmodel train --out'")
    _add_log_options(evaluate)
    evaluate.add_argument("--tier", choices=TIERS, help="judge this tier of the artifact (default: its best)")
    evaluate.add_argument(
        "--margin",
        type=amount,
        default=1.0,
        metavar="POINTS",
        help="quality that counts as nothing, in points (default 1)",
    )
    evaluate.add_argument(
        "--report", metavar="DIR", help="write index.html, its plots and report.json there; see docs/report.md"
    )
    evaluate.add_argument(
        "--show-prompts",
        action="store_true",
        help="with --report: examples show 200 characters of their prompts, even if the artifact stores none",
    )
    add_json(evaluate)


def _add_data(commands: Commands) -> None:
    data = commands.add_parser("data", help="look at preference logs", description="Look at preference logs.")
    verbs = data.add_subparsers(dest="verb", required=True, metavar="VERB")
    inspect = _command(verbs, "inspect", _inspect, "say how a log is read and how healthy it is, before training on it")
    _add_log_options(inspect)
    add_json(inspect)


def _train(args: argparse.Namespace) -> int:
    if not args.sources and args.from_feedback is None:
        raise ConfigError("train: got no SOURCE, expected at least one, or --from-feedback STORE")
    check_target(args.out)
    profiles = read_profiles(args.prices) if args.prices else None
    _training()
    from training.build import Reserve, learn
    from training.challenge import challenge, encoders_of, reserve_of, template_of

    current = None if args.against is None else load_artifact(args.against)
    with _Bars() as bars:
        log = _load_log(args, feedback=args.from_feedback)
        learnt = learn(
            log,
            seed=args.seed,
            encoder=args.encoder or ("static" if current is None else encoders_of(current)),
            profiles=profiles,
            store_prompts=args.store_prompts,
            margin=args.margin / 100,
            split=args.split,
            intents=args.intents,
            reserve=Reserve(args.hold_out or 0.0) if current is None else reserve_of(current, args.hold_out),
            half_life_days=args.half_life_days,
            max_key_share=args.max_key_share,
            template=None if current is None else template_of(log, current),
            cache=Path(args.cache) if args.cache else None,
            progress=bars.show,
        )
    challenged = None if current is None else challenge(learnt, current)
    artifact, report = (learnt if challenged is None else challenged).artifact, learnt.report
    artifact = artifact.write(args.out)
    _say_refused(log)
    _say_held_back(report.details["weights"]["held_back"])
    _say_unpriced(artifact, profiles)
    if log.feedback is not None:
        print(_feedback_lines(report.details["feedback"]))
    print(report.render())
    if challenged is not None:
        report = challenged.report
        print(challenged.comparison.render())
    print(f"wrote {args.out} (artifact {artifact.id}, {artifact.n_rows} rows, {len(artifact.models)} models)")
    if args.json:
        _print_json({**report.to_json(), "artifact_id": artifact.id})
    return 0 if challenged is None or challenged.comparison.promoted else NOT_PROMOTED


def _eval(args: argparse.Namespace) -> int:
    _training()
    from training.evaluate import judge_log
    from training.report_page import check_directory, write_report

    if args.report is not None:
        check_directory(args.report)
    artifact = load_artifact(args.artifact).only(args.tier)
    log = _load_log(args)
    with _Bars() as bars:
        judged = judge_log(artifact, log, progress=bars.show)
    report = judged.report(margin=args.margin / 100)
    _say_refused(log)
    _say_leaked(report.n_prompts, report.details)
    print(report.render())
    if args.report is not None:
        page = write_report(args.report, artifact, judged, report, show_prompts=args.show_prompts)
        print(f"wrote {page}")
    if args.json:
        _print_json(report.to_json())
    return 0


def _show(args: argparse.Namespace) -> int:
    router = Router.load(args.artifact)
    about = router.describe()
    router.close()
    if args.json:
        _print_json(about)
        return 0
    print(f"artifact   {about['artifact_id']}")
    for tier in about["tiers"]:
        print(
            f"{tier['tier']:<10} {tier['encoder']} ({tier['dim']} dimensions, {tier['id'][:12]}); "
            f"gain {_interval(tier['gain'])}; {tier['verdict']['label']}"
        )
    print(f"rows       {about['n_rows']} prompts, {about['kind']}; prompts stored: {about['prompts_stored']}")
    print(f"models     {', '.join(about['models'])}")
    print(f"intents    {', '.join(about['intents']) or 'none'} ({INTENTS_FROM[about['intents_from']]})")
    print(f"best fixed {about['best_fixed']}")
    print(f"held out   {about['report']['protocol']}")
    print(about["verdict"]["text"])
    return 0


def _intents(args: argparse.Namespace) -> int:
    artifact = load_artifact(args.artifact)
    standings = intent_standings(artifact)
    n_without = artifact.n_rows - sum(one.n_rows for one in standings)
    if args.json:
        _print_json(
            {
                "artifact_id": artifact.id,
                "intents_from": artifact.intents_from,
                "best_fixed": artifact.best_fixed,
                "n_rows_without": n_without,
                "intents": [asdict(one) for one in standings],
            }
        )
        return 0
    if standings:
        print(render_standings(standings, artifact.best_fixed))
    without = f"; {n_without} of {artifact.n_rows} rows have no intent" if standings and n_without else ""
    print(f"intents    {INTENTS_FROM[artifact.intents_from]}{without}")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    _training()
    from training.inspect import inspect_log, render

    report = inspect_log(_load_log(args))
    print(render(report))
    if args.json:
        _print_json(report)
    return 0


def _training() -> Any:
    """Import the offline half; it says itself which extra is missing."""
    import training

    return training


def _load_log(args: argparse.Namespace, feedback: str | None = None) -> Any:
    return _training().load(
        *args.sources,
        format=args.format,
        models=names(args.models),
        aliases=_aliases(args.alias),
        drop_models=tuple(args.drop_model),
        on_bad_row=args.on_bad_row,
        feedback=feedback,
        progress=sys.stderr.isatty(),
    )


def _say_unpriced(artifact: RouterArtifact, profiles: Mapping[str, ModelProfile] | None) -> None:
    unpriced = [name for name in artifact.models if artifact.profiles[name].cost_usd(1) is None]
    if unpriced and (profiles is not None or len(unpriced) < len(artifact.models)):
        print(f"whichmodel: no price for {', '.join(unpriced)}: costs are left out of the report", file=sys.stderr)
    unknown = sorted(set(profiles or ()) - set(artifact.models))
    if unknown:
        print(f"whichmodel: priced, but not in the log: {', '.join(unknown)}", file=sys.stderr)


def _say_refused(log: Any) -> None:
    if log.refusals:
        n_all = len(log.refusals) + len(log)
        print(f"whichmodel: {len(log.refusals)} of {n_all} rows refused; the first: {log.refusals[0]}", file=sys.stderr)


def _feedback_lines(read: JsonObject) -> str:
    """Return what was read of a feedback store, and what of it teaches nothing and why."""
    with_text, without = read["n_with_text"], read["n_without_text"]
    lines = [f"feedback   {with_text + without} events of {read['name']}: {with_text} with text, {without} without"]
    for name, why in FEEDBACK_UNUSED.items():
        if read[name]:
            lines.append(f"           not used: {read[name]} {why}")
    return "\n".join(lines)


def _say_held_back(held_back: Sequence[JsonObject]) -> None:
    """Name the judges whose rows count for less, those that were left out first."""
    for one in held_back:
        what = f"count {one['factor']:.2g} times" if one["factor"] > 0 else "are left out"
        print(f"whichmodel: {one['n_comparisons']} rows of {one['key']} {what}: {one['reason']}", file=sys.stderr)


def _say_leaked(n_prompts: int, details: JsonObject) -> None:
    """Warn of prompts that the artifact was trained on, word for word or nearly so: they are not held out."""
    n_same, n_near = details["n_trained_on"], details["n_near_duplicates_of_training"]
    for n, what, key, these in (
        (n_same, "are training rows word for word", "gain_on_unseen", "them"),
        (
            n_near,
            "are near-duplicates of training rows (cosine above 0.95)",
            "gain_without_near",
            "both" if n_same else "them",
        ),
    ):
        if n:
            left = f"gain without {these} {_interval(details[key])}" if key in details else "no other prompts are left"
            print(f"whichmodel: {n} of {n_prompts} prompts {what}: not held out; {left}", file=sys.stderr)


def _interval(gain: JsonObject) -> str:
    return f"{gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"


def _aliases(pairs: Sequence[str]) -> dict[str, str]:
    out = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            raise ConfigError(f"--alias {pair}: expected OLD=NEW")
        out[old] = new
    return out


def render_standings(standings: Sequence[IntentStanding], best_fixed: str) -> str:
    """Return the intents for people, one line each: margins in points, support in rows."""
    width = max(6, *(len(one.intent) for one in standings))
    names = max(10, *(len(one.best) for one in standings))
    fixed = f"over {best_fixed}"
    lines = [f"{'intent':<{width}}    rows  share  {'best model':<{names}}  quality  over second  {fixed}  support"]
    lines.extend(
        f"{one.intent:<{width}}  {one.n_rows:>6}  {100 * one.share:>3.0f} %  {one.best:<{names}}  {one.quality:>7.3f}  "
        f"{100 * one.margin:>+11.1f}  {100 * one.lead_over_fixed:>+{len(fixed)}.1f}  {one.support:>7}"
        for one in standings
    )
    return "\n".join(lines)


def _print_json(value: JsonObject) -> None:
    print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)


class _Bars:
    """Progress bars on stderr, one per stage, when a person is looking."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, stage: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        from tqdm import tqdm

        if stage != self._stage:
            if self._bar is not None:
                self._bar.close()
            self._stage, self._bar = stage, tqdm(total=total, desc=stage, unit="", leave=False)
        self._bar.update(done - self._bar.n)


if __name__ == "__main__":
    sys.exit(main())
