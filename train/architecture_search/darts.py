"""The task of DARTS: weights on one half of the data, architecture parameters α on the other (Liu et al. 2019)."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import data
from train.losses import cross_entropy
from train.metrics import Metrics, weigh
from train.state import Batch, State, Task
from train.tasks.classification import classification
from train.tasks.step import step_key, sum_over_devices
from zoo.vision.darts import ARCHITECTURE

HELD = "architecture_"
"""How the names of fields begin that α is trained on."""

Params = dict[str, Any]


def split_params(params: Params) -> tuple[Params, Params]:
    """Weights, and architecture parameters."""
    alphas = {name: leaf for name, leaf in params.items() if name.startswith(ARCHITECTURE)}
    return {name: leaf for name, leaf in params.items() if name not in alphas}, alphas


def darts(
    model: nn.Module,
    tx: optax.GradientTransformation,
    architecture_tx: optax.GradientTransformation,
    *,
    order: int = 1,
) -> Task:
    """A step moves α by the loss on `architecture_image`, and then the weights by the loss on `image` (algorithm 1).

    Of order 2, the gradient for α is that at the weights w′ = w + u(∇w L) which a step of `tx` gives (eq. 7), so that
    it goes through the step: momentum, decay and clipping too. Its product with the mixed second derivative is exact,
    by forward over reverse mode, at the cost of the finite differences of eq. 8. Of order 1, w′ = w.

    Args:
      model: a supernet, whose parameters that begin with `alpha_` are those of the architecture.
      tx: the optimizer of the weights.
      architecture_tx: that of α.
      order: 1 or 2.

    Raises:
      ValueError: the order is neither, or, as it begins, the model has no architecture parameters.
    """
    if order not in (1, 2):
        raise ValueError(f"order of darts must be 1 or 2, not {order}")
    judged = classification(model, tx)

    def init(key: jax.Array, batch: Batch) -> State:
        state = judged.init(key, {name: batch[name] for name in ("image", "label")})
        weights, alphas = split_params(state.params)
        if not alphas:
            raise ValueError(f"{type(model).__name__} has no parameters {ARCHITECTURE}…: darts trains a supernet")
        memory = jax.jit(lambda w, a: {"weights": tx.init(w), "architecture": architecture_tx.init(a)})
        return dataclasses.replace(state, opt_state=memory(weights, alphas))

    def loss(weights: Params, alphas: Params, state: State, batch: Batch, prefix: str) -> tuple[jax.Array, Any]:
        logits, moved = model.apply(
            {"params": {**weights, **alphas}, **state.model_state},
            batch[f"{prefix}image"],
            train=True,
            rngs={"dropout": step_key(state)},
            mutable=list(state.model_state),
        )
        labels = batch[f"{prefix}label"]
        right = logits.argmax(axis=-1) == labels
        metrics = weigh({f"{prefix}loss": cross_entropy(logits, labels), f"{prefix}accuracy": right}, batch.get("mask"))
        mean = metrics[f"{prefix}loss"]
        return mean.total / sum_over_devices(mean.weight), (metrics, moved)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        weights, alphas = split_params(state.params)

        def training(weights: Params, alphas: Params) -> jax.Array:
            return loss(weights, alphas, state, batch, "")[0]

        def held(weights: Params, alphas: Params) -> tuple[jax.Array, Metrics]:
            value, (metrics, _) = loss(weights, alphas, state, batch, HELD)
            return value, metrics

        gradient, metrics = architecture_gradient(
            training, held, tx, weights, alphas, state.opt_state["weights"], order=order
        )
        updates, alpha_memory = architecture_tx.update(gradient, state.opt_state["architecture"], alphas)
        alphas = dict(cast(Params, optax.apply_updates(alphas, updates)))
        gradients, (more, model_state) = jax.grad(loss, has_aux=True)(weights, alphas, state, batch, "")
        updates, memory = tx.update(sum_over_devices(gradients), state.opt_state["weights"], weights)
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params={**cast(Params, optax.apply_updates(weights, updates)), **alphas},
            model_state=model_state,
            opt_state={"weights": memory, "architecture": alpha_memory},
        )
        return state, sum_over_devices({**more, **metrics})

    return Task(init, train_step, judged.eval_step)


def architecture_gradient(
    training: Any, held: Any, tx: Any, weights: Any, alphas: Any, memory: Any, *, order: int
) -> tuple[Any, Any]:
    """The gradient of DARTS for α (eq. 6, 7).

    Args:
      training: (weights, α) → the loss on the training half.
      held: (weights, α) → the loss on the other half, and what else there is to tell.
      tx: the optimizer of the weights.
      weights: w.
      alphas: α.
      memory: the state of `tx`.
      order: 1 or 2.

    Returns:
      The gradient, a pytree as `alphas`, and what `held` tells.
    """
    if order == 1:
        gradient, told = jax.grad(held, argnums=1, has_aux=True)(weights, alphas)
        return sum_over_devices(gradient), told

    def stepped(gradients: Any) -> Any:
        return optax.apply_updates(weights, tx.update(gradients, memory, weights)[0])

    ahead, pull = jax.vjp(stepped, sum_over_devices(jax.grad(training)(weights, alphas)))
    (along, gradient), told = jax.grad(held, argnums=(0, 1), has_aux=True)(ahead, alphas)
    # (∂w′/∂∇)ᵀ ∇w′ L, along which the gradient for α of the training loss changes: for plain descent −ξ times it.
    (direction,) = pull(sum_over_devices(along))
    _, change = jax.jvp(lambda w: jax.grad(training, argnums=1)(w, alphas), (weights,), (direction,))
    return sum_over_devices(jax.tree.map(jnp.add, gradient, change)), told


class Paired:
    """Two halves of a source side by side: `image` of the first, `architecture_image` of the second."""

    def __init__(self, first: data.Source, second: data.Source):
        self.halves = first, second

    def __len__(self) -> int:
        return min(map(len, self.halves))

    def __getitem__(self, indices: Any, /) -> dict[str, Any]:
        first, second = (half[indices] for half in self.halves)
        return {**first, **{f"{HELD}{name}": array for name, array in second.items()}}
