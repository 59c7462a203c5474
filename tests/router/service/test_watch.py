"""Drift in the service: what counts, what a reload forgets, ratings, metrics, and ``whichmodel drift``."""

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_service import MODELS, Client, FakeRouter, as_router, start_server, stop_server
from prometheus_client import CollectorRegistry, generate_latest

from router import drift
from router.artifact import RouterArtifact
from router.cli import main
from router.drift import OK, SIGNALS, TOO_FEW, UNKNOWN
from router.feedback.events import Battle, FeedbackEvent, Score
from router.policies import PolicyBook
from router.router import Router
from router.service import watch as watch_room
from router.service.schema import RouteRequest
from router.service.settings import Settings
from router.service.shadow import BUSY_SHARE, MAX_CHARS, MAX_WAITING, OUTCOMES, Shadow
from router.service.watch import Watch
from router.shadow_log import ShadowLog
from router.types import Decision, Policy

ASKED = RouteRequest(prompt="x")
PAGE = (Path(__file__).parents[3] / "docs" / "watch.md").read_text("utf-8")


def no_policies() -> Any:
    raise AssertionError("nobody needs them")


def settled(watch: Watch) -> None:
    """Wait for the reference that is being made."""
    for thread in threading.enumerate():
        if thread.name == "drift":
            thread.join(60)


def verdict(artifact_id: str, rating: float = 0.5, quality: float | None = 0.7) -> FeedbackEvent:
    """Return what a rating of a decision becomes."""
    return FeedbackEvent(1.0, "anybody", Score(MODELS[0], rating), "00", artifact_id=artifact_id, quality=quality)


@pytest.fixture
def decision(fake_router: FakeRouter) -> Decision:
    return replace(fake_router.route("x"), nearest=0.7)


@pytest.fixture
def watch(fake_router: FakeRouter) -> Iterator[Watch]:
    made = Watch(Settings())
    made.start(as_router(fake_router))
    settled(made)
    yield made
    made.close()


def exposed(watch: Watch) -> str:
    registry = CollectorRegistry()
    registry.register(watch)
    return generate_latest(registry).decode()


def test_decisions_are_counted_and_labels_are_of_signals_alone(watch: Watch, decision: Decision) -> None:
    for _ in range(3):
        watch.answered(decision, ASKED, None, no_policies)
    text = exposed(watch)
    assert "whichmodel_drift_decisions 3.0" in text
    assert 'whichmodel_drift_status{signal="far"} -1.0' in text
    labels = {line.split("{")[1].split("}")[0] for line in text.splitlines() if "{" in line}
    assert labels == {f'signal="{name}"' for name in SIGNALS}


def test_only_usual_policies_tell_of_models(watch: Watch, decision: Decision) -> None:
    watch.answered(decision, ASKED, None, no_policies)
    watch.answered(decision, RouteRequest(prompt="x", policy={"strategy": "cheap"}), None, no_policies)
    watch.answered(replace(decision, policy="house"), ASKED, None, no_policies)
    watch.answered(replace(decision, propensity=0.1), ASKED, None, no_policies)
    watch.answered(replace(decision, session="kept"), ASKED, None, no_policies)
    report = watch.report()
    assert (report.n_decisions, report.signal("models").n) == (5, 1)


def test_a_default_policy_is_the_usual_one(fake_router: FakeRouter, decision: Decision) -> None:
    watch = Watch(Settings(policies=PolicyBook({"house": Policy(name="house")}, default="house")))
    watch.start(as_router(fake_router))
    watch.answered(replace(decision, policy="house"), ASKED, None, no_policies)
    watch.answered(decision, ASKED, None, no_policies)
    watch.close()
    assert watch.report().signal("models").n == 1


def test_another_router_begins_anew(watch: Watch, decision: Decision) -> None:
    watch.answered(decision, ASKED, None, no_policies)
    other = FakeRouter()
    other.artifact.id = "fake-0002"
    watch.follow(as_router(other))
    assert watch.report().n_decisions == 0
    watch.answered(decision, ASKED, None, no_policies)  # one that the router before was still with
    watch.answered(replace(decision, artifact_id="fake-0002"), ASKED, None, no_policies)
    assert (watch.report().n_decisions, watch.report().artifact_id) == (1, "fake-0002")
    watch.judged(verdict("fake-0001"))
    assert watch.report().signal("calibration").n == 0
    watch.judged(verdict("fake-0002"))
    assert watch.report().signal("calibration").n == 1


def test_the_same_artifact_again_goes_on(watch: Watch, decision: Decision) -> None:
    watch.answered(decision, ASKED, None, no_policies)
    watch.follow(as_router(FakeRouter()))
    assert watch.report().n_decisions == 1


def test_ratings_are_compared_with_what_was_expected(watch: Watch) -> None:
    for number in range(60):
        watch.judged(verdict("fake-0001", 0.7 + 0.001 * (-1) ** number, quality=0.9))
    watch.judged(verdict("fake-0001", quality=None))  # nothing was expected
    watch.judged(replace(verdict("fake-0001"), outcome=Battle(*MODELS[:2], "model_a")))
    signal = watch.report().signal("calibration")
    assert (signal.n, signal.status) == (60, "alarm") and signal.value == pytest.approx(0.2, abs=1e-6)


def test_it_can_be_turned_off(fake_router: FakeRouter, decision: Decision) -> None:
    watch = Watch(Settings(drift_window=0))
    watch.start(as_router(fake_router))
    watch.answered(decision, ASKED, None, no_policies)
    assert exposed(watch) == "" and watch.report().n_decisions == 0
    assert "drift" not in {one.name for one in threading.enumerate()}
    watch.judged(verdict("fake-0001"))
    assert watch.report().signal("calibration").n == 0
    watch.close()


