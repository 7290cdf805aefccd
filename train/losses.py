"""Losses (guide, section 2.3.2 and beyond), one value for each example; the task averages them.

Everything is computed in float32 at least, whatever the model computes in.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from zoo.layers.activations import step


def mean_squared_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Eq. 10: (ŷ − y)², averaged over all axes but the first; `[batch, …]` → `[batch]`.

    Raises:
      ValueError: the shapes differ (they would broadcast to something else than was meant).
    """
    _require_same_shape(prediction, target)
    return _per_example(jnp.square(_float32(prediction) - _float32(target)))


def mean_absolute_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """|ŷ − y|, averaged over all axes but the first; `[batch, …]` → `[batch]`.

    Raises:
      ValueError: the shapes differ.
    """
    _require_same_shape(prediction, target)
    return _per_example(jnp.abs(_float32(prediction) - _float32(target)))


def huber(prediction: jax.Array, target: jax.Array, *, delta: float = 1.0) -> jax.Array:
    """Huber 1964: quadratic within `delta` of the target and linear beyond; `[batch, …]` → `[batch]`.

    Raises:
      ValueError: the shapes differ.
    """
    _require_same_shape(prediction, target)
    return _per_example(optax.losses.huber_loss(_float32(prediction), _float32(target), delta=delta))


def cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Eq. 11 on logits: −Σₖ yₖ log softmax(z)ₖ.

    Args:
      logits: `[batch, …, classes]`.
      labels: classes, integer `[batch, …]`, or probabilities, `[batch, …, classes]`. A class that does not exist
        gives NaN.
      label_smoothing: share of the probability that is spread evenly over all classes (Szegedy et al. 2016).

    Returns:
      `[batch, …]`.

    Raises:
      ValueError: the shapes do not fit, or the smoothing is not in [0, 1).
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), not {label_smoothing}")
    logits = _float32(logits)
    if jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == logits.shape[:-1]:
        classes = logits.shape[-1]
        if not label_smoothing:
            # Not Optax's: that subtracts the logit from the log-sum-exp, which cancels where logits are large.
            loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1, mode="clip")[..., 0]
            return jnp.where((labels >= 0) & (labels < classes), loss, jnp.nan)
        known = (labels >= 0) & (labels < classes)
        loss = cross_entropy(logits, jax.nn.one_hot(labels, classes), label_smoothing=label_smoothing)
        return jnp.where(known, loss, jnp.nan)  # as the last thing: of what a mask takes out the gradient is 0
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels must be integers of shape {list(logits.shape[:-1])} or probabilities of shape "
            f"{list(logits.shape)}, not {labels.dtype} of shape {list(labels.shape)}"
        )
    labels = optax.losses.smooth_labels(_float32(labels), label_smoothing)
    return optax.losses.softmax_cross_entropy(logits, labels)


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """−y log σ(z) − (1 − y) log(1 − σ(z)), elementwise; labels are 0, 1 or probabilities of the same shape.

    Raises:
      ValueError: the shapes differ.
    """
    _require_same_shape(logits, labels)
    return optax.losses.sigmoid_binary_cross_entropy(_float32(logits), _float32(labels))


def perceptron(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The perceptron criterion (ŷ − y) z with ŷ = step(z), elementwise; labels are 0 or 1, of the same shape.

    Its gradient is (ŷ − y) x: gradient descent on it is Rosenblatt's rule w := w + α (y − ŷ) x.

    Raises:
      ValueError: the shapes differ.
    """
    _require_same_shape(logits, labels)
    z = _float32(logits)
    return (jax.lax.stop_gradient(step(z)) - _float32(labels)) * z


def _float32(x: jax.Array) -> jax.Array:
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def _per_example(values: jax.Array) -> jax.Array:
    return values.mean(axis=tuple(range(1, values.ndim)))


def _require_same_shape(prediction: jax.Array, target: jax.Array) -> None:
    if prediction.shape != target.shape:
        raise ValueError(f"prediction and target differ in shape: {list(prediction.shape)} and {list(target.shape)}")
