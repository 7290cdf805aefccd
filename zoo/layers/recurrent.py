"""Recurrent layers over whole sequences: Elman's network, LSTM and GRU (guide, chapter 6), stacked, in both directions.

The input projections of all times are one matrix product in front of the scan; only the recurrent one is inside. So is
the gradient of the recurrent kernel: one product after the backward scan, and not one a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.nn.initializers import Initializer

from zoo.layers import lowering, product
from zoo.layers.activations import relu
from zoo.layers.basic import record
from zoo.layers.dropout import Dropout
from zoo.observe import mark_steps

State = tuple[jax.Array, ...]
"""What a layer carries from step to step, each `[batch, hidden_size]`; its output is the last of them."""

Scan = Callable[[jax.Array, State, jax.Array | None], tuple[jax.Array, State]]
"""(projected inputs, state, mask) → outputs and last state; all but states are `[time, batch, …]`."""

Advance = Callable[[jax.Array, jax.Array, State], State]
"""(projected input, projected state, state before) → state after, elementwise over the batch."""


class Recurrent(nn.Module):
    """What the three layers share.

    `kernel` `[features, gates · hidden_size]` and `recurrent_kernel` `[hidden_size, gates · hidden_size]` hold the
    gates side by side, as Keras does; PyTorch's `weight_ih` and `weight_hh` are their transposes. There is one `bias`
    `[gates · hidden_size]`, the sum of PyTorch's `bias_ih` and `bias_hh`.

    `reverse` runs from the last step to the first; the outputs stay in the order of the inputs. Gradients are for
    reverse mode: forward mode (`jax.jvp`) is not defined.
    """

    hidden_size: int
    reverse: bool = False
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    recurrent_init: Initializer = nn.initializers.orthogonal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    num_gates: ClassVar[int]
    num_states: ClassVar[int] = 1

    def init_state(self, batch_size: int) -> State:
        """The state before the first step, zeros."""
        return (jnp.zeros((batch_size, self.hidden_size), self.dtype or self.param_dtype),) * self.num_states

    @nn.compact
    def __call__(
        self, x: jax.Array, state: State | None = None, *, mask: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """`[batch, time, features]` → outputs `[batch, time, hidden_size]` and the state after the last step.

        Args:
          x: the sequences.
          state: where to start, by default `init_state`.
          mask: `[batch, time]`, false where a sequence has no step; `arange(time)[None] < lengths[:, None]` for
            sequences of several lengths. There the state stays and the output is zero, as in a packed sequence of
            PyTorch's; backwards a sequence thus begins at its own end.

        Raises:
          ValueError: the shapes do not fit.
        """
        kind = type(self).__name__
        if x.ndim != 3:
            raise ValueError(f"{kind} takes sequences of shape [batch, time, features], not {list(x.shape)}")
        if mask is not None and mask.shape != x.shape[:2]:
            raise ValueError(f"the mask of sequences {list(x.shape)} is {list(x.shape[:2])}, not {list(mask.shape)}")
        batch, size, width = x.shape[0], self.hidden_size, self.num_gates * self.hidden_size
        state = self.init_state(batch) if state is None else state
        if [part.shape for part in state] != [(batch, size)] * self.num_states:
            shapes = ", ".join(str(list(part.shape)) for part in state)
            raise ValueError(f"the state of {kind} is {self.num_states} × {[batch, size]}, not {shapes}")
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], width), self.param_dtype)
        recurrent = self.param("recurrent_kernel", self.recurrent_init, (size, width), self.param_dtype)
        bias = self.param("bias", self._bias_init, (width,), self.param_dtype) if self.use_bias else None
        candidate_bias = self._candidate_bias()
        x, kernel, recurrent, bias, candidate_bias, *carried = promote_dtype(
            x, kernel, recurrent, bias, candidate_bias, *state, dtype=self.dtype
        )
        x = product.dense(x.swapaxes(0, 1), kernel)
        x = mark_steps(x, self, self._range(), reverse=self.reverse)
        mask = None if mask is None else mask.T[..., None]
        outputs, state = self._scan(recurrent, bias, candidate_bias)(x, tuple(carried), mask)
        return outputs.swapaxes(0, 1), state

    def _scan(self, kernel: jax.Array, bias: jax.Array | None, candidate_bias: jax.Array | None) -> Scan:
        # Added to the projected state it costs nothing, and to the projected inputs a pass over memory.
        return partial(_recur, self._advance(), self.reverse, kernel, bias)

    def _advance(self) -> Advance:
        raise NotImplementedError

    def _range(self) -> str:
        """The nonlinearity whose range the outputs have."""
        return "tanh"

    def _bias_init(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jnp.zeros(shape, dtype)

    def _candidate_bias(self) -> jax.Array | None:
        """Added to the projected state: only of a GRU is that something else than adding it to the projected input."""
        return None


class RNN(Recurrent):
    """Elman's network (eq. 39): hₜ = φ(W x + U hₜ₋₁ + b); eq. 40 is a dense layer on the outputs. The state is (h,)."""

    activation: Literal["tanh", "relu"] = "tanh"
    num_gates: ClassVar[int] = 1

    def _advance(self) -> Advance:
        if self.activation not in _ELMAN:
            raise ValueError(f'activation must be "tanh" or "relu", not {self.activation!r}')
        return _ELMAN[self.activation]

    def _range(self) -> str:
        return self.activation


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter, Schmidhuber 1997, with the forget gate of Gers et al. 2000; eq. 43–48).

    Gates lie in the order input, forget, candidate, output, as in PyTorch and Keras. The forget gate's bias starts at 1
    (Józefowicz et al. 2015), as in Keras. The state is (c, h).
    """

    num_gates: ClassVar[int] = 4
    num_states: ClassVar[int] = 2

    def _advance(self) -> Advance:
        return _lstm

    def _bias_init(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jnp.zeros(shape, dtype).at[self.hidden_size : 2 * self.hidden_size].set(1)


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014; guide, section 6.3): hₜ = z ⊙ hₜ₋₁ + (1 − z) ⊙ h̃.

    There are two conventions for the reset gate r.

    - `reset_after=True`: h̃ = tanh(W x + b + r ⊙ (U hₜ₋₁ + b′)), r after the matrix. PyTorch, cuDNN and Keras do so by
      default, and so does this layer; it is the faster one. b′ is `recurrent_bias` `[hidden_size]`, in PyTorch the last
      third of `bias_hh`.
    - `reset_after=False`: h̃ = tanh(W x + b + U (r ⊙ hₜ₋₁)), r before the matrix: eq. 51 and the paper.

    Gates lie in the order reset, update, candidate, as in PyTorch; Keras's is update, reset, candidate. The update gate
    z keeps the state, as in the paper, PyTorch and Keras; that of eq. 52 replaces it, which is the same network with
    the sign of z's weights changed. The state is (h,).
    """

    reset_after: bool = True
    num_gates: ClassVar[int] = 3

    def _advance(self) -> Advance:
        return _gru

    def _candidate_bias(self) -> jax.Array | None:
        if not (self.reset_after and self.use_bias):
            return None
        return self.param("recurrent_bias", nn.initializers.zeros, (self.hidden_size,), self.param_dtype)

    def _scan(self, kernel: jax.Array, bias: jax.Array | None, candidate_bias: jax.Array | None) -> Scan:
        def scan(x: jax.Array, state: State, mask: jax.Array | None) -> tuple[jax.Array, State]:
            if bias is not None:
                x = x + bias.reshape(1, 1, -1)
            if not self.reset_after:
                along = partial(lax.scan, reverse=self.reverse)
                return _plain_scan(along, partial(_gru_reset_before, kernel), x, state, mask)
            return _recur(_gru, self.reverse, kernel, after, x, state, mask)

        after = None
        if candidate_bias is not None:
            after = jnp.concatenate([jnp.zeros(2 * self.hidden_size, candidate_bias.dtype), candidate_bias])
        return scan


