"""What data inspect says of small logs whose answer is known."""

import json
import math
from typing import Any

import pytest

from training.comparisons import Column, Comparison, PreferenceLog, Refusal, SourceSummary
from training.inspect import components, count_pairs, inspect_log, normalise, render, wilson


def battle(model_a: str, model_b: str, winner: str, prompt: str = "x", **fields: Any) -> Comparison:
    return Comparison(prompt=prompt, model_a=model_a, model_b=model_b, winner=winner, **fields)


def log_of(*rows: Comparison, **fields: Any) -> PreferenceLog:
    return PreferenceLog(comparisons=list(rows), **fields)


FULL = log_of(
    battle("a", "b", "model_a", "Sort it!", user="u1", judge="j", intent="code", timestamp=0.0),
    battle("b", "a", "model_a", "sort  it", user="u1", judge="j", intent="code", timestamp=86400.0),
    battle("a", "b", "tie", "Привет", user="u2", intent="chat"),
    battle("b", "a", "both_bad", "你好吗"),
    Comparison(prompt="Sort it!", scores={"a": 1.0, "b": 0.5}, costs_usd={"a": 0.1}, output_tokens={"b": 9.0}),
    refusals=[Refusal(f"f:{line}", "bad") for line in range(7)],
    sources=[
        SourceSummary("f", "canonical", "columns x", 12, 5, (Column("prompt", "prompt", "the prompt"),), "ab"),
    ],
    notes={"self-battles dropped": 2},
)


def test_rows_models_intents_and_outcomes() -> None:
    report = inspect_log(FULL)
    assert report["rows"] == {
        "comparisons": 5,
        "battles": 4,
        "scored": 1,
        "refused": 7,
        "first_refusals": [f"f:{line}: bad" for line in range(5)],
    }
    assert report["notes"] == {"self-battles dropped": 2}
    assert report["models"] == {
        "a": {"rows": 5, "mean_score": 1.0, "win_rate": 0.375},
        "b": {"rows": 5, "mean_score": 0.5, "win_rate": 0.375},
    }
    assert (report["intents"], report["judges"]) == ({"code": 2, "chat": 1}, {"j": 2})
    assert report["battles"]["position_a_win_rate"] == 1.0
    assert (report["battles"]["tie_share"], report["battles"]["both_bad_share"]) == (0.25, 0.25)
    assert report["measured"] == {"cost_usd_share": 0.2, "latency_ms_share": 0.0, "output_tokens_share": 0.2}
    assert report["time"] == {"rows": 2, "first": "1970-01-01T00:00:00+00:00", "last": "1970-01-02T00:00:00+00:00"}


def test_duplicates_are_told_by_normalised_text() -> None:
    prompts = inspect_log(FULL)["prompts"]
    assert (prompts["unique"], prompts["unique_exact"], prompts["near_duplicates"]) == (3, 4, 1)
    assert (prompts["repeated_rows"], prompts["identical_rows"]) == (1, 0)
    twice = inspect_log(log_of(battle("a", "b", "tie"), battle("a", "b", "tie"), battle("a", "b", "tie", judge="k")))
    assert twice["prompts"]["identical_rows"] == 1
    assert any("repeat another row" in sentence for sentence in twice["warnings"])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Sort it!", "  sort\nIT ", True),
        ("don't", "don't", True),
        ("ﬁne", "fine", True),
        ("a+b", "a-b", False),
        ("की", "कि", False),
        ("sort it", "sort them", False),
    ],
)
def test_normalise(one: str, other: str, same: bool) -> None:
    assert (normalise(one) == normalise(other)) is same


def test_prompts_of_punctuation_alone_stay_apart() -> None:
    assert inspect_log(log_of(battle("a", "b", "tie", "???"), battle("a", "b", "tie", "!!!")))["prompts"]["unique"] == 2


def test_scripts_count_prompts_by_their_main_script() -> None:
    rows = [battle("a", "b", "tie", text) for text in ("plain words", "Привет, world", "你好", "12 + 7 = ?")]
    scripts = inspect_log(log_of(*rows))["scripts"]
    assert scripts == {"sampled_prompts": 4, "shares": {"Latin": 0.25, "Cyrillic": 0.25, "Han": 0.25, "none": 0.25}}


def test_a_connected_log_has_no_warning_about_the_graph() -> None:
    ring = [battle(one, other, "model_a", one + other) for one, other in ("ab", "bc", "ca")]
    report = inspect_log(log_of(*ring))
    assert report["graph"] == {"components": [["a", "b", "c"]], "star_centre": None, "star_share": None}
    assert report["pairs"] == {
        "seen": 3,
        "possible": 3,
        "rows_per_pair_min": 1,
        "rows_per_pair_median": 1,
        "rows_per_pair_max": 1,
    }
    assert not [said for said in report["warnings"] if "graph" in said or "star" in said]


