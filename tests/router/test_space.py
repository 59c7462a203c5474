"""router/space.py: one point and many points are the same, of unit length, and centred."""

import numpy as np
import pytest

from router.encoder import OnnxEncoder, embed
from router.features import N_FEATURES, surface_features
from router.space import FEATURE_CLIP, fit_space

TEXTS = ["Write a loop.", "How do I bake bread?", "Plan a trip to Oslo, 3 days", "漢字?", "a\ud800b", " ", "x" * 5000]


@pytest.mark.parametrize("weight", [0.0, 0.25, 2.0])
def test_serving_places_a_prompt_where_training_did(encoder: OnnxEncoder, weight: float) -> None:
    vectors, features = embed(encoder, TEXTS), np.stack([surface_features(text) for text in TEXTS])
    space = fit_space(vectors, features, weight)
    points = space.place_all(vectors, features)
    one_by_one = np.concatenate(
        [space.place_all(encoder.encode(text).vector[None], surface_features(text)[None]) for text in TEXTS]
    )
    assert points.shape == (len(TEXTS), 256 + (N_FEATURES if weight else 0))
    assert points.dtype == one_by_one.dtype == np.float32 and points.flags.c_contiguous
    np.testing.assert_array_equal(points, one_by_one)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-6)


def test_points_by_hand() -> None:
    vectors = np.array([[1, 0], [0, 1]], dtype=np.float32)
    features = np.zeros((2, 4))
    features[:, 0] = [0.0, 2.0]
    space = fit_space(vectors, features, 0.5)
    half = np.sqrt(0.5)
    meaning = np.array([[half, -half], [-half, half]])
    # Mean 1 and spread 1: the features are -1 and 1, shared by four at weight 0.5.
    part = np.array([[-0.25, 0, 0, 0], [0.25, 0, 0, 0]])
    expected = np.hstack([meaning, part]) / np.sqrt(1 + 0.25**2)
    np.testing.assert_allclose(space.place_all(vectors, features), expected, atol=1e-6)


def test_a_constant_or_extreme_feature_does_not_rule_the_distance() -> None:
    vectors = np.eye(3, dtype=np.float32)
    space = fit_space(vectors, np.zeros((3, 1)), 1.0)
    point = space.place_all(vectors[:1], np.array([[1e9]]))[0]
    assert point[-1] == pytest.approx(FEATURE_CLIP / np.sqrt(1 + FEATURE_CLIP**2), abs=1e-6)


def test_a_prompt_at_the_centre_stays_finite() -> None:
    vectors = np.array([[1, 0], [1, 0]], dtype=np.float32)
    space = fit_space(vectors, np.zeros((2, 1)), 0.0)
    assert np.isfinite(space.place_all(vectors, np.zeros((2, 1)))).all()
