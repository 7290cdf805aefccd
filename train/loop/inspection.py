"""Statistics of each layer in one train step: activations, weights, gradients, updates (guide, section 12.4).

for layer in inspect(task, state, batch):                  # a task: gradients and the update of one train step
    print(layer.name, layer.zeros, layer.dead_units, layer.gradient_norm, layer.update_ratio)
inspect(model, variables, images)                          # a model: activations and weights
inspect(model, variables, images, loss=lambda logits: …)   # and the gradients of a loss
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from train.state import Batch, State, Task
from zoo.observe import Call, observe

DEAD = 0.9
"""A unit is dead where it is zero for more than this share of the examples (guide, section 12.4)."""

SATURATED = 0.05
"""A sigmoid or tanh is saturated where its slope is less than this share of its steepest."""

MOST_SAMPLES = 4096
"""Of so many values at most a histogram is made; they are spread over all."""

FADED = 1e-3
"""Back through time a gradient is followed until it is less than this share of what it was, or to the first step."""

_STRIDE = 104_729
"""A prime: steps of this length through an array meet all its axes alike."""


@flax.struct.dataclass
class Inside:
    """What was computed of one layer, on the device; `report` makes a `Layer` of it.

    Attributes:
      name: its path.
      kind: its class.
      nonlinearity: see `zoo.observe.Call`.
      shape: of its output.
      numbers: scalars by name.
      dead: for each unit the share of examples for which it is zero, or None.
      samples: some of the values by what they are of: activations, weights, gradients of the weights.
    """

    name: str = flax.struct.field(pytree_node=False)
    kind: str = flax.struct.field(pytree_node=False)
    nonlinearity: str | None = flax.struct.field(pytree_node=False)
    shape: tuple[int, ...] = flax.struct.field(pytree_node=False)
    numbers: dict[str, jax.Array]
    dead: jax.Array | None
    samples: dict[str, jax.Array]


class Layer(NamedTuple):
    """A layer in one step. What it does not have, or what was not asked for, is None.

    Attributes:
      name: its path from the model down; "" is the model itself.
      kind: its class; "" where it is known by its parameters alone, as inside a loop.
      output_shape: of all examples.
      nonlinearity: "relu", "tanh" or "sigmoid", where one follows at once or comes last in the layer. The activations
        are then those behind it. Of a recurrent layer, whose activations are its outputs at all steps, the one whose
        range they have.
      mean: of the activations.
      std: their standard deviation.
      zeros: the share of them that is exactly zero.
      saturated: of sigmoid or tanh the share where the slope is less than 5 % of the steepest.
      units: their number, the length of the last axis.
      dead_units: units that are zero for more than 90 % of the examples, at all positions.
      silent_units: units that are zero for all of them.
      output_gradient_norm: of the loss, a mean over examples, by the output of the layer.
      through_time: of a recurrent layer, how many times as large the gradient by what goes into a step is `time_steps`
        steps before the last that has one. It is followed back until it is less than a thousandth, or to the first.
      time_steps: so many steps.
      num_weights: the layer's own, not those of the layers inside it.
      weight_mean: their mean.
      weight_std: their standard deviation.
      weight_norm: √Σw².
      gradient_norm: of the weights' gradient, as the optimizer gets it.
      update_norm: of what the step adds to the weights.
      update_ratio: `update_norm` / `weight_norm` of all matrices and kernels of the layer; biases are left out, which
        begin at zero.
      finite: whether activations, weights and gradients are numbers.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    nonlinearity: str | None
    mean: float | None
    std: float | None
    zeros: float | None
    saturated: float | None
    units: int | None
    dead_units: int | None
    silent_units: int | None
    output_gradient_norm: float | None
    through_time: float | None
    time_steps: int | None
    num_weights: int
    weight_mean: float | None
    weight_std: float | None
    weight_norm: float | None
    gradient_norm: float | None
    update_norm: float | None
    update_ratio: float | None
    finite: bool


def inspect(
    subject: Task | nn.Module,
    variables: State | Mapping[str, Any],
    batch: Batch | Any,
    *,
    loss: Callable[[Any], jax.Array] | None = None,
    **options: Any,
) -> list[Layer]:
    """What each layer does with a batch, in the order in which they are called.

    Args:
      subject: a task, one of whose train steps is looked into; nothing of the state is changed. Or a model.
      variables: the state of the task, or the variables of the model.
      batch: what the train step takes; of a model its input, or a tuple of its inputs.
      loss: of a model, outputs → a scalar, whose gradients are wanted.
      **options: of `model.apply`, such as `train=True`, `rngs` and `method`.

    Raises:
      ValueError: the subject is neither, or arguments are given that it does not take.
    """
    inside, _ = jax.jit(lambda variables, batch: look(subject, variables, batch, loss, **options))(variables, batch)
    return report(inside)


