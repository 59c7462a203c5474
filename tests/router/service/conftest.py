"""Fixtures of the service's tests; what they are made of is in fake_service.py."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# With --import-mode=importlib a test module cannot import its neighbours otherwise.
sys.path.insert(0, str(Path(__file__).parent))

from fake_service import Client, FakeRouter, as_router

from router.service.app import create_app
from router.service.settings import Settings

# Nothing here asserts a time, and machines that run tests are busy.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture
def fake_router() -> FakeRouter:
    return FakeRouter()


@pytest.fixture
def settings() -> Settings:
    """Override in a test module or class to start its client otherwise."""
    return Settings()


@pytest.fixture
def client(fake_router: FakeRouter, settings: Settings) -> Iterator[Client]:
    app = create_app(as_router(fake_router), settings)
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        fake_router.asked.clear()
        yield Client(app, runner)
        runner.run(lifespan.__aexit__(None, None, None))
