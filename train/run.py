"""Runs: a recipe made real in a folder.

A run folder holds `recipe.json`, `checkpoints/`, `history.csv`, `curves.png`, `report.json`, `tensorboard/` and, for
classifiers, `confusion_matrix.png`.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import jax

import zoo
from train import callbacks, pictures
from train.build import build
from train.checkpoint import Checkpoints
from train.inference import Run, read_recipe, report
from train.loop import fit
from train.recipe import Recipe, differences
from zoo.checkpoint import plain
from zoo.summary import count_parameters


def train(recipe: Recipe, folder: str | Path, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Trains a recipe in a folder, evaluates the best checkpoint on the test split and writes the reports.

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
    first_process = jax.process_index() == 0
    if first_process:
        _claim(folder, recipe, resume)
    parts = build(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    if first_process:
        (folder / "recipe.json").write_text(recipe.to_json() + "\n")
    checkpoints = Checkpoints(
        folder,
        {"model": recipe.model, "model_options": plain(parts.model_options)},
        monitor=recipe.monitor,
        best_is_highest=recipe.best_is_highest,
        keep=recipe.keep,
        every=recipe.checkpoint_every,
    )
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoints.close)
        told: list[Any] = []
        if first_process:
            told.append(callbacks.csv_history(folder / "history.csv"))
            told.append(stack.enter_context(callbacks.tensorboard(folder / "tensorboard", parts.schedule)))
            if progress:
                told.append(stack.enter_context(callbacks.progress_bar(parts.steps, checkpoints.newest_step)))
        if recipe.patience is not None:
            told.append(
                callbacks.early_stopping(recipe.monitor, recipe.patience, best_is_highest=recipe.best_is_highest)
            )
        fitted = fit(
            parts.task,
            parts.dataset,
            batch_size=recipe.batch_size,
            steps=parts.steps,
            seed=recipe.seed,
            plan=parts.plan,
            evaluate_every=recipe.evaluate_every,
            steps_per_dispatch=recipe.steps_per_dispatch,
            callbacks=told,
            checkpoints=checkpoints,
        )
    if not first_process:
        return {}
    callbacks.write_history(folder / "history.csv", fitted.history)
    pictures.curves(fitted.history, folder / "curves.png", title=folder.name)
    _, variables = zoo.load_model(folder)
    last = fitted.history[-1]
    summary = {
        "parameters": count_parameters(variables["params"]),
        "steps": int(last["step"]),
        "seconds": round(last["seconds"], 1),
        **{name: value for name, value in last.items() if name not in ("step", "seconds")},
        **report(Run(recipe, parts.dataset, parts.model, variables), "test", folder / "confusion_matrix.png"),
    }
    (folder / "report.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


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
