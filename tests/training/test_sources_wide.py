"""Wide rows: which columns are models is never guessed."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from router.errors import DataError
from training.sources import intake, load


def parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "wide.parquet")
    return folder / "wide.parquet"


FLAGGED: list[dict[str, Any]] = [
    {"prompt": "one", "subject": "law", "small": True, "large": False, "contaminated": False},
    {"prompt": "two", "subject": "art", "small": None, "large": True, "contaminated": True},
]


def test_a_flag_beside_models_is_an_error_that_names_models(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(parquet(tmp_path, FLAGGED))
    message = str(caught.value)
    assert "'small', 'large', 'contaminated'" in message
    assert "--models" in message


def test_named_columns_are_models_and_booleans_are_scores(tmp_path: Path) -> None:
    log = load(parquet(tmp_path, FLAGGED), models=["small", "large"])
    assert [row.scores for row in log.comparisons] == [{"small": 1.0, "large": 0.0}, {"large": 1.0}]
    assert [row.intent for row in log.comparisons] == ["law", "art"]
    assert log.notes == {intake.NOT_SCORED: 1}
    roles = {column.name: column.role for column in log.sources[0].columns}
    assert roles == {"prompt": "prompt", "subject": "intent", "small": "score", "large": "score", "contaminated": None}


def test_named_columns_may_carry_an_alias(tmp_path: Path) -> None:
    path = parquet(tmp_path, FLAGGED)
    assert load(path, models=["S", "large"], aliases={"small": "S"}).models == ["S", "large"]
    assert load(path, models=["small", "large"], aliases={"small": "S"}).models == ["S", "large"]


def test_a_named_column_that_is_missing(tmp_path: Path) -> None:
    path = parquet(tmp_path, FLAGGED)
    with pytest.raises(DataError, match="no model is named 'lrge' in the sources; seen: small"):
        load(path, models=["small", "lrge"])
    with pytest.raises(DataError, match=r"could be scores.*--models|no column has a name from --models"):
        load(path, models=["lrge"])


def test_a_score_outside_the_range_is_refused_with_its_value(tmp_path: Path) -> None:
    rows = [{"prompt": "x", "a": 0.5, "b": 1.0}, {"prompt": "y", "a": 8.0, "b": 1.0}]
    log = load(parquet(tmp_path, rows), models=["a", "b"])
    assert [str(one).rsplit(":", 2)[1:] for one in log.refusals] == [["2", " the score of a is 8, expected 0..1"]]


ROUTERBENCH = {
    "sample_id": "s1",
    "prompt": "['Instruction.', 'Question?']",
    "eval_name": "mbpp",
    "small": 1.0,
    "org/large": 0.0,
    "small|model_response": "text",
    "org/large|model_response": "text",
    "small|total_cost": 0.00012,
    "org/large|total_cost": 0.005,
    "oracle_model_to_route_to": "small",
    "flag": True,
}


def test_routerbench_twins_are_models_with_costs(tmp_path: Path) -> None:
    log = load(parquet(tmp_path, [ROUTERBENCH, ROUTERBENCH | {"prompt": "plain", "org/large": math.nan}]))
    first, second = log.comparisons
    assert first.prompt == "Instruction.\n\nQuestion?"
    assert first.scores == {"small": 1.0, "org/large": 0.0}
    assert first.costs_usd == {"small": 0.00012, "org/large": 0.005}
    assert first.intent == "mbpp"
    assert (second.scores, second.costs_usd) == ({"small": 1.0}, {"small": 0.00012})
    columns = {column.name: column for column in log.sources[0].columns}
    assert columns["flag"].role is None
    assert "has no twin" in columns["flag"].reason
    assert columns["oracle_model_to_route_to"].reason == "derived from the scores"
    assert log.sources[0].recognised_by == "2 columns MODEL with a twin MODEL|total_cost (RouterBench)"


def test_routerbench_as_csv(tmp_path: Path) -> None:
    with (tmp_path / "wide.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROUTERBENCH))
        writer.writeheader()
        writer.writerow(ROUTERBENCH | {"prompt": "['One part']", "small": ""})
        writer.writerow(ROUTERBENCH | {"prompt": "[1, 2] is a list"})
    log = load(tmp_path / "wide.csv")
    assert [row.prompt for row in log.comparisons] == ["One part", "[1, 2] is a list"]
    assert [row.scores for row in log.comparisons] == [{"org/large": 0.0}, {"small": 1.0, "org/large": 0.0}]


LLMROUTER = {"prompt": "one", "task_name": "mmlu", "metric": "em", "in_other_split": True, "cluster_id": 3}


def test_llmrouter_columns_are_known_so_the_rest_are_models(tmp_path: Path) -> None:
    log = load(parquet(tmp_path, [LLMROUTER | {"small-7b": 0.5, "large-70b": 1.0}]))
    assert log.comparisons[0].scores == {"small-7b": 0.5, "large-70b": 1.0}
    assert log.comparisons[0].intent == "mmlu"
    reasons = {column.name: column.reason for column in log.sources[0].columns if column.role is None}
    assert set(reasons) == {"metric", "in_other_split", "cluster_id"}
    assert all(reasons.values())


@pytest.mark.parametrize(
    "doubtful",
    [{"was-seen-2": True}, {"count-1": 1}, {"difficulty": 0.25}, {"seconds-1": 3.5}],
    ids=lambda one: next(iter(one)),
)
def test_an_unknown_column_in_a_known_layout_is_ambiguous(tmp_path: Path, doubtful: dict[str, Any]) -> None:
    rows = [LLMROUTER | {"small-7b": 0.5, "large-70b": 1.0} | doubtful]
    with pytest.raises(DataError, match=rf"'{next(iter(doubtful))}' may be a flag or a measure.*--models"):
        load(parquet(tmp_path, rows))
    named = load(parquet(tmp_path, rows), models=["small-7b", "large-70b"])
    assert named.models == ["large-70b", "small-7b"]


def test_text_numbers_in_csv_are_as_ambiguous(tmp_path: Path) -> None:
    (tmp_path / "wide.csv").write_text("question,m-1,m-2,seen\nx,1,0.5,true\ny,0,0.25,false\n")
    with pytest.raises(DataError, match="'m-1', 'm-2', 'seen' could be scores"):
        load(tmp_path / "wide.csv")
    log = load(tmp_path / "wide.csv", models=["m-1", "m-2"])
    assert [row.scores for row in log.comparisons] == [{"m-1": 1.0, "m-2": 0.5}, {"m-1": 0.0, "m-2": 0.25}]


def test_prompts_without_any_outcome(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column of numbers could be a model's scores"):
        load(parquet(tmp_path, [{"prompt": "x", "category": "y"}]))


def test_json_rows_may_be_wide_too(tmp_path: Path) -> None:
    path = tmp_path / "wide.jsonl"
    path.write_text(json.dumps({"prompt": "x", "a": 1, "b": 0}) + "\n" + json.dumps({"prompt": "y", "b": 1}) + "\n")
    log = load(path, models=["a", "b"])
    assert [row.scores for row in log.comparisons] == [{"a": 1.0, "b": 0.0}, {"b": 1.0}]
    assert log.notes == {intake.NOT_SCORED: 1}


def test_row_numbers_that_pandas_wrote_are_no_model(tmp_path):
    rows = pd.DataFrame(
        {
            "query": ["one", "two", "three"],
            "task_name": "t",
            "metric": "em",
            "m-1": [0.0, 1.0, 0.5],
            "m-2": [1.0, 0.0, 1.0],
        }
    )
    rows.iloc[[0, 2]].to_parquet(tmp_path / "rows.parquet")  # a filtered frame keeps its index as a column

    assert load(tmp_path / "rows.parquet").models == ["m-1", "m-2"]
