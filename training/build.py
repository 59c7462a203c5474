"""train: a preference log in, an artifact and its held-out report out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.artifact import HASH_BYTES, RouterArtifact
from router.encoder import TIERS, OnnxEncoder
from router.errors import DataError
from router.estimate import to_quality
from router.index import round_points
from router.profiles import expected_costs_usd
from router.prompt import Template, find_template, prompt_hash
from router.tier import BEST_FIRST, Tier
from router.types import JsonObject, ModelProfile
from training.comparisons import MIN_PROMPTS, PreferenceLog
from training.cost import learned_profiles, row_sizes
from training.cross_fit import Selection
from training.embed import Embedded, embed_texts, make_places
from training.evidence import Table, shares_of_points, tabulate
from training.fit import fit_evidence
from training.held_out import HeldOutReport, Plan, report_held_out
from training.hold_out import Place
from training.intents import label_rows, plan_intents
from training.report import Report
from training.select import FEATURE_WEIGHTS, best_fixed
from training.split import choose_split, cluster_groups, deal_folds, near_duplicate_groups, time_blocks
from training.verdict import DEFAULT_MARGIN

N_FOLDS = 5
N_CLUSTERS = 40
PREVIEW_CHARS = 80
STORE_PROMPTS = ("none", "preview", "full")
BOTH = "both"

Progress = Callable[[str, int, int], object]
"""Called with (stage, steps done, steps in all) as the work goes on."""

Encoders = str | Path | OnnxEncoder | Sequence[OnnxEncoder]
"""An encoder or the name or directory of one, 'both' that ship, or several of different tiers."""


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """What every tier learns from and is judged on, made once: tiers are compared on the same held-out rows.

    plan: the rows, and how they are held out for the report. folds, cluster_folds: int64 (n_rows,), how they are for
    the selection. in_time: int64 (n_rows,), blocks of time to report on instead of the folds, or None. sizes: float32
    (n_rows,), of the answers in units of their models' means. costs_usd: float64 (n_rows, n_models), expected, or None
    unless all are known. best_fixed: the model that is best on all rows. details: what every tier's report keeps.
    """

    plan: Plan
    folds: NDArray[np.int64]
    cluster_folds: NDArray[np.int64]
    in_time: NDArray[np.int64] | None
    profiles: Mapping[str, ModelProfile]
    sizes: NDArray[np.float32]
    costs_usd: NDArray[np.float64] | None
    best_fixed: str
    details: JsonObject


def train(
    log: PreferenceLog,
    *,
    seed: int = 0,
    encoder: Encoders = "static",
    profiles: Mapping[str, ModelProfile] | None = None,
    store_prompts: str = "none",
    margin: float = DEFAULT_MARGIN,
    split: str | None = None,
    intents: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[RouterArtifact, Report]:
    """Learn which model wins on which kind of prompt, and whether it is worth routing at all.

    The report is cross-fitted: every row is routed by estimators that were chosen and fitted without it and its
    near-duplicates. The artifact is then fitted on all rows. The same log and seed give the same artifact.

    encoder: with 'both', or several of different tiers, the artifact holds a tier of each. They share the rows, their
    intents and how these are held out, which the best tier's encoder decides; the report is the best tier's, and its
    details say what the others are worth beside it.
    profiles: prices per model; lengths and costs of answers are taken from the log where it shows them.
    store_prompts: 'none', 'preview' (80 characters) or 'full' text in the artifact. margin: the quality that counts as
    nothing in the verdict. split: how the report's rows are held out, in 'random' folds or by 'time' (every block is
    decided by what came before it); None takes time where every row has a timestamp and they span more than 14 days.
    intents: where the rows' intents come from: 'given' labels alone, the 'model' beside the encoder, 'discover' for
    clusters named by their words, or 'none'; None takes the first of the first three that there is. A row without a
    label in a log that has some stays without. cache: directory for vectors of texts already seen.

    Raises:
        DataError: fewer than 20 prompts or 2 models, a split by time without timestamps, or 'given' without a label.
        ConfigError: 'model' without one beside the encoder.
        EncoderError: the encoder cannot be loaded, or the intent model beside it is not its own.
    """
    if store_prompts not in STORE_PROMPTS:
        raise ValueError(f"store_prompts must be one of {STORE_PROMPTS}, got {store_prompts!r}")
    report_progress = progress or _silent
    encoders = _load_encoders(encoder)
    template = find_template([one.prompt for one in log.comparisons])
    table = tabulate(log, template=template)
    if len(table) < MIN_PROMPTS:
        raise DataError(f"too little to learn from: {len(table)} distinct prompts, at least {MIN_PROMPTS} are needed")
    plan = plan_intents(table, encoders[0], intents)
    embedded = _embed(encoders, table.texts, cache, report_progress)
    places = [
        make_places(own, table.texts, vectors, FEATURE_WEIGHTS, seed)
        for own, vectors in zip(encoders, embedded, strict=True)
    ]
    # Clusters see no outcome, as the space does not: nothing of what is judged leaks into them.
    table = label_rows(table, plan, embedded[0].vectors, places[0][0].vectors, seed)
    details: JsonObject = {
        "seed": seed,
        "intents": {
            "from": plan.source,
            "n_intents": len(table.intent_names),
            "n_rows_without": int((table.intents < 0).sum()),
        },
        **_origin(log, template),
    }
    groups = near_duplicate_groups(embedded[0].vectors)
    rows = _prepare(table, groups, places[0][0].vectors, profiles or {}, split, seed, details)
    fitted = [
        _fit_tier(rows, own, own_places, margin, seed, report_progress)
        for own, own_places in zip(encoders, places, strict=True)
    ]
    tiers, report = _compare_tiers(fitted)
    artifact = RouterArtifact(
        models=table.models,
        tiers=tiers,
        won=_won(table),
        prompt_hashes=_hashes(table),
        intents=table.intent_names,
        intents_from=plan.source,
        intent_quality=_intent_quality(table),
        template=template,
        profiles=rows.profiles,
        best_fixed=rows.best_fixed,
        default_strategy=fitted[0][1].default_strategy,
        prompts=_stored(table, store_prompts),
    )
    return artifact, report


def _load_encoders(wanted: Encoders) -> list[OnnxEncoder]:
    """Return the encoders, the best tier first."""
    if isinstance(wanted, OnnxEncoder):
        return [wanted]
    if wanted == BOTH:
        return [OnnxEncoder.load(tier) for tier in BEST_FIRST]
    if isinstance(wanted, str | Path):
        return [OnnxEncoder.load(wanted)]
    loaded = sorted(wanted, key=lambda one: BEST_FIRST.index(one.settings.tier))
    if not 1 <= len({one.settings.tier for one in loaded}) == len(loaded):
        raise ValueError(f"encoders must be of different tiers ({', '.join(TIERS)}), at least one")
    return loaded


def _embed(
    encoders: Sequence[OnnxEncoder], texts: Sequence[str], cache: Path | None, progress: Progress
) -> list[Embedded]:
    """Return what each encoder makes of the texts."""
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        progress("embedding", done, len(encoders) * len(texts))

    return [embed_texts(encoder, texts, cache=cache, advance=advance) for encoder in encoders]


def _origin(log: PreferenceLog, template: Template) -> JsonObject:
    """Return what a report keeps of where its rows came from."""
    return {
        "n_comparisons": len(log),
        "n_refused": len(log.refusals),
        "template_chars": {
            "prefixes": [len(one) for one in template.prefixes],
            "suffixes": [len(one) for one in template.suffixes],
        },
        "sources": [{"name": one.name, "format": one.format, "sha256": one.sha256} for one in log.sources],
    }


def _prepare(
    table: Table,
    groups: NDArray[np.int64],
    points: NDArray[np.float32],
    profiles: Mapping[str, ModelProfile],
    split: str | None,
    seed: int,
    details: JsonObject,
) -> _Rows:
    """Decide how the rows are held out, and learn what is the same in every space.

    groups: int64 (n_rows,), near-duplicates share one. points: float32 (n_rows, dim), in which clusters are found.
    """
    if groups.max() == 0:
        raise DataError("all prompts are near-duplicates of one another: nothing tells them apart to route by")
    folds = deal_folds(groups, min(N_FOLDS, len(np.unique(groups))), seed)
    cluster_folds = deal_folds(cluster_groups(points, N_CLUSTERS, seed), N_FOLDS, seed)
    by_time = choose_split(table.timestamps, split) == "time"
    blocks = time_blocks(table.timestamps, N_FOLDS) if by_time else None
    priced = learned_profiles(table, profiles)
    expected = np.stack([expected_costs_usd(priced, table.models, text) for text in table.originals])
    evidence = fit_evidence(table, np.ones(len(table), dtype=bool), use_intents=False)
    return _Rows(
        plan=Plan(table, groups, folds if blocks is None else blocks, by_time),
        folds=folds,
        cluster_folds=cluster_folds,
        in_time=blocks,
        profiles=priced,
        sizes=row_sizes(table, priced),
        costs_usd=None if np.isnan(expected).any() else expected,
        best_fixed=table.models[best_fixed(table, evidence, np.arange(len(table)))],
        details=details,
    )


def _fit_tier(
    rows: _Rows, encoder: OnnxEncoder, places: Sequence[Place], margin: float, seed: int, progress: Progress
) -> tuple[Tier, HeldOutReport]:
    """Choose the settings of one encoder's tier, fit it on all rows, and report on it held out."""
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


