"""Text to unit vector: the only room that knows the tokenizer and onnxruntime.

An encoder is a directory of three files: ``encoder.json`` (settings), ``tokenizer.json`` and a self-contained
``model.onnx`` from token ids to one unit vector. Training and serving read it with this same code.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as onnx_errors
from tokenizers import Tokenizer

from router.errors import EncoderError
from router.onnx_file import check_self_contained
from router.types import Embedding, JsonObject

ENCODER_FILES = ("encoder.json", "tokenizer.json", "model.onnx")
FORMAT_VERSION = 1
TIERS = ("static", "full")
# What is cut away when a prompt is too long, in Pulze's words: 'head' keeps the last tokens, 'tail' the first,
# 'middle' keeps both ends, 'ends' keeps the middle.
TRUNCATIONS = ("head", "tail", "middle", "ends")
# Tokenising costs time per character whatever is kept of it, so characters are cut first (1 MB takes 0.5 s).
CHARS_PER_TOKEN = 8

# Bounds of what is remembered of words; a vocabulary has 30,000.
MAX_KNOWN_WORDS = 100_000
MAX_KNOWN_CHARS = 24
MAX_NEW_WORDS = 16

# They have no common base but Exception. RuntimeError and ValueError come from onnxruntime's own Python layer.
ONNX_ERRORS = (
    onnx_errors.Fail,
    onnx_errors.InvalidArgument,
    onnx_errors.InvalidGraph,
    onnx_errors.InvalidProtobuf,
    onnx_errors.NoModel,
    onnx_errors.NotImplemented,
    onnx_errors.RuntimeException,
    RuntimeError,
    ValueError,
)

Cut = TypeVar("Cut", str, list[int])

SHIPPED = Path(__file__).parent / "_models"
CHECKOUT = Path(__file__).parent.parent / "models"


@dataclass(frozen=True, slots=True)
class Encoding:
    """vector: float32 (dim,), unit length. n_tokens: tokens fed in, special ones included.

    unknown_share: of the text's own tokens, those that the vocabulary does not know; 1 where the tokenizer leaves
    nothing of the text.
    """

    vector: Embedding
    n_tokens: int
    unknown_share: float


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """What ``encoder.json`` holds.

    prefix_ids, suffix_ids: special tokens around the text (max_tokens counts them too). canaries: text to the first
    numbers of its vector, as it was when the encoder was made.
    """

    name: str
    tier: str
    dim: int
    max_tokens: int
    truncation: str
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    unknown_token: str = "[UNK]"  # noqa: S105
    canaries: tuple[tuple[str, tuple[float, ...]], ...] = ()

    @classmethod
    def from_json(cls, raw: object, where: str) -> "EncoderSettings":
        """Read the parsed ``encoder.json``.

        Raises:
            EncoderError: a field is missing, of the wrong type or out of range.
        """
        if not isinstance(raw, dict) or raw.get("format_version") != FORMAT_VERSION:
            raise EncoderError(f"{where}: expected an object with format_version {FORMAT_VERSION}")
        try:
            settings = cls(
                name=str(raw["name"]),
                tier=str(raw["tier"]),
                dim=int(raw["dim"]),
                max_tokens=int(raw["max_tokens"]),
                truncation=str(raw["truncation"]),
                prefix_ids=tuple(int(one) for one in raw.get("prefix_ids", ())),
                suffix_ids=tuple(int(one) for one in raw.get("suffix_ids", ())),
                unknown_token=str(raw.get("unknown_token", "[UNK]")),
                canaries=tuple((str(t), tuple(float(x) for x in v)) for t, v in raw.get("canaries", ())),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            raise EncoderError(f"{where}: {exc!r}; expected name, tier, dim, max_tokens and truncation") from exc
        if settings.tier not in TIERS or settings.truncation not in TRUNCATIONS:
            raise EncoderError(f"{where}: tier must be one of {TIERS} and truncation one of {TRUNCATIONS}")
        if not all(1 <= len(vector) <= settings.dim for _, vector in settings.canaries):
            raise EncoderError(f"{where}: a canary holds 1 to dim = {settings.dim} numbers")
        room = settings.max_tokens - len(settings.prefix_ids) - len(settings.suffix_ids)
        if not (1 <= settings.dim <= 8192 and 1 <= room <= 8192):
            raise EncoderError(
                f"{where}: dim {settings.dim} or max_tokens {settings.max_tokens} is out of range 1..8192"
            )
        return settings

    def to_json(self) -> JsonObject:
        """Return what ``from_json`` reads."""
        return {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "tier": self.tier,
            "dim": self.dim,
            "max_tokens": self.max_tokens,
            "truncation": self.truncation,
            "prefix_ids": list(self.prefix_ids),
            "suffix_ids": list(self.suffix_ids),
            "unknown_token": self.unknown_token,
            "canaries": [[text, list(vector)] for text, vector in self.canaries],
        }


class Encoder(Protocol):
    """Anything that turns a text into a unit vector, always the same one."""

    @property
    def id(self) -> str:
        """Hash of the bytes that make the encoder what it is."""

    @property
    def settings(self) -> EncoderSettings:
        """Name, tier, dimension and truncation."""

    def encode(self, text: str) -> Encoding:
        """Encode one text by itself, so that nothing in flight beside it can change its vector."""


class _KnownWords:
    """The ids of words seen before, as the tokenizer gave them: plain English is tokenised in a third of the time.

    BERT's tokenizers take a text word by word, and what a word becomes does not depend on its neighbours. Of ASCII
    without control characters, words are runs of letters and digits, in lower case, and each punctuation mark is one.
    """

    _WORD = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
    _OTHER = re.compile(r"[^\t\n\r -~]")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = tuple(one.content for one in tokenizer.get_added_tokens_decoder().values())
        self._ids: dict[str, list[int]] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "_KnownWords | None":
        """Return the words of a BERT tokenizer that lowers case; None for one that takes a text apart otherwise."""
        parts = json.loads(tokenizer.to_str())
        kinds = tuple((parts[one] or {}).get("type") for one in ("normalizer", "pre_tokenizer", "model"))
        if kinds != ("BertNormalizer", "BertPreTokenizer", "WordPiece"):
            return None
        normalizer = parts["normalizer"]
        return cls(tokenizer) if normalizer["lowercase"] and normalizer["clean_text"] else None

    def ids(self, text: str) -> list[int] | None:
        """Return the ids of a text without special ones; None where it is not plain ASCII, or names an added token."""
        if not text.isascii() or self._OTHER.search(text) or any(one in text for one in self._added):
            return None
        known, out, n_new = self._ids, [], 0
        for word in self._WORD.findall(text.lower()):
            ids = known.get(word)
            if ids is None:
                n_new += 1
                if n_new > MAX_NEW_WORDS:  # the whole text at once takes less
                    return None
                ids = self._learn(word)
            out += ids
        return out

    def _learn(self, word: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(word, add_special_tokens=False).ids
        if len(word) <= MAX_KNOWN_CHARS:
            if len(self._ids) >= MAX_KNOWN_WORDS:
                self._ids.clear()  # junk, for the most part; what is used comes back
            self._ids[word] = ids
        return ids


class PromptTokenizer:
    """Text to the ids that are fed to a network: cut to max_tokens, special tokens included."""

    def __init__(self, tokenizer_json: bytes, settings: EncoderSettings, *, where: str) -> None:
        """Load from the bytes of ``tokenizer.json``; ``where`` names their origin in errors.

        Raises:
            EncoderError: they are no tokenizer.
        """
        try:
            self._tokenizer = Tokenizer.from_buffer(tokenizer_json)
        except (ValueError, TypeError) as exc:
            raise EncoderError(f"{where}/tokenizer.json: {exc}") from exc
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._settings = settings
        self._room = settings.max_tokens - len(settings.prefix_ids) - len(settings.suffix_ids)
        self.unknown_id: int | None = self._tokenizer.token_to_id(settings.unknown_token)
        self._words = _KnownWords.of(self._tokenizer)

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text, at most max_tokens of them."""
        settings = self._settings
        text = _keep(text, self._room * CHARS_PER_TOKEN, settings.truncation)
        text = text.encode("utf-8", "replace").decode()  # the tokenizer refuses lone surrogates
        ids = self._words.ids(text) if self._words is not None else None
        if ids is None:
            # Tokenizer.encode holds the GIL, which stops every other thread; this one does not, and is no slower.
            ids = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return [*settings.prefix_ids, *_keep(ids, self._room, settings.truncation), *settings.suffix_ids]


