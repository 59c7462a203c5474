"""Surface features of a prompt: how it is written, which its meaning vector does not tell.

Length, digits, code, answer options, script: the cheapest signal of how hard a prompt is. Most of them are linear in
the counts of its UTF-8 bytes, so one histogram gives them all in a few microseconds at any length. Blanks around the
prompt and capitals are not among them: the same question typed in lower case, or with a space behind, is the same.
"""

import math
import re
import string
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# The name of what is computed here, pinned by artifacts: other features need another name.
FEATURES = "surface-2"

_BYTE_CLASSES: dict[str, bytes] = {
    "digits": string.digits.encode(),
    "punctuation": string.punctuation.encode(),
    "spaces": b" \t",
    "newlines": b"\n",
    "math": b"=+-*/^<>$\\|%",
    "brackets": b"()[]{}",
    "quotes": b"\"'`",
    "question_marks": b"?",
    "commas": b",",
    "full_stops": b".",
    "colons": b":",
    # Lead bytes: two-byte scripts (Cyrillic, Greek, accents), and three- or four-byte ones (Han, Kana, Hangul, emoji).
    "two_byte_letters": bytes(range(0xC2, 0xE0)),
    "wide_letters": bytes(range(0xE0, 0xF5)),
}
_SHARES = (
    "digits",
    "punctuation",
    "spaces",
    "newlines",
    "math",
    "brackets",
    "quotes",
    "two_byte_letters",
    "wide_letters",
)
_COUNTS = ("spaces", "newlines", "digits", "question_marks", "commas", "full_stops", "colons")
_FLAGS: dict[str, re.Pattern[str]] = {
    "has_code": re.compile(r"```|\bdef |\bclass |\bimport |\breturn\b|\bfunction\b|;\s*\n|#include|SELECT "),
    "has_options": re.compile(r"(?m)^[ \t]*\(?[A-Ea-e1-5][).:]\s"),
    "asks_what": re.compile(r"(?i)\s*(?:what|who|when|where|why|how|which|is|are|do|does|can)\b"),
    "commands": re.compile(
        r"(?i)\s*(?:write|create|make|generate|give|list|explain|find|solve|compute|calculate|translate|summari[sz]e)\b"
    ),
}
# Questions turned round ("which is NOT", "all except") are answered worse by weak models. English only.
_NEGATION = re.compile(r"\b(?:not|no|never|except|cannot|neither|nor|without)\b|n't\b", re.IGNORECASE)
_NEGATION_CHARS = 1000
# A regular expression that finds nothing has looked everywhere; these substrings, of which every match of it has one,
# are looked for first, which takes a tenth of the time. Letters beyond ASCII may match others whatever their case.
_CODE_MARKS = ("```", "def ", "class ", "import ", "return", "function", ";", "#include", "SELECT ")
_NEGATION_MARKS = ("no", "n't", "never", "neither", "except", "without")
# Flags look for openings and markers; reading more than this changes none of them in practice and costs time.
_FLAG_CHARS = 4000

FEATURE_NAMES = (
    "log_bytes",
    *(f"{name}_share" for name in _SHARES),
    *(f"log_{name}" for name in _COUNTS),
    "log_negations",
    "ends_with_question_mark",
    *_FLAGS,
)
N_FEATURES = len(FEATURE_NAMES)

# A histogram times this table: the number of bytes, what _SHARES are of, and _COUNTS.
_TABLE = np.ones((256, 1 + len(_SHARES) + len(_COUNTS)))
for _column, _name in enumerate((*_SHARES, *_COUNTS), start=1):
    _TABLE[:, _column] = [byte in _BYTE_CLASSES[_name] for byte in range(256)]
_N_COUNTED = _TABLE.shape[1]
_SHARED = slice(1, 1 + len(_SHARES))


def surface_features(text: str) -> NDArray[np.float64]:
    """Return the features of one prompt in the order of FEATURE_NAMES: float64 (N_FEATURES,), not yet scaled."""
    own: NDArray[np.float64] = surface_features_of([text])[0]
    return own


def surface_features_of(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the same for many prompts: float64 (n_texts, N_FEATURES)."""
    texts = [text.strip() for text in texts]
    raw = [np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8) for text in texts]
    counts = np.array([np.bincount(one, minlength=256) for one in raw], dtype=np.float64) @ _TABLE
    out = np.empty((len(texts), N_FEATURES))
    np.log1p(counts, out=out[:, :_N_COUNTED])
    np.divide(counts[:, _SHARED], np.maximum(counts[:, :1], 1.0), out=out[:, _SHARED])
    out[:, _N_COUNTED:] = [_marks(text) for text in texts]
    return out


def _marks(text: str) -> tuple[float, ...]:
    """Return what is looked for rather than counted: negations, a closing question mark, and _FLAGS."""
    head = text[:_FLAG_CHARS]
    return (
        math.log1p(_count_negations(text[:_NEGATION_CHARS])),
        text[-1:] in ("?", "？"),
        any(map(head.__contains__, _CODE_MARKS)) and _FLAGS["has_code"].search(head) is not None,
        _FLAGS["has_options"].search(head) is not None,
        _FLAGS["asks_what"].match(head) is not None,  # these two are about the opening
        _FLAGS["commands"].match(head) is not None,
    )


def _count_negations(text: str) -> int:
    if text.isascii() and not any(map(text.lower().__contains__, _NEGATION_MARKS)):
        return 0
    return len(_NEGATION.findall(text))