def look(
    subject: Task | nn.Module,
    variables: Any,
    batch: Any,
    loss: Callable[[Any], jax.Array] | None = None,
    **options: Any,
) -> tuple[list[Inside], Any]:
    """`inspect` as a pure function, which is traced: and beside the layers the metrics of the step, or the outputs."""
    if isinstance(subject, Task):
        if not isinstance(variables, State):
            raise ValueError(f"with a task comes its state, as task.init makes it, not {type(variables).__name__}")
        if loss is not None or options:
            raise ValueError("a task has its own loss and options; loss=… is for a model")
        (after, metrics), seen = observe(subject.train_step)(variables, batch)
        params, updates = variables.params, jax.tree.map(lambda new, old: new - old, after.params, variables.params)
        scale = 1.0 if variables.loss_scale is None else variables.loss_scale.scale
        return _layers(seen.calls, params, seen.gradients, _by_path(updates), scale), metrics
    if not isinstance(subject, nn.Module):
        raise ValueError(f"what is inspected is a task or a Flax module, not {type(subject).__name__}")
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise ValueError('with a model come its variables, {"params": …}, as model.init makes them')
    inputs = batch if isinstance(batch, tuple) else (batch,)
    if isinstance(batch, Mapping):
        raise ValueError('of a batch a model takes its input, such as batch["image"]; a task takes the whole batch')

    def apply(params: Any) -> tuple[jax.Array, Any]:
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        if options.get("train"):
            outputs, _ = subject.apply({"params": params, **rest}, *inputs, mutable=list(rest), **options)
        else:
            outputs = subject.apply({"params": params, **rest}, *inputs, **options)
        return (jnp.float32(0) if loss is None else loss(outputs)), outputs

    params = variables["params"]
    if loss is None:
        (_, outputs), seen = observe(apply)(params)
        return _layers(seen.calls, params, {}, {}, 1.0), outputs
    (gradients, outputs), seen = observe(jax.grad(apply, has_aux=True))(params)
    return _layers(seen.calls, params, _by_path(gradients), {}, 1.0), outputs


def report(inside: Sequence[Inside]) -> list[Layer]:
    """The layers with their numbers on the host."""
    return [_report(each) for each in jax.device_get(list(inside))]


def _report(inside: Inside) -> Layer:
    numbers = {name: float(value) for name, value in inside.numbers.items()}
    share, time_steps = inside.dead, numbers.get("time_steps")
    kernels = numbers.pop("kernel_norm", None)
    moved = numbers.pop("kernel_update_norm", None)
    own = {name: numbers.get(name) for name in Layer._fields[4:] if name not in ("finite", "num_weights")}
    own |= {
        "units": None if share is None else int(share.size),
        "dead_units": None if share is None else int((share > DEAD).sum()),
        "silent_units": None if share is None else int((share == 1).sum()),
        "time_steps": None if time_steps is None else int(time_steps),
        "update_ratio": moved / kernels if moved is not None and kernels else None,
    }
    finite = all(np.isfinite(value) for value in (*numbers.values(), kernels or 0, moved or 0))
    weights = int(numbers.get("num_weights", 0))
    return Layer(inside.name, inside.kind, inside.shape, inside.nonlinearity, **own, num_weights=weights, finite=finite)  # type: ignore[arg-type]


def _layers(
    calls: list[Call], params: Any, gradients: Mapping[Any, Any], updates: Mapping[Any, Any], scale: Any
) -> list[Inside]:
    by_path: dict[tuple[str, ...], list[Call]] = {}
    for call in calls:
        by_path.setdefault(call.path, []).append(call)
    weights: dict[tuple[str, ...], dict[str, Any]] = {}
    for path, leaf in _by_path(params).items():
        weights.setdefault(path[:-1], {})[path[-1]] = leaf
    # What is known by its parameters alone comes first: it is inside of what comes later.
    paths = [*(path for path in weights if path not in by_path), *by_path]
    return [_layer(path, by_path.get(path, []), weights.get(path, {}), gradients, updates, scale) for path in paths]


