"""Runs: a recipe made real in a folder.

A run folder holds `recipe.json`, `checkpoints/`, `history.csv`, `curves.png`, `report.json`, `tensorboard/` and, for
classifiers, `confusion_matrix.png`; a run that learns to generate images has some of each evaluation in `samples/`, and
one on texts has what its tokens stand for in `vocabulary.json`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax

import data
import zoo
from train import launch
from train.data_facts import data_facts, require_same_data
from train.files import as_json, locked, read_json, require_writable, write_whole
from train.inference.evaluation import examine
from train.inference.image_sampling import GENERATORS, draw
from train.inference.loading import Run, read_recipe
from train.inference.required_code import require_sources, sources
from train.inference.scores import ClassPredictions, confusion_matrix
from train.inference.text_generation import VOCABULARY
from train.loop import callbacks
from train.loop.checkpoints import Checkpoints, History, finished_steps
from train.loop.fitting import Callback, fit
from train.machine import commit, machine, zoo_version
from train.measure import pictures
from train.metrics import higher_is_better
from train.recipe import Recipe, differences, override
from train.runs.build import Parts, build
from train.runs.transfer import resolve, with_absolute_paths
from train.state import State
from zoo.checkpoint import CHECKPOINTS, plain, saved_meta
from zoo.summary import count_parameters

_LOG = logging.getLogger(__name__)

NUM_SAMPLES = 64
"""Images in each picture of samples."""


def train(recipe: Recipe, folder: str | Path, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Trains a recipe in a folder, evaluates the best checkpoint on the test split and writes the reports.

    Where the data have no test split, the validation split takes its place.

    Args:
      recipe: what to train.
      folder: the run; made if it is not there.
      resume: continue the run in this folder from its newest checkpoint, exactly as if it had not been interrupted.
        Where there is no run yet, it begins. A recipe that differs in nothing but more `epochs` goes on from the end.
        Where nothing is left to do, nothing is written.
      progress: whether to show a bar.

    Returns:
      The report, as in `report.json`: `steps` and `seconds` of the whole training; all other figures are of the best
      checkpoint, that of `best_step`.

    Raises:
      ValueError: the recipe is wrong, or the folder holds another run.
      CheckpointError: a checkpoint cannot be written or read.
      DivergedError: the loss is no longer a number.
      InterruptedTraining: SIGTERM has come; a checkpoint is saved, from which `resume` goes on.
    """
    folder = Path(folder)
    recipe, parts = prepare(recipe, folder, resume)
    first_process = jax.process_index() == 0
    if resume and finished_steps(folder) >= parts.steps and (folder / "report.json").is_file():
        _LOG.warning("the run in %s has ended already; nothing is left to do", folder)
        return read_json(folder / "report.json", dict[str, Any]) if first_process else {}
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) if first_process else contextlib.nullcontext():
        history = _fit(recipe, parts, folder, progress)
        return _report(recipe, parts, folder, history) if first_process else {}


def learn(recipe: Recipe, folder: Path, heard: Sequence[Callback] = (), dataset: data.Dataset | None = None) -> History:
    """Trains a recipe in a folder, or goes on there, as `train` does, but leaves the test split and the reports alone.

    `train` with `resume` writes them afterwards.

    Args:
      recipe: what to train.
      folder: the run; one that is not there is made.
      heard: callbacks that hear of it, see `train.loop.fit`; what they raise ends the training.
      dataset: what `train.recipe.load_data` gives for the recipe, where it is loaded already.

    Returns:
      A row for each evaluation.

    Raises:
      ValueError, CheckpointError, DivergedError: see `train`.
    """
    recipe, parts = prepare(recipe, folder, (folder / "recipe.json").exists(), dataset)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        return _fit(recipe, parts, folder, False, heard)


def prepare(recipe: Recipe, folder: Path, resume: bool, dataset: data.Dataset | None = None) -> tuple[Recipe, Parts]:
    """The recipe as a run keeps it, and what it names, before anything is trained or written.

    Args:
      recipe: what to train.
      folder: of the run.
      resume: whether to go on with a run that is there.
      dataset: as for `learn`.

    Raises:
      ValueError: the recipe is wrong, or the folder cannot be used.
    """
    recipe = with_absolute_paths(recipe)
    kept = read_recipe(folder) if resume and (folder / "recipe.json").exists() and _has_checkpoint(folder) else None
    if kept is None or differences(replace(kept, epochs=recipe.epochs), recipe):
        recipe = resolve(recipe)  # a run that goes on needs its first weights no more
    if jax.process_index() == 0:
        _claim(folder, recipe, resume)
    parts = build(recipe if kept is None else replace(recipe, weights=None), dataset)
    if resume and _has_checkpoint(folder) and (seen := saved_meta(folder).get("data")):
        require_same_data(folder, seen, parts.dataset, exactly=True)
    return recipe, parts


