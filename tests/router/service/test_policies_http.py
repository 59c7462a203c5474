"""Named policies, sessions, keys with names and the log of decisions, as a client of the service sees them."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fake_service import MODELS, Client, FakeRouter, start_server, stop_server

from router.client import Client as HttpClient
from router.policies import Binding, PolicyBook
from router.service.auth import ApiKeys
from router.service.decision_log import LOGGER, session_hash
from router.service.logs import logging_config
from router.service.route import LONG_PROMPT_CHARS
from router.service.settings import LOG_FORMATS, Settings
from router.types import Needs, Policy

FIRM, DESK, UNNAMED = ({"x-api-key": key} for key in ("firm-key", "desk-key", "third-key"))
KEYS = ApiKeys.from_lines(["firm-key name=firm", "desk-key name=desk may=prompts", "third-key"], "the test")
BOOK = PolicyBook(
    {
        "legal": Policy(candidates=MODELS[:2], max_cost_usd=0.5),
        "house": Policy(strategy="cheap"),
        "code": Policy(require=("tools",)),
    },
    (
        Binding("legal", key="firm"),
        Binding("legal", application="mail", task="contracts"),
        Binding("code", role="coder"),
    ),
    default="house",
)


@pytest.fixture
def settings() -> Settings:
    return Settings(api_keys=KEYS, policies=BOOK)


def kind(answer: Any) -> tuple[int, str]:
    return answer.status, answer.json["error"]["type"]


class TestPolicies:
    @pytest.mark.parametrize(
        ("headers", "asked", "name", "by_intent"),
        [
            (FIRM, {}, "legal", {}),
            (DESK, {}, "house", {}),
            (UNNAMED, {"role": "coder"}, "code", {}),
            (DESK, {"application": "mail"}, "house", {"contracts": "legal"}),
            (DESK, {"application": "mail", "task": "contracts"}, "legal", {}),
            (DESK, {"application": "mail", "task": "poems"}, "house", {}),
            (DESK, {"policy": "code"}, "house+code", {}),
            (FIRM, {"policy": {"exclude": [MODELS[0]]}}, "legal+request", {}),
            (FIRM, {"policy": "legal"}, "legal", {}),
            (FIRM, {"policy": {}}, "legal", {}),
            # Nobody gets out of what is bound to a key by saying to be somebody else.
            (FIRM, {"role": "coder", "application": "desk", "task": "poems"}, "legal", {}),
        ],
    )
    def test_what_is_bound_reaches_the_router(
        self,
        client: Client,
        fake_router: FakeRouter,
        headers: dict[str, str],
        asked: dict[str, Any],
        name: str,
        by_intent: dict[str, str],
    ) -> None:
        answer = client.route({"prompt": "x", **asked}, headers=headers)
        (seen,) = fake_router.asked
        assert (answer.status, answer.json["policy"], seen["policy"].name) == (200, name, name)
        assert {intent: one.name for intent, one in seen["by_intent"].items()} == by_intent

    def test_a_request_only_tightens(self, client: Client, fake_router: FakeRouter) -> None:
        wishes = {"candidates": list(MODELS[1:]), "max_cost_usd": 9, "strategy": "quality", "min_gain": 0.0}
        assert client.route({"prompt": "x", "policy": wishes}, headers=FIRM).json["model"] == MODELS[1]
        policy = fake_router.asked[0]["policy"]
        assert (policy.candidates, policy.max_cost_usd, policy.strategy) == ((MODELS[1],), 0.5, "quality")

    def test_what_cannot_be_asked_is_422(self, client: Client, fake_router: FakeRouter) -> None:
        for policy, word in (
            ({"fallback": "CANARY"}, "fallback"),
            ({"candidates": ["CANARY"]}, "candidates"),
            ("CANARY", "none of this name is configured; known: legal, house, code"),
        ):
            answer = client.route({"prompt": "x", "policy": policy}, headers=FIRM)
            assert kind(answer) == (422, "policy")
            assert word in answer.json["error"]["message"] and "CANARY" not in json.dumps(answer.json)
        assert fake_router.asked == []

    def test_decisions_are_counted_by_policy(self, client: Client) -> None:
        for headers in (FIRM, FIRM, DESK):
            client.route({"prompt": "x", "policy": {"exclude": [MODELS[0]]}}, headers=headers)
        text = client.runner.run(_metrics(client))
        assert 'whichmodel_policy_decisions_total{policy="legal"} 2.0' in text
        assert 'whichmodel_policy_decisions_total{policy="house"} 1.0' in text


async def _metrics(client: Client) -> str:
    import httpx

    async with httpx.AsyncClient(transport=httpx.ASGITransport(client.app), base_url="http://test") as asking:
        return (await asking.get("/metrics", headers=FIRM)).text


class TestPrompts:
    def prompts(self, client: Client, headers: dict[str, str]) -> list[str | None]:
        neighbors = client.route({"prompt": "x", "explain": True}, headers=headers).json["explanation"]["neighbors"]
        return [one.get("prompt") for one in neighbors]

    def test_only_keys_that_may_see_stored_prompts_do(self, client: Client) -> None:
        assert self.prompts(client, DESK) == ["a stored prompt", None]
        assert self.prompts(client, FIRM) == self.prompts(client, UNNAMED) == [None, None]

    @pytest.mark.parametrize("settings", [Settings()])
    def test_without_keys_everybody_does(self, client: Client) -> None:
        assert self.prompts(client, {}) == ["a stored prompt", None]


class TestSessions:
    def test_two_keys_never_share_one(self, client: Client, fake_router: FakeRouter) -> None:
        for headers in (FIRM, DESK, UNNAMED, FIRM):
            answer = client.route({"prompt": "x", "session_id": "s"}, headers=headers)
            assert (answer.json["session"], answer.headers["x-whichmodel-session"]) == ("new", "new")
        first, *others, again = [one["session_id"] for one in fake_router.asked]
        assert first == again and len({first, *others}) == 3

    @pytest.mark.parametrize("settings", [Settings()])
    def test_without_keys_there_is_one_space_of_ids(self, client: Client, fake_router: FakeRouter) -> None:
        for session in ("s", "s", "t", None):
            client.route({"prompt": "x", "session_id": session})
        first, again, other, none = [one["session_id"] for one in fake_router.asked]
        assert first == again != other and none is None

    def test_without_a_session_there_is_no_header(self, client: Client) -> None:
        answer = client.route({"prompt": "x"}, headers=FIRM)
        assert answer.json["session"] is None and "x-whichmodel-session" not in answer.headers


def test_what_a_request_implies_reaches_the_router(client: Client, fake_router: FakeRouter) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    messages = [{"role": "user", "content": "how many?"}, call, {"role": "tool", "content": "42"}]
    client.route({"messages": messages}, headers=DESK)
    client.route({"prompt": "x" * (LONG_PROMPT_CHARS + 1), "response_format": {"type": "json_object"}}, headers=DESK)
    client.route({"prompt": "x", "hints": {"context_tokens": 9, "has_images": True}, "tools": [{}]}, headers=DESK)
    assert [one["needs"] for one in fake_router.asked] == [
        Needs(3, ("tools",), True),
        Needs(LONG_PROMPT_CHARS // 4 + 1, ("json",)),
        Needs(9, ("tools", "vision")),
    ]


class TestDecisionLog:
    FIELDS = (
        *("decision_id", "artifact_id", "model", "gateway_model", "endpoint", "reason", "policy", "key"),
        *("application", "role", "task", "intent", "session", "session_hash", "tier", "degraded", "cached"),
        *("quality", "cost_usd", "latency_ms", "propensity", "n_candidates", "excluded", "elapsed_ms", "budget_met"),
    )

    @pytest.fixture
    def lines(self, request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
        """What the logger of decisions writes in a form, JSON unless the test says otherwise."""
        log_format = getattr(request, "param", "json")
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging_config(Settings())["formatters"][log_format]["()"]())
        logger = logging.getLogger(LOGGER)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        yield stream
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)

    def test_one_line_per_decision(self, client: Client, lines: io.StringIO) -> None:
        asked = {
            "prompt": "CANARY in the prompt",
            "session_id": "CANARY-session",
            "application": "mail",
            "role": "writer",
            "task": "letters",
            "policy": {"exclude": [MODELS[0]]},
            "explain": True,
        }
        answer = client.route(asked, headers=DESK).json
        assert client.route({"prompt": " "}, headers=DESK).status == 422
        (line,) = lines.getvalue().splitlines()
        assert "CANARY" not in line
        content = json.loads(line)
        head = {name: content.pop(name) for name in ("time", "level", "logger", "message")}
        assert (head["level"], head["logger"], head["message"]) == ("info", LOGGER, "decided")
        assert tuple(content) == self.FIELDS
        for name in set(self.FIELDS) & set(answer) - {"intent"}:
            assert content[name] == answer[name]
        assert {name: content[name] for name in set(self.FIELDS) - set(answer)} == {
            "key": "desk",
            "application": "mail",
            "role": "writer",
            "task": "letters",
            "session_hash": session_hash("desk\0CANARY-session"),
            "n_candidates": 2,
            "excluded": {"excluded": 1},
        }
        assert content["intent"] == "code"

    def test_what_is_not_there_is_null(self, client: Client, lines: io.StringIO) -> None:
        client.route({"prompt": "x", "policy": {"candidates": [], "fallback": "mine"}}, headers=UNNAMED)
        content = json.loads(lines.getvalue())
        nothing = {name for name, value in content.items() if value is None}
        assert nothing == {
            *("gateway_model", "endpoint", "application", "role", "task", "session", "session_hash"),
            *("quality", "cost_usd", "latency_ms", "excluded"),
        }
        assert (content["model"], content["key"], content["n_candidates"]) == ("mine", "key3", 0)

    @pytest.mark.parametrize("lines", LOG_FORMATS, indirect=True)
    def test_names_cannot_forge_a_line(self, client: Client, lines: io.StringIO) -> None:
        hostile = 'a"\n2030-01-01T00:00:00.000Z ERROR router: \u2028\x1b[2J\x85{"level": "error"}, "model": "CANARY'
        for name in ("application", "role", "task"):
            assert client.route({"prompt": "x", name: hostile}, headers=DESK).status == 200
        policy = {"candidates": [], "fallback": hostile}
        assert client.route({"prompt": "x", "policy": policy}, headers=DESK).status == 200
        written = lines.getvalue()
        assert len(written.splitlines()) == 4 and written.replace("\n", "").isprintable()
        if written.startswith("{"):
            assert [json.loads(line)["level"] for line in written.splitlines()] == ["info"] * 4

    @pytest.mark.parametrize("lines", ["text"], indirect=True)
    def test_the_form_of_text(self, client: Client, lines: io.StringIO) -> None:
        answer = client.route({"prompt": "x", "task": "a b"}, headers=DESK).json
        line = lines.getvalue()
        assert f' INFO {LOGGER}: decided decision_id="{answer["decision_id"]}" ' in line
        assert ' key="desk" task="a b" intent="code" tier="static" degraded=false ' in line and "null" not in line

    @pytest.mark.parametrize("settings", [Settings(log_decisions=False)])
    def test_it_can_be_turned_off(self, client: Client, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("router.service.decision_log.written_fields", None)  # it is not even made
        assert client.route({"prompt": "x"}).status == 200
        assert lines.getvalue() == ""

    @pytest.mark.parametrize("settings", [Settings()])
    def test_a_higher_level_turns_it_off(
        self, client: Client, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("router.service.decision_log.written_fields", None)
        logging.getLogger(LOGGER).setLevel(logging.WARNING)
        assert client.route({"prompt": "x"}).status == 200
        assert lines.getvalue() == ""


def test_a_server_writes_its_decisions() -> None:
    started = start_server({"WHICHMODEL_LOG_DECISIONS": "true", "WHICHMODEL_LOG_FORMAT": "json"})
    try:
        with HttpClient(f"http://127.0.0.1:{started.port}", default_model="mine", timeout_ms=10_000) as client:
            answers = [client.route(f"CANARY {n}") for n in range(3)]
    finally:
        logged = stop_server(started)
    assert "CANARY" not in logged
    decisions = [json.loads(line) for line in logged.splitlines()]
    assert [(one["logger"], one["model"], one["key"]) for one in decisions] == [
        (LOGGER, one.model, None) for one in answers
    ]
