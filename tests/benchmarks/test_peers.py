"""benchmarks/peers.py, pools.py, ours.py: every method learns what is there to learn, and formulas checked by hand."""

from dataclasses import replace

import numpy as np
import peers
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from ours import whichmodel
from peers import BATTLE_PEERS, PEERS, Prediction
from pools import Pool, Split, cross_fit, one_battle_each, outcomes, stack
from scipy.optimize import check_grad
from sklearn.neighbors import KNeighborsRegressor

from router.encoder import OnnxEncoder, embed
from router.features import surface_features
from router.router import Router
from router.types import Policy
from training.comparisons import PreferenceLog
from training.evidence import Battles, Table, tabulate
from training.split import near_duplicate_groups

NO_BATTLES = Battles(*(np.array([], dtype=kind) for kind in (int, int, int, float, bool, float)))
N_ROWS, N_MODELS = 240, 3


def make_table(scores: np.ndarray, intents: np.ndarray | None = None) -> Table:
    texts = tuple(f"prompt {row}" for row in range(len(scores)))
    nothing = np.full(scores.shape, np.nan)
    names = ("x", "y", "z")
    codes = np.zeros(len(scores), dtype=np.int64) if intents is None else intents
    ones = np.ones(len(scores))
    return Table(
        texts,
        texts,
        ("a", "b", "c")[: scores.shape[1]],
        "scores",
        scores,
        NO_BATTLES,
        nothing,
        nothing,
        ones,
        codes,
        names,
        ones,
        ones.astype(np.int64),
    )


@pytest.fixture(scope="module")
def pool() -> Pool:
    """Three well separated kinds of prompts, on each of which another model is best in four of five rows."""
    rng = np.random.default_rng(0)
    kinds = np.arange(N_ROWS) % 3
    vectors = np.eye(8, dtype=np.float32)[kinds] + 0.1 * rng.standard_normal((N_ROWS, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = (rng.random((N_ROWS, N_MODELS)) < np.where(np.eye(3)[kinds] > 0, 0.9, 0.2)).astype(np.float64)
    table = make_table(scores, kinds)
    return Pool(table, vectors, rng.random((N_ROWS, 4)), np.zeros(N_ROWS), scores, np.arange(N_ROWS))


@pytest.fixture(scope="module")
def split(pool: Pool) -> Split:
    return cross_fit(pool, np.arange(N_ROWS), 4, 0)[0]


def share_right(prediction: Prediction, split: Split) -> float:
    return float((prediction.choices(np.zeros(N_MODELS)) == split.asked % 3).mean())


@pytest.mark.parametrize("name", [name for name in PEERS if name not in ("best fixed", "SW Bradley-Terry")])
def test_every_peer_learns_which_model_is_best_where(name: str, split: Split) -> None:
    # The weakest of each grid may fail; one point of it has to find three clusters that do not touch.
    table = split.pool.table.take(split.train)
    found = [share_right(PEERS[name].predict(split, table, config), split) for config in PEERS[name].grid]
    assert max(found) >= 0.9


def test_weights_of_sw_ranking_are_too_flat_to_route_by(split: Split) -> None:
    # From 10 to 100 between orthogonal and equal prompts: the strengths lean the right way, no more.
    table = split.pool.table.take(split.train)
    prediction = PEERS["SW Bradley-Terry"].predict(split, table, ())
    own = prediction.quality[np.arange(len(split.asked)), split.asked % 3]
    assert (own > prediction.quality.mean(axis=1)).mean() > 0.9


@pytest.mark.parametrize("name", [*(name for name, one in PEERS.items() if not one.needs_scores), *BATTLE_PEERS])
def test_every_peer_that_takes_battles_learns_from_them(name: str, split: Split) -> None:
    table = one_battle_each(split.pool.table, 1).take(split.train)
    peer = (PEERS | BATTLE_PEERS)[name]
    found = [share_right(peer.predict(split, table, config), split) for config in peer.grid]
    chance = 1 / 3 if name == "best fixed" else 0.6
    assert max(found) >= chance - 0.1


def test_knn_is_scikit_learns(split: Split) -> None:
    table = split.pool.table.take(split.train)
    theirs = KNeighborsRegressor(7, metric="cosine").fit(split.vectors, table.scores).predict(split.queries)
    assert_allclose(peers.knn(split, table, (7,)).quality, theirs)


def test_smoothing_and_zero_filling_by_hand(pool: Pool) -> None:
    scores = np.full((4, 2), np.nan)
    scores[0, 0], scores[1, 1], scores[2, 1] = 1.0, 0.5, 0.0
    table = make_table(scores)
    small = replace(pool, table=table, vectors=np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [1, 0]], dtype=np.float32))
    split = Split(small, np.arange(3), np.array([3]), 0)
    known = table.take(split.train)
    assert_allclose(peers.smoothed_knn(split, known, (2, 4.0)).quality, [[(1 + 4 * 1.0) / 5, (0.5 + 4 * 0.25) / 5]])
    assert_allclose(peers.zero_filled_knn(split, known, (2,)).quality, [[1 / 1.8, 0.8 * 0.5 / 1.8]], rtol=1e-6)
    assert_allclose(peers.knn(split, known, (1,)).quality, [[1.0, peers.UNSEEN]])


