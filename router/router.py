"""Router: the ladder. Which tier answers within the latency budget, and what happens when one is late."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from router.about import describe
from router.artifact import RouterArtifact, load_artifact
from router.cache import DecisionCache, Key, cache_key
from router.catalogue import Catalogue
from router.constraints import MAX_KEPT_NAMES
from router.deadline import Deadline, now_ms
from router.encoder import ONNX_ERRORS, Encoding
from router.errors import ConfigError, PolicyError, PromptError
from router.features import surface_features
from router.files import no_pause
from router.forecast import Forecast
from router.needs import needs_of
from router.profiles import merged
from router.prompt import fold_messages
from router.rung import Outcome, Question, Rung, new_decision_id, settled
from router.session import SessionTable
from router.types import Decision, JsonObject, Messages, ModelProfile, Needs, Policy, Seen
from router.worker import EncoderWorker, Ticket

logger = logging.getLogger(__name__)

DEFAULT_LATENCY_BUDGET_MS = 50.0
DEFAULT_CACHE_ENTRIES = 4096
DEFAULT_MAX_WAITING = 1024
# More would only take turns on two cores.
DEFAULT_ENCODER_THREADS = 2
DEFAULT_POLICY = Policy()
DEFAULT_MAX_SESSIONS = 10_000
DEFAULT_SESSION_TTL_MS = 30 * 60_000.0
# Kept back for what happens to an answer outside the server, besides what its writing was seen to take.
RESERVE_MS = 0.3
# When more of the time left than this share is expected to pass until the full answer, the static one is made first;
# until the static one, the priors answer.
DOUBT_SHARE = 0.5
# Below it, what a prompt's length adds to finishing and handing over is lost in the rest.
BLOCK_CHARS = 4_096
# Longer than this, writing waits for the client.
MAX_WRITING_MS = 20.0
# This share of the budget is kept back for what no forecast sees.
LATE_SHARE = 0.1
WARM_UP_PROMPTS = ("warm up", "What is the capital of France?", "def add(a, b):\n    return a + b\n" * 50)
WARM_UP_TOKENS = (4, 12, 24, 48, 96, 192, 384)
WARM_UP_RUNS = 3


class Options(TypedDict, total=False):
    """The options of a Router, for those who pass them on."""

    cache_entries: int
    max_waiting: int
    encoder_threads: int
    encoder_nice: int
    max_sessions: int
    session_ttl_ms: float


class Router:
    """Answers which model should take a prompt, from one loaded artifact, within a latency budget."""

    def __init__(
        self,
        artifact: RouterArtifact,
        *,
        cache_entries: int = DEFAULT_CACHE_ENTRIES,
        max_waiting: int = DEFAULT_MAX_WAITING,
        encoder_threads: int = DEFAULT_ENCODER_THREADS,
        encoder_nice: int = 0,
        max_sessions: int = DEFAULT_MAX_SESSIONS,
        session_ttl_ms: float = DEFAULT_SESSION_TTL_MS,
        before: "Router | None" = None,
        pause: Callable[[], object] = no_pause,
    ) -> None:
        """Build the indexes in memory, and answer a few prompts to warm caches and to see what each stage takes.

        cache_entries: decisions remembered, 0 for none. max_waiting: prompts that may wait for the full encoder.
        encoder_threads: how many prompts it encodes at a time, each by itself. encoder_nice: by how much its threads
        yield to the others (Linux). max_sessions: conversations whose model is remembered, each until it is unused for
        session_ttl_ms. before: the router that this one will take the place of, and shares its sessions with; nothing
        else of it is kept. pause: called between steps of a few milliseconds, to let others work.
        """
        self.artifact = artifact
        catalogue = Catalogue(artifact.models, artifact.profiles)
        rungs = {
            tier.name: Rung(artifact, tier, catalogue, degraded=place > 0) for place, tier in enumerate(artifact.tiers)
        }
        self._rungs = rungs
        self._full, self._static = rungs.get("full"), rungs.get("static")
        self._best = rungs[artifact.best.name]
        self._models = frozenset(artifact.models)
        self._cache = DecisionCache(cache_entries)
        self._sessions: SessionTable = SessionTable(max_sessions, session_ttl_ms)
        if before is not None:
            self._sessions = before._sessions
        self._profiles_version = 0
        self._static_takes, self._finish_takes = Forecast(), Forecast()
        self._handover_takes, self._writing_takes = Forecast(), Forecast()
        # What was seen of it before is worth more than a few runs amid all this load, which others would wait for.
        self._encoding_takes = Forecast()
        if before is not None and self._encodes_as(before):
            self._encoding_takes = before._encoding_takes
        self._worker: EncoderWorker | None = None
        if self._full is not None:
            self._worker = EncoderWorker(
                self._full.tier.encoder.encode_ids,
                n_threads=encoder_threads,
                nice=encoder_nice,
                max_waiting=max_waiting,
                ran=partial(_learn, self._encoding_takes),  # not a method: no router may hold itself in a cycle
            )
        self._warm_up(pause)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        before: "Router | None" = None,
        pause: Callable[[], object] = no_pause,
        **options: Unpack["Options"],
    ) -> "Router":
        """Verify and load an artifact directory. options, before, pause: as of the class.

        An encoder of the very bytes that ``before`` has loaded is not loaded again: that would stop all other threads
        for a twentieth of a second.

        Raises:
            ArtifactError: a file is missing, altered or foreign; it is named.
            EncoderError: the encoder inside does not work.
        """
        encoders = [] if before is None else [tier.encoder for tier in before.artifact.tiers]
        return cls(load_artifact(directory, loaded=encoders, pause=pause), before=before, pause=pause, **options)

    def route(
        self,
        prompt: str | Messages,
        policy: Policy | None = None,
        *,
        latency_budget_ms: float = DEFAULT_LATENCY_BUDGET_MS,
        arrived_ms: float | None = None,
        explain: bool = True,
        cache: bool = True,
        session_id: str | None = None,
        needs: Needs | None = None,
        by_intent: Mapping[str, Policy] | None = None,
    ) -> Decision:
        """Decide which model should take ``prompt``, a text or a list of chat messages.

        arrived_ms: when the request arrived, on the clock of router.deadline; now when left out. explain: keep
        neighbours and summary. cache: the decision may be one that was made before. session_id: the conversation, which
        stays with its model unless another one leads by the policy's ``switch_margin``. needs: what the prompt needs
        besides; read from it when left out. by_intent: policies that take the place of ``policy`` where the neighbours
        have this intent.

        Raises:
            PromptError: the prompt is empty or not text, or the messages cannot be read.
            PolicyError: the policy leaves no model.
        """
        deadline = Deadline(now_ms() if arrived_ms is None else arrived_ms, latency_budget_ms)
        begun = self.begin(
            prompt,
            policy,
            deadline,
            explain=explain,
            cache=cache,
            session_id=session_id,
            needs=needs,
            by_intent=by_intent,
        )
        if isinstance(begun, Decision):
            return begun
        if begun.ticket is not None:
            if begun.in_doubt:
                try:
                    begun.in_hand = settled(self.static_all([begun])[0])
                except PolicyError:
                    begun.ticket.cancelled = True
                    raise
            begun.ticket.done.wait(max(0.0, begun.give_up_at_ms - now_ms()) / 1e3)
        return settled(self.settle_all([begun])[0])

    def begin(
        self,
        prompt: str | Messages,
        policy: Policy | None,
        deadline: Deadline,
        *,
        explain: bool,
        cache: bool,
        session_id: str | None = None,
        needs: Needs | None = None,
        by_intent: Mapping[str, Policy] | None = None,
        n_ahead: int = 0,
        on_done: Callable[[], object] = lambda: None,
    ) -> "Decision | Pending":
        """Return a decision that costs next to nothing, remembered or by the priors, or what is pending.

        What is pending has a ticket for the full encoder, or is to be settled in its turn. n_ahead: how many will be
        settled before. on_done: called, in the encoder's thread, when the ticket is done.

        Raises:
            PromptError, PolicyError: as ``route``.
        """
        question = self._question(prompt, policy, deadline, explain, session_id, needs, by_intent)
        key = self._key(question) if cache and self._full is not None else None
        known = self._cache.get(key) if key is not None else None
        if known is not None:
            return self._kept(question, _again(known, question.deadline))
        pending = Pending(question, key)
        self._ask_full(pending, on_done)
        if pending.ticket is None and not self._is_soon(question, n_ahead):
            return self._kept(question, self._best.decide(question, None))
        return pending

    def _key(self, question: Question) -> Key | None:
        """Return what a decision is remembered by.

        None where it is not to be: as it is drawn at random, or as its policy names so much that remembering many could
        be made to fill the memory.
        """
        policies = (question.policy, *question.by_intent.values())
        if any(one.explore_share > 0 or one.n_names > MAX_KEPT_NAMES for one in policies):
            return None
        return cache_key(
            question.text,
            (
                *(question.policy, tuple(question.by_intent.items()), question.needs),
                *(question.session is not None, question.held, question.explain, self._profiles_version),
            ),
        )

    def _kept(self, question: Question, decision: Decision) -> Decision:
        """Remember what a session is with from now on, and return the decision."""
        if question.session is not None and decision.session is not None:
            self._sessions.keep(question.session, decision.model, now_ms())
        return decision

    def static_all(self, pending: Sequence["Pending"]) -> list[Outcome]:
        """Return the answer of each that needs no full encoder: the static tier's, or the priors' without time."""
        return self._answer_now([one.question for one in pending])

    def settle_all(self, pending: Sequence["Pending"]) -> list[Outcome]:
        """Return the decision of each: the full tier's if it is encoded, else what is in hand, else as ``static_all``.

        To be called when a ticket is done, or at ``give_up_at_ms``, or at once where there is no ticket.
        """
        now = now_ms()
        encoded: list[int] = []
        rest: list[int] = []
        in_hand: dict[int, Decision] = {}
        for place, one in enumerate(pending):
            self._note(one, now)
            finish_ms = self._finish_takes.at_most_ms(_blocks(one.question), now)
            if one.encoding is not None and (one.in_hand is None or now + finish_ms <= one.question.deadline.ends_ms):
                encoded.append(place)
            elif one.in_hand is not None:
                in_hand[place] = one.in_hand
            else:
                rest.append(place)
        outcomes = dict(zip(rest, self._answer_now([pending[place].question for place in rest]), strict=True))
        outcomes |= zip(encoded, self._finish_full([pending[place] for place in encoded]), strict=True)
        # They are given when all of the batch is.
        outcomes |= {place: _stamped(known, pending[place].question.deadline) for place, known in in_hand.items()}
        for place, one in enumerate(pending):
            outcome = outcomes[place]
            if isinstance(outcome, Decision):
                self._kept(one.question, outcome)
        return [outcomes[place] for place in range(len(pending))]

    def _note(self, one: "Pending", now: float) -> None:
        """Take over what the worker made of a ticket, and learn how late its end, or its giving up, was heard of."""
        ticket = one.ticket
        if ticket is None:
            return
        one.encoding = ticket.encoding
        ticket.cancelled = one.encoding is None  # too late, even if it is done now
        heard_late_ms = now - (ticket.done_ms if ticket.done.is_set() else one.give_up_at_ms)
        self._handover_takes.observe(_blocks(one.question), max(0.0, heard_late_ms), now)

    def _finish_full(self, pending: Sequence["Pending"]) -> list[Outcome]:
        if not pending:
            return []
        began = now_ms()
        outcomes = self._best.decide_all([one.question for one in pending], [one.encoding for one in pending])
        took_ms = now_ms() - began
        for one, outcome in zip(pending, outcomes, strict=True):
            self._finish_takes.observe(_blocks(one.question), took_ms, began)
            # Names that the artifact does not know are listed as excluded, too: as many as a request likes.
            few = isinstance(outcome, Decision) and len(outcome.excluded) <= len(self.artifact.models)
            if one.key is not None and isinstance(outcome, Decision) and few:
                self._cache.put(one.key, outcome)
        return outcomes

    def _answer_now(self, questions: Sequence[Question]) -> list[Outcome]:
        """Decide by the static tier where it is expected to be in time, else by the priors."""
        static, began = self._static, now_ms()
        read, blind = [], []
        ready_ms = began + self._reserve_ms(began)  # all are given when the last is decided
        for place, question in enumerate(questions):
            own_ms = self._static_takes.at_most_ms(len(question.text), began)
            if static is None or ready_ms + own_ms > question.deadline.ends_ms:
                blind.append(place)
            else:
                read.append(place)
                ready_ms += self._static_takes.predict_ms(len(question.text), began)
        encodings: list[Encoding] = []
        if static is not None and read:
            try:
                encodings = static.encode_all([questions[place] for place in read])
            except ONNX_ERRORS as exc:
                logger.error("the static encoder failed with a %s", type(exc).__name__)
                read, blind = [], list(range(len(questions)))
        some = [questions[place] for place in blind]
        outcomes = dict(zip(blind, self._best.decide_all(some, [None] * len(some)), strict=True))
        if static is not None and read:
            some = [questions[place] for place in read]
            outcomes |= zip(read, static.decide_all(some, encodings), strict=True)
            took_ms = (now_ms() - began) / len(read)
            for one in some:
                self._static_takes.observe(len(one.text), took_ms, began)
        return [outcomes[place] for place in range(len(questions))]

    def was_written(self, decision: Decision, arrived_ms: float) -> None:
        """Learn how long after it was made a decision left the server: so much is kept back for later ones."""
        now = now_ms()
        # A client that reads slowly, or not at all, is no reason to hurry the others.
        self._writing_takes.observe(1, min(MAX_WRITING_MS, now - arrived_ms - decision.elapsed_ms), now)

    def answer_of(
        self,
        tier: str,
        prompt: str | Messages,
        policy: Policy | None = None,
        *,
        explain: bool = True,
        needs: Needs | None = None,
        by_intent: Mapping[str, Policy] | None = None,
    ) -> Decision:
        """Return what one tier of the artifact ('full', 'static', or 'prior') decides, however long it takes.

        Raises:
            ConfigError: the artifact has no such tier.
            PromptError, PolicyError: as ``route``.
        """
        question = self._question(prompt, policy, Deadline(now_ms(), float("inf")), explain, None, needs, by_intent)
        if tier == "prior":
            return self._best.decide(question, None)
        if tier not in self._rungs:
            raise ConfigError(f"the artifact has no {tier} tier; it has {', '.join(self._rungs)}")
        rung = self._rungs[tier]
        return rung.decide(question, rung.encode_all([question])[0])

    def see(self, prompt: str | Messages, seen: Seen | None = None, *, full: bool = False) -> Seen:
        """Add to what was seen of a prompt what costs little, the static tier's vector and the features; return it.

        full: the full tier's vector, too, which takes milliseconds, here and now. Safe to call from any thread.

        Raises:
            PromptError: the messages cannot be read.
        """
        seen = Seen({}) if seen is None else seen
        core = self.artifact.template.strip(prompt if isinstance(prompt, str) else fold_messages(prompt))
        if seen.features is None:
            seen.features = surface_features(core)
        for tier in self.artifact.tiers:
            if tier.encoder.id not in seen.vectors and (full or tier.name == "static"):
                try:
                    seen.vectors[tier.encoder.id] = tier.encoder.encode(core).vector
                except ONNX_ERRORS as exc:
                    logger.error("the %s encoder failed with a %s", tier.name, type(exc).__name__)
        return seen

    def rows_again(self, tier: str, rows: NDArray[np.int64], policy: Policy | None = None) -> list[Outcome]:
        """Return what one tier decides for training rows, int64 (n,), each by the others; several at a time."""
        return self._rungs[tier].decide_rows(rows, policy or DEFAULT_POLICY)

    def route_batch(
        self,
        prompts: Sequence[str | Messages],
        policy: Policy | None = None,
        *,
        latency_budget_ms: float = DEFAULT_LATENCY_BUDGET_MS,
    ) -> list[Decision]:
        """Route prompts one after the other, in order; each has its own budget."""
        return [self.route(one, policy, latency_budget_ms=latency_budget_ms) for one in prompts]

    @property
    def n_waiting(self) -> int:
        """Prompts that wait for the full encoder."""
        return 0 if self._worker is None else len(self._worker)

    @property
    def n_cached(self) -> int:
        """Decisions remembered."""
        return len(self._cache)

    @property
    def n_sessions(self) -> int:
        """Conversations whose model is remembered."""
        return len(self._sessions)

    def clear_cache(self) -> None:
        """Forget decisions."""
        self._cache.clear()

    def use_profiles(self, profiles: Mapping[str, ModelProfile]) -> None:
        """Put other profiles, by model, over those of the artifact; what is decided from now on goes by them."""
        catalogue = Catalogue(self.artifact.models, merged(self.artifact.profiles, profiles))
        for rung in self._rungs.values():
            rung.catalogue = catalogue
        self._profiles_version += 1  # what was remembered by the old ones is not found again
        self._cache.clear()

    def close(self) -> None:
        """End the encoder's threads; what waits for it is answered by a cheaper tier."""
        if self._worker is not None:
            self._worker.close()

    def describe(self) -> JsonObject:
        """Return what the artifact is and what it promises, JSON-able and without prompts."""
        return describe(self.artifact)

    def _question(
        self,
        prompt: str | Messages,
        policy: Policy | None,
        deadline: Deadline,
        explain: bool,
        session_id: str | None,
        needs: Needs | None,
        by_intent: Mapping[str, Policy] | None,
    ) -> Question:
        text = prompt if isinstance(prompt, str) else fold_messages(prompt)
        if not text.strip():
            raise PromptError("the prompt is empty")
        return Question(
            text,
            self.artifact.template.strip(text),
            policy or DEFAULT_POLICY,
            deadline,
            explain,
            needs or needs_of(prompt),
            by_intent or {},
            session_id,
            None if session_id is None else self._held_by(session_id),
        )

    def _held_by(self, session_id: str) -> str | None:
        """Return the model that a session is with; one that only an artifact before this one knew is none."""
        model = self._sessions.model_of(session_id, now_ms())
        return model if model in self._models else None

    def _encodes_as(self, other: "Router") -> bool:
        """Tell whether the full encoder is the other router's."""
        own, others = self._full, other._full
        return own is not None and others is not None and own.tier.encoder is others.tier.encoder

    def _is_soon(self, question: Question, n_ahead: int) -> bool:
        """Tell whether the static tier is expected to answer in its turn, well before the budget ends.

        Where more come than can be answered so, all would wait for their turn until it is too late; the length of the
        queue changes nothing about how many are answered, so it is kept short.
        """
        now = now_ms()
        left_ms = question.deadline.ends_ms - now - self._reserve_ms(now)
        own_ms = self._static_takes.at_most_ms(len(question.text), now)
        queue_ms = n_ahead * self._static_takes.predict_ms(len(question.text), now)
        return self._static is not None and own_ms <= left_ms and queue_ms <= DOUBT_SHARE * left_ms

    def _reserve_ms(self, now: float) -> float:
        """Return what is kept back for the way of an answer out of the server."""
        return RESERVE_MS + self._writing_takes.at_most_ms(1, now)

    def _ask_full(self, pending: "Pending", on_done: Callable[[], object]) -> None:
        """Queue the prompt for the full encoder, if its answer is expected to be in time.

        now ... begins: those before it are encoded ... needed_by: it is encoded, and the answer is finished ...
        give_up: or the static answer is made ... and handed over, with a margin ... ends: written.
        """
        full, worker, question = self._full, self._worker, pending.question
        if full is None or worker is None:
            return
        now, deadline, n_chars = now_ms(), question.deadline, len(question.text)
        late_ms = self._reserve_ms(now) + self._handover_takes.at_most_ms(_blocks(question), now)
        margin_ms = LATE_SHARE * deadline.budget_ms
        needed_by_ms = deadline.ends_ms - late_ms - margin_ms - self._finish_takes.at_most_ms(_blocks(question), now)
        begins_ms = now + worker.wait_ms(needed_by_ms)
        if begins_ms + self._encoding_takes.usual_ms(1, now) > needed_by_ms:
            return  # not even the shortest prompt: under load, this one is not tokenised for nothing
        ids = full.tier.encoder.token_ids(question.core)
        # By what is usual: one that takes longer is made good for by a static answer, which is in hand where in doubt.
        cost_ms = self._encoding_takes.usual_ms(len(ids), now)
        if begins_ms + cost_ms > needed_by_ms:
            return
        likely_ms = self._encoding_takes.predict_ms(len(ids), now)
        pending.in_doubt = begins_ms + likely_ms - now > DOUBT_SHARE * (needed_by_ms - now)
        pending.give_up_at_ms = deadline.ends_ms - late_ms - margin_ms
        if not pending.in_doubt:
            pending.give_up_at_ms -= self._static_takes.at_most_ms(n_chars, now)
        ticket = Ticket(ids, needed_by_ms, cost_ms, on_done)
        if worker.submit(ticket):
            pending.ticket = ticket

    def _warm_up(self, pause: Callable[[], object]) -> None:
        """See what every stage takes for prompts of every size while the machine does nothing else for us."""
        deadline = Deadline(now_ms(), float("inf"))
        policy = Policy(route_anyway=True)
        for text in WARM_UP_PROMPTS:
            question = Question(text, text, policy, deadline, False, needs_of(text))
            if self._static is not None:
                static = self._static
                takes_ms = _times_ms(lambda: static.decide(question, static.encode_all([question])[0]), pause)  # noqa: B023
                self._static_takes.warm(len(text), takes_ms)
        if self._full is not None:
            full, encoder = self._full, self._full.tier.encoder
            for text in WARM_UP_PROMPTS:
                question = Question(text, text, policy, deadline, False, needs_of(text))
                (encoding,) = full.encode_all([question])
                pause()
                takes_ms = _times_ms(lambda: full.decide(question, encoding), pause)  # noqa: B023
                self._finish_takes.warm(_blocks(question), takes_ms)
            ids = encoder.token_ids(WARM_UP_PROMPTS[-1])
            for n_tokens in () if self._encoding_takes.is_known else WARM_UP_TOKENS:
                some = ids[:n_tokens]
                self._encoding_takes.warm(len(some), _times_ms(lambda: encoder.encode_ids(some), pause))  # noqa: B023


