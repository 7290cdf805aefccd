"""Published weights for other channels and sizes, in closed form. That timm adapts them alike, tests/parity sees."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from zoo.pretrained.adapt import adapt_input_channels, adapt_positions, square_side


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_a_first_convolution_keeps_the_size_of_its_outputs(channels, axis, caplog):
    """Of an image that is the same in all channels, the outputs are what they were; the first are red, green, blue."""
    caplog.set_level(logging.WARNING)
    shape = [2, 2, 2, 2]
    shape[axis] = 3
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = adapt_input_channels(kernel, channels, axis, "conv1.weight")
    assert found.shape[axis] == channels
    assert "conv1.weight is adapted from images of 3 channels to" in caplog.text
    if channels % 3 == 0 or channels == 1:
        np.testing.assert_allclose(found.sum(axis=axis), kernel.sum(axis=axis), rtol=1e-5, atol=1e-6)
    if channels > 1:
        repeated = np.take(kernel, [0, 1, 2, 0, 1, 2][:channels], axis=axis)
        np.testing.assert_allclose(found, repeated * 3 / channels, rtol=1e-6)


def test_what_fits_stays_as_it_is():
    kernel = np.ones((3, 3, 3, 4), np.float32)
    assert adapt_input_channels(kernel, 3, 2, "kernel") is kernel
    grey = np.ones((3, 3, 1, 4), np.float32)
    assert adapt_input_channels(grey, 4, 2, "kernel") is grey
    positions = np.ones((1, 5, 4), np.float32)
    for wanted in ((1, 5, 4), (1, 10, 6), (1, 7, 4)):
        assert adapt_positions(positions, wanted) is positions


def test_positions_of_another_square_keep_the_class_token_and_what_is_everywhere_alike():
    positions = np.concatenate([np.full((1, 1, 4), 7.0), np.full((1, 4, 4), 2.0)], axis=1).astype(np.float32)
    found = adapt_positions(positions, (1, 1 + 9, 4))
    np.testing.assert_allclose(found, [[[7.0] * 4] + [[2.0] * 4] * 9], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "side"), [((1, 5, 8), 2), ((1, 197, 8), 14), ((1, 6, 8), 0), ((1, 1, 8), 0), ((5, 8), 0)]
)
def test_square_sides(shape, side):
    assert square_side(shape) == side
