"""The nouns of feedback: what is refused, what a verdict is on its decision, what training reads of it."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import FeedbackError
from router.feedback.events import (
    MAX_METADATA_BYTES,
    Battle,
    Details,
    FeedbackEvent,
    PendingDecision,
    Score,
    Vector,
    Verdict,
    check_prompt,
)
from router.prompt import prompt_hash

DECIDED = PendingDecision(
    decision_id="d" * 43,
    created_s=1000.0,
    expires_s=2000.0,
    key_id="gateway",
    artifact_id="a1",
    tier="full",
    candidates=("small", "large"),
    model="small",
    propensity=1.0,
    prompt_hash=prompt_hash("hello"),
    intent="greeting",
    user="ann",
    vectors=(Vector("e1", b"\0" * 8),),
)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Score("m", 1.01), "score: got 1.01, expected a number in 0..1"),
        (lambda: Score("m", math.nan), "score: got nan"),
        (lambda: Score("m", True), "score: got True"),
        (lambda: Score("m", "0.5"), "score: got '0.5'"),
        (lambda: Score("", 0.5), "model: got ''"),
        (lambda: Score("a\r\nb", 0.5), "printable"),
        (lambda: Score("m" * 257, 0.5), "1 to 256"),
        (lambda: Battle("a", "a", "tie"), "two different models"),
        (lambda: Battle("a", "b", "a"), "winner: got 'a', expected one of model_a, model_b, tie, both_bad"),
        (lambda: Vector("e", b"123"), "got 3 bytes, expected float32"),
        (lambda: Vector("e", b""), "got 0 bytes"),
        (lambda: Details(costs_usd={"m": -1.0}), "costs_usd of m: got -1.0"),
        (lambda: Details(latencies_ms={"m": math.inf}), "latencies_ms of m: got inf"),
        (lambda: Details(output_tokens={"m": 10**400}), "output_tokens of m"),
        (lambda: Details(user="\ud800"), "user: got"),
        (lambda: Details(idempotency_key="k" * 129), "1 to 128"),
        (lambda: Details(metadata=[]), "got a list, expected a JSON object"),
        (lambda: Details(metadata={"x": math.nan}), "expected a JSON object"),
        (lambda: Details(metadata={"x": {1}}), "expected a JSON object"),
        (lambda: Details(metadata={1: 2}), "with strings as keys"),
        (lambda: Details(metadata={"x": "\udfff"}), "half a character"),
        (lambda: Details(metadata={"x": "y" * MAX_METADATA_BYTES}), "expected at most 2048"),
        (lambda: Verdict("d"), "either a rating, or a winner"),
        (lambda: Verdict("d", rating=0.5, winner="tie", against="x"), "either a rating, or a winner"),
        (lambda: Verdict("d", winner="tie"), "either a rating, or a winner"),
        (lambda: Verdict("d", winner="model_a", against="x"), "expected one of decision, other, tie, both_bad"),
        (lambda: Verdict("d", rating=-0.1), "rating: got -0.1"),
        (lambda: check_prompt("  \n"), "got no text"),
        (lambda: check_prompt("a\0b"), "NUL"),
        (lambda: check_prompt("\ud800"), "half a character"),
        (lambda: check_prompt("é" * 500_001), "got 1000002 bytes, expected at most 1000000"),
        (lambda: check_prompt(b"text"), "got a bytes, expected text"),
    ],
)
def test_what_is_not_as_described_is_refused_with_what_was_got_and_wanted(make, said):
    with pytest.raises(FeedbackError) as refused:
        make()

    assert said in str(refused.value)


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(FeedbackError) as refused:
        Score("m" * 100_000, 0.5)

    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("winner", "expected"), [("decision", "model_a"), ("other", "model_b"), ("tie", "tie"), ("both_bad", "both_bad")]
)
def test_a_verdict_against_another_model_is_a_battle(winner, expected):
    event = Verdict("d" * 43, winner=winner, against="large").on(DECIDED, "judge", 1500.0)

    assert event.outcome == Battle("small", "large", expected)
    assert event.kind == "verdict"


def test_a_rating_is_a_score_with_what_is_known_of_the_decision():
    details = Details(costs_usd={"small": 0.01}, metadata={"page": 3})
    event = Verdict("d" * 43, rating=0.25, details=details).on(DECIDED, "judge", 1500.0)

    assert event.outcome == Score("small", 0.25)
    assert (event.judge, event.user, event.intent, event.tier) == ("judge", "ann", "greeting", "full")
    assert (event.prompt_hash, event.vectors, event.candidates) == (
        DECIDED.prompt_hash,
        DECIDED.vectors,
        ("small", "large"),
    )
    assert event.details.metadata == {"page": 3}


def test_a_verdict_of_another_user_is_refused_without_naming_the_first():
    with pytest.raises(FeedbackError, match="made for another one") as refused:
        Verdict("d" * 43, rating=1, details=Details(user="bob")).on(DECIDED, "judge", 1500.0)

    assert "ann" not in str(refused.value)


def test_a_battle_against_the_same_model_is_refused():
    with pytest.raises(FeedbackError, match="two different models"):
        Verdict("d" * 43, winner="tie", against="small").on(DECIDED, "judge", 1500.0)


def test_amounts_are_of_the_models_that_were_judged():
    with pytest.raises(FeedbackError, match="costs_usd: got 'other', expected only small and large"):
        FeedbackEvent.of_prompt(
            "hello",
            Battle("small", "large", "tie"),
            judge="k",
            received_s=1.0,
            details=Details(costs_usd={"other": 1.0, "small": 1.0}),
        )


def test_what_training_reads_of_a_battle_and_of_a_score():
    details = Details(latencies_ms={"a": 12.5}, user="ann")
    battle = FeedbackEvent.of_prompt("hello", Battle("a", "b", "tie"), judge="k", received_s=1.5, details=details)
    score = Verdict("d" * 43, rating=0.5).on(DECIDED, "k", 2.0)

    assert battle.to_canonical() == {
        "prompt": "hello",
        "model_a": "a",
        "model_b": "b",
        "winner": "tie",
        "latency_ms": {"a": 12.5},
        "user": "ann",
        "judge": "k",
        "timestamp": 1.5,
    }
    assert score.to_canonical() == {
        "prompt_hash": DECIDED.prompt_hash,
        "scores": {"small": 0.5},
        "intent": "greeting",
        "user": "ann",
        "propensity": 1.0,
        "judge": "k",
        "timestamp": 2.0,
    }


def test_a_prompt_and_its_vectors_stay_out_of_the_printed_form():
    event = FeedbackEvent.of_prompt(
        "my secret", Score("m", 1), judge="k", received_s=1.0, vectors=(Vector("e", b"abcd"),)
    )

    assert "my secret" not in repr(event)
    assert "abcd" not in repr(event)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4))
def test_metadata_is_taken_only_if_it_comes_back_the_same(metadata):
    try:
        Details(metadata=metadata)
    except FeedbackError:
        return

    assert json.loads(json.dumps(metadata, allow_nan=False)) == metadata
