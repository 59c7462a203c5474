"""Other people's routers, each in a few lines on the same vectors: what ours is measured against.

Every peer is a function from a split, a table of the training rows' labels, and one point of its grid, to a
Prediction for the asked rows. Which point of the grid is used is chosen on inner folds of the training rows
(quality.py). Battles reach peers that want scores as outcomes 1, 0.5 and 0, NaN where a model did not fight.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray
from pools import Split, outcomes
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPRegressor

from router.estimate import to_quality
from training.evidence import Table
from training.fit import fit_evidence

NEWTON_STEPS = 30
MF_DIM = 16
MF_STEPS = 100
# A model that was seen nowhere near has no mean; it is never chosen, as pandas' idxmax skips NaN in RouterBench's code.
UNSEEN = -1.0


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a method says of every asked row.

    quality: float64 (n_asked, n_models); only differences within a row count. logits: the same as Bradley-Terry
    strengths, where the method has them. costs_usd: float64 (n_asked, n_models), where the method knows better than
    the mean cost per model. guarded: choices of a method that does not just take the best, given the penalty of each
    model. uniform: choose at random instead.
    """

    quality: NDArray[np.float64]
    logits: NDArray[np.float64] | None = None
    costs_usd: NDArray[np.float64] | None = None
    guarded: Callable[[NDArray[np.float64]], NDArray[np.int64]] | None = None
    uniform: bool = False

    def choices(self, penalty: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the column chosen on each row, int64 (n_asked,), when quality is worth ``penalty`` less.

        penalty: float64 (n_models,) or (n_asked, n_models).
        """
        if self.guarded is not None:
            return self.guarded(penalty)
        return np.argmax(self.quality - penalty, axis=1)

    def of(self, matrix: NDArray[np.float64], penalty: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the entries of ``matrix``, float64 (n_asked, n_models), that the choices pick: float64 (n_asked,)."""
        if self.uniform:
            return matrix.mean(axis=1)
        return matrix[np.arange(len(matrix)), self.choices(penalty)]


Config = tuple[float, ...]
Method = Callable[[Split, Table, Config], Prediction]


@dataclass(frozen=True, slots=True)
class Peer:
    """A method, the grid that is searched on inner folds, and whether it needs a score for every model."""

    predict: Method
    grid: tuple[Config, ...]
    needs_scores: bool = False


def best_fixed(split: Split, table: Table, config: Config) -> Prediction:
    """Every prompt gets the same estimates: the training rows' mean scores, or global Bradley-Terry strengths.

    At a willingness to pay this is RouterBench's zero router, the hull of the single models (Hu et al. 2024).
    """
    evidence = fit_evidence(table, np.ones(len(table), dtype=bool), use_intents=False)
    quality = to_quality(evidence.prior, np.zeros_like(evidence.prior), evidence.kind)[0]
    shape = (len(split.asked), len(table.models))
    logits = np.broadcast_to(evidence.prior, shape) if table.kind == "battles" else None
    return Prediction(np.broadcast_to(quality, shape), logits)


def uniform(split: Split, table: Table, config: Config) -> Prediction:
    """Any model, at random."""
    return Prediction(np.zeros((len(split.asked), len(table.models))), uniform=True)


def task_known(split: Split, table: Table, config: Config) -> Prediction:
    """The mean scores of the asked row's own task among the training rows: a reference, it reads the asked label."""
    scores = outcomes(table)
    mean = np.nanmean(scores, axis=0)
    quality = np.tile(mean, (len(split.asked), 1))
    asked = split.pool.table.intents[split.asked]
    for intent in np.unique(asked[asked >= 0]):
        own = scores[table.intents == intent]
        n = (~np.isnan(own)).sum(axis=0)
        quality[asked == intent] = np.divide(np.nansum(own, axis=0), n, out=mean.copy(), where=n > 0)
    return Prediction(quality)


def task_predicted(split: Split, table: Table, config: Config) -> Prediction:
    """The mean scores of the task that a classifier reads from the vector: a hard prior by intent, no label read.

    Logistic regression on the training rows' task labels; only scored sets have them.
    """
    reading = LogisticRegression(C=config[0], max_iter=300).fit(split.vectors, table.intents)
    scores = outcomes(table)
    means = np.stack([np.nanmean(scores[table.intents == task], axis=0) for task in reading.classes_])
    return Prediction(reading.predict_proba(split.queries) @ means)


def knn(split: Split, table: Table, config: Config) -> Prediction:
    """Mean score of the k most similar training rows: RouterBench's KNN router (Hu et al. 2024; k = 5, 10, 40).

    From withmartian/routerbench routers/knn_router.py at cc67d10. A model that no neighbour scored is not chosen.
    """
    scores = outcomes(table)[split.neighbors[:, : int(config[0])]]
    seen = ~np.isnan(scores)
    n = seen.sum(axis=1)
    total = np.where(seen, scores, 0.0).sum(axis=1)
    return Prediction(np.divide(total, n, out=np.full(n.shape, UNSEEN), where=n > 0))


def smoothed_knn(split: Split, table: Table, config: Config) -> Prediction:
    """The same with wide k and the model's overall mean counted as so many further neighbours.

    On full scores the smoothing changes no choice but ties. On battles these are win rates near the prompt, smoothed
    by the model's overall win rate.
    """
    n_neighbors, pseudo = config
    everywhere = outcomes(table)
    mean = np.nanmean(everywhere, axis=0)
    scores = everywhere[split.neighbors[:, : int(n_neighbors)]]
    seen = ~np.isnan(scores)
    total = np.where(seen, scores, 0.0).sum(axis=1)
    return Prediction((total + pseudo * mean) / (seen.sum(axis=1) + pseudo))


def zero_filled_knn(split: Split, table: Table, config: Config) -> Prediction:
    """Similarity-weighted mean over k neighbours, a model that was not tried counting 0.

    The rule of pulzeai-oss/knn-router (internal/server.go at 71f796a): sum(similarity x score) / sum(similarity).
    """
    near = split.neighbors[:, : int(config[0])]
    similar = np.einsum("qd,qkd->qk", split.queries, split.vectors[near])
    scores = np.nan_to_num(outcomes(table))[near]
    return Prediction(np.einsum("qk,qkm->qm", similar, scores) / similar.sum(axis=1, keepdims=True))


def knn_vote(split: Split, table: Table, config: Config) -> Prediction:
    """Share of the k neighbours whose best model this is: LLMRouter's KNN router, a classifier of the arg max.

    From ulab-uiuc/LLMRouter llmrouter/models/knnrouter/router.py at 4e7a796; ties go to the first model, as idxmax has
    it.
    """
    votes = np.eye(len(table.models))[np.nanargmax(outcomes(table), axis=1)]
    return Prediction(votes[split.neighbors[:, : int(config[0])]].mean(axis=1))


def clusters(split: Split, table: Table, config: Config) -> Prediction:
    """Mean score in the nearest k-means clusters: Avengers-Pro's cluster router (Zhang et al. 2025).

    After the README of ZhangYiqun018/AvengersPro at dfb60b1: 25 clusters, the 3 nearest, quality only. Here the
    nearest clusters' means count alike. A cluster's mean counts the model's overall mean as one further row.
    """
    n_clusters, n_nearest = int(config[0]), int(config[1])
    labels, order = split.clusters(n_clusters)
    scores = outcomes(table)
    seen = ~np.isnan(scores)
    members = np.eye(labels.max() + 1)[labels]
    mean = np.nanmean(scores, axis=0)
    of_cluster = (members.T @ np.where(seen, scores, 0.0) + mean) / (members.T @ seen + 1.0)
    return Prediction(of_cluster[order[:, :n_nearest]].mean(axis=1))


def similarity_weighted_ranking(split: Split, table: Table, config: Config) -> Prediction:
    """A Bradley-Terry fit per prompt in which every battle counts 10 * 10^(similarity / highest similarity).

    RouteLLM's SW ranking (Ong et al. 2024), from lm-sys/RouteLLM routellm/routers/routers.py at 0b64fda, without its
    tiers of models. Scored rows are battles between all pairs of their models. A slight ridge keeps models finite that
    always win.
    """
    n_models = len(table.models)
    wins = _wins(table).reshape(len(table), -1).astype(np.float32)
    vectors = split.vectors
    theta = []
    for start in range(0, len(split.asked), 512):
        similar = split.queries[start : start + 512] @ vectors.T
        weights = 10.0 * 10.0 ** (similar / similar.max(axis=1, keepdims=True))
        won = (weights @ wins).astype(np.float64).reshape(-1, n_models, n_models)
        theta.append(_strengths(won))
    logits = np.concatenate(theta)
    centred = logits - logits.mean(axis=1, keepdims=True)
    return Prediction(1.0 / (1.0 + np.exp(-centred)), logits)


def matrix_factorization(split: Split, table: Table, config: Config) -> Prediction:
    """Logistic model <A x, v_m> + b_m of 16 dimensions, on scores or on battles (v_a - v_b), ridge on A and v.

    The bilinear form of RouteLLM's matrix factorisation (Ong et al. 2024; routers/matrix_factorization at 0b64fda) on
    battles, and of EmbedLLM (Zhuang et al. 2024) on scores; fitted by L-BFGS instead of Adam.
    """
    x = split.vectors.astype(np.float64)
    n_models, dim = len(table.models), x.shape[1]
    sizes = (dim * MF_DIM, n_models * MF_DIM, n_models)
    cuts = np.cumsum(sizes)[:-1]
    slope = _score_slope(table) if table.kind == "scores" else _battle_slope(table)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        a, v, bias = np.split(flat, cuts)
        a, v = a.reshape(dim, MF_DIM), v.reshape(n_models, MF_DIM)
        projected = x @ a
        value, residual = slope(projected @ v.T + bias)
        ridge = 0.5 * config[0] * (np.square(a).sum() + np.square(v).sum())
        gradient = (x.T @ (residual @ v) + config[0] * a, residual.T @ projected + config[0] * v, residual.sum(axis=0))
        return value + ridge, np.concatenate([one.ravel() for one in gradient])

    start = 0.1 * np.random.default_rng(split.seed).standard_normal(sum(sizes))
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": MF_STEPS}).x
    a, v, bias = np.split(fitted, cuts)
    logits = split.queries @ a.reshape(dim, MF_DIM) @ v.reshape(n_models, MF_DIM).T + bias
    centre = 0.0 if table.kind == "scores" else logits.mean(axis=1, keepdims=True)
    return Prediction(1.0 / (1.0 + np.exp(centre - logits)), logits if table.kind == "battles" else None)


def logistic_regression(split: Split, table: Table, config: Config) -> Prediction:
    """Probability that a model is the best one: multinomial logistic regression on the arg max, scikit-learn's.

    Where several are best, the label is the one of them with the highest mean over all rows.
    """
    scores = outcomes(table)
    labels = np.nanargmax(scores + 1e-9 * np.nanmean(scores, axis=0), axis=1)
    quality = np.zeros((len(split.asked), len(table.models)))
    if len(np.unique(labels)) == 1:
        quality[:, labels[0]] = 1.0
        return Prediction(quality)
    fitted = LogisticRegression(C=config[0], max_iter=300).fit(split.vectors, labels)
    quality[:, fitted.classes_] = fitted.predict_proba(split.queries)
    return Prediction(quality)


def ridge(split: Split, table: Table, config: Config) -> Prediction:
    """Ridge regression of each model's score on the vector, in closed form; on battles each model has its own rows."""
    scores = outcomes(table)
    seen = ~np.isnan(scores)
    x, queries = split.vectors.astype(np.float64), split.queries.astype(np.float64)
    if seen.all():
        return Prediction(_ridge(x, scores, queries, config[0]))
    columns = [
        _ridge(x[own], column[own, None], queries, config[0]) for own, column in zip(seen.T, scores.T, strict=True)
    ]
    return Prediction(np.concatenate(columns, axis=1))


def mlp(split: Split, table: Table, config: Config) -> Prediction:
    """Two layers of 100 ReLU units that predict the scores: RouterBench's MLP router (Hu et al. 2024).

    From withmartian/routerbench routers/mlp_router.py at cc67d10: Adam at 0.001, 200 epochs. One network with an output
    per model here, where theirs fits one network for each.
    """
    network = MLPRegressor(hidden_layer_sizes=(100, 100), learning_rate_init=0.001, max_iter=200, random_state=1234)
    with catch_warnings():
        simplefilter("ignore", ConvergenceWarning)  # 200 epochs is what the source runs
        network.fit(split.vectors, table.scores)
    return Prediction(network.predict(split.queries).astype(np.float64))


def _grid(*axes: tuple[float, ...]) -> tuple[Config, ...]:
    return tuple(product(*axes))


PEERS: dict[str, Peer] = {
    "best fixed": Peer(best_fixed, ((),)),
    "RouterBench kNN": Peer(knn, _grid((5, 10, 40))),
    "RouterBench MLP": Peer(mlp, ((),), needs_scores=True),
    "LLMRouter kNN vote": Peer(knn_vote, _grid((5, 10, 40, 100, 300))),
    "cluster routing": Peer(clusters, _grid((10, 25, 64), (1, 3))),
    "SW Bradley-Terry": Peer(similarity_weighted_ranking, ((),)),
    "matrix factorisation": Peer(matrix_factorization, _grid((1e-5, 1e-4, 1e-3))),
    "logistic regression": Peer(logistic_regression, _grid((0.3, 3.0, 30.0))),
    "ridge": Peer(ridge, _grid((1.0, 3.0, 10.0, 30.0, 100.0))),
    "best-tuned kNN": Peer(smoothed_knn, _grid((10, 20, 30, 50, 100, 200, 300), (1.0, 5.0, 20.0))),
}
BATTLE_PEERS: dict[str, Peer] = {"zero-fill kNN": Peer(zero_filled_knn, _grid((10, 30, 100, 300)))}
REFERENCES: dict[str, Peer] = {
    "random": Peer(uniform, ((),)),
    "task-known best": Peer(task_known, ((),)),
    "predicted-task prior": Peer(task_predicted, _grid((3.0, 30.0)), needs_scores=True),
}
BY_TASK = ("task-known best", "predicted-task prior")
"""References that need task labels in the log."""


def _wins(table: Table) -> NDArray[np.float64]:
    """Return wins[row, a, b], ties a half: float64 (n_rows, n_models, n_models)."""
    if table.kind == "scores":
        return 0.5 * (1.0 + np.sign(table.scores[:, :, None] - table.scores[:, None, :]))
    battles = table.battles
    wins = np.zeros((len(table), len(table.models), len(table.models)))
    np.add.at(wins, (battles.rows, battles.a, battles.b), battles.weight * battles.y)
    np.add.at(wins, (battles.rows, battles.b, battles.a), battles.weight * (1.0 - battles.y))
    return wins


def _strengths(won: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Bradley-Terry strengths of many tables of wins (n, m, m) at once, by Newton's method: (n, m)."""
    n_models = won.shape[1]
    everyone = np.arange(n_models)
    won = won.copy()
    won[:, everyone, everyone] = 0.0
    games = won + won.transpose(0, 2, 1)
    slight = 1e-4 * games.sum(axis=(1, 2)) / n_models
    theta = np.zeros(won.shape[:2])
    for _ in range(NEWTON_STEPS):
        p = 1.0 / (1.0 + np.exp(theta[:, None, :] - theta[:, :, None]))
        gradient = (won - games * p).sum(axis=2) - slight[:, None] * theta
        hessian = -games * p * (1.0 - p)
        hessian[:, everyone, everyone] = slight[:, None] - hessian.sum(axis=2)
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        step *= np.minimum(1.0, 2.0 / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-12))
        theta = theta + step
        if np.abs(step).max() < 1e-6:
            break
    return theta


def _score_slope(table: Table) -> Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]:
    """Return the mean cross-entropy of scores given logits (n_rows, n_models), and its gradient in them."""

    def slope(logits: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        p = 1.0 / (1.0 + np.exp(-logits))
        value = np.mean(np.logaddexp(0.0, logits) - table.scores * logits)
        return float(value), (p - table.scores) / logits.size

    return slope


def _battle_slope(table: Table) -> Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]:
    """Return the mean cross-entropy of the battles given strengths (n_rows, n_models), and its gradient in them."""
    battles = table.battles
    total = battles.weight.sum()

    def slope(logits: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        lead = logits[battles.rows, battles.a] - logits[battles.rows, battles.b]
        value = float(battles.weight @ (np.logaddexp(0.0, lead) - battles.y * lead) / total)
        residual = battles.weight * (1.0 / (1.0 + np.exp(-lead)) - battles.y) / total
        out = np.zeros_like(logits)
        np.add.at(out, (battles.rows, battles.a), residual)
        np.add.at(out, (battles.rows, battles.b), -residual)
        return value, out

    return slope


def _ridge(
    x: NDArray[np.float64], y: NDArray[np.float64], queries: NDArray[np.float64], penalty: float
) -> NDArray[np.float64]:
    if not len(x):
        return np.zeros((len(queries), y.shape[1]))
    center, mean = x.mean(axis=0), y.mean(axis=0)
    gram = (x - center).T @ (x - center) + penalty * np.eye(x.shape[1])
    return mean + (queries - center) @ np.linalg.solve(gram, (x - center).T @ (y - mean))
