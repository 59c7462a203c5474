"""training/evidence.py: which rows are one prompt, and what becomes of scores and battles."""

import numpy as np
import pytest

from router.errors import DataError
from router.prompt import Template
from training.comparisons import Comparison, PreferenceLog
from training.evidence import tabulate

PLAIN = Template()


def battle(prompt: str, a: str, b: str, winner: str, **more: object) -> Comparison:
    return Comparison(prompt=prompt, model_a=a, model_b=b, winner=winner, **more)  # type: ignore[arg-type]


def log(*rows: Comparison) -> PreferenceLog:
    return PreferenceLog(comparisons=list(rows))


def test_scores_of_one_prompt_are_averaged_by_weight() -> None:
    table = tabulate(
        log(
            Comparison("p", scores={"a": 1.0, "b": 0.5}, weight=3.0, intent="x", costs_usd={"a": 0.1}, timestamp=9.0),
            Comparison("q", scores={"b": 0.25}, output_tokens={"b": 7.0}),
            Comparison("p", scores={"a": 0.0}, weight=1.0, intent="y", costs_usd={"a": 0.3, "b": 0.2}, timestamp=5.0),
            Comparison("p", scores={"a": 0.75}, weight=2.0, intent="y", output_tokens={"a": 10.0}),
            Comparison("p", scores={"a": 0.75}, weight=2.0, intent="y", output_tokens={"a": 40.0}),
        ),
        template=PLAIN,
    )
    assert (table.texts, table.models, table.kind, table.intent_names) == (("p", "q"), ("a", "b"), "scores", ("x", "y"))
    np.testing.assert_allclose(table.scores, [[6.0 / 8, 0.5], [np.nan, 0.25]])
    np.testing.assert_allclose(table.costs_usd, [[0.2, 0.2], [np.nan, np.nan]])
    np.testing.assert_allclose(table.output_tokens, [[25.0, np.nan], [np.nan, 7.0]])
    assert table.intents.tolist() == [1, -1] and table.row_weight.tolist() == [2.0 / 1.8, 1.0 / 1.8]
    np.testing.assert_array_equal(table.timestamps, [9.0, np.nan])
    assert len(table) == 2 and len(table.battles) == 0


def test_battles_are_all_kept() -> None:
    table = tabulate(
        log(
            battle("p", "b", "a", "model_a"),
            battle("p", "a", "b", "model_b", weight=2.0),
            battle("q", "a", "c", "tie"),
            battle("q", "c", "a", "both_bad"),
        ),
        template=PLAIN,
    )
    battles = table.battles
    assert table.kind == "battles" and np.isnan(table.scores).all()
    assert battles.rows.tolist() == [0, 0, 1, 1]
    assert [table.models[i] for i in battles.a] == ["b", "a", "a", "c"]
    assert battles.y.tolist() == [1.0, 0.0, 0.5, 0.5]
    assert battles.both_bad.tolist() == [False, False, False, True]
    assert battles.weight.tolist() == [0.8, 1.6, 0.8, 0.8], "in units of their mean"
    assert len(battles.where(battles.rows == 1)) == 2


def test_scores_beside_battles_become_battles() -> None:
    table = tabulate(
        log(battle("p", "a", "b", "tie"), Comparison("q", scores={"a": 1.0, "b": 0.0, "c": 0.5}, weight=2.0)),
        template=PLAIN,
    )
    pairs = [(table.models[a], table.models[b]) for a, b in zip(table.battles.a, table.battles.b, strict=True)]
    assert pairs[1:] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert table.battles.y.tolist()[1:] == [1.0, 0.75, 0.25]
    np.testing.assert_allclose(table.battles.weight, np.array([1.0, 1.0, 1.0, 1.0]) / 1.5)


def test_models_given_are_the_columns() -> None:
    rows = log(
        battle("p", "a", "b", "model_a"), battle("q", "a", "zzz", "model_a"), Comparison("r", scores={"b": 1, "c": 0})
    )
    table = tabulate(rows, template=PLAIN, models=("c", "b", "a"))
    assert table.models == ("c", "b", "a")
    assert table.battles.a.tolist() == [2, 1] and table.battles.b.tolist() == [1, 0]
    assert len(table) == 3, "a prompt without known models stays, and says nothing"


def test_rows_that_differ_in_the_template_only_are_one_prompt() -> None:
    template = Template(prefixes=("As in the examples: ",))
    table = tabulate(
        log(Comparison("As in the examples: p", scores={"a": 1, "b": 0}), Comparison("p", scores={"a": 0, "b": 0})),
        template=template,
    )
    assert (table.texts, table.originals) == (("p",), ("As in the examples: p",))
    assert table.scores.tolist() == [[0.5, 0.0]]


@pytest.mark.parametrize("rows", [log(), log(Comparison("p", scores={"a": 1.0}))])
def test_too_little(rows: PreferenceLog) -> None:
    with pytest.raises(DataError, match="too little to learn from"):
        tabulate(rows)
