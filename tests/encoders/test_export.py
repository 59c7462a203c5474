"""training/export_encoder.py: the laid-out graph of a BERT network is PyTorch's network, or it is not written."""

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import training.export_encoder
from router.encoder import OnnxEncoder, check_canaries
from router.errors import ConfigError, EncoderError
from training.export_encoder import export
from training.labels import LabelledPrompts
from training.torch_encoder import SentenceEncoder

MAX_TOKENS = 24
CANARIES = ("sort the list", "prove it of 1 2 3")


@pytest.fixture(scope="module")
def exported(base: Path, prompts: LabelledPrompts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, OnnxEncoder]:
    """The base as it is written in both precisions."""
    folder = tmp_path_factory.mktemp("exported")
    for precision in ("fp32", "int8"):
        export(
            base,
            folder / precision,
            precision=precision,
            max_tokens=MAX_TOKENS,
            texts=prompts.texts,
            canary_texts=CANARIES,
        )
    return {precision: OnnxEncoder.load(folder / precision) for precision in ("fp32", "int8")}


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    """Random ids of every length that fits."""
    rng = np.random.default_rng(0)
    return [[3, *rng.integers(6, 50, size=length - 2).tolist(), 4] for length in range(3, MAX_TOKENS + 1)]


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("int8", 0.98)])
def test_the_graph_gives_the_vectors_of_the_network_at_every_length(
    base: Path, exported: dict[str, OnnxEncoder], rows: list[list[int]], precision: str, least: float
) -> None:
    torch_encoder = SentenceEncoder(base, max_tokens=MAX_TOKENS)
    for row in rows:
        (wanted,) = torch_encoder.embed([row])
        vector = exported[precision].run(row)
        assert float(vector @ wanted) > least
        assert float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_directory_is_complete(exported: dict[str, OnnxEncoder], precision: str) -> None:
    encoder = exported[precision]
    settings = encoder.settings
    assert (settings.name, settings.tier, settings.dim) == (f"tiny-{precision}", "full", 16)
    assert (settings.max_tokens, settings.truncation, settings.unknown_token) == (MAX_TOKENS, "middle", "[UNK]")
    assert (settings.prefix_ids, settings.suffix_ids) == ((3,), (4,))
    assert tuple(text for text, _ in settings.canaries) == CANARIES
    assert check_canaries(encoder) < 1e-5
    assert encoder.token_ids("sort the list") == [3, 8, 6, 9, 4]
    assert len(encoder.token_ids("1 " * 100)) == MAX_TOKENS


def test_int8_holds_int8_weights_and_what_is_beyond_max_tokens_is_cut(exported: dict[str, OnnxEncoder]) -> None:
    arrays = {
        precision: {
            one.name: onnx.numpy_helper.to_array(one)
            for one in onnx.load_model_from_string(encoder.files["model.onnx"]).graph.initializer
        }
        for precision, encoder in exported.items()
    }
    assert arrays["fp32"]["positions"].shape == (MAX_TOKENS, 16)
    assert not any(array.dtype == np.int8 for array in arrays["fp32"].values())
    # 2 layers of query, key, value, output and twice of the wide part; words may be int8, too.
    assert sum(array.dtype == np.int8 and array.size > 1 for array in arrays["int8"].values()) >= 12
    for encoder in exported.values():
        model = onnx.load_model_from_string(encoder.files["model.onnx"])
        assert (model.ir_version, model.producer_name) == (9, "whichmodel")
        assert max(one.version for one in model.opset_import if not one.domain) == 20


def test_the_same_base_gives_the_same_bytes(base: Path, exported: dict[str, OnnxEncoder], tmp_path: Path) -> None:
    settings, parity = export(
        base, tmp_path / "again", max_tokens=MAX_TOKENS, name="mine", texts=CANARIES, canary_texts=CANARIES
    )
    again = OnnxEncoder.load(tmp_path / "again")
    assert again.settings == settings and settings.name == "mine"
    assert again.files["model.onnx"] == exported["int8"].files["model.onnx"]
    assert again.files["tokenizer.json"] == exported["int8"].files["tokenizer.json"]
    assert list(parity) == ["fp32", "int8"]
    assert parity["fp32"].lowest > 0.99999 and parity["int8"].lowest > 0.98
    assert all(one.lowest <= one.mean <= 1 + 1e-5 and one.n_texts == len(CANARIES) for one in parity.values())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_graph_that_gives_other_vectors_is_not_written(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    real = training.export_encoder.bert_graph

    def wrong(weights: dict[str, np.ndarray], *rest: object) -> bytes:
        name = "encoder.layer.1.attention.self.value.weight"
        return real({**weights, name: -weights[name]}, *rest)

    monkeypatch.setattr(training.export_encoder, "bert_graph", wrong)
    with pytest.raises(EncoderError, match=r"gives other vectors than PyTorch, cosine -?0\.\d+ at least"):
        export(base, tmp_path / "out", precision=precision, max_tokens=24, texts=CANARIES, canary_texts=CANARIES)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_left_alone(base: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(EncoderError, match="exists already, expected the name of a new directory"):
        export(base, tmp_path, max_tokens=24, texts=CANARIES, canary_texts=CANARIES)
    assert [one.name for one in tmp_path.iterdir()] == ["kept.txt"]


def test_a_length_beyond_the_positions_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_tokens must be 3\.\.40 for this base, got 128"):
        export(base, tmp_path / "out", max_tokens=128, texts=CANARIES, canary_texts=CANARIES)
    assert list(tmp_path.iterdir()) == []
