"""What a store of feedback does, whatever it keeps it in, and the plain values that go in and out of one."""

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from router.errors import FeedbackError
from router.feedback.events import FeedbackEvent, PendingDecision, Verdict


@dataclass(frozen=True, slots=True)
class Receipt:
    """An event is on the disk. seq: its number; numbers rise, with gaps.

    known: it had been sent before, and was not added again. judged: the event that a verdict on a decision was added
    as.
    """

    seq: int
    known: bool
    judged: FeedbackEvent | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its number in the store."""

    seq: int
    event: FeedbackEvent


@dataclass(frozen=True, slots=True)
class Selection:
    """What to delete: all that is of a user, of a prompt, or older than a time; of several, what meets all of them.

    prompt_hash: as router.prompt.prompt_hash. before_s: seconds since 1970.
    """

    user: str | None = None
    prompt_hash: str | None = None
    before_s: float | None = None

    def __post_init__(self) -> None:
        """Raise FeedbackError for a selection of everything."""
        if self.user is None and self.prompt_hash is None and self.before_s is None:
            raise FeedbackError("delete: got no condition, expected a user, a prompt hash or a date")


@dataclass(frozen=True, slots=True)
class Deletion:
    """How many were deleted. wiped: their bytes are gone from the files, too.

    It is False where there was no room to write the store anew, or where a reader kept it open too long.
    """

    n_events: int
    n_pending: int
    wiped: bool


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds. Times in seconds since 1970, None where it is empty.

    last_seq: the highest number that was ever given. n_expired: pending decisions that cannot be judged any more and
    will be deleted. file_bytes: of the database and what belongs to it.
    """

    n_events: int
    n_with_text: int
    kinds: dict[str, int]
    n_pending: int
    n_expired: int
    first_received_s: float | None
    last_received_s: float | None
    last_seq: int
    file_bytes: int
    schema_version: int


class FeedbackReader(Protocol):
    """What can be read beside a process that writes. Every method raises StoreError where it cannot be read."""

    def find_pending(self, decision_id: str) -> PendingDecision | None:
        """Return a decision that waits for a verdict, or None."""

    def events(self, after: int = 0) -> Iterator[StoredEvent]:
        """Yield events with a number above ``after``, in order; what is added meanwhile may come or not."""

    def stats(self) -> StoreStats:
        """Return what is held."""

    def close(self) -> None:
        """Let go of the files."""


class FeedbackStore(FeedbackReader, Protocol):
    """Keeps feedback for good, and pending decisions as long as there is room. Safe to call from any thread."""

    @property
    def failure(self) -> str | None:
        """Why nothing is taken any more, or None."""

    @property
    def n_waiting(self) -> int:
        """How many events wait to be written."""

    @property
    def n_pending(self) -> int:
        """How many decisions wait for a verdict, those that have expired and not been deleted yet included."""

    @property
    def n_pending_dropped(self) -> int:
        """How many pending decisions made room for newer ones, or were lost to a failure, since it was opened."""

    def add_event(self, event: FeedbackEvent) -> "Future[Receipt]":
        """Queue an event. The future has its receipt once it is on the disk, and never before.

        An event whose idempotency key the same judge has used before, with the same content, gets the first receipt.

        Raises, here or in the future:
            JudgedDecisionError, ReusedKeyError: there is another event in its place.
            StoreBusyError, StoreFullError: it was not added; later ones may be.
            StoreFailedError: it may have been added or not; nothing is taken until the store is opened again.
        """

    def add_verdict(self, verdict: Verdict, judge: str, received_s: float) -> "Future[Receipt]":
        """Queue the event that a verdict on its decision is. judge: id of the API key. received_s: since 1970.

        Raises, here or in the future:
            UnknownDecisionError: the decision is not held, or not any more.
            FeedbackError: the verdict does not fit it (Verdict.on).
            StoreError and others: as ``add_event``.
        """

    def add_pending(self, pending: PendingDecision) -> None:
        """Remember a decision, soon but not surely: the oldest are dropped for it, and nothing is ever raised."""

    def delete(self, selection: Selection) -> "Future[Deletion]":
        """Queue a deletion, of events and of pending decisions. The future is done when it is on the disk."""
