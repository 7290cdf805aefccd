"""The learning-rate range test (Smith 2017, section 3.3): the rate rises from step to step until the loss does too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax

import data
from train.loop import parallel
from train.loop.feed import Augment, feed
from train.loop.parallel import Plan
from train.loop.programs import train_program
from train.loop.training_data import Data, as_dataset, first_examples, naming_fields
from train.state import State, Task

DIVERGED = 4.0
"""The test ends where the smoothed loss is so many times its best, as in fastai; or is no number."""

_MEDIAN = 7
"""Points of the running median, which takes out spikes of up to three."""

_WIDTH = 0.03
"""Standard deviation of the smoothing, as a share of the whole range of rates."""

_LEAST_FALL = 3.0
"""How far the loss must fall to be no noise: in deviations of the loss from its smoothed curve."""


class RateTest(NamedTuple):
    """What a range test found.

    Attributes:
      rates: that were tried, rising, `[n]`.
      losses: of the step with each, `[n]`.
      smoothed: the same without spikes and noise, `[n]`.
      suggestion: a rate to train with; None where the loss fell at none of them.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float | None


def find_rate(
    task_of: Callable[[optax.Schedule], Task],
    dataset: Data,
    *,
    batch_size: int,
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
    seed: int = 0,
    plan: Plan | None = None,
    state: State | None = None,
    augment: Augment | None = None,
) -> RateTest:
    """Tries learning rates from `lowest` to `highest`, one a step, evenly spaced in their logarithm.

        test = find_rate(lambda rate: classification(model, optax.adam(rate)), digits, batch_size=32)
        task = classification(model, optax.adam(test.suggestion))

    It ends where the loss is four times its best. A state that is given is not changed.

    Args:
      task_of: schedule → task; its optimizer takes the schedule for its learning rate.
      dataset: as `train.loop.fit` takes it.
      batch_size: examples in a step.
      lowest: the first rate.
      highest: the last rate.
      steps: how many rates.
      seed: of the parameters and of the order of the data.
      plan: how to use the devices; see `train.loop.fit`.
      state: whose weights to start from; the optimizer begins anew.
      augment: see `train.loop.fit`.

    Raises:
      ValueError: the rates do not rise, or there are too few of them.
    """
    if not 0 < lowest < highest < float("inf"):
        raise ValueError(f"rates rise from a lowest above 0 to a finite highest, not from {lowest} to {highest}")
    if steps < 10:
        raise ValueError(f"a range test takes at least 10 steps, not {steps}")
    task = task_of(optax.exponential_decay(lowest, steps - 1, highest / lowest))
    if not isinstance(task, Task):
        raise ValueError(f"task_of must return a task, such as classification(model, optax.adam(rate)), not {task!r}")
    rates = lowest * (highest / lowest) ** (np.arange(steps) / (steps - 1))
    dataset = as_dataset(dataset)
    plan = plan or parallel.jit(parallel.devices_for(batch_size))
    plan.rows(batch_size)
    source = feed(dataset, "train", plan)
    rows = (data.batch_indices(seed, source.num_examples, batch_size, step, 1) for step in range(steps))
    with naming_fields(dataset):
        fresh = task.init(jax.random.key(seed), first_examples(dataset))
    if state is not None:  # in a copy, which the steps may overwrite; their schedule begins with a new optimizer
        own = parallel.to_host((state.params, state.model_state))
        fresh = dataclasses.replace(fresh, params=own[0], model_state=own[1])
    placed = plan.place(fresh)
    program = plan.compile(train_program(task, source, augment))
    losses: list[float] = []
    for items in source.items(rows):
        placed, metrics = program(placed, items, source.shared)
        loss = jax.device_get(metrics["loss"])
        losses.append(float(np.sum(loss.total) / np.sum(loss.weight)))
        if has_diverged(losses):
            break
    found, smoothed, suggestion = suggest(rates[: len(losses)], np.array(losses))
    return RateTest(rates[: len(found)], found, smoothed, suggestion)


def has_diverged(losses: list[float]) -> bool:
    """Whether the last of the losses is the end: no number, or for seven steps mostly more than four times the best."""
    if not np.isfinite(losses[-1]):
        return True
    if len(losses) < _MEDIAN:
        return False
    calm = np.median(np.lib.stride_tricks.sliding_window_view(losses, _MEDIAN), axis=1)  # spikes of three are no end
    return bool(calm[-1] > DIVERGED * calm.min() > 0)


def suggest(rates: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, float | None]:
    """The finite losses, the same without spikes and noise, and the rate at which half of their fall is done.

    A running median first takes out spikes, which would be the start or the end of the way down.

    Args:
      rates: rising, `[n]`.
      losses: of each, `[n]`.
    """
    last = np.flatnonzero(np.isfinite(losses))
    losses = losses[: last[-1] + 1] if last.size else losses[:0]
    if len(losses) < _MEDIAN:
        return losses, losses, None
    logs = np.log(rates[: len(losses)])
    half = _MEDIAN // 2
    level = float(np.median(losses[: max(_MEDIAN, len(losses) // 4)]))
    # What has diverged is cut off: its heights would reach down the whole way to the minimum.
    padded = np.pad(np.minimum(losses, level + abs(level)), half, mode="edge")
    calm = np.median(np.lib.stride_tricks.sliding_window_view(padded, _MEDIAN), axis=1)
    width = _WIDTH * (np.log(rates[-1]) - np.log(rates[0]))
    kernel = np.exp(-np.square((logs[:, None] - logs[None]) / width) / 2)
    smoothed = (kernel * calm[None]).sum(axis=1) / kernel.sum(axis=1)
    lowest = int(np.argmin(smoothed))
    start = np.median(smoothed[: max(1, lowest // 4)])
    noise = np.median(np.abs(losses - smoothed)[: max(1, lowest)])
    if lowest == 0 or start - smoothed[lowest] < _LEAST_FALL * noise + 1e-3 * abs(start):
        return losses, smoothed, None
    middle = (start + smoothed[lowest]) / 2
    above = int(np.flatnonzero(smoothed[: lowest + 1] > middle)[-1])  # the last above; the next is below
    share = (smoothed[above] - middle) / (smoothed[above] - smoothed[above + 1])
    return losses, smoothed, float(np.exp(logs[above] + share * (logs[above + 1] - logs[above])))
