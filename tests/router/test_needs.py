"""router/needs.py: what a request asks of a model without saying so."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.needs import Hints, count_tokens, needs_of
from router.types import Needs

QUESTION = {"role": "user", "content": "What is the weather in Ulm?"}
OPENAI_CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}],
}
OPENAI_RESULT = {"role": "tool", "tool_call_id": "1", "content": "rain"}
OLD_CALL = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}}
OLD_RESULT = {"role": "function", "name": "weather", "content": "rain"}
ANTHROPIC_CALL = {
    "role": "assistant",
    "content": [
        {"type": "text", "text": "I look it up."},
        {"type": "tool_use", "id": "1", "name": "weather", "input": {"city": "Ulm"}},
    ],
}
ANTHROPIC_RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "rain"}]}
ANSWER = {"role": "assistant", "content": "It rains."}


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_a_text_needs_nothing_but_its_length() -> None:
    assert needs_of("abcd" * 10) == Needs(10)
    assert [count_tokens(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("part", "capability"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + 4_000 * "A"}}, "vision"),
        ({"type": "input_image", "image_url": "https://example.org/a.png"}, "vision"),
        ({"type": "image", "source": {"type": "base64", "data": 4_000 * "A"}}, "vision"),
        ({"type": "input_audio", "input_audio": {"data": 4_000 * "A", "format": "wav"}}, "audio"),
        ({"type": "file", "file": {"file_id": "1"}}, "files"),
        ({"type": "document", "source": {"type": "base64", "data": 4_000 * "A"}}, "files"),
    ],
)
def test_content_that_is_no_text_needs_a_capability_and_no_tokens(part: dict[str, Any], capability: str) -> None:
    text = {"type": "text", "text": "What is this?!!"}
    assert needs_of(user(text, part)) == Needs(count_tokens(text["text"]), (capability,))
    assert needs_of(user(text)) == Needs(count_tokens(text["text"]))


def test_an_image_anywhere_in_the_conversation_is_seen() -> None:
    messages = [*user({"type": "image", "source": {}}), ANSWER, QUESTION]
    assert needs_of(messages).capabilities == ("vision",)
    screenshot = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "image", "source": {}}]}
    assert needs_of([QUESTION, ANTHROPIC_CALL, *user(screenshot)]).capabilities == ("tools", "vision")


def test_tools_to_call_need_a_model_that_calls() -> None:
    assert needs_of("hello", tools=[{"type": "function"}]).capabilities == ("tools",)
    tools = [{"type": "function"}]
    n_tokens = count_tokens(QUESTION["content"]) + count_tokens(str(tools))  # the model reads the definitions, too
    assert needs_of([QUESTION], tools=tools) == Needs(n_tokens, ("tools",))


@pytest.mark.parametrize(
    ("call", "result"),
    [(OPENAI_CALL, OPENAI_RESULT), (OLD_CALL, OLD_RESULT), (ANTHROPIC_CALL, ANTHROPIC_RESULT)],
    ids=["openai", "openai functions", "anthropic"],
)
def test_a_tool_call_is_open_until_the_result_is_answered(call: dict[str, Any], result: dict[str, Any]) -> None:
    opened = [
        needs_of(messages).tool_call_open for messages in ([QUESTION], [QUESTION, call], [QUESTION, call, result])
    ]
    assert opened == [False, True, True]
    answered = [QUESTION, call, result, ANSWER]
    assert not needs_of(answered).tool_call_open and not needs_of([*answered, QUESTION]).tool_call_open
    # A model that cannot read calls cannot go on with such a conversation.
    assert needs_of([*answered, QUESTION]).capabilities == ("tools",)


def test_the_length_is_that_of_all_that_the_model_reads() -> None:
    system = {"role": "system", "content": 400 * "s"}
    said = {"role": "assistant", "content": [{"type": "text", "text": 40 * "a"}]}
    assert needs_of([system, said, {"role": "user", "content": 4 * "u"}]).input_tokens == 111
    for result in (
        {"role": "tool", "content": 4_000 * "r"},
        *user({"type": "tool_result", "content": 4_000 * "r"}),
        *user({"type": "tool_result", "content": [{"type": "text", "text": 4_000 * "r"}]}),
    ):
        assert needs_of([result]).input_tokens == 1_000
    arguments = 400 * "x"
    openai = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    assert needs_of([openai]).input_tokens == 100
    anthropic = {"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": {"x": arguments}}]}
    assert 100 <= needs_of([anthropic]).input_tokens <= 103


def test_hints_stand_for_content_that_is_not_sent() -> None:
    hints = Hints(context_tokens=50_000, has_images=True, has_tools=True)
    assert needs_of("And now?", hints=hints) == Needs(50_000, ("tools", "vision"))
    # They add to what is there, and take nothing from it.
    long = needs_of(400 * "word", hints=Hints(context_tokens=10))
    assert long == Needs(400)
    assert needs_of(user({"type": "image"}), hints=Hints()).capabilities == ("vision",)


odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "tool_calls", "function", "arguments", "input"]),
            inner | st.sampled_from(["tool_result", "tool_use", "user", "tool", "image"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(odd, max_size=4))
def test_no_message_is_too_odd_to_be_looked_at(messages: list[Any]) -> None:
    needs = needs_of(messages)
    assert needs.input_tokens >= 0 and list(needs.capabilities) == sorted(set(needs.capabilities))


def test_content_nested_without_end_is_not_followed() -> None:
    part: dict[str, Any] = {"type": "tool_result", "content": "end"}
    for _ in range(5_000):
        part = {"type": "tool_result", "content": [part]}
    assert needs_of(user(part)).tool_call_open
