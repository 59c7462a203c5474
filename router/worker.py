"""Threads that encode, one prompt at a time, earliest deadline first; what will not be in time is never begun."""

import heapq
import itertools
import logging
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from router.deadline import now_ms
from router.encoder import ONNX_ERRORS, Encoding

logger = logging.getLogger(__name__)

# No prompt takes so long: a thread that does is given up, and another one takes its place.
HUNG_MS = 2_000.0


@dataclass(slots=True, eq=False)
class Ticket:
    """One prompt that waits for the encoder. Times in ms on the clock of router.deadline.

    needed_by_ms: when the encoding must be done. cost_ms: what it is expected to take. encoding: there once it is
    done; failed: the encoder refused it; neither: it was left out, or is not done yet. took_ms, done_ms: what encoding
    took, and when it was done.
    """

    ids: list[int]
    needed_by_ms: float
    cost_ms: float
    on_done: Callable[[], object]
    encoding: Encoding | None = None
    failed: bool = False
    cancelled: bool = False
    took_ms: float = 0.0
    done_ms: float = 0.0
    done: threading.Event = field(default_factory=threading.Event)


class EncoderWorker:
    """Runs ``encode`` on tickets, each by itself, in threads of its own, which yield to the others by ``nice``."""

    def __init__(
        self,
        encode: Callable[[list[int]], Encoding],
        *,
        n_threads: int,
        nice: int,
        max_waiting: int,
        ran: Callable[[int, float], object],
    ) -> None:
        """ran: called in the worker's thread after every run, waited for or not, with its tokens and what it took."""
        self._encode = encode
        self._ran = ran
        self._n_threads = n_threads
        self._nice = nice
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, Ticket]] = []
        self._number = itertools.count()
        # What each thread is at, and since when; None while it waits.
        self._threads: dict[threading.Thread, tuple[Ticket, float] | None] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def wait_ms(self, needed_by_ms: float) -> float:
        """Return what is expected to pass before something needed by then would be begun."""
        with self._changed:
            now = now_ms()
            busy = [max(0.0, one[0].cost_ms - (now - one[1])) for one in self._threads.values() if one is not None]
            before = [one.cost_ms for due, _, one in self._waiting if due <= needed_by_ms and not one.cancelled]
            if len(busy) < self._n_threads and not before:
                return 0.0
            return max(min(busy, default=0.0), (sum(busy) + sum(before)) / self._n_threads)

    def submit(self, ticket: Ticket) -> bool:
        """Queue a ticket and return True; False when too many wait already, or the encoder hangs."""
        with self._changed:
            if self._closed:
                return False
            self._replace_lost()
            if len(self._waiting) >= self._max_waiting:
                return False
            heapq.heappush(self._waiting, (ticket.needed_by_ms, next(self._number), ticket))
            self._changed.notify()
            return True

    def close(self) -> None:
        """Let the thread end after what it is doing; what waits is left out, and told so."""
        with self._changed:
            self._closed = True
            left_out = [one for _, _, one in self._waiting]
            self._waiting.clear()
            self._changed.notify_all()
        for ticket in left_out:
            _finish(ticket)

    def _replace_lost(self) -> None:
        """Have as many threads as there should be; one that hangs ends by itself if it ever comes back."""
        now = now_ms()
        for thread, doing in list(self._threads.items()):
            hangs = doing is not None and now - doing[1] > HUNG_MS
            if hangs:
                logger.error("the encoder has hung for %.0f ms; another thread takes its place", HUNG_MS)
            if hangs or not thread.is_alive():
                del self._threads[thread]
        while len(self._threads) < self._n_threads:
            thread = threading.Thread(target=self._run, name="encoder", daemon=True)
            self._threads[thread] = None
            thread.start()

    def _run(self) -> None:
        yield_to_others(self._nice, "the encoder")
        while (ticket := self._next()) is not None:
            began_ms = now_ms()
            try:
                ticket.encoding = self._encode(ticket.ids)
            except ONNX_ERRORS as exc:
                ticket.failed = True
                logger.error("the full encoder failed with a %s", type(exc).__name__)
            ticket.took_ms = now_ms() - began_ms
            self._ran(len(ticket.ids), ticket.took_ms)
            with self._changed:
                if self._mine():
                    self._threads[threading.current_thread()] = None
            _finish(ticket)

    def _next(self) -> Ticket | None:
        """Return the next ticket that can be in time, or None when this thread is not the worker's any more."""
        while True:
            late = None
            with self._changed:
                while not self._waiting and self._mine():
                    self._changed.wait()
                if not self._mine():
                    return None
                _, _, ticket = heapq.heappop(self._waiting)
                if ticket.cancelled:
                    continue
                if now_ms() + ticket.cost_ms > ticket.needed_by_ms:
                    late = ticket
                else:
                    self._threads[threading.current_thread()] = ticket, now_ms()
                    return ticket
            _finish(late)

    def _mine(self) -> bool:
        return threading.current_thread() in self._threads and not self._closed


def _finish(ticket: Ticket) -> None:
    ticket.done_ms = now_ms()
    ticket.done.set()
    ticket.on_done()


def yield_to_others(nice: int, whose: str) -> None:
    """Lower the priority of this thread by so much. whose: as a warning names the thread."""
    if nice == 0 or sys.platform != "linux":  # elsewhere threads have no priority of their own
        return
    thread = threading.get_native_id()
    try:
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + nice))
    except OSError as exc:  # a server that may not; it is slower under load, and otherwise the same
        logger.warning("%s's thread keeps its priority: %s", whose, exc.strerror)