def record(recipe: Recipe, parts: Parts, folder: Path, states: Sequence[tuple[int, State]], history: History) -> None:
    """Writes the run of a training that took place elsewhere.

    Args:
      recipe: see `prepare`.
      parts: see `prepare`.
      folder: of the run; made.
      states: checkpoints to keep: steps in order, each with its state.
      history: a row for each evaluation.

    Raises:
      CheckpointError: a checkpoint cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder), contextlib.closing(_checkpoints(recipe, parts, folder)) as checkpoints:
        _write_recipe(recipe, parts, folder)
        for step, state in states:
            rows = [row for row in history if row["step"] <= step]
            checkpoints.save(step, state, rows, finished=parts.steps if step == parts.steps else 0)
        checkpoints.wait()
        callbacks.write_history(folder / "history.csv", history)


def _write_recipe(recipe: Recipe, parts: Parts, folder: Path) -> None:
    write_whole(folder / "recipe.json", recipe.to_json() + "\n")
    if vocabulary := parts.dataset.spec.vocabulary:
        write_whole(folder / VOCABULARY, as_json(vocabulary) + "\n")


def _checkpoints(recipe: Recipe, parts: Parts, folder: Path) -> Checkpoints:
    kind = partial(CheckpointsWithSamples, recipe, parts) if recipe.task in GENERATORS else Checkpoints
    return kind(
        folder,
        _meta(recipe, parts),
        monitor=recipe.monitor,
        best_is_highest=higher_is_better(recipe.monitor),
        keep=recipe.keep,
        every=recipe.checkpoint_every,
    )


def _fit(recipe: Recipe, parts: Parts, folder: Path, progress: bool, heard: Sequence[Callback] = ()) -> History:
    first_process = jax.process_index() == 0
    best_is_highest = higher_is_better(recipe.monitor)
    if first_process:
        _write_recipe(recipe, parts, folder)
    checkpoints = _checkpoints(recipe, parts, folder)
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
        stack.enter_context(launch.hearing_interruption())
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
            callbacks=[*told, *heard],
            checkpoints=checkpoints,
            observe_every=recipe.observe_every,
            interrupted=stack.enter_context(callbacks.sigterm()),
        )
    if first_process:
        callbacks.write_history(folder / "history.csv", fitted.history)
    return fitted.history


def _report(recipe: Recipe, parts: Parts, folder: Path, history: History) -> dict[str, Any]:
    pictures.curves(history, folder / "curves.png", title=folder.name)
    loaded = zoo.load_model(folder)
    assert loaded.folder is not None
    variables, step = loaded.variables, int(loaded.folder.name)
    best = next(row for row in history if row["step"] == step)
    split = "test" if "test" in parts.dataset.splits else "validation"
    run = Run(recipe, parts.dataset, parts.model, variables)
    examined = examine(run, split) if split in parts.dataset.splits else None
    if examined is not None and isinstance(examined.predictions, ClassPredictions):
        picture = folder / "confusion_matrix.png"
        pictures.confusion_matrix(
            confusion_matrix(examined.predictions), parts.dataset.spec.classes, picture, title=f"{folder.name}: {split}"
        )
    summary = {
        "parameters": count_parameters(variables["params"]),
        "steps": int(history[-1]["step"]),
        "seconds": round(history[-1]["seconds"], 1),
        "best_step": step,
        **{name: value for name, value in best.items() if name in _shown(best, recipe.monitor)},
        **({} if examined is None else examined.report),
        "conditions": _conditions(recipe),
    }
    write_whole(folder / "report.json", as_json(summary) + "\n")
    return summary


def _conditions(recipe: Recipe) -> dict[str, Any]:
    """What the figures of a report depend on beside the recipe."""
    found = machine()
    device = jax.local_devices()[0]
    return {
        "seed": recipe.seed,
        "commit": commit(),
        "flaxzoo": zoo_version(),
        "jax": found["libraries"]["jax"],
        "python": found["python"],
        "device": found["processor"] if device.platform == "cpu" else device.device_kind,
        "devices": jax.device_count(),
        "cores": found["cores"],
    }


def _shown(row: dict[str, float], monitor: str) -> set[str]:
    """What of a row of the history is told at the end: what training and validation both have, and what was watched."""
    return {n for n in row if n == monitor or n.removeprefix("validation_") in row} - {"step", "seconds"}


def continued(folder: Path, settings: Sequence[str], named: Recipe | None = None) -> Recipe:
    """The recipe of the run in a folder, with settings changed.

    Args:
      folder: the run.
      settings: see `train.recipe.override`.
      named: the recipe that the user names, where one is named: the run must train its model for its task.

    Raises:
      ValueError: the folder holds a run of another recipe, or a setting is wrong.
    """
    kept = read_recipe(folder)
    for field in ("task", "model"):
        if named is not None and getattr(named, field) not in ("", getattr(kept, field)):
            raise ValueError(
                f"the run in {folder} has the {field} {getattr(kept, field)!r}, and this recipe the {field} "
                f"{getattr(named, field)!r}; resume it with its own recipe, or choose another folder with --run"
            )
    return override(kept, settings)


def _meta(recipe: Recipe, parts: Parts) -> dict[str, Any]:
    """What each checkpoint says of its model: enough to use it where the pictures that it was trained on are not."""
    meta: dict[str, Any] = {"model": recipe.model, "model_options": plain(parts.model_options)}
    if codes := sources(recipe):
        meta["code"] = [code._asdict() for code in codes]
    meta["data"] = data_facts(parts.dataset)
    reader = parts.dataset.reader
    kinds = {data.ImageReader: "preprocessing", data.TableReader: "table", data.TextReader: "texts"}
    if reader is None or (kind := kinds.get(type(reader))) is None:
        return meta
    return {**meta, kind: plain(dataclasses.asdict(reader)), "classes": list(parts.dataset.spec.classes)}


class CheckpointsWithSamples(Checkpoints):
    """Checkpoints of a model that generates images: each evaluation leaves some in `samples/step_NUMBER.png`."""

    def __init__(self, recipe: Recipe, parts: Parts, folder: str | Path, *args: Any, **options: Any):
        super().__init__(folder, *args, **options)
        self._run = Run(recipe, parts.dataset, parts.model, {})
        self._samples = Path(folder) / "samples"

    def save(self, step: int, state: State, history: History, *, finished: int = 0) -> None:
        """Draws, and saves in the background as `Checkpoints` does."""
        if jax.process_count() == 1:  # else no process has the whole state
            images = draw(self._run._replace(variables=jax.device_get(state.variables)), NUM_SAMPLES)
            self._samples.mkdir(exist_ok=True)
            pictures.grid(images, self._samples / f"step_{step:06d}.png")
        super().save(step, state, history, finished=finished)


def _has_checkpoint(folder: Path) -> bool:
    inside = folder / CHECKPOINTS
    return inside.is_dir() and any(each.name.isdigit() for each in inside.iterdir())


def _claim(folder: Path, recipe: Recipe, resume: bool) -> None:
    exists = (folder / "recipe.json").exists()
    if resume and exists:
        kept = read_recipe(folder)
        longer = recipe.epochs > kept.epochs
        changed = differences(replace(kept, epochs=recipe.epochs) if longer else kept, recipe)
        if changed:
            raise ValueError(
                f"the recipe differs from that of the run in {folder} in more than a greater number of epochs; resume "
                f"with the same settings, or train into another folder with --run:\n  " + "\n  ".join(changed)
            )
        if _has_checkpoint(folder):
            require_sources(folder, saved_meta(folder))
        else:
            _LOG.warning("the run in %s has no checkpoint yet; it begins anew", folder)
    elif exists and not _has_checkpoint(folder):
        _LOG.warning("a run in %s ended before its first checkpoint; it begins anew", folder)
    elif exists:
        raise ValueError(
            f"{folder} holds a run already; continue it with --resume, or choose another folder with --run"
        )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not a run folder; choose another folder with --run")
    elif resume:
        _LOG.warning("there is no run in %s yet; it begins", folder)
    if not exists:
        require_writable(folder)
