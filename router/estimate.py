"""Neighbours and their evidence to an expected quality per model.

Every training row carries, per model, an evidence weight h and a weighted residual g against the row's prior:

    scores     prior mu in 0..1       h = 1         g = score - mu
    battles    prior theta in logits  h = p(1 - p)  g = y - p,  p = sigmoid(theta_a - theta_b)

and the estimate for a prompt is one gather and one weighted sum over its nearest rows,

    z = prior + sum_i w_i g_i / (shrinkage + sum_i w_i h_i)
    w_i = exp((sim_i - sim_1) / temperature) * exp(min(0, sim_1 - usual_similarity) / far_temperature)

The second factor of w is absolute: far from every training row the estimate falls back to the prior. What the
neighbours say is then stretched by two calibrated slopes, one for how hard the prompt is for all models and one for
what sets the models apart. How g, h, the priors and the slopes come about is the offline half's business
(training/fit.py, training/calibrate.py).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.index import Hits

Weights = NDArray[np.float64] | NDArray[np.float32]
WEIGHTS = ("softmax", "similarity")
MISSING = ("prior", "zero")
KINDS = ("scores", "battles")
# A battle between equals carries h = 0.25: support is counted in such comparisons, scores in rows.
SUPPORT_UNIT = {"scores": 1.0, "battles": 0.25}
Z95 = 1.959964
# Neighbours of full weight that an answer of mean size counts against theirs.
SIZE_PSEUDO_ROWS = 3.0
TESTED_ROWS = 200.0


@dataclass(frozen=True, slots=True)
class EstimatorSettings:
    """Every number of the estimator; chosen by cross-validation inside ``train``.

    n_neighbors: rows looked at. temperature: width of the relative weights, in cosine. usual_similarity: median
    nearest similarity of the training rows to each other; far_temperature: how fast weights fall below it.
    shrinkage: weight of the prior against the neighbours, in units of h. intent_shrinkage: weight of the global
    prior against the intents seen at the neighbours, in units of w. guard_z: standard errors by which a model must
    look better than the fixed one before it is taken. difficulty_slope, contrast_slope: by how much the distance of
    the estimates from the global prior is stretched, in the part that all models share and in the rest.
    max_unknown_share: of a prompt's tokens, how many the encoder may not know before its neighbours are not asked and
    the prior answers; 1 asks them always.
    weights='similarity' with missing='zero' and shrinkage 0 is the rule of Pulze's knn-router:
    sum(similarity * score) / sum(similarity), where a model without a score at a neighbour counts 0 there.
    """

    n_neighbors: int
    temperature: float = 0.1
    usual_similarity: float = 0.0
    far_temperature: float = 1.0
    shrinkage: float = 1.0
    intent_shrinkage: float = 1.0
    guard_z: float = 0.0
    difficulty_slope: float = 1.0
    contrast_slope: float = 1.0
    max_unknown_share: float = 1.0
    weights: str = "softmax"
    missing: str = "prior"

    def __post_init__(self) -> None:
        """Raise ValueError for a setting out of range."""
        if self.n_neighbors < 1:
            raise ValueError(f"n_neighbors must be at least 1, got {self.n_neighbors}")
        if self.weights not in WEIGHTS or self.missing not in MISSING:
            raise ValueError(f"weights must be one of {WEIGHTS} and missing one of {MISSING}")
        if not abs(self.usual_similarity) <= 1.001:  # rounded vectors are a little longer than 1
            raise ValueError(f"usual_similarity must be a cosine, got {self.usual_similarity}")
        if not (self.temperature > 0 and self.far_temperature > 0):
            raise ValueError("temperature and far_temperature must be above 0")
        if not (self.shrinkage >= 0 and self.intent_shrinkage >= 0 and self.guard_z >= 0):
            raise ValueError("shrinkage, intent_shrinkage and guard_z must not be negative")
        if not (0 <= self.difficulty_slope < np.inf and 0 <= self.contrast_slope < np.inf):
            raise ValueError("difficulty_slope and contrast_slope must be finite and not negative")
        if not 0 <= self.max_unknown_share <= 1:
            raise ValueError(f"max_unknown_share must be a share, got {self.max_unknown_share}")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the training rows say, as plain arrays.

    kind: 'scores' or 'battles'. h, g: float32 (n_rows, n_models), as in the module docstring. intents: int32
    (n_rows,), -1 without one. prior: float64 (n_models,), global. intent_priors: float64 (n_intents, n_models).
    variance: float64 (n_models,), residual variance of one unit of h (1 for battles). sizes: float32 (n_rows,), the
    size of the row's answers in units of their models' means, 1 where unknown.
    """

    kind: str
    h: NDArray[np.float32]
    g: NDArray[np.float32]
    intents: NDArray[np.int32]
    prior: NDArray[np.float64]
    intent_priors: NDArray[np.float64]
    variance: NDArray[np.float64]
    sizes: NDArray[np.float32]


