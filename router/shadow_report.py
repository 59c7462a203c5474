"""What the file of a shadow says: where two routers agree, where not, what each expects, and what feedback found."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from router.estimate import Z95
from router.feedback.events import Battle, Score
from router.feedback.store import StoredEvent
from router.shadow_log import ShadowRecord
from router.types import JsonObject

MAX_PAIRS, MAX_INTENTS = 10, 20
# Below it an interval by the normal distribution would promise too much.
MIN_INTERVAL = 20


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its 95 % interval, both ends None where there are fewer than MIN_INTERVAL; value None without any."""

    n: int
    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Return the mean of values that are independent of each other."""
        if not values:
            return cls(0, None)
        array = np.array(values, dtype=np.float64)
        mean = float(array.mean())
        if len(array) < MIN_INTERVAL:
            return cls(len(array), mean)
        reach = Z95 * float(array.std(ddof=1)) / math.sqrt(len(array))
        return cls(len(array), mean, mean - reach, mean + reach)

    @classmethod
    def of_share(cls, n_of: int, n: int) -> "Mean":
        """Return a share with its interval (Wilson 1927), which is one for few, too."""
        if n == 0:
            return cls(0, None)
        share, scale = n_of / n, 1 + Z95**2 / n
        middle = (share + Z95**2 / (2 * n)) / scale
        reach = Z95 / scale * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
        return cls(n, share, max(0.0, middle - reach), min(1.0, middle + reach))


@dataclass(frozen=True, slots=True)
class Pair:
    """How often the one was served where the shadow would have taken the other."""

    served: str
    shadow: str
    n: int


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of the two choices. own: each by its own router, so each likes its own; by_shadow: both by it.

    The differences are shadow minus served, request by request, on those of which both are known.
    """

    served_quality: Mean
    shadow_quality: Mean
    own_difference: Mean
    by_shadow_difference: Mean
    served_cost_usd: Mean
    shadow_cost_usd: Mean
    cost_difference_usd: Mean


@dataclass(frozen=True, slots=True)
class IntentRow:
    """One intent: how often the two agree there, what the shadow expects of its choice over the served one, and the
    most frequent difference.
    """

    intent: str
    agreement: Mean
    by_shadow_difference: Mean
    most: Pair | None


@dataclass(frozen=True, slots=True)
class Found:
    """What feedback says. rated_agree, rated_differ: ratings of the served model where the two agree and differ.

    battles: of the served model against the shadow's: what share the shadow's won, a tie being half. value_served:
    mean rating of what was served on the requests that may have explored; value_shadow: what the shadow's choices would
    have got there, by the drawn models that happen to be its own (self-normalised importance weighting); n_matched: how
    many these are.
    """

    n_events: int
    rated_agree: Mean
    rated_differ: Mean
    battles: Mean
    n_explorable: int
    n_matched: int
    n_undrawable: int
    value_served: Mean
    value_shadow: Mean
    value_difference: Mean


@dataclass(frozen=True, slots=True)
class OtherPair:
    """Two artifacts that were also served and in the shadow, and how many records are of them.

    shadow_id: empty where it could not decide.
    """

    served_id: str
    shadow_id: str
    n: int


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """All of it. n: records of this pair of artifacts; others: of other pairs, left out. n_explored: drawn at random,
    which says nothing of agreement. from_s, to_s: seconds since 1970.
    """

    served_id: str
    shadow_id: str
    n: int
    others: tuple[OtherPair, ...]
    n_damaged: int
    n_refused: int
    n_explored: int
    from_s: float | None
    to_s: float | None
    agreement: Mean
    same_endpoint: Mean
    tiers: Mapping[str, int]
    pairs: tuple[Pair, ...]
    expected: Expected
    intents: tuple[IntentRow, ...]
    found: Found | None

    def to_json(self) -> JsonObject:
        """Return the wire form."""
        return asdict(self)


