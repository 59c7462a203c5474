"""Is routing worth it? Held-out rows answer with an interval, and the answer may be no."""

import math
from dataclasses import dataclass

from router.estimate import Z95
from router.types import Gain, Verdict

# Power 80 % at a two-sided 5 %: (1.96 + 0.84)^2 standard errors.
POWER_FACTOR = (Z95 + 0.841621) ** 2
DEFAULT_MARGIN = 0.01
MIN_SAVING = 0.05
MIN_EFFECTIVE_COMPARISONS = 200.0


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the verdict is made of.

    gain: router minus best fixed model, in quality. costs_usd: mean cost of the router's and the fixed model's
    answers, None without prices. n_rows: held-out rows. effective_comparisons: None where every choice's score is
    known.
    """

    best_fixed: str
    gain: Gain
    router_cost_usd: float | None
    fixed_cost_usd: float | None
    n_rows: int
    effective_comparisons: float | None


def gain_of(mean: float, error: float) -> Gain:
    """Return the gain with its 95 % interval."""
    return Gain(mean, mean - Z95 * error, mean + Z95 * error)


def judge(held_out: HeldOut, *, margin: float = DEFAULT_MARGIN) -> Verdict:
    """Return the verdict.

    ROUTE: the gain's 97.5 % lower bound is above 0 at equal or lower cost, or more than 5 % is saved and the
    quality's lower bound is above ``-margin``. DO NOT ROUTE: the gain's upper bound is below ``margin`` and nothing
    of the kind is saved. NOT ENOUGH DATA: neither, or fewer than 200 effective comparisons; the number of rows named
    gives 80 % power at max(observed gain, margin).
    """
    gain, fixed = held_out.gain, held_out.best_fixed
    saving = _saving(held_out)
    points = f"{100 * gain.mean:+.1f} points (95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    few = held_out.effective_comparisons
    if few is None and gain.low == gain.high != 0:  # a handful of rows that agree: no spread, and no proof
        few = float(held_out.n_rows)
    if few is not None and few < MIN_EFFECTIVE_COMPARISONS:
        wanted = int(held_out.n_rows * MIN_EFFECTIVE_COMPARISONS / max(few, 1.0))
        text = (
            f"NOT ENOUGH DATA: about {_rounded(wanted)} rows needed; only {few:.0f} effective comparisons test the"
            f" router's choices ({MIN_EFFECTIVE_COMPARISONS:.0f} needed). Until then always use {fixed}."
        )
        return Verdict("NOT ENOUGH DATA", text, fixed)
    if gain.low > 0 and (saving is None or saving >= 0):
        return Verdict("ROUTE", f"ROUTE: {points} over always using {fixed}{_saving_text(saving)}.", fixed)
    if saving is not None and saving > MIN_SAVING and gain.low > -margin:
        return Verdict("ROUTE", f"ROUTE: saves {100 * saving:.0f} % at {points} against always using {fixed}.", fixed)
    might_save = saving is not None and saving > MIN_SAVING and gain.high > -margin
    if gain.high < margin and not might_save:
        return Verdict("DO NOT ROUTE", f"DO NOT ROUTE: always use {fixed}. Routing gives {points}.", fixed)
    if gain.low > 0:
        more = f"{-100 * saving:.0f} % more cost" if saving is not None and saving > -math.inf else "more cost"
        text = f"{points} over always using {fixed}, but at {more}"
        return Verdict("NOT ENOUGH DATA", f"NOT ENOUGH DATA for a gain at equal cost: {text}.", fixed)
    rows = rows_needed(held_out, margin)
    text = f"NOT ENOUGH DATA: about {_rounded(rows)} rows needed; so far {points} over always using {fixed}."
    return Verdict("NOT ENOUGH DATA", text, fixed)


def rows_needed(held_out: HeldOut, margin: float) -> int:
    """Return the rows that give 80 % power to see max(observed gain, margin)."""
    error = (held_out.gain.high - held_out.gain.low) / (2 * Z95)
    target = max(held_out.gain.mean, margin)
    return max(int(held_out.n_rows * POWER_FACTOR * (error / target) ** 2), held_out.n_rows + 1)


def _rounded(rows: int) -> int:
    """Return two leading digits: a projection claims no more."""
    scale = 10 ** max(len(str(rows)) - 2, 0)
    return int(-(-rows // scale) * scale)


def _saving(held_out: HeldOut) -> float | None:
    if held_out.router_cost_usd is None or held_out.fixed_cost_usd is None:
        return None
    if held_out.fixed_cost_usd == 0:
        return -math.inf if held_out.router_cost_usd > 0 else 0.0
    return 1.0 - held_out.router_cost_usd / held_out.fixed_cost_usd


def _saving_text(saving: float | None) -> str:
    return "" if saving is None else f" at {100 * saving:.0f} % lower cost"
