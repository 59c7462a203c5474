"""The project's own estimator under a benchmark's protocol: fitted and chosen as ``train`` does, on given rows."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from peers import Config, Prediction
from pools import Split

from router.encoder import OnnxEncoder
from router.estimate import EstimatorSettings, Evidence, LocalEstimate, estimate, relative_size
from router.index import NO_HITS, Hits, round_points, unit_points
from training.cost import learned_profiles, row_sizes
from training.cross_fit import Selection
from training.embed import Embedded, make_places
from training.evidence import Table
from training.fit import fit_evidence
from training.hold_out import Place
from training.near import nearest
from training.select import FEATURE_WEIGHTS, best_fixed, guarded_choices
from training.split import cluster_groups, deal_folds, near_duplicate_groups
from training.tiers import N_CLUSTERS, N_FOLDS

CHUNK_ROWS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """What ``train`` derives from the training prompts alone: candidate spaces, and the folds of its selection."""

    places: list[Place]
    folds: NDArray[np.int64]
    cluster_folds: NDArray[np.int64]


@cache
def ground(split: Split) -> Ground:
    """Return the spaces and folds of the split's training rows; kept, as a split may be fitted to many draws."""
    pool, rows = split.pool, split.train
    embedded = Embedded(pool.vectors[rows], pool.features[rows], pool.unknown_share[rows])
    texts = [pool.table.texts[row] for row in rows]
    places = make_places(pool.encoder or shipped_encoder(), texts, embedded, FEATURE_WEIGHTS, split.seed)
    groups = near_duplicate_groups(embedded.vectors)
    folds = deal_folds(groups, min(N_FOLDS, len(np.unique(groups))), split.seed)
    clusters = cluster_groups(places[0].vectors, N_CLUSTERS, split.seed)
    return Ground(places, folds, deal_folds(clusters, N_FOLDS, split.seed))


@cache
def shipped_encoder() -> OnnxEncoder:
    return OnnxEncoder.load("static")


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """The estimator as it would be served. hits: of each asked row, its nearest training rows."""

    evidence: Evidence
    settings: EstimatorSettings
    hits: list[Hits]

    def costs_usd(self, table: Table) -> NDArray[np.float64] | None:
        """Return the expected cost of each model on each asked row: its mean, by the size expected of the answer."""
        if np.isnan(table.costs_usd).any():
            return None
        sizes = [float(relative_size(one, self.evidence, self.settings)) for one in self.hits]
        return np.outer(sizes, table.costs_usd.mean(axis=0))

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
    evidence = replace(evidence, sizes=row_sizes(table, learned_profiles(table, {})))
    fitted = Fitted(evidence, chosen.settings(place.far, table.kind), _hits(split, place, config.n_neighbors))
    fixed = best_fixed(table, evidence, np.arange(len(table)))
    local = fitted.estimates(fixed)
    quality, errors = np.stack([one.quality for one in local]), np.stack([one.lead_error for one in local])
    logits = np.log(quality) - np.log1p(-quality) if table.kind == "battles" else None

    def guarded(penalty: NDArray[np.float64]) -> NDArray[np.int64]:
        """Choose as router.policy.choose does: the best, or the fixed model where the lead is not sure enough."""
        utility = quality - penalty
        return guarded_choices(utility, errors, fixed, (fitted.settings.guard_z,))[0]

    return Prediction(quality, logits, fitted.costs_usd(table), guarded)


def _hits(split: Split, place: Place, n_neighbors: int) -> list[Hits]:
    pool = split.pool
    points = unit_points(round_points(place.space.place_all(pool.vectors[split.asked], pool.features[split.asked])))
    everyone = np.arange(len(place.vectors))
    hits = []
    for start in range(0, len(points), CHUNK_ROWS):
        similar, rows = nearest(points[start : start + CHUNK_ROWS], place.vectors, everyone, n_neighbors)
        hits += [Hits(rows=one, similarities=near) for one, near in zip(rows, similar, strict=True)]
    unreadable = pool.unknown_share[split.asked] > place.far.max_unknown_share
    return [NO_HITS if out else one for one, out in zip(hits, unreadable, strict=True)]


def _silent(stage: str, done: int, total: int) -> None:
    """Report to nobody: progress is counted in splits."""
