"""Rules that hold for every source: prompts, winners, scores, names, files, and what is refused."""

import csv
import datetime as dt
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from router.errors import ConfigError, DataError
from training.comparisons import PreferenceLog
from training.sources import FORMATS, intake, load

BATTLE = {"prompt": "Sort a list.", "model_a": "small", "model_b": "large", "winner": "model_a"}
SCORED = {"prompt": "Name a river.", "scores": {"small": 0.25, "large": 1}}


def jsonl(folder: Path, *rows: Any, name: str = "log.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def load_rows(folder: Path, *rows: Any, **options: Any) -> PreferenceLog:
    return load(jsonl(folder, *rows), **options)


def refusal_of(folder: Path, row: Any) -> str:
    log = load_rows(folder, BATTLE, row)
    assert len(log) == 1, "the good row is kept"
    assert len(log.refusals) == 1
    return str(log.refusals[0])


def test_a_battle_keeps_all_its_fields(tmp_path: Path) -> None:
    extra = {
        "intent": "code",
        "cost_usd": {"small": 0.001, "large": 0.02, "other": 1.0},
        "latency_ms": {"small": 120},
        "output_tokens": {"large": 310, "small": 0, "other": 5},
        "weight": 2,
        "judge": "panel",
        "user": 7,
        "timestamp": "2024-05-01T12:00:00Z",
    }
    (row,) = load_rows(tmp_path, BATTLE | extra).comparisons
    assert (row.model_a, row.model_b, row.winner, row.scores) == ("small", "large", "model_a", None)
    assert row.costs_usd == {"small": 0.001, "large": 0.02}, "amounts of models that are not in the row are left out"
    assert row.latencies_ms == {"small": 120.0}
    assert row.output_tokens == {"small": 0.0, "large": 310.0}
    assert (row.intent, row.weight, row.judge, row.user) == ("code", 2.0, "panel", "7")
    assert row.timestamp == dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC).timestamp()
    assert row.where == f"{tmp_path}/log.jsonl:1"


def test_battles_and_scores_may_be_mixed(tmp_path: Path) -> None:
    log = load_rows(tmp_path, BATTLE, "", SCORED)
    assert [row.where[-2:] for row in log.comparisons] == [":1", ":3"], "blank lines count as lines, not as rows"
    assert log.comparisons[1].scores == {"small": 0.25, "large": 1.0}
    assert (log.sources[0].n_rows, log.sources[0].n_kept) == (2, 2)


@pytest.mark.parametrize(
    ("spelling", "outcome"),
    [
        ("model_a", "model_a"),
        ("A", "model_a"),
        ("model_b", "model_b"),
        ("b", "model_b"),
        ("tie", "tie"),
        ("Tie", "tie"),
        ("tie (bothbad)", "both_bad"),
        ("both_bad", "both_bad"),
        ("bothbad", "both_bad"),
        ("both bad", "both_bad"),
        ("small", "model_a"),
        ("large", "model_b"),
    ],
)
def test_winner_spellings(tmp_path: Path, spelling: str, outcome: str) -> None:
    (row,) = load_rows(tmp_path, BATTLE | {"winner": spelling}).comparisons
    assert row.winner == outcome


