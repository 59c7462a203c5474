"""Drift: the index, its noise floor and thresholds; the reference from an artifact; held-out and other prompts."""

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.artifact import RouterArtifact
from router.drift import (
    ALARM,
    FAR_SHARE,
    MIN_DECISIONS,
    MIN_RATINGS,
    NONE,
    OK,
    OTHER,
    SIGNALS,
    STATUSES,
    TOO_FEW,
    UNKNOWN,
    WATCH,
    DriftWindow,
    TierReference,
    chi_square_99,
    drift_of,
    reference_of,
    render,
)
from router.index import unit_points
from router.policy import REASONS
from router.router import Router
from router.rung import PRIOR
from router.types import Decision, Intent, Policy
from tests.conftest import INTENTS, MODELS, OPENINGS, PROMPTS, WORDS

REFERENCE = {
    "static": TierReference(
        n_rows=2_000,
        far_below=0.4,
        intents={"code": 1_000, "cooking": 600, "travel": 400},
        models={"a": 1_500, "b": 500},
    )
}
CHINESE = "请比较以下四个选项中哪一个是正确的答案并说明你的理由"


@pytest.fixture(scope="module")
def router(artifact: RouterArtifact) -> Any:
    made = Router(artifact)
    yield made
    made.close()


@pytest.fixture(scope="module")
def decision(router: Router) -> Decision:
    return router.route(PROMPTS[0][0], latency_budget_ms=10_000)


def seen(like: Decision, **other: Any) -> Decision:
    """Return a decision with another tier, nearest similarity, intent (its label) or model."""
    label = other.pop("intent", "code")
    intent = None if label is None else Intent(label, 0.9, 0.8)
    return replace(like, **{"tier": "static", "nearest": 0.7, "model": "a", **other}, intent=intent)


def window_of(like: Decision, rows: list[dict[str, Any]]) -> DriftWindow:
    window = DriftWindow(max(1, len(rows)))
    for one in rows:
        window.observe(seen(like, **one))
    return window


def usual(n: int) -> list[dict[str, Any]]:
    """Return decisions in the shares of the reference."""
    return [
        {
            "intent": ("code", "code", "code", "code", "code", "cooking", "cooking", "cooking", "travel", "travel")[
                i % 10
            ]
        }
        | {"model": "b" if i % 4 == 0 else "a", "nearest": 0.39 if i % 100 == 7 else 0.7}
        for i in range(n)
    ]


@pytest.mark.parametrize(("freedom", "exact"), [(1, 6.635), (2, 9.210), (10, 23.209), (20, 37.566), (80, 112.329)])
def test_the_quantile_of_chi_square(freedom: int, exact: float) -> None:
    assert chi_square_99(freedom) == pytest.approx(exact, rel=0.02)


def test_what_is_as_expected_is_in_order(decision: Decision) -> None:
    report = window_of(decision, usual(1_000)).report(REFERENCE)
    assert {one.name: one.status for one in report.signals} == {
        **dict.fromkeys(("far", "unreadable", "intents", "models"), OK),
        "calibration": TOO_FEW,
    }
    assert report.status == OK and report.signal("far").value == pytest.approx(FAR_SHARE)
    assert report.signal("intents").value == pytest.approx(0.0, abs=1e-3)
    assert report.signal("intents").total_variation == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("signal", "change", "share", "status"),
    [
        ("far", {"nearest": 0.1}, 0.03, WATCH),
        ("far", {"nearest": 0.1}, 0.08, ALARM),
        ("unreadable", {"nearest": None}, 0.04, WATCH),
        ("unreadable", {"nearest": None}, 0.08, ALARM),
        ("intents", {"intent": "travel"}, 0.25, WATCH),
        ("intents", {"intent": "travel"}, 0.5, ALARM),
        ("intents", {"intent": "never seen"}, 0.3, ALARM),
        ("intents", {"intent": None}, 0.3, ALARM),
        ("models", {"model": "b"}, 0.25, WATCH),
        ("models", {"model": "b"}, 0.6, ALARM),
        ("models", {"model": "c"}, 0.3, ALARM),
    ],
)
def test_each_signal_alone(decision: Decision, signal: str, change: Any, share: float, status: str) -> None:
    rows = [one | change if i % 100 < 100 * share else one for i, one in enumerate(usual(1_000))]
    report = window_of(decision, rows).report(REFERENCE)
    assert report.signal(signal).status == status
    others = {one.name: one.status for one in report.signals if one.name not in (signal, "calibration")}
    assert set(others.values()) == {OK}
    assert report.status == status
    assert signal in render(report.to_json())


