"""What a request asks of a model without saying so: the length of all it holds, images, tools, an open tool call."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.types import Messages, Needs

# English text runs at about four characters a token, whichever model's tokenizer it is.
CHARS_PER_TOKEN = 4
# The types that content parts of OpenAI's and Anthropic's messages have, and what a model must be able to do with them.
PART_CAPABILITIES: Mapping[str, str] = {
    "image_url": "vision",
    "input_image": "vision",
    "image": "vision",
    "input_audio": "audio",
    "audio": "audio",
    "file": "files",
    "input_file": "files",
    "document": "files",
}
# A tool's result holds parts, and these no others.
MAX_DEPTH = 2
_CALLS, _RESULTS = frozenset({"tool_use", "function_call"}), frozenset({"tool_result", "function_call_output"})


@dataclass(frozen=True, slots=True)
class Hints:
    """What the caller says of content that it does not send. context_tokens: of all that the model will read."""

    context_tokens: int = 0
    has_images: bool = False
    has_tools: bool = False


def count_tokens(text: str) -> int:
    """Return how many tokens a text is reckoned to have, CHARS_PER_TOKEN each, the last one begun."""
    return math.ceil(len(text) / CHARS_PER_TOKEN)


def needs_of(prompt: str | Messages, *, tools: Sequence[Any] = (), hints: Hints | None = None) -> Needs:
    """Return what a prompt or a conversation needs. tools: their definitions, which the model reads as well.

    Messages that cannot be read are passed over: folding them (router/prompt.py) is where they are refused.
    """
    said = hints or Hints()
    wanted = {"vision"} if said.has_images else set()
    if isinstance(prompt, str):
        n_tokens, is_open, n_calls = count_tokens(prompt), False, 0
    else:
        messages = [one for one in prompt if isinstance(one, Mapping)]
        parts = [part for one in messages for part in _parts(one)]
        wanted |= {PART_CAPABILITIES[kind] for part in parts if (kind := str(part.get("type"))) in PART_CAPABILITIES}
        n_tokens = math.ceil(sum(_n_chars(one) for one in messages) / CHARS_PER_TOKEN)
        is_open = bool(messages) and _waits_for_tool(messages[-1])
        n_calls = sum(_calls(one) for one in messages)
    if tools or said.has_tools or n_calls or is_open:
        wanted.add("tools")
    n_tokens += count_tokens(str(tools)) if tools else 0
    return Needs(max(n_tokens, said.context_tokens), tuple(sorted(wanted)), is_open)


def _parts(message: Mapping[str, Any], depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of a message's content, and those inside of a tool's result."""
    content = message.get("content")
    if isinstance(content, list | tuple) and depth < MAX_DEPTH:
        for part in content:
            if isinstance(part, Mapping) and isinstance(part.get("type", ""), str):
                yield part
                if part.get("type") in _RESULTS:
                    yield from _parts(part, depth + 1)


def _n_chars(message: Mapping[str, Any]) -> int:
    """Return the length of what a model reads of a message: texts, what tools were called with and what they gave."""
    called = [one.get("function") for one in _list(message.get("tool_calls")) if isinstance(one, Mapping)]
    parts = list(_parts(message))
    texts = [message.get("content"), *(one.get("text") for one in parts)]
    texts += [one.get("content") for one in parts if one.get("type") in _RESULTS]
    texts += [one.get("arguments") for one in (*called, message.get("function_call")) if isinstance(one, Mapping)]
    inputs = [one["input"] for one in parts if one.get("type") in _CALLS and isinstance(one.get("input"), Mapping)]
    return sum(len(one) for one in texts if isinstance(one, str)) + sum(len(str(one)) for one in inputs)


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _calls(message: Mapping[str, Any]) -> bool:
    if message.get("tool_calls") or message.get("function_call"):
        return True
    return any(part.get("type") in _CALLS for part in _parts(message))


def _waits_for_tool(message: Mapping[str, Any]) -> bool:
    """Tell whether the last message is a tool's call or its result: the model that called is to go on."""
    if message.get("role") in ("tool", "function") or _calls(message):
        return True
    return any(part.get("type") in _RESULTS for part in _parts(message))
