"""Scaling by the statistics of the examples that are trained on."""

import numpy as np

from data.scaling import standardizer


def test_features_are_scaled_by_their_own_mean_and_deviation():
    x = np.float32([[1, 10, 7], [3, 30, 7], [5, 80, 7]])
    found = standardizer(x)(x)
    np.testing.assert_allclose(found[:, :2].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(found[:, :2].std(axis=0), 1, rtol=1e-6)


def test_a_feature_that_never_changes_is_only_centred():
    """Where it changes in other examples after all, they keep their distance."""
    scale = standardizer(np.float32([[7], [7], [7]]))
    np.testing.assert_array_equal(scale(np.float32([[7], [9], [4.5]])), [[0], [2], [-2.5]])
