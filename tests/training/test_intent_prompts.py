"""data/intents: the labelled prompts that the encoders learn from, and those that measure them."""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from router.prompt import fold_messages
from training.labels import read_labelled

HOME = Path(__file__).parents[2] / "data" / "intents"
FILES = ("train", "held_out")
NEAR = 0.5
# Both pairs stand in train.jsonl alone; the encoders that ship learnt from it as it is.
NEAR_PAIRS = [
    ("wolf goat cabbage but boat holds two items", "wolf goat cabbage but boat holds two, fewest trips"),
    ("ugh mondays", "ugh. mondays."),
]


def fold(text: str) -> str:
    return " ".join(text.casefold().split())


@pytest.fixture(scope="module")
def groups() -> dict[str, dict[str, str]]:
    return json.loads((HOME / "taxonomy.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, Any]]]:
    return {
        name: [json.loads(line) for line in (HOME / f"{name}.jsonl").read_text("utf-8").splitlines()] for name in FILES
    }


@pytest.fixture(scope="module")
def texts(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The folded prompts of both files."""
    return [
        fold_messages(row["messages"]) if "messages" in row else row["prompt"] for name in FILES for row in rows[name]
    ]


def test_the_taxonomy_defines_every_intent_once(groups: dict[str, dict[str, str]]) -> None:
    intents = [intent for group in groups.values() for intent in group]
    assert len(intents) == len(set(intents)) >= 40
    assert len(groups) >= 5 and all(len(group) >= 2 for group in groups.values())
    definitions = [definition for group in groups.values() for definition in group.values()]
    assert all(len(one) > 10 and one.endswith(".") for one in definitions)
    assert len(set(definitions)) == len(definitions)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", one) for one in (*groups, *intents))


def test_every_intent_has_prompts_in_both_files(
    groups: dict[str, dict[str, str]], rows: dict[str, list[dict[str, Any]]]
) -> None:
    known = {intent for group in groups.values() for intent in group}
    n = {name: Counter(row["intent"] for row in rows[name]) for name in FILES}
    assert set(n["train"]) == set(n["held_out"]) == known
    for intent in known:
        total = n["train"][intent] + n["held_out"][intent]
        assert total >= 40, intent
        assert 0.07 <= n["held_out"][intent] / total <= 0.13, intent


def test_a_row_is_a_prompt_or_a_conversation_that_ends_with_the_user(rows: dict[str, list[dict[str, Any]]]) -> None:
    for row in (row for name in FILES for row in rows[name]):
        assert set(row) in ({"intent", "prompt"}, {"intent", "messages"})
        if "prompt" in row:
            assert row["prompt"].strip()
            continue
        roles = [one["role"] for one in row["messages"]]
        assert roles[-1] == "user" and set(roles) <= {"system", "user", "assistant"}
        assert "system" not in roles[1:] and len(roles) >= 2
        assert all(one["content"].strip() for one in row["messages"])


def test_the_reader_keeps_every_row(rows: dict[str, list[dict[str, Any]]], texts: list[str]) -> None:
    prompts = read_labelled(*(HOME / f"{name}.jsonl" for name in FILES))
    assert prompts.texts == tuple(texts) and prompts.n_conflicts == 0
    assert prompts.labels == tuple(row["intent"] for name in FILES for row in rows[name])


def test_no_text_stands_there_twice(texts: list[str]) -> None:
    n = Counter(map(fold, texts))
    assert [text for text, count in n.items() if count > 1] == []


def test_no_further_two_texts_are_nearly_the_same(texts: list[str]) -> None:
    """Jaccard's index of their runs of three words, within the files and across them."""
    runs = []
    for text in texts:
        words = re.findall(r"\w+", text.casefold())
        runs.append({tuple(words[at : at + 3]) for at in range(max(1, len(words) - 2))})
    where: dict[tuple[str, ...], list[int]] = defaultdict(list)
    near = []
    for row, mine in enumerate(runs):
        shared = Counter(other for run in mine for other in where[run])
        near += [
            (texts[other], texts[row])
            for other, n in shared.items()
            if mine and n / (len(mine) + len(runs[other]) - n) > NEAR
        ]
        for run in mine:
            where[run].append(row)
    assert near == NEAR_PAIRS


def test_the_held_out_share_no_text_with_the_others(texts: list[str], rows: dict[str, list[dict[str, Any]]]) -> None:
    n_train = len(rows["train"])
    assert not {fold(text) for text in texts[:n_train]} & {fold(text) for text in texts[n_train:]}


def test_there_are_conversations_and_other_languages(rows: dict[str, list[dict[str, Any]]], texts: list[str]) -> None:
    all_rows = [row for name in FILES for row in rows[name]]
    n_turns = [sum(one["role"] == "user" for one in row.get("messages", ())) for row in all_rows]
    assert sum(n >= 2 for n in n_turns) / len(all_rows) >= 0.05
    foreign = [any(one.isalpha() and not one.isascii() for one in text) for text in texts]
    assert sum(foreign) / len(texts) >= 0.05
