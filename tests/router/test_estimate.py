"""router/estimate.py against loops that follow the formulas word by word."""

import json
import os
from dataclasses import replace
from math import exp, sqrt
from pathlib import Path

import numpy as np
import pytest

from router.estimate import (
    EstimatorSettings,
    Evidence,
    estimate,
    neighbor_weights,
    prior_quality,
    relative_size,
    to_quality,
    well_tested,
)
from router.index import Hits

N_ROWS, N_MODELS, N_INTENTS = 60, 4, 3


def random_evidence(kind: str, seed: int) -> Evidence:
    rng = np.random.default_rng(seed)
    seen = rng.random((N_ROWS, N_MODELS)) < 0.6
    h = np.where(seen, 1.0 if kind == "scores" else rng.uniform(0.05, 0.25, seen.shape), 0.0)
    g = np.where(seen, rng.normal(0, 0.3, seen.shape), 0.0)
    prior = rng.uniform(0.3, 0.7, N_MODELS) if kind == "scores" else rng.normal(0, 1, N_MODELS)
    return Evidence(
        kind=kind,
        h=h.astype(np.float32),
        g=g.astype(np.float32),
        intents=rng.integers(-1, N_INTENTS, N_ROWS).astype(np.int32),
        prior=prior,
        intent_priors=prior + rng.normal(0, 0.1, (N_INTENTS, N_MODELS)),
        variance=rng.uniform(0.05, 0.2, N_MODELS) if kind == "scores" else np.ones(N_MODELS),
        sizes=rng.uniform(0.2, 3.0, N_ROWS).astype(np.float32),
    )


def random_hits(k: int, seed: int) -> Hits:
    rng = np.random.default_rng(seed)
    similarities = np.sort(rng.uniform(0.2, 0.9, k).astype(np.float32))[::-1]
    return Hits(rows=rng.choice(N_ROWS, k, replace=False), similarities=np.ascontiguousarray(similarities))


def slow_estimate(hits: Hits, evidence: Evidence, settings: EstimatorSettings, fixed: int) -> dict[str, list[float]]:
    """The same numbers, one neighbour and one model at a time."""
    sims, rows = [float(one) for one in hits.similarities], hits.rows.tolist()
    far = exp(min(0.0, sims[0] - settings.usual_similarity) / settings.far_temperature)
    w = [exp((one - sims[0]) / settings.temperature) * far for one in sims]
    shares = [
        sum(w[i] for i, row in enumerate(rows) if evidence.intents[row] == intent)
        / (settings.intent_shrinkage + sum(w))
        for intent in range(N_INTENTS)
    ]
    z, sd, support, depth = [], [], [], []
    for m in range(N_MODELS):
        h, g = [float(evidence.h[row, m]) for row in rows], [float(evidence.g[row, m]) for row in rows]
        prior = evidence.prior[m] * (1 - sum(shares))
        prior += sum(share * float(evidence.intent_priors[i, m]) for i, share in enumerate(shares))
        mass = sum(a * b for a, b in zip(w, h, strict=True))
        pull = sum(a * b for a, b in zip(w, g, strict=True))
        squares = sum(a * a * b for a, b in zip(w, h, strict=True))
        depth.append(settings.shrinkage + mass)
        z.append(prior + (pull / depth[-1] if depth[-1] > 0 else 0.0))
        widest = max(1.0, settings.difficulty_slope, settings.contrast_slope)
        sd.append(widest * sqrt(evidence.variance[m] * (settings.shrinkage + squares)) / depth[-1])
        support.append(mass / (1.0 if evidence.kind == "scores" else 0.25))
    lead_error = []
    for m in range(N_MODELS):
        paired = [
            w[i] * (float(evidence.g[row, m]) / depth[m] - float(evidence.g[row, fixed]) / depth[fixed])
            for i, row in enumerate(rows)
        ]
        lead_error.append(settings.contrast_slope * sqrt(sum(one * one for one in paired)))
    apart = [one - float(prior) for one, prior in zip(z, evidence.prior, strict=True)]
    shared = sum(apart) / N_MODELS
    z = [
        float(prior) + settings.difficulty_slope * shared + settings.contrast_slope * (one - shared)
        for one, prior in zip(apart, evidence.prior, strict=True)
    ]
    mean = sum(z) / N_MODELS

    def quality(value: float) -> float:
        return min(max(value, 0.0), 1.0) if evidence.kind == "scores" else 1 / (1 + exp(mean - value))

    return {
        "z": z,
        "quality": [quality(one) for one in z],
        "low": [quality(one - 1.959964 * e) for one, e in zip(z, sd, strict=True)],
        "high": [quality(one + 1.959964 * e) for one, e in zip(z, sd, strict=True)],
        "support": support,
        "lead_error": lead_error,
        "intent_weights": shares,
    }


