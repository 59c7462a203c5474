"""Decisions given out and judged: forged, late, twice, again, unknown."""

import asyncio

import pytest

from router.errors import (
    ExpiredDecisionError,
    ForgedDecisionError,
    JudgedDecisionError,
    UnknownDecisionError,
)
from router.feedback.desk import FeedbackDesk
from router.feedback.events import Battle, Details, Score, Vector, Verdict
from router.feedback.signing import DecisionSigner
from router.feedback.sqlite_store import SqliteStore
from router.feedback.store import Receipt, Selection
from router.prompt import prompt_hash
from router.types import Decision, Intent

VECTORS = (Vector("full", b"\0\0\x80?" * 4), Vector("static", b"\0\0\x80?" * 2))


class Clock:
    now_s = 1_800_000_000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def desk(tmp_path, clock):
    with SqliteStore(tmp_path / "f.db", clock=clock) as store:
        yield FeedbackDesk(store, DecisionSigner(b"s" * 32), clock)


DECISION = Decision(
    model="small",
    reason="best",
    summary="",
    propensity=0.75,
    intent=Intent("code", 0.5, 0.5),
    estimates=(),
    fallbacks=("large",),
    excluded=(),
    neighbors=(),
    tier="full",
    degraded=False,
    cached=False,
    latency_budget_ms=50,
    elapsed_ms=1,
    budget_met=True,
    artifact_id="artifact",
    decision_id="internal",
)


def give_out(desk, **optional):
    return desk.give_out(
        DECISION,
        key_id="gateway",
        candidates=("small", "large"),
        prompt_hash=prompt_hash("hello"),
        vectors=VECTORS,
        **optional,
    )


def test_a_verdict_carries_what_was_decided(desk):
    decision_id = give_out(desk, user="ann")

    receipt = desk.judge(Verdict(decision_id, winner="other", against="large"), judge="panel").result(10)

    (stored,) = desk.store.events()
    event = stored.event
    assert (receipt, stored.seq) == (Receipt(1, known=False), 1)
    assert event.outcome == Battle("small", "large", "model_b")
    assert (event.propensity, event.intent, event.artifact_id, event.user) == (0.75, "code", "artifact", "ann")
    assert (event.prompt, event.prompt_hash, event.vectors) == (None, prompt_hash("hello"), VECTORS)


def test_text_is_kept_only_where_it_was_given(desk):
    desk.judge(Verdict(give_out(desk, prompt="hello"), rating=1), judge="k").result(10)

    assert [one.event.prompt for one in desk.store.events()] == ["hello"]


def test_one_verdict_a_key_and_retries_get_the_first_answer(desk):
    decision_id = give_out(desk)
    verdict = Verdict(decision_id, rating=0.5, details=Details(idempotency_key="x"))

    assert desk.judge(verdict, judge="a").result(10) == Receipt(1, known=False)
    assert desk.judge(verdict, judge="a").result(10) == Receipt(1, known=True)
    with pytest.raises(JudgedDecisionError):
        desk.judge(Verdict(decision_id, rating=0.5, details=Details(idempotency_key="y")), judge="a").result(10)
    assert not desk.judge(verdict, judge="b").result(10).known
    assert [one.event.judge for one in desk.store.events()] == ["a", "b"]


class NoStore:
    def __getattr__(self, name):
        raise AssertionError(f"{name} of the store was used")


def test_forged_and_expired_ids_are_refused_without_the_store(desk, clock):
    decision_id = give_out(desk)
    blind = FeedbackDesk(NoStore(), desk.signer, clock)

    with pytest.raises(ForgedDecisionError):
        blind.judge(Verdict(decision_id[:-1] + ("A" if decision_id[-1] != "A" else "B"), rating=1), judge="k")
    clock.now_s += 24 * 3600
    with pytest.raises(ExpiredDecisionError):
        blind.judge(Verdict(decision_id, rating=1), judge="k")


def test_a_decision_can_be_kept_to_its_own_key(desk, clock):
    decision_id = give_out(desk)
    strict = FeedbackDesk(desk.store, desk.signer, clock, only_own=True)

    with pytest.raises(ForgedDecisionError, match="another API key"):
        strict.judge(Verdict(decision_id, rating=1), judge="panel")
    assert strict.judge(Verdict(decision_id, rating=1), judge="gateway").result(10).seq == 1


def test_a_deleted_decision_is_unknown(desk):
    decision_id = give_out(desk, user="ann")
    desk.store.delete(Selection(user="ann")).result(10)

    with pytest.raises(UnknownDecisionError, match="not held"):
        desk.judge(Verdict(decision_id, rating=1), judge="k").result(10)


def test_a_free_standing_battle_is_kept_with_its_text(desk):
    desk.report("which tea?", Score("m", 0.5), judge="k").result(10)

    assert [(one.event.kind, one.event.prompt) for one in desk.store.events()] == [("score", "which tea?")]


def test_a_loop_can_wait_for_many_verdicts_at_once(desk):
    ids = [give_out(desk) for _ in range(200)]

    async def judge_all():
        waiting = [asyncio.wrap_future(desk.judge(Verdict(one, rating=1), judge="k")) for one in ids]
        return await asyncio.gather(*waiting)

    receipts = asyncio.run(judge_all())
    assert sorted(one.seq for one in receipts) == list(range(1, 201))
