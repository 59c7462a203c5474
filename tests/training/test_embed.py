"""training/embed.py: vectors as serving makes them, a cache that only saves time, and a measure of what is far."""

import os
from pathlib import Path

import numpy as np
import pytest

from router.encoder import Encoder, Encoding, OnnxEncoder
from router.features import surface_features
from router.prompt import prompt_hash
from router.types import Policy
from training.comparisons import PreferenceLog
from training.embed import embed_texts, make_places, random_word_prompts

TEXTS = ["Write a loop.", "How do I bake bread?", "Write a loop.", "\ud800", "漢字"]


class Counting:
    """An encoder that counts what it is asked."""

    def __init__(self, encoder: OnnxEncoder) -> None:
        self.id, self.settings, self._encoder, self.n_encoded = encoder.id, encoder.settings, encoder, 0

    def encode(self, text: str) -> Encoding:
        self.n_encoded += 1
        return self._encoder.encode(text)


def test_vectors_are_those_of_serving(encoder: OnnxEncoder) -> None:
    done: list[int] = []
    embedded = embed_texts(encoder, TEXTS, advance=done.append)
    assert sum(done) == len(TEXTS)
    for row, text in enumerate(TEXTS):
        np.testing.assert_array_equal(embedded.vectors[row], encoder.encode(text).vector)
        np.testing.assert_array_equal(embedded.features[row], surface_features(text))
        assert embedded.unknown_share[row] == encoder.encode(text).unknown_share
    assert embedded.unknown_share.tolist()[-1] == 0.5


def test_the_cache_gives_the_same_vectors_and_saves_the_work(encoder: OnnxEncoder, tmp_path: Path) -> None:
    counting: Encoder = Counting(encoder)
    first = embed_texts(counting, TEXTS[:3], cache=tmp_path / "cache")
    second = embed_texts(counting, TEXTS, cache=tmp_path / "cache")
    third = embed_texts(counting, TEXTS, cache=tmp_path / "cache")
    plain = embed_texts(encoder, TEXTS)
    np.testing.assert_array_equal(second.vectors, plain.vectors)
    np.testing.assert_array_equal(third.vectors, plain.vectors)
    np.testing.assert_array_equal(first.vectors, plain.vectors[:3])
    for one in (second, third):
        np.testing.assert_array_equal(one.unknown_share, plain.unknown_share)
    assert counting.n_encoded == len(set(TEXTS))  # type: ignore[attr-defined]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_cache_of_vectors_alone_is_not_read(encoder: OnnxEncoder, tmp_path: Path) -> None:
    """The first version of the cache knew nothing of unknown shares."""
    keys, wrong = np.array([prompt_hash(text) for text in TEXTS]), np.zeros((len(TEXTS), 256), dtype=np.float32)
    np.savez(tmp_path / f"vectors-{encoder.id[:16]}.npz", keys=keys, vectors=wrong)
    plain = embed_texts(encoder, TEXTS)
    found = embed_texts(encoder, TEXTS, cache=tmp_path)
    np.testing.assert_array_equal(found.vectors, plain.vectors)
    (written,) = set(tmp_path.iterdir()) - {tmp_path / f"vectors-{encoder.id[:16]}.npz"}
    np.savez(written, keys=keys, vectors=wrong)  # under the new name, but without the shares
    np.testing.assert_array_equal(embed_texts(encoder, TEXTS, cache=tmp_path).vectors, plain.vectors)


@pytest.mark.parametrize("damage", ["empty", "half", "garbage", "zip of nothing"])
def test_a_damaged_cache_costs_time_not_truth(encoder: OnnxEncoder, tmp_path: Path, damage: str) -> None:
    plain = embed_texts(encoder, TEXTS, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    raw = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "half": raw[: len(raw) // 2],
            "garbage": b"garbage",
            "zip of nothing": b"PK\x05\x06" + bytes(18),
        }[damage]
    )
    np.testing.assert_array_equal(embed_texts(encoder, TEXTS, cache=tmp_path).vectors, plain.vectors)


def test_random_word_prompts_are_as_long_and_use_the_same_words() -> None:
    texts = ["one two three", "four five", "   ", "six"] * 10
    prompts = random_word_prompts(texts, 200, seed=0)
    assert len(prompts) == 200 and prompts == random_word_prompts(texts, 200, seed=0)
    words = {word for prompt in prompts for word in prompt.split()}
    assert words == {"one", "two", "three", "four", "five", "six"}
    assert {len(prompt.split()) for prompt in prompts} == {0, 1, 2, 3}


@pytest.mark.parametrize("n", [2, 30])
def test_places_hold_unit_vectors_and_finite_distances(encoder: OnnxEncoder, n: int) -> None:
    texts = [f"prompt number {row} of some" for row in range(n)]
    for place in make_places(encoder, texts, embed_texts(encoder, texts), (0.0, 0.5), seed=0):
        np.testing.assert_allclose(np.linalg.norm(place.vectors, axis=1), 1, atol=1e-3)
        assert abs(place.far.usual_similarity) <= 1.001 and place.far.far_temperature >= 0.01


def test_usual_similarity_is_the_median_of_the_nearest_other(encoder: OnnxEncoder) -> None:
    texts = [f"{word} question about {word}s" for word in ("red", "old", "large", "fast", "quiet", "cold")]
    (place,) = make_places(encoder, texts, embed_texts(encoder, texts), (0.25,), seed=0)
    similar = place.vectors @ place.vectors.T
    np.fill_diagonal(similar, -2)
    assert place.far.usual_similarity == pytest.approx(float(np.median(similar.max(axis=1))))


def test_shuffled_words_of_real_prompts_have_little_support(small_grid: object) -> None:
    """On 1,500 real rows: prompts of random words keep under a tenth of the support of prompts in the domain."""
    folder = os.environ.get("WHICHMODEL_DATA")
    if not folder:
        pytest.skip("WHICHMODEL_DATA is not set: support on real prompts is not measured")
    from router.router import Router
    from training.build import train
    from training.sources import load

    rows = load(Path(folder) / "llmrouter" / "train.parquet").comparisons
    at = np.random.default_rng(0).permutation(len(rows))
    artifact, _ = train(PreferenceLog(comparisons=[rows[i] for i in at[:1500]]), seed=0)
    router = Router(artifact)

    def supports(texts: list[str]) -> np.ndarray:
        decisions = router.route_batch(texts, Policy(route_anyway=True))
        return np.array([one.estimates[0].support for one in decisions])

    held_out = supports([rows[i].prompt for i in at[1500:1800]])
    strange = supports(random_word_prompts([rows[i].prompt for i in at[:1500]], 300, seed=12345))
    assert np.median(strange) < 0.1 * np.median(held_out)
