"""training/replay.py, whatif.py, whatif_page.py and ``whichmodel whatif``: the router's decisions, counted by hand."""

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.artifact import RouterArtifact
from router.cli import main
from router.cli_whatif import FIELDS, NO_POLICY, read_policies
from router.errors import ConfigError, DataError, PolicyError
from router.needs import needs_of
from router.router import Router
from router.types import Endpoint, ModelProfile, Policy
from tests.conftest import MODELS, PROMPTS, SCORES

pytest.importorskip("sklearn")

from training.comparisons import Comparison, PreferenceLog
from training.replay import NO_ANSWER, Prompts, Replay, holds_prompts_alone, prompts_of_lines, prompts_of_log, replay
from training.whatif import WhatIf, means, what_if
from training.whatif_page import render, render_page, usd_differences, write_page
from training.whatif_plots import draw_what_if

QUALITY, CHEAP = Policy(name="quality", strategy="quality"), Policy(name="cheap", strategy="cheap")
TEXTS = tuple(text for text, _ in PROMPTS)
UNSEEN = (
    "How should I roast a whole duck with plums?",
    "My async code deadlocks on a lock",
    "A weekend in Porto by train",
    "zzqx",
    "def f(x):\n    return x[0  # what is wrong?\n" * 40,
)
IMAGE = [{"role": "user", "content": [{"type": "text", "text": "Plan a day"}, {"type": "image_url", "image_url": {}}]}]
TIMED = {
    "coder-medium": ModelProfile("coder-medium", endpoints=(Endpoint("a", 1.0, 2.0, latency_p50_ms=300.0),)),
    "chef-large": ModelProfile("chef-large", endpoints=(Endpoint("a", 8.0, 16.0, latency_p50_ms=900.0),)),
    "guide-small": ModelProfile("guide-small", endpoints=(Endpoint("a", 0.25, 0.5, latency_p50_ms=100.0),)),
}


def found_of(artifact: RouterArtifact, done: Replay, prompts: Prompts | None = None) -> WhatIf:
    table = None if prompts is None else prompts.table
    return what_if(done, artifact_id="made", verdict=artifact.verdict, table=table)


# --- replay -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["static", "full"])
def test_every_prompt_is_decided_as_the_router_decides_it(both_tiers: RouterArtifact, tier: str) -> None:
    asked = [*UNSEEN, *TEXTS[:20], IMAGE]
    policies = [
        QUALITY,
        CHEAP,
        Policy(name="some", candidates=MODELS[:2], min_gain=0.05),
        Policy(name="capped", max_cost_usd=0.0002, fallback="elsewhere"),
        Policy(name="slow", max_latency_ms=200.0),
    ]
    done = replay(both_tiers.only(tier), asked, policies, profiles=TIMED)
    router = Router(both_tiers)
    router.use_profiles(TIMED)
    for nth, policy in enumerate(policies):
        for row, one in enumerate(asked):
            decided = router.answer_of(tier, one, policy, needs=needs_of(one))
            chosen = decided.estimate(decided.model)
            assert done.models[done.choices[nth, row]] == decided.model
            assert done.reasons[nth][row] == decided.reason
            if chosen is not None:
                assert done.quality[nth, row] == chosen.quality
                assert done.costs_usd[nth, row] == chosen.cost_usd
                assert done.latencies_ms[nth, row] == chosen.latency_ms
            label = decided.intent.label if decided.intent else None
            assert label == (done.intent_names[done.intents[row]] if done.intents[row] >= 0 else None)
    router.close()
    assert done.tier == tier
    assert "elsewhere" in done.models
    assert done.trained_on.tolist() == [False] * len(UNSEEN) + [True] * 20 + [False]


