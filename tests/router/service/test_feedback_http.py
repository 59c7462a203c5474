"""Feedback over HTTP: decisions kept and judged, what is refused and how, what a crash or a full disk leaves."""

import asyncio
import json
import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_service
import numpy as np
import pytest
from fake_service import Answer, Client, FakeRouter, as_router, start_server, stop_server
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from router import client as http_client
from router.artifact import RouterArtifact
from router.errors import StoreFailedError, StoreFullError, StoreLockedError
from router.features import FEATURES
from router.feedback.events import Battle, FeedbackEvent, Score
from router.feedback.signing import ID_CHARS
from router.feedback.sqlite_store import SqliteReader, SqliteStore
from router.feedback.store import Receipt
from router.prompt import fold_messages, prompt_hash
from router.router import Router
from router.service.app import create_app
from router.service.auth import ApiKeys
from router.service.body import MAX_DEPTH
from router.service.feedback import MAX_IN_FLIGHT, _Receipts
from router.service.feedback_schema import FEEDBACK_EXAMPLES
from router.service.settings import Settings

KEYS = ApiKeys.from_lines(["mail-key name=mail", "panel-key name=panel may=prompts"], "the test")
SECRET = "Zebra-crossing-7391"


@contextmanager
def serving(router: Any, settings: Settings) -> Iterator[Client]:
    app = create_app(router, settings)
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        try:
            yield Client(app, runner)
        finally:
            runner.run(lifespan.__aexit__(None, None, None))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "feedback.db"


@pytest.fixture
def settings(store: Path) -> Settings:
    return Settings(feedback_store=store)


def tell(client: Client, body: Any, **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.ask("POST", "/feedback", body=raw, headers={"content-type": "application/json", **named})


def decided(client: Client, prompt: str = "hello", **more: Any) -> str:
    headers = more.pop("headers", None)
    answer = client.route({"prompt": prompt, **more}, headers=headers)
    assert answer.status == 200
    return answer.json["decision_id"]


def events(store: Path) -> list[FeedbackEvent]:
    with SqliteReader(store) as reader:
        return [one.event for one in reader.events()]


def kind(answer: Answer) -> str:
    return answer.json["error"]["type"]


class TestWithoutAStore:
    @pytest.fixture
    def settings(self) -> Settings:
        return Settings()

    def test_it_says_how_to_switch_it_on(self, client: Client) -> None:
        answer = tell(client, {"decision_id": "x", "rating": 1})
        assert (answer.status, kind(answer)) == (404, "feedback_off")
        assert "feedback.store" in answer.json["error"]["message"]
        assert len(decided(client, feedback=True)) != ID_CHARS


def test_a_rating_is_on_the_disk_when_it_is_acknowledged(client: Client, store: Path) -> None:
    decision_id = decided(client, user="ann")
    answer = tell(client, {"decision_id": decision_id, "rating": 0.25, "cost_usd": 0.002, "metadata": {"page": 1}})

    assert (answer.status, answer.json) == (200, {"sequence": 1, "duplicate": False})
    (event,) = events(store)
    assert (event.outcome, event.user, event.prompt) == (Score("small-fast", 0.25), "ann", None)
    assert (event.details.costs_usd, event.details.metadata) == ({"small-fast": 0.002}, {"page": 1})
    assert (event.candidates, event.propensity, event.quality) == (fake_service.MODELS, 1.0, 0.7)
    assert (event.decision_id, event.prompt_hash, event.judge) == (decision_id, prompt_hash("hello"), "anybody")


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ({"winner": "decision", "against": "other-1"}, Battle("small-fast", "other-1", "model_a")),
        ({"winner": "other", "against": "other-1"}, Battle("small-fast", "other-1", "model_b")),
        ({"winner": "both_bad", "against": "other-1"}, Battle("small-fast", "other-1", "both_bad")),
        ({"rating": 1}, Score("small-fast", 1.0)),
        ({"rating": 0}, Score("small-fast", 0.0)),
    ],
)
def test_verdicts(client: Client, store: Path, said: dict[str, Any], outcome: Any) -> None:
    assert tell(client, {"decision_id": decided(client), **said}).status == 200
    assert [one.outcome for one in events(store)] == [outcome]


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ({"model_a": "a", "model_b": "b", "winner": "tie", "output_tokens": {"a": 3, "b": 4}}, Battle("a", "b", "tie")),
        ({"model": "a", "score": 0, "output_tokens": 3}, Score("a", 0.0)),
    ],
)
@pytest.mark.parametrize("as_messages", [False, True])
def test_free_standing(client: Client, store: Path, said: dict[str, Any], outcome: Any, as_messages: bool) -> None:
    messages = [{"role": "user", "content": "which"}, {"role": "user", "content": "tea?"}]
    prompt: dict[str, Any] = {"messages": messages} if as_messages else {"prompt": "which tea?"}
    assert tell(client, {**prompt, **said}).status == 200
    (event,) = events(store)
    text = fold_messages(messages) if as_messages else "which tea?"
    assert (event.outcome, event.prompt_hash, event.prompt) == (outcome, prompt_hash(text), None)
    assert (event.details.output_tokens or {})["a"] == 3


