"""Convolution and pooling as pure functions: the one place where their lowering is chosen.

Images are NHWC, kernels HWIO. Layers and models call these and know nothing of platforms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Padding = Literal["SAME", "VALID"] | int | Sequence[tuple[int, int]]

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def explicit_padding(
    padding: Padding,
    size: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int] = (1, 1),
) -> tuple[tuple[int, int], ...]:
    """Padding as (before, after) for each spatial axis; `SAME` as TensorFlow and Keras define it."""
    if isinstance(padding, int):
        return tuple((padding, padding) for _ in window)
    if isinstance(padding, str):
        extent = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
        return tuple(lax.padtype_to_pads(size, extent, strides, padding))
    return tuple((before, after) for before, after in padding)


def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Padding = "SAME",
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> jax.Array:
    """Cross-correlation (guide, eq. 33), output size ⌊(n + 2p − f) / s⌋ + 1 (eq. 34).

    Args:
      x: `[batch, height, width, channels]`.
      kernel: `[height, width, channels // groups, features]`.
      padding: an int is the same on all sides, as in PyTorch.

    Returns:
      `[batch, height', width', features]`.
    """
    pads = explicit_padding(padding, x.shape[1:3], kernel.shape[:2], strides, dilation)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=pads,
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=_LAYOUT,
    )


def conv_transpose(
    x: jax.Array, kernel: jax.Array, *, strides: Sequence[int] = (1, 1), padding: Padding = "SAME"
) -> jax.Array:
    """Transposed convolution: the gradient of `conv` with respect to its input, as in PyTorch and Keras.

    Args:
      x: `[batch, height, width, channels]`.
      kernel: `[height, width, channels, features]`.
      padding: what the convolution that is transposed would have. `SAME` gives size · stride, an int p gives
        (size − 1) · stride + window − 2p.

    Returns:
      `[batch, height', width', features]`.
    """
    window = kernel.shape[:2]
    size = [n * s for n, s in zip(x.shape[1:3], strides, strict=True)]
    pads = explicit_padding(padding, size, window, strides)
    inner = [
        (w - 1 - before, w - 1 - after + (max(s - w, 0) if padding in ("SAME", "VALID") else 0))
        for (before, after), w, s in zip(pads, window, strides, strict=True)
    ]
    return lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        window_strides=(1, 1),
        padding=inner,
        lhs_dilation=strides,
        dimension_numbers=_LAYOUT,
    )


def _tiles(
    x: jax.Array, window: Sequence[int], strides: Sequence[int], pads: Sequence[tuple[int, int]]
) -> jax.Array | None:
    """`[batch, rows, window, columns, window, channels]` where the windows lie side by side, else None."""
    if tuple(window) != tuple(strides) or any(map(any, pads)):
        return None
    rows, columns = (n // w for n, w in zip(x.shape[1:3], window, strict=True))
    x = x[:, : rows * window[0], : columns * window[1]]
    return x.reshape(x.shape[0], rows, window[0], columns, window[1], x.shape[-1])


def max_pool(
    x: jax.Array,
    window: Sequence[int] = (2, 2),
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> jax.Array:
    """Maximum over each window (guide, eq. 35); `strides` default to the window.

    Where windows lie side by side, equal maxima share the gradient evenly; else the first of them takes it.
    """
    strides = tuple(strides or window)
    pads = explicit_padding(padding, x.shape[1:3], window, strides)
    if (tiles := _tiles(x, window, strides, pads)) is not None:
        return tiles.max(axis=(2, 4))  # its gradient is 9 times faster on a CPU than select_and_scatter
    lowest = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    # The start is a NumPy scalar: a traced one hides from JAX that this is a maximum, whose gradient it knows.
    return lax.reduce_window(
        x, np.asarray(lowest, x.dtype), lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0))
    )


def avg_pool(
    x: jax.Array,
    window: Sequence[int] = (2, 2),
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> jax.Array:
    """Mean over each window (guide, eq. 36); padding counts as zeros in it. `strides` default to the window."""
    strides = tuple(strides or window)
    pads = explicit_padding(padding, x.shape[1:3], window, strides)
    if (tiles := _tiles(x, window, strides, pads)) is not None:
        return tiles.mean(axis=(2, 4))
    total = lax.reduce_window(
        x, np.zeros((), x.dtype), lax.add, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0))
    )
    return total / math.prod(window)
