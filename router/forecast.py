"""What a stage will take: a running quantile of what it took lately, by the size of what it was given."""

import threading
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field

# Of what a stage took lately, the share that a prediction covers, and the share that a bound covers.
QUANTILE = 0.9
CAUTIOUS_QUANTILE = 0.98
WINDOW = 64
# What was seen longer ago says nothing of now; then the least that was ever seen holds again. Without it a
# stage that was once slow would be predicted slow, never be tried, and never be seen to be fast again.
HORIZON_MS = 1_000.0


@dataclass(slots=True)
class _Bucket:
    """recent: (when, what it took), in ms, oldest first. ordered: what it took, ascending. quiet_ms: the least ever."""

    quiet_ms: float
    recent: deque[tuple[float, float]] = field(default_factory=deque)
    ordered: list[float] = field(default_factory=list)

    def take_in(self, took_ms: float, now_ms: float) -> None:
        """Add what the stage took; of more than WINDOW, the oldest goes."""
        if len(self.recent) == WINDOW:
            self._leave_out_oldest()
        self.recent.append((now_ms, took_ms))
        insort(self.ordered, took_ms)
        self.quiet_ms = min(self.quiet_ms, took_ms)

    def forget(self, before_ms: float) -> None:
        """Leave out what is too long ago."""
        while self.recent and self.recent[0][0] < before_ms:
            self._leave_out_oldest()

    def _leave_out_oldest(self) -> None:
        _, took_ms = self.recent.popleft()
        del self.ordered[bisect_left(self.ordered, took_ms)]


class Forecast:
    """Predicts what one stage takes, in milliseconds, per power of two of its size (tokens or characters)."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self._lock = threading.Lock()

    @property
    def is_known(self) -> bool:
        """Whether anything was ever seen of the stage."""
        return bool(self._buckets)

    def observe(self, size: int, took_ms: float, now_ms: float) -> None:
        """Take in what the stage took for something of this size."""
        with self._lock:
            bucket = self._buckets.get(size.bit_length())
            if bucket is None:
                bucket = self._buckets[size.bit_length()] = _Bucket(took_ms)
            bucket.take_in(took_ms, now_ms)

    def warm(self, size: int, took_ms: list[float]) -> None:
        """Set the quiet time of a size: the least of a few runs, so that one bad moment does not stay for good."""
        with self._lock:
            self._buckets[size.bit_length()] = _Bucket(min(took_ms))

    def predict_ms(self, size: int, now_ms: float) -> float:
        """Return what the stage will take; of a size never seen, what the nearest does, scaled up but never down."""
        return self._predict(size, now_ms, QUANTILE)

    def usual_ms(self, size: int, now_ms: float) -> float:
        """Return what the stage will take in the middle of cases: of many, this is what adds up."""
        return self._predict(size, now_ms, 0.5)

    def at_most_ms(self, size: int, now_ms: float) -> float:
        """Return what the stage will hardly ever exceed, for one whose overrun nothing makes good for."""
        return self._predict(size, now_ms, CAUTIOUS_QUANTILE)

    def _predict(self, size: int, now_ms: float, quantile: float) -> float:
        key, scale = size.bit_length(), 1.0
        with self._lock:
            if not self._buckets:
                return 0.0
            bucket = self._buckets.get(key)
            if bucket is None:
                nearest = min(self._buckets, key=lambda one: abs(one - key))
                bucket, scale = self._buckets[nearest], float(2.0 ** max(0, key - nearest))
            bucket.forget(now_ms - HORIZON_MS)
            n_recent = len(bucket.ordered)
            took_ms = bucket.ordered[min(n_recent - 1, int(quantile * n_recent))] if n_recent else bucket.quiet_ms
            return scale * took_ms
