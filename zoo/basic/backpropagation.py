"""Backpropagation from scratch (guide, sections 2.3–2.4 and 3.1): a network of dense layers, its gradients by hand.

Pure functions on arrays, without automatic differentiation. Examples are rows, where the guide has columns: a layer is
z = a W + b with W `[inputs, features]`. Hidden layers have ReLU, the last one softmax.

    layers = backpropagation.init(jax.random.key(0), [784, 128, 64, 10])
    layers, losses = backpropagation.gradient_descent(
        layers, images, labels, learning_rate=0.01, epochs=30, batch_size=32, key=jax.random.key(1)
    )
    probabilities = backpropagation.forward(layers, images).activations[-1]

The layers of an `mlp` without dropout are those of `layers_of(params)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from zoo.layers.activations import relu, relu_derivative, softmax

Layer = Mapping[str, jax.Array]
"""`kernel` W `[inputs, features]` and `bias` b `[features]`."""


class Forward(NamedTuple):
    """What forward propagation leaves for the way back.

    Attributes:
      activations: a⁰ … aᴸ, each `[batch, features]`; the first is the input, the last the probabilities.
      logits: zᴸ `[batch, classes]`, of which they are the softmax.
    """

    activations: list[jax.Array]
    logits: jax.Array


def init(key: jax.Array, sizes: Sequence[int], *, std: float | Literal["he"] = "he") -> list[Layer]:
    """Random layers for the sizes `[inputs, hidden …, classes]`; biases are zero.

    Args:
      key: of the draws.
      sizes: of the input and of each layer.
      std: of the normal weights: "he" for √(2 / inputs) (He et al. 2015), or a number, such as the guide's 0.01.

    Raises:
      ValueError: there is no layer, a size is not positive, or the deviation is not.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes are those of the input and of each layer, such as [64, 128, 10]; not {list(sizes)}")
    if std != "he" and (isinstance(std, str) or not 0 < std < float("inf")):
        raise ValueError(f'std must be "he" or a positive number, not {std!r}')
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {
            "kernel": ((2 / inputs) ** 0.5 if std == "he" else std) * jax.random.normal(each, (inputs, features)),
            "bias": jnp.zeros(features),
        }
        for each, inputs, features in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def layers_of(params: Mapping[str, Any]) -> list[Layer]:
    """The layers of an `mlp` in their order."""
    return [params[f"Dense_{index}"] for index in range(len(params))]


def params_of(layers: Sequence[Layer]) -> dict[str, Layer]:
    """The inverse of `layers_of`: what `zoo.create_model("mlp", …, dropout_rate=0)` takes as `params`."""
    return {f"Dense_{index}": layer for index, layer in enumerate(layers)}


def forward(layers: Sequence[Layer], x: jax.Array) -> Forward:
    """Eq. 8–9: z = a W + b and a = g(z), layer by layer; `x` is `[batch, inputs]`."""
    activations = [x]
    for layer in layers[:-1]:
        activations.append(relu(_affine(layer, activations[-1])))
    logits = _affine(layers[-1], activations[-1])
    return Forward([*activations, softmax(logits)], logits)


def loss(seen: Forward, targets: jax.Array, share: jax.Array | None = None) -> jax.Array:
    """Cross-entropy (eq. 11), a scalar, by the logits: of a probability that is rounded to 0, the logarithm is −∞.

    Args:
      seen: of the batch.
      targets: probabilities `[batch, classes]`; of a class that is known, its row of the identity.
      share: what each example counts, `[batch]`; 1 / batch by default.
    """
    return -(_shares(targets, share) * targets * jax.nn.log_softmax(seen.logits)).sum()


def backward(layers: Sequence[Layer], seen: Forward, targets: jax.Array, share: jax.Array | None = None) -> list[Layer]:
    """The gradients of `loss`, in the form of the layers.

    Of softmax and cross-entropy together, δᴸ = ŷ − y (eq. 12), where the targets of an example sum to 1. From there
    δˡ = δˡ⁺¹ (Wˡ⁺¹)ᵀ ⊙ g'(zˡ) (eq. 15), and ∂ℒ/∂Wˡ = (aˡ⁻¹)ᵀ δˡ and ∂ℒ/∂bˡ = Σ δˡ over the batch (eq. 13–14).
    """
    delta = _shares(targets, share) * (seen.activations[-1] - targets)
    gradients: list[Layer] = []
    for index in reversed(range(len(layers))):
        before = seen.activations[index]
        gradients.append({"kernel": before.T @ delta, "bias": delta.sum(axis=0)})
        if index:  # g'(z) is that of a = g(z): both are positive in the same places
            delta = (delta @ layers[index]["kernel"].T) * relu_derivative(before)
    return gradients[::-1]


