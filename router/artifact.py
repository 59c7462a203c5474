"""The artifact: the whole contract between training and serving, as a directory of hashed plain files.

Reading and writing of the format live here, and in router.tier what there is once per encoder. No pickle, no index
file, no code: JSON and .npy only. Every file's SHA-256 and size stand in ``manifest.json``, which is written last; the
bytes that are hashed are the bytes that are parsed. docs/artifact.md tells what is checked in which order.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.canaries import CANARIES, canaries_of, check_canaries, read_canaries
from router.encoder import ENCODER_FILES, OnnxEncoder
from router.errors import ArtifactError, ConfigError
from router.estimate import KINDS
from router.files import (
    MAX_FILE_BYTES,
    MAX_HEADER_BYTES,
    Folder,
    check_arrays,
    json_bytes,
    no_pause,
    npy_bytes,
    parse_array,
    parse_json,
    swap,
    sync_directory,
    tidy,
    write_synced,
)
from router.memory import MEMORY_FILES, Memory, read_memory
from router.pins import pins_of
from router.profiles import profiles_from_json, profiles_to_json
from router.prompt import Template
from router.tier import BEST_FIRST, LEARNED, TIER_FILES, RowFacts, Tier, read_tier
from router.types import TRADE_OFFS, JsonObject, ModelProfile, Verdict

FORMAT_VERSION = 5
MANIFEST = "manifest.json"
PROFILES, PROMPTS = "profiles.json", "prompts.jsonl"
INTENTS, SIZES, WON, HASHES = "intents.npy", "sizes.npy", "won.npy", "prompt_hashes.npy"
# dtype and number of axes of every array file.
ARRAYS: Mapping[str, tuple[str, int]] = {
    INTENTS: ("int32", 1),
    SIZES: ("float32", 1),
    WON: ("bool", 2),
    HASHES: ("uint8", 2),
}
HASH_BYTES = 16
MANIFEST_FIELDS = {
    *("format_version", "tiers", "pins", "kind", "n_rows", "models", "verdict", "files", "artifact_id"),
}
# Far above what is of use, and low enough that what a damaged manifest asks for is refused before it is read.
MAX_ROWS, MAX_MODELS = 10_000_000, 1_000
MAX_MANIFEST_BYTES, MAX_JSON_BYTES, MAX_ARTIFACT_BYTES = 4 << 20, 256 << 20, 16 << 30
# No protocol buffer is longer.
MAX_NETWORK_BYTES = 2 << 30
# Of all arrays of a row together it is a few thousand; a text of 1 MiB is more than a request may hold.
MAX_ROW_BYTES, MAX_TEXT_BYTES = 1 << 16, 1 << 20
# So many lines of prompts are parsed in a millisecond.
LINES_PER_STEP = 256
_SHA256 = re.compile("[0-9a-f]{64}")
# Where the rows' intents came from: the log's labels, the model beside the encoder, clusters, or nowhere.
INTENT_SOURCES = ("given", "model", "discovered", "none")


@dataclass(frozen=True, slots=True, eq=False)
class RouterArtifact:
    """Everything that serving knows.

    tiers: one per encoder, the best first; what stands beside them is the same for all. won: bool (n_rows, n_models),
    who did best on the row.
    prompt_hashes: uint8 (n_rows, 16), of the embedded text. prompts: the rows' texts, or None when not stored.
    intents_from: one of INTENT_SOURCES. intent_quality: float64 (n_intents, n_models), mean quality on the rows of each
    intent, shrunk to that on all rows, 0..1; known also where the estimate does not use intents.
    best_fixed: the model that is best when one must serve everything. default_strategy: the named strategy that the
    tiers' verdicts are about. memory: what forgetting a row needs, or None where the artifact was written without.
    """

    models: tuple[str, ...]
    tiers: tuple[Tier, ...]
    won: NDArray[np.bool_]
    prompt_hashes: NDArray[np.uint8]
    intents: tuple[str, ...]
    intents_from: str
    intent_quality: NDArray[np.float64]
    template: Template
    profiles: Mapping[str, ModelProfile]
    best_fixed: str
    default_strategy: str
    prompts: tuple[str, ...] | None = None
    memory: Memory | None = None
    id: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError where the tiers are none, twice the same, or not the best first."""
        names = [one.name for one in self.tiers]
        if not are_tiers(names):
            raise ValueError(
                f"tiers must be of {', '.join(BEST_FIRST)}, in this order; got {', '.join(names) or 'none'}"
            )

    @property
    def n_rows(self) -> int:
        """How many distinct prompts were learnt from."""
        return len(self.won)

    @property
    def best(self) -> Tier:
        """The tier that answers where time allows."""
        return self.tiers[0]

    @property
    def verdict(self) -> Verdict:
        """The best tier's verdict."""
        return self.best.verdict

    @property
    def strategies(self) -> Mapping[str, float | None]:
        """The best tier's named strategies."""
        return self.best.strategies

    @property
    def report(self) -> JsonObject:
        """The best tier's held-out report."""
        return self.best.report

    def only(self, name: str | None = None) -> "RouterArtifact":
        """Return the artifact with this one tier, the best one when left out.

        Raises:
            ConfigError: the artifact has no such tier.
        """
        for number, tier in enumerate(self.tiers):
            if name in (None, tier.name):
                memory = None if self.memory is None else self.memory.of_tier(number)
                return replace(self, tiers=(tier,), memory=memory)
        has = " and ".join(one.name for one in self.tiers)
        raise ConfigError(f"the artifact has no {name} tier; it has {has}")

    def write(self, directory: str | Path) -> "RouterArtifact":
        """Write the artifact to ``directory`` and return it with its id; an artifact already there is replaced.

        All files are written and synced beside the target, which appears by one rename.

        Raises:
            ArtifactError: the target is no artifact and not empty, or cannot be written.
        """
        target = Path(directory).resolve()  # a link is followed, not replaced
        check_target(target)
        beside = target.parent / f".{target.name}.{os.getpid()}.tmp"
        tidy(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                artifact_id = self._write_files(beside)
                swap(beside, target)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        except OSError as exc:
            raise ArtifactError(f"{target}: cannot be written: {exc.strerror or exc}") from exc
        return replace(self, id=artifact_id)

    def _write_files(self, directory: Path) -> str:
        evidence = self.best.evidence
        arrays: dict[str, NDArray[Any]] = {
            INTENTS: evidence.intents,
            SIZES: evidence.sizes,
            WON: self.won,
            HASHES: self.prompt_hashes,
        }
        contents = {name: npy_bytes(array) for name, array in arrays.items()}
        contents[LEARNED] = json_bytes(self._learned())
        contents[PROFILES] = json_bytes(profiles_to_json(self.profiles))
        if self.prompts is not None:
            contents[PROMPTS] = "".join(json.dumps(text) + "\n" for text in self.prompts).encode()
        if self.memory is not None:
            contents |= self.memory.files()
        for tier in self.tiers:
            contents |= {f"{tier.name}/{name}": raw for name, raw in tier.files().items()}
        contents[CANARIES] = json_bytes(canaries_of(self.tiers, contents, self.template, self.models, self.best_fixed))
        files = {}
        for name, raw in contents.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            write_synced(directory / name, raw)
            files[name] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
        manifest: JsonObject = {
            "format_version": FORMAT_VERSION,
            "tiers": [tier.name for tier in self.tiers],
            "pins": {tier.name: pins_of(tier.encoder) for tier in self.tiers},
            **_said(self),
            "files": files,
        }
        manifest["artifact_id"] = _artifact_id(manifest)
        write_synced(directory / MANIFEST, json_bytes(manifest))
        for folder in sorted({(directory / name).parent for name in contents}, reverse=True):
            sync_directory(folder)
        return str(manifest["artifact_id"])

    def _learned(self) -> JsonObject:
        return {
            "models": list(self.models),
            "kind": self.best.evidence.kind,
            "intents": list(self.intents),
            "intents_from": self.intents_from,
            "intent_quality": self.intent_quality.tolist(),
            "template": {"prefixes": list(self.template.prefixes), "suffixes": list(self.template.suffixes)},
            "best_fixed": self.best_fixed,
            "default_strategy": self.default_strategy,
        }


def are_tiers(names: object) -> bool:
    """Return whether these are the names of an artifact's tiers: at least one, no other, none twice, the best first."""
    return isinstance(names, list) and names != [] and names == [one for one in BEST_FIRST if one in names]


def required_files(tiers: Sequence[str]) -> tuple[str, ...]:
    """Return the files that an artifact with these tiers holds beside its manifest, prompts and memory apart."""
    return (*ARRAYS, LEARNED, PROFILES, CANARIES, *(f"{tier}/{name}" for tier in tiers for name in TIER_FILES))


def check_target(directory: str | Path) -> None:
    """Raise ArtifactError where ``write`` could not write, or would have to delete what is not an artifact."""
    target = Path(directory).resolve()
    if target in (Path.cwd(), target.parent):
        raise ArtifactError(f"{target}: the working directory cannot be replaced; name a directory below it")
    home = next(one for one in target.parents if one.exists())
    if not (home.is_dir() and os.access(home, os.W_OK | os.X_OK)):
        raise ArtifactError(f"{target}: {home} is not a directory that can be written to")
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise ArtifactError(f"{target}: exists, is not empty and holds no {MANIFEST}; it will not be replaced")
    if target.exists() and not target.is_dir():
        raise ArtifactError(f"{target}: is a file; expected a directory to write the artifact to")


def load_artifact(
    directory: str | Path, *, loaded: Sequence[OnnxEncoder] = (), pause: Callable[[], object] = no_pause
) -> RouterArtifact:
    """Read and verify an artifact.

    loaded: encoders to be used in place of the same bytes; the canaries are asked anew. pause: called between steps of
    a few milliseconds, to let others work.

    Raises:
        ArtifactError: a file is missing, altered, of the wrong shape or made by another encoder or code; the file is
            named, and of what made the vectors the property.
        EncoderError: an encoder inside does not work.
    """
    with Folder(directory) as folder:
        root, manifest = folder.root, _read_manifest(folder)
        contents = {}
        for name, entry in manifest["files"].items():
            contents[name] = folder.read(name, at_most=_most_bytes(name, manifest["n_rows"]), entry=entry)
            pause()
    # Before anything else is parsed: what was altered must not reach a parser, least of all that of networks.
    ids = _encoder_ids(manifest)
    canaries = read_canaries(contents, ids, root)
    pause()
    encoders = {tier: one for tier, own in ids.items() for one in loaded if one.id == own}
    arrays = {name: parse_array(contents[name], *form, root / name) for name, form in ARRAYS.items()}
    learned = parse_json(contents[LEARNED], root / LEARNED)
    try:
        artifact = _assemble(arrays, learned, contents, manifest, root, encoders, pause)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, ConfigError) as exc:
        raise ArtifactError(f"{root / LEARNED}: {exc!r}") from exc
    pause()
    _check_shapes(artifact, root)
    _check_numbers(artifact, root)
    _check_intents(artifact, root)
    _check_said(artifact, manifest, root)
    pause()
    check_canaries(
        canaries, artifact.tiers, artifact.template, artifact.models, artifact.best_fixed, root / CANARIES, pause
    )
    return artifact


