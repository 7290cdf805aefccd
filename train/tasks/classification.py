"""Classification: one label for each example."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from train import losses
from train.state import Batch, Task
from train.tasks.checked import checked
from train.tasks.step import gradient_task
from zoo.basic import backpropagation
from zoo.basic.mlp import MLP
from zoo.layers import flatten


@checked
def classification(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    loss: Literal["cross_entropy", "perceptron"] = "cross_entropy",
    label_smoothing: float = 0.0,
    inputs: str | Sequence[str] = "image",
    gradients: Literal["autodiff", "by_hand"] = "autodiff",
    **options: Any,
) -> Task:
    """Trains `model` to give logits `[batch, classes]`, or `[batch, 1]` where there are two classes.

    Batches hold the model's input under `inputs` and `label`, integer `[batch]` or, as mixing images makes them,
    probabilities `[batch, classes]`. Metrics are `loss` and `accuracy`, of the most probable class.

    Args:
      model: the network.
      tx: the optimizer.
      loss: cross-entropy (binary for a single logit), or the perceptron criterion, which with plain gradient descent
        and a batch size of 1 is Rosenblatt's rule. The latter takes a single logit.
      label_smoothing: see `losses.cross_entropy`; only for more than one logit.
      inputs: the field of the batch that the model takes: images, or "tokens" of texts; or several, such as "tokens"
        and what says which of them are no padding.
      gradients: "by_hand" for those of `zoo.backpropagation` in the place of `jax.grad`; for an `mlp` alone, with ReLU,
        without dropout and norms.
      **options: `ema_decay`, `sam_rho`, `loss_scaling`, `frozen`, `start`, see `gradient_task`.

    Raises:
      ValueError: gradients by hand are asked for of a model, or a loss, that has none.
    """
    if gradients == "by_hand":
        if loss != "cross_entropy" or not isinstance(inputs, str):
            raise ValueError("gradients by hand are those of the cross-entropy of one input")
        require_plain(model)
        options["gradients_by_hand"] = partial(_by_hand, inputs=inputs, label_smoothing=label_smoothing)

    def per_example(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        labels = batch["label"]
        if not isinstance(logits, jax.Array) or logits.ndim != 2:
            found = jax.tree.map(lambda leaf: list(leaf.shape), logits)
            raise ValueError(f"a classifier gives logits [batch, classes], not {found}")
        if logits.shape[-1] == 1:
            if label_smoothing:
                raise ValueError("label_smoothing takes more than one logit")
            binary = losses.perceptron if loss == "perceptron" else losses.binary_cross_entropy
            value = binary(logits[:, 0], labels)
        elif loss == "perceptron":
            raise ValueError(f"the perceptron criterion takes one logit, not {logits.shape[-1]}")
        else:
            value = losses.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        wanted = labels if labels.ndim == 1 else labels.argmax(axis=-1)
        # Of logits that are no numbers the first class would be the greatest.
        right = (predicted_class(logits) == wanted) & ~jnp.isnan(logits).any(axis=-1)
        return {"loss": value, "accuracy": right}

    return gradient_task(model, tx, per_example, inputs=inputs, **options)


def require_plain(model: Any) -> None:
    """Refuses a model whose gradients `zoo.backpropagation` does not compute.

    Raises:
      ValueError: says what the model must be.
    """
    plain = isinstance(model, MLP) and model.num_classes > 1 and model.activation == "relu" and model.norm == "none"
    if plain and not np.any(model.dropout_rate) and {model.dtype or jnp.float32, model.param_dtype} == {jnp.float32}:
        return
    raise ValueError(
        "gradients by hand are those of an mlp in float32 that has activation=relu, dropout_rate=0, norm=none and two "
        f"outputs or more; not of {model!r}"
    )


def _by_hand(params: Any, batch: Batch, share: jax.Array, *, inputs: str, label_smoothing: float) -> dict[str, Any]:
    layers, labels = backpropagation.layers_of(params), batch["label"]
    seen = backpropagation.forward(layers, flatten(batch[inputs]))
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, seen.logits.shape[-1])
    targets = optax.losses.smooth_labels(labels, label_smoothing)
    return backpropagation.params_of(backpropagation.backward(layers, seen, targets, share))


def class_probabilities(logits: jax.Array) -> jax.Array:
    """Logits `[batch, classes]` → softmax (eq. 7); a single logit `[batch, 1]` → 1 − σ(z), σ(z), `[batch, 2]`."""
    logits = logits.astype(jnp.float32)
    if logits.shape[-1] == 1:
        return jnp.concatenate([jax.nn.sigmoid(-logits), jax.nn.sigmoid(logits)], axis=-1)
    return jax.nn.softmax(logits)


def predicted_class(logits: jax.Array) -> jax.Array:
    """The most probable class, integer `[batch]`; for a single logit the step of eq. 2."""
    if logits.shape[-1] == 1:
        return (logits[:, 0] >= 0).astype(jnp.int32)
    return logits.argmax(axis=-1)
