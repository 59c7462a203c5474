"""What the two packages promise by name, and the version that three places state."""

import re
import tomllib
from pathlib import Path

import pytest

import router

ROOT = Path(__file__).parent.parent


def test_router_exports() -> None:
    assert router.__all__ == [
        "ArtifactError",
        "ConfigError",
        "DataError",
        "Decision",
        "EncoderError",
        "Estimate",
        "ModelProfile",
        "Neighbor",
        "Policy",
        "PolicyError",
        "PromptError",
        "Router",
        "RouterError",
        "Verdict",
        "__version__",
    ]
    assert all(hasattr(router, name) for name in router.__all__)
    assert set(router.__all__) <= set(dir(router))
    assert not hasattr(router, "Nonsense")


def test_training_exports() -> None:
    training = pytest.importorskip("training")
    assert training.__all__ == ["Comparison", "PreferenceLog", "Report", "evaluate", "load", "train"]
    assert all(hasattr(training, name) for name in training.__all__)


def test_all_errors_are_router_errors() -> None:
    errors = [name for name in router.__all__ if name.endswith("Error")]
    assert all(issubclass(getattr(router, name), router.RouterError) for name in errors)


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None, "CHANGELOG.md has no heading '## [X.Y.Z]'"
    assert router.__version__ == project["version"] == newest[1]
