"""training/weights.py: age, shares of keys, and keys that everybody else contradicts."""

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.artifact import load_artifact
from router.cli import main
from router.encoder import OnnxEncoder
from router.errors import DataError
from training.build import train
from training.comparisons import Comparison, PreferenceLog
from training.trust import judge_keys
from training.weights import DAY_S, LEAST_DECAY, weigh

STRENGTH = {"strong": 0.8, "middle": 0.5, "weak": 0.2}


def battle(winner: str, loser: str, judge: str | None = None, **more: Any) -> Comparison:
    return Comparison(prompt="p", model_a=winner, model_b=loser, winner="model_a", judge=judge, **more)


def votes(n: int, judge: str | None, rng: random.Random) -> list[Comparison]:
    """Honest votes: the stronger of two models wins more often."""
    out = []
    for _ in range(n):
        a, b = rng.sample(sorted(STRENGTH), 2)
        wins = rng.random() < STRENGTH[a] / (STRENGTH[a] + STRENGTH[b])
        out.append(battle(a, b, judge) if wins else battle(b, a, judge))
    return out


def ratings(n: int, judge: str | None, rng: random.Random) -> list[Comparison]:
    return [
        Comparison(prompt="p", scores={name: float(rng.random() < STRENGTH[name])}, judge=judge)
        for name in rng.choices(sorted(STRENGTH), k=n)
    ]


def log_of(*rows: list[Comparison]) -> PreferenceLog:
    return PreferenceLog(comparisons=[one for part in rows for one in part])


def contradicted(log: PreferenceLog) -> list[str]:
    return list(judge_keys(log).contradicted)


def weights(log: PreferenceLog) -> Counter[str | None]:
    totals: Counter[str | None] = Counter()
    for one in log.comparisons:
        totals[one.judge] += one.weight
    return totals


def test_a_half_life_halves() -> None:
    ages = [0.0, 10.0, 20.0, 1e6]
    rows = [battle("strong", "weak", timestamp=1e12 - DAY_S * age, weight=2.0) for age in ages]
    weighed = weigh(log_of(rows, [battle("strong", "weak")]), half_life_days=10)
    assert [one.weight for one in weighed.log.comparisons] == pytest.approx([2, 1, 0.5, 2 * LEAST_DECAY, 1])
    with pytest.raises(DataError, match="no row of the log has one"):
        weigh(log_of([battle("strong", "weak")]), half_life_days=10)


@pytest.mark.parametrize("wrong", [{"half_life_days": 0.0}, {"max_key_share": 0.0}, {"max_key_share": 1.5}])
def test_impossible_settings_are_a_mistake(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        weigh(log_of([battle("strong", "weak")]), **wrong)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=50), st.integers(0, 100), st.sampled_from([0.05, 0.2, 1.0]))
def test_no_key_has_more_than_its_share(sizes: list[int], free: int, share: float) -> None:
    """And a key within it counts in full; what is cut is cut to the same for all."""
    rows = [battle("strong", "weak", f"key-{number}") for number, size in enumerate(sizes) for _ in range(size)]
    log = log_of(rows, [battle("strong", "weak")] * free)
    weighed = weigh(log, max_key_share=share)
    totals, before = weights(weighed.log), weights(log)
    allowed = 1.0 if share == 1 else max(share, 2 / len(sizes))
    named = {key: total for key, total in totals.items() if key is not None}
    whole = sum(totals.values())
    assert all(total <= allowed * whole * (1 + 1e-9) for total in named.values())
    cut = {key for key in named if named[key] < before[key] * (1 - 1e-9)}
    assert cut == {one.key for one in weighed.held_back}
    assert all(named[key] == pytest.approx(allowed * whole) for key in cut)
    assert totals[None] == free


def test_one_key_that_everybody_contradicts_is_left_out() -> None:
    rng = random.Random(0)
    honest = [votes(30, f"key-{number}", rng) for number in range(20)]
    rigged = [battle("weak", other, "liar") for other in ("strong", "middle") for _ in range(1000)]
    weighed = weigh(log_of(*honest, rigged))
    assert [(one.key, one.factor, one.n_comparisons) for one in weighed.held_back] == [("liar", 0.0, 2000)]
    assert "liar" not in weights(weighed.log) and weighed.n_keys == 21
    assert weighed.to_json()["held_back"][0]["reason"] == "contradicted by all others"
    assert len(weigh(log_of(*honest, rigged), max_key_share=1).log) == 2600


def test_many_liars_that_have_most_rows_are_left_out() -> None:
    rng = random.Random(1)
    honest = [votes(30, f"key-{number}", rng) for number in range(30)]
    rigged = [[battle("weak", "strong", f"liar-{number}")] * 500 for number in range(5)]
    assert contradicted(log_of(*honest, *rigged)) == [f"liar-{number}" for number in range(5)]


