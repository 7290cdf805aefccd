"""Model-agnostic meta-learning (Finn, Abbeel, Levine, ICML 2017, arXiv:1703.03400; guide, eq. 79)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from train.optim.freezing import Frozen, merge, partition
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
from train.tasks.step import gradient_task

REPORTED = (1, 5, 10)
"""Inner steps after which evaluation reports, beside those of `test_steps`."""

Loss = Literal["cross_entropy", "mse"]


@checked
def maml(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    inner_rate: float = 0.01,
    inner_steps: int = 1,
    test_steps: int | None = None,
    first_order: bool = False,
    per_step_losses: int = 0,
    loss: Loss = "cross_entropy",
    transductive: bool = True,
    inputs: str = "support_image",
    **options: Any,
) -> Task:
    """Trains parameters from which a few steps of gradient descent solve a new task.

    θ*ᵢ = θ − α ∇ L(θ; support of task i) (eq. 79), and tx minimises the mean over tasks of L(θ*ᵢ; queries of task i).

    Metrics are means over tasks of the queries after `test_steps`: `loss` and, of classes, `accuracy`. Evaluation adds
    `accuracy_after_1`, `…_5` and `…_10` inner steps (of a regression `loss_after_1` …) and for each `NAME` also
    `NAME_interval`, half the width of its 95 % confidence interval over tasks.

    Args:
      model: the network; for classes it has as many outputs as a task has.
      tx: the optimizer of θ.
      inner_rate: α.
      inner_steps: in training.
      test_steps: in evaluation; None for `inner_steps`.
      first_order: takes θ*ᵢ − θ as a constant, so that the gradient at θ*ᵢ moves θ (section 5.2 there).
      per_step_losses: train steps over which the queries are told after each inner step, and not after the last alone
        (Antoniou et al. 2019, MAML++, eq. 2): the weights go linearly from equal ones to that of the last. 0 for none.
      loss: of support and query sets.
      transductive: whether batch norm takes the statistics of the queries told together, as in the original. Else it
        takes those of the support set: what is told of a query then depends on no other.
      inputs: the field of the support set that the model takes.
      **options: `ema_decay`, `frozen`, `start` …, see `gradient_task`.

    Raises:
      ValueError: a number is out of its range.
    """
    return adapting(
        model,
        tx,
        inner_rate=inner_rate,
        inner_steps=inner_steps,
        test_steps=test_steps,
        first_order=first_order,
        per_step_losses=per_step_losses,
        loss=loss,
        transductive=transductive,
        inputs=inputs,
        kept=lambda params: lambda path: False,
        **options,
    )


def adapting(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    inner_rate: float,
    inner_steps: int,
    test_steps: int | None,
    first_order: bool,
    per_step_losses: int,
    loss: Loss,
    transductive: bool,
    inputs: str,
    kept: Callable[[Any], Frozen],
    **options: Any,
) -> Task:
    """MAML whose inner steps leave the parameters alone that `kept(params)` names."""
    require_support(inputs)
    learner = Learner(model, transductive)
    told_after = test_steps or inner_steps

    def told(params: Any, state: Any, episode: Episode, train: bool, rngs: Any) -> dict[str, jax.Array]:
        outputs = learner.of_queries(params, state, episode.support, episode.query, train=train, rngs=rngs)
        return loss_and_metrics(loss, outputs, episode.query_told)

    def in_training(params: Any, state: Any, episode: Episode, rngs: Any, weights: jax.Array) -> dict[str, jax.Array]:
        total: jax.Array | float = 0.0
        values: dict[str, jax.Array] = {}
        # Queries are told after each step alone where each has a weight.
        stops = range(1, inner_steps + 1) if per_step_losses else [inner_steps]
        done = 0
        for stop in stops:
            params = descend(
                learner, params, state, episode, inner_rate, stop - done, kept(params), loss, first_order, True, rngs
            )
            values = told(params, state, episode, True, rngs)
            total = total + (weights[stop - 1] * values["loss"] if per_step_losses else values["loss"])
            done = stop
        return {**values, "loss": jnp.asarray(total)}

    def in_evaluation(params: Any, state: Any, episode: Episode) -> dict[str, jax.Array]:
        found: dict[str, jax.Array] = {}
        done = 0
        for stop in sorted({*REPORTED, told_after}):
            params = descend(
                learner, params, state, episode, inner_rate, stop - done, kept(params), loss, True, False, None
            )
            values = told(params, state, episode, False, None)
            shown = {name: value for name, value in values.items() if name == "accuracy" or loss == "mse"}
            if stop in REPORTED:
                found |= {f"{name}_after_{stop}": value for name, value in shown.items()}
            if stop == told_after:
                found |= values
            done = stop
        return found

    def forward(variables: Any, batch: Batch, step: jax.Array, train: bool, rngs: Any) -> tuple[Any, Any]:
        state = {name: tree for name, tree in variables.items() if name != "params"}
        episodes = episodes_of(batch, inputs, told_by(loss))
        if not train:
            return jax.vmap(lambda each: in_evaluation(variables["params"], state, each))(episodes), state
        weights = step_weights(inner_steps, step, per_step_losses)
        keys = {name: jax.random.split(key, len(episodes.support)) for name, key in rngs.items()}
        values = jax.vmap(lambda each, key: in_training(variables["params"], state, each, key, weights))(episodes, keys)
        return values, state

    return gradient_task(
        model,
        tx,
        lambda outputs, batch: outputs,
        inputs=inputs,
        forward=forward,
        measure=measure,
        **options,
    )


def step_weights(inner_steps: int, step: jax.Array, over: int) -> jax.Array:
    """What the queries after each inner step count, `[inner_steps]`: equal at first, the last alone from `over` on."""
    share = jnp.clip(step.astype(jnp.float32) / max(over, 1), 0, 1)
    last = (jnp.arange(inner_steps) == inner_steps - 1).astype(jnp.float32)
    return (1 - share) / inner_steps + share * last


def descend(
    learner: Learner,
    params: Any,
    state: Any,
    episode: Episode,
    rate: float,
    steps: int,
    kept: Frozen,
    loss: Loss,
    first_order: bool,
    train: bool,
    rngs: Any,
) -> Any:
    """So many steps of gradient descent on the support set of one task."""
    moved, still = partition(params, kept)

    def support_loss(moved: Any) -> jax.Array:
        outputs = learner.outputs(merge(moved, still), state, episode.support, train=train, rngs=rngs)
        return loss_and_metrics(loss, outputs, episode.support_told)["loss"]

    def step(moved: Any, _: None) -> tuple[Any, None]:
        gradients = jax.grad(support_loss)(moved)
        if first_order:
            gradients = lax.stop_gradient(gradients)
        return jax.tree.map(lambda w, g: w - rate * g, moved, gradients), None

    if jax.default_backend() == "cpu":
        for _ in range(steps):  # in a loop XLA takes one thread, and many times as long for a convolution
            moved, _ = step(moved, None)
    else:
        moved, _ = lax.scan(step, moved, None, length=steps)
    return merge(moved, still)


def adapted(
    model: nn.Module,
    variables: Any,
    support: Any,
    told: Any,
    *,
    inner_rate: float,
    steps: int,
    loss: Loss = "cross_entropy",
    kept: Frozen = lambda path: False,
) -> dict[str, Any]:
    """The variables for one task: after `steps` on its support set."""
    state = {name: tree for name, tree in variables.items() if name != "params"}
    learner, episode = Learner(model, True), Episode(support, told, None, None)
    params = descend(learner, variables["params"], state, episode, inner_rate, steps, kept, loss, True, False, None)
    return {**state, "params": params}


def solve(
    model: nn.Module,
    variables: Any,
    support: Any,
    told: Any,
    query: Any,
    *,
    inner_rate: float,
    steps: int,
    transductive: bool,
    loss: Loss = "cross_entropy",
    kept: Frozen = lambda path: False,
) -> jax.Array:
    """The outputs for the queries of one task after `steps` on its support set."""
    options = {"inner_rate": inner_rate, "steps": steps, "loss": loss, "kept": kept}
    return query_outputs(model, adapted(model, variables, support, told, **options), support, query, transductive)


def query_outputs(model: nn.Module, variables: Any, support: Any, query: Any, transductive: bool) -> jax.Array:
    """The outputs for the queries of one task, by variables that are `adapted` to it."""
    state = {name: tree for name, tree in variables.items() if name != "params"}
    return Learner(model, transductive).of_queries(variables["params"], state, support, query)
