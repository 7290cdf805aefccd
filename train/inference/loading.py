"""Trained runs, ready for inference."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict

import data
import zoo
from train.inference.required_code import require_sources
from train.recipe import Recipe, from_json, list_recipes
from train.tasks import CLASSIFIERS, TASKS
from train.user_code import source_of
from zoo.checkpoint import saved_meta
from zoo.options import unknown
from zoo.pretrained.state_dict import require_same_entries
from zoo.published import find, is_published, shipped_models
from zoo.summary import abstract_variables


class Run(NamedTuple):
    """A trained run, ready for inference."""

    recipe: Recipe
    dataset: data.Dataset
    model: Any  # a Flax module, with the methods and attributes that its task knows
    variables: dict[str, Any]


def load(folder: str | Path) -> Run:
    """The best checkpoint of a run and what its recipe names. The data themselves are read only when asked for.

    A folder of `zoo convert` will do as well: it is as a run that was trained on pictures which are not here. So will a
    model that ships with the zoo, by its name, and one on the hub; see `zoo.published.find`.

    Raises:
      ImportError, OSError: a model on the hub cannot be fetched.
      ValueError: the folder is no run, or has no checkpoint yet.
    """
    folder = find(folder)
    if (folder / "recipe.json").exists() or not ((folder / "meta").is_dir() or is_published(folder)):
        recipe = read_recipe(folder)
    else:
        recipe = Recipe(model=saved_meta(folder)["model"], data="")
    meta = saved_meta(folder)
    require_sources(folder, meta)
    if recipe.task not in TASKS:
        raise ValueError(f"{folder}: {unknown('task', recipe.task, TASKS)}")
    model, variables = zoo.load_model(folder)
    if "preprocessing" in meta:
        dataset = _pictures(str(folder), meta, model)
    elif "table" in meta:
        dataset = _lines(str(folder), meta)
    elif "texts" in meta:
        dataset = _texts(str(folder), meta)
    elif recipe.data:
        dataset = data.load(recipe.data, seed=recipe.seed, **recipe.data_options)
    else:
        raise ValueError(f"{folder} was saved without preprocessing: it is not known what its model wants to see")
    run = Run(recipe, dataset, model, jax.device_put(variables))
    _require_own_parameters(folder, run)
    return run


def _require_own_parameters(folder: Path, run: Run) -> None:
    """Refuses parameters that are not those of the model as its code is now."""
    inputs, fields = inspect.signature(TASKS[run.recipe.task]).parameters.get("inputs"), run.dataset.spec.fields
    name = run.recipe.task_options.get("inputs", None if inputs is None else inputs.default)
    if not (is_classifier(run) or run.recipe.task == "regression"):
        return
    name = name if isinstance(name, str) or not name else name[0]
    if name not in fields:
        return
    try:
        wanted: dict[str, Any] = flatten_dict(abstract_variables(run.model, run.dataset.spec.example()[name]), sep="/")
    except (TypeError, ValueError):
        return  # the model takes something else: what uses the run says so
    require_same_entries(
        f"the parameters in {folder} are not those of {run.recipe.model!r} as it is now; has its code changed?",
        {path: leaf.shape for path, leaf in wanted.items()},
        flatten_dict(run.variables, sep="/"),
    )


def _pictures(name: str, meta: dict[str, Any], model: nn.Module) -> data.Dataset:
    """What a model of pictures needs to know of its data, without the pictures."""
    reader = data.ImageReader.of(**meta["preprocessing"])
    classes = tuple(meta["classes"]) or tuple(map(str, range(getattr(model, "num_classes", 0))))
    spec = data.Spec({"image": data.Field(reader.shape, "float32"), "label": data.Field((), "int32")}, classes)
    return data.Dataset(name, spec, {}, reader.preprocess, image_shape=reader.shape, reader=reader)


def _lines(name: str, meta: dict[str, Any]) -> data.Dataset:
    """What a model of a table needs to know of its data, without the table."""
    reader = data.TableReader.of(**meta["table"])
    told = {"label": data.Field((), "int32")} if reader.classes else {"target": data.Field((1,), "float32")}
    spec = data.Spec({"features": data.Field(reader.shape, "float32"), **told}, reader.classes)
    return data.Dataset(name, spec, {}, reader.preprocess, reader=reader)


def _texts(name: str, meta: dict[str, Any]) -> data.Dataset:
    """What a classifier of texts needs to know of its data, without the texts."""
    reader = data.TextReader.of(**meta["texts"])
    fields = {"tokens": data.Field(reader.shape, "int32"), "label": data.Field((), "int32")}
    spec = data.Spec(fields, tuple(meta["classes"]), reader.vocabulary)
    return data.Dataset(name, spec, {}, lambda batch: batch, reader=reader)


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run.

    Raises:
      ValueError: the folder is no run.
    """
    path = folder / "recipe.json"
    if not path.is_file():
        if not folder.exists():
            raise ValueError(f"there is no run folder {folder}{_advice(folder)}")
        advice = "; the run comes first: zoo predict RUN FILE…" if folder.is_file() else ""
        raise ValueError(f"{folder} is not a run folder: it has no recipe.json, which `zoo train` writes{advice}")
    try:
        return from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _advice(folder: Path) -> str:
    """What to do where there is no such run."""
    here = Path("runs") / folder
    if (here / "recipe.json").is_file():
        return f"; did you mean {here}?"
    shipped = ""
    if near := difflib.get_close_matches(folder.name, shipped_models(), 1):
        own = near[0] == folder.name
        shipped = f"; {near[0]} ships with the zoo" if own else f"; of the models that ship, nearest is {near[0]}"
    return (f"; `zoo train {folder.name}` makes it" if folder.name in list_recipes() else "") + shipped


def classes_of(run: Run) -> tuple[str, ...]:
    """The names of a classifier's classes.

    Raises:
      ValueError: the run is no classifier.
    """
    if not is_classifier(run):
        raise ValueError(f"this run is no classifier, but does {run.recipe.task}")
    return run.dataset.spec.classes


def is_classifier(run: Run) -> bool:
    """Whether a run's model tells classes: its task does so, or is a user's own, and its data have classes."""
    own = source_of(TASKS[run.recipe.task], "task") is not None
    return bool(run.dataset.spec.classes) and (own or run.recipe.task in CLASSIFIERS)
