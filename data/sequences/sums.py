"""Data sets that are drawn, not collected."""

import numpy as np

from data.dataset import ArraySource, Dataset, Field, Spec
from data.registry import register


@register("sum_sequence")
def sum_sequence(*, length: int = 50, size: int = 1000, seed: int = 0) -> Dataset:
    """Standard normal sequences `inputs` [length, 1] and their sums over time `target` [1].

    Args:
        length: of each sequence.
        size: number of train examples; there are 1000 test examples.
        seed: of the numbers drawn. The test examples do not depend on `size`.
    """
    if length < 1 or size < 1:
        raise ValueError(f"length and size must be at least 1; got length={length}, size={size}")

    def draw(split: int, examples: int) -> ArraySource:
        inputs = np.random.default_rng([seed, split]).standard_normal((examples, length, 1), dtype=np.float32)
        return ArraySource({"inputs": inputs, "target": inputs.sum(axis=1, dtype=np.float64).astype(np.float32)})

    return Dataset(
        name="sum_sequence",
        spec=Spec({"inputs": Field((length, 1), "float32"), "target": Field((1,), "float32")}),
        splits={"train": draw(0, size), "test": draw(1, 1000)},
        preprocess=lambda batch: batch,
    )
