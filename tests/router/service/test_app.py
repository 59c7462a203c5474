"""The endpoints: what reaches the router, what comes back, keys at the door, and one form for every error."""

import asyncio
import json
import logging
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_service import MODELS, Answer, Client, FakeRouter, as_router

from router.deadline import now_ms
from router.service.answers import ErrorAnswer, RouteAnswer
from router.service.app import create_app
from router.service.auth import ApiKeys
from router.service.route import LONG_PROMPT_CHARS
from router.service.settings import Settings


def error_type(answer: Answer) -> str:
    """Check the form of an error and return its type."""
    return ErrorAnswer.model_validate(answer.json).error.type


class TestRoute:
    def test_the_answer_is_the_decision(self, client: Client) -> None:
        answer = client.route({"prompt": "hello"})
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert RouteAnswer.model_validate(answer.json).model == MODELS[0]
        assert "explanation" not in answer.json

    def test_an_explanation_only_when_asked(self, client: Client) -> None:
        answer = client.route({"prompt": "hello", "explain": True, "policy": {"exclude": [MODELS[1]]}})
        explanation = RouteAnswer.model_validate(answer.json).explanation
        assert explanation is not None
        assert [one.model for one in explanation.candidates] == [MODELS[0], MODELS[2]]

    def test_prompt_policy_and_budget_reach_the_router(self, client: Client, fake_router: FakeRouter) -> None:
        before = now_ms()
        client.route({"prompt": "hello", "latency_budget_ms": 7, "policy": {"candidates": [MODELS[2]]}})
        (asked,) = fake_router.asked
        assert asked["text"] == "hello"
        assert asked["latency_budget_ms"] == 7
        assert asked["policy"].candidates == (MODELS[2],)
        assert before <= asked["arrived_ms"] <= now_ms()

    def test_messages_are_folded_by_the_router(self, client: Client, fake_router: FakeRouter) -> None:
        parts = [{"type": "text", "text": "two"}, {"type": "image_url", "image_url": {"url": "x"}}]
        messages = [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "one", "name": "ann"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            {"role": "user", "content": parts},
        ]
        assert client.route({"messages": messages}).status == 200
        assert fake_router.asked[0]["text"] == "one\n\ntwo"

    @pytest.mark.parametrize("n_chars", [LONG_PROMPT_CHARS, LONG_PROMPT_CHARS + 1, 1_000_000])
    def test_long_prompts_get_the_same_answer(self, client: Client, fake_router: FakeRouter, n_chars: int) -> None:
        answer = client.route(b'{"prompt": "' + "é".encode() * n_chars + b'"}')
        assert (answer.status, answer.json["model"]) == (200, MODELS[0])
        assert fake_router.asked[0]["text"] == "é" * n_chars
        on_the_loop = fake_router.asked[0]["thread"] is threading.main_thread()
        assert on_the_loop == (n_chars <= LONG_PROMPT_CHARS)

    @pytest.mark.parametrize("settings", [Settings(latency_budget_ms=123)])
    def test_the_default_budget_is_a_setting(self, client: Client) -> None:
        assert client.route({"prompt": "hello"}).json["latency_budget_ms"] == 123

    def test_the_budget_runs_from_the_arrival(self, client: Client) -> None:
        async def late() -> AsyncIterator[bytes]:
            yield b'{"prompt": "hello",'
            await asyncio.sleep(0.03)
            yield b'"latency_budget_ms": 20}'

        answer = client.ask("POST", "/route", body=late())
        assert answer.json["elapsed_ms"] >= 30
        assert answer.json["budget_met"] is False
        assert answer.headers["x-whichmodel-budget-met"] == "false"

    def test_headers_carry_the_decision(self, client: Client) -> None:
        answer = client.route({"prompt": "hello", "policy": {"candidates": [MODELS[2]]}})
        headers = {name: value for name, value in answer.headers.items() if name.startswith("x-whichmodel-")}
        assert headers == {
            "x-whichmodel-model": "large/careful:v2",
            "x-whichmodel-tier": "static",
            "x-whichmodel-degraded": "false",
            "x-whichmodel-cached": "false",
            "x-whichmodel-artifact": "fake-0001",
            "x-whichmodel-elapsed-ms": f"{answer.json['elapsed_ms']:.4f}",
            "x-whichmodel-budget-met": "true",
            "x-whichmodel-endpoint": "eu%201",
            "x-whichmodel-gateway-model": "acme/large/careful:v2",
        }

    @pytest.mark.parametrize("name", ["a\r\nset-cookie: b", "a\nb", "naïve", "模型", "a b%0d", "\x7f\x1b", "a,b;c"])
    def test_a_name_cannot_break_out_of_its_header(self, client: Client, name: str) -> None:
        answer = client.route({"prompt": "hello", "policy": {"candidates": [], "fallback": name}})
        assert answer.json["model"] == name
        assert re.fullmatch(r"[\w.~%/:@+-]+", answer.headers["x-whichmodel-model"], re.ASCII)
        assert "set-cookie" not in answer.headers

    def test_no_content_type_is_fine_and_another_is_not(self, client: Client) -> None:
        assert client.ask("POST", "/route", body=b'{"prompt": "x"}').status == 200
        answer = client.route({"prompt": "x"}, headers={"content-type": "text/plain"})
        assert (answer.status, error_type(answer)) == (415, "media_type")

    def test_errors_of_the_router_are_422(self, client: Client) -> None:
        answer = client.route({"prompt": "  "})
        assert (answer.status, error_type(answer)) == (422, "prompt")
        answer = client.route({"messages": [{"role": "user", "content": [{"type": "text"}]}]})
        assert (answer.status, error_type(answer)) == (422, "prompt")
        answer = client.route({"prompt": "x", "policy": {"candidates": ["unknown"]}})
        assert (answer.status, error_type(answer)) == (422, "policy")

    def test_fields_that_are_wrong_are_listed(self, client: Client, fake_router: FakeRouter) -> None:
        answer = client.route({"prompt": 1, "policy": {"max_cost_usd": "x"}})
        assert (answer.status, error_type(answer)) == (422, "validation")
        assert {one["field"] for one in answer.json["error"]["details"]} == {"prompt", "policy.max_cost_usd"}
        assert fake_router.asked == []


