"""How many requests a second the static tier answers in a closed loop, beside the do-nothing endpoint.

A closed loop says what a core can do, not what users wait: for that there is the ladder.
"""

import json
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from http_bytes import HOST

CONNECTIONS = 16
ALTERNATIONS = 3
SCRIPT = """
local bodies = {{{bodies}}}
local at = 0
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
function request()
  at = at % #bodies + 1
  return wrk.format(nil, "/route", nil, bodies[at])
end
"""


def find_wrk() -> str | None:
    """Return where wrk is, None where it is not installed."""
    return shutil.which("wrk")


def throughput(
    ports: dict[str, int], prompts: Sequence[str], seconds: int, *, bypass_cache: bool
) -> dict[str, list[dict[str, Any]]]:
    """Return what wrk found at each server, in turns: requests per second, p50 and p99 in ms, answers that failed."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ports}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(lua(prompts, bypass_cache=bypass_cache))
        for _ in range(ALTERNATIONS):
            for name, port in ports.items():
                found[name].append(_wrk(port, script, seconds))
    return found


def ratio(found: dict[str, list[dict[str, Any]]], ours: str, theirs: str) -> float:
    """Return the median over the turns of our rate over theirs."""
    pairs = zip(found[ours], found[theirs], strict=True)
    return statistics.median(one["per_s"] / other["per_s"] for one, other in pairs)


def lua(prompts: Sequence[str], *, bypass_cache: bool) -> str:
    """Return the script that posts the prompts in turn."""
    fields = [{"prompt": one} | ({"cache": False} if bypass_cache else {}) for one in prompts]
    # A JSON text in ASCII, written as JSON once more, is a Lua string: it holds \\" and \\\\ and no other escapes.
    return SCRIPT.format(bodies=",\n".join(json.dumps(json.dumps(one)) for one in fields))


def read(text: str) -> dict[str, Any]:
    """Read what ``wrk --latency`` printed."""
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    return {
        "per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
        "p50_ms": _ms(re.search(r"50%\s+([\d.]+)(us|ms|s)", text)),
        "p99_ms": _ms(re.search(r"99%\s+([\d.]+)(us|ms|s)", text)),
        "not_200": int(failed[1]) if failed else 0,
        "socket_errors": sum(int(one) for one in broken.groups()) if broken else 0,
    }


def _wrk(port: int, script: Path, seconds: int) -> dict[str, Any]:
    where = [f"-c{CONNECTIONS}", "-t1", f"-d{seconds}s", "--latency", "-s", str(script), f"http://{HOST}:{port}"]
    return read(subprocess.run([find_wrk(), *where], capture_output=True, text=True, check=True).stdout)


def _ms(found: re.Match[str]) -> float:
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]
