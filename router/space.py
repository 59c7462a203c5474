"""The space in which neighbours are near: the encoder's vector, centred, beside scaled surface features.

Centring takes away what all prompts of a log have in common; without it a bag of random words, which lies at the
common mean, looks as near to every row as a real prompt does.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.features import surface_features
from router.types import Embedding

# A scaled feature beyond this is as strange as it gets; the bound keeps one feature from ruling the distance.
FEATURE_CLIP = 3.0
MIN_LENGTH = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """What was learnt of the space.

    center: float32 (dim,), mean of the training rows' vectors. feature_mean, feature_scale: float64 (n_features,).
    feature_weight: length of the feature part against the unit-length meaning part; 0 leaves features out.
    """

    center: NDArray[np.float32]
    feature_mean: NDArray[np.float64]
    feature_scale: NDArray[np.float64]
    feature_weight: float

    def place(self, vector: Embedding, text: str) -> Embedding:
        """Return the point of one prompt: float32, unit length, from its encoder vector and its text."""
        return self._point(vector, surface_features(text) if self.feature_weight > 0 else None)

    def place_all(self, vectors: NDArray[np.float32], features: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the points of many prompts, the same that ``place`` gives: float32 (n, dim [+ n_features]).

        vectors: float32 (n, dim). features: float64 (n, n_features), as surface_features gives them.
        """
        return np.stack([self._point(*pair) for pair in zip(vectors, features, strict=True)])

    def _point(self, vector: Embedding, features: NDArray[np.float64] | None) -> Embedding:
        meaning = vector - self.center
        length = max(math.sqrt(float(meaning @ meaning)), MIN_LENGTH)
        if self.feature_weight == 0 or features is None:
            return np.asarray(meaning * np.float32(1.0 / length))
        scaled = (features - self.feature_mean) / self.feature_scale
        scaled = np.minimum(np.maximum(scaled, -FEATURE_CLIP), FEATURE_CLIP)
        weight = self.feature_weight / math.sqrt(len(scaled))
        total = math.sqrt(1.0 + weight * weight * float(scaled @ scaled))
        point = np.empty(len(meaning) + len(scaled), dtype=np.float32)
        np.multiply(meaning, np.float32(1.0 / (length * total)), out=point[: len(meaning)])
        point[len(meaning) :] = scaled * (weight / total)
        return point


def fit_space(vectors: NDArray[np.float32], features: NDArray[np.float64], feature_weight: float) -> Space:
    """Return the space of a log's rows: their mean vector, and mean and spread of their features."""
    return Space(
        center=vectors.mean(axis=0, dtype=np.float64).astype(np.float32),
        feature_mean=features.mean(axis=0),
        feature_scale=np.maximum(features.std(axis=0), 1e-3),
        feature_weight=feature_weight,
    )
