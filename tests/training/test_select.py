"""training/select.py, hold_out.py, cross_fit.py: chosen in bulk as serving would, and held-out rows stay unseen."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from router.catalogue import Catalogue
from router.constraints import offers_of
from router.estimate import estimate
from router.index import Hits, NeighborIndex, round_points, unit_points
from router.policy import Circumstances, TradeOff, choose, field_of
from router.space import Space
from router.types import Needs, Policy
from training import cross_fit
from training import hold_out as hold_out_room
from training.calibrate import Slopes
from training.cross_fit import Selection, predict
from training.evidence import Battles, Table
from training.fit import fit_evidence
from training.hold_out import Far, HoldOut, Place, hold_out
from training.near import nearest
from training.select import (
    N_NEIGHBORS,
    TEMPERATURES,
    WIDE_NEIGHBORS,
    Chosen,
    Config,
    Trial,
    best_fixed,
    grid,
    n_listed,
    pick,
    try_all,
)
from training.split import deal_folds
from training.value import value_matrix

N_ROWS, N_MODELS, DIM = 120, 4, 8
FAR = Far(usual_similarity=0.7, far_temperature=0.3)


def place_of(weight: float, seed: int) -> Place:
    vectors = np.random.default_rng(seed).normal(size=(N_ROWS, DIM)).astype(np.float32)
    vectors = unit_points(round_points(vectors))  # as the artifact stores them
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
        input_tokens=np.ones(N_ROWS, dtype=np.int64),
    )


CONFIGS = tuple(
    Config(*point) for point in product((1.0, 10.0), (10, 40), (False, True), (0.0, 0.5, 1.0), (0.1, 0.5), (0.0, 0.5))
)


def held_of(table: Table, rows: NDArray[np.int64]) -> HoldOut:
    """Hold ``rows`` out, by the fold scheme that has them for its second fold."""
    folds = np.isin(np.arange(N_ROWS), rows).astype(np.int64)
    return HoldOut(hold_out(PLACES, folds, n_listed(CONFIGS)), folds == 0, rows)


def centred_loss(table: Table, row: int, z: NDArray[np.float64]) -> float:
    """Squared error of the differences between models, one row at a time; logarithmic on battles."""
    if table.kind == "scores":
        seen = np.flatnonzero(~np.isnan(table.scores[row]))
        if not len(seen):
            return 0.0
        truth, guess = table.scores[row, seen], z[seen]
        return float(table.row_weight[row] * np.mean(((guess - guess.mean()) - (truth - truth.mean())) ** 2))
    total = 0.0
    for at in np.flatnonzero((table.battles.rows == row) & ~table.battles.both_bad):
        lead = z[table.battles.a[at]] - z[table.battles.b[at]]
        p = 1 / (1 + np.exp(-lead))
        y = table.battles.y[at]
        total -= table.battles.weight[at] * (y * np.log(p) + (1 - y) * np.log(1 - p))
    return total


@pytest.mark.parametrize("kind", ["scores", "battles"])
@pytest.mark.parametrize("block_bytes", [1, 64 << 20])
def test_scores_in_bulk_are_those_of_serving(kind: str, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Utility and loss of every configuration, against the estimator and the policy that serve, prompt by prompt."""
    monkeypatch.setattr(hold_out_room, "BLOCK_BYTES", block_bytes)
    table = table_of(kind)
    rows = np.arange(0, N_ROWS, 4)
    held = held_of(table, rows)
    trial = try_all(table, PLACES, held, CONFIGS)
    plain = fit_evidence(table, held.train, use_intents=False)
    worth = value_matrix(table, plain, rows)
    fixed = best_fixed(table, plain, np.flatnonzero(held.train))
    offers = offers_of(Catalogue(table.models, {}), Policy(), Needs(0))
    field = field_of(offers, TradeOff(), np.eye(N_MODELS)[fixed])
    n_moved = n_compared = 0
    for index, config in enumerate(CONFIGS):
        place = next(one for one in PLACES if one.space.feature_weight == config.feature_weight)
        whole = fit_evidence(table, held.train, use_intents=config.intent_prior)
        evidence = replace(
            whole,
            h=whole.h[held.train],
            g=whole.g[held.train],
            intents=whole.intents[held.train],
            sizes=whole.sizes[held.train],
        )
        neighbors = NeighborIndex(round_points(place.vectors[held.train]))
        settings = config.settings(place.far, kind)
        utility = loss = 0.0
        near_tie = False
        for at, row in enumerate(rows):
            hits = neighbors.search(place.vectors[row], settings.n_neighbors)
            local = estimate(hits, evidence, settings, fixed=fixed)
            choice = choose(
                local,
                field,
                Policy(),
                Circumstances(routes=True, guard_z=settings.guard_z),
                tool_call_open=False,
            )
            lead = local.quality - local.quality[fixed] - settings.guard_z * local.lead_error
            near_tie |= bool(np.sort(np.abs(np.delete(lead, fixed)))[0] < 1e-5)
            utility += worth.weight[at] * worth.values[at, choice.column]
            z = local.quality if kind == "scores" else np.log(local.quality / (1 - local.quality))
            loss += centred_loss(table, int(row), z) - centred_loss(table, int(row), plain.prior)
            n_moved += choice.column != fixed
        assert trial.loss[index] == pytest.approx(loss, abs=1e-3), config
        if not near_tie:
            assert trial.utility[index] == pytest.approx(utility, abs=1e-6), config
            n_compared += 1
    assert n_moved > len(CONFIGS), "the comparison is of choices that differ from the fixed model"
    assert n_compared > len(CONFIGS) / 2
    again = try_all(table, PLACES, held, CONFIGS)
    np.testing.assert_array_equal(trial.utility, again.utility)