def shadow_report(
    lines: "Iterable[ShadowRecord | None]",
    events: Iterable[StoredEvent] | None = None,
    *,
    served_id: str | None = None,
    shadow_id: str | None = None,
) -> ShadowReport:
    """Return what the records say, None among them being damaged lines. events: of the feedback store, if there is one.

    Of several pairs of artifacts, the report is about the one of the last record, of those with the ids that are given.
    """
    read = list(lines)
    records = [one for one in read if one is not None]
    pair = _pair_of(records, served_id, shadow_id)
    own = [one for one in records if _is_of(one, pair)]
    both = [one for one in own if one.shadow is not None and not one.explored]
    agree = [one for one in both if _agrees(one)]
    times = [one.time_s for one in own]
    by_intent: dict[str, list[ShadowRecord]] = defaultdict(list)
    for one in both:
        by_intent[one.intent or "none"].append(one)
    most = sorted(by_intent.items(), key=lambda item: (-len(item[1]), item[0]))[:MAX_INTENTS]
    return ShadowReport(
        served_id=pair[0],
        shadow_id=pair[1],
        n=len(own),
        others=_others(records, pair),
        n_damaged=len(read) - len(records),
        n_refused=sum(one.shadow is None for one in own),
        n_explored=sum(one.explored for one in own),
        from_s=min(times, default=None),
        to_s=max(times, default=None),
        agreement=Mean.of_share(len(agree), len(both)),
        same_endpoint=Mean.of_share(
            sum(one.shadow is not None and one.shadow.endpoint == one.served.endpoint for one in agree), len(agree)
        ),
        tiers=dict(Counter(one.served.tier for one in own).most_common()),
        pairs=tuple(_pairs(both)[:MAX_PAIRS]),
        expected=_expected(both),
        intents=tuple(
            IntentRow(
                intent,
                Mean.of_share(sum(_agrees(one) for one in some), len(some)),
                Mean.of(_by_shadow(some)),
                next(iter(_pairs(some)), None),
            )
            for intent, some in most
        ),
        found=None if events is None else _found(own, events),
    )


def _pair_of(records: Sequence[ShadowRecord], served_id: str | None, shadow_id: str | None) -> tuple[str, str]:
    of_served = [one for one in records if served_id in (None, one.served.artifact_id)]
    for one in reversed(of_served):
        if one.shadow is not None and shadow_id in (None, one.shadow.artifact_id):
            return one.served.artifact_id, one.shadow.artifact_id
    if shadow_id is None and of_served:
        return of_served[-1].served.artifact_id, ""
    return served_id or "", shadow_id or ""


def _others(records: Iterable[ShadowRecord], pair: tuple[str, str]) -> tuple[OtherPair, ...]:
    counts = Counter(
        (one.served.artifact_id, "" if one.shadow is None else one.shadow.artifact_id)
        for one in records
        if not _is_of(one, pair)
    )
    return tuple(OtherPair(*ids, n) for ids, n in counts.most_common())


def _is_of(one: ShadowRecord, pair: tuple[str, str]) -> bool:
    return one.served.artifact_id == pair[0] and (one.shadow is None or one.shadow.artifact_id == pair[1])


def _agrees(one: ShadowRecord) -> bool:
    return one.shadow is not None and one.shadow.model == one.served.model


