"""benchmarks/paired.py: intervals that cover, ties that are ties, and Holm's own numbers."""

import numpy as np
import pytest
from paired import N_RESAMPLES, difference, holm, resampled_means


def test_spread_is_that_of_group_means() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), 3)
    values = rng.standard_normal(200)[groups][None, :]  # rows of a group are copies: 200 values, not 600
    means = resampled_means(values, groups, np.zeros(600, dtype=int), 0)
    assert means.shape == (1, N_RESAMPLES)
    assert means.std() == pytest.approx(values.std() / np.sqrt(200), rel=0.1)


def test_strata_keep_their_share() -> None:
    strata = np.repeat([0, 1], [90, 10])
    means = resampled_means(strata[None, :].astype(float), np.arange(100), strata, 0)
    assert np.ptp(means) == pytest.approx(0.0, abs=1e-12)


def test_a_method_does_not_differ_from_itself() -> None:
    same = difference(0.0, np.zeros(N_RESAMPLES))
    assert (same.low, same.high, same.p) == (0.0, 0.0, 1.0)


def test_a_plain_difference_is_found() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 1.0, (1, 500))
    found = difference(float(values.mean()), resampled_means(values, np.arange(500), np.zeros(500, dtype=int), 0)[0])
    assert found.low < 0.5 < found.high
    assert found.p < 0.01


def test_holm() -> None:
    # Holm (1979): 0.01 x 4, 0.02 x 3, max with 0.03 x 2, and 0.04 x 1 kept monotone.
    adjusted = holm({"a": 0.01, "d": 0.04, "b": 0.02, "c": 0.03})
    assert adjusted == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.06})
