"""training/select.py: what is chosen in bulk is what serving would choose, and held-out rows stay unseen."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from router.estimate import estimate
from router.index import NeighborIndex
from router.policy import Field, choose
from router.space import Space
from router.types import Policy, Verdict
from training import select
from training.evidence import Battles, Table
from training.fit import fit_evidence
from training.select import Config, Far, Place, Selection, best_fixed, grid, nearest, try_all
from training.split import deal_folds

N_ROWS, N_MODELS, DIM = 120, 4, 8
FAR = Far(usual_similarity=0.7, far_temperature=0.3)


def place_of(weight: float, seed: int) -> Place:
    vectors = np.random.default_rng(seed).normal(size=(N_ROWS, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors.astype(np.float16).astype(np.float32)  # as the artifact stores them
    space = Space(np.zeros(DIM, dtype=np.float32), np.zeros(1), np.ones(1), weight)
    return Place(space, vectors, FAR)


PLACES = (place_of(0.0, 1), place_of(0.5, 2))


def table_of(kind: str, seed: int = 0) -> Table:
    """Outcomes that follow the place of the row, so that neighbours are worth asking."""
    rng = np.random.default_rng(seed)
    strength = PLACES[0].vectors[:, :N_MODELS].astype(np.float64)
    battles = Battles(*(np.zeros(0, dtype=kind) for kind in (int, int, int, float, bool, float)))
    scores = np.full((N_ROWS, N_MODELS), np.nan)
    if kind == "scores":
        scores = np.where(
            rng.random(strength.shape) < 0.8,
            np.clip(0.5 + 0.4 * strength + rng.normal(0, 0.1, strength.shape), 0, 1),
            np.nan,
        )
    else:
        rows = np.repeat(np.arange(N_ROWS), 2)
        pairs = np.array([rng.choice(N_MODELS, 2, replace=False) for _ in rows])
        lead = 3 * (strength[rows, pairs[:, 0]] - strength[rows, pairs[:, 1]])
        y = (rng.random(len(rows)) < 1 / (1 + np.exp(-lead))).astype(float)
        both_bad = rng.random(len(rows)) < 0.1
        y[both_bad] = 0.5
        battles = Battles(rows, pairs[:, 0], pairs[:, 1], y, both_bad, np.ones(len(rows)))
    return Table(
        texts=tuple(map(str, range(N_ROWS))),
        originals=tuple(map(str, range(N_ROWS))),
        models=tuple("abcd"),
        kind=kind,
        scores=scores,
        battles=battles,
        costs_usd=np.full((N_ROWS, N_MODELS), np.nan),
        output_tokens=np.full((N_ROWS, N_MODELS), np.nan),
        row_weight=rng.uniform(0.5, 2, N_ROWS),
        intents=rng.integers(-1, 3, N_ROWS),
        intent_names=("x", "y", "z"),
        timestamps=np.full(N_ROWS, np.nan),
    )


CONFIGS = tuple(
    Config(*point) for point in product((1.0, 10.0), (10, 40), (False, True), (0.0, 0.5, 1.0), (0.1, 0.5), (0.0, 0.5))
)


@pytest.mark.parametrize("kind", ["scores", "battles"])
@pytest.mark.parametrize("block_bytes", [1, 64 << 20])
def test_choices_in_bulk_are_those_of_serving(kind: str, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "BLOCK_BYTES", block_bytes)
    table = table_of(kind)
    rows = np.arange(0, N_ROWS, 4)
    train = ~np.isin(np.arange(N_ROWS), rows)
    trial = try_all(table, PLACES, train, rows, CONFIGS)
    field = Field(np.ones(N_MODELS, dtype=bool), np.full(N_MODELS, np.nan), (), trial.fixed)
    n_moved = 0
    for index, config in enumerate(CONFIGS):
        place = next(one for one in PLACES if one.space.feature_weight == config.feature_weight)
        whole = fit_evidence(table, train, use_intents=config.intent_prior)
        evidence = replace(whole, h=whole.h[train], g=whole.g[train], intents=whole.intents[train])
        neighbors = NeighborIndex(place.vectors[train].astype(np.float16))
        settings = config.settings(place.far, kind)
        for at, row in enumerate(rows):
            hits = neighbors.search(place.vectors[row], settings.n_neighbors)
            local = estimate(hits, evidence, settings, fixed=trial.fixed)
            choice = choose(
                local,
                field,
                Policy(),
                verdict=Verdict("ROUTE", "", ""),
                willingness_to_pay_usd=None,
                guard_z=settings.guard_z,
            )
            lead = local.quality - local.quality[trial.fixed] - settings.guard_z * local.lead_error
            near_tie = np.sort(np.abs(np.delete(lead, trial.fixed)))[0] < 1e-5
            assert near_tie or choice.column == trial.choices[index, at], (config, row, choice.reason)
            n_moved += choice.column != trial.fixed
    assert n_moved > len(CONFIGS), "the comparison is of choices that differ from the fixed model"
    again = try_all(table, PLACES, train, rows, CONFIGS)
    np.testing.assert_array_equal(trial.choices, again.choices)


@pytest.mark.parametrize("k", [1, 7, 90, 500])
def test_nearest_is_a_sort(k: int) -> None:
    vectors = PLACES[0].vectors
    rows = np.arange(10, 100)
    similarities, found = nearest(vectors[:10], vectors, rows, k)
    for query in range(10):
        order = np.argsort(-(vectors[rows] @ vectors[query]), kind="stable")[:k]
        assert found[query].tolist() == rows[order].tolist()
    assert similarities.shape == found.shape == (10, min(k, 90))


def flipped(table: Table, rows: NDArray[np.bool_]) -> Table:
    """Turn the outcomes of the marked rows upside down."""
    battles = table.battles
    if len(battles):
        y = np.where(rows[battles.rows], 1 - battles.y, battles.y)
        return replace(table, battles=replace(battles, y=y, both_bad=battles.both_bad & ~rows[battles.rows]))
    return replace(table, scores=np.where(rows[:, None], 1 - table.scores, table.scores))


def select_all(table: Table, folds: NDArray[np.int64]) -> Selection:
    clusters = deal_folds(np.arange(N_ROWS) // 6, 3, seed=5)
    return Selection(table, PLACES, folds, clusters, lambda stage, done, total: None)


@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_held_out_outcomes_never_reach_the_choice(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "grid", lambda table: CONFIGS[::3])
    table, folds = table_of(kind), deal_folds(np.arange(N_ROWS), 3, seed=0)
    fit = select_all(table, folds).cross_fitted()
    choices, fixed, worth = fit.choose(), fit.fixed, fit.worth
    assert len(set(choices.tolist())) > 1
    for fold in range(3):
        mine = folds == fold
        poisoned = select_all(flipped(table, mine), folds).cross_fitted()
        np.testing.assert_array_equal(poisoned.choose()[mine], choices[mine])
        np.testing.assert_array_equal(poisoned.prediction.quality[mine], fit.prediction.quality[mine])
        np.testing.assert_array_equal(poisoned.fixed[mine], fixed[mine])
        assert (poisoned.worth.values[mine] != worth.values[mine]).any(), "the poison shows where it is measured"


def test_folds_agree_with_a_run_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one configuration there is nothing to select: each fold is routed by the other folds."""
    monkeypatch.setattr(select, "grid", lambda table: CONFIGS[4:5])
    table, folds = table_of("scores"), deal_folds(np.arange(N_ROWS), 4, seed=0)
    fit = select_all(table, folds).cross_fitted()
    choices, fixed, worth = fit.choose(), fit.fixed, fit.worth
    for fold in range(4):
        trial = try_all(table, PLACES, folds != fold, np.flatnonzero(folds == fold), CONFIGS[4:5])
        np.testing.assert_array_equal(choices[folds == fold], trial.choices[0])
        assert set(fixed[folds == fold]) == {trial.fixed}
        np.testing.assert_array_equal(worth.values[folds == fold], trial.worth.values)


