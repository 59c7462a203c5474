"""router/artifact.py: what is written is read back bit for bit, and anything else is refused by name."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.artifact import RouterArtifact, _artifact_id, load_artifact, required_files
from router.canaries import CANARIES, _fingerprints, canaries_of
from router.encoder import ENCODER_FILES, OnnxEncoder, encoder_id
from router.errors import ArtifactError, ConfigError, EncoderError, RouterError
from router.estimate import Evidence
from router.files import tidy
from router.index import round_points
from router.pins import pins_of
from router.prompt import Template
from router.space import Space
from router.tier import Tier

FILES = ("manifest.json", *required_files(["static"]), "prompts.jsonl")
BOTH_FILES = ("manifest.json", *required_files(["full", "static"]), "prompts.jsonl")
# Every file but the prompts, the manifest, three folders of them, then the directory they are in.
N_SYNCS = len(required_files(["static"])) + 5


@pytest.fixture(scope="module")
def full(artifact: RouterArtifact) -> RouterArtifact:
    """With everything optional in it."""
    return with_everything(artifact)


def with_everything(artifact: RouterArtifact) -> RouterArtifact:
    prompts = tuple(f"prompt {row} \ud800\n\u2028" for row in range(artifact.n_rows))
    return replace(artifact, prompts=prompts, template=Template(("Q: é", "A"), ("end\n",)))


def with_best(artifact: RouterArtifact, **changes: Any) -> RouterArtifact:
    return replace(artifact, tiers=(replace(artifact.best, **changes), *artifact.tiers[1:]))


@pytest.fixture(scope="module")
def written(full: RouterArtifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("written") / "v1"
    full.write(directory)
    return directory


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


@pytest.fixture
def write_spoilt(full: RouterArtifact, monkeypatch: pytest.MonkeyPatch) -> Callable[[RouterArtifact, Path], object]:
    """Write what is no whole artifact: with the answers of one that is, and with hashes that all agree."""

    def stale(tiers: Any, contents: Any, *_: Any) -> dict[str, Any]:
        whole = canaries_of(full.tiers, contents, full.template, full.models, full.best_fixed)
        return whole | {"encoders": {one.name: encoder_id(one.encoder.files) for one in tiers}}

    def write(artifact: RouterArtifact, target: Path) -> object:
        with monkeypatch.context() as patch:
            patch.setattr("router.artifact.canaries_of", stale)
            return artifact.write(target)

    return write


def same(a: Any, b: Any) -> None:
    """Compare two values of the artifact, arrays bit for bit."""
    assert type(a) is type(b)
    if isinstance(a, Evidence | Space | Tier):
        for one in fields(a):
            same(getattr(a, one.name), getattr(b, one.name))
    elif isinstance(a, tuple):
        for one, other in zip(a, b, strict=True):
            same(one, other)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    elif isinstance(a, OnnxEncoder):
        assert a.id == b.id
    else:
        assert a == b


def test_round_trip_is_bit_equal(full: RouterArtifact, written: Path, tmp_path: Path) -> None:
    loaded = load_artifact(written)
    for one in fields(RouterArtifact):
        if one.name != "id":
            same(getattr(full, one.name), getattr(loaded, one.name))
    again = loaded.write(tmp_path / "again")
    assert again.id == loaded.id and len(loaded.id) == 16
    assert all((written / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in FILES)


def test_only_the_named_files_are_written_and_none_beside(written: Path) -> None:
    found = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    assert found == set(FILES)
    assert [path.name for path in written.parent.iterdir()] == ["v1"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0.1, 0.5, 0.999])
def test_a_flipped_byte_is_refused_and_the_file_named(copy: Path, name: str, where: float) -> None:
    raw = bytearray((copy / name).read_bytes())
    raw[int(where * len(raw))] ^= 1
    (copy / name).write_bytes(raw)
    with pytest.raises(ArtifactError, match=name):
        load_artifact(copy)


@pytest.mark.parametrize(
    "old", ['"chef-large"', '"ROUTE"', '"n_rows": 150', '"cosine-int8"', '"scores"', '"tier": "static"']
)
def test_the_manifest_vouches_for_itself(copy: Path, old: str) -> None:
    text = (copy / "manifest.json").read_text()
    assert old in text
    (copy / "manifest.json").write_text(text.replace(old, old.replace(old[-2], "9" if old[-2].isdigit() else "X")))
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load_artifact(copy)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"]")


def link(path: Path) -> None:
    target = path.parent.parent / f"elsewhere-{path.name}"
    path.rename(target)
    path.symlink_to(target)


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "name",
    [
        *("manifest.json", "won.npy", "learned.json", "prompts.jsonl"),
        *("static/vectors.npy", "static/learned.json", "static/encoder/model.onnx"),
    ],
)
@pytest.mark.parametrize("damage", [Path.unlink, truncate, lengthen, link, make_directory])
def test_damaged_files_are_refused_and_named(copy: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(copy / name)
    with pytest.raises(ArtifactError, match=name):
        load_artifact(copy)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads((path / "manifest.json").read_bytes())
    change(raw)
    (path / "manifest.json").write_text(json.dumps(raw))


def resign(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and give it the id of its new contents, so that it vouches for itself."""
    edit(path, change)
    edit(path, lambda raw: raw.update(artifact_id=_artifact_id(raw)))