def test_shifts_name_what_moved_most(decision: Decision) -> None:
    rows = [one | {"intent": "unheard of"} if i % 2 else one for i, one in enumerate(usual(1_000))]
    report = window_of(decision, rows).report(REFERENCE)
    first = report.signal("intents").shifts[0]
    assert (first.label, first.expected, first.seen) == (OTHER, 0.0, 0.5)
    assert "other: 50.0 % instead of 0.0 %" in render(report.to_json())
    assert json.loads(json.dumps(report.to_json(), allow_nan=False)) == report.to_json()


def test_too_few_decisions_say_nothing(decision: Decision) -> None:
    far = [{"nearest": 0.1, "intent": "unheard of", "model": "c"}] * (MIN_DECISIONS - 1)
    report = window_of(decision, far).report(REFERENCE)
    assert {one.status for one in report.signals} == {TOO_FEW} and report.status == TOO_FEW


def test_many_labels_ask_for_more_decisions(decision: Decision) -> None:
    """Of 20 intents 150 decisions cannot tell an alarm from chance, and of three they can."""
    labels = [f"intent-{i}" for i in range(20)]
    many = {"static": replace(REFERENCE["static"], intents=dict.fromkeys(labels, 100))}
    rows = [{"intent": labels[i % 20]} for i in range(150)]
    assert window_of(decision, rows).report(many).signal("intents").status == TOO_FEW
    assert window_of(decision, rows * 4).report(many).signal("intents").status == OK
    assert window_of(decision, usual(150)).report(REFERENCE).signal("intents").status == OK


def test_without_a_reference_only_what_needs_none_is_told(decision: Decision) -> None:
    report = window_of(decision, [{"nearest": None}] * 200).report(None)
    assert {one.name: one.status for one in report.signals} == {
        **dict.fromkeys(("far", "intents", "models"), UNKNOWN),
        "unreadable": ALARM,
        "calibration": TOO_FEW,
    }


def test_an_artifact_without_intents_has_no_mix_of_them(decision: Decision) -> None:
    none = {"static": replace(REFERENCE["static"], intents={NONE: 2_000})}
    rows = [one | {"intent": None} for one in usual(500)]
    assert window_of(decision, rows).report(none).signal("intents").status == UNKNOWN


def test_what_the_priors_decide_is_counted_apart(decision: Decision) -> None:
    blind = {"tier": PRIOR, "nearest": None, "intent": None, "model": "b"}
    report = window_of(decision, usual(500) + [blind] * 500).report(REFERENCE)
    assert (report.n_decisions, report.n_not_encoded, report.status) == (1_000, 500, OK)
    assert {one.n for one in report.signals if one.name != "calibration"} == {500}


def test_decisions_under_other_policies_say_nothing_of_models(decision: Decision) -> None:
    window = DriftWindow(1_000)
    for one in usual(500):
        window.observe(seen(decision, **one))
        window.observe(seen(decision, **{**one, "model": "c"}), is_usual=False)
    report = window.report(REFERENCE)
    assert (report.signal("models").status, report.signal("models").n) == (OK, 500)
    assert report.signal("far").n == 1_000


