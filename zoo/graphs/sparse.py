"""Features of few entries, such as bags of words.

Their product with a kernel is a primitive, linear in both, whose transposes are such products again. Where the matrix
is known before a program is compiled, its entries are also listed by column, and neither direction scatters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import sparse
from jax.interpreters import ad

from zoo.layers import lowering
from zoo.layers.basic import wide


class SparseRows(NamedTuple):
    """A matrix of few entries, such as bags of words, as lists of the same length.

    Attributes:
      columns: of the entries of each row, int32 `[…, rows, entries]`; where there are fewer, any with the value 0.
      values: `[…, rows, entries]`.
      width: an empty array `[…, rows, 0, columns]`, whose shape tells the width where a program is traced.
      order: of a single matrix that is known, those of the `rows * entries` that are not 0, counted row by row and
        sorted by column, int32 `[stored]`. None for others, whose gradients for a kernel scatter.
      starts: where the entries of each column begin in `order`, int32 `[columns + 1]`; None where that is.
    """

    columns: jax.Array
    values: jax.Array
    width: jax.Array
    order: jax.Array | None = None
    starts: jax.Array | None = None

    def product(self, kernel: jax.Array) -> jax.Array:
        """Times `kernel [columns, features]` → `[…, rows, features]`, at the price of the entries alone."""
        if self.order is None or self.starts is None:
            return _of_lists(self.values, self.columns, kernel)
        operands = self.values, self.columns, self.order, self.starts, kernel
        return _product_p.bind(*operands, at=Form(kernel.shape[0], False))

    def dense(self) -> jax.Array:
        """The whole matrix, `[…, rows, columns]`."""
        return self.product(jnp.eye(self.width.shape[-1], dtype=self.values.dtype))


Rows = Any
"""An array `[rows, columns]`, or `SparseRows`."""


class Form(NamedTuple):
    """All that is static about a product: the matrix's width, and whether its transpose is meant."""

    width: Any
    transpose: bool


def _of_lists(values: jax.Array, columns: jax.Array, kernel: jax.Array) -> jax.Array:
    """A product of what is gathered: a sum of it takes 1.2 × as long on a CPU."""
    # Looked up in single precision: the gradient of a column that many rows have would stop in a half.
    rows = wide(kernel).at[columns].get(mode="clip").astype(kernel.dtype)
    return jnp.einsum("...e,...ef->...f", values, rows)


def _plain(values: Any, columns: Any, order: Any, starts: Any, x: Any, *, at: Form) -> jax.Array:
    if not at.transpose:
        return _of_lists(values, columns, x)
    summands = wide(values[..., None] * x[:, None])
    total = jnp.zeros((at.width, x.shape[-1]), summands.dtype).at[columns].add(summands, mode="clip")
    return total.astype(x.dtype)


def _on_cpu(values: Any, columns: Any, order: Any, starts: Any, x: Any, *, at: Form) -> jax.Array:
    """By the routine for compressed rows that jaxlib has, which reads where it is told: numbers are kept in range.

    Cases measured, the features of Cora (49,216 entries of 2708×1433), product and gradient, `_plain`'s time → this:
    16 columns 1.34 ms → .71, 64 columns 3.51 → 1.12. Whole train steps of a GCN 1.9 → 1.4, GraphSAGE 1.8 → 1.4, APPNP
    6.2 → 4.2, GAT 9.7 → 7.7.
    """
    rows, length = values.shape
    whole = starts.shape == (at.width + 1,)  # not where a model is initialised, by zeros of fewer rows
    single = values.dtype == x.dtype == jnp.float32
    if not (whole and single) or 0 in (*values.shape, *x.shape, *order.shape):
        return _plain(values, columns, order, starts, x, at=at)
    values = values.reshape(-1)
    if at.transpose:
        parts = values.at[order].get(mode="clip"), (order // length).clip(0, rows - 1), starts.clip(0, order.shape[0])
        return sparse.BCSR(parts, shape=(at.width, rows)) @ x
    every = jnp.arange(rows + 1, dtype=jnp.int32) * length
    return sparse.BCSR((values, columns.reshape(-1).clip(0, at.width - 1), every), shape=(rows, at.width)) @ x


_product_p = lowering.primitive("sparse_product", _plain, _on_cpu)


def _transpose(g: Any, values: Any, columns: Any, order: Any, starts: Any, x: Any, *, at: Form) -> list[Any]:
    if isinstance(g, ad.Zero):
        return [None] * 5
    if ad.is_undefined_primal(x):
        turned = at._replace(transpose=not at.transpose)
        return [None] * 4 + [_product_p.bind(values, columns, order, starts, g, at=turned)]
    of_rows, of_columns = (x, g) if at.transpose else (g, x)
    return [jnp.einsum("rf,ref->re", of_rows, of_columns.at[columns].get(mode="clip"))] + [None] * 4


def _with_values(tangent: Any, _: Any, *others: Any, at: Form) -> jax.Array:
    return _product_p.bind(tangent, *others, at=at)


def _with_x(tangent: Any, *operands: Any, at: Form) -> jax.Array:
    return _product_p.bind(*operands[:-1], tangent, at=at)


ad.primitive_transposes[_product_p] = _transpose
ad.defjvp(_product_p, _with_values, None, None, None, _with_x)