@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_predictions_are_those_of_serving(kind: str) -> None:
    table = table_of(kind)
    rows = np.arange(0, N_ROWS, 3)
    held = held_of(table, rows)
    chosen = Chosen(CONFIGS[5], Slopes(difficulty=1.4, contrast=0.8))
    fit = predict(table, PLACES, held, chosen)
    place = next(one for one in PLACES if one.space.feature_weight == chosen.config.feature_weight)
    settings = chosen.settings(place.far, kind)
    assert (settings.difficulty_slope, settings.contrast_slope) == (1.4, 0.8)
    evidence = fit_evidence(table, held.train, use_intents=chosen.config.intent_prior)
    for at, row in enumerate(rows):
        similarities, found = nearest(
            place.vectors[row][None], place.vectors, np.flatnonzero(held.train), settings.n_neighbors
        )
        local = estimate(Hits(found[0], similarities[0]), evidence, settings, fixed=int(fit.fixed[at]))
        np.testing.assert_allclose(fit.prediction.quality[at], local.quality, atol=1e-6)
        np.testing.assert_allclose(fit.prediction.error[at], local.lead_error, atol=1e-6)


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
    monkeypatch.setattr(cross_fit, "grid", lambda table: CONFIGS[::3])
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
    monkeypatch.setattr(cross_fit, "grid", lambda table: CONFIGS[4:5])
    table, folds = table_of("scores"), deal_folds(np.arange(N_ROWS), 4, seed=0)
    selection = select_all(table, folds)
    fit = selection.cross_fitted()
    choices, fixed, worth = fit.choose(), fit.fixed, fit.worth
    for fold in range(4):
        chosen = selection._chosen(folds != fold)
        assert chosen.config == CONFIGS[4]
        held = HoldOut(hold_out(PLACES, folds, n_listed(CONFIGS)), folds != fold, np.flatnonzero(folds == fold))
        by_hand = predict(table, PLACES, held, chosen)
        np.testing.assert_array_equal(choices[folds == fold], by_hand.choose())
        assert set(fixed[folds == fold]) == set(by_hand.fixed)
        np.testing.assert_array_equal(worth.values[folds == fold], by_hand.worth.values)


def test_progress_ends_at_its_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_fit, "grid", lambda table: CONFIGS[:1])
    seen: list[tuple[str, int, int]] = []
    folds, clusters = (deal_folds(np.arange(N_ROWS), n, seed=n) for n in (4, 3))
    selection = Selection(table_of("scores"), PLACES, folds, clusters, lambda *step: seen.append(step))
    selection.final()
    selection.cross_fitted()
    for stage in ("neighbours", "selecting"):
        steps = [step for step in seen if step[0] == stage]
        assert [step[1] for step in steps] == list(range(1, len(steps) + 1))
        assert {step[2] for step in steps} == {len(steps)}


