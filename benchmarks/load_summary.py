"""The arithmetic of a load: what share was answered in budget, from which tier, how late, and how soon all was well.

Times are the client's: from the actual send to the last byte of the answer. How late the generator itself was is kept
apart; where it was more than 5 ms late at p99, the run says nothing about the server and is void.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from load import NO_BUDGET, TIERS, Answers
from numpy.typing import NDArray
from schedule import Schedule

DEFAULT_BUDGET_MS = 50.0
"""The server's own budget for requests that name none."""
VOID_LAG_MS = 5.0
QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
RECOVERY_WINDOW_S = 0.5
RECOVERY_STEP_S = 0.1
RECOVERED_RATIO = 1.5

Times = NDArray[np.float64]


def latencies_ms(answers: Answers) -> Times:
    """Return the milliseconds from the actual send to the last byte, infinite where there was no answer."""
    took = (answers.done_s - answers.sent_s) * 1e3
    return np.where(np.isnan(took), np.inf, took)


def quantiles(times_ms: Times) -> dict[str, float | None]:
    """Return p50, p99, p99.9 and max: of times that were seen, none between them; None where no time is finite."""
    names = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return dict(zip(names, points(times_ms, tuple(names.values())), strict=True))


def points(times_ms: Times, at: Sequence[float]) -> list[float | None]:
    """Return the least time that is not below so large a share of all, for each share."""
    if not len(times_ms):
        return [None] * len(at)
    found = np.quantile(times_ms, at, method="inverted_cdf")
    return [float(one) if math.isfinite(one) else None for one in found]


def send_lag(answers: Answers) -> dict[str, float | None]:
    """Return by how many milliseconds requests left later than planned."""
    return quantiles((answers.sent_s - answers.at_s) * 1e3)


def is_void(lag: dict[str, float | None]) -> bool:
    """Tell whether the generator was too late for the run to count."""
    return lag["p99"] is None or lag["p99"] > VOID_LAG_MS


def in_budget(answers: Answers) -> NDArray[np.bool_]:
    """Tell which requests were answered with 200 within their budget by the client's clock."""
    budget_ms = np.where(answers.budget_ms == NO_BUDGET, DEFAULT_BUDGET_MS, answers.budget_ms)
    return (answers.status == 200) & (latencies_ms(answers) <= budget_ms)


def summary(answers: Answers, asked: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the numbers of the requests that ``asked`` picks, shares of those offered unless named otherwise."""
    status, times_ms = answers.status[asked], latencies_ms(answers)[asked]
    ok = status == 200
    n, n_ok = len(status), int(ok.sum())
    tiers = answers.tier[asked][ok]
    degraded, elapsed_ms = answers.degraded[asked][ok], answers.elapsed_ms[asked][ok]
    lag = send_lag_of(answers, asked)
    return {
        "offered": n,
        "answered_200": n_ok,
        "in_budget": share(in_budget(answers)[asked]),
        "degraded_of_answered": share(degraded == 1),
        "tiers_of_answered": {name: share(tiers == code) for code, name in enumerate(TIERS)},
        "cached": int((answers.cached[asked][ok] == 1).sum()),
        "status_429": int((status == 429).sum()),
        "status_5xx": int((status >= 500).sum()),
        "status_other": int(((status > 0) & ~ok & (status != 429) & (status < 500)).sum()),
        "lost": int((status == 0).sum()),
        "latency_ms": quantiles(times_ms[ok]),
        "quantiles_ms": points(times_ms[ok], QUANTILES),
        "elapsed_by_server_ms": quantiles(elapsed_ms[~np.isnan(elapsed_ms)]),
        "send_lag_ms": lag,
        "void": is_void(lag),
    }


def send_lag_of(answers: Answers, asked: NDArray[np.bool_]) -> dict[str, float | None]:
    """Return the send lag of some of the requests."""
    return quantiles(((answers.sent_s - answers.at_s) * 1e3)[asked])


def share(which: NDArray[np.bool_]) -> float | None:
    """Return the share that is true, None of nothing."""
    return float(which.mean()) if len(which) else None


def by_budget(answers: Answers, asked: NDArray[np.bool_]) -> dict[str, Any]:
    """Return share in budget and tier shares for every budget that was sent."""
    out = {}
    for budget_ms in np.unique(answers.budget_ms[asked]):
        own = asked & (answers.budget_ms == budget_ms)
        found = summary(answers, own)
        out[f"{budget_ms:g}"] = {key: found[key] for key in ("offered", "in_budget", "tiers_of_answered", "latency_ms")}
    return out


def recovery_s(answers: Answers, plan: Schedule) -> float | None:
    """Return the seconds after the load until p99 over half a second is at most 1.5 times what it was before.

    The plan has three phases: before, load, after. None: not within the last phase. Windows without a request say
    nothing and are passed over.
    """
    times_ms = latencies_ms(answers)
    before = points(times_ms[plan.phase == 0], (0.99,))[0]
    if before is None:
        return None
    start_s, end_s = plan.ends_s[1], plan.ends_s[2]
    for begin_s in np.arange(start_s, end_s - RECOVERY_WINDOW_S + 1e-9, RECOVERY_STEP_S):
        own = times_ms[(plan.at_s >= begin_s) & (plan.at_s < begin_s + RECOVERY_WINDOW_S)]
        p99 = points(own, (0.99,))[0]
        if p99 is not None and p99 <= RECOVERED_RATIO * before:
            return float(begin_s - start_s)
    return None


def across(values: Sequence[float | None]) -> dict[str, float] | None:
    """Return median, min and max over the repeats; None where a repeat has no value."""
    if not values or any(one is None for one in values):
        return None
    return {"median": float(np.median(values)), "min": float(min(values)), "max": float(max(values))}
