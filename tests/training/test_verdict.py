"""training/verdict.py: the table of cases."""

import re
from dataclasses import replace

import pytest

from router.types import Gain
from training.verdict import HeldOut, gain_of, judge, rows_needed, rule


def held_out(
    low: float, high: float, cost: float | None = None, effective: float | None = None, fixed_cost: float = 1.0
) -> HeldOut:
    """A gain in points with its interval, and the router's cost beside a fixed model that costs 1."""
    gain = Gain((low + high) / 200, low / 100, high / 100)
    return HeldOut("best", gain, cost, None if cost is None else fixed_cost, 1000, effective)


@pytest.mark.parametrize(
    ("case", "label", "says"),
    [
        (held_out(0.1, 4), "ROUTE", "+2.0 points"),
        (held_out(0.1, 4, cost=1.0), "ROUTE", "+2.0 points"),
        (held_out(0.1, 4, cost=0.5), "ROUTE", "50 % lower cost"),
        (held_out(0.1, 0.5), "ROUTE", "+0.3 points"),
        (held_out(-0.9, 0.5, cost=0.9), "ROUTE", "saves 10 %"),
        (held_out(-0.9, 3, cost=0.9), "ROUTE", "saves 10 %"),
        (held_out(-0.1, 4), "NOT ENOUGH DATA", "rows needed"),
        (held_out(-3, 4), "NOT ENOUGH DATA", "rows needed"),
        (held_out(-3, 4, cost=0.5), "NOT ENOUGH DATA", "rows needed"),
        (held_out(-1.5, 0.9, cost=0.5), "NOT ENOUGH DATA", "rows needed"),
        (held_out(-0.9, 0.9), "DO NOT ROUTE", "always use best"),
        (held_out(-5, -2), "DO NOT ROUTE", "always use best"),
        (held_out(-0.9, 0.9, cost=0.96), "DO NOT ROUTE", "always use best"),
        (held_out(-0.9, 0.9, cost=1.5), "DO NOT ROUTE", "always use best"),
        (held_out(-12, -8, cost=0.1), "DO NOT ROUTE", "always use best"),
        (held_out(0.1, 4, cost=1.2), "NOT ENOUGH DATA", "20 % more cost"),
        (held_out(0.1, 4, cost=1.2, fixed_cost=0.0), "NOT ENOUGH DATA", "more cost"),
        (held_out(0.1, 4, effective=199), "NOT ENOUGH DATA", "199 effective comparisons"),
        (held_out(-0.9, 0.9, effective=10), "NOT ENOUGH DATA", "20000 rows"),
        (held_out(0.1, 4, effective=0), "NOT ENOUGH DATA", "rows needed"),
        (held_out(0.1, 4, effective=200), "ROUTE", "+2.0 points"),
    ],
)
def test_cases(case: HeldOut, label: str, says: str) -> None:
    verdict = judge(case)
    assert (verdict.label, verdict.best_fixed, verdict.routes) == (label, "best", label == "ROUTE")
    assert verdict.text.startswith(label) and says in verdict.text and "\n" not in verdict.text


def test_the_margin_is_settable() -> None:
    assert judge(held_out(-2, 2)).label == "NOT ENOUGH DATA"
    assert judge(held_out(-2, 2), margin=0.03).label == "DO NOT ROUTE"
    assert judge(held_out(-2, 2, cost=0.9), margin=0.03).label == "ROUTE"


def test_rows_needed_for_eighty_percent_power() -> None:
    # Standard error 2 points at 1,000 rows; to see 3 points at 80 % power it must be 3 / 2.80.
    case = HeldOut("best", gain_of(0.03, 0.02), None, None, 1000, None)
    assert rows_needed(case, 0.01) == pytest.approx(1000 * (2 * 2.8016 / 3) ** 2, rel=1e-3)
    assert rows_needed(HeldOut("best", gain_of(-0.03, 0.02), None, None, 1000, None), 0.01) == pytest.approx(
        31395, rel=1e-3
    )
    named = re.search(r"about (\d+) rows", judge(case).text)
    assert named is not None and 3488 <= int(named[1]) <= 3600 and int(named[1]) % 100 == 0


@pytest.mark.parametrize(
    ("case", "asks"),
    [
        (held_out(-3, 4), True),
        (held_out(-3, 4, cost=0.5), True),
        (held_out(0.1, 4, effective=199), True),
        (held_out(-0.9, 0.9, effective=10), True),
        (held_out(0.1, 4, cost=1.2), False),
        (held_out(0.1, 4), False),
        (held_out(-0.9, 0.5, cost=0.9), False),
        (held_out(-0.9, 0.9), False),
    ],
)
def test_the_number_of_the_text_stands_beside_it(case: HeldOut, asks: bool) -> None:
    ruling = rule(case)
    named = re.search(r"about (\d+) rows", ruling.verdict.text)
    assert ruling.verdict == judge(case) and (named is not None) == asks
    assert ruling.rows_needed == (int(named[1]) if named else None)


def test_a_margin_of_nothing_names_no_number() -> None:
    """At a margin of 0 no number of rows shows a gain that was not observed."""
    ruling = rule(held_out(-3, 2), margin=0.0)
    assert ruling.verdict.label == "NOT ENOUGH DATA" and ruling.rows_needed is None
    assert rule(held_out(-2, 3), margin=0.0).rows_needed is not None


def test_more_rows_are_asked_for_than_there_are() -> None:
    case = HeldOut("best", gain_of(0.021, 0.0108), None, None, 1000, None)
    needed = rows_needed(case, 0.01)
    assert judge(case).label == "NOT ENOUGH DATA" and needed is not None and needed > 1000


def test_an_interval_of_no_width_from_a_handful_of_rows_is_not_trusted() -> None:
    """Three rows that agree have a standard error of zero, and prove nothing."""
    assert judge(HeldOut("best", gain_of(0.5, 0.0), None, None, 3, None)).label == "NOT ENOUGH DATA"


def test_a_router_that_never_left_the_fixed_model_on_few_rows_proves_nothing() -> None:
    few = judge(replace(held_out(0.0, 0.0), n_rows=60))
    assert few.label == "NOT ENOUGH DATA" and "60 effective comparisons" in few.text
    many = judge(replace(held_out(0.0, 0.0), n_rows=1000))
    assert many.label == "DO NOT ROUTE" and "nothing in the log spoke for leaving it" in many.text


def test_rows_that_agree_up_to_rounding_are_no_proof() -> None:
    assert judge(replace(held_out(2.0, 2.0 + 1e-14), n_rows=24)).label == "NOT ENOUGH DATA"


def test_a_steady_loss_is_not_called_staying() -> None:
    verdict = judge(replace(held_out(-2.0, -2.0), n_rows=1000))
    assert verdict.label == "DO NOT ROUTE" and "spoke for leaving" not in verdict.text
