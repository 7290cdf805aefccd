"""The train step that all models with one loss share."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax
from jax.core import Tracer

from train.metrics import Metrics, weigh
from train.optim.freezing import Frozen, in_inference, merge, partition
from train.optim.weight_average import average, start_average
from train.precision import LossScale, all_finite, select
from train.state import Batch, State, Task
from train.tasks.checked import checked
from zoo.layers import batch_axis
from zoo.observe import mark_gradients
from zoo.registry import unknown

PerExample = Callable[[Any, Batch], dict[str, jax.Array]]
"""(outputs of the model, batch) → values for each example; "loss" is minimised, the others are reported."""

Measure = Callable[[Any, Batch], Metrics]
"""(outputs of the model, batch) → what evaluation reports, as sums over the examples that the field `mask` keeps."""

Gradients = Callable[[Any, Batch, jax.Array], Any]
"""(parameters, batch, what each example counts `[batch]`) → the gradients of the sum of losses that count so much."""

Prepare = Callable[[Batch, jax.Array], Batch]
"""(batch, key) → the batch with fields that are drawn anew each time, such as noise."""

Forward = Callable[[Any, Batch, jax.Array, bool, Any], tuple[Any, Any]]
"""(variables, batch, steps taken, in training or not, rngs) → (outputs, collections beside the parameters)."""

OWN_METRICS = "metrics"
"""The collection into which a model may sow values of each example, `[batch]`, that are reported beside the task's."""

_LATENT, _PREPARE = 1, 2
"""What is folded into a step's key for the draws that are not dropout's."""


