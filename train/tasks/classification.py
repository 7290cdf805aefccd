"""Classification: one label for each example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from train import losses
from train.state import Batch, Task
from train.tasks.checked import checked
from train.tasks.step import gradient_task


@checked
def classification(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    loss: Literal["cross_entropy", "perceptron"] = "cross_entropy",
    label_smoothing: float = 0.0,
    inputs: str | Sequence[str] = "image",
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
      **options: `ema_decay`, `loss_scaling`, `frozen`, `start`, see `gradient_task`.
    """

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
