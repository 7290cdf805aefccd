"""Drawing from generative runs: samples, ways between two of them, and the plane of a VAE's latent space."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from train.inference.loading import Run, load
from train.loop.feed import padded_rows
from train.memory import require_memory
from train.tasks import task_option
from zoo.generative import diffusion, gan

_BATCH = 256
"""The most images that are generated at a time."""

_DIFFUSION_STEPS = 100
"""Of `diffusion_mnist` a classifier is sure to 0.968 on average; in 50 it is to 0.961, without fresh noise to 0.956."""


class Generator(NamedTuple):
    """A trained model as a function from noise to images.

    Attributes:
      latent_shape: of the noise of one image.
      decode: (standard normal `[batch, *latent_shape]`, a key or None) → images in [0, 1],
        `[batch, height, width, channels]`. With a key a diffusion model adds noise on the way, and a GAN's
        discriminator has a say in which latents are taken; without one images are functions of the latents alone.
    """

    latent_shape: tuple[int, ...]
    decode: Callable[[jax.Array, jax.Array | None], jax.Array]


def generator(run: Run) -> Generator:
    """What a run has learnt to generate.

    Raises:
      ValueError: the run's task is not a generative one.
    """
    if run.recipe.task not in GENERATORS:
        raise ValueError(
            f"this run does {run.recipe.task}, and draws no images; runs that do so have the task "
            f"{' or '.join(sorted(GENERATORS))}"
        )
    return GENERATORS[run.recipe.task](run)


def _vae(run: Run) -> Generator:
    size = (run.model.latent_size,)
    return Generator(size, lambda z, _: jax.nn.sigmoid(_apply(run.model, "decode", run.variables, z)))


def _gan(run: Run) -> Generator:
    resampled = task_option(run.recipe, "loss") == "non_saturating"

    def decode(z: jax.Array, key: jax.Array | None) -> jax.Array:
        if resampled and key is not None:
            z = gan.resample(run.model, run.variables, z, key)
        return (_apply(run.model, "generate", run.variables, z) + 1) / 2

    return Generator((run.model.latent_size,), decode)


def _diffusion(run: Run) -> Generator:
    schedule = diffusion.noise_schedule(*(task_option(run.recipe, name) for name in ("schedule", "num_steps")))
    steps = min(_DIFFUSION_STEPS, len(schedule))

    def decode(noise: jax.Array, key: jax.Array | None) -> jax.Array:
        eta = 0.0 if key is None else 1.0
        images = diffusion.generate(run.model, run.variables, schedule, noise, steps=steps, eta=eta, key=key)
        return (images + 1) / 2

    return Generator(run.dataset.spec.fields["image"].shape, decode)


GENERATORS: dict[str, Callable[[Run], Generator]] = {"diffusion": _diffusion, "gan": _gan, "vae": _vae}
"""By the task of a run."""


@partial(jax.jit, static_argnums=(0, 1))
def _apply(model: nn.Module, method: str, variables: Any, x: jax.Array) -> Any:
    return model.apply(variables, x, method=method)


def decode(source: Generator, latents: jax.Array, key: jax.Array | None = None) -> np.ndarray:
    """Images in [0, 1] from standard normal latents, `[n, *latent_shape]` → `[n, height, width, channels]`."""
    parts = []
    # Batches of one size are compiled once; and they begin at the same images for every n, so their noise is the same.
    for index, rows in enumerate(padded_rows(len(latents), min(_BATCH, len(latents)))):
        of_batch = None if key is None else jax.random.fold_in(key, index)
        parts.append(np.asarray(source.decode(latents[np.maximum(rows, 0)], of_batch), np.float32)[rows >= 0])
    return np.concatenate(parts).clip(0, 1)


def draw(run: Run, n: int, seed: int = 0) -> np.ndarray:
    """`sample` of a run that is loaded already."""
    if n < 1:
        raise ValueError(f"n, the number of images, must be at least 1, not {n}")
    source, key = generator(run), jax.random.key(seed)
    require_memory(4 * n * math.prod(source.latent_shape), f"{n} images: the noise that they begin with")
    return decode(source, jax.random.normal(key, (n, *source.latent_shape)), key)


def sample(folder: str | Path, n: int, seed: int = 0) -> np.ndarray:
    """Draws images from the best checkpoint of a run.

    Those of a diffusion model take 100 steps, with fresh noise in each (η = 1: Song et al. 2021, eq. 16). Each of a GAN
    that was trained with the non-saturating loss is one of 16, see `zoo.gan.resample`.

    Args:
      folder: the run of a VAE, a GAN or a diffusion model.
      n: how many.
      seed: the same seed gives the same images, and n more of them the same first ones.

    Returns:
      `[n, height, width, channels]` in [0, 1].

    Raises:
      ValueError: the run is not generative, or n is not positive.
    """
    return draw(load(folder), n, seed)


def interpolate(folder: str | Path, rows: int = 8, columns: int = 8, seed: int = 0) -> np.ndarray:
    """Images on the way between two samples, a way in each row.

    The latents turn from one to the other on a great circle (`slerp`): on a straight line they would get shorter than
    those that the model knows. A diffusion model adds no noise here (DDIM), so that images follow from latents.

    Returns:
      `[rows, columns, height, width, channels]` in [0, 1].

    Raises:
      ValueError: the run is not generative, or there are less than 1 row or 2 columns.
    """
    if rows < 1 or columns < 2:
        raise ValueError(f"an interpolation has at least 1 row and 2 columns, not {rows} and {columns}")
    source = generator(load(folder))
    first, last = jax.random.normal(jax.random.key(seed), (2, rows, math.prod(source.latent_shape)))
    latents = jnp.stack([slerp(first, last, share) for share in np.linspace(0, 1, columns)], axis=1)
    images = decode(source, latents.reshape(-1, *source.latent_shape))
    return images.reshape(rows, columns, *images.shape[1:])


def slerp(first: jax.Array, last: jax.Array, share: float) -> jax.Array:
    """Spherical linear interpolation (Shoemake 1985; White 2016), `[batch, size]`; a share of 0 gives the first."""
    norms = jnp.linalg.norm(first, axis=-1, keepdims=True) * jnp.linalg.norm(last, axis=-1, keepdims=True)
    angle = jnp.arccos(jnp.clip((first * last).sum(axis=-1, keepdims=True) / norms, -1, 1))
    return (jnp.sin((1 - share) * angle) * first + jnp.sin(share * angle) * last) / jnp.sin(angle)


def manifold(folder: str | Path, side: int = 15) -> np.ndarray:
    """The plane through a VAE's latent space in which the images of the training data differ most.

    The guide draws the first two of 32 coordinates, and most coordinates carry nothing. Here the plane is that of the
    two principal components of the encoded means of (up to 10,000 of) the training images; rows and columns go from
    -2 to 2 standard deviations about their mean.

    Returns:
      `[side, side, height, width, channels]` in [0, 1], the first component along columns.

    Raises:
      ValueError: the run is no VAE, or the side is less than 2.
    """
    if side < 2:
        raise ValueError(f"the side of a manifold is at least 2 images, not {side}")
    run = load(folder)
    if run.recipe.task != "vae":
        raise ValueError(f"this run does {run.recipe.task}; only a VAE says where in its latent space images lie")
    source = run.dataset.splits["train"]
    means = []
    for rows in padded_rows(min(len(source), 10_000), _BATCH):
        image = run.dataset.preprocess(source[np.maximum(rows, 0)])["image"]
        means.append(np.asarray(_apply(run.model, "encode", run.variables, image)[0], np.float32)[rows >= 0])
    codes = np.concatenate(means)
    center = codes.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov(codes, rowvar=False))
    second, first = (axes * np.sqrt(np.maximum(variances, 0))).T[-2:]
    steps = np.linspace(-2, 2, side)
    latents = center + steps[::-1, None, None] * second + steps[None, :, None] * first
    images = decode(generator(run), jnp.asarray(latents.reshape(side * side, -1), jnp.float32))
    return images.reshape(side, side, *images.shape[1:])


def liveliest_plane(source: Generator, n: int = 64) -> np.ndarray:
    """Two directions in a latent space in which images change most, found by the decoder alone.

    They span the active subspace (Constantine, Dow & Wang 2014): the leading eigenvectors of E[JᵀJ], where a column of
    J is the change of the image along a step of one standard deviation, and E the mean over `n` latents of the prior.

    Args:
      source: of latents `[latent_size]`.
      n: latents.

    Returns:
      Orthonormal rows, `[2, latent_size]`, the first the livelier. Of one or two dimensions they are the axes
      themselves, or the one there is and zeros.
    """
    (size,) = source.latent_shape
    if size <= 2:
        return np.eye(2)[:, :size]
    half_steps = np.concatenate([np.eye(size), -np.eye(size)]) / 2
    latents = jax.random.normal(jax.random.key(0), (n, 1, size)) + jnp.asarray(half_steps[None], jnp.float32)
    ends = decode(source, latents.reshape(-1, size)).reshape(n, 2, size, -1)
    changes = (ends[:, 0] - ends[:, 1]).transpose(0, 2, 1).reshape(-1, size)
    return np.linalg.eigh(changes.T @ changes)[1].T[:-3:-1]
