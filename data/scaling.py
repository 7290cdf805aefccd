"""Bringing raw values to the range that models train on. All of it runs on numpy and on traced jax arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np


def to_unit(image: Any) -> Any:
    """uint8 values / 255 as float32; float values, taken to be in [0, 1] already, as they are."""
    return image.astype(np.float32) / 255 if image.dtype == np.uint8 else image


def flatten(x: Any) -> Any:
    """[batch, ...] -> [batch, features]."""
    return x.reshape(x.shape[0], -1)


def standardizer(examples: np.ndarray) -> Callable[[Any], Any]:
    """x -> (x - mean) / deviation with the statistics of each feature of `examples` [example, ...].

    A feature that never changes is only centred, as by scikit-learn's StandardScaler.
    """
    mean = examples.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    deviation = examples.std(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    deviation[deviation == 0] = 1
    return lambda x: (x - mean) / deviation
