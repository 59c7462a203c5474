"""Metrics: what a scripted sequence of requests leaves in the text that Prometheus reads."""

import asyncio
import math
import re
import threading
import time

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from router.service.metrics import (
    CONTENT_TYPE,
    LATENCY_BUCKETS_S,
    WATCH_PERIOD_MS,
    Metrics,
    watch_loop,
)

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Scene:
    """Metrics on a clock and with gauges that a test sets."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.queue = 0
        self.metrics = Metrics(
            artifact_id='4f"\n\\',
            verdict="NOT ENOUGH DATA",
            tiers=("static", "full"),
            queue_length=lambda: self.queue,
            encoder_waiting=lambda: 2,
            in_flight=lambda: 3,
            cache_entries=lambda: 4,
            sessions=lambda: 5,
            policies=("legal", "house"),
            clock_ms=lambda: self.now_ms,
        )

    def read(self) -> Series:
        return {
            (one.name, tuple(sorted(one.labels.items()))): one.value
            for family in text_string_to_metric_families(self.metrics.render().decode())
            for one in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self.read()[f"whichmodel_{name}", tuple(sorted(labels.items()))]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_requests_are_counted_by_outcome_and_tier(scene: Scene) -> None:
    metrics = scene.metrics
    for _ in range(3):
        metrics.answered("static", degraded=False, cached=False, budget_met=True, elapsed_ms=0.7)
    metrics.answered("full", degraded=False, cached=True, budget_met=True, elapsed_ms=4)
    metrics.answered("static", degraded=True, cached=False, budget_met=False, elapsed_ms=60)
    metrics.refused(422)
    metrics.refused(500)
    metrics.refused(429)
    metrics.client_gone()
    metrics.encoder_failed()
    requests = {
        tuple(label for _, label in labels): value
        for (name, labels), value in scene.read().items()
        if name == "whichmodel_requests_total" and value
    }
    assert requests == {
        ("answered", "static"): 3,
        ("answered", "full"): 1,
        ("degraded", "static"): 1,
        ("refused", "none"): 1,
        ("failed", "none"): 1,
        ("shed", "none"): 1,
        ("client_gone", "none"): 1,
    }
    refusals = {labels[0][1]: n for (name, labels), n in scene.read().items() if name.endswith("refusals_total") and n}
    assert refusals == {"422": 1, "429": 1, "500": 1}
    assert (scene.value("budget_met_total"), scene.value("budget_missed_total")) == (4, 1)
    assert (scene.value("cache_hits_total"), scene.value("cache_misses_total")) == (1, 4)
    assert scene.value("encoder_failures_total") == 1
    assert scene.value("budget_met_ratio") == pytest.approx(0.8)


def test_latency_is_in_seconds_and_its_buckets_hold_both_sides(scene: Scene) -> None:
    for elapsed_ms in (0.1, 0.7, 50.0, 50.1, 5_000):
        scene.metrics.answered("static", degraded=False, cached=False, budget_met=True, elapsed_ms=elapsed_ms)
    name = "request_duration_seconds"
    assert scene.value(f"{name}_sum", tier="static") == pytest.approx(5.1009)
    counts = {
        le: scene.value(f"{name}_bucket", tier="static", le=le) for le in ("0.0002", "0.001", "0.05", "1.0", "+Inf")
    }
    assert counts == {"0.0002": 1, "0.001": 2, "0.05": 3, "1.0": 4, "+Inf": 5}
    assert (LATENCY_BUCKETS_S[0], LATENCY_BUCKETS_S[-1]) == (0.0002, 1.0)
    assert scene.value(f"{name}_count", tier="full") == 0


def test_gauges_are_asked_at_every_scrape(scene: Scene) -> None:
    for length in (5, 7):
        scene.queue = length
        assert scene.value("queue_requests") == length
    assert scene.value("encoder_waiting_requests") == 2
    assert scene.value("in_flight_requests") == 3
    assert scene.value("cache_entries") == 4
    assert scene.value("sessions") == 5


def test_the_recent_share_forgets_after_a_minute(scene: Scene) -> None:
    def answer(met: bool) -> None:
        scene.metrics.answered("static", degraded=False, cached=False, budget_met=met, elapsed_ms=1)

    assert math.isnan(scene.value("budget_met_ratio"))
    answer(False)
    scene.now_ms = 30_000
    answer(True)
    assert scene.value("budget_met_ratio") == 0.5
    scene.now_ms = 59_999
    assert scene.value("budget_met_ratio") == 0.5
    scene.now_ms = 60_000
    assert scene.value("budget_met_ratio") == 1.0
    answer(True)  # takes the place of the first second
    assert scene.value("budget_met_ratio") == 1.0
    scene.now_ms = 1e9
    assert math.isnan(scene.value("budget_met_ratio"))
    assert scene.value("budget_met_total") == 2


def test_labels_are_bounded_and_the_artifact_is_escaped(scene: Scene) -> None:
    for tier in ("CANARY", "CANARY2", ""):
        scene.metrics.answered(tier, degraded=False, cached=False, budget_met=True, elapsed_ms=1)
    for status in (200, 418, 599, -1):
        scene.metrics.refused(status)
    assert b"CANARY" not in scene.metrics.render()
    assert scene.value("requests_total", outcome="answered", tier="other") == 3
    assert scene.value("refusals_total", status="other") == 4
    info = {"artifact_id": '4f"\n\\', "verdict": "NOT ENOUGH DATA", "tiers": "static,full"}
    assert scene.value("artifact_info", **info) == 1


def test_decisions_are_counted_by_configured_policies_alone(scene: Scene) -> None:
    for name in ("legal", "legal+request", "legal+house", "house", "CANARY", "CANARY+legal"):
        scene.metrics.decided_under(name)
    counted = {name: scene.value("policy_decisions_total", policy=name) for name in ("legal", "house", "other")}
    assert counted == {"legal": 3, "house": 1, "other": 2}
    assert b"CANARY" not in scene.metrics.render()


def test_changes_of_profiles_are_counted_by_outcome(scene: Scene) -> None:
    for taken in (True, True, False):
        scene.metrics.profiles_reloaded(taken)
    reloads = [scene.value("profiles_reloads_total", outcome=outcome) for outcome in ("ok", "failed")]
    assert reloads == [2, 1]


def test_the_text_is_what_prometheus_asks_for(scene: Scene) -> None:
    text = scene.metrics.render().decode()
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
    assert "_created" not in text
    families = list(text_string_to_metric_families(text))
    assert all(one.documentation for one in families)
    for one in families:
        assert re.fullmatch(r"(whichmodel|process)_[a-z_]+", one.name)
    assert scene.read()["process_resident_memory_bytes", ()] > 10e6
    assert scene.read()["process_open_fds", ()] > 0


def test_two_servers_share_nothing_and_nothing_is_global() -> None:
    before, threads = set(REGISTRY._names_to_collectors), threading.active_count()
    one, other = Scene(), Scene()
    one.metrics.client_gone()
    assert other.value("requests_total", outcome="client_gone", tier="none") == 0
    assert set(REGISTRY._names_to_collectors) == before
    assert threading.active_count() == threads


def test_a_blocked_event_loop_is_seen_and_the_maximum_begins_anew_at_every_scrape(scene: Scene) -> None:
    async def block() -> None:
        watch = asyncio.create_task(watch_loop(scene.metrics))
        await asyncio.sleep(WATCH_PERIOD_MS / 2000)
        time.sleep(0.3)
        await asyncio.sleep(0.01)
        watch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watch

    asyncio.run(block())
    first = scene.read()
    assert first["whichmodel_event_loop_lag_max_seconds", ()] >= 0.2
    assert first["whichmodel_event_loop_lag_seconds_sum", ()] >= 0.2
    assert scene.value("event_loop_lag_max_seconds") == 0
    assert scene.value("event_loop_lag_seconds_count") >= 1
