"""Spirals that are observed at irregular times (after the toy data of Chen et al. 2018, section 5.1)."""

import numpy as np

from data.dataset import ArraySource, Dataset, Field, Spec
from data.registry import register

_WHOLE = 6 * np.pi
"""The angle of a whole spiral."""

_WINDOW = 0.5
"""The share of it that is a series."""


@register("spirals")
def spirals(
    *, length: int = 30, later: int = 30, size: int = 1000, noise: float = 0.1, missing: float = 0.2, seed: int = 0
) -> Dataset:
    """Noisy points of spirals at random times, and what comes after them.

    There are two, one winds outwards and one inwards the other way round, of three turns each. A series is half of one,
    from a random place on. As with the authors, what lies behind an observed window is in the windows of others, except
    for the last quarter of a spiral. Fields are `times` [time] in (0, 3π], the angle in radians, different for each
    series and rising; `inputs` [time, 2], the points with noise; `target` [time, 2], without; `observed` [time], 1
    where a model sees the point. It is 0 for a share of the first `length` points, which are in the first half of time,
    and for all of the `later` ones, which are behind.

    Args:
        length: points in the first half of time, of which a share is missing.
        later: points in the second half, to extrapolate.
        size: number of train examples; there are 200 test examples.
        noise: standard deviation; the radius is 0.5 to 3.
        missing: share of the first points that is not seen, at least 0 and less than 1.
        seed: of the numbers drawn. The test examples do not depend on `size`.
    """
    if length < 2 or later < 0 or size < 1 or noise < 0 or not 0 <= missing < 1:
        raise ValueError(
            "length must be at least 2, later and noise at least 0, size at least 1 and missing in [0, 1); "
            f"got length={length}, later={later}, size={size}, noise={noise}, missing={missing}"
        )

    def draw(split: int, examples: int) -> ArraySource:
        rng = np.random.default_rng([seed, split])
        first = np.sort(rng.uniform(0.005, 0.5, (examples, length)))
        behind = np.sort(rng.uniform(0.5, 1, (examples, later)))
        times = np.concatenate([first, behind], axis=1).astype(np.float32)  # of a window that is 1 long
        turn = np.where(rng.uniform(size=(examples, 1)) < 0.5, 1.0, -1.0)
        along = rng.uniform(0, 1 - _WINDOW, (examples, 1)) + _WINDOW * times
        radius = np.where(turn > 0, 0.5 + 2.5 * along, 3 - 2.5 * along)
        angle = turn * _WHOLE * along
        target = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
        inputs = target + rng.normal(0, 1, target.shape) * noise
        observed = np.zeros(times.shape, np.float32)
        observed[:, :length] = rng.uniform(size=first.shape) >= missing
        observed[:, 0] = 1  # never none
        arrays = {"times": _WHOLE * _WINDOW * times, "inputs": inputs, "target": target, "observed": observed}
        return ArraySource({name: array.astype(np.float32) for name, array in arrays.items()})

    time = length + later
    shapes = {"times": (time,), "inputs": (time, 2), "target": (time, 2), "observed": (time,)}
    return Dataset(
        name="spirals",
        spec=Spec({name: Field(shape, "float32") for name, shape in shapes.items()}),
        splits={"train": draw(0, size), "test": draw(1, 200)},
        preprocess=lambda batch: batch,
    )