def test_what_leaves_no_model_is_counted_by_its_constraint(artifact: RouterArtifact) -> None:
    policies = [
        QUALITY,
        Policy(name="nobody", candidates=("gpt-nothing",)),
        Policy(name="legal", local_only=True, require=("vision",)),
    ]
    done = replay(artifact, UNSEEN, policies)
    assert (done.choices[1:] == NO_ANSWER).all() and np.isnan(done.quality[1:]).all()
    found = found_of(artifact, done)
    assert found.policies[0].unanswered == {} and found.policies[0].n_answered == len(UNSEEN)
    for line, policy in zip(found.policies[1:], policies[1:], strict=True):
        with pytest.raises(PolicyError) as left:
            Router(artifact).answer_of("static", UNSEEN[0], policy)
        assert line.unanswered == {str(left.value).removeprefix("no model is left: "): len(UNSEEN)}
        assert (line.n_answered, line.quality, line.usd_per_1000, line.shares, line.reasons) == (0, None, None, (), {})
    one, other = found.differences
    assert one.n_changed == len(UNSEEN) and one.n_paired == 0 and one.quality is None
    assert {move.after for move in one.moves} == {None}
    assert other.before == "quality" and other.after == "legal"
    assert "no answer under nobody: 5 prompts, candidates names no model" in render(found)
    assert draw_what_if(found, usd_differences(done))["shares.png"].startswith(b"\x89PNG")


def test_a_fallback_that_the_artifact_knows_has_its_estimate(artifact: RouterArtifact) -> None:
    done = replay(artifact, TEXTS[:5], [Policy(name="own", max_cost_usd=0.0, fallback="chef-large")])
    alone = MODELS.index("chef-large")
    assert done.reasons == (("fallback",) * 5,)
    assert (done.quality[0] == done.alone_quality[:, alone]).all() and not np.isnan(done.quality).any()
    assert (done.costs_usd[0] == done.alone_costs_usd[:, alone]).all()


def test_needs_of_messages_are_required(artifact: RouterArtifact) -> None:
    blind = {name: replace(one, capabilities=("vision",) * (name == "chef-large")) for name, one in TIMED.items()}
    done = replay(artifact, [IMAGE, "Plan a day"], [CHEAP], profiles=blind)
    assert done.models[done.choices[0, 0]] == "chef-large" != done.models[done.choices[0, 1]]
    assert np.isnan(done.alone_quality[0]).tolist() == [name != "chef-large" for name in MODELS]
    found = found_of(artifact, done)
    assert [one.n for one in found.alone] == [1 + (name == "chef-large") for name in MODELS]


def test_exploration_is_drawn_by_the_seed(artifact: RouterArtifact) -> None:
    explores = Policy(name="explores", explore_share=0.6)
    done = replay(artifact, TEXTS, [QUALITY, explores], seed=4)
    again, other = (replay(artifact, TEXTS, [QUALITY, explores], seed=seed) for seed in (4, 5))
    assert (done.choices == again.choices).all() and done.reasons == again.reasons
    assert (done.choices[1] != other.choices[1]).any()
    drawn = done.choices[0] != done.choices[1]
    # Of the 60 %, a third draws what was chosen anyway: 40 % of 150, plus or minus three standard errors.
    assert 42 <= drawn.sum() <= 78
    assert [reason == "explore" for reason in done.reasons[1]] == drawn.tolist()
    at = np.arange(len(TEXTS))
    assert (done.quality[1] == done.alone_quality[at, done.choices[1]]).all()


def test_a_verdict_that_does_not_route_is_said(with_verdict: Any) -> None:
    artifact = with_verdict("DO NOT ROUTE")
    done = replay(artifact, UNSEEN, [QUALITY, Policy(name="anyway", route_anyway=True)])
    found = found_of(artifact, done)
    assert found.policies[0].reasons == {"verdict": len(UNSEEN)}
    assert "verdict is DO NOT ROUTE" in render(found) and "so under quality nothing" in render(found)
    assert "verdict is DO NOT ROUTE" in render_page(found, draw_what_if(found, usd_differences(done)))


@pytest.mark.parametrize("policies", [[QUALITY, QUALITY], [Policy()]])
def test_policies_have_names_of_their_own(artifact: RouterArtifact, policies: list[Policy]) -> None:
    with pytest.raises(ValueError, match="names of their own"):
        replay(artifact, UNSEEN, policies)


# --- numbers ----------------------------------------------------------------------------------------------------------