class TestLimits:
    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(max_body_bytes=2_000, chunk_timeout_s=0.05)

    def test_a_body_at_the_cap_passes_and_one_byte_more_does_not(self, client: Client) -> None:
        body = b'{"prompt": "x"}'.ljust(2_000)
        assert client.route(body).status == 200
        answer = client.route(body + b" ")
        assert (answer.status, error_type(answer)) == (413, "too_large")
        assert answer.headers["connection"] == "close"

    def test_the_cap_counts_bytes_as_they_arrive(self, client: Client) -> None:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(1_000):
                sent += 100
                yield b" " * 100

        assert client.ask("POST", "/route", body=endless()).status == 413
        assert sent <= 2_200

    def test_an_announced_length_is_refused_unread(self, client: Client) -> None:
        for length in ("2001", "9" * 400):
            assert client.route(b"{}", headers={"content-length": length}).status == 413

    def test_a_length_that_lies_is_not_believed(self, client: Client) -> None:
        assert client.route(b" " * 2_001, headers={"content-length": "10"}).status == 413

    def test_a_slow_body_gets_408(self, client: Client) -> None:
        async def stalled() -> AsyncIterator[bytes]:
            yield b'{"prompt": '
            await asyncio.sleep(10)
            yield b'"x"}'

        answer = client.ask("POST", "/route", body=stalled())
        assert (answer.status, error_type(answer)) == (408, "timeout")

    def test_a_body_in_many_prompt_chunks_is_not_slow(self, client: Client) -> None:
        async def steady() -> AsyncIterator[bytes]:
            for one in b'{"prompt": "x"}':
                await asyncio.sleep(0.005)
                yield bytes([one])

        assert client.ask("POST", "/route", body=steady()).status == 200

    def test_a_trickle_ends_too(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("router.service.body.BODY_TIMEOUT_S", 0.1)

        async def trickle() -> AsyncIterator[bytes]:
            for _ in range(200):
                await asyncio.sleep(0.01)
                yield b" "

        assert client.ask("POST", "/route", body=trickle()).status == 408


class TestOtherEndpoints:
    def test_probes(self, client: Client) -> None:
        assert client.ask("GET", "/healthz").json == {"status": "ok"}
        assert client.ask("GET", "/readyz").json == {"status": "ok"}

    def test_not_ready_before_the_start_and_after_the_end(self, fake_router: FakeRouter) -> None:
        app = create_app(as_router(fake_router), Settings())
        with asyncio.Runner() as runner:
            client = Client(app, runner)
            assert client.ask("GET", "/healthz").status == 200
            answer = client.ask("GET", "/readyz")
            assert (answer.status, error_type(answer)) == (503, "not_ready")
            lifespan = app.router.lifespan_context(app)
            runner.run(lifespan.__aenter__())
            assert client.ask("GET", "/readyz").status == 200
            runner.run(lifespan.__aexit__(None, None, None))
            assert client.ask("GET", "/readyz").status == 503

    def test_the_artifact_describes_itself(self, client: Client, fake_router: FakeRouter) -> None:
        assert client.ask("GET", "/artifact").json == fake_router.describe()

    @pytest.mark.parametrize(
        ("method", "path", "status", "kind"),
        [
            ("GET", "/", 404, "not_found"),
            ("GET", "/healthz/", 404, "not_found"),
            ("POST", "/ROUTE", 404, "not_found"),
            ("GET", "/redoc", 404, "not_found"),
            ("GET", "/route", 405, "method_not_allowed"),
            ("PUT", "/route", 405, "method_not_allowed"),
            ("POST", "/artifact", 405, "method_not_allowed"),
            ("BREW", "/healthz", 405, "method_not_allowed"),
        ],
    )
    def test_other_paths_and_methods(self, client: Client, method: str, path: str, status: int, kind: str) -> None:
        answer = client.ask(method, path)
        assert (answer.status, error_type(answer)) == (status, kind)
        assert ("allow" in answer.headers) == (status == 405)


class TestKeys:
    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(api_keys=ApiKeys.from_lines(["good-key"], "the test"))

    PATHS = ("/route", "/artifact", "/docs", "/openapi.json", "/", "/healthz/", "//healthz", "/HEALTHZ", "/nothing")

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"x-api-key": ""},
            {"x-api-key": "bad-key"},
            {"authorization": "Bearer bad-key"},
            {"authorization": "Bearer"},
            {"authorization": "Basic good-key"},
            {"authorization": "good-key"},
            {"host": "test/healthz"},
            {"x-forwarded-prefix": "/healthz", "x-original-url": "/healthz"},
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
    def test_every_path_but_the_probes_needs_a_key(
        self, client: Client, method: str, path: str, headers: dict[str, str]
    ) -> None:
        answer = client.ask(method, path, headers=headers)
        assert (answer.status, error_type(answer)) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize("headers", [{"x-api-key": "good-key"}, {"authorization": "Bearer good-key"}])
    def test_a_key_opens(self, client: Client, headers: dict[str, str]) -> None:
        assert client.route({"prompt": "x"}, headers=headers).status == 200
        assert client.ask("GET", "/artifact", headers=headers).status == 200
        assert client.ask("GET", "/nothing", headers=headers).status == 404

    def test_the_probes_are_open(self, client: Client) -> None:
        assert client.ask("GET", "/healthz").status == 200
        assert client.ask("GET", "/readyz").status == 200

    def test_the_document_tells_of_401(self, client: Client) -> None:
        document = client.ask("GET", "/openapi.json", headers={"x-api-key": "good-key"}).json
        assert "401" in document["paths"]["/route"]["post"]["responses"]


