"""The only clock. Budgets are relative and monotonic, so that no clock jump can break one."""

import time
from dataclasses import dataclass


def now_ms() -> float:
    """Return a monotonic time in milliseconds; only differences mean anything."""
    return time.perf_counter_ns() / 1e6


@dataclass(frozen=True, slots=True)
class Deadline:
    """A latency budget that began to run at ``started_ms``."""

    started_ms: float
    budget_ms: float

    @property
    def ends_ms(self) -> float:
        """When the budget ends, on the clock of ``now_ms``."""
        return self.started_ms + self.budget_ms

    def elapsed_ms(self) -> float:
        """Return the milliseconds since the budget began to run."""
        return now_ms() - self.started_ms