def made(**changed: Any) -> Replay:
    """Return a replay of twelve prompts written by hand: the last four move from a to b, the eleventh has no answer."""
    nan = np.nan
    fields: dict[str, Any] = {
        "policies": (Policy(name="now"), Policy(name="then", max_cost_usd=0.5)),
        "models": ("a", "b"),
        "choices": np.array([[0] * 12, [0] * 8 + [1, 1, NO_ANSWER, 1]]),
        "quality": np.array([[0.5] * 6 + [0.7] * 6, [0.5] * 6 + [0.7] * 2 + [0.6, 0.4, nan, 0.5]]),
        "costs_usd": np.array([[0.002] * 12, [0.002] * 8 + [0.001, 0.001, nan, nan]]),
        "latencies_ms": np.array([np.arange(1.0, 13.0) * 100, [nan] * 12]),
        "reasons": (("best",) * 12, ("best",) * 6 + ("guard",) * 2 + ("best", "best", "too dear", "best")),
        "alone_quality": np.array([[0.6, 0.5]] * 12),
        "alone_costs_usd": np.array([[0.002, 0.001]] * 12),
        "alone_latencies_ms": np.full((12, 2), nan),
        "intents": np.array([0] * 6 + [1] * 5 + [-1]),
        "intent_names": ("code", "law"),
        "groups": np.arange(12),
        "trained_on": np.zeros(12, dtype=bool),
        "tier": "static",
    }
    return Replay(**{**fields, **changed})


def test_the_numbers_are_those_of_a_hand_computation(artifact: RouterArtifact) -> None:
    found = found_of(artifact, made())
    now, then = found.policies
    assert now.quality is not None and now.quality.value == pytest.approx(0.6)  # (6 * 0.5 + 6 * 0.7) / 12
    assert then.quality is not None and then.quality.value == pytest.approx((6 * 0.5 + 1.4 + 1.5) / 11)
    assert now.usd_per_1000 is not None and now.usd_per_1000.value == pytest.approx(2.0)
    assert then.usd_per_1000 is not None and then.usd_per_1000.value == pytest.approx((8 * 2.0 + 2 * 1.0) / 10)
    assert (now.n_priced, then.n_priced, now.n_timed, then.n_timed) == (12, 10, 12, 0)
    assert now.latency_ms is not None and now.latency_ms.value == pytest.approx(650.0)
    assert now.latency_p95_ms == pytest.approx(1145.0)  # at 0.95 * 11 = 10.45 between 1,100 and 1,200
    assert then.latency_ms is None and then.latency_p95_ms is None
    assert [(one.model, one.n) for one in then.shares] == [("a", 8), ("b", 3)]
    assert then.shares[0].share.value == pytest.approx(8 / 12)
    assert then.reasons == {"best": 9, "guard": 2} and then.unanswered == {"too dear": 1}
    assert now.policy == {} and then.policy == {"max_cost_usd": 0.5}
    (one,) = found.differences
    assert (one.n_changed, one.n_paired) == (4, 11) and one.changed.value == pytest.approx(4 / 12)
    assert one.quality is not None and one.quality.value == pytest.approx((-0.1 - 0.3 - 0.2) / 11)
    assert one.usd_per_1000 is not None and one.usd_per_1000.value == pytest.approx(-2.0 / 10)
    assert one.latency_ms is None and one.observed is None
    move, lost = one.moves
    assert (move.before, move.after, move.n) == ("a", "b", 3) and move.share == pytest.approx(0.25)
    assert move.quality == pytest.approx(-0.2) and move.usd_per_1000 == pytest.approx(-1.0)
    assert (lost.before, lost.after, lost.n, lost.quality) == ("a", None, 1, None)
    law, other, code = one.intents
    assert (law.intent, law.n, law.n_changed, len(law.moves)) == ("law", 5, 3, 2)
    assert law.quality is not None and law.quality.value == pytest.approx(-0.4 / 4) and law.quality.low is None
    assert (other.intent, other.n_changed) == ("(no intent)", 1) and (code.intent, code.n_changed) == ("code", 0)
    assert found.intents_from == "neighbours"
    a, b = found.alone
    assert (a.quality, a.usd_per_1000, a.latency_ms) == (pytest.approx(0.6), pytest.approx(2.0), None)
    assert (b.n, b.quality) == (12, pytest.approx(0.5))


