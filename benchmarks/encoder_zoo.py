"""The encoders that are compared: those that ship, their base, and what one would take without them.

Needs the extra ``encoders``. All but TF-IDF are directories that serving reads; what is not here yet is made in a
folder of the run.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from protocols import CACHE
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from router.encoder import Encoder, EncoderSettings, Encoding, OnnxEncoder, find_encoder
from training.distill import CANARY_TEXTS, distill
from training.embed import embed_texts

STATIC, FULL, FULL_FP32 = "static", "full", "full fp32"
BASE, BASE_FP32, TORCH = "MiniLM int8", "MiniLM fp32", "MiniLM PyTorch"
MODEL2VEC, MODEL2VEC_OWN, TF_IDF = "model2vec", "model2vec's encode", "TF-IDF"
SAME_VECTORS = {TORCH: BASE_FP32, MODEL2VEC_OWN: MODEL2VEC}
"""Other code for the vectors of another one: timed and weighed, its quality is the other's."""
PRECISIONS = {FULL: FULL_FP32, BASE: BASE_FP32}
"""int8 files, and the same weights in float32."""
TF_IDF_DIM = 256


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the encoders. directory: what serving loads; None: TF-IDF, which is fitted to the rows of an index."""

    name: str
    what: str
    directory: Path | None

    def fit(self, texts: Sequence[str]) -> Encoder:
        """Return the encoder for an index of these texts."""
        return TfIdf(texts) if self.directory is None else OnnxEncoder.load(self.directory)


class TfIdf:
    """TF-IDF over the words of some texts, brought down to dense unit vectors by a truncated SVD."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._words = TfidfVectorizer(sublinear_tf=True)
        counts = self._words.fit_transform(texts)
        self._svd = TruncatedSVD(min(TF_IDF_DIM, min(counts.shape) - 1), random_state=0).fit(counts)
        dim = self._svd.n_components
        self.settings = EncoderSettings(TF_IDF, "static", dim, max_tokens=8192, truncation="tail")
        self.id = hashlib.sha256("\0".join(texts).encode("utf-8", "replace")).hexdigest()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors: float32 (n_texts, dim). A text of unknown words alone gets the first axis."""
        vectors = self._svd.transform(self._words.transform(texts)).astype(np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        nowhere = np.eye(1, vectors.shape[1], dtype=np.float32)
        return np.where(lengths > 0, vectors / np.maximum(lengths, 1e-12), nowhere)

    def encode(self, text: str) -> Encoding:
        """Encode one text."""
        return Encoding(self.embed([text])[0], n_tokens=len(text.split()), unknown_share=0.0)


def vectors_of(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Encode texts as serving does, those of encoders that are files kept between runs: float32 (n_texts, dim)."""
    return encoder.embed(texts) if isinstance(encoder, TfIdf) else embed_texts(encoder, texts, cache=CACHE).vectors


def unknown_shares_of(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the share of every text's tokens that the encoder does not know, 0 where it has no tokens: (n_texts,)."""
    return (
        np.zeros(len(texts)) if isinstance(encoder, TfIdf) else embed_texts(encoder, texts, cache=CACHE).unknown_share
    )


def cut_by(encoder: OnnxEncoder, truncation: str) -> OnnxEncoder:
    """Return the encoder with another truncation strategy."""
    settings = json.loads(encoder.files["encoder.json"]) | {"truncation": truncation}
    return OnnxEncoder(encoder.files | {"encoder.json": json.dumps(settings).encode()}, where=encoder.settings.name)


def gather(folder: Path, full: Path, tuned: Path | None) -> dict[str, Candidate]:
    """Return all candidates; what does not ship is made in ``folder``. The base is cut as the full tier is.

    full: its directory. tuned: the sentence-transformers directory that it was exported from, or None: without float32.
    """
    from training.export_encoder import export
    from training.torch_encoder import default_base

    like = OnnxEncoder.load(full).settings

    def exported(base: Path, name: str, precision: str) -> Path:
        out = folder / name.replace(" ", "-")
        cut = {"max_tokens": like.max_tokens, "truncation": like.truncation}
        export(base, out, precision=precision, **cut, texts=CANARY_TEXTS, canary_texts=CANARY_TEXTS)
        return out

    base = default_base()
    distill(base, folder / MODEL2VEC)
    found = [
        Candidate(STATIC, "ships: tuned token table, int8", find_encoder(STATIC)),
        Candidate(FULL, "ships: tuned MiniLM, int8", full),
        Candidate(BASE, "untuned, int8", exported(base, BASE, "int8")),
        Candidate(BASE_FP32, "untuned, float32", exported(base, BASE_FP32, "fp32")),
        Candidate(MODEL2VEC, "untuned token table, int8", folder / MODEL2VEC),
        Candidate(TF_IDF, "fitted to the index, 256 dimensions", None),
    ]
    if tuned is not None:
        fp32 = Candidate(FULL_FP32, "the full tier's weights, float32", exported(tuned, FULL_FP32, "fp32"))
        found.insert(2, fp32)
    return {one.name: one for one in found}
