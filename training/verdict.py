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
# No number of rows is named for a gain below this: a margin of 0 asks for the impossible.
MIN_TARGET = 1e-6
# An interval narrower than this has no width but rounding.
NO_SPREAD = 1e-9


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the verdict is made of.

    gain: router minus best fixed model, in quality. costs_usd: mean cost of the router's and the fixed model's
    answers, None without prices. n_rows: rows of the log. effective_comparisons: None where every choice's score is
    known.
    """

    best_fixed: str
    gain: Gain
    router_cost_usd: float | None
    fixed_cost_usd: float | None
    n_rows: int
    effective_comparisons: float | None


@dataclass(frozen=True, slots=True)
class Ruling:
    """A verdict, and the N of its "about N rows": None where it asks for no more rows, or can name no number."""

    verdict: Verdict
    rows_needed: int | None


def gain_of(mean: float, error: float) -> Gain:
    """Return the gain with its 95 % interval."""
    return Gain(mean, mean - Z95 * error, mean + Z95 * error)


def judge(held_out: HeldOut, *, margin: float = DEFAULT_MARGIN) -> Verdict:
    """Return the verdict of ``rule`` alone."""
    return rule(held_out, margin=margin).verdict


def rule(held_out: HeldOut, *, margin: float = DEFAULT_MARGIN) -> Ruling:
    """Return the verdict, and how many rows it asks for.

    ROUTE: the gain's 97.5 % lower bound is above 0 at equal or lower cost, or more than 5 % is saved and the
    quality's lower bound is above ``-margin``. DO NOT ROUTE: the gain's upper bound is below ``margin`` and nothing
    of the kind is saved. NOT ENOUGH DATA: neither, or fewer than 200 effective comparisons; the number of rows named
    gives 80 % power at max(observed gain, margin).
    """
    gain, fixed = held_out.gain, held_out.best_fixed
    saving = _saving(held_out)
    points = f"{100 * gain.mean:+.1f} points (95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    few = held_out.effective_comparisons
    still = gain.high - gain.low < NO_SPREAD
    if still:  # a handful of rows that agree: no spread, and no proof
        few = min(float(held_out.n_rows), math.inf if few is None else few)
    if few is not None and few < MIN_EFFECTIVE_COMPARISONS:
        rows = rounded(int(held_out.n_rows * MIN_EFFECTIVE_COMPARISONS / max(few, 1.0)))
        text = (
            f"NOT ENOUGH DATA: about {rows} rows needed; only {few:.0f} effective comparisons test the"
            f" router's choices ({MIN_EFFECTIVE_COMPARISONS:.0f} needed). Until then always use {fixed}."
        )
        return Ruling(Verdict("NOT ENOUGH DATA", text, fixed), rows)
    if gain.low > 0 and (saving is None or saving >= 0):
        text = f"ROUTE: {points} over always using {fixed}{_saving_text(saving)}."
        return Ruling(Verdict("ROUTE", text, fixed), None)
    if saving is not None and saving > MIN_SAVING and gain.low > -margin:
        text = f"ROUTE: saves {100 * saving:.0f} % at {points} against always using {fixed}."
        return Ruling(Verdict("ROUTE", text, fixed), None)
    might_save = saving is not None and saving > MIN_SAVING and gain.high > -margin
    if gain.high < margin and not might_save:
        never = ": nothing in the log spoke for leaving it" if still and abs(gain.mean) < NO_SPREAD else ""
        text = f"DO NOT ROUTE: always use {fixed}. Routing gives {points}{never}."
        return Ruling(Verdict("DO NOT ROUTE", text, fixed), None)
    if gain.low > 0:
        more = f"{-100 * saving:.0f} % more cost" if saving is not None and saving > -math.inf else "more cost"
        text = f"NOT ENOUGH DATA for a gain at equal cost: {points} over always using {fixed}, but at {more}."
        return Ruling(Verdict("NOT ENOUGH DATA", text, fixed), None)
    needed = rows_needed(held_out, margin)
    wanted = None if needed is None else rounded(needed)
    what = "no number of rows proves a gain of nothing" if wanted is None else f"about {wanted} rows needed"
    text = f"NOT ENOUGH DATA: {what}; so far {points} over always using {fixed}."
    return Ruling(Verdict("NOT ENOUGH DATA", text, fixed), wanted)


def rows_needed(held_out: HeldOut, margin: float) -> int | None:
    """Return the rows that give 80 % power to see max(observed gain, margin), None where that is nothing."""
    error = (held_out.gain.high - held_out.gain.low) / (2 * Z95)
    target = max(held_out.gain.mean, margin)
    if target < MIN_TARGET:
        return None
    return max(int(held_out.n_rows * POWER_FACTOR * (error / target) ** 2), held_out.n_rows + 1)


def rounded(rows: int) -> int:
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
