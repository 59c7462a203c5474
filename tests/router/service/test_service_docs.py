"""docs/service.md says what the code does: paths, fields, settings, limits, statuses, and examples that work."""

import json
import re
from pathlib import Path

import pytest
from fake_service import MODELS, Client, start_server, stop_server
from starlette.routing import Route

from router import client as http_client
from router.service import body, schema, server
from router.service.schema import ErrorAnswer, RequestPolicy, RouteAnswer, RouteRequest
from router.service.settings import Settings

PAGE = (Path(__file__).parents[3] / "docs" / "service.md").read_text("utf-8")


def test_every_path_is_named(client: Client) -> None:
    paths = {route.path for route in client.app.routes if isinstance(route, Route)} - {"/docs/oauth2-redirect"}
    assert paths == set(re.findall(r"`(?:GET|POST) (/[\w.]+)`", PAGE))


def test_every_field_is_named() -> None:
    fields = {*RouteRequest.model_fields, *(f"policy.{name}" for name in RequestPolicy.model_fields)} - {"policy"}
    assert fields == set(re.findall(r"^\| `((?!WHICHMODEL)[\w.]+)` \|", PAGE, re.MULTILINE))


def test_every_setting_is_named_with_its_default() -> None:
    named = dict(re.findall(r"^\| `(WHICHMODEL_\w+)` \| `?([\w.]+)", PAGE, re.MULTILINE))
    assert named.pop("WHICHMODEL_API_KEYS") == named.pop("WHICHMODEL_API_KEYS_FILE") == "none"
    assert Settings.from_environment(named) == Settings()
    assert {key.removeprefix("WHICHMODEL_").lower() for key in named} == set(Settings.__slots__) - {"api_keys"}


@pytest.mark.parametrize(
    "text",
    [
        f"| {Settings().max_body_bytes:,} bytes (settable)",
        f"| {Settings().chunk_timeout_s:.0f} s (settable)",
        f"| time for a whole body | {body.BODY_TIMEOUT_S:.0f} s |",
        f"| {server.MAX_HEAD_BYTES:,} bytes |",
        f"({server.SHUTDOWN_TIMEOUT_S} seconds at most)",
        f"| {schema.MAX_PROMPT_CHARS:,} characters |",
        f"| messages | {schema.MAX_MESSAGES:,} |",
        f"| {schema.MAX_NAMES:,} each |",
        f"| 1 to {schema.MAX_NAME_CHARS} characters |",
        f"| nesting of the JSON | {body.MAX_DEPTH} |",
        f"| values in the JSON | {body.MAX_VALUES:,} |",
        f"at most {body.MAX_INTEGER_CHARS} characters |",
        f"or is longer than {http_client.MAX_ANSWER_BYTES:,} bytes",
        f"keeps up to {http_client.MAX_IDLE_CONNECTIONS} idle connections",
    ],
)
def test_every_limit_is_the_one_in_force(text: str) -> None:
    assert text in PAGE


def test_the_examples_work(client: Client) -> None:
    requests = re.findall(r"/route .*-d '(.*)'", PAGE)
    assert len(requests) == 3
    for request in requests:
        assert client.route(request.encode()).status == 200
    answer, error = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
    RouteAnswer.model_validate(answer)
    assert (
        client.route({"prompt": "x", "latency_budget_ms": "x"}).json == ErrorAnswer.model_validate(error).model_dump()
    )


def test_the_example_of_the_client_works(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(from router\.client .*?)```", PAGE, re.DOTALL)
    started = start_server({})
    try:
        # This machine may be busy: what the example shows is not its time.
        exec(example.replace(":8080", f":{started.port}").replace("timeout_ms=100", "timeout_ms=10_000"), names := {})
        names["client"].close()
    finally:
        logged = stop_server(started)
    model, decided = capsys.readouterr().out.splitlines()
    assert (model, decided.split()[0], logged) == (MODELS[0], "best", "")
