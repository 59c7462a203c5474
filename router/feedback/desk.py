"""Where decisions are given out to be judged, and feedback on them is handed in."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from router.errors import UnknownDecisionError
from router.feedback.events import NOTHING_ELSE, Details, FeedbackEvent, Outcome, PendingDecision, Vector, Verdict
from router.feedback.signing import DecisionSigner
from router.feedback.store import FeedbackStore, Receipt
from router.types import Decision


@dataclass(frozen=True, slots=True)
class FeedbackDesk:
    """Joins a store and the signer of decision ids. Safe to use from any thread.

    clock: seconds since 1970. only_own: a decision may be judged only with the API key that it was made for; otherwise
    with any, once each.
    """

    store: FeedbackStore
    signer: DecisionSigner
    clock: Callable[[], float] = time.time
    only_own: bool = False

    def give_out(
        self,
        decision: Decision,
        *,
        key_id: str,
        candidates: tuple[str, ...],
        prompt_hash: str,
        prompt: str | None = None,
        user: str | None = None,
        vectors: tuple[Vector, ...] = (),
    ) -> str:
        """Return the id under which a decision can be judged from now on, and remember the decision. Does not wait.

        prompt: only where somebody opted in to keeping its text.

        Raises:
            FeedbackError: the user or the prompt is not as it should be.
        """
        now_s = self.clock()
        decision_id = self.signer.new_id(key_id, now_s)
        self.store.add_pending(
            PendingDecision(
                decision_id=decision_id,
                created_s=now_s,
                expires_s=self.signer.check(decision_id, now_s),
                key_id=key_id,
                artifact_id=decision.artifact_id,
                tier=decision.tier,
                candidates=candidates,
                model=decision.model,
                propensity=decision.propensity,
                prompt_hash=prompt_hash,
                prompt=prompt,
                intent=decision.intent.label if decision.intent else None,
                user=user,
                vectors=vectors,
            )
        )
        return decision_id

    def judge(self, verdict: Verdict, *, judge: str) -> "Future[Receipt]":
        """Hand in a verdict with the API key ``judge``; the future has the receipt once it is on the disk.

        Raises:
            ForgedDecisionError, ExpiredDecisionError: told without looking into the store.
            UnknownDecisionError: the decision is not held, or not any more.
            FeedbackError, StoreError: as Verdict.on and FeedbackStore.add_event, some of them in the future.
        """
        now_s = self.clock()
        self.signer.check(verdict.decision_id, now_s, only_for=judge if self.only_own else None)
        decided = self.store.find_pending(verdict.decision_id)
        if decided is None:
            raise UnknownDecisionError(
                "decision_id: the decision is not held: it was deleted, made room for newer ones, or was never kept"
            )
        return self.store.add_event(verdict.on(decided, judge, now_s))

    def report(
        self,
        prompt: str,
        outcome: Outcome,
        *,
        judge: str,
        details: Details = NOTHING_ELSE,
        vectors: tuple[Vector, ...] = (),
    ) -> "Future[Receipt]":
        """Hand in a battle or a score that belongs to no decision; the future has the receipt once it is on the disk.

        Raises:
            FeedbackError, StoreError: as FeedbackEvent.of_prompt and FeedbackStore.add_event.
        """
        event = FeedbackEvent.of_prompt(
            prompt, outcome, judge=judge, received_s=self.clock(), details=details, vectors=vectors
        )
        return self.store.add_event(event)
