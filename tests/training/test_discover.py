"""training/discover.py: clusters of prompts with names that people can read."""

import re

import numpy as np
import pytest

from router.encoder import OnnxEncoder, embed
from training.comparisons import PreferenceLog
from training.discover import MIN_PROMPTS, discover_intents, n_clusters, name_clusters

TOPICS = {
    "sql": ("Join the orders table in sql", "A sql query that sums a table column", "This sql query locks the table"),
    "bread": ("How long does sourdough bread bake?", "My bread dough is wet", "Knead the dough of a rye bread"),
}


def test_how_many_clusters_a_log_has() -> None:
    assert [n_clusters(n) for n in (20, 100, 664, 5608, 10**6)] == [2, 5, 13, 37, 40]


def test_names_are_the_telling_words_of_the_cluster() -> None:
    texts = [text for own in TOPICS.values() for text in own]
    sql, bread = name_clusters(np.array([0, 0, 0, 1, 1, 1]), texts)
    assert sql == "sql / table / query" and bread == "bread / dough"


def test_stop_words_forms_of_one_word_and_words_of_one_prompt_are_no_names() -> None:
    texts = ["Please write the query", "Queries: write the query please", "the join of queries", "the join! zebra"]
    assert name_clusters(np.zeros(4, dtype=np.int64), texts) == ["join / queries"]
    assert MIN_PROMPTS == 2


@pytest.mark.parametrize(
    "texts", [["1 + 1", "2 + 2", "3 * 3", "4 * 4"], ["same words"] * 4, ["a b", "c d", "e f", "g"]]
)
def test_clusters_without_words_of_their_own_still_have_different_names(texts: list[str]) -> None:
    names = name_clusters(np.array([0, 0, 1, 1]), texts)
    assert len(set(names)) == 2 and all(names)


def test_a_second_cluster_with_the_same_first_words_gets_more_of_them() -> None:
    words = ["river delta stone", "river delta stone", "river delta stone", "river delta stone meadow"]
    first, second = name_clusters(np.array([0, 0, 1, 1, 1]), [*words, words[-1]])
    assert second != first and set(first.split(" / ")) <= {"river", "delta", "stone"}


def test_discovered_intents_are_readable_distinct_and_stable(scores_log: PreferenceLog, encoder: OnnxEncoder) -> None:
    texts = [one.prompt for one in scores_log.comparisons]
    points = embed(encoder, texts)
    points -= points.mean(axis=0)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    codes, names = discover_intents(points, texts, seed=0)
    assert len(names) == len(set(names)) == n_clusters(150) and list(names) == sorted(names)
    assert codes.dtype == np.int64 and set(codes.tolist()) == set(range(len(names)))
    for code, name in enumerate(names):
        assert re.fullmatch(r"[a-z]{3,}( / [a-z]{3,}){1,2}", name)
        own = [text.lower() for text, mine in zip(texts, codes, strict=True) if mine == code]
        assert all(sum(word in text for text in own) >= MIN_PROMPTS for word in name.split(" / "))
    again = discover_intents(points, texts, seed=0)
    np.testing.assert_array_equal(again[0], codes)
    assert again[1] == names