class LocalEstimate(NamedTuple):
    """Per prompt and model, each float64 (..., n_models): quality, low, high (95 %) in 0..1, support in comparisons.

    lead_error: standard error of the lead over the fixed model, from the same neighbours paired (the guard's ruler);
    0 where the settings have no guard.
    intent_weights: float64 (..., n_intents), share of each intent at the neighbours; the rest to 1 is the global
    prior's.
    """

    quality: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    support: NDArray[np.float64]
    lead_error: NDArray[np.float64]
    intent_weights: NDArray[np.float64]

    def of(self, prompt: int) -> "LocalEstimate":
        """Return one prompt's part of the estimates of many."""
        return LocalEstimate(*[one[prompt] for one in self])


def neighbor_weights(similarities: NDArray[np.float32], settings: EstimatorSettings) -> NDArray[np.float64]:
    """Return the weight of each neighbour: float64, same shape; the last axis is neighbours, nearest first."""
    sims = similarities.astype(np.float64)
    if settings.weights == "similarity":
        return sims
    nearest = sims[..., :1]
    far = np.minimum(0.0, nearest - settings.usual_similarity) / settings.far_temperature
    sims -= nearest
    sims *= 1.0 / settings.temperature
    sims += far
    weights: NDArray[np.float64] = np.exp(sims, out=sims)
    return weights


