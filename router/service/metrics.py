"""Metrics of a server for Prometheus: counted as requests end, written out when a scrape asks.

One registry per ``Metrics``, nothing global and no thread. Labels hold only what the operator chose (the artifact) and
values from fixed lists, never anything of a request.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router.deadline import now_ms

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

LATENCY_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
LAG_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
WATCH_PERIOD_MS = 100
RECENT_S = 60
# The statuses that the service answers with; any other is counted as "other".
STATUSES = (400, 401, 404, 405, 408, 413, 415, 422, 429, 431, 500, 503)
OTHER = "other"
NO_TIER = "none"


class Metrics:
    """What one server counts. Every request to ``/route`` ends in one of ``answered``, ``refused``, ``client_gone``.

    queue_length: requests that wait for their turn. encoder_waiting: requests that wait for the full encoder.
    in_flight: requests begun and not ended. cache_entries: decisions in the cache. sessions: those remembered. All are
    asked when scraped. policies: the names of those that are configured.
    """

    def __init__(
        self,
        *,
        artifact_id: str,
        verdict: str,
        tiers: Sequence[str],
        queue_length: Callable[[], float],
        encoder_waiting: Callable[[], float],
        in_flight: Callable[[], float],
        cache_entries: Callable[[], float],
        sessions: Callable[[], float],
        policies: Iterable[str] = (),
        clock_ms: Callable[[], float] = now_ms,
    ) -> None:
        self._registry = registry = CollectorRegistry()
        self._recent = _RecentShare(clock_ms)
        self._max_lag_s = 0.0
        requests = Counter(
            "whichmodel_requests", "Requests to /route, by how they ended.", ("outcome", "tier"), registry=registry
        )
        seconds = Histogram(
            "whichmodel_request_duration_seconds",
            "Time from the arrival of an answered request to its decision.",
            ("tier",),
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        refusals = Counter("whichmodel_refusals", "Requests not answered, by status.", ("status",), registry=registry)
        # Looking up the series of a label takes longer than counting, so all of them are made here.
        tiers = (*tiers, OTHER)
        self._answered = {tier: requests.labels("answered", tier).inc for tier in tiers}
        self._degraded = {tier: requests.labels("degraded", tier).inc for tier in tiers}
        self._observe_s = {tier: seconds.labels(tier).observe for tier in tiers}
        self._refused = {status: refusals.labels(str(status)).inc for status in (*STATUSES, OTHER)}
        self._ended = {
            outcome: requests.labels(outcome, NO_TIER).inc for outcome in ("refused", "shed", "failed", "client_gone")
        }
        self._budget_met = Counter(
            "whichmodel_budget_met", "Answers within their latency budget.", registry=registry
        ).inc
        self._budget_missed = Counter(
            "whichmodel_budget_missed", "Answers after their latency budget.", registry=registry
        ).inc
        self._cache_hit = Counter("whichmodel_cache_hits", "Answers from the decision cache.", registry=registry).inc
        self._cache_miss = Counter("whichmodel_cache_misses", "Answers decided anew.", registry=registry).inc
        self._encoder_failed = Counter(
            "whichmodel_encoder_failures", "Runs of the full encoder that failed.", registry=registry
        ).inc
        decisions = Counter(
            "whichmodel_policy_decisions",
            "Decisions under a configured policy, by its name.",
            ("policy",),
            registry=registry,
        )
        self._decided = {name: decisions.labels(name).inc for name in (*policies, OTHER)}
        reloads = Counter(
            "whichmodel_profiles_reloads",
            "Changes of the file of profiles, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self._reloaded = {taken: reloads.labels("ok" if taken else "failed").inc for taken in (True, False)}
        self._observe_lag_s = Histogram(
            "whichmodel_event_loop_lag_seconds",
            f"How late the event loop wakes from a sleep of {WATCH_PERIOD_MS} ms.",
            buckets=LAG_BUCKETS_S,
            registry=registry,
        ).observe
        for name, text, value in (
            ("whichmodel_queue_requests", "Requests that wait for their turn.", queue_length),
            ("whichmodel_encoder_waiting_requests", "Requests that wait for the full encoder.", encoder_waiting),
            ("whichmodel_in_flight_requests", "Requests begun and not ended.", in_flight),
            ("whichmodel_cache_entries", "Decisions in the cache.", cache_entries),
            ("whichmodel_sessions", "Sessions whose model is remembered.", sessions),
            (
                "whichmodel_budget_met_ratio",
                f"Share of the answers of the last {RECENT_S} s within their latency budget; NaN without any.",
                self._recent.share,
            ),
            (
                "whichmodel_event_loop_lag_max_seconds",
                "Latest waking of the event loop since the last scrape.",
                self._take_max_lag_s,
            ),
        ):
            Gauge(name, text, registry=registry).set_function(value)
        Gauge(
            "whichmodel_artifact_info", "What is served.", ("artifact_id", "verdict", "tiers"), registry=registry
        ).labels(artifact_id, verdict, ",".join(tiers[:-1])).set(1)
        ProcessCollector(registry=registry)  # memory, open files and processor time, where /proc tells

    @property
    def registry(self) -> CollectorRegistry:
        """Where everything is registered that ``render`` shows."""
        return self._registry

    def answered(self, tier: str, degraded: bool, cached: bool, budget_met: bool, elapsed_ms: float) -> None:
        """Count a request that got a decision, and what it took from arrival to decision."""
        if tier not in self._observe_s:
            tier = OTHER
        (self._degraded if degraded else self._answered)[tier]()
        (self._cache_hit if cached else self._cache_miss)()
        (self._budget_met if budget_met else self._budget_missed)()
        self._recent.add(budget_met)
        self._observe_s[tier](elapsed_ms / 1000)

    def refused(self, status: int) -> None:
        """Count a request to ``/route`` that got another status than 200."""
        self._refused[status if status in self._refused else OTHER]()
        self._ended["shed" if status == 429 else "failed" if status >= 500 else "refused"]()

    def client_gone(self) -> None:
        """Count a request whose client left before the answer."""
        self._ended["client_gone"]()

    def encoder_failed(self) -> None:
        """Count a failed run of the full encoder; its request is counted apart, as it ends."""
        self._encoder_failed()

    def decided_under(self, policy: str) -> None:
        """Count a decision by the policy that was applied; of one that a request tightened, under the one it is of."""
        self._decided.get(policy.partition("+")[0], self._decided[OTHER])()

    def profiles_reloaded(self, taken: bool) -> None:
        """Count a change of the file of profiles: taken over, or left as it is because something is wrong with it."""
        self._reloaded[taken]()

    def loop_lagged(self, lag_ms: float) -> None:
        """Note how late the event loop woke."""
        self._observe_lag_s(lag_ms / 1000)
        self._max_lag_s = max(self._max_lag_s, lag_ms / 1000)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format, whose content type is ``CONTENT_TYPE``."""
        return generate_latest(_WithoutCreated(self._registry))

    def _take_max_lag_s(self) -> float:
        lag_s, self._max_lag_s = self._max_lag_s, 0.0
        return lag_s


