"""training/from_feedback.py: a store of feedback is learnt from, with its texts or without them."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.encoder import OnnxEncoder
from router.errors import DataError
from router.features import FEATURES, surface_features
from router.feedback.events import Battle, Details, FeedbackEvent, Score, Surface, Vector
from router.feedback.sqlite_store import SqliteStore
from router.feedback.store import Selection
from router.prompt import prompt_hash
from training import load
from training.build import Learnt, learn
from training.comparisons import FeedbackRead, PreferenceLog
from training.from_feedback import read_feedback
from training.sources.intake import Intake


@pytest.fixture(autouse=True)
def quick(small_grid: Callable[..., None]) -> None:
    """Training is not what is tested here."""


def fill(store: SqliteStore, log: PreferenceLog, encoder: OnnxEncoder, *, with_text: Callable[[int], bool]) -> None:
    for row, one in enumerate(log.comparisons):
        vector = Vector(encoder.id, encoder.encode(one.prompt).vector.astype("<f4").tobytes())
        for model, score in (one.scores or {}).items():
            event = FeedbackEvent.of_prompt(
                one.prompt,
                Score(model, score),
                judge="key",
                received_s=1e9 + row,
                details=Details(user=f"user {row % 5}"),
                vectors=(vector,),
                surface=Surface(FEATURES, surface_features(one.prompt).astype("<f8").tobytes()),
                keep_text=with_text(row),
            )
            store.add_event(event).result()


def learnt_from(path: Path, log: PreferenceLog, encoder: OnnxEncoder, with_text: Callable[[int], bool]) -> Learnt:
    with SqliteStore(path) as store:  # the writer goes on holding it
        fill(store, log, encoder, with_text=with_text)
        return learn(load(feedback=path), encoder=encoder, intents="none")


def test_without_text_the_same_is_learnt(tmp_path: Path, scores_log: PreferenceLog, encoder: OnnxEncoder) -> None:
    told = learnt_from(tmp_path / "a.db", scores_log, encoder, lambda _: True)
    silent = learnt_from(tmp_path / "b.db", scores_log, encoder, lambda _: False)
    assert not any(silent.table.originals) and silent.table.original_hashes == told.table.original_hashes
    one, other = told.artifact.best, silent.artifact.best
    np.testing.assert_array_equal(one.vectors, other.vectors)
    np.testing.assert_array_equal(one.evidence.g, other.evidence.g)
    np.testing.assert_array_equal(one.evidence.h, other.evidence.h)
    np.testing.assert_array_equal(told.artifact.prompt_hashes, silent.artifact.prompt_hashes)


def test_the_same_prompt_with_and_without_text_is_one_row(
    tmp_path: Path, scores_log: PreferenceLog, encoder: OnnxEncoder
) -> None:
    with SqliteStore(tmp_path / "a.db") as store:
        fill(store, scores_log, encoder, with_text=lambda _: True)
        fill(store, scores_log, encoder, with_text=lambda _: False)
    learnt = learn(load(feedback=tmp_path / "a.db"), encoder=encoder, intents="none")
    assert len(learnt.table) == len(scores_log) and all(learnt.table.originals)


def test_a_deletion_reaches_the_next_artifact(tmp_path: Path, scores_log: PreferenceLog, encoder: OnnxEncoder) -> None:
    with SqliteStore(tmp_path / "a.db") as store:
        fill(store, scores_log, encoder, with_text=lambda row: row % 2 == 0)
        store.delete(Selection(user="user 0")).result()
    learnt = learn(load(feedback=tmp_path / "a.db"), encoder=encoder, intents="none")
    gone = {prompt_hash(one.prompt) for one in scores_log.comparisons[::5]}
    assert learnt.artifact.n_rows == len(scores_log) - len(gone) and not gone & set(learnt.table.original_hashes)


def test_what_another_encoder_saw_is_lost_and_counted(
    tmp_path: Path, scores_log: PreferenceLog, encoder: OnnxEncoder, full_encoder: OnnxEncoder
) -> None:
    with SqliteStore(tmp_path / "a.db") as store:
        fill(store, scores_log, encoder, with_text=lambda row: row >= 10)
    log = load(feedback=tmp_path / "a.db")
    learnt = learn(log, encoder=full_encoder, intents="none")
    assert learnt.report.details["feedback"] == {
        "name": str(tmp_path / "a.db"),
        "n_with_text": 420,
        "n_without_text": 30,
        "n_placeless": 0,
        "n_without_model": 0,
        "n_lost_to_encoder": 30,
        "n_idle_ratings": 0,
        "n_rows_without_text": 0,
    }
    assert learnt.artifact.n_rows == len(scores_log) - 10


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "a.db").close()
    with pytest.raises(DataError, match="holds no events yet"):
        load(feedback=tmp_path / "a.db")


def silent_event(prompt: str, encoder: OnnxEncoder, **changed: Any) -> FeedbackEvent:
    """A score of a prompt whose text is not kept."""
    given: dict[str, Any] = {
        "vectors": (Vector(encoder.id, encoder.encode(prompt).vector.astype("<f4").tobytes()),),
        "surface": Surface(FEATURES, surface_features(prompt).astype("<f8").tobytes()),
        "outcome": Score("chef-large", 1.0),
        **changed,
    }
    outcome = given.pop("outcome")
    return FeedbackEvent.of_prompt(prompt, outcome, judge="key", received_s=1e9, keep_text=False, **given)


def test_what_teaches_nothing_is_counted_and_does_not_stop(
    tmp_path: Path, scores_log: PreferenceLog, encoder: OnnxEncoder
) -> None:
    odd = np.full(encoder.settings.dim, np.nan, dtype="<f4").tobytes()
    with SqliteStore(tmp_path / "a.db") as store:
        fill(store, scores_log, encoder, with_text=lambda _: True)
        for event in (
            silent_event("one", encoder, vectors=()),  # decided by the priors alone
            silent_event("two", encoder, vectors=(Vector(encoder.id, odd),)),
            silent_event("three", encoder, vectors=(Vector(encoder.id, bytes(40)),)),
            silent_event("four", encoder, surface=None),
            silent_event("five", encoder, surface=Surface("surface-0", bytes(184))),
            silent_event("six", encoder, surface=Surface(FEATURES, bytes(8))),
            silent_event("seven", encoder, outcome=Score(" ", 1.0)),
            silent_event("eight", encoder, outcome=Score("nobody", 1.0)),
        ):
            store.add_event(event).result()
    models = ["coder-medium", "chef-large", "guide-small"]
    log = load(feedback=tmp_path / "a.db", models=models)
    assert log.feedback == FeedbackRead(str(tmp_path / "a.db"), 450, 8, 2, 2)
    assert (log.feedback.n_events, log.feedback.n_taken, len(log)) == (458, 454, 154)
    assert [one.where for one in log.refusals] == [f"{tmp_path / 'a.db'}:457"]
    learnt = learn(log, encoder=encoder, intents="none")
    assert learnt.report.details["feedback"]["n_lost_to_encoder"] == 4 and learnt.artifact.n_rows == 150


def test_a_text_elsewhere_in_the_log_places_what_has_none(
    tmp_path: Path, scores_log: PreferenceLog, full_encoder: OnnxEncoder, encoder: OnnxEncoder
) -> None:
    """Feedback without text, of another encoder, joins the row of the same prompt of another source."""
    with SqliteStore(tmp_path / "a.db") as store:
        for one in scores_log.comparisons:
            store.add_event(silent_event(one.prompt, encoder, outcome=Score("newcomer", 1.0))).result()
    source = tmp_path / "log.jsonl"
    rows = [{"prompt": one.prompt, "scores": dict(one.scores or {})} for one in scores_log.comparisons]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    learnt = learn(load(source, feedback=tmp_path / "a.db"), encoder=full_encoder, intents="none")
    assert learnt.report.details["feedback"]["n_lost_to_encoder"] == 0
    assert not learnt.table.kept and len(learnt.table) == len(scores_log)
    assert (learnt.table.scores[:, learnt.table.models.index("newcomer")] == 1.0).all()


def test_none_of_it_can_be_placed(tmp_path: Path, scores_log: PreferenceLog, full_encoder: OnnxEncoder) -> None:
    with SqliteStore(tmp_path / "a.db") as store:
        for one in scores_log.comparisons[:30]:
            for model, score in (one.scores or {}).items():
                store.add_event(silent_event(one.prompt, full_encoder, outcome=Score(model, score))).result()
    with pytest.raises(DataError, match="none of 30 comparisons has its text"):
        learn(load(feedback=tmp_path / "a.db"), encoder="static", intents="none")


def test_battles_without_text_give_the_same_points_and_evidence(
    tmp_path: Path, scores_log: PreferenceLog, encoder: OnnxEncoder
) -> None:
    learnt = []
    for keep_text in (True, False):
        path = tmp_path / f"{keep_text}.db"
        with SqliteStore(path) as store:
            for row, one in enumerate(scores_log.comparisons):
                (left, x), (right, y) = sorted((one.scores or {}).items())[row % 2 : row % 2 + 2]
                event = silent_event(
                    one.prompt, encoder, outcome=Battle(left, right, "model_a" if x > y else "model_b")
                )
                store.add_event(replace(event, prompt=one.prompt if keep_text else None)).result()
        learnt.append(learn(load(feedback=path), encoder=encoder, intents="none"))
    told, silent = learnt
    assert silent.table.kind == "battles" and len(silent.table.kept) == len(scores_log)
    np.testing.assert_array_equal(told.artifact.best.vectors, silent.artifact.best.vectors)
    np.testing.assert_array_equal(told.artifact.best.evidence.g, silent.artifact.best.evidence.g)
    np.testing.assert_array_equal(told.table.input_tokens, silent.table.input_tokens)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    said=st.lists(
        st.tuples(st.sampled_from("pq"), st.sampled_from("jk"), st.sampled_from([None, "ann"]), st.sampled_from("abc")),
        min_size=1,
        max_size=12,
    ),
    keep_text=st.booleans(),
)
def test_scores_of_a_prompt_by_one_judge_are_one_comparison(
    tmp_path: Path, encoder: OnnxEncoder, said: list[tuple[str, str, str | None, str]], keep_text: bool
) -> None:
    """None is lost, none is counted twice, and no comparison mixes prompts, judges or users."""
    path = tmp_path / f"{uuid4()}.db"
    vectors = (Vector(encoder.id, bytes(4 * encoder.settings.dim)),)
    with SqliteStore(path) as store:
        for nth, (prompt, judge, user, model) in enumerate(said):
            store.add_event(
                FeedbackEvent.of_prompt(
                    prompt,
                    Score(model, nth / 100),
                    judge=judge,
                    received_s=1e9 + nth,
                    details=Details(user=user, output_tokens={model: nth}),
                    vectors=vectors,
                    keep_text=keep_text,
                )
            ).result()
    intake = Intake()
    read = read_feedback(path, intake)
    found = [
        (
            one.prompt or (one.kept and one.kept.prompt_hash),
            one.judge,
            one.user,
            model,
            score,
            (one.output_tokens or {})[model],
        )
        for one in intake.log.comparisons
        for model, score in (one.scores or {}).items()
    ]
    wanted = [
        (prompt if keep_text else prompt_hash(prompt), judge, user, model, nth / 100, nth)
        for nth, (prompt, judge, user, model) in enumerate(said)
    ]
    assert sorted(found, key=lambda one: one[-1]) == wanted and read.n_taken == len(said)
    most = Counter(one[:3] for one in said)
    repeats = Counter(said)
    assert len(intake.log.comparisons) == sum(max(repeats[*key, model] for model in "abc") for key in most)
    for one in intake.log.comparisons:
        assert one.timestamp == 1e9 + max((one.output_tokens or {}).values())


def test_scores_of_several_models_are_battles_beside_battles(
    tmp_path: Path, scores_log: PreferenceLog, encoder: OnnxEncoder
) -> None:
    with SqliteStore(tmp_path / "a.db") as store:
        fill(store, scores_log, encoder, with_text=lambda _: False)
        store.add_event(silent_event("which", encoder, outcome=Battle("coder-medium", "chef-large", "tie"))).result()
        store.add_event(silent_event("alone", encoder, outcome=Score("chef-large", 1.0))).result()
    learnt = learn(load(feedback=tmp_path / "a.db"), encoder=encoder, intents="none")
    assert learnt.table.kind == "battles" and len(learnt.table.battles) == 3 * len(scores_log) + 1
    assert learnt.report.details["feedback"]["n_idle_ratings"] == 1