class OnnxEncoder:
    """An encoder directory, loaded: one onnxruntime session on one thread and its tokenizer."""

    def __init__(self, files: Mapping[str, bytes], *, where: str, directory: Path | None = None) -> None:
        """Load from the bytes of ENCODER_FILES; ``where`` names their origin in errors.

        directory: where training finds what lies beside them; None for an encoder that is no directory of its own.

        Raises:
            EncoderError: a file is missing or damaged, or the model does not give unit vectors of ``dim``.
        """
        missing = [name for name in ENCODER_FILES if name not in files]
        if missing:
            raise EncoderError(f"{where}: not an encoder directory, missing {', '.join(missing)}")
        self.files = {name: files[name] for name in ENCODER_FILES}
        self.directory = directory
        self._id = encoder_id(self.files)
        try:
            raw = json.loads(files["encoder.json"])
        except ValueError as exc:
            raise EncoderError(f"{where}/encoder.json: not JSON: {exc}") from exc
        self._settings = EncoderSettings.from_json(raw, f"{where}/encoder.json")
        self._tokenizer = PromptTokenizer(files["tokenizer.json"], self._settings, where=where)
        self._session = _load_session(files["model.onnx"], where)
        self._inputs = {one.name for one in self._session.get_inputs()}
        if not ({"input_ids"} <= self._inputs <= {"input_ids", "attention_mask", "token_type_ids"}):
            raise EncoderError(
                f"{where}/model.onnx: expected the inputs input_ids [attention_mask token_type_ids], "
                f"got {sorted(self._inputs)}"
            )
        try:
            vector = self.encode("warm up").vector
        except ONNX_ERRORS as exc:
            raise EncoderError(
                f"{where}/model.onnx: does not run on the tokenizer's ids: {str(exc).splitlines()[0]}"
            ) from exc
        if vector.shape != (self._settings.dim,) or not abs(float(np.linalg.norm(vector)) - 1.0) < 1e-3:
            raise EncoderError(
                f"{where}/model.onnx: gives a vector of shape {vector.shape} and length {np.linalg.norm(vector):.4f}, "
                f"expected ({self._settings.dim},) and 1"
            )

    @classmethod
    def load(cls, directory: str | Path) -> "OnnxEncoder":
        """Load an encoder directory, or one shipped with the package by its name (``static``).

        Raises:
            EncoderError: as the constructor; or the directory cannot be read.
        """
        path = find_encoder(directory)
        try:
            files = {name: (path / name).read_bytes() for name in ENCODER_FILES if (path / name).is_file()}
        except OSError as exc:
            raise EncoderError(f"{path}: cannot be read: {exc.strerror}") from exc
        return cls(files, where=str(path), directory=path)

    @property
    def id(self) -> str:
        """Hash of the three files."""
        return self._id

    @property
    def settings(self) -> EncoderSettings:
        """Name, tier, dimension and truncation."""
        return self._settings

    def token_ids(self, text: str) -> list[int]:
        """Return the ids that are fed to the network: cut to max_tokens, special tokens included."""
        return self._tokenizer.ids(text)

    def encode(self, text: str) -> Encoding:
        """Encode one text by itself: in an int8 batch, neighbours would change its vector."""
        return self.encode_ids(self.token_ids(text))

    def encode_ids(self, ids: list[int]) -> Encoding:
        """Encode one text from its ``token_ids``."""
        unknown_id = self._tokenizer.unknown_id
        own = ids[len(self._settings.prefix_ids) : len(ids) - len(self._settings.suffix_ids)]
        unknown = 0 if unknown_id is None else own.count(unknown_id)
        # Without any of its own: nothing but characters that the tokenizer drops.
        unknown_share = unknown / len(own) if own else 1.0
        ids = ids or [unknown_id or 0]
        return Encoding(vector=self.run(ids), n_tokens=len(ids), unknown_share=unknown_share)

    def run(self, ids: list[int]) -> Embedding:
        """Run the network on token ids and return its unit vector: the floor of any encoding time."""
        feed = {"input_ids": np.array([ids], dtype=np.int64)}
        if "attention_mask" in self._inputs:
            feed["attention_mask"] = np.ones((1, len(ids)), dtype=np.int64)
        if "token_type_ids" in self._inputs:
            feed["token_type_ids"] = np.zeros((1, len(ids)), dtype=np.int64)
        vector: Embedding = self._session.run(None, feed)[0].reshape(-1)
        return vector


