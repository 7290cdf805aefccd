"""How a convolution is computed on a CPU, where XLA's own ways are up to a hundred times slower than need be.

jaxlib for Linux on x86-64 contains oneDNN with its convolution as a custom call, which the compiler does not use of
itself. It gives the output here, for any stride, dilation and number of groups, in the time that PyTorch takes, which
has the same library; 1×1 is a matrix product, and few outputs are faster as one product and shifted sums. It offers no
gradients, but these are convolutions and products again:

- for the image: an ordinary convolution for each output phase, which is a remainder of the position modulo the stride;
- for the kernel: a matrix product where it is 1×1 or has few channels on one side, a depthwise convolution where it is
  depthwise, and else XLA's convolution with batch and channels exchanged.

Where oneDNN is missing, XLA's convolution takes its place in the same scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zoo.layers import onednn, product


class Geometry(NamedTuple):
    """All that is static about a convolution, each field for (height, width).

    Attributes:
      size: of the image.
      window: of the kernel.
      strides: steps of the window.
      pads: zeros (before, after); negative ones crop.
      dilation: distance between neighbouring elements of the kernel.
      groups: parts of the channels that do not see each other.
    """

    size: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    def out(self) -> tuple[int, int]:
        """The size of the output, ⌊(n + p − (f − 1)·d − 1) / s⌋ + 1 (guide, eq. 34)."""
        rows, columns = (
            max((n + sum(p) - (f - 1) * d - 1) // s + 1, 0)
            for n, p, f, d, s in zip(self.size, self.pads, self.window, self.dilation, self.strides, strict=True)
        )
        return rows, columns


def output(
    x: jax.Array,
    kernel: jax.Array,
    at: Geometry,
    axes: Literal["HWIO", "HWOI"] = "HWIO",
    following: onednn.Following = onednn.NOTHING,
) -> tuple[jax.Array, bool]:
    """conv(x, w), by oneDNN where it is, and whether what is to follow is done; `axes` are those of the kernel."""
    x, at = cropped(x, at)
    outputs = kernel.shape[axes.index("O")]
    shape = (x.shape[0], *at.out(), outputs)
    empty = 0 in (*x.shape, *kernel.shape, *shape)
    product_alone = at.groups == 1 and (at.window, at.strides, at.pads) == ((1, 1), (1, 1), ((0, 0), (0, 0)))
    if _is_half(x) and not product_alone:
        return output(x.astype(jnp.float32), kernel.astype(jnp.float32), at, axes)[0].astype(x.dtype), False
    # Cases measured: 64 channels to one, 28×28, 9.2 ms → 2.0; 64 to 3 at 32×32, 6.5 → 2.7.
    thin = at.groups == 1 and outputs <= 3 and math.prod(at.window) * outputs <= 32 <= x.shape[-1]
    if thin and x.dtype == jnp.float32 and not empty:
        return _thin_output(x, kernel if axes == "HWIO" else kernel.swapaxes(2, 3), at), False
    if empty or not (product_alone or onednn.convolves(x.dtype)):
        y = lax.conv_general_dilated(
            x,
            kernel,
            window_strides=at.strides,
            padding=at.pads,
            rhs_dilation=at.dilation,
            feature_group_count=at.groups,
            dimension_numbers=("NHWC", axes, "NHWC"),
        )
        return y, False
    if product_alone:
        # Its kernel's gradient is a product, too. An image that one reads as such and the other as a matrix would be
        # computed for each anew. Measured: ResNet-50's step of 8 images, 1598 ms → 1438.
        matrix = kernel.reshape(kernel.shape[2:])
        if following.summand is not None:
            following = following._replace(summand=following.summand.reshape(-1, outputs))
        form = product.Form(False, axes == "HWOI", x.dtype)
        y, followed = product.on_cpu(x.reshape(-1, x.shape[-1]), matrix, form, following)
        return y.reshape(shape), followed
    if at.groups == x.shape[-1] == outputs and not _onednn_pads_depthwise(at):
        x, at = _padded(x, at)
    return _onednn(x, kernel, at, shape, axes, following), True


def _is_half(x: jax.Array) -> bool:
    """Whether to compute in float32 what is in half precision.

    Where oneDNN does not convolve in it, ResNet-18 with 8 images of 96×96 in XLA's bfloat16 → so: 35 ms → 32, and a
    train step 174 → 162.
    """
    return x.dtype in (jnp.bfloat16, jnp.float16) and onednn.takes(jnp.float32) and not onednn.convolves(x.dtype)


def image_gradient(g: jax.Array, kernel: jax.Array, at: Geometry) -> jax.Array:
    """The transpose in x: output phases, each an ordinary convolution of g with every s-th element of the kernel.

    Position u of the image gets Σ_t g[(u + p − t·d) / s] w[t] over the t for which the division comes out even; which t
    these are depends on u mod s alone.
    """
    if at.strides != (1, 1) and at.dilation != (1, 1):
        kernel, at = _undilated(kernel, at)
    kernel, axes = (kernel, "HWOI") if at.groups == 1 else (_exchanged(kernel, at.groups), "HWIO")
    total: jax.Array | None = None
    for row in _phases(at, 0):
        for column in _phases(at, 1):
            part = kernel[row.taps, column.taps]
            if 0 in part.shape or 0 in (row.length, column.length):
                continue
            geometry = Geometry(
                (g.shape[1], g.shape[2]),
                (part.shape[0], part.shape[1]),
                (1, 1),
                (row.pads, column.pads),
                at.dilation,
                at.groups,
            )
            part, _ = output(g, part[::-1, ::-1], geometry, axes)
            if at.strides != (1, 1):
                # Padding between the elements and adding the phases up is several times faster than concatenating them.
                part = lax.pad(part, np.zeros((), g.dtype), ((0, 0, 0), row.interleave, column.interleave, (0, 0, 0)))
            total = part if total is None else total + part
    if total is None:
        return jnp.zeros((g.shape[0], *at.size, kernel.shape[axes.index("O")]), g.dtype)
    return total if at.strides == (1, 1) else _materialised(total)


def kernel_gradient(x: jax.Array, g: jax.Array, at: Geometry) -> jax.Array:
    """The transpose in w: Σ x[s·u + t·d − p] g[u] over examples and positions, for each tap t."""
    x, at = cropped(x, at)
    if at.window == (1, 1) and at.groups == 1:
        (tap,) = windows(x, at)
        return product.matmul(tap.reshape(-1, tap.shape[-1]), g.reshape(-1, g.shape[-1]), transpose_a=True)[None, None]
    thin, is_depthwise = min(x.shape[-1], g.shape[-1]), at.groups == x.shape[-1] == g.shape[-1]
    with_tiles = x.dtype == jnp.bfloat16 and onednn.convolves(x.dtype)
    by_taps = with_tiles and at.groups == 1 and thin >= 16
    if _is_half(x) or (with_tiles and not (is_depthwise or by_taps)):
        return kernel_gradient(x.astype(jnp.float32), g.astype(jnp.float32), at).astype(x.dtype)
    if is_depthwise:
        return _depthwise_kernel_gradient(x, g, at)
    # Cases measured: one channel 28×28 to 64, 1.2 ms → .4; 64 to one, 23 → 2.1; 3 to 64 at 32×32, 12 → 2.7; but with
    # stride 2, 3 to 32 at 224×224, 3.8 → 13.5.
    if at.groups == 1 and thin * math.prod(at.window) <= 32 and (thin == 1 or at.strides == (1, 1)):
        return _thin_kernel_gradient(x, g, at)
    return _kernel_gradient_by_taps(x, g, at) if by_taps else _exchanged_kernel_gradient(x, g, at)


def _thin_output(x: jax.Array, kernel: jax.Array, at: Geometry) -> jax.Array:
    """One product of the image, as it lies, with all taps, then sums of shifted numbers, few at each position."""
    inputs, outputs = kernel.shape[2:]
    products = x.reshape(-1, inputs) @ kernel.transpose(2, 0, 1, 3).reshape(inputs, -1)
    parts = windows(products.reshape(*x.shape[:3], -1), at)
    return sum(part[..., t * outputs : (t + 1) * outputs] for t, part in enumerate(parts))  # type: ignore[return-value]


def _thin_kernel_gradient(x: jax.Array, g: jax.Array, at: Geometry) -> jax.Array:
    """A product of the side that has many channels, as it lies, with what all taps see of the side that has few."""

    def rows(x: jax.Array, at: Geometry) -> jax.Array:
        # Channels first: else the innermost loops would be as short as there are channels.
        taps = windows(x.transpose(3, 0, 1, 2).reshape(-1, *x.shape[1:3], 1), at)
        return jnp.stack(taps).reshape(len(taps) * x.shape[-1], -1)

    inputs, outputs = x.shape[-1], g.shape[-1]
    if inputs <= outputs:
        return (rows(x, at) @ g.reshape(-1, outputs)).reshape(*at.window, inputs, outputs)
    # x[v] meets g[(v + p − t·d) / s]: of g with zeros between its elements, the taps in reverse order.
    before = [(f - 1) * d - p for (p, _), f, d in zip(at.pads, at.window, at.dilation, strict=True)]
    spread = [(m - 1) * s + 1 for m, s in zip(g.shape[1:3], at.strides, strict=True)]
    reach = [n + (f - 1) * d for n, f, d in zip(at.size, at.window, at.dilation, strict=True)]
    pads = [(b, r - b - m, s - 1) for b, r, m, s in zip(before, reach, spread, at.strides, strict=True)]
    g = lax.pad(g, np.zeros((), g.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    seen = rows(g, Geometry((reach[0], reach[1]), at.window, (1, 1), ((0, 0), (0, 0)), at.dilation))
    gradient = (seen @ x.reshape(-1, inputs)).reshape(*at.window, outputs, inputs)
    return gradient[::-1, ::-1].swapaxes(2, 3)


def _kernel_gradient_by_taps(x: jax.Array, g: jax.Array, at: Geometry) -> jax.Array:
    """A product for each element of the kernel, for bfloat16 with AMX.

    Cases measured, XLA's convolution in float32 → so: 3×3, 64 → 64 channels, 64 images of 32×32, 40 ms → 22; 256 → 256
    at 8×8, 19 → 8; in float32 itself it takes as long as XLA's convolution.
    """
    x, at = _padded(x, at)
    x, outputs = _materialised(x), g.shape[-1]
    g = g.reshape(-1, outputs)
    taps = [product.matmul(tap.reshape(-1, tap.shape[-1]), g, transpose_a=True) for tap in windows(x, at)]
    return jnp.stack(taps).reshape(*at.window, x.shape[-1], outputs)


def _depthwise_kernel_gradient(x: jax.Array, g: jax.Array, at: Geometry) -> jax.Array:
    """A depthwise convolution with g as its kernel, in which the channels of each example are channels of their own.

    Cases measured, against sums of products, a pass over memory for each tap: batch 8, 3×3, 144 channels 56×56, 14.5 ms
    → 5.8; 5×5, 240 channels 28×28, 13.5 → 2.8; stride 2, 3×3, 96 channels 112×112, 12.7 → 7.9.
    """
    if 0 in (*x.shape, *g.shape) or not onednn.convolves(x.dtype):
        rows = [(tap * g).sum((0, 1, 2)) for tap in windows(x, at)]
        return jnp.stack(rows).reshape(*at.window, 1, -1)

    def with_examples_in_channels(x: jax.Array) -> jax.Array:
        return x.transpose(1, 2, 0, 3).reshape(*x.shape[1:3], -1)

    x, kernel = with_examples_in_channels(x)[None], with_examples_in_channels(g)[:, :, None]
    of_examples, _ = output(x, kernel, _over_positions(at)._replace(groups=x.shape[-1]))
    return of_examples.reshape(*at.window, g.shape[0], -1).sum(2)[:, :, None]


def _exchanged_kernel_gradient(x: jax.Array, g: jax.Array, at: Geometry) -> jax.Array:
    """XLA's convolution with the batch as its channels and g as its kernel."""
    over = _over_positions(at)
    return lax.conv_general_dilated(
        _materialised(x),
        _materialised(g),
        window_strides=over.strides,
        padding=over.pads,
        rhs_dilation=over.dilation,
        batch_group_count=at.groups,
        dimension_numbers=lax.ConvDimensionNumbers((3, 0, 1, 2), (3, 0, 1, 2), (2, 3, 0, 1)),
    )


