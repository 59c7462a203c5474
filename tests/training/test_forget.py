"""training/forget.py: what is left agrees with a training that never saw the rows, and no file keeps a trace."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router.artifact import RouterArtifact, load_artifact
from router.cli import main
from router.encoder import OnnxEncoder
from router.errors import ConfigError, DataError
from router.memory import user_hash
from router.prompt import prompt_hash
from router.router import Router
from router.types import Endpoint, ModelProfile
from training.build import train
from training.comparisons import Comparison, PreferenceLog
from training.forget import Wanted, forget, other_holders

USERS = ("ann", "bob", "cleo", "dan", "eve")
PROFILES = {
    name: ModelProfile(name, endpoints=(Endpoint("default", usd, 2 * usd),))
    for name, usd in (("coder-medium", 1.0), ("chef-large", 8.0), ("guide-small", 0.25))
}


def with_users(log: PreferenceLog) -> PreferenceLog:
    """Every prompt of a log is by one of five users, taking turns."""
    rows = [replace(one, user=USERS[row % len(USERS)]) for row, one in enumerate(log.comparisons)]
    return PreferenceLog(comparisons=rows)


def by_others(log: PreferenceLog, *users: str) -> PreferenceLog:
    return PreferenceLog(comparisons=[one for one in log.comparisons if one.user not in users])


@pytest.fixture
def one_setting(small_grid: Callable[..., None]) -> None:
    """Nothing is chosen, so that two trainings have the same settings."""
    small_grid(SHRINKAGES=(3.0,), INTENT_PRIORS=(True,))


def assert_agree(one: RouterArtifact, other: RouterArtifact) -> None:
    """The same rows, and the same numbers but for what depends on the space."""
    assert np.array_equal(one.prompt_hashes, other.prompt_hashes) and np.array_equal(one.won, other.won)
    assert (one.models, one.intents, one.best_fixed) == (other.models, other.intents, other.best_fixed)
    assert one.intent_quality == pytest.approx(other.intent_quality, abs=1e-6)
    for mine, theirs in zip(one.tiers, other.tiers, strict=True):
        for name in ("prior", "intent_priors", "variance", "h", "g", "sizes"):
            assert getattr(mine.evidence, name) == pytest.approx(getattr(theirs.evidence, name), abs=2e-5), name
        assert np.array_equal(mine.evidence.intents, theirs.evidence.intents)
        assert mine.settings.difficulty_slope == pytest.approx(theirs.settings.difficulty_slope, abs=0.1)
        assert mine.settings.contrast_slope == pytest.approx(theirs.settings.contrast_slope, abs=0.1)
        assert mine.report["gain"]["mean"] == pytest.approx(theirs.report["gain"]["mean"], abs=0.03)
        assert mine.verdict.label == theirs.verdict.label
    for name in one.models:
        assert one.profiles[name].mean_output_tokens == pytest.approx(other.profiles[name].mean_output_tokens)
        assert one.profiles[name].mean_cost_usd == pytest.approx(other.profiles[name].mean_cost_usd)


@pytest.mark.parametrize("kind", ["scores", "battles", "costs"])
def test_what_is_left_agrees_with_training_without_the_rows(
    kind: str, scores_log: PreferenceLog, battles_log: PreferenceLog, encoder: OnnxEncoder, one_setting: None
) -> None:
    log = with_users(battles_log if kind == "battles" else scores_log)
    profiles = None
    if kind == "costs":
        lengths = {name: 100.0 * (1 + column) for column, name in enumerate(PROFILES)}
        rows = [
            replace(one, output_tokens={name: value + row for name, value in lengths.items()})
            for row, one in enumerate(log.comparisons)
        ]
        log, profiles = PreferenceLog(comparisons=rows), PROFILES
    intents = "none" if kind == "battles" else "given"
    whole, _ = train(log, encoder=encoder, profiles=profiles, intents=intents)
    without, _ = train(by_others(log, "bob"), encoder=encoder, profiles=profiles, intents=intents)
    done = forget(whole, Wanted(users=["bob"]))
    assert done.artifact.n_rows == 120 and len(done.hashes) == 30
    assert_agree(done.artifact, without)
    assert "settings kept" in done.artifact.report["protocol"] and "settings kept" not in whole.report["protocol"]
    assert done.artifact.report["n_prompts"] == 120 and done.artifact.report["details"]["n_forgotten"] == 30
    if kind == "costs":
        assert done.artifact.default_strategy == "balanced"
        assert done.artifact.strategies["balanced"] == pytest.approx(without.strategies["balanced"], rel=0.5)


def test_forgetting_one_after_the_other_is_forgetting_both(
    scores_log: PreferenceLog, encoder: OnnxEncoder, one_setting: None
) -> None:
    whole, _ = train(with_users(scores_log), encoder=encoder)
    both = forget(whole, Wanted(users=["ann", "dan"])).artifact
    apart = forget(forget(whole, Wanted(users=["ann"])).artifact, Wanted(users=["dan"])).artifact
    assert_agree(both, apart)
    assert both.report == apart.report


def test_no_file_holds_a_trace(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: Callable[..., None], tmp_path: Path
) -> None:
    log = with_users(scores_log)
    whole, _ = train(log, encoder=encoder, store_prompts="full")
    whole = whole.write(tmp_path / "v1")
    text = log.comparisons[7].prompt
    assert whole.memory is not None
    traces = {
        "vector": whole.best.vectors[7].tobytes(),
        "hash": whole.prompt_hashes[7].tobytes(),
        "hex hash": prompt_hash(text).encode(),
        "text": text.encode(),
        "residuals": whole.best.evidence.g[7].tobytes(),
        "user": user_hash(whole.memory.key, "cleo"),
    }

    def found(directory: Path) -> set[str]:
        content = [path.read_bytes() for path in directory.rglob("*") if path.is_file()]
        return {name for name, trace in traces.items() if any(trace in raw for raw in content)}

    assert found(tmp_path / "v1") == set(traces) - {"hex hash"}
    forget(whole, Wanted(prompts=[text])).artifact.write(tmp_path / "v2")
    assert found(tmp_path / "v2") == {"user"}  # of cleo's other rows
    done = forget(load_artifact(tmp_path / "v2"), Wanted(users=["cleo"]))
    done.artifact.write(tmp_path / "v2")
    assert found(tmp_path / "v2") == set()
    router = Router.load(tmp_path / "v2")
    assert all(one.prompt != text for one in router.route(text).neighbors)
    for name in USERS:
        assert not any(name.encode() in path.read_bytes() for path in (tmp_path / "v1" / "memory").iterdir())


def test_two_tiers_are_fitted_anew_together(
    scores_log: PreferenceLog,
    full_encoder: OnnxEncoder,
    encoder: OnnxEncoder,
    one_setting: None,
    tmp_path: Path,
) -> None:
    log = with_users(scores_log)
    whole, _ = train(log, encoder=(full_encoder, encoder))
    without, _ = train(by_others(log, "eve"), encoder=(full_encoder, encoder))
    done = forget(whole, Wanted(users=["eve"])).artifact.write(tmp_path / "v2")
    assert_agree(done, without)
    assert set(done.report["details"]["tiers"]) == {"full", "static", "full_over_static"}
    alone = load_artifact(tmp_path / "v2").only("static").write(tmp_path / "static")
    assert forget(alone, Wanted(users=["ann"])).artifact.n_rows == 90


def test_what_cannot_be_forgotten_is_said(
    artifact: RouterArtifact, scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: Callable[..., None]
) -> None:
    whole, _ = train(with_users(scores_log), encoder=encoder)
    with pytest.raises(DataError, match="without a memory"):
        forget(artifact, Wanted(users=["ann"]))
    with pytest.raises(ConfigError, match="nothing to forget"):
        forget(whole, Wanted())
    with pytest.raises(ConfigError, match="32 hex digits"):
        forget(whole, Wanted(hashes=["abc"]))
    with pytest.raises(DataError, match="no row has the prompt hash"):
        forget(whole, Wanted(hashes=["0" * 32]))
    with pytest.raises(DataError, match="no row has this prompt"):
        forget(whole, Wanted(prompts=["never asked"]))
    with pytest.raises(DataError, match="no row is of the user zoe; the artifact knows 5 users"):
        forget(whole, Wanted(users=["ann", "zoe"]))
    with pytest.raises(DataError, match="0 of 150 rows would be left"):
        forget(whole, Wanted(users=USERS))


def test_a_mean_goes_with_the_rows_that_had_shown_it(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: Callable[..., None]
) -> None:
    """Only one user's rows show what an answer costs; without them nothing is known of it."""
    rows = [
        replace(one, costs_usd={"chef-large": 0.5} if one.user == "ann" else None)
        for one in with_users(scores_log).comparisons
    ]
    whole, _ = train(PreferenceLog(comparisons=rows), encoder=encoder)
    assert whole.profiles["chef-large"].mean_cost_usd == pytest.approx(0.5)
    assert forget(whole, Wanted(users=["ann"])).artifact.profiles["chef-large"].mean_cost_usd is None


