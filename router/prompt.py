"""What is embedded: one text per request, made the same way in training and in serving.

Folding of chat messages, hashing, and cutting of templates that a log's prompts share.
Cutting to the encoder's length is the encoder's own business (encoder.py).
"""

import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.errors import PromptError

# The name of the rule in fold_messages, pinned by artifacts: another rule needs another name.
FOLDING = "user-turns-1"
TURN_SEPARATOR = "\n\n"
TEMPLATE_SHARE = 0.2
TEMPLATE_MIN_CHARS = 24


def fold_messages(messages: Sequence[Mapping[str, Any]]) -> str:
    """Fold OpenAI-style chat messages to the one text that is embedded.

    The rule: the user's turns, oldest first, joined by a blank line. System prompts, assistant turns and
    tool results say what the application or a model wrote, not what is asked, and are left out; a
    conversation without any user turn falls back to its system prompts. Of a content list only the
    ``text`` parts count.

    Raises:
        PromptError: a message is not an object with ``role`` and ``content``, or no text is left.
    """
    turns: dict[str, list[str]] = {"user": [], "system": []}
    for position, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise PromptError(f"messages[{position}] must be an object with a string 'role' and a 'content'")
        role = "system" if message["role"] == "developer" else message["role"]
        text = _content_text(message.get("content"), position)
        if role in turns and text.strip():
            turns[role].append(text)
    text = TURN_SEPARATOR.join(turns["user"] or turns["system"])
    if not text:
        raise PromptError("messages hold no text: a user message with text is needed, or at least a system prompt")
    return text


def _content_text(content: Any, position: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = []
        for part in content:
            if not isinstance(part, Mapping):
                raise PromptError(f"messages[{position}].content must be a string or a list of parts")
            if part.get("type", "text") == "text":
                text = part.get("text", "")
                if not isinstance(text, str):
                    raise PromptError(f"messages[{position}].content: a text part needs a string 'text'")
                parts.append(text)
        return "\n".join(parts)
    raise PromptError(f"messages[{position}].content must be a string or a list of parts, got {type(content).__name__}")


def prompt_hash(text: str) -> str:
    """Return the first 32 hex digits of the SHA-256 of the text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Template:
    """Texts that many of a log's prompts begin or end with (few-shot exemplars, instructions), longest first."""

    prefixes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()

    def strip(self, text: str) -> str:
        """Cut the longest known prefix and suffix; a prompt that is nothing but template stays whole."""
        cut = text
        for prefix in self.prefixes:
            if cut.startswith(prefix):
                cut = cut[len(prefix) :]
                break
        for suffix in self.suffixes:
            if cut.endswith(suffix):
                cut = cut[: -len(suffix)]
                break
        return cut if cut.strip() else text


def find_template(texts: Sequence[str]) -> Template:
    """Find what at least a fifth of the distinct texts begin or end with, if it is at least 24 characters long.

    Several templates may stand side by side (one few-shot prefix per task). Among sorted texts those with a common
    prefix are neighbours, so it is enough to compare each text with the one a fifth of the list further on.
    """
    distinct = sorted(set(texts))
    prefixes = _shared_prefixes(distinct)
    stripped = Template(prefixes=prefixes)
    reversed_rest = sorted({stripped.strip(text)[::-1] for text in distinct})
    suffixes = tuple(one[::-1] for one in _shared_prefixes(reversed_rest))
    return Template(prefixes=prefixes, suffixes=suffixes)


def _whole_words(prefix: str, *texts: str) -> str:
    """Cut back a prefix that ends inside a word of either text."""
    inside = any(text[len(prefix) : len(prefix) + 1].isalnum() for text in texts)
    return re.sub(r"\w+\Z", "", prefix) if inside else prefix


def _shared_prefixes(distinct: Sequence[str]) -> tuple[str, ...]:
    window = max(2, math.ceil(TEMPLATE_SHARE * len(distinct)))
    found: set[str] = set()
    for first, last in zip(distinct, distinct[window - 1 :], strict=False):
        prefix = os.path.commonprefix([first, last])  # noqa: RUF071 (characters are meant)
        prefix = _whole_words(prefix, first, last)
        if len(prefix) >= TEMPLATE_MIN_CHARS:
            found.add(prefix)
    return tuple(sorted(found, key=lambda one: (-len(one), one)))
