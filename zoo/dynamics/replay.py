"""The gradient of an adaptive solution: back over the steps that were taken.

diffrax's loop with checkpoints is general and computes each step again under its whole machinery; here the loop behind
a solution is the method's formula and its transpose alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def replayed_gradients(
    field: Callable[..., jax.Array],
    solver: Any,
    y: jax.Array,
    times: jax.Array,
    args: Any,
    values: jax.Array,
    ends: jax.Array,
    states: jax.Array,
    count: jax.Array,
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array, Any]:
    """The gradients for y, times and args of values that an explicit method of diffrax found.

    Sizes of steps count as constants, as in diffrax and torchdiffeq.

    Args:
      field: f(t, y, args).
      solver: the method of diffrax: its tableau and how it interpolates within a step.
      y: the state at the first time.
      times: `[times]`.
      args: of the field.
      values: what was found, `[times, *y.shape]`.
      ends: the times at which steps ended, `[max_steps]`.
      states: those at the ends, `[max_steps, *y.shape]`.
      count: how many steps were taken.
      cotangent: of the values, `[times, *y.shape]`.
    """
    tableau, between = solver.tableau, len(times) > 2
    direction = jnp.sign(times[-1] - times[0])
    floats, rest, treedef = _parted(args)

    def step(floats: list[Any], y: jax.Array, start: jax.Array, end: jax.Array) -> Any:
        own = jax.tree.unflatten(treedef, [f if r is None else r for f, r in zip(floats, rest, strict=True)])
        h = end - start
        slopes = [h * field(start, y, own).astype(y.dtype)]
        last = y
        for node, row in zip(tableau.c, tableau.a_lower, strict=True):
            last = y + _sum(row, slopes)
            if len(slopes) < tableau.num_stages - 1 or not tableau.ssal or between:
                slopes.append(h * field(start + np.asarray(node, h.dtype) * h, last, own).astype(y.dtype))
        after = last if tableau.ssal else y + _sum(tableau.b_sol, slopes)
        if not between:
            return after, ()
        inside = solver.interpolation_cls(t0=start, t1=end, y0=y, y1=after, k=jnp.stack(slopes))
        return after, jax.vmap(inside.evaluate)(jnp.clip(times, jnp.minimum(start, end), jnp.maximum(start, end)))

    def back(carry: Any) -> Any:
        index, along, of_floats = carry
        before = jnp.maximum(index - 1, 0)
        start = jnp.where(index > 0, ends[before], times[0])
        state = jnp.where(index > 0, states[before], y)
        end = ends[index]
        _, transpose = jax.vjp(lambda floats, y: step(floats, y, start, end), floats, state)
        here = ()
        if between:
            is_inside = ((times - start) * direction > 0) & ((times - end) * direction <= 0)
            here = jnp.where(is_inside.reshape(-1, *(1,) * y.ndim), cotangent, 0)
        more, along = transpose((along, here))
        return index - 1, along, jax.tree.map(jnp.add, of_floats, more)

    last = jnp.zeros_like(y) if between else cotangent[-1]
    first = (count - 1, last, jax.tree.map(jnp.zeros_like, floats))
    _, along, of_floats = lax.while_loop(lambda carry: carry[0] >= 0, back, first)

    def growth(t: jax.Array, value: jax.Array, along: jax.Array) -> jax.Array:
        """How what is asked for grows with the end of the solution: its slope there."""
        return jnp.vdot(along, field(t, value, args).astype(y.dtype))

    start = -growth(times[0], y, along)[None]
    if between:
        grown = jax.vmap(growth)(times[1:], values[1:], cotangent[1:])
    else:
        grown = growth(times[1], values[1], cotangent[1])[None]
    leaves = [
        np.zeros(np.shape(r), jax.dtypes.float0) if f is None else f for f, r in zip(of_floats, rest, strict=True)
    ]
    return along + cotangent[0], jnp.concatenate([start, grown]), jax.tree.unflatten(treedef, leaves)


def _parted(args: Any) -> tuple[list[Any], list[Any], Any]:
    """The leaves that are real numbers, the others, and the structure of both."""
    leaves, treedef = jax.tree.flatten(args)
    real = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]
    floats = [jnp.asarray(leaf) if is_real else None for leaf, is_real in zip(leaves, real, strict=True)]
    rest = [None if is_real else leaf for leaf, is_real in zip(leaves, real, strict=True)]
    return floats, rest, treedef


def _sum(weights: np.ndarray, slopes: list[jax.Array]) -> jax.Array:
    terms = [jnp.asarray(w, k.dtype) * k for w, k in zip(weights, slopes, strict=False) if w]
    return functools.reduce(jnp.add, terms)