def test_intervals_are_the_bootstrap_over_groups() -> None:
    values = np.arange(40.0)
    alone = means({"x": values}, np.arange(40))["x"]
    assert alone is not None and alone.low is not None and alone.high is not None
    half = 1.96 * values.std() / np.sqrt(40)
    assert alone.low == pytest.approx(alone.value - half, abs=0.6)
    assert alone.high == pytest.approx(alone.value + half, abs=0.6)
    grouped = means({"x": values}, np.arange(40) // 4)["x"]
    assert grouped is not None and grouped.low is not None and grouped.high is not None
    assert grouped.high - grouped.low > 1.7 * (alone.high - alone.low)  # neighbours in order are alike: twice as wide


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.just(float("nan")), st.floats(-1, 1)), min_size=1, max_size=30), st.integers(1, 30))
def test_means_skip_what_is_unknown(values: list[float], n_groups: int) -> None:
    column, groups = np.array(values), np.arange(len(values)) % n_groups
    found = means({"x": column, "y": np.zeros(len(values))}, groups)
    known = column[~np.isnan(column)]
    if not len(known):
        assert found["x"] is None
    else:
        own = found["x"]
        assert own is not None and own.value == pytest.approx(known.mean())
        if own.low is not None and own.high is not None:
            assert known.min() - 1e-9 <= own.low <= own.high <= known.max() + 1e-9
        assert (own.low is None) == (len(set(groups[~np.isnan(column)].tolist())) < 10)
    assert found["y"] is not None and found["y"].value == 0.0


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_counts_add_up(artifact: RouterArtifact, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 15))
    choices = np.array(
        data.draw(st.lists(st.lists(st.integers(-1, 1), min_size=n, max_size=n), min_size=2, max_size=3))
    )
    numbers = np.where(choices == NO_ANSWER, np.nan, 0.5 + 0.1 * choices)
    found = found_of(
        artifact,
        made(
            policies=tuple(Policy(name=str(nth)) for nth in range(len(choices))),
            choices=choices,
            quality=numbers,
            costs_usd=numbers,
            latencies_ms=numbers,
            reasons=tuple(tuple("no" if one < 0 else "best" for one in own) for own in choices.tolist()),
            **{name: np.full((n, 2), 0.5) for name in ("alone_quality", "alone_costs_usd", "alone_latencies_ms")},
            intents=np.arange(n) % 3 - 1,
            groups=np.arange(n),
            trained_on=np.zeros(n, dtype=bool),
        ),
    )
    for line in found.policies:
        assert sum(one.n for one in line.shares) == sum(line.reasons.values()) == line.n_answered
        assert line.n_answered + sum(line.unanswered.values()) == n
    for one, after in zip(found.differences, choices[1:], strict=True):
        assert sum(move.n for move in one.moves) == one.n_changed == int((after != choices[0]).sum())
        assert sum(line.n for line in one.intents) == n or found.intents_from == "none"
        for line in one.intents:
            assert sum(move.n for move in line.moves) == line.n_changed
    json.dumps(found.to_json(), allow_nan=False)
    assert render(found)


# --- outcomes ---------------------------------------------------------------------------------------------------------


def test_observed_quality_is_the_logs_own_scores(artifact: RouterArtifact, scores_log: PreferenceLog) -> None:
    prompts = prompts_of_log(scores_log, artifact)
    done = replay(artifact, prompts.asked, [QUALITY, CHEAP])
    found = found_of(artifact, done, prompts)
    by_text = {text: scores for (text, _), scores in zip(PROMPTS, SCORES, strict=True)}
    before, after = (
        np.array([by_text[str(text)][done.models[place]] for text, place in zip(prompts.asked, own, strict=True)])
        for own in done.choices
    )
    own = found.differences[0].observed
    assert own is not None and own.before is not None and own.after is not None and own.difference is not None
    assert own.n == 150 and found.n_trained_on == 150
    assert own.before.value == pytest.approx(before.mean()) and own.after.value == pytest.approx(after.mean())
    assert own.difference.value == pytest.approx((after - before).mean())
    moved = done.choices[0] != done.choices[1]
    assert moved.any()
    assert own.won == int((after > before)[moved].sum()) and own.lost == int((after < before)[moved].sum())
    assert own.won + own.tied + own.lost == moved.sum()
    assert own.points is not None and own.points.value == pytest.approx((own.won + own.tied / 2) / moved.sum())
    assert found.intents_from == "log"
    text = render(found)
    assert "150 prompts have scores of both choices" in text and "150 of 150 prompts are training rows" in text


