"""One tier, ready to answer: its encoder, its index, and the way from a prompt to a decision."""

import math
import os
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from router.artifact import RouterArtifact
from router.deadline import Deadline
from router.encoder import Encoding
from router.errors import PolicyError
from router.estimate import LocalEstimate, estimate, prior_quality, relative_size, well_tested
from router.index import NO_HITS, Hits, NeighborIndex
from router.policy import REASONS, Choice, Field, choose, field_of
from router.profiles import expected_costs_usd
from router.tier import Tier
from router.types import Decision, Estimate, Intent, Neighbor, Policy

PRIOR = "prior"
# How many neighbours a decision shows; the estimate uses all of them.
SHOWN_NEIGHBORS = 8


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt to be decided. text: as it was asked. core: what of it is embedded. explain: keep the evidence."""

    text: str
    core: str
    policy: Policy
    deadline: Deadline
    explain: bool


class Rung:
    """Decides by one tier of an artifact, and by its priors alone where there is no encoding."""

    def __init__(self, artifact: RouterArtifact, tier: Tier, *, degraded: bool) -> None:
        """Pack the tier's points. degraded: a better tier exists, so that an answer of this one is a lesser one."""
        self.artifact = artifact
        self.tier = tier
        self._degraded = degraded
        self._index = NeighborIndex(tier.vectors)
        self._priced = any(one.cost_usd(0) is not None for one in artifact.profiles.values())
        self._sizes_matter = self._priced and bool((tier.evidence.sizes != 1.0).any())
        self._no_costs_usd = np.full(len(artifact.models), np.nan)
        # As fixed models go, the one that did best on the log comes first, then those of the higher prior; models that
        # were hardly seen come last.
        self._fixed_quality = prior_quality(tier.evidence)
        self._fixed_quality[~well_tested(tier.evidence)] -= 1.0
        best_fixed = artifact.models.index(artifact.best_fixed)
        self._fixed_quality[best_fixed] = np.nextafter(self._fixed_quality.max(), np.inf)

    def encode(self, question: Question) -> Encoding:
        """Encode the prompt here and now."""
        return self.tier.encoder.encode(question.core)

    def decide(self, question: Question, encoding: Encoding | None) -> Decision:
        """Decide by the neighbours of the encoded prompt; without an encoding, by the priors.

        Raises:
            PolicyError: the policy leaves no model.
        """
        artifact, tier, policy = self.artifact, self.tier, question.policy
        evidence, settings = tier.evidence, tier.settings
        hits, blind, unknown_share = NO_HITS, "deadline", 0.0
        if encoding is not None and encoding.unknown_share > settings.max_unknown_share:
            # What is unknown adds nothing to a vector, which then lies where the few known tokens happen to point.
            blind, unknown_share = "unreadable", encoding.unknown_share
        elif encoding is not None:
            point, blind = tier.space.place(encoding.vector, question.core), ""
            hits = self._index.search(point, settings.n_neighbors)
        costs_usd = self._no_costs_usd
        if self._priced:
            size = float(relative_size(hits, evidence, settings)) if self._sizes_matter else 1.0
            costs_usd = expected_costs_usd(artifact.profiles, artifact.models, question.text, size)
        field = field_of(artifact.models, costs_usd, self._fixed_quality, policy)
        local = estimate(hits, evidence, settings, fixed=max(field.fixed, 0))
        choice = choose(
            local,
            field,
            policy,
            verdict=tier.verdict,
            willingness_to_pay_usd=self._willingness_to_pay_usd(policy),
            guard_z=settings.guard_z,
            blind=blind,
        )
        model = artifact.models[choice.column] if choice.column >= 0 else str(policy.fallback)
        estimates = self._estimates(field, local, choice)
        intent = self._intent(hits, local.intent_weights)
        summary = ""
        neighbors: tuple[Neighbor, ...] = ()
        if question.explain:
            summary = _summary(model, choice, estimates, intent, unknown_share)
            neighbors = self._neighbors(hits)
        elapsed_ms = question.deadline.elapsed_ms()
        return Decision(
            model=model,
            reason=choice.reason,
            summary=summary,
            propensity=1.0,
            intent=intent,
            estimates=estimates,
            fallbacks=tuple(one.model for one in estimates if one.model != model),
            excluded=field.excluded,
            neighbors=neighbors,
            tier=PRIOR if encoding is None else tier.name,
            degraded=self._degraded or encoding is None,
            cached=False,
            latency_budget_ms=question.deadline.budget_ms,
            elapsed_ms=elapsed_ms,
            budget_met=elapsed_ms <= question.deadline.budget_ms,
            artifact_id=artifact.id,
            decision_id=new_decision_id(),
        )

    def _willingness_to_pay_usd(self, policy: Policy) -> float | None:
        if policy.willingness_to_pay_usd is not None:
            return policy.willingness_to_pay_usd
        default = self.artifact.default_strategy
        amount = self.tier.strategies[policy.strategy or default]
        if amount is None and default == "quality" and policy.strategy not in (None, "quality"):
            raise PolicyError(f"strategy {policy.strategy} needs every model's cost, and the artifact has no prices")
        return amount

    def _estimates(self, field: Field, local: LocalEstimate, choice: Choice) -> tuple[Estimate, ...]:
        # One conversion per array: taking single numbers out of numpy costs more than the estimate itself.
        rows = list(
            zip(
                self.artifact.models,
                local.quality.tolist(),
                local.low.tolist(),
                local.high.tolist(),
                local.support.tolist(),
                (None if math.isnan(cost) else cost for cost in field.costs_usd.tolist()),
                choice.utility.tolist(),
                local.lead_error.tolist(),
                strict=True,
            )
        )
        return tuple(Estimate(*rows[column]) for column in choice.ranking)

    def _neighbors(self, hits: Hits) -> tuple[Neighbor, ...]:
        artifact = self.artifact
        rows = hits.rows[:SHOWN_NEIGHBORS]
        found = zip(
            rows.tolist(),
            hits.similarities[:SHOWN_NEIGHBORS].tolist(),
            self.tier.evidence.intents[rows].tolist(),
            artifact.won[rows].tolist(),
            strict=True,
        )
        return tuple(
            Neighbor(
                row=row,
                similarity=similarity,
                intent=artifact.intents[intent] if intent >= 0 else None,
                winners=tuple(compress(artifact.models, won)),
                prompt=artifact.prompts[row] if artifact.prompts is not None else None,
            )
            for row, similarity, intent, won in found
        )

    def _intent(self, hits: Hits, weights: NDArray[np.float64]) -> Intent | None:
        if weights.size == 0 or not weights.any():
            return None
        best = int(weights.argmax())
        n_carrying = int(np.count_nonzero(self.tier.evidence.intents.take(hits.rows) == best))
        return Intent(
            label=self.artifact.intents[best],
            confidence=float(weights[best]),
            neighbor_share=n_carrying / len(hits.rows),
        )


def new_decision_id() -> str:
    """Return 128 random bits in hexadecimal."""
    return os.urandom(16).hex()


def _summary(
    model: str, choice: Choice, estimates: tuple[Estimate, ...], intent: Intent | None, unknown_share: float
) -> str:
    """One plain sentence: what was chosen, why, and against whom. unknown_share: 0 unless it kept neighbours away."""
    text = f"{model}: {REASONS[choice.reason]}"
    if unknown_share > 0:
        text += f" (the encoder does not know {100 * unknown_share:.0f} % of the prompt)"
    if choice.reason == "best" and len(estimates) > 1:
        first, second = estimates[0], estimates[1]
        text += f" ({first.quality:.2f} against {second.quality:.2f} for {second.model}"
        if first.quality < second.quality and first.cost_usd is not None and second.cost_usd:
            text += f", at {100 * first.cost_usd / second.cost_usd:.0f} % of its cost"
        text += f"; {first.support:.0f} comparisons nearby)"
    if intent is not None and intent.confidence >= 0.5:
        text += f"; nearby rows are mostly about {intent.label}"
    return f"{text}."
