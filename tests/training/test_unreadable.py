"""Prompts that the encoder does not know: held out, they are decided exactly as serving decides them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router.encoder import OnnxEncoder
from router.estimate import estimate, relative_size
from router.index import NO_HITS, NeighborIndex, round_points
from router.router import Router
from router.types import Policy
from training.build import train
from training.calibrate import Slopes
from training.comparisons import Comparison, PreferenceLog
from training.cross_fit import predict
from training.embed import MAX_UNKNOWN_SHARE, VOUCHED_ROWS, embed_texts, make_places
from training.evaluate import evaluate, judge_log
from training.evidence import tabulate
from training.fit import fit_evidence
from training.hold_out import folds_of, hold_out
from training.select import Chosen, Config, best_fixed
from training.sources import load

SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "battles.jsonl"
DISHES = ("炒饭", "饺子", "豆腐", "烤鸭", "汤圆", "凉皮", "锅贴", "馄饨", "烧卖", "粽子")
QUESTIONS = (
    "怎样做{}才好吃？",
    "请告诉我{}的历史。",
    "{}配什么酒好？",
    "为什么我的{}太咸？",
    "{}需要煮多久？",
    "{}哪里买？",
)
CHINESE = [question.format(dish) for question in QUESTIONS for dish in DISHES]


def with_chinese(log: PreferenceLog, n_rows: int) -> PreferenceLog:
    """Return the scored log with prompts that the shipped encoder cannot read, and an intent of their own."""
    scores = {"coder-medium": 0.2, "chef-large": 0.9, "guide-small": 0.3}
    added = [Comparison(prompt=text, scores=scores, intent="chinese") for text in CHINESE[:n_rows]]
    return PreferenceLog(comparisons=[*log.comparisons, *added])


def test_the_shipped_encoder_cannot_read_them(encoder: OnnxEncoder) -> None:
    assert len(set(CHINESE)) > VOUCHED_ROWS
    assert (embed_texts(encoder, CHINESE).unknown_share > MAX_UNKNOWN_SHARE).all()


@pytest.mark.parametrize("n_rows", [0, VOUCHED_ROWS - 1, VOUCHED_ROWS])
def test_a_log_with_enough_of_them_vouches_for_them(
    encoder: OnnxEncoder, scores_log: PreferenceLog, n_rows: int
) -> None:
    table = tabulate(with_chinese(scores_log, n_rows))
    embedded = embed_texts(encoder, table.texts)
    for place in make_places(encoder, table.texts, embedded, (0.0, 0.5), seed=0):
        vouched = n_rows >= VOUCHED_ROWS
        assert place.far.max_unknown_share == (1.0 if vouched else MAX_UNKNOWN_SHARE)
        assert place.unreadable is not None
        assert place.unreadable.sum() == (0 if vouched else n_rows)


@pytest.mark.parametrize("intent_prior", [False, True])
def test_held_out_rows_are_estimated_as_serving_would(
    encoder: OnnxEncoder, scores_log: PreferenceLog, intent_prior: bool
) -> None:
    table = tabulate(with_chinese(scores_log, 20))
    places = make_places(encoder, table.texts, embed_texts(encoder, table.texts), (0.5,), seed=0)
    place, folds = places[0], np.random.default_rng(0).integers(0, 3, len(table))
    held = folds_of(hold_out(places, folds, 200), np.ones(len(table), dtype=bool))[1]
    chosen = Chosen(Config(3.0, 30, intent_prior, 0.5, 0.1, 0.5), Slopes(1.3, 0.8))
    sizes = np.random.default_rng(1).uniform(0.5, 2.0, len(table)).astype(np.float32)
    fit = predict(table, places, held, chosen, sizes)
    learnt = np.flatnonzero(held.train)
    whole = replace(fit_evidence(table, held.train, use_intents=intent_prior), sizes=sizes)
    evidence = replace(
        whole, h=whole.h[learnt], g=whole.g[learnt], intents=whole.intents[learnt], sizes=whole.sizes[learnt]
    )
    settings = chosen.settings(place.far, table.kind)
    index = NeighborIndex(round_points(place.vectors[learnt]))
    n_unreadable = 0
    for at, row in enumerate(held.asked.tolist()):
        unreadable = encoder.encode(table.texts[row]).unknown_share > settings.max_unknown_share
        hits = NO_HITS if unreadable else index.search(place.vectors[row], settings.n_neighbors)
        beyond = index.search(place.vectors[row], settings.n_neighbors + 1).similarities
        if not unreadable and beyond[-2] - beyond[-1] < 1e-6:
            continue  # which of two equally near rows is the last one is nobody's promise
        local = estimate(hits, evidence, settings, fixed=best_fixed(table, whole, learnt))
        np.testing.assert_allclose(fit.prediction.quality[at], local.quality, atol=1e-6)
        np.testing.assert_allclose(fit.prediction.error[at], local.lead_error, atol=1e-6)
        assert fit.prediction.sizes[at] == pytest.approx(float(relative_size(hits, evidence, settings)), abs=3e-5)
        n_unreadable += unreadable
    assert 0 < n_unreadable < 20


def test_trained_on_few_of_them_the_artifact_leaves_them_to_the_priors(
    encoder: OnnxEncoder, scores_log: PreferenceLog, small_grid: Callable[..., None], tmp_path: Path
) -> None:
    log = with_chinese(scores_log, 12)
    artifact, report = train(log, encoder=encoder)
    assert (
        artifact.best.settings.max_unknown_share == MAX_UNKNOWN_SHARE == report.details["settings"]["max_unknown_share"]
    )
    artifact.write(tmp_path / "v1")
    router = Router.load(tmp_path / "v1")
    decisions = router.route_batch(CHINESE[:12], Policy(route_anyway=True))
    assert {one.reason for one in decisions} == {"unreadable"} and not any(one.neighbors for one in decisions)
    assert router.route(log.comparisons[0].prompt).reason == "best"
    judged = judge_log(artifact, log)
    unreadable = np.isin(judged.table.texts, CHINESE)
    assert (judged.support[unreadable] == 0).all() and (judged.support[~unreadable] > 0).any(axis=1).all()
    assert (judged.nearest[unreadable] == 0).all() and (judged.intents[unreadable] == -1).all()
    assert evaluate(artifact, log).n_prompts == len(judged.table)


def test_the_sample_log_has_too_few_to_vouch_for_them(encoder: OnnxEncoder, small_grid: Callable[..., None]) -> None:
    artifact, _ = train(load(SAMPLE), encoder=encoder)
    assert artifact.best.settings.max_unknown_share == MAX_UNKNOWN_SHARE
    router = Router(artifact)
    decision = router.route("请把这句话翻译成英文：今天天气很好，我们去公园散步吧。", Policy(route_anyway=True))
    assert (decision.reason, decision.neighbors, decision.intent) == ("unreadable", (), None)
    assert "the encoder does not know 63 % of the prompt" in decision.summary
    assert router.route("SQL query for the top 5 customers by revenue per month").neighbors
