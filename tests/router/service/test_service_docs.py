"""docs/service.md says what the code does: paths, fields, settings, limits, statuses, and examples that work."""

import json
import logging
import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from fake_service import MODELS, Client, start_server, stop_server
from starlette.routing import Route

from router import client as http_client
from router.feedback.sqlite_store import SqliteStore
from router.policies import Binding
from router.service import body, schema, server
from router.service.answers import ANSWER_EXAMPLE, ErrorAnswer, ReloadAnswer, RouteAnswer
from router.service.auth import RIGHTS, ApiKeys, Caller
from router.service.config import read_config
from router.service.decision_log import LOGGER, written_fields
from router.service.feedback_metrics import FeedbackMetrics
from router.service.logs import WRITTEN_FIELDS, logging_config
from router.service.metrics import Metrics
from router.service.schema import RequestHints, RequestPolicy, RouteRequest
from router.service.settings import SETTINGS, Setting, Settings
from router.types import Decision, Estimate, Intent

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "service.md").read_text("utf-8")
SAMPLE_HEAD = """\
# Settings of the service, all at their defaults: whichmodel serve --config whichmodel.toml
# WHICHMODEL_<NAME> in the environment wins over this file, and the command line over both. Paths are relative to this
# file. API keys do not stand here: name a file of them, or set WHICHMODEL_API_KEYS in the environment.
"""


PARTS = {"policy": RequestPolicy, "hints": RequestHints}
SAMPLE_POLICIES = """\

# Policies have the fields of a request's policy; bindings say for whom they hold. docs/service.md has more.

#[policies]
#default = "house"  # of whom no binding names

#[policies.house]
#strategy = "balanced"

#[policies.legal]
#region = ["eu", "ch"]
#require = ["tools"]
#max_cost_usd = 0.02

#[[bindings]]
#policy = "legal"
#key = "mail"  # as the file of API keys calls it; or one or more of application, role, task
"""


