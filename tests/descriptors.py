"""The table behind the cross-cutting tests: one row for each registered model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from zoo.summary import abstract_variables


class Row(NamedTuple):
    """How the tests build one model.

    Attributes:
      num_parameters: exact count at the defaults of the registry, from the paper or counted by hand.
      shape: the smallest example that the strides allow, without the batch axis.
      small: options that make it cheap to compile; the number of outputs is among them.
      outputs: the option that sets the number of outputs.
      num_features: length of the small model's features, which `num_classes=0` gives; None where that is no option.
      intermediates: the shapes of the small model's named intermediates, without the batch axis.
    """

    num_parameters: int
    shape: tuple[int, ...]
    small: Mapping[str, Any]
    outputs: str = "num_classes"
    num_features: int | None = None
    intermediates: Mapping[str, tuple[int, ...]] = {}

    @property
    def num_outputs(self) -> int:
        return self.small[self.outputs]


def _stages(stem: int, *features: int) -> dict[str, tuple[int, ...]]:
    """Intermediates of a ResNet whose stem leaves an image of this size: each stage after the first halves it."""
    stages = {f"stage{i + 1}": (-(-stem // 2**i), -(-stem // 2**i), n) for i, n in enumerate(features)}
    return {"stem": (stem, stem, 4), **stages}


MODELS: dict[str, Row] = {
    "perceptron": Row(5, (4,), {"num_outputs": 3}, outputs="num_outputs"),
    "mlp": Row(
        17_226,
        (5,),
        {"hidden_sizes": (8, 6), "num_classes": 3},
        num_features=6,
        intermediates={"hidden1": (8,), "hidden2": (6,)},
    ),
    "cnn": Row(
        241_994,
        (8, 8, 1),
        {"features": (4, 6, 8), "hidden_size": 7, "num_classes": 3},
        num_features=7,
        intermediates={"block1": (4, 4, 4), "block2": (2, 2, 6), "block3": (1, 1, 8)},
    ),
    "lenet5": Row(
        61_706,
        (32, 32, 1),
        {"num_classes": 3},
        num_features=84,
        intermediates={"s2": (14, 14, 6), "s4": (5, 5, 16)},
    ),
    "mini_resnet": Row(
        841_706,
        (2, 2, 1),
        {"features": 4, "hidden_size": 6, "num_classes": 3},
        num_features=6,
        intermediates={"block1": (2, 2, 4), "block2": (2, 2, 4)},
    ),
    "resnet18": Row(
        11_689_512,
        (9, 9, 3),
        {"features": 4, "stage_sizes": (1, 1, 1, 1), "num_classes": 3},
        num_features=32,
        intermediates=_stages(3, 4, 8, 16, 32),
    ),
    "resnet34": Row(
        21_797_672,
        (4, 4, 3),
        {"features": 4, "stage_sizes": (2, 1), "stem": "cifar", "num_classes": 3},
        num_features=8,
        intermediates=_stages(4, 4, 8),
    ),
    "resnet50": Row(
        25_557_032,
        (9, 9, 3),
        {"features": 4, "stage_sizes": (1, 1), "num_classes": 3},
        num_features=32,
        intermediates=_stages(3, 16, 32),
    ),
    "resnet101": Row(
        44_549_160,
        (4, 4, 3),
        {"features": 4, "stage_sizes": (2, 1), "stem": "cifar", "num_classes": 3},
        num_features=32,
        intermediates=_stages(4, 16, 32),
    ),
    "resnet152": Row(  # small, it is the same module as the small resnet101, so that what was compiled serves both
        60_192_808,
        (4, 4, 3),
        {"features": 4, "stage_sizes": (2, 1), "stem": "cifar", "num_classes": 3},
        num_features=32,
        intermediates=_stages(4, 16, 32),
    ),
}


def random_variables(model: nn.Module, x: Any, seed: int = 0) -> dict[str, Any]:
    """Random weights *and random statistics* for `model`, drawn by NumPy, so that nothing is compiled.

    Kernels have the gain that suits ReLU; scales lie between 1/2 and 1, so that the sums of a deep residual network
    stay of moderate size; nothing is zero or one, as much is after `model.init`.
    """
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        match jax.tree_util.keystr(path[-1:], simple=True):
            case "kernel":
                value = rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
            case "scale":
                value = rng.uniform(0.5, 1, leaf.shape)
            case "var":
                value = rng.uniform(0.5, 1.5, leaf.shape)
            case "bias" | "mean":
                value = rng.normal(0, 0.2, leaf.shape)
            case other:
                raise NotImplementedError(f"no distribution is stated for variables named {other!r}")
        return value.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(model, x))
