"""The space in which neighbours are near: the encoder's vector, centred, beside scaled surface features.

Centring takes away what all prompts of a log have in common; without it a bag of random words, which lies at the
common mean, looks as near to every row as a real prompt does.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

    def place_all(self, vectors: NDArray[np.float32], features: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the points of many prompts, each as if it were alone: float32 (n, dim [+ n_features]).

        vectors: float32 (n, dim). features: float64 (n, n_features), as surface_features gives them.
        """
        meaning = vectors - self.center
        lengths = np.maximum(np.sqrt(np.square(meaning).sum(axis=1, keepdims=True)), np.float32(MIN_LENGTH))
        if self.feature_weight == 0:
            return np.asarray(meaning / lengths)
        scaled = features - self.feature_mean
        scaled /= self.feature_scale
        np.minimum(np.maximum(scaled, -FEATURE_CLIP, out=scaled), FEATURE_CLIP, out=scaled)
        weight = self.feature_weight / math.sqrt(scaled.shape[1])
        total = np.sqrt(1.0 + weight * weight * np.square(scaled).sum(axis=1, keepdims=True))
        points = np.empty((len(vectors), meaning.shape[1] + scaled.shape[1]), dtype=np.float32)
        np.divide(meaning, lengths * total.astype(np.float32), out=points[:, : meaning.shape[1]])
        points[:, meaning.shape[1] :] = scaled * (weight / total)
        return points


def fit_space(vectors: NDArray[np.float32], features: NDArray[np.float64], feature_weight: float) -> Space:
    """Return the space of a log's rows: their mean vector, and mean and spread of their features."""
    return Space(
        center=vectors.mean(axis=0, dtype=np.float64).astype(np.float32),
        feature_mean=features.mean(axis=0),
        feature_scale=np.maximum(features.std(axis=0), 1e-3),
        feature_weight=feature_weight,
    )