def test_tiers_are_expected_in_proportion_to_their_decisions(decision: Decision) -> None:
    other = replace(REFERENCE["static"], far_below=0.8, intents={"travel": 2_000})
    both = {**REFERENCE, "full": other}
    rows = usual(500) + [
        {"tier": "full", "nearest": 0.9, "intent": "travel", "model": "ab"[i % 4 == 0]} for i in range(500)
    ]
    report = window_of(decision, rows).report(both)
    assert report.status == OK
    swapped = [one | {"tier": "static"} for one in rows]
    assert window_of(decision, swapped).report(both).signal("intents").status == ALARM


def test_the_window_forgets(decision: Decision) -> None:
    window = DriftWindow(200)
    for one in [{"intent": "unheard of"}] * 200 + usual(200):
        window.observe(seen(decision, **one))
    assert len(window) == 200
    assert window.report(REFERENCE).signal("intents").status == OK


def test_false_alarms_are_rare(decision: Decision) -> None:
    """Reference and windows are drawn from the same truth, 30 intents of very unequal shares."""
    rng = np.random.default_rng(1)
    labels = [f"intent-{i}" for i in range(30)]
    said: Counter[str] = Counter()
    for _ in range(60):
        truth = rng.dirichlet(np.full(30, 0.7))
        drawn = rng.multinomial(2_000, truth)
        nearest = rng.beta(8, 3, 2_000)
        reference = {
            "static": TierReference(
                2_000,
                float(np.quantile(nearest, FAR_SHARE, method="lower")),
                {label: int(n) for label, n in zip(labels, drawn, strict=True) if n},
                {"a": 2_000},
            )
        }
        window = DriftWindow(500)
        for intent, similarity in zip(rng.choice(30, 500, p=truth), rng.beta(8, 3, 500), strict=True):
            window.observe(seen(decision, intent=labels[intent], nearest=float(similarity)))
        report = window.report(reference)
        said.update(report.signal(name).status for name in ("far", "intents"))
    assert said[ALARM] == 0 and said[WATCH] <= 2 and said[TOO_FEW] == 0, said


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(-1, 1) | st.none()), max_size=150),
    st.dictionaries(st.sampled_from("abcxyz"), st.integers(0, 50), max_size=6),
)
def test_whatever_comes_is_told_in_finite_numbers(decision: Decision, rows: Any, intents: dict[str, int]) -> None:
    reference = {"static": TierReference(sum(intents.values()), 0.3, intents, intents)}
    window = window_of(decision, [{"intent": label, "nearest": nearest, "model": label} for label, nearest in rows])
    report = window.report(reference)
    assert tuple(one.name for one in report.signals) == SIGNALS
    for one in report.signals:
        assert one.status in STATUSES
        assert one.value is None or (math.isfinite(one.value) and one.value >= -1e-9)
        assert one.noise is None or math.isfinite(one.noise)
        assert one.total_variation is None or 0 <= one.total_variation <= 1 + 1e-9
    render(report.to_json())


class TestCalibration:
    def report_of(self, errors: list[float], kind: str = "scores") -> Any:
        window = DriftWindow(1_000)
        for i, error in enumerate(errors):
            found = 0.3 + 0.4 * (i % 2)
            window.rated(found + error, found)
        return window.report(None, kind=kind).signal("calibration")

    @pytest.mark.parametrize(("error", "status"), [(0.0, OK), (0.03, OK), (-0.07, WATCH), (0.07, WATCH), (-0.2, ALARM)])
    def test_a_bias_is_told_by_its_size(self, error: float, status: str) -> None:
        signal = self.report_of([error + 0.01 * (-1) ** i for i in range(200)])
        assert (signal.status, signal.n) == (status, 200)
        assert signal.value == pytest.approx(error, abs=1e-9)

    def test_noise_is_no_bias(self) -> None:
        errors = [(-1) ** i * 0.5 + 0.12 for i in range(60)]
        assert self.report_of(errors).status == OK  # 0.12 is beyond the alarm, and within chance

    def test_few_ratings_say_nothing(self) -> None:
        assert self.report_of([0.4] * (MIN_RATINGS - 1)).status == TOO_FEW

    def test_predictions_from_battles_have_another_unit(self) -> None:
        assert self.report_of([0.4] * 200, "battles").status == UNKNOWN