def test_progress_ends_at_its_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "grid", lambda table: CONFIGS[:1])
    seen: list[tuple[str, int, int]] = []
    folds, clusters = (deal_folds(np.arange(N_ROWS), n, seed=n) for n in (4, 3))
    selection = Selection(table_of("scores"), PLACES, folds, clusters, lambda *step: seen.append(step))
    selection.final()
    selection.cross_fitted()
    done = [step[1] for step in seen]
    assert done == list(range(1, len(seen) + 1)) and {step[2] for step in seen} == {len(seen)}


def test_ties_go_to_more_caution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is to be gained every configuration ties, and the most cautious one is taken."""
    table = table_of("scores")
    same = replace(table, scores=np.where(np.isnan(table.scores), np.nan, 0.5))
    folds = deal_folds(np.arange(N_ROWS), 3, seed=0)
    monkeypatch.setattr(select, "grid", lambda table: CONFIGS)
    assert select_all(same, folds).final() == max(CONFIGS, key=lambda one: one.caution)


@pytest.mark.parametrize("names", [(), ("x",), ("x", "y")])
def test_intents_are_tried_where_there_are_two(names: tuple[str, ...]) -> None:
    configs = grid(replace(table_of("scores"), intent_names=names))
    assert {one.intent_prior for one in configs} == ({False, True} if len(names) > 1 else {False})
    assert len(set(configs)) == len(configs)


@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_best_fixed_is_best_on_the_rows_given(kind: str) -> None:
    table = table_of(kind)
    rows = np.flatnonzero(PLACES[0].vectors[:, 2] > 0.3)
    evidence = fit_evidence(table, np.isin(np.arange(N_ROWS), rows), use_intents=False)
    assert best_fixed(table, evidence, rows) == 2
