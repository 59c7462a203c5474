"""Making the static encoder: a sentence-transformers directory becomes one vector per token (model2vec), then learns.

Needs the extra ``encoders``; PyTorch is imported only when ``distill`` runs. How the files look: export_encoder.py.
"""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from router.encoder import EncoderSettings
from router.errors import ConfigError, EncoderError
from training.labels import LabelledPrompts
from training.tuning import STATIC_TUNING, Epoch, Progress, TuneSettings

EXTRA_MODULES = ("torch", "transformers", "sentence_transformers", "model2vec", "onnx", "safetensors")

MAX_TOKENS = 256
# model2vec's default: weight of a token = coefficient / (coefficient + its frequency), which is estimated by Zipf's
# law from its rank in the vocabulary.
SIF_COEFFICIENT = 1e-4
# [UNK] says nothing of the text, so it must not move a vector; but not quite zero, so that a text of nothing else
# has a unit vector too.
UNKNOWN_WEIGHT = 1e-6

CANARY_TEXTS = (
    "Write a Python function that reverses a linked list.",
    "What is the capital of Australia, and why is it not Sydney?",
    "Prove that the square root of 2 is irrational.",
    "Übersetze diesen Satz ins Französische: Der Zug kommt um neun Uhr an.",
    "def f(x):\n    return x ** 2 + 1  # 日本語のコメント 🙂",
    " ".join(str(number) for number in range(400)),
)


@dataclass(frozen=True, slots=True)
class StaticModel:
    """One vector per token, weighted: vectors float32 (n_tokens, dim), and the tokenizer that gives their ids.

    places: weights by the place from the front and from the back, float32 (MAX_TOKENS,) each, where there are any.
    """

    vectors: NDArray[np.float32]
    tokenizer_json: str
    unknown_token: str
    places: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None


def require_encoders_extra() -> None:
    """Check that what makes encoders is installed, without importing it (PyTorch takes seconds).

    Raises:
        ConfigError: it is not; the message says how to install it.
    """
    missing = [name for name in EXTRA_MODULES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"making an encoder needs {', '.join(missing)}: pip install 'whichmodel[encoders]'")


def distill(
    base: Path,
    out: Path,
    *,
    dim: int = 256,
    seed: int = 0,
    name: str | None = None,
    prompts: LabelledPrompts | None = None,
    settings: TuneSettings = STATIC_TUNING,
    progress: Progress | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> EncoderSettings:
    """Make a static encoder from a sentence-transformers directory, write it to ``out`` and return its settings.

    prompts: what the table is tuned on afterwards, to the labels and to the base's own cosines between the prompts;
    without them it stays as model2vec makes it. Prompts without a label get one from the base (settings.teach).
    Untuned, the same arguments give the same bytes on the same machine; tuned on several threads, nearly so.

    Raises:
        ConfigError: the extra ``encoders`` is not installed, or dim is out of range.
        EncoderError: ``base`` is no such directory, or ``out`` exists or cannot be written.
    """
    require_encoders_extra()
    from training.export_encoder import quantize_rows, static_graph, write_encoder
    from training.torch_encoder import base_name

    if out.exists():
        raise EncoderError(f"{out}: exists already, expected the name of a new directory")
    static = static_model(base, dim=dim, seed=seed, progress=progress is not None)
    encoder_settings = EncoderSettings(
        name=name or f"{base_name(base)}-static-{dim}",
        tier="static",
        dim=dim,
        max_tokens=MAX_TOKENS,
        truncation="middle",
        unknown_token=static.unknown_token,
    )
    if prompts is not None:
        static = _tuned(static, encoder_settings, base, prompts, settings, progress, on_epoch)
    table, scales = quantize_rows(static.vectors)
    return write_encoder(
        out,
        encoder_settings,
        tokenizer_json=static.tokenizer_json,
        model=static_graph(table, scales, static.places),
        canary_texts=CANARY_TEXTS,
    )


def _tuned(
    static: StaticModel,
    encoder_settings: EncoderSettings,
    base: Path,
    prompts: LabelledPrompts,
    settings: TuneSettings,
    progress: Progress | None,
    on_epoch: Callable[[Epoch], object] | None,
) -> StaticModel:
    """Return the table tuned on prompts, with the base as the teacher of what is alike."""
    from training.finetune import tune
    from training.torch_encoder import SentenceEncoder, TokenTable

    teacher = SentenceEncoder(base)
    anchor = teacher.embed([teacher.token_ids(text) for text in prompts.texts])
    table = TokenTable(static.vectors, static.tokenizer_json, encoder_settings)
    tune(table, prompts, settings, anchor=anchor, progress=progress, on_epoch=on_epoch)
    vectors = table.vectors
    unknown_id = Tokenizer.from_str(static.tokenizer_json).token_to_id(static.unknown_token)
    # Scaled as the table is; what it learnt while it was tuned goes, since it says nothing of the text.
    vectors[unknown_id] = static.vectors[unknown_id] / table.scale
    front, back = (weights[np.minimum(np.arange(MAX_TOKENS), len(weights) - 1)] for weights in table.place_weights)
    return replace(static, vectors=vectors, places=(front, back))


def static_model(
    base: Path, *, dim: int, seed: int, progress: bool, sif_coefficient: float | None = SIF_COEFFICIENT
) -> StaticModel:
    """Run the base on every token of its vocabulary by itself, reduce to ``dim`` by PCA, weigh rare tokens up.

    seed: for weights that the base lacks (PyTorch draws them); MiniLM lacks none.

    Raises:
        ConfigError: dim is not below the size of the vocabulary and at most the base's own dimension.
        EncoderError: the base cannot be loaded, or its tokenizer is not WordPiece.
    """
    import torch
    from model2vec.distill import distill_from_model
    from transformers import AutoTokenizer

    from training.torch_encoder import SentenceEncoder, quiet, without_rules

    torch.manual_seed(seed)
    encoder = SentenceEncoder(base, device="cpu")
    with contextlib.nullcontext() if progress else quiet():
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        if not 1 <= dim <= min(encoder.settings.dim, len(tokenizer) - 1):
            raise ConfigError(f"dim must be 1..{encoder.settings.dim} for this base, got {dim}")
        made = distill_from_model(
            encoder.network,
            tokenizer,
            device="cpu",
            pca_dims=dim,
            sif_coefficient=sif_coefficient,
            quantize_to="float32",
        )
    raw = json.loads(made.tokenizer.to_str())
    unknown_token = raw["model"]["unk_token"]
    vectors = np.array(made.embedding, dtype=np.float32)
    vectors[made.tokenizer.token_to_id(unknown_token)] *= UNKNOWN_WEIGHT
    return StaticModel(vectors, without_rules(raw), unknown_token)
