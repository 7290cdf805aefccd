"""Products of matrices as pure functions. Layers call these and know nothing of platforms."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.interpreters import ad, batching

from zoo.layers import lowering, onednn


class Form(NamedTuple):
    """All that is static about a product: which matrices are read as their transposes, and the dtype of the result."""

    transpose_a: bool
    transpose_b: bool
    dtype: Any


def _plain(a: Any, b: Any, at: Form) -> jax.Array:
    last = a.ndim - 1
    over = (last - 1 if at.transpose_a else last, last if at.transpose_b else last - 1)
    batch = tuple(range(last - 1))
    contract = (((over[0],), (over[1],)), (batch, batch))
    return lax.dot_general(a, b, contract, preferred_element_type=at.dtype)


_SMALL, _LARGE, _FEW_ROWS = 2**20, 2**23, 64
"""Multiplications below which a call of oneDNN takes longer than they do; and elements of the other matrix from which
on, and the rows up to which, XLA reads it faster."""


def is_better_kept_turned(rows: Any) -> bool:
    """Whether a kernel `[k, n]` that stays the same is better kept as its transpose, to multiply so many rows.

    oneDNN packs a transposed matrix before it reads it, and most others it reads as they lie. Cases measured, the fused
    model with its kernels as they are → turned: ViT-B/16 of 1 image, 143 ms → 129; GPT-2 of 128 tokens, 138 → 127. In
    bfloat16 71 → 66 and 60 → 57.
    """
    many = isinstance(rows, int) and rows > _FEW_ROWS  # an exported program may have any number
    return many and lowering.ENABLED and jax.default_backend() == "cpu" and onednn.takes(jnp.float32)


def _falls_on_same_lines(rows: int, columns: int) -> bool:
    """Whether so many rows of a matrix b `[k, columns]` in float32 lie where they drive each other out of the cache.

    They do where they lie a multiple of 2 kB apart. oneDNN packs b where that is a power of two, but no other multiple;
    768×1536, 374 GFLOP/s, does not suffer yet.
    Cases measured, in GFLOP/s, b as it lies → turned around by XLA before → given as its transpose: 1024×768 by
    768×2304, 357 → 339 → 380; by 768×2560, 255 → 338 → 368; by 768×3072, 182 → 344 → 385; by 768×4096, 358 → 337 → 367;
    by 768×5120, 186 → 348 → 368; 128×768 by 768×3072, 171 → 232 → 363.
    """
    return rows > _FEW_ROWS and columns > 2048 and columns % 512 == 0 and columns.bit_count() > 1


def on_cpu(
    a: jax.Array, b: jax.Array, at: Form, following: onednn.Following = onednn.NOTHING
) -> tuple[jax.Array, bool]:
    """By oneDNN where it is, and whether what is to follow has been done.

    It reads transposed matrices as they lie, and XLA turns them around.

    Cases measured, XLA's time → oneDNN's: 768×128 by 128×512, .33 ms → .31, in the gradients .59 → .32 and .35 → .32;
    96 of 128×128 by 128×64, .93 → .47, 1.51 → .56 and .94 → .54; in bfloat16 .42 → .17 and 1.55 → .30. But 4×25088 by
    25088×4096, 10 → 20. In a loop a call takes 15 µs at least, and XLA 2 for 1×128 by 128×512.
    """
    rows, columns = a.shape[-1 if at.transpose_a else -2], b.shape[-2 if at.transpose_b else -1]
    reads_once = rows <= _FEW_ROWS and math.prod(b.shape) >= _LARGE and not at.transpose_b and a.dtype == jnp.float32
    is_small = rows == 1 or math.prod(a.shape) * columns < _SMALL
    if a.dtype != b.dtype or is_small or reads_once or not onednn.takes(a.dtype):
        return _plain(a, b, at), False
    transpose_b = at.transpose_b
    if not transpose_b and a.dtype == jnp.float32 and _falls_on_same_lines(rows, columns):
        b, transpose_b = b.swapaxes(-1, -2), True
    config = {"transpose_a": at.transpose_a, "transpose_b": transpose_b}
    shape = (*a.shape[:-2], rows, columns)
    return onednn.call("matmul", a, b, shape, config, at.dtype, following), True


def _alone_on_cpu(a: jax.Array, b: jax.Array, at: Form) -> jax.Array:
    return on_cpu(a, b, at)[0]


_ALIGNED, _WIDE = 64, 2**13
"""What tensor cores like sizes to be a multiple of, and the size from which on it pays to see to it."""


def _on_cuda(a: jax.Array, b: jax.Array, at: Form) -> jax.Array:
    """With zeros where a large size is odd, such as a vocabulary of 50,257; they fuse with what makes the operands."""
    rows, columns = a.shape[-1 if at.transpose_a else -2], b.shape[-2 if at.transpose_b else -1]

    def padded(x: jax.Array) -> jax.Array:
        missing = [-n % _ALIGNED if isinstance(n, int) and n >= _WIDE else 0 for n in x.shape[-2:]]
        if not any(missing):
            return x
        return lax.pad(x, np.zeros((), x.dtype), [(0, 0, 0)] * (x.ndim - 2) + [(0, n, 0) for n in missing])

    if a.dtype not in (jnp.bfloat16, jnp.float16):
        return _plain(a, b, at)
    return _plain(padded(a), padded(b), at)[..., :rows, :columns]


_product_p = lowering.primitive("product", _plain, _alone_on_cpu, _on_cuda)


def _bind(a: Any, b: Any, like: Any, transpose_a: bool, transpose_b: bool) -> jax.Array:
    return _product_p.bind(a, b, at=Form(transpose_a, transpose_b, like.dtype))


def _gradient_a(g: jax.Array, a: Any, b: jax.Array, *, at: Form) -> jax.Array:
    g = g.astype(b.dtype)
    return _bind(b, g, b, at.transpose_b, True) if at.transpose_a else _bind(g, b, b, False, not at.transpose_b)


def _gradient_b(g: jax.Array, a: jax.Array, b: Any, *, at: Form) -> jax.Array:
    g = g.astype(a.dtype)
    return _bind(g, a, a, True, at.transpose_a) if at.transpose_b else _bind(a, g, a, not at.transpose_a, False)


ad.defbilinear(_product_p, _gradient_a, _gradient_b)


def _batch(args: Any, axes: Any, *, at: Form) -> tuple[jax.Array, int]:
    """Two mapped operands are a batch of products, and rows that are mapped are more rows."""
    (a, b), (i, j) = args, axes
    if i is not None and j is not None:
        return _product_p.bind(jnp.moveaxis(a, i, 0), jnp.moveaxis(b, j, 0), at=at), 0
    if i is not None and b.ndim == 2 and not at.transpose_a:
        a = jnp.moveaxis(a, i, 0)
        y = _product_p.bind(a.reshape(-1, a.shape[-1]), b, at=at)
        return y.reshape(*a.shape[:2], -1), 0
    return jax.vmap(partial(_plain, at=at), in_axes=tuple(axes))(*args), 0


batching.primitive_batchers[_product_p] = _batch

PRIMITIVE = _product_p
"""What a product is in a jaxpr."""


def matmul(
    a: jax.Array,
    b: jax.Array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    dtype: Any = None,
) -> jax.Array:
    """The product of two matrices, or of those in two arrays `[…, rows, columns]`, one by one.

    Args:
      a: `[…, m, k]`, or `[…, k, m]` where `transpose_a`.
      b: `[…, k, n]`, or `[…, n, k]` where `transpose_b`; the axes in front are those of `a`.
      transpose_a: whether the matrices of `a` are read as their transposes.
      transpose_b: whether those of `b` are.
      dtype: of the result, that of the operands where it is None. Gradients are computed in that of the operands.

    Returns:
      `[…, m, n]`.
    """
    a, b = promote_dtype(a, b)
    return _product_p.bind(a, b, at=Form(transpose_a, transpose_b, jnp.dtype(dtype or a.dtype)))


def in_loop(x: jax.Array, kernel: jax.Array, *, transpose: bool = False) -> jax.Array:
    """A product with `kernel`, or with its transpose, in the body of a loop.

    There a call of oneDNN pays in bfloat16 alone: 128×128 by 128×512, forwards and back in the train step of an LSTM,
    172 ms → 138; in float32 185 → 192.
    """
    if x.dtype == jnp.bfloat16:
        return matmul(x, kernel, transpose_b=transpose)
    return x @ (kernel.T if transpose else kernel)


def dense(x: jax.Array, kernel: jax.Array, *, transpose: bool = False) -> jax.Array:
    """`[…, inputs]` times `[inputs, features]`, or the transpose of `[features, inputs]`, → `[…, features]`."""
    y = matmul(x.reshape(-1, x.shape[-1]), kernel, transpose_b=transpose)
    return y.reshape(*x.shape[:-1], y.shape[-1])