def test_a_winner_that_is_a_name_and_the_other_side_is_refused(tmp_path: Path) -> None:
    row = {"prompt": "x", "model_a": "B", "model_b": "A", "winner": "A"}
    assert "a model's name and a side" in refusal_of(tmp_path, row)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"winner": "nobody"}, "winner 'nobody', expected model_a"),
        ({"winner": None}, "the winner is missing"),
        ({"model_b": None}, "model_b is missing"),
        ({"model_a": ""}, "model_a is missing"),
        ({"model_a": 3}, "model_a is 3, expected a model's name"),
        ({"model_a": "a\nb"}, "control characters"),
        ({"prompt": ""}, "the prompt is"),
        ({"prompt": " \n"}, "the prompt is"),
        ({"prompt": 12}, "the prompt is not a text"),
        ({"prompt": "\ud83d"}, "lone surrogate"),
        ({"prompt": "a\x00b"}, "NUL"),
        ({"weight": 0}, "weight is 0, expected a number above 0"),
        ({"weight": "much"}, "weight is 'much', expected a number"),
        ({"timestamp": "yesterday"}, "timestamp is no date"),
        ({"timestamp": 1e18}, "timestamp is 1e+18"),
        ({"cost_usd": {"small": -1}}, "cost_usd of small is -1, expected 0 or more"),
        ({"cost_usd": 0.5}, "expected an object {model: number}"),
        ({"output_tokens": {"large": -2}}, "output_tokens of large is -2, expected 0 or more"),
        ({"output_tokens": {"large": "long"}}, "output_tokens of large is 'long', expected a number"),
        ({"output_tokens": 12}, "expected an object {model: number}"),
        ({"scores": {"small": 1}}, "both a battle and scores"),
        ({"prompt": None, "messages": [{"role": "user"}]}, "messages hold no text"),
        ({"prompt": None, "messages": "[{"}, "not valid JSON"),
        ({"prompt": None, "messages": {"role": "user"}}, "not a list of messages"),
    ],
)
def test_refused_battles_say_where_what_and_what_was_expected(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    message = refusal_of(tmp_path, BATTLE | change)
    assert message.startswith(f"{tmp_path}/log.jsonl:2: ")
    assert said in message


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"small": 1.5}, "the score of small is 1.5, expected 0..1"),
        ({"small": -0.1}, "expected 0..1"),
        ({"small": math.inf}, "infinite"),
        ({"small": "good"}, "the score of small is 'good', expected a number"),
        ({"small": 10**400}, "expected a number"),
        ({"small": [1]}, "expected a number"),
        ({"small": math.nan, "large": None}, "no usable score"),
        ({}, "no usable score"),
        ([0.5], "expected an object {model: number}"),
        (None, "neither model_a"),
    ],
)
def test_refused_scores(tmp_path: Path, scores: Any, said: str) -> None:
    assert said in refusal_of(tmp_path, {"prompt": "x", "scores": scores})


def test_missing_scores_are_counted_and_left_out(tmp_path: Path) -> None:
    log = load_rows(tmp_path, {"prompt": "x", "scores": {"a": math.nan, "b": None, "c": True, "d": 0.5}})
    assert log.comparisons[0].scores == {"c": 1.0, "d": 0.5}
    assert log.notes == {intake.NOT_SCORED: 2}


@pytest.mark.parametrize(
    "row", ["{", "[1]", '{"prompt": NaN', "\x00\x01", "[" * 100_000, '{"weight": ' + "9" * 5000 + "}"]
)
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, row: str) -> None:
    assert ":2: " in refusal_of(tmp_path, row)


def test_a_prompt_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_PROMPT_BYTES", 20)
    assert "the prompt has 22 bytes, expected at most 20" in refusal_of(tmp_path, BATTLE | {"prompt": "é" * 11})


@pytest.mark.parametrize("as_text", [False, True])
def test_messages_are_folded_to_the_user_turns(tmp_path: Path, as_text: bool) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "image_url", "image_url": "x"}]},
    ]
    row = {key: value for key, value in BATTLE.items() if key != "prompt"}
    row |= {"messages": json.dumps(messages) if as_text else messages}  # type: ignore[dict-item]
    assert load_rows(tmp_path, row).comparisons[0].prompt == "one\n\ntwo"


@pytest.mark.parametrize(
    "stamp", [1714564800, 1714564800.0, 1714564800000, "1714564800", "2024-05-01T12:00:00+00:00", "2024-05-01 12:00:00"]
)
def test_timestamps(tmp_path: Path, stamp: Any) -> None:
    assert load_rows(tmp_path, BATTLE | {"timestamp": stamp}).comparisons[0].timestamp == 1714564800.0


def test_self_battles_are_dropped_and_counted(tmp_path: Path) -> None:
    log = load_rows(tmp_path, BATTLE, BATTLE | {"model_b": "small"})
    assert (len(log), log.refusals, log.notes) == (1, [], {intake.SELF_BATTLES: 1})


def test_repeated_prompts_are_kept_as_several_comparisons(tmp_path: Path) -> None:
    assert len(load_rows(tmp_path, BATTLE, BATTLE, SCORED, SCORED)) == 4


def test_aliases_average_scores_and_drop_battles_within_one_model(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "x",
            "scores": {"old": 0.0, "new": 1.0, "rest": 1.0},
            "cost_usd": {"old": 1.0, "new": 3.0},
            "output_tokens": {"old": 10, "new": 30, "rest": 7},
        },
        {"prompt": "y", "model_a": "old", "model_b": "new", "winner": "old"},
        {"prompt": "z", "model_a": "old", "model_b": "rest", "winner": "old"},
    ]
    log = load_rows(tmp_path, *rows, aliases={"old": "new"})
    assert log.comparisons[0].scores == {"new": 0.5, "rest": 1.0}
    assert log.comparisons[0].costs_usd == {"new": 2.0}
    assert log.comparisons[0].output_tokens == {"new": 20.0, "rest": 7.0}
    assert (log.comparisons[1].model_a, log.comparisons[1].winner) == ("new", "model_a")
    assert log.notes == {intake.MERGED: 1, intake.SELF_BATTLES: 1}


