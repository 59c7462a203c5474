"""train: a preference log in, an artifact and its held-out report out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.artifact import HASH_BYTES, RouterArtifact
from router.encoder import TIERS, OnnxEncoder
from router.errors import DataError
from router.prompt import Template, find_template
from router.tier import BEST_FIRST
from router.types import JsonObject, ModelProfile
from training.comparisons import MIN_PROMPTS, PreferenceLog
from training.embed import Embedded, embed_texts, make_places
from training.evidence import RowKey, Table, n_idle_ratings, placeable, row_keys, tabulate
from training.intents import label_rows, plan_intents
from training.remember import remember, users_of
from training.report import Report
from training.reserve import log_key, reserved_rows
from training.select import FEATURE_WEIGHTS
from training.split import near_duplicate_groups
from training.tiers import Progress, compare_tiers, fit_tier, intent_quality, prepare, won
from training.verdict import DEFAULT_MARGIN
from training.weights import MAX_KEY_SHARE, weigh

PREVIEW_CHARS = 80
STORE_PROMPTS = ("none", "preview", "full")
BOTH = "both"

Encoders = str | Path | OnnxEncoder | Sequence[OnnxEncoder]
"""An encoder or the name or directory of one, 'both' that ship, or several of different tiers."""


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """What training makes of a log.

    table: all rows of the log. groups: int64 (n_rows,), near-duplicates share one. reserved: bool (n_rows,), rows that
    the artifact knows nothing of.
    """

    artifact: RouterArtifact
    report: Report
    table: Table
    groups: NDArray[np.int64]
    reserved: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Reserve:
    """Which rows are never learnt from: this share of the near-duplicate groups, drawn by a hash with this key.

    key: 16 bytes, or None for the log's own.
    """

    share: float = 0.0
    key: bytes | None = None


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
    hold_out: float = 0.0,
    half_life_days: float | None = None,
    max_key_share: float = MAX_KEY_SHARE,
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
    label in a log that has some stays without. hold_out: share of the rows that are not learnt from, now or by a
    challenger of this artifact, so that the two can be compared on them. half_life_days, max_key_share: how much
    each comparison counts, as in training.weights.weigh. cache: directory for vectors of texts already seen.

    Raises:
        DataError: fewer than 20 prompts or 2 models, a split by time without timestamps, or 'given' without a label.
        ConfigError: 'model' without one beside the encoder.
        EncoderError: the encoder cannot be loaded, or the intent model beside it is not its own.
    """
    learnt = learn(
        log,
        seed=seed,
        encoder=encoder,
        profiles=profiles,
        store_prompts=store_prompts,
        margin=margin,
        split=split,
        intents=intents,
        reserve=Reserve(hold_out),
        half_life_days=half_life_days,
        max_key_share=max_key_share,
        cache=cache,
        progress=progress,
    )
    return learnt.artifact, learnt.report