def _read_manifest(folder: Folder) -> JsonObject:
    """Return the manifest: of this version, vouching for itself, and with the very files that its tiers have."""
    path = folder.root / MANIFEST
    manifest = parse_json(folder.read(MANIFEST, at_most=MAX_MANIFEST_BYTES), path)
    found = manifest.get("format_version")
    if found != FORMAT_VERSION:
        raise ArtifactError(f"{path}: format_version {found!r}, this version reads {FORMAT_VERSION}; train it again")
    if manifest.get("artifact_id") != _artifact_id(manifest):
        raise ArtifactError(f"{path}: altered or damaged, its artifact_id is not that of its contents")
    tiers, pins, files = manifest.get("tiers"), manifest.get("pins"), manifest.get("files")
    if not isinstance(tiers, list) or not are_tiers(tiers):
        raise ArtifactError(f"{path}: 'tiers' must be of {', '.join(BEST_FIRST)}, in this order; got {tiers!r}")
    if not isinstance(pins, dict) or set(pins) != set(tiers):
        raise ArtifactError(f"{path}: 'pins' must say of each tier what made its vectors")
    required = required_files(tiers)
    if not isinstance(files, dict) or not set(required) <= set(files) <= {*required, PROMPTS, *MEMORY_FILES}:
        raise ArtifactError(f"{path}: 'files' must name exactly {', '.join(required)} [{PROMPTS}] [memory/...]")
    _check_entries(manifest, path)
    return manifest


