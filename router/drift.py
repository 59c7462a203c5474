"""Drift: whether the prompts that come are still like those that were learnt from. docs/watch.md has the thresholds.

The reference is what the artifact says of its own training rows, each decided by the others: no label and no text is
needed, and an intent that is hard to read is as hard to read in both. The window is the last so many decisions.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from router.router import Router
from router.rung import PRIOR
from router.types import Decision, JsonObject, Policy

WINDOW = 1_000
# Below it nothing is said; of ratings, below N_RATINGS.
MIN_DECISIONS, MIN_RATINGS = 100, 50
# Rows of the reference, and how many of them are decided at a time.
N_ROWS, CHUNK_ROWS = 2_000, 8
# Share of the training rows that are farther from the others than this is "far".
FAR_SHARE = 0.01
SHARE_WATCH, SHARE_ALARM = 0.025, 0.05
PSI_WATCH, PSI_ALARM = 0.1, 0.25
ERROR_WATCH, ERROR_ALARM = 0.05, 0.1
# Labels that are compared one by one; the rest is one more.
MAX_LABELS, MIN_EXPECTED = 20, 5
# One-sided normal quantiles: a chance of 0.1 % and of 1 %.
Z999, Z99 = 3.0902, 2.3263
NONE, OTHER = "none", "other"
OK, WATCH, ALARM, TOO_FEW, UNKNOWN = "ok", "watch", "alarm", "too few", "unknown"
STATUSES = (OK, WATCH, ALARM, TOO_FEW, UNKNOWN)
SIGNALS = ("far", "unreadable", "intents", "models", "calibration")
SHOWN_LABELS = 5


@dataclass(frozen=True, slots=True)
class TierReference:
    """What one tier says of its training rows. n_rows: how many were asked. far_below: cosine, see FAR_SHARE.

    intents, models: how many of these rows have each intent, as read from the others, and were given each model.
    """

    n_rows: int
    far_below: float
    intents: Mapping[str, int]
    models: Mapping[str, int]


Reference = Mapping[str, TierReference]
"""By name of the tier."""


def reference_of(
    router: Router, policy: Policy | None = None, *, n_rows: int = N_ROWS, pause: Callable[[], object] = lambda: None
) -> Reference:
    """Return what is to be expected of traffic like the training rows under ``policy``; as many rows are drawn.

    pause: called between chunks of a few milliseconds, so that others can go on; what it raises ends the work.
    """
    rng = np.random.default_rng(0)
    n_all = router.artifact.n_rows
    rows = np.sort(rng.choice(n_all, min(n_rows, n_all), replace=False))
    return {tier.name: _tier_reference(router, tier.name, rows, policy, pause) for tier in router.artifact.tiers}


def _tier_reference(
    router: Router, tier: str, rows: Any, policy: Policy | None, pause: Callable[[], object]
) -> TierReference:
    decisions: list[Decision] = []
    for start in range(0, len(rows), CHUNK_ROWS):
        outcomes = router.rows_again(tier, rows[start : start + CHUNK_ROWS], policy)
        decisions += [one for one in outcomes if isinstance(one, Decision)]
        pause()
    nearest = [one.nearest for one in decisions if one.nearest is not None]
    return TierReference(
        n_rows=len(decisions),
        far_below=float(np.quantile(nearest, FAR_SHARE, method="lower")) if nearest else -1.0,
        intents=Counter(_label(one) for one in decisions),
        models=Counter(one.model for one in decisions),
    )


def _label(decision: Decision) -> str:
    return NONE if decision.intent is None else decision.intent.label


class DriftWindow:
    """The last decisions and ratings, in a bounded memory. Not for several threads at a time."""

    def __init__(self, size: int = WINDOW) -> None:
        """size: decisions that are looked back on, and ratings."""
        self._seen: deque[tuple[str, float | None, str, str | None]] = deque(maxlen=size)
        self._ratings: deque[tuple[float, float]] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._seen)

    def observe(self, decision: Decision, *, is_usual: bool = True) -> None:
        """Take a decision in; about a microsecond.

        is_usual: it was made by the policy of the reference, so that its model can be compared.
        """
        intent = decision.intent
        self._seen.append(
            (
                decision.tier,
                decision.nearest,
                NONE if intent is None else intent.label,
                decision.model if is_usual else None,
            )
        )

    def rated(self, predicted: float, rating: float) -> None:
        """Take in what a decision's model was expected to be worth, and what it was found to be; both 0..1."""
        self._ratings.append((predicted, rating))

    def report(self, reference: Reference | None, *, kind: str = "scores", artifact_id: str = "") -> "DriftReport":
        """Return how the window differs from the reference, None where that is not known yet.

        kind: of the artifact's evidence. Predictions learnt from battles have another unit than ratings.
        """
        encoded = [one for one in self._seen if one[0] != PRIOR]
        read = [(tier, nearest, intent, model) for tier, nearest, intent, model in encoded if nearest is not None]
        usual = [one for one in read if one[3] is not None]
        return DriftReport(
            artifact_id=artifact_id,
            n_decisions=len(self._seen),
            n_not_encoded=len(self._seen) - len(encoded),
            signals=(
                _far([(tier, nearest) for tier, nearest, _, _ in read], reference),
                _unreadable(len(encoded) - len(read), len(encoded)),
                _mix("intents", [(tier, intent) for tier, _, intent, _ in read], reference),
                _mix("models", [(tier, str(model)) for tier, _, _, model in usual], reference),
                _calibration(list(self._ratings), kind),
            ),
        )