async def watch_loop(metrics: Metrics) -> None:
    """Note every 100 ms how late the event loop wakes, until cancelled."""
    while True:
        due_ms = now_ms() + WATCH_PERIOD_MS
        await asyncio.sleep(WATCH_PERIOD_MS / 1000)
        metrics.loop_lagged(max(0.0, now_ms() - due_ms))


class _RecentShare:
    """Share of answers within their budget in the last minute, counted per second."""

    def __init__(self, clock_ms: Callable[[], float]) -> None:
        self._clock_ms = clock_ms
        self._seconds = [-RECENT_S] * RECENT_S
        self._met = [0] * RECENT_S
        self._all = [0] * RECENT_S

    def add(self, met: bool) -> None:
        second = int(self._clock_ms() / 1000)
        slot = second % RECENT_S
        if self._seconds[slot] != second:
            self._seconds[slot] = second
            self._met[slot] = self._all[slot] = 0
        self._met[slot] += met
        self._all[slot] += 1

    def share(self) -> float:
        oldest = int(self._clock_ms() / 1000) - RECENT_S
        recent = [slot for slot, second in enumerate(self._seconds) if second > oldest]
        n_all = sum(self._all[slot] for slot in recent)
        return sum(self._met[slot] for slot in recent) / n_all if n_all else math.nan


class _WithoutCreated(Collector):
    """A registry without the start times of its series, which nobody asks for and which double the lines."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric
