"""Take rows out of an artifact at once: what was learnt from them is fitted anew, without texts and without encoding.

What needs the texts or the encoder stays as it was: the space, the template, the settings, the labels of intents.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.artifact import HASHES, MANIFEST, RouterArtifact
from router.errors import ArtifactError, ConfigError, DataError
from router.estimate import SUPPORT_UNIT
from router.files import Folder, parse_array, parse_json
from router.index import unit_points
from router.memory import FOLDER, MEMORY_ARRAYS, Memory, user_hash
from router.prompt import prompt_hash
from router.tier import Tier
from router.types import JsonObject, ModelProfile
from training.comparisons import MIN_PROMPTS
from training.evidence import Table
from training.hold_out import Far, Place
from training.remember import recall
from training.select import Config
from training.tiers import compare_tiers, fit_tier, intent_quality, prepare, won

HASH_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be forgotten: rows by the hash of their text, by the text itself, and by who stands behind them."""

    hashes: Sequence[str] = ()
    prompts: Sequence[str] = ()
    users: Sequence[str] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Forgotten:
    """artifact: without the rows, not yet written. hashes: of their texts, 32 hex digits each."""

    artifact: RouterArtifact
    hashes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Holder:
    """Another artifact that holds forgotten rows: n_rows of them, or None where it cannot be read (``why``)."""

    directory: str
    n_rows: int | None
    why: str = ""


def forget(artifact: RouterArtifact, wanted: Wanted) -> Forgotten:
    """Return the artifact without the wanted rows, its priors, slopes, profiles, report and verdict fitted anew.

    A row is one distinct prompt: with a user, rows go whole, also where somebody else stands behind them, too.

    Raises:
        ConfigError: nothing is wanted, or a hash is none.
        DataError: the artifact has no memory, knows no such row or user, or too few rows would be left.
    """
    table, memory = recall(artifact)
    gone = _rows(artifact, memory, wanted)
    left = int((~gone).sum())
    if left < MIN_PROMPTS:
        raise DataError(
            f"{left} of {len(gone)} rows would be left, at least {MIN_PROMPTS} are needed; delete the artifact instead"
        )
    keep = np.flatnonzero(~gone)
    remaining = memory.without(gone)
    table = table.take(keep).naming_used_intents()
    rows = prepare(
        table,
        memory.groups[keep].astype(np.int64),
        None,
        _without_learnt_means(artifact, memory),
        "time" if memory.in_time else "random",
        memory.seed,
        _details(artifact, table, remaining),
    )
    fitted = []
    for number, tier in enumerate(artifact.tiers):
        place = Place(
            tier.space,
            unit_points(tier.vectors[keep]),
            Far(tier.settings.usual_similarity, tier.settings.far_temperature, tier.settings.max_unknown_share),
            remaining.unreadable[:, number],
        )
        fresh, held_out = fit_tier(rows, tier.encoder, [place], memory.margin, memory.seed, _silent, _config_of(tier))
        fitted.append((fresh, held_out))
    tiers, _ = compare_tiers(fitted)
    hashes = tuple(bytes(one).hex() for one in artifact.prompt_hashes[gone])
    return Forgotten(
        RouterArtifact(
            models=artifact.models,
            tiers=tiers,
            won=won(table),
            prompt_hashes=artifact.prompt_hashes[keep],
            intents=table.intent_names,
            intents_from=artifact.intents_from if table.intent_names else "none",
            intent_quality=intent_quality(table),
            template=artifact.template,
            profiles=rows.profiles,
            best_fixed=rows.best_fixed,
            default_strategy=fitted[0][1].default_strategy,
            prompts=None if artifact.prompts is None else tuple(artifact.prompts[row] for row in keep),
            memory=remaining,
        ),
        hashes,
    )


def _rows(artifact: RouterArtifact, memory: Memory, wanted: Wanted) -> NDArray[np.bool_]:
    """Return which rows are wanted, bool (n_rows,); each hash, prompt and user must have one at least."""
    if not (wanted.hashes or wanted.prompts or wanted.users):
        raise ConfigError("nothing to forget: name a prompt, the hash of one, or a user")
    gone = np.zeros(artifact.n_rows, dtype=bool)
    number = {bytes(one): row for row, one in enumerate(artifact.prompt_hashes)}
    for text in wanted.hashes:
        if len(text) != HASH_DIGITS or set(text.lower()) - set("0123456789abcdef"):
            raise ConfigError(f"{text}: no prompt hash; expected {HASH_DIGITS} hex digits")
        row = number.get(bytes.fromhex(text))
        if row is None:
            raise DataError(f"no row has the prompt hash {text.lower()}; nothing was forgotten")
        gone[row] = True
    for text in wanted.prompts:
        digest = prompt_hash(artifact.template.strip(text))
        # A row that was learnt without its text is known by the prompt as it was asked.
        row = number.get(bytes.fromhex(digest), number.get(bytes.fromhex(prompt_hash(text))))
        if row is None:
            raise DataError(f"no row has this prompt (hash {digest}); nothing was forgotten")
        gone[row] = True
    for user in wanted.users:
        rows = memory.rows_of_user(user)
        if not len(rows):
            known = len(np.unique(memory.user_hashes, axis=0)) if len(memory.user_hashes) else 0
            raise DataError(f"no row is of the user {user}; the artifact knows {known} users; nothing was forgotten")
        gone[rows] = True
    return gone


