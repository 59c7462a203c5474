"""``whichmodel serve``: the options that the table of settings gives, and the check of a configuration."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from router.artifact import RouterArtifact, load_artifact
from router.errors import ArtifactError, ConfigError
from router.misnamed import misnamed
from router.policies import PolicyBook
from router.profiles import read_profiles
from router.service.auth import check_bind
from router.service.config import Config, misspelt_variables, read_config
from router.service.settings import KEYS_VARIABLE, SETTINGS, Setting, Settings
from router.shadow_log import check_log
from router.types import ModelProfile

Command = Callable[..., argparse.ArgumentParser]

EPILOG = f"""Every setting can also stand in FILE (docs/whichmodel.toml is a sample), in the table named behind it in
brackets, or in the environment, as WHICHMODEL_ and its name in capitals. The command line wins over the
environment, and that over the file. API keys come from {KEYS_VARIABLE} (comma-separated) or from the
file of keys; without one the service listens on loopback addresses only. See docs/service.md.
"""


def add_serve(commands: Any, command: Command) -> None:
    """Add ``serve`` to the command line."""
    serve = command(commands, "serve", _serve, "answer POST /route over HTTP", EPILOG)
    serve.add_argument("--config", metavar="FILE", help="TOML file of settings; paths in it are relative to it")
    serve.add_argument(
        "--check-config",
        action="store_true",
        help="check settings, policies, profiles and artifact, print what is in force and whence, serve nothing",
    )
    group = serve.add_argument_group("settings")
    for setting in SETTINGS:
        if not setting.option.startswith("-"):
            serve.add_argument(
                setting.name, nargs="?", type=_reader(setting), metavar=setting.option, help=setting.help
            )
        else:
            default = f"default {setting.shown(setting.default)}"
            group.add_argument(
                setting.option,
                type=_reader(setting),
                metavar=_metavar(setting),
                help=f"{setting.help} ({default}) [{setting.table}]",
            )


def _reader(setting: Setting) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return setting.from_text(text, setting.option)
        except ConfigError as exc:
            raise argparse.ArgumentTypeError(f"expected {setting.wanted}, got {text}") from exc

    return read


def _metavar(setting: Setting) -> str:
    if setting.kind is Path:
        return "FILE"
    if setting.kind is bool:
        return "true|false"
    own = "N" if setting.kind is int else setting.short_name.upper()
    return "|".join(setting.choices) or setting.unit.upper() or own


def _serve(args: argparse.Namespace) -> int:
    options = {one.name: getattr(args, one.name) for one in SETTINGS if getattr(args, one.name) is not None}
    config = read_config(args.config, os.environ, options)
    if args.check_config:
        return _check(config)
    settings = config.settings
    if settings.artifact is None:
        print(
            "whichmodel serve: give an ARTIFACT, or server.artifact in the --config FILE, or WHICHMODEL_ARTIFACT",
            file=sys.stderr,
        )
        return 2
    _say_misspelt()
    # FastAPI takes a second to import.
    from router.service.reloads import load_router
    from router.service.server import serve

    router = load_router(settings)
    for line in _doubts(settings.policies, router.artifact):
        print(f"whichmodel: {line}", file=sys.stderr)
    serve(router, settings, announce=lambda line: print(line, flush=True))
    return 0


def _check(config: Config) -> int:
    settings = config.settings
    check_bind(settings.host, settings.api_keys)
    artifact = load_artifact(settings.artifact) if settings.artifact is not None else None
    profiles = read_profiles(settings.profiles) if settings.profiles is not None else None
    shadow = _check_shadow(settings)
    _say_misspelt()
    print(config.render())
    if profiles is not None:
        print(_about_profiles(profiles, artifact))
    if shadow:
        print(shadow)
    if artifact is not None:
        for line in _doubts(settings.policies, artifact):
            print(line)
    if artifact is None:
        print("ok: the settings are in order; no artifact was named")
    else:
        print(f"ok: the settings are in order; artifact {artifact.id} is whole, its verdict {artifact.verdict.label}")
    return 0


def _check_shadow(settings: Settings) -> str:
    """Return what is said of the shadow; nothing where none is configured.

    Raises:
        ArtifactError, ConfigError: it would keep the service from starting.
    """
    if settings.shadow_artifact is None or settings.shadow_log is None:
        return ""
    if settings.shadow_share == 0:
        return "shadow.share is 0: no shadow decides"
    check_log(settings.shadow_log)
    try:
        shadow = load_artifact(settings.shadow_artifact)
    except ArtifactError as exc:
        raise ArtifactError(f"shadow.artifact: {exc}") from exc
    return f"shadow artifact {shadow.id} is whole, its verdict {shadow.verdict.label}"


def _doubts(policies: PolicyBook, artifact: RouterArtifact) -> list[str]:
    """Return what policies and bindings name that the artifact does not know: in order, and hardly what was meant."""
    lines = misnamed(policies.policies.values(), artifact.models)
    for task in sorted({one.task for one in policies.bindings if one.task} - set(artifact.intents)):
        lines.append(f"task {task!r} is no intent of the artifact: policies are bound to it where a request names it")
    return lines


def _about_profiles(profiles: Mapping[str, ModelProfile], artifact: RouterArtifact | None) -> str:
    n_endpoints = sum(len(one.endpoints) for one in profiles.values())
    line = f"profiles of {len(profiles)} models, with {n_endpoints} endpoints"
    if artifact is None:
        return line
    return (
        f"{line}; {len(set(profiles) & set(artifact.models))} of the artifact's {len(artifact.models)} are among them"
    )


def _say_misspelt() -> None:
    """Warn of variables that are nearly settings: one that names no key would leave the service open in silence."""
    for line in misspelt_variables(os.environ):
        print(f"whichmodel: {line}", file=sys.stderr)
