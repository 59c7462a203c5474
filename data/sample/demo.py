"""Train on the sample log with both encoders that ship, serve the artifact, and print decisions with their reasons.

Everything goes through the ``whichmodel`` command and its HTTP service, as it would for a user.
"""

import argparse
import json
import queue
import re
import subprocess
import sys
import textwrap
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
ARTIFACT = "build/demo"
COMMAND = Path(sys.executable).parent / "whichmodel"
URL = re.compile(r"http://[\w.\-]+:\d+")
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 15
REQUEST_TIMEOUT_S = 10
WIDTH = 110
LABEL_WIDTH = 14
BUDGET_MS, SHORT_BUDGET_MS = 50, 1

# None of these is in the sample.
REQUESTS: tuple[dict[str, Any], ...] = (
    {"prompt": "SQL query for the top 5 customers by revenue per month"},
    {"prompt": "Write a short funny poem for a colleague who is leaving to open a cheese shop."},
    {"prompt": "Wie sage ich auf Spanisch höflich, dass die Rechnung falsch ist?"},
    {"prompt": "can my employer in Texas cut my pay without notice"},
    {
        "messages": [
            {"role": "user", "content": "4 days in Lisbon with kids, no car"},
            {"role": "assistant", "content": "Trams, the aquarium, a day in Sintra, and one at the beach in Cascais."},
            {"role": "user", "content": "It rains on two of them. Which ones would you swap?"},
        ]
    },
)


class DemoError(Exception):
    """Something the demo needs did not happen."""


def main() -> int:
    """Run the demo and return its exit code."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    try:
        train()
        with serving() as url:
            for number, request in enumerate(REQUESTS, start=1):
                show(number, request, ask(url, request, BUDGET_MS))
            print(f"\nThe first one again, made anew within {SHORT_BUDGET_MS} ms:")
            show(1, REQUESTS[0], ask(url, REQUESTS[0] | {"cache": False}, SHORT_BUDGET_MS))
            print("\nVerdict on held-out prompts:", call(f"{url}/artifact")["verdict"]["text"])
    except DemoError as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    print(f"\nAgain by hand: whichmodel serve {ARTIFACT}; its intents: whichmodel intents {ARTIFACT}")
    return 0


def train() -> None:
    """Train on the sample; the report of the command is shown as it comes."""
    if not COMMAND.is_file():
        raise DemoError(f"{COMMAND} is missing; install the project first: pip install -e '.[train]'")
    sample = HERE.relative_to(CHECKOUT)
    options = ["--encoder", "both", "--prices", f"{sample}/models.yaml", "--store-prompts", "full"]
    command = ["train", f"{sample}/battles.jsonl", "--out", ARTIFACT, *options]
    print(f"$ whichmodel {' '.join(command)}", flush=True)
    code = subprocess.run([str(COMMAND), *command], cwd=CHECKOUT, check=False).returncode
    if code:
        raise DemoError(f"training failed with exit code {code}")


@contextmanager
def serving() -> Iterator[str]:
    """Serve the artifact on a free port, give its URL, and stop the server at the end."""
    command = ["serve", ARTIFACT, "--port", "0"]
    print(f"\n$ whichmodel {' '.join(command)}", flush=True)
    server = subprocess.Popen(
        [str(COMMAND), *command], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield wait_for_url(server)
        server.terminate()
        code = server.wait(STOP_TIMEOUT_S)
        if code:
            raise DemoError(f"the server stopped with exit code {code}")
    except subprocess.TimeoutExpired as exc:
        raise DemoError(f"the server did not stop within {STOP_TIMEOUT_S} s") from exc
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def wait_for_url(server: subprocess.Popen[str]) -> str:
    """Return the URL from the server's start-up line; its output is read to the end, so that it never blocks."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in server.stdout or ():
            lines.put(line.strip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    last = "nothing"
    while True:
        try:
            line = lines.get(timeout=START_TIMEOUT_S)
        except queue.Empty as exc:
            raise DemoError(f"the server did not start within {START_TIMEOUT_S} s; it said: {last}") from exc
        if line is None:
            raise DemoError(f"the server did not start; it said: {last}")
        last = line
        if found := URL.search(line):
            return found.group()


def call(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """GET, or POST a JSON body, and return the JSON answer."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310 - the server started above
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:  # noqa: S310
            parsed: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as exc:
        raise DemoError(f"{url} answered {exc.code}: {exc.read(500).decode(errors='replace')}") from exc
    except (OSError, ValueError) as exc:
        raise DemoError(f"{url}: {exc}") from exc
    return parsed


def ask(url: str, request: dict[str, Any], budget_ms: float) -> dict[str, Any]:
    """Route a prompt within a latency budget, with the reasons."""
    return call(f"{url}/route", request | {"explain": True, "latency_budget_ms": budget_ms})


def show(number: int, request: dict[str, Any], answer: dict[str, Any]) -> None:
    """Print one decision."""
    explanation = answer["explanation"]
    runner_up, neighbors = explanation["runner_up"], explanation["neighbors"]
    turns = [one["content"] for one in request.get("messages", ()) if one["role"] == "user"]
    print()
    show_line(f"{number}. prompt", request.get("prompt") or " / ".join(turns))
    show_line("   model", f"{answer['model']}   (reason: {answer['reason']})")
    show_line("   tier", f"{answer['tier']}, {answer['elapsed_ms']:.1f} of {answer['latency_budget_ms']:.0f} ms")
    show_line("   why", explanation["summary"])
    if intent := answer["intent"]:
        show_line("   intent", f"{intent['label']}, that of {intent['neighbor_share']:.0%} of the neighbours")
    if runner_up:
        show_line("   next best", f"{runner_up['model']}, {runner_up['margin']:.3f} behind")
    for nearest in neighbors[:1]:  # none where there was no time to look for any
        winners = " and ".join(nearest["winners"]) or "no model clearly"
        text = " ".join(nearest["prompt"].split())
        show_line("   nearest", f'won by {winners}, cosine {nearest["similarity"]:.2f}: "{text}"')


def show_line(label: str, text: str) -> None:
    """Print a label and its text on at most two lines."""
    room = WIDTH - LABEL_WIDTH
    parts = textwrap.wrap(text, room, max_lines=2, placeholder=" ...", break_on_hyphens=False)
    print(f"{label:<{LABEL_WIDTH}}" + f"\n{'':<{LABEL_WIDTH}}".join(parts))


if __name__ == "__main__":
    sys.exit(main())
