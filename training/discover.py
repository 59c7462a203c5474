"""Intents of a log without labels: clusters of its prompts, each named by its own words. No outcome is looked at."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from training.split import cluster_groups

# About sqrt(n_rows / 4) clusters, within these bounds: coarse enough for some sixteen rows each even in a small log.
MIN_CLUSTERS, MAX_CLUSTERS = 2, 40
WORDS_PER_NAME = 3
# A word that stands in one prompt of a cluster says nothing of the cluster.
MIN_PROMPTS = 2
# Words with the same opening are mostly forms of one ("query", "queries"): a name has only one of them.
OPENING_LETTERS = 4
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
MIN_LETTERS, MAX_LETTERS = 3, 24
SEPARATOR = " / "
# English words that ask for something, or count, without saying what it is about.
ASKING_WORDS = (
    "can could did does doing example explain get give good help just know let like list make many need please right"
    " say tell thing things think try use used using want way work works would write writing"
)
STOP_WORDS = ENGLISH_STOP_WORDS | set(ASKING_WORDS.split())


def n_clusters(n_rows: int) -> int:
    """Return how many intents are looked for in a log: about sqrt(n_rows / 4), 2 to 40."""
    return int(np.clip(round(float(np.sqrt(n_rows / 4))), MIN_CLUSTERS, MAX_CLUSTERS))


def discover_intents(
    points: NDArray[np.float32], texts: Sequence[str], seed: int
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the cluster of every row, int64 (n_rows,), and the clusters' distinct names, sorted.

    points: float32 (n_rows, n), unit length, near where prompts are about the same. texts: the prompts of the rows.
    """
    groups = np.unique(cluster_groups(points, n_clusters(len(points)), seed), return_inverse=True)[1]
    names = name_clusters(groups, texts)
    order = np.argsort(np.array(names))
    return np.argsort(order)[groups].astype(np.int64), tuple(names[group] for group in order)


def name_clusters(groups: NDArray[np.int64], texts: Sequence[str]) -> list[str]:
    """Return a name for every cluster, all distinct: its most telling words, as in "sql / table / column".

    Telling are those of the highest class-based TF-IDF (Grootendorst 2022): the word's share of the cluster's words
    times log(1 + words per cluster / times that the word stands anywhere). A word counts once per prompt, stop words
    never. groups: int64 (n_rows,), 0 to the number of clusters - 1, none empty.
    """
    words = [_words(text) for text in texts]
    vocabulary = sorted(set().union(*words))
    column = {word: index for index, word in enumerate(vocabulary)}
    counts = np.zeros((int(groups.max()) + 1, len(vocabulary)))
    for group, own in zip(groups, words, strict=True):
        counts[group, [column[word] for word in own]] += 1
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    telling = np.where(counts >= MIN_PROMPTS, share * np.log1p(counts.sum() / len(counts) / counts.sum(axis=0)), 0.0)
    names: dict[int, str] = {}
    # The largest first: where two clusters have the same words, the smaller one gets the longer name.
    for group in np.argsort(-np.bincount(groups), kind="stable").tolist():
        ranked = [vocabulary[at] for at in np.argsort(-telling[group], kind="stable") if telling[group, at] > 0]
        names[group] = _first_free(list(_differing(ranked)), set(names.values()))
    return [names[group] for group in range(len(counts))]


def _words(text: str) -> set[str]:
    found = (match.group() for match in WORD.finditer(text.lower()))
    return {
        word for word in found if MIN_LETTERS <= len(word) <= MAX_LETTERS and word.isalpha() and word not in STOP_WORDS
    }


def _differing(words: Sequence[str]) -> Iterator[str]:
    """Yield the words without those that open like an earlier one."""
    openings = set()
    for word in words:
        if word[:OPENING_LETTERS] not in openings:
            openings.add(word[:OPENING_LETTERS])
            yield word


def _first_free(words: Sequence[str], taken: set[str]) -> str:
    """Return the name of the first words, or of more, or with a number, until nobody has it."""
    for n_words in range(WORDS_PER_NAME, max(WORDS_PER_NAME, len(words)) + 1):
        name = SEPARATOR.join(words[:n_words])
        if name and name not in taken:
            return name
    stem, number = SEPARATOR.join(words[:WORDS_PER_NAME]) or "unnamed", 1
    while f"{stem} {number}" in taken:
        number += 1
    return f"{stem} {number}"
