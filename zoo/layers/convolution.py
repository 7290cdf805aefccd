"""Convolution and pooling as pure functions.

Images are NHWC, kernels HWIO. Layers and models call these and know nothing of platforms.

A convolution is the trilinear form ⟨conv(x, w), g⟩ of an image, a kernel and an output. Fixing two of the three
leaves an array: the output, the gradient for the image, the gradient for the kernel. Each of these is a primitive here,
and the transposes of each are the two others. `lowering` says when they are XLA's convolution, and `cpu_convolution`
what they are on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad, batching

from zoo.layers import cpu_convolution, lowering, product
from zoo.layers.cpu_convolution import Geometry

Padding = Literal["SAME", "VALID"] | int | Sequence[tuple[int, int]]


def _output(x: Any, kernel: Any, at: Geometry) -> jax.Array:
    x, at = cpu_convolution.cropped(x, at)  # XLA's gradient for the kernel is wrong on a CPU where padding is negative
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=at.strides,
        padding=at.pads,
        rhs_dilation=at.dilation,
        feature_group_count=at.groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _image_gradient(g: Any, kernel: Any, at: Geometry) -> jax.Array:
    image = jax.ShapeDtypeStruct((g.shape[0], *at.size, kernel.shape[2] * at.groups), g.dtype)
    return jax.linear_transpose(lambda x: _output(x, kernel, at), image)(g)[0]


def _kernel_gradient(x: Any, g: Any, at: Geometry) -> jax.Array:
    kernel = jax.ShapeDtypeStruct((*at.window, x.shape[-1] // at.groups, g.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda w: _output(x, w, at), kernel)(g)[0]


def _output_on_cpu(x: jax.Array, kernel: jax.Array, at: Geometry) -> jax.Array:
    return cpu_convolution.output(x, kernel, at)[0]


_output_p = lowering.primitive("convolution", _output, _output_on_cpu)
_image_gradient_p = lowering.primitive("convolution_image_gradient", _image_gradient, cpu_convolution.image_gradient)
_kernel_gradient_p = lowering.primitive(
    "convolution_kernel_gradient", _kernel_gradient, cpu_convolution.kernel_gradient
)

OUTPUT = _output_p
"""What a convolution is in a jaxpr."""

# The rules get the cotangent and both operands, of which the one that is sought is but a placeholder.
ad.defbilinear(
    _output_p,
    lambda g, x, kernel, *, at: _image_gradient_p.bind(g, kernel, at=at),
    lambda g, x, kernel, *, at: _kernel_gradient_p.bind(x, g, at=at),
)
ad.defbilinear(
    _image_gradient_p,
    lambda x, g, kernel, *, at: _output_p.bind(x, kernel, at=at),
    lambda x, g, kernel, *, at: _kernel_gradient_p.bind(x, g, at=at),
)
ad.defbilinear(
    _kernel_gradient_p,
    lambda kernel, x, g, *, at: _image_gradient_p.bind(g, kernel, at=at),
    lambda kernel, x, g, *, at: _output_p.bind(x, kernel, at=at),
)


def _windows(x: jax.Array, at: Geometry) -> jax.Array:
    """What the window sees at each position, `[batch, height', width', height · width · channels of the kernel]`."""
    return jnp.concatenate(cpu_convolution.windows(x, at), axis=-1)


def _mapped_output(x: jax.Array, kernel: jax.Array, at: Geometry) -> jax.Array:
    """Images and kernels of their own, `[n, batch, …]` and `[n, …]`: one batched product of windows and kernels."""
    seen = _windows(x.reshape(-1, *x.shape[2:]), at)
    y = product.matmul(seen.reshape(len(x), -1, seen.shape[-1]), kernel.reshape(len(x), -1, kernel.shape[-1]))
    return y.reshape(*x.shape[:2], *seen.shape[1:3], -1)


def _mapped_image_gradient(g: jax.Array, kernel: jax.Array, at: Geometry) -> jax.Array:
    flat = g.reshape(len(g), -1, g.shape[-1])
    seen = product.matmul(flat, kernel.reshape(len(g), -1, kernel.shape[-1]), transpose_b=True)
    image = jax.ShapeDtypeStruct((g.shape[0] * g.shape[1], *at.size, kernel.shape[3]), g.dtype)
    seen = seen.reshape(-1, *g.shape[2:4], seen.shape[-1])
    return jax.linear_transpose(lambda x: _windows(x, at), image)(seen)[0].reshape(*g.shape[:2], *image.shape[1:])


def _mapped_kernel_gradient(x: jax.Array, g: jax.Array, at: Geometry) -> jax.Array:
    seen = _windows(x.reshape(-1, *x.shape[2:]), at)
    seen, g = seen.reshape(len(x), -1, seen.shape[-1]), g.reshape(len(g), -1, g.shape[-1])
    return product.matmul(seen, g, transpose_a=True).reshape(len(x), *at.window, x.shape[-1], g.shape[-1])


def _map(primitive: Any, one_by_one: Any, mapped: Any, kernel: bool) -> None:
    """How `jax.vmap` runs a primitive: with one kernel for all as one batch, with a kernel for each as products.

    XLA would make groups of the kernels: with 16 of 64 → 64 features on 20 images of 14×14 each, value and gradient
    take 850 ms on 2 CPU cores, and 12 as products.

    Args:
      primitive: of (images or outputs, kernel), or of (images, outputs).
      one_by_one: the same in operations of XLA.
      mapped: the same of `[n, …]` and `[n, …]`.
      kernel: whether its second operand is a kernel.
    """

    def batch(args: Any, axes: Any, *, at: Geometry) -> tuple[jax.Array, int]:
        n = next(a.shape[i] for a, i in zip(args, axes, strict=True) if i is not None)
        if kernel and axes[1] is None:
            x = jnp.moveaxis(args[0], axes[0], 0)
            y = primitive.bind(x.reshape(-1, *x.shape[2:]), args[1], at=at)
            return y.reshape(*x.shape[:2], *y.shape[1:]), 0
        if at.groups != 1 or any(before < 0 or after < 0 for before, after in at.pads):
            return jax.vmap(partial(one_by_one, at=at), in_axes=tuple(axes))(*args), 0
        whole = (
            jnp.broadcast_to(a[None], (n, *a.shape)) if i is None else jnp.moveaxis(a, i, 0)
            for a, i in zip(args, axes, strict=True)
        )
        return mapped(*whole, at), 0

    batching.primitive_batchers[primitive] = batch


_map(_output_p, _output, _mapped_output, kernel=True)
_map(_image_gradient_p, _image_gradient, _mapped_image_gradient, kernel=True)
_map(_kernel_gradient_p, _kernel_gradient, _mapped_kernel_gradient, kernel=False)


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
    size, window = x.shape[1:3], kernel.shape[:2]
    pads = explicit_padding(padding, size, window, strides, dilation)
    return _output_p.bind(x, kernel, at=Geometry(size, window, tuple(strides), pads, tuple(dilation), groups))


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
    scaled = [n * s for n, s in zip(x.shape[1:3], strides, strict=True)]
    pads = explicit_padding(padding, scaled, window, strides)
    if padding in ("SAME", "VALID"):
        scaled = [
            n + max(w - s, 0) if padding == "VALID" else n for n, w, s in zip(scaled, window, strides, strict=True)
        ]
    else:
        scaled = [n - s + w - sum(p) for n, s, w, p in zip(scaled, strides, window, pads, strict=True)]
    at = Geometry(tuple(scaled), window, tuple(strides), pads)
    return _image_gradient_p.bind(x, kernel.swapaxes(2, 3), at=at)


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

    Of equal maxima the first takes the gradient, as in PyTorch.
    """
    strides = tuple(strides or window)
    pads = explicit_padding(padding, x.shape[1:3], window, strides)
    return lax.platform_dependent(
        x,
        cpu=partial(_max_of_taps, window=tuple(window), strides=strides, pads=pads),
        default=partial(_max_of_windows, window=tuple(window), strides=strides, pads=pads),
    )


