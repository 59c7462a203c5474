"""A real server with feedback and a shadow, reloaded while requests come: drift, and the report of the shadow."""

import http.client
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_service import ServerProcess, start_server, stop_server

from router.artifact import RouterArtifact
from router.cli import main
from router.drift import UNKNOWN
from router.live import publish

PROMPTS = ("Why does my script raise an error in the parser?", "Which herbs go with roast chicken?")


class Home:
    """Artifacts of the same models: ``first`` and ``second``, of one mind but other evidence, and ``next``, of another.

    ``live`` is the link to what is served.
    """

    def __init__(self, path: Path, artifact: RouterArtifact) -> None:
        self.path = path
        self.log, self.store, self.key = path / "shadow.jsonl", path / "feedback.db", path / "key.txt"
        self.ids = {
            "first": artifact.write(path / "first").id,
            "second": _with_evidence(artifact, 0.9).write(path / "second").id,
            "next": _with_evidence(artifact, 1.0, turned=True).write(path / "next").id,
        }
        self.key.write_text("a-key may=admin\n")
        self.publish("first")
        self.config = path / "whichmodel.toml"
        self.config.write_text(
            "[server]\nport = 0\nartifact = 'live'\napi_keys_file = 'key.txt'\nlog_decisions = false\n"
            "[routing]\nlatency_budget_ms = 10000\n"
            "[feedback]\nstore = 'feedback.db'\n"
            "[shadow]\nartifact = 'next'\nlog = 'shadow.jsonl'\nshare = 1.0\n"
        )

    def publish(self, name: str) -> None:
        publish(self.path / name, self.path / "live")

    def start(self) -> ServerProcess:
        return start_server({}, ["-m", "router.cli", "serve", "--config", str(self.config)])


def _with_evidence(artifact: RouterArtifact, scale: float, *, turned: bool = False) -> RouterArtifact:
    own = artifact.best.evidence
    step = -1 if turned else 1
    evidence = replace(own, prior=scale * own.prior[::step], intent_priors=scale * own.intent_priors[:, ::step])
    return replace(artifact, tiers=(replace(artifact.best, evidence=evidence),))


