"""A few-shot learner in use: it is shown a few pictures of each class, and tells the classes of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from data.images.folder import read_classes
from data.places import class_folders
from train.inference.loading import Run, load
from train.inference.prediction import Prediction, files_of
from train.optim.freezing import Frozen
from train.tasks import task_option
from train.tasks.few_shot import FEW_SHOT
from train.tasks.few_shot.anil import all_but
from train.tasks.few_shot.episode import episodes_of
from train.tasks.few_shot.maml import REPORTED, adapted, query_outputs
from train.tasks.few_shot.prototypical import solve as solve_by_prototypes


class Curve(NamedTuple):
    """A task of regression of one number, and what a learner tells of it; all arrays are `[points]`.

    Attributes:
      support: inputs and targets that it has learned from.
      query: inputs and targets that it has not seen.
      x: inputs in order.
      told: what is told of these, by the number of inner steps.
    """

    support: tuple[np.ndarray, np.ndarray]
    query: tuple[np.ndarray, np.ndarray]
    x: np.ndarray
    told: dict[int, np.ndarray]


def adapt(
    folder: str | Path,
    support: str | Path,
    query: Sequence[str | Path],
    *,
    steps: int | None = None,
    transductive: bool | None = None,
) -> list[Prediction]:
    """What a few-shot learner says of pictures, having seen a few of each class.

    Any number of pictures goes for a class, also another one than in training. Prototypical networks take any number of
    classes, the others as many as the run's tasks have.

    Args:
      folder: a run of the task maml, anil, reptile or prototypical on pictures.
      support: holds a folder of pictures for each class.
      query: pictures, folders of them or wildcards.
      steps: inner steps; None for those of the run's evaluation. Prototypical networks have none.
      transductive: whether batch norm takes the statistics of all queries together, which changes with what else is
        asked; None for what the run was trained with.

    Returns:
      For each picture, in order, its class and the probabilities of all classes.

    Raises:
      FileNotFoundError: there is no such folder or file.
      ValueError: the run is none of these, the classes are too few, too many or empty, or a picture cannot be read.
    """
    run = load(folder)
    task = run.recipe.task
    if task not in FEW_SHOT:
        advice = ": zoo predict RUN FILE… classifies with it" if task == "classification" else ""
        raise ValueError(f"this run is no few-shot learner, but does {task}{advice}")
    inputs = task_option(run.recipe, "inputs")
    reader = run.dataset.reader
    if reader is None or getattr(reader, "shape", ())[2:] not in ((1,), (3,)):
        raise ValueError(f"the data of this run ({run.recipe.data}) are no pictures")
    if steps is not None and (steps < 0 or task == "prototypical"):
        raise ValueError(
            "prototypical networks have no inner steps" if steps >= 0 else f"steps must be at least 0, not {steps}"
        )
    classes = _class_folders(Path(support).expanduser())
    ways = getattr(run.model, "num_classes", None)
    if task != "prototypical" and ways != len(classes):
        raise ValueError(
            f"{support} has {len(classes)} classes ({', '.join(each.name for each in classes[:10])}), and this run was "
            f"trained on tasks of {ways}: give it {ways}, or train with data_options.ways={len(classes)} (prototypical "
            "networks take any number)"
        )
    files = files_of(query)
    if not files:
        raise ValueError("no picture to classify: zoo adapt RUN --support FOLDER --query FILE…")
    shown: Any = read_classes(classes, reader)  # type: ignore[arg-type]
    asked = np.stack([reader.read(file) for file in files])
    seen, queries = (_prepared(run, inputs, images) for images in (shown.arrays["image"], asked))
    whose = task_option(run.recipe, "transductive") if transductive is None else transductive
    logits = np.asarray(_logits(run, seen, shown.arrays["label"], queries, len(classes), steps, whose))
    if not np.isfinite(logits).all():
        raise ValueError("the learner's outputs are no numbers: the inner steps have diverged; take fewer (--steps)")
    names = [each.name for each in classes]
    return [
        Prediction(str(file), names[int(row.argmax())], float(row.max()), dict(zip(names, row.tolist(), strict=True)))
        for file, row in zip(files, np.asarray(jax.nn.softmax(logits)), strict=True)
    ]


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}; expected a folder for each class: FOLDER/CLASS/PICTURE")
    found = class_folders(root)
    if len(found) < 2:
        there = f"one class ({found[0].name})" if found else "no classes"
        raise ValueError(
            f"{root} has {there}; expected a folder of pictures for each class, and at least two: FOLDER/CLASS/PICTURE"
        )
    return found


def _prepared(run: Run, inputs: str, images: np.ndarray) -> np.ndarray:
    """Raw pictures as the model sees them."""
    if inputs not in run.dataset.spec.fields:  # of a run that is loaded without its data
        return np.asarray(run.dataset.preprocess({"image": images})["image"])
    raw = {"support_image": images[None], "query_image": images[None]}
    return np.asarray(run.dataset.preprocess(raw)["support_image"])[0]


def _logits(run: Run, seen: Any, told: Any, asked: Any, ways: int, steps: int | None, transductive: bool) -> jax.Array:
    if run.recipe.task == "prototypical":

        @jax.jit
        def solve(variables: Any, *parts: Any) -> jax.Array:
            return solve_by_prototypes(run.model, variables, *parts, ways=ways, transductive=transductive)

        return solve(run.variables, seen, told, asked)
    usual: int = task_option(run.recipe, "test_steps") or task_option(run.recipe, "inner_steps")
    return _by_descent(run, transductive)(seen, told, asked, usual if steps is None else steps)


def _by_descent(run: Run, transductive: bool) -> Callable[[Any, Any, Any, int], jax.Array]:
    """(support, what is told of it, queries, inner steps) → outputs. One step is compiled, whatever their number."""
    recipe, model = run.recipe, run.model
    anil = recipe.task == "anil"
    kept: Frozen = all_but(run.variables["params"], task_option(recipe, "head")) if anil else (lambda path: False)
    options = {"inner_rate": task_option(recipe, "inner_rate"), "loss": task_option(recipe, "loss"), "kept": kept}
    step = jax.jit(lambda variables, support, told: adapted(model, variables, support, told, steps=1, **options))
    tell = jax.jit(lambda variables, support, query: query_outputs(model, variables, support, query, transductive))

    def solve(support: Any, told: Any, query: Any, steps: int) -> jax.Array:
        variables = run.variables
        for _ in range(steps):
            variables = step(variables, support, told)
        return tell(variables, support, query)

    return solve


def adapted_curves(run: Run, split: str, count: int = 3, points: int = 200) -> list[Curve] | None:
    """Some tasks of a regression of one number from one, before and after inner steps, for `pictures.adaptation`.

    None for other runs.
    """
    if run.recipe.task not in FEW_SHOT or task_option(run.recipe, "inputs") != "support_inputs":
        return None
    batch = run.dataset.preprocess(run.dataset.splits[split][np.arange(count)])
    episodes = episodes_of(batch, "support_inputs", "target")
    if episodes.support.shape[2:] != (1,) or episodes.support_told.shape[2:] != (1,):
        return None
    steps = (0, 1, max(REPORTED))
    solve = _by_descent(run, task_option(run.recipe, "transductive"))
    curves = []
    for task in zip(*episodes, strict=True):
        support, told, query, wanted = (part[:, 0] for part in task)
        ends = np.concatenate([support, query])
        x = np.linspace(ends.min(), ends.max(), points, dtype=np.float32)
        values = {n: np.asarray(solve(task[0], task[1], x[:, None], n))[:, 0] for n in steps}
        curves.append(Curve((support, told), (query, wanted), x, values))
    return curves