def learn(
    log: PreferenceLog,
    *,
    seed: int = 0,
    encoder: Encoders = "static",
    profiles: Mapping[str, ModelProfile] | None = None,
    store_prompts: str = "none",
    margin: float = DEFAULT_MARGIN,
    split: str | None = None,
    intents: str | None = None,
    reserve: Reserve | None = None,
    half_life_days: float | None = None,
    max_key_share: float = MAX_KEY_SHARE,
    template: Template | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Learnt:
    """Do what ``train`` does, and return the rows that were not learnt from as well.

    template: to be cut instead of the one that is found in the texts, for rows whose vectors were made without it.
    """
    if store_prompts not in STORE_PROMPTS:
        raise ValueError(f"store_prompts must be one of {STORE_PROMPTS}, got {store_prompts!r}")
    report_progress = progress or _silent
    reserve = reserve or Reserve()
    encoders = _load_encoders(encoder)
    read = log.feedback
    log, n_lost = placeable(log, {one.id: one.settings.dim for one in encoders})
    template = find_template(log.texts) if template is None else template
    everything = tabulate(log, template=template)
    _check_enough(len(everything))
    plan = plan_intents(everything, encoders[0], intents)
    embedded = _embed(encoders, everything, cache, report_progress)
    # Whose word counts depends on what others say of similar prompts: vectors come before weights.
    row_of, rows_said = _row_numbers(log, template)
    vectors = embedded[0].vectors[rows_said]
    weighed = weigh(log, vectors=vectors, half_life_days=half_life_days, max_key_share=max_key_share)
    if weighed.log is not log:
        log = weighed.log
        everything = tabulate(log, template=template)
        _check_enough(len(everything))
        left = [row_of[key] for key in dict.fromkeys(row_keys(log, template))]
        embedded = [one.take(np.array(left, dtype=np.int64)) for one in embedded]
    all_groups = near_duplicate_groups(embedded[0].vectors)
    key = log_key(everything.original_hashes) if reserve.key is None else reserve.key
    reserved = reserved_rows(everything.original_hashes, all_groups, key, reserve.share)
    own = np.flatnonzero(~reserved)
    table, groups, embedded = everything.take(own), all_groups[own], [one.take(own) for one in embedded]
    _check_enough(len(table))
    places = [
        make_places(own, table.texts, vectors, FEATURE_WEIGHTS, seed)
        for own, vectors in zip(encoders, embedded, strict=True)
    ]
    # Clusters see no outcome, as the space does not: nothing of what is judged leaks into them.
    table = label_rows(table, plan, embedded[0].vectors, places[0][0].vectors, seed).naming_used_intents()
    details: JsonObject = {
        "seed": seed,
        "intents": {
            "from": plan.source,
            "n_intents": len(table.intent_names),
            "n_rows_without": int((table.intents < 0).sum()),
        },
        "n_held_out_for_challengers": int(reserved.sum()),
        "feedback": {
            **({} if read is None else asdict(read)),
            "n_lost_to_encoder": n_lost,
            "n_idle_ratings": n_idle_ratings(log),
            "n_rows_without_text": sum(one is not None for one in everything.kept),
        },
        "weights": weighed.to_json(),
        **_origin(log, template),
    }
    rows = prepare(table, groups, places[0][0].vectors, profiles or {}, split, seed, details)
    fitted = [
        fit_tier(rows, own, own_places, margin, seed, report_progress)
        for own, own_places in zip(encoders, places, strict=True)
    ]
    tiers, report = compare_tiers(fitted)
    memory = remember(
        table,
        rows.plan,
        np.stack([one.unreadable for one in embedded], axis=1),
        users_of(log, template, table),
        key=key,
        hold_out=reserve.share,
        seed=seed,
        margin=margin,
    )
    artifact = RouterArtifact(
        models=table.models,
        tiers=tiers,
        won=won(table),
        prompt_hashes=_hashes(table),
        intents=table.intent_names,
        intents_from=plan.source,
        intent_quality=intent_quality(table),
        template=template,
        profiles=rows.profiles,
        best_fixed=rows.best_fixed,
        default_strategy=fitted[0][1].default_strategy,
        prompts=_stored(table, store_prompts),
        memory=memory,
    )
    return Learnt(artifact, report, everything, all_groups, reserved)


def _check_enough(n_rows: int) -> None:
    if n_rows < MIN_PROMPTS:
        raise DataError(f"too little to learn from: {n_rows} distinct prompts, at least {MIN_PROMPTS} are needed")


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


def _row_numbers(log: PreferenceLog, template: Template) -> tuple[dict[RowKey, int], list[int]]:
    """Return the number of every row of the log's table by its key, and that of every comparison's row."""
    keys = row_keys(log, template)
    numbers = {key: row for row, key in enumerate(dict.fromkeys(keys))}
    said = [numbers[key] for key in keys]
    # Once the comparisons that had its text are left out, a prompt goes by its hash.
    pairs = zip(log.comparisons, said, strict=True)
    numbers |= {("", one.kept.prompt_hash): row for one, row in pairs if one.kept is not None}
    return numbers, said


def _embed(encoders: Sequence[OnnxEncoder], table: Table, cache: Path | None, progress: Progress) -> list[Embedded]:
    """Return what each encoder makes of the rows."""
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        progress("embedding", done, len(encoders) * len(table))

    return [embed_texts(encoder, table.texts, kept=table.kept, cache=cache, advance=advance) for encoder in encoders]


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


def _hashes(table: Table) -> NDArray[np.uint8]:
    raw = b"".join(bytes.fromhex(one) for one in table.hashes)
    return np.frombuffer(raw, dtype=np.uint8).reshape(len(table), HASH_BYTES).copy()


def _stored(table: Table, store_prompts: str) -> tuple[str, ...] | None:
    if store_prompts == "none":
        return None
    if store_prompts == "full":
        return table.originals
    return tuple(text if len(text) <= PREVIEW_CHARS else text[: PREVIEW_CHARS - 1] + "…" for text in table.originals)


def _silent(stage: str, done: int, total: int) -> None:
    """Report to nobody."""
