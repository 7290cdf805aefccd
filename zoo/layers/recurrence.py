"""Recurrence as pure functions: what a step does to the state, and the loop over time with its gradient.

All that is stacked over time is `[time, batch, …]`. The loop adds the projected state to the projected input; what a
cell makes of the sum, its gates and its state, is `advance`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zoo.layers import lowering, product
from zoo.layers.activations import relu

State = tuple[jax.Array, ...]
"""What a layer carries from step to step, each `[batch, hidden_size]`; its output is the last of them."""

Advance = Callable[[jax.Array, Any, State], State]
"""(z, r, state before) → state after, elementwise over the batch.

z is the projected input, to whose first features the projected state is added; r are the other features of the
projected state, or None where there are none.
"""


def _sigmoid_and_tanh(z: jax.Array, *tanh: bool) -> list[jax.Array]:
    """The gates in `z`, `[batch, gates · hidden_size]`: those that `tanh` marks through tanh, the others through σ.

    With σ(z) = (1 + tanh(z / 2)) / 2 it is one operation on one array, which a CPU does in half the time.
    """
    half = np.repeat(np.where(tanh, 1, 0.5), z.shape[-1] // len(tanh)).astype(z.dtype)[None]
    return jnp.split(jnp.tanh(z * half) * half + (1 - half), len(tanh), axis=-1)


def _in_float32(advance: Advance) -> Advance:
    """In bfloat16 rounded once a step: that is exacter, and on a CPU faster, than to round each operation."""

    def rounded_once(z: jax.Array, r: jax.Array | None, state: State) -> State:
        if z.dtype != jnp.bfloat16:
            return advance(z, r, state)
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), (z, r, state))
        return tuple(part.astype(jnp.bfloat16) for part in advance(*wide))

    return rounded_once


def _elman(activation: Callable[[jax.Array], jax.Array], z: jax.Array, _: None, state: State) -> State:
    return (activation(z),)


ELMAN = {name: _in_float32(partial(_elman, phi)) for name, phi in (("tanh", jnp.tanh), ("relu", relu))}


@_in_float32
def lstm(z: jax.Array, _: None, state: State) -> State:
    """Eq. 43–48."""
    i, f, candidate, o = _sigmoid_and_tanh(z, False, False, True, False)
    c = f * state[0] + i * candidate
    return c, o * jnp.tanh(c)


@_in_float32
def gru(z: jax.Array, r: jax.Array, state: State) -> State:
    """h̃ = tanh(W x + b + r ⊙ (U hₜ₋₁ + b′)): the candidate's two projections stay apart."""
    split = 2 * state[0].shape[-1]
    reset, update = _sigmoid_and_tanh(z[:, :split], False, False)
    candidate = jnp.tanh(z[:, split:] + reset * r)
    return (update * state[0] + (1 - update) * candidate,)


def gru_reset_before(kernel: jax.Array, x: jax.Array, state: State) -> State:
    """Eq. 49–52, with two products with the state. The gradients of all steps are added in the dtype of `kernel`."""
    split, kernel = 2 * state[0].shape[-1], kernel.astype(x.dtype)
    reset, update = _sigmoid_and_tanh(x[:, :split] + state[0] @ kernel[:, :split], False, False)
    candidate = jnp.tanh(x[:, split:] + (reset * state[0]) @ kernel[:, split:])
    return (update * state[0] + (1 - update) * candidate,)


def scan(
    along: Callable[..., Any], step: Callable[..., State], x: jax.Array, state: State, mask: jax.Array | None
) -> tuple[jax.Array, State]:
    """Takes `step`, (projected input, state) → state, `along` time, as `lax.scan` does: outputs, last state."""

    def body(before: State, at: Any) -> tuple[State, jax.Array]:
        x, mask = at
        state = _where(mask, step(x, before), before)
        return state, state[-1]

    state, outputs = along(body, state, (x, mask))
    return _zero_outside(mask, outputs), state


