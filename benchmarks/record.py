"""What every benchmark writes beside its numbers: commit, machine, versions, arguments and hashes of the data."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    *("numpy", "onnxruntime", "tokenizers", "numkong", "fastapi", "uvicorn", "scikit-learn", "pandas"),
    *("uvloop", "httptools", "torch", "transformers", "sentence-transformers", "semantic-router", "model2vec", "onnx"),
)


def data_folder() -> Path:
    """Return the folder that WHICHMODEL_DATA names, or leave with a line that says what is missing."""
    folder = os.environ.get("WHICHMODEL_DATA")
    if not folder or not Path(folder).is_dir():
        sys.exit("skipped: set WHICHMODEL_DATA to the folder with the published data (see benchmarks/DATA.md)")
    return Path(folder)


def write(name: str, numbers: dict[str, Any], *, arguments: dict[str, Any], files: list[Path]) -> None:
    """Write benchmarks/results/NAME.json and print the numbers as the last line."""
    _save(name, _record(numbers, arguments, files))
    print(json.dumps(numbers))


def write_part(
    name: str, part: str, numbers: dict[str, Any], *, arguments: dict[str, Any], files: list[Path]
) -> dict[str, Any]:
    """Write one part of benchmarks/results/NAME.json, with a commit and versions of its own; others stay as they are.

    Returns all parts.
    """
    path = RESULTS / f"{name}.json"
    parts = json.loads(path.read_text())["parts"] if path.is_file() else {}
    parts[part] = _record(numbers, arguments, files)
    _save(name, {"parts": parts})
    return parts


def _record(numbers: dict[str, Any], arguments: dict[str, Any], files: list[Path]) -> dict[str, Any]:
    return {
        "commit": _commit(),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "versions": {one: _version(one) for one in PACKAGES},
        "arguments": arguments,
        "data_sha256": {f"{one.parent.name}/{one.name}": hashlib.sha256(one.read_bytes()).hexdigest() for one in files},
        "numbers": numbers,
    }


def _save(name: str, record: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
