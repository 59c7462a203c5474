"""router/summary.py: one plain sentence that says what was chosen, why, against whom, and what would flip it."""

import pytest

from router.policy import REASONS
from router.summary import summary_of
from router.types import Estimate, Flip, Intent


def of(model: str, quality: float, cost_usd: float | None = None) -> Estimate:
    return Estimate(model, quality, quality - 0.1, quality + 0.1, 12.4, cost_usd, quality)


BEST, SECOND = of("big", 0.81, 0.02), of("small", 0.74, 0.01)


def said(
    reason: str = "best",
    estimates: tuple[Estimate, ...] = (BEST, SECOND),
    flips: tuple[Flip, ...] = (),
    intent: Intent | None = None,
    unknown_share: float = 0.0,
) -> str:
    return summary_of("big", reason, estimates, flips, intent, unknown_share)


def test_the_best_one_is_set_against_the_second() -> None:
    assert said() == (
        "big: it has the highest expected utility on prompts like this one "
        "(0.81 against 0.74 for small; 12 comparisons nearby)."
    )


def test_a_worse_one_that_is_chosen_is_cheaper_and_says_by_how_much() -> None:
    cheaper = of("big", 0.70, 0.002)
    assert "(0.70 against 0.74 for small, at 20 % of its cost; 12 comparisons nearby)" in said(
        estimates=(cheaper, SECOND)
    )
    unpriced = of("big", 0.70)
    assert "of its cost" not in said(estimates=(unpriced, SECOND))


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_is_one_sentence(reason: str) -> None:
    text = said(reason, estimates=(BEST,))
    assert text == f"big: {REASONS[reason]}."


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ((("willingness_to_pay_usd", 0.05),), "; with willingness_to_pay_usd 0.05 it would be small."),
        ((("strategy", None), ("local_only", False)), "; with local_only false it would be small."),
        ((("max_cost_usd", None),), "; with no max_cost_usd it would be small."),
        ((("candidates", ("big", "small")),), "; with candidates big, small it would be small."),
        ((("exclude", ()),), "; with exclude nothing it would be small."),
        ((("route_anyway", True),), "; with route_anyway true it would be small."),
    ],
)
def test_the_first_flip_is_told_by_the_field_that_matters(changes: tuple[tuple[str, object], ...], wanted: str) -> None:
    later = Flip("other", (("min_gain", 0.0),))
    assert said("guard", flips=(Flip("small", changes), later)).endswith(wanted)


def test_an_intent_is_spoken_of_where_most_neighbors_carry_it() -> None:
    assert "; nearby rows are mostly about code." in said("guard", intent=Intent("code", 0.5, 0.4))
    assert "code" not in said("guard", intent=Intent("code", 0.49, 0.9))


def test_a_prompt_that_cannot_be_read_says_how_much_of_it() -> None:
    assert "(the encoder does not know 67 % of the prompt)" in said("unreadable", unknown_share=0.67)
