"""router/live.py: the link that is moved in one step, and the Router that is replaced while others ask."""

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from router.artifact import RouterArtifact, load_artifact
from router.cli import main
from router.errors import ArtifactError, EncoderError
from router.live import BUSY, LiveRouter, Reload, current, publish, rollback, versions
from router.router import Router


def renamed(artifact: RouterArtifact, mark: str) -> RouterArtifact:
    """The same with other names of models, so that no two of these have one in common."""
    names = tuple(f"{mark}-{one}" for one in artifact.models)
    by_old = dict(zip(artifact.models, names, strict=True))
    best = by_old[artifact.best_fixed]
    return replace(
        artifact,
        models=names,
        best_fixed=best,
        profiles={by_old[name]: replace(one, name=by_old[name]) for name, one in artifact.profiles.items()},
        tiers=tuple(replace(one, verdict=replace(one.verdict, best_fixed=best)) for one in artifact.tiers),
    )


@pytest.fixture(scope="module")
def written(artifact: RouterArtifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions."""
    home = tmp_path_factory.mktemp("written")
    for name in ("v1", "v2", "v10"):
        renamed(artifact, name).write(home / name)
    return home


@pytest.fixture
def models(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "models"))


def litter(home: Path) -> set[str]:
    return {one.name for one in home.iterdir()} - {"v1", "v2", "v10", "live", ".live.history"}


def test_publish_and_roll_back(models: Path) -> None:
    live = models / "live"
    for name in ("v1", "v2", "v10"):
        assert publish(models / name, live).models[0].startswith(f"{name}-")
        assert current(live) == models / name
        assert os.readlink(live) == name  # relative: the folder can be moved as a whole
        assert load_artifact(live).models[0].startswith(f"{name}-")
    assert rollback(live).models[0].startswith("v2-")
    assert rollback(live).models[0].startswith("v1-")
    with pytest.raises(ArtifactError, match=r"live: no earlier version is known; name one with --to DIR"):
        rollback(live)
    assert current(live) == models / "v1"
    rollback(live, models / "v10")
    assert current(live) == models / "v10"
    rollback(live)
    assert current(live) == models / "v1"
    assert not litter(models)
    shutil.move(models, models.parent / "moved")
    publish(models.parent / "moved" / "v2", models.parent / "moved" / "live")
    assert rollback(models.parent / "moved" / "live").models[0].startswith("v1-")


def test_what_was_rolled_back_is_not_what_was_before(models: Path) -> None:
    live = models / "live"
    for name in ("v1", "v2"):
        publish(models / name, live)
    rollback(live)
    publish(models / "v10", live)
    rollback(live)
    assert current(live) == models / "v1"


def test_the_same_version_twice_is_one_step(models: Path) -> None:
    live = models / "live"
    for name in ("v1", "v2", "v2", "v2"):
        publish(models / name, live)
    rollback(live)
    assert current(live) == models / "v1"


def test_the_link_decides_where_the_history_knows_of_a_move_that_was_not_made(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = models / "live"
    for name in ("v1", "v2"):
        publish(models / name, live)

    def failing(self: Path, target: Path) -> Path:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing)
        with pytest.raises(ArtifactError, match="live: cannot be written: Input/output error"):
            publish(models / "v10", live)
    assert current(live) == models / "v2"
    rollback(live)
    assert current(live) == models / "v1"


@pytest.mark.parametrize(
    "line", [b"{", b"[]\n", b'{"to": 3, "back": false}\n', b"\xff\xfe\n", b'{"to": "v10"}\n', b"\n"]
)
def test_damaged_lines_of_the_history_are_passed_over(models: Path, line: bytes) -> None:
    live = models / "live"
    publish(models / "v1", live)
    with (models / ".live.history").open("ab") as file:
        file.write(line if line.endswith(b"\n") else line + b"\n")
    publish(models / "v2", live)
    rollback(live)
    assert current(live) == models / "v1"


def test_without_a_history_one_has_to_name_the_version(models: Path) -> None:
    live = models / "live"
    for name in ("v1", "v2"):
        publish(models / name, live)
    (models / ".live.history").unlink()
    with pytest.raises(ArtifactError, match="no earlier version is known"):
        rollback(live)
    assert rollback(live, models / "v1").models[0].startswith("v1-")


def test_nothing_is_published_that_does_not_load(models: Path) -> None:
    live = models / "live"
    publish(models / "v1", live)
    publish(models / "v2", live)
    for name in ("v1", "v10"):
        path = models / name / "won.npy"
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"v10/won\.npy"):
        publish(models / "v10", live)
    with pytest.raises(ArtifactError, match=r"v1/won\.npy"):
        rollback(live)
    assert current(live) == models / "v2"


def test_what_is_no_link_is_not_replaced(models: Path) -> None:
    with pytest.raises(ArtifactError, match="v1: exists and is no link; it will not be replaced"):
        publish(models / "v2", models / "v1")
    with pytest.raises(ArtifactError, match="v1: not a link to an artifact"):
        rollback(models / "v1")
    with pytest.raises(ArtifactError, match="none: not a link to an artifact"):
        versions(models / "none")
    assert load_artifact(models / "v1").models[0].startswith("v1-")


def test_a_version_elsewhere(models: Path, tmp_path: Path) -> None:
    live = tmp_path / "elsewhere" / "live"
    publish(models / "v1", live)
    assert current(live) == models / "v1" and Path(os.readlink(live)).is_absolute()
    assert [(one.name, one.live) for one in versions(live)] == [("v1", True)]


def test_versions_say_what_they_are(models: Path) -> None:
    live = models / "live"
    publish(models / "v2", live)
    (models / "v10" / "manifest.json").write_text("{}")
    (models / "not-one").mkdir()
    found = versions(live)
    assert [(one.name, one.live) for one in found] == [("v1", False), ("v2", True), ("v10", False)]
    assert found[1].artifact_id == load_artifact(live).id
    assert (found[1].verdict, found[1].n_rows, found[1].gain, found[1].problem) == ("ROUTE", 150, None, "")
    assert "manifest.json" in found[2].problem


def test_the_command_line(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live = str(models / "live")
    assert main(["publish", str(models / "v1"), "--live", live]) == 0
    assert capsys.readouterr().out.startswith(f"{live} -> v1 (artifact ")
    assert main(["publish", str(models / "v2"), "--live", live]) == 0
    assert main(["rollback", "--live", live]) == 0
    assert f"{live} -> v1 (artifact " in capsys.readouterr().out
    assert main(["rollback", "--live", live, "--to", str(models / "v10")]) == 0
    (models / "v2" / "manifest.json").write_text("{}")
    assert main(["versions", "--live", live, "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()[1:]
    assert [line[:5] for line in lines] == ["  v1 ", "  v2 ", "* v10"] and "cannot be read" in lines[1]
    assert [one["live"] for one in json.loads(last)["versions"]] == [False, False, True]
    assert main(["rollback", "--live", str(models / "none")]) == 1
    assert "none: not a link to an artifact" in capsys.readouterr().err


def test_loading_through_a_link_that_moves_gives_one_version_whole(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link is moved between every two files that are read."""
    live = models / "live"
    publish(models / "v1", live)
    read, turns = load_artifact.__globals__["Folder"].read, iter(range(10**6))

    def moving(self: object, name: str, **options: object) -> bytes:
        (models / "next").symlink_to(("v1", "v2")[next(turns) % 2])
        (models / "next").replace(live)
        return bytes(read(self, name, **options))

    monkeypatch.setattr("router.artifact.Folder.read", moving)
    for _ in range(4):
        loaded = load_artifact(live)
        assert {name.split("-")[0] for name in (*loaded.models, *loaded.profiles, loaded.best_fixed)} == {
            loaded.models[0].split("-")[0]
        }


def test_publishing_in_a_loop_while_loading_in_a_loop(models: Path) -> None:
    live = models / "live"
    ids = {publish(models / name, live).id: name for name in ("v2", "v1")}
    stop, failures = threading.Event(), []

    def keep_publishing() -> None:
        while not stop.is_set():
            for name in ("v1", "v2"):
                try:
                    publish(models / name, live)
                except ArtifactError as exc:
                    failures.append(exc)

    publisher = threading.Thread(target=keep_publishing)
    publisher.start()
    seen = []
    try:
        for _ in range(12):
            loaded = load_artifact(live)
            assert all(one.startswith(f"{ids[loaded.id]}-") for one in loaded.models)
            seen.append(loaded.id)
    finally:
        stop.set()
        publisher.join()
    assert not failures and len(seen) == 12 and not litter(models)


class Stub(Router):
    """A Router that says when it is closed."""

    def __init__(self, artifact: RouterArtifact) -> None:
        self.artifact = artifact
        self.n_closed = 0

    def close(self) -> None:
        self.n_closed += 1


@pytest.fixture
def stub(artifact: RouterArtifact) -> Callable[[str], Stub]:
    return lambda name: Stub(replace(artifact, id=name))


def test_a_request_keeps_its_router_and_the_last_one_closes_it(stub: Callable[[str], Stub]) -> None:
    old, new = stub("old"), stub("new")
    live = LiveRouter(old)
    first, second = live.lease(), live.lease()
    assert live.reload(lambda: new) == Reload("new") and live.artifact_id == "new"
    assert first.router is second.router is old and live.lease().router is new
    first.release()
    first.release()
    assert old.n_closed == 0
    with second as router:
        assert router is old
    assert old.n_closed == 1 and new.n_closed == 0
    with pytest.raises(ValueError, match="the lease was released"):
        first.router  # noqa: B018


def test_an_idle_router_is_closed_at_once(stub: Callable[[str], Stub]) -> None:
    old, new = stub("old"), stub("new")
    live = LiveRouter(old)
    with live.lease():
        pass
    assert old.n_closed == 0
    live.reload(lambda: new)
    assert old.n_closed == 1
    live.close()
    assert new.n_closed == 1


@pytest.mark.parametrize(
    "failure",
    [
        ArtifactError("v2/won.npy:\naltered"),
        EncoderError("no"),
        OSError(errno.ENOSPC, "full"),
        MemoryError(),
        RuntimeError("x"),
    ],
)
def test_a_load_that_fails_keeps_the_old_one_and_says_why(stub: Callable[[str], Stub], failure: Exception) -> None:
    old = stub("old")
    live = LiveRouter(old)

    def load() -> Router:
        raise failure

    got = live.reload(load)
    assert not got.done and not got.busy and got.artifact_id == live.artifact_id == "old"
    assert got.reason == (" ".join(str(failure).split()) or "MemoryError")
    assert live.lease().router is old and old.n_closed == 0
    assert live.reload(lambda: stub("new")).done


def test_a_mistake_in_the_loader_is_raised_and_leaves_the_way_free(stub: Callable[[str], Stub]) -> None:
    live = LiveRouter(stub("old"))
    with pytest.raises(TypeError):
        live.reload(lambda: len(3))  # type: ignore[arg-type, return-value]
    assert live.artifact_id == "old" and live.reload(lambda: stub("new")).done


def test_only_one_reload_at_a_time(stub: Callable[[str], Stub]) -> None:
    live = LiveRouter(stub("old"))
    inside, go_on, results = threading.Event(), threading.Event(), []

    def slow() -> Router:
        inside.set()
        go_on.wait(30)
        return stub("slow")

    thread = threading.Thread(target=lambda: results.append(live.reload(slow)))
    thread.start()
    assert inside.wait(30)
    second = live.reload(lambda: stub("second"))
    assert second == Reload("old", BUSY, busy=True) and live.artifact_id == "old"
    go_on.set()
    thread.join()
    assert results == [Reload("slow")] and live.artifact_id == "slow"


def test_requests_while_reloading_are_all_answered_from_one_artifact(written: Path) -> None:
    ids = {load_artifact(written / name).id: name for name in ("v1", "v2")}
    live = LiveRouter(Router.load(written / "v1"))
    stop, failures, n_answers = threading.Event(), [], [0] * 4

    def ask(place: int) -> None:
        while not stop.is_set():
            with live.lease() as router:
                for nth in range(2):
                    decision = router.route(f"Fix the parser {n_answers[place]} {nth}", latency_budget_ms=10_000)
                    if decision.artifact_id != router.artifact.id or not decision.model.startswith(
                        f"{ids[decision.artifact_id]}-"
                    ):
                        failures.append(decision)
            n_answers[place] += 1

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    try:
        for nth in range(12):
            name = ("v2", "v1")[nth % 2]
            assert live.reload(lambda name=name: Router.load(written / name)).done  # type: ignore[misc]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    live.close()
    assert not failures and min(n_answers) > 0


def test_threads_do_not_pile_up_over_fifty_reloads(both_tiers: RouterArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.router.WARM_UP_PROMPTS", ("warm up",))
    monkeypatch.setattr("router.router.WARM_UP_TOKENS", (4,))

    def n_encoding() -> int:
        return sum(one.name == "encoder" for one in threading.enumerate())

    before = n_encoding()
    live = LiveRouter(Router(both_tiers, encoder_threads=2))
    old = []
    for nth in range(50):
        with live.lease() as router:
            assert router.route(f"Roast the pumpkin {nth}", latency_budget_ms=10_000).tier == "full"
            old += [one for one in threading.enumerate() if one.name == "encoder" and one not in old]
            assert live.reload(lambda: Router(both_tiers, encoder_threads=2)).done
    live.close()
    for one in old:
        one.join(30)
    assert len(old) >= 100 and n_encoding() <= before