@dataclass(slots=True, eq=False)
class Pending:
    """A question on its way to an answer.

    ticket: its place in the full encoder's queue, None where that is not expected to be in time. in_doubt: the ticket
    may well be late; an answer should be in hand before. give_up_at_ms: when to wait no longer.
    """

    question: Question
    key: Key | None
    ticket: Ticket | None = None
    in_doubt: bool = False
    give_up_at_ms: float = 0.0
    in_hand: Decision | None = None
    encoding: Encoding | None = None


def _learn(takes: Forecast, n_tokens: int, took_ms: float) -> None:
    """Take in a run of the full encoder, whether anybody still waited for it or not."""
    takes.observe(n_tokens, took_ms, now_ms())


def _blocks(question: Question) -> int:
    """Return a prompt's size where that matters only in long ones: all short ones are of one size."""
    return len(question.text) // BLOCK_CHARS


def _again(known: Decision, deadline: Deadline) -> Decision:
    """Return a remembered decision as the answer to another request."""
    return replace(_stamped(known, deadline), cached=True, decision_id=new_decision_id())


def _stamped(decision: Decision, deadline: Deadline) -> Decision:
    """Return a decision that was made a while ago as it is given now."""
    elapsed_ms = deadline.elapsed_ms()
    met = elapsed_ms <= deadline.budget_ms
    return replace(decision, latency_budget_ms=deadline.budget_ms, elapsed_ms=elapsed_ms, budget_met=met)


def _times_ms(run: Callable[[], object], pause: Callable[[], object]) -> list[float]:
    """Return what a few runs took, the first, which finds everything cold, left out."""
    run()
    pause()
    times = []
    for _ in range(WARM_UP_RUNS):
        began = now_ms()
        run()
        times.append(now_ms() - began)
        pause()
    return times
