"""benchmarks/poisoning.py: votes are as rigged, and as honest, as they are called; differences are paired by seed."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
import poisoning

SCORES = np.array([[0.1, 0.5, 0.9], [0.2, 0.6, 0.6]])
WORLD: Any = SimpleNamespace(
    table=SimpleNamespace(
        models=("bad", "fair", "good"), originals=("p", "q"), scores=SCORES, intents=np.array([0, 1])
    ),
    ranking=np.array([0, 1, 2]),
)
ROWS = np.array([0, 1])


def test_an_honest_vote_says_what_the_scores_say() -> None:
    assert poisoning.vote(WORLD, "battles", 0, 0, 2, "k").winner == "model_b"
    assert poisoning.vote(WORLD, "battles", 1, 1, 2, "k").winner == "tie"
    assert poisoning.vote(WORLD, "ratings", 0, 2, 0, "k").scores == {"good": 0.9}


@pytest.mark.parametrize(
    ("lie", "winners", "losers"),
    [
        ("worst wins", {"bad"}, {"fair", "good"}),
        ("worst beats best", {"bad"}, {"good"}),
        ("best loses", {"bad", "fair"}, {"good"}),
        ("middling wins", {"fair"}, {"bad", "good"}),
    ],
)
def test_rigged_votes_are_what_they_are_called(lie: str, winners: set[str], losers: set[str]) -> None:
    votes = poisoning.rigged_votes(WORLD, "battles", lie, 2, 50, ROWS, np.random.default_rng(0))
    assert {one.model_a for one in votes} == winners and {one.model_b for one in votes} == losers
    assert {one.winner for one in votes} == {"model_a"}
    assert [sum(one.judge == f"liar-{key}" for one in votes) for key in range(2)] == [50, 50]


def test_rigged_ratings_and_half_lies() -> None:
    rng = np.random.default_rng(0)
    ratings = poisoning.rigged_votes(WORLD, "ratings", "best loses", 1, 20, ROWS, rng)
    assert all(one.scores == {"good": 0.0} for one in ratings)
    half = poisoning.rigged_votes(WORLD, "battles", "half", 1, 400, ROWS, rng)
    honest_loss = sum(one.model_b == "good" and one.winner == "model_b" and one.prompt == "p" for one in half)
    assert 20 < honest_loss < 80  # a quarter of all meet the better model on that prompt, half of these are honest


def test_differences_are_paired_by_seed() -> None:
    qualities = {
        ("battles", "none", "caps on"): [0.5, 0.7],
        ("battles", "lie", "caps on"): [0.4, 0.6],
        ("battles", "none", "caps off"): [0.1, 0.1],
    }
    (row,) = poisoning.summary(qualities)
    assert row["mean"] == pytest.approx(-0.1) and row["low"] == pytest.approx(-0.1) == pytest.approx(row["high"])