def test_dropped_models_leave_battles_and_scores(tmp_path: Path) -> None:
    rows = [
        BATTLE,
        {"prompt": "x", "scores": {"small": 1, "large": 0, "huge": 1}, "output_tokens": {"small": 3, "huge": 4}},
        {"prompt": "y", "scores": {"small": 1}},
    ]
    log = load_rows(tmp_path, *rows, drop_models=["small"])
    assert [row.scores for row in log.comparisons] == [{"large": 0.0, "huge": 1.0}]
    assert [row.output_tokens for row in log.comparisons] == [{"huge": 4.0}]
    assert log.notes == {intake.DROPPED: 2, intake.CUT_OFF: 1 + 1}


def test_models_restrict_the_log(tmp_path: Path) -> None:
    rows = [BATTLE, BATTLE | {"model_b": "huge"}, {"prompt": "x", "scores": {"small": 1, "large": 0, "huge": 1}}]
    log = load_rows(tmp_path, *rows, models=["small", "large"])
    assert log.models == ["large", "small"]
    assert log.notes == {intake.NOT_ASKED: 1, intake.CUT_OFF: 1}


@pytest.mark.parametrize(
    "options", [{"models": ["small", "smal"]}, {"drop_models": ["smal"]}, {"aliases": {"smal": "large"}}]
)
def test_a_name_that_never_occurs_is_an_error(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"no model is named 'smal' in the sources; seen: large, small"):
        load_rows(tmp_path, BATTLE, **options)


def test_models_may_be_named_after_the_aliases(tmp_path: Path) -> None:
    assert load_rows(tmp_path, BATTLE, models=["S", "large"], aliases={"small": "S"}).models == ["S", "large"]


def test_on_bad_row_fail_stops_at_the_first(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log\.jsonl:2: winner 'x', expected"):
        load_rows(tmp_path, BATTLE, BATTLE | {"winner": "x"}, BATTLE | {"winner": "y"}, on_bad_row="fail")


def test_nothing_usable_names_the_first_three_refusals_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_rows(tmp_path, *[BATTLE | {"winner": f"w{number}"} for number in range(5)])
    message = str(caught.value)
    assert "no usable row; 5 rows refused" in message
    assert all(f"log.jsonl:{line}: " in message for line in (1, 2, 3))
    assert "log.jsonl:4" not in message
    assert "\n" not in message


def test_one_model_alone_is_too_little(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"only one model \(small\)"):
        load_rows(tmp_path, {"prompt": "x", "scores": {"small": 1}})


def test_columns_are_taken_or_ignored_with_a_reason(tmp_path: Path) -> None:
    log = load_rows(tmp_path, BATTLE | {"note": 1, "intent": "code"})
    found = {column.name: (column.role, column.reason) for column in log.sources[0].columns}
    assert found["note"] == (None, "not part of the canonical record")
    assert found["intent"][0] == "intent"
    assert all(reason for _, reason in found.values())
    assert (log.sources[0].format, log.sources[0].recognised_by) == (
        "canonical",
        "columns prompt, model_a, model_b, winner",
    )


def test_csv_and_parquet_say_the_same_as_json_lines(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "one,\ntwo", "scores": json.dumps({"a": 1, "b": 0.5}), "cost_usd": "", "timestamp": "1714564800"},
        {"prompt": "three", "scores": json.dumps({"a": 0}), "cost_usd": json.dumps({"a": 0.1}), "timestamp": ""},
    ]
    with (tmp_path / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "text.parquet")
    structs = [row | {"scores": json.loads(row["scores"])} for row in rows]
    pq.write_table(pa.Table.from_pylist(structs), tmp_path / "struct.parquet")
    (tmp_path / "log.json").write_text(json.dumps(rows, indent=1))
    expected = load(jsonl(tmp_path, *rows)).comparisons
    for name, lines in (("log.csv", "24"), ("text.parquet", "12"), ("struct.parquet", "12"), ("log.json", "28")):
        found = load(tmp_path / name).comparisons
        assert [row.where for row in found] == [f"{tmp_path}/{name}:{line}" for line in lines]
        plain = [(row.prompt, row.scores, row.costs_usd, row.timestamp) for row in found]
        assert plain == [(row.prompt, row.scores, row.costs_usd, row.timestamp) for row in expected]