def _lowest(dtype: Any) -> np.ndarray:
    # A NumPy scalar: a traced one hides from JAX that this is the start of a maximum, whose gradient it knows.
    return np.asarray(-np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min, dtype)


def _max_of_windows(x: jax.Array, *, window: Any, strides: Any, pads: Any) -> jax.Array:
    return lax.reduce_window(x, _lowest(x.dtype), lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0)))


def _max_of_taps(x: jax.Array, *, window: Any, strides: Any, pads: Any) -> jax.Array:
    """The same as maxima of shifted images, whose gradient is many times faster on a CPU than `select_and_scatter`.

    For windows that lie side by side too: XLA fuses a maximum over axes of a reshaped image with the matrix products
    that follow into one that takes forty times as long.
    """
    if (tiles := _tiles(x, window, strides, pads)) is not None:
        _, rows, _, columns, _, _ = tiles.shape
        return _max_of_tiles(x[:, : rows * window[0], : columns * window[1]], tuple(window))
    x = lax.pad(x, _lowest(x.dtype), ((0, 0, 0), *((*p, 0) for p in pads), (0, 0, 0)))
    count = [(n - w) // s + 1 for n, w, s in zip(x.shape[1:3], window, strides, strict=True)]

    def tap(i: int, j: int) -> jax.Array:
        rows, columns = (slice(t, t + (n - 1) * s + 1, s) for t, n, s in zip((i, j), count, strides, strict=True))
        return x[:, rows, columns]

    return _first_max([tap(i, j) for i in range(window[0]) for j in range(window[1])])


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_of_tiles(x: jax.Array, window: tuple[int, int]) -> jax.Array:
    return reduce(jnp.maximum, _taps_of_tiles(x, window))


def _taps_of_tiles(x: jax.Array, window: tuple[int, int]) -> list[jax.Array]:
    return [x[:, i :: window[0], j :: window[1]] for i in range(window[0]) for j in range(window[1])]


@_max_of_tiles.defjvp
def _(window: tuple[int, int], primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Its transpose writes each position once: zeros between elements, for each tap, took ten times as long."""
    (x,), (direction,) = primals, tangents
    largest = _max_of_tiles(x, window)
    first = jnp.full(largest.shape, -1)
    for index, tap in reversed(list(enumerate(_taps_of_tiles(x, window)))):
        first = jnp.where(tap == largest, index, first)
    batch, rows, columns, channels = largest.shape
    here = first[:, :, None, :, None] == np.arange(math.prod(window)).reshape(1, 1, window[0], 1, window[1], 1)
    tiles = direction.reshape(batch, rows, window[0], columns, window[1], channels)
    return largest, jnp.where(here, tiles, jnp.zeros_like(tiles)).sum(axis=(2, 4))


@jax.custom_jvp
def _first_max(arrays: list[jax.Array]) -> jax.Array:
    return reduce(jnp.maximum, arrays)


@_first_max.defjvp
def _(primals: tuple[list[jax.Array]], tangents: tuple[list[jax.Array]]) -> tuple[jax.Array, jax.Array]:
    """The tangent of the first maximum, as `reduce_window` has it."""
    ((arrays,), (directions,)) = primals, tangents
    largest = _first_max(arrays)
    total, free = jnp.zeros_like(directions[0]), jnp.full(largest.shape, True)
    for array, direction in zip(arrays, directions, strict=True):
        here = free & (array == largest)
        total, free = total + jnp.where(here, direction, 0), free & ~here
    return largest, total


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
