"""A tiny random BERT network as a base, and prompts whose intent is told by two words each."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from training.labels import LabelledPrompts

torch.set_num_threads(1)  # sums are then taken in one order, whatever the machine

SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "a", "sort", "list", "write", "python", "of", "prove", "hello", "world", *"0123456789"]
WORDS += ["##s", "##ing", "##0", "##1"]
TELLING = {
    "code": ["array", "loop", "regex", "socket", "thread", "parser"],
    "cooking": ["soup", "bread", "salt", "oven", "beans", "rice"],
    "travel": ["hotel", "train", "castle", "beach", "ticket", "museum"],
}
FILLERS = ["tell", "me", "about", "my", "and", "with", "for", "please", "now", "how", "is", "it"]
POSITIONS = 40


def _write_base(directory: Path) -> Path:
    told = [word for words in TELLING.values() for word in words]
    vocabulary = {token: i for i, token in enumerate(SPECIAL + WORDS + told + FILLERS)}
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
        initializer_range=0.2,  # so that every part of the network moves its vectors
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


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer BERT with random weights, 16 dimensions, 40 positions and a vocabulary of its own."""
    return _write_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture
def base_copy(base: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(base, tmp_path / "copy")


@pytest.fixture(scope="session")
def prompts() -> LabelledPrompts:
    """60 prompts of 4 to 9 words, of which two tell the intent: 20 of each of three intents."""
    rng = random.Random(3)
    rows: dict[str, str] = {}
    for intent, words in TELLING.items():
        n = len(rows) + 20
        while len(rows) < n:
            text = [*rng.sample(FILLERS, rng.randint(2, 7)), *rng.sample(words, 2)]
            rng.shuffle(text)
            rows[" ".join(text)] = intent
    return LabelledPrompts(tuple(rows), tuple(rows.values()))


@pytest.fixture(scope="session")
def labelled_file(prompts: LabelledPrompts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same prompts as JSON Lines."""
    path = tmp_path_factory.mktemp("labelled") / "prompts.jsonl"
    rows = zip(prompts.texts, prompts.labels, strict=True)
    path.write_text("".join(json.dumps({"prompt": text, "intent": label}) + "\n" for text, label in rows))
    return path
