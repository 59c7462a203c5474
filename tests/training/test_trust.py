"""training/trust.py: keys judged by what the others say of similar prompts."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import training.build
from router.encoder import OnnxEncoder
from router.errors import DataError
from training.build import train
from training.comparisons import Comparison, PreferenceLog
from training.trust import Opinion, judge_keys
from training.weights import Weighed, weigh

MODELS = ("coder", "cook", "clerk")
# Each is the best on one kind of prompts and the worst on another: logits.
STRENGTH = np.array([[1.5, -1.0, 0.0], [-1.0, 1.5, 0.0]])
WIDTH = 0.2


class Crowd:
    """A log and its prompts' vectors, grown key by key. Prompts of kind 0 lie around one axis, of kind 1 another."""

    def __init__(self, seed: int, kind: str = "battles") -> None:
        self.rng = np.random.default_rng(seed)
        self.kind = kind
        self.rows: list[Comparison] = []
        self.vectors: list[NDArray[np.float32]] = []

    def add(self, key: str | None, n: int, *, only: int | None = None, lies: float = 0.0, lift: float = 0.0) -> None:
        """Add n votes. only: the one kind of prompts asked. lies: this share says that the clerk is best.

        lift: a taste for the clerk, in logits.
        """
        for _ in range(n):
            about = int(self.rng.integers(2)) if only is None else only
            vector = self.rng.normal(0.0, WIDTH, 8)
            vector[about] += 1.0
            self.vectors.append((vector / np.linalg.norm(vector)).astype(np.float32))
            strength = STRENGTH[about] + np.array([0.0, 0.0, lift])
            lie = self.rng.random() < lies
            a, b = self.rng.permutation(3)[:2].tolist()
            if lie:
                a, b = 2, int(self.rng.integers(2))
            chance = 1.0 if lie else 1.0 / (1.0 + np.exp((strength[b] if self.kind == "battles" else 0) - strength[a]))
            won = bool(self.rng.random() < chance)
            prompt = f"prompt {len(self.rows)}"
            if self.kind == "battles":
                winner = "model_a" if won else "model_b"
                one = Comparison(prompt=prompt, model_a=MODELS[a], model_b=MODELS[b], winner=winner, judge=key)
            else:
                one = Comparison(prompt=prompt, scores={MODELS[a]: float(won)}, judge=key)
            self.rows.append(one)

    def judged(self, *, with_vectors: bool = True) -> Opinion:
        return judge_keys(PreferenceLog(comparisons=self.rows), np.stack(self.vectors) if with_vectors else None)


@pytest.mark.parametrize("kind", ["battles", "scores"])
def test_half_liars_are_left_out_and_specialists_are_heard(kind: str) -> None:
    """By all prompts alone, specialists differ more than those that lie half of the time."""
    crowd = Crowd(0, kind)
    for number in range(60):
        crowd.add(f"honest-{number}", 40)
    for number in range(4):
        crowd.add(f"liar-{number}", 800, lies=0.5)
        crowd.add(f"special-{number}", 600, only=number % 2)
    assert crowd.judged() == Opinion(tuple(f"liar-{number}" for number in range(4)))
    blind = crowd.judged(with_vectors=False)
    assert {f"special-{number}" for number in range(4)} <= {*blind.contradicted, *blind.doubted}
    weighed = weigh(PreferenceLog(comparisons=crowd.rows), vectors=np.stack(crowd.vectors), max_key_share=0.9)
    assert [(one.key, one.factor) for one in weighed.held_back] == [(f"liar-{number}", 0.0) for number in range(4)]


def test_where_many_differ_that_much_it_is_taste() -> None:
    """The same shift is held against few, and against nobody where a third of the keys have it."""
    few, many = Crowd(2), Crowd(2)
    for number in range(30):
        few.add(f"key-{number:02}", 400, lift=1.8 if number < 3 else 0.0)
        many.add(f"key-{number:02}", 400, lift=1.8 if number < 12 else 0.0)
    assert few.judged().contradicted == ("key-00", "key-01", "key-02")
    assert many.judged().contradicted == ()


