"""Strict JSON: every refusal has its status, and what is valid comes through unchanged."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.service.body import MAX_DEPTH, MAX_VALUES, BodyError, check_content_headers, parse_json

SCALARS = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
# Strings of the characters that could be mistaken for structure.
TRICKY = st.text(alphabet='"\\[]{},:/ud8é😀\n', max_size=12) | st.text(
    alphabet=st.characters(codec="utf-8"), max_size=8
)
VALUES = st.recursive(
    SCALARS | TRICKY, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TRICKY, inner, max_size=4)
)


def encoded(header: str | None) -> bytes | None:
    return None if header is None else header.encode()


def refused(raw: bytes) -> BodyError:
    with pytest.raises(BodyError) as caught:
        parse_json(raw)
    return caught.value


@given(VALUES, st.booleans())
def test_valid_json_comes_through_unchanged(value: Any, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(TRICKY, st.integers(1, 2 * MAX_DEPTH), st.booleans())
def test_depth_is_counted_outside_strings_only(text: str, depth: int, as_objects: bool) -> None:
    value: Any = [text, "[" * 100, "{" * 100]
    for _ in range(depth - 1):
        value = {text: value} if as_objects else [text, value]
    raw = json.dumps(value).encode()
    if depth <= MAX_DEPTH:
        assert parse_json(raw) == value
    else:
        assert refused(raw).status == 400


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_the_last_depth_allowed_and_the_first_that_is_not(opening: bytes, closing: bytes) -> None:
    parse_json(opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH)
    assert refused(opening * (MAX_DEPTH + 1) + b"1" + closing * (MAX_DEPTH + 1)).status == 400


@pytest.mark.parametrize("backslashes", range(9))
def test_a_quote_is_escaped_by_an_odd_number_of_backslashes(backslashes: int) -> None:
    text = "\\" * backslashes
    inside = [text + '"', "[" * 100, text]
    assert parse_json(json.dumps(inside).encode()) == inside
    outside = b"[" + json.dumps(text).encode() + b"," + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b', "x"]'
    assert refused(outside).status == 400


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"[" * 4_000_000, id="4 million openings"),
        pytest.param(b'{"a":' * 500_000, id="half a million objects"),
        pytest.param(b"]" * 4_000_000 + b"[" * 50, id="closings first"),
        pytest.param(b'"\\"[' * 900_000 + b"[" * 50, id="quotes everywhere"),
        pytest.param(b'\\"' * 40 + b"[" * 50, id="escape outside a string"),
        pytest.param(b"[" + b"[]," * 1_000_000 + b"[]]", id="a million lists"),
        pytest.param(b"[" + b"0," * MAX_VALUES + b"0]", id="too many numbers"),
        pytest.param(b"[" + b'"a",' * (MAX_VALUES + 1) + b"0]", id="too many strings"),
    ],
)
def test_structures_that_would_cost_too_much_are_refused(raw: bytes) -> None:
    assert refused(raw).status == 400


def test_a_long_text_full_of_commas_and_brackets_is_no_structure() -> None:
    value = {"prompt": 'f(x[0], {y: [1, 2]}), \\ " ' * 30_000}
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"nul",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": 1} x',
        b'{"a": 1}\x00',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1, "a": 2}',
        b'{"b": {"a": 1, "\\u0061": 1}}',
        b'{"a": ' + b"9" * 5_000 + b"}",
        b'{"a": -' + b"9" * 5_000 + b"}",
        b'{"a": 0.' + b"1" * 5_000 + b"}",
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',  # a surrogate as UTF-8
        b'{"a": "\xc0\x80"}',  # an overlong NUL
        b'{"a": "line\nbreak"}',
        b'{"a": "\\x41"}',
        '{"a": 1}'.encode("utf-8-sig"),
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-16-le"),
        '{"a": 1}'.encode("utf-16-be"),
        '{"a": 1}'.encode("utf-32"),
        '{"a": 1}'.encode("utf-32-le"),
    ],
)
def test_what_is_not_strict_json_gets_400(raw: bytes) -> None:
    assert refused(raw).status == 400


@pytest.mark.parametrize(
    "raw",
    [
        rb'{"prompt": "\ud800"}',
        rb'{"prompt": "\uDFFF"}',
        rb'{"prompt": "\udc00\ud800"}',
        rb'{"\ud83d": 1}',
        rb'[[{"a": ["ok", "\uD83Dx"]}]]',
    ],
)
def test_half_a_surrogate_pair_gets_422(raw: bytes) -> None:
    assert refused(raw).status == 422


def test_whole_surrogate_pairs_and_escaped_backslashes_pass() -> None:
    assert parse_json(rb'{"a": "\ud83d\ude00 \\ud800"}') == {"a": "😀 \\ud800"}


def test_refusals_do_not_repeat_the_body() -> None:
    for raw in (b'{"canary', b'{"canary": NaN}', b'{"canary": 1, "canary": 2}', b'["canary\\ud800"]', b"canary" * 9):
        assert "canary" not in str(refused(raw))


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        (None, None),
        ("application/json", None),
        ("Application/JSON; charset=UTF-8", "identity"),
        ('application/json;charset="utf-8"', None),
    ],
)
def test_json_or_no_content_type_is_accepted(content_type: str | None, encoding: str | None) -> None:
    check_content_headers(encoded(content_type), encoded(encoding))


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        ("text/plain", None),
        ("", None),
        ("application/x-www-form-urlencoded", None),
        ("multipart/form-data; boundary=x", None),
        ("application/json; charset=utf-16", None),
        ("application/json", "gzip"),
    ],
)
def test_other_content_types_get_415(content_type: str, encoding: str | None) -> None:
    with pytest.raises(BodyError) as caught:
        check_content_headers(encoded(content_type), encoded(encoding))
    assert caught.value.status == 415
