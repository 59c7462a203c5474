"""router/prompt.py: folding, hashing, templates."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import PromptError
from router.prompt import FOLDING, TEMPLATE_MIN_CHARS, Template, find_template, fold_messages, prompt_hash


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([user("one")], "one"),
        ([user("one"), {"role": "assistant", "content": "no"}, user("two")], "one\n\ntwo"),
        ([{"role": "system", "content": "be brief"}, user("one")], "one"),
        ([{"role": "tool", "content": "42"}, {"role": "system", "content": "be brief"}], "be brief"),
        ([{"role": "developer", "content": "be brief"}, {"role": "assistant", "content": "no"}], "be brief"),
        ([user("  "), {"role": "system", "content": "be brief"}], "be brief"),
        ([user([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, {"text": "b"}])], "a\nb"),
        ([user("one"), {"role": "assistant", "tool_calls": []}, {"role": "assistant", "content": None}], "one"),
        ([user(" kept as it is \n")], " kept as it is \n"),
    ],
)
def test_fold_keeps_what_the_user_asked(messages: list[dict[str, Any]], text: str) -> None:
    assert fold_messages(messages) == text


@pytest.mark.parametrize(
    ("messages", "wanted"),
    [
        ([], "no text"),
        ([user("")], "no text"),
        ([user([{"type": "image_url"}])], "no text"),
        ([{"role": "assistant", "content": "hello"}], "no text"),
        (["hello"], r"messages\[0\] must be an object"),
        ([user("a"), {"content": "b"}], r"messages\[1\] must be an object"),
        ([{"role": 3, "content": "b"}], r"messages\[0\] must be an object"),
        ([user(7)], r"messages\[0\].content must be a string or a list of parts, got int"),
        ([user({"text": "a"})], r"messages\[0\].content"),
        ([user(b"bytes")], r"messages\[0\].content"),
        ([user(["a"])], r"messages\[0\].content"),
        ([user([{"type": "text", "text": 7}])], "string 'text'"),
    ],
)
def test_fold_refuses_by_place(messages: list[Any], wanted: str) -> None:
    with pytest.raises(PromptError, match=wanted):
        fold_messages(messages)


def test_another_folding_needs_another_name() -> None:
    """Artifacts pin the name: whoever changes the rule must change FOLDING, and then this test."""
    roles = ("system", "user", "assistant", "developer", "tool", "user")
    folded = fold_messages([{"role": role, "content": f"{role} {at}"} for at, role in enumerate(roles)])
    assert (FOLDING, folded) == ("user-turns-1", "user 1\n\nuser 5")


def test_hash_is_of_the_bytes_and_takes_lone_surrogates() -> None:
    assert prompt_hash("abc") == "ba7816bf8f01cfea414140de5dae2223"
    assert len({prompt_hash(one) for one in ("", "a", "a ", "\ud800", "\udfff", "?")}) == 6


EXEMPLARS = "Answer the question as in the examples.\n\nQ: 1 + 1\nA: 2\n\n"
SUFFIX = "\n\nThink step by step, then answer with one letter."
# Starts and ends of their own, so that nothing but the template is shared.
QUESTIONS = [f"{n * 7919 % 97} {'xyzw'[n % 4]} times {n}? {chr(97 + n % 26)}{n}" for n in range(40)]


def test_prefix_and_suffix_are_found_and_cut() -> None:
    template = find_template([EXEMPLARS + one + SUFFIX for one in QUESTIONS])
    assert template.prefixes[-1:] == (EXEMPLARS,) and template.suffixes[-1:] == (SUFFIX,)
    assert [template.strip(EXEMPLARS + one + SUFFIX) for one in QUESTIONS] == QUESTIONS


def test_two_templates_side_by_side() -> None:
    other = "You are a careful mathematician. Solve: "
    texts = [(EXEMPLARS if n % 2 else other) + one for n, one in enumerate(QUESTIONS)]
    template = find_template(texts)
    assert {EXEMPLARS, other} <= set(template.prefixes)
    assert sorted(template.strip(text) for text in texts) == sorted(QUESTIONS)


@pytest.mark.parametrize(("n_shared", "found"), [(8, True), (7, False)])
def test_a_fifth_of_the_distinct_rows_must_share_it(n_shared: int, found: bool) -> None:
    texts = [EXEMPLARS + one for one in QUESTIONS[:n_shared]] + QUESTIONS[n_shared:]
    assert bool(find_template(texts + texts[:1] * 50).prefixes) is found


def test_a_short_common_opening_is_no_template() -> None:
    opening = "Please tell me about "
    assert len(opening) < TEMPLATE_MIN_CHARS
    assert find_template([opening + one for one in QUESTIONS]) == Template()


def test_a_template_never_cuts_into_a_word() -> None:
    asked = ["France", "Finland", "Fiji", "Francia", "Frisia", "Fes"]
    texts = [f"What is the capital city of {name}" for name in asked]
    template = find_template(texts)
    assert {template.strip(text) for text in texts} <= {*asked, *texts}


def test_strip_leaves_what_is_nothing_but_template_whole() -> None:
    template = Template(prefixes=("ab: ", "a"), suffixes=(" end",))
    assert [template.strip(one) for one in ("ab: x end", "ax", "ab: ", "ab:  end", "x")] == [
        "x",
        "x",
        "ab: ",
        "ab:  end",
        "x",
    ]


@given(st.lists(st.text(max_size=60), max_size=30), st.text(max_size=60))
def test_templates_of_any_texts_leave_something(texts: list[str], other: str) -> None:
    template = find_template(texts)
    for text in [*texts, other]:
        cut = template.strip(text)
        assert cut in text and bool(cut.strip()) == bool(text.strip())
