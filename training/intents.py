"""Intents of rows: read by the model that ships beside an encoder, or discovered as clusters named by their own words.

The intent model is one unit vector per intent, the mean of its labelled prompts' vectors; a prompt has the intent whose
vector lies nearest. It is the file ``intents.json`` in an encoder directory, used by training only: serving reads the
intent of a prompt from its neighbours.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.encoder import Encoder, OnnxEncoder, embed, find_encoder
from router.errors import ConfigError, DataError, EncoderError
from router.types import JsonObject
from training.discover import discover_intents
from training.evidence import Table
from training.labels import LabelledPrompts

INTENTS_FILE = "intents.json"
WISHES = ("given", "model", "discover", "none")
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


def intent_accuracy(encoder: Encoder, model: IntentModel, prompts: LabelledPrompts) -> tuple[float, int]:
    """Return the share of labelled prompts whose intent the model reads right, and how many prompts there were."""
    labelled = [(text, label) for text, label in zip(prompts.texts, prompts.labels, strict=True) if label is not None]
    codes = model.codes(embed(encoder, [text for text, _ in labelled]))
    right = [model.names[code] == label for code, (_, label) in zip(codes, labelled, strict=True)]
    return float(np.mean(right)), len(right)


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


@dataclass(frozen=True, slots=True)
class IntentPlan:
    """Where the rows' intents will come from: one of router.artifact.INTENT_SOURCES, and the model where it is that."""

    source: str
    model: IntentModel | None = None


def plan_intents(table: Table, encoder: OnnxEncoder, wish: str | None) -> IntentPlan:
    """Decide where the rows' intents come from, before anything is embedded.

    wish: one of WISHES; None takes the log's labels, without any the model beside the encoder, without one clusters.

    Raises:
        DataError: 'given' is wished and no row has a label.
        ConfigError: 'model' is wished and there is none beside the encoder.
        EncoderError: the model beside the encoder cannot be read or belongs to another encoder.
    """
    if wish is not None and wish not in WISHES:
        raise ValueError(f"intents must be one of {', '.join(WISHES)} or None, got {wish!r}")
    labelled = bool((table.intents >= 0).any())
    if wish == "given" and not labelled:
        raise DataError("intents are to be given, but no row of the log has one; leave it open, or discover them")
    if wish == "given" or (wish is None and labelled):
        return IntentPlan("given")
    if wish == "none":
        return IntentPlan("none")
    model = None if wish == "discover" else _model_beside(encoder)
    if wish == "model" and model is None:
        where = encoder.directory or "an encoder that was not loaded from a directory"
        raise ConfigError(
            f"{where}: no {INTENTS_FILE}, so no model reads intents; name an encoder directory that has one, "
            "or discover the intents"
        )
    return IntentPlan("discovered") if model is None else IntentPlan("model", model)


def label_rows(
    table: Table, plan: IntentPlan, vectors: NDArray[np.float32], points: NDArray[np.float32], seed: int
) -> Table:
    """Return the table with the intents of the plan; only those that a row has are named, but for given ones.

    vectors: float32 (n_rows, dim), as the encoder gives them. points: float32 (n_rows, n), in which clusters are.
    """
    if plan.source == "given":
        return table
    if plan.source == "none":
        return replace(table, intents=np.full(len(table), -1, dtype=np.int64), intent_names=())
    if plan.model is not None:
        codes, names = plan.model.codes(vectors), plan.model.names
    else:
        codes, names = discover_intents(points, table.texts, seed)
    seen, codes = np.unique(codes, return_inverse=True)
    return replace(table, intents=codes.astype(np.int64), intent_names=tuple(names[code] for code in seen))


def _model_beside(encoder: OnnxEncoder) -> IntentModel | None:
    model = None if encoder.directory is None else read_intents(encoder.directory)
    if model is not None and model.encoder_id != encoder.id:
        raise EncoderError(
            f"{encoder.directory}/{INTENTS_FILE}: made with encoder {model.encoder_id[:12]}, not {encoder.id[:12]}; "
            "fit it again, or discover the intents"
        )
    return model