SETTINGS = [
    EstimatorSettings(
        n_neighbors=20, usual_similarity=0.95, far_temperature=0.3, shrinkage=2.0, intent_shrinkage=3.0, guard_z=1.0
    ),
    EstimatorSettings(
        n_neighbors=20, temperature=0.02, usual_similarity=0.1, shrinkage=0.25, intent_shrinkage=0.0, guard_z=0.5
    ),
    EstimatorSettings(n_neighbors=20, temperature=5.0, shrinkage=30.0, intent_shrinkage=1e6, guard_z=0.1),
    EstimatorSettings(n_neighbors=20, shrinkage=3.0, guard_z=0.5, difficulty_slope=1.6, contrast_slope=0.7),
]


@pytest.mark.parametrize("kind", ["scores", "battles"])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("seed", range(5))
def test_fast_path_equals_the_loop(kind: str, settings: EstimatorSettings, seed: int) -> None:
    evidence, hits = random_evidence(kind, seed), random_hits(20, seed + 100)
    fast = estimate(hits, evidence, settings, fixed=1)
    slow = slow_estimate(hits, evidence, settings, fixed=1)
    for name in ("quality", "low", "high", "support", "intent_weights"):
        np.testing.assert_allclose(getattr(fast, name), slow[name], atol=1e-6, err_msg=name)
    # The guard compares leads in units of quality; its ruler must be in the same unit as the lead.
    z, quality = np.array(slow["z"]), np.array(slow["quality"])
    in_z = np.delete(np.array(slow["lead_error"]) * np.abs(quality - quality[1]), 1)
    in_quality = np.delete(fast.lead_error * np.abs(z - z[1]), 1)
    np.testing.assert_allclose(in_quality, in_z, atol=1e-6, err_msg="lead_error / lead")


@pytest.mark.parametrize("settings", [SETTINGS[0], SETTINGS[3], EstimatorSettings(20, shrinkage=0.0, missing="zero")])
@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_many_prompts_at_once_are_each_alone_bit_by_bit(kind: str, settings: EstimatorSettings) -> None:
    evidence = random_evidence(kind, 0)
    hits = [random_hits(20, seed) for seed in range(7)]
    together = Hits(
        rows=np.stack([one.rows for one in hits]), similarities=np.stack([one.similarities for one in hits])
    )
    fixed = np.arange(len(hits)) % N_MODELS
    many, sizes = estimate(together, evidence, settings, fixed=fixed), relative_size(together, evidence, settings)
    for at, one in enumerate(hits):
        alone, own = estimate(one, evidence, settings, fixed=int(fixed[at])), many.of(at)
        for name in ("quality", "low", "high", "support", "lead_error", "intent_weights"):
            np.testing.assert_array_equal(getattr(own, name), getattr(alone, name), err_msg=name)
        assert sizes[at] == pytest.approx(float(relative_size(one, evidence, settings)))


def test_relative_size_by_hand() -> None:
    evidence = random_evidence("scores", 0)
    hits, settings = random_hits(5, 1), SETTINGS[2]
    w = neighbor_weights(hits.similarities, settings)
    pull = sum(one * (float(evidence.sizes[row]) - 1) for one, row in zip(w, hits.rows, strict=True))
    assert float(relative_size(hits, evidence, settings)) == pytest.approx(1 + pull / (3 + sum(w)))
    unknown = replace(evidence, sizes=np.ones(N_ROWS, dtype=np.float32))
    assert float(relative_size(hits, unknown, settings)) == 1.0


