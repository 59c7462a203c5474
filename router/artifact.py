"""The artifact: the whole contract between training and serving, as a directory of hashed plain files.

Reading and writing of the format live here together. No pickle, no index file, no code: JSON and .npy only. Every
file's SHA-256 and size stand in ``manifest.json``, which is written last; the bytes that are hashed are the bytes
that are parsed.
"""

import glob
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.encoder import ENCODER_FILES, OnnxEncoder
from router.errors import ArtifactError, ConfigError
from router.estimate import KINDS, EstimatorSettings, Evidence
from router.features import N_FEATURES
from router.pins import check_pins, pins_of
from router.profiles import profiles_from_json, profiles_to_json
from router.prompt import Template
from router.space import Space
from router.types import STRATEGIES, JsonObject, ModelProfile, Verdict

FORMAT_VERSION = 3
MANIFEST = "manifest.json"
LEARNED, REPORT, PROFILES, PROMPTS = "learned.json", "report.json", "profiles.json", "prompts.jsonl"
VECTORS, WEIGHTS, RESIDUALS, INTENTS, SIZES, WON, HASHES = (
    "vectors.npy",
    "evidence_h.npy",
    "evidence_g.npy",
    "intents.npy",
    "sizes.npy",
    "won.npy",
    "prompt_hashes.npy",
)
# dtype and number of axes of every array file.
ARRAYS: Mapping[str, tuple[str, int]] = {
    VECTORS: ("float16", 2),
    WEIGHTS: ("float32", 2),
    RESIDUALS: ("float32", 2),
    INTENTS: ("int32", 1),
    SIZES: ("float32", 1),
    WON: ("bool", 2),
    HASHES: ("uint8", 2),
}
HASH_BYTES = 16
# Where the rows' intents came from: the log's labels, the model beside the encoder, clusters, or nowhere.
INTENT_SOURCES = ("given", "model", "discovered", "none")
MAX_FILE_BYTES = 8 << 30
REQUIRED = (*ARRAYS, LEARNED, REPORT, PROFILES, *(f"encoder/{name}" for name in ENCODER_FILES))


