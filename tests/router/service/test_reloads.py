"""Another artifact takes the place of the one that is served: nobody waits, nobody gets a mixed answer, rights hold."""

import asyncio
import gc
import http.client
import json
import logging
import os
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_service import Answer, Client, start_server, stop_server
from prometheus_client.parser import text_string_to_metric_families

from router.artifact import RouterArtifact, load_artifact
from router.errors import ArtifactError
from router.live import publish
from router.router import Router
from router.service import reloads
from router.service.app import Service, create_app
from router.service.auth import ApiKeys
from router.service.reloads import Pace, load_router
from router.service.settings import Settings

CODE, COOKING = "Why does my script raise an error in the parser?", "Which herbs go with roast chicken?"


def renamed(artifact: RouterArtifact, prefix: str) -> RouterArtifact:
    """Return the artifact with other names of its models."""
    verdict = replace(artifact.verdict, best_fixed=prefix + artifact.best_fixed)
    return replace(
        artifact,
        models=tuple(prefix + one for one in artifact.models),
        tiers=tuple(replace(one, verdict=verdict) for one in artifact.tiers),
        profiles={prefix + name: replace(one, name=prefix + name) for name, one in artifact.profiles.items()},
        best_fixed=prefix + artifact.best_fixed,
    )


class Home:
    """A directory with the versions ``a`` and ``b`` of an artifact, of disjoint models, and the link ``live``."""

    def __init__(self, path: Path, artifact: RouterArtifact) -> None:
        self.path = path
        self.live = path / "live"
        self.ids = {name: renamed(artifact, f"{name}-").write(path / name).id for name in "ab"}
        self.publish("a")

    def publish(self, name: str) -> None:
        publish(self.path / name, self.live)

    def damaged(self) -> None:
        """Let the link point to a version with one byte altered."""
        shutil.rmtree(self.path / "c", ignore_errors=True)
        shutil.copytree(self.path / "b", self.path / "c")
        won = self.path / "c" / "won.npy"
        raw = bytearray(won.read_bytes())
        raw[-1] ^= 1
        won.write_bytes(raw)
        self.live.unlink()
        self.live.symlink_to("c")