def test_difficulty_alone_changes_no_choice() -> None:
    evidence, hits = random_evidence("scores", 3), random_hits(20, 4)
    plain = estimate(hits, evidence, EstimatorSettings(n_neighbors=20), fixed=0).quality
    hard = estimate(hits, evidence, EstimatorSettings(n_neighbors=20, difficulty_slope=1.5), fixed=0).quality
    np.testing.assert_allclose(plain - plain[0], hard - hard[0], atol=1e-12)
    assert (plain != hard).all()


def test_without_intents_the_global_prior_is_used() -> None:
    evidence = replace(random_evidence("scores", 0), intent_priors=np.zeros((0, N_MODELS)))
    evidence = replace(evidence, intents=np.full(N_ROWS, -1, dtype=np.int32), h=evidence.h * 0, g=evidence.g * 0)
    local = estimate(random_hits(10, 0), evidence, SETTINGS[0], fixed=0)
    np.testing.assert_allclose(local.quality, evidence.prior)
    np.testing.assert_allclose(prior_quality(evidence), evidence.prior)


@pytest.mark.parametrize("kind", ["scores", "battles"])
@pytest.mark.parametrize("shrinkage", [0.0, 1.0])
def test_a_model_never_seen_nearby_falls_back_to_its_prior(kind: str, shrinkage: float) -> None:
    evidence = random_evidence(kind, 2)
    h, g = evidence.h.copy(), evidence.g.copy()
    h[:, 0] = g[:, 0] = 0
    evidence = replace(evidence, h=h, g=g, intent_priors=np.zeros((0, N_MODELS)), intents=np.full(N_ROWS, -1, np.int32))
    settings = EstimatorSettings(n_neighbors=10, shrinkage=shrinkage)
    local = estimate(random_hits(10, 3), evidence, settings, fixed=1)
    assert local.support[0] == 0
    assert np.isfinite(local.quality).all() and np.isfinite(local.low).all() and np.isfinite(local.lead_error).all()
    if kind == "scores":
        assert local.quality[0] == pytest.approx(evidence.prior[0])


def hits_at(*similarities: float) -> Hits:
    return Hits(rows=np.arange(len(similarities)), similarities=np.array(similarities, dtype=np.float32))


@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_support_grows_with_similarity_and_falls_with_distance(kind: str) -> None:
    evidence = replace(random_evidence(kind, 4), h=np.full((N_ROWS, N_MODELS), 0.25, dtype=np.float32))
    settings = EstimatorSettings(n_neighbors=4, usual_similarity=0.6, far_temperature=0.1)
    near, usual, far, junk = (
        float(estimate(hits_at(*(top - 0.02 * np.arange(4))), evidence, settings, fixed=0).support.sum())
        for top in (0.9, 0.6, 0.4, 0.1)
    )
    assert near == pytest.approx(usual) and usual > far > junk
    assert far / usual == pytest.approx(np.exp(-2.0), rel=1e-4) and junk < 0.01 * usual
    closer = estimate(hits_at(0.9, 0.89, 0.88, 0.87), evidence, settings, fixed=0).support.sum()
    assert closer > estimate(hits_at(0.9, 0.7, 0.6, 0.5), evidence, settings, fixed=0).support.sum()


@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_interval_narrows_with_evidence_and_widens_with_distance(kind: str) -> None:
    evidence = replace(random_evidence(kind, 5), h=np.full((N_ROWS, N_MODELS), 0.25, dtype=np.float32))
    settings = EstimatorSettings(n_neighbors=50, usual_similarity=0.6, far_temperature=0.1, shrinkage=0.5)

    def width(k: int, top: float) -> float:
        local = estimate(hits_at(*np.full(k, top)), replace(evidence, g=evidence.g * 0), settings, fixed=0)
        assert (local.low <= local.quality).all() and (local.quality <= local.high).all()
        return float((local.high - local.low).sum())

    assert width(50, 0.7) < width(10, 0.7) < width(1, 0.7)
    assert width(10, 0.7) < width(10, 0.4) < width(10, 0.1)


