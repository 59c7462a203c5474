"""training/from_feedback.py: a store of feedback is learnt from, with its texts or without them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from router.encoder import OnnxEncoder
from router.errors import DataError
from router.features import FEATURES, surface_features
from router.feedback.events import Details, FeedbackEvent, Score, Surface, Vector
from router.feedback.sqlite_store import SqliteStore
from router.feedback.store import Selection
from router.prompt import prompt_hash
from training import load
from training.build import Learnt, learn
from training.comparisons import PreferenceLog


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
    assert learnt.report.details["feedback"] == {"n_lost_to_encoder": 30, "n_rows_without_text": 0}
    assert learnt.artifact.n_rows == len(scores_log) - 10


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "a.db").close()
    with pytest.raises(DataError, match="holds no events yet"):
        load(feedback=tmp_path / "a.db")
