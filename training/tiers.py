"""The tiers of an artifact, from rows that are in place: settings, evidence, and the held-out report of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.encoder import OnnxEncoder
from router.errors import DataError
from router.estimate import to_quality
from router.index import round_points
from router.tier import Tier
from router.types import JsonObject, ModelProfile
from training.cost import expected_costs, learned_profiles, row_sizes
from training.cross_fit import Selection
from training.evidence import Table, shares_of_points
from training.fit import fit_evidence
from training.held_out import HeldOutReport, Plan, report_held_out
from training.hold_out import Place
from training.report import Report
from training.select import Config, best_fixed
from training.split import choose_split, cluster_groups, deal_folds, time_blocks

N_FOLDS = 5
N_CLUSTERS = 40

Progress = Callable[[str, int, int], object]
"""Called with (stage, steps done, steps in all) as the work goes on."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What every tier learns from and is judged on, made once: tiers are compared on the same held-out rows.

    plan: the rows, and how they are held out for the report. folds, cluster_folds: int64 (n_rows,), how they are for
    the selection, the latter None where settings are kept. in_time: int64 (n_rows,), blocks of time to report on
    instead of the folds, or None. sizes: float32 (n_rows,), of the answers in units of their models' means. costs_usd:
    float64 (n_rows, n_models), expected, or None unless all are known. best_fixed: the model that is best on all rows.
    details: what every tier's report keeps.
    """

    plan: Plan
    folds: NDArray[np.int64]
    cluster_folds: NDArray[np.int64] | None
    in_time: NDArray[np.int64] | None
    profiles: Mapping[str, ModelProfile]
    sizes: NDArray[np.float32]
    costs_usd: NDArray[np.float64] | None
    best_fixed: str
    details: JsonObject


def prepare(
    table: Table,
    groups: NDArray[np.int64],
    points: NDArray[np.float32] | None,
    profiles: Mapping[str, ModelProfile],
    split: str | None,
    seed: int,
    details: JsonObject,
) -> Rows:
    """Decide how the rows are held out, and learn what is the same in every space.

    groups: int64 (n_rows,), near-duplicates share one. points: float32 (n_rows, dim), in which clusters are found, or
    None where settings are kept and need no clusters.

    Raises:
        DataError: all prompts are near-duplicates, or a split by time is wanted of rows without timestamps.
    """
    if groups.max() == 0:
        raise DataError("all prompts are near-duplicates of one another: nothing tells them apart to route by")
    folds = deal_folds(groups, min(N_FOLDS, len(np.unique(groups))), seed)
    cluster_folds = None
    if points is not None:
        cluster_folds = deal_folds(cluster_groups(points, N_CLUSTERS, seed), N_FOLDS, seed)
    by_time = choose_split(table.timestamps, split) == "time"
    blocks = time_blocks(table.timestamps, N_FOLDS) if by_time else None
    priced = learned_profiles(table, profiles)
    expected = expected_costs(table, priced)
    evidence = fit_evidence(table, np.ones(len(table), dtype=bool), use_intents=False)
    return Rows(
        plan=Plan(table, groups, folds if blocks is None else blocks, by_time, points is None),
        folds=folds,
        cluster_folds=cluster_folds,
        in_time=blocks,
        profiles=priced,
        sizes=row_sizes(table, priced),
        costs_usd=None if np.isnan(expected).any() else expected,
        best_fixed=table.models[best_fixed(table, evidence, np.arange(len(table)))],
        details=details,
    )


def fit_tier(
    rows: Rows,
    encoder: OnnxEncoder,
    places: Sequence[Place],
    margin: float,
    seed: int,
    progress: Progress,
    config: Config | None = None,
) -> tuple[Tier, HeldOutReport]:
    """Choose the settings of one encoder's tier, fit it on all rows, and report on it held out.

    config: with it nothing is chosen, and only what calibrates it is fitted.
    """
    table = rows.plan.table
    selection = Selection(
        table,
        places,
        rows.folds,
        rows.cluster_folds,
        progress,
        rows.costs_usd,
        blocks_in_time=rows.in_time,
        sizes=rows.sizes,
        config=config,
    )
    chosen = selection.final()
    config = chosen.config
    place = next(one for one in places if one.space.feature_weight == config.feature_weight)
    everything = np.ones(len(table), dtype=bool)
    settings = chosen.settings(place.far, table.kind)
    held_out = report_held_out(
        rows.plan,
        selection,
        rows.profiles,
        rows.best_fixed,
        {"settings": asdict(settings), "feature_weight": config.feature_weight, **rows.details},
        margin=margin,
        seed=seed,
    )
    tier = Tier(
        encoder=encoder,
        space=place.space,
        vectors=round_points(place.vectors),
        evidence=replace(fit_evidence(table, everything, use_intents=config.intent_prior), sizes=rows.sizes),
        settings=settings,
        verdict=held_out.report.verdict,
        strategies=held_out.strategies,
        report=held_out.report.to_json(),
    )
    return tier, held_out


def compare_tiers(fitted: Sequence[tuple[Tier, HeldOutReport]]) -> tuple[tuple[Tier, ...], Report]:
    """Return the tiers, and the best one's report; with a second tier it says what either is worth."""
    (best, held_out), *others = fitted
    report = held_out.report
    if not others:
        return (best,), report
    compared: JsonObject = {
        tier.name: {"gain": asdict(one.report.gain), "verdict": one.report.verdict.label} for tier, one in fitted
    }
    for tier, one in others:
        compared[f"{best.name}_over_{tier.name}"] = asdict(held_out.gain_over(one))
    report = replace(report, details={**report.details, "tiers": compared})
    return (replace(best, report=report.to_json()), *(tier for tier, _ in others)), report


def intent_quality(table: Table) -> NDArray[np.float64]:
    """Return every model's shrunk mean quality on each intent's rows: float64 (n_intents, n_models), 0..1."""
    by_intent = fit_evidence(table, np.ones(len(table), dtype=bool), use_intents=True).intent_priors
    return to_quality(by_intent, np.zeros_like(by_intent), table.kind)[0]


def won(table: Table) -> NDArray[np.bool_]:
    """Return who did best on each row, bool (n_rows, n_models): the top scores, or more than half of the battles."""
    if table.kind == "scores":
        scores = np.where(np.isnan(table.scores), -np.inf, table.scores)
        return np.asarray((scores == scores.max(axis=1, keepdims=True)) & (scores > 0))
    return np.asarray(shares_of_points(table) > 0.5)