class TestWhichDecisionsAreKept:
    @pytest.mark.parametrize(
        ("mode", "asked", "kept"),
        [
            ("all", None, True),
            ("all", False, False),
            ("all", True, True),
            ("asked", None, False),
            ("asked", True, True),
            ("none", True, False),
        ],
    )
    def test_as_settings_and_request_say(
        self, fake_router: FakeRouter, store: Path, mode: str, asked: Any, kept: bool
    ) -> None:
        with serving(as_router(fake_router), Settings(feedback_store=store, feedback_keep_decisions=mode)) as client:
            decision_id = decided(client, **({} if asked is None else {"feedback": asked}))
            assert (len(decision_id) == ID_CHARS) == kept
            assert tell(client, {"decision_id": decision_id, "rating": 1}).status == (200 if kept else 403)

    def test_a_long_prompt_is_kept_too(self, client: Client, store: Path) -> None:
        text = "word " * 2_000
        assert tell(client, {"decision_id": decided(client, text), "rating": 1}).status == 200
        assert events(store)[0].prompt_hash == prompt_hash(text)

    def test_the_line_in_the_log_has_the_same_id(self, client: Client, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "router.decision")
        decision_id = decided(client)
        (line,) = [vars(one)["whichmodel_fields"] for one in caplog.records if one.name == "router.decision"]
        assert line["decision_id"] == f'"{decision_id}"'

    def test_a_name_that_cannot_be_kept_is_no_reason_to_fail(self, client: Client) -> None:
        policy = {"candidates": [], "fallback": "line\nbreak"}
        decision_id = decided(client, policy=policy)
        assert tell(client, {"decision_id": decision_id, "rating": 1}).status == 404

    def test_a_user_must_be_printable(self, client: Client) -> None:
        assert client.route({"prompt": "x", "user": "a\nb"}).status == 422


