"""Intents of rows: read by the model that ships beside an encoder, or discovered as clusters named by their own words.

The intent model is one unit vector per intent, the mean of its labelled prompts' vectors; a prompt has the intent whose
vector lies nearest. It is the file ``intents.json`` in an encoder directory, used by training only: serving reads the
intent of a prompt from its neighbours.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.encoder import Encoder, embed, find_encoder
from router.errors import EncoderError
from router.types import JsonObject
from training.labels import LabelledPrompts

INTENTS_FILE = "intents.json"
FORMAT_VERSION = 1
DECIMALS = 4


@dataclass(frozen=True, slots=True, eq=False)
class IntentModel:
    """names: the intents. centroids: float32 (n_intents, dim), unit length. encoder_id: the encoder they belong to."""

    names: tuple[str, ...]
    centroids: NDArray[np.float32]
    encoder_id: str

    def codes(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the number of the nearest intent of every vector: int64 (n_vectors,)."""
        return np.asarray(np.argmax(vectors @ self.centroids.T, axis=1), dtype=np.int64)

    def to_json(self) -> JsonObject:
        """Return what ``from_json`` reads."""
        return {
            "format_version": FORMAT_VERSION,
            "encoder_id": self.encoder_id,
            "centroids": {
                name: [round(float(one), DECIMALS) for one in centroid]
                for name, centroid in zip(self.names, self.centroids, strict=True)
            },
        }

    @classmethod
    def from_json(cls, raw: object, where: str) -> "IntentModel":
        """Read the parsed ``intents.json``.

        Raises:
            EncoderError: it is not of this format, or holds no unit vectors of one dimension.
        """
        if not isinstance(raw, dict) or raw.get("format_version") != FORMAT_VERSION:
            raise EncoderError(f"{where}: expected an object with format_version {FORMAT_VERSION}")
        try:
            centroids = np.array(list(raw["centroids"].values()), dtype=np.float32)
            names, encoder_id = tuple(str(name) for name in raw["centroids"]), str(raw["encoder_id"])
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise EncoderError(f"{where}: {exc!r}; expected encoder_id and centroids by intent") from exc
        if centroids.ndim != 2 or not (np.abs(np.linalg.norm(centroids, axis=1) - 1.0) < 1e-2).all():
            raise EncoderError(f"{where}: expected one unit vector per intent, all of one dimension")
        return cls(names, centroids, encoder_id)


def fit_intents(encoder: Encoder, prompts: LabelledPrompts) -> IntentModel:
    """Return the mean vector of every label's prompts, as the encoder that will serve gives them."""
    names = prompts.names
    labelled = [(text, label) for text, label in zip(prompts.texts, prompts.labels, strict=True) if label is not None]
    vectors = embed(encoder, [text for text, _ in labelled])
    codes = np.array([names.index(label) for _, label in labelled])
    means = np.stack([vectors[codes == code].mean(axis=0) for code in range(len(names))])
    return IntentModel(names, means / np.linalg.norm(means, axis=1, keepdims=True), encoder.id)


def read_intents(encoder: str | Path) -> IntentModel | None:
    """Return the intent model beside an encoder (a directory, or the name of one that ships), or None without one.

    Raises:
        EncoderError: the file cannot be read.
    """
    path = find_encoder(encoder) / INTENTS_FILE
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise EncoderError(f"{path}: cannot be read: {exc}") from exc
    return IntentModel.from_json(raw, str(path))
