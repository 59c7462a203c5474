"""A second router that decides beside the first on a share of the traffic, when the answer has been written.

Nothing waits for it: what comes while too much waits is dropped and counted, and what it raises ends there.
"""

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from router.deadline import now_ms
from router.encoder import ONNX_ERRORS
from router.errors import ArtifactError, EncoderError, PolicyError, RouterError
from router.policies import Resolved
from router.prompt import fold_messages, prompt_hash
from router.router import Router
from router.rung import PRIOR
from router.service.schema import RouteRequest
from router.service.settings import Settings
from router.shadow_log import ShadowLog, ShadowRecord, Side, check_log
from router.types import Decision, Messages, ModelProfile, Needs, Policy
from router.worker import yield_to_others

logger = logging.getLogger(__name__)

MAX_WAITING = 256
# Longer prompts are not kept waiting: all places together must not hold more than a few MiB.
MAX_CHARS = 65_536
# It decides at most this share of the time, so that the answers seldom meet it at Python's lock.
BUSY_SHARE = 0.25
NICE = 19
CLOSE_TIMEOUT_S = 1.0
OUTCOMES = ("agreed", "differed", "refused", "failed", "dropped", "unwritten")
# What a router that is broken may raise. None of it may end the thread; its text may quote the prompt, and is not kept.
FAILURES = (
    *(RouterError, ArithmeticError, AttributeError, LookupError, MemoryError, OSError, TypeError, ValueError),
    *ONNX_ERRORS,
)


@dataclass(frozen=True, slots=True, eq=False)
class _Offer:
    """A request that was answered. needs: as the first was asked. by_intent: what replaces ``policy`` by intent."""

    decision: Decision
    asked: RouteRequest
    needs: Needs | None
    policy: Policy
    by_intent: Mapping[str, Policy]
    answered_s: float


