"""training/torch_encoder.py: PyTorch gives the vectors that serving gives, for one text and for many."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from router.encoder import OnnxEncoder
from router.errors import ConfigError, EncoderError
from training.distill import MAX_TOKENS, static_model
from training.export_encoder import export, quantize_rows, static_graph, write_encoder
from training.torch_encoder import PLACES, SentenceEncoder, TokenTable, batches_by_length

POSITIONS = 40
TEXTS = (
    "sort",
    "sort the list of 1 2 3 in python",
    "hello world, prove it! " * 20,
    "",
    "ꙮ",
    "[CLS] [SEP] [UNK] the list",
    " ".join(str(number) for number in range(60)),
)


@pytest.fixture(scope="module")
def encoder(base: Path) -> SentenceEncoder:
    return SentenceEncoder(base, device="cpu")


def test_the_settings_are_those_of_the_base(encoder: SentenceEncoder) -> None:
    settings = encoder.settings
    assert (settings.name, settings.tier, settings.dim, settings.max_tokens) == ("tiny", "full", 16, POSITIONS)
    assert (settings.prefix_ids, settings.suffix_ids, settings.unknown_token) == ((3,), (4,), "[UNK]")


def test_a_padded_batch_gives_the_vectors_of_single_rows(encoder: SentenceEncoder) -> None:
    rows = [encoder.token_ids(text) for text in TEXTS]
    assert len({len(row) for row in rows}) >= 4 and max(map(len, rows)) == POSITIONS
    together = encoder.embed(rows)
    alone = np.vstack([encoder.embed([row]) for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    with torch.inference_mode():
        np.testing.assert_allclose(encoder.forward(rows).numpy(), alone, atol=1e-5)


@pytest.mark.parametrize("truncation", ["head", "tail", "middle", "ends"])
def test_tokens_are_those_that_serving_feeds(base: Path, tmp_path: Path, truncation: str) -> None:
    encoder = SentenceEncoder(base, max_tokens=12, truncation=truncation)
    export(
        base,
        tmp_path / "out",
        precision="fp32",
        max_tokens=12,
        truncation=truncation,
        texts=["sort"],
        canary_texts=["sort"],
    )
    served = OnnxEncoder.load(tmp_path / "out")
    for text in TEXTS:
        ids = encoder.token_ids(text)
        assert ids == served.token_ids(text)
        assert (ids[0], ids[-1]) == (3, 4) and len(ids) <= 12
        assert not {3, 4} & set(ids[1:-1]), "special tokens written in a prompt are ordinary text"


def test_what_is_saved_loads_as_the_same_encoder(encoder: SentenceEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "saved")
    again = SentenceEncoder(tmp_path / "saved")
    assert (again.settings.name, again.tokenizer_json) == ("saved", encoder.tokenizer_json)
    rows = [encoder.token_ids(text) for text in TEXTS]
    np.testing.assert_array_equal(again.embed(rows), encoder.embed(rows))
    assert [one.name for one in tmp_path.iterdir()] == ["saved"]
    with pytest.raises(EncoderError, match="saved: cannot be written: Directory not empty"):
        encoder.save(tmp_path / "saved")
    assert [one.name for one in tmp_path.iterdir()] == ["saved"]


@pytest.fixture(scope="module")
def table(base: Path) -> TokenTable:
    """A static table whose places weigh differently, as if it had been tuned."""
    static = static_model(base, dim=8, seed=0, progress=False)
    settings = OnnxEncoder.load("static").settings
    settings = type(settings)("table", "static", 8, MAX_TOKENS, "middle", unknown_token=static.unknown_token)
    table = TokenTable(static.vectors, static.tokenizer_json, settings)
    with torch.no_grad():
        table.module.front.copy_(torch.linspace(0.2, -0.1, PLACES))
        table.module.back.copy_(torch.linspace(0.4, 0.1, PLACES) ** 2)
    return table


def test_the_graph_of_a_table_gives_its_vectors_at_any_length(table: TokenTable, tmp_path: Path) -> None:
    front, back = (one[np.minimum(np.arange(MAX_TOKENS), PLACES - 1)] for one in table.place_weights)
    assert (front > 0).all() and len(np.unique(front)) == len(np.unique(back)) == PLACES
    rows, scales = quantize_rows(table.vectors)
    write_encoder(
        tmp_path / "table",
        table.settings,
        tokenizer_json=table.tokenizer_json,
        model=static_graph(rows, scales, (front, back)),
        canary_texts=["sort"],
    )
    served = OnnxEncoder.load(tmp_path / "table")
    rng = np.random.default_rng(0)
    known = len(table.vectors)
    lengths = (1, 2, PLACES - 1, PLACES, PLACES + 1, 2 * PLACES + 5, MAX_TOKENS)
    ids = [rng.integers(2, known, size=length).tolist() for length in lengths]
    wanted = table.embed(ids)
    cosines = [float(served.run(row) @ vector) for row, vector in zip(ids, wanted, strict=True)]
    assert min(cosines) > 0.999
    for text in TEXTS:
        assert table.token_ids(text) == (served.token_ids(text) or [table._tokenizer.unknown_id])


def test_the_order_of_words_counts_in_a_placed_table_only(table: TokenTable, base: Path) -> None:
    ids = table.token_ids("sort the list of python")
    one, other = table.embed([ids, ids[::-1]])
    assert float(one @ other) < 0.9999
    plain = TokenTable(table.vectors, table.tokenizer_json, table.settings)
    one, other = plain.embed([ids, ids[::-1]])
    assert float(one @ other) == pytest.approx(1, abs=1e-6)


def test_words_are_dropped_in_training_only(table: TokenTable) -> None:
    rows = [table.token_ids("sort the list of python and prove it")]
    np.testing.assert_array_equal(table.embed(rows), table.embed(rows))
    torch.manual_seed(0)
    table.module.train()
    with torch.no_grad():
        first, second = table.forward(rows), table.forward(rows)
    assert not torch.equal(first, second)


def test_batches_hold_every_row_once_and_no_more_tokens_than_asked() -> None:
    rng = np.random.default_rng(0)
    rows = [[0] * int(length) for length in rng.integers(1, 50, size=101)] + [[0] * 500]
    batches = batches_by_length(rows, 200)
    assert sorted(row for batch in batches for row in batch) == list(range(102))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(len(rows[row]) for row in batch) <= 200
    assert len(batches) < 30


def test_a_directory_that_is_no_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"nowhere: not a sentence-transformers directory, missing config\.json"):
        SentenceEncoder(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(EncoderError, match=r"file: not a sentence-transformers directory"):
        SentenceEncoder(tmp_path / "file")


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"model_type": "roberta"}, "expected a bert network with gelu and mean pooling, got roberta with gelu and"),
        ({"hidden_act": "relu"}, "expected a bert network with gelu and mean pooling, got bert with relu and mean"),
        ({"hidden_size": 32}, "cannot be loaded"),
        ({"model_type": "no such thing"}, "cannot be loaded"),
    ],
)
def test_another_network_is_refused(base_copy: Path, changes: dict[str, object], refusal: str) -> None:
    config = json.loads((base_copy / "config.json").read_text()) | changes
    (base_copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=refusal):
        SentenceEncoder(base_copy)


def test_another_pooling_is_refused(encoder: SentenceEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "saved")
    path = tmp_path / "saved" / "1_Pooling" / "config.json"
    path.write_text(
        json.dumps({"word_embedding_dimension": 16, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    )
    with pytest.raises(EncoderError, match="got bert with gelu and cls pooling"):
        SentenceEncoder(tmp_path / "saved")


@pytest.mark.parametrize("max_tokens", [0, 2, POSITIONS + 1])
def test_a_length_that_the_network_has_no_positions_for_is_refused(base: Path, max_tokens: int) -> None:
    with pytest.raises(ConfigError, match=rf"max_tokens must be 3\.\.{POSITIONS} for this base, got {max_tokens}"):
        SentenceEncoder(base, max_tokens=max_tokens)
