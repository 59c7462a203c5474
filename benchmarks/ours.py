"""The project's own estimator under a benchmark's protocol: fitted and chosen as ``train`` does, on given rows."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from peers import Config, Prediction
from pools import Split

from router.encoder import OnnxEncoder
from router.estimate import EstimatorSettings, Evidence, LocalEstimate, estimate, prior_quality
from router.index import Hits
from training.build import N_CLUSTERS, N_FOLDS
from training.embed import Embedded, make_places
from training.evidence import Table
from training.fit import fit_evidence
from training.near import nearest
from training.select import FEATURE_WEIGHTS, Place, Selection
from training.split import cluster_groups, deal_folds, near_duplicate_groups

# One split may be fitted to several draws of labels; what depends on the prompts alone is kept.
CHUNK_ROWS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """What ``train`` derives from the training prompts alone: candidate spaces, and the folds of its selection."""

    places: list[Place]
    folds: NDArray[np.int64]
    cluster_folds: NDArray[np.int64]


@cache
def ground(split: Split) -> Ground:
    """Return the spaces and folds of the split's training rows."""
    pool, rows = split.pool, split.train
    embedded = Embedded(pool.vectors[rows], pool.features[rows])
    texts = [pool.table.texts[row] for row in rows]
    places = make_places(shipped_encoder(), texts, embedded, FEATURE_WEIGHTS, split.seed)
    groups = near_duplicate_groups(embedded.vectors)
    folds = deal_folds(groups, min(N_FOLDS, len(np.unique(groups))), split.seed)
    clusters = cluster_groups(places[0].vectors, N_CLUSTERS, split.seed)
    return Ground(places, folds, deal_folds(clusters, N_FOLDS, split.seed))


@cache
def shipped_encoder() -> OnnxEncoder:
    return OnnxEncoder.load("static")


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """The estimator as it would be served. points, rows: the asked rows in its space, and their nearest rows."""

    evidence: Evidence
    settings: EstimatorSettings
    hits: list[Hits]

    def estimates(self, fixed: int) -> list[LocalEstimate]:
        """Return the estimate of every asked row, the lead errors against the column ``fixed``."""
        return [estimate(one, self.evidence, self.settings, fixed=fixed) for one in self.hits]


def whichmodel(split: Split, table: Table, _: Config) -> Prediction:
    """Return this project's estimates, its settings chosen by training.select on the training rows alone."""
    prepared = ground(split)
    costs = np.tile(table.costs_usd.mean(axis=0), (len(table), 1))  # NaN where the set has none
    selection = Selection(
        table,
        prepared.places,
        prepared.folds,
        prepared.cluster_folds,
        _silent,
        None if np.isnan(costs).any() else costs,
    )
    chosen = selection.final()
    config = chosen.config
    place = next(one for one in prepared.places if one.space.feature_weight == config.feature_weight)
    evidence = fit_evidence(table, np.ones(len(table), dtype=bool), use_intents=config.intent_prior)
    fitted = Fitted(evidence, chosen.settings(place.far, table.kind), _hits(split, place, config.n_neighbors))
    prior = prior_quality(evidence)
    quality = np.stack([one.quality for one in fitted.estimates(int(np.argmax(prior)))])
    logits = np.log(quality) - np.log1p(-quality) if table.kind == "battles" else None
    errors: dict[int, NDArray[np.float64]] = {}

    def guarded(penalty: NDArray[np.float64]) -> NDArray[np.int64]:
        """Choose as router.policy.choose does: the best, or the fixed model where the lead is not sure enough."""
        utility = quality - penalty
        best = np.argmax(utility, axis=1)
        fixed = int(np.argmax(prior - penalty))
        if fixed not in errors:
            errors[fixed] = np.stack([one.lead_error for one in fitted.estimates(fixed)])
        at = np.arange(len(utility))
        lead = utility[at, best] - utility[:, fixed]
        return np.where(lead > fitted.settings.guard_z * errors[fixed][at, best], best, fixed)

    return Prediction(quality, logits, guarded=guarded)


def _hits(split: Split, place: Place, n_neighbors: int) -> list[Hits]:
    pool = split.pool
    points = place.space.place_all(pool.vectors[split.asked], pool.features[split.asked])
    everyone = np.arange(len(place.vectors))
    hits = []
    for start in range(0, len(points), CHUNK_ROWS):
        similar, rows = nearest(points[start : start + CHUNK_ROWS], place.vectors, everyone, n_neighbors)
        hits += [Hits(rows=one, similarities=near) for one, near in zip(rows, similar, strict=True)]
    return hits


def _silent(stage: str, done: int, total: int) -> None:
    """Report to nobody: progress is counted in splits."""