@checked
def gradient_task(
    model: nn.Module,
    tx: optax.GradientTransformation,
    per_example: PerExample,
    *,
    inputs: str | Sequence[str],
    prepare: Prepare | None = None,
    forward: Forward | None = None,
    measure: Measure | None = None,
    gradients_by_hand: Gradients | None = None,
    ema_decay: float | None = None,
    sam_rho: float = 0.0,
    loss_scaling: bool = False,
    frozen: Frozen = lambda path: False,
    start: Mapping[str, Any] | None = None,
    **wrong: Any,
) -> Task:
    """A task that minimises the mean of a per-example loss by its gradient.

    The model may draw from the streams "dropout" in training and "latent" in training and evaluation. Evaluation draws
    the same numbers at every step, so that two evaluations differ by the parameters alone.

    Args:
      model: called as `model.apply(variables, batch[inputs], train=…)`.
      tx: the optimizer.
      per_example: gives the loss and what else is reported.
      inputs: the field of the batch that the model takes, or several, which it takes in this order.
      prepare: draws what is random in an example, in training and in evaluation, before the model sees it.
      forward: how outputs come of variables and a batch, in the place of `model.apply`. An example is then an episode,
        and the model takes a batch `[support, …]` of what is in one.
      measure: what evaluation reports in place of the means of `per_example`; "loss" is among it.
      gradients_by_hand: computes the gradients in the place of `jax.grad`.
      ema_decay: keeps an exponential moving average of the variables, which evaluation then uses. Where the optimizer
        accumulates gradients, it is taken after each update.
      sam_rho: ρ of sharpness-aware minimisation (Foret et al. 2021, eq. 2–3): gradients are taken at w + ρ g / ‖g‖,
        where g are those at w. A step takes twice the time. Statistics of batch norm are those at w. 0 for none.
      loss_scaling: scales the loss dynamically and skips updates that overflow, for models that compute in float16.
      frozen: parameters whose gradients are not computed, and which stay as they are to the bit. A module that has none
        but these runs as in inference: its batch norms take their running statistics, which stay as they are too.
        `train.optim.freezing.freeze` makes an optimizer that keeps no memory for them.
      start: variables to start from; those of the model's that are not among them are drawn.
      **wrong: options that there are not, which are refused.

    A field `mask` of the batch, 0 or 1 for each example, takes examples out of the loss and the metrics. What there is
    to be told of them may be NaN; what the model takes must be numbers, in training. A field
    `sample_weight`, a number of at least 0 for each example, weighs its loss in training: Σ wᵢ lᵢ / n, n the number of
    examples, as Keras does. (PyTorch divides by Σ wᵢ, so that with one example a step weights do nothing.) All other
    metrics, and evaluation, count each example once.

    Raises:
      ValueError: the model cannot be told whether it is in training.
    """
    require_model_and_optimizer(model, tx)
    if wrong:
        known = [n for n, p in inspect.signature(gradient_task).parameters.items() if p.default is not p.empty]
        raise ValueError(unknown("option of the task", next(iter(wrong)), known))
    taken = inspect.signature(type(model).__call__).parameters
    if "train" not in taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        raise ValueError(
            f"{type(model).__name__} takes no `train`, which says whether it is in training: write "
            "def __call__(self, x, *, train=False)"
        )
    names = (inputs,) if isinstance(inputs, str) else tuple(inputs)

    def prepared(batch: Batch, key: jax.Array) -> Batch:
        return batch if prepare is None else prepare(batch, jax.random.fold_in(key, _PREPARE))

    start_optimizer = tx.init  # so that `init` does not hold the learning rate: see train/search/members.py

    def init(key: jax.Array, batch: Batch) -> State:
        def arguments(key: jax.Array) -> tuple[Any, ...]:
            example = jax.tree.map(lambda x: jnp.asarray(np.zeros((1, *x.shape[1:]), x.dtype)), dict(batch))
            example = prepared(example, key)
            return tuple(example[name] if forward is None else example[name][0] for name in names)

        state = create_state(key, lambda key: model.init(key, *arguments(key)), start_optimizer)
        if start is not None:
            state = start_from(state, start)
        return dataclasses.replace(
            start_average(state, ema_decay), loss_scale=LossScale.create() if loss_scaling else None
        )

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = step_key(state)
        batch = _with_numbers(prepared(batch, key), names)
        scale = jnp.float32(1) if state.loss_scale is None else state.loss_scale.scale

        trained, kept = partition(state.params, frozen)

        def objective(trained: Any) -> tuple[jax.Array, tuple[Metrics, Any]]:
            variables = {"params": merge(trained, kept), **state.model_state}
            rngs = {"dropout": key, "latent": jax.random.fold_in(key, _LATENT)}
            with nn.intercept_methods(in_inference(state.params, frozen)):
                if forward is not None:
                    outputs, model_state = forward(variables, batch, state.step, True, rngs)
                    own = {}
                else:
                    outputs, updates = model.apply(
                        variables,
                        *(batch[name] for name in names),
                        train=True,
                        rngs=rngs,
                        mutable=[*state.model_state, OWN_METRICS],
                    )
                    model_state, own = _own_metrics(updates)
            values = {**per_example(outputs, batch), **own}
            values = {**values, "loss": _weighted(values["loss"], batch)}
            metrics = weigh(values, batch.get("mask"))
            loss = metrics["loss"].total / sum_over_devices(metrics["loss"].weight)
            return loss * scale, (metrics, model_state)

        def gradients_at(trained: Any) -> tuple[Any, tuple[Metrics, Any]]:
            if gradients_by_hand is None:
                gradients, aux = jax.grad(objective, has_aux=True)(trained)
            else:
                _, aux = objective(trained)
                weight = batch.get("mask", jnp.ones_like(aux[0]["loss"].weight, shape=batch[names[0]].shape[:1]))
                weight = _weighted(weight, batch)
                share = scale * weight / sum_over_devices(aux[0]["loss"].weight)
                gradients, _ = partition(gradients_by_hand(merge(trained, kept), batch, share), frozen)
            return jax.tree.map(lambda g: g / scale, sum_over_devices(gradients)), aux

        gradients, (metrics, model_state) = gradients_at(trained)
        if sam_rho:
            reach = sam_rho / jnp.maximum(optax.tree.norm(gradients), jnp.finfo(jnp.float32).tiny)
            gradients, _ = gradients_at(jax.tree.map(lambda w, g: w + reach * g, trained, gradients))
        gradients = merge(gradients, jax.tree.map(jnp.zeros_like, kept))
        updates, opt_state = tx.update(mark_gradients(gradients), state.opt_state, state.params)
        moved, _ = partition(optax.apply_updates(state.params, updates), frozen)
        params = merge(moved, kept)  # -0 + 0 would not be -0
        loss_scale = state.loss_scale
        if loss_scale is not None:
            finite = all_finite(gradients)
            before = (state.params, state.opt_state, state.model_state)
            params, opt_state, model_state = select(finite, (params, opt_state, model_state), before)
            loss_scale = loss_scale.adjust(finite)
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            ema=average(state.ema, {"params": params, **model_state}, ema_decay, opt_state),
            loss_scale=loss_scale,
        )
        return state, sum_over_devices(metrics)

    def eval_step(state: State, batch: Batch) -> Metrics:
        key = evaluation_key(state)
        batch = prepared(batch, key)
        rngs = {"latent": jax.random.fold_in(key, _LATENT)}
        own: Metrics = {}
        if forward is not None:
            outputs, _ = forward(state.variables, batch, state.step, False, rngs)
        else:
            given = (batch[name] for name in names)
            outputs, updates = model.apply(state.variables, *given, rngs=rngs, mutable=[OWN_METRICS])
            own = weigh(_own_metrics(updates)[1], batch.get("mask"))
        if measure is not None:
            return sum_over_devices({**measure(outputs, batch), **own})
        return sum_over_devices({**weigh(per_example(outputs, batch), batch.get("mask")), **own})

    return Task(init, train_step, eval_step)


def _with_numbers(batch: Batch, inputs: Sequence[str]) -> Batch:
    """Zeros for what is no number in masked targets: the gradient of their loss, 0 times it, would be no number."""
    if "mask" not in batch:
        return batch
    kept = jnp.asarray(batch["mask"]) > 0

    def numbers(name: str, field: Any) -> Any:
        floats = isinstance(field, jax.Array | np.ndarray) and jnp.issubdtype(field.dtype, jnp.floating)
        if name in (*inputs, "mask") or not floats or field.shape[: kept.ndim] != kept.shape:
            return field
        return jnp.where(kept.reshape(*kept.shape, *[1] * (field.ndim - kept.ndim)) | jnp.isfinite(field), field, 0)

    return {name: numbers(name, field) for name, field in batch.items()}


