"""Bodies that mean harm: made by hand with the status each deserves, and drawn at random around valid requests."""

import json
from typing import Any

from fake_service import Client
from hypothesis import strategies as st

from router.service.answers import ErrorAnswer
from router.service.schema import REQUEST_EXAMPLES

HAND_MADE: dict[str, tuple[bytes, int]] = {
    "lone surrogate in the prompt": (rb'{"prompt": "CANARY \ud800"}', 422),
    "lone surrogate in a name": (rb'{"prompt": "x", "policy": {"fallback": "CANARY\udfff"}}', 422),
    "lone surrogate in a key": (rb'{"prompt": "x", "CANARY\ud800": 1}', 422),
    "lone surrogate where nobody reads": (
        rb'{"messages": [{"role": "user", "content": "x", "name": "CANARY\ud800"}]}',
        422,
    ),
    "NaN": (b'{"prompt": "x", "latency_budget_ms": NaN}', 400),
    "Infinity": (b'{"prompt": "x", "policy": {"max_cost_usd": Infinity}}', 400),
    "minus Infinity": (b'{"prompt": "x", "latency_budget_ms": -Infinity}', 400),
    "a float beyond infinity": (b'{"prompt": "x", "latency_budget_ms": 1e999}', 400),
    "an integer of 5,000 digits": (b'{"prompt": "x", "latency_budget_ms": ' + b"9" * 5_000 + b"}", 400),
    "an integer of 30 digits": (b'{"prompt": "x", "latency_budget_ms": ' + b"9" * 30 + b"}", 422),
    "a hundred thousand openings": (b"[" * 100_000, 400),
    "deep and closed": (b"[" * 100_000 + b"]" * 100_000, 400),
    "deep in a message": (
        b'{"messages": [{"role": "user", "content": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}]}",
        400,
    ),
    "33 deep where nobody reads": (
        b'{"messages": [{"role": "user", "content": "x", "extra": ' + b"[" * 30 + b"]" * 30 + b"}]}",
        400,
    ),
    "UTF-16": ('{"prompt": "CANARY"}'.encode("utf-16"), 400),
    "UTF-16 without a mark": ('{"prompt": "CANARY"}'.encode("utf-16-le"), 400),
    "UTF-32": ('{"prompt": "CANARY"}'.encode("utf-32"), 400),
    "UTF-8 with a mark": ('{"prompt": "CANARY"}'.encode("utf-8-sig"), 400),
    "no UTF-8": (b'{"prompt": "CANARY \xff\xfe"}', 400),
    "a key twice": (b'{"prompt": "x", "prompt": "CANARY"}', 400),
    "true as a number": (b'{"prompt": "x", "latency_budget_ms": true}', 422),
    "a number in quotes": (b'{"prompt": "x", "latency_budget_ms": "5"}', 422),
    "NUL in the prompt": (b'{"prompt": "CANARY\\u0000"}', 422),
    "a bare NUL": (b'{"prompt": "CANARY\x00"}', 400),
    "an unknown field": (b'{"prompt": "x", "CANARY": "CANARY"}', 422),
    "a base_url": (b'{"prompt": "x", "base_url": "http://169.254.169.254/CANARY"}', 422),
    "empty": (b"", 400),
    "null": (b"null", 422),
    "a string": (b'"CANARY"', 422),
    "half an object": (b'{"prompt": "CANARY', 400),
    "20 MB": (b'{"prompt": "' + b"x" * 20_000_000 + b'"}', 413),
    "more text than allowed": (b'{"prompt": "' + b"x" * 1_000_001 + b'"}', 422),
    "a million empty lists": (b'{"prompt": [' + b"[]," * 1_000_000 + b"[]]}", 400),
    "a thousand and one names": (json.dumps({"prompt": "x", "policy": {"exclude": ["a"] * 1_001}}).encode(), 422),
    "a name of a million characters": (
        json.dumps({"prompt": "x", "policy": {"exclude": ["CANARY" * 160_000]}}).encode(),
        422,
    ),
    "a session of a megabyte": (b'{"prompt": "x", "session_id": "' + b"CANARY" * 170_000 + b'"}', 422),
    "NUL in a session": (b'{"prompt": "x", "session_id": "CANARY\\u0000"}', 422),
    "lone surrogate in a session": (rb'{"prompt": "x", "session_id": "CANARY\ud800"}', 422),
    "a policy of no name": (b'{"prompt": "x", "policy": "CANARY"}', 422),
    "a policy in a list": (b'{"prompt": "x", "policy": ["CANARY"]}', 422),
    "a policy that bears a name": (b'{"prompt": "x", "policy": {"name": "CANARY"}}', 422),
    "a policy that names a key": (b'{"prompt": "x", "policy": {"key": "CANARY"}}', 422),
    "a key in the body": (b'{"prompt": "x", "key": "CANARY"}', 422),
    "needs in the body": (b'{"prompt": "x", "needs": {"input_tokens": 1}}', 422),
    "a thousand and one tools": (json.dumps({"prompt": "x", "tools": ["CANARY"] * 1_001}).encode(), 422),
    "tools 33 deep": (b'{"prompt": "x", "tools": ' + b"[" * 33 + b"]" * 33 + b"}", 400),
    "fifty thousand values in a tool": (b'{"prompt": "x", "tools": [[' + b"1," * 50_000 + b"1]]}", 400),
    "lone surrogate in a tool": (rb'{"prompt": "x", "tools": [{"name": "CANARY\ud800"}]}', 422),
    "a hint beyond counting": (b'{"prompt": "x", "hints": {"context_tokens": 9999999999}}', 422),
    "a hint that is no number": (b'{"prompt": "x", "hints": {"context_tokens": 1e3}}', 422),
    "a hint of NaN": (b'{"prompt": "x", "hints": {"context_tokens": NaN}}', 400),
    "regions in regions": (b'{"prompt": "x", "policy": {"region": [["CANARY"]]}}', 422),
    "a share above one": (b'{"prompt": "x", "policy": {"explore_share": 1.0000001}}', 422),
    "two trade-offs": (b'{"prompt": "x", "policy": {"strategy": "fast", "willingness_to_wait_ms": 5}}', 422),
    "a form that is no object": (b'{"prompt": "x", "response_format": ["CANARY"]}', 422),
    "a role that is no role": (b'{"messages": [{"role": "CANARY", "content": "x"}]}', 422),
}

