"""Points of the plane whose density is known, and rings to classify."""

from collections.abc import Callable

import numpy as np

from data.dataset import ArraySource, Dataset, Field, Spec
from data.registry import register

_TEST = 5000


@register("moons")
def moons(*, size: int = 10_000, noise: float = 0.1, seed: int = 0) -> Dataset:
    """Two half circles that reach into one another, as scikit-learn's `make_moons`, with normal noise.

    Fields are `features` [2] and `log_density` [], the true one in nats.

    Args:
        size: number of train examples; there are 5000 test examples.
        noise: standard deviation, greater than 0.
        seed: of the numbers drawn. The test examples do not depend on `size`.
    """
    angle = np.linspace(0, np.pi, 2001)[:-1] + np.pi / 4000  # the midpoint rule
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    centres = np.concatenate([upper, np.array([1.0, 0.5]) - upper])

    def place(rng: np.random.Generator, count: int) -> np.ndarray:
        angle, side = rng.uniform(0, np.pi, count), rng.integers(0, 2, count)[:, None]
        arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.where(side == 0, arc, np.array([1.0, 0.5]) - arc)

    return _density("moons", place, centres, size, noise, seed)


@register("eight_gaussians")
def eight_gaussians(*, size: int = 10_000, noise: float = 0.2, seed: int = 0) -> Dataset:
    """Eight normal distributions on a circle of radius 2. Fields and arguments as of `moons`."""
    angle = np.arange(8) * np.pi / 4
    centres = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return _density(
        "eight_gaussians", lambda rng, count: centres[rng.integers(0, 8, count)], centres, size, noise, seed
    )


def _density(
    name: str,
    place: Callable[[np.random.Generator, int], np.ndarray],
    centres: np.ndarray,
    size: int,
    noise: float,
    seed: int,
) -> Dataset:
    """Places and normal noise; `centres` [centre, 2] stand for all places, each as probable."""
    if size < 1 or noise <= 0:
        raise ValueError(f"size must be at least 1 and noise greater than 0; got size={size}, noise={noise}")

    def draw(split: int, examples: int) -> ArraySource:
        rng = np.random.default_rng([seed, split])
        points = place(rng, examples) + noise * rng.standard_normal((examples, 2))
        logs = np.concatenate(
            [_log_mixture(part, centres, noise) for part in np.array_split(points, examples // 500 + 1)]
        )
        return ArraySource({"features": points.astype(np.float32), "log_density": logs.astype(np.float32)})

    return Dataset(
        name=name,
        spec=Spec({"features": Field((2,), "float32"), "log_density": Field((), "float32")}),
        splits={"train": draw(0, size), "test": draw(1, _TEST)},
        preprocess=lambda batch: batch,
    )


def _log_mixture(points: np.ndarray, centres: np.ndarray, noise: float) -> np.ndarray:
    """log of the mean of normal densities around the centres, [point]."""
    squares = np.square(points[:, None] - centres[None]).sum(axis=-1) / (2 * noise**2)
    least = squares.min(axis=1, keepdims=True)
    mean = np.exp(least - squares).mean(axis=1)
    return np.log(mean) - least[:, 0] - np.log(2 * np.pi * noise**2)


@register("rings")
def rings(*, size: int = 1000, seed: int = 0) -> Dataset:
    """A disc of radius 1 inside a ring from 2 to 3, `features` [2] and `label`: the pair that no flow separates.

    Args:
        size: number of train examples; there are 1000 test examples.
        seed: of the numbers drawn. The test examples do not depend on `size`.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1; got size={size}")

    def draw(split: int, examples: int) -> ArraySource:
        rng = np.random.default_rng([seed, split])
        label, angle = rng.integers(0, 2, examples), rng.uniform(0, 2 * np.pi, examples)
        share = rng.uniform(size=examples)
        radius = np.sqrt(np.where(label == 0, share, 4 + 5 * share))  # even over the area
        points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return ArraySource({"features": points.astype(np.float32), "label": label.astype(np.int32)})

    return Dataset(
        name="rings",
        spec=Spec({"features": Field((2,), "float32"), "label": Field((), "int32")}, ("inner", "outer")),
        splits={"train": draw(0, size), "test": draw(1, 1000)},
        preprocess=lambda batch: batch,
    )
