"""Hostile bytes: whatever is sent, the answer is JSON below 500 and repeats nothing."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from fake_service import Client, FakeRouter, as_router
from hostile import HAND_MADE, JSON_VALUES, check_answer, mutated_bytes, mutated_values
from hypothesis import given, settings
from hypothesis import strategies as st

from router.service.answers import ErrorAnswer
from router.service.app import create_app
from router.service.settings import Settings


@pytest.fixture(scope="module")
def shared_client() -> Iterator[Client]:
    app = create_app(as_router(FakeRouter()), Settings())
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        yield Client(app, runner)
        runner.run(lifespan.__aexit__(None, None, None))


@pytest.mark.parametrize(("body", "status"), HAND_MADE.values(), ids=HAND_MADE)
def test_hand_made_bodies(shared_client: Client, body: bytes, status: int) -> None:
    answer = shared_client.route(body)
    assert answer.status == status
    assert "CANARY" not in json.dumps(answer.json)
    ErrorAnswer.model_validate(answer.json)


@settings(max_examples=300)
@given(body=st.binary(max_size=200))
def test_random_bytes(shared_client: Client, body: bytes) -> None:
    check_answer(shared_client, body)


@settings(max_examples=300)
@given(body=JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_random_json(shared_client: Client, body: bytes) -> None:
    check_answer(shared_client, body)


@settings(max_examples=300)
@given(body=mutated_values())
def test_requests_with_other_values(shared_client: Client, body: bytes) -> None:
    check_answer(shared_client, body)


@settings(max_examples=300)
@given(body=mutated_bytes())
def test_requests_with_other_bytes(shared_client: Client, body: bytes) -> None:
    check_answer(shared_client, body)


@settings(max_examples=200)
@given(
    headers=st.dictionaries(
        st.sampled_from(["content-type", "content-length", "content-encoding", "authorization", "x-api-key", "host"]),
        st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=255), max_size=30).map(str.strip),
    )
)
def test_random_headers(shared_client: Client, headers: dict[str, str]) -> None:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    answer = shared_client.ask("POST", "/route", body=b'{"prompt": "x"}', headers=encoded)
    assert answer.status in {200, 413, 415}
