"""Small edits of a prompt that leave what is asked as it is: seeded, pure, and None where an edit changes nothing."""

import random
import re
from collections.abc import Callable

Edit = Callable[[str, random.Random], str]

# A letter of a script without spaces is a word of its own.
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+(?:['’-][^\W_{_ALONE}]+)*")
_TYPED = re.compile(rf"[^\W\d_{_ALONE}]{{4,}}")
_PREFIXES = (
    "Please answer: ",
    "Hello! ",
    "Could you please help me with this? ",
    "I have a question. ",
    "Please ",
)
_TEMPLATES = (
    "I would like to know the following: {}",
    "{}\n\nThank you in advance.",
    "Here is what I need help with:\n\n{}",
    "Question: {}\nAnswer:",
    '"{}"\n\nWhat would you answer?',
)
_NOISE_SHARE = 0.1
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def delete_word(text: str, rng: random.Random) -> str:
    """Take one word away, with a space beside it."""
    words = list(_WORD.finditer(text))
    if len(words) < 2:
        return text
    start, end = rng.choice(words).span()
    if text[end : end + 1] == " ":
        end += 1
    elif text[start - 1 : start] == " ":
        start -= 1
    return text[:start] + text[end:]


def replace_word(text: str, rng: random.Random) -> str:
    """Write another word of the prompt in the place of one."""
    words = list(_WORD.finditer(text))
    if not words:
        return text
    start, end = rng.choice(words).span()
    others = sorted({one.group() for one in words} - {text[start:end]})
    return text[:start] + rng.choice(others) + text[end:] if others else text


def typo(text: str, rng: random.Random) -> str:
    """Swap, drop or double one letter inside a word of four or more."""
    words = list(_TYPED.finditer(text))
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 2)  # the pair holds neither the first letter nor the last
    one, other = text[at], text[at + 1]
    return text[:at] + rng.choice((other + one, other, one + one + other)) + text[at + 2 :]


def lower_case(text: str, rng: random.Random) -> str:
    """Write all in lower case."""
    return text.lower()


def trailing_space(text: str, rng: random.Random) -> str:
    """Leave a space or an empty line at the end."""
    return text + rng.choice((" ", "  ", "\n"))


def polite_prefix(text: str, rng: random.Random) -> str:
    """Open politely."""
    return rng.choice(_PREFIXES) + text


def paraphrase(text: str, rng: random.Random) -> str:
    """Put the prompt into another frame."""
    before, after = rng.choice(_TEMPLATES).split("{}")
    return before + text + after


def noise(text: str, rng: random.Random) -> str:
    """Write a random letter in the place of every tenth letter: no small edit, but what others publish."""
    places = [at for at, one in enumerate(text) if one.isalpha()]
    wrong = set(rng.sample(places, max(1, round(_NOISE_SHARE * len(places))))) if places else set()
    return "".join(rng.choice(_LETTERS) if at in wrong else one for at, one in enumerate(text))


EDITS: dict[str, Edit] = {
    "delete a word": delete_word,
    "replace a word": replace_word,
    "typo": typo,
    "lower case": lower_case,
    "trailing space": trailing_space,
    "polite prefix": polite_prefix,
    "paraphrase": paraphrase,
    "10 % of letters": noise,
}
ONE_WORD = ("delete a word", "replace a word")
"""The edits that promises are made of."""


def edited(name: str, text: str, seed: int) -> str | None:
    """Return the prompt after the edit, the same for the same seed, or None where it stays as it is."""
    changed = EDITS[name](text, random.Random(f"{seed}/{name}/{text}"))
    return None if changed == text or not changed.strip() else changed
