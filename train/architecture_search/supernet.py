"""The training of a supernet, and the weights of its operations at each evaluation."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

import data
from data.dataset import labels_of, take
from data.pipeline import held_out
from train.architecture_search.darts import HELD, Paired, darts, split_params
from train.files import read_json, write_whole
from train.loop import callbacks
from train.loop.checkpoints import Checkpoints, History
from train.loop.fitting import fit
from train.optim.schedules import schedule
from train.state import State, Task
from zoo.vision.darts import ARCHITECTURE

WEIGHTS = "weights"
"""The folder with the weights of the operations at each evaluation, `step_NUMBER.json`."""


class Rates(NamedTuple):
    """How a supernet is trained; the defaults are the paper's (section A.1)."""

    batch_size: int = 64
    learning_rate: float = 0.025
    least_rate: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip_norm: float = 5.0
    architecture_rate: float = 3e-4
    architecture_decay: float = 1e-3


def supernet_task(model: nn.Module, rates: Rates, steps: int, *, order: int) -> Task:
    """The task of `train.architecture_search.darts` with the paper's optimizers."""
    rate = schedule("cosine", rates.learning_rate, steps, final_fraction=rates.least_rate / rates.learning_rate)
    tx = optax.chain(
        optax.clip_by_global_norm(rates.clip_norm),
        optax.add_decayed_weights(rates.weight_decay),
        optax.sgd(rate, rates.momentum),
    )
    architecture = optax.chain(
        optax.add_decayed_weights(rates.architecture_decay), optax.adam(rates.architecture_rate, b1=0.5, b2=0.999)
    )
    return darts(model, tx, architecture, order=order)


def in_halves(dataset: data.Dataset, seed: int) -> data.Dataset:
    """The data set with two halves of its training examples side by side, see `Paired`.

    Raises:
      ValueError: a half would be empty.
    """
    train = dataset.splits["train"]
    labels = labels_of(train) if dataset.stratified else None
    where = f"data set {dataset.name!r}"
    parts = held_out(len(train), 0.5, seed, what="the architecture's half", where=where, epoch=-2, labels=labels)
    paired: Any = Paired(*(take(train, rows) for rows in parts))
    if all(isinstance(half, data.ArraySource) for half in paired.halves):
        paired = data.ArraySource(paired[np.arange(len(paired))])  # so that it lies on the device

    def preprocess(batch: Any) -> Any:
        second = {name.removeprefix(HELD): array for name, array in batch.items() if name.startswith(HELD)}
        first = dataset.preprocess({name: array for name, array in batch.items() if not name.startswith(HELD)})
        if not second:
            return first
        return {**first, **{f"{HELD}{name}": array for name, array in dataset.preprocess(second).items()}}

    return replace(dataset, splits={**dataset.splits, "train": paired}, preprocess=preprocess)


def train_supernet(
    model: nn.Module,
    dataset: data.Dataset,
    folder: Path,
    *,
    meta: Mapping[str, Any],
    epochs: float,
    rates: Rates,
    order: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> History:
    """Trains a supernet in a folder, or goes on there to the same bits; the weights are kept at each evaluation.

    Args:
      model: the supernet.
      dataset: one half of whose training examples the weights see, and the other half α.
      folder: of checkpoints, history and weights.
      meta: the `model` and its `model_options`, for `zoo.load_model`.
      epochs: passes over a half.
      rates: how it is trained.
      order: 1 or 2, see `train.architecture_search.darts`.
      seed: of the halves, the initialisation and the order of examples.
      progress: whether to show a bar.

    Raises:
      ValueError: sizes do not fit together.
      CheckpointError: a checkpoint cannot be written or read.
      DivergedError: the loss is no longer a number.
    """
    halves = in_halves(dataset, seed)
    per_epoch = data.steps_per_epoch(len(halves.splits["train"]), rates.batch_size)
    steps = max(1, round(epochs * per_epoch))
    every = min(per_epoch, steps)
    kept = _KeptWeights(folder, meta, monitor="loss", keep=1, every=max(1, steps // every // 5))
    with contextlib.ExitStack() as stack:
        stack.callback(kept.close)
        heard = [callbacks.csv_history(folder / "history.csv")]
        if progress:
            heard.append(stack.enter_context(callbacks.progress_bar(steps, kept.newest_step)))
        fitted = fit(
            supernet_task(model, rates, steps, order=order),
            halves,
            batch_size=rates.batch_size,
            steps=steps,
            seed=seed,
            evaluate_every=every,
            callbacks=heard,
            checkpoints=kept,
        )
    callbacks.write_history(folder / "history.csv", fitted.history)
    return fitted.history


def weights_over_time(folder: Path) -> list[tuple[int, dict[str, np.ndarray]]]:
    """The weights at each evaluation: step, and by cell `[edges, operations]`."""
    files = sorted((folder / WEIGHTS).glob("step_*.json"))
    return [
        (
            int(file.stem.removeprefix("step_")),
            {name: np.array(w) for name, w in read_json(file, dict[str, Any]).items()},
        )
        for file in files
    ]


class _KeptWeights(Checkpoints):
    def __init__(self, folder: Path, *args: Any, **options: Any):
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, *args, **options)
        self._weights = folder / WEIGHTS

    def save(self, step: int, state: State, history: Sequence[Any], *, finished: int = 0) -> None:
        """Keeps the weights, and saves in the background as `Checkpoints` does."""
        _, alphas = split_params(jax.device_get(state.params))
        weights = {n.removeprefix(ARCHITECTURE): jax.nn.softmax(a, axis=-1).tolist() for n, a in alphas.items()}
        self._weights.mkdir(exist_ok=True)
        write_whole(self._weights / f"step_{step:06d}.json", json.dumps(weights) + "\n")
        super().save(step, state, list(history), finished=finished)


__all__ = ["Rates", "in_halves", "supernet_task", "train_supernet", "weights_over_time"]
