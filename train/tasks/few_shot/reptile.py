"""Reptile (Nichol, Achiam, Schulman 2018, arXiv:1803.02999)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import optax
from jax import lax

from train.state import Batch, Task
from train.tasks.checked import checked
from train.tasks.few_shot.episode import (
    Episode,
    Learner,
    episodes_of,
    loss_and_metrics,
    measure,
    require_support,
    told_by,
)
from train.tasks.few_shot.maml import Loss, descend, maml
from train.tasks.step import gradient_task


@checked
def reptile(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    inner_rate: float = 0.01,
    inner_steps: int = 5,
    test_steps: int | None = None,
    loss: Loss = "cross_entropy",
    transductive: bool = True,
    inputs: str = "support_image",
    **options: Any,
) -> Task:
    """Moves θ towards what gradient descent makes of it in each task: tx is given the gradient θ − mean of φᵢ.

    φᵢ are the parameters after `inner_steps` of gradient descent on the support set of task i; with plain gradient
    descent of rate ε as tx this is θ ← θ + ε (mean of φᵢ − θ) (algorithm 2 there). Queries are not used in training:
    give it support sets of more shots than in the test (`train_shots` of the data). Metrics and evaluation are those
    of `maml`; those of training are of the queries after adaptation.

    Args:
      model: the network.
      tx: the optimizer of θ.
      inner_rate: of the gradient descent.
      inner_steps: k in training. With one step, all tasks together are trained on as one (section 5 there).
      test_steps: in evaluation; None for `inner_steps`.
      loss: of support and query sets.
      transductive: see `maml`.
      inputs: the field of the support set that the model takes.
      **options: see `gradient_task`.
    """
    require_support(inputs)
    learner = Learner(model, transductive)

    def forward(variables: Any, batch: Batch, step: jax.Array, train: bool, rngs: Any) -> tuple[Any, Any]:
        params = variables["params"]
        state = {name: tree for name, tree in variables.items() if name != "params"}
        episodes = episodes_of(batch, inputs, told_by(loss))
        keys = {name: jax.random.split(key, len(episodes.support)) for name, key in rngs.items()}

        def one(episode: Episode, keys: Any) -> dict[str, jax.Array]:
            # Where they start from is a constant, so that nothing but `pull` has a gradient.
            start = lax.stop_gradient(params)
            found = descend(
                learner, start, state, episode, inner_rate, inner_steps, lambda path: False, loss, True, True, keys
            )
            outputs = learner.of_queries(found, state, episode.support, episode.query)
            values = lax.stop_gradient(loss_and_metrics(loss, outputs, episode.query_told))
            way = jax.tree.map(lambda a, b: a - b, start, lax.stop_gradient(found))
            pull = optax.tree.vdot(params, way)  # its gradient is the way
            return {**values, "loss": values["loss"] + pull - lax.stop_gradient(pull)}

        return jax.vmap(one)(episodes, keys), state

    task = gradient_task(
        model, tx, lambda outputs, batch: outputs, inputs=inputs, forward=forward, measure=measure, **options
    )
    judge = maml(
        model,
        tx,
        inner_rate=inner_rate,
        inner_steps=inner_steps,
        test_steps=test_steps,
        loss=loss,
        transductive=transductive,
        inputs=inputs,
    )
    return task._replace(eval_step=judge.eval_step)
