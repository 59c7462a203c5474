"""When a request can have arrived: a busy event loop reads late what the kernel has held for it since its last look."""

from router.deadline import now_ms

# Work that ended longer ago than this was followed by idling: then a request is read as it arrives.
IDLE_MS = 0.2


class Arrivals:
    """Knows when the event loop last looked for requests, and whether it has done anything but wait since.

    One of these per event loop. The budget of a request runs from the earliest moment at which it can have arrived, so
    that nobody is answered late because the server did not look.
    """

    def __init__(self) -> None:
        self._turn_ms = 0.0  # when this turn of reading began
        self._earliest_ms = 0.0  # when what is read in it can have arrived
        self._read_ms = 0.0
        self._worked_ms = 0.0

    def read(self) -> float:
        """Return the earliest arrival of a request that is being read, on the clock of router.deadline."""
        now = now_ms()
        busy_until_ms = max(self._worked_ms, self._read_ms)
        if now - busy_until_ms > IDLE_MS:
            self._turn_ms = self._earliest_ms = now
        elif self._worked_ms > self._read_ms:  # straight from work: it may have come at any time since the last look
            self._turn_ms, self._earliest_ms = now, self._turn_ms
        self._read_ms = now
        return self._earliest_ms

    def worked(self) -> None:
        """Note that the loop has done something that keeps requests waiting."""
        self._worked_ms = now_ms()
