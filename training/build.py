"""train: a preference log in, an artifact and its held-out report out."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.artifact import HASH_BYTES, RouterArtifact
from router.encoder import OnnxEncoder
from router.errors import DataError
from router.profiles import expected_costs_usd
from router.prompt import find_template, prompt_hash
from router.types import STRATEGIES, JsonObject, ModelProfile
from training.comparisons import MIN_PROMPTS, PreferenceLog
from training.cost import learned_profiles
from training.curve import Curve, trace
from training.embed import embed_texts, make_places
from training.evaluate import costs_of, score_choices
from training.evidence import Table, tabulate
from training.fit import fit_evidence
from training.report import Report
from training.select import FEATURE_WEIGHTS, CrossFit, Selection, best_fixed
from training.split import cluster_groups, deal_folds, near_duplicate_groups
from training.value import paired_gain
from training.verdict import DEFAULT_MARGIN, gain_of

N_FOLDS = 5
N_CLUSTERS = 40
PREVIEW_CHARS = 80
# Where costs are known, the verdict is about routing that costs no more than the fixed model.
DEFAULT_STRATEGY = "balanced"
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
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[RouterArtifact, Report]:
    """Learn which model wins on which kind of prompt, and whether it is worth routing at all.

    The report is cross-fitted: every row is routed by estimators that were chosen and fitted without it and its
    near-duplicates. The artifact is then fitted on all rows. The same log and seed give the same artifact.

    profiles: prices per model; lengths and costs of answers are taken from the log where it shows them.
    store_prompts: 'none', 'preview' (80 characters) or 'full' text in the artifact. margin: the quality that counts as
    nothing in the verdict. cache: directory for vectors of texts already seen.

    Raises:
        DataError: fewer than 20 prompts or 2 models.
        EncoderError: the encoder cannot be loaded.
    """
    if store_prompts not in STORE_PROMPTS:
        raise ValueError(f"store_prompts must be one of {STORE_PROMPTS}, got {store_prompts!r}")
    report_progress = progress or _silent
    loaded = encoder if isinstance(encoder, OnnxEncoder) else OnnxEncoder.load(encoder)
    template = find_template([one.prompt for one in log.comparisons])
    table = tabulate(log, template=template)
    if len(table) < MIN_PROMPTS:
        raise DataError(f"too little to learn from: {len(table)} distinct prompts, at least {MIN_PROMPTS} are needed")
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        report_progress("embedding", done, len(table))

    embedded = embed_texts(loaded, table.texts, cache=cache, advance=advance)
    places = make_places(loaded, table.texts, embedded, FEATURE_WEIGHTS, seed)
    groups = near_duplicate_groups(embedded.vectors)
    folds = deal_folds(groups, min(N_FOLDS, len(np.unique(groups))), seed)
    cluster_folds = deal_folds(cluster_groups(places[0].vectors, N_CLUSTERS, seed), N_FOLDS, seed)
    priced = learned_profiles(table, profiles or {})
    expected = np.stack([expected_costs_usd(priced, table.models, text) for text in table.originals])
    priced_all = not np.isnan(expected).any()
    selection = Selection(table, places, folds, cluster_folds, report_progress, expected if priced_all else None)
    config = selection.final()
    fit = selection.cross_fitted()
    place = next(one for one in places if one.space.feature_weight == config.feature_weight)
    everything = np.ones(len(table), dtype=bool)
    evidence = fit_evidence(table, everything, use_intents=config.intent_prior)
    model = table.models[best_fixed(table, evidence, np.arange(len(table)))]
    settings = config.settings(place.far, table.kind)
    costs = costs_of(table, expected)
    choices, strategies = fit.choose(), dict.fromkeys(STRATEGIES)
    trade_off: JsonObject = {}
    if costs is not None and priced_all:
        curve = trace(fit, expected, costs)
        points = curve.named_points(everything)
        strategies = {name: curve.amounts_usd[point] for name, point in points.items()}
        choices = curve.cross_fitted(DEFAULT_STRATEGY, folds)
        trade_off = _trade_off(curve, fit, folds, groups)
    report = score_choices(
        table,
        fit.worth,
        choices,
        fit.fixed,
        model,
        groups,
        costs,
        protocol=f"{folds.max() + 1}-fold cross-fitted, near-duplicates together, selection nested",
        details={
            "seed": seed,
            "settings": asdict(settings),
            "feature_weight": config.feature_weight,
            "strategy": DEFAULT_STRATEGY if trade_off else "quality",
            **trade_off,
            "n_near_duplicates": len(table) - len(np.unique(groups)),
            "n_comparisons": len(log),
            "n_refused": len(log.refusals),
            "template_chars": {
                "prefixes": [len(one) for one in template.prefixes],
                "suffixes": [len(one) for one in template.suffixes],
            },
            "sources": [{"name": one.name, "format": one.format, "sha256": one.sha256} for one in log.sources],
        },
        margin=margin,
    )
    artifact = RouterArtifact(
        models=table.models,
        encoder=loaded,
        space=place.space,
        vectors=place.vectors.astype(np.float16),
        evidence=evidence,
        won=_won(table),
        prompt_hashes=_hashes(table),
        intents=table.intent_names,
        settings=settings,
        template=template,
        profiles=priced,
        verdict=report.verdict,
        best_fixed=model,
        strategies=strategies,
        default_strategy=DEFAULT_STRATEGY if trade_off else "quality",
        report=report.to_json(),
        prompts=_stored(table, store_prompts),
    )
    return artifact, report


def _trade_off(curve: Curve, fit: CrossFit, folds: NDArray[np.int64], groups: NDArray[np.int64]) -> JsonObject:
    """Return the curve and its named points for the report, both cross-fitted."""

    def outcome(choices: NDArray[np.int64]) -> JsonObject:
        at = np.arange(len(choices))
        difference = fit.worth.of(choices) - fit.worth.of(fit.fixed)
        gain = gain_of(*paired_gain(difference, fit.worth.weight, groups))
        quality = float(fit.worth.of(choices) @ fit.worth.weight / fit.worth.weight.sum())
        return {"quality": quality, "cost_usd": float(costs[at, choices].mean()), "gain": asdict(gain)}

    costs = curve.model_costs_usd
    return {
        "curve": [
            {"willingness_to_pay_usd": usd, **outcome(choices)}
            for usd, choices in zip(curve.amounts_usd, curve.choices, strict=True)
        ],
        "strategies": {name: outcome(curve.cross_fitted(name, folds)) for name in STRATEGIES},
    }


def _won(table: Table) -> NDArray[np.bool_]:
    """Return who did best on each row, bool (n_rows, n_models): the top scores, or more than half of the battles."""
    if table.kind == "scores":
        scores = np.where(np.isnan(table.scores), -np.inf, table.scores)
        return np.asarray((scores == scores.max(axis=1, keepdims=True)) & (scores > 0))
    points, games = np.zeros((2, *table.scores.shape))
    battles = table.battles
    for column, outcome in ((battles.a, battles.y), (battles.b, 1.0 - battles.y)):
        np.add.at(points, (battles.rows, column), outcome)
        np.add.at(games, (battles.rows, column), 1.0)
    return np.asarray(points > games / 2)


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
