"""router/intents.py and the command that shows it: which model stands best on each intent."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router.artifact import RouterArtifact
from router.cli import main
from router.estimate import Evidence
from router.intents import intent_standings


def test_each_intent_has_its_own_best_model(artifact: RouterArtifact) -> None:
    standings = {one.intent: one for one in intent_standings(artifact)}
    assert {name: one.best for name, one in standings.items()} == {
        "code": "coder-medium",
        "cooking": "chef-large",
        "travel": "guide-small",
    }
    fixed = artifact.models.index(artifact.best_fixed)
    for code, name in enumerate(artifact.intents):
        one, quality = standings[name], np.sort(artifact.intent_quality[code])[::-1]
        assert (one.n_rows, one.share, one.support) == (50, pytest.approx(1 / 3), 50)
        assert (one.quality, one.margin) == (quality[0], pytest.approx(quality[0] - quality[1]))
        assert one.lead_over_fixed == pytest.approx(quality[0] - artifact.intent_quality[code, fixed])
    assert [one.lead_over_fixed for one in standings.values()].count(0.0) == 1


def with_evidence(artifact: RouterArtifact, evidence: Evidence) -> RouterArtifact:
    return replace(artifact, tiers=(replace(artifact.best, evidence=evidence),))


def test_most_rows_first_and_support_counts_rows_on_which_the_best_was_seen(artifact: RouterArtifact) -> None:
    codes, h = artifact.best.evidence.intents.copy(), artifact.best.evidence.h.copy()
    codes[:30:3] = -1  # ten rows of "code" lose it
    h[1:31:3, artifact.models.index("chef-large")] = 0
    sparse = with_evidence(artifact, replace(artifact.best.evidence, intents=codes, h=h))
    assert [(one.intent, one.n_rows, one.support) for one in intent_standings(sparse)] == [
        ("cooking", 50, 40),
        ("travel", 50, 50),
        ("code", 40, 40),
    ]


def test_the_command_prints_a_line_per_intent_and_where_they_came_from(
    artifact: RouterArtifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = artifact.best.evidence.intents.copy()
    codes[:30:3] = -1
    with_evidence(artifact, replace(artifact.best.evidence, intents=codes)).write(tmp_path / "v1")
    assert main(["intents", str(tmp_path / "v1")]) == 0
    head, *lines, last = capsys.readouterr().out.splitlines()
    assert (
        head.split() == f"intent rows share best model quality over second over {artifact.best_fixed} support".split()
    )
    assert [line.split()[:5] for line in lines] == [
        ["cooking", "50", "33", "%", "chef-large"],
        ["travel", "50", "33", "%", "guide-small"],
        ["code", "40", "27", "%", "coder-medium"],
    ]
    assert len({len(line) for line in (head, *lines)}) == 1, "columns are aligned"
    assert last == "intents    labels given in the log; 10 of 150 rows have no intent"

    assert main(["intents", str(tmp_path / "v1"), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert (out["intents_from"], out["best_fixed"], out["n_rows_without"]) == ("given", artifact.best_fixed, 10)
    assert [one["intent"] for one in out["intents"]] == ["cooking", "travel", "code"]
    assert set(out["intents"][0]) == {
        *("intent", "n_rows", "share", "best", "quality", "margin", "lead_over_fixed", "support")
    }


def test_an_artifact_without_intents_says_so(
    artifact: RouterArtifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = np.zeros((0, len(artifact.models)))
    evidence = replace(artifact.best.evidence, intents=np.full(150, -1, dtype=np.int32), intent_priors=none)
    bare = replace(with_evidence(artifact, evidence), intents=(), intents_from="none", intent_quality=none)
    bare.write(tmp_path / "v1")
    assert main(["intents", str(tmp_path / "v1")]) == 0
    assert capsys.readouterr().out == "intents    the artifact has none; train with --intents to get some\n"
