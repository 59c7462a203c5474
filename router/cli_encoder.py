"""The verbs of ``whichmodel encoder``: tune, distill, export (extra [encoders]), intents and check."""

import argparse
import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from router.arguments import amount, count, held_out_share, seed
from router.encoder import TRUNCATIONS, OnnxEncoder, check_canaries
from router.errors import ConfigError, EncoderError
from router.types import JsonObject

# Canaries within the first are the same vectors; within the second, another processor rounds int8 otherwise.
SAME, ALIKE = 1e-3, 0.05

TUNING_FILE = "tuning.json"

Command = Callable[..., argparse.ArgumentParser]
Bars = Callable[[], Any]


def add_encoder(commands: Any, command: Command, bars: Bars) -> None:
    """Add ``encoder`` and its verbs to the command line. bars: makes the context of progress bars."""
    encoder = commands.add_parser("encoder", help="make and check encoders", description="Make and check encoders.")
    verbs = encoder.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_tune(verbs, command, bars)
    _add_distill(verbs, command, bars)
    _add_export(verbs, command)
    intents = command(
        verbs,
        "intents",
        _intents,
        "write intents.json beside an encoder: what 'train --intents model' labels the rows of a log with",
        "One mean vector per intent, as this encoder gives it. Needs the extra [train] only.",
    )
    intents.add_argument("encoder", metavar="DIR", help="encoder directory")
    intents.add_argument("--labels", nargs="+", required=True, metavar="SOURCE", help="files of labelled prompts")
    intents.add_argument("--test", nargs="+", default=[], metavar="SOURCE", help="labelled prompts to measure it on")
    intents.add_argument("--force", action="store_true", help="replace the intents.json that is there")
    check = command(
        verbs, "check", _check, "run an encoder's canaries and say what it is", "exit code 1 when its vectors changed"
    )
    check.add_argument("encoder", metavar="DIR", help="encoder directory, or 'static' or 'full' for one that ships")


def _add_tune(verbs: Any, command: Command, bars: Bars) -> None:
    tune = command(
        verbs,
        "tune",
        lambda args: _tune(args, bars),
        "tune a sentence encoder so that prompts of one intent lie together",
        "A source is a JSON Lines, JSON, CSV or Parquet file with a prompt (prompt, messages, text ...) and a label\n"
        "(intent, label, category ...) per row. Next: 'encoder distill' and 'encoder export' of what was written.\n"
        "Ctrl-C stops early and keeps what was learnt.",
    )
    tune.add_argument("sources", nargs="+", metavar="SOURCE", help="files of labelled prompts")
    tune.add_argument("--base", metavar="DIR", help="sentence-transformers directory (default: all-MiniLM-L6-v2)")
    tune.add_argument("--out", required=True, metavar="DIR", help="directory to write; must not exist yet")
    tune.add_argument("--wins", action="store_true", help="sources are preference logs: learn which models win, too")
    tune.add_argument("--max-tokens", type=count, default=128, help="longer prompts are cut (default 128)")
    tune.add_argument("--truncation", choices=TRUNCATIONS, default="middle", help="what is cut away (default middle)")
    _add_learning(tune, n_epochs=4, learning_rate=1e-4, keep=2.0)


def _add_distill(verbs: Any, command: Command, bars: Bars) -> None:
    distill = command(
        verbs,
        "distill",
        lambda args: _distill(args, bars),
        "distil a sentence encoder to the static tier: a token table as int8 ONNX",
        "With --labels or --texts the table is tuned: to the labels, to those that the base gives the --texts, and\n"
        "to its sense of likeness.",
    )
    distill.add_argument("--base", metavar="DIR", help="sentence-transformers directory (default: all-MiniLM-L6-v2)")
    distill.add_argument("--out", required=True, metavar="DIR", help="encoder directory to write; must not exist yet")
    distill.add_argument("--dim", type=count, default=256, help="dimensions of the vectors (default 256)")
    distill.add_argument("--name", help="name of the encoder (default: that of the base, -static-DIM)")
    distill.add_argument("--labels", nargs="+", metavar="SOURCE", default=[], help="files of labelled prompts")
    _add_learning(distill, n_epochs=12, learning_rate=1e-3, keep=50.0)


