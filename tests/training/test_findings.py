"""training/findings.py: the page's numbers against plain loops over the same judged log."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student

from router.artifact import RouterArtifact
from router.prompt import prompt_hash
from router.router import Router
from router.types import Policy
from training.comparisons import Comparison, PreferenceLog
from training.curve import willingness_grid
from training.evaluate import Judged, judge_log
from training.findings import cost_quality, findings, two_models
from training.metrics import aiq

WORDS = ("harbour", "parser", "salmon", "regex", "castle", "rice", "lagoon", "socket", "pumpkin", "volcano", "cache")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.metrics.N_DRAWS", 60)
    monkeypatch.setattr("training.findings.N_DRAWS", 60)


def prompts(n: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [f"{i}: what of the {' and the '.join(rng.choice(WORDS, 3, replace=False))}?" for i in range(n)]


def scored(texts: list[str], models: tuple[str, ...], seed: int = 1) -> PreferenceLog:
    rng = np.random.default_rng(seed)
    rows = [
        Comparison(text, scores={one: float(rng.integers(0, 4)) / 3 for one in models}, intent=("x", "y")[i % 2])
        for i, text in enumerate(texts)
    ]
    return PreferenceLog(comparisons=rows)


@pytest.fixture(scope="module")
def judged(artifact: RouterArtifact) -> Judged:
    return judge_log(artifact, scored(prompts(60), artifact.models))


def test_judged_is_what_the_router_says(artifact: RouterArtifact, judged: Judged) -> None:
    router = Router(artifact)
    for row in (0, 7, 31):
        decision = router.route(judged.table.originals[row], Policy(route_anyway=True))
        assert judged.table.models[judged.choices[row]] == decision.model
        assert judged.nearest[row] == decision.neighbors[0].similarity
        assert decision.intent is not None
        assert artifact.intents[judged.intents[row]] == decision.intent.label
        for one in decision.estimates:
            column = judged.table.models.index(one.model)
            assert (judged.quality[row, column], judged.support[row, column]) == (one.quality, one.support)
            assert judged.lead_error[row, column] == one.lead_error
            assert judged.expected_costs_usd[row, column] == one.cost_usd


def test_the_table_by_hand(judged: Judged) -> None:
    scores, costs = judged.table.scores, judged.costs_usd
    assert costs is not None
    at = np.arange(60)
    lines = {one.name: one for one in findings(judged).lines}
    assert list(lines) == ["router", "best fixed model", "best in hindsight", "cheapest", "random", "oracle"]
    mine, theirs = scores[at, judged.choices], scores[at, judged.fixed]
    router = lines["router"]
    assert router.quality.value == pytest.approx(mine.mean()) and router.gain.value == pytest.approx(
        (mine - theirs).mean()
    )
    assert router.cost_usd is not None and router.cost_usd.value == pytest.approx(costs[at, judged.choices].mean())
    assert router.regret is not None and router.regret.value == pytest.approx((scores.max(axis=1) - mine).mean())
    # Near-duplicates are one answer: their deviations are added before they are squared.
    together = [(mine - theirs - (mine - theirs).mean())[judged.groups == one].sum() for one in set(judged.groups)]
    alike = 60**2 / np.square(np.bincount(judged.groups)).sum()
    error = np.sqrt(np.square(together).sum() * len(together) / (len(together) - 1)) / 60
    half = student.ppf(0.975, alike - 1) * error
    assert router.gain.low == pytest.approx((mine - theirs).mean() - half)
    assert lines["best fixed model"].gain.value == 0.0 and lines["best fixed model"].model == judged.best_fixed
    assert lines["best in hindsight"].quality.value == pytest.approx(scores.mean(axis=0).max())
    assert lines["random"].quality.value == pytest.approx(scores.mean())
    oracle = lines["oracle"]
    assert oracle.regret is not None and oracle.regret.value == 0.0
    cheapest_best = [min(cost for cost, score in zip(*pair, strict=True) if score == max(pair[1])) for pair in
                     zip(costs.tolist(), scores.tolist(), strict=True)]  # fmt: skip
    assert oracle.cost_usd is not None and oracle.cost_usd.value == pytest.approx(np.mean(cheapest_best))


@pytest.mark.parametrize("guard_z", [0.0, 1.0, 4.0])
def test_choices_along_the_curve_are_those_of_serving(artifact: RouterArtifact, guard_z: float) -> None:
    """Guard and ties included: every point is what the router spends and earns at that willingness to pay."""
    settings = replace(artifact.best.settings, guard_z=guard_z)
    guarded = replace(artifact, tiers=(replace(artifact.best, settings=settings),))
    judged, router = judge_log(guarded, scored(prompts(60), artifact.models)), Router(guarded)
    plane = cost_quality(judged)
    assert plane is not None and judged.costs_usd is not None
    assert judged.guard_z == guard_z and judged.lead_error.any() == (guard_z > 0)
    at, kept = np.arange(60), 0
    for setting in plane.settings[::12]:
        usd = setting.willingness_to_pay_usd
        policy = Policy(route_anyway=True, willingness_to_pay_usd=usd, strategy="quality" if usd is None else None)
        decisions = [router.route(text, policy) for text in judged.table.originals]
        kept += sum(one.reason == "guard" for one in decisions)
        served = np.array([judged.table.models.index(one.model) for one in decisions])
        assert setting.cost_usd == pytest.approx(judged.costs_usd[at, served].mean())
        assert setting.quality == pytest.approx(judged.table.scores[at, served].mean())
    assert (kept == 0) if guard_z == 0 else (kept > 0)


def test_the_star_lies_on_the_curve(judged: Judged) -> None:
    plane = cost_quality(judged)
    assert plane is not None and plane.settings[0].willingness_to_pay_usd is None  # the artifact's own: cost is nothing
    assert (plane.settings[0].cost_usd, plane.settings[0].quality) == pytest.approx(
        (plane.router.cost_usd, plane.router.quality)
    )


def test_the_curve_runs_along_the_grid_of_training(judged: Judged) -> None:
    unguarded = replace(judged, guard_z=0.0)
    plane = cost_quality(unguarded)
    assert plane is not None and judged.costs_usd is not None
    amounts = [one.willingness_to_pay_usd for one in plane.settings]
    assert amounts == list(willingness_grid(judged.expected_costs_usd))
    at, costs, scores = np.arange(60), judged.costs_usd, judged.table.scores
    first = plane.settings[0]
    best = judged.quality.argmax(axis=1)
    assert (first.cost_usd, first.quality) == pytest.approx((costs[at, best].mean(), scores[at, best].mean()))
    spent = [one.cost_usd for one in plane.settings]
    assert spent == sorted(spent, reverse=True)
    means = costs.mean(axis=0)
    assert plane.range_usd == pytest.approx((means.min(), means.max()))
    curve = np.array([(one.cost_usd, one.quality) for one in plane.settings])
    models = np.column_stack([means, scores.mean(axis=0)])
    assert plane.aiq.value == pytest.approx(aiq(curve, *plane.range_usd))
    assert plane.zero_router_aiq.value == pytest.approx(aiq(models, *plane.range_usd))
    assert plane.aiq_gain.value == pytest.approx(plane.aiq.value - plane.zero_router_aiq.value)
    for one in (plane.aiq, plane.zero_router_aiq, plane.aiq_gain):
        assert one.low is not None and one.high is not None and one.low < one.value < one.high
    assert plane.oracle is not None and plane.oracle.quality == pytest.approx(scores.max(axis=1).mean())


def test_models_that_are_expected_to_cost_the_same_make_a_curve_of_one_point(judged: Judged) -> None:
    plane = cost_quality(replace(judged, expected_costs_usd=np.full((60, 3), 0.01)))
    assert plane is not None and [one.willingness_to_pay_usd for one in plane.settings] == [None]


def test_no_curve_without_costs_or_without_a_choice_of_costs(judged: Judged) -> None:
    assert judged.costs_usd is not None
    assert cost_quality(replace(judged, costs_usd=None)) is None
    assert cost_quality(replace(judged, costs_usd=np.ones_like(judged.costs_usd))) is None
    assert cost_quality(replace(judged, expected_costs_usd=np.full((60, 3), np.nan))) is None


def test_two_models_only_with_two(artifact: RouterArtifact, judged: Judged) -> None:
    assert two_models(judged) is None
    pair = judge_log(artifact, scored(prompts(60), artifact.models[:2]))
    found = two_models(pair)
    assert found is not None and {found.weak, found.strong} == set(artifact.models[:2])
    means = dict(zip(pair.table.models, pair.table.scores.mean(axis=0).tolist(), strict=True))
    assert found.curve.strong == pytest.approx(means[found.strong]) and means[found.strong] > means[found.weak]
    # A router that knows the outcomes recovers more than the whole gap, and by its lead alone.
    knowing = two_models(replace(pair, quality=pair.table.scores))
    assert knowing is not None and knowing.apgr.value > max(1.0, found.apgr.value) and knowing.cpt50.value < 0.5
    same = np.full((60, 2), 0.5)
    assert two_models(replace(pair, worth=replace(pair.worth, values=same))) is None


def test_intents_of_the_log_go_before_those_of_the_neighbours(artifact: RouterArtifact, judged: Judged) -> None:
    found = findings(judged)
    assert found.intents_from == "log" and [(one.intent, one.n) for one in found.intents] == [("x", 30), ("y", 30)]
    odd, at = np.arange(60) % 2 == 1, np.arange(60)
    line = found.intents[1]
    assert line.router.value == pytest.approx(judged.table.scores[at, judged.choices][odd].mean())
    assert line.fixed.value == pytest.approx(judged.table.scores[at, judged.fixed][odd].mean())
    assert line.support == pytest.approx(judged.support[at, judged.choices][odd].mean())
    unlabelled = replace(judged, table=replace(judged.table, intents=np.full(60, -1)))
    read = findings(unlabelled)
    assert read.intents_from == "neighbours" and sum(one.n for one in read.intents) == 60
    assert {one.intent for one in read.intents} <= {*artifact.intents, "(no intent)"}
    assert findings(replace(unlabelled, intents=np.full(60, -1))).intents == ()


def test_an_interval_needs_rows(artifact: RouterArtifact) -> None:
    found = findings(judge_log(artifact, scored(prompts(6), artifact.models)))
    assert all(one.quality.low is None for one in found.lines)
    assert all(one.gain.low is None for one in found.intents)
    assert found.cost_quality is not None and found.cost_quality.aiq.low is found.cost_quality.aiq_gain.high is None
    pair = two_models(judge_log(artifact, scored(prompts(6), artifact.models[:2])))
    assert pair is not None and pair.cpt50.low is pair.apgr.low is None


def test_deviations_and_examples_by_hand(judged: Judged) -> None:
    found = findings(judged)
    at = np.arange(60)
    gains = judged.table.scores[at, judged.choices] - judged.table.scores[at, judged.fixed]
    away = judged.choices != judged.fixed
    every, *by_model = found.deviations
    assert (every.n, every.wins, every.ties, every.losses) == (
        away.sum(), (gains[away] > 0).sum(), (gains[away] == 0).sum(), (gains[away] < 0).sum(),
    )  # fmt: skip
    assert every.gain is not None and every.gain.value == pytest.approx(gains[away].mean())
    assert 0 < every.n == sum(one.n for one in by_model) and judged.best_fixed not in {one.model for one in by_model}
    assert [one.gain for one in found.best] == sorted(gains[away & (gains > 0)], reverse=True)[:10]
    assert [one.gain for one in found.worst] == sorted(gains[away & (gains < 0)])[:10]
    for some in (found.best, found.worst):
        keys = [(-abs(one.gain), -one.predicted_lead) for one in some]
        assert keys == sorted(keys)
    for one in (*found.best, *found.worst):
        assert one.gain == gains[one.row] and one.chosen == judged.table.models[judged.choices[one.row]]
        assert one.prompt_hash == prompt_hash(judged.table.texts[one.row])
    nowhere = findings(replace(judged, choices=judged.fixed))
    assert nowhere.deviations[0].n == 0 and nowhere.deviations[0].gain is None and nowhere.best == ()


def test_reliability_of_scores_takes_what_was_scored(judged: Judged) -> None:
    scores = judged.table.scores.copy()
    scores[:20, 0] = np.nan
    found = findings(replace(judged, table=replace(judged.table, scores=scores))).reliability
    assert found["all models"].n == 160
    assert found["chosen model"].n == 60 - (judged.choices[:20] == 0).sum()
    assert findings(judged).reliability["chosen model"].ece > 0


def battle_log(models: tuple[str, ...], n: int = 60) -> PreferenceLog:
    rng = np.random.default_rng(3)
    rows = []
    for text in prompts(n):
        a, b = rng.choice(len(models), 2, replace=False)
        winner = ("model_a", "model_b", "tie")[rng.integers(3)]
        rows.append(Comparison(text, model_a=models[a], model_b=models[b], winner=winner))
    return PreferenceLog(comparisons=rows)


def test_battles_count_only_where_the_two_met(artifact: RouterArtifact) -> None:
    log = battle_log(artifact.models)
    judged = judge_log(artifact, log)
    wins = ties = losses = 0
    predictions = []
    for row, one in enumerate(log.comparisons):
        chosen = judged.table.models[judged.choices[row]]
        outcome = {"model_a": one.model_a, "model_b": one.model_b, "tie": None}[one.winner or ""]
        if chosen != judged.best_fixed and {one.model_a, one.model_b} == {chosen, judged.best_fixed}:
            wins, ties, losses = (
                wins + (outcome == chosen), ties + (outcome is None), losses + (outcome == judged.best_fixed),
            )  # fmt: skip
        if chosen in (one.model_a, one.model_b):
            other = one.model_b if chosen == one.model_a else one.model_a
            p, q = (judged.quality[row, judged.table.models.index(str(name))] for name in (chosen, other))
            predictions.append(p * (1 - q) / (p * (1 - q) + q * (1 - p)))
    found = findings(judged)
    every = found.deviations[0]
    assert (every.wins, every.ties, every.losses) == (wins, ties, losses) and wins + losses > 0
    assert found.reliability["all models"].n == 60 and found.reliability["chosen model"].n == len(predictions)
    bins = found.reliability["chosen model"].bins
    assert sum(one.n * one.predicted for one in bins) == pytest.approx(sum(predictions))
    assert "oracle" not in {one.name for one in found.lines} and found.lines[0].regret is None


def test_leaks_are_counted_and_taken_out(artifact: RouterArtifact, scores_log: PreferenceLog) -> None:
    seen = [one.prompt for one in scores_log.comparisons[:5]]
    # The encoder sees a bag of words: the same words in another order lie at the same point, or nearly.
    near = [" ".join(reversed(seen[0].split())), " ".join(reversed(seen[1].split()))]
    fresh = prompts(20)
    judged = judge_log(artifact, scored([*seen, *near, *fresh], artifact.models))
    assert (judged.nearest[:5] > 0.999).all()
    found = findings(judged)
    assert found.n_trained_on == 5 and found.n_near == (judged.nearest[5:] > 0.95).sum() >= 1
    assert [one.n for one in found.parts] == [27, 22, 22 - found.n_near]
    details = judged.report().details
    assert (details["n_trained_on"], details["n_near_duplicates_of_training"]) == (5, found.n_near)
    for name, part in (("gain_on_unseen", found.parts[1]), ("gain_without_near", found.parts[2])):
        assert details[name]["mean"] == pytest.approx(part.gain.value)
    mine = judged.worth.of(judged.choices)
    assert found.parts[1].router.value == pytest.approx(mine[5:].mean())
    assert found.parts[2].router.value == pytest.approx(mine[5:][judged.nearest[5:] <= 0.95].mean())
    assert [one.name for one in findings(judge_log(artifact, scored(seen, artifact.models))).parts] == ["all prompts"]
    only_near = findings(judge_log(artifact, scored([*near, *fresh], artifact.models)))
    assert [one.name for one in only_near.parts] == ["all prompts", "without near-duplicates"]
