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
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.nn.initializers import Initializer

from zoo.layers import product, recurrence
from zoo.layers.basic import record, spread, wide
from zoo.layers.dropout import Dropout
from zoo.layers.recurrence import Advance, State
from zoo.observe import mark_steps

Scan = Callable[[jax.Array, State, jax.Array | None], tuple[jax.Array, State]]
"""(projected inputs, state, mask) → outputs and last state; all but states are `[time, batch, …]`."""


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
    num_summed: ClassVar[int]
    """The gates whose projections of input and state are added."""
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
        return partial(
            recurrence.recur, self._advance(), self.num_summed * self.hidden_size, self.reverse, kernel, bias
        )

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
    num_summed: ClassVar[int] = 1

    def _advance(self) -> Advance:
        if self.activation not in recurrence.ELMAN:
            raise ValueError(f'activation must be "tanh" or "relu", not {self.activation!r}')
        return recurrence.ELMAN[self.activation]

    def _range(self) -> str:
        return self.activation


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter, Schmidhuber 1997, with the forget gate of Gers et al. 2000; eq. 43–48).

    Gates lie in the order input, forget, candidate, output, as in PyTorch and Keras. The forget gate's bias starts at 1
    (Józefowicz et al. 2015), as in Keras. The state is (c, h).
    """

    num_gates: ClassVar[int] = 4
    num_summed: ClassVar[int] = 4
    num_states: ClassVar[int] = 2

    def _advance(self) -> Advance:
        return recurrence.lstm

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
    num_summed: ClassVar[int] = 2

    def _advance(self) -> Advance:
        return recurrence.gru

    def _candidate_bias(self) -> jax.Array | None:
        if not (self.reset_after and self.use_bias):
            return None
        return self.param("recurrent_bias", nn.initializers.zeros, (self.hidden_size,), self.param_dtype)

    def _scan(self, kernel: jax.Array, bias: jax.Array | None, candidate_bias: jax.Array | None) -> Scan:
        def scan(x: jax.Array, state: State, mask: jax.Array | None) -> tuple[jax.Array, State]:
            if bias is not None:
                x = x + spread(bias, x)
            if not self.reset_after:
                along = partial(lax.scan, reverse=self.reverse)
                return recurrence.scan(along, partial(recurrence.gru_reset_before, wide(kernel)), x, state, mask)
            return super(GRU, self)._scan(kernel, after, None)(x, state, mask)

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
