"""What if another policy were in force: a replay under several policies in numbers, with intervals.

All quality, cost and time here is what the router itself expects; where the log has outcomes, Observed says what they
say of the same choices.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from router.types import JsonObject, Policy, Verdict
from training.evidence import Table
from training.findings import MIN_INTERVAL_ROWS, Share
from training.metrics import N_DRAWS, Measured, percentile_interval, resamples, share_interval
from training.replay import NO_ANSWER, SEED, Replay

EXPECTATIONS = (
    "These are the router's own expectations, learnt from the artifact's training rows: no model was asked. Intervals"
    " say how much the prompts at hand vary, not how wrong the router may be."
)
REQUESTS = 1000.0
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PolicyLine:
    """What one policy does.

    policy: its fields that are not the default. n_answered: prompts that some model may take. quality: 0..1, mean over
    those where it is known; usd_per_1000: USD of 1,000 requests, likewise over n_priced of them; latency_ms,
    latency_p95_ms: mean and 0.95 quantile over the prompts of the expected time of the answer, over n_timed of them.
    None: known of no prompt. reasons: of the answers, with counts. unanswered: the constraint that left no model, with
    counts.
    """

    name: str
    policy: JsonObject
    n_answered: int
    quality: Measured | None
    usd_per_1000: Measured | None
    n_priced: int
    latency_ms: Measured | None
    latency_p95_ms: float | None
    n_timed: int
    shares: tuple[Share, ...]
    reasons: dict[str, int]
    unanswered: dict[str, int]


@dataclass(frozen=True, slots=True)
class Alone:
    """Always the same model, under no policy: means over the n prompts that it can take; None where unknown."""

    model: str
    n: int
    quality: float | None
    usd_per_1000: float | None
    latency_ms: float | None


@dataclass(frozen=True, slots=True)
class Move:
    """Prompts that go from one model to another (None: no answer): their share of all, and the mean differences."""

    before: str | None
    after: str | None
    n: int
    share: float
    quality: float | None
    usd_per_1000: float | None


@dataclass(frozen=True, slots=True)
class IntentLine:
    """What changes on the prompts of one intent; moves: the most frequent first."""

    intent: str
    n: int
    n_changed: int
    quality: Measured | None
    usd_per_1000: Measured | None
    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """What the log itself says of both choices.

    n: prompts with the scores of both chosen models, and their means and paired difference there; all None for a log
    of battles. won, tied, lost: moved prompts on which the log compares the two models, by the model after the move.
    points: the share of points it took there, a tie being half of one.
    """

    n: int
    before: Measured | None
    after: Measured | None
    difference: Measured | None
    won: int
    tied: int
    lost: int
    points: Measured | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One policy (after) against the first (before).

    changed: share of all prompts that go to another model, or get or lose an answer. quality, usd_per_1000,
    latency_ms: mean of after minus before over the prompts that both answer and where both are known; n_paired: both
    answer. observed: None where the log has no outcomes.
    """

    before: str
    after: str
    n_changed: int
    changed: Measured
    n_paired: int
    quality: Measured | None
    usd_per_1000: Measured | None
    latency_ms: Measured | None
    moves: tuple[Move, ...]
    intents: tuple[IntentLine, ...]
    observed: Observed | None


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A replay in numbers. n_in_log: prompts before sampling. seed: of the sample and of exploration. n_trained_on:
    prompts that are training rows, word for word. intents_from: 'log', 'neighbours' or 'none'.
    """

    artifact_id: str
    tier: str
    verdict: Verdict
    n_prompts: int
    n_in_log: int
    seed: int
    n_trained_on: int
    intents_from: str
    policies: tuple[PolicyLine, ...]
    alone: tuple[Alone, ...]
    differences: tuple[Difference, ...]

    def to_json(self) -> JsonObject:
        """Return the content of whatif.json, without prompts."""
        return {"note": EXPECTATIONS, **asdict(self), "n_draws": N_DRAWS, "interval_seed": SEED}


def what_if(
    done: Replay,
    *,
    artifact_id: str,
    verdict: Verdict,
    table: Table | None = None,
    n_in_log: int | None = None,
    seed: int = SEED,
) -> WhatIf:
    """Return what the policies do, and what each but the first changes against it.

    table: the outcomes of the same prompts, row by row. seed: what the sample and exploration were drawn with.
    """
    codes, names, source = done.intents, done.intent_names, "neighbours"
    if table is not None and (table.intents >= 0).any():
        codes, names, source = table.intents, table.intent_names, "log"
    if not (codes >= 0).any():
        source = "none"
    return WhatIf(
        artifact_id=artifact_id,
        tier=done.tier,
        verdict=verdict,
        n_prompts=len(done),
        n_in_log=len(done) if n_in_log is None else n_in_log,
        seed=seed,
        n_trained_on=int(done.trained_on.sum()),
        intents_from=source,
        policies=tuple(_policy_line(done, nth) for nth in range(len(done.policies))),
        alone=tuple(_alone(done, column) for column in range(done.alone_quality.shape[1])),
        differences=tuple(
            _difference(done, nth, table, codes if source != "none" else None, names)
            for nth in range(1, len(done.policies))
        ),
    )


def set_fields(policy: Policy) -> JsonObject:
    """Return the fields of a policy that are not the default, without its name."""
    found = {one.name: (getattr(policy, one.name), one.default) for one in fields(policy) if one.name != "name"}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, (value, default) in found.items()
        if value != default
    }


def means(columns: Mapping[str, Numbers], groups: NDArray[np.int64]) -> dict[str, Measured | None]:
    """Return the mean of every column, float64 (n_prompts,), over the prompts where it is known (not NaN).

    The intervals are the percentile bootstrap's over groups, the same resamples for all; none where less than
    MIN_INTERVAL_ROWS groups know a value. None where no prompt does.
    """
    if not columns:
        return {}
    values = np.column_stack(list(columns.values()))
    known = (~np.isnan(values)).astype(np.float64)
    filled = np.where(known > 0, values, 0.0)
    # Value and number of the prompts in one product.
    both = np.concatenate([filled, known], axis=1)
    draws = np.stack([counts @ both for counts in resamples(groups, N_DRAWS, SEED)])
    totals, numbers = np.split(draws, 2, axis=1)
    out: dict[str, Measured | None] = {}
    for column, name in enumerate(columns):
        has = known[:, column] > 0
        if not has.any():
            out[name] = None
            continue
        value = float(values[has, column].mean())
        drawn = numbers[:, column] > 0
        enough = len(np.unique(groups[has])) >= MIN_INTERVAL_ROWS
        some = (totals[drawn, column] / numbers[drawn, column]).tolist()
        out[name] = percentile_interval(value, some) if enough else Measured(value, None, None)
    return out


def _policy_line(done: Replay, nth: int) -> PolicyLine:
    choices, reasons = done.choices[nth], done.reasons[nth]
    answered = choices != NO_ANSWER
    costs, latencies = REQUESTS * done.costs_usd[nth], done.latencies_ms[nth]
    found = means({"quality": done.quality[nth], "usd": costs, "ms": latencies}, done.groups)
    timed = latencies[~np.isnan(latencies)]
    counts = np.bincount(choices[answered], minlength=len(done.models)).tolist()
    n = len(choices)
    shares = [Share(model, count, share_interval(count, n)) for model, count in zip(done.models, counts, strict=True)]
    return PolicyLine(
        name=str(done.policies[nth].name),
        policy=set_fields(done.policies[nth]),
        n_answered=int(answered.sum()),
        quality=found["quality"],
        usd_per_1000=found["usd"],
        n_priced=int((~np.isnan(costs)).sum()),
        latency_ms=found["ms"],
        latency_p95_ms=float(np.quantile(timed, 0.95)) if len(timed) else None,
        n_timed=len(timed),
        shares=tuple(sorted((one for one in shares if one.n), key=lambda one: (-one.n, one.model))),
        reasons=_counted([reason for reason, has in zip(reasons, answered.tolist(), strict=True) if has]),
        unanswered=_counted([reason for reason, has in zip(reasons, answered.tolist(), strict=True) if not has]),
    )


def _counted(values: Sequence[str]) -> dict[str, int]:
    """Return how often each occurs, the most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _alone(done: Replay, column: int) -> Alone:
    takes = ~np.isnan(done.alone_quality[:, column])
    return Alone(
        model=done.models[column],
        n=int(takes.sum()),
        quality=_mean(done.alone_quality[takes, column]),
        usd_per_1000=_mean(REQUESTS * done.alone_costs_usd[takes, column]),
        latency_ms=_mean(done.alone_latencies_ms[takes, column]),
    )


