"""What is counted of feedback, beside the metrics of /route and in their registry."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from router.feedback.store import FeedbackStore

ACK_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
OUTCOMES = ("acknowledged", "duplicate", "refused", "shed", "failed", "client_gone")


class FeedbackMetrics:
    """Every request to ``/feedback`` ends in one of ``acknowledged``, ``refused`` and ``client_gone``."""

    def __init__(
        self, registry: CollectorRegistry, *, in_flight: Callable[[], float], store: FeedbackStore | None = None
    ) -> None:
        """store: asked when scraped; None where feedback is off, and then there are no gauges."""
        counted = Counter(
            "whichmodel_feedback", "Requests to /feedback, by how they ended.", ("outcome",), registry=registry
        )
        self._count = {outcome: counted.labels(outcome).inc for outcome in OUTCOMES}
        self._observe_s = Histogram(
            "whichmodel_feedback_acknowledgement_seconds",
            "Time from the turn of a request to /feedback until it was on the disk.",
            buckets=ACK_BUCKETS_S,
            registry=registry,
        ).observe
        if store is None:
            return
        held = store
        for name, text, value in (
            ("whichmodel_feedback_in_flight_requests", "Requests to /feedback begun and not ended.", in_flight),
            ("whichmodel_feedback_queue_events", "Feedback that waits to be written.", lambda: held.n_waiting),
            (
                "whichmodel_feedback_pending_decisions",
                "Decisions that wait to be judged, expired ones until they are deleted.",
                lambda: held.n_pending,
            ),
            (
                "whichmodel_feedback_pending_dropped_decisions",
                "Decisions that made room for newer ones or were lost to a failure, since the start.",
                lambda: held.n_pending_dropped,
            ),
            (
                "whichmodel_feedback_store_failed",
                "1 where nothing is taken until the service is started again, else 0.",
                lambda: held.failure is not None,
            ),
        ):
            Gauge(name, text, registry=registry).set_function(value)

    def acknowledged(self, known: bool, took_ms: float) -> None:
        """Count what is on the disk; known: it had been sent before."""
        self._count["duplicate" if known else "acknowledged"]()
        self._observe_s(took_ms / 1000)

    def refused(self, status: int) -> None:
        """Count a request that got another status than 200."""
        self._count["shed" if status == 429 else "failed" if status >= 500 else "refused"]()

    def client_gone(self) -> None:
        """Count a request whose client left before its body was whole."""
        self._count["client_gone"]()
