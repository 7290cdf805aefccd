"""Convolutions and products with what follows them in one pass: a bias, a sum, an activation.

They are for inference alone, and have no derivatives. `zoo.fusion` puts them in the place of the operations apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from zoo.layers import activations, convolution, cpu_convolution, lowering, onednn, product

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": activations.relu,
    "gelu": activations.gelu,
    "gelu_tanh": activations.gelu_tanh,
    "silu": jax.nn.silu,
}
"""What may follow, by the name that the function has in a jaxpr."""


class Epilogue(NamedTuple):
    """All that is static about it: the primitive in front, its parameter, and the activation behind."""

    primitive: Any
    at: Any
    activation: str | None


def _plain(a: jax.Array, b: jax.Array, bias: jax.Array, *summand: jax.Array, at: Epilogue) -> jax.Array:
    return _follow(at.primitive.bind(a, b, at=at.at), bias, *summand, activation=at.activation)


def _follow(y: jax.Array, bias: jax.Array, *summand: jax.Array, activation: str | None) -> jax.Array:
    y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
    y = y + summand[0] if summand else y
    return ACTIVATIONS[activation](y) if activation else y


def _on_cpu(a: jax.Array, b: jax.Array, bias: jax.Array, *summand: jax.Array, at: Epilogue) -> jax.Array:
    following = onednn.Following(bias, summand[0] if summand else None, at.activation)
    if at.primitive is product.PRIMITIVE:
        found = product.on_cpu(a, b, at.at, following)
    else:
        found = cpu_convolution.output(a, b, at.at, following=following)
    y, followed = found
    return y if followed else _follow(y, bias, *summand, activation=at.activation)


PRIMITIVES = (convolution.OUTPUT, product.PRIMITIVE)
"""What an epilogue can follow."""

_epilogue_p = lowering.primitive("epilogue", _plain, _on_cpu)


def apply(
    primitive: Any, a: jax.Array, b: jax.Array, at: Any, bias: jax.Array, summand: jax.Array | None, name: str | None
) -> jax.Array:
    """activation(primitive(a, b) + bias + summand).

    Args:
      primitive: of `PRIMITIVES`.
      a: its first operand.
      b: its second.
      at: its parameter.
      bias: `[features]`.
      summand: of the shape of the result, or None.
      name: of the activation, in `ACTIVATIONS`, or None.
    """
    return _epilogue_p.bind(a, b, bias, *(() if summand is None else (summand,)), at=Epilogue(primitive, at, name))
