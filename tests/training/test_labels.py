"""training/labels.py: prompts and intents from any table, and outcomes from preference logs."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from router.errors import DataError
from training.labels import (
    LABEL_COLUMNS,
    PROMPT_COLUMNS,
    LabelledPrompts,
    read_labelled,
    read_outcomes,
    with_unlabelled,
)

ROWS = [
    {"prompt": "sort a list", "intent": "code"},
    {"prompt": "bake a cake", "intent": "cooking"},
    {"prompt": "hello", "intent": None},
]


def write(path: Path, *rows: Any) -> Path:
    """Write rows in the format of the file's name."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user" if place % 2 == 0 else "assistant", "content": text} for place, text in enumerate(texts)]


@pytest.mark.parametrize("extension", ["jsonl", "json", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same(tmp_path: Path, extension: str) -> None:
    prompts = read_labelled(write(tmp_path / f"rows.{extension}", *ROWS))
    assert prompts.texts == ("sort a list", "bake a cake", "hello")
    assert prompts.labels == ("code", "cooking", None)
    assert (prompts.names, prompts.outcomes, len(prompts)) == (("code", "cooking"), None, 3)
    assert prompts.describe() == "2 prompts of 2 intents and 1 without"


def test_columns_are_chosen_in_the_order_of_their_names(tmp_path: Path) -> None:
    for place, name in enumerate(PROMPT_COLUMNS):
        if name == "messages":
            continue
        others = {other: "another" for other in PROMPT_COLUMNS[place + 1 :] if other != "messages"}
        path = write(tmp_path / f"{name}.jsonl", {**others, name: "mine", "label": "x"})
        assert read_labelled(path).texts == ("mine",)
    for place, name in enumerate(LABEL_COLUMNS):
        others = dict.fromkeys(LABEL_COLUMNS[place + 1 :], "another")
        path = write(tmp_path / f"label_{name}.jsonl", {**others, name: " mine ", "text": "t"})
        assert read_labelled(path).labels == ("mine",)


def test_labels_that_are_numbers_become_names(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", {"text": "a", "label": 3}, {"text": "b", "label": 0})
    assert read_labelled(path).names == ("0", "3")


@pytest.mark.parametrize("extension", ["jsonl", "json", "parquet"])
def test_conversations_are_folded_whatever_the_first_row_has(tmp_path: Path, extension: str) -> None:
    talk = {"messages": [{"role": "system", "content": "Be kind."}, *turns("first", "answer", "second")]}
    plain = {"prompt": "alone"}
    for name, rows in (("talk", (talk, plain)), ("plain", (plain, talk))):
        both = [{"prompt": None, "messages": None, **row, "intent": "x"} for row in rows]
        sparse = both if extension == "parquet" else [{**row, "intent": "x"} for row in rows]
        prompts = read_labelled(write(tmp_path / f"{name}.{extension}", *sparse))
        assert set(prompts.texts) == {"first\n\nsecond", "alone"}


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet"])
def test_conversations_alone_are_folded_as_a_list_and_as_text_of_json(tmp_path: Path, extension: str) -> None:
    messages: Any = turns("first", "answer", "second")
    if extension == "csv":
        messages = json.dumps(messages)
    path = write(tmp_path / f"rows.{extension}", {"messages": messages, "intent": "x"})
    assert read_labelled(path).texts == ("first\n\nsecond",)


def test_a_text_with_a_second_label_keeps_the_first_and_is_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.jsonl",
        {"prompt": "a", "intent": "x"},
        {"prompt": "a", "intent": "y"},
        {"prompt": "a", "intent": "x"},
        {"prompt": "b", "intent": "y"},
    )
    prompts = read_labelled(path, write(tmp_path / "more.jsonl", {"text": "b", "label": "x"}))
    assert (prompts.texts, prompts.labels, prompts.n_conflicts) == (("a", "b"), ("x", "y"), 2)
    assert prompts.describe() == "2 prompts of 2 intents (2 with a second label, which was ignored) and 0 without"


def test_a_text_that_stands_there_without_a_label_as_well_has_its_label(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "intent": None}, {"prompt": "a", "intent": "x"}, {"prompt": "a", "intent": ""}]
    prompts = read_labelled(write(tmp_path / "rows.jsonl", *rows))
    assert (prompts.texts, prompts.labels, prompts.n_conflicts) == (("a",), ("x",), 0)


def test_rows_without_a_prompt_are_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "intent": "x"} for prompt in (None, "", "  ", 7, "good")]
    path = write(tmp_path / "rows.jsonl", *rows)
    path.write_text(path.read_text() + "no json\n[1]\n")
    assert read_labelled(path).texts == ("good",)


