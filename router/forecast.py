"""What a stage will take: a running quantile of what it took lately, by the size of what it was given."""

import threading
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
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    ordered: list[float] = field(default_factory=list)

    def forget(self, before_ms: float) -> None:
        """Leave out what is too long ago."""
        if self.recent and self.recent[0][0] < before_ms:
            while self.recent and self.recent[0][0] < before_ms:
                self.recent.popleft()
            self.ordered = sorted(took for _, took in self.recent)


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
            bucket = self._buckets.setdefault(size.bit_length(), _Bucket(took_ms))
            bucket.quiet_ms = min(bucket.quiet_ms, took_ms)
            bucket.recent.append((now_ms, took_ms))
            bucket.ordered = sorted(took for _, took in bucket.recent)

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
        key = size.bit_length()
        with self._lock:
            if not self._buckets:
                return 0.0
            nearest = key if key in self._buckets else min(self._buckets, key=lambda one: abs(one - key))
            bucket = self._buckets[nearest]
            bucket.forget(now_ms - HORIZON_MS)
            n_recent = len(bucket.ordered)
            took_ms = bucket.ordered[min(n_recent - 1, int(quantile * n_recent))] if n_recent else bucket.quiet_ms
            return float(2.0 ** max(0, key - nearest) * took_ms)
