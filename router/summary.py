"""A decision in one plain sentence: what was chosen, why, against whom, and what would flip it."""

from collections.abc import Sequence

from router.policy import REASONS
from router.types import Estimate, Flip, Intent

# An intent that fewer of the neighbours carry is not spoken of.
TELLING_CONFIDENCE = 0.5


def summary_of(
    model: str,
    reason: str,
    estimates: Sequence[Estimate],
    flips: Sequence[Flip],
    intent: Intent | None,
    unknown_share: float,
) -> str:
    """Return the sentence. estimates: the chosen model first. unknown_share: 0 unless it kept neighbours away."""
    text = f"{model}: {REASONS[reason]}"
    if unknown_share > 0:
        text += f" (the encoder does not know {100 * unknown_share:.0f} % of the prompt)"
    if reason == "best" and len(estimates) > 1:
        first, second = estimates[0], estimates[1]
        text += f" ({first.quality:.2f} against {second.quality:.2f} for {second.model}"
        if first.quality < second.quality and first.cost_usd is not None and second.cost_usd:
            text += f", at {100 * first.cost_usd / second.cost_usd:.0f} % of its cost"
        text += f"; {first.support:.0f} comparisons nearby)"
    if intent is not None and intent.confidence >= TELLING_CONFIDENCE:
        text += f"; nearby rows are mostly about {intent.label}"
    if flips:
        text += f"; with {_change(flips[0])} it would be {flips[0].model}"
    return f"{text}."


def _change(flip: Flip) -> str:
    """Name the field that matters: of a strategy that is spelt out, the one that comes last."""
    name, value = flip.changes[-1]
    if value is None:
        return f"no {name}"
    shown = ", ".join(value) or "nothing" if isinstance(value, tuple) else str(value).lower()
    return f"{name} {shown}"