@dataclass(frozen=True, slots=True)
class Shift:
    """A label's share in the reference and in the window, both 0..1."""

    label: str
    expected: float
    seen: float

    def to_json(self) -> JsonObject:
        """Return the wire form."""
        return {"label": self.label, "expected": round(self.expected, 4), "seen": round(self.seen, 4)}


@dataclass(frozen=True, slots=True)
class Signal:
    """One of SIGNALS. n: decisions or ratings looked at. value: a share, a population stability index or a difference.

    expected: the value without drift, as far as it is known. noise: what ``value`` must exceed to be more than chance.
    watch, alarm: what it must exceed besides. status: one of STATUSES. total_variation: of a mix, half the sum of the
    absolute differences. shifts: of a mix, the labels that differ most.
    """

    name: str
    n: int
    value: float | None
    expected: float
    noise: float | None
    watch: float
    alarm: float
    status: str
    total_variation: float | None = None
    shifts: tuple[Shift, ...] = ()

    def to_json(self) -> JsonObject:
        """Return the wire form."""
        return {
            "signal": self.name,
            "status": self.status,
            "value": _rounded(self.value),
            "expected": _rounded(self.expected),
            "noise": _rounded(self.noise),
            "watch": self.watch,
            "alarm": self.alarm,
            "n": self.n,
            "total_variation": _rounded(self.total_variation),
            "shifts": [one.to_json() for one in self.shifts],
        }


@dataclass(frozen=True, slots=True)
class DriftReport:
    """All signals of one window. n_not_encoded: decisions of the priors alone, which say nothing of the prompt."""

    artifact_id: str
    n_decisions: int
    n_not_encoded: int
    signals: tuple[Signal, ...]

    @property
    def status(self) -> str:
        """The worst that a signal says."""
        said = {one.status for one in self.signals}
        return next((one for one in (ALARM, WATCH, OK, TOO_FEW) if one in said), UNKNOWN)

    def signal(self, name: str) -> Signal:
        """Return one of SIGNALS."""
        return next(one for one in self.signals if one.name == name)

    def to_json(self) -> JsonObject:
        """Return the wire form."""
        return {
            "artifact_id": self.artifact_id,
            "status": self.status,
            "n_decisions": self.n_decisions,
            "n_not_encoded": self.n_not_encoded,
            "signals": [one.to_json() for one in self.signals],
        }


def render(report: JsonObject) -> str:
    """Return the wire form of a report for people."""
    lines = [
        f"artifact {report['artifact_id']}: {report['status']}; {report['n_decisions']} decisions, "
        f"{report['n_not_encoded']} of them not encoded"
    ]
    for one in report["signals"]:
        value = "-" if one["value"] is None else f"{one['value']:.3f}"
        noise = "" if one["noise"] is None else f", chance up to {one['noise']:.3f}"
        lines.append(
            f"  {one['signal']:<11}  {one['status']:<8}  {value:>7}  (watch {one['watch']:g}, alarm {one['alarm']:g}"
            f"{noise}; {one['n']} seen)"
        )
        lines += [
            f"      {shift['label']}: {100 * shift['seen']:.1f} % instead of {100 * shift['expected']:.1f} %"
            for shift in one["shifts"]
            if one["status"] in (WATCH, ALARM)
        ]
    return "\n".join(lines)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _far(seen: Sequence[tuple[str, float]], reference: Reference | None) -> Signal:
    """Compare the share of prompts that are far from every row with the rows' own."""
    n, limits = len(seen), (SHARE_WATCH, SHARE_ALARM)
    if reference is None:
        return Signal("far", n, None, FAR_SHARE, None, *limits, UNKNOWN)
    known = [(reference[tier], nearest) for tier, nearest in seen if tier in reference]
    share = sum(nearest < one.far_below for one, nearest in known) / max(n, 1)
    n_rows = min((one.n_rows for one in reference.values()), default=0)
    noise = _chance_share(n, n_rows)
    return Signal("far", n, share, FAR_SHARE, noise, *limits, _status(share, noise, *limits, n, MIN_DECISIONS))


def _unreadable(n_unreadable: int, n: int) -> Signal:
    """Judge the share of prompts of which the encoder knows too little; training keeps it small (docs/watch.md)."""
    limits, share = (SHARE_WATCH, SHARE_ALARM), n_unreadable / max(n, 1)
    noise = _chance_share(n, 0)
    status = _status(share, noise, *limits, n, MIN_DECISIONS)
    return Signal("unreadable", n, share, 0.0, noise, *limits, status)


def _chance_share(n: int, n_rows: int) -> float:
    """Return the share that is exceeded once in a thousand where FAR_SHARE is to be expected.

    n_rows: from how many rows the bound is known, 0 where it is no estimate.
    """
    spread = 1 / max(n, 1) + (1 / n_rows if n_rows else 0.0)
    return FAR_SHARE + Z999 * math.sqrt(FAR_SHARE * (1 - FAR_SHARE) * spread)


