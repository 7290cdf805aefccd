"""What is wrong with a training, in plain words that name the layer (guide, section 12.4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import data
from train.class_weights import ClassWeight, weights_in_order
from train.loop import inspection, parallel
from train.loop.checkpoints import History
from train.loop.feed import Augment, feed
from train.loop.inspection import Inside, Layer
from train.loop.nonfinite import Made, first_nonfinite
from train.loop.programs import loader
from train.loop.training_data import Data, as_dataset, first_examples, naming_fields
from train.state import State, Task

EXAMPLES = 256
"""Examples that the layers are looked at with."""

STEPS = 16
"""Steps that are tried: the loss of each batch is measured before and after its own step."""

SILENT = 0.9
"""The share of a layer's units that fire for no example, from which on the layer is called dead."""

SATURATED = 0.8
"""The share of a layer's activations in the flat parts of a sigmoid or tanh, from which on it is called saturated."""

VANISHING, EXPLODING = 1e-3, 1e3
"""How many times the gradient at a layer is that at the layer nearest to the loss."""

FEW_STEPS = 8
"""Time steps within which a gradient that vanishes leaves a recurrent layer without a memory. A fresh LSTM's falls to
a thousandth in 22: its forget gates are σ(1)."""

OVERSHOOT = 1.5
"""How many times the loss of a batch is after its own step, on average, what it was before."""

NOTHING_LEARNT = 0.9
"""The share of the loss that knows nothing, above which too little has been learnt."""

RISEN = 1.5
"""How many times its least the validation loss has become, where the training loss is less than half of it."""


class Finding(NamedTuple):
    """Something that is wrong.

    Attributes:
      illness: "not finite", "dead", "saturated", "vanishing", "exploding", "rate too high", "overfitting" or
        "underfitting".
      layer: where, "" for the model itself; None where it is in no layer.
      words: what it is, how it shows, and what helps.
    """

    illness: str
    layer: str | None
    words: str


class Steps(NamedTuple):
    """Losses of some batches before and after their own step, `[n]` each, with the same random numbers."""

    before: np.ndarray
    after: np.ndarray


class Blank(NamedTuple):
    """Losses of a model that knows nothing, in training and in validation.

    Those of random weights; or if they are less, of one that tells for all examples the shares of the classes, as the
    weights of the training have them. Validation counts all examples alike.
    """

    training: float
    validation: float


class Diagnosis(NamedTuple):
    """What was found.

    Attributes:
      step: how many steps had been taken.
      layers: what each layer does, in their order.
      inside: the same with samples of activations, weights and gradients, for histograms.
      steps: of batches that were tried.
      blank: the losses of a model that knows nothing.
      history: of the training.
      findings: what is wrong; none where nothing is.
    """

    step: int
    layers: list[Layer]
    inside: list[Inside]
    steps: Steps
    blank: Blank
    history: History
    findings: list[Finding]


