"""What looks on beside the answers: drift, and a shadow where there is one. Neither delays an answer."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.drift import (
    ALARM,
    OK,
    TOO_FEW,
    UNKNOWN,
    WATCH,
    DriftReport,
    DriftWindow,
    Reference,
    reference_of,
)
from router.encoder import ONNX_ERRORS
from router.errors import RouterError
from router.feedback.events import FeedbackEvent, Score
from router.router import Router
from router.service.schema import RouteRequest
from router.service.settings import Settings
from router.service.shadow import NICE, Policies, Shadow
from router.types import Decision, JsonObject, ModelProfile, Needs
from router.worker import yield_to_others

logger = logging.getLogger(__name__)

STATUS_NUMBERS = {UNKNOWN: -2, TOO_FEW: -1, OK: 0, WATCH: 1, ALARM: 2}
# Between chunks of the reference, of about a millisecond or two each.
PAUSE_S = 0.01
# References that are kept: the artifact before may come back.
N_REFERENCES = 4


class Watch(Collector):
    """Sees every decision after its answer was written. All but the making of a reference is the event loop's."""

    def __init__(self, settings: Settings) -> None:
        """Load the shadow that the settings name, if they do.

        Raises:
            ArtifactError, EncoderError: as ``Shadow.from_settings``.
        """
        self._size = settings.drift_window
        self._usual, _ = settings.policies.resolve()
        self._shadow = Shadow.from_settings(settings)
        self._window = DriftWindow(max(1, self._size))
        self._artifact_id, self._kind = "", "scores"
        self._references: OrderedDict[str, Reference] = OrderedDict()
        self._following = threading.Event()  # of the reference that is being made; set when it is not wanted any more

    def start(self, router: Router) -> None:
        """Look on beside a router from now on."""
        if self._shadow is not None:
            self._shadow.start()
        self.follow(router)

    def follow(self, router: Router) -> None:
        """Compare with this router's rows from now on; what was seen of another artifact is forgotten."""
        artifact = router.artifact
        if artifact.id == self._artifact_id:
            return
        if self._shadow is not None and artifact.id == self._shadow.artifact_id:
            logger.warning("shadow.artifact is the artifact that serves, so that both always decide the same")
        self._following.set()
        self._following = threading.Event()
        self._window = DriftWindow(max(1, self._size))
        self._artifact_id, self._kind = artifact.id, artifact.best.evidence.kind
        if self._size > 0 and artifact.id not in self._references:
            arguments = (router, artifact.id, self._following)
            threading.Thread(target=self._refer, args=arguments, name="drift", daemon=True).start()

    def answered(self, decision: Decision, asked: RouteRequest, needs: Needs | None, policies: Policies) -> None:
        """Take in a decision whose answer was written. policies: of the request, asked only where they are needed."""
        if self._size > 0 and decision.artifact_id == self._artifact_id:
            is_usual = asked.policy is None and decision.policy == self._usual.name and decision.propensity == 1.0
            self._window.observe(decision, is_usual=is_usual and decision.session in (None, "new"))
        if self._shadow is not None and self._shadow.wants(decision):
            self._shadow.offer(decision, asked, needs, policies())

    def judged(self, event: FeedbackEvent) -> None:
        """Take in a verdict: a rating counts beside what was expected when this artifact decided; no other does."""
        is_ours = self._size > 0 and event.artifact_id == self._artifact_id
        if is_ours and isinstance(event.outcome, Score) and event.quality is not None:
            self._window.rated(event.quality, event.outcome.score)

    def over(self, use: Callable[[Mapping[str, ModelProfile]], object]) -> Callable[[Mapping[str, ModelProfile]], None]:
        """Return what gives profiles to ``use`` and to the shadow alike."""

        def use_both(profiles: Mapping[str, ModelProfile]) -> None:
            use(profiles)
            if self._shadow is not None:
                self._shadow.use_profiles(profiles)

        return use_both

    def report(self) -> DriftReport:
        """Return what drift there is now."""
        reference = self._references.get(self._artifact_id)
        return self._window.report(reference, kind=self._kind, artifact_id=self._artifact_id)

    @property
    def sees_drift(self) -> bool:
        """Whether drift is watched at all."""
        return self._size > 0

    def to_json(self) -> JsonObject:
        """Return the wire form of ``report``."""
        return self.report().to_json()

    def close(self) -> None:
        """End what is under way."""
        self._following.set()
        if self._shadow is not None:
            self._shadow.close()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics for Prometheus; labels are names of signals alone."""
        if self._size > 0:
            yield from _drift_metrics(self.report())
        if self._shadow is not None:
            yield from self._shadow.collect()

    def _refer(self, router: Router, artifact_id: str, unwanted: threading.Event) -> None:
        yield_to_others(NICE, "the watch on drift")

        def pause() -> None:
            if unwanted.wait(PAUSE_S):
                raise _UnwantedError

        try:
            reference = reference_of(router, self._usual, pause=pause)
        except _UnwantedError:
            return
        except (RouterError, *ONNX_ERRORS) as exc:
            logger.error("drift is not watched, as its reference failed with a %s", type(exc).__name__)
            return
        self._references[artifact_id] = reference
        if len(self._references) > N_REFERENCES:
            self._references.popitem(last=False)


class _UnwantedError(Exception):
    """Another router is followed, or the service ends."""


def _drift_metrics(report: DriftReport) -> Iterator[Metric]:
    yield GaugeMetricFamily("whichmodel_drift_decisions", "Decisions that drift is told from.", report.n_decisions)
    for name, text, values in (
        ("status", "0 in order, 1 watch, 2 alarm; -1 too few, -2 unknown.", {
            one.name: STATUS_NUMBERS[one.status] for one in report.signals
        }),
        ("value", "A share, a population stability index, or a difference in quality.", {
            one.name: one.value for one in report.signals
        }),
        ("noise", "What the value must exceed to be more than chance.", {
            one.name: one.noise for one in report.signals
        }),
        ("seen", "Decisions or ratings that the value is made of.", {one.name: one.n for one in report.signals}),
    ):  # fmt: skip
        family = GaugeMetricFamily(f"whichmodel_drift_{name}", text, labels=["signal"])
        for signal, value in values.items():
            if value is not None:
                family.add_metric([signal], value)
        yield family
