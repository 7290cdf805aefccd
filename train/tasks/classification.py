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
from train.class_weights import ClassWeight, weights_in_order
from train.metrics import Metrics, calibration_bins, class_metrics, weigh
from train.state import Batch, Task
from train.tasks.checked import checked
from train.tasks.step import gradient_task
from zoo.basic import backpropagation
from zoo.basic.mlp import MLP
from zoo.layers import flatten

TOP_K = 5
"""Of `top_5_accuracy`, for more classes than that."""


@checked
def classification(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    loss: Literal["cross_entropy", "perceptron"] = "cross_entropy",
    label_smoothing: float = 0.0,
    class_weight: ClassWeight | str | None = None,
    inputs: str | Sequence[str] = "image",
    gradients: Literal["autodiff", "by_hand"] = "autodiff",
    auxiliary_weight: float = 0.4,
    **options: Any,
) -> Task:
    """Trains `model` to give logits `[batch, classes]`, or `[batch, 1]` where there are two classes.

    Batches hold the model's input under `inputs` and `label`, integer `[batch]` or, as mixing images makes them,
    probabilities `[batch, classes]`. Metrics are `loss` and `accuracy`, of the most probable class. Evaluation adds
    those of `train.metrics.class_metrics`; `log_loss`, the cross-entropy without smoothing;
    `expected_calibration_error`; and for more than five classes `top_5_accuracy`. The perceptron criterion gives no
    probabilities, and so neither the second nor the third.

    Args:
      model: the network.
      tx: the optimizer.
      loss: cross-entropy (binary for a single logit), or the perceptron criterion, which with plain gradient descent
        and a batch size of 1 is Rosenblatt's rule. The latter takes a single logit.
      label_smoothing: see `losses.cross_entropy`; only for more than one logit.
      class_weight: what a mistake on each class costs in training, see `train.class_weights.class_weights`; evaluation
        counts all alike. The mean is Σ wᵢ lᵢ / n, as Keras's, see `gradient_task`. Of labels that are mixed, the loss
        is the mixture of the weighted losses.
      inputs: the field of the batch that the model takes: images, or "tokens" of texts; or several, such as "tokens"
        and what says which of them are no padding.
      gradients: "by_hand" for those of `zoo.backpropagation` in the place of `jax.grad`; for an `mlp` alone, with ReLU,
        without dropout and norms.
      auxiliary_weight: of the loss of a second head, for a model that gives (logits, logits of that head) in training.
      **options: `ema_decay`, `sam_rho`, `loss_scaling`, `frozen`, `start`, see `gradient_task`.

    Raises:
      ValueError: gradients by hand are asked for of a model, or a loss, that has none.
    """
    if gradients == "by_hand":
        if loss != "cross_entropy" or not isinstance(inputs, str):
            raise ValueError("gradients by hand are those of the cross-entropy of one input")
        if class_weight is not None:
            raise ValueError("gradients by hand know no class_weight; give each example its sample_weight")
        require_plain(model)
        options["gradients_by_hand"] = partial(_by_hand, inputs=inputs, label_smoothing=label_smoothing)

    def loss_of(logits: jax.Array, labels: jax.Array) -> jax.Array:
        if logits.shape[-1] == 1:
            if label_smoothing:
                raise ValueError("label_smoothing takes more than one logit")
            binary = losses.perceptron if loss == "perceptron" else losses.binary_cross_entropy
            # Of a class that does not exist NaN, as for more logits.
            return jnp.where((labels >= 0) & (labels <= 1), binary(logits[:, 0], labels), jnp.nan)
        if loss == "perceptron":
            raise ValueError(f"the perceptron criterion takes one logit, not {logits.shape[-1]}")
        return losses.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    def per_example(outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        if not isinstance(outputs, tuple):
            return of_head(outputs, batch)
        values, auxiliary = (of_head(logits, batch) for logits in outputs)
        return {**values, "loss": values["loss"] + auxiliary_weight * auxiliary["loss"]}

    def of_head(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        labels = batch["label"]
        _require_logits(logits)
        right = _is_right(logits, _classes(labels))
        if class_weight is None:
            return {"loss": loss_of(logits, labels), "accuracy": right}
        weights = jnp.asarray(weights_in_order(class_weight, max(2, logits.shape[-1])))
        if labels.ndim == 1:
            weight = jnp.take(weights, labels.astype(jnp.int32), mode="clip")
        else:
            mixed = labels * weights[None]
            weight = mixed.sum(axis=-1)
            labels = jnp.where(weight[:, None] > 0, mixed / jnp.maximum(weight, 1e-30)[:, None], labels)
        return {"loss": loss_of(logits, labels) * weight, "accuracy": right}

    def measure(logits: jax.Array, batch: Batch) -> Metrics:
        labels, mask = batch["label"], batch.get("mask")
        _require_logits(logits)
        if class_weight is not None:
            weights_in_order(class_weight, max(2, logits.shape[-1]))  # refused before training begins
        wanted, num_classes = _classes(labels), max(2, logits.shape[-1])
        right = _is_right(logits, wanted)
        values = {"loss": loss_of(logits, labels), "accuracy": right}
        if num_classes > TOP_K:
            values[f"top_{TOP_K}_accuracy"] = _is_among_the_top(logits, wanted)
        if loss != "perceptron":
            values["log_loss"] = losses.cross_entropy(logits, labels) if label_smoothing else values["loss"]
        told = jnp.where(jnp.isnan(logits).any(axis=-1), -1, predicted_class(logits))
        metrics: Metrics = {**weigh(values, mask), **class_metrics(told, wanted, num_classes, mask)}
        if loss != "perceptron":
            confidence = class_probabilities(logits).max(axis=-1)
            metrics["expected_calibration_error"] = calibration_bins(confidence, right, mask)
        return metrics

    return gradient_task(model, tx, per_example, inputs=inputs, measure=measure, **options)


def _require_logits(logits: Any) -> None:
    if not isinstance(logits, jax.Array) or logits.ndim != 2:
        found = jax.tree.map(lambda leaf: list(leaf.shape), logits)
        raise ValueError(f"a classifier gives logits [batch, classes], not {found}")


def _classes(labels: jax.Array) -> jax.Array:
    return labels if labels.ndim == 1 else labels.argmax(axis=-1)


def _is_right(logits: jax.Array, wanted: jax.Array) -> jax.Array:
    # Of logits that are no numbers the first class would be the greatest.
    return (predicted_class(logits) == wanted) & ~jnp.isnan(logits).any(axis=-1)


def _is_among_the_top(logits: jax.Array, wanted: jax.Array) -> jax.Array:
    """Whether fewer than `TOP_K` classes come before the wanted one; of equal logits the lower class comes first."""
    wanted = wanted[:, None].astype(jnp.int32)
    own = jnp.take_along_axis(logits, wanted, axis=-1, mode="clip")
    before = (logits > own) | ((logits == own) & (jnp.arange(logits.shape[-1])[None] < wanted))
    return (before.sum(axis=-1) < TOP_K) & ~jnp.isnan(logits).any(axis=-1)


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