def _add_learning(parser: argparse.ArgumentParser, *, n_epochs: int, learning_rate: float, keep: float) -> None:
    parser.add_argument("--texts", nargs="+", metavar="FILE", default=[], help="files of prompts without labels")
    parser.add_argument("--epochs", type=count, default=n_epochs, help=f"passes over the prompts (default {n_epochs})")
    parser.add_argument("--learning-rate", type=amount, default=learning_rate, help=f"default {learning_rate:g}")
    parser.add_argument(
        "--keep",
        type=amount,
        default=keep,
        help=f"weight of keeping old likenesses against intents (default {keep:g})",
    )
    parser.add_argument(
        "--held-out",
        type=held_out_share,
        default=0.1,
        help="share of the labelled prompts that only measure (default 0.1)",
    )
    parser.add_argument("--seed", type=seed, default=0)


def _add_export(verbs: Any, command: Command) -> None:
    export = command(
        verbs,
        "export",
        _export,
        "write a sentence encoder as tokenizer.json and one self-contained model.onnx, and print the parity",
        "The output of model.onnx is the pooled unit vector. int8 is a quarter of the size and about twice as fast.",
    )
    export.add_argument("base", metavar="DIR", help="sentence-transformers directory, as 'encoder tune' writes it")
    export.add_argument("--out", required=True, metavar="DIR", help="encoder directory to write; must not exist yet")
    export.add_argument("--precision", choices=("int8", "fp32"), default="int8")
    export.add_argument("--max-tokens", type=count, help="longer prompts are cut (default: as it was tuned, else 128)")
    export.add_argument(
        "--truncation", choices=TRUNCATIONS, help="what is cut away (default: as it was tuned, else middle)"
    )
    export.add_argument("--name", help="name of the encoder (default: that of the directory, and the precision)")
    export.add_argument("--texts", nargs="+", metavar="FILE", default=[], help="prompts to measure the parity on")


def _require_torch() -> None:
    if importlib.util.find_spec("torch") is None:  # before training asks for its own, smaller extra
        raise ConfigError("torch is missing; install the encoders extra: pip install 'whichmodel[encoders]'")
    from training.distill import require_encoders_extra

    require_encoders_extra()


def _settings(args: argparse.Namespace, defaults: Any) -> Any:
    return replace(
        defaults,
        n_epochs=args.epochs,
        learning_rate=args.learning_rate,
        keep=args.keep,
        held_out=args.held_out,
        seed=args.seed,
    )


def _say_epoch(epoch: Any) -> None:
    measured = "" if epoch.accuracy is None else f", accuracy on held-out prompts {epoch.accuracy:.3f}"
    print(
        f"epoch {epoch.number}: intent loss {epoch.intent_loss:.3f}, likeness loss {epoch.keep_loss:.4f}{measured} "
        f"({epoch.seconds:.0f} s)",
        file=sys.stderr,
        flush=True,
    )


def _tune(args: argparse.Namespace, bars: Bars) -> int:
    _require_torch()
    from training.finetune import tune
    from training.labels import read_labelled, read_outcomes, with_unlabelled
    from training.torch_encoder import SentenceEncoder, base_sha256, default_base
    from training.tuning import FULL_TUNING

    out = _new_directory(args.out)
    settings = _settings(args, FULL_TUNING)
    prompts = read_outcomes(*args.sources) if args.wins else read_labelled(*args.sources)
    if args.texts:
        prompts = with_unlabelled(prompts, *args.texts)
    base = Path(args.base or default_base())
    encoder = SentenceEncoder(base, max_tokens=args.max_tokens, truncation=args.truncation)
    sources = {Path(one).name: _sha256(Path(one)) for one in [*args.sources, *args.texts]}
    print(f"tuning {base} on {prompts.describe()}, on {encoder.device}", file=sys.stderr)
    epochs: list[Any] = []

    def on_epoch(epoch: Any) -> None:
        epochs.append(epoch)
        _say_epoch(epoch)

    interrupted = False
    try:
        with bars() as shown:
            tune(encoder, prompts, settings, progress=shown.show, on_epoch=on_epoch)
    except KeyboardInterrupt:
        interrupted = True
    encoder.save(out)
    record = {
        "base_sha256": base_sha256(base),
        "sources": sources,
        "max_tokens": encoder.settings.max_tokens,
        "truncation": encoder.settings.truncation,
        "wins": args.wins,
        "n_prompts": len(prompts),
        "intents": list(prompts.names),
        "settings": asdict(settings),
        "interrupted": interrupted,
        "epochs": [asdict(epoch) for epoch in epochs],
    }
    (out / TUNING_FILE).write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {out}{' (interrupted: what was learnt until then)' if interrupted else ''}")
    return 130 if interrupted else 0