def _layer(
    path: tuple[str, ...],
    calls: list[Call],
    weights: Mapping[str, Any],
    gradients: Mapping[Any, Any],
    updates: Mapping[Any, Any],
    scale: Any,
) -> Inside:
    numbers: dict[str, jax.Array] = {}
    samples: dict[str, jax.Array] = {}
    dead = None
    nonlinearity = calls[0].nonlinearity if calls else None
    if calls:
        values = jnp.concatenate([call.activation.ravel() for call in calls]).astype(jnp.float32)
        numbers |= {"mean": values.mean(), "std": values.std(), "zeros": (values == 0).mean()}
        if nonlinearity in ("tanh", "sigmoid"):
            slope = 1 - jnp.square(values) if nonlinearity == "tanh" else 4 * values * (1 - values)
            numbers["saturated"] = (slope < SATURATED).mean()
        dead = _share_of_zero(calls)
        samples["activations"] = _sample(values)
        got = [call.gradient for call in calls if call.gradient is not None]
        if got:
            numbers["output_gradient_norm"] = _norm(got) / scale
        if calls[0].steps_gradient is not None:
            numbers |= _through_time(calls[0].steps_gradient)
    if weights:
        values = jnp.concatenate([leaf.ravel() for leaf in weights.values()]).astype(jnp.float32)
        numbers |= {"num_weights": jnp.float32(values.size), "weight_mean": values.mean(), "weight_std": values.std()}
        numbers["weight_norm"] = _norm([values])
        samples["weights"] = _sample(values)
        if own := [gradients[(*path, name)] for name in weights if (*path, name) in gradients]:
            numbers["gradient_norm"] = _norm(own)
            samples["gradients"] = _sample(jnp.concatenate([leaf.ravel() for leaf in own]).astype(jnp.float32))
        if own := {name: updates[(*path, name)] for name in weights if (*path, name) in updates}:
            numbers["update_norm"] = _norm(list(own.values()))
            if kernels := [name for name in own if weights[name].ndim > 1]:
                numbers["kernel_norm"] = _norm([weights[name] for name in kernels])
                numbers["kernel_update_norm"] = _norm([own[name] for name in kernels])
    shape = tuple(calls[0].output.shape) if calls else ()
    return Inside("/".join(path), calls[0].kind if calls else "", nonlinearity, shape, numbers, dead, samples)


def _through_time(gradient: jax.Array) -> dict[str, jax.Array]:
    """How a gradient `[time, batch, features]` changes on its way back from the last step that has one.

    Steps that have none at all are padding.
    """
    norms = jax.vmap(lambda step: _norm([step]))(gradient)
    steps, there = jnp.arange(norms.shape[0]), norms > 0
    last = jnp.where(there, steps, 0).max()
    first = jnp.where(there, steps, last).min()
    ratios = norms / jnp.where(norms[last] > 0, norms[last], 1)
    until = jnp.where(there & (ratios < FADED), steps, first).max()  # the nearest where it has faded
    return {"through_time": ratios[until], "time_steps": (last - until).astype(jnp.float32)}


def _share_of_zero(calls: list[Call]) -> jax.Array | None:
    """For each unit the share of examples for which it is zero at all positions; None without an axis of units."""
    if any(call.activation.ndim < 2 for call in calls):
        return None
    silent = [(call.activation == 0).reshape(len(call.activation), -1, call.activation.shape[-1]) for call in calls]
    return jnp.concatenate([each.all(axis=1) for each in silent]).mean(axis=0, dtype=jnp.float32)


def _norm(arrays: list[Any]) -> jax.Array:
    # By the greatest: squares of float32 overflow from 2e19 on, and what explodes gets there.
    greatest = jnp.stack([jnp.abs(array).max(initial=0).astype(jnp.float32) for array in arrays]).max()
    unit = jnp.where(greatest > 0, greatest, 1)
    total = jnp.stack([jnp.square(array.astype(jnp.float32) / unit).sum() for array in arrays]).sum()
    return unit * jnp.sqrt(total)


def _sample(values: jax.Array) -> jax.Array:
    if values.size <= MOST_SAMPLES:
        return values
    return values[np.arange(MOST_SAMPLES, dtype=np.int64) * _STRIDE % values.size]


def _by_path(tree: Any) -> dict[tuple[str, ...], Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {tuple(jax.tree_util.keystr((key,), simple=True) for key in path): leaf for path, leaf in leaves}
