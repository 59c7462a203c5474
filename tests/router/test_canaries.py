"""router/canaries.py: the answers that an artifact stores are asked again, and its files are what they were."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.artifact import RouterArtifact, load_artifact
from router.canaries import (
    CANARIES,
    MAX_ESTIMATE_ERROR,
    MAX_SIMILARITY_ERROR,
    MIN_COSINE,
    PROMPTS,
    SHOWN_ROWS,
    _choice,
    _nearest,
    canaries_of,
    check_canaries,
    read_canaries,
)
from router.encoder import Encoding, OnnxEncoder
from router.errors import ArtifactError
from router.index import NeighborIndex, round_points
from router.types import JsonObject

PATH = Path("v1/canaries.json")


@pytest.fixture(scope="module")
def stored(artifact: RouterArtifact) -> str:
    return json.dumps(canaries(artifact))


def canaries(artifact: RouterArtifact) -> JsonObject:
    return canaries_of(artifact.tiers, {"won.npy": b"x"}, artifact.template, artifact.models, artifact.best_fixed)


def check(artifact: RouterArtifact, raw: JsonObject) -> None:
    check_canaries(raw, artifact.tiers, artifact.template, artifact.models, artifact.best_fixed, PATH)


def with_tier(artifact: RouterArtifact, **changes: Any) -> RouterArtifact:
    return replace(artifact, tiers=(replace(artifact.best, **changes),))


def test_the_prompts_are_many_and_of_many_kinds(encoder: OnnxEncoder) -> None:
    assert len(PROMPTS) == len(set(PROMPTS)) >= 20
    lengths = [len(encoder.token_ids(one)) for one in PROMPTS]
    assert min(lengths) <= 2 and max(lengths) >= 256
    assert any("def " in one for one in PROMPTS) and any("SELECT" in one for one in PROMPTS)
    assert sum(any("\u4e00" <= char <= "\u9fff" for char in one) for one in PROMPTS) >= 2


def test_the_same_artifact_gives_the_same_answers(artifact: RouterArtifact, stored: str) -> None:
    check(artifact, json.loads(stored))
    answers = json.loads(stored)["answers"]["static"]
    assert len(answers) == len(PROMPTS)
    assert all(len(one["rows"]) == SHOWN_ROWS and set(one["estimates"]) == set(artifact.models) for one in answers)
    assert {one["choice"] for one in answers} >= set(artifact.models)


def test_of_two_tiers_each_has_its_own(both_tiers: RouterArtifact) -> None:
    raw = canaries(both_tiers)
    check(both_tiers, raw)
    raw["answers"]["full"], raw["answers"]["static"] = raw["answers"]["static"], raw["answers"]["full"]
    with pytest.raises(ArtifactError, match=r"canaries\.json: full"):
        check(both_tiers, raw)


def flipped(array: np.ndarray, at: tuple[int, ...], value: float) -> np.ndarray:
    out = array.copy()
    out[at] = value
    return out


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda tier: {"vectors": tier.vectors[::-1].copy()}, "another nearest rows for the canary"),
        (lambda tier: {"vectors": flipped(tier.vectors, (slice(None), 0), 0)}, "another (nearest rows|similarities)"),
        (lambda tier: {"evidence": replace(tier.evidence, g=tier.evidence.g * 1.01)}, "another estimates"),
        (lambda tier: {"evidence": replace(tier.evidence, prior=tier.evidence.prior + 0.01)}, "another estimates"),
        (lambda tier: {"evidence": replace(tier.evidence, variance=tier.evidence.variance * 2)}, "another estimates"),
        (lambda tier: {"evidence": replace(tier.evidence, h=tier.evidence.h * 2)}, "another estimates"),
        (lambda tier: {"settings": replace(tier.settings, n_neighbors=21)}, "another estimates"),
        (lambda tier: {"settings": replace(tier.settings, guard_z=40.0)}, "another choice"),
        (lambda tier: {"space": replace(tier.space, center=tier.space.center * 0)}, "another point"),
        (lambda tier: {"space": replace(tier.space, feature_mean=tier.space.feature_mean + 9)}, "another point"),
    ],
)
def test_what_a_tier_does_otherwise_is_named(
    artifact: RouterArtifact, stored: str, change: Callable[[Any], dict[str, Any]], wanted: str
) -> None:
    with pytest.raises(ArtifactError, match=rf"canaries\.json: static: {wanted}"):
        check(with_tier(artifact, **change(artifact.best)), json.loads(stored))


class Turned:
    """An encoder whose vectors are turned a little, as another processor's might be; it keeps the tokens."""

    def __init__(self, encoder: OnnxEncoder, by: float, n_more: int = 0) -> None:
        self._encoder, self._by, self._n_more = encoder, by, n_more
        self.id, self.settings = encoder.id, encoder.settings

    def encode(self, text: str) -> Encoding:
        was = self._encoder.encode(text)
        noise = np.random.default_rng(len(text)).standard_normal(len(was.vector))
        vector = was.vector + self._by * noise / np.linalg.norm(noise)
        vector = (vector / np.linalg.norm(vector)).astype(np.float32)
        return replace(was, vector=vector, n_tokens=was.n_tokens + self._n_more)


