"""Each published format in its publisher's own layout, on rows written for these tests."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from router.errors import DataError
from training.sources import huggingface, intake, load, routerdc


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def turns(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user" if place % 2 == 0 else "assistant", "content": text} for place, text in enumerate(texts)]


ARENA_33K = {
    "question_id": "q1",
    "model_a": "small",
    "model_b": "large",
    "winner": "tie (bothbad)",
    "judge": "arena_user_5",
    "conversation_a": turns("first", "answer", "second", "answer"),
    "conversation_b": turns("first", "other", "second", "other"),
    "turn": 2,
    "anony": True,
    "language": "English",
    "tstamp": 1682352000.5,
    "openai_moderation": {"flagged": False},
    "toxic_chat_tag": {"t5-large": {"flagged": False}},
}


def test_arena_33k(tmp_path: Path) -> None:
    log = load(write(tmp_path / "arena.jsonl", ARENA_33K))
    (row,) = log.comparisons
    assert (row.prompt, row.winner) == ("first\n\nsecond", "both_bad")
    assert (row.user, row.judge, row.timestamp) == ("arena_user_5", None, 1682352000.5)
    assert log.sources[0].format == "chatbot_arena"
    assert all(column.reason != "not part of the format" for column in log.sources[0].columns)


def test_arena_100k_with_conversations_as_json_text(tmp_path: Path) -> None:
    row = {key: ARENA_33K[key] for key in ("question_id", "model_a", "model_b", "tstamp")}
    row |= {
        "winner": "model_b",
        "conversation_a": json.dumps(turns("first", "answer")),
        "conversation_b": "[]",
        "judge_hash": "ab12",
        "category_tag": {"math_v0.1": {"math": False}},
        "is_code": False,
    }
    (found,) = load(write(tmp_path / "arena.jsonl", row)).comparisons
    assert (found.prompt, found.winner, found.user) == ("first", "model_b", "ab12")


def test_arena_140k_with_content_parts(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "look", "image": None, "mimeType": None}, {"type": "image", "image": "x"}]
    row = {
        "id": "v1",
        "model_a": "small",
        "model_b": "large",
        "winner": "both_bad",
        "evaluation_session_id": "s9",
        "evaluation_order": 1,
        "conversation_a": [{"role": "user", "content": parts}, {"role": "assistant", "content": parts}],
        "conversation_b": [],
        "full_conversation": [],
        "timestamp": "2025-07-01 10:00:00",
    }
    (found,) = load(write(tmp_path / "arena.jsonl", row)).comparisons
    assert (found.prompt, found.winner, found.user) == ("look", "both_bad", "s9")
    assert found.timestamp == 1751364000.0


ARENA_55K = {"id": 1, "model_a": "small", "model_b": "large", "prompt": '["first", "second"]', "response_a": '["x"]'}


@pytest.mark.parametrize(("marks", "winner"), [("100", "model_a"), ("010", "model_b"), ("001", "tie")])
def test_arena_55k_as_csv(tmp_path: Path, marks: str, winner: str) -> None:
    row = ARENA_55K | dict(zip(("winner_model_a", "winner_model_b", "winner_tie"), marks, strict=True))
    with (tmp_path / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    (found,) = load(tmp_path / "train.csv").comparisons
    assert (found.prompt, found.winner) == ("first\n\nsecond", winner)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"winner_tie": 1}, "not one 1 and two 0"),
        ({"winner_model_a": 0}, "not one 1 and two 0"),
        ({"winner_model_a": None}, "not one 1 and two 0"),
        ({"prompt": "plain text"}, "not valid JSON"),
        ({"prompt": '{"a": 1}'}, "not a JSON list of turns"),
        ({"prompt": "[null]"}, "the prompt is empty"),
        ({"prompt": '["\\ud83d"]'}, "lone surrogate"),
    ],
)
def test_arena_55k_rows_that_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    good = ARENA_55K | {"winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}
    log = load(write(tmp_path / "arena.jsonl", good, good | {"prompt": '[null, "second"]'}, good | change))
    assert [row.prompt for row in log.comparisons] == ["first\n\nsecond", "second"]
    assert said in str(log.refusals[0])


def test_long_rows_of_one_prompt_make_one_comparison(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "x",
            "model": "small",
            "score": 1,
            "cost_usd": 0.1,
            "output_tokens": 55,
            "intent": "code",
            "latency_ms": 9,
        },
        {"prompt": "y", "model": "small", "score": 0.5},
        {"prompt": "x", "model": "large", "score": 0, "cost_usd": 0.2, "intent": "other"},
        {"prompt": "x", "model": "small", "score": 0.25},
        {"prompt": "x", "model": "large", "score": 1, "judge": "panel"},
        {"prompt": "y", "model": "large", "score": None},
        {"prompt": "y", "model": "large", "score": 7},
        {"prompt": "y", "model": "large", "score": 1, "output_tokens": -1},
    ]
    log = load(write(tmp_path / "long.jsonl", *rows))
    assert [(row.prompt, row.scores, row.intent, row.judge) for row in log.comparisons] == [
        ("x", {"small": 1.0, "large": 0.0}, "code", None),
        ("y", {"small": 0.5}, None, None),
        ("x", {"small": 0.25}, None, None),
        ("x", {"large": 1.0}, None, "panel"),
    ]
    assert log.comparisons[0].costs_usd == {"small": 0.1, "large": 0.2}
    assert log.comparisons[0].latencies_ms == {"small": 9.0}
    assert log.comparisons[0].output_tokens == {"small": 55.0}
    assert log.comparisons[1].output_tokens is None
    assert log.comparisons[2].where.endswith(":4")
    assert log.notes == {intake.NOT_SCORED: 1}
    assert [one.message for one in log.refusals] == [
        "the score of large is 7, expected 0..1",
        "output_tokens of large is -1, expected 0 or more",
    ]
    assert (log.sources[0].n_rows, log.sources[0].n_kept) == (8, 5)


def test_long_rows_of_dropped_models_do_not_count_as_kept(tmp_path: Path) -> None:
    rows = [{"prompt": p, "model": m, "score": 1} for p, m in (("x", "a"), ("x", "b"), ("y", "c"), ("z", "a"))]
    log = load(write(tmp_path / "long.jsonl", *rows), drop_models=["c"])
    assert (len(log), log.sources[0].n_kept, log.notes) == (2, 3, {intake.CUT_OFF: 1, intake.DROPPED: 1})


def test_llmrouter_rows(tmp_path: Path) -> None:
    rows = [
        {
            "task_name": "gsm8k",
            "query": "How many?",
            "ground_truth": "2",
            "metric": "GSM8K",
            "model_name": name,
            "performance": performance,
            "response_time": 1.5,
            "token_num": 40,
            "output_tokens": 31,
        }
        for name, performance in (("small", 0.0), ("large", 1.0))
    ]
    log = load(write(tmp_path / "routing.jsonl", *rows))
    (row,) = log.comparisons
    assert (row.prompt, row.intent, row.scores) == ("How many?", "gsm8k", {"small": 0.0, "large": 1.0})
    assert row.latencies_ms == {"small": 1500.0, "large": 1500.0}
    assert row.output_tokens == {"small": 31.0, "large": 31.0}
    roles = {column.name: column.role for column in log.sources[0].columns}
    assert (roles["output_tokens"], roles["token_num"]) == ("output_tokens", None)
    assert log.sources[0].recognised_by == "columns query, model_name, performance"


ROUTERDC = [
    {"question": "one", "scores": {"small": 0.3, "large": 0.0}, "cluster_id": 1},
    {"question": "two", "scores": {"small": 0, "large": 0.9}},
]


@pytest.mark.parametrize(
    ("name", "scores", "intent", "note"),
    [
        (
            "mmlu_test.json",
            [{"small": 1.0, "large": 0.0}, {"small": 0.0, "large": 1.0}],
            "mmlu",
            routerdc.PROBABILITIES,
        ),
        ("gsm8k-train.json", [{"small": 0.3, "large": 0.0}, {"small": 0.0, "large": 0.9}], "gsm8k", None),
        ("train.json", [{"small": 0.3, "large": 0.0}, {"small": 0.0, "large": 0.9}], None, routerdc.UNKNOWN_KIND),
    ],
)
def test_routerdc_json(
    tmp_path: Path, name: str, scores: list[dict[str, float]], intent: str | None, note: str | None
) -> None:
    (tmp_path / name).write_text(json.dumps(ROUTERDC))
    log = load(tmp_path / name)
    assert [row.scores for row in log.comparisons] == scores
    assert {row.intent for row in log.comparisons} == {intent}
    assert list(log.notes) == ([note] if note else [])


def test_routerdc_table_reads_the_kind_of_each_row(tmp_path: Path) -> None:
    row = {"question": "one", "task": "t", "role": "train", "m/small-1": 0.25, "m/large-2": 0.0}
    rows = [row | {"kind": kind} for kind in ("probability", "pass_rate_10", "stars")]
    rows.append(row | {"kind": "probability", "m/small-1": 1.5})
    path = write(tmp_path / "table.jsonl", *rows)
    with pytest.raises(DataError, match=r"'m/small-1' may be a flag or a measure.*--models"):
        load(path)
    log = load(path, models=["m/small-1", "m/large-2"])
    assert [one.scores for one in log.comparisons] == [
        {"m/small-1": 1.0, "m/large-2": 0.0},
        {"m/small-1": 0.25, "m/large-2": 0.0},
    ]
    assert "kind is 'stars', expected one of probability" in log.refusals[0].message
    assert "the score of m/small-1 is 1.5" in log.refusals[1].message
    assert load(write(path, *rows[:2])).models == ["m/large-2", "m/small-1"]


POINTS = [
    {"point_uid": "p1", "category": "code", "utterance": "sort a list", "embedding": [0.1, 0.2]},
    {"point_uid": "p2", "category": "chat", "utterance": "hello", "embedding": [0.3, 0.4]},
]
TARGETS = [
    {"point_uid": "p1", "target": "coder", "score": 1},
    {"point_uid": "p1", "target": "talker", "score": 0.25},
    {"point_uid": "p2", "target": "talker", "score": 1},
]


def pulze(folder: Path, points: list[dict[str, Any]], targets: list[dict[str, Any]]) -> Path:
    write(folder / "points.jsonl", *points)
    write(folder / "targets.jsonl", *targets)
    return folder


@pytest.mark.parametrize("given", [[""], ["points.jsonl"], ["targets.jsonl"], ["points.jsonl", "targets.jsonl"]])
def test_pulze_by_folder_or_by_either_file(tmp_path: Path, given: list[str]) -> None:
    pulze(tmp_path, POINTS, TARGETS)
    log = load(*[tmp_path / name for name in given])
    assert [(row.prompt, row.intent, row.scores) for row in log.comparisons] == [
        ("sort a list", "code", {"coder": 1.0, "talker": 0.25}),
        ("hello", "chat", {"talker": 1.0}),
    ]
    assert [(source.n_rows, source.n_kept) for source in log.sources] == [(2, 2), (3, 3)]
    assert log.sources[0].columns[3].reason == "a vector of another encoder"


def test_pulze_points_without_an_utterance_are_refused_by_name(tmp_path: Path) -> None:
    bare = {key: value for key, value in POINTS[0].items() if key != "utterance"}
    log = load(pulze(tmp_path, [bare, POINTS[1]], [*TARGETS, {"point_uid": "p2", "target": "coder", "score": 0}]))
    assert [one.message for one in log.refusals] == [
        "point p1 has no utterance; expected its text, as the embedding is of another encoder"
    ]
    with pytest.raises(DataError, match=r"points\.jsonl:1: point p1 has no utterance"):
        load(pulze(tmp_path, [bare], TARGETS[:1]))


def test_pulze_files_that_do_not_fit_each_other(tmp_path: Path) -> None:
    stray = {"point_uid": "p3", "target": "coder", "score": 1}
    log = load(pulze(tmp_path, [*POINTS, POINTS[0], POINTS[0] | {"point_uid": "p4"}], [*TARGETS, TARGETS[0], stray]))
    assert [one.message for one in log.refusals] == [
        "a second score of coder for point p1, expected one",
        "point p1 appears twice, expected once",
        "no usable score, expected at least one number in 0..1",
        "target of point p3, which is not among the points",
    ]
    (tmp_path / "targets.jsonl").unlink()
    with pytest.raises(DataError, match=r"expected targets\.jsonl beside points\.jsonl"):
        load(tmp_path / "points.jsonl")


def test_a_saved_dataset_and_one_with_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": "x", "model_a": "a", "model_b": "b", "winner": "tie", "extra": [1]}] * 3
    table = datasets.Dataset.from_list(rows)
    table.save_to_disk(str(tmp_path / "one"))
    log = load(tmp_path / "one")
    assert [row.where for row in log.comparisons] == [f"{tmp_path}/one:{number}" for number in (1, 2, 3)]
    assert (log.sources[0].format, log.sources[0].n_rows) == ("canonical", 3)
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(DataError, match=r"has the splits train, test; name one, as in .*two/train"):
        load(tmp_path / "two")
    assert len(load(tmp_path / "two" / "train")) == 3


def test_the_hub_is_asked_for_the_named_split(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[tuple[str, str | None]] = []

    def load_dataset(name: str, split: str | None = None) -> Any:
        asked.append((name, split))
        return datasets.Dataset.from_list([ARENA_33K])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    log = load("hf:owner/name:train")
    assert asked == [("owner/name", "train")]
    assert log.comparisons[0].prompt == "first\n\nsecond"
    assert (log.sources[0].name, log.sources[0].sha256) == ("hf:owner/name:train", None)


@pytest.mark.parametrize("error", [ConnectionError("no route\nto host"), ValueError(""), FileNotFoundError("gone")])
def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(name: str, split: str | None = None) -> Any:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"^hf:owner/name: cannot be loaded: [^\n]+$"):
        load("hf:owner/name")


@pytest.mark.parametrize("name", ["hf:", "hf:name", "hf:a/b/c", "hf:../x"])
def test_a_malformed_hub_name(name: str) -> None:
    with pytest.raises(DataError, match="expected hf:OWNER/NAME"):
        huggingface.open_hub(name)


def test_long_rows_of_one_prompt_are_as_new_as_the_last_of_them(tmp_path: Path) -> None:
    rows = [
        {"prompt": "x", "model": "small", "score": 1, "timestamp": "2025-01-01T00:00:00Z"},
        {"prompt": "x", "model": "large", "score": 0, "timestamp": "2025-06-01T00:00:00Z"},
        {"prompt": "x", "model": "third", "score": 0},
        {"prompt": "y", "model": "small", "score": 1},
    ]
    dated, undated = load(write(tmp_path / "long.jsonl", *rows)).comparisons
    assert dated.timestamp == 1748736000.0 and len(dated.scores or {}) == 3 and undated.timestamp is None
