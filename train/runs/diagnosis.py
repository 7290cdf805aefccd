"""A run looked into: what each layer does in the next train step, and what is wrong with it (guide, section 12.4)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax

from train.class_weights import class_weights
from train.inference.loading import read_recipe
from train.inference.required_code import require_sources
from train.loop import callbacks
from train.loop.checkpoints import Checkpoints
from train.loop.training_data import first_examples
from train.measure.diagnosis import EXAMPLES, Diagnosis, diagnose
from train.metrics import higher_is_better
from train.runs.build import Parts, build
from train.state import State
from zoo.checkpoint import CHECKPOINTS, saved_meta
from zoo.published import find, is_published


class DiagnosedRun(NamedTuple):
    """What was found, and the parameters of the model."""

    diagnosis: Diagnosis
    params: Any


def diagnose_run(folder: str | Path, *, examples: int = EXAMPLES) -> DiagnosedRun:
    """Looks into the newest checkpoint of a run, which stays as it is.

    The steps that are tried have the learning rate of the recipe, the highest of its schedule: at the end of many
    schedules it is zero.

    Args:
      folder: the run.
      examples: training examples to look at the layers with; no more than there are.

    Raises:
      ValueError: the folder is no run, it has no checkpoint, or its data are not here.
      CheckpointError: the checkpoints cannot be read.
    """
    if examples < 1:
        raise ValueError(f"examples must be at least 1, not {examples}")
    folder = find(folder)
    if is_published(folder):
        raise ValueError(
            f"{folder} is a published model: its weights alone, without the state of its training; diagnose a run that "
            "`zoo train` made"
        )
    recipe = dataclasses.replace(
        read_recipe(folder), weights=None, plan="jit", schedule="constant", schedule_options={}
    )
    if not any((folder / CHECKPOINTS).glob("[0-9]*")):
        raise ValueError(f"{folder} has no checkpoint yet: the first is written at the first evaluation")
    require_sources(folder, saved_meta(folder))
    parts = build(recipe)
    state = _restored(folder, parts, recipe.monitor)
    history = callbacks.read_history(folder / "history.csv") if (folder / "history.csv").is_file() else []
    found = diagnose(
        parts.task,
        parts.dataset,
        state,
        batch_size=recipe.batch_size,
        history=[row for row in history if row["step"] <= int(state.step)],
        seed=recipe.seed,
        augment=parts.augment,
        class_weight=None if recipe.class_weight is None else class_weights(recipe.class_weight, parts.dataset),
        examples=examples,
    )
    return DiagnosedRun(found, jax.device_get(state.params))


def _restored(folder: Path, parts: Parts, monitor: str) -> State:
    """The state of the newest checkpoint, with that of the optimizer."""
    like = parts.task.init(jax.random.key(0), first_examples(parts.dataset))
    checkpoints = Checkpoints(folder, {}, monitor=monitor, best_is_highest=higher_is_better(monitor))
    try:
        saved = checkpoints.restore(like)
    finally:
        checkpoints.close()
    assert saved is not None  # there is a checkpoint
    return saved.state
