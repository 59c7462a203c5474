"""training/fit.py: priors against independent optima, residuals against the formulas."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from router.prompt import Template
from training.comparisons import Comparison, PreferenceLog
from training.evidence import Battles, Table, tabulate
from training.fit import INTENT_PSEUDO_ROWS, MODEL_PSEUDO_ROWS, bradley_terry, fit_evidence


def battles_of(a: list[int], b: list[int], y: list[float], weight: list[float] | None = None) -> Battles:
    n = len(a)
    return Battles(
        np.arange(n),
        np.array(a, dtype=int),
        np.array(b, dtype=int),
        np.array(y, dtype=float),
        np.zeros(n, dtype=bool),
        np.array(weight or [1.0] * n),
    )


def random_battles(seed: int, n: int, n_models: int) -> Battles:
    rng = np.random.default_rng(seed)
    pairs = np.array([rng.choice(n_models, 2, replace=False) for _ in range(n)])
    y = rng.choice([0.0, 0.5, 1.0], n)
    return battles_of(pairs[:, 0].tolist(), pairs[:, 1].tolist(), y.tolist(), rng.uniform(0.5, 2, n).tolist())


def optimum(battles: Battles, center: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    def loss(theta: NDArray[np.float64]) -> float:
        lead = theta[battles.a] - theta[battles.b]
        likelihood = -battles.y * np.logaddexp(0, -lead) - (1 - battles.y) * np.logaddexp(0, lead)
        return float(-battles.weight @ likelihood + ridge / 2 * np.square(theta - center).sum())

    return np.asarray(minimize(loss, center, tol=1e-12).x)


@pytest.mark.parametrize("ridge", [0.1, 0.5, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_bradley_terry_is_the_optimum(seed: int, ridge: float) -> None:
    battles, center = random_battles(seed, 60, 5), np.random.default_rng(seed).normal(size=5)
    np.testing.assert_allclose(bradley_terry(battles, center, ridge), optimum(battles, center, ridge), atol=1e-4)


def test_a_star_orders_models_that_never_met() -> None:
    a, y = [1] * 20 + [2] * 20 + [3] * 20, [1.0] * 14 + [0.0] * 6 + [1.0] * 10 + [0.0] * 10 + [1.0] * 2 + [0.0] * 18
    theta = bradley_terry(battles_of(a, [0] * 60, y), np.zeros(4), 0.1)
    assert theta[1] > theta[2] > theta[3] and theta[2] == pytest.approx(theta[0], abs=0.1)
    assert theta[1] - theta[0] == pytest.approx(np.log(14 / 6), abs=0.1)


def test_separated_and_unseen_models_stay_finite() -> None:
    theta = bradley_terry(battles_of([0] * 5000, [1] * 5000, [1.0] * 5000), np.zeros(3), 0.5)
    assert np.isfinite(theta).all() and theta[2] == 0 and 2 < theta[0] < 20 and theta[0] == pytest.approx(-theta[1])


def test_no_battles_give_the_center() -> None:
    center = np.array([0.5, -1.0])
    np.testing.assert_allclose(bradley_terry(battles_of([], [], []), center, 1.0), center)


def log_of(kind: str) -> PreferenceLog:
    """60 prompts of a common intent where a leads, 4 of a rare one where b does, and 6 without intent."""
    rows = []
    for n in range(70):
        intent = "common" if n < 60 else "rare" if n < 64 else None
        best = "b" if intent == "rare" else "a"
        if kind == "scores":
            scores = {model: 0.9 if model == best else 0.3 for model in "abc" if model != "c" or n % 2}
            rows.append(Comparison(f"prompt {n}", scores=scores, intent=intent))
        else:
            pair = ("a", "b") if n % 3 else ("b", "c")
            winner = "tie" if n % 10 == 0 else "model_a" if pair[0] == best else "model_b"
            rows.append(Comparison(f"prompt {n}", model_a=pair[0], model_b=pair[1], winner=winner, intent=intent))
    return PreferenceLog(comparisons=rows)


def table_of(kind: str) -> Table:
    return tabulate(log_of(kind), template=Template())


@pytest.mark.parametrize("kind", ["scores", "battles"])
def test_intents_shrink_to_the_global_prior(kind: str) -> None:
    table = table_of(kind)
    evidence = fit_evidence(table, np.ones(len(table), dtype=bool), use_intents=True)
    common, rare = (evidence.intent_priors[table.intent_names.index(name)] for name in ("common", "rare"))
    assert abs(common - evidence.prior).max() < 0.3
    assert rare[1] - rare[0] > evidence.prior[1] - evidence.prior[0], "the rare intent leans to its own winner"
    assert rare[1] < rare[0], "but four rows do not overturn sixty"
    nobody = fit_evidence(table, table.intents != table.intent_names.index("rare"), use_intents=True)
    np.testing.assert_allclose(nobody.intent_priors[table.intent_names.index("rare")], nobody.prior)


def test_score_priors_by_hand() -> None:
    table = table_of("scores")
    evidence = fit_evidence(table, np.ones(len(table), dtype=bool), use_intents=True)
    scores, seen = np.nan_to_num(table.scores), ~np.isnan(table.scores)
    overall = scores.sum() / seen.sum()
    prior = (scores.sum(0) + MODEL_PSEUDO_ROWS * overall) / (seen.sum(0) + MODEL_PSEUDO_ROWS)
    np.testing.assert_allclose(evidence.prior, prior)
    own = table.intents == 1
    rare = (scores[own].sum(0) + INTENT_PSEUDO_ROWS * prior) / (seen[own].sum(0) + INTENT_PSEUDO_ROWS)
    np.testing.assert_allclose(evidence.intent_priors[1], rare)
    row_prior = np.where(table.intents[:, None] == -1, prior, evidence.intent_priors[table.intents])
    np.testing.assert_allclose(evidence.h, seen)
    np.testing.assert_allclose(evidence.g, seen * (scores - row_prior), atol=1e-7)


def test_battle_residuals_by_hand() -> None:
    table = table_of("battles")
    evidence = fit_evidence(table, np.ones(len(table), dtype=bool), use_intents=True)
    h, g = np.zeros_like(evidence.h, dtype=float), np.zeros_like(evidence.g, dtype=float)
    for row, a, b, y in zip(table.battles.rows, table.battles.a, table.battles.b, table.battles.y, strict=True):
        intent = table.intents[row]
        theta = evidence.prior if intent < 0 else evidence.intent_priors[intent]
        p = 1 / (1 + np.exp(theta[b] - theta[a]))
        for column, sign in ((a, 1), (b, -1)):
            h[row, column] += p * (1 - p)
            g[row, column] += sign * (y - p)
    np.testing.assert_allclose(evidence.h, h, atol=1e-6)
    np.testing.assert_allclose(evidence.g, g, atol=1e-6)


@pytest.mark.parametrize("kind", ["scores", "battles"])
@pytest.mark.parametrize("use_intents", [False, True])
def test_rows_outside_training_say_nothing(kind: str, use_intents: bool) -> None:
    table = table_of(kind)
    train = np.arange(len(table)) % 4 > 0
    evidence = fit_evidence(table, train, use_intents=use_intents)
    assert not evidence.h[~train].any() and not evidence.g[~train].any() and (evidence.intents[~train] == -1).all()
    assert evidence.h[train].any() and evidence.intent_priors.shape == (2, 3)
    assert (evidence.intents[train] == table.intents[train]).all()
    if not use_intents:
        np.testing.assert_array_equal(evidence.intent_priors, np.stack([evidence.prior] * 2))


@pytest.mark.parametrize("strong", [0.0, 1.5, 3.0])
def test_both_bad_lowers_both(strong: float) -> None:
    """Also where one of the two is much stronger: that both failed is no praise for the weaker."""
    n_won = {0.0: 20, 1.5: 33, 3.0: 39}[strong]
    rows = [
        Comparison(f"p{n}", model_a="a", model_b="b", winner="model_a" if n < n_won else "model_b") for n in range(40)
    ]
    rows += [Comparison(f"q{n}", model_a="b", model_b="c", winner="model_a" if n % 2 else "model_b") for n in range(40)]
    bad = tabulate(
        PreferenceLog(comparisons=[*rows, Comparison("x", model_a="a", model_b="b", winner="both_bad")]),
        template=Template(),
    )
    evidence = fit_evidence(bad, np.ones(len(bad), dtype=bool), use_intents=False)
    last = evidence.g[-1]
    assert last[0] < 0 and last[1] < 0 and last[2] == 0
    assert evidence.h[-1, 0] > 0 and evidence.h[-1, 1] > 0