def test_rows_without_a_key_stand_against_a_single_one() -> None:
    rng = random.Random(2)
    rigged = [battle("weak", "strong", "liar")] * 500
    assert contradicted(log_of(votes(500, None, rng), rigged)) == ["liar"]
    assert contradicted(log_of(votes(500, "other", rng), rigged)) == []  # one word against another


def test_ratings_are_compared_as_ratings() -> None:
    rng = random.Random(3)
    honest = [ratings(60, f"key-{number}", rng) for number in range(10)]
    rigged = [Comparison(prompt="p", scores={"weak": 1.0}, judge="liar")] * 500
    assert contradicted(log_of(*honest, rigged)) == ["liar"]
    assert contradicted(log_of(*honest)) == []


@pytest.mark.parametrize("seed", range(5))
def test_honest_keys_of_any_size_are_heard(seed: int) -> None:
    """Also one whose prompts another model is better at: half of what separates 50 from 82 %."""
    rng = random.Random(seed)
    honest = [votes(rng.choice((3, 30, 300)), f"key-{number}", rng) for number in range(20)]
    special = [
        battle("middle", "strong", "special") if rng.random() < 0.6 else battle("strong", "middle", "special")
        for _ in range(400)
    ]
    assert contradicted(log_of(*honest, special)) == []


@pytest.mark.parametrize(("kind", "lies"), [("battles", 0.15), ("scores", 0.2)])
def test_in_a_crowd_one_who_differs_counts_as_one_of_many(kind: str, lies: float) -> None:
    """It lies now and then, which nobody can tell from seeing other prompts; beside few keys it keeps its weight."""
    rng = random.Random(4)
    say = votes if kind == "battles" else ratings
    crowd = [say(40, f"key-{number}", rng) for number in range(30)]
    half: list[Comparison] = []
    for one in say(600, "half", rng):
        lie = battle("weak", "strong", "half") if kind == "battles" else replace(one, scores={"weak": 1.0})
        half.append(lie if rng.random() < lies else one)
    weighed = weigh(log_of(*crowd, half), max_key_share=0.5)
    assert [(one.key, one.reason) for one in weighed.held_back] == [("half", "differs from most others")]
    assert weights(weighed.log)["half"] == pytest.approx(40) and len(weighed.log) == 1800
    assert weigh(log_of(*crowd[:5], half), max_key_share=0.9).held_back == ()


def test_easy_prompts_are_no_reason_for_doubt() -> None:
    rng = random.Random(5)
    crowd = [ratings(40, f"key-{number}", rng) for number in range(30)]
    easy = [
        replace(one, scores={name: min(1.0, score + 0.3 * rng.random()) for name, score in (one.scores or {}).items()})
        for one in ratings(600, "easy", rng)
    ]
    assert weigh(log_of(*crowd, easy), max_key_share=0.5).held_back == ()


def test_train_says_whom_it_held_back(scores_log: PreferenceLog, encoder: OnnxEncoder, small_grid: object) -> None:
    rows = [replace(one, judge=f"key-{row % 10}") for row, one in enumerate(scores_log.comparisons)]
    clean, _ = train(PreferenceLog(comparisons=rows), encoder=encoder)
    liar = [
        Comparison(prompt=f"{one.prompt} please", scores={"guide-small": 0.0, "chef-large": 0.0}, judge="liar")
        for one in rows
    ]
    poisoned, report = train(PreferenceLog(comparisons=rows + liar), encoder=encoder)
    assert [one["key"] for one in report.details["weights"]["held_back"]] == ["liar"]
    assert poisoned.n_rows == clean.n_rows and poisoned.best.evidence.prior == pytest.approx(clean.best.evidence.prior)


def test_the_command_names_whom_it_held_back(
    scores_log: PreferenceLog,
    small_grid: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small_grid(SHRINKAGES=(3.0,))
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(scores_log.comparisons):
        rows.append({"prompt": one.prompt, "scores": one.scores, "judge": f"key-{number % 10}", "timestamp": number})
        rows.append(
            {"prompt": f"{one.prompt} please", "scores": {"chef-large": 0.0, "guide-small": 0.0}, "judge": "liar"}
        )
    source, out = tmp_path / "log.jsonl", str(tmp_path / "v1")
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["train", str(source), "--out", out, "--half-life-days", "30"]) == 0
    assert "150 rows of liar are left out: contradicted by all others" in capsys.readouterr().err
    details = load_artifact(out).report["details"]["weights"]
    assert (details["half_life_days"], details["max_key_share"], details["n_keys"]) == (30.0, 0.05, 11)
    for wrong in (["--max-key-share", "0"], ["--half-life-days", "0"], ["--hold-out", "0.9"]):
        with pytest.raises(SystemExit):
            main(["train", str(source), "--out", out, *wrong])