def encoder_id(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 over the three files' own SHA-256s, in the order of ENCODER_FILES."""
    return hashlib.sha256(b"".join(hashlib.sha256(files[name]).digest() for name in ENCODER_FILES)).hexdigest()


def find_encoder(name_or_directory: str | Path) -> Path:
    """Return the directory of an encoder: a path, or the name of one shipped with the package.

    Raises:
        EncoderError: neither exists.
    """
    path = Path(name_or_directory)
    if path.is_dir():
        return path
    for home in (SHIPPED, CHECKOUT):
        if str(name_or_directory) in TIERS and (home / name_or_directory).is_dir():
            return home / name_or_directory
    raise EncoderError(
        f"no encoder at {path}: expected a directory with {', '.join(ENCODER_FILES)}, or one of {', '.join(TIERS)}"
    )


def check_canaries(encoder: Encoder) -> float:
    """Return the largest difference between the canary vectors on file and those computed now (0 without any)."""
    worst = 0.0
    for text, expected in encoder.settings.canaries:
        got = encoder.encode(text).vector[: len(expected)]
        difference = float(np.abs(got - np.array(expected, dtype=np.float32)).max())
        worst = max(worst, difference if np.isfinite(difference) else np.inf)
    return worst


def _keep(sequence: Cut, room: int, truncation: str) -> Cut:
    """Cut a string or a list of ids to ``room`` elements by the truncation strategy."""
    excess = len(sequence) - room
    if excess <= 0:
        return sequence
    if truncation == "head":
        return sequence[excess:]
    if truncation == "tail":
        return sequence[:room]
    if truncation == "middle":
        front = (room + 1) // 2
        return sequence[:front] + sequence[front + excess :]
    start = excess // 2
    return sequence[start : start + room]


def _load_session(raw: bytes, where: str) -> onnxruntime.InferenceSession:
    check_self_contained(raw, f"{where}/model.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except ONNX_ERRORS as exc:
        raise EncoderError(f"{where}/model.onnx: onnxruntime refuses it: {str(exc).splitlines()[0]}") from exc


def embed(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Encode many texts one by one, in order: float32 (n_texts, dim), exactly what serving computes."""
    out = np.empty((len(texts), encoder.settings.dim), dtype=np.float32)
    for row, text in enumerate(texts):
        out[row] = encoder.encode(text).vector
    return out