def test_parquet_timestamps_and_maps(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": ["x"],
            "scores": pa.array([[("a", 1.0), ("b", 0.0)]], pa.map_(pa.string(), pa.float64())),
            "timestamp": pa.array([dt.datetime(2024, 5, 1, 12)], pa.timestamp("us")),
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    (row,) = load(tmp_path / "log.parquet").comparisons
    assert (row.scores, row.timestamp) == ({"a": 1.0, "b": 0.0}, 1714564800.0)


def test_csv_with_a_huge_field_and_a_short_row(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"prompt,model_a,model_b,winner\n{'x' * 300_000},a,b,A\nshort,a\n,a,b,B\n")
    limit = csv.field_size_limit()
    log = load(path)
    assert len(log.comparisons[0].prompt) == 300_000
    assert [str(one).rsplit(":", 1)[0][-1] + one.message for one in log.refusals] == [
        "32 fields, expected 4 as in the header",
        "4the prompt is empty, expected a text",
    ]
    assert (log.sources[0].n_rows, log.sources[0].n_kept) == (3, 1)
    assert csv.field_size_limit() == limit


BROKEN = {
    "missing.jsonl": None,
    "empty.jsonl": b"",
    "blank.jsonl": b"\n\n",
    "garbage.jsonl": bytes(range(256)),
    "garbage.csv": b"\xff\xfe\x00\x01",
    "header.csv": b"prompt,model_a,model_b,winner\n",
    "twice.csv": b"prompt,prompt\nx,y\n",
    "quote.csv": b'prompt,model_a,model_b,winner\n"x,a,b,A\n',
    "text.parquet": b"prompt,model_a\n",
    "cut.json": b'[{"prompt": "x", "scores": {"a": 1, "b": 0}}, {"prompt"',
    "comma.json": b'[{"prompt": "x", "scores": {"a": 1, "b": 0}},',
    "trailing.json": b'[{"prompt": "x"},]',
    "object.json": b'{\n"prompt": "x"\n}',
    "numbers.json": b"[1, 2]",
    "nothing.json": b"[]",
    "latin.json": b'["\xe9"]',
    "wrong.txt": b"prompt",
    "unknown.jsonl": b'{"text": "x", "label": 1}',
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_one_line_errors(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = BROKEN[name]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_damaged_parquet_file_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pylist([BATTLE] * 2000), path)
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged Parquet"):
        load(path)


def test_a_json_array_that_breaks_off_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text('[\n{"prompt": "x", "scores": {"a": 1, "b": 0}},\n{"prompt": oops}\n]')
    with pytest.raises(DataError, match=r"log\.json:3: not valid JSON"):
        load(path)


def test_a_folder_is_read_file_by_file_and_a_file_only_once(tmp_path: Path) -> None:
    (tmp_path / "data" / ".cache").mkdir(parents=True)
    jsonl(tmp_path / "data", BATTLE, name="b.jsonl")
    jsonl(tmp_path / "data", SCORED, name="a.jsonl")
    jsonl(tmp_path / "data" / ".cache", "junk", name="c.jsonl")
    log = load(tmp_path / "data")
    assert [Path(source.name).name for source in log.sources] == ["a.jsonl", "b.jsonl"]
    assert all(source.sha256 and len(source.sha256) == 64 for source in log.sources)
    with pytest.raises(DataError, match="given twice"):
        load(tmp_path / "data", tmp_path / "data" / "a.jsonl")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="the folder holds no"):
        load(tmp_path / "nothing")


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    path = jsonl(tmp_path, BATTLE)
    with pytest.raises(ConfigError, match="unknown format 'arena', expected one of"):
        load(path, format="arena")
    with pytest.raises(DataError, match="not in format pulze"):
        load(path, format="pulze")
    with pytest.raises(ValueError, match="on_bad_row is 'stop'"):
        load(path, on_bad_row="stop")
    with pytest.raises(ValueError, match="no source"):
        load()


def test_a_named_format_is_used(tmp_path: Path) -> None:
    assert load(jsonl(tmp_path, BATTLE), format="canonical").sources[0].recognised_by == "named by the caller"
    assert "wide_rows" in FORMATS


def test_progress_goes_to_stderr_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = jsonl(tmp_path, BATTLE)
    load(path)
    assert capsys.readouterr() == ("", "")
    load(path, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "log.jsonl" in err