class TestFromAnArtifact:
    def test_nearest_is_the_first_neighbor(self, router: Router, decision: Decision) -> None:
        assert decision.nearest == decision.neighbors[0].similarity == pytest.approx(1.0, abs=0.01)
        bare = router.route(PROMPTS[0][0], latency_budget_ms=10_000, explain=False)
        assert bare.nearest == decision.nearest
        assert router.answer_of(PRIOR, PROMPTS[0][0]).nearest is None
        assert "nearest" not in decision.to_json()

    def test_rows_are_decided_by_the_others(self, router: Router, artifact: RouterArtifact) -> None:
        rows = np.arange(artifact.n_rows)
        points = unit_points(artifact.best.vectors)
        similar = points @ points.T
        np.fill_diagonal(similar, -1.0)
        decisions = [one for one in router.rows_again("static", rows) if isinstance(one, Decision)]
        assert [one.nearest for one in decisions] == pytest.approx(similar.max(axis=1).tolist(), abs=1e-4)
        read = [one.intent.label == INTENTS[i % 3] for i, one in enumerate(decisions) if one.intent]
        assert np.mean(read) > 0.9
        assert all(one.reason in REASONS and one.tier == "static" and one.model in MODELS for one in decisions)

    def test_a_row_decides_alone_as_beside_others(self, router: Router) -> None:
        together = router.rows_again("static", np.arange(20))
        alone = [router.rows_again("static", np.array([row]))[0] for row in range(20)]
        for one, other in zip(together, alone, strict=True):
            assert isinstance(one, Decision) and isinstance(other, Decision)
            assert (one.model, one.nearest, one.intent, one.estimates) == (
                *(other.model, other.nearest, other.intent, other.estimates),
            )

    def test_the_reference_is_of_every_tier(self, both_tiers: RouterArtifact) -> None:
        router = Router(both_tiers)
        reference = reference_of(router)
        router.close()
        assert set(reference) == {"full", "static"}
        for one in reference.values():
            assert one.n_rows == sum(one.intents.values()) == sum(one.models.values()) == 150
            assert 0 < one.far_below < 1 and set(one.intents) == set(INTENTS)

    def test_fewer_rows_are_drawn_of_many(self, router: Router) -> None:
        assert reference_of(router, n_rows=40)["static"].n_rows == 40
        assert reference_of(router, n_rows=40) == reference_of(router, n_rows=40)

    def test_the_reference_is_made_under_a_policy(self, router: Router) -> None:
        assert reference_of(router, Policy(exclude=(MODELS[0],)))["static"].models.get(MODELS[0], 0) == 0
        assert reference_of(router)["static"].models[MODELS[0]] > 0

    def test_what_pause_raises_ends_the_work(self, router: Router) -> None:
        calls: list[int] = []

        def pause() -> None:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            reference_of(router, pause=pause)
        assert len(calls) == 3

    def test_held_out_prompts_raise_no_alarm_and_others_do(self, router: Router) -> None:
        learnt = {text for text, _ in PROMPTS}
        held_out = [
            opening.format(*pair)
            for intent in INTENTS
            for opening in OPENINGS[intent]
            for pair in combinations(WORDS[intent], 2)
            if opening.format(*pair) not in learnt
        ]
        same = drift_of(router, iter(held_out))
        assert same.n_decisions == len(held_out) == 270
        assert same.status == OK, render(same.to_json())
        code = [text for text, intent in PROMPTS if intent == "code"]
        assert drift_of(router, iter(code * 3)).signal("intents").status == ALARM
        foreign = drift_of(router, (f"{CHINESE} {i}" for i in range(200)))
        assert foreign.status == ALARM
        assert ALARM in (foreign.signal("far").status, foreign.signal("unreadable").status)