def test_ties_go_to_more_caution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is to be gained every configuration ties, and the most cautious one is taken."""
    table = table_of("scores")
    same = replace(table, scores=np.where(np.isnan(table.scores), np.nan, 0.5))
    folds = deal_folds(np.arange(N_ROWS), 3, seed=0)
    monkeypatch.setattr(cross_fit, "grid", lambda table: CONFIGS)
    chosen = select_all(same, folds).final()
    assert chosen.config == max(CONFIGS, key=lambda one: one.caution)
    assert chosen.slopes.contrast == pytest.approx(1.0, abs=0.2), "nothing speaks for another slope"


def trial_of(utility: list[float], loss: list[float]) -> Trial:
    return Trial(np.array(utility), np.array(loss), 1.0)


def test_value_then_prediction_then_caution() -> None:
    configs = tuple(Config(shrinkage, 100, False, 0.0, 0.1, 0.0) for shrinkage in (1.0, 3.0, 10.0, 30.0))
    assert pick([[trial_of([0.60, 0.60, 0.60, 0.59], [-0.1] * 4)]], configs) == 2, "more value than the most cautious"
    assert pick([[trial_of([0.60] * 4, [-0.10, -0.099, -0.05, 0.0])]], configs) == 1, "5 % of the improvement may go"
    assert pick([[trial_of([0.60] * 4, [0.03, 0.02, 0.01, 0.0])]], configs) == 3, "nothing improves on the priors"
    assert pick([[trial_of([0.60, 0.5, 0.5, 0.5], [0.1, -1, -1, -1])]], configs) == 0, "value comes first"
    assert pick([[], []], configs) == 3


def test_the_widest_guard_that_costs_nothing_is_taken() -> None:
    configs = tuple(Config(1.0, 100, False, guard, 0.1, 0.0) for guard in (0.0, 0.5, 1.0))
    assert pick([[trial_of([0.6, 0.5995, 0.597], [-0.1] * 3)]], configs) == 1
    assert pick([[trial_of([0.6, 0.7, 0.7], [-0.1] * 3)]], configs) == 2
    assert pick([[trial_of([0.6, 0.5, 0.5], [-0.1] * 3)]], configs) == 0


@pytest.mark.parametrize("names", [(), ("x",), ("x", "y")])
def test_intents_are_tried_where_there_are_two(names: tuple[str, ...]) -> None:
    configs = grid(replace(table_of("scores"), intent_names=names))
    assert {one.intent_prior for one in configs} == ({False, True} if len(names) > 1 else {False})
    assert len(set(configs)) == len(configs)


def test_wide_neighbourhoods_are_tried_in_large_logs_with_the_flattest_weights() -> None:
    small = table_of("scores")
    tiled = {name: np.tile(getattr(small, name), 30) for name in ("row_weight", "intents")}
    large = replace(small, texts=small.texts * 30, **tiled)
    assert len(small) < 6 * WIDE_NEIGHBORS <= len(large)
    assert max(one.n_neighbors for one in grid(small)) == max(N_NEIGHBORS)
    wide = [one for one in grid(large) if one.n_neighbors not in N_NEIGHBORS]
    assert {(one.n_neighbors, one.temperature) for one in wide} == {(WIDE_NEIGHBORS, max(TEMPERATURES))}
    assert [one for one in grid(large) if one not in wide] == list(grid(small))
    assert n_listed(grid(small)) < WIDE_NEIGHBORS < n_listed(grid(large))


@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_best_fixed_is_best_on_the_rows_given(kind: str) -> None:
    table = table_of(kind)
    rows = np.flatnonzero(PLACES[0].vectors[:, 2] > 0.3)
    evidence = fit_evidence(table, np.isin(np.arange(N_ROWS), rows), use_intents=False)
    assert best_fixed(table, evidence, rows) == 2