def test_models_never_connected_are_named() -> None:
    rows = [battle("a", "b", "tie", "1"), battle("b", "c", "tie", "2"), battle("x", "y", "tie", "3")]
    report = inspect_log(log_of(*rows, Comparison(prompt="4", scores={"z": 1.0})))
    assert report["graph"]["components"] == [["a", "b", "c"], ["x", "y"], ["z"]]
    (warning,) = [sentence for sentence in report["warnings"] if "falls apart" in sentence]
    assert "3 groups" in warning
    assert "a, b, c; x, y; z" in warning


def test_a_star_is_named_with_its_centre() -> None:
    rows = [battle("hub", name, "model_a", f"{name}{n}") for name in "abcd" for n in range(5)]
    report = inspect_log(log_of(*rows, battle("a", "b", "tie", "z")))
    assert (report["graph"]["star_centre"], report["graph"]["star_share"]) == ("hub", round(20 / 21, 4))
    assert any("a star: hub takes part in 95%" in sentence for sentence in report["warnings"])


def test_two_models_are_no_star() -> None:
    assert inspect_log(log_of(battle("a", "b", "tie")))["graph"]["star_centre"] is None


def test_one_user_with_over_a_fifth_of_the_rows_is_warned_of() -> None:
    rows = [battle("a", "b", "model_a" if n % 2 else "model_b", str(n), user=f"u{n % 5}") for n in range(20)]
    assert inspect_log(log_of(*rows))["warnings"] == [], "20 % each is not above 20 %"
    report = inspect_log(log_of(*rows, battle("b", "a", "tie", "again", user="u3")))
    assert report["users"]["busiest"] == "u3"
    assert report["users"]["busiest_share"] == round(5 / 21, 4)
    assert report["warnings"] == ["One user, u3, gave 24% of the rows."]


def test_a_log_that_decides_nothing_or_is_tiny_is_warned_of() -> None:
    report = inspect_log(log_of(*(battle("a", "b", "tie", str(n)) for n in range(5))))
    assert [said.split(":")[0] for said in report["warnings"]] == [
        "No battle was decided",
        "Fewer than 20 distinct prompts",
    ]


@pytest.mark.parametrize(("n_a", "warned"), [(60, False), (80, True), (20, True)])
def test_uneven_positions_are_warned_of(n_a: int, warned: bool) -> None:
    rows = [battle("a", "b", "model_a" if n < n_a else "model_b", str(n)) for n in range(110)]
    assert any("Position A wins" in sentence for sentence in inspect_log(log_of(*rows))["warnings"]) is warned


def test_a_shared_template_is_reported() -> None:
    prefix = "Answer with the letter of the right option only.\n\n"
    words = ["river", "stone", "cloud", "metal", "paper", "glass", "light", "amber"]
    rows = [battle("a", "b", "tie", prefix + f"{word} or {word[::-1]}?") for word in words]
    report = inspect_log(log_of(*rows, battle("a", "b", "tie", "something else entirely")))
    assert report["template"]["prefix_chars"] == [len(prefix)]
    assert report["template"]["row_share"] == round(8 / 9, 4)
    assert any("share a template" in sentence for sentence in report["warnings"])


def test_wilson_against_its_definition() -> None:
    low, high = wilson(8, 10)
    for bound in (low, high):
        assert abs(0.8 - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / 10), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 5)[0] == 0.0


def test_pairs_against_a_slow_count() -> None:
    rows = [Comparison(prompt="x", scores=dict.fromkeys(names, 1.0)) for names in ("abc", "ab", "c", "bcd")]
    rows += [battle("d", "a", "tie"), battle("a", "d", "tie")]
    slow: dict[tuple[str, str], int] = {}
    for row in rows:
        names = sorted(row.scores) if row.scores else sorted((str(row.model_a), str(row.model_b)))
        for one in names:
            for other in names:
                if one < other:
                    slow[one, other] = slow.get((one, other), 0) + 1
    assert dict(count_pairs(rows)) == slow
    assert components(slow, list("abcde")) == [["a", "b", "c", "d"], ["e"]]


@pytest.mark.parametrize("log", [FULL, log_of(), log_of(Comparison(prompt="x", scores={"only": 0.0}))])
def test_a_report_is_json_and_renders_without_prompts(log: PreferenceLog) -> None:
    report = inspect_log(log)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    text = render(report)
    assert "Привет" not in text
    assert "graph" in text


def test_rendered_lines_are_aligned_and_short() -> None:
    lines = render(inspect_log(FULL)).splitlines()
    assert "cost on 20.0% of the rows, latency on 0.0%, answer length on 20.0%" in "\n".join(lines)
    assert lines[0] == "f: canonical, recognised by columns x"
    assert lines[1] == "  5 of 12 rows kept"
    model = next(line for line in lines if line.startswith("model "))
    row = next(line for line in lines if line.startswith("a "))
    assert row.index("1.000") == model.index("score"), "columns stand under their heads"
    assert "  2 self-battles dropped" in lines
    assert "  f:0: bad" in lines