class Bidirectional(nn.Module):
    """One layer forwards, and one backwards beside it (Schuster, Paliwal 1997; eq. 53–55).

    `layer(reverse=…, name=…)` makes a layer, such as `partial(LSTM, 64)`. `merge` concatenates the outputs of both
    directions, `[batch, time, 2 · hidden_size]`, or adds them. The state is a pair, forwards and backwards.
    """

    layer: Callable[..., Recurrent]
    merge: Literal["concat", "sum"] = "concat"

    @nn.compact
    def __call__(
        self, x: jax.Array, state: tuple[State, State] | None = None, *, mask: jax.Array | None = None
    ) -> tuple[jax.Array, tuple[State, State]]:
        """As a `Recurrent` layer; see the class for the shapes of outputs and state."""
        before = (None, None) if state is None else state
        forwards, first = self.layer(reverse=False, name="forward")(x, before[0], mask=mask)
        backwards, second = self.layer(reverse=True, name="backward")(x, before[1], mask=mask)
        return merge_directions(self.merge, forwards, backwards), (first, second)


def merge_directions(merge: str, forwards: jax.Array, backwards: jax.Array) -> jax.Array:
    """Two arrays `[…, features]`, concatenated along their last axis or added.

    Raises:
      ValueError: `merge` is neither "concat" nor "sum".
    """
    if merge == "concat":
        return jnp.concatenate([forwards, backwards], axis=-1)
    if merge == "sum":
        return forwards + backwards
    raise ValueError(f'merge must be "concat" or "sum", not {merge!r}')