def _over_positions(at: Geometry) -> Geometry:
    """Of the convolution of x with g whose output is as large as the kernel: strides and dilation change places."""
    size = at.out()
    reach = [(n - 1) * s + 1 for n, s in zip(size, at.strides, strict=True)]
    rows, columns = (
        (before, r + (f - 1) * d - before - n)
        for (before, _), r, f, d, n in zip(at.pads, reach, at.window, at.dilation, at.size, strict=True)
    )
    return Geometry(at.size, size, at.dilation, (rows, columns), at.strides)


def _materialised(x: jax.Array) -> jax.Array:
    """The same, multiplied by one in a call that the compiler does not look into.

    The exchange of batch and channels costs little as an operation of its own. But the compiler would rather fuse it
    with whatever made the array, and compute that again element by element, in an order that caches do not like.
    """
    if x.size == 0 or not onednn.convolves(x.dtype):
        return lax.optimization_barrier(x)
    channels = x.shape[-1]
    at = Geometry((x.shape[1], x.shape[2]), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), channels)
    return _onednn(x, jnp.ones((1, 1, 1, channels), x.dtype), at, x.shape)


class _Phase(NamedTuple):
    """One remainder of positions modulo the stride, along one axis."""

    taps: slice
    length: int
    pads: tuple[int, int]
    interleave: tuple[int, int, int]


