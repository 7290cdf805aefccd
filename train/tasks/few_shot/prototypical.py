"""Prototypical networks (Snell, Swersky, Zemel, NeurIPS 2017, arXiv:1703.05175)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from train.state import Batch, Task
from train.tasks.checked import checked
from train.tasks.few_shot.episode import (
    Learner,
    episodes_of,
    loss_and_metrics,
    measure,
    require_support,
)
from train.tasks.step import gradient_task


@checked
def prototypical(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    transductive: bool = False,
    inputs: str = "support_image",
    **options: Any,
) -> Task:
    """Trains an encoder in whose space each class lies around the mean of its support set.

    p(y = k | x) = softmax over k of −‖f(x) − cₖ‖², where cₖ is the mean of f over the support set of class k (eq. 1–2
    there). Any number of classes and shots goes; where classes have different numbers of shots, too.

    Metrics are means over tasks: `loss` and `accuracy` of the queries; evaluation adds `NAME_interval`, half the width
    of the 95 % confidence interval over tasks.

    Args:
      model: gives features `[batch, features]`, as zoo models do with `num_classes=0`.
      tx: the optimizer.
      transductive: whether batch norm takes the statistics of a task's own pictures in evaluation, all queries
        together. Else it takes the running ones, as in the original: what is told of a query depends on no other.
      inputs: the field of the support set that the model takes.
      **options: see `gradient_task`.
    """
    require_support(inputs)
    learner = Learner(model, transductive)

    def forward(variables: Any, batch: Batch, step: jax.Array, train: bool, rngs: Any) -> tuple[Any, Any]:
        state = {name: tree for name, tree in variables.items() if name != "params"}
        episodes = episodes_of(batch, inputs, "label")
        shots = episodes.support.shape[1]
        x = jnp.concatenate([episodes.support, episodes.query], axis=1)
        if transductive and not train:
            features = jax.vmap(lambda x: learner.outputs(variables["params"], state, x))(x)
        else:
            flat = x.reshape(-1, *x.shape[2:])
            features, state = model.apply(variables, flat, train=train, rngs=rngs, mutable=list(state))
            features = jnp.asarray(features).reshape(*x.shape[:2], -1)

        def one(features: jax.Array, told: jax.Array, wanted: jax.Array) -> dict[str, jax.Array]:
            ways = min(shots, wanted.shape[0])  # no episode has more classes than examples on either side
            logits = logits_of(features[:shots], told, features[shots:], ways)
            return loss_and_metrics("cross_entropy", logits, wanted)

        return jax.vmap(one)(features, episodes.support_told, episodes.query_told), state

    return gradient_task(
        model,
        tx,
        lambda outputs, batch: outputs,
        inputs=inputs,
        forward=forward,
        measure=measure,
        **options,
    )


def logits_of(support: jax.Array, told: jax.Array, query: jax.Array, ways: int) -> jax.Array:
    """−‖f(x) − cₖ‖² of each query and class; −∞ for a class that the support set has no example of.

    Args:
      support: features `[support, features]`.
      told: their classes, integer `[support]`.
      query: features `[query, features]`.
      ways: the most classes that there can be.

    Returns:
      `[query, ways]`.
    """
    belongs = jax.nn.one_hot(told, ways, axis=0)
    count = belongs.sum(axis=1, keepdims=True)
    centres = (belongs @ support.astype(jnp.float32)) / jnp.maximum(count, 1)
    distance = jnp.square(query.astype(jnp.float32)[:, None] - centres[None]).sum(axis=-1)
    return jnp.where(count[:, 0][None] > 0, -distance, -jnp.inf)


def solve(
    model: nn.Module, variables: Any, support: Any, told: Any, query: Any, *, ways: int, transductive: bool
) -> jax.Array:
    """The logits `[query, ways]` for the queries of one task."""
    shots = len(support)
    x = jnp.concatenate([support, query])
    if transductive:
        state = {name: tree for name, tree in variables.items() if name != "params"}
        features = Learner(model, True).outputs(variables["params"], state, x)
    else:
        features = jnp.asarray(model.apply(variables, x))
    return logits_of(features[:shots], told, features[shots:], ways)
