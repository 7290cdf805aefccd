"""Runs: a recipe made real in a folder.

A run folder holds `recipe.json`, `checkpoints/`, `history.csv`, `curves.png`, `report.json`, `tensorboard/` and, for
classifiers, `confusion_matrix.png`; a run that learns to generate images has some of each evaluation in `samples/`, and
one on texts has what its tokens stand for in `vocabulary.json`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax

import zoo
from train.loop import callbacks
from train.measure import pictures
from train.runs.build import Parts, build
from train.loop.checkpoints import Checkpoints, History
from train.inference.generate import VOCABULARY
from train.inference.loading import Run, read_recipe
from train.inference.evaluation import examine
from train.loop.fitting import fit
from train.metrics import higher_is_better
from train.recipe import Recipe, differences
from train.inference.sample import GENERATORS, draw
from train.state import State
from train.runs.transfer import resolve
from zoo.checkpoint import plain
from zoo.summary import count_parameters

NUM_SAMPLES = 64
"""Images in each picture of samples."""


def train(recipe: Recipe, folder: str | Path, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Trains a recipe in a folder, evaluates the best checkpoint on the test split and writes the reports.

    Where the data have no test split, the validation split takes its place.

    Args:
      recipe: what to train.
      folder: the run; made if it is not there.
      resume: continue the run in this folder from its newest checkpoint, exactly as if it had not been interrupted.
      progress: whether to show a bar.

    Returns:
      The report, as in `report.json`.

    Raises:
      ValueError: the recipe is wrong, or the folder holds another run, or none to resume.
      CheckpointError: a checkpoint cannot be written or read.
      DivergedError: the loss is no longer a number.
    """
    folder = Path(folder)
    recipe = resolve(recipe)
    first_process = jax.process_index() == 0
    if first_process:
        _claim(folder, recipe, resume)
    parts = build(recipe)
    best_is_highest = higher_is_better(recipe.monitor)
    folder.mkdir(parents=True, exist_ok=True)
    if first_process:
        (folder / "recipe.json").write_text(recipe.to_json() + "\n")
        if vocabulary := parts.dataset.spec.vocabulary:
            (folder / VOCABULARY).write_text(json.dumps(vocabulary) + "\n")
    kind = partial(CheckpointsWithSamples, recipe, parts) if recipe.task in GENERATORS else Checkpoints
    checkpoints = kind(
        folder,
        _meta(recipe, parts),
        monitor=recipe.monitor,
        best_is_highest=best_is_highest,
        keep=recipe.keep,
        every=recipe.checkpoint_every,
    )
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoints.close)
        told: list[Any] = []
        if first_process:
            told.append(callbacks.csv_history(folder / "history.csv"))
            told.append(
                stack.enter_context(callbacks.tensorboard(folder / "tensorboard", parts.schedule, parts.plateau))
            )
            if progress:
                told.append(stack.enter_context(callbacks.progress_bar(parts.steps, checkpoints.newest_step)))
        if recipe.patience is not None:
            told.append(callbacks.early_stopping(recipe.monitor, recipe.patience, best_is_highest=best_is_highest))
        fitted = fit(
            parts.task,
            parts.dataset,
            batch_size=recipe.batch_size,
            steps=parts.steps,
            seed=recipe.seed,
            plan=parts.plan,
            evaluate_every=recipe.evaluate_every,
            steps_per_dispatch=recipe.steps_per_dispatch,
            augment=parts.augment,
            adapt=None if parts.plateau is None else parts.plateau.rescale,
            callbacks=told,
            checkpoints=checkpoints,
        )
    if not first_process:
        return {}
    callbacks.write_history(folder / "history.csv", fitted.history)
    pictures.curves(fitted.history, folder / "curves.png", title=folder.name)
    _, variables = zoo.load_model(folder)
    last = fitted.history[-1]
    split = "test" if "test" in parts.dataset.splits else "validation"
    run = Run(recipe, parts.dataset, parts.model, variables)
    examined = examine(run, split) if split in parts.dataset.splits else None
    if examined is not None and examined.confusion is not None:
        picture = folder / "confusion_matrix.png"
        pictures.confusion_matrix(
            examined.confusion, parts.dataset.spec.classes, picture, title=f"{folder.name}: {split}"
        )
    summary = {
        "parameters": count_parameters(variables["params"]),
        "steps": int(last["step"]),
        "seconds": round(last["seconds"], 1),
        **{name: value for name, value in last.items() if name not in ("step", "seconds")},
        **({} if examined is None else examined.report),
    }
    (folder / "report.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _meta(recipe: Recipe, parts: Parts) -> dict[str, Any]:
    """What each checkpoint says of its model: enough to use it where the pictures that it was trained on are not."""
    meta = {"model": recipe.model, "model_options": plain(parts.model_options)}
    reader = parts.dataset.reader
    if reader is None:
        return meta
    return {**meta, "preprocessing": plain(dataclasses.asdict(reader)), "classes": list(parts.dataset.spec.classes)}


class CheckpointsWithSamples(Checkpoints):
    """Checkpoints of a model that generates images: each evaluation leaves some in `samples/step_NUMBER.png`."""

    def __init__(self, recipe: Recipe, parts: Parts, folder: str | Path, *args: Any, **options: Any):
        super().__init__(folder, *args, **options)
        self._run = Run(recipe, parts.dataset, parts.model, {})
        self._samples = Path(folder) / "samples"

    def save(self, step: int, state: State, history: History, *, finished: bool = False) -> None:
        """Draws, and saves in the background as `Checkpoints` does."""
        if jax.process_count() == 1:  # else no process has the whole state
            images = draw(self._run._replace(variables=jax.device_get(state.variables)), NUM_SAMPLES)
            self._samples.mkdir(exist_ok=True)
            pictures.grid(images, self._samples / f"step_{step:06d}.png")
        super().save(step, state, history, finished=finished)


def _claim(folder: Path, recipe: Recipe, resume: bool) -> None:
    exists = (folder / "recipe.json").exists()
    if resume:
        changed = differences(read_recipe(folder), recipe)
        if changed:
            raise ValueError(
                f"the recipe differs from that of the run in {folder}; resume with the same settings, or train into "
                f"another folder with --run:\n  " + "\n  ".join(changed)
            )
    elif exists:
        raise ValueError(
            f"{folder} holds a run already; continue it with --resume, or choose another folder with --run"
        )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not a run folder; choose another folder with --run")