class Stack(nn.Module):
    """Recurrent layers one above the other, `layer1` …, with dropout between them.

    `layer(hidden_size, …)` makes a layer: `LSTM`, `GRU`, `RNN`, or `partial(GRU, reset_after=False)`. The state is a
    tuple of the states of the layers. `outputs1` …, those of each layer, are named intermediates.
    """

    layer: Callable[..., Recurrent]
    hidden_sizes: Sequence[int]
    dropout_rate: float = 0.0
    bidirectional: bool = False
    merge: Literal["concat", "sum"] = "concat"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        state: Sequence[Any] | None = None,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        """`[batch, time, features]` → the outputs of the last layer and the states of all."""
        after = []
        for index, hidden_size in enumerate(self.hidden_sizes):
            if index:
                x = Dropout(self.dropout_rate)(x, train=train)
            make = partial(self.layer, hidden_size, dtype=self.dtype, param_dtype=self.param_dtype)
            name = f"layer{index + 1}"
            layer = Bidirectional(make, self.merge, name=name) if self.bidirectional else make(name=name)
            x, last = layer(x, None if state is None else state[index], mask=mask)
            record(self, f"outputs{index + 1}", x)
            after.append(last)
        return x, tuple(after)


def _sigmoid_and_tanh(z: jax.Array, *tanh: bool) -> list[jax.Array]:
    """The gates in `z`, `[batch, gates · hidden_size]`: those that `tanh` marks through tanh, the others through σ.

    With σ(z) = (1 + tanh(z / 2)) / 2 it is one operation on one array, which a CPU does in half the time.
    """
    half = np.repeat(np.where(tanh, 1, 0.5), z.shape[-1] // len(tanh)).astype(z.dtype)[None]
    return jnp.split(jnp.tanh(z * half) * half + (1 - half), len(tanh), axis=-1)


def _in_float32(advance: Advance) -> Advance:
    """In bfloat16 rounded once a step: that is exacter, and on a CPU faster, than to round each operation."""

    def rounded_once(x: jax.Array, r: jax.Array, state: State) -> State:
        if x.dtype != jnp.bfloat16:
            return advance(x, r, state)
        x, r, *before = (part.astype(jnp.float32) for part in (x, r, *state))
        return tuple(part.astype(jnp.bfloat16) for part in advance(x, r, tuple(before)))

    return rounded_once


def _elman(activation: Callable[[jax.Array], jax.Array], x: jax.Array, r: jax.Array, state: State) -> State:
    return (activation(x + r),)


_ELMAN = {name: _in_float32(partial(_elman, phi)) for name, phi in (("tanh", jnp.tanh), ("relu", relu))}


@_in_float32
def _lstm(x: jax.Array, r: jax.Array, state: State) -> State:
    i, f, candidate, o = _sigmoid_and_tanh(x + r, False, False, True, False)
    c = f * state[0] + i * candidate
    return c, o * jnp.tanh(c)


@_in_float32
def _gru(x: jax.Array, r: jax.Array, state: State) -> State:
    split = 2 * state[0].shape[-1]
    reset, update = _sigmoid_and_tanh(x[:, :split] + r[:, :split], False, False)
    candidate = jnp.tanh(x[:, split:] + reset * r[:, split:])
    return (update * state[0] + (1 - update) * candidate,)


def _gru_reset_before(kernel: jax.Array, x: jax.Array, state: State) -> State:
    split = 2 * state[0].shape[-1]
    reset, update = _sigmoid_and_tanh(x[:, :split] + state[0] @ kernel[:, :split], False, False)
    candidate = jnp.tanh(x[:, split:] + (reset * state[0]) @ kernel[:, split:])
    return (update * state[0] + (1 - update) * candidate,)


def _masked(after: State, before: State, mask: jax.Array | None) -> tuple[State, jax.Array]:
    """The state after a step, which is that before it where there is no step, and the output."""
    if mask is None:
        return after, after[-1]
    state = tuple(jnp.where(mask, new, old) for new, old in zip(after, before, strict=True))
    return state, jnp.where(mask, after[-1], 0)


def _plain_scan(
    scan: Callable[..., Any], step: Callable[..., State], x: jax.Array, state: State, mask: jax.Array | None
) -> tuple[jax.Array, State]:
    """Scans (projected input, state) → state over time, `x` being `[time, batch, …]`."""

    def body(state: State, at: Any) -> tuple[State, jax.Array]:
        x, mask = at
        return _masked(step(x, state), state, mask)

    state, outputs = scan(body, state, (x, mask))
    return outputs, state


def _project(state: State, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    r = product.in_loop(state[-1], kernel)
    return r if bias is None else r + bias.reshape(1, -1)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recur(
    advance: Advance,
    reverse: bool,
    kernel: jax.Array,
    bias: jax.Array | None,
    x: jax.Array,
    state: State,
    mask: jax.Array | None,
) -> tuple[jax.Array, State]:
    """Scans `advance` over time: inputs `[time, batch, width]` → outputs `[time, batch, hidden_size]`, last state."""
    scan = partial(lowering.scan, reverse=reverse)
    return _plain_scan(scan, lambda x, state: advance(x, _project(state, kernel, bias), state), x, state, mask)


def _recur_forward(
    advance: Advance,
    reverse: bool,
    kernel: jax.Array,
    bias: jax.Array | None,
    x: jax.Array,
    state: State,
    mask: jax.Array | None,
) -> Any:
    """Keeps of each step the state before it and its projection."""

    def body(state: State, at: Any) -> tuple[State, Any]:
        x, mask = at
        r = _project(state, kernel, bias)
        after, output = _masked(advance(x, r, state), state, mask)
        return after, (output, state, r)

    last, (outputs, before, r) = lowering.scan(body, state, (x, mask), reverse=reverse)
    return (outputs, last), (x, kernel, bias, mask, before, r)


def _recur_backward(advance: Advance, reverse: bool, kept: Any, gradients: Any) -> Any:
    x, kernel, bias, mask, before, r = kept
    d_outputs, d_last = gradients

    def body(d_state: State, at: Any) -> tuple[State, Any]:
        x, r, before, mask, d_output = at

        def step(x: jax.Array, r: jax.Array, before: State) -> tuple[State, jax.Array]:
            return _masked(advance(x, r, before), before, mask)

        dx, dr, d_before = jax.vjp(step, x, r, before)[1]((d_state, d_output))
        *rest, dh = d_before
        # Of a function of x + r the two are one array, which is kept once.
        return (*rest, dh + product.in_loop(dr, kernel, transpose=True)), (dr,) if dx is dr else (dr, dx)

    at = (x, r, before, mask, d_outputs)
    d_state, (dr, *dx) = lowering.scan(body, d_last, at, reverse=not reverse)
    rows = dr.shape[0] * dr.shape[1]
    d_kernel = product.matmul(before[-1].reshape(rows, -1), dr.reshape(rows, -1), transpose_a=True)
    return d_kernel, None if bias is None else dr.sum(axis=(0, 1)), dx[0] if dx else dr, d_state, None


_recur.defvjp(_recur_forward, _recur_backward)