def test_quality_of_battles_is_against_the_average_candidate() -> None:
    quality, low, _ = to_quality(np.array([2.0, 0.0, 1.0]), np.zeros(3), "battles")
    np.testing.assert_allclose(quality, 1 / (1 + np.exp([-1.0, 1.0, 0.0])))
    np.testing.assert_array_equal(quality, low)
    assert to_quality(np.array([1.4, -0.2]), np.ones(2), "scores")[0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_neighbors": 0},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"far_temperature": -1.0},
        {"max_unknown_share": 1.5},
        {"max_unknown_share": float("nan")},
        {"usual_similarity": float("nan")},
        {"shrinkage": -1.0},
        {"intent_shrinkage": float("nan")},
        {"guard_z": -0.1},
        {"difficulty_slope": -0.1},
        {"contrast_slope": float("inf")},
        {"weights": "uniform"},
        {"missing": "mean"},
    ],
)
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        EstimatorSettings(**({"n_neighbors": 5} | wrong))  # type: ignore[arg-type]


def test_similarity_weights_are_the_similarities() -> None:
    settings = EstimatorSettings(n_neighbors=3, weights="similarity")
    np.testing.assert_allclose(neighbor_weights(np.array([0.5, 0.25], dtype=np.float32), settings), [0.5, 0.25])


@pytest.mark.parametrize("with_intents", [False, True])
def test_pulze_documented_scores(with_intents: bool) -> None:
    """The ancestor's rule is an option of this estimator: its documented hits give its documented scores."""
    folder = os.environ.get("WHICHMODEL_DATA")
    if not folder:
        pytest.skip("WHICHMODEL_DATA is not set: Pulze's documented answers are not read")
    documented = json.loads((Path(folder) / "pulze" / "expected.json").read_text())["docker_compose"]["response"]
    lines = (Path(folder) / "pulze" / "targets.jsonl").read_text().split("\n")
    targets = {row["point_uid"]: row for row in map(json.loads, filter(None, lines))}
    hits, expected = documented["hits"], {one["target"]: one["score"] for one in documented["scores"]}
    models, categories = sorted(expected), sorted({one["category"] for one in hits})
    scores = np.zeros((len(hits), len(models)))
    seen = np.zeros_like(scores)
    for row, hit in enumerate(hits):
        column = models.index(targets[hit["id"]]["target"])
        scores[row, column], seen[row, column] = targets[hit["id"]]["score"], 1
    intents = np.array([categories.index(one["category"]) if with_intents else -1 for one in hits], dtype=np.int32)
    prior = np.array([0.5, 0.6])
    intent_priors = np.array([[0.2, 0.7], [0.8, 0.3]])[: 2 * with_intents]
    row_prior = np.vstack([intent_priors, prior])[intents]
    evidence = Evidence(
        kind="scores",
        h=seen.astype(np.float32),
        g=(seen * (scores - row_prior)).astype(np.float32),
        intents=intents,
        prior=prior,
        intent_priors=intent_priors,
        variance=np.ones(2),
        sizes=np.ones(len(hits), dtype=np.float32),
    )
    settings = EstimatorSettings(n_neighbors=10, weights="similarity", missing="zero", shrinkage=0)
    similarities = np.array([one["similarity"] for one in hits], dtype=np.float32)
    local = estimate(Hits(np.arange(len(hits)), similarities), evidence, settings, fixed=0)
    assert {model: round(float(q), 2) for model, q in zip(models, local.quality, strict=True)} == expected


def test_a_model_seen_a_few_times_is_not_well_tested() -> None:
    evidence = random_evidence("scores", 0)

    def tested(*counts: int) -> list[bool]:
        h = np.zeros((1000, len(counts)), dtype=np.float32)
        for column, count in enumerate(counts):
            h[:count, column] = 1.0
        return well_tested(replace(evidence, h=h)).tolist()

    assert tested(1000, 900, 3) == [True, True, False]
    assert tested(1000, 200, 199) == [True, True, False], "200 rows are enough in any log"
    assert tested(40, 20, 19) == [True, True, False], "half of the most seen in a small one"
    assert tested(0, 0) == [True, True]
