"""One tier, ready to answer: its encoder, its index, and the way from a prompt to a decision."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from router.artifact import RouterArtifact
from router.deadline import Deadline
from router.encoder import Encoding
from router.errors import PolicyError
from router.estimate import LocalEstimate, estimate, prior_quality, relative_size, well_tested
from router.features import surface_features_of
from router.index import NO_HITS, Hits, NeighborIndex
from router.policy import REASONS, Choice, Field, choose, field_of
from router.profiles import expected_costs_usd
from router.tier import Tier
from router.types import Decision, Estimate, Intent, Neighbor, Policy

PRIOR = "prior"
# How many neighbours a decision shows; the estimate uses all of them.
SHOWN_NEIGHBORS = 8


@dataclass(slots=True, eq=False)
class Question:
    """One prompt to be decided. text: as it was asked. core: what of it is embedded. explain: keep the evidence.

    features: of the core, float64 (N_FEATURES,), kept by the first tier that reads them.
    """

    text: str
    core: str
    policy: Policy
    deadline: Deadline
    explain: bool
    features: NDArray[np.float64] | None = None


def read_features(questions: Sequence[Question]) -> NDArray[np.float64]:
    """Return the surface features of all: float64 (n, N_FEATURES); what was read before is not read again."""
    unread = [one for one in questions if one.features is None]
    if unread:
        for one, own in zip(unread, surface_features_of([one.core for one in unread]), strict=True):
            one.features = own
    return np.stack([one.features for one in questions if one.features is not None])


Outcome = Decision | PolicyError
"""What comes of a question; an error is a value where many are decided together."""


def settled(outcome: Outcome) -> Decision:
    """Return the decision, or raise the error."""
    if isinstance(outcome, PolicyError):
        raise outcome
    return outcome


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
        self._prior = estimate(NO_HITS, tier.evidence, tier.settings, fixed=0)  # the same whoever is the fixed model
        self._no_costs_usd = np.full(len(artifact.models), np.nan)
        # As fixed models go, the one that did best on the log comes first, then those of the higher prior; models that
        # were hardly seen come last.
        self._fixed_quality = prior_quality(tier.evidence)
        self._fixed_quality[~well_tested(tier.evidence)] -= 1.0
        best_fixed = artifact.models.index(artifact.best_fixed)
        self._fixed_quality[best_fixed] = np.nextafter(self._fixed_quality.max(), np.inf)

    def encode_all(self, questions: Sequence[Question]) -> list[Encoding]:
        """Encode prompts here and now, one by one, but stage by stage: each stage finds its own code in the caches."""
        encoder = self.tier.encoder
        return [encoder.encode_ids(ids) for ids in [encoder.token_ids(one.core) for one in questions]]

    def decide(self, question: Question, encoding: Encoding | None) -> Decision:
        """Decide by the neighbours of the encoded prompt; without an encoding, by the priors.

        Raises:
            PolicyError: the policy leaves no model.
        """
        return settled(self.decide_all([question], [encoding])[0])

    def decide_all(self, questions: Sequence[Question], encodings: Sequence[Encoding | None]) -> list[Outcome]:
        """Decide many prompts stage by stage, each exactly as if it were alone, in half the time of one by one."""
        blind = [self._blind(one) for one in encodings]
        hits = self._search(questions, encodings, blind)
        fields = [self._field(question, own) for question, own in zip(questions, hits, strict=True)]
        together = zip(questions, encodings, blind, hits, fields, self._estimate(hits, fields), strict=True)
        return [
            field if isinstance(field, PolicyError) else self._decision(question, encoding, why, own, field, local)
            for question, encoding, why, own, field, local in together
        ]

    def _blind(self, encoding: Encoding | None) -> str:
        """Return why the neighbours of a prompt are not asked; empty where they are."""
        if encoding is None:
            return "deadline"
        # What is unknown adds nothing to a vector, which then lies where the few known tokens happen to point.
        return "unreadable" if encoding.unknown_share > self.tier.settings.max_unknown_share else ""

    def _search(
        self, questions: Sequence[Question], encodings: Sequence[Encoding | None], blind: Sequence[str]
    ) -> list[Hits]:
        """Return every prompt's nearest rows, none where the neighbours are not asked."""
        hits = [NO_HITS] * len(questions)
        seeing = {
            place: (question, encoding.vector)
            for place, (question, encoding, why) in enumerate(zip(questions, encodings, blind, strict=True))
            if encoding is not None and not why
        }
        if seeing:
            asked, vectors = zip(*seeing.values(), strict=True)
            points = self.tier.space.place_all(np.stack(vectors), read_features(asked))
            found = self._index.search_many(points, self.tier.settings.n_neighbors)
            for nth, place in enumerate(seeing):
                hits[place] = found.of(nth)
        return hits

    def _estimate(self, hits: Sequence[Hits], fields: Sequence[Field | PolicyError]) -> list[LocalEstimate]:
        """Return every prompt's estimates: of those with neighbours, all of which have as many, at once."""
        evidence, settings = self.tier.evidence, self.tier.settings
        fixed = [0 if isinstance(one, PolicyError) else max(one.fixed, 0) for one in fields]
        seeing = [place for place, own in enumerate(hits) if own is not NO_HITS]
        if len(seeing) < 2:
            return [
                self._prior if own is NO_HITS else estimate(own, evidence, settings, fixed=column)
                for own, column in zip(hits, fixed, strict=True)
            ]
        many = Hits(
            np.stack([hits[place].rows for place in seeing]), np.stack([hits[place].similarities for place in seeing])
        )
        local = estimate(many, evidence, settings, fixed=np.array([fixed[place] for place in seeing]))
        by_place = {place: local.of(nth) for nth, place in enumerate(seeing)}
        return [by_place.get(place, self._prior) for place in range(len(hits))]

    def _field(self, question: Question, hits: Hits) -> Field | PolicyError:
        """Return which models the request allows, or the error that it allows none."""
        artifact, tier = self.artifact, self.tier
        costs_usd = self._no_costs_usd
        if self._priced:
            size = float(relative_size(hits, tier.evidence, tier.settings)) if self._sizes_matter else 1.0
            costs_usd = expected_costs_usd(artifact.profiles, artifact.models, question.text, size)
        try:
            self._willingness_to_pay_usd(question.policy)
            return field_of(artifact.models, costs_usd, self._fixed_quality, question.policy)
        except PolicyError as exc:
            return exc

    def _decision(
        self,
        question: Question,
        encoding: Encoding | None,
        blind: str,
        hits: Hits,
        field: Field,
        local: LocalEstimate,
    ) -> Decision:
        tier, policy = self.tier, question.policy
        choice = choose(
            local,
            field,
            policy,
            verdict=tier.verdict,
            willingness_to_pay_usd=self._willingness_to_pay_usd(policy),
            guard_z=tier.settings.guard_z,
            blind=blind,
        )
        names = self.artifact.models
        model = names[choice.column] if choice.column >= 0 else str(policy.fallback)
        # The estimates of those not chosen, neighbours and summary take a third of the time that deciding takes.
        estimates = self._estimates(
            field, local, choice.utility, choice.ranking if question.explain else choice.ranking[:1]
        )
        intent = self._intent(hits, local.intent_weights)
        summary = ""
        neighbors: tuple[Neighbor, ...] = ()
        if question.explain:
            unknown_share = encoding.unknown_share if encoding is not None and blind else 0.0
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
            fallbacks=tuple(names[column] for column in choice.ranking if column != choice.column),
            excluded=field.excluded,
            neighbors=neighbors,
            tier=PRIOR if encoding is None else tier.name,
            degraded=self._degraded or encoding is None,
            cached=False,
            latency_budget_ms=question.deadline.budget_ms,
            elapsed_ms=elapsed_ms,
            budget_met=elapsed_ms <= question.deadline.budget_ms,
            artifact_id=self.artifact.id,
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

    def _estimates(
        self, field: Field, local: LocalEstimate, utility: NDArray[np.float64], columns: Sequence[int]
    ) -> tuple[Estimate, ...]:
        """Return the estimates of these models, in this order."""
        arrays = (local.quality, local.low, local.high, local.support, field.costs_usd, utility, local.lead_error)
        # Of all models at once: taking single numbers out of numpy costs more than the estimate itself.
        rows = zip(*(one.take(columns).tolist() for one in arrays), strict=True)
        names = self.artifact.models
        return tuple(
            Estimate(names[column], quality, low, high, support, None if math.isnan(cost) else cost, worth, error)
            for column, (quality, low, high, support, cost, worth, error) in zip(columns, rows, strict=True)
        )

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
