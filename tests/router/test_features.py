"""router/features.py: what the counts mean, and that no text breaks them."""

import hashlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.features import FEATURE_NAMES, FEATURES, N_FEATURES, surface_features

HOSTILE = [
    "",
    " ",
    "\x00",
    "\ud800",
    "\udfff" * 9,
    "\n" * 4000,
    " \n\t" * 2000,
    "a" * 1_000_000,
    "；？",
    "{[(" * 5000,
    ";" * 5000,
    "\u2028" * 4000,
]


def feature(text: str, name: str) -> float:
    return float(surface_features(text)[FEATURE_NAMES.index(name)])


@pytest.mark.parametrize("text", HOSTILE, ids=[f"{one[:3]!r}*{len(one)}" for one in HOSTILE])
def test_hostile_texts_give_finite_numbers(text: str) -> None:
    features = surface_features(text)
    assert features.shape == (N_FEATURES,) == (len(FEATURE_NAMES),)
    assert np.isfinite(features).all()


@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_any_text_gives_finite_numbers_and_shares(text: str) -> None:
    features = surface_features(text)
    shares = [value for name, value in zip(FEATURE_NAMES, features, strict=True) if name.endswith("_share")]
    assert np.isfinite(features).all() and min(shares) >= 0 and max(shares) <= 1


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("ab", "log_bytes", np.log(3)),
        ("é", "log_bytes", np.log(3)),
        ("a1b2", "digits_share", 0.5),
        ("a.B.", "punctuation_share", 0.5),
        ("a b c", "log_spaces", np.log(3)),
        ("a\n\nb", "log_newlines", np.log(3)),
        ("2+2=4", "math_share", 0.4),
        ("пять", "two_byte_letters_share", 0.5),
        ("漢", "wide_letters_share", 1 / 3),
        ("why?? ", "ends_with_question_mark", 1),
        ("为什么？", "ends_with_question_mark", 1),
        ("why? no", "ends_with_question_mark", 0),
        ("x\ndef f(a):", "has_code", 1),
        ("a classical definition", "has_code", 0),
        ("Pick one:\nA) red\nB) blue", "has_options", 1),
        ("Pick one:\n\n  (2) blue", "has_options", 1),
        ("Pick one, A or B", "has_options", 0),
        (" What is it", "asks_what", 1),
        ("I know what it is", "asks_what", 0),
        ("Write a poem", "commands", 1),
        ("I write poems", "commands", 0),
    ],
)
def test_features_mean_what_they_say(text: str, name: str, value: float) -> None:
    assert feature(text, name) == pytest.approx(value)


@given(st.text(max_size=80), st.text(" \n\t", max_size=5), st.text(" \n\t", max_size=5))
def test_blanks_around_a_prompt_change_nothing(text: str, before: str, after: str) -> None:
    np.testing.assert_array_equal(surface_features(before + text + after), surface_features(text))


@given(st.text(st.characters(max_codepoint=127), max_size=80))
def test_case_changes_nothing_but_what_looks_like_code(text: str) -> None:
    own, lower = surface_features(text), surface_features(text.lower())
    same = [at for at, name in enumerate(FEATURE_NAMES) if name != "has_code"]
    np.testing.assert_array_equal(own[same], lower[same])


def test_patterns_do_not_backtrack_over_blank_lines() -> None:
    """A run of whitespace is read once: patterns that start at every line must not run across lines."""
    from router import features

    across = [name for name, pattern in features._FLAGS.items() if re.search(r"\^\\s[*+]", pattern.pattern)]
    assert across == [], "'^\\s*' under (?m) takes quadratic time on blank lines; use '^[ \\t]*'"


def test_other_features_need_another_name() -> None:
    """Artifacts pin the name: whoever changes what is computed must change FEATURES, and then this test."""
    texts = ("Which of these is NOT prime?\nA) 2\nB) 9", "def f(x):\n    return x ** 2", "Übersetze: 早上好！", "")
    computed = np.round(np.stack([surface_features(text) for text in texts]), 6) + 0.0
    found = hashlib.sha256(computed.tobytes()).hexdigest()[:16]
    assert (FEATURES, N_FEATURES, found) == ("surface-2", 23, "ce57c88dd3421f7b")


FRAGMENTS = st.sampled_from(
    (
        *(
            "```",
            "def ",
            "class ",
            "import ",
            "return",
            "function",
            "; \n",
            "#include",
            "SELECT ",
            "not",
            "NO",
            "never",
        ),
        *("Except", "cannot", "neither", "nor", "WITHOUT", "don't", "wİthout", "neıther", "ne", "x", " ", ".", "é"),
    )
)


@given(st.lists(FRAGMENTS, max_size=12).map("".join))
def test_looking_for_marks_first_changes_nothing(text: str) -> None:
    from router import features

    assert features._count_negations(text) == len(features._NEGATION.findall(text))
    assert feature(text, "has_code") == (features._FLAGS["has_code"].search(text.strip()) is not None)
