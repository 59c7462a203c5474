"""router/cli_route.py: a policy of the service on the command line, checked values, names that are no model's."""

import json
from pathlib import Path
from typing import Any

import pytest

from router.artifact import RouterArtifact
from router.cli import main

PROMPT = "How long do I roast salmon together with rice?"
CONFIG = """
[policies]
default = "house"

[policies.house]
exclude = ["chef-large", "guide-small"]

[policies.legal]
candidates = ["chef-large", "guide-small"]
explore_share = 0.5

[policies.misspelt]
candidates = ["guide-smal", "guide-small"]

[[bindings]]
policy = "legal"
key = "firm"
"""


@pytest.fixture(scope="module")
def directory(artifact: RouterArtifact, tmp_path_factory: pytest.TempPathFactory) -> str:
    target = tmp_path_factory.mktemp("route") / "artifact"
    artifact.write(target)
    return str(target)


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "whichmodel.toml").write_text(CONFIG)
    return str(tmp_path / "whichmodel.toml")


def route(capsys: pytest.CaptureFixture[str], directory: str, *options: str) -> tuple[dict[str, Any], str]:
    """Return the decision and what stderr has."""
    assert main(["route", directory, PROMPT, "--json", "--explain", *options]) == 0
    told = capsys.readouterr()
    decision: dict[str, Any] = json.loads(told.out)
    return decision, told.err


def test_a_configured_policy_is_applied(directory: str, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Though the file binds it to a key that is not known here, and whatever its default excludes."""
    decision, told = route(capsys, directory, "--config", config, "--policy", "legal")
    assert decision["policy"] == "legal" and told == ""
    assert {one["model"] for one in decision["explanation"]["candidates"]} == {"chef-large", "guide-small"}
    assert decision["propensity"] in (0.25, 0.75)


def test_options_only_tighten_it(directory: str, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--config", config, "--policy", "legal", "--candidates", "coder-medium,guide-small")
    decision, _ = route(capsys, directory, *options)
    assert (decision["model"], decision["policy"]) == ("guide-small", "legal+request")
    assert main(["route", directory, PROMPT, *options[:4], "--candidates", "coder-medium"]) == 1
    assert "candidates: what the request allows and what policy legal allows" in capsys.readouterr().err


def test_a_preference_at_its_default_is_stated_too(
    directory: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--config", config, "--policy", "legal", "--explore-share", "0", "--exclude", "coder-medium")
    assert route(capsys, directory, *options)[0]["propensity"] == 1


def test_a_share_of_decisions_explores(directory: str, capsys: pytest.CaptureFixture[str]) -> None:
    decision, _ = route(capsys, directory, "--explore-share", "1")
    assert decision["propensity"] == pytest.approx(1 / 3, abs=1e-6)


def test_names_of_no_model_are_told(directory: str, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = "which is no model of the artifact, did you mean guide-small?"
    _, told = route(capsys, directory, "--exclude", "guide-smal", "--fallback", "zzz")
    assert told.splitlines() == [
        f"whichmodel: exclude names 'guide-smal', {wanted}",
        "whichmodel: fallback names 'zzz', which is no model of the artifact",
    ]
    _, told = route(capsys, directory, "--config", config, "--policy", "misspelt")
    assert told == f"whichmodel: policy misspelt: candidates names 'guide-smal', {wanted}\n"


@pytest.mark.parametrize("options", [("--config", "c.toml"), ("--policy", "legal")])
def test_configuration_and_policy_go_together(
    directory: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["route", directory, PROMPT, *options]) == 2
    assert "--config FILE and --policy NAME go together" in capsys.readouterr().err


def test_a_policy_that_is_missing_is_one_line(directory: str, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["route", directory, PROMPT, "--config", config, "--policy", "legl"]) == 1
    told = capsys.readouterr().err
    assert "no policy has the name 'legl': did you mean legal?" in told and told.count("\n") == 1


@pytest.mark.parametrize("text", ["-1", "1.5", "100000001", "9" * 5000, "many", "", "²", "١"])
def test_context_tokens_are_a_checked_number(directory: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["route", directory, PROMPT, f"--context-tokens={text}"])
    assert "expected a whole number from 0 to 100,000,000" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "100000000"])
def test_context_tokens_of_any_length_are_taken(directory: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert route(capsys, directory, "--context-tokens", text)[0]["model"]