def _distill(args: argparse.Namespace, bars: Bars) -> int:
    _require_torch()
    from training.distill import distill
    from training.labels import read_labelled, with_unlabelled
    from training.torch_encoder import default_base
    from training.tuning import STATIC_TUNING

    prompts = read_labelled(*args.labels) if args.labels else None
    if args.texts:
        prompts = with_unlabelled(prompts, *args.texts)
    with bars() as shown:
        settings = distill(
            Path(args.base or default_base()),
            _new_directory(args.out),
            dim=args.dim,
            seed=args.seed,
            name=args.name,
            prompts=prompts,
            settings=_settings(args, STATIC_TUNING),
            progress=shown.show if sys.stderr.isatty() else None,
            on_epoch=_say_epoch,
        )
    print(f"wrote {args.out} ({settings.name}, {settings.dim} dimensions)")
    return 0


def _export(args: argparse.Namespace) -> int:
    _require_torch()
    from training.distill import CANARY_TEXTS
    from training.export_encoder import export
    from training.labels import read_labelled

    texts = read_labelled(*args.texts, with_labels=False).texts if args.texts else CANARY_TEXTS
    tuned = _read_tuning(Path(args.base))
    settings, parity = export(
        Path(args.base),
        _new_directory(args.out),
        precision=args.precision,
        max_tokens=args.max_tokens or tuned.get("max_tokens"),
        truncation=args.truncation or tuned.get("truncation") or "middle",
        name=args.name,
        texts=texts,
        canary_texts=CANARY_TEXTS,
    )
    for kind, one in parity.items():
        print(f"{kind} against PyTorch on {one.n_texts} prompts: cosine {one.lowest:.6f} at least, {one.mean:.6f} mean")
    print(f"wrote {args.out} ({settings.name}, {settings.dim} dimensions)")
    return 0


def _intents(args: argparse.Namespace) -> int:
    from training.intents import INTENTS_FILE, fit_intents, intent_accuracy
    from training.labels import read_labelled

    directory = Path(args.encoder)
    if not directory.is_dir():
        raise EncoderError(f"{directory}: no such directory; expected one that 'encoder export' or 'distill' wrote")
    if (directory / INTENTS_FILE).exists() and not args.force:
        raise EncoderError(f"{directory / INTENTS_FILE}: exists already; --force replaces it")
    encoder = OnnxEncoder.load(directory)
    model = fit_intents(encoder, read_labelled(*args.labels))
    try:
        beside = directory / f".{INTENTS_FILE}.partial"
        beside.write_text(json.dumps(model.to_json(), ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(directory / INTENTS_FILE)
    except OSError as exc:
        raise EncoderError(f"{directory / INTENTS_FILE}: cannot be written: {exc.strerror}") from exc
    print(f"wrote {directory / INTENTS_FILE} ({len(model.names)} intents)")
    if args.test:
        share, n = intent_accuracy(encoder, model, read_labelled(*args.test))
        print(f"right on {share:.3f} of {n} other prompts")
    return 0


def _check(args: argparse.Namespace) -> int:
    encoder = OnnxEncoder.load(args.encoder)
    settings = encoder.settings
    if not settings.canaries:
        raise EncoderError(f"{args.encoder}: encoder.json holds no canaries, nothing to check")
    difference = check_canaries(encoder)
    print(f"encoder    {settings.name} ({settings.tier} tier, {settings.dim} dimensions)")
    print(f"id         {encoder.id}")
    print(f"length     {settings.max_tokens} tokens, truncation {settings.truncation}")
    print(f"canaries   {len(settings.canaries)}, largest difference {difference:.2g}")
    limit = ALIKE if settings.tier == "full" else SAME
    if not difference <= limit:
        raise EncoderError(
            f"{args.encoder}: its vectors are not those it was made with, a canary differs by {difference:.2g}; "
            f"expected at most {limit:g}"
        )
    if difference > SAME:
        print("ok         up to rounding on this processor: train and serve on processors of one kind")
    else:
        print("ok         the vectors are those it was made with")
    return 0


def _read_tuning(base: Path) -> JsonObject:
    """Return what ``encoder tune`` recorded of a directory, or nothing where it did not make it."""
    if not (base / TUNING_FILE).is_file():
        return {}
    try:
        tuned = json.loads((base / TUNING_FILE).read_bytes())
    except (OSError, ValueError) as exc:
        raise EncoderError(f"{base / TUNING_FILE}: cannot be read: {exc}") from exc
    return tuned if isinstance(tuned, dict) else {}


def _new_directory(out: str) -> Path:
    path = Path(out)
    if path.exists():
        raise EncoderError(f"{path}: exists already, expected the name of a new directory")
    if not path.resolve().parent.is_dir():
        raise EncoderError(f"{path}: {path.resolve().parent} is no directory")
    return path


def _sha256(path: Path) -> str | None:
    """Return the SHA-256 of a file, None for a folder or a data set of a hub."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