def _mix(name: str, seen: Sequence[tuple[str, str]], reference: Reference | None) -> Signal:
    """Compare the shares of labels with those of the rows, those of each tier in proportion to its decisions."""
    n, limits = len(seen), (PSI_WATCH, PSI_ALARM)
    if reference is None:
        return Signal(name, n, None, 0.0, None, *limits, UNKNOWN)
    expected, n_rows = _expected(name, Counter(tier for tier, _ in seen), reference)
    bins = _bins(expected, n_rows)
    if not bins or set(expected) == {NONE}:  # nothing that could be compared
        return Signal(name, n, None, 0.0, None, *limits, UNKNOWN)
    labels = (*bins, OTHER)
    counts = Counter(label if label in bins else OTHER for _, label in seen)
    wanted = [*(expected[label] for label in bins), max(0.0, 1.0 - sum(expected[label] for label in bins))]
    # Half a decision more in every bin, so that an empty one does not make the index infinite.
    p = np.array([counts[label] + 0.5 for label in labels]) / (n + 0.5 * len(labels))
    q = (np.array(wanted) * n_rows + 0.5) / (n_rows + 0.5 * len(labels))
    psi = float(((p - q) * np.log(p / q)).sum())
    noise = (1 / max(n, 1) + 1 / n_rows) * chi_square_99(len(labels) - 1)
    status = _status(psi, noise, *limits, n, MIN_DECISIONS)
    if n and noise > PSI_ALARM:
        status = TOO_FEW  # what would be an alarm cannot be told from chance
    raw = [counts[label] / max(n, 1) for label in labels]
    moved = sorted(zip(labels, wanted, raw, strict=True), key=lambda one: -abs(one[1] - one[2]))
    return Signal(
        name,
        n,
        psi,
        0.0,
        noise,
        *limits,
        status,
        total_variation=0.5 * sum(abs(want - got) for want, got in zip(wanted, raw, strict=True)),
        shifts=tuple(Shift(*one) for one in moved[:SHOWN_LABELS]),
    )


def _expected(name: str, tiers: Counter[str], reference: Reference) -> tuple[dict[str, float], int]:
    """Return the share of every label that the rows have, and how many rows that is known from."""
    weights = {tier: float(count) for tier, count in tiers.items() if tier in reference}
    weights = weights or dict.fromkeys(reference, 1.0)
    expected: dict[str, float] = {}
    for tier, weight in weights.items():
        own: Mapping[str, int] = getattr(reference[tier], name)
        for label, count in own.items():
            share = count / max(reference[tier].n_rows, 1)
            expected[label] = expected.get(label, 0.0) + share * weight / sum(weights.values())
    return expected, max(1, min(reference[tier].n_rows for tier in weights))


def _bins(expected: Mapping[str, float], n_rows: int) -> tuple[str, ...]:
    """Return the labels that are compared one by one, the most usual first."""
    usual = sorted((one for one in expected.items() if one[1] * n_rows >= MIN_EXPECTED), key=lambda one: -one[1])
    return tuple(label for label, _ in usual[:MAX_LABELS])


def chi_square_99(freedom: int) -> float:
    """Return the 99 % quantile of a chi-square distribution (Wilson and Hilferty 1931), within 2 % of it."""
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + Z99 * math.sqrt(part)) ** 3)


def _calibration(ratings: Sequence[tuple[float, float]], kind: str) -> Signal:
    """Compare what the models were expected to be worth with what they were found to be, decision by decision."""
    n, limits = len(ratings), (ERROR_WATCH, ERROR_ALARM)
    if kind != "scores" or n < 2:
        return Signal("calibration", n, None, 0.0, None, *limits, TOO_FEW if kind == "scores" else UNKNOWN)
    errors = np.array([predicted - rating for predicted, rating in ratings])
    mean, noise = float(errors.mean()), Z999 * float(errors.std(ddof=1)) / math.sqrt(n)
    return Signal("calibration", n, mean, 0.0, noise, *limits, _status(abs(mean), noise, *limits, n, MIN_RATINGS))


def _status(value: float, noise: float, watch: float, alarm: float, n: int, at_least: int) -> str:
    if n < at_least:
        return TOO_FEW
    if value <= noise:
        return OK
    return ALARM if value >= alarm else WATCH if value >= watch else OK


def drift_of(router: Router, prompts: Iterator[Any], tier: str | None = None) -> DriftReport:
    """Return the report of a log of prompts, texts or messages, of any length, decided by one tier (the best one).

    Raises:
        PromptError, PolicyError: as ``Router.route``.
        ConfigError: the artifact has no such tier.
    """
    decisions = [router.answer_of(tier or router.artifact.best.name, one, explain=False) for one in prompts]
    window = DriftWindow(max(1, len(decisions)))
    for one in decisions:
        window.observe(one)
    return window.report(reference_of(router), kind=router.artifact.best.evidence.kind, artifact_id=router.artifact.id)
