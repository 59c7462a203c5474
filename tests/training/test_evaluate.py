"""training/evaluate.py and baselines.py: a log routed by an artifact, against numbers by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from router.artifact import RouterArtifact
from router.errors import DataError
from router.router import Router
from router.types import Policy
from training.baselines import baselines, oracle_quality
from training.comparisons import Comparison, PreferenceLog
from training.evaluate import evaluate
from training.sources import load
from training.value import ValueMatrix

UNSEEN = ["How should I roast a whole duck?", "My async code deadlocks on a lock", "A weekend in Porto by train"]
BEST = ["chef-large", "coder-medium", "guide-small"]


def scored(prompts: list[str], best: list[str], models: tuple[str, ...], **more: float) -> PreferenceLog:
    rows = [
        Comparison(prompt, scores={model: 0.9 if model == one else 0.2 for model in models} | more)
        for prompt, one in zip(prompts, best, strict=True)
    ]
    return PreferenceLog(comparisons=rows)


def test_baselines_by_hand() -> None:
    values = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [1.0, 0.5, 0.5]])
    worth = ValueMatrix(values, np.array([1.0, 1.0, 2.0]), np.ones((3, 3)))
    costs = np.array([[3.0, 2.0, 1.0]] * 3)
    assert baselines(("a", "b", "c"), worth, costs) == {
        "best_in_hindsight": {"quality": 0.75, "cost_usd": 3.0, "model": "a"},
        "cheapest": {"quality": 0.5, "cost_usd": 1.0, "model": "c"},
        "random": {"quality": pytest.approx((0.75 + 0.5 + 0.5) / 3), "cost_usd": 2.0, "model": None},
    }
    without = baselines(("a", "b", "c"), worth, None)
    assert "cheapest" not in without and {one["cost_usd"] for one in without.values()} == {None}


def test_oracle_only_where_every_score_is_known() -> None:
    scores = np.array([[1.0, 0.0], [0.2, 0.4]])
    assert oracle_quality(scores, np.array([1.0, 3.0])) == pytest.approx((1.0 + 3 * 0.4) / 4)
    assert oracle_quality(np.array([[1.0, np.nan]]), np.ones(1)) is None
    assert oracle_quality(np.zeros((0, 2)), np.zeros(0)) is None


def test_report_against_the_router_itself(artifact: RouterArtifact) -> None:
    router = Router(artifact)
    log = scored(UNSEEN, BEST, artifact.models)
    chosen = [router.route(prompt, Policy(route_anyway=True)).model for prompt in UNSEEN]
    report = evaluate(artifact, log)
    mine = np.array([0.9 if a == b else 0.2 for a, b in zip(chosen, BEST, strict=True)])
    fixed = np.array([0.9 if artifact.best_fixed == b else 0.2 for b in BEST])
    assert report.router.quality == pytest.approx(mine.mean()) and report.fixed.quality == pytest.approx(fixed.mean())
    assert report.best_fixed == artifact.best_fixed
    assert report.gain.mean == pytest.approx((mine - fixed).mean())
    assert report.oracle_quality == pytest.approx(0.9)
    assert report.baselines["random"]["quality"] == pytest.approx((0.9 + 0.2 + 0.2) / 3)
    assert report.shares == {model: pytest.approx(chosen.count(model) / 3) for model in set(chosen)}
    assert report.effective_comparisons is None
    assert report.fixed.cost_usd is not None and report.router.cost_usd is not None
    costs = [router.route(prompt).estimate(model).cost_usd for prompt, model in zip(UNSEEN, chosen, strict=True)]  # type: ignore[union-attr]
    assert report.router.cost_usd == pytest.approx(np.mean(costs))
    assert report.baselines["cheapest"]["model"] == "guide-small"


def test_measured_costs_go_before_expected_ones(artifact: RouterArtifact) -> None:
    log = scored(UNSEEN, BEST, artifact.models)
    logged = [replace(one, costs_usd=dict.fromkeys(artifact.models, 0.5)) for one in log.comparisons]
    report = evaluate(artifact, PreferenceLog(comparisons=logged))
    assert (report.router.cost_usd, report.fixed.cost_usd) == (0.5, 0.5)


def test_without_prices_cost_is_null(artifact: RouterArtifact) -> None:
    out = evaluate(replace(artifact, profiles={}), scored(UNSEEN, BEST, artifact.models)).to_json()
    assert out["router"]["cost_usd"] is out["best_fixed"]["cost_usd"] is None and "cheapest" not in out["baselines"]


def test_prompts_of_the_training_are_counted(artifact: RouterArtifact, scores_log: PreferenceLog) -> None:
    seen = [one.prompt for one in scores_log.comparisons[:2]]
    log = scored(seen + UNSEEN, [*BEST[:2], *BEST], artifact.models)
    report = evaluate(artifact, log)
    assert report.details["n_trained_on"] == 2
    assert report.verdict.text.endswith("prompts were trained on, or nearly so.")
    unseen = evaluate(artifact, scored(UNSEEN, BEST, artifact.models))
    assert report.details["gain_on_unseen"]["mean"] == pytest.approx(unseen.gain.mean)
    assert "trained on" not in unseen.verdict.text
    assert unseen.details["n_trained_on"] == 0 and "gain_on_unseen" not in unseen.details
    assert evaluate(artifact, scored(seen, BEST[:2], artifact.models)).details["n_trained_on"] == 2


def test_unknown_models_are_left_out_and_named(artifact: RouterArtifact) -> None:
    log = scored(UNSEEN, ["chef-large"] * 3, ("chef-large", "guide-small"), stranger=1.0)
    report = evaluate(artifact, log)
    assert report.details["unknown_models"] == ["stranger"]
    assert set(report.models) == {"chef-large", "guide-small"} and set(report.shares) <= set(report.models)
    assert report.oracle_quality == pytest.approx(0.9)
    with pytest.raises(DataError, match="shares 1 models"):
        evaluate(artifact, scored(UNSEEN, ["chef-large"] * 3, ("chef-large",), stranger=1.0))


def test_rows_that_say_nothing_of_known_models_are_not_counted(artifact: RouterArtifact) -> None:
    battles = [Comparison(prompt, model_a="chef-large", model_b="guide-small", winner="model_a") for prompt in UNSEEN]
    foreign = Comparison("Which way?", model_a="stranger", model_b="guide-small", winner="model_a")
    report = evaluate(artifact, PreferenceLog(comparisons=[*battles, foreign]))
    assert report.n_prompts == 3


def test_battles_name_the_effective_comparisons(artifact: RouterArtifact, battles_log: PreferenceLog) -> None:
    report = evaluate(artifact, battles_log)
    assert report.kind == "battles" and report.oracle_quality is None
    assert report.effective_comparisons is not None and 0 < report.effective_comparisons < 150
    assert report.verdict.label == "NOT ENOUGH DATA" and "effective comparisons" in report.verdict.text
    json.dumps(report.to_json(), allow_nan=False)
    assert "effective comparisons" in report.render() and report.render().endswith(report.verdict.text)


def test_the_router_is_scored_whatever_the_verdict(artifact: RouterArtifact) -> None:
    log = scored(UNSEEN, BEST, artifact.models)
    verdict = replace(artifact.verdict, label="DO NOT ROUTE")
    never = replace(artifact, tiers=(replace(artifact.best, verdict=verdict),))
    assert evaluate(never, log).router == evaluate(artifact, log).router


def test_a_log_of_the_other_kind_is_valued_in_its_own_unit(trained, tmp_path) -> None:
    """Logits of a battle artifact are no scores, and scores are no logits."""
    artifact, _ = trained
    kinds = {
        "scores": '"scores": {"%s": 0.2, "%s": 0.9}',
        "battles": '"model_a": "%s", "model_b": "%s", "winner": "model_b"',
    }
    pair = artifact.models[:2]
    for name, body in kinds.items():
        rows = "\n".join(f'{{"prompt": "question {i} about a thing", {body % pair}}}' for i in range(30))
        (tmp_path / f"{name}.jsonl").write_text(rows)
        report = evaluate(artifact, load(tmp_path / f"{name}.jsonl"))
        better = {"scores": 0.9, "battles": 0.75}[name]  # half of the views are against itself, worth 0.5
        assert max(one["quality"] for one in report.baselines.values()) == pytest.approx(better, abs=0.02)