def _where(mask: jax.Array | None, after: State, before: State) -> State:
    """The state after a step, which is that before it where there is no step."""
    if mask is None:
        return after
    return tuple(jnp.where(mask, new, old) for new, old in zip(after, before, strict=True))


def _zero_outside(mask: jax.Array | None, outputs: jax.Array) -> jax.Array:
    return outputs if mask is None else jnp.where(mask, outputs, 0)


def _join(
    summed: int, x: jax.Array, state: State, kernel: jax.Array, bias: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
    """z and r of `Advance`."""
    r = product.in_loop(state[-1], kernel)
    r = r if bias is None else r + bias.reshape(1, -1)
    if summed == r.shape[-1]:
        return x + r, None
    return jnp.concatenate([x[:, :summed] + r[:, :summed], x[:, summed:]], axis=-1), r[:, summed:]


def _part_of_state(summed: int, dz: jax.Array, dr: jax.Array | None) -> jax.Array:
    """The gradient of the projected state, from those of z and r."""
    return dz if dr is None else jnp.concatenate([dz[..., :summed], dr], axis=-1)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def recur(
    advance: Advance,
    summed: int,
    reverse: bool,
    kernel: jax.Array,
    bias: jax.Array | None,
    x: jax.Array,
    state: State,
    mask: jax.Array | None,
) -> tuple[jax.Array, State]:
    """Scans `advance` over time: inputs `[time, batch, width]` → outputs `[time, batch, hidden_size]`, last state."""

    def step(x: jax.Array, state: State) -> State:
        return advance(*_join(summed, x, state, kernel, bias), state)

    return scan(partial(lowering.scan, reverse=reverse), step, x, state, mask)


def _forward(
    advance: Advance,
    summed: int,
    reverse: bool,
    kernel: jax.Array,
    bias: jax.Array | None,
    x: jax.Array,
    state: State,
    mask: jax.Array | None,
) -> Any:
    """Keeps of each step its projections, in the place of the inputs, and the state after it."""

    def body(before: State, mask: jax.Array | None, x: jax.Array, write: Any) -> tuple[State, Any]:
        z, r = _join(summed, x, before, kernel, bias)
        after = _where(mask, advance(write(z), r, before), before)
        return after, (after, r)

    last, (states, r), z = lowering.scan_in_place(body, state, mask, x, reverse=reverse)
    return (_zero_outside(mask, states[-1]), last), (z, r, kernel, bias, mask, state, states)


def _backward(advance: Advance, summed: int, reverse: bool, kept: Any, gradients: Any) -> Any:
    z, r, kernel, bias, mask, first, states = kept
    d_outputs, d_last = gradients
    before = tuple(
        jnp.concatenate([stack, start[None]])[1:] if reverse else jnp.concatenate([start[None], stack])[:-1]
        for start, stack in zip(first, states, strict=True)
    )

    def body(d_state: State, at: Any, z: jax.Array, write: Any) -> tuple[State, Any]:
        r, before, mask, d_output = at

        def step(z: jax.Array, r: jax.Array | None, before: State) -> State:
            return _where(mask, advance(z, r, before), before)

        *d_others, dh = d_state
        dz, dr, (*d_others, dh) = jax.vjp(step, z, r, before)[1]((*d_others, dh + d_output))
        dh = dh + product.in_loop(_part_of_state(summed, write(dz), dr), kernel, transpose=True)
        return (*d_others, dh), dr

    at = (r, before, mask, _zero_outside(mask, d_outputs))
    d_state, dr, dx = lowering.scan_in_place(body, d_last, at, z, reverse=not reverse)
    dr = _part_of_state(summed, dx, dr)
    rows = dr.shape[0] * dr.shape[1]
    h, flat = (stack.reshape(rows, stack.shape[-1]) for stack in (before[-1], dr))
    d_kernel = product.matmul(h, flat, transpose_a=True)
    return d_kernel, None if bias is None else dr.sum(axis=(0, 1)), dx, d_state, None


recur.defvjp(_forward, _backward)