def vouch(path: Path) -> None:
    """Write every hash anew, in both places, so that nothing but the content itself can be refused."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    contents = {name: (path / name).read_bytes() for name in manifest["files"]}
    canaries = json.loads(contents[CANARIES]) | {"fingerprints": _fingerprints(contents)}
    canaries["encoders"] = {
        tier: encoder_id({name: contents[f"{tier}/encoder/{name}"] for name in ENCODER_FILES})
        for tier in manifest["tiers"]
    }
    contents[CANARIES] = json.dumps(canaries).encode()
    (path / CANARIES).write_bytes(contents[CANARIES])
    entries = {name: {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)} for name, raw in contents.items()}
    resign(path, lambda raw: raw.update(files=entries))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda raw: raw.update(format_version=3), "format_version 3, this version reads 5"),
        (lambda raw: raw.pop("format_version"), "format_version None"),
        (lambda raw: raw.update(artifact_id="0" * 16), "artifact_id"),
        (lambda raw: raw.pop("artifact_id"), "artifact_id"),
        (lambda raw: raw.update(files=[]), "'files'|manifest.json"),
        (lambda raw: raw["files"].pop("won.npy"), "'files'|manifest.json"),
        (lambda raw: raw["files"].update({"../x": {"sha256": "", "bytes": 0}}), "'files'|manifest.json"),
        (lambda raw: raw["files"].update({"won.npy": None}), "won.npy|manifest.json"),
        (lambda raw: raw["files"].update({"won.npy": "x"}), "won.npy|manifest.json"),
        (lambda raw: raw["files"]["won.npy"].pop("sha256"), "won.npy|manifest.json"),
    ],
)
def test_wrong_manifests_are_refused(copy: Path, change: Callable[[dict[str, Any]], object], wanted: str) -> None:
    edit(copy, change)
    with pytest.raises(ArtifactError, match=wanted):
        load_artifact(copy)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_no_object(copy: Path, raw: bytes) -> None:
    (copy / "manifest.json").write_bytes(raw)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load_artifact(copy)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such directory"):
        load_artifact(tmp_path / "none")


def renamed(encoder: OnnxEncoder) -> OnnxEncoder:
    raw = json.dumps(encoder.settings.to_json() | {"name": "another"}).encode()
    return OnnxEncoder(encoder.files | {"encoder.json": raw}, where="another")


def test_a_foreign_encoder_is_refused(full: RouterArtifact, written: Path, tmp_path: Path) -> None:
    """Files and hashes all agree, but the vectors were made by the encoder that the manifest pins."""
    with_best(full, encoder=renamed(full.best.encoder)).write(tmp_path / "v1")
    pinned = json.loads((written / "manifest.json").read_bytes())["pins"]
    resign(tmp_path / "v1", lambda raw: raw.update(pins=pinned))
    with pytest.raises(ArtifactError, match=r"manifest\.json: .* name 'minilm-l6-intents-static-256', got 'another'"):
        load_artifact(tmp_path / "v1")


PINS = {
    "tier": "full",
    "dim": 128,
    "truncation": "head",
    "max_tokens": 128,
    "chars_per_token": 4,
    "prefix_ids": [101],
    "suffix_ids": [102],
    "unknown_token": "<unk>",
    "tokenizer_sha256": "0" * 64,
    "model_sha256": "0" * 64,
    "name": "another",
    "metric": "euclidean",
    "folding": "last-turn-1",
    "features": "surface-0",
    "n_features": 24,
    "encoder_id": "0" * 64,
}


def test_every_pin_is_known_to_the_tests(full: RouterArtifact) -> None:
    assert list(PINS) == list(pins_of(full.best.encoder))


@pytest.mark.parametrize("name", PINS)
def test_a_pin_that_differs_is_refused_by_name_although_every_hash_agrees(
    full: RouterArtifact, copy: Path, name: str
) -> None:
    own = pins_of(full.best.encoder)[name]
    for wrong in (PINS[name], None):
        resign(copy, lambda raw, wrong=wrong: raw["pins"]["static"].update({name: wrong}))
        with pytest.raises(ArtifactError) as refusal:
            load_artifact(copy)
        expected = f"{copy}/manifest.json: the vectors were made with {name} {wrong!r}, got {own!r}; train it again"
        assert str(refusal.value) == expected
    resign(copy, lambda raw: raw["pins"]["static"].pop(name))
    with pytest.raises(ArtifactError, match=rf"manifest\.json: .* with {name} None, got"):
        load_artifact(copy)
    resign(copy, lambda raw: raw["pins"]["static"].update({name: own, "warp": 9}))
    with pytest.raises(ArtifactError, match=r"manifest\.json: .* with warp 9, got None"):
        load_artifact(copy)


def other_words(raw: bytes) -> bytes:
    tokenizer = json.loads(raw)
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["bread"], vocabulary["server"] = vocabulary["server"], vocabulary["bread"]
    return json.dumps(tokenizer).encode()


def other_weights(raw: bytes) -> bytes:
    half = len(raw) // 2  # far inside the table of token vectors
    return raw[:half] + bytes([raw[half] ^ 1]) + raw[half + 1 :]


def other_end(raw: bytes) -> bytes:
    return raw.replace(b'"middle"', b'"ends"')


def without_canaries(raw: bytes) -> bytes:
    return json.dumps(json.loads(raw) | {"canaries": []}).encode()


@pytest.mark.parametrize(
    ("name", "change", "pin"),
    [
        ("tokenizer.json", other_words, "tokenizer_sha256"),
        ("model.onnx", other_weights, "model_sha256"),
        ("encoder.json", other_end, "truncation"),
        ("encoder.json", without_canaries, "encoder_id"),
    ],
)
def test_a_swapped_file_of_the_encoder_is_refused_although_every_hash_agrees(
    copy: Path, name: str, change: Callable[[bytes], bytes], pin: str
) -> None:
    path = copy / "static" / "encoder" / name
    raw = change(path.read_bytes())
    assert raw != path.read_bytes()
    path.write_bytes(raw)
    OnnxEncoder.load(copy / "static" / "encoder")  # works by itself: only the vectors are not of its making
    entry = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    resign(copy, lambda manifest: manifest["files"].update({f"static/encoder/{name}": entry}))
    with pytest.raises(ArtifactError, match=r"static/encoder: altered, its id is not the one in canaries\.json"):
        load_artifact(copy)
    vouch(copy)
    with pytest.raises(ArtifactError, match=rf"manifest\.json: the vectors were made with {pin} .*, got "):
        load_artifact(copy)


def test_an_encoder_of_another_dimension_is_refused(
    full: RouterArtifact, tmp_path: Path, write_spoilt: Callable[[RouterArtifact, Path], object]
) -> None:
    dim = full.best.vectors.shape[1]
    narrow = round_points(full.best.vectors[:, :-1].astype(np.float32))
    write_spoilt(with_best(full, vectors=narrow), tmp_path / "v1")
    with pytest.raises(ArtifactError, match=rf"vectors\.npy: {dim - 1} dimensions, .* give {dim}"):
        load_artifact(tmp_path / "v1")


def spoilt(array: Any, value: float) -> Any:
    out = np.array(array)
    out.flat[1] = value
    return out


@pytest.mark.parametrize("change", [lambda one: one.pop("contrast_slope"), lambda one: one.update(hurry=1.0)])
def test_settings_of_another_form_are_refused(
    full: RouterArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], object]
) -> None:
    learned = full.best._learned()
    change(learned["settings"])
    monkeypatch.setattr(Tier, "_learned", lambda self: learned)
    full.write(tmp_path / "v1")
    with pytest.raises(
        ArtifactError, match=r"static/learned\.json: .*settings must be exactly n_neighbors, .*contrast_slope"
    ):
        load_artifact(tmp_path / "v1")


def with_evidence(**changes: Any) -> Callable[[RouterArtifact], RouterArtifact]:
    """Change fields of the evidence; each change is made from the evidence as it is."""

    def spoil(artifact: RouterArtifact) -> RouterArtifact:
        evidence = artifact.best.evidence
        changed = {name: change(evidence) for name, change in changes.items()}
        return with_best(artifact, evidence=replace(evidence, **changed))

    return spoil


def with_space(**changes: Any) -> Callable[[RouterArtifact], RouterArtifact]:
    """Change fields of the space; each change is made from the space as it is."""
    return lambda one: with_best(
        one, space=replace(one.best.space, **{name: change(one.best.space) for name, change in changes.items()})
    )


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (with_evidence(g=lambda one: spoilt(one.g, np.nan)), "evidence_g.npy.*NaN"),
        (with_evidence(h=lambda one: spoilt(one.h, np.inf)), "evidence_h.npy.*NaN"),
        (with_evidence(h=lambda one: spoilt(one.h, -1)), "evidence_h.npy.*negative"),
        (with_evidence(intents=lambda one: spoilt(one.intents, 3)), "intents.npy"),
        (with_evidence(intents=lambda one: spoilt(one.intents, -2)), "intents.npy"),
        (with_evidence(intents=lambda one: one.intents.astype(np.int64)), "intents.npy.*int32"),
        (with_evidence(g=lambda one: one.g[:-1]), "evidence_g.npy.*shape"),
        (with_evidence(sizes=lambda one: spoilt(one.sizes, np.nan)), "sizes.npy.*NaN"),
        (with_evidence(sizes=lambda one: spoilt(one.sizes, -1)), "sizes.npy.*negative"),
        (with_evidence(sizes=lambda one: one.sizes[:-1]), "sizes.npy.*shape"),
        (with_evidence(prior=lambda one: one.prior[:-1]), "learned.json"),
        (with_evidence(variance=lambda one: -one.variance), "negative"),
        (with_evidence(kind=lambda one: "ratings"), "learned.json.*kind"),
        (lambda one: with_best(one, vectors=one.best.vectors // 2), "static/vectors.npy.*must be 127"),
        (lambda one: with_best(one, vectors=spoilt(one.best.vectors, -128)), "static/vectors.npy.*must be 127"),
        (lambda one: with_best(one, vectors=one.best.vectors * 0), "static/vectors.npy.*must be 127"),
        (lambda one: with_best(one, vectors=one.best.vectors[:0]), "static/vectors.npy.*shape"),
        (lambda one: with_best(one, vectors=one.best.vectors.astype(np.float16)), "static/vectors.npy.*int8"),
        (lambda one: with_best(one, strategies={"quality": None}), "static/learned.json.*strategies must be"),
        (lambda one: with_best(one, strategies=one.strategies | {"cheap": 0.0}), "static/learned.json.*strategies"),
        (lambda one: replace(one, default_strategy="lavish"), "learned.json.*default_strategy"),
        (lambda one: replace(one, won=one.won[:, :-1]), "won.npy.*shape"),
        (lambda one: replace(one, prompt_hashes=one.prompt_hashes[:, :8]), "prompt_hashes.npy.*shape"),
        (lambda one: replace(one, prompts=one.prompts[1:]), "prompts.jsonl: 149 prompts for 150 rows"),
        (lambda one: replace(one, best_fixed="elsewhere"), "best_fixed"),
        (lambda one: replace(one, models=("m", "m", "n"), best_fixed="m"), "learned.json"),
        (lambda one: replace(one, intents=one.intents[:-1]), "learned.json|intents.npy"),
        (lambda one: replace(one, intents=(*one.intents[:-1], one.intents[0])), "learned.json.*2 different of 3"),
        (lambda one: replace(one, intents_from="guessed"), "learned.json.*intents_from 'guessed'"),
        (lambda one: replace(one, intents_from="none"), "learned.json.*intents_from 'none' with 3"),
        (lambda one: replace(one, intent_quality=one.intent_quality[1:]), "learned.json intent_quality.*shape"),
        (lambda one: replace(one, intent_quality=one.intent_quality + 1), "learned.json.*within 0 and 1"),
        (with_space(feature_scale=lambda one: one.feature_scale * 0), "static/learned.json"),
        (with_space(feature_scale=lambda one: one.feature_scale * 1e-300), "static/learned.json.*feature scales"),
        (with_space(feature_weight=lambda one: 1e300), "static/learned.json.*their weight"),
        (with_space(center=lambda one: one.center * 1e6), "static/learned.json: center must be within"),
        (with_evidence(g=lambda one: spoilt(one.g, 3e38)), r"evidence_g\.npy: a number beyond 1e\+09"),
        (with_evidence(prior=lambda one: one.prior * 1e300), r"learned\.json prior: a number beyond"),
        (lambda one: with_best(one, verdict=replace(one.verdict, label="ROUTF")), "the verdict must be ROUTE, DO NOT"),
        (
            lambda one: with_best(one, verdict=replace(one.verdict, best_fixed="x")),
            "a model that the artifact does not",
        ),
        (lambda one: replace(one, models=one.models[:1]), r"learned\.json.*models: expected 2 to 1000, got 1"),
        (with_space(center=lambda one: one.center[1:]), "static/learned.json.*center"),
    ],
)
def test_impossible_numbers_are_refused_although_every_hash_agrees(
    full: RouterArtifact,
    tmp_path: Path,
    spoil: Callable[[RouterArtifact], RouterArtifact],
    wanted: str,
    write_spoilt: Callable[[RouterArtifact, Path], object],
) -> None:
    write_spoilt(spoil(full), tmp_path / "v1")
    with pytest.raises(ArtifactError, match=wanted):
        load_artifact(tmp_path / "v1")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY\x01\x00", b"\x80\x04\x95 a pickle"])
def test_what_is_no_array_is_refused_although_every_hash_agrees(
    full: RouterArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr("router.tier.npy_bytes", lambda array: content)
    full.write(tmp_path / "v1")
    with pytest.raises(ArtifactError, match=r"static/vectors\.npy: (not a|expected a)"):
        load_artifact(tmp_path / "v1")


def test_a_broken_encoder_inside_is_named(
    full: RouterArtifact, tmp_path: Path, write_spoilt: Callable[[RouterArtifact, Path], object]
) -> None:
    broken = OnnxEncoder(full.best.encoder.files, where="copy")
    broken.files = broken.files | {"model.onnx": b"no graph"}
    write_spoilt(with_best(full, encoder=broken), tmp_path / "v1")
    with pytest.raises(EncoderError, match=r"v1/static/encoder/model\.onnx"):
        load_artifact(tmp_path / "v1")


def test_write_replaces_an_artifact_but_nothing_else(
    artifact: RouterArtifact, full: RouterArtifact, tmp_path: Path
) -> None:
    target = tmp_path / "deep" / "v1"
    full.write(target)
    replaced = artifact.write(target)
    assert load_artifact(target).prompts is None and load_artifact(target).id == replaced.id
    (tmp_path / "empty").mkdir()
    artifact.write(tmp_path / "empty")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    for name, wanted in (("mine", "will not be replaced"), ("file", "is a file"), ("file/below", "file/below")):
        with pytest.raises(ArtifactError, match=wanted):
            artifact.write(tmp_path / name)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "a file"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "empty", "file", "mine"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["v1"]


@pytest.mark.parametrize("n_calls", [0, 5, N_SYNCS - 1])
@pytest.mark.parametrize("existing", [False, True])
def test_a_write_that_fails_midway_leaves_nothing_half_written(
    artifact: RouterArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool, n_calls: int
) -> None:
    target = tmp_path / "v1"
    before = artifact.write(target).id if existing else None
    calls = iter(range(n_calls + 1))

    def full_disk(descriptor: int) -> None:
        if next(calls) == n_calls:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("router.files.os.fsync", full_disk)
        changed = with_best(artifact, report={"n_prompts": 0})
        if n_calls == N_SYNCS - 1:  # the directory is synced last, when the artifact is already in place
            with pytest.raises(RouterError, match="No space left"):
                changed.write(target)
            return
        with pytest.raises(ArtifactError, match="v1: cannot be written: No space left"):
            changed.write(target)
    assert [path.name for path in tmp_path.iterdir()] == (["v1"] if existing else [])
    if existing:
        assert load_artifact(target).id == before


def test_a_report_that_is_no_json_leaves_nothing_behind(artifact: RouterArtifact, tmp_path: Path) -> None:
    with pytest.raises((ValueError, ArtifactError)):
        with_best(artifact, report={"gain": float("nan")}).write(tmp_path / "v1")
    assert list(tmp_path.iterdir()) == []


def test_a_swap_that_fails_gives_the_old_artifact_back(
    artifact: RouterArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "v1"
    before = artifact.write(target).id
    rename = Path.rename

    def failing(self: Path, to: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(ArtifactError, match="Input/output"):
            with_best(artifact, report={}).write(target)
    assert load_artifact(target).id == before
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]


def test_stale_leftovers_of_a_killed_write_do_not_block_the_next(artifact: RouterArtifact, tmp_path: Path) -> None:
    target = tmp_path / "v1"
    artifact.write(target)
    for suffix in ("tmp", "old"):
        (tmp_path / f".v1.{os.getpid()}.{suffix}" / "encoder").mkdir(parents=True)
    artifact.write(target)
    assert load_artifact(target).models == artifact.models


def test_litter_of_a_killed_writer_is_undone(artifact: RouterArtifact, tmp_path: Path) -> None:
    target = tmp_path / "art"
    whole = artifact.write(target)
    dead = 2**22 + 1  # above the largest process number
    target.rename(tmp_path / f".art.{dead}.old")
    (tmp_path / f".art.{dead}.tmp").mkdir()
    tidy(target)
    assert load_artifact(target).id == whole.id
    assert [one.name for one in tmp_path.iterdir()] == ["art"]


def test_an_interrupt_while_swapping_keeps_the_artifact(
    artifact: RouterArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "art"
    whole = artifact.write(target)
    rename = Path.rename

    def interrupted(self: Path, to: Path) -> Path:
        if self.suffix == ".tmp":
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        artifact.write(target)
    assert load_artifact(target).id == whole.id
    assert [one.name for one in tmp_path.iterdir()] == ["art"]


def test_a_link_is_followed_not_replaced(artifact: RouterArtifact, tmp_path: Path) -> None:
    (tmp_path / "live").symlink_to("v1")
    whole = artifact.write(tmp_path / "live")
    assert (tmp_path / "live").is_symlink()
    assert load_artifact(tmp_path / "v1").id == whole.id


@pytest.fixture(scope="module")
def written_both(both_tiers: RouterArtifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("written") / "v1"
    with_everything(both_tiers).write(directory)
    return directory


@pytest.fixture
def copy_of_both(written_both: Path) -> Iterator[Path]:
    """Thirty megabytes that are not copied for every test: whoever changes a file is put right afterwards."""
    before = {name: (written_both / name).read_bytes() for name in BOTH_FILES}
    yield written_both
    for name, raw in before.items():
        if (written_both / name).read_bytes() != raw:
            (written_both / name).write_bytes(raw)


def test_two_tiers_are_read_back_bit_equal(both_tiers: RouterArtifact, written_both: Path, tmp_path: Path) -> None:
    loaded = load_artifact(written_both)
    for one in fields(RouterArtifact):
        if one.name != "id":
            same(getattr(with_everything(both_tiers), one.name), getattr(loaded, one.name))
    assert [one.name for one in loaded.tiers] == ["full", "static"]
    assert loaded.best is loaded.tiers[0] and loaded.verdict is loaded.best.verdict
    assert loaded.tiers[0].evidence.intents is loaded.tiers[1].evidence.intents
    again = loaded.write(tmp_path / "again")
    assert again.id == loaded.id
    found = {str(path.relative_to(written_both)) for path in written_both.rglob("*") if path.is_file()}
    assert found == set(BOTH_FILES)
    assert all((written_both / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in BOTH_FILES)


@pytest.mark.parametrize("name", BOTH_FILES)
def test_a_flipped_byte_of_either_tier_is_refused_and_the_file_named(copy_of_both: Path, name: str) -> None:
    raw = bytearray((copy_of_both / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (copy_of_both / name).write_bytes(raw)
    with pytest.raises(ArtifactError, match=f"v1/{name}"):
        load_artifact(copy_of_both)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda raw: raw.update(tiers=["static", "full"]), r"'tiers' must be of full, static, in this order; got"),
        (lambda raw: raw.update(tiers=["full", "full"]), "'tiers' must be"),
        (lambda raw: raw.update(tiers=["full", "static", "static"]), "'tiers' must be"),
        (lambda raw: raw.update(tiers=["full", "turbo"]), "'tiers' must be"),
        (lambda raw: raw.update(tiers=[]), "'tiers' must be"),
        (lambda raw: raw.update(tiers=[{}]), "'tiers' must be"),
        (lambda raw: raw.update(tiers="full"), "'tiers' must be"),
        (lambda raw: raw.pop("tiers"), "'tiers' must be"),
        (lambda raw: raw.update(pins=None), "'pins' must say of each tier"),
        (lambda raw: raw["pins"].pop("static"), "'pins' must say of each tier"),
        (lambda raw: raw["pins"].update(static=None), "'pins' must say what made the vectors"),
        (lambda raw: raw["pins"].update(static=raw["pins"]["full"]), "the vectors were made with tier 'full', got 's"),
        (lambda raw: raw.update(kind="battles"), "kind 'battles', but the files say 'scores'"),
        (lambda raw: raw.update(n_rows=151), "n_rows 151, but the files say 150"),
        (lambda raw: raw.update(n_rows=10**9), "n_rows must be within 1 and"),
        (lambda raw: raw.update(n_rows=True), "n_rows must be within 1 and"),
        (lambda raw: raw["models"].reverse(), "models .*, but the files say"),
        (lambda raw: raw["verdict"].update(label="NOT ENOUGH DATA"), "verdict .*, but the files say"),
        (lambda raw: raw.update(note="mine"), "expected exactly artifact_id, files, format_version"),
        (lambda raw: raw.pop("verdict"), "expected exactly artifact_id, files, format_version"),
        (lambda raw: raw["files"]["won.npy"].update(bytes=1 << 40), r"won\.npy: 1099511627776 bytes is out of range"),
        (lambda raw: raw["files"]["learned.json"].update(bytes=-1), r"learned\.json: -1 bytes is out of range"),
        (lambda raw: raw["files"]["won.npy"].update(bytes=float(raw["files"]["won.npy"]["bytes"])), "expected sha256"),
        (lambda raw: raw["files"]["won.npy"].update(sha256="0" * 63 + "G"), r"won\.npy: expected sha256"),
        (lambda raw: raw["files"].pop("static/vectors.npy"), "'files' must name exactly"),
        (lambda raw: raw["files"].pop("full/report.json"), "'files' must name exactly"),
        (lambda raw: raw["files"].update({"turbo/vectors.npy": {}}), "'files' must name exactly"),
        (lambda raw: (raw.update(tiers=["full"]), raw["pins"].pop("static")), "'files' must name exactly"),
    ],
)
def test_wrong_tiers_are_refused_although_the_manifest_vouches_for_them(
    copy_of_both: Path, change: Callable[[dict[str, Any]], object], wanted: str
) -> None:
    raw = json.loads((copy_of_both / "manifest.json").read_bytes())
    change(raw)
    raw["artifact_id"] = _artifact_id(raw)
    (copy_of_both / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(ArtifactError, match=r"manifest\.json: .*" + wanted):
        load_artifact(copy_of_both)


def test_an_encoder_under_the_name_of_another_tier_is_refused(copy: Path) -> None:
    """Hashes and pins agree; only the directory says what the encoder is not."""
    (copy / "static").rename(copy / "full")

    def rename(raw: dict[str, Any]) -> None:
        raw.update(tiers=["full"], pins={"full": raw["pins"]["static"]})
        raw["files"] = {name.replace("static/", "full/"): entry for name, entry in raw["files"].items()}

    resign(copy, rename)
    with pytest.raises(ArtifactError, match=r"canaries\.json: 'encoders' must be of exactly full"):
        load_artifact(copy)
    vouch(copy)
    with pytest.raises(ArtifactError, match="copy/full/encoder: an encoder of the tier static, expected full"):
        load_artifact(copy)


def test_tiers_have_one_order_and_different_names(both_tiers: RouterArtifact) -> None:
    full, static = both_tiers.tiers
    for wrong in ((), (static, full), (full, full), (full, static, static)):
        with pytest.raises(ValueError, match="tiers must be of full, static, in this order"):
            replace(both_tiers, tiers=wrong)


def test_one_tier_of_two(both_tiers: RouterArtifact, artifact: RouterArtifact) -> None:
    full, static = both_tiers.tiers
    assert both_tiers.only().tiers == (full,) and both_tiers.only("static").tiers == (static,)
    assert both_tiers.only("static").models == both_tiers.models
    with pytest.raises(ConfigError, match="has no full tier; it has static"):
        artifact.only("full")
    with pytest.raises(ConfigError, match="has no turbo tier; it has full and static"):
        both_tiers.only("turbo")


@pytest.mark.parametrize("at", [0, 1])
def test_rows_that_one_tier_has_and_the_other_has_not_are_refused(
    both_tiers: RouterArtifact, tmp_path: Path, at: int
) -> None:
    tiers = list(both_tiers.tiers)
    tiers[at] = replace(tiers[at], vectors=tiers[at].vectors[:-1])
    replace(both_tiers, tiers=tuple(tiers)).write(tmp_path / "v1")
    with pytest.raises(ArtifactError, match=rf"v1/{tiers[at].name}/vectors\.npy: shape"):
        load_artifact(tmp_path / "v1")