def _pairs(records: Iterable[ShadowRecord]) -> list[Pair]:
    counts = Counter(
        (one.served.model, one.shadow.model) for one in records if one.shadow is not None and not _agrees(one)
    )
    return [Pair(*names, n) for names, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _by_shadow(records: Iterable[ShadowRecord]) -> list[float]:
    """Return what the shadow expects of its choice over the served one, of every record of which it knows both."""
    return [
        one.shadow.quality - one.served_quality
        for one in records
        if one.shadow is not None and one.shadow.quality is not None and one.served_quality is not None
    ]


def _expected(records: Sequence[ShadowRecord]) -> Expected:
    qualities = [
        (one.served.quality, one.shadow.quality)
        for one in records
        if one.shadow is not None and one.served.quality is not None and one.shadow.quality is not None
    ]
    costs = [
        (one.served.cost_usd, one.shadow.cost_usd)
        for one in records
        if one.shadow is not None and one.served.cost_usd is not None and one.shadow.cost_usd is not None
    ]
    return Expected(
        served_quality=Mean.of([served for served, _ in qualities]),
        shadow_quality=Mean.of([shadow for _, shadow in qualities]),
        own_difference=Mean.of([shadow - served for served, shadow in qualities]),
        by_shadow_difference=Mean.of(_by_shadow(records)),
        served_cost_usd=Mean.of([served for served, _ in costs]),
        shadow_cost_usd=Mean.of([shadow for _, shadow in costs]),
        cost_difference_usd=Mean.of([shadow - served for served, shadow in costs]),
    )


def _found(records: Sequence[ShadowRecord], events: Iterable[StoredEvent]) -> Found:
    by_id = {one.decision_id: one for one in records if one.shadow is not None}
    ratings: dict[str, list[float]] = defaultdict(list)
    fought: dict[str, list[float]] = defaultdict(list)
    n_events = 0
    for event in (one.event for one in events):
        record = by_id.get(event.decision_id or "")
        if record is None or record.shadow is None:
            continue
        n_events += 1
        outcome = event.outcome
        if isinstance(outcome, Score) and outcome.model == record.served.model:
            ratings[record.decision_id].append(outcome.score)
        elif isinstance(outcome, Battle) and set(outcome.models) == {record.served.model, record.shadow.model}:
            won = outcome.winner if outcome.model_b == record.shadow.model else _turned(outcome.winner)
            fought[record.decision_id].append({"model_a": 0.0, "model_b": 1.0}.get(won, 0.5))
    # Of several verdicts on a decision, the mean is one.
    rated = [(by_id[one], float(np.mean(values))) for one, values in ratings.items()]
    explorable = [(one, rating) for one, rating in rated if one.explore_share > 0 and one.propensity > 0]
    drawable = [(one, rating) for one, rating in explorable if one.drawable]
    matched = [(one, rating) for one, rating in drawable if _agrees(one)]
    served, shadow, difference = _values(drawable)
    plain = [(one, rating) for one, rating in rated if not one.explored]
    return Found(
        n_events=n_events,
        rated_agree=Mean.of([rating for one, rating in plain if _agrees(one)]),
        rated_differ=Mean.of([rating for one, rating in plain if not _agrees(one)]),
        battles=Mean.of([float(np.mean(values)) for values in fought.values()]),
        n_explorable=len(explorable),
        n_matched=len(matched),
        n_undrawable=len(explorable) - len(drawable),
        value_served=served,
        value_shadow=shadow,
        value_difference=difference,
    )


def _turned(winner: str) -> str:
    return {"model_a": "model_b", "model_b": "model_a"}.get(winner, winner)


def _values(rated: Sequence[tuple[ShadowRecord, float]]) -> tuple[Mean, Mean, Mean]:
    """Return what was served was worth, what the shadow's choices would have been, and the difference.

    Where the drawn model is the shadow's choice, its rating stands for 1 / propensity requests. The intervals are those
    of the linearised ratio, paired request by request.
    """
    served = Mean.of([rating for _, rating in rated])
    weights = np.array([1 / one.propensity if _agrees(one) else 0.0 for one, _ in rated])
    ratings = np.array([rating for _, rating in rated])
    n, total, n_matched = len(rated), float(weights.sum()), int(np.count_nonzero(weights))
    if n_matched == 0 or served.value is None:
        return served, Mean(0, None), Mean(0, None)
    value = float(weights @ ratings) / total
    difference = value - served.value
    if n_matched < MIN_INTERVAL:
        return served, Mean(n_matched, value), Mean(n_matched, difference)
    pull = weights * (ratings - value) * n / total
    reach, reach_difference = (
        Z95 * float(one.std(ddof=1)) / math.sqrt(n) for one in (pull, pull - (ratings - served.value))
    )
    return (
        served,
        Mean(n_matched, value, value - reach, value + reach),
        Mean(n_matched, difference, difference - reach_difference, difference + reach_difference),
    )


def render(report: ShadowReport) -> str:
    """Return the report for people."""
    if report.n == 0:
        damaged = f"; {report.n_damaged} damaged lines" if report.n_damaged else ""
        return "\n".join([f"no records{damaged}", *_other_lines(report)])
    expected, hours = report.expected, (float(report.to_s or 0) - float(report.from_s or 0)) / 3600
    is_same = report.served_id == report.shadow_id
    tiers = ", ".join(f"{count} {tier}" for tier, count in report.tiers.items())
    lines = [
        f"served {report.served_id}, shadow {report.shadow_id or '(never decided)'}: {report.n} requests in "
        f"{hours:.1f} hours ({tiers})",
        *(["both are the same artifact: name another one as shadow.artifact"] if is_same else []),
        f"agreement        {_percent(report.agreement)}",
        *(f"  {one.n:>6} x  {one.served} was served, the shadow takes {one.shadow}" for one in report.pairs),
        "expected quality, points",
        f"  served {_points(expected.served_quality)}, shadow {_points(expected.shadow_quality)}; each by its own",
        f"  the shadow's over the served one, by the shadow   {_points(expected.by_shadow_difference, signed=True)}",
        f"  the same, each by its own                         {_points(expected.own_difference, signed=True)}",
        "expected cost, USD per 1,000 requests",
        f"  served {_thousand(expected.served_cost_usd)}, shadow {_thousand(expected.shadow_cost_usd)}, "
        f"difference {_thousand(expected.cost_difference_usd, signed=True)}",
    ]
    if report.intents:
        width = max(len(one.intent) for one in report.intents)
        lines.append("by intent")
        lines += [
            f"  {one.intent:<{width}}  {one.agreement.n:>6}  agree {_percent(one.agreement)}  "
            f"{_points(one.by_shadow_difference, signed=True)}"
            f"{'' if one.most is None else f'  most: {one.most.served} -> {one.most.shadow}'}"
            for one in report.intents
        ]
    lines += _found_lines(report.found)
    for count, what in (
        (report.n_explored, "drawn at random: left out of agreement and expectations"),
        (report.n_refused, "that the shadow could not decide under their policy"),
        (report.n_damaged, "damaged lines: left out"),
    ):
        if count:
            lines.append(f"{count} {what}")
    return "\n".join([*lines, *_other_lines(report)])


def _other_lines(report: ShadowReport) -> list[str]:
    return [
        f"{one.n} of served {one.served_id}, shadow {one.shadow_id or '(never decided)'}: left out; "
        "--served and --shadow name others"
        for one in report.others[:MAX_PAIRS]
    ]


def _found_lines(found: Found | None) -> list[str]:
    if found is None:
        return ["feedback: none was looked at; name the store with --store"]
    lines = [
        f"feedback: {found.n_events} verdicts on these requests",
        f"  rating of the served model where both agree       {_points(found.rated_agree)} ({found.rated_agree.n})",
        f"  and where they differ                             {_points(found.rated_differ)} ({found.rated_differ.n})",
        "  where they differ, the shadow's model was not asked: these ratings do not say that it would do better",
    ]
    if found.battles.n:
        lines.append(f"  battles served against shadow's, won by the latter {_percent(found.battles)}")
    if found.n_explorable == 0:
        return [*lines, "  no rated request may have been drawn at random, so nothing tells of the shadow's own value"]
    lines.append(
        f"  of {found.n_explorable} rated requests with exploration, {found.n_matched} were given the shadow's model: "
        f"weighted by propensity it is worth {_points(found.value_shadow)}, what was served "
        f"{_points(found.value_served)}, difference {_points(found.value_difference, signed=True)}"
    )
    if found.n_undrawable:
        lines.append(f"  {found.n_undrawable} more could not have been given the shadow's model: left out")
    return lines


def _percent(mean: Mean) -> str:
    return "-" if mean.value is None else f"{100 * mean.value:.1f} %{_interval(mean, 100)}"


def _points(mean: Mean, *, signed: bool = False) -> str:
    if mean.value is None:
        return "-"
    return f"{100 * mean.value:{'+' if signed else ''}.1f}{_interval(mean, 100, signed=signed)}"


def _thousand(mean: Mean, *, signed: bool = False) -> str:
    if mean.value is None:
        return "-"
    return f"{1000 * mean.value:{'+' if signed else ''}.4g}{_interval(mean, 1000, signed=signed, form='.4g')}"


def _interval(mean: Mean, scale: float, *, signed: bool = False, form: str = ".1f") -> str:
    if mean.low is None or mean.high is None:
        return f" (too few for an interval: {mean.n})"
    sign = "+" if signed else ""
    return f" ({scale * mean.low:{sign}{form}} to {scale * mean.high:{sign}{form}})"
