"""Both encoders in one artifact: trained and judged on the same rows, each with a verdict, and compared row by row."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from router.artifact import RouterArtifact, load_artifact
from router.cli import main
from router.encoder import OnnxEncoder
from router.router import Router
from training import held_out  # pytest would take held_out.Plan for a class of tests
from training.build import train
from training.comparisons import Comparison, PreferenceLog
from training.evaluate import evaluate, judge_log
from training.report import Report
from training.value import ValueMatrix

FOLDS_FACTOR = 1.22


@pytest.fixture
def unlabelled(scores_log: PreferenceLog) -> PreferenceLog:
    return PreferenceLog(comparisons=[replace(one, intent=None) for one in scores_log.comparisons])


def without_tiers(report: dict[str, Any]) -> dict[str, Any]:
    details = {name: value for name, value in report["details"].items() if name != "tiers"}
    return {**report, "details": details}


def test_the_best_tier_is_what_its_encoder_alone_would_give_and_decides_for_all(
    unlabelled: PreferenceLog, full_encoder: OnnxEncoder, encoder: OnnxEncoder, small_grid: object, tmp_path: Path
) -> None:
    """Rows, intents and folds come from the full encoder; the other tier is held out by the same folds."""
    alone, own = train(unlabelled, encoder=full_encoder)
    both, report = train(unlabelled, encoder=(encoder, full_encoder))
    assert [one.name for one in both.tiers] == ["full", "static"]
    full, static = both.tiers
    assert without_tiers(full.report) == alone.report == own.to_json()
    assert report.to_json() == full.report and both.verdict == report.verdict
    np.testing.assert_array_equal(full.vectors, alone.best.vectors)
    assert full.settings == alone.best.settings
    assert both.intents_from == "model" and both.intents == alone.intents
    np.testing.assert_array_equal(static.evidence.intents, alone.best.evidence.intents)
    np.testing.assert_array_equal(static.evidence.sizes, full.evidence.sizes)
    assert static.vectors.shape[0] == full.vectors.shape[0] == 150 and static.vectors.shape[1] < full.vectors.shape[1]
    assert static.report["details"]["n_near_duplicates"] == full.report["details"]["n_near_duplicates"]
    assert static.report["protocol"] == full.report["protocol"] and "tiers" not in static.report["details"]
    assert static.report["best_fixed"]["model"] == report.best_fixed == both.best_fixed
    written = both.write(tmp_path / "v1")
    again = train(unlabelled, encoder=(full_encoder, encoder))[0].write(tmp_path / "v2")
    assert written.id == again.id == load_artifact(tmp_path / "v1").id
    for name in ("full", "static"):
        assert Router(both.only(name)).route("My parser hits the recursion limit").tier == name


def test_the_report_says_what_each_tier_is_worth(
    scores_log: PreferenceLog, small_grid: object, encoder: OnnxEncoder
) -> None:
    both, report = train(scores_log, encoder="both")
    tiers = report.details["tiers"]
    assert set(tiers) == {"full", "static", "full_over_static"}
    for tier in both.tiers:
        assert tiers[tier.name] == {"gain": tier.report["gain"], "verdict": tier.verdict.label}
    over = tiers["full_over_static"]
    # Quality is linear in the rows: what one is worth over the other is the difference of their gains.
    assert over["mean"] == pytest.approx(tiers["full"]["gain"]["mean"] - tiers["static"]["gain"]["mean"], abs=1e-12)
    assert over["low"] <= over["mean"] <= over["high"]
    assert both.report == report.to_json() == json.loads(json.dumps(report.to_json(), allow_nan=False))
    (line,) = [one for one in report.render().splitlines() if one.startswith("  tiers")]
    assert f"full over static {100 * over['mean']:+.1f}" in line


@pytest.mark.parametrize(
    ("over", "level"),
    [((0.02, 0.011, 0.03), False), ((0.005, 0.001, 0.009), True), ((0.02, -0.001, 0.041), True), ((0, 0, 0), True)],
)
def test_the_report_says_plainly_where_static_is_as_good(
    trained: tuple[RouterArtifact, Report], over: tuple[float, ...], level: bool
) -> None:
    def gain(mean: float, low: float, high: float) -> dict[str, float]:
        return {"mean": mean, "low": low, "high": high}

    tiers = {
        "full": {"gain": gain(0.043, 0.02, 0.066), "verdict": "ROUTE"},
        "static": {"gain": gain(0.04, -0.001, 0.08), "verdict": "NOT ENOUGH DATA"},
        "full_over_static": gain(*over),
    }
    report = trained[1]
    told = replace(report, details={**report.details, "tiers": tiers}).render()
    low, high = (f"{100 * one:+.1f}" for one in over[1:])
    assert (
        "  tiers, in points     full +4.3 (+2.0 to +6.6), static +4.0 (-0.1 to +8.0); "
        f"full over static {100 * over[0]:+.1f} ({low} to {high})\n"
    ) in told
    assert ("static answers are as good, as far as this log can tell\n" in told) == level


def test_one_tier_is_compared_with_nothing(trained: tuple[RouterArtifact, Report]) -> None:
    _, report = trained
    assert "tiers" not in report.details and "tiers" not in report.render()


def held(choices: list[int], worth: ValueMatrix, groups: list[int]) -> held_out.HeldOutReport:
    return held_out.HeldOutReport(
        report=None,
        strategies={},
        default_strategy="quality",
        choices=np.array(choices),
        worth=worth,
        groups=np.array(groups),
        error_factor=FOLDS_FACTOR,
    )


def test_the_paired_difference_by_hand() -> None:
    values = np.array([[1.0, 0.0], [0.2, 0.6], [0.5, 0.5], [0.0, 1.0], [0.9, 0.1], [0.3, 0.8]])
    worth = ValueMatrix(values, np.ones(6), np.ones_like(values))
    better, other = held([0, 1, 0, 1, 0, 0], worth, [0, 1, 2, 3, 4, 5]), held([0, 0, 1, 0, 0, 1], worth, [])
    difference = np.array([0.0, 0.4, 0.0, 1.0, 0.0, -0.5])  # rows where both choose the same tell nothing
    gain = better.gain_over(other)
    reach = student.ppf(0.975, 5) * FOLDS_FACTOR * difference.std(ddof=1) / math.sqrt(6)
    assert gain.mean == pytest.approx(0.15)
    assert (gain.low, gain.high) == (pytest.approx(0.15 - reach), pytest.approx(0.15 + reach))
    back = replace(other, groups=better.groups).gain_over(better)
    assert (back.mean, back.low, back.high) == (-gain.mean, pytest.approx(-gain.high), pytest.approx(-gain.low))


def test_near_duplicates_and_weights_count_in_the_paired_difference() -> None:
    values = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    worth = ValueMatrix(values, np.array([1.0, 1.0, 2.0, 0.0]), np.ones_like(values))
    better, other = held([0, 0, 0, 0], worth, [0, 0, 1, 2]), held([1, 1, 1, 1], worth, [])
    gain = better.gain_over(other)
    assert gain.mean == pytest.approx((1 + 1 - 2) / 4)
    apart = replace(better, groups=np.arange(4)).gain_over(other)
    assert gain.high - gain.low > apart.high - apart.low, "two copies of a row are one observation"


def test_blocks_in_time_hold_out_both_tiers_alike(scores_log: PreferenceLog, small_grid: object) -> None:
    day = 86_400.0
    rows = [replace(one, timestamp=n * day) for n, one in enumerate(scores_log.comparisons[:60])]
    both, report = train(PreferenceLog(comparisons=rows), encoder="both")
    assert report.details["split"] == "time"
    assert {one.report["n_prompts"] for one in both.tiers} == {48}


@pytest.mark.parametrize("wrong", [(), ("static", "static")])
def test_encoders_of_one_tier_or_none_are_refused(scores_log: PreferenceLog, wrong: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="encoders must be of different tiers"):
        train(scores_log, encoder=[OnnxEncoder.load(one) for one in wrong])


def test_progress_goes_over_both_encoders(scores_log: PreferenceLog, small_grid: object) -> None:
    steps: list[tuple[str, int, int]] = []
    some = PreferenceLog(comparisons=scores_log.comparisons[:40])
    train(some, encoder="both", progress=lambda *step: steps.append(step))
    assert max(done for stage, done, _ in steps if stage == "embedding") == 80
    assert all(0 < done <= total for _, done, total in steps)


def test_a_log_is_judged_with_the_best_tier_alone_or_with_the_one_asked_for(
    both_tiers: RouterArtifact, artifact: RouterArtifact
) -> None:
    prompts = ("How should I roast a whole duck?", "My async code deadlocks on a lock", "A weekend in Porto by train")
    log = PreferenceLog(comparisons=[Comparison(one, scores=dict.fromkeys(artifact.models, 0.5)) for one in prompts])
    assert judge_log(both_tiers, log).tier == "full"
    assert evaluate(both_tiers, log).to_json() == evaluate(both_tiers.only("full"), log).to_json()
    static = evaluate(both_tiers.only("static"), log)
    assert static.to_json() == evaluate(artifact, log).to_json()
    assert static.details["tier"] == "static" and static.protocol.endswith(", static tier")


def test_both_through_the_command_line(
    tmp_path: Path,
    scores_log: PreferenceLog,
    small_grid: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"prompt": one.prompt, "scores": dict(one.scores or {})} for one in scores_log.comparisons]
    log, made = str(tmp_path / "log.jsonl"), str(tmp_path / "made")
    Path(log).write_text("\n".join(json.dumps(one) for one in rows))
    assert main(["train", log, "--encoder", "both", "--out", made, "--json"]) == 0
    told = capsys.readouterr().out
    report = json.loads(told.splitlines()[-1])
    assert "full over static" in told

    assert main(["show", made]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, name, dim in ((lines[1], "full", 384), (lines[2], "static", 256)):
        tier = report["details"]["tiers"][name]
        assert line.startswith(f"{name:<10} minilm-l6-intents") and f"({dim} dimensions, " in line
        assert f"; gain {tier['gain']['mean']:+.4f} (" in line and line.endswith(f"; {tier['verdict']}")
    assert lines[-1] == report["verdict"]["text"]
    assert main(["show", made, "--json"]) == 0
    tiers = json.loads(capsys.readouterr().out)["tiers"]
    assert [(one["tier"], one["dim"]) for one in tiers] == [("full", 384), ("static", 256)]

    newer = tmp_path / "newer.jsonl"
    newer.write_text(json.dumps({"prompt": "How should I roast a duck?", "scores": rows[0]["scores"]}))
    for options, name in (([], "full"), (["--tier", "static"], "static"), (["--tier", "full"], "full")):
        assert main(["eval", made, str(newer), "--json", *options]) == 0
        told = capsys.readouterr().out
        assert json.loads(told.splitlines()[-1])["details"]["tier"] == name and f"{name} tier, 1 prompts" in told


def test_a_tier_that_is_not_there_is_an_error_that_says_which_is(
    artifact: RouterArtifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact.write(tmp_path / "v1")
    (tmp_path / "log.jsonl").write_text(json.dumps({"prompt": "x", "scores": {"chef-large": 1, "guide-small": 0}}))
    assert main(["eval", str(tmp_path / "v1"), str(tmp_path / "log.jsonl"), "--tier", "full"]) == 1
    assert capsys.readouterr().err == "whichmodel: the artifact has no full tier; it has static\n"