def _mean(values: Numbers) -> float | None:
    """Return the mean of what is known, None where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _difference(
    done: Replay, nth: int, table: Table | None, codes: NDArray[np.int64] | None, names: Sequence[str]
) -> Difference:
    before, after = done.choices[0], done.choices[nth]
    quality, usd, ms = (own[nth] - own[0] for own in (done.quality, REQUESTS * done.costs_usd, done.latencies_ms))
    changed = before != after
    columns = {"quality": quality, "usd": usd, "ms": ms}
    intents = [] if codes is None else [(code, codes == code) for code in np.unique(codes).tolist()]
    for code, rows in intents:
        columns |= {f"{name} {code}": np.where(rows, columns[name], np.nan) for name in ("quality", "usd")}
    found = means(columns, done.groups)
    lines = [
        IntentLine(
            intent=names[code] if code >= 0 else "(no intent)",
            n=int(rows.sum()),
            n_changed=int((rows & changed).sum()),
            quality=found[f"quality {code}"],
            usd_per_1000=found[f"usd {code}"],
            moves=_moves(done, nth, rows, quality, usd),
        )
        for code, rows in intents
    ]
    return Difference(
        before=str(done.policies[0].name),
        after=str(done.policies[nth].name),
        n_changed=int(changed.sum()),
        changed=share_interval(int(changed.sum()), len(done)),
        n_paired=int(((before != NO_ANSWER) & (after != NO_ANSWER)).sum()),
        quality=found["quality"],
        usd_per_1000=found["usd"],
        latency_ms=found["ms"],
        moves=_moves(done, nth, np.ones(len(done), dtype=bool), quality, usd),
        intents=tuple(sorted(lines, key=lambda one: (-one.n_changed, -one.n, one.intent))),
        observed=None if table is None else _observed(done, nth, table),
    )


def _moves(done: Replay, nth: int, rows: NDArray[np.bool_], quality: Numbers, usd: Numbers) -> tuple[Move, ...]:
    """Return the moves on the rows marked, the most frequent first."""
    before, after = done.choices[0], done.choices[nth]
    moved = np.flatnonzero(rows & (before != after))
    pairs, codes = np.unique(np.column_stack([before[moved], after[moved]]), axis=0, return_inverse=True)
    moves = []
    for code, (source, target) in enumerate(pairs.tolist()):
        own = moved[codes.reshape(-1) == code]
        moves.append(
            Move(
                before=None if source == NO_ANSWER else done.models[source],
                after=None if target == NO_ANSWER else done.models[target],
                n=len(own),
                share=len(own) / int(rows.sum()),
                quality=_mean(quality[own]),
                usd_per_1000=_mean(usd[own]),
            )
        )
    return tuple(sorted(moves, key=lambda one: (-one.n, one.before or "", one.after or "")))


def _observed(done: Replay, nth: int, table: Table) -> Observed:
    column = {name: place for place, name in enumerate(table.models)}
    # Places of the replay's models in the log, -1 for those that it does not know and for no answer.
    place = np.array([*(column.get(name, -1) for name in done.models), -1])
    before, after = place[done.choices[0]], place[done.choices[nth]]
    at = np.arange(len(table))
    known = (before >= 0) & (after >= 0)
    mine, theirs = (np.where(known, table.scores[at, one], np.nan) for one in (after, before))
    paired = ~np.isnan(mine - theirs)
    if table.kind == "scores":
        lead = np.where(paired & (before != after), mine - theirs, np.nan)
    else:
        lead = _battle_leads(table, before, after, known)
    points = np.where(np.isnan(lead), np.nan, (1.0 + np.sign(lead)) / 2.0)
    found = means(
        {
            "before": np.where(paired, theirs, np.nan),
            "after": np.where(paired, mine, np.nan),
            "difference": mine - theirs,
            "points": points,
        },
        done.groups,
    )
    return Observed(
        n=int(paired.sum()),
        before=found["before"],
        after=found["after"],
        difference=found["difference"],
        won=int((points == 1.0).sum()),
        tied=int((points == 0.5).sum()),
        lost=int((points == 0.0).sum()),
        points=found["points"],
    )


def _battle_leads(
    table: Table, before: NDArray[np.int64], after: NDArray[np.int64], known: NDArray[np.bool_]
) -> Numbers:
    """Return, per row, wins less losses of ``after`` against ``before`` in the log: float64 (n_rows,), NaN without."""
    battles = table.battles
    lead, fought = np.zeros((2, len(table)))
    for mine, theirs, outcome in ((battles.a, battles.b, battles.y), (battles.b, battles.a, 1.0 - battles.y)):
        rows = battles.rows
        these = known[rows] & (after[rows] == mine) & (before[rows] == theirs)
        np.add.at(lead, rows[these], 2.0 * outcome[these] - 1.0)
        np.add.at(fought, rows[these], 1.0)
    return np.where(fought > 0, lead, np.nan)