def ask(server: ServerProcess, method: str, path: str, body: Any = None) -> Any:
    """Return the JSON answer, or the text of one that is none."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"authorization": "Bearer a-key", "content-type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    raw = answer.read()
    connection.close()
    assert answer.status == 200, raw
    return json.loads(raw) if answer.headers["content-type"] == "application/json" else raw.decode()


def decide(server: ServerProcess, nth: int) -> Any:
    return ask(server, "POST", "/route", {"prompt": f"{PROMPTS[nth % 2]} {nth}"})


def rate(server: ServerProcess, decision: Any, rating: float) -> None:
    """Rate a decision, twice with one idempotency key, as who is not sure that it has arrived."""
    verdict = {"decision_id": decision["decision_id"], "rating": rating, "idempotency_key": decision["decision_id"]}
    assert not ask(server, "POST", "/feedback", verdict)["duplicate"]
    assert ask(server, "POST", "/feedback", verdict)["duplicate"]


def wait_for(is_so: Callable[[], bool]) -> None:
    for _ in range(3_000):
        if is_so():
            return
        time.sleep(0.02)
    raise TimeoutError


def shadowed(server: ServerProcess) -> dict[str, int]:
    """Return how many decisions ended how in the shadow."""
    found = re.findall(r'whichmodel_shadow_decisions_total\{outcome="(\w+)"\} (\S+)', ask(server, "GET", "/metrics"))
    return {outcome: int(float(count)) for outcome, count in found}


def signals(server: ServerProcess) -> dict[str, Any]:
    return {one["signal"]: one for one in ask(server, "GET", "/drift")["signals"]}


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Run the command line and return its last line, which is JSON."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


class Requests:
    """Asks, one request after the other, as long as it is entered."""

    def __init__(self, server: ServerProcess) -> None:
        self.answers: list[Any] = []
        self._server = server
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.is_set():
            self.answers.append(decide(self._server, len(self.answers)))
            time.sleep(0.02)  # the shadow has a quarter of the time

    def __enter__(self) -> "Requests":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def test_the_watch_goes_with_reloads_and_feedback(
    tmp_path: Path, artifact: RouterArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path, artifact)
    server = home.start()
    try:
        before = [decide(server, nth) for nth in range(12)]
        for one in before[:4]:
            rate(server, one, 0.5)
        assert signals(server)["calibration"]["n"] == 4
        with Requests(server) as requests:
            wait_for(lambda: len(requests.answers) > 5)
            home.publish("second")
            assert ask(server, "POST", "/admin/reload")["artifact_id"] == home.ids["second"]
            n_at_reload = len(requests.answers)
            wait_for(lambda: len(requests.answers) > n_at_reload + 5)
        wait_for(lambda: signals(server)["intents"]["status"] != UNKNOWN)  # the new artifact's reference is there
        wait_for(lambda: sum(shadowed(server).values()) == len(before) + len(requests.answers))
        after = [decide(server, 1_000 + nth) for nth in range(10)]
        rate(server, before[5], 0.5)  # kept, and of no use to the calibration of the artifact that serves now
        for one in after[:5]:
            rate(server, one, 0.5)
        drift = printed(capsys, "drift", "--url", f"http://127.0.0.1:{server.port}", "--key-file", str(home.key))
        assert drift["artifact_id"] == home.ids["second"]
        served = {id_: [one for one in requests.answers if one["artifact_id"] == id_] for id_ in home.ids.values()}
        assert served[home.ids["first"]] and not served[home.ids["next"]]
        assert drift["n_decisions"] == len(served[home.ids["second"]]) + len(after)
        assert {one["signal"]: one["n"] for one in drift["signals"]}["calibration"] == 5
        n_all = len(before) + len(requests.answers) + len(after)
        wait_for(lambda: sum(shadowed(server).values()) == n_all)
        counts = shadowed(server)
        n_kept = counts["agreed"] + counts["differed"]
        assert n_kept + counts["dropped"] == n_all and n_kept == len(home.log.read_text().splitlines())
        arguments = ("shadow", "report", str(home.log), "--store", str(home.store))
        report = printed(capsys, *arguments)  # while the server has the store
        assert (report["served_id"], report["shadow_id"]) == (home.ids["second"], home.ids["next"])
        assert report["n"] >= len(after) and report["found"]["n_events"] == 5
        (other,) = report["others"]
        assert (other["served_id"], other["n"]) == (home.ids["first"], n_kept - report["n"])
        older = printed(capsys, *arguments, "--served", home.ids["first"])
        assert (older["n"], older["found"]["n_events"]) == (other["n"], 5)
        found = report["found"]
        assert found["rated_agree"]["n"] + found["rated_differ"]["n"] == 5
    finally:
        logged = stop_server(server)
    assert server.process.returncode == 0 and "Traceback" not in logged
    assert printed(capsys, *arguments)["found"] == report["found"]


def test_a_verdict_against_the_model_of_the_shadow_is_a_battle(
    tmp_path: Path, artifact: RouterArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path, artifact)
    server = home.start()
    try:
        decision = decide(server, 0)
        wait_for(lambda: home.log.exists() and home.log.read_text().endswith("\n"))
        other = json.loads(home.log.read_text())["shadow"]["model"]
        assert other != decision["model"]
        verdict = {"decision_id": decision["decision_id"], "winner": "other", "against": other}
        ask(server, "POST", "/feedback", verdict)
        assert signals(server)["calibration"]["n"] == 0  # a battle is no rating
    finally:
        server.process.kill()
        server.process.communicate()
    report = printed(capsys, "shadow", "report", str(home.log), "--store", str(home.store))
    assert (report["found"]["battles"]["n"], report["found"]["battles"]["value"]) == (1, 1.0)


def test_profiles_that_change_reach_both_and_the_next_artifact(
    tmp_path: Path, artifact: RouterArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path, artifact)
    profiles = tmp_path / "profiles.yaml"

    def lay(endpoint: str) -> None:
        prices = f"{{name: {endpoint}, usd_per_mtok_in: 1, usd_per_mtok_out: 1}}"
        profiles.write_text("".join(f"{name}: {{endpoints: [{prices}]}}\n" for name in artifact.models))

    lay("one")
    home.config.write_text(home.config.read_text().replace("[routing]\n", "[routing]\nprofiles = 'profiles.yaml'\n"))
    server = home.start()
    try:
        decide(server, 0)
        lay("another")
        wait_for(lambda: decide(server, 1)["endpoint"] == "another")
        home.publish("second")
        ask(server, "POST", "/admin/reload")
        last = decide(server, 2)
        wait_for(lambda: last["decision_id"] in home.log.read_text())
    finally:
        stop_server(server)
    records = [json.loads(line) for line in home.log.read_text().splitlines()]
    assert (records[0]["served"]["endpoint"], records[0]["shadow"]["endpoint"]) == ("one", "one")
    assert (records[-1]["served"]["endpoint"], records[-1]["shadow"]["endpoint"]) == ("another", "another")
    assert records[-1]["served"]["artifact_id"] == home.ids["second"]
