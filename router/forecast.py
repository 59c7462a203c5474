"""What a stage will take: a running quantile of what it took lately, by the size of what it was given."""

from collections import deque
from dataclasses import dataclass, field

# Of what a stage took lately, the share that the prediction covers.
QUANTILE = 0.9
WINDOW = 64
# What was seen longer ago says nothing of now; then what was seen first, on a quiet machine, holds again. Without it a
# stage that was once slow would be predicted slow, never be tried, and never be seen to be fast again.
HORIZON_MS = 1_000.0


@dataclass(slots=True)
class _Bucket:
    """recent: (when, what it took), in ms, oldest first. quiet_ms: of the warm-up. recent_ms: of ``recent``."""

    quiet_ms: float
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    recent_ms: float = 0.0


class Forecast:
    """Predicts what one stage takes, in milliseconds, per power of two of its size (tokens or characters)."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}

    def observe(self, size: int, took_ms: float, now_ms: float) -> None:
        """Take in what the stage took for something of this size; the first of a size is its quiet time."""
        key = size.bit_length()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(took_ms)
        bucket.recent.append((now_ms, took_ms))
        bucket.recent_ms = _quantile([took for _, took in bucket.recent])

    def warm(self, size: int, took_ms: list[float]) -> None:
        """Set the quiet time of a size: the least of a few runs, so that one bad moment does not stay for good."""
        self._buckets[size.bit_length()] = _Bucket(min(took_ms))

    def predict_ms(self, size: int, now_ms: float) -> float:
        """Return what the stage will take; of a size never seen, what the nearest does, scaled up but never down."""
        key = size.bit_length()
        bucket = self._buckets.get(key)
        if bucket is None:
            if not self._buckets:
                return 0.0
            nearest = min(self._buckets, key=lambda one: abs(one - key))
            bucket, scale = self._buckets[nearest], 2.0 ** max(0, key - nearest)
            return scale * self._of(bucket, now_ms)
        return self._of(bucket, now_ms)

    def _of(self, bucket: _Bucket, now_ms: float) -> float:
        recent = bucket.recent
        if recent and recent[0][0] < now_ms - HORIZON_MS:
            while recent and recent[0][0] < now_ms - HORIZON_MS:
                recent.popleft()
            if recent:
                bucket.recent_ms = _quantile([took for _, took in recent])
        return bucket.recent_ms if recent else bucket.quiet_ms


def _quantile(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(QUANTILE * len(values)))]