def _check_entries(manifest: JsonObject, path: Path) -> None:
    """Refuse a manifest of unknown fields, entries of another form, or more than one would ever want to read."""
    if set(manifest) != MANIFEST_FIELDS:
        raise ArtifactError(f"{path}: expected exactly {', '.join(sorted(MANIFEST_FIELDS))}")
    if type(manifest["n_rows"]) is not int or not 1 <= manifest["n_rows"] <= MAX_ROWS:
        raise ArtifactError(f"{path}: n_rows must be within 1 and {MAX_ROWS}")
    for name, entry in manifest["files"].items():
        if not (
            isinstance(entry, dict)
            and set(entry) == {"sha256", "bytes"}
            and type(entry["bytes"]) is int
            and isinstance(entry["sha256"], str)
            and _SHA256.fullmatch(entry["sha256"])
        ):
            raise ArtifactError(f"{path}: files: {name}: expected sha256, in hexadecimal, and bytes")
        if not 0 <= entry["bytes"] <= _most_bytes(name, manifest["n_rows"]):
            raise ArtifactError(f"{path}: files: {name}: {entry['bytes']} bytes is out of range")
    if sum(entry["bytes"] for entry in manifest["files"].values()) > MAX_ARTIFACT_BYTES:
        raise ArtifactError(f"{path}: files of more than {MAX_ARTIFACT_BYTES} bytes together")