def test_the_command_says_what_changed_and_who_still_holds_the_rows(
    scores_log: PreferenceLog,
    encoder: OnnxEncoder,
    small_grid: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = with_users(scores_log)
    train(log, encoder=encoder)[0].write(tmp_path / "v1")
    train(log, encoder=encoder, seed=1)[0].write(tmp_path / "v2")
    train(by_others(log, "bob"), encoder=encoder)[0].write(tmp_path / "v3")
    (tmp_path / "v4").mkdir()
    (tmp_path / "v4" / "manifest.json").write_text("{}")
    assert main(["forget", str(tmp_path / "v2"), "--user", "bob", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    said = json.loads(out[-1])
    assert said["n_forgotten"] == 30 and (said["before"]["n_rows"], said["after"]["n_rows"]) == (150, 120)
    assert load_artifact(tmp_path / "v2").id == said["after"]["artifact_id"] == said["artifact_id"]
    holders = {Path(one["directory"]).name: one["n_rows"] for one in said["holders"]}
    assert holders == {"v1": 30, "v4": None}
    assert any("gain" in line and "->" in line for line in out)
    text = log.comparisons[0].prompt
    assert main(["forget", str(tmp_path / "v1"), "--prompt", text, "--out", str(tmp_path / "v5")]) == 0
    said_lines = capsys.readouterr().out
    assert f"{tmp_path / 'v1'}: still holds 1 of these rows" in said_lines
    assert load_artifact(tmp_path / "v1").n_rows == 150 and load_artifact(tmp_path / "v5").n_rows == 149
    assert main(["forget", str(tmp_path / "v5"), "--prompt-hash", prompt_hash(text)]) == 1
    assert "nothing was forgotten" in capsys.readouterr().err


def test_holders_are_known_by_user_too(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: Callable[..., None], tmp_path: Path
) -> None:
    """Another version may hold rows of the user that this one never had."""
    log = with_users(scores_log)
    train(by_others(log, "ann"), encoder=encoder)[0].write(tmp_path / "v1")
    other = [Comparison(prompt=f"{one.prompt} please", scores=one.scores, user=one.user) for one in log.comparisons]
    train(PreferenceLog(comparisons=other), encoder=encoder)[0].write(tmp_path / "v2")
    assert other_holders(tmp_path / "v1", tmp_path / "v1", [], ["bob"])[0].n_rows == 30