class TestTurnedOff:
    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(drift_window=0)

    def test_the_endpoint_says_so(self, client: Client) -> None:
        answer = client.ask("GET", "/drift")
        assert answer.status == 404 and answer.json["error"]["type"] == "drift_off"
        assert "drift.window" in answer.json["error"]["message"]


def test_the_reference_comes_in_the_background(artifact: RouterArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_room, "PAUSE_S", 0.001)
    router = Router(replace(artifact, id="an-id"))
    watch = Watch(Settings())
    watch.start(router)
    settled(watch)
    for _ in range(150):
        decision = router.route("Fix the regex in my cache script", latency_budget_ms=10_000, cache=False)
        watch.answered(decision, ASKED, None, no_policies)
    report = watch.report()
    assert report.signal("intents").status == "alarm" and report.signal("far").status == OK
    watch.close()
    router.close()


def test_a_reference_that_is_not_wanted_any_more_is_given_up(
    artifact: RouterArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_room, "PAUSE_S", 60.0)
    router = Router(replace(artifact, id="an-id"))
    watch = Watch(Settings())
    watch.start(router)
    watch.close()
    settled(watch)
    assert "drift" not in {one.name for one in threading.enumerate()}
    assert watch.report().signal("far").status == UNKNOWN
    router.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    started = start_server({"WHICHMODEL_API_KEYS": "a-key"})
    yield started
    stop_server(started)


def test_the_page_has_every_metric_and_its_alerts_are_of_them(watch: Watch, tmp_path: Path) -> None:
    shadow = Shadow(as_router(FakeRouter()), 0.1, ShadowLog(tmp_path / "shadow.jsonl", 2**20))
    registry = CollectorRegistry()
    registry.register(watch)
    text = generate_latest(registry).decode() + "".join(
        f"# TYPE {one.name}{'_total' if one.type == 'counter' else ''} {one.type}\n" for one in shadow.collect()
    )
    exposed = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    assert dict(re.findall(r"^\| `(whichmodel_\w+)` \| (\w+) \|", PAGE, re.MULTILINE)) == exposed
    assert all(f"`{one}`" in PAGE for one in (*SIGNALS, *OUTCOMES))
    (alerts,) = (yaml.safe_load(one) for one in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
    for rule in alerts["groups"][0]["rules"]:
        assert set(re.findall(r"whichmodel_\w+", rule["expr"])) <= set(exposed)
        assert set(re.findall(r'signal="(\w+)"', rule["expr"])) <= set(SIGNALS)


def test_the_page_has_the_thresholds_in_force() -> None:
    for text in (
        f"| `far` | share | {100 * drift.SHARE_WATCH:g} % | {100 * drift.SHARE_ALARM:g} % |",
        f"| `unreadable` | share | {100 * drift.SHARE_WATCH:g} % | {100 * drift.SHARE_ALARM:g} % |",
        f"| `intents` | PSI | {drift.PSI_WATCH:g} | {drift.PSI_ALARM:g} |",
        f"| `models` | PSI | {drift.PSI_WATCH:g} | {drift.PSI_ALARM:g} |",
        f"| `calibration` | difference | {drift.ERROR_WATCH:g} | {drift.ERROR_ALARM:g} |",
        f"{drift.MIN_DECISIONS} decisions or {drift.MIN_RATINGS} ratings",
        f"{drift.N_ROWS:,} of its rows",
        f"{MAX_WAITING} requests",
        f"{MAX_CHARS:,} characters",
        f"{100 * BUSY_SHARE:.0f} % of the time",
    ):
        assert text in PAGE, text


class TestTheCommandLine:
    def test_it_asks_a_server(self, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "key").write_text("a-key name=mine\n")
        url = f"http://127.0.0.1:{server.port}"
        assert main(["drift", "--url", url, "--key-file", str(tmp_path / "key"), "--json"]) == 0
        head, *_, last = capsys.readouterr().out.splitlines()
        assert head.startswith(f"artifact fake-0001: {TOO_FEW}")
        assert [one["signal"] for one in json.loads(last)["signals"]] == list(SIGNALS)

    def test_refusals_are_one_line(self, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "empty").write_text("\n")
        (tmp_path / "key").write_text("a-key\n")
        url = f"http://127.0.0.1:{server.port}"
        for arguments, message in (
            (["--url", url], "status 401"),
            (["--url", f"{url}/nothing", "--key-file", str(tmp_path / "key")], "status 404: not found"),
            (["--url", "file:///etc/passwd"], "expected one that begins with http"),
            (["--url", "http://127.0.0.1:1"], "gave no answer"),
            (["--url", url, "--key-file", str(tmp_path / "empty")], "expected an API key"),
            (["--url", url, "--key-file", str(tmp_path / "no")], "cannot be read"),
        ):
            assert main(["drift", *arguments]) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert message in line and "a-key" not in line

    @pytest.mark.parametrize("arguments", [[], ["x"], ["--log", "x"], ["x", "--log", "x", "--url", "http://x"]])
    def test_wrong_usage(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["drift", *arguments]) == 2
        assert "give either" in capsys.readouterr().err

    def test_it_reads_a_log(self, artifact: RouterArtifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        artifact.write(tmp_path / "v1")
        log = tmp_path / "prompts.jsonl"
        line = json.dumps({"prompt": "Fix the regex in my parser script"})
        log.write_text(f"{line}\n" * 200)
        assert main(["drift", str(tmp_path / "v1"), "--log", str(log), "--json"]) == 3
        *_, last = capsys.readouterr().out.splitlines()
        statuses = {one["signal"]: one["status"] for one in json.loads(last)["signals"]}
        assert statuses["intents"] == "alarm" and statuses["unreadable"] == OK