class Shadow:
    """Decides on a share of the traffic in one thread of low priority, and keeps what comes of it in a file."""

    def __init__(self, router: Router, share: float, log: ShadowLog, *, max_waiting: int = MAX_WAITING) -> None:
        """router: closed by this object from now on. share: of the decisions, 0..1, chosen by a hash of their id."""
        self._router = router
        self._below = int(share * 2**32)
        self._log = log
        self._offers: queue.Queue[_Offer] = queue.Queue(max_waiting)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)  # a hung one must not hold us up
        self._counts = dict.fromkeys(OUTCOMES, 0)

    @classmethod
    def from_settings(cls, settings: Settings) -> "Shadow | None":
        """Load what the settings name; None where they name none, or a share of 0.

        Raises:
            ConfigError: what they name as its file cannot be one.
            ArtifactError, EncoderError: as ``Router.load``.
        """
        if settings.shadow_artifact is None or settings.shadow_log is None or settings.shadow_share == 0:
            return None
        check_log(settings.shadow_log)
        try:
            router = Router.load(
                settings.shadow_artifact, cache_entries=0, encoder_threads=1, encoder_nice=NICE, max_sessions=0
            )
        except (ArtifactError, EncoderError) as exc:
            raise type(exc)(f"shadow.artifact: {exc}") from exc
        return cls(router, settings.shadow_share, ShadowLog(settings.shadow_log, settings.shadow_log_max_bytes))

    @property
    def artifact_id(self) -> str:
        """What decides in the shadow."""
        return self._router.artifact.id

    @property
    def counts(self) -> Mapping[str, int]:
        """How many decisions ended how, by OUTCOMES."""
        return dict(self._counts)

    def start(self) -> None:
        """Begin to decide."""
        self._thread.start()

    def wants(self, decision: Decision) -> bool:
        """Tell whether a decision is of the share.

        A turn of a session that goes on is not: it stayed with a model that was chosen before, or left it, and the
        shadow knows of neither.
        """
        if decision.session not in (None, "new"):
            return False
        digest = hashlib.blake2b(decision.decision_id.encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") < self._below

    def offer(self, decision: Decision, asked: RouteRequest, needs: Needs | None, policies: Resolved) -> None:
        """Have it decided again when there is time, or drop it. needs: as for the first."""
        if asked.n_chars > MAX_CHARS:
            self._count("dropped")
            return
        try:
            self._offers.put_nowait(_Offer(decision, asked, needs, *policies, time.time()))
        except queue.Full:
            self._count("dropped")

    def use_profiles(self, profiles: Mapping[str, ModelProfile]) -> None:
        """Put the same profiles over its artifact's as over the other's: prices are no difference between the two."""
        self._router.use_profiles(profiles)

    def close(self) -> None:
        """End the thread after what it is doing, and do not wait long for that; what waits is left out."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():  # else it would meet a closed file when it comes back
            self._log.close()
        self._router.close()

    def collect(self) -> Iterator[Metric]:
        """Yield its metrics for Prometheus."""
        counter = CounterMetricFamily(
            "whichmodel_shadow_decisions", "Decisions offered to the shadow, by what came of them.", labels=["outcome"]
        )
        for outcome, count in self.counts.items():
            counter.add_metric([outcome], count)
        yield counter
        yield GaugeMetricFamily(
            "whichmodel_shadow_waiting_requests", "Answered requests that wait for the shadow.", self._offers.qsize()
        )
        info = GaugeMetricFamily("whichmodel_shadow_artifact_info", "What decides beside.", labels=["artifact_id"])
        info.add_metric([self.artifact_id], 1)
        yield info

    def _count(self, outcome: str) -> None:
        self._counts[outcome] += 1  # 'dropped' by the event loop alone, all others by the thread

    def _run(self) -> None:
        yield_to_others(NICE, "the shadow")
        while not self._stopped.is_set():
            try:
                one = self._offers.get(timeout=0.5)
            except queue.Empty:
                continue
            began = now_ms()
            try:
                self._decide(one)
            except FAILURES as exc:
                self._count("failed")
                logger.warning("the shadow failed with a %s", type(exc).__name__)
            self._stopped.wait((now_ms() - began) * (1 / BUSY_SHARE - 1) / 1e3)

    def _decide(self, one: _Offer) -> None:
        served, prompt = one.decision, one.asked.to_prompt()
        policy = without_exploration(one.policy)
        ask = _Asker(self._router, _tier_for(self._router, served.tier), prompt, one.needs)
        record = ShadowRecord(
            time_s=round(one.answered_s, 3),
            decision_id=served.decision_id,
            prompt_hash=prompt_hash(prompt if isinstance(prompt, str) else fold_messages(prompt)),
            intent=None if served.intent is None else served.intent.label,
            policy=served.policy,
            propensity=served.propensity,
            explore_share=one.policy.explore_share,
            served=Side.of(served),
        )
        try:
            decision = ask(policy, {name: without_exploration(own) for name, own in one.by_intent.items()})
        except PolicyError:
            self._write(replace(record, problem="policy"), "refused")
            return
        mine = Side.of(decision)
        record = replace(record, shadow=mine, drawable=mine.model in (served.model, *served.fallbacks))
        if mine.model == served.model:
            record = replace(record, served_quality=mine.quality, served_cost_usd=mine.cost_usd)
        elif served.model in decision.fallbacks:
            with suppress(PolicyError):  # a policy by intent may have allowed it, and this one not
                theirs = Side.of(ask(replace(policy, candidates=(served.model,), fallback=None), {}))
                record = replace(record, served_quality=theirs.quality, served_cost_usd=theirs.cost_usd)
        self._write(record, "agreed" if mine.model == served.model else "differed")

    def _write(self, record: ShadowRecord, outcome: str) -> None:
        try:
            self._log.write(record)
        except OSError as exc:
            if self._counts["unwritten"] == 0:
                logger.error("what the shadow decides cannot be written: %s", exc.strerror)
            outcome = "unwritten"
        self._count(outcome)


@dataclass(frozen=True, slots=True, eq=False)
class _Asker:
    """Asks one tier about one prompt under several policies."""

    router: Router
    tier: str
    prompt: str | Messages
    needs: Needs | None

    def __call__(self, policy: Policy, by_intent: Mapping[str, Policy]) -> Decision:
        return self.router.answer_of(
            self.tier, self.prompt, policy, explain=False, needs=self.needs, by_intent=by_intent
        )


def without_exploration(policy: Policy) -> Policy:
    """Return the policy with nothing left to chance: the shadow's choice is its best one."""
    return replace(policy, explore_share=0.0) if policy.explore_share > 0 else policy


def _tier_for(router: Router, served: str) -> str:
    """Return the tier that is compared with what was served: the same one, or the best where there is none such."""
    names = [tier.name for tier in router.artifact.tiers]
    return served if served == PRIOR or served in names else names[0]


Policies = Callable[[], Resolved]
"""Resolves the policies of a request again; only what is of the share needs them."""
