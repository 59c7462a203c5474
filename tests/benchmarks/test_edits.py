"""benchmarks/edits.py: every edit changes the prompt, repeatably, or says that it did not."""

import random
from difflib import SequenceMatcher

import pytest
from edits import EDITS, ONE_WORD, delete_word, edited, replace_word, typo
from hypothesis import given
from hypothesis import strategies as st

PROMPTS = (
    "Which of these is NOT a prime number?\nA. 2\nB. 9\nC. 11",
    "def add(a, b):\n    return a + b\n",
    "以下哪一项不是质数？",
    "Why don't well-known proofs use it?",
)


@given(text=st.text(max_size=60), name=st.sampled_from(sorted(EDITS)), seed=st.integers(0, 3))
def test_an_edit_is_repeatable_and_changes_the_text_or_is_none(text: str, name: str, seed: int) -> None:
    changed = edited(name, text, seed)
    assert changed == edited(name, text, seed)
    assert changed is None or (changed != text and changed.strip())


@pytest.mark.parametrize("name", sorted(EDITS))
def test_edits_do_something_on_a_prompt(name: str) -> None:
    changed = [edited(name, PROMPTS[0], seed) for seed in range(20)]
    assert None not in changed
    assert len(set(changed)) > 1 or name == "lower case", "the seed decides where"


@pytest.mark.parametrize("text", PROMPTS)
@pytest.mark.parametrize("seed", range(10))
def test_a_deleted_word_is_all_that_goes(text: str, seed: int) -> None:
    changed = delete_word(text, random.Random(seed))
    gone = [one for one in SequenceMatcher(None, text, changed, autojunk=False).get_opcodes() if one[0] != "equal"]
    assert [one[0] for one in gone] == ["delete"]
    (_, start, end, _, _) = gone[0]
    assert len(text[start:end].split()) == 1
    assert changed == text[:start] + text[end:]


@pytest.mark.parametrize("seed", range(10))
def test_a_word_is_replaced_by_another_one_of_the_prompt(seed: int) -> None:
    words = ["Why", "don't", "well-known", "proofs", "use", "it"]
    changed = replace_word(PROMPTS[3], random.Random(seed)).rstrip("?").split()
    assert len(changed) == len(words)
    different = [new for old, new in zip(words, changed, strict=True) if old != new]
    assert len(different) == 1
    assert different[0] in words


@pytest.mark.parametrize("seed", range(60))
def test_a_typo_stays_inside_its_word(seed: int) -> None:
    changed = typo("an old keyboard is it", random.Random(seed))
    first, second, word, *rest = changed.split()
    assert [first, second, *rest] == ["an", "old", "is", "it"]
    assert (word[0], word[-1]) == ("k", "d")
    assert abs(len(word) - len("keyboard")) <= 1


@pytest.mark.parametrize("text", ["", "  ", "word", "一"])
def test_a_prompt_is_never_emptied(text: str) -> None:
    assert edited("delete a word", text, 0) is None
    assert edited("replace a word", text, 0) is None


def test_promises_are_about_edits_that_there_are() -> None:
    assert set(ONE_WORD) < set(EDITS)
