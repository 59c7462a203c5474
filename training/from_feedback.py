"""A feedback store as a source of training: events to comparisons, with their text or with what is kept instead.

The store is only read, also while a service writes it. The intent of an event is left out: it is the router's own
reading, and no label.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from router.errors import DataError
from router.features import FEATURES, N_FEATURES
from router.feedback.events import Battle, FeedbackEvent
from training.comparisons import Comparison, FeedbackRead, Kept
from training.sources.intake import Details, Intake, RowError

FORMAT = "feedback"

Key = tuple[str, bool, str | None, str | None]
"""Hash of a prompt, whether its text is kept, judge and user: whose scores belong together."""
Amounts = Mapping[str, float]


def read_feedback(path: str | Path, intake: Intake) -> FeedbackRead:
    """Add the events of a store to what is taken in, and say how many were of which kind.

    As with long rows, scores of one prompt by the same judge and user make one comparison, with the latest timestamp; a
    second score of the same model begins another. So beside battles they are battles, too, where they can be.

    Raises:
        StoreError: it is not there, cannot be read, or is no feedback store.
        DataError: it holds no event, or bad rows are not to be skipped and one is.
    """
    from router.feedback.sqlite_store import SqliteReader  # needs a lock that not every system has

    n_with_text = n_without_text = n_placeless = n_without_model = 0
    places: dict[Key, list[int]] = {}
    with SqliteReader(path) as store:
        for one in store.events():
            event = one.event
            n_with_text += event.prompt is not None
            n_without_text += event.prompt is None
            kept = _kept_of(event) if event.prompt is None else None
            if kept is not None and not kept.vectors:
                n_placeless += 1
            elif not _take(event, kept, f"{path}:{one.seq}", intake):
                n_without_model += 1
            elif not isinstance(event.outcome, Battle):
                _join(intake.log.comparisons, places, event)
    if not n_with_text + n_without_text:
        raise DataError(f"{path}: the feedback store holds no events yet, expected verdicts, battles or scores")
    return FeedbackRead(str(path), n_with_text, n_without_text, n_placeless, n_without_model)


def _take(event: FeedbackEvent, kept: Kept | None, where: str, intake: Intake) -> bool:
    """Take an event in as a comparison; False where no model of it is wanted, or a name is none."""
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
    try:
        if isinstance(outcome, Battle):
            taken = intake.battle(where, prompt, outcome.model_a, outcome.model_b, outcome.winner, details)
        else:
            taken = intake.scored(where, prompt, {outcome.model: outcome.score}, details)
    except RowError as exc:
        intake.refuse(where, str(exc))
        return False
    if taken and kept is not None:
        intake.keep_last(kept)
    return taken


def _join(taken: list[Comparison], places: dict[Key, list[int]], event: FeedbackEvent) -> None:
    """Let the comparison that was taken last join an earlier one of its kind that does not score its model yet."""
    last = taken.pop()
    siblings = places.setdefault((event.prompt_hash, event.prompt is None, event.judge, event.user), [])
    scores = last.scores or {}
    place = next((one for one in siblings if not scores.keys() & (taken[one].scores or {}).keys()), None)
    if place is None:
        siblings.append(len(taken))
        taken.append(last)
        return
    first = taken[place]
    taken[place] = replace(
        first,
        scores={**(first.scores or {}), **scores},
        costs_usd=_both(first.costs_usd, last.costs_usd),
        latencies_ms=_both(first.latencies_ms, last.latencies_ms),
        output_tokens=_both(first.output_tokens, last.output_tokens),
        timestamp=max(first.timestamp or 0.0, last.timestamp or 0.0),
        kept=None if first.kept is None or last.kept is None else _fuller(first.kept, last.kept),
    )


def _both(first: Amounts | None, last: Amounts | None) -> Amounts | None:
    return {**(first or {}), **(last or {})} or None


def _fuller(first: Kept, last: Kept) -> Kept:
    features = last.features if first.features is None else first.features
    return Kept(first.prompt_hash, {**last.vectors, **first.vectors}, features)


def _kept_of(event: FeedbackEvent) -> Kept:
    """Return what places a prompt without its text; what is no number, or of other features, does not."""
    read = {one.encoder_id: np.frombuffer(one.data, dtype="<f4").astype(np.float32) for one in event.vectors}
    features = None
    if event.surface is not None and event.surface.rule == FEATURES:
        features = np.frombuffer(event.surface.data, dtype="<f8").astype(np.float64)
        features = features if features.shape == (N_FEATURES,) and np.isfinite(features).all() else None
    vectors = {name: vector for name, vector in read.items() if np.isfinite(vector).all()}
    return Kept(event.prompt_hash, vectors, features)