def test_few_keys_are_left_out_for_outright_lies_alone() -> None:
    half, whole = Crowd(3), Crowd(3)
    for number in range(6):
        half.add(f"honest-{number}", 200)
        whole.add(f"honest-{number}", 200)
    half.add("liar", 600, lies=0.4)
    whole.add("liar", 600, lies=1.0)
    assert half.judged() == Opinion()
    assert whole.judged() == Opinion(contradicted=("liar",))


@given(
    seed=st.integers(0, 2**32 - 1),
    n_keys=st.integers(4, 30),
    most=st.integers(10, 50),
    special=st.floats(0, 1),
    kind=st.sampled_from(["battles", "scores"]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_honest_keys_are_not_condemned_by_chance(seed: int, n_keys: int, most: int, special: float, kind: str) -> None:
    """Few keys or many, of 10 to 50 votes, any share of them with one kind of prompts alone."""
    crowd = Crowd(seed, kind)
    for number in range(n_keys):
        only = int(crowd.rng.integers(2)) if crowd.rng.random() < special else None
        crowd.add(f"key-{number}", int(crowd.rng.integers(10, most + 1)), only=only)
    assert crowd.judged() == Opinion()
    assert crowd.judged(with_vectors=False).contradicted == ()


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.01, 100))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_the_order_of_rows_and_the_unit_of_weights_do_not_matter(seed: int, scale: float) -> None:
    crowd = Crowd(seed)
    for number in range(24):
        crowd.add(f"honest-{number}", 40)
    crowd.add("liar", 500, lies=0.6)
    found = crowd.judged()
    order = np.random.default_rng(seed).permutation(len(crowd.rows)).tolist()
    crowd.rows = [replace(crowd.rows[row], weight=scale) for row in order]
    crowd.vectors = [crowd.vectors[row] for row in order]
    assert crowd.judged() == found == Opinion(contradicted=("liar",))


def test_training_judges_keys_by_the_vectors_of_their_prompts(
    scores_log: PreferenceLog,
    encoder: OnnxEncoder,
    small_grid: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_grid(SHRINKAGES=(3.0,))
    seen: list[NDArray[np.float32]] = []

    def spy(
        log: PreferenceLog, *, vectors: NDArray[np.float32], half_life_days: object, max_key_share: object
    ) -> Weighed:
        seen.append(vectors)
        return Weighed(replace(log, comparisons=log.comparisons[20:]), 0)

    monkeypatch.setattr(training.build, "weigh", spy)
    rows = [scores_log.comparisons[3], *scores_log.comparisons]  # one prompt twice
    artifact, _ = train(PreferenceLog(comparisons=rows), encoder=encoder)
    assert seen[0].shape == (len(rows), encoder.settings.dim)
    assert (seen[0][0] == seen[0][4]).all()
    assert seen[0][7] == pytest.approx(encoder.encode(rows[7].prompt).vector)
    assert artifact.n_rows == len({one.prompt for one in rows[20:]})


def test_where_everybody_contradicts_everybody_nobody_is_heard_in_the_end() -> None:
    """And no number on the way is undefined: numpy's warnings are errors here."""
    rows = [
        Comparison(
            prompt=f"p{row}", model_a=f"m{key}", model_b=f"m{(key + shift) % 5}", winner="model_a", judge=f"k{key}"
        )
        for key in range(5)
        for shift in (1, 2, 3, 4)
        for row in range(100)
    ]
    with np.errstate(all="raise"):
        opinion = judge_keys(PreferenceLog(comparisons=rows), np.ones((len(rows), 1), dtype=np.float32))
    assert opinion == Opinion(tuple(f"k{key}" for key in range(5)))
    with pytest.raises(DataError, match="every key disagrees"):
        weigh(PreferenceLog(comparisons=rows))
