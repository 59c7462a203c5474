"""router/cli.py: the verdict stands where a person looks, and leaks are told on stderr."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.artifact import RouterArtifact
from router.cli import main

pytest.importorskip("sklearn")

from training.comparisons import PreferenceLog

UNSEEN = ("How should I roast a whole duck?", "My async code deadlocks on a lock", "A weekend in Porto by train")


@pytest.fixture
def directory(artifact: RouterArtifact, tmp_path: Path) -> Path:
    """The artifact made by hand, written, with the report that 'show' reads."""
    gain = {"mean": 0.2, "low": 0.15, "high": 0.25}
    report = {**artifact.report, "gain": gain, "protocol": "made by hand"}
    replace(artifact, tiers=(replace(artifact.best, report=report),)).write(tmp_path / "artifact")
    return tmp_path / "artifact"


def write_log(path: Path, prompts: list[str], models: tuple[str, ...]) -> str:
    rows = [
        {"prompt": prompt, "scores": {model: (k + j) % 3 / 2 for j, model in enumerate(models)}}
        for k, prompt in enumerate(prompts)
    ]
    path.write_text("\n".join(json.dumps(one) for one in rows))
    return str(path)


def test_train_and_show_end_with_the_verdict(
    tmp_path: Path, scores_log: PreferenceLog, small_grid: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": one.prompt, "scores": dict(one.scores or {})} for one in scores_log.comparisons]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(one) for one in rows))
    assert main(["train", str(tmp_path / "log.jsonl"), "--out", str(tmp_path / "made"), "--json"]) == 0
    *_, verdict, wrote, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert verdict == report["verdict"]["text"] and verdict.startswith(report["verdict"]["label"])
    assert wrote.startswith("wrote ")
    assert report["details"]["margin"] == 0.01 and "rows_needed" in report["details"]
    assert main(["show", str(tmp_path / "made")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == verdict


def test_show_prints_the_verdict_and_the_gain(
    directory: Path, artifact: RouterArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(directory)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == artifact.verdict.text
    assert out[-2] == "held out   made by hand"
    assert out[1].startswith("static     minilm-l6-intents-static-256 (256 dimensions, ")
    assert out[1].endswith("); gain +0.2000 (+0.1500 to +0.2500); ROUTE")
    assert main(["show", str(directory), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"]["text"] == artifact.verdict.text


def test_eval_prints_its_own_verdict_and_no_warning(
    directory: Path, artifact: RouterArtifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(tmp_path / "log.jsonl", list(UNSEEN), artifact.models)
    assert main(["eval", str(directory), log, "--json"]) == 0
    told = capsys.readouterr()
    *lines, last = told.out.splitlines()
    report = json.loads(last)
    assert lines[-1] == report["verdict"]["text"] and told.err == ""
    assert report["details"]["n_trained_on"] == report["details"]["n_near_duplicates_of_training"] == 0
    assert not {"gain_on_unseen", "gain_without_near"} & set(report["details"])
    assert "unseen" not in told.out.split("{")[0]


def test_eval_warns_of_training_rows_and_of_near_duplicates(
    directory: Path,
    artifact: RouterArtifact,
    scores_log: PreferenceLog,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = [one.prompt for one in scores_log.comparisons[:4]]
    # The encoder sees a bag of words: the same words in another order lie at the same point, or nearly.
    near = [" ".join(reversed(one.split())) for one in seen[:2]]
    log = write_log(tmp_path / "log.jsonl", [*seen, *near, *UNSEEN], artifact.models)
    assert main(["eval", str(directory), log, "--json"]) == 0
    told = capsys.readouterr()
    details = json.loads(told.out.splitlines()[-1])["details"]
    n_near = details["n_near_duplicates_of_training"]
    assert details["n_trained_on"] == 4 and 1 <= n_near <= 2
    word_for_word, nearly = told.err.splitlines()
    assert word_for_word.startswith("whichmodel: 4 of 9 prompts are training rows word for word: not held out; gain")
    assert nearly.startswith(
        f"whichmodel: {n_near} of 9 prompts are near-duplicates of training rows (cosine above 0.95)"
    )
    for line, gain in ((word_for_word, details["gain_on_unseen"]), (nearly, details["gain_without_near"])):
        assert line.endswith(f"{gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})")
        assert f"{gain['mean']:+.4f}  95 % interval {gain['low']:+.4f}" in told.out
    assert "without 4 training rows\n" in told.out
    assert f"without 4 training rows and {n_near} near-duplicates\n" in told.out


def test_eval_on_the_training_rows_says_that_nothing_is_left(
    directory: Path,
    artifact: RouterArtifact,
    scores_log: PreferenceLog,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = [one.prompt for one in scores_log.comparisons[:4]]
    assert main(["eval", str(directory), write_log(tmp_path / "log.jsonl", seen, artifact.models)]) == 0
    told = capsys.readouterr()
    assert told.err == (
        "whichmodel: 4 of 4 prompts are training rows word for word: not held out; no other prompts are left\n"
    )
    assert "unseen" not in told.out