def test_sw_ranking_of_two_models_is_the_weighted_log_odds(pool: Pool) -> None:
    scores = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    small = replace(pool, table=make_table(scores), vectors=np.array([[1, 0], [0, 1], [0.6, 0.8], [1, 0]], np.float32))
    split = Split(small, np.arange(3), np.array([3]), 0)
    won, lost, tied = 10 * 10**1.0, 10 * 10**0.0, 10 * 10**0.6
    logits = peers.similarity_weighted_ranking(split, small.table.take(split.train), ()).logits
    expected = np.log((won + tied / 2) / (lost + tied / 2))
    assert_allclose(logits[0, 0] - logits[0, 1], expected, rtol=1e-3)


def test_gradients_of_matrix_factorization(pool: Pool) -> None:
    table = pool.table.take(np.arange(6))
    battles = one_battle_each(table, 0)
    for slope in (peers._score_slope(table), peers._battle_slope(battles)):
        logits = np.random.default_rng(0).standard_normal(6 * N_MODELS)
        error = check_grad(
            lambda flat, slope=slope: slope(flat.reshape(6, N_MODELS))[0],
            lambda flat, slope=slope: slope(flat.reshape(6, N_MODELS))[1].ravel(),
            logits,
        )
        assert error < 1e-6


def test_task_known_reads_the_asked_task(pool: Pool, split: Split) -> None:
    known = pool.table.take(split.train)
    quality = peers.task_known(split, known, ()).quality
    for row, asked in enumerate(split.asked[:9]):
        assert_allclose(quality[row], known.scores[known.intents == asked % 3].mean(axis=0))


def test_folds_ask_every_row_once_and_keep_groups_together(pool: Pool) -> None:
    grouped = replace(pool, groups=np.arange(N_ROWS) // 4)
    splits = cross_fit(grouped, np.arange(N_ROWS), 5, 0)
    assert_array_equal(np.sort(np.concatenate([one.asked for one in splits])), np.arange(N_ROWS))
    for one in [*splits, *splits[0].inner]:
        assert not set(grouped.groups[one.train]) & set(grouped.groups[one.asked])
    assert not set(np.concatenate([one.asked for one in splits[0].inner])) & set(splits[0].asked)


def test_take_and_stack_keep_battles_with_their_rows(pool: Pool) -> None:
    lengths = np.arange(N_ROWS * N_MODELS, dtype=np.float64).reshape(N_ROWS, N_MODELS)
    battles = replace(one_battle_each(pool.table, 0), output_tokens=lengths)
    rows = np.array([5, 2, 9])
    some = battles.take(rows)
    assert_array_equal(outcomes(some), outcomes(battles)[rows])
    both = stack([some, battles.take(np.array([7]))])
    assert_array_equal(outcomes(both), outcomes(battles)[[5, 2, 9, 7]])
    assert both.texts[3] == "prompt 7"
    assert_array_equal(both.output_tokens, lengths[[5, 2, 9, 7]])


def test_a_battle_goes_to_the_higher_score(pool: Pool) -> None:
    battles = one_battle_each(pool.table, 3).battles
    lead = pool.table.scores[battles.rows, battles.a] - pool.table.scores[battles.rows, battles.b]
    assert_array_equal(battles.y, 0.5 + 0.5 * np.sign(lead))
    assert (battles.a != battles.b).all()


def test_ours_is_what_train_makes_and_the_router_serves(
    scores_log: PreferenceLog, encoder: OnnxEncoder, trained: tuple
) -> None:
    table = tabulate(scores_log)
    vectors = embed(encoder, table.texts)
    features = np.stack([surface_features(text) for text in table.texts])
    pool = Pool(table, vectors, features, np.zeros(len(table)), table.scores, near_duplicate_groups(vectors))
    everyone = np.arange(len(table))
    prediction = whichmodel(Split(pool, everyone, everyone, 0), table, ())
    router = Router(trained[0])
    decisions = [router.route(text, Policy(route_anyway=True)) for text in table.originals]
    chosen = [table.models[one] for one in prediction.choices(np.zeros(len(table.models)))]
    assert chosen == [one.model for one in decisions]
    served = [{one.model: one.quality for one in decision.estimates} for decision in decisions]
    ours = [dict(zip(table.models, row, strict=True)) for row in prediction.quality.tolist()]
    for mine, theirs in zip(ours, served, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-3)  # the index keeps half-precision rows