def _compare_tiers(fitted: Sequence[tuple[Tier, HeldOutReport]]) -> tuple[tuple[Tier, ...], Report]:
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


def _intent_quality(table: Table) -> NDArray[np.float64]:
    """Return every model's shrunk mean quality on each intent's rows: float64 (n_intents, n_models), 0..1."""
    by_intent = fit_evidence(table, np.ones(len(table), dtype=bool), use_intents=True).intent_priors
    return to_quality(by_intent, np.zeros_like(by_intent), table.kind)[0]


def _won(table: Table) -> NDArray[np.bool_]:
    """Return who did best on each row, bool (n_rows, n_models): the top scores, or more than half of the battles."""
    if table.kind == "scores":
        scores = np.where(np.isnan(table.scores), -np.inf, table.scores)
        return np.asarray((scores == scores.max(axis=1, keepdims=True)) & (scores > 0))
    return np.asarray(shares_of_points(table) > 0.5)


def _hashes(table: Table) -> NDArray[np.uint8]:
    raw = b"".join(bytes.fromhex(prompt_hash(text)) for text in table.texts)
    return np.frombuffer(raw, dtype=np.uint8).reshape(len(table), HASH_BYTES).copy()


def _stored(table: Table, store_prompts: str) -> tuple[str, ...] | None:
    if store_prompts == "none":
        return None
    if store_prompts == "full":
        return table.originals
    return tuple(text if len(text) <= PREVIEW_CHARS else text[: PREVIEW_CHARS - 1] + "…" for text in table.originals)


def _silent(stage: str, done: int, total: int) -> None:
    """Report to nobody."""
