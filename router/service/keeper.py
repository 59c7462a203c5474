"""Which decisions are kept to be judged: each gets its signed id before it is answered, and is remembered after."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from router.errors import FeedbackError
from router.features import FEATURES
from router.feedback.desk import FeedbackDesk
from router.feedback.events import Surface, Vector, check_prompt
from router.prompt import fold_messages, prompt_hash
from router.service.auth import Caller
from router.service.schema import RouteRequest
from router.service.settings import Settings
from router.types import Decision, Messages, Seen

logger = logging.getLogger(__name__)

# What feedback knows callers without a key by.
NO_KEY = "anybody"
# Folding, stripping and cutting a prompt cost time per character (about 10 ms for a million), so long ones leave the
# event loop to others. The way to a thread and back takes 0.1 ms, as long as encoding a short one: those stay.
LONG_PROMPT_CHARS = 4_000

Look = Callable[[str | Messages, Seen | None], Seen]
"""As Router.see: adds what costs little to what was seen of a prompt."""


class Keeper:
    """Keeps decisions as the settings and requests say; without a desk, none."""

    def __init__(self, desk: FeedbackDesk | None, settings: Settings, executor: Executor) -> None:
        """executor: where long prompts are read."""
        self._desk = desk
        self._kept = settings.feedback_keep_decisions
        self._keep_prompts = settings.feedback_keep_prompts
        self._executor = executor
        self._underway: dict[str, asyncio.Future[None]] = {}

    def named(self, decision: Decision, asked: RouteRequest, caller: Caller) -> Decision:
        """Return a decision with the id under which it can be judged, or as it is where it will not be kept."""
        if self._desk is None or not self._wants(asked):
            return decision
        return replace(decision, decision_id=self._desk.new_id(decision, key_id(caller)))

    async def keep(self, decision: Decision, asked: RouteRequest, caller: Caller, look: Look) -> None:
        """Remember a decision that ``named`` has named, if it is to be kept; to be called when it was answered."""
        if self._desk is None or not self._wants(asked):
            return
        remember = partial(self._remember, self._desk, decision, asked, caller, look)
        if asked.n_chars <= LONG_PROMPT_CHARS:
            remember()
            return
        self._underway[decision.decision_id] = done = asyncio.get_running_loop().run_in_executor(
            self._executor, remember
        )
        try:
            await done
        finally:
            del self._underway[decision.decision_id]

    async def settled(self, decision_id: str) -> None:
        """Wait until a decision is remembered if that is under way: a verdict may be quicker."""
        done = self._underway.get(decision_id)
        if done is not None:
            await asyncio.wait([done])

    def _wants(self, asked: RouteRequest) -> bool:
        if self._kept == "all":
            return asked.feedback is not False
        return self._kept == "asked" and asked.feedback is True

    def _remember(
        self, desk: FeedbackDesk, decision: Decision, asked: RouteRequest, caller: Caller, look: Look
    ) -> None:
        prompt = asked.to_prompt()
        text = prompt if isinstance(prompt, str) else fold_messages(prompt)
        seen = decision.seen and look(text, decision.seen)
        try:
            desk.give_out(
                decision,
                decision_id=decision.decision_id,
                key_id=key_id(caller),
                candidates=(decision.model, *decision.fallbacks),
                prompt_hash=prompt_hash(text),
                prompt=text if self._keep_prompts and _can_be_kept(text) else None,
                user=asked.user,
                vectors=vectors_of(seen),
                surface=surface_of(seen),
            )
        except FeedbackError:  # the name of a model, perhaps, which requests may make up
            logger.warning("a decision was not kept to be judged: it has a name that cannot be kept")


def key_id(caller: Caller) -> str:
    """Return what feedback knows a caller by."""
    return caller.name or NO_KEY


def vectors_of(seen: Seen | None) -> tuple[Vector, ...]:
    """Return a prompt's vectors as they are kept."""
    return () if seen is None else tuple(Vector(name, _little(one, "<f4")) for name, one in seen.vectors.items())


def surface_of(seen: Seen | None) -> Surface | None:
    """Return a prompt's features as they are kept."""
    return None if seen is None or seen.features is None else Surface(FEATURES, _little(seen.features, "<f8"))


def _little(values: NDArray[np.float32] | NDArray[np.float64], kind: str) -> bytes:
    return values.astype(kind, copy=False).tobytes()


def _can_be_kept(text: str) -> bool:
    try:
        check_prompt(text)
    except FeedbackError:
        return False
    return True