def gradient_descent(
    layers: Sequence[Layer],
    x: jax.Array,
    labels: jax.Array,
    *,
    learning_rate: float,
    epochs: int,
    batch_size: int | None = None,
    key: jax.Array | None = None,
) -> tuple[list[Layer], jax.Array]:
    """Trains by gradient descent. The batch size alone makes it batch (eq. 16), stochastic (17) or mini-batch (18).

    Args:
      layers: to start from.
      x: `[examples, inputs]`.
      labels: classes, integer `[examples]`.
      learning_rate: α.
      epochs: passes over the examples.
      batch_size: examples for one update: None for all of them, 1 for stochastic gradient descent. The examples that
        an epoch has beyond whole batches are left out of it; others in each, as each has an order of its own.
      key: of the order of the examples; needed where a batch is not all of them.

    Returns:
      The layers, and the learning curve: the mean loss of each epoch's updates, `[epochs]`.

    Raises:
      ValueError: shapes, labels or numbers do not fit.
    """
    classes, batch_size = layers[-1]["bias"].shape[0], len(x) if batch_size is None else batch_size
    if x.ndim != 2 or x.shape[1] != layers[0]["kernel"].shape[0]:
        raise ValueError(f"x must be [examples, {layers[0]['kernel'].shape[0]}], not {list(x.shape)}")
    labels = jnp.asarray(labels)
    if labels.shape != x.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers [{len(x)}], not {labels.dtype} {list(labels.shape)}")
    if len(x) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels must be from 0 to {classes - 1}, not from {labels.min()} to {labels.max()}")
    if epochs < 1 or not 1 <= batch_size <= len(x):
        raise ValueError(f"epochs must be at least 1 and batch_size from 1 to {len(x)}, not {epochs} and {batch_size}")
    if key is None:
        if batch_size < len(x):
            raise ValueError(
                "batches that are not all of the examples are drawn: give a key, such as jax.random.key(0)"
            )
        key = jax.random.key(0)
    return _descend(list(layers), jnp.asarray(x), labels, learning_rate, key, epochs, batch_size)


@partial(jax.jit, static_argnames=("epochs", "batch_size"))
def _descend(
    layers: list[Layer],
    x: jax.Array,
    labels: jax.Array,
    learning_rate: float,
    key: jax.Array,
    epochs: int,
    batch_size: int,
) -> tuple[list[Layer], jax.Array]:
    targets = jax.nn.one_hot(labels, layers[-1]["bias"].shape[0], dtype=x.dtype)
    updates = len(x) // batch_size

    def update(layers: list[Layer], rows: jax.Array) -> tuple[list[Layer], jax.Array]:
        seen = forward(layers, x[rows])
        gradients = backward(layers, seen, targets[rows])
        moved = jax.tree.map(lambda w, g: w - learning_rate * g, layers, gradients)
        return moved, loss(seen, targets[rows])

    def epoch(layers: list[Layer], index: jax.Array) -> tuple[list[Layer], jax.Array]:
        order = jax.random.permutation(jax.random.fold_in(key, index), len(x))
        batches = order[: updates * batch_size].reshape(updates, batch_size)
        layers, losses = lax.scan(update, layers, batches)
        return layers, losses.mean()

    return lax.scan(epoch, layers, jnp.arange(epochs))


def _affine(layer: Layer, a: jax.Array) -> jax.Array:
    return a @ layer["kernel"] + layer["bias"][None]


def _shares(targets: jax.Array, share: jax.Array | None) -> jax.Array:
    """What each example counts, `[batch, 1]`."""
    return jnp.full((len(targets), 1), 1 / len(targets), targets.dtype) if share is None else share[:, None]