def test_an_encoder_may_round_otherwise_but_not_be_another_one(artifact: RouterArtifact, stored: str) -> None:
    """From the stored points on nothing depends on the encoder: a small turn moves no row."""
    encoder = artifact.best.encoder
    check(with_tier(artifact, encoder=Turned(encoder, 0.02)), json.loads(stored))
    with pytest.raises(ArtifactError, match=rf"another point .*: expected a cosine of at least {MIN_COSINE}, got 0\.9"):
        check(with_tier(artifact, encoder=Turned(encoder, 0.3)), json.loads(stored))
    with pytest.raises(ArtifactError, match="another number of tokens for the canary"):
        check(with_tier(artifact, encoder=Turned(encoder, 0, n_more=1)), json.loads(stored))


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (lambda one: one["similarities"].__setitem__(0, one["similarities"][0] + 0.5 * MAX_SIMILARITY_ERROR), False),
        (lambda one: one["similarities"].__setitem__(0, one["similarities"][0] + 3 * MAX_SIMILARITY_ERROR), True),
        (lambda one: bump(one, 0.5 * MAX_ESTIMATE_ERROR), False),
        (lambda one: bump(one, 3 * MAX_ESTIMATE_ERROR), True),
        (lambda one: bump(one, float("nan")), True),
        (lambda one: one["rows"].reverse(), True),
        (lambda one: one["rows"].pop(), True),
        (lambda one: one["rows"].__setitem__(0, 0.5), True),
        (lambda one: one.update(choice="nobody"), True),
        (lambda one: one.update(choice=None), False),
        (lambda one: one.update(n_tokens=True), True),
        (lambda one: one.update(point=one["point"][2:]), True),
        (lambda one: one.update(point="zz" + one["point"][2:]), True),
        (lambda one: one.update(point="00" * (len(one["point"]) // 2)), True),
        (lambda one: one.pop("estimates"), True),
        (lambda one: one.update(estimates=[]), True),
        (lambda one: one["estimates"].popitem(), True),
        (lambda one: one["estimates"].update(more=[0, 0, 0, 0]), True),
        (lambda one: one.update(similarities=[10**400] * SHOWN_ROWS), True),
    ],
)
def test_a_stored_answer_beyond_the_tolerance_is_refused(
    artifact: RouterArtifact, stored: str, change: Callable[[Any], object], refused: bool
) -> None:
    raw = json.loads(stored)
    change(raw["answers"]["static"][4])
    if not refused:
        check(artifact, raw)
        return
    with pytest.raises(ArtifactError, match=r"canaries\.json: static: "):
        check(artifact, raw)


def bump(one: Any, by: float) -> None:
    first = next(iter(one["estimates"].values()))
    first[0] += by


@pytest.mark.parametrize(
    "answers", [None, [], {}, {"full": []}, {"static": None}, {"static": []}, {"static": [None] * len(PROMPTS)}]
)
def test_answers_of_another_form_are_refused(artifact: RouterArtifact, stored: str, answers: object) -> None:
    with pytest.raises(ArtifactError, match=r"canaries\.json: (static: not the answers|'answers' must be of every)"):
        check(artifact, json.loads(stored) | {"answers": answers})


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda raw: raw.update(version=2), "expected version 1"),
        (lambda raw: raw.pop("answers"), "expected version 1"),
        (lambda raw: raw.update(more=1), "expected version 1"),
        (lambda raw: raw.update(encoders=[]), "'encoders' must be of exactly static"),
        (lambda raw: raw["encoders"].update(full="x"), "'encoders' must be of exactly static"),
        (lambda raw: raw["encoders"].update(static="x"), "v1/static/encoder: altered, its id is not the one in"),
        (lambda raw: raw.update(fingerprints=None), "'fingerprints' must be of exactly won.npy"),
        (lambda raw: raw["fingerprints"].update(x="y"), "'fingerprints' must be of exactly won.npy"),
        (lambda raw: raw["fingerprints"].update({"won.npy": "y"}), "v1/won.npy: altered, its fingerprint is not"),
    ],
)
def test_a_file_that_does_not_vouch_for_the_others_is_refused(
    artifact: RouterArtifact, stored: str, change: Callable[[Any], object], wanted: str
) -> None:
    raw = json.loads(stored)
    contents = {"won.npy": b"x", "static/encoder/model.onnx": b"covered by its id"}
    encoders = {"static": artifact.best.encoder.id}
    assert read_canaries({**contents, CANARIES: stored.encode()}, encoders, Path("v1")) == raw
    change(raw)
    with pytest.raises(ArtifactError, match=wanted):
        read_canaries({**contents, CANARIES: json.dumps(raw).encode()}, encoders, Path("v1"))