@dataclass(frozen=True, slots=True, eq=False)
class RouterArtifact:
    """Everything that serving knows.

    vectors: float16 (n_rows, dim [+ n_features]), the rows' points in ``space``, unit length. won: bool
    (n_rows, n_models), who did best on the row.
    prompt_hashes: uint8 (n_rows, 16), of the embedded text. prompts: the rows' texts, or None when not stored.
    intents_from: one of INTENT_SOURCES. intent_quality: float64 (n_intents, n_models), mean quality on the rows of each
    intent, shrunk to that on all rows, 0..1; known also where the estimate does not use intents.
    best_fixed: the model that is best when one must serve everything. strategies: USD that a unit of quality is worth
    under each named strategy, None where cost does not matter; default_strategy: the one the verdict is about.
    report: held-out numbers, JSON-able.
    """

    models: tuple[str, ...]
    encoder: OnnxEncoder
    space: Space
    vectors: NDArray[np.float16]
    evidence: Evidence
    won: NDArray[np.bool_]
    prompt_hashes: NDArray[np.uint8]
    intents: tuple[str, ...]
    intents_from: str
    intent_quality: NDArray[np.float64]
    settings: EstimatorSettings
    template: Template
    profiles: Mapping[str, ModelProfile]
    verdict: Verdict
    best_fixed: str
    strategies: Mapping[str, float | None]
    default_strategy: str
    report: JsonObject
    prompts: tuple[str, ...] | None = None
    id: str = ""

    def write(self, directory: str | Path) -> "RouterArtifact":
        """Write the artifact to ``directory`` and return it with its id; an artifact already there is replaced.

        All files are written and synced beside the target, which appears by one rename.

        Raises:
            ArtifactError: the target is no artifact and not empty, or cannot be written.
        """
        target = Path(directory).resolve()  # a link is followed, not replaced
        check_target(target)
        beside = target.parent / f".{target.name}.{os.getpid()}.tmp"
        _tidy(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                artifact_id = self._write_files(beside)
                _swap(beside, target)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        except OSError as exc:
            raise ArtifactError(f"{target}: cannot be written: {exc.strerror or exc}") from exc
        return RouterArtifact(**{**{name: getattr(self, name) for name in self.__slots__}, "id": artifact_id})

    def _write_files(self, directory: Path) -> str:
        (directory / "encoder").mkdir(parents=True)
        contents: dict[str, bytes] = {f"encoder/{name}": raw for name, raw in self.encoder.files.items()}
        arrays: dict[str, NDArray[Any]] = {
            VECTORS: self.vectors,
            WEIGHTS: self.evidence.h,
            RESIDUALS: self.evidence.g,
            INTENTS: self.evidence.intents,
            SIZES: self.evidence.sizes,
            WON: self.won,
            HASHES: self.prompt_hashes,
        }
        contents |= {name: _npy(array) for name, array in arrays.items()}
        contents[LEARNED] = _json_bytes(self._learned())
        contents[PROFILES] = _json_bytes(profiles_to_json(self.profiles))
        contents[REPORT] = _json_bytes(self.report)
        if self.prompts is not None:
            contents[PROMPTS] = "".join(json.dumps(text) + "\n" for text in self.prompts).encode()
        files = {}
        for name, raw in contents.items():
            _write_synced(directory / name, raw)
            files[name] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
        manifest: JsonObject = {
            "format_version": FORMAT_VERSION,
            "pins": pins_of(self.encoder),
            "kind": self.evidence.kind,
            "n_rows": len(self.vectors),
            "models": list(self.models),
            "verdict": asdict(self.verdict),
            "files": files,
        }
        manifest["artifact_id"] = _artifact_id(manifest)
        _write_synced(directory / MANIFEST, _json_bytes(manifest))
        return str(manifest["artifact_id"])

    def _learned(self) -> JsonObject:
        return {
            "models": list(self.models),
            "intents": list(self.intents),
            "intents_from": self.intents_from,
            "intent_quality": self.intent_quality.tolist(),
            "kind": self.evidence.kind,
            "prior": self.evidence.prior.tolist(),
            "intent_priors": self.evidence.intent_priors.tolist(),
            "variance": self.evidence.variance.tolist(),
            "settings": asdict(self.settings),
            "space": {
                "center": [float(one) for one in self.space.center],
                "feature_mean": self.space.feature_mean.tolist(),
                "feature_scale": self.space.feature_scale.tolist(),
                "feature_weight": self.space.feature_weight,
            },
            "template": {"prefixes": list(self.template.prefixes), "suffixes": list(self.template.suffixes)},
            "best_fixed": self.best_fixed,
            "strategies": dict(self.strategies),
            "default_strategy": self.default_strategy,
            "verdict": asdict(self.verdict),
        }


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


def load_artifact(directory: str | Path) -> RouterArtifact:
    """Read and verify an artifact.

    Raises:
        ArtifactError: a file is missing, altered, of the wrong shape or made by another encoder or code; the file is
            named, and of what made the vectors the property.
        EncoderError: the encoder inside does not work.
    """
    root = Path(directory)
    if not root.is_dir():
        raise ArtifactError(f"{root}: no such directory; expected an artifact written by 'whichmodel train --out'")
    manifest = _parse_json(_read(root, MANIFEST, None), root / MANIFEST)
    found = manifest.get("format_version")
    if found != FORMAT_VERSION:
        raise ArtifactError(
            f"{root / MANIFEST}: format_version {found!r}, this version reads {FORMAT_VERSION}; train it again"
        )
    if manifest.get("artifact_id") != _artifact_id(manifest):
        raise ArtifactError(f"{root / MANIFEST}: altered or damaged, its artifact_id is not that of its contents")
    files = manifest.get("files")
    if not isinstance(files, dict) or not set(REQUIRED) <= set(files) <= {*REQUIRED, PROMPTS}:
        raise ArtifactError(f"{root / MANIFEST}: 'files' must name exactly {', '.join(REQUIRED)} [{PROMPTS}]")
    contents = {name: _read(root, name, entry if isinstance(entry, dict) else {}) for name, entry in files.items()}
    encoder = OnnxEncoder({name: contents[f"encoder/{name}"] for name in ENCODER_FILES}, where=str(root / "encoder"))
    check_pins(manifest.get("pins"), encoder, str(root / MANIFEST))
    arrays = {name: _array(contents[name], name, root) for name in ARRAYS}
    learned = _parse_json(contents[LEARNED], root / LEARNED)
    try:
        artifact = _assemble(arrays, learned, contents, encoder, root, str(manifest["artifact_id"]))
    except (KeyError, TypeError, ValueError, ConfigError) as exc:
        raise ArtifactError(f"{root / LEARNED}: {exc!r}") from exc
    _check_shapes(artifact, root)
    return artifact


def _assemble(
    arrays: Mapping[str, NDArray[Any]],
    learned: JsonObject,
    contents: Mapping[str, bytes],
    encoder: OnnxEncoder,
    root: Path,
    artifact_id: str,
) -> RouterArtifact:
    n_models = len(learned["models"])
    evidence = Evidence(
        kind=str(learned["kind"]),
        h=arrays[WEIGHTS],
        g=arrays[RESIDUALS],
        intents=arrays[INTENTS],
        prior=np.array(learned["prior"], dtype=np.float64),
        intent_priors=np.array(learned["intent_priors"], dtype=np.float64).reshape(-1, n_models),
        variance=np.array(learned["variance"], dtype=np.float64),
        sizes=arrays[SIZES],
    )
    prompts = None
    if PROMPTS in contents:
        prompts = tuple(str(json.loads(line)) for line in contents[PROMPTS].splitlines())
    if set(learned["settings"]) != {one.name for one in fields(EstimatorSettings)}:
        names = ", ".join(one.name for one in fields(EstimatorSettings))
        raise ValueError(f"settings must be exactly {names}; got {', '.join(sorted(learned['settings']))}")
    return RouterArtifact(
        models=tuple(str(one) for one in learned["models"]),
        encoder=encoder,
        space=Space(
            center=np.array(learned["space"]["center"], dtype=np.float32),
            feature_mean=np.array(learned["space"]["feature_mean"], dtype=np.float64),
            feature_scale=np.array(learned["space"]["feature_scale"], dtype=np.float64),
            feature_weight=float(learned["space"]["feature_weight"]),
        ),
        vectors=arrays[VECTORS],
        evidence=evidence,
        won=arrays[WON],
        prompt_hashes=arrays[HASHES],
        intents=tuple(str(one) for one in learned["intents"]),
        intents_from=str(learned["intents_from"]),
        intent_quality=np.array(learned["intent_quality"], dtype=np.float64).reshape(-1, n_models),
        settings=EstimatorSettings(**learned["settings"]),
        template=Template(tuple(learned["template"]["prefixes"]), tuple(learned["template"]["suffixes"])),
        profiles=profiles_from_json(_parse_json(contents[PROFILES], root / PROFILES), str(root / PROFILES)),
        verdict=Verdict(**learned["verdict"]),
        best_fixed=str(learned["best_fixed"]),
        strategies={name: None if usd is None else float(usd) for name, usd in learned["strategies"].items()},
        default_strategy=str(learned["default_strategy"]),
        report=_parse_json(contents[REPORT], root / REPORT),
        prompts=prompts,
        id=artifact_id,
    )


def _check_shapes(artifact: RouterArtifact, root: Path) -> None:
    """Refuse, by name, arrays that do not belong together or hold impossible numbers."""
    evidence, n_models = artifact.evidence, len(artifact.models)
    n_rows, dim = artifact.vectors.shape
    space, encoder_dim = artifact.space, artifact.encoder.settings.dim
    wanted = encoder_dim + (N_FEATURES if space.feature_weight > 0 else 0)
    if dim != wanted:
        raise ArtifactError(f"{root / VECTORS}: {dim} dimensions, but the encoder and its features give {wanted}")
    expected = {
        WEIGHTS: (evidence.h, (n_rows, n_models)),
        RESIDUALS: (evidence.g, (n_rows, n_models)),
        INTENTS: (evidence.intents, (n_rows,)),
        SIZES: (evidence.sizes, (n_rows,)),
        WON: (artifact.won, (n_rows, n_models)),
        HASHES: (artifact.prompt_hashes, (n_rows, HASH_BYTES)),
        f"{LEARNED} center": (space.center, (encoder_dim,)),
        f"{LEARNED} feature_mean": (space.feature_mean, (N_FEATURES,)),
        f"{LEARNED} feature_scale": (space.feature_scale, (N_FEATURES,)),
        f"{LEARNED} prior": (evidence.prior, (n_models,)),
        f"{LEARNED} variance": (evidence.variance, (n_models,)),
        f"{LEARNED} intent_priors": (evidence.intent_priors, (len(artifact.intents), n_models)),
        f"{LEARNED} intent_quality": (artifact.intent_quality, (len(artifact.intents), n_models)),
    }
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ArtifactError(f"{root / name}: shape {array.shape}, expected {shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ArtifactError(f"{root / name}: holds NaN or infinity")
    _check_numbers(artifact, root)
    _check_intents(artifact, root)


def _check_numbers(artifact: RouterArtifact, root: Path) -> None:
    """Refuse, by name, numbers out of their range."""
    evidence, space, n_rows = artifact.evidence, artifact.space, len(artifact.vectors)
    lengths = np.square(artifact.vectors, dtype=np.float32).sum(axis=1)
    if n_rows == 0 or not (np.abs(lengths - 1.0) < 1e-2).all():
        raise ArtifactError(f"{root / VECTORS}: rows must be unit vectors, at least one")
    if not (space.feature_scale > 0).all() or not 0 <= space.feature_weight < np.inf:
        raise ArtifactError(f"{root / LEARNED}: feature scales must be above 0 and their weight finite")
    if (evidence.h < 0).any() or (evidence.variance < 0).any():
        raise ArtifactError(f"{root / WEIGHTS}: evidence weights and variances must not be negative")
    if (evidence.sizes < 0).any():
        raise ArtifactError(f"{root / SIZES}: sizes of answers must not be negative")
    if evidence.intents.min() < -1 or evidence.intents.max() >= len(artifact.intents):
        raise ArtifactError(f"{root / INTENTS}: names intents beyond the {len(artifact.intents)} known")
    models = artifact.models
    if evidence.kind not in KINDS or artifact.best_fixed not in models or not 2 <= len(set(models)) == len(models):
        raise ArtifactError(f"{root / LEARNED}: kind, best_fixed or the list of models is impossible")
    amounts = [usd for usd in artifact.strategies.values() if usd is not None]
    if set(artifact.strategies) != set(STRATEGIES) or not all(0 < usd < np.inf for usd in amounts):
        raise ArtifactError(f"{root / LEARNED}: strategies must be {', '.join(STRATEGIES)}, each null or USD above 0")
    if artifact.default_strategy not in STRATEGIES:
        raise ArtifactError(f"{root / LEARNED}: default_strategy must be one of {', '.join(STRATEGIES)}")
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


def _read(root: Path, name: str, entry: object) -> bytes:
    """Read one file without following links; with a manifest entry, only if size and hash agree."""
    path = root / name
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if isinstance(entry, dict) and entry.get("bytes") != size:
                raise ArtifactError(f"{path}: {size} bytes, the manifest says {entry.get('bytes')}")
            if size > MAX_FILE_BYTES:
                raise ArtifactError(f"{path}: {size} bytes is above the limit of {MAX_FILE_BYTES}")
            raw = file.read()
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}") from exc
    if entry is not None:
        wanted = entry.get("sha256") if isinstance(entry, dict) else None
        if hashlib.sha256(raw).hexdigest() != wanted:
            raise ArtifactError(f"{path}: altered or damaged, its SHA-256 is not the manifest's")
    return raw


def _array(raw: bytes, name: str, root: Path) -> NDArray[Any]:
    dtype, axes = ARRAYS[name]
    try:
        array = np.load(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as exc:
        raise ArtifactError(f"{root / name}: not a .npy array: {exc}") from exc
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype) or array.ndim != axes:
        raise ArtifactError(f"{root / name}: expected a {axes}-axis array of {dtype}")
    return np.ascontiguousarray(array)


def _parse_json(raw: bytes, path: Path) -> JsonObject:
    try:
        parsed = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise ArtifactError(f"{path}: not JSON: {exc}") from exc
    if not isinstance(parsed, dict):
        raise ArtifactError(f"{path}: expected a JSON object")
    return parsed


def _artifact_id(manifest: JsonObject) -> str:
    """Return the hash of all that the manifest says, which names every file by its own hash."""
    body = {name: value for name, value in manifest.items() if name != "artifact_id"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _json_bytes(value: JsonObject) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode()


def _write_synced(path: Path, raw: bytes) -> None:
    with path.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def _tidy(target: Path) -> None:
    """Undo what killed writers left beside ``target``: put the last whole artifact back, delete the rest."""
    for rest in target.parent.glob(f".{glob.escape(target.name)}.*"):
        number, _, kind = rest.name.removeprefix(f".{target.name}.").partition(".")
        if kind not in ("old", "tmp") or not number.isdecimal() or _is_another_process(int(number)):
            continue
        if kind == "old" and not target.exists():
            rest.rename(target)
        else:
            shutil.rmtree(rest, ignore_errors=True)


def _is_another_process(number: int) -> bool:
    if number == os.getpid():
        return False
    try:
        os.kill(number, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _swap(beside: Path, target: Path) -> None:
    """Put ``beside`` in the place of ``target``; what was there before is deleted last."""
    old = beside.with_suffix(".old")
    if target.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    try:
        beside.rename(target)
    finally:  # an interrupt, too, must not leave the target gone
        if not target.exists() and old.is_dir():
            old.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