def test_observed_battles_are_those_of_the_two_models(artifact: RouterArtifact) -> None:
    fought = [
        Comparison(prompt=f"p{nth}", model_a=a, model_b=b, winner=winner)
        for nth, (a, b, winner) in enumerate(
            [
                *([("a", "b", "model_a")] * 8),  # does not move
                ("b", "a", "model_a"),
                ("a", "b", "model_a"),
                ("a", "b", "model_a"),  # no answer
                ("a", "c", "model_a"),  # not these two
            ]
        )
    ]
    prompts = prompts_of_log(PreferenceLog(comparisons=fought), artifact)
    found = found_of(artifact, made(), prompts)
    own = found.differences[0].observed
    assert own is not None and (own.n, own.before, own.after, own.difference) == (0, None, None, None)
    assert (own.won, own.tied, own.lost) == (1, 0, 1)
    assert own.points is not None and own.points.value == 0.5
    ties = [replace(one, winner="tie") for one in fought]
    own = found_of(artifact, made(), prompts_of_log(PreferenceLog(comparisons=ties), artifact)).differences[0].observed
    assert own is not None and (own.won, own.tied, own.lost) == (0, 2, 0)


def test_models_unknown_to_the_log_have_no_outcome(artifact: RouterArtifact) -> None:
    rows = [Comparison(prompt=f"p{nth}", scores={"x": 0.1, "y": 0.9}) for nth in range(12)]
    prompts = prompts_of_log(PreferenceLog(comparisons=rows), artifact)
    found = found_of(artifact, made(), prompts)
    own = found.differences[0].observed
    assert own is not None and (own.n, own.before, own.points) == (0, None, None)
    assert "no outcome of two different choices" in render(found)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_lines_of_prompts_are_told_from_logs(tmp_path: Path) -> None:
    def told(text: str, name: str = "rows.jsonl") -> bool:
        (tmp_path / name).write_text(text)
        return holds_prompts_alone(str(tmp_path / name))

    assert told('{"prompt": "a"}\n{"messages": []}')
    assert told('{"prompt": "a", "intent": "code"}')
    assert not told('{"prompt": "a", "model_a": "x", "model_b": "y", "winner": "tie"}')
    assert not told('{"prompt": "a", "scores": {"x": 1}}')
    assert not told("") and not told("not json") and not told('{"query": "a"}')
    assert not told('{"prompt": "a"}', "rows.csv") and not holds_prompts_alone(str(tmp_path / "none.jsonl"))
    assert holds_prompts_alone("-")


def test_prompts_without_text_are_refused_and_counted(tmp_path: Path) -> None:
    lines = ['{"prompt": "a"}', "", '{"prompt": "  "}', '{"messages": []}', '{"messages": [{"role": "user"}, 3]}']
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    prompts = prompts_of_lines([str(tmp_path / "rows.jsonl")])
    assert prompts.asked == ("a",) and len(prompts.refused) == 3
    assert prompts.refused[0] == f"{tmp_path}/rows.jsonl:3: the prompt is empty"
    (tmp_path / "rows.jsonl").write_text('{"prompt": ""}\n')
    with pytest.raises(DataError, match=r"no prompt to replay; 1 refused, the first: .*:1: the prompt is empty"):
        prompts_of_lines([str(tmp_path / "rows.jsonl")])


def test_a_sample_is_seeded_and_keeps_prompts_with_their_outcomes(
    artifact: RouterArtifact, scores_log: PreferenceLog
) -> None:
    prompts = prompts_of_log(scores_log, artifact)
    some = prompts.sample(20, 1)
    assert some.asked == prompts.sample(20, 1).asked != prompts.sample(20, 2).asked
    assert len(some) == 20 == len(set(some.asked)) and some.n_in_log == 150
    assert some.table is not None and some.table.originals == some.asked
    assert prompts.sample(150, 1) is prompts is prompts.sample(10**9, 1)


# --- policies as text -------------------------------------------------------------------------------------------------