class TestUnexpectedError:
    def test_it_is_500_with_an_id_and_a_traceback_without_the_prompt(
        self, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        client.raise_app_exceptions = False
        with caplog.at_level(logging.DEBUG):
            answer = client.route({"prompt": "please fail on CANARY"})
        assert (answer.status, error_type(answer)) == (500, "internal")
        assert "CANARY" not in json.dumps(answer.json)
        assert "CANARY" not in caplog.text
        (error_id,) = re.findall(r"[0-9a-f]{32}", answer.json["error"]["message"])
        (record,) = [one for one in caplog.records if one.name == "router.service.app"]
        assert (record.getMessage(), vars(record)["error_id"]) == ("unexpected RuntimeError", error_id)
        assert any(one.endswith(" in begin") for one in vars(record)["frames"])

    def test_a_long_prompt_fails_alike(self, client: Client, caplog: pytest.LogCaptureFixture) -> None:
        client.raise_app_exceptions = False
        assert client.route({"prompt": "please fail on CANARY" + "x" * LONG_PROMPT_CHARS}).status == 500
        assert "CANARY" not in caplog.text


class TestDocument:
    @pytest.fixture
    def document(self, client: Client) -> Any:
        return client.ask("GET", "/openapi.json").json

    def test_every_reference_resolves(self, document: Any) -> None:
        names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
        assert {"RouteRequest", "RequestPolicy", "Message", "RouteAnswer", "ErrorAnswer"} <= names
        assert names <= set(document["components"]["schemas"])

    def test_the_examples_in_it_work(self, client: Client, document: Any) -> None:
        examples = document["paths"]["/route"]["post"]["requestBody"]["content"]["application/json"]["examples"]
        assert len(examples) >= 3
        for example in examples.values():
            assert client.route(example["value"]).status == 200

    def test_every_status_of_route_is_described(self, document: Any) -> None:
        responses = document["paths"]["/route"]["post"]["responses"]
        assert set(responses) == {"200", "400", "408", "413", "415", "422", "429", "500"}
        assert "example" in responses["200"]["content"]["application/json"]

    def test_the_page_is_there(self, client: Client) -> None:
        async def fetch() -> int:
            import httpx

            async with httpx.AsyncClient(transport=httpx.ASGITransport(client.app), base_url="http://test") as asked:
                return (await asked.get("/docs")).status_code

        assert client.runner.run(fetch()) == 200
