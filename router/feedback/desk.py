"""Where decisions are given out to be judged, and feedback on them is handed in."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from router.feedback.events import (
    NOTHING_ELSE,
    Details,
    FeedbackEvent,
    Outcome,
    PendingDecision,
    Surface,
    Vector,
    Verdict,
)
from router.feedback.signing import NONCE_BYTES, DecisionSigner
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

    def new_id(self, decision: Decision, key_id: str) -> str:
        """Return the id under which a decision will be judged once it is given out.

        It begins with the random bits of the decision's own, from which exploration was drawn.
        """
        return self.signer.new_id(key_id, self.clock(), _nonce_of(decision.decision_id))

    def give_out(
        self,
        decision: Decision,
        *,
        key_id: str,
        decision_id: str | None = None,
        candidates: tuple[str, ...],
        prompt_hash: str,
        prompt: str | None = None,
        user: str | None = None,
        vectors: tuple[Vector, ...] = (),
        surface: Surface | None = None,
    ) -> str:
        """Return the id under which a decision can be judged from now on, and remember the decision. Does not wait.

        decision_id: as ``new_id`` gave it for this key; a new one is made where it is left out. prompt: only where
        somebody opted in to keeping its text.

        Raises:
            FeedbackError: the user or the prompt is not as it should be.
        """
        now_s = self.clock()
        decision_id = decision_id or self.new_id(decision, key_id)
        chosen = decision.estimate(decision.model)
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
                surface=surface,
                quality=None if chosen is None else min(max(chosen.quality, 0.0), 1.0),
            )
        )
        return decision_id

    def judge(self, verdict: Verdict, *, judge: str) -> "Future[Receipt]":
        """Hand in a verdict with the API key ``judge``; the future has the receipt once it is on the disk.

        Raises:
            ForgedDecisionError, ExpiredDecisionError: told without looking into the store.
            FeedbackError, StoreError: as FeedbackStore.add_verdict, some of them in the future.
        """
        now_s = self.clock()
        self.signer.check(verdict.decision_id, now_s, only_for=judge if self.only_own else None)
        return self.store.add_verdict(verdict, judge, now_s)

    def report(
        self,
        prompt: str,
        outcome: Outcome,
        *,
        judge: str,
        details: Details = NOTHING_ELSE,
        vectors: tuple[Vector, ...] = (),
        surface: Surface | None = None,
        keep_text: bool = True,
    ) -> "Future[Receipt]":
        """Hand in a battle or a score that belongs to no decision; the future has the receipt once it is on the disk.

        Raises:
            FeedbackError, StoreError: as FeedbackEvent.of_prompt and FeedbackStore.add_event.
        """
        event = FeedbackEvent.of_prompt(
            prompt,
            outcome,
            judge=judge,
            received_s=self.clock(),
            details=details,
            vectors=vectors,
            surface=surface,
            keep_text=keep_text,
        )
        return self.store.add_event(event)


def _nonce_of(decision_id: str) -> bytes | None:
    """Return the random bits of a decision id of the router's, 32 hexadecimal digits; None for any other."""
    try:
        raw = bytes.fromhex(decision_id)
    except ValueError:
        return None
    return raw[:NONCE_BYTES] if len(raw) >= NONCE_BYTES else None
