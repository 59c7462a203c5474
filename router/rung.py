"""One tier, ready to answer: its encoder, its index, and the way from a prompt to a decision."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.artifact import RouterArtifact
from router.catalogue import Catalogue
from router.constraints import MAX_KEPT_NAMES, Offers, exclusions, offers_of
from router.deadline import Deadline, now_ms
from router.encoder import Encoding
from router.errors import PolicyError
from router.estimate import (
    LocalEstimate,
    estimate,
    intent_shares,
    neighbor_weights,
    prior_quality,
    relative_size,
    well_tested,
)
from router.features import surface_features_of
from router.flips import Decided, flips_of
from router.index import NO_HITS, Hits, NeighborIndex
from router.policy import FAST_WAIT_MS, Circumstances, Field, TradeOff, choose, field_of
from router.summary import summary_of
from router.tier import Tier
from router.types import (
    TRADE_OFFS,
    UNKNOWN_INTENT,
    Decision,
    Estimate,
    Exclusion,
    Flip,
    Intent,
    Needs,
    Neighbor,
    Policy,
    Seen,
)

PRIOR = "prior"
# How many neighbours a decision shows; the estimate uses all of them.
SHOWN_NEIGHBORS = 8
# Length of the input that stands for a training row's, as a request of a few sentences has it.
ROW_TOKENS = 200
# What is worked out for so many policies is kept; beyond, it is begun anew.
MAX_KEPT_ASKS = 64


@dataclass(slots=True, eq=False)
class Question:
    """One prompt to be decided. text: as it was asked. core: what of it is embedded. explain: keep the evidence.

    by_intent: policies that take the place of ``policy`` where the intent is read from the neighbours. session: its
    name, and held: the model that it is with. features: of the core, float64 (N_FEATURES,), kept by the first tier
    that reads them.
    """

    text: str
    core: str
    policy: Policy
    deadline: Deadline
    explain: bool
    needs: Needs
    by_intent: Mapping[str, Policy] = dataclass_field(default_factory=dict)
    session: str | None = None
    held: str | None = None
    features: NDArray[np.float64] | None = None


def read_features(questions: Sequence[Question]) -> NDArray[np.float64]:
    """Return the surface features of all: float64 (n, N_FEATURES); what was read before is not read again."""
    unread = [one for one in questions if one.features is None]
    if unread:
        for one, own in zip(unread, surface_features_of([one.core for one in unread]), strict=True):
            one.features = own
    return np.array([one.features for one in questions])


@dataclass(frozen=True, slots=True, eq=False)
class _Ask:
    """What a request allows and wants, and the models left."""

    offers: Offers
    trade_off: TradeOff
    field: Field


Outcome = Decision | PolicyError
"""What comes of a question; an error is a value where many are decided together."""


def settled(outcome: Outcome) -> Decision:
    """Return the decision, or raise the error."""
    if isinstance(outcome, PolicyError):
        raise outcome
    return outcome


class Rung:
    """Decides by one tier of an artifact, and by its priors alone where there is no encoding."""

    def __init__(self, artifact: RouterArtifact, tier: Tier, catalogue: Catalogue, *, degraded: bool) -> None:
        """Pack the tier's points. degraded: a better tier exists, so that an answer of this one is a lesser one."""
        self.artifact = artifact
        self.tier = tier
        self.catalogue = catalogue
        self._degraded = degraded
        self._encoder_id = tier.encoder.id
        self._index = NeighborIndex(tier.vectors)
        self._sizes_vary = bool((tier.evidence.sizes != 1.0).any())
        self._asks: dict[tuple[Catalogue, Policy, tuple[str, ...], bool], _Ask] = {}
        self._columns = {name: column for column, name in enumerate(artifact.models)}
        self._prior = estimate(NO_HITS, tier.evidence, tier.settings, fixed=0)  # the same whoever is the fixed model
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
        seeing = [place for place, why in enumerate(blind) if not why]
        return self._decide_by(questions, encodings, blind, seeing, self._search(questions, encodings, seeing))

    def decide_rows(self, rows: NDArray[np.int64], policy: Policy) -> list[Outcome]:
        """Decide training rows again, each by the others: what is to be expected of prompts like those of the log.

        rows: int64 (n,). Their texts need not be stored, so that an input of ROW_TOKENS stands for each.
        """
        needs, deadline = Needs(ROW_TOKENS), Deadline(now_ms(), math.inf)
        questions = [Question("", "", policy, deadline, False, needs) for _ in rows]
        seeing: Sequence[int] = ()
        apart = NO_HITS
        if len(self._index) > 1 and len(rows) > 0:
            vectors = self.tier.vectors[rows].astype(np.float32)
            found = self._index.search_many(vectors, self.tier.settings.n_neighbors + 1)
            others = found.rows != rows[:, None]
            others[others.all(axis=1), -1] = False  # as near as its copies, it may not be among them itself
            shape = (len(rows), -1)
            apart = Hits(found.rows[others].reshape(shape), found.similarities[others].reshape(shape))
            seeing = range(len(rows))
        read = Encoding(np.zeros(0, dtype=np.float32), 0, 0.0)
        return self._decide_by(questions, [read] * len(rows), [""] * len(rows), seeing, apart)

    def _decide_by(
        self,
        questions: Sequence[Question],
        encodings: Sequence[Encoding | None],
        blind: Sequence[str],
        seeing: Sequence[int],
        found: Hits,
    ) -> list[Outcome]:
        """Decide by what was found of the prompts at the places ``seeing``, and of the others by the priors."""
        hits = [NO_HITS] * len(questions)
        for nth, place in enumerate(seeing):
            hits[place] = found.of(nth)
        asks = [self._ask(question, own) for question, own in zip(questions, hits, strict=True)]
        estimates = self._estimate(found, seeing, asks)
        together = zip(questions, encodings, blind, hits, asks, estimates, strict=True)
        return [
            ask if isinstance(ask, PolicyError) else self._decision(question, encoding, why, own, ask, local)
            for question, encoding, why, own, ask, local in together
        ]

    def _blind(self, encoding: Encoding | None) -> str:
        """Return why the neighbours of a prompt are not asked; empty where they are."""
        if encoding is None:
            return "deadline"
        # What is unknown adds nothing to a vector, which then lies where the few known tokens happen to point.
        return "unreadable" if encoding.unknown_share > self.tier.settings.max_unknown_share else ""

    def _search(
        self, questions: Sequence[Question], encodings: Sequence[Encoding | None], seeing: Sequence[int]
    ) -> Hits:
        """Return the nearest rows of the prompts at these places, whose neighbours are asked."""
        vectors = [one.vector for place in seeing if (one := encodings[place]) is not None]
        if not vectors:
            return NO_HITS
        features = read_features([questions[place] for place in seeing])
        points = self.tier.space.place_all(np.array(vectors), features)
        return self._index.search_many(points, self.tier.settings.n_neighbors)

    def _estimate(
        self, found: Hits, seeing: Sequence[int], asks: "Sequence[_Ask | PolicyError]"
    ) -> list[LocalEstimate]:
        """Return every prompt's estimates: of those that see neighbours, all at once, and the prior's of the rest."""
        local = [self._prior] * len(asks)
        fixed = [0 if isinstance(one, PolicyError) else max(one.field.fixed, 0) for one in asks]
        if len(seeing) == 1:
            (place,) = seeing
            local[place] = estimate(found.of(0), self.tier.evidence, self.tier.settings, fixed=fixed[place])
        elif seeing:
            columns = [fixed[place] for place in seeing]
            # One for all is looked up in less time.
            same = columns[0] if len(set(columns)) == 1 else np.array(columns)
            many = estimate(found, self.tier.evidence, self.tier.settings, fixed=same)
            for nth, place in enumerate(seeing):
                local[place] = many.of(nth)
        return local

    def _ask(self, question: Question, hits: Hits) -> "_Ask | PolicyError":
        """Return what the request allows and wants, or the error that it allows no model."""
        catalogue, tier, needs = self.catalogue, self.tier, question.needs
        policy = question.policy
        if question.by_intent:
            policy = question.by_intent.get(self._label(hits) or UNKNOWN_INTENT, policy)
        try:
            if not catalogue.sees_length:
                return self._lasting_ask(catalogue, policy, needs)
            size = float(relative_size(hits, tier.evidence, tier.settings)) if self._sizes_vary else 1.0
            return self._new_ask(catalogue, policy, needs, size)
        except PolicyError as exc:
            return exc

    def _lasting_ask(self, catalogue: Catalogue, policy: Policy, needs: Needs) -> "_Ask":
        """Return what is the same for all prompts, where no length of theirs means anything; raises as ``field_of``."""
        key = catalogue, policy, needs.capabilities, needs.tool_call_open
        known = self._asks.get(key)
        if known is None:
            known = self._new_ask(catalogue, policy, replace(needs, input_tokens=0), 1.0)
            if policy.n_names <= MAX_KEPT_NAMES:
                if len(self._asks) >= MAX_KEPT_ASKS:
                    self._asks.clear()
                self._asks[key] = known
        return known

    def _new_ask(self, catalogue: Catalogue, policy: Policy, needs: Needs, size: float) -> "_Ask":
        offers = offers_of(catalogue, policy, needs, size)
        trade_off = self._trade_off(policy)
        return _Ask(offers, trade_off, field_of(offers, trade_off, self._fixed_quality))

    def _label(self, hits: Hits) -> str | None:
        """Return the intent that the neighbours have, the same as the decision will say."""
        evidence, settings = self.tier.evidence, self.tier.settings
        intents = evidence.intents.take(hits.rows)
        weights = intent_shares(
            neighbor_weights(hits.similarities, settings),
            intents,
            len(evidence.intent_priors),
            settings.intent_shrinkage,
        )
        intent = self._intent(hits, weights)
        return None if intent is None else intent.label

    def _decision(
        self,
        question: Question,
        encoding: Encoding | None,
        blind: str,
        hits: Hits,
        ask: "_Ask",
        local: LocalEstimate,
    ) -> Decision:
        tier, offers, field = self.tier, ask.offers, ask.field
        policy, decision_id = offers.policy, new_decision_id()
        around = Circumstances(
            routes=tier.verdict.routes,
            guard_z=tier.settings.guard_z,
            blind=blind,
            held=-1 if question.held is None else self._columns.get(question.held, -1),
            roll=_roll(decision_id) if policy.explore_share > 0 else 1.0,
        )
        choice = choose(local, field, policy, around, tool_call_open=question.needs.tool_call_open)
        names = self.artifact.models
        model = names[choice.column] if choice.column >= 0 else str(policy.fallback)
        # The estimates of those not chosen, neighbours and summary take a third of the time that deciding takes.
        columns = choice.ranking if question.explain else choice.ranking[:1]
        estimates = self._estimates(offers, field, local, choice.utility, columns)
        intent = self._intent(hits, local.intent_weights)
        summary = ""
        neighbors: tuple[Neighbor, ...] = ()
        excluded: tuple[Exclusion, ...] = ()
        flips: tuple[Flip, ...] = ()
        if question.explain:
            estimate_for = partial(self._estimate_for, hits)
            flips = flips_of(
                Decided(offers, ask.trade_off, self._fixed_quality, field, around, local, choice, estimate_for)
            )
            excluded = exclusions(offers)
            unknown_share = encoding.unknown_share if encoding is not None and blind else 0.0
            summary = summary_of(model, choice.reason, estimates, flips, intent, unknown_share)
            neighbors = self._neighbors(hits)
        elapsed_ms = question.deadline.elapsed_ms()
        return Decision(
            model=model,
            reason=choice.reason,
            summary=summary,
            propensity=choice.propensity,
            intent=intent,
            estimates=estimates,
            fallbacks=tuple([names[column] for column in choice.ranking[1:]]),
            excluded=excluded,
            neighbors=neighbors,
            tier=PRIOR if encoding is None else tier.name,
            degraded=self._degraded or encoding is None,
            cached=False,
            latency_budget_ms=question.deadline.budget_ms,
            elapsed_ms=elapsed_ms,
            budget_met=elapsed_ms <= question.deadline.budget_ms,
            artifact_id=self.artifact.id,
            decision_id=decision_id,
            endpoint=estimates[0].endpoint if estimates else None,
            gateway_model=_gateway_model(offers.catalogue, self._columns.get(model)),
            policy=policy.name,
            session=_session_state(
                question, model, keeps=choice.column >= 0 and not blind and choice.reason != "explore"
            ),
            flips=flips,
            seen=None if encoding is None else Seen({self._encoder_id: encoding.vector}, question.features),
            nearest=float(hits.similarities[0]) if len(hits.similarities) else None,
        )

    def _estimate_for(self, hits: Hits, fixed: int) -> LocalEstimate:
        """Return the estimates with another fixed model."""
        if hits is NO_HITS:
            return self._prior
        return estimate(hits, self.tier.evidence, self.tier.settings, fixed=fixed)

    def _trade_off(self, policy: Policy) -> TradeOff:
        """Return what quality is worth to a policy.

        Raises:
            PolicyError: the strategy needs prices, and there are none.
        """
        if policy.willingness_to_pay_usd is not None or policy.willingness_to_wait_ms is not None:
            return TradeOff(policy.willingness_to_pay_usd, policy.willingness_to_wait_ms)
        if policy.strategy == "fast":
            return TradeOff(None, FAST_WAIT_MS)
        default = self.artifact.default_strategy
        strategy = policy.strategy if policy.strategy in TRADE_OFFS else default
        amount = self.tier.strategies[strategy]
        if amount is None and default == "quality" and strategy != "quality":
            raise PolicyError(f"strategy {strategy} needs every model's cost, and the artifact has no prices")
        return TradeOff(amount)

    def _estimates(
        self,
        offers: Offers,
        field: Field,
        local: LocalEstimate,
        utility: NDArray[np.float64],
        columns: Sequence[int],
    ) -> tuple[Estimate, ...]:
        """Return the estimates of these models, in this order."""
        values: tuple[NDArray[Any], ...] = (
            *(local.quality, local.low, local.high, local.support, field.costs_usd, utility, local.lead_error),
            *(field.latencies_ms, field.cost_penalties, field.latency_penalties, field.endpoints),
        )
        if len(columns) == 1:
            (column,) = columns
            return (self._estimate_of(offers, column, *[one.item(column) for one in values]),)
        # Of all models at once: taking single numbers out of numpy costs more than the estimate itself.
        places = np.array(columns, dtype=np.int64)
        rows = zip(columns, *(one.take(places).tolist() for one in values), strict=True)
        return tuple(self._estimate_of(offers, *row) for row in rows)

    def _estimate_of(
        self,
        offers: Offers,
        column: int,
        quality: float,
        low: float,
        high: float,
        support: float,
        cost: float,
        worth: float,
        error: float,
        latency: float,
        cost_penalty: float,
        latency_penalty: float,
        place: int,
    ) -> Estimate:
        return Estimate(
            self.artifact.models[column],
            *(quality, low, high, support),
            None if math.isnan(cost) else cost,
            *(worth, error),
            None if math.isnan(latency) else latency,
            *(cost_penalty, latency_penalty),
            offers.catalogue.endpoints[column][place].name or None,
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
                prompt=artifact.prompts[row] or None if artifact.prompts is not None else None,
            )
            for row, similarity, intent, won in found
        )

    def _intent(self, hits: Hits, weights: NDArray[np.float64]) -> Intent | None:
        if weights.size == 0:
            return None
        best = int(weights.argmax())
        confidence = weights.item(best)
        if confidence == 0:
            return None
        n_carrying = int(np.count_nonzero(self.tier.evidence.intents.take(hits.rows) == best))
        return Intent(
            label=self.artifact.intents[best],
            confidence=confidence,
            neighbor_share=n_carrying / len(hits.rows),
        )


def new_decision_id() -> str:
    """Return 128 random bits in hexadecimal."""
    return os.urandom(16).hex()


def _roll(decision_id: str) -> float:
    """Return a number drawn evenly from 0..1: of the decision's own random bits, so that it can be checked later."""
    return int(decision_id[:13], 16) / 16**13


def _gateway_model(catalogue: Catalogue, column: int | None) -> str | None:
    """Return what the gateway calls a model; a fallback may be one that nothing is known of."""
    return None if column is None else catalogue.profiles[column].gateway_model


def _session_state(question: Question, model: str, *, keeps: bool) -> str | None:
    """Return whether a session is new, has kept its model or has switched to this one.

    None without a session, and where it goes on as it was. keeps: the session is with the model from now on; neither
    the priors, which know nothing of the prompt, nor a draw or a fallback is a reason for that.
    """
    if question.session is None:
        return None
    if model == question.held:
        return "kept"
    if not keeps:
        return None
    return "new" if question.held is None else "switched"