def _most_bytes(name: str, n_rows: int) -> int:
    """Return how large a file may be in an artifact with so many rows."""
    if name.endswith(".npy"):
        return min(MAX_FILE_BYTES, MAX_HEADER_BYTES + n_rows * MAX_ROW_BYTES)
    if name == PROMPTS:
        return min(MAX_FILE_BYTES, n_rows * MAX_TEXT_BYTES)
    return MAX_NETWORK_BYTES if name.endswith(".onnx") else MAX_JSON_BYTES


def _encoder_ids(manifest: JsonObject) -> dict[str, str]:
    """Return the id of each tier's encoder, as router.encoder makes it of the files, from the hashes of these files."""
    ids = {}
    for tier in manifest["tiers"]:
        hashes = [bytes.fromhex(manifest["files"][f"{tier}/encoder/{name}"]["sha256"]) for name in ENCODER_FILES]
        ids[tier] = hashlib.sha256(b"".join(hashes)).hexdigest()
    return ids


def _assemble(
    arrays: Mapping[str, NDArray[Any]],
    learned: JsonObject,
    contents: Mapping[str, bytes],
    manifest: JsonObject,
    root: Path,
    encoders: Mapping[str, OnnxEncoder],
    pause: Callable[[], object],
) -> RouterArtifact:
    models, intents = _texts(learned["models"]), _texts(learned["intents"])
    if not 2 <= len(models) <= MAX_MODELS:
        raise ValueError(f"models: expected 2 to {MAX_MODELS}, got {len(models)}")
    facts = RowFacts(_text(learned["kind"]), arrays[INTENTS], arrays[SIZES], len(models), len(intents))
    prompts = None
    if PROMPTS in contents:
        prompts = _texts(_parsed_lines(contents[PROMPTS], pause))
    tiers = []
    for name in manifest["tiers"]:
        tiers.append(read_tier(name, _below(name, contents), facts, manifest["pins"][name], root, encoders.get(name)))
        pause()
    return RouterArtifact(
        models=models,
        tiers=tuple(tiers),
        won=arrays[WON],
        prompt_hashes=arrays[HASHES],
        intents=intents,
        intents_from=_text(learned["intents_from"]),
        intent_quality=np.array(learned["intent_quality"], dtype=np.float64).reshape(-1, len(models)),
        template=Template(_texts(learned["template"]["prefixes"]), _texts(learned["template"]["suffixes"])),
        profiles=profiles_from_json(parse_json(contents[PROFILES], root / PROFILES), str(root / PROFILES)),
        best_fixed=_text(learned["best_fixed"]),
        default_strategy=_text(learned["default_strategy"]),
        prompts=prompts,
        memory=read_memory(contents, root, len(arrays[WON]), len(models), len(manifest["tiers"])),
        id=str(manifest["artifact_id"]),
    )


