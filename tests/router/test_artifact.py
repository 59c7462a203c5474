"""router/artifact.py: what is written is read back bit for bit, and anything else is refused by name."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.artifact import REQUIRED, RouterArtifact, _artifact_id, _tidy, load_artifact
from router.encoder import OnnxEncoder
from router.errors import ArtifactError, EncoderError, RouterError
from router.estimate import Evidence
from router.pins import pins_of
from router.prompt import Template
from router.space import Space

FILES = ("manifest.json", *REQUIRED, "prompts.jsonl")


@pytest.fixture(scope="module")
def full(artifact: RouterArtifact) -> RouterArtifact:
    """With everything optional in it."""
    prompts = tuple(f"prompt {row} \ud800\n\u2028" for row in range(len(artifact.vectors)))
    return replace(artifact, prompts=prompts, template=Template(("Q: é", "A"), ("end\n",)))


@pytest.fixture(scope="module")
def written(full: RouterArtifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("written") / "v1"
    full.write(directory)
    return directory


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


def same(a: Any, b: Any) -> None:
    """Compare two values of the artifact, arrays bit for bit."""
    assert type(a) is type(b)
    if isinstance(a, Evidence | Space):
        for one in fields(a):
            same(getattr(a, one.name), getattr(b, one.name))
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
    "name", ["manifest.json", "vectors.npy", "learned.json", "prompts.jsonl", "encoder/model.onnx"]
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


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda raw: raw.update(format_version=2), "format_version 2, this version reads 3"),
        (lambda raw: raw.pop("format_version"), "format_version None"),
        (lambda raw: raw.update(artifact_id="0" * 16), "artifact_id"),
        (lambda raw: raw.pop("artifact_id"), "artifact_id"),
        (lambda raw: raw.update(files=[]), "'files'|manifest.json"),
        (lambda raw: raw["files"].pop("won.npy"), "'files'|manifest.json"),
        (lambda raw: raw["files"].update({"../x": {"sha256": "", "bytes": 0}}), "'files'|manifest.json"),
        (lambda raw: raw["files"].update({"won.npy": None}), "won.npy|manifest.json"),
        (lambda raw: raw["files"].update({"won.npy": "x"}), "won.npy|manifest.json"),
        (lambda raw: raw["files"]["won.npy"].pop("sha256"), "won.npy|manifest.json"),
        (lambda raw: raw.update(pins=None), "manifest.json"),
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
    replace(full, encoder=renamed(full.encoder)).write(tmp_path / "v1")
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
    "n_features": 23,
    "encoder_id": "0" * 64,
}


def test_every_pin_is_known_to_the_tests(full: RouterArtifact) -> None:
    assert list(PINS) == list(pins_of(full.encoder))


@pytest.mark.parametrize("name", PINS)
def test_a_pin_that_differs_is_refused_by_name_although_every_hash_agrees(
    full: RouterArtifact, copy: Path, name: str
) -> None:
    own = pins_of(full.encoder)[name]
    for wrong in (PINS[name], None):
        resign(copy, lambda raw, wrong=wrong: raw["pins"].update({name: wrong}))
        with pytest.raises(ArtifactError) as refusal:
            load_artifact(copy)
        expected = f"{copy}/manifest.json: the vectors were made with {name} {wrong!r}, got {own!r}; train it again"
        assert str(refusal.value) == expected
    resign(copy, lambda raw: raw["pins"].pop(name))
    with pytest.raises(ArtifactError, match=rf"manifest\.json: .* with {name} None, got"):
        load_artifact(copy)
    resign(copy, lambda raw: raw["pins"].update({name: own, "warp": 9}))
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
    path = copy / "encoder" / name
    raw = change(path.read_bytes())
    assert raw != path.read_bytes()
    path.write_bytes(raw)
    OnnxEncoder.load(copy / "encoder")  # works by itself: only the vectors are not of its making
    entry = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    resign(copy, lambda manifest: manifest["files"].update({f"encoder/{name}": entry}))
    with pytest.raises(ArtifactError, match=rf"manifest\.json: the vectors were made with {pin} .*, got "):
        load_artifact(copy)


def test_an_encoder_of_another_dimension_is_refused(full: RouterArtifact, tmp_path: Path) -> None:
    narrow = full.vectors[:, :-1].astype(np.float32)
    narrow /= np.linalg.norm(narrow, axis=1, keepdims=True)
    replace(full, vectors=narrow.astype(np.float16)).write(tmp_path / "v1")
    dim = full.vectors.shape[1]
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
    learned = full._learned()
    change(learned["settings"])
    monkeypatch.setattr(RouterArtifact, "_learned", lambda self: learned)
    full.write(tmp_path / "v1")
    with pytest.raises(ArtifactError, match=r"settings must be exactly n_neighbors, .*contrast_slope"):
        load_artifact(tmp_path / "v1")


def with_evidence(**changes: Any) -> Callable[[RouterArtifact], RouterArtifact]:
    return lambda one: replace(
        one, evidence=replace(one.evidence, **{name: change(one) for name, change in changes.items()})
    )


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (with_evidence(g=lambda one: spoilt(one.evidence.g, np.nan)), "evidence_g.npy.*NaN"),
        (with_evidence(h=lambda one: spoilt(one.evidence.h, np.inf)), "evidence_h.npy.*NaN"),
        (with_evidence(h=lambda one: spoilt(one.evidence.h, -1)), "evidence_h.npy.*negative"),
        (with_evidence(intents=lambda one: spoilt(one.evidence.intents, 3)), "intents.npy"),
        (with_evidence(intents=lambda one: spoilt(one.evidence.intents, -2)), "intents.npy"),
        (with_evidence(intents=lambda one: one.evidence.intents.astype(np.int64)), "intents.npy.*int32"),
        (with_evidence(g=lambda one: one.evidence.g[:-1]), "evidence_g.npy.*shape"),
        (with_evidence(sizes=lambda one: spoilt(one.evidence.sizes, np.nan)), "sizes.npy.*NaN"),
        (with_evidence(sizes=lambda one: spoilt(one.evidence.sizes, -1)), "sizes.npy.*negative"),
        (with_evidence(sizes=lambda one: one.evidence.sizes[:-1]), "sizes.npy.*shape"),
        (with_evidence(prior=lambda one: one.evidence.prior[:-1]), "learned.json"),
        (with_evidence(variance=lambda one: -one.evidence.variance), "negative"),
        (with_evidence(kind=lambda one: "ratings"), "learned.json.*kind"),
        (lambda one: replace(one, vectors=spoilt(one.vectors, np.nan)), "vectors.npy"),
        (lambda one: replace(one, vectors=one.vectors * 2), "vectors.npy.*unit"),
        (lambda one: replace(one, vectors=one.vectors[:0]), "npy"),
        (lambda one: replace(one, vectors=one.vectors.astype(np.float32)), "vectors.npy.*float16"),
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
        (lambda one: replace(one, space=replace(one.space, feature_scale=one.space.feature_scale * 0)), "learned.json"),
        (lambda one: replace(one, space=replace(one.space, center=one.space.center[1:])), "learned.json.*center"),
    ],
)
def test_impossible_numbers_are_refused_although_every_hash_agrees(
    full: RouterArtifact, tmp_path: Path, spoil: Callable[[RouterArtifact], RouterArtifact], wanted: str
) -> None:
    spoil(full).write(tmp_path / "v1")
    with pytest.raises(ArtifactError, match=wanted):
        load_artifact(tmp_path / "v1")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY\x01\x00", b"\x80\x04\x95 a pickle"])
def test_what_is_no_array_is_refused_although_every_hash_agrees(
    full: RouterArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr("router.artifact._npy", lambda array: content)
    full.write(tmp_path / "v1")
    with pytest.raises(ArtifactError, match="npy"):
        load_artifact(tmp_path / "v1")


def test_a_broken_encoder_inside_is_named(full: RouterArtifact, tmp_path: Path) -> None:
    broken = OnnxEncoder(full.encoder.files, where="copy")
    broken.files = broken.files | {"model.onnx": b"no graph"}
    replace(full, encoder=broken).write(tmp_path / "v1")
    with pytest.raises(EncoderError, match=r"v1/encoder/model\.onnx"):
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


@pytest.mark.parametrize("n_calls", [0, 5, 13])
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
        patch.setattr("router.artifact.os.fsync", full_disk)
        changed = replace(artifact, report={"n_prompts": 0})
        if n_calls == 13:  # the directory is synced last, when the artifact is already in place
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
        replace(artifact, report={"gain": float("nan")}).write(tmp_path / "v1")
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
            replace(artifact, report={}).write(target)
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
    _tidy(target)
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