@pytest.fixture
def home(tmp_path: Path, artifact: RouterArtifact, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(reloads, "REST_SHARE", 0.0)
    return Home(tmp_path, artifact)


@contextmanager
def serving(settings: Settings) -> Iterator[Client]:
    """Run the application around what the settings name."""
    app = create_app(load_router(settings), settings)
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        yield Client(app, runner)
        runner.run(lifespan.__aexit__(None, None, None))
        app.live.close()


@pytest.fixture
def served(home: Home) -> Iterator[Client]:
    with serving(Settings(artifact=home.live)) as client:
        yield client


def reload(client: Client, **headers: str) -> Answer:
    return client.ask("POST", "/admin/reload", headers=headers)


def metric(client: Client, name: str) -> dict[tuple[str, ...], float]:
    """Return the values of a metric by its labels."""

    async def read() -> str:
        import httpx

        async with httpx.AsyncClient(transport=httpx.ASGITransport(client.app), base_url="http://test") as asked:
            return (await asked.get("/metrics")).text

    families = text_string_to_metric_families(client.runner.run(read()))
    return {tuple(one.labels.values()): one.value for family in families for one in family.samples if one.name == name}


def app_of(client: Client) -> Service:
    assert isinstance(client.app, Service)
    return client.app


def test_a_reload_follows_the_link_anew(
    home: Home, served: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert served.route({"prompt": CODE}).json["model"] == "a-coder-medium"
    loaded_at = metric(served, "whichmodel_artifact_loaded_timestamp_seconds")[()]
    home.publish("b")
    assert served.route({"prompt": CODE}).json["artifact_id"] == home.ids["a"]
    with caplog.at_level(logging.INFO, "router.service.reloads"):
        answer = reload(served)
    assert answer.status == 200 and answer.json["seconds"] > 0
    assert {**answer.json, "seconds": 0} == {"artifact_id": home.ids["b"], "previous": home.ids["a"], "seconds": 0}
    assert f"artifact {home.ids['b']} took the place of {home.ids['a']}" in caplog.text
    got = served.route({"prompt": CODE}).json
    assert (got["model"], got["artifact_id"]) == ("b-coder-medium", home.ids["b"])
    assert served.ask("GET", "/artifact").json["artifact_id"] == home.ids["b"]
    assert home.ids["b"] in served.ask("GET", "/openapi.json").json["info"]["description"]
    assert metric(served, "whichmodel_artifact_info") == {(home.ids["b"], "static", "ROUTE"): 1}
    assert metric(served, "whichmodel_reloads_total")["ok",] == 1
    assert metric(served, "whichmodel_artifact_loaded_timestamp_seconds")[()] > loaded_at
    assert reload(served).json["previous"] == home.ids["b"]


def test_another_tier_is_counted_under_its_name(
    tmp_path: Path, artifact: RouterArtifact, both_tiers: RouterArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloads, "REST_SHARE", 0.0)
    ids = [one.write(tmp_path / name).id for name, one in (("v1", artifact), ("v2", both_tiers))]
    publish(tmp_path / "v1", tmp_path / "live")
    with serving(Settings(artifact=tmp_path / "live", latency_budget_ms=10_000)) as client:
        static = app_of(client).live.lease().router.artifact.best.encoder
        publish(tmp_path / "v2", tmp_path / "live")
        assert reload(client).json["artifact_id"] == ids[1]
        assert client.route({"prompt": CODE}).json["tier"] == "full"
        assert metric(client, "whichmodel_requests_total")["answered", "full"] == 1
        with app_of(client).live.lease() as router:
            assert router.artifact.tiers[1].encoder is static  # of the same bytes, it was not loaded again


@pytest.mark.parametrize("missing", [False, True])
def test_what_is_not_in_order_keeps_the_old_one(
    home: Home, served: Client, caplog: pytest.LogCaptureFixture, missing: bool
) -> None:
    home.damaged()
    if missing:
        shutil.rmtree(home.path / "c")
    answer = reload(served)
    assert (answer.status, answer.json["error"]["type"]) == (422, "reload_refused")
    assert ("no such directory" if missing else "won.npy: altered") in answer.json["error"]["message"]
    assert answer.json["error"]["message"] in caplog.text
    assert served.route({"prompt": CODE}).json["artifact_id"] == home.ids["a"]
    assert metric(served, "whichmodel_reloads_total")["refused",] == 1
    home.publish("b") if not missing else home.publish("a")
    assert reload(served).status == 200


def test_where_the_machine_is_at_fault_it_is_503(served: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> Router:
        raise MemoryError

    monkeypatch.setattr(reloads, "load_router", load)
    answer = reload(served)
    assert (answer.status, answer.json["error"]["type"]) == (503, "reload_failed")
    assert metric(served, "whichmodel_reloads_total")["failed",] == 1
    assert served.route({"prompt": CODE}).status == 200


def test_a_mistake_of_ours_is_500_and_leaves_the_way_free(
    home: Home, served: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> Router:
        raise KeyError("CANARY")

    served.raise_app_exceptions = False
    said: list[threading.ExceptHookArgs] = []
    with monkeypatch.context() as patched:
        patched.setattr(reloads, "load_router", load)
        patched.setattr(threading, "excepthook", said.append)
        answer = reload(served)
    assert answer.status == 500 and "CANARY" not in json.dumps(answer.json) and len(said) == 1
    assert reload(served).status == 200


def test_without_a_configured_artifact_there_is_nothing_to_reload(home: Home) -> None:
    app = create_app(Router.load(home.path / "a"), Settings())
    with asyncio.Runner() as runner:
        answer = reload(Client(app, runner))
    assert answer.status == 422 and "no directory" in answer.json["error"]["message"]


KEYS = ApiKeys.from_lines(
    ["boss may=admin", "both-key name=both may=prompts+admin", "reader may=prompts", "plain"], "the test"
)


@pytest.mark.parametrize(
    ("key", "status", "kind"),
    [
        ("boss", 200, None),
        ("both-key", 200, None),
        ("reader", 403, "forbidden"),
        ("plain", 403, "forbidden"),
        ("wrong", 401, "unauthorized"),
        (None, 401, "unauthorized"),
    ],
)
def test_only_the_right_reloads(home: Home, key: str | None, status: int, kind: str | None) -> None:
    with serving(Settings(artifact=home.live, api_keys=KEYS)) as client:
        home.publish("b")
        headers = {} if key is None else {"x-api-key": key}
        answer = reload(client, **headers)
        assert (answer.status, answer.json.get("error", {}).get("type")) == (status, kind)
        assert client.app.live.artifact_id == home.ids["b" if status == 200 else "a"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/admin/reload", b"", 405),
        ("PUT", "/admin/reload", b"", 405),
        ("DELETE", "/admin/reload", b"", 405),
        ("GET", "/admin", b"", 404),
        ("POST", "/admin/", b"", 404),
        ("POST", "/admin/reload/", b"", 404),
        ("POST", "/admin/reload/..%2f..%2fetc", b"", 404),
        ("POST", "/ADMIN/RELOAD", b"", 404),
        ("POST", "/admin/reload?artifact=/tmp/other", b"", 422),
        ("POST", "/admin/reload", b'{"artifact": "/tmp/other"}', 422),
        ("POST", "/admin/reload", b"[]", 422),
        ("POST", "/admin/reload", b"\xff\x00", 422),
        ("POST", "/admin/reload", b"x" * 100, 413),
    ],
)
def test_nothing_else_can_be_asked_for(
    home: Home, served: Client, method: str, path: str, body: bytes, status: int
) -> None:
    home.publish("b")
    assert served.ask(method, path, body=body).status == status
    assert served.route({"prompt": CODE}).json["artifact_id"] == home.ids["a"]


def test_an_empty_object_is_as_good_as_nothing(served: Client) -> None:
    assert served.ask("POST", "/admin/reload", body=b" {}\n").status == 200


def held_back(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, list[str]]:
    """Let reloads wait for the event, and return with it who began."""
    go_on, began = threading.Event(), []
    load = reloads.load_router

    def wait(settings: Settings, **more: Any) -> Router:
        began.append(threading.current_thread().name)
        assert go_on.wait(30)
        return load(settings, **more)

    monkeypatch.setattr(reloads, "load_router", wait)
    return go_on, began


def test_one_at_a_time_and_requests_go_on(home: Home, served: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, began = held_back(monkeypatch)

    async def run() -> tuple[Answer, Answer, Answer]:
        first = asyncio.create_task(served._ask("POST", "/admin/reload", None, None))
        while not began:
            await asyncio.sleep(0.001)
        second = await served._ask("POST", "/admin/reload", None, None)
        routed = await served._ask("POST", "/route", json.dumps({"prompt": "x " * 5_000}).encode(), None)
        go_on.set()
        return await first, second, routed

    home.publish("b")
    first, second, routed = served.runner.run(run())
    assert (first.status, first.json["artifact_id"]) == (200, home.ids["b"])
    assert (second.status, second.json["error"]["type"]) == (409, "reload_busy")
    assert (routed.status, routed.json["artifact_id"]) == (200, home.ids["a"])
    assert began == ["reload"] and metric(served, "whichmodel_reloads_total")["busy",] == 1


def test_a_signal_amid_a_reload_brings_one_more(home: Home, served: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, began = held_back(monkeypatch)

    async def run() -> None:
        for _ in range(3):
            app_of(served).reloads.on_signal()
            while not began:
                await asyncio.sleep(0.001)
        go_on.set()
        async with asyncio.timeout(30):
            while len(began) < 2 or threading.active_count() > n_threads:
                await asyncio.sleep(0.001)

    n_threads = threading.active_count()
    served.runner.run(run())
    served.runner.run(asyncio.sleep(0.01))
    assert len(began) == 2 and metric(served, "whichmodel_reloads_total")["ok",] == 2


def test_whoever_asks_may_leave(home: Home, served: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, began = held_back(monkeypatch)

    async def run() -> None:
        asking = asyncio.create_task(app_of(served).reloads.reload())
        while not began:
            await asyncio.sleep(0.001)
        asking.cancel()
        go_on.set()
        async with asyncio.timeout(30):
            while app_of(served).live.artifact_id != home.ids["b"]:
                await asyncio.sleep(0.001)

    home.publish("b")
    served.runner.run(run())
    assert served.route({"prompt": CODE}).json["artifact_id"] == home.ids["b"]


def test_a_service_that_ends_takes_no_other_artifact(home: Home, served: Client) -> None:
    home.publish("b")
    app_of(served).reloads.close()
    assert reload(served).json["error"]["message"] == "the service is about to end"
    assert app_of(served).live.artifact_id == home.ids["a"]


def test_sessions_go_on_where_their_model_is_still_known(home: Home, served: Client, artifact: RouterArtifact) -> None:
    def ask(prompt: str) -> tuple[str, str]:
        asked = {"prompt": prompt, "session_id": "s", "policy": {"switch_margin": 1.0}, "latency_budget_ms": 10_000}
        answer = served.route(asked).json
        return answer["model"], answer["session"]

    assert ask(CODE) == ("a-coder-medium", "new")
    reload(served)
    assert ask(COOKING) == ("a-coder-medium", "kept")
    home.publish("b")
    reload(served)
    assert ask(COOKING) == ("b-chef-large", "new")
    assert ask(CODE) == ("b-chef-large", "kept")
    assert metric(served, "whichmodel_sessions")[()] == 1


def test_profiles_in_force_are_laid_over_the_new_one(home: Home) -> None:
    profiles = home.path / "profiles.json"
    profiles.write_text(json.dumps({"b-coder-medium": {"usd_per_mtok_in": 500, "usd_per_mtok_out": 500}}))
    with serving(Settings(artifact=home.live, profiles=profiles)) as client:
        profiles.write_text("{")  # what is wrong now does not take away what was right
        home.publish("b")
        assert reload(client).status == 200
        assert client.route({"prompt": CODE, "explain": True}).json["cost_usd"] > 0.01


def test_the_decision_cache_begins_empty(tmp_path: Path, both_tiers: RouterArtifact) -> None:
    home = Home(tmp_path, both_tiers)
    with serving(Settings(artifact=home.live, latency_budget_ms=10_000)) as client:
        assert [client.route({"prompt": CODE}).json["cached"] for _ in range(2)] == [False, True]
        home.publish("b")
        reload(client)
        got = [client.route({"prompt": CODE}).json for _ in range(2)]
    assert [one["cached"] for one in got] == [False, True]
    assert {one["model"] for one in got} == {"b-coder-medium"} and {one["tier"] for one in got} == {"full"}


def test_twenty_reloads_leave_nothing_behind(home: Home, served: Client, request: pytest.FixtureRequest) -> None:
    def n_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def current() -> "weakref.ref[Router]":
        with app_of(served).live.lease() as router:
            return weakref.ref(router)

    assert reload(served).status == 200
    served.route({"prompt": CODE})
    before, old = (threading.active_count(), n_open()), []
    gc.disable()  # a server freezes what is loaded: what holds itself in a cycle would stay
    request.addfinalizer(gc.enable)
    for nth in range(20):
        home.publish("ba"[nth % 2])
        old.append(current())
        assert reload(served).status == 200
        assert served.route({"prompt": CODE}).json["artifact_id"] == home.ids["ba"[nth % 2]]
    assert [one() for one in old] == [None] * 20
    # Not more: a thread of an earlier test may have ended meanwhile.
    assert threading.active_count() <= before[0] and n_open() <= before[1]


class Asking:
    """Clients that ask a server on kept-alive connections until they are stopped."""

    def __init__(self, port: int, n_clients: int) -> None:
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(nth,)) for nth in range(n_clients)]

    def __enter__(self) -> "Asking":
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for one in self._threads:
            one.join()

    def _ask(self, nth: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        n_asked = 0
        while not self._stop.is_set():
            n_asked += 1
            prompt = f"{(CODE, COOKING)[nth % 2]} {nth} {n_asked}" + " and why" * (700 if n_asked % 10 == 0 else 0)
            body = json.dumps({"prompt": prompt, "explain": n_asked % 3 == 0, "session_id": f"s-{nth}"})
            connection.request("POST", "/route", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            self.answers.append((answer.status, json.loads(answer.read())))
        connection.close()


def post_reload(port: int) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/admin/reload")
    answer = connection.getresponse()
    said = answer.status, json.loads(answer.read())
    connection.close()
    return said


@pytest.mark.parametrize("tiers", ["artifact", "both_tiers"])
def test_a_server_under_load_fails_nobody_and_mixes_nothing(
    tmp_path: Path, request: pytest.FixtureRequest, tiers: str
) -> None:
    home = Home(tmp_path, request.getfixturevalue(tiers))
    names = {own: f"{name}-" for name, own in home.ids.items()}
    server = start_server({}, ["-m", "router.cli", "serve", str(home.live)])
    try:
        with Asking(server.port, 4) as asking:
            for nth in range(6):
                home.publish("ba"[nth % 2])
                status, said = post_reload(server.port)
                assert (status, said["artifact_id"]) == (200, home.ids["ba"[nth % 2]])
    finally:
        logged = stop_server(server)
    assert logged.count("took the place of") == 6 and server.process.returncode == 0
    assert {status for status, _ in asking.answers} == {200}
    assert {one["artifact_id"] for _, one in asking.answers} == set(names)
    for _, one in asking.answers:
        prefix = names[one["artifact_id"]]
        shown = [estimate["model"] for estimate in one.get("explanation", {}).get("candidates", [])]
        assert all(model.startswith(prefix) for model in (one["model"], *one["fallbacks"], *shown))


def test_sighup_reloads_and_a_failure_is_only_logged(home: Home) -> None:
    server = start_server({}, ["-m", "router.cli", "serve", str(home.live)])

    def served_id() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("GET", "/artifact")
        said: dict[str, str] = json.loads(connection.getresponse().read())
        connection.close()
        return said["artifact_id"]

    def wait_for(is_so: Callable[[], bool]) -> None:
        for _ in range(3_000):
            if is_so():
                return
            time.sleep(0.01)
        raise AssertionError("it did not come about")

    def n_reloads(outcome: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return int(float(text.split(f'whichmodel_reloads_total{{outcome="{outcome}"}} ')[1].split("\n")[0]))

    try:
        home.publish("b")
        os.kill(server.process.pid, signal.SIGHUP)
        wait_for(lambda: served_id() == home.ids["b"])
        home.damaged()
        os.kill(server.process.pid, signal.SIGHUP)
        wait_for(lambda: n_reloads("refused") == 1)
        assert served_id() == home.ids["b"] and n_reloads("ok") == 1
    finally:
        logged = stop_server(server)
    assert server.process.returncode == 0
    assert f"reload refused, artifact {home.ids['b']} stays: " in logged and "won.npy: altered" in logged


def test_a_loaded_encoder_does_not_vouch_for_altered_bytes(home: Home, encoder: Any) -> None:
    network = home.path / "b" / "static" / "encoder" / "model.onnx"
    raw = bytearray(network.read_bytes())
    raw[len(raw) // 2] ^= 1
    network.write_bytes(raw)
    with pytest.raises(ArtifactError, match=r"model\.onnx: altered"):
        load_artifact(home.path / "b", loaded=[encoder])
    assert load_artifact(home.path / "a", loaded=[encoder]).best.encoder is encoder


def test_the_pace_is_in_proportion_to_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, rests_s = [0.0], list[float]()
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(time, "sleep", rests_s.append)
    pace = Pace()
    for worked_s in (0.0, 0.01, 10.0):
        now_s[0] += worked_s
        pace()
    assert rests_s == pytest.approx([0.0, 0.01 * reloads.REST_SHARE, reloads.MAX_REST_S])