def diagnose(
    task: Task,
    dataset: Data,
    state: State,
    *,
    batch_size: int,
    history: History = (),  # type: ignore[assignment]
    seed: int = 0,
    augment: Augment | None = None,
    class_weight: ClassWeight | None = None,
    examples: int = EXAMPLES,
) -> Diagnosis:
    """Looks into the train steps that would come next. The state stays as it is.

        fitted = fit(task, digits, batch_size=32, epochs=5)
        for finding in diagnose(task, digits, fitted.state, batch_size=32, history=fitted.history).findings:
            print(finding.words)

    Args:
      task: what was trained. A task with two losses, as a GAN, is not judged by them.
      dataset: as `train.loop.fit` takes it.
      state: at any time of the training, laid out by no plan.
      batch_size: examples in a step.
      history: of the training so far, for over- and underfitting.
      seed: of the order of the data.
      augment: see `train.loop.fit`.
      class_weight: that the task has: the loss of a model that knows nothing is another with it.
      examples: that the layers are looked at with, at most; the whole split where it has fewer.

    Raises:
      ValueError: the state is none, or a number makes no sense.
    """
    if not isinstance(task, Task) or not isinstance(state, State):
        raise ValueError(
            "diagnose(task, data, state, …) takes a task and a state of it, such as that which fit returns"
        )
    if examples < 1 or batch_size < 1:
        raise ValueError(f"examples and batch_size must be at least 1, not {examples} and {batch_size}")
    dataset = as_dataset(dataset)
    source = feed(dataset, "train", parallel.jit(jax.local_devices()[:1]))
    load = jax.jit(loader(source, augment))
    state = jax.device_put(parallel.to_host(state), jax.local_devices()[0])
    step = int(state.step)

    def batch_of(number: int, size: int) -> Any:
        rows = data.batch_indices(seed, source.num_examples, size, number, 1)
        (item,) = source.items(list(rows))
        return load(state, item, source.shared)

    size = min(max(examples, batch_size), source.num_examples)
    batch = batch_of(step * batch_size // size, size)
    with naming_fields(dataset):
        blank = jax.device_put(task.init(jax.random.key(seed), first_examples(dataset)), jax.local_devices()[0])
        look = jax.jit(lambda state, batch: inspection.look(task, state, batch))
        inside, metrics = jax.device_get(look(state, batch))
    layers = inspection.report(inside)
    made: Made | None = None
    if not all(layer.finite for layer in layers):
        made = first_nonfinite(
            task.train_step, state, batch, of=lambda outputs: (outputs[1]["loss"], outputs[0].params)
        )
    steps, start = _try_steps(task, state, blank, [batch_of(step + index, batch_size) for index in range(STEPS)])
    shares = _shares(dataset, metrics, class_weight)
    known = Blank(start, start) if shares is None else Blank(*np.minimum(start, _telling_shares(*shares)).tolist())
    judged = "generator_loss" not in metrics
    found = findings(layers, made, steps if judged else None, known if judged else None, history if judged else ())
    return Diagnosis(step, layers, inside, steps, known, list(history), found)


def _try_steps(task: Task, state: State, blank: State, batches: Sequence[Any]) -> tuple[Steps, float]:
    """Steps on from a state; and the mean loss of these batches with a state that has learnt nothing."""

    @jax.jit
    def both(state: State, batch: Any) -> Any:
        after, before = task.train_step(state, batch)
        _, again = task.train_step(dataclasses.replace(after, step=state.step), batch)
        return after, before["loss"], again["loss"]

    def mean(loss: Any) -> float:
        return float(np.sum(loss.total) / np.sum(loss.weight))

    start = np.mean([mean(jax.device_get(both(blank, batch)[1])) for batch in batches])
    losses = []
    for batch in batches:
        state, *pair = both(state, batch)
        losses.append([mean(loss) for loss in jax.device_get(pair)])
    before, after = np.array(losses).T
    return Steps(before, after), float(start)


def _shares(
    dataset: data.Dataset, metrics: Any, class_weight: ClassWeight | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Of a classifier's training examples: the share of each class, and its mean weight in the loss, `[classes]`."""
    source = dataset.splits["train"]
    if "accuracy" not in metrics or not isinstance(source, data.ArraySource) or not dataset.spec.num_classes:
        return None
    labels = np.asarray(source.arrays.get("label", ()))
    if labels.ndim != 1 or not labels.size or labels.dtype.kind not in "iu":
        return None
    classes = dataset.spec.num_classes
    weights = np.asarray(source.arrays.get("sample_weight", np.ones(len(labels))), np.float64)
    if class_weight is not None:
        weights = weights * weights_in_order(class_weight, classes)[labels]
    counts = np.bincount(labels, minlength=classes)
    return counts / len(labels), np.bincount(labels, weights, minlength=classes) / np.maximum(counts, 1)


def _telling_shares(shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The cross-entropies of a model that tells weighted shares: in training, and in validation without weights."""
    weighted = shares * weights
    told = np.log(np.maximum(weighted / weighted.sum(), np.finfo(np.float64).tiny))
    return np.array([-(weighted * told).sum(), -(shares * told).sum()])


def findings(
    layers: Sequence[Layer],
    made: Made | None = None,
    steps: Steps | None = None,
    blank: Blank | None = None,
    history: Sequence[dict[str, float]] = (),
) -> list[Finding]:
    """What is wrong, the gravest first.

    Args:
      layers: of `train.loop.inspect`.
      made: what made the first number that is not finite.
      steps: losses before and after steps.
      blank: losses of a model that knows nothing.
      history: of the training.
    """
    if made is not None:
        words = f"{made}. Nothing is learnt from there on: lower the learning rate, clip the gradient (clip_norm)."
        return [Finding("not finite", made.layer, words)]
    if bad := [layer for layer in layers if not layer.finite]:
        words = f"{_called(bad[0])} holds NaN or infinities. Go back to an earlier checkpoint."
        return [Finding("not finite", bad[0].name, words)]
    own = [layer for layer in layers if layer.num_weights]
    found = [*_dead(own), *_saturated(own), *_gradients(own), *_through_time(own)]
    too_high = [] if steps is None else _overshoot(steps)
    return [*found, *too_high, *([] if blank is None else _curves(history, blank))]


def _called(layer: Layer) -> str:
    return f"layer {layer.name}" if layer.name else f"the model {layer.kind}"


def _dead(layers: Sequence[Layer]) -> list[Finding]:
    found = []
    for layer in layers:
        if layer.nonlinearity == "relu" and layer.units and (layer.silent_units or 0) >= SILENT * layer.units:
            words = (
                f"{_called(layer)} is dead: {layer.silent_units} of its {layer.units} units are zero for all examples, "
                "and get no gradient. Lower the learning rate, or take activation leaky_relu."
            )
            found.append(Finding("dead", layer.name, words))
    return found


def _saturated(layers: Sequence[Layer]) -> list[Finding]:
    return [
        Finding(
            "saturated",
            layer.name,
            f"{_called(layer)} is saturated: {layer.saturated:.0%} of its activations are in the flat parts of "
            f"{layer.nonlinearity}, through which next to no gradient passes. Standardize the inputs, begin with "
            "smaller weights, or put a norm before it.",
        )
        for layer in layers
        if layer.saturated is not None and layer.saturated >= SATURATED
    ]


def _gradients(layers: Sequence[Layer]) -> list[Finding]:
    """Of the gradients by the layers' outputs, each beside that of the last layer that has one."""
    flow = [layer for layer in layers if layer.output_gradient_norm is not None]
    alive = [layer for layer in flow if layer.output_gradient_norm]
    if not alive:
        return []  # nothing is left to learn
    last = alive[-1]
    reference = last.output_gradient_norm or 1.0
    ratios = {layer.name: (layer.output_gradient_norm or 0.0) / reference for layer in flow[: flow.index(last)]}
    found = []
    small = [name for name, ratio in ratios.items() if ratio < VANISHING]
    large = [name for name, ratio in ratios.items() if ratio > EXPLODING]
    for illness, beyond, verb, advice in (
        ("vanishing", small, "vanishes", "Take ReLU, norms, skip connections"),
        ("exploding", large, "explodes", "Clip it (clip_norm), begin with smaller weights, put norms between"),
    ):
        if not beyond:
            continue
        # From the loss downwards, the first where it is too small or too large.
        name = beyond[-1]
        layer = next(layer for layer in flow if layer.name == name)
        worst = (min if illness == "vanishing" else max)(beyond, key=ratios.__getitem__)
        words = (
            f"the gradient {verb} on its way down from {_called(last)}: at {_called(layer)} it is {ratios[name]:.2g} "
            f"times as large, at layer {worst} {ratios[worst]:.2g} times. {advice}."
        )
        found.append(Finding(illness, name, words))
    return found


def _through_time(layers: Sequence[Layer]) -> list[Finding]:
    """Of the gradients inside recurrent layers; where each step has a loss, what vanishes is hidden by it."""
    found = []
    for layer in layers:
        if layer.through_time is None or not layer.time_steps:
            continue
        share, steps = layer.through_time, layer.time_steps
        if share < VANISHING and steps <= FEW_STEPS:
            illness, verb = "vanishing", "vanishes"
            advice = "It learns nothing of what lies farther back: take an LSTM or a GRU, orthogonal recurrent weights"
        elif share > EXPLODING:
            illness, verb = "exploding", "explodes"
            advice = "Clip it (clip_norm), begin with smaller or orthogonal recurrent weights, take shorter sequences"
        else:
            continue
        words = (
            f"the gradient {verb} on its way back through time in {_called(layer)}: {steps} steps before the last it "
            f"is {share:.2g} times as large. {advice}."
        )
        found.append(Finding(illness, layer.name, words))
    return found


def _overshoot(steps: Steps) -> list[Finding]:
    before, after = steps.before.mean(), steps.after.mean()
    if np.isfinite(after) and after <= OVERSHOOT * before:
        return []
    words = (
        f"the learning rate is too high: a step makes the loss of its own batch larger, from {before:.3g} to "
        f"{after:.3g} on average. Divide it by ten; `zoo lr-find` suggests one."
    )
    return [Finding("rate too high", None, words)]


def _curves(history: Sequence[dict[str, float]], blank: Blank) -> list[Finding]:
    if not history or "loss" not in history[-1] or min(blank) <= 0:
        return []
    training = history[-1]["loss"]
    if training > NOTHING_LEARNT * blank.training:
        words = (
            f"underfitting: the training loss is {training:.3g}, and {blank.training:.3g} without having learnt "
            "anything. Train longer, take a larger model, another learning rate (`zoo lr-find`); look whether inputs "
            "and labels belong together."
        )
        return [Finding("underfitting", None, words)]
    if "validation_loss" not in history[-1]:
        return []
    validation = np.array([row["validation_loss"] for row in history])
    best, last = float(validation.min()), float(np.median(validation[-3:]))
    if best > 0.98 * blank.validation:
        words = (
            f"overfitting: the training loss is {training:.3g}, but the validation loss was never better than "
            f"{best:.3g}, and is {blank.validation:.3g} without having learnt anything. It learns by heart: are the "
            "labels right?"
        )
        return [Finding("overfitting", None, words)]
    if last > RISEN * best and training < last / 2:
        words = (
            f"overfitting: the validation loss has risen from {best:.3g} to {last:.3g}, and the training loss is "
            f"{training:.3g}. Add dropout, weight decay (l2) or data augmentation, get more data, or stop early "
            "(patience)."
        )
        return [Finding("overfitting", None, words)]
    return []