def test_every_form_of_a_policy(tmp_path: Path) -> None:
    text = "l:strategy=private,require=vision+tools,local_only=true,max_cost_usd=0.01,candidates=a + b,region=eu,role=r"
    wanted = Policy(
        name="l",
        strategy="private",
        require=("vision", "tools"),
        local_only=True,
        max_cost_usd=0.01,
        candidates=("a", "b"),
        region=("eu",),
        role="r",
    )
    (tmp_path / "c.toml").write_text(
        '[server]\nport = 1\n[policies]\ndefault = "l"\n'
        '[policies.l]\nstrategy = "private"\nrequire = ["vision", "tools"]\n'
        'local_only = true\nmax_cost_usd = 0.01\ncandidates = ["a", "b"]\nregion = ["eu"]\nrole = "r"\n'
        '["policies"."x.y"]\nexclude = []\n[[bindings]]\npolicy = "l"\nkey = "unknown here"\n'
    )
    as_json = json.dumps({"name": "l", **{name: getattr(wanted, name) for name in FIELDS if getattr(wanted, name)}})
    for one, config in ((text, None), ("l", tmp_path / "c.toml"), (as_json, None)):
        assert read_policies([one], config) == [Policy(name=NO_POLICY), wanted]
    assert read_policies(["x.y", "now:"], tmp_path / "c.toml") == [Policy(name="x.y"), Policy(name="now")]
    assert read_policies(["strategy=fast", "candidates=m:7b"]) == [
        Policy(name="strategy=fast", strategy="fast"),
        Policy(name="candidates=m:7b", candidates=("m:7b",)),
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "candidates": st.lists(st.sampled_from(["a", "b-1", "c/d"]), min_size=1),
            "require": st.lists(st.sampled_from(["vision", "tools"]), min_size=1),
            "local_only": st.booleans(),
            "max_cost_usd": st.floats(0, 1e6),
            "min_uptime": st.floats(0, 1),
            "explore_share": st.floats(0, 1),
            "fallback": st.sampled_from(["a", "z"]),
            "strategy": st.sampled_from(["cheap", "fast"]),
        },
    )
)
def test_text_and_json_say_the_same(values: dict[str, Any]) -> None:
    def written(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return "+".join(value) if isinstance(value, list) else str(value)

    text = "l:" + ",".join(f"{name}={written(value)}" for name, value in values.items())
    assert read_policies([text]) == read_policies([json.dumps({"name": "l", **values})])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cheep", "no policy of this name is known: did you mean cheap"),
        ("a:strateg=cheap", "unknown field 'strateg': did you mean strategy"),
        ("a:strategy=chep", "'chep', did you mean cheap"),
        ("a:strategy=42", "strategy must be one of"),
        ("a:max_cost_usd=nan", "max_cost_usd: expected a finite number, got 'nan'"),
        ("a:max_cost_usd=-1", "max_cost_usd must be at least 0, got -1"),
        ("a:min_uptime=2", "min_uptime must be within 0 and 1"),
        ("a:local_only=yes", "expected true or false, got 'yes'"),
        ("a:candidates=", "expected names"),
        ("a:candidates=x++y", "expected names"),
        ("a:role=", "expected a text"),
        ("a:strategy", "expected field=value"),
        ("a:role=x,role=y", "role is given twice"),
        ("a:strategy=cheap,willingness_to_pay_usd=1", "must not both be given"),
        ('{"max_cost_usd": 1e999}', "expected a finite number"),
        ('{"max_cost_usd": true}', "expected a finite number, got True"),
        ('{"max_cost_usd": 1' + "0" * 400 + "}", "expected a finite number"),
        ('{"candidates": [1]}', "expected names"),
        ('{"candidates": {"a": 1}}', "expected names"),
        ('{"local_only": 1}', "expected true or false"),
        ('{"role": []}', "expected a text"),
        ('{"name": 3}', "name: expected a text, got 3"),
        ('{"a"', "not JSON"),
        ('{"a": ' + "[" * 100_000, "not JSON"),
        ("cheap", None),
    ],
)
def test_a_wrong_policy_is_one_line(tmp_path: Path, text: str, says: str | None) -> None:
    (tmp_path / "c.toml").write_text('[policies.cheap]\nstrategy = "cheap"\n')
    if says is None:
        assert read_policies([text], tmp_path / "c.toml")[1].strategy == "cheap"
        return
    with pytest.raises(ConfigError) as refused:
        read_policies([text], tmp_path / "c.toml")
    assert says in str(refused.value)