def _own_metrics(updates: Any) -> tuple[dict[str, Any], dict[str, jax.Array]]:
    """The collections that a model changed, without what it measured of itself, and that, by its last names."""
    state = dict(updates)
    found: Any = flatten_dict(dict(state.pop(OWN_METRICS, {})))
    return state, {path[-1]: value for path, value in found.items()}


def _weighted(loss: jax.Array, batch: Batch) -> jax.Array:
    """The losses `[batch, …]`, each times the weight of its example `[batch]`, where examples have one."""
    if "sample_weight" not in batch:
        return loss
    weights = jnp.asarray(batch["sample_weight"], jnp.float32)
    if weights.shape != loss.shape[:1]:
        raise ValueError(f"sample_weight is one number for each example, [batch], not {list(weights.shape)}")
    weights = jnp.broadcast_to(weights.reshape(-1, *[1] * (loss.ndim - 1)), loss.shape)
    if "mask" in batch:
        weights = jnp.where(batch["mask"] > 0, weights, 0)  # padding may hold anything
    return jnp.where(weights > 0, loss * weights, weights)  # of weight 0 a loss may be anything; NaN stays NaN


def require_model_and_optimizer(model: Any, tx: Any) -> None:
    """Refuses what stands in the place of a model or an optimizer.

    Raises:
      ValueError: names what was given, and how to make what is wanted.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"a task trains a Flax module, such as zoo.create_model('mlp'), not {model!r}")
    if not isinstance(tx, optax.GradientTransformation):
        raise ValueError(f"a task takes an optimizer of Optax, such as optax.adam(1e-3), not {tx!r}")


def with_metrics(task: Task, change: Callable[[Metrics], Metrics]) -> Task:
    """The same task, whose metrics are told in other words."""

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        state, metrics = task.train_step(state, batch)
        return state, change(metrics)

    def eval_step(state: State, batch: Batch) -> Metrics:
        return change(task.eval_step(state, batch))

    return task._replace(train_step=train_step, eval_step=eval_step)


def create_state(key: jax.Array, init_model: Callable[[jax.Array], Any], init_optimizer: Callable[[Any], Any]) -> State:
    """The state before the first step, from `init_model(key)` and `init_optimizer(params)`."""
    params_key, state_key = jax.random.split(key)

    def create(key: jax.Array) -> tuple[Any, Any, Any]:
        variables = dict(init_model(key))
        params = variables.pop("params")
        return params, variables, init_optimizer(params)

    if not isinstance(key, Tracer):
        # The forward pass itself is never computed. What runs once is optimised a little, to the same bits: that takes
        # a third to a half of the time to compile.
        create = jax.jit(create, compiler_options={"xla_backend_optimization_level": 1})
    params, model_state, opt_state = create(params_key)
    return State(jnp.int32(0), params, model_state, opt_state, state_key)


def start_from(state: State, variables: Mapping[str, Any]) -> State:
    """The state with these variables in the place of those that were drawn.

    Raises:
      ValueError: the model has no such variables, or of other shapes; all of them are named.
    """
    drawn: dict[str, Any] = flatten_dict({"params": state.params, **state.model_state}, sep="/")
    given: dict[str, Any] = flatten_dict(dict(variables), sep="/")
    shapes = {path: f"{list(leaf.shape)}" for path, leaf in drawn.items()}
    wrong = [
        f"{path} {list(np.shape(leaf))}, where the model has {shapes.get(path, 'none')}"
        for path, leaf in sorted(given.items())
        if shapes.get(path) != f"{list(np.shape(leaf))}"
    ]
    if wrong:
        raise ValueError("cannot start from variables of another model:" + "".join(f"\n  {line}" for line in wrong))
    # Copies: a step that donates its state must not take the variables with it.
    copies = {path: jnp.array(leaf, drawn[path].dtype) for path, leaf in given.items()}
    tree = unflatten_dict({**drawn, **copies}, sep="/")
    return dataclasses.replace(state, params=tree.pop("params"), model_state=tree)


def step_key(state: State) -> jax.Array:
    """The key of this step, a function of the state alone; devices that see their own examples have their own."""
    return _of_device(jax.random.fold_in(state.key, state.step))


def evaluation_key(state: State) -> jax.Array:
    """The key of all evaluations, whatever the step; no step will ever have it."""
    return _of_device(jax.random.fold_in(state.key, np.uint32(2**32 - 1)))


def _of_device(key: jax.Array) -> jax.Array:
    axis = batch_axis()
    return key if axis is None else jax.random.fold_in(key, lax.axis_index(axis))


def sum_over_devices(tree: Any) -> Any:
    """The sum over the mapped batch axis, where there is one; a sharded `jit` has summed already."""
    axis = batch_axis()
    return tree if axis is None else lax.psum(tree, axis)