class TestRefusals:
    def test_forged_expired_unknown_judged(self, fake_router: FakeRouter, store: Path) -> None:
        with serving(as_router(fake_router), Settings(feedback_store=store, feedback_ttl_s=1)) as client:
            decision_id = decided(client)
            forged = decision_id[:-1] + ("A" if decision_id[-1] != "A" else "B")
            for wrong in (forged, "x", decision_id + "A"):
                answer = tell(client, {"decision_id": wrong, "rating": 1})
                assert (answer.status, kind(answer)) == (403, "forged")
            assert tell(client, {"decision_id": decision_id, "rating": 1}).json["duplicate"] is False
            assert tell(client, {"decision_id": decision_id, "rating": 1}).json == {"sequence": 1, "duplicate": True}
            answer = tell(client, {"decision_id": decision_id, "rating": 0})
            assert (answer.status, kind(answer)) == (409, "judged")
            time.sleep(1.1)
            answer = tell(client, {"decision_id": decision_id, "rating": 1})
            assert (answer.status, kind(answer)) == (410, "expired")

    def test_room_for_few_decisions(self, fake_router: FakeRouter, store: Path) -> None:
        with serving(as_router(fake_router), Settings(feedback_store=store, feedback_max_pending=2)) as client:
            ids = [decided(client) for _ in range(4)]
            tell(client, {"prompt": "x", "model": "m", "score": 1})  # with it the decisions are written
            assert [tell(client, {"decision_id": one, "rating": 1}).status for one in ids] == [404, 404, 200, 200]

    def test_idempotency_keys(self, client: Client, store: Path) -> None:
        score = {"prompt": "which tea?", "model": "m", "score": 0.5}
        assert tell(client, score, idempotency_key="k-1").json == {"sequence": 1, "duplicate": False}
        assert tell(client, score, idempotency_key="k-1").json == {"sequence": 1, "duplicate": True}
        assert tell(client, {**score, "idempotency_key": "k-1"}).json == {"sequence": 1, "duplicate": True}
        other = tell(client, {**score, "score": 1}, idempotency_key="k-1")
        assert (other.status, kind(other)) == (409, "reused_key")
        assert tell(client, {**score, "idempotency_key": "k-2"}, idempotency_key="k-3").status == 422
        assert tell(client, score, idempotency_key="k" * 129).status == 422
        assert len(events(store)) == 1

    @pytest.mark.parametrize(
        ("said", "field"),
        [
            ({"rating": 2}, "rating"),
            ({"rating": "1"}, "rating"),
            ({"rating": True}, "rating"),
            ({}, ""),
            ({"rating": 1, "winner": "tie", "against": "m"}, ""),
            ({"winner": "tie"}, ""),
            ({"winner": "model_a", "against": "m"}, ""),
            ({"winner": "CANARY", "against": "m"}, "winner"),
            ({"winner": "tie", "against": "small-fast"}, "against"),
            ({"rating": 1, "cost_usd": -1}, "cost_usd"),
            ({"rating": 1, "cost_usd": {"CANARY": 1}}, "cost_usd"),
            ({"rating": 1, "latency_ms": {"CANARY": 1}}, "latency_ms"),
            ({"rating": 1, "output_tokens": 1e13}, "output_tokens"),
            ({"rating": 1, "user": "CANARY"}, "user"),
            ({"rating": 1, "user": "a\nb"}, "user"),
            ({"rating": 1, "metadata": {"x": "y" * 3_000}}, "metadata"),
            ({"rating": 1, "metadata": []}, "metadata"),
            ({"rating": 1, "CANARY": 1}, ""),
            ({"rating": 1, "idempotency_key": ""}, "idempotency_key"),
            ({"rating": 1, "prompt": "CANARY"}, ""),
        ],
    )
    def test_what_is_wrong_is_named_by_its_field_and_not_repeated(self, client: Client, said: Any, field: str) -> None:
        decision_id = decided(client, user="ann")
        answer = tell(client, {"decision_id": decision_id, **said})
        assert answer.status == 422
        assert field in [one["field"] for one in answer.json["error"]["details"]]
        assert "CANARY" not in json.dumps(answer.json)

    @pytest.mark.parametrize(
        ("said", "status"),
        [
            ({"prompt": " ", "model": "m", "score": 1}, 422),
            ({"prompt": "a\0b", "model": "m", "score": 1}, 422),
            ({"messages": [], "model": "m", "score": 1}, 422),
            ({"messages": [{"role": "tool", "content": "x"}], "model": "m", "score": 1}, 422),
            ({"prompt": "x", "messages": [{"role": "user", "content": "x"}], "model": "m", "score": 1}, 422),
            ({"prompt": "x", "model_a": "m", "model_b": "m", "winner": "tie"}, 422),
            ({"prompt": "x", "model_a": "m", "model_b": "n", "winner": "other"}, 422),
            ({"prompt": "x", "model_a": "m", "model_b": "n", "winner": "tie", "cost_usd": 1}, 422),
            ({"prompt": "x", "model": "m", "score": 1, "cost_usd": {"n": 1}}, 422),
            (b"[]", 422),
            (b"null", 422),
            (b"{", 400),
            (b"\xff", 400),
            (b'{"rating": NaN}', 400),
            (b'{"rating": 1, "rating": 1}', 400),
            (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), 400),
            (b'{"prompt": "\\ud800", "model": "m", "score": 1}', 422),
        ],
    )
    def test_hostile_bodies(self, client: Client, store: Path, said: Any, status: int) -> None:
        assert tell(client, said).status == status
        assert events(store) == []

    def test_other_methods_and_types(self, client: Client) -> None:
        assert client.ask("GET", "/feedback").status == 405
        assert client.ask("POST", "/feedback", body=b"{}", headers={"content-type": "text/plain"}).status == 415

    def test_a_body_above_the_cap(self, fake_router: FakeRouter, store: Path) -> None:
        with serving(as_router(fake_router), Settings(feedback_store=store, max_body_bytes=1_024)) as client:
            assert tell(client, {"prompt": "x" * 2_000, "model": "m", "score": 1}).status == 413

    def test_a_flood_is_shed(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        never: Future[Any] = Future()
        monkeypatch.setattr(SqliteStore, "add_event", lambda *_: never)
        decision_id = decided(client)
        body = json.dumps({"decision_id": decision_id, "rating": 1}).encode()

        async def flood() -> list[int]:
            asked = [client._ask("POST", "/feedback", body, None) for _ in range(MAX_IN_FLIGHT + 5)]
            tasks = [asyncio.create_task(one) for one in asked]
            shed = [await one for one in asyncio.as_completed(tasks[MAX_IN_FLIGHT:])]
            route = await client._ask("POST", "/route", b'{"prompt": "x"}', None)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return [route.status, *(one.status for one in shed)]

        assert client.runner.run(flood()) == [200, 429, 429, 429, 429, 429]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
NAMED = st.sampled_from(
    (
        *("decision_id", "rating", "winner", "against", "prompt", "messages", "model_a", "model_b", "model", "score"),
        *("cost_usd", "latency_ms", "output_tokens", "user", "metadata", "idempotency_key", "other"),
    )
)
EXAMPLES = st.sampled_from([one["value"] for one in FEEDBACK_EXAMPLES.values()])


@hypothesis_settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(example=EXAMPLES, other=st.dictionaries(NAMED, VALUES, max_size=3))
def test_whatever_is_sent_gets_an_answer_of_its_form(client: Client, example: Any, other: dict[str, Any]) -> None:
    answer = tell(client, {**example, **other})
    if answer.status == 200:
        assert set(answer.json) == {"sequence", "duplicate"}
    else:
        assert answer.status in (400, 403, 409, 422)
        assert set(answer.json["error"]) == {"type", "message", "details"}


class TestKeys:
    @pytest.fixture
    def settings(self, store: Path) -> Settings:
        return Settings(feedback_store=store, api_keys=KEYS)

    def test_a_key_is_needed_and_judges_once(self, client: Client, store: Path) -> None:
        decision_id = decided(client, headers={"x-api-key": "mail-key"})
        said = {"decision_id": decision_id, "rating": 1}
        assert tell(client, said).status == 401
        assert tell(client, said, x_api_key="wrong").status == 401
        assert tell(client, said, x_api_key="mail-key").json["sequence"] == 1
        assert tell(client, said, x_api_key="panel-key").json == {"sequence": 2, "duplicate": False}
        assert tell(client, {**said, "rating": 0}, x_api_key="panel-key").status == 409
        assert [one.judge for one in events(store)] == ["mail", "panel"]

    def test_only_own(self, fake_router: FakeRouter, store: Path) -> None:
        strict = Settings(feedback_store=store, api_keys=KEYS, feedback_only_own=True)
        with serving(as_router(fake_router), strict) as client:
            said = {"decision_id": decided(client, headers={"x-api-key": "mail-key"}), "rating": 1}
            assert tell(client, said, x_api_key="panel-key").status == 403
            assert tell(client, said, x_api_key="mail-key").status == 200

    def test_where_it_is_off_a_key_is_needed_all_the_same(self, fake_router: FakeRouter) -> None:
        with serving(as_router(fake_router), Settings(api_keys=KEYS)) as client:
            assert tell(client, {}).status == 401


def test_of_two_receipts_that_come_together_neither_is_forgotten() -> None:
    both: list[Future[Receipt]] = [Future(), Future()]

    class Met(list):  # type: ignore[type-arg]
        """While the first is put in, the other one comes."""

        def append(self, turn: Any) -> None:
            super().append(turn)
            if not other.ident:
                other.start()
                other.join(0.2)  # it waits until the first is in

    async def wait() -> list[Receipt]:
        receipts = _Receipts()
        waiting = [asyncio.ensure_future(receipts.of(one)) for one in both]
        await asyncio.sleep(0)
        receipts._told = Met()
        await asyncio.to_thread(both[0].set_result, Receipt(1, known=False))
        return await asyncio.wait_for(asyncio.gather(*waiting), 20)

    other = threading.Thread(target=lambda: both[1].set_result(Receipt(2, known=False)))
    assert [one.seq for one in asyncio.run(wait())] == [1, 2]


class TestAFailingStore:
    @pytest.mark.parametrize(
        ("error", "status", "type_", "retry"),
        [(StoreFailedError, 503, "store_failed", "10"), (StoreFullError, 507, "store_full", "10")],
    )
    def test_nothing_is_acknowledged_and_routing_goes_on(
        self,
        client: Client,
        store: Path,
        monkeypatch: pytest.MonkeyPatch,
        error: Any,
        status: int,
        type_: str,
        retry: str,
    ) -> None:
        def fail(*_: object) -> Future[Any]:
            failed: Future[Any] = Future()
            failed.set_exception(error(f"{store}: no space"))
            return failed

        monkeypatch.setattr(SqliteStore, "add_verdict", fail)
        answer = tell(client, {"decision_id": decided(client), "rating": 1})
        assert (answer.status, kind(answer), answer.headers["retry-after"]) == (status, type_, retry)
        assert str(store) not in json.dumps(answer.json)
        assert client.route({"prompt": "x"}).status == 200

    def test_a_decision_that_was_damaged_on_the_disk(self, client: Client, store: Path) -> None:
        decision_id = decided(client)
        tell(client, {"prompt": "x", "model": "m", "score": 1})  # with it the decision leaves the memory for the disk
        with sqlite3.connect(store) as connection:
            connection.execute("UPDATE pending SET body = replace(body, 'tier', 'tear')")
        connection.close()
        answer = tell(client, {"decision_id": decision_id, "rating": 1})
        assert (answer.status, kind(answer)) == (503, "store_failed")
        assert tell(client, {"decision_id": decided(client), "rating": 1}).status == 200

    def test_a_disk_that_is_full(self, store: Path) -> None:
        limit = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
        run = f"runpy.run_path({fake_service.__file__!r}, run_name='__main__')"
        server = start_server({"WHICHMODEL_FEEDBACK_STORE": str(store)}, ("-c", limit + run))
        client = http_client.Client(f"http://127.0.0.1:{server.port}", default_model="d", timeout_ms=20_000)
        acknowledged = 0
        try:
            for n in range(2_000):
                told = client.feedback(prompt=f"{n} {'x' * 500}", model="m", score=1, metadata={"pad": "y" * 1_500})
                if not told.acknowledged:
                    assert told.problem.startswith("status 503")
                    break
                acknowledged += 1
            for _ in range(5):
                assert not client.feedback(prompt="x", model="m", score=1).acknowledged
                assert not client.route("hello").from_default
            metrics = client._ask("GET", "/metrics", b"", http_client._Deadline(client._clock_ms, 10_000))[1].decode()
        finally:
            client.close()
            logged = stop_server(server)
        assert server.process.returncode == 0
        assert "whichmodel_feedback_store_failed 1.0" in metrics
        assert 3 <= acknowledged < 2_000
        assert "a write failed" in logged
        with SqliteStore(store) as opened:
            assert opened.stats().n_events >= acknowledged


def test_what_was_acknowledged_is_there_after_kill_9(store: Path) -> None:
    server = start_server({"WHICHMODEL_FEEDBACK_STORE": str(store), "WHICHMODEL_LOG_LEVEL": "error"})
    acknowledged: dict[str, int] = {}

    def give(name: int) -> None:
        with http_client.Client(f"http://127.0.0.1:{server.port}", default_model="d", timeout_ms=20_000) as client:
            for n in range(10_000):
                decision = client.route(f"prompt {name} {n}").decision
                if decision is None:
                    return
                key = f"{name}-{n}"
                told = client.feedback(decision_id=decision["decision_id"], rating=0.5, idempotency_key=key)
                if not told.acknowledged:
                    return
                acknowledged[key] = told.sequence

    with ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(give, name) for name in range(8)]
        while len(acknowledged) < 200:
            time.sleep(0.01)
            assert not any(one.done() for one in writers)
        server.process.send_signal(signal.SIGKILL)
        for one in writers:
            one.result(30)
    server.process.communicate(timeout=20)

    with SqliteStore(store) as opened:
        found = {one.event.details.idempotency_key: one.seq for one in opened.events()}
    assert {key: found.get(key) for key in acknowledged} == acknowledged
    assert len(set(found.values())) == len(found)