def _phases(at: Geometry, axis: int) -> list[_Phase]:
    size, window, s, d = at.size[axis], at.window[axis], at.strides[axis], at.dilation[axis]
    before, length = at.pads[axis][0], at.out()[axis]
    phases = []
    for remainder in range(s):
        first = (remainder + before) % s
        taps = len(range(first, window, s))
        count = len(range(remainder, size, s))
        offset = (remainder + before - first) // s
        pads = ((taps - 1) * d - offset, count - 1 + offset - (length - 1))
        after = size - (remainder + (count - 1) * s + 1)
        phases.append(_Phase(slice(first, None, s), count, pads, (remainder, after, s - 1)))
    return phases


def _exchanged(kernel: jax.Array, groups: int) -> jax.Array:
    """The kernel from outputs to inputs: `[h, w, inputs // groups, outputs]` → `[h, w, outputs // groups, inputs]`."""
    h, w, inputs, outputs = kernel.shape
    split = kernel.reshape(h, w, inputs, groups, outputs // groups)
    return split.transpose(0, 1, 4, 3, 2).reshape(h, w, outputs // groups, groups * inputs)


def _undilated(kernel: jax.Array, at: Geometry) -> tuple[jax.Array, Geometry]:
    """The same with zeros in the kernel in place of dilation."""
    between = [(0, 0, d - 1) for d in at.dilation]
    kernel = lax.pad(kernel, np.zeros((), kernel.dtype), (*between, (0, 0, 0), (0, 0, 0)))
    return kernel, at._replace(window=(kernel.shape[0], kernel.shape[1]), dilation=(1, 1))


def cropped(x: jax.Array, at: Geometry) -> tuple[jax.Array, Geometry]:
    """The same without negative padding."""
    if all(before >= 0 and after >= 0 for before, after in at.pads):
        return x, at
    crop = [(max(-before, 0), n - max(-after, 0)) for (before, after), n in zip(at.pads, at.size, strict=True)]
    x = x[:, slice(*crop[0]), slice(*crop[1])]
    (a, b), (c, d) = at.pads
    return x, at._replace(size=(x.shape[1], x.shape[2]), pads=((max(a, 0), max(b, 0)), (max(c, 0), max(d, 0))))


def _padded(x: jax.Array, at: Geometry) -> tuple[jax.Array, Geometry]:
    """The same with zeros around the image in place of padding."""
    if any(map(any, at.pads)):
        x = lax.pad(x, np.zeros((), x.dtype), ((0, 0, 0), *((*p, 0) for p in at.pads), (0, 0, 0)))
    return x, at._replace(size=(x.shape[1], x.shape[2]), pads=((0, 0), (0, 0)))


def windows(x: jax.Array, at: Geometry) -> list[jax.Array]:
    """What each element of the kernel sees, `[batch, height', width', channels]`."""
    rows, columns = at.out()
    x, at = _padded(x, at)

    def part(axis: int, t: int, count: int) -> slice:
        start = t * at.dilation[axis]
        return slice(start, start + (count - 1) * at.strides[axis] + 1, at.strides[axis])

    return [x[:, part(0, i, rows), part(1, j, columns)] for i in range(at.window[0]) for j in range(at.window[1])]


def _onednn_pads_depthwise(at: Geometry) -> bool:
    """Whether oneDNN's kernels for depthwise convolutions take the padding.

    They do if it is less than the kernel's extent and no more than the outputs of a row that they compute at once: all
    of them, or at least 3, whatever the instructions. Else oneDNN turns to a product for each group, which in jaxlib
    0.10 corrupts the heap.
    """
    axes = zip(at.pads, at.window, at.dilation, at.out(), strict=True)
    return all(max(pads) <= min((f - 1) * d, n, 3) for pads, f, d, n in axes)


def _onednn(
    x: jax.Array,
    kernel: jax.Array,
    at: Geometry,
    shape: tuple[int, ...],
    axes: str = "HWIO",
    following: onednn.Following = onednn.NOTHING,
) -> jax.Array:
    """XLA's custom call of oneDNN's convolution; the fields are those of its `OneDnnConvolutionConfig`."""

    def data(spatial: Sequence[int], **dims: int) -> dict[str, object]:
        return {**{name: str(dim) for name, dim in dims.items()}, "spatial_dims": [str(dim) for dim in spatial]}

    image = {"data": data((1, 2), batch_dim=0, feature_dim=3)}
    config = {
        "dims": "4",
        "feature_groups": str(at.groups),
        "input": image,
        "kernel": {"filter": data((0, 1), input_feature_dim=axes.index("I"), output_feature_dim=axes.index("O"))},
        "output": image,
        "window": {
            "strides": [str(s) for s in at.strides],
            "pad_left": [str(before) for before, _ in at.pads],
            "pad_right": [str(after) for _, after in at.pads],
            "window_dilations": [str(d) for d in at.dilation],
        },
    }
    return onednn.call("conv", x, kernel, shape, config, x.dtype, following)