def test_the_docs_name_every_field() -> None:
    text = (Path(__file__).parents[2] / "docs" / "whatif.md").read_text().split("The fields are")[1].split("refused")[0]
    assert set(re.findall(r"`(\w+)`", text)) == set(FIELDS)


@pytest.mark.parametrize("text", ["no policy:", "cheap:"])
def test_names_of_policies_differ(text: str) -> None:
    with pytest.raises(ConfigError, match="two policies are named"):
        read_policies([text] if text == "no policy:" else [text, text])


@pytest.mark.parametrize(
    "content", ["policies = 3", "[policies", "\udcff", "[policies.cheap]\nregion = 3", "[server]\nprt = 1", None]
)
def test_a_wrong_configuration_is_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "c.toml").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=r"c\.toml"):
        read_policies(["cheap"], tmp_path / "c.toml")


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(artifact: RouterArtifact, tmp_path_factory: pytest.TempPathFactory) -> str:
    target = tmp_path_factory.mktemp("whatif") / "artifact"
    artifact.write(target)
    return str(target)


@pytest.fixture
def log(tmp_path: Path) -> str:
    rows = [
        {"prompt": text, "intent": intent, "scores": scores}
        for (text, intent), scores in zip(PROMPTS[:60], SCORES[:60], strict=True)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(one) for one in rows))
    return str(tmp_path / "log.jsonl")


TWO = ("--policy", "quality:strategy=quality", "--policy", "cheap:strategy=cheap,candidates=coder-medium+guide-small")


