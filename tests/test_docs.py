"""Docs that cannot drift: the README's map, the Makefile's verbs and the command line are what they say."""

import re
from pathlib import Path

import pytest

from router.cli import main
from router.encoder import OnnxEncoder
from router.policy import REASONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = (
    *("train", "eval", "route", "serve", "show", "intents", "whatif", "data inspect", "encoder distill"),
    *("feedback export", "profiles check", "forget"),
)


MODULES = [
    path.name
    for package in ("router", "training")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.name != "__init__.py" and path.parent.name not in ("service", "sources", "feedback")
]


@pytest.mark.parametrize("name", MODULES)
def test_readme_map_names_every_module(name):
    tree = README.split("## Map of the code")[1]

    assert re.search(rf"(?<!\w){re.escape(name)}", tree), f"{name} is missing from the README's map"


def test_readme_map_names_no_module_that_is_gone():
    tree = README.split("## Map of the code")[1]

    assert set(re.findall(r"\w+\.py", tree)) <= set(MODULES)


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"`?make ([a-z-]+)", README))))
def test_makefile_has_every_verb_of_the_readme(verb):
    assert re.search(rf"^{verb}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([*command.split(), "--help"])

    assert left.value.code == 0
    assert len(capsys.readouterr().out) > 200


def test_docs_name_every_reason_and_every_setting_of_an_encoder():
    service, encoders = ((ROOT / "docs" / name).read_text() for name in ("service.md", "encoders.md"))

    reasons = service.split("`reason` says")[1].split("Headers")[0]
    assert re.findall(r"^- `(\w+)`:", reasons, re.MULTILINE) == list(REASONS)
    assert all(f"`{name}`" in encoders for name in OnnxEncoder.load("static").settings.to_json())


@pytest.mark.parametrize("name", ["results", "latency", "decision"])
def test_readme_tables_are_filled(name):
    content = README.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]

    assert len(content.strip().splitlines()) >= 3
