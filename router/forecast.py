"""What a stage will take: a running quantile of what it took lately, by the size of what it was given."""

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

# Of what a stage took lately, the share that the prediction covers; and of what nothing else makes good for.
QUANTILE = 0.9
CAUTIOUS_QUANTILE = 0.98
WINDOW = 64
# What was seen longer ago says nothing of now; then the least that was ever seen holds again. Without it a
# stage that was once slow would be predicted slow, never be tried, and never be seen to be fast again.
HORIZON_MS = 1_000.0


@dataclass(slots=True)
class _Bucket:
    """recent: (when, what it took), in ms, oldest first. quiet_ms: the least ever. recent_ms: of ``recent``."""

    quiet_ms: float
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    recent_ms: float = 0.0


class Forecast:
    """Predicts what one stage takes, in milliseconds, per power of two of its size (tokens or characters)."""

    def __init__(self, quantile: float = QUANTILE) -> None:
        self._quantile = quantile
        self._buckets: dict[int, _Bucket] = {}
        self._lock = threading.Lock()

    def observe(self, size: int, took_ms: float, now_ms: float) -> None:
        """Take in what the stage took for something of this size."""
        with self._lock:
            bucket = self._buckets.setdefault(size.bit_length(), _Bucket(took_ms))
            bucket.quiet_ms = min(bucket.quiet_ms, took_ms)
            bucket.recent.append((now_ms, took_ms))
            bucket.recent_ms = _quantile(bucket.recent, self._quantile)

    def warm(self, size: int, took_ms: list[float]) -> None:
        """Set the quiet time of a size: the least of a few runs, so that one bad moment does not stay for good."""
        with self._lock:
            self._buckets[size.bit_length()] = _Bucket(min(took_ms))

    def predict_ms(self, size: int, now_ms: float) -> float:
        """Return what the stage will take; of a size never seen, what the nearest does, scaled up but never down."""
        key = size.bit_length()
        with self._lock:
            if not self._buckets:
                return 0.0
            nearest = key if key in self._buckets else min(self._buckets, key=lambda one: abs(one - key))
            return float(2.0 ** max(0, key - nearest) * self._of(self._buckets[nearest], now_ms))

    def _of(self, bucket: _Bucket, now_ms: float) -> float:
        recent = bucket.recent
        if recent and recent[0][0] < now_ms - HORIZON_MS:
            while recent and recent[0][0] < now_ms - HORIZON_MS:
                recent.popleft()
            if recent:
                bucket.recent_ms = _quantile(recent, self._quantile)
        return bucket.recent_ms if recent else bucket.quiet_ms


def _quantile(recent: Iterable[tuple[float, float]], quantile: float) -> float:
    took = sorted(took for _, took in recent)
    return took[min(len(took) - 1, int(quantile * len(took)))]