def test_no_load_goes_without_them(artifact: RouterArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact.write(tmp_path / "v1")
    asked: list[str] = []
    encode = OnnxEncoder.encode

    def noting(self: OnnxEncoder, text: str) -> Encoding:
        asked.append(text)
        return encode(self, text)

    monkeypatch.setattr(OnnxEncoder, "encode", noting)
    load_artifact(tmp_path / "v1")
    assert set(asked) >= set(PROMPTS)


@given(
    seed=st.integers(0, 2**32 - 1),
    n_rows=st.integers(1, 120),
    n_different=st.integers(1, 12),
    n_neighbors=st.integers(1, 60),
)
def test_of_rows_alike_the_first_ones_are_the_nearest(
    seed: int, n_rows: int, n_different: int, n_neighbors: int
) -> None:
    """Against all rows sorted in full: what is alike to the last bit stands in the order of the rows."""
    rng = np.random.default_rng(seed)
    some = round_points(rng.standard_normal((n_different, 8)).astype(np.float32))
    points = some[rng.integers(n_different, size=n_rows)]
    queries = round_points(rng.standard_normal((3, 8)).astype(np.float32))
    index = NeighborIndex(points)
    found = _nearest(index, queries, n_neighbors)
    everything = index.search_many(queries.astype(np.float32), n_rows)
    for nth in range(3):
        similarity = dict(zip(everything.rows[nth].tolist(), everything.similarities[nth].tolist(), strict=True))
        wanted = sorted(range(n_rows), key=lambda row: (-similarity[row], row))[:n_neighbors]
        assert found.rows[nth].tolist() == wanted
        assert found.similarities[nth].tolist() == [similarity[row] for row in wanted]


@pytest.mark.parametrize(
    ("quality", "error", "guard_z", "wanted"),
    [
        ([0.5, 0.6, 0.2], 0.01, 1.0, 1),
        ([0.5, 0.6, 0.2], 0.2, 1.0, 0),
        ([0.7, 0.6, 0.2], 0.2, 1.0, 0),
        ([0.5, 0.6, 0.6002], 0.01, 1.0, -1),
        ([0.5, 0.6, 0.2], 0.1, 1.0, -1),
    ],
)
def test_a_choice_too_close_to_call_is_none(quality: list[float], error: float, guard_z: float, wanted: int) -> None:
    assert _choice(np.array(quality), np.full(3, error), 0, guard_z) == wanted
