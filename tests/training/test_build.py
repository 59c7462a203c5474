"""training/build.py: a log in, an artifact and an honest report out."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router.artifact import RouterArtifact, load_artifact
from router.encoder import OnnxEncoder
from router.errors import DataError, EncoderError
from router.prompt import prompt_hash
from router.router import Router
from router.types import Endpoint, ModelProfile, Policy
from training.build import PREVIEW_CHARS, train
from training.comparisons import Comparison, PreferenceLog
from training.evidence import tabulate
from training.fit import fit_evidence
from training.report import Report

REPORT_KEYS = {"n_prompts", "n_models", "models", "router", "best_fixed", "oracle", "gain", "verdict"}


def test_three_intents_are_worth_routing(trained: tuple[RouterArtifact, Report]) -> None:
    artifact, report = trained
    assert report.verdict.routes and report.gain.low > 0.1
    assert report.fixed.quality < report.router.quality <= (report.oracle_quality or 0)
    assert set(report.shares) == set(artifact.models)
    assert artifact.verdict == report.verdict and artifact.best_fixed == report.best_fixed


def test_report_has_the_promised_keys(trained: tuple[RouterArtifact, Report]) -> None:
    artifact, report = trained
    out = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert set(out) >= REPORT_KEYS
    assert (out["n_prompts"], out["n_models"], out["models"]) == (150, 3, sorted(artifact.models))
    assert set(out["router"]) == {"quality", "cost_usd"} and out["router"]["cost_usd"] is None
    assert set(out["best_fixed"]) == {"model", "quality", "cost_usd"} and set(out["oracle"]) == {"quality"}
    assert set(out["gain"]) == {"mean", "low", "high"} and set(out["verdict"]) == {"label", "text"}
    assert out == artifact.report
    rendered = report.render()
    assert rendered.splitlines()[-1] == report.verdict.text and "oracle" in rendered and "USD" not in rendered


def test_what_was_trained_is_what_serves(trained: tuple[RouterArtifact, Report], tmp_path: Path) -> None:
    """Written, read and routed: a training prompt finds itself, and its model is the one that did best."""
    artifact, _ = trained
    written = artifact.write(tmp_path / "v1")
    router = Router.load(tmp_path / "v1")
    assert router.artifact.id == written.id and artifact.prompts is not None
    for row in range(0, 150, 10):
        decision = router.route(artifact.prompts[row])
        first = decision.neighbors[0]
        assert (first.row, first.prompt) == (row, artifact.prompts[row])
        assert first.similarity == pytest.approx(1, abs=1e-3)
        assert decision.intent is not None and first.intent == decision.intent.label
        assert decision.model == router.route(artifact.prompts[row], Policy(route_anyway=True)).model
        assert first.winners == (decision.model,)


def test_the_same_log_and_seed_give_the_same_artifact(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object, tmp_path: Path
) -> None:
    ids = [
        train(scores_log, seed=seed, encoder=encoder)[0].write(tmp_path / str(n)).id for n, seed in enumerate((3, 3, 4))
    ]
    assert ids[0] == ids[1] != ids[2]
    cached = train(scores_log, seed=3, encoder=encoder, cache=tmp_path / "cache")[0]
    again = train(scores_log, seed=3, encoder=encoder, cache=tmp_path / "cache")[0]
    assert cached.write(tmp_path / "5").id == again.write(tmp_path / "6").id == ids[0]


@pytest.mark.parametrize("intent_prior", [False, True])
def test_residuals_fit_the_priors_they_are_added_to(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: Callable[..., None], tmp_path: Path, intent_prior: bool
) -> None:
    """Selection judged settings with evidence of the same kind; another kind in the artifact would be biased."""
    small_grid(INTENT_PRIORS=(intent_prior,))
    artifact, _ = train(scores_log, encoder=encoder)
    artifact.write(tmp_path / "v1")
    served = load_artifact(tmp_path / "v1").best.evidence
    wanted = fit_evidence(tabulate(scores_log), np.ones(150, dtype=bool), use_intents=intent_prior)
    for name in ("h", "g", "intents", "prior", "intent_priors"):
        np.testing.assert_array_equal(getattr(served, name), getattr(wanted, name), err_msg=name)
    intent = Router(artifact).route(scores_log.comparisons[0].prompt).intent
    assert intent is not None and intent.label == scores_log.comparisons[0].intent


def test_battles_without_intents(
    battles_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object, tmp_path: Path
) -> None:
    artifact, report = train(battles_log, encoder=encoder, intents="none")
    assert report.verdict.label == "NOT ENOUGH DATA" and "effective comparisons" in report.verdict.text
    assert report.oracle_quality is None and 0 < (report.effective_comparisons or 0) < 200
    artifact.write(tmp_path / "v1")
    router = Router.load(tmp_path / "v1")
    decision = router.route("My parser hits the recursion limit")
    assert (decision.model, decision.reason, decision.intent) == (report.best_fixed, "verdict", None)
    anyway = router.route("My parser hits the recursion limit", Policy(route_anyway=True))
    assert anyway.reason in ("best", "guard", "prior")


@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_noise_is_not_worth_routing(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object, kind: str
) -> None:
    rng = random.Random(11)
    rows = []
    for one in scores_log.comparisons:
        if kind == "scores":
            rows.append(replace(one, scores={model: float(rng.random() < 0.5) for model in one.scores or {}}))
        else:
            a, b = rng.sample(scores_log.models, 2)
            rows.append(Comparison(one.prompt, model_a=a, model_b=b, winner=rng.choice(("model_a", "model_b", "tie"))))
    artifact, report = train(PreferenceLog(comparisons=rows), encoder=encoder)
    assert not report.verdict.routes
    decisions = Router(artifact).route_batch(["a loop", "some bread", "a journey"])
    assert {one.model for one in decisions} == {report.best_fixed}


@pytest.mark.parametrize("store", ["none", "preview", "full"])
def test_store_prompts(
    encoder: OnnxEncoder, small_grid: object, scores_log: PreferenceLog, tmp_path: Path, store: str
) -> None:
    long = "It is a long story. " * 20
    rows = [replace(one, prompt=one.prompt + long * (n % 2)) for n, one in enumerate(scores_log.comparisons[:60])]
    artifact, _ = train(PreferenceLog(comparisons=rows), encoder=encoder, store_prompts=store)
    artifact.write(tmp_path / "v1")
    prompts = load_artifact(tmp_path / "v1").prompts
    if store == "none":
        assert prompts is None
        written = b"".join(path.read_bytes() for path in (tmp_path / "v1").glob("*.*"))
        assert not any(one.prompt[:30].encode() in written for one in rows)
    elif store == "full":
        assert prompts == tuple(one.prompt for one in rows)
    else:
        assert prompts is not None and max(map(len, prompts)) == PREVIEW_CHARS
        assert all(one.prompt.startswith(short.rstrip("…")) for one, short in zip(rows, prompts, strict=True))
    assert artifact.prompt_hashes[0].tobytes().hex() == prompt_hash(artifact.template.strip(rows[0].prompt))


def test_prices_make_costs(scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object) -> None:
    profiles = {
        model: ModelProfile(model, endpoints=(Endpoint("default", usd, usd),))
        for model, usd in (("coder-medium", 1.0), ("chef-large", 9.0), ("guide-small", 0.5), ("not in the log", 1.0))
    }
    artifact, report = train(scores_log, encoder=encoder, profiles=profiles)
    assert report.baselines["cheapest"]["model"] == "guide-small" and set(artifact.profiles) == set(scores_log.models)
    assert report.router.cost_usd is not None and report.fixed.cost_usd is not None
    del profiles["chef-large"]
    partial = train(scores_log, encoder=encoder, profiles=profiles)[1]
    assert partial.router.cost_usd is None and "cheapest" not in partial.baselines


def test_costs_of_the_log_become_profiles(scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object) -> None:
    rows = [
        replace(one, costs_usd=dict.fromkeys(one.scores or {}, 0.01 * (n % 2 + 1)))
        for n, one in enumerate(scores_log.comparisons)
    ]
    artifact, report = train(PreferenceLog(comparisons=rows), encoder=encoder)
    assert [one.mean_cost_usd for one in artifact.profiles.values()] == [pytest.approx(0.015)] * 3
    assert report.router.cost_usd == pytest.approx(0.015)


def test_lengths_of_the_log_go_before_those_of_the_prices(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object
) -> None:
    rows = [replace(one, output_tokens=dict.fromkeys(one.scores or {}, 40.0)) for one in scores_log.comparisons]
    given = {name: ModelProfile(name, 999.0, (Endpoint("e", 1.0, 5.0),)) for name in scores_log.models}
    artifact, _ = train(PreferenceLog(comparisons=rows), encoder=encoder, profiles=given)
    assert artifact.profiles == {name: replace(one, mean_output_tokens=40.0) for name, one in given.items()}


def test_a_template_is_cut_reported_and_served(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object
) -> None:
    prefix = "Answer the following question as well as you can.\n\n"
    rows = [replace(one, prompt=prefix + one.prompt) for one in scores_log.comparisons]
    artifact, report = train(PreferenceLog(comparisons=rows), encoder=encoder, store_prompts="full")
    assert prefix in artifact.template.prefixes
    assert len(prefix) in report.details["template_chars"]["prefixes"]
    first = Router(artifact).route(rows[0].prompt).neighbors[0]
    assert (first.row, first.prompt) == (0, rows[0].prompt)


@pytest.mark.parametrize("n_rows", [0, 1, 19])
def test_too_few_rows(scores_log: PreferenceLog, encoder: OnnxEncoder, n_rows: int) -> None:
    rows = scores_log.comparisons[:n_rows] * 5
    with pytest.raises(DataError, match="too little to learn from"):
        train(PreferenceLog(comparisons=rows), encoder=encoder)


def test_the_smallest_log_works(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object, tmp_path: Path
) -> None:
    artifact, _ = train(PreferenceLog(comparisons=scores_log.comparisons[:20]), encoder=encoder)
    artifact.write(tmp_path / "v1")
    assert Router.load(tmp_path / "v1").route("hello").model in artifact.models


@pytest.mark.parametrize("feature_weight", [0.0, 0.25])
def test_rows_that_differ_in_case_only(
    scores_log: PreferenceLog,
    encoder: OnnxEncoder,
    small_grid: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    feature_weight: float,
) -> None:
    """The tokenizer folds case: such rows are one point in a space without features, and one group."""
    small_grid(FEATURE_WEIGHTS=(feature_weight,))
    monkeypatch.setattr("training.build.FEATURE_WEIGHTS", (feature_weight,))
    some = scores_log.comparisons[:40]
    rows = [*some, *(replace(one, prompt=one.prompt.upper()) for one in some)]
    artifact, report = train(PreferenceLog(comparisons=rows), encoder=encoder)
    assert report.details["n_near_duplicates"] >= 40
    artifact.write(tmp_path / "v1")
    assert Router.load(tmp_path / "v1").route("hello").model in artifact.models


def test_wrong_options(scores_log: PreferenceLog, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="store_prompts"):
        train(scores_log, store_prompts="some")
    with pytest.raises(EncoderError, match="no encoder"):
        train(scores_log, encoder=tmp_path / "none")


def test_progress_is_told(scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object) -> None:
    steps: list[tuple[str, int, int]] = []
    train(scores_log, encoder=encoder, progress=lambda *step: steps.append(step))
    assert {stage for stage, _, _ in steps} == {"embedding", "neighbours", "selecting"}
    assert all(0 < done <= total for _, done, total in steps)
    assert all(max(done for s, done, _ in steps if s == stage) == total for stage, _, total in steps)


def test_a_new_model_with_a_few_dozen_rows_gets_a_wide_and_sensible_estimate(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object
) -> None:
    """Scored on 30 of 150 prompts, 0.5 in the mean: not far from that, and in the mean less sure than the others."""
    rng = random.Random(3)
    rows = list(scores_log.comparisons)
    for at in rng.sample(range(len(rows)), 30):
        rows[at] = replace(rows[at], scores={**(rows[at].scores or {}), "newcomer": rng.choice((0.2, 0.8))})
    artifact, report = train(PreferenceLog(comparisons=rows), encoder=encoder)
    assert "newcomer" in artifact.models
    decisions = Router(artifact).route_batch([one.prompt for one in rows[::10]], Policy(route_anyway=True))
    widths = []
    for decision in decisions:
        estimates = {one.model: one for one in decision.estimates}
        new = estimates.pop("newcomer")
        assert 0.2 < new.quality < 0.8 and new.low < new.quality < new.high
        assert new.support < min(one.support for one in estimates.values())
        widths.append([new.high - new.low, *(one.high - one.low for one in estimates.values())])
    assert (np.mean(widths, axis=0)[1:] < np.mean(widths, axis=0)[0]).all()
    assert report.effective_comparisons is not None, "not every choice's score is known"


@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_a_newcomer_that_won_twice_does_not_serve_everything(
    scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object, kind: str
) -> None:
    rng, models = random.Random(5), scores_log.models
    rows = []
    for number, one in enumerate(scores_log.comparisons):
        if kind == "scores":
            scores = {model: float(rng.random() < 0.5) for model in models}
            rows.append(replace(one, scores=scores | ({"newcomer": 1.0} if number < 2 else {})))
        else:
            a, b = rng.sample(models, 2) if number > 2 else ("newcomer", models[number])
            winner = "model_a" if number <= 2 else rng.choice(("model_a", "model_b"))
            rows.append(Comparison(one.prompt, model_a=a, model_b=b, winner=winner))
    artifact, report = train(PreferenceLog(comparisons=rows), encoder=encoder)
    assert report.best_fixed != "newcomer" and not report.verdict.routes
    others = tuple(model for model in artifact.models if model != report.best_fixed)
    decision = Router(artifact).route("anything", Policy(candidates=others))
    assert decision.model != "newcomer" and decision.reason == "verdict"


def test_prompts_that_are_all_the_same_to_the_encoder(encoder: OnnxEncoder) -> None:
    words = ["which", "model", "should", "take", "this", "prompt", "now"]
    prompts = {" ".join(random.Random(seed).sample(words, len(words))) for seed in range(40)}
    rows = [Comparison(one, scores={"a": 1.0, "b": 0.0}) for one in prompts]
    with pytest.raises(DataError, match="near-duplicates of one another"):
        train(PreferenceLog(comparisons=rows), encoder=encoder)