FIELDS = [
    *(
        "prompt",
        "messages",
        "role",
        "content",
        "type",
        "text",
        "policy",
        "candidates",
        "exclude",
        "fallback",
        "cache",
    ),
    *("latency_budget_ms", "max_cost_usd", "willingness_to_pay_usd", "route_anyway", "explain", "other"),
    *("session_id", "application", "task", "tools", "response_format", "hints", "context_tokens", "has_images"),
    *("require", "region", "local_only", "min_uptime", "strategy", "explore_share", "tool_calls", "function_call"),
]
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(alphabet=st.characters(), max_size=20)
    | st.sampled_from(["user", "text", "prompt", "\x00", "\ud800", "small-fast", " "]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
EXAMPLES = [example["value"] for example in REQUEST_EXAMPLES.values()]


@st.composite
def mutated_values(draw: st.DrawFn) -> bytes:
    """A valid request with one to three values replaced."""
    value: Any = json.loads(json.dumps(draw(st.sampled_from(EXAMPLES))))
    for _ in range(draw(st.integers(1, 3))):
        place = value
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if not isinstance(place[key], dict | list) or draw(st.booleans()):
                place[key] = draw(JSON_VALUES)
                break
            place = place[key]
    return json.dumps(value).encode()


@st.composite
def mutated_bytes(draw: st.DrawFn) -> bytes:
    """A valid request with a few bytes replaced, cut out or put in."""
    raw = json.dumps(draw(st.sampled_from(EXAMPLES))).encode()
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        end = min(len(raw), start + draw(st.integers(0, 8)))
        raw = (
            raw[:start]
            + draw(st.binary(max_size=6) | st.sampled_from([b'"', b"\\", b"[", b"{", b"\\ud800"]))
            + raw[end:]
        )
    return raw


def check_answer(client: Client, body: bytes) -> int:
    """Send a body; the client raises what the application raises, and what is not JSON."""
    answer = client.route(body)
    if answer.status != 200:
        assert 400 <= answer.status < 500
        ErrorAnswer.model_validate(answer.json)
    return answer.status