def test_sigterm_writes_what_waits_and_closes(store: Path) -> None:
    server = start_server({"WHICHMODEL_FEEDBACK_STORE": str(store)})
    with http_client.Client(f"http://127.0.0.1:{server.port}", default_model="d", timeout_ms=20_000) as client:
        decision = client.route("hello").decision
    assert "Traceback" not in stop_server(server)
    assert server.process.returncode == 0
    assert not Path(f"{store}-wal").exists()
    with SqliteReader(store) as reader:
        assert reader.find_pending(decision["decision_id"]) is not None


@pytest.fixture(scope="module")
def router(both_tiers: RouterArtifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    directory = tmp_path_factory.mktemp("artifacts") / "v1"
    both_tiers.write(directory)
    router = Router.load(directory)
    yield router
    router.close()


class TestRealRouter:
    @pytest.mark.parametrize("bypass", [False, True])
    @pytest.mark.parametrize(
        "prompt", ["Which herbs go with roast chicken?", "Why does my loop never end? " * 300], ids=["short", "long"]
    )
    def test_both_vectors_and_the_features_are_kept(
        self, router: Router, store: Path, prompt: str, bypass: bool
    ) -> None:
        ids = [one.encoder.id for one in router.artifact.tiers]
        with serving(router, Settings(feedback_store=store)) as client:
            asked = {"prompt": prompt, "latency_budget_ms": 10_000, "cache": not bypass}
            answers = [client.route(asked).json for _ in range(2)]
            assert [(one["tier"], one["cached"]) for one in answers] == [("full", False), ("full", not bypass)]
            for one in answers:
                assert tell(client, {"decision_id": one["decision_id"], "rating": 1}).status == 200
            assert tell(client, {"prompt": prompt, "model": "m", "score": 1}).status == 200
        for event in events(store):
            assert [one.encoder_id for one in event.vectors] == ids
            for tier, vector in zip(router.artifact.tiers, event.vectors, strict=True):
                core = router.artifact.template.strip(prompt)
                assert vector.data == tier.encoder.encode(core).vector.astype("<f4").tobytes()
            assert event.surface is not None and event.surface.rule == FEATURES
            assert event.surface.data == router.see(prompt).features.astype("<f8").tobytes()

    def test_kept_vectors_and_features_place_a_prompt_where_it_was_placed(self, router: Router, store: Path) -> None:
        prompt = "Which herbs go with roast chicken?"
        with serving(router, Settings(feedback_store=store)) as client:
            decision_id = client.route({"prompt": prompt, "latency_budget_ms": 10_000}).json["decision_id"]
            tell(client, {"decision_id": decision_id, "rating": 1})
        (event,) = events(store)
        for tier, vector in zip(router.artifact.tiers, event.vectors, strict=True):
            seen = router.see(prompt, full=True)
            kept = np.frombuffer(vector.data, "<f4")[None]
            surface = np.frombuffer(event.surface.data, "<f8")[None]
            expected = tier.space.place_all(seen.vectors[tier.encoder.id][None], seen.features[None])
            assert np.array_equal(tier.space.place_all(kept, surface), expected)

    def test_without_time_to_encode_there_are_no_vectors(self, router: Router, store: Path) -> None:
        with serving(router, Settings(feedback_store=store)) as client:
            answer = client.route({"prompt": "x " * 100_000, "latency_budget_ms": 1}).json
            assert answer["tier"] == "prior"
            tell(client, {"decision_id": answer["decision_id"], "rating": 1})
        assert [(one.tier, one.vectors, one.surface) for one in events(store)] == [("prior", (), None)]

    @pytest.mark.parametrize("opted_in", [False, True])
    def test_text_is_nowhere_unless_somebody_opted_in(
        self, router: Router, store: Path, opted_in: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        with serving(router, Settings(feedback_store=store, feedback_keep_prompts=opted_in)) as client:
            for text in (f"what is {SECRET}?", f"{SECRET} " * 400):
                tell(client, {"decision_id": decided(client, text), "rating": 1})
                tell(client, {"prompt": text, "model": "m", "score": 1})
                decided(client, text)  # stays pending
            tell(client, {"prompt": SECRET, "model": "m", "score": "wrong"})
            during = b"".join(one.read_bytes() for one in store.parent.iterdir())
        after = b"".join(one.read_bytes() for one in store.parent.iterdir())
        assert (SECRET.encode() in during, SECRET.encode() in after) == (opted_in, opted_in)
        assert SECRET not in "".join(f"{one.getMessage()} {vars(one)}" for one in caplog.records)
        assert [one.prompt is not None for one in events(store)] == [opted_in] * 4


def test_metrics_tell_how_feedback_ended(client: Client) -> None:
    decision_id = decided(client)
    for rating, status in ((1, 200), (1, 200), (0, 409), (2, 422)):
        assert tell(client, {"decision_id": decision_id, "rating": rating}).status == status

    async def scrape() -> str:
        import httpx

        async with httpx.AsyncClient(transport=httpx.ASGITransport(client.app), base_url="http://test") as asked:
            return (await asked.get("/metrics")).text

    text = client.runner.run(scrape())
    for outcome, n in (("acknowledged", 1), ("duplicate", 1), ("refused", 2), ("shed", 0), ("failed", 0)):
        assert f'whichmodel_feedback_total{{outcome="{outcome}"}} {n}.0' in text
    assert "whichmodel_feedback_acknowledgement_seconds_count 2.0" in text
    assert "whichmodel_feedback_pending_decisions 1.0" in text
    assert "whichmodel_feedback_store_failed 0.0" in text


def test_the_examples_have_the_form(client: Client) -> None:
    for example in FEEDBACK_EXAMPLES.values():
        said = dict(example["value"])
        if "decision_id" in said:
            assert tell(client, said).status == 403  # well-formed, and of another service
            said["decision_id"] = decided(client)
        assert tell(client, said).status == 200


def test_a_store_in_use_is_refused_at_the_start(fake_router: FakeRouter, store: Path) -> None:
    with SqliteStore(store), pytest.raises(StoreLockedError, match=f"written by process {os.getpid()}"):
        create_app(as_router(fake_router), Settings(feedback_store=store))
