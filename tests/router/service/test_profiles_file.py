"""The file of profiles: over the artifact's at the start, taken over when it changes, the old one kept when wrong."""

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from fake_service import FakeRouter, as_router

from router.errors import ConfigError
from router.service import profiles_file
from router.service.app import create_app
from router.service.profiles_file import ProfilesFile
from router.service.settings import Settings
from router.types import ModelProfile


class Scene:
    """A file, and what was made of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.used: list[Mapping[str, ModelProfile]] = []
        self.told: list[bool] = []
        self.file = ProfilesFile(path, self.used.append, self.told.append)

    def write(self, *names: str, price: object = 1) -> None:
        """Replace the file, as an editor does; of another time, however fast the test is."""
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps({name: {"usd_per_mtok_in": price, "usd_per_mtok_out": 1} for name in names}))
        beside.replace(self.path)

    def look(self) -> None:
        asyncio.run(self.file.look())

    @property
    def names(self) -> list[list[str]]:
        return [list(one) for one in self.used]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    scene = Scene(tmp_path / "profiles.json")
    scene.write("a")
    return scene


def test_a_change_is_taken_over_and_silence_is_not_one(scene: Scene) -> None:
    scene.file.load()
    scene.look()
    assert (scene.names, scene.told) == ([["a"]], [])
    scene.write("a", "b")
    scene.look()
    scene.look()
    assert (scene.names, scene.told) == ([["a"], ["a", "b"]], [True])


def test_the_same_size_at_another_time_is_a_change(scene: Scene) -> None:
    scene.file.load()
    text = scene.path.read_text().replace('"a"', '"b"')
    scene.path.write_text(text)
    os.utime(scene.path, ns=(1, 1))
    scene.look()
    assert scene.names == [["a"], ["b"]]


@pytest.mark.parametrize("missing", [False, True])
def test_a_wrong_file_keeps_the_old_one_and_is_logged_once(
    scene: Scene, caplog: pytest.LogCaptureFixture, missing: bool
) -> None:
    scene.file.load()
    scene.write("a", price="cheap")
    if missing:
        scene.path.unlink()
    for _ in range(3):
        scene.look()
    assert (scene.names, scene.told) == ([["a"]], [False])
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.ERROR, "router.service.profiles_file")
    assert str(scene.path) in record.getMessage()
    scene.write("c")
    scene.look()
    assert (scene.names, scene.told) == ([["a"], ["c"]], [False, True])


def test_at_the_start_a_wrong_file_is_an_error(scene: Scene) -> None:
    scene.path.write_text("{")
    with pytest.raises(ConfigError, match=r"profiles\.json"):
        scene.file.load()
    with pytest.raises(ConfigError, match=r"profiles\.json"):
        create_app(as_router(FakeRouter()), Settings(profiles=scene.path))


def test_a_server_notices_without_being_asked(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    assert profiles_file.WATCH_PERIOD_S < 2
    monkeypatch.setattr(profiles_file, "WATCH_PERIOD_S", 0.01)
    router = FakeRouter()
    app = create_app(as_router(router), Settings(profiles=scene.path))
    assert list(router.profiles) == ["a"]

    async def run() -> None:
        async with app.router.lifespan_context(app):
            scene.write("a", "b")
            async with asyncio.timeout(20):
                while list(router.profiles) != ["a", "b"]:
                    await asyncio.sleep(0.01)

    asyncio.run(run())


def test_without_a_file_there_is_nothing_to_watch() -> None:
    used: list[Mapping[str, ModelProfile]] = []
    file = ProfilesFile(None, used.append, used.append)
    file.load()
    asyncio.run(file.look())
    asyncio.run(file.watch())
    assert used == []
