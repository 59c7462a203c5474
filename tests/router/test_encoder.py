"""router/encoder.py, with the encoder that is shipped."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router.encoder import (
    ENCODER_FILES,
    TRUNCATIONS,
    EncoderSettings,
    Encoding,
    OnnxEncoder,
    check_canaries,
    embed,
    encoder_id,
    find_encoder,
)
from router.errors import EncoderError

MAX_SHIPPED_BYTES = 8_500_000
OUT_OF_VOCABULARY = "ꙮ"


@pytest.fixture(scope="module")
def encoder() -> OnnxEncoder:
    return OnnxEncoder.load("static")


def with_settings(encoder: OnnxEncoder, **changes: object) -> dict[str, bytes]:
    raw = encoder.settings.to_json() | changes
    return encoder.files | {"encoder.json": json.dumps(raw).encode()}


def cosine(encoder: OnnxEncoder, a: str, b: str) -> float:
    return float(encoder.encode(a).vector @ encoder.encode(b).vector)


def test_shipped_encoder_is_what_the_design_says(encoder: OnnxEncoder) -> None:
    settings = encoder.settings
    assert (settings.tier, settings.dim, settings.max_tokens, settings.truncation) == ("static", 256, 256, "middle")
    assert sum(len(content) for content in encoder.files.values()) <= MAX_SHIPPED_BYTES
    assert encoder.id == encoder_id(encoder.files)


def test_canaries_come_out_as_on_file(encoder: OnnxEncoder) -> None:
    assert len(encoder.settings.canaries) >= 5
    assert all(len(numbers) == 8 for _, numbers in encoder.settings.canaries)
    assert check_canaries(encoder) < 1e-5


def test_check_canaries_sees_another_vector(encoder: OnnxEncoder) -> None:
    text, numbers = encoder.settings.canaries[0]
    moved = [[text, [numbers[0] + 0.25, *numbers[1:]]]]
    assert check_canaries(OnnxEncoder(with_settings(encoder, canaries=moved), where="w")) == pytest.approx(
        0.25, abs=1e-4
    )


def test_meaning_decides_the_similarity(encoder: OnnxEncoder) -> None:
    prompt = "Write a Python function that sorts a list of numbers."
    assert cosine(encoder, prompt, "sort a python list of integers in code") > 0.5
    assert cosine(encoder, prompt, "Which wine goes with roast lamb?") < 0.2


def test_vectors_are_unit_float32_whatever_the_case_and_length(encoder: OnnxEncoder) -> None:
    for text in ("Hello", "word " * 5000, "x" * 1_000_000, "naïve café", "日本語", "a\nb\tc"):
        encoding = encoder.encode(text)
        assert encoding.vector.dtype == np.float32
        assert encoding.vector.shape == (256,)
        assert float(np.linalg.norm(encoding.vector)) == pytest.approx(1, abs=1e-5)
        assert 1 <= encoding.n_tokens <= 256
    assert np.array_equal(encoder.encode("HELLO World").vector, encoder.encode("hello world").vector)


def test_a_text_gets_the_same_vector_in_any_company(encoder: OnnxEncoder) -> None:
    texts = [
        "short",
        "def f(): return 1",
        "one " * 400,
        "Übersetze das.",
        OUT_OF_VOCABULARY,
        "z" * 2001,
    ]
    alone = [OnnxEncoder.load("static").encode(text).vector for text in texts]
    together = embed(encoder, texts[::-1])[::-1]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda text: encoder.encode(text).vector, texts * 20))
    assert np.array_equal(np.array(alone), together)
    assert all(np.array_equal(vector, alone[i % len(texts)]) for i, vector in enumerate(threaded))


def test_embed_of_no_texts_has_the_right_shape(encoder: OnnxEncoder) -> None:
    assert embed(encoder, []).shape == (0, 256)


def test_unknown_tokens_are_counted_and_hardly_move_the_vector(encoder: OnnxEncoder) -> None:
    plain = encoder.encode("reverse a list")
    mixed = encoder.encode(f"reverse a list {OUT_OF_VOCABULARY}")
    assert plain.unknown_share == 0
    assert (mixed.n_tokens, mixed.unknown_share) == (4, 0.25)
    assert float(plain.vector @ mixed.vector) > 0.995  # only by the places of the others, which it shifts


def test_special_tokens_around_a_text_are_no_part_of_its_unknown_share(encoder: OnnxEncoder) -> None:
    special = OnnxEncoder(with_settings(encoder, prefix_ids=[2, 3], suffix_ids=[4]), where="w")
    for text, n_tokens, share in ((OUT_OF_VOCABULARY, 4, 1.0), (f"list {OUT_OF_VOCABULARY}", 5, 0.5), ("", 3, 1.0)):
        encoding = special.encode(text)
        assert (encoding.n_tokens, encoding.unknown_share) == (n_tokens, share)


def test_special_tokens_written_in_a_prompt_are_ordinary_text(encoder: OnnxEncoder) -> None:
    for text in ("[UNK]", "[PAD]", "[CLS] [SEP]"):
        assert encoder.encode(text).unknown_share == 0
        assert encoder.encode(text).n_tokens > 2


@pytest.mark.parametrize("text", ["", "   \n", "\x00\x01", "\ufeff", "\u200b", "\u0301", OUT_OF_VOCABULARY * 9])
def test_a_text_without_any_known_token_is_all_unknown_and_has_a_unit_vector(encoder: OnnxEncoder, text: str) -> None:
    encoding = encoder.encode(text)
    assert encoding.unknown_share == 1
    assert float(np.linalg.norm(encoding.vector)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("text", ["\ud800", "sort \udfff this list", "\ud83d" * 2001])
def test_lone_surrogates_do_not_raise(encoder: OnnxEncoder, text: str) -> None:
    assert float(np.linalg.norm(encoder.encode(text).vector)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("truncation", "kept"), [("head", "hijkl"), ("tail", "abcde"), ("middle", "abckl"), ("ends", "defgh")]
)
def test_truncation_keeps_what_its_name_says(encoder: OnnxEncoder, truncation: str, kept: str) -> None:
    short = OnnxEncoder(with_settings(encoder, truncation=truncation, max_tokens=5), where="w")
    assert short.token_ids(" ".join("abcdefghijkl")) == encoder.token_ids(" ".join(kept))
    assert short.token_ids("a b c d e") == encoder.token_ids("a b c d e")


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_characters_are_cut_by_the_same_rule_before_tokens(encoder: OnnxEncoder, truncation: str) -> None:
    short = OnnxEncoder(with_settings(encoder, truncation=truncation, max_tokens=4), where="w")
    padding = "x " * 50_000
    texts = {"head": padding + "a b c d", "tail": "a b c d " + padding, "middle": "a b " + padding + " c d"}
    texts["ends"] = padding + "a b c d " + padding
    assert short.token_ids(texts[truncation]) == encoder.token_ids("a b c d")


def test_special_tokens_go_around_the_text_and_count(encoder: OnnxEncoder) -> None:
    wrapped = OnnxEncoder(with_settings(encoder, max_tokens=5, prefix_ids=[7], suffix_ids=[8]), where="w")
    ids = wrapped.token_ids("a b c d e f")
    assert (len(ids), ids[0], ids[-1]) == (5, 7, 8)
    assert wrapped.encode("a b c d e f").n_tokens == 5


@pytest.mark.parametrize("name", ENCODER_FILES)
def test_a_missing_file_is_refused_by_name(encoder: OnnxEncoder, tmp_path: Path, name: str) -> None:
    for other, content in encoder.files.items():
        if other != name:
            (tmp_path / other).write_bytes(content)
    with pytest.raises(EncoderError, match=f"missing {name}"):
        OnnxEncoder.load(tmp_path)


def test_a_copied_directory_is_the_same_encoder(encoder: OnnxEncoder, tmp_path: Path) -> None:
    for name, content in encoder.files.items():
        (tmp_path / name).write_bytes(content)
    assert OnnxEncoder.load(tmp_path).id == encoder.id


def test_the_id_changes_with_any_file(encoder: OnnxEncoder) -> None:
    ids = {encoder_id(encoder.files | {name: encoder.files[name] + b" "}) for name in ENCODER_FILES}
    assert len(ids | {encoder.id}) == 4


def test_an_encoder_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="no encoder at"):
        find_encoder(tmp_path / "nowhere")
    with pytest.raises(EncoderError, match="no encoder at"):
        find_encoder("statical")


@pytest.mark.parametrize("damage", ["empty", "garbage", "lfs pointer", "half", "one byte"])
def test_a_damaged_network_is_refused_by_name(
    encoder: OnnxEncoder, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    model = encoder.files["model.onnx"]
    operator = model.index(b"MatMul")
    damaged = {
        "empty": b"",
        "garbage": b"garbage",
        "lfs pointer": b"version https://git-lfs.github.com/spec/v1\n",
        "half": model[: len(model) // 2],
        "one byte": model[:operator] + b"\xff" + model[operator + 1 :],
    }
    with pytest.raises(EncoderError, match=r"^w/model\.onnx: ") as refusal:
        OnnxEncoder(encoder.files | {"model.onnx": damaged[damage]}, where="w")
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr().out == ""


def test_a_network_of_another_dimension_is_refused(encoder: OnnxEncoder) -> None:
    with pytest.raises(EncoderError, match=r"model\.onnx: gives a vector of shape \(256,\).*expected \(128,\)"):
        OnnxEncoder(with_settings(encoder, dim=128), where="w")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_broken_tokenizer_is_refused_by_name(encoder: OnnxEncoder, damage: bytes) -> None:
    with pytest.raises(EncoderError, match=r"w/tokenizer\.json: "):
        OnnxEncoder(encoder.files | {"tokenizer.json": damage}, where="w")


def test_a_tokenizer_with_ids_that_the_network_does_not_know_is_refused(encoder: OnnxEncoder) -> None:
    raw = json.loads(encoder.files["tokenizer.json"])
    raw["model"]["vocab"]["warm"] = 10_000_000
    with pytest.raises(EncoderError, match=r"^w/"):
        OnnxEncoder(encoder.files | {"tokenizer.json": json.dumps(raw).encode()}, where="w")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"format_version": 1}'])
def test_broken_settings_are_refused_by_name(encoder: OnnxEncoder, damage: bytes) -> None:
    with pytest.raises(EncoderError, match=r"w/encoder\.json: "):
        OnnxEncoder(encoder.files | {"encoder.json": damage}, where="w")


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"tier": "medium"},
        {"truncation": "left"},
        {"dim": 0},
        {"dim": float("inf")},
        {"dim": "many"},
        {"max_tokens": 0},
        {"max_tokens": 2, "prefix_ids": [1], "suffix_ids": [2]},
        {"canaries": [["text without numbers"]]},
        {"canaries": 5},
    ],
)
def test_settings_out_of_range_are_refused_by_name(encoder: OnnxEncoder, change: dict[str, object]) -> None:
    with pytest.raises(EncoderError, match=r"w/encoder\.json: "):
        OnnxEncoder(with_settings(encoder, **change), where="w")


def test_settings_survive_writing_and_reading(encoder: OnnxEncoder) -> None:
    settings = replace(encoder.settings, prefix_ids=(101,), suffix_ids=(102,), truncation="head")
    assert EncoderSettings.from_json(json.loads(json.dumps(settings.to_json())), "w") == settings


def test_a_vector_that_is_no_number_fails_the_canaries(encoder: OnnxEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = np.full(encoder.settings.dim, np.nan, dtype=np.float32)
    monkeypatch.setattr(encoder, "encode", lambda text: Encoding(nowhere, 1, 0.0))
    assert check_canaries(encoder) == np.inf


def test_a_canary_longer_than_the_vector_is_refused(encoder: OnnxEncoder) -> None:
    with pytest.raises(EncoderError, match="canary holds 1 to dim"):
        OnnxEncoder(with_settings(encoder, canaries=[["a", [0.0] * (encoder.settings.dim + 1)]]), where="w")