def _without_learnt_means(artifact: RouterArtifact, memory: Memory) -> dict[str, ModelProfile]:
    """Return the profiles with none of the means that the rows had shown: what is left shows its own."""
    out = {}
    for column, name in enumerate(artifact.models):
        profile = artifact.profiles[name]
        known = not np.isnan(memory.output_tokens[:, column]).all() or not np.isnan(memory.costs_usd[:, column]).all()
        if known:
            profile = replace(profile, mean_output_tokens=ModelProfile("").mean_output_tokens, mean_cost_usd=None)
        out[name] = profile
    return out


def _details(artifact: RouterArtifact, table: Table, remaining: Memory) -> JsonObject:
    """Return what the report keeps of where the rows came from."""
    before = artifact.report.get("details", {})
    kept = (
        *("seed", "n_held_out_for_challengers", "weights", "n_comparisons", "n_refused", "template_chars", "sources"),
        "feedback",
    )
    return {
        **{name: before[name] for name in kept if name in before},
        "intents": {
            "from": artifact.intents_from,
            "n_intents": len(table.intent_names),
            "n_rows_without": int((table.intents < 0).sum()),
        },
        "n_forgotten": remaining.n_forgotten,
    }


def _config_of(tier: Tier) -> Config:
    """Return the point of the grid that the tier's settings are."""
    settings, evidence = tier.settings, tier.evidence
    return Config(
        shrinkage=settings.shrinkage / SUPPORT_UNIT[evidence.kind],
        n_neighbors=settings.n_neighbors,
        # Where every intent's prior is the global one, none was used, or none had rows to differ by.
        intent_prior=bool((evidence.intent_priors != evidence.prior).any()),
        guard_z=settings.guard_z,
        temperature=settings.temperature,
        feature_weight=tier.space.feature_weight,
    )


def other_holders(
    written: str | Path, source: str | Path, hashes: Sequence[str], users: Sequence[str] = ()
) -> list[Holder]:
    """Return which artifacts beside ``written`` and ``source`` still hold rows of these hashes, or of these users.

    Directories in the same parents that have a manifest are looked at, hidden ones too, but for ``written`` itself;
    links are not followed.
    """
    own = Path(written).resolve()
    wanted = {bytes.fromhex(one) for one in hashes}
    found = []
    parents = {own.parent, Path(source).resolve().parent}
    for beside in sorted(one for parent in parents for one in parent.iterdir()):
        if beside == own or beside.is_symlink() or not (beside / MANIFEST).is_file():
            continue
        try:
            n_rows = _n_held(beside, wanted, users)
        except (ArtifactError, KeyError, TypeError, ValueError) as exc:
            found.append(Holder(str(beside), None, str(exc)))
            continue
        if n_rows:
            found.append(Holder(str(beside), n_rows))
    return found


def _n_held(directory: Path, wanted: set[bytes], users: Sequence[str]) -> int:
    """Return how many rows of the artifact are wanted. An older version of the format is read, too."""
    with Folder(directory) as folder:
        files = parse_json(folder.read(MANIFEST), directory / MANIFEST)["files"]

        def array(name: str, dtype: str, axes: int) -> NDArray[np.generic]:
            return parse_array(folder.read(name, entry=files[name]), dtype, axes, directory / name)

        held = {row for row, one in enumerate(array(HASHES, "uint8", 2)) if bytes(one) in wanted}
        facts_file = f"{FOLDER}/facts.json"
        if users and facts_file in files:
            facts = parse_json(folder.read(facts_file, entry=files[facts_file]), directory / facts_file)
            theirs = {user_hash(bytes.fromhex(facts["key"]), user) for user in users}
            rows, names = (array(f"{FOLDER}/{one}.npy", *MEMORY_ARRAYS[one]) for one in ("user_rows", "user_hashes"))
            held |= {int(row) for row, one in zip(rows.tolist(), names, strict=True) if bytes(one) in theirs}
        return len(held)


def _silent(stage: str, done: int, total: int) -> None:
    """Report to nobody: a refit takes seconds."""
