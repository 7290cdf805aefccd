"""Our side of a measurement: what each of its parts does, made ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import data
import zoo
from train.inference.text_generation import generate
from train.loop import parallel
from train.loop.fitting import fit
from train.measure.peers.work import GENERATED, LEAD_IN
from train.measure.turns import Turn, timed
from train.state import State, Task
from train.tasks import classification
from zoo.summary import count_flops


class Own(NamedTuple):
    """A model, its task, its variables in training, and a batch on which both sides are measured."""

    model: Any
    task: Task
    layout: parallel.Plan
    state: State
    batch: Mapping[str, np.ndarray]
    inputs: np.ndarray


def inference(own: Own) -> tuple[Turn, dict[str, float]]:
    """One call of the model on the batch, fused where one device makes it; also FLOPs and seconds of compiling."""

    def infer(state: Any, items: Any, shared: Any) -> tuple[None, Any]:
        outputs = jax.tree.leaves(own.model.apply(state.variables, items["inputs"]))
        return None, sum(jnp.sum(leaf, dtype=jnp.float32) for leaf in outputs)

    if own.layout.num_devices > 1:
        return _compile(own, infer, {"inputs": own.inputs}, donate=False)
    flops = count_flops(infer, own.state, {"inputs": own.inputs}, {})
    fused, inputs = zoo.fuse(own.model, jax.device_put(own.state.variables)), jax.device_put(own.inputs)
    began = time.perf_counter()
    jax.block_until_ready(fused(inputs))
    seconds = time.perf_counter() - began
    turn = timed(lambda: jax.block_until_ready(fused(inputs)))
    return turn, {"compile_seconds": seconds, "gflops_per_step": flops / 1e9}


def train(own: Own) -> tuple[Turn, dict[str, float]]:
    """One step of the task on the batch; also FLOPs and seconds of compiling."""

    def step(state: Any, items: Any, shared: Any) -> tuple[Any, Any]:
        state, metrics = own.task.train_step(state, items)
        return state, metrics["loss"].total

    return _compile(own, step, own.batch, donate=True)


def _compile(own: Own, program: parallel.Program, items: Any, *, donate: bool) -> tuple[Turn, dict[str, float]]:
    flops = count_flops(program, own.state, items, {})
    state, items = own.layout.place(own.state), own.layout.split(items, 0)
    compiled = own.layout.compile(program, donate=donate)
    began = time.perf_counter()
    executable = compiled.lower(state, items, {}).compile()  # type: ignore[attr-defined]
    seconds = time.perf_counter() - began

    def step() -> Any:
        nonlocal state
        new, value = executable(state, items, {})
        jax.block_until_ready(value)
        state = new if donate else state
        return value

    return timed(step), {"compile_seconds": seconds, "gflops_per_step": flops / 1e9}


def text(own: Own) -> tuple[Turn, dict[str, float]]:
    """A text of `GENERATED` tokens, drawn, in one row."""
    prompt = np.zeros((1, 1), np.int32)
    variables = jax.device_put(own.state.variables)
    return timed(partial(generate, own.model, variables, prompt, GENERATED)), {}


def digits() -> tuple[data.Dataset, dict[str, np.ndarray]]:
    """The data of an epoch, and the rows that it goes through."""
    dataset = data.load("digits", flat=True, standardize=True)
    source = dataset.splits["train"]
    assert isinstance(source, data.ArraySource)
    return dataset, dict(dataset.preprocess(source.arrays))


def epoch(own: Own) -> tuple[Turn, dict[str, float]]:
    """Epochs of `fit` on digits with Adam, loss and accuracy reported; the first, which compile, do not count."""
    dataset, _ = digits()
    task = classification(own.model, optax.adam(1e-3))

    def turn(count: int) -> tuple[float, Any]:
        ends = []
        fitted = fit(
            task,
            dataset,
            batch_size=len(own.batch["image"]),
            epochs=LEAD_IN + count,
            callbacks=[lambda report: ends.append(time.perf_counter()) if report.evaluated else None],
        )
        return float(np.diff(ends)[-count:].mean()), fitted.history[-1]["loss"]

    return turn, {}


PARTS: dict[str, Callable[[Own], tuple[Turn, dict[str, float]]]] = {
    "inference": inference,
    "generate": text,
    "epoch": epoch,
    "train": train,  # last: it takes the memory of the state
}
"""What can be measured, in this order; each gives its turns, and what else is known of it."""


def require_parts(parts: Any, card: zoo.Card, model: Any) -> None:
    """Refuses parts that there are not, or that the model does not have.

    Raises:
      ValueError: says which.
    """
    wrong = [part for part in parts if part not in PARTS]
    if wrong or not parts:
        raise ValueError(f"parts are {', '.join(PARTS)}, not {', '.join(wrong) or 'none'}")
    if "generate" in parts and not hasattr(model, "init_state"):
        raise ValueError(f"{card.name!r} is no language model, and generates no text")
    if "epoch" in parts and (card.task, card.input_shape) != ("classification", (64,)):
        raise ValueError(f"an epoch goes through digits of 64 features, and {card.name!r} takes other inputs")