def section(title: str) -> str:
    """Return a section of the page."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def toml(value: object) -> str:
    """Return a value as the file of settings has it."""
    return json.dumps(value) if isinstance(value, str | bool) else str(value).removesuffix(".0")


def allowed(one: Setting) -> str:
    """Return what a setting may be."""
    if one.kind in (int, float):
        return f"{one.low:,} to {one.high:,} {one.unit}".rstrip()
    choices = ("true", "false") if one.kind is bool else one.choices
    return ", ".join(f"`{choice}`" for choice in choices) or ("path" if one.kind is Path else "text")


def table_row(one: Setting) -> str:
    """Return the line that the page must have about a setting."""
    default = "none" if one.default is None else f"`{toml(one.default)}`"
    return f"| `{one.key}` | `{one.variable}` | {default} | {allowed(one)} | {one.help} |"


def sample() -> str:
    """Return the sample file."""
    lines = [SAMPLE_HEAD]
    for table in dict.fromkeys(one.table for one in SETTINGS):
        lines.append(f"[{table}]")
        for one in (one for one in SETTINGS if one.table == table):
            lines.append(f"# {one.help} ({allowed(one).replace('`', '')})")
            examples = {
                "artifact": "models/live",
                "api_keys_file": "api_keys.txt",
                "profiles": "profiles.yaml",
                "feedback_store": "feedback.db",
                "shadow_artifact": "models/next",
                "shadow_log": "shadow.jsonl",
            }
            unset = one.default is None
            lines.append(
                f"{'# ' if unset else ''}{one.short_name} = {toml(examples[one.name] if unset else one.default)}\n"
            )
    return "\n".join(lines).rstrip() + "\n" + SAMPLE_POLICIES


def test_every_path_is_named(client: Client) -> None:
    paths = {route.path for route in client.app.routes if isinstance(route, Route)} - {"/docs/oauth2-redirect"}
    assert paths == set(re.findall(r"`(?:GET|POST) (/[\w./]+)`", PAGE))


def test_every_field_is_named() -> None:
    policy, hints = ([f"{name}.{one}" for one in model.model_fields] for name, model in PARTS.items())
    fields = {*RouteRequest.model_fields, *policy, *hints} - {"hints"}
    assert fields == set(re.findall(r"^\| `([\w.]+)` \|", section("POST /route"), re.MULTILINE))


def test_every_setting_is_named_as_the_table_has_it() -> None:
    rows = [line for line in section("Settings").splitlines() if line.startswith("| `")]
    assert rows == [table_row(one) for one in SETTINGS]


def test_the_sample_file_is_the_table_at_its_defaults(tmp_path: Path) -> None:
    assert (DOCS / "whichmodel.toml").read_text("utf-8") == sample()
    assert read_config(DOCS / "whichmodel.toml", {}, {}).settings == Settings()
    every = tmp_path / "whichmodel.toml"
    every.write_text(re.sub(r"^# (?=\w+ = )", "", sample(), flags=re.MULTILINE))
    (tmp_path / "api_keys.txt").write_text("a-key\n")
    assert set(read_config(every, {}, {}).sources) - {"api_keys"} == {one.name for one in SETTINGS}


def test_the_policies_of_the_sample_file_are_in_order(tmp_path: Path) -> None:
    path = tmp_path / "whichmodel.toml"
    path.write_text(re.sub(r"^#(?=[\w\[])", "", sample(), flags=re.MULTILINE))
    book = read_config(path, {"WHICHMODEL_API_KEYS": "a-key name=mail"}, {}).settings.policies
    assert (list(book.policies), book.default, book.bindings) == (
        ["house", "legal"],
        "house",
        (Binding("legal", key="mail"),),
    )


def test_the_policies_of_the_page_are_in_order(tmp_path: Path) -> None:
    path = tmp_path / "whichmodel.toml"
    path.write_text(section("Policies").split("```toml\n")[1].split("```")[0])
    book = read_config(path, {"WHICHMODEL_API_KEYS": "a-key name=clinic"}, {}).settings.policies
    assert [one.policy for one in book.bindings] == ["private", "legal"]


def test_the_table_of_layers_has_every_field_of_a_policy_once() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section("Policies"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"\w+", row)]
    assert sorted(named) == sorted(RequestPolicy.model_fields)


def test_the_keys_of_the_page_are_in_order() -> None:
    (lines,) = re.findall(r"```text\n(.*?)```", section("Keys"), re.DOTALL)
    keys = ApiKeys.from_lines(lines.splitlines(), "the page")
    assert keys.callers == (Caller("mail"), Caller("lab", frozenset({"prompts"})), Caller("key3"))
    assert all(f"may={right}" in section("Keys") for right in RIGHTS)


def test_the_example_of_check_config_is_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = section("Settings").split("--check-config --config whichmodel.toml")[1].split("```")[0].splitlines()[1:]
    monkeypatch.chdir(tmp_path)
    Path("whichmodel.toml").write_text(section("Settings").split("```toml\n")[1].split("```")[0])
    printed = read_config("whichmodel.toml", {"WHICHMODEL_API_KEYS": "a,b"}, {"port": 9000}).render()
    assert shown[:-1] == printed.splitlines()


def test_every_metric_is_named_with_its_type(tmp_path: Path) -> None:
    def zero() -> float:
        return 0

    metrics = Metrics(
        artifact_id="x",
        verdict="ROUTE",
        tiers=("static",),
        queue_length=zero,
        encoder_waiting=zero,
        in_flight=zero,
        cache_entries=zero,
        sessions=zero,
    )
    with SqliteStore(tmp_path / "feedback.db") as store:
        FeedbackMetrics(metrics.registry, in_flight=zero, store=store)
        metrics.render()
    exposed = dict(re.findall(r"^# TYPE (\w+) (\w+)$", metrics.render().decode(), re.MULTILINE))
    named = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", section("Metrics"), re.MULTILINE))
    assert named == {name: kind for name, kind in exposed.items() if name.startswith("whichmodel_")}
    assert set(re.findall(r"`(process_\w+)`", section("Metrics"))) <= set(exposed)
    outcomes = set(re.findall(r'outcome="(\w+)"', metrics.render().decode()))
    assert all(f"`{outcome}`" in section("Metrics") for outcome in outcomes)

    scrape, alerts = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", section("Metrics"), re.DOTALL))
    assert scrape["scrape_configs"]
    for rule in alerts["groups"][0]["rules"]:
        assert set(re.findall(r"whichmodel_\w+", rule["expr"])) <= set(exposed)
        assert {
            one for found in re.findall(r'outcome=~?"([\w|]+)"', rule["expr"]) for one in found.split("|")
        } <= outcomes


def test_the_log_lines_are_in_their_forms() -> None:
    form = {"text": r"```text\n(.*)\n```", "json": r"```jsonl\n(.*)\n```"}
    for log_format, pattern in form.items():
        record = logging.makeLogRecord({"name": "router.service.app", "levelname": "ERROR", "error_id": "3b1f0c9a"})
        record.msg, record.args = "unexpected %s", ("RuntimeError",)
        record.created = datetime(2026, 1, 31, 9, 30, 0, 123_000, UTC).timestamp()
        formatter = logging_config(Settings())["formatters"][log_format]["()"]()
        assert re.findall(pattern, section("Logs"))[:1] == [formatter.format(record)]


def test_the_line_of_a_decision_is_what_is_logged() -> None:
    example = ANSWER_EXAMPLE
    said = {"model": example["model"], **dict.fromkeys(("quality", "low", "high", "support", "utility"), 0.0)}
    chosen = Estimate(**{**said, "quality": example["quality"]}, cost_usd=0.00042, latency_ms=2350.0)
    plain = {one.name: example[one.name] for one in fields(Decision) if one.name in example}
    decision = Decision(
        **{**plain, "intent": Intent("code", 0.8, 0.7), "fallbacks": tuple(example["fallbacks"])},
        **{"summary": "", "estimates": (chosen,), "excluded": (), "neighbors": ()},
    )
    asked = RouteRequest(prompt="x", application="mail", role="writer", task="letters")
    record = logging.makeLogRecord({"name": LOGGER, "levelname": "INFO", "msg": "decided"})
    record.created = datetime(2026, 1, 31, 9, 30, 0, 123_000, UTC).timestamp()
    vars(record)[WRITTEN_FIELDS] = written_fields(decision, asked, Caller("mail"), "mail\0trip-17")
    line = logging_config(Settings())["formatters"]["json"]["()"]().format(record)
    assert re.findall(r"```jsonl\n(.*)\n```", section("Logs"))[1:] == [line]
    assert json.loads(line)["session_hash"]


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
    answer, error, reloaded = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
    RouteAnswer.model_validate(answer)
    ReloadAnswer.model_validate(reloaded)
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
