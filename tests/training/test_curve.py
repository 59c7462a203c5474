"""training/curve.py: named points against a plain search, and choices along the curve against those of serving."""

from dataclasses import replace

import numpy as np
import pytest

from router.artifact import RouterArtifact
from router.estimate import EstimatorSettings
from router.router import Router
from router.types import TRADE_OFFS, Policy, Verdict
from training import evaluate, load, train
from training.cross_fit import CrossFit, Prediction
from training.curve import BALANCED_LOSS, CHEAP_SHARE, trace, willingness_grid
from training.value import ValueMatrix

N_ROWS, N_MODELS = 200, 4


def random_fit(seed: int) -> tuple[CrossFit, np.ndarray]:
    rng = np.random.default_rng(seed)
    quality, values = rng.random((2, N_ROWS, N_MODELS))
    worth = ValueMatrix(values, rng.uniform(0.5, 2, N_ROWS), np.ones((N_ROWS, N_MODELS)))
    error = rng.uniform(0, 0.2, (N_ROWS, N_MODELS))
    fit = CrossFit(
        np.arange(N_ROWS), Prediction(quality, error, np.ones(N_ROWS)), np.full(N_ROWS, 0.5), np.full(N_ROWS, 2), worth
    )
    return fit, rng.uniform(0.5, 1.5, (N_ROWS, N_MODELS)) * np.array([4e-3, 1e-3, 2e-3, 5e-4])


@pytest.mark.parametrize("seed", range(5))
def test_bulk_choices_equal_a_loop(seed: int) -> None:
    fit, costs = random_fit(seed)
    for usd in (None, 0.1, 0.01, 0.001):
        chosen = fit.choose(usd, costs)
        for row in range(N_ROWS):
            utility = fit.prediction.quality[row] - (0 if usd is None else costs[row] / usd)
            best = int(np.argmax(utility))
            sure = utility[best] - utility[2] > 0.5 * fit.prediction.error[row, best]
            assert chosen[row] == (best if sure else 2)


def test_equal_quality_goes_to_the_cheaper() -> None:
    fit, costs = random_fit(0)
    flat = replace(
        fit, prediction=Prediction(np.full((N_ROWS, N_MODELS), 0.5), np.zeros((N_ROWS, N_MODELS)), np.ones(N_ROWS))
    )
    flat = replace(flat, fixed=np.argmin(costs, axis=1))
    assert (flat.choose(None, costs) == np.argmin(costs, axis=1)).all()


@pytest.mark.parametrize("seed", range(5))
def test_named_points_keep_their_promise(seed: int) -> None:
    fit, costs = random_fit(seed)
    curve = trace(fit, costs, costs)
    amounts = curve.named_amounts_usd()
    assert tuple(amounts) == TRADE_OFFS and amounts["quality"] is None
    points = {name: curve.amounts_usd.index(usd) for name, usd in amounts.items()}
    value = np.array([np.average(one, weights=fit.worth.weight) for one in curve.values])
    cost = curve.costs_usd.mean(axis=1)
    fixed_cost = costs[:, 2].mean()
    assert value[points["cheap"]] >= CHEAP_SHARE * value.max()
    assert not (value[cost < cost[points["cheap"]]] >= CHEAP_SHARE * value.max()).any()
    if (cost <= fixed_cost).any():
        best = value[cost <= fixed_cost].max()
        assert cost[points["balanced"]] <= fixed_cost and value[points["balanced"]] >= best - BALANCED_LOSS


def test_grid_starts_free_and_ends_where_cost_rules() -> None:
    _, costs = random_fit(0)
    amounts = willingness_grid(costs)
    spread = np.ptp(costs.mean(axis=0))
    assert amounts[0] is None and list(amounts[1:]) == sorted(amounts[1:], reverse=True)
    assert amounts[-1] == pytest.approx(spread)
    assert willingness_grid(np.ones((3, 2))) == [None]


@pytest.mark.parametrize("strategy", TRADE_OFFS)
def test_serving_spends_what_the_strategy_says(artifact: RouterArtifact, strategy: str) -> None:
    verdict, settings = Verdict("ROUTE", "", artifact.best_fixed), EstimatorSettings(n_neighbors=20)
    routed = replace(artifact, tiers=(replace(artifact.best, verdict=verdict, settings=settings),))
    decision = Router(routed).route("please help with this one", Policy(strategy=strategy))
    usd = artifact.strategies[strategy]
    utilities = [one.quality - (one.cost_usd / usd if usd else 0.0) for one in decision.estimates]
    assert utilities == sorted(utilities, reverse=True)
    same = Router(replace(routed, default_strategy=strategy)).route("please help with this one")
    assert [one.utility for one in same.estimates] == [one.utility for one in decision.estimates]


def test_trained_artifact_holds_the_curve(tmp_path, small_grid) -> None:
    rows = [
        f'{{"prompt": "{word} number {i} of the {word}s", "scores": {{"cheap": {int(i % 3 > 0)}, "dear": 1}},'
        f' "cost_usd": {{"cheap": 0.001, "dear": 0.01}}}}'
        for i in range(30)
        for word in ("apple", "engine")
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(rows))
    log = load(tmp_path / "log.jsonl")
    artifact, report = train(log)
    assert artifact.default_strategy == "balanced" and set(artifact.strategies) == set(TRADE_OFFS)
    assert set(report.details["strategies"]) == set(TRADE_OFFS) and len(report.details["curve"]) > 10
    costs = [point["cost_usd"] for point in report.details["curve"]]
    assert costs[0] == max(costs) and costs[-1] == pytest.approx(0.001, rel=0.5)
    assert artifact.write(tmp_path / "art").strategies == artifact.strategies
    assert evaluate(artifact, log).router.cost_usd <= 0.01 + 1e-9
