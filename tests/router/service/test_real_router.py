"""The service around the real router: an artifact written, loaded, and asked over the application."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fake_service import Client
from hostile import HAND_MADE, check_answer, mutated_values
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from router.artifact import RouterArtifact
from router.policies import Binding, PolicyBook
from router.router import Router
from router.service.answers import RouteAnswer
from router.service.app import create_app
from router.service.auth import ApiKeys
from router.service.schema import REQUEST_EXAMPLES
from router.service.settings import Settings
from router.types import Policy


@pytest.fixture(scope="module")
def router(artifact: RouterArtifact, tmp_path_factory: pytest.TempPathFactory) -> Router:
    stored = replace(artifact, prompts=tuple(f"prompt of row {row}" for row in range(artifact.n_rows)))
    directory = tmp_path_factory.mktemp("artifacts") / "v1"
    stored.write(directory)
    return Router.load(directory)


@pytest.fixture(scope="module")
def real_client(router: Router) -> Iterator[Client]:
    app = create_app(router, Settings())
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        yield Client(app, runner)
        runner.run(lifespan.__aexit__(None, None, None))


@pytest.mark.parametrize(
    ("prompt", "model"),
    [
        ("Why does my script raise an error in the parser?", "coder-medium"),
        ("Which herbs go with roast chicken?", "chef-large"),
    ],
)
@pytest.mark.parametrize("as_messages", [False, True])
def test_prompts_go_where_the_evidence_says(real_client: Client, prompt: str, model: str, as_messages: bool) -> None:
    asked: Any = {"messages": [{"role": "user", "content": prompt}]} if as_messages else {"prompt": prompt}
    answer = real_client.route({**asked, "explain": True, "latency_budget_ms": 10_000})
    content = RouteAnswer.model_validate(answer.json)
    assert (content.model, content.tier) == (model, "static")
    assert content.explanation is not None
    nearest = content.explanation.neighbors[0]
    assert nearest.prompt == f"prompt of row {nearest.row}"
    assert answer.headers["x-whichmodel-artifact"] == content.artifact_id


def test_the_answer_is_the_decision_of_the_router(real_client: Client, router: Router) -> None:
    for prompt in ("Fix the regex in my thread script", "Why does my loop never end? " * 1_000):
        answer = real_client.route({"prompt": prompt, "explain": True})
        decision = router.route(prompt).to_json(explain=True)
        for name in ("elapsed_ms", "decision_id", "budget_met"):
            decision.pop(name)
        assert {name: value for name, value in answer.json.items() if name in decision} == decision


CODE, COOKING = "Why does my script raise an error in the parser?", "Which herbs go with roast chicken?"


@pytest.fixture(scope="module")
def bound_client(router: Router) -> Iterator[Client]:
    """The same router, where policies are bound to a key and to an intent."""
    book = PolicyBook(
        {"kitchen": Policy(candidates=("guide-small",)), "firm": Policy(exclude=("coder-medium",))},
        (Binding("firm", key="firm"), Binding("kitchen", task="cooking")),
    )
    keys = ApiKeys.from_lines(["firm-key name=firm", "desk-key"], "the test")
    app = create_app(router, Settings(policies=book, api_keys=keys))
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        yield Client(app, runner)
        runner.run(lifespan.__aexit__(None, None, None))


@pytest.mark.parametrize(
    ("key", "asked", "model", "policy"),
    [
        ("desk", {"prompt": CODE}, "coder-medium", None),
        ("desk", {"prompt": COOKING}, "guide-small", "kitchen"),
        ("desk", {"prompt": COOKING, "task": "code"}, "chef-large", None),
        ("desk", {"prompt": CODE, "task": "cooking"}, "guide-small", "kitchen"),
        ("desk", {"prompt": COOKING, "policy": {"min_gain": 0.5}}, "guide-small", "kitchen+request"),
        ("firm", {"prompt": COOKING}, "chef-large", "firm"),
        ("firm", {"prompt": CODE, "policy": {"exclude": ["chef-large"]}}, "guide-small", "firm+request"),
    ],
)
def test_what_is_bound_to_a_key_or_an_intent_decides(
    bound_client: Client, key: str, asked: dict[str, Any], model: str, policy: str | None
) -> None:
    asked = {**asked, "latency_budget_ms": 10_000}
    answer = bound_client.route(asked, headers={"x-api-key": f"{key}-key"}).json
    assert (answer["model"], answer["policy"]) == (model, policy)


def test_a_session_stays_with_its_model_for_its_key_alone(bound_client: Client) -> None:
    desk, firm = {"x-api-key": "desk-key"}, {"x-api-key": "firm-key"}

    def ask(prompt: str | None, headers: dict[str, str], **more: Any) -> tuple[str, str, str]:
        asked = {"prompt": prompt, "session_id": "s-1", "task": "none", "latency_budget_ms": 10_000, **more}
        answer = bound_client.route(asked, headers=headers).json
        return answer["model"], answer["session"], answer["reason"]

    assert ask(CODE, desk) == ("coder-medium", "new", "best")
    stay = {"policy": {"switch_margin": 1.0}}
    assert ask(COOKING, desk, **stay) == ("coder-medium", "kept", "session")
    assert ask(COOKING, firm, **stay) == ("chef-large", "new", "best")
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    open_call = [{"role": "user", "content": COOKING}, call]
    assert ask(None, desk, messages=open_call) == ("coder-medium", "kept", "tool_call")
    assert ask(COOKING, desk) == ("chef-large", "switched", "best")


@pytest.mark.parametrize("example", REQUEST_EXAMPLES.values(), ids=REQUEST_EXAMPLES)
def test_the_documented_examples_work(real_client: Client, example: dict[str, Any]) -> None:
    RouteAnswer.model_validate(real_client.route(example["value"]).json)


@pytest.mark.parametrize("usd", [0, 5e-324, 1e-300, 0.001, 1e9])
@pytest.mark.parametrize("name", ["max_cost_usd", "willingness_to_pay_usd"])
def test_every_price_that_is_accepted_gives_finite_numbers(real_client: Client, name: str, usd: float) -> None:
    answer = real_client.route({"prompt": "hello", "policy": {name: usd, "fallback": "other"}, "explain": True})
    RouteAnswer.model_validate(answer.json)


def test_errors_of_the_router_do_not_repeat_the_request(real_client: Client, router: Router) -> None:
    policies: list[dict[str, list[str]]] = [
        {"candidates": ["CANARY"]},
        {"candidates": []},
        {"exclude": [*router.artifact.models, "CANARY"]},
    ]
    for policy in policies:
        answer = real_client.route({"prompt": "hello", "policy": policy})
        assert (answer.status, answer.json["error"]["type"]) == (422, "policy")
        assert "CANARY" not in json.dumps(answer.json)


def test_the_artifact_describes_itself(real_client: Client, router: Router) -> None:
    about = real_client.ask("GET", "/artifact").json
    assert about == json.loads(json.dumps(router.describe()))
    assert about["verdict"] == {"label": "ROUTE", "text": router.artifact.verdict.text}


@pytest.mark.parametrize(("body", "status"), HAND_MADE.values(), ids=HAND_MADE)
def test_hand_made_bodies(real_client: Client, body: bytes, status: int) -> None:
    assert real_client.route(body).status == status


@hypothesis_settings(max_examples=200)
@given(body=mutated_values())
def test_requests_with_other_values(real_client: Client, body: bytes) -> None:
    check_answer(real_client, body)


@hypothesis_settings(max_examples=200)
@given(prompt=st.text(max_size=60))
def test_any_prompt_is_answered(real_client: Client, prompt: str) -> None:
    status = check_answer(real_client, json.dumps({"prompt": prompt}).encode())
    assert (status == 200) == (bool(prompt.strip()) and "\x00" not in prompt)