def test_prompts_without_labels_stand_behind_and_none_twice(tmp_path: Path) -> None:
    prompts = LabelledPrompts(("a", "b"), ("x", "y"), np.array([[1.0, 0.0], [0.5, np.nan]], dtype=np.float32), 3)
    more = write(tmp_path / "more.jsonl", *({"text": text, "label": "ignored"} for text in "bcdc"))
    both = with_unlabelled(prompts, more)
    assert (both.texts, both.labels, both.n_conflicts) == (("a", "b", "c", "d"), ("x", "y", None, None), 3)
    assert both.outcomes is not None and both.outcomes.dtype == np.float32
    np.testing.assert_array_equal(both.outcomes, [[1, 0], [0.5, np.nan], [np.nan] * 2, [np.nan] * 2])
    alone = with_unlabelled(None, more)
    assert (alone.texts, alone.labels, alone.names, alone.outcomes) == (("b", "c", "d"), (None,) * 3, (), None)
    assert with_unlabelled(LabelledPrompts(("a",), ("x",)), more).outcomes is None


def test_outcomes_of_scores(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.jsonl",
        {"prompt": "a", "scores": {"large": 0.75, "small": 0.25}, "intent": "x"},
        {"prompt": "b", "scores": {"large": 1.0}},
    )
    prompts = read_outcomes(path)
    assert (prompts.texts, prompts.labels) == (("a", "b"), ("x", None))
    assert prompts.outcomes is not None and prompts.outcomes.dtype == np.float32
    np.testing.assert_array_equal(prompts.outcomes, [[0.75, 0.25], [1.0, np.nan]])


def test_outcomes_of_battles_are_shares_of_points(tmp_path: Path) -> None:
    battles = [("a", "l", "m", "model_a"), ("a", "m", "l", "tie"), ("a", "l", "s", "model_b"), ("b", "m", "s", "tie")]
    rows = [{"prompt": p, "model_a": one, "model_b": other, "winner": w} for p, one, other, w in battles]
    prompts = read_outcomes(write(tmp_path / "log.jsonl", *rows))
    assert (prompts.texts, prompts.names) == (("a", "b"), ())
    # l: a win, a tie and a defeat; m: a defeat and a tie; s: a win.
    np.testing.assert_allclose(prompts.outcomes, [[0.5, 0.25, 1.0], [np.nan, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("rows", "refusal"),
    [
        (
            [{"query": "a", "intent": "x"}],
            r"rows\.jsonl: no prompt column; got query, intent, expected one of prompt, ",
        ),
        ([{"prompt": "a", "topic": "x"}], r"rows\.jsonl: no label column; got prompt, topic, expected one of intent, "),
        ([{"prompt": "", "intent": "x"}], r"rows\.jsonl: no row with a prompt"),
        ([{"prompt": "a", "intent": None}], r"rows\.jsonl: no row with a prompt has a label"),
    ],
)
def test_what_a_file_lacks_is_named(tmp_path: Path, rows: list[dict[str, Any]], refusal: str) -> None:
    with pytest.raises(DataError, match=refusal):
        read_labelled(write(tmp_path / "rows.jsonl", *rows))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
        read_labelled(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="no such file"):
        read_labelled(tmp_path)
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(DataError, match=r"cannot read files of type '\.txt'"):
        read_labelled(tmp_path / "notes.txt")
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        read_outcomes(tmp_path / "nowhere.jsonl")
    only = write(tmp_path / "bare.jsonl", {"prompt": "a"})
    assert read_labelled(only, with_labels=False).labels == (None,)
