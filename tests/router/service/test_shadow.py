"""A shadow beside the service: what it keeps, and that one which raises, hangs or is slow touches no answer."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_service import MODELS, Client, FakeRouter, as_router

from router.artifact import RouterArtifact
from router.cli import main
from router.errors import ArtifactError, ConfigError, PolicyError
from router.policies import Binding, PolicyBook
from router.prompt import prompt_hash
from router.router import Router
from router.rung import PRIOR
from router.service import shadow as shadow_room
from router.service.app import create_app
from router.service.auth import ApiKeys
from router.service.schema import RouteRequest
from router.service.settings import Settings
from router.service.shadow import MAX_CHARS, Shadow
from router.shadow_log import ShadowLog, ShadowRecord, read_shadow
from router.types import Decision, Endpoint, ModelProfile, Needs, Policy

SECRET = "CANARY-PROMPT"


class OtherRouter(FakeRouter):
    """Chooses the last allowed model, and does first what it is told."""

    def __init__(self, first: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.artifact.id = "fake-0002"
        self.first = first
        self.policies: list[Policy] = []
        self.tiers: list[str] = []
        self.needs: list[Needs | None] = []
        self.closed = False

    def answer_of(self, tier: str, prompt: Any, policy: Policy, *, needs: Needs | None, **_: Any) -> Decision:
        """Decide."""
        self.first()
        self.needs.append(needs)
        self.policies.append(policy)
        self.tiers.append(tier)
        decision = self.route(prompt, policy)
        if len(decision.estimates) < 2:
            return replace(decision, artifact_id="fake-0002")
        *others, last = decision.estimates
        fallbacks = tuple(one.model for one in others)
        return replace(
            *(decision,), artifact_id="fake-0002", model=last.model, estimates=(last, *others), fallbacks=fallbacks
        )

    def close(self) -> None:
        """Note it."""
        self.closed = True


@contextmanager
def shadowed(other: Any, path: Path, *, share: float = 1.0, max_waiting: int = 256) -> Iterator[tuple[Client, Shadow]]:
    """Serve the fake router with a shadow."""
    shadow = Shadow(other, share, ShadowLog(path, 2**20), max_waiting=max_waiting)
    patch = pytest.MonkeyPatch()
    patch.setattr(Shadow, "from_settings", classmethod(lambda cls, settings: shadow))
    app = create_app(as_router(FakeRouter()), Settings())
    patch.undo()
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        yield Client(app, runner), shadow
        runner.run(lifespan.__aexit__(None, None, None))


def wait_for(done: Callable[[], bool]) -> None:
    """Wait until something is so; a minute at most."""
    for _ in range(6_000):
        if done():
            return
        time.sleep(0.01)
    raise TimeoutError


def offered(shadow: Shadow) -> int:
    return sum(shadow.counts.values())


def records_of(path: Path) -> list[ShadowRecord]:
    found = list(read_shadow(path))
    assert None not in found
    return [one for one in found if one is not None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shadow.jsonl"


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_room, "BUSY_SHARE", 1.0)


def test_both_decisions_are_kept_and_no_text(path: Path) -> None:
    other = OtherRouter()
    with shadowed(other, path) as (client, shadow):
        assert client.route({"prompt": SECRET, "explain": True}).json["model"] == MODELS[0]
        wait_for(lambda: offered(shadow) == 1)
        assert shadow.counts == {**dict.fromkeys(shadow.counts, 0), "differed": 1}
    (record,) = records_of(path)
    assert record.shadow is not None
    assert (record.served.artifact_id, record.served.model) == ("fake-0001", MODELS[0])
    assert (record.shadow.artifact_id, record.shadow.model) == ("fake-0002", MODELS[-1])
    assert (record.prompt_hash, record.intent, record.drawable) == (prompt_hash(SECRET), "code", True)
    assert record.served_quality == 0.7 and record.decision_id == "0123456789abcdef"
    assert SECRET not in path.read_text() and other.closed


def test_messages_have_the_hash_of_what_is_embedded(path: Path) -> None:
    with shadowed(OtherRouter(), path) as (client, shadow):
        client.route({"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": SECRET}]})
        wait_for(lambda: offered(shadow) == 1)
    assert records_of(path)[0].prompt_hash == prompt_hash(SECRET)


def test_the_policy_holds_for_both_but_the_shadow_never_explores(path: Path) -> None:
    other = OtherRouter()
    with shadowed(other, path) as (client, shadow):
        client.route({"prompt": "x", "policy": {"exclude": [MODELS[-1]], "explore_share": 0.5}})
        wait_for(lambda: offered(shadow) == 1)
    assert other.policies[0] == Policy(exclude=(MODELS[-1],))
    assert [one.explore_share for one in other.policies] == [0.0, 0.0]
    (record,) = records_of(path)
    assert record.explore_share == 0.5 and record.shadow is not None and record.shadow.model == MODELS[1]


def test_both_know_what_a_request_needs(path: Path) -> None:
    other = OtherRouter()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with shadowed(other, path) as (client, shadow):
        client.route({"messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]})
        wait_for(lambda: offered(shadow) == 1)
    assert other.needs[0] is not None and "vision" in other.needs[0].capabilities


def test_a_policy_that_leaves_the_shadow_no_model_is_kept_as_such(path: Path) -> None:
    def refuse() -> None:
        raise PolicyError("no model is left")

    with shadowed(OtherRouter(refuse), path) as (client, shadow):
        client.route({"prompt": "x"})
        wait_for(lambda: offered(shadow) == 1)
        assert shadow.counts["refused"] == 1
    assert [(one.shadow, one.problem) for one in records_of(path)] == [(None, "policy")]


@pytest.mark.parametrize("error", [RuntimeError, KeyError, ZeroDivisionError, MemoryError, OSError, ArtifactError])
def test_one_that_raises_touches_no_answer(
    path: Path, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    def fail() -> None:
        raise error(SECRET)

    with shadowed(OtherRouter(fail), path) as (client, shadow):
        for _ in range(5):
            assert client.route({"prompt": SECRET}).status == 200
        wait_for(lambda: shadow.counts["failed"] == 5)
    assert not path.exists()
    lines = [one.getMessage() for one in caplog.records if one.name == "router.service.shadow"]
    assert lines == [f"the shadow failed with a {error.__name__}"] * 5


def test_one_that_hangs_touches_no_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_room, "CLOSE_TIMEOUT_S", 0.05)
    begun, end = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        end.wait(60)

    with shadowed(OtherRouter(hang), path, max_waiting=3) as (client, shadow):
        assert client.route({"prompt": "x"}).status == 200
        assert begun.wait(60)
        for _ in range(10):
            assert client.route({"prompt": "x"}).status == 200
        assert shadow.counts["dropped"] == 7  # one is being decided, three wait
    # The service has ended, though the shadow hangs.
    end.set()


def test_a_slow_one_drops_and_delays_nothing(path: Path) -> None:
    with shadowed(OtherRouter(lambda: time.sleep(0.05)), path, max_waiting=2) as (client, shadow):
        for _ in range(30):
            assert client.route({"prompt": "x"}).status == 200
        wait_for(lambda: offered(shadow) == 30)
        counts = shadow.counts
    assert counts["dropped"] > 0 and counts["differed"] > 0
    assert len(records_of(path)) == counts["differed"]


def test_a_full_disk_is_counted_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with shadowed(OtherRouter(), tmp_path / "no" / "shadow.jsonl") as (client, shadow):
        for _ in range(3):
            assert client.route({"prompt": "x"}).status == 200
        wait_for(lambda: shadow.counts["unwritten"] == 3)
    assert [one.levelno for one in caplog.records if one.name == "router.service.shadow"] == [logging.ERROR]


def test_refused_requests_are_none_of_its_business(path: Path) -> None:
    with shadowed(OtherRouter(), path) as (client, shadow):
        for body in (b"{", b"[]", {"prompt": ""}, {"prompt": "x", "policy": {"candidates": []}}, {"prompt": 5}):
            assert client.route(body).status in (400, 422)
        assert offered(shadow) == 0


def test_one_that_is_what_serves_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = OtherRouter()
    other.artifact.id = "fake-0001"
    with shadowed(other, path):
        pass
    assert "both always decide the same" in caplog.text


def test_the_share_goes_by_the_id(path: Path, fake_router: FakeRouter) -> None:
    decision = fake_router.route("x")
    some = [replace(decision, decision_id=f"{number:032x}") for number in range(4_000)]
    shadow = Shadow(as_router(OtherRouter()), 0.1, ShadowLog(path, 2**20))
    chosen = [one.decision_id for one in some if shadow.wants(one)]
    assert 300 < len(chosen) < 500
    assert chosen == [one.decision_id for one in some if shadow.wants(one)]
    everything = Shadow(as_router(OtherRouter()), 1.0, ShadowLog(path, 2**20))
    assert all(everything.wants(one) for one in some)
    assert everything.wants(replace(decision, session="new"))
    assert not any(everything.wants(replace(decision, session=one)) for one in ("kept", "switched"))


def test_long_prompts_do_not_wait(path: Path, fake_router: FakeRouter) -> None:
    shadow = Shadow(as_router(OtherRouter()), 1.0, ShadowLog(path, 2**20))
    shadow.offer(fake_router.route("x"), RouteRequest(prompt="x" * (MAX_CHARS + 1)), None, (Policy(), {}))
    assert shadow.counts["dropped"] == 1


@pytest.mark.parametrize(("served", "wanted"), [("static", "static"), ("full", "static"), (PRIOR, PRIOR)])
def test_the_same_tier_is_asked_where_there_is_one(
    path: Path, fake_router: FakeRouter, served: str, wanted: str
) -> None:
    other = OtherRouter()
    shadow = Shadow(as_router(other), 1.0, ShadowLog(path, 2**20))
    shadow.start()
    shadow.offer(replace(fake_router.route("x"), tier=served), RouteRequest(prompt="x"), None, (Policy(), {}))
    wait_for(lambda: offered(shadow) == 1)
    shadow.close()
    assert set(other.tiers) == {wanted}


class TestWithArtifacts:
    @pytest.fixture
    def directories(self, artifact: RouterArtifact, tmp_path: Path) -> tuple[Path, Path]:
        """The artifact, and another one whose evidence says the opposite."""
        evidence = artifact.best.evidence
        evidence = replace(evidence, prior=evidence.prior[::-1], intent_priors=evidence.intent_priors[:, ::-1])
        other = replace(artifact, tiers=(replace(artifact.best, evidence=evidence),))
        artifact.write(tmp_path / "v1")
        other.write(tmp_path / "v2")
        return tmp_path / "v1", tmp_path / "v2"

    def test_a_share_of_all_is_decided_twice(self, directories: tuple[Path, Path], path: Path) -> None:
        book = PolicyBook({"house": Policy(exclude=("coder-medium",), name="house")}, (Binding("house", key="lab"),))
        settings = Settings(
            shadow_artifact=directories[1],
            shadow_share=1.0,
            shadow_log=path,
            policies=book,
            api_keys=ApiKeys.from_lines(["k1 name=lab", "k2"], "the test"),
        )
        router = Router.load(directories[0])
        app = create_app(router, settings)
        with asyncio.Runner() as runner:
            lifespan = app.router.lifespan_context(app)
            runner.run(lifespan.__aenter__())
            client = Client(app, runner)
            for key in ("k1", "k2"):
                for prompt in ("Why does my script raise an error in the parser?", "Which herbs go with chicken?"):
                    body = {"prompt": prompt, "latency_budget_ms": 10_000}
                    answer = client.route(body, headers={"authorization": f"Bearer {key}"})
                    assert answer.status == 200 and "nearest" not in answer.json
            wait_for(lambda: path.exists() and len(records_of(path)) == 4)
            metrics = runner.run(_get(app, "/metrics", "k1"))
            drift = json.loads(runner.run(_get(app, "/drift", "k1")))
            assert client.ask("GET", "/drift").status == 401
            runner.run(lifespan.__aexit__(None, None, None))
        router.close()
        records = records_of(path)
        ids = {one.name: json.loads((one / "manifest.json").read_text())["artifact_id"] for one in directories}
        assert {one.served.artifact_id for one in records} == {ids["v1"]}
        assert {one.shadow.artifact_id for one in records if one.shadow} == {ids["v2"]}
        assert [one.policy for one in records] == ["house", "house", None, None]
        assert all("coder-medium" not in (one.shadow.model, one.served.model) for one in records[:2] if one.shadow)
        assert any(one.shadow and one.shadow.model != one.served.model for one in records[2:])
        assert all(one.served_quality is not None for one in records)
        assert 'whichmodel_shadow_decisions_total{outcome="differed"}' in metrics
        assert f'whichmodel_shadow_artifact_info{{artifact_id="{ids["v2"]}"}} 1.0' in metrics
        assert 'whichmodel_drift_status{signal="far"}' in metrics
        assert (drift["artifact_id"], drift["n_decisions"]) == (ids["v1"], 4)

    def test_profiles_are_laid_over_both(self, directories: tuple[Path, Path], path: Path) -> None:
        settings = Settings(shadow_artifact=directories[1], shadow_log=path)
        shadow = Shadow.from_settings(settings)
        assert shadow is not None
        shadow.use_profiles({"chef-large": ModelProfile("chef-large", endpoints=(Endpoint("else", 99.0, 99.0),))})
        asked = replace(FakeRouter().route("x"), decision_id="a")
        shadow.start()
        shadow.offer(
            asked, RouteRequest(prompt="Which herbs go with chicken?"), None, (Policy(candidates=("chef-large",)), {})
        )
        wait_for(lambda: offered(shadow) == 1)
        shadow.close()
        (record,) = records_of(path)
        assert record.shadow is not None and record.shadow.endpoint == "else"

    def test_what_cannot_be_loaded_keeps_the_service_from_starting(self, path: Path, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match=r"shadow\.artifact: .*nowhere"):
            create_app(as_router(FakeRouter()), Settings(shadow_artifact=tmp_path / "nowhere", shadow_log=path))

    @pytest.mark.parametrize(("name", "message"), [(".", "is a directory"), ("no/shadow.jsonl", "in no directory")])
    def test_a_file_that_cannot_be_keeps_it_from_starting(self, tmp_path: Path, name: str, message: str) -> None:
        with pytest.raises(ConfigError, match=rf"shadow\.log: .*{message}"):
            Shadow.from_settings(Settings(shadow_artifact=tmp_path / "any", shadow_log=tmp_path / name))

    def test_check_config_looks_at_it(
        self, directories: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = tmp_path / "whichmodel.toml"
        config.write_text("[server]\nartifact = 'v1'\n[shadow]\nartifact = 'v2'\nlog = 'shadow.jsonl'\nshare = 0.5\n")
        assert main(["serve", "--config", str(config), "--check-config"]) == 0
        out = capsys.readouterr().out
        assert "shadow.share" in out and "shadow artifact" in out
        config.write_text(config.read_text().replace("'shadow.jsonl'", "'no/shadow.jsonl'"))
        assert main(["serve", "--config", str(config), "--check-config"]) == 1
        assert "shadow.log" in capsys.readouterr().err
        config.write_text(config.read_text().replace("0.5", "0.0"))
        assert main(["serve", "--config", str(config), "--check-config"]) == 0
        assert "no shadow decides" in capsys.readouterr().out
        config.write_text(config.read_text().replace("0.0", "0.5").replace("no/", ""))
        (directories[1] / "manifest.json").write_text("{}")
        assert main(["serve", "--config", str(config), "--check-config"]) == 1


def test_a_shadow_needs_a_file() -> None:
    with pytest.raises(ConfigError, match=r"shadow\.log"):
        Settings(shadow_artifact=Path("models/next"))
    assert Shadow.from_settings(Settings(shadow_log=Path("x"))) is None
    assert Shadow.from_settings(Settings(shadow_artifact=Path("x"), shadow_log=Path("x"), shadow_share=0.0)) is None


async def _get(app: Any, path: str, key: str) -> str:
    import httpx

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return (await client.get(path, headers={"authorization": f"Bearer {key}"})).text
