"""A feedback store as a source of training: events to comparisons, with their text or with what is kept instead.

The store is only read, also while a service writes it. The intent of an event is left out: it is the router's own
reading, and no label.
"""

from pathlib import Path

import numpy as np

from router.errors import DataError
from router.features import FEATURES, N_FEATURES
from router.feedback.events import Battle, FeedbackEvent
from router.feedback.sqlite_store import SqliteReader
from training.comparisons import Kept
from training.sources.intake import Details, Intake

NO_WAY = "events without text and without vectors"
FORMAT = "feedback"


def read_feedback(path: str | Path, intake: Intake) -> tuple[int, int]:
    """Add the events of a store to what is taken in; return (how many there were, how many were taken).

    Raises:
        StoreError: it is not there, cannot be read, or is no feedback store.
        DataError: it holds no event, or bad rows are not to be skipped and one is.
    """
    n_events = n_kept = 0
    with SqliteReader(path) as store:
        for one in store.events():
            n_events += 1
            n_kept += _take(one.event, f"{path}:{one.seq}", intake)
    if not n_events:
        raise DataError(f"{path}: the feedback store holds no events yet, expected verdicts, battles or scores")
    return n_events, n_kept


def _take(event: FeedbackEvent, where: str, intake: Intake) -> bool:
    kept = _kept_of(event) if event.prompt is None else None
    if kept is not None and not kept.vectors:
        intake.refuse(where, f"{NO_WAY}: nothing tells what was asked")
        return False
    given = event.details
    details = Details(
        costs_usd=given.costs_usd or {},
        latencies_ms=given.latencies_ms or {},
        output_tokens=given.output_tokens or {},
        judge=event.judge,
        user=event.user,
        timestamp=event.received_s,
    )
    outcome, prompt = event.outcome, event.prompt or ""
    if isinstance(outcome, Battle):
        taken = intake.battle(where, prompt, outcome.model_a, outcome.model_b, outcome.winner, details)
    else:
        taken = intake.scored(where, prompt, {outcome.model: outcome.score}, details)
    if taken:
        intake.complete_last(kept=kept, propensity=event.propensity)
    return taken


def _kept_of(event: FeedbackEvent) -> Kept:
    vectors = {one.encoder_id: np.frombuffer(one.data, dtype="<f4").astype(np.float32) for one in event.vectors}
    features = None
    if event.surface is not None and event.surface.rule == FEATURES:
        features = np.frombuffer(event.surface.data, dtype="<f8").astype(np.float64)
        features = features if features.shape == (N_FEATURES,) else None
    return Kept(event.prompt_hash, vectors, features)
