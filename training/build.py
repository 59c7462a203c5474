"""train: a preference log in, an artifact and its held-out report out."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.artifact import HASH_BYTES, RouterArtifact
from router.encoder import OnnxEncoder
from router.errors import DataError
from router.estimate import to_quality
from router.index import round_points
from router.profiles import expected_costs_usd
from router.prompt import find_template, prompt_hash
from router.tier import Tier
from router.types import ModelProfile
from training.comparisons import MIN_PROMPTS, PreferenceLog
from training.cost import learned_profiles, row_sizes
from training.cross_fit import Selection
from training.embed import embed_texts, make_places
from training.evidence import Table, shares_of_points, tabulate
from training.fit import fit_evidence
from training.held_out import Plan, report_held_out
from training.intents import label_rows, plan_intents
from training.report import Report
from training.select import FEATURE_WEIGHTS, best_fixed
from training.split import choose_split, cluster_groups, deal_folds, near_duplicate_groups, time_blocks
from training.verdict import DEFAULT_MARGIN

N_FOLDS = 5
N_CLUSTERS = 40
PREVIEW_CHARS = 80
STORE_PROMPTS = ("none", "preview", "full")

Progress = Callable[[str, int, int], object]
"""Called with (stage, steps done, steps in all) as the work goes on."""


def train(
    log: PreferenceLog,
    *,
    seed: int = 0,
    encoder: str | Path | OnnxEncoder = "static",
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
    loaded = encoder if isinstance(encoder, OnnxEncoder) else OnnxEncoder.load(encoder)
    template = find_template([one.prompt for one in log.comparisons])
    table = tabulate(log, template=template)
    if len(table) < MIN_PROMPTS:
        raise DataError(f"too little to learn from: {len(table)} distinct prompts, at least {MIN_PROMPTS} are needed")
    plan = plan_intents(table, loaded, intents)
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        report_progress("embedding", done, len(table))

    embedded = embed_texts(loaded, table.texts, cache=cache, advance=advance)
    places = make_places(loaded, table.texts, embedded, FEATURE_WEIGHTS, seed)
    # Clusters see no outcome, as the space does not: nothing of what is judged leaks into them.
    table = label_rows(table, plan, embedded.vectors, places[0].vectors, seed)
    groups = near_duplicate_groups(embedded.vectors)
    if groups.max() == 0:
        raise DataError("all prompts are near-duplicates of one another: nothing tells them apart to route by")
    folds = deal_folds(groups, min(N_FOLDS, len(np.unique(groups))), seed)
    cluster_folds = deal_folds(cluster_groups(places[0].vectors, N_CLUSTERS, seed), N_FOLDS, seed)
    in_time = choose_split(table.timestamps, split) == "time"
    blocks = time_blocks(table.timestamps, N_FOLDS) if in_time else None
    priced = learned_profiles(table, profiles or {})
    sizes = row_sizes(table, priced)
    expected = np.stack([expected_costs_usd(priced, table.models, text) for text in table.originals])
    selection = Selection(
        table,
        places,
        folds,
        cluster_folds,
        report_progress,
        None if np.isnan(expected).any() else expected,
        blocks_in_time=blocks,
        sizes=sizes,
    )
    chosen = selection.final()
    config = chosen.config
    place = next(one for one in places if one.space.feature_weight == config.feature_weight)
    everything = np.ones(len(table), dtype=bool)
    evidence = replace(fit_evidence(table, everything, use_intents=config.intent_prior), sizes=sizes)
    model = table.models[best_fixed(table, evidence, np.arange(len(table)))]
    settings = chosen.settings(place.far, table.kind)
    held_out = report_held_out(
        Plan(table, groups, folds if blocks is None else blocks, in_time),
        selection,
        priced,
        model,
        {
            "seed": seed,
            "settings": asdict(settings),
            "feature_weight": config.feature_weight,
            "intents": {
                "from": plan.source,
                "n_intents": len(table.intent_names),
                "n_rows_without": int((table.intents < 0).sum()),
            },
            "n_comparisons": len(log),
            "n_refused": len(log.refusals),
            "template_chars": {
                "prefixes": [len(one) for one in template.prefixes],
                "suffixes": [len(one) for one in template.suffixes],
            },
            "sources": [{"name": one.name, "format": one.format, "sha256": one.sha256} for one in log.sources],
        },
        margin=margin,
        seed=seed,
    )
    report = held_out.report
    tier = Tier(
        encoder=loaded,
        space=place.space,
        vectors=round_points(place.vectors),
        evidence=evidence,
        settings=settings,
        verdict=report.verdict,
        strategies=held_out.strategies,
        report=report.to_json(),
    )
    artifact = RouterArtifact(
        models=table.models,
        tiers=(tier,),
        won=_won(table),
        prompt_hashes=_hashes(table),
        intents=table.intent_names,
        intents_from=plan.source,
        intent_quality=_intent_quality(table),
        template=template,
        profiles=priced,
        best_fixed=model,
        default_strategy=held_out.default_strategy,
        prompts=_stored(table, store_prompts),
    )
    return artifact, report


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