def local_sums(
    w: Weights, h: NDArray[np.float32], g: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (sum_i w_i h_i, sum_i w_i g_i) per model; w is (..., k), h and g are (..., k, n_models)."""
    return _weighted_sum(w, h), _weighted_sum(w, g)


def posterior(
    prior: NDArray[np.float64], mass: NDArray[np.float64], pull: NDArray[np.float64], shrinkage: float
) -> NDArray[np.float64]:
    """Return prior + pull / (shrinkage + mass), the prior where nothing was seen at all."""
    precision = shrinkage + mass
    if shrinkage > 0:
        return np.asarray(prior + pull / precision)
    return prior + np.divide(pull, precision, out=np.zeros_like(pull), where=precision > 0)


def paired_squares(
    w: Weights, g_squared: NDArray[np.float32], g_fixed: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (sum_i w_i^2 g_i^2, sum_i w_i^2 g_i g_i[fixed]) per model, from which lead_error is made.

    g_squared, g_fixed: (..., k, n_models), g * g and g * g[fixed].
    """
    return _weighted_sum(w * w, g_squared), _weighted_sum(w * w, g_fixed)


def lead_error(
    squares: NDArray[np.float64],
    products: NDArray[np.float64],
    mass: NDArray[np.float64],
    shrinkage: float,
    fixed: int,
) -> NDArray[np.float64]:
    """Return the standard error of each model's lead over the fixed one, both seen at the same neighbours.

    A sandwich over neighbours: sqrt(sum_i w_i^2 (g_im / D_m - g_if / D_f)^2) with D = shrinkage + mass.
    """
    scale = 1.0 / np.maximum(shrinkage + mass, 1e-9)
    own = scale[..., fixed : fixed + 1]
    variance = squares * scale**2 - 2 * products * scale * own + squares[..., fixed : fixed + 1] * own**2
    error: NDArray[np.float64] = np.sqrt(np.maximum(variance, 0.0))
    return error


def blended_prior(intent_weights: NDArray[np.float64], evidence: Evidence) -> NDArray[np.float64]:
    """Return a prompt's prior, (..., n_models): its intents' priors by their weight, the global one by the rest."""
    return np.asarray(evidence.prior + _weighted_sum(intent_weights, evidence.intent_priors - evidence.prior))


def stretched(z: NDArray[np.float64], prior: NDArray[np.float64], settings: EstimatorSettings) -> NDArray[np.float64]:
    """Return ``z``, (..., n_models), with its distance from the global prior stretched by the calibrated slopes.

    A weighted mean over a neighbourhood is duller than the truth, and more so in what all models share (how hard the
    prompt is) than in what sets them apart; hence two slopes. But for scores clipped at 0 or 1, only the second one can
    change a choice.
    """
    if settings.difficulty_slope == 1.0 and settings.contrast_slope == 1.0:
        return z
    distance = z - prior
    shared = distance.sum(axis=-1, keepdims=True) / distance.shape[-1]
    contrast = settings.contrast_slope
    return np.asarray(prior + contrast * distance + (settings.difficulty_slope - contrast) * shared)


def estimate(
    hits: Hits,
    evidence: Evidence,
    settings: EstimatorSettings,
    *,
    fixed: int | NDArray[np.int64],
) -> LocalEstimate:
    """Estimate every model's quality from the nearest rows.

    hits: of one prompt, rows (k,), or of many, rows (n_prompts, k); what is beside a prompt changes nothing for it.
    Without any (k = 0) the prior answers. fixed: the column of the best fixed model, one for all or int64 (n_prompts,).
    """
    w = neighbor_weights(hits.similarities, settings)
    # take() is three times as fast as the same by brackets.
    h, g = evidence.h.take(hits.rows, axis=0), evidence.g.take(hits.rows, axis=0)
    intents = evidence.intents.take(hits.rows)
    if settings.missing == "zero":
        return _zero_filled_mean(w, h, g, intents, evidence)
    intent_weights = intent_shares(w, intents, len(evidence.intent_priors), settings.intent_shrinkage)
    w32 = w.astype(np.float32)  # as the evidence: matmul would convert the larger of the two
    squared_w32 = w32 * w32
    mass, pull = local_sums(w32, h, g)
    z = posterior(blended_prior(intent_weights, evidence), mass, pull, settings.shrinkage)
    z = stretched(z, evidence.prior, settings)
    # Sampling error of the weighted sum (spread / mass^2 is one over Kish's effective sample size), and what the prior
    # itself may be off by, variance / shrinkage, by the share that the prior keeps.
    spread = _weighted_sum(squared_w32, h)
    precision = np.maximum(settings.shrinkage + mass, 1e-9)
    sd = np.sqrt(evidence.variance * (settings.shrinkage + spread)) / precision
    # What is stretched is as unsure as it was; what is shrunk towards the prior leaves the prior's own doubt.
    sd *= max(1.0, settings.difficulty_slope, settings.contrast_slope)
    quality, low, high = to_quality(z, sd, evidence.kind)
    if settings.guard_z == 0:  # nobody asks for it
        error = np.zeros(mass.shape)
    else:
        share = g / precision[..., None, :].astype(np.float32)
        lead = share - _column(share, fixed)  # what each row adds to the lead over the fixed model
        error = np.sqrt(_weighted_sum(squared_w32, np.square(lead)))
        error *= settings.contrast_slope * quality_per_z(z, quality, fixed)
    return LocalEstimate(quality, low, high, mass / SUPPORT_UNIT[evidence.kind], error, intent_weights)


def relative_size(hits: Hits, evidence: Evidence, settings: EstimatorSettings) -> NDArray[np.float64]:
    """Return the expected size of an answer in units of its model's mean: that of the neighbours, shrunk to 1.

    float64, of the shape of ``hits.rows`` without its last axis.
    """
    w = neighbor_weights(hits.similarities, settings)
    pull = (w * (evidence.sizes.take(hits.rows) - 1.0)).sum(axis=-1)
    return np.asarray(1.0 + pull / (SIZE_PSEUDO_ROWS + w.sum(axis=-1)))


def quality_per_z(
    z: NDArray[np.float64], quality: NDArray[np.float64], fixed: int | NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the slope between each model and the fixed one, which takes a lead's error from z's unit to quality's."""
    lead = np.abs(z - _column(z, fixed))
    gap = np.abs(quality - _column(quality, fixed))
    slope: NDArray[np.float64] = np.divide(gap, lead, out=np.ones(lead.shape), where=lead > 0)
    return slope


def prior_quality(evidence: Evidence) -> NDArray[np.float64]:
    """Return each model's quality when nothing is known of the prompt: float64 (n_models,)."""
    return to_quality(evidence.prior, np.zeros_like(evidence.prior), evidence.kind)[0]


def well_tested(evidence: Evidence) -> NDArray[np.bool_]:
    """Return which models were seen often enough to be a fixed model, bool (n_models,).

    A newcomer that did well on three prompts must not serve everything: a model needs TESTED_ROWS rows, or half of what
    the most seen model has in a log where that is less.
    """
    seen = (evidence.h > 0).sum(axis=0)
    return np.asarray(seen >= min(TESTED_ROWS, 0.5 * float(seen.max(initial=0))))


def to_quality(
    z: NDArray[np.float64], sd: NDArray[np.float64], kind: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return quality, low and high in 0..1; battles' logits are taken against the average candidate."""
    reach = Z95 * sd
    if kind == "battles":
        z = z - z.mean(axis=-1, keepdims=True)
    # All three at once: on a handful of numbers, a call costs more than what it computes.
    three = np.empty((3, *z.shape))
    three[0] = z
    np.subtract(z, reach, out=three[1])
    np.add(z, reach, out=three[2])
    quality, low, high = _sigmoid(three) if kind == "battles" else _clip(three)
    return quality, low, high


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))  # exp would overflow


def _clip(x: NDArray[np.float64]) -> NDArray[np.float64]:
    # np.clip costs three times as much on a handful of numbers.
    return np.minimum(np.maximum(x, 0.0), 1.0)


def intent_shares(
    w: Weights, intents: NDArray[np.int32], n_intents: int, intent_shrinkage: float
) -> NDArray[np.float64]:
    """Return each intent's share of the neighbours' weight, (..., n_intents); ``intent_shrinkage`` keeps some back."""
    shape = (*w.shape[:-1], n_intents)
    if n_intents == 0 or not w.size:
        return np.zeros(shape)
    mass: NDArray[np.float64] = np.maximum(intent_shrinkage + w.sum(axis=-1, keepdims=True), 1e-12)
    # One bin per (prompt, intent); the extra bin takes the neighbours without an intent.
    codes = np.where(intents >= 0, intents, n_intents)
    if w.ndim == 1:
        return np.asarray(np.bincount(codes, weights=w, minlength=n_intents + 1)[:n_intents] / mass)
    codes = codes.reshape(-1, w.shape[-1])
    bins = codes + (n_intents + 1) * np.arange(len(codes))[:, None]
    totals = np.bincount(bins.ravel(), weights=w.ravel(), minlength=len(codes) * (n_intents + 1))
    shares = totals.reshape(len(codes), n_intents + 1)[:, :n_intents].reshape(shape)
    return shares / mass


def _column(values: NDArray[Any], fixed: int | NDArray[np.int64]) -> NDArray[Any]:
    """Return one model's values, with the axis of the models kept: of one column, or of each prompt's own."""
    if isinstance(fixed, int):
        return values[..., fixed : fixed + 1]
    own: NDArray[Any] = values[np.arange(len(values)), ..., fixed][..., None]
    return own


def _weighted_sum(w: Weights, values: Weights) -> NDArray[np.float64]:
    """Return sum_i w_i values_i: w is (..., k), values (..., k, n_models), the sum float64 (..., n_models)."""
    # As one row each: of one prompt and of many, the same sums are made in the same order.
    sums: NDArray[np.floating[Any]] = w @ values if w.ndim == 1 else (w[..., None, :] @ values)[..., 0, :]
    return sums.astype(np.float64, copy=False)


def _zero_filled_mean(
    w: NDArray[np.float64],
    h: NDArray[np.float32],
    g: NDArray[np.float32],
    intents: NDArray[np.int32],
    evidence: Evidence,
) -> LocalEstimate:
    """Pulze's rule: the mean over all neighbours, a missing score counting 0 (g + h * prior gives the score back)."""
    scores = g + h * np.vstack([evidence.intent_priors, evidence.prior])[intents]
    quality = _weighted_sum(w, scores) / np.maximum(w.sum(axis=-1, keepdims=True), 1e-12)
    nothing, no_intents = np.zeros_like(quality), np.zeros((*w.shape[:-1], len(evidence.intent_priors)))
    return LocalEstimate(quality, quality, quality, _weighted_sum(w, h), nothing, no_intents)
