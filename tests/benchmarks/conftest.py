"""The benchmarks are scripts that import each other by name; so do their tests."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
