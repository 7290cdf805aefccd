"""Where a variable of ours lies in PyTorch's layout, and how its array is turned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
"""What PyTorch calls the variables of a layer."""


class Place(NamedTuple):
    """The tensor of a foreign state dict, or the part of it, that holds one variable of ours.

    Attributes:
      key: the name of the tensor.
      part: index and count where tensors are fused along their first axis, as the query, key and value of ViT.
      rank: of the foreign tensor where ours has another: 4 for a dense layer that is kept as a convolution, 3 for a
        vector that is kept as `[channels, 1, 1]`.
      window: height and width of the image whose flattening a dense layer takes. PyTorch flattens channels first.
    """

    key: str
    part: tuple[int, int] = (0, 1)
    rank: int | None = None
    window: tuple[int, int] = (1, 1)


Rule = Callable[[Any, str], Place]
"""The place of the variable at a path, such as "stage1_block1/conv1/kernel", of a model with its options."""


def layer(key: str, leaf: str, **kernel: Any) -> Place:
    """The place of the variable `leaf` in a layer that PyTorch calls `key`; `kernel` is what is special about one."""
    return Place(f"{key}.{LEAVES[leaf]}", **(kernel if leaf == "kernel" else {}))


def to_foreign(array: Any, place: Place) -> Any:
    """HWIO → OIHW, `[inputs, outputs]` → `[outputs, inputs]`, others as they are; then the rank of the place."""
    rank = place.rank or array.ndim
    if array.ndim == 2:
        array = array.reshape(*place.window, -1, array.shape[-1])
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
        return array if rank == 4 else array.reshape(array.shape[0], -1)
    return array.reshape(array.shape + (1,) * (rank - array.ndim))


def from_foreign(array: np.ndarray, place: Place, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_foreign`, for a variable of this shape."""
    if len(shape) in (2, 4):
        window = shape[:2] if len(shape) == 4 else place.window
        array = array.reshape(shape[-1], -1, *window).transpose(2, 3, 1, 0)
    return array.reshape(shape)
