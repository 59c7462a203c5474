"""Router: the only place that knows the order of the stages."""

import math
import os
from collections.abc import Sequence
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.artifact import RouterArtifact, load_artifact
from router.deadline import Deadline, now_ms
from router.errors import PolicyError, PromptError
from router.estimate import LocalEstimate, estimate, prior_quality, relative_size, well_tested
from router.index import NO_HITS, Hits, NeighborIndex
from router.policy import REASONS, Choice, Field, choose, field_of
from router.profiles import expected_costs_usd
from router.prompt import fold_messages
from router.types import Decision, Embedding, Estimate, Intent, JsonObject, Messages, Neighbor, Policy

DEFAULT_LATENCY_BUDGET_MS = 50.0
# How many neighbours a decision shows; the estimate uses all of them.
SHOWN_NEIGHBORS = 8
DEFAULT_POLICY = Policy()
WARM_UP_PROMPTS = ("warm up", "What is the capital of France?", "def add(a, b):\n    return a + b\n" * 50)


class Router:
    """Answers which model should take a prompt, from one loaded artifact."""

    def __init__(self, artifact: RouterArtifact) -> None:
        """Build the index in memory and answer a few warm-up prompts, so that the first request finds warm caches."""
        self.artifact = artifact
        self._index = NeighborIndex(artifact.best.vectors)
        self._knows_sizes = bool((artifact.best.evidence.sizes != 1.0).any())
        # As fixed models go, the one that did best on the log comes first, then those of the higher prior; models that
        # were hardly seen come last.
        self._fixed_quality = prior_quality(artifact.best.evidence)
        self._fixed_quality[~well_tested(artifact.best.evidence)] -= 1.0
        best_fixed = artifact.models.index(artifact.best_fixed)
        self._fixed_quality[best_fixed] = np.nextafter(self._fixed_quality.max(), np.inf)
        for text in WARM_UP_PROMPTS:
            self.route(text)

    @classmethod
    def load(cls, directory: str | Path) -> "Router":
        """Verify and load an artifact directory.

        Raises:
            ArtifactError: a file is missing, altered or foreign; it is named.
            EncoderError: the encoder inside does not work.
        """
        return cls(load_artifact(directory))

    def route(
        self,
        prompt: str | Messages,
        policy: Policy | None = None,
        *,
        latency_budget_ms: float = DEFAULT_LATENCY_BUDGET_MS,
        arrived_ms: float | None = None,
    ) -> Decision:
        """Decide which model should take ``prompt``, a text or a list of chat messages.

        arrived_ms: when the request arrived, on the clock of router.deadline; now when left out.

        Raises:
            PromptError: the prompt is empty or not text, or the messages cannot be read.
            PolicyError: the policy leaves no model.
        """
        deadline = Deadline(now_ms() if arrived_ms is None else arrived_ms, latency_budget_ms)
        artifact, policy = self.artifact, policy or DEFAULT_POLICY
        text = prompt if isinstance(prompt, str) else fold_messages(prompt)
        if not text.strip():
            raise PromptError("the prompt is empty")
        core = artifact.template.strip(text)
        encoding = artifact.best.encoder.encode(core)
        # What is unknown adds nothing to a vector, which then lies where the few known tokens happen to point.
        unreadable = encoding.unknown_share > artifact.best.settings.max_unknown_share
        hits = NO_HITS if unreadable else self._search(encoding.vector, core)
        size = float(relative_size(hits, artifact.best.evidence, artifact.best.settings)) if self._knows_sizes else 1.0
        costs_usd = expected_costs_usd(artifact.profiles, artifact.models, text, size)
        field = field_of(artifact.models, costs_usd, self._fixed_quality, policy)
        local = estimate(hits, artifact.best.evidence, artifact.best.settings, fixed=max(field.fixed, 0))
        choice = choose(
            local,
            field,
            policy,
            verdict=artifact.verdict,
            willingness_to_pay_usd=self._willingness_to_pay_usd(policy),
            guard_z=artifact.best.settings.guard_z,
            unreadable=unreadable,
        )
        unknown_share = encoding.unknown_share if unreadable else 0.0
        return self._decision(deadline, policy, field, hits, local, choice, unknown_share)

    def _search(self, vector: Embedding, core: str) -> Hits:
        return self._index.search(self.artifact.best.space.place(vector, core), self.artifact.best.settings.n_neighbors)

    def _willingness_to_pay_usd(self, policy: Policy) -> float | None:
        if policy.willingness_to_pay_usd is not None:
            return policy.willingness_to_pay_usd
        amount = self.artifact.strategies[policy.strategy or self.artifact.default_strategy]
        unpriced = amount is None and self.artifact.default_strategy == "quality"
        if unpriced and policy.strategy not in (None, "quality"):
            raise PolicyError(f"strategy {policy.strategy} needs every model's cost, and the artifact has no prices")
        return amount

    def route_batch(
        self,
        prompts: Sequence[str | Messages],
        policy: Policy | None = None,
        *,
        latency_budget_ms: float = DEFAULT_LATENCY_BUDGET_MS,
    ) -> list[Decision]:
        """Route prompts one after the other, in order; each has its own budget."""
        return [self.route(one, policy, latency_budget_ms=latency_budget_ms) for one in prompts]

    def describe(self) -> JsonObject:
        """Return what the artifact is and what it promises, JSON-able and without prompts."""
        artifact = self.artifact
        return {
            "artifact_id": artifact.id,
            "models": list(artifact.models),
            "best_fixed": artifact.best_fixed,
            "strategies": dict(artifact.strategies),
            "default_strategy": artifact.default_strategy,
            "verdict": {"label": artifact.verdict.label, "text": artifact.verdict.text},
            "kind": artifact.best.evidence.kind,
            "n_rows": artifact.n_rows,
            "intents": list(artifact.intents),
            "intents_from": artifact.intents_from,
            "encoder": {
                "name": artifact.best.encoder.settings.name,
                "tier": artifact.best.encoder.settings.tier,
                "dim": artifact.best.encoder.settings.dim,
                "id": artifact.best.encoder.id,
            },
            "prompts_stored": artifact.prompts is not None,
            "report": artifact.report,
        }

    def _decision(
        self,
        deadline: Deadline,
        policy: Policy,
        field: Field,
        hits: Hits,
        local: LocalEstimate,
        choice: Choice,
        unknown_share: float,
    ) -> Decision:
        artifact = self.artifact
        estimates = self._estimates(field, local, choice)
        intent = self._intent(hits, local.intent_weights)
        model = artifact.models[choice.column] if choice.column >= 0 else str(policy.fallback)
        elapsed_ms = deadline.elapsed_ms()
        return Decision(
            model=model,
            reason=choice.reason,
            summary=_summary(model, choice, estimates, intent, unknown_share),
            propensity=1.0,
            intent=intent,
            estimates=estimates,
            fallbacks=tuple(one.model for one in estimates if one.model != model),
            excluded=field.excluded,
            neighbors=self._neighbors(hits),
            tier=artifact.best.encoder.settings.tier,
            degraded=False,
            latency_budget_ms=deadline.budget_ms,
            elapsed_ms=elapsed_ms,
            budget_met=elapsed_ms <= deadline.budget_ms,
            artifact_id=artifact.id,
            decision_id=os.urandom(16).hex(),
        )

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
            artifact.best.evidence.intents[rows].tolist(),
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
        best = int(np.argmax(weights))
        n_carrying = int(np.count_nonzero(self.artifact.best.evidence.intents[hits.rows] == best))
        return Intent(
            label=self.artifact.intents[best],
            confidence=float(weights[best]),
            neighbor_share=n_carrying / len(hits.rows),
        )


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