def test_the_command_replays_a_log(
    directory: str, log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page"
    assert main(["whatif", directory, log, *TWO, "--sample", "40", "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])
    assert found == json.loads((out / "whatif.json").read_text())
    assert "sampled 40 of 60 prompts (seed 0)" in said.err and "40 prompts replayed under 2 policies" in said.err
    assert "the router's own expectations" in said.out and "the router&#x27;s own" in (out / "index.html").read_text()
    assert (found["n_prompts"], found["n_in_log"], found["intents_from"]) == (40, 60, "log")
    assert [one["name"] for one in found["policies"]] == ["quality", "cheap"]
    assert found["policies"][1]["policy"] == {"candidates": ["coder-medium", "guide-small"], "strategy": "cheap"}
    assert "chef-large" not in [one["model"] for one in found["policies"][1]["shares"]]
    assert found["differences"][0]["observed"]["n"] == 40
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("index.html", "whatif.json", "shares.png", "cost-quality.png", "cost-difference-1.png", "intents-1.png")
    }
    page = (out / "index.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png;base64,") == 4
    assert not any(text[:30] in page or text[:30] in said.out for text, _ in PROMPTS[:60])
    # Another page in its place leaves no plot of the first one behind.
    assert main(["whatif", directory, log, "--policy", "x:", "--policy", "y:", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"index.html", "whatif.json", "shares.png", "cost-quality.png"}


def test_the_seed_of_the_sample_is_said(
    directory: str, log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page"
    assert main(["whatif", directory, log, *TWO, "--sample", "12", "--seed", "7", "--out", str(out)]) == 0
    assert "A sample: 12 of the log's 60 prompts (seed 7)." in capsys.readouterr().out
    found = json.loads((out / "whatif.json").read_text())
    assert (found["seed"], found["interval_seed"]) == (7, 0)
    assert re.search("sample and exploration(<[^>]*>|\\s)*seed 7<", (out / "index.html").read_text())


def test_the_same_command_says_the_same(directory: str, log: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for _ in range(2):
        assert main(["whatif", directory, log, *TWO, "--json"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_the_command_reads_lines_of_prompts(
    directory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps({"prompt": text}) for text in UNSEEN] + [json.dumps({"messages": IMAGE}), '{"prompt": ""}']
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    one = ["whatif", directory, str(tmp_path / "rows.jsonl"), "--policy", "cheap:strategy=cheap", "--json"]
    assert main(one) == 0
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])
    assert [policy["name"] for policy in found["policies"]] == [NO_POLICY, "cheap"]
    assert found["n_prompts"] == len(UNSEEN) + 1 and found["differences"][0]["observed"] is None
    assert "read as prompts alone" in said.err and "1 rows refused; the first:" in said.err
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    assert main(["whatif", directory, "-", *one[3:]]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found


def test_a_log_can_be_read_as_prompts(directory: str, log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["whatif", directory, log, *TWO, "--format", "prompts", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["n_prompts"] == 60 and found["differences"][0]["observed"] is None


def test_profiles_are_laid_over_the_artifacts(
    directory: str, log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.yaml").write_text("chef-large: {usd_per_mtok_in: 0.0, usd_per_mtok_out: 0.0}\n")
    shown = []
    for more in ((), ("--profiles", str(tmp_path / "p.yaml"))):
        assert main(["whatif", directory, log, *TWO, "--json", *more]) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        shown.append({one["model"]: one["usd_per_1000"] for one in found["alone"]})
    assert shown[0]["chef-large"] > 0 == shown[1]["chef-large"]
    assert shown[0]["guide-small"] == shown[1]["guide-small"]


def test_without_prices_costs_are_unknown(
    artifact: RouterArtifact, log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = replace(artifact, profiles={name: ModelProfile(name) for name in MODELS})
    none = {"quality": None, "balanced": None, "cheap": None}
    replace(bare, tiers=(replace(bare.best, strategies=none),)).write(tmp_path / "bare")
    assert main(["whatif", str(tmp_path / "bare"), log, *TWO, "--out", str(tmp_path / "page")]) == 0
    text = capsys.readouterr().out
    assert "cost            unknown\n" in text and "latency         unknown\n" in text
    assert "USD per 1,000 requests  unknown" in text
    assert "no answer under cheap: 60 prompts, strategy cheap needs every model's cost" in text
    assert not (tmp_path / "page" / "cost-quality.png").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", ""),
        ("rows.jsonl", "\n\n"),
        ("rows.jsonl", '{"prompt": "a"}\n{"prompt": 3}\n'),
        ("rows.jsonl", '{"prompt": "a"}\nnot json\n'),
        ("rows.jsonl", '{"prompt": "   "}\n'),
        ("rows.jsonl", '{"prompt": "a", "scores": {"x": 2}}\n'),
        ("rows.jsonl", '{"query": "a"}\n'),
        ("rows.jsonl", "[" * 100_000),
        ("rows.csv", ""),
        ("rows.json", "[]"),
        ("rows.txt", "hello"),
    ],
)
def test_a_log_of_no_use_is_one_line(
    directory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    assert main(["whatif", directory, str(tmp_path / name), *TWO]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("whichmodel: ") and name in last


def test_hostile_prompts_are_replayed(directory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = ["\ud800 lone", "\x00\x01", "𝔘" * 3, "a" * 200_000, "<script>alert(1)</script>", "$x^2$ \u202e"]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"prompt": one}) for one in hostile))
    assert main(["whatif", directory, str(tmp_path / "rows.jsonl"), *TWO, "--out", str(tmp_path / "page")]) == 0
    assert "prompts answered        6" in capsys.readouterr().out
    assert "<script" not in (tmp_path / "page" / "index.html").read_text()


def test_foreign_names_are_escaped_on_the_page(artifact: RouterArtifact, tmp_path: Path) -> None:
    name = "<b>$x^2$\u202e" + "y" * 80
    done = replay(artifact, UNSEEN, [Policy(name=name, max_cost_usd=0.0, fallback="<i>" + name), CHEAP])
    found = found_of(artifact, done)
    page = write_page(tmp_path / "page", found, done).read_text()
    assert "<b>$" not in page and "<i>" not in page and "&lt;b&gt;" in page and "&lt;i&gt;" in page


def test_misspelt_models_are_told(directory: str, log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["whatif", directory, log, "--policy", "x:candidates=chef-larg+guide-small"]) == 0
    assert "names 'chef-larg', which is no model of the artifact, did you mean chef-large?" in capsys.readouterr().err


def test_a_target_that_is_a_file_is_refused_before_the_work(
    directory: str, log: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["whatif", directory, log, *TWO, "--out", log]) == 1
    said = capsys.readouterr()
    assert "is a file" in said.err and said.out == ""


def test_a_tier_that_is_missing_is_one_line(directory: str, log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["whatif", directory, log, *TWO, "--tier", "full"]) == 1
    assert "the artifact has no full tier" in capsys.readouterr().err
