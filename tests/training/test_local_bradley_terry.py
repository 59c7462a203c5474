"""The estimator's one Newton step on battles against a full Bradley-Terry fit at every prompt.

Both see the same neighbours with the same weights and the same ridge around the same prior (router/estimate.py).
"""

import os
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from router.encoder import OnnxEncoder
from router.estimate import EstimatorSettings, Evidence, estimate, neighbor_weights
from router.index import Hits
from training.comparisons import PreferenceLog
from training.embed import Embedded, embed_texts, make_places
from training.evidence import Battles, Table, tabulate
from training.fit import bradley_terry, fit_evidence
from training.sources import load

N_TRAIN, N_ASKED, N_REAL = 1500, 300, 600
MIN_SAME = 0.95
MAX_LOSS = 0.003  # of true quality, where choices differ more often
# Shrinkage in units of h, a battle between equals being 0.25.
SETTINGS = EstimatorSettings(n_neighbors=100, temperature=0.1, shrinkage=3 * 0.25)


def one_battle_each(wins: NDArray[np.float64], seed: int) -> Table:
    """A log of one battle of two random models a row. wins: (n_rows, n_models, n_models), P(model beats other)."""
    rng = np.random.default_rng((seed, 1))
    n_rows, n_models = wins.shape[:2]
    rows = np.arange(n_rows)
    a = rng.integers(n_models, size=n_rows)
    b = (a + rng.integers(1, n_models, size=n_rows)) % n_models
    p = wins[rows, a, b]
    y = np.where(p == 0.5, 0.5, rng.random(n_rows) < p)
    empty, texts = np.full((n_rows, n_models), np.nan), tuple(map(str, rows))
    battles = Battles(rows, a, b, y, np.zeros(n_rows, dtype=bool), np.ones(n_rows))
    names = tuple(f"m{model}" for model in range(n_models))
    nobody = np.full(n_rows, -1)
    ones, times = np.ones(n_rows), empty[:, 0]
    return Table(
        texts, texts, names, "battles", empty, battles, empty, empty, ones, nobody, (), times, ones.astype(np.int64)
    )


def nearest(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> Iterator[Hits]:
    for query in queries:
        similar = vectors @ query
        rows = np.argsort(-similar, kind="stable")[: SETTINGS.n_neighbors]
        yield Hits(rows, similar[rows])


def full_fit(table: Table, evidence: Evidence, hits: Hits, settings: EstimatorSettings) -> NDArray[np.float64]:
    """Strengths in logits: every neighbour's battle by its weight, Newton to the end."""
    weight = np.zeros(len(table))
    weight[hits.rows] = neighbor_weights(hits.similarities, settings)
    near = table.battles.where(weight[table.battles.rows] > 0)
    near = replace(near, weight=near.weight * weight[near.rows])
    return bradley_terry(near, evidence.prior, settings.shrinkage)


def choices(
    table: Table, vectors: NDArray[np.float32], queries: NDArray[np.float32], settings: EstimatorSettings
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the choices of the one step and of the full fit, int64 (n_asked,)."""
    evidence = fit_evidence(table, np.ones(len(table), dtype=bool), use_intents=False)
    one_step, full = [], []
    for hits in nearest(queries, vectors):
        one_step.append(int(np.argmax(estimate(hits, evidence, settings, fixed=0).quality)))
        full.append(int(np.argmax(full_fit(table, evidence, hits, settings))))
    return np.array(one_step), np.array(full)


def clusters(seed: int, n_models: int = 5, n_clusters: int = 10, dim: int = 32) -> tuple[NDArray[np.float64], ...]:
    """Return (unit vectors, P(model beats other)) of rows in well separated clusters, each with its own strengths."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((n_clusters, dim))
    of_row = rng.integers(n_clusters, size=N_TRAIN + N_ASKED)
    vectors = centers[of_row] + 0.5 * rng.standard_normal((len(of_row), dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strength = rng.standard_normal((n_clusters, n_models))
    wins = 1 / (1 + np.exp(strength[:, None, :] - strength[:, :, None]))
    return vectors.astype(np.float32), wins[of_row]


def agreement(
    one_step: NDArray[np.int64], full: NDArray[np.int64], quality: NDArray[np.float64]
) -> tuple[float, float]:
    """Return (share of the same choices, mean true quality that the one step loses)."""
    at = np.arange(len(quality))
    return float((one_step == full).mean()), float((quality[at, full] - quality[at, one_step]).mean())


@pytest.mark.parametrize("seed", range(3))
def test_one_step_chooses_as_the_full_fit_on_clusters(seed: int) -> None:
    vectors, wins = clusters(seed)
    table = one_battle_each(wins[:N_TRAIN], seed)
    chosen = choices(table, vectors[:N_TRAIN], vectors[N_TRAIN:], SETTINGS)
    quality = wins[N_TRAIN:].mean(axis=2)
    same, loss = agreement(*chosen, quality)
    assert same >= MIN_SAME or loss <= MAX_LOSS, f"the same on {same:.3f}, {loss:.4f} of quality lost"
    # What that is worth: the prior, which no step was taken from, is far off by both.
    prior = fit_evidence(table, np.ones(N_TRAIN, dtype=bool), use_intents=False).prior
    same, loss = agreement(np.full(N_ASKED, int(np.argmax(prior))), chosen[1], quality)
    assert same < 0.5 and loss > 0.1


@pytest.fixture(scope="module")
def llmrouter() -> PreferenceLog:
    folder = os.environ.get("WHICHMODEL_DATA")
    if not folder:
        pytest.skip("WHICHMODEL_DATA is not set: real logs are not read")
    return load(Path(folder) / "llmrouter" / "train.parquet")


def test_one_step_chooses_as_the_full_fit_on_llmrouter(llmrouter: PreferenceLog, encoder: OnnxEncoder) -> None:
    """Draws together: on 300 prompts alone, one choice more or less is worth 0.3 points."""
    scored = tabulate(llmrouter)
    found = []
    for seed in range(5):
        rows = np.random.default_rng((seed, 2)).permutation(len(scored))[: N_TRAIN + N_REAL]
        train, asked = rows[:N_TRAIN], rows[N_TRAIN:]
        embedded = embed_texts(encoder, [scored.texts[row] for row in rows])
        known = Embedded(*(getattr(embedded, one.name)[:N_TRAIN] for one in fields(embedded)))
        place = make_places(encoder, [scored.texts[row] for row in train], known, (0.25,), seed)[0]
        queries = place.space.place_all(embedded.vectors[N_TRAIN:], embedded.features[N_TRAIN:])
        lead = scored.scores[train, :, None] - scored.scores[train, None, :]
        table = one_battle_each(0.5 + 0.5 * np.sign(lead), seed)
        usual, far = place.far.usual_similarity, place.far.far_temperature
        settings = replace(SETTINGS, usual_similarity=usual, far_temperature=far)
        found.append(agreement(*choices(table, place.vectors, queries, settings), scored.scores[asked]))
    same, loss = np.mean(found, axis=0)
    assert same >= MIN_SAME or loss <= MAX_LOSS, f"the same on {same:.3f}, {loss:.4f} of quality lost"