def _parsed_lines(raw: bytes, pause: Callable[[], object]) -> list[Any]:
    """Return the JSON of every line."""
    parsed = []
    for nth, line in enumerate(raw.splitlines()):
        parsed.append(json.loads(line))
        if nth % LINES_PER_STEP == 0:
            pause()
    return parsed


def _texts(raw: object) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(one, str) for one in raw):
        raise ValueError(f"expected a list of texts, got {str(raw)[:80]}")
    return tuple(raw)


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"expected a text, got {str(raw)[:80]}")
    return raw


def _below(tier: str, contents: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: contents[f"{tier}/{name}"] for name in TIER_FILES}


def _check_shapes(artifact: RouterArtifact, root: Path) -> None:
    """Refuse, by name, arrays that do not belong together."""
    evidence, n_models, n_rows = artifact.best.evidence, len(artifact.models), len(artifact.best.vectors)
    check_arrays(
        {
            INTENTS: (evidence.intents, (n_rows,)),
            SIZES: (evidence.sizes, (n_rows,)),
            WON: (artifact.won, (n_rows, n_models)),
            HASHES: (artifact.prompt_hashes, (n_rows, HASH_BYTES)),
            f"{LEARNED} intent_quality": (artifact.intent_quality, (len(artifact.intents), n_models)),
        },
        root,
    )


def _check_numbers(artifact: RouterArtifact, root: Path) -> None:
    """Refuse, by name, numbers out of their range."""
    evidence, models, n_rows = artifact.best.evidence, artifact.models, artifact.n_rows
    if (evidence.sizes < 0).any():
        raise ArtifactError(f"{root / SIZES}: sizes of answers must not be negative")
    if n_rows == 0 or evidence.intents.min() < -1 or evidence.intents.max() >= len(artifact.intents):
        raise ArtifactError(f"{root / INTENTS}: has no rows, or names intents beyond the {len(artifact.intents)} known")
    if evidence.kind not in KINDS or artifact.best_fixed not in models or not 2 <= len(set(models)) == len(models):
        raise ArtifactError(f"{root / LEARNED}: kind, best_fixed or the list of models is impossible")
    if any(tier.verdict.best_fixed not in models for tier in artifact.tiers):
        raise ArtifactError(f"{root}: a verdict of a model that the artifact does not know")
    if artifact.default_strategy not in TRADE_OFFS:
        raise ArtifactError(f"{root / LEARNED}: default_strategy must be one of {', '.join(TRADE_OFFS)}")
    if artifact.prompts is not None and len(artifact.prompts) != n_rows:
        raise ArtifactError(f"{root / PROMPTS}: {len(artifact.prompts)} prompts for {n_rows} rows")


def _check_intents(artifact: RouterArtifact, root: Path) -> None:
    """Refuse intents of one name, from nowhere known, or with an impossible quality."""
    intents, source = artifact.intents, artifact.intents_from
    if source not in INTENT_SOURCES or (source == "none") != (not intents) or len(set(intents)) < len(intents):
        raise ArtifactError(
            f"{root / LEARNED}: intents_from {source!r} with {len(set(intents))} different of {len(intents)} intents; "
            f"expected one of {', '.join(INTENT_SOURCES)}, the last without intents"
        )
    if (artifact.intent_quality < 0).any() or (artifact.intent_quality > 1).any():
        raise ArtifactError(f"{root / LEARNED}: intent_quality must be within 0 and 1")


def _check_said(artifact: RouterArtifact, manifest: JsonObject, root: Path) -> None:
    """Refuse a manifest that says anything else than the files do."""
    said = _said(artifact)
    for name, value in said.items():
        if manifest[name] != value:
            raise ArtifactError(f"{root / MANIFEST}: {name} {manifest[name]!r}, but the files say {value!r}")


def _said(artifact: RouterArtifact) -> JsonObject:
    """Return what the manifest says of the content, for those who look at nothing else."""
    return {
        "kind": artifact.best.evidence.kind,
        "n_rows": artifact.n_rows,
        "models": list(artifact.models),
        "verdict": asdict(artifact.verdict),
    }


def _artifact_id(manifest: JsonObject) -> str:
    """Return the hash of all that the manifest says, which names every file by its own hash."""
    body = {name: value for name, value in manifest.items() if name != "artifact_id"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
