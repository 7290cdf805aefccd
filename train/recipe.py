"""Recipes: everything that makes a training run what it is, as plain data."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import logging
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import data
from data.registry import dataset_builder, hold_out
from train.settings import literal
from train.user_code import import_code
from zoo.checkpoint import plain
from zoo.options import COUNT, POSITIVE, Range, check_options, in_words
from zoo.registry import list_models, load_installed, model_card, unknown

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Names model, data, task, optimizer, schedule and length of a run; a run folder keeps it as JSON.

    Attributes:
      model: a name of `zoo.list_models()`; "" for that of the `weights`.
      data: a name that `data.load` takes.
      task: a name of `train.tasks.TASKS`.
      batch_size: examples in a step, over all devices and processes.
      epochs: passes over the training data.
      optimizer: a name of `train.optimizers.optimizer`.
      learning_rate: the highest one.
      schedule: a name of `train.schedules.schedule`.
      model_options: for `zoo.create_model`. `num_classes` is that of the data unless it is given here.
      data_options: for `data.load`.
      class_weight: what a mistake on each class costs in training, for the task classification: "balanced", by which
        rare classes weigh more; a list of numbers; or numbers by class. See `train.class_weights.class_weights`.
      task_options: for the task, such as `label_smoothing` or `ema_decay`.
      optimizer_options: for the optimizer, such as `weight_decay`, `clip_norm`, `accumulate_steps`.
      schedule_options: for the schedule, such as `warmup_steps`.
      plateau_options: of `train.plateau.Plateau`, which lowers the learning rate when evaluations get no better, such
        as `patience`; none for no such lowering.
      augmentation: a name of `data.augment.POLICIES`: how training images are changed at random.
      augmentation_options: of `data.augment.Policy`, over those of the named one.
      weights: what training starts from: a run, a folder of `zoo convert`, a model that ships with the zoo, or a file
        or name that `zoo.pretrained.load` takes; None for random weights.
      new_head: whether the last layer starts anew, and does not come from the weights.
      trained_layers: how many of the last layers are trained; None for all, 1 for the head alone.
      layer_rates: learning rates by wildcard, such as `{"head": 1e-3, "stage4_*": 1e-5, "*": 0}`; 0 freezes. `head` is
        the last layer, whatever a model calls it.
      validation: share (or number) of the training examples that are held out to watch the training, where the data
        have no validation split of their own.
      monitor: the column of the history by which the best checkpoint is chosen and training is stopped.
      patience: evaluations without improvement after which training stops; None for never.
      precision: "float32", "bfloat16" or "float16" (with dynamic loss scaling): what the model computes in.
      plan: "jit", "pmap" or "fsdp".
      seed: of parameters, dropout and the order of the data.
      evaluate_every: steps between evaluations; None for an epoch.
      checkpoint_every: evaluations between checkpoints; the best and the last are always kept.
      keep: how many of the last checkpoints are kept beside the best.
      steps_per_dispatch: see `train.loop.fit`.
      observe_every: evaluations between those at which TensorBoard is told what each layer does: activations, weights,
        gradients, dead units, the ratio of update to weights. None for never.
    """

    model: str
    data: str
    task: str = "classification"
    class_weight: str | list | dict | None = None
    batch_size: int = 32
    epochs: float = 10.0
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    model_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    data_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    task_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    optimizer_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    schedule_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    plateau_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    augmentation: str = "none"
    augmentation_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: str | None = None
    new_head: bool = True
    trained_layers: int | None = None
    layer_rates: dict[str, Any] = dataclasses.field(default_factory=dict)
    validation: float | int = 0.1
    monitor: str = "validation_accuracy"
    patience: int | None = None
    precision: str = "float32"
    plan: str = "jit"
    seed: int = 0
    evaluate_every: int | None = None
    checkpoint_every: int = 1
    keep: int = 2
    steps_per_dispatch: int | None = None
    observe_every: int | None = None

    def to_json(self) -> str:
        """All fields, as a run folder keeps them."""
        fields = dataclasses.asdict(self)
        options = {name: plain(value) for name, value in fields.items() if isinstance(value, dict)}
        return json.dumps({**fields, **options}, indent=2)


_recipes: dict[str, Callable[[], Recipe]] = {}


def recipe(function: Callable[[], Recipe]) -> Callable[[], Recipe]:
    """Decorator that enters a recipe under the name of the function that makes it; its docstring is its card.

    The function takes no arguments:

        @recipe
        def my_digits() -> Recipe:
            '''What it trains, how long it takes, what it reached.'''
            return Recipe(model="mlp", data="digits")
    """
    name = function.__name__
    if name in _recipes:
        raise ValueError(f"a recipe named {name!r} exists already; choose another name")
    _recipes[name] = function
    return function


def list_recipes() -> list[str]:
    """Names of all recipes, sorted."""
    load_recipes()
    return sorted(_recipes)


def recipe_name(reference: str) -> str:
    """The name of a recipe that is given by name, as a file, or as `MODULE:NAME` or `FILE:NAME`, which is imported.

    Raises:
      ValueError: there is none of this name, and the nearest are listed; or the file has none, or several.
      FileNotFoundError, ImportError: as `train.user_code.import_code`.
    """
    code, colon, name = ("", "", reference)
    if reference.endswith(".py"):
        code, name = reference, ""
    elif ":" in reference:
        code, colon, name = reference.rpartition(":")
    elif "." in reference:
        code, name = reference, ""
    if not code:
        if name not in _recipes:
            load_recipes()
        if name not in _recipes:
            raise ValueError(f"{unknown('recipe', name, _recipes)}; {_own(name)}")
        return name
    module = import_code(code)
    here = [each for each, function in _recipes.items() if getattr(module, each, None) is function]
    if not here:
        raise ValueError(
            f"{code} defines no recipe; put @recipe, of train.recipe, above a function that returns a Recipe"
        )
    if colon and name not in here:
        raise ValueError(unknown(f"recipe in {code}", name, here))
    if not colon and len(here) > 1:
        raise ValueError(f"{code} defines several recipes; choose one, such as {code}:{here[0]}: {', '.join(here)}")
    return name if colon else here[0]


def load_recipes() -> None:
    """Imports the recipes of the zoo, which import this module, and those of installed packages."""
    importlib.import_module("train.recipes")
    load_installed()


def _own(name: str) -> str:
    """How something of a user's own is made known."""
    if Path(name, "recipe.json").is_file():
        return f"{name} is a run: --run {name} --resume"
    if Path(f"{name}.py").is_file():
        return f"there is a file {name}.py: give it with its ending"
    return "one of your own is given as FILE.py, or made known by --import FILE.py"


def get_recipe(reference: str) -> Recipe:
    """A recipe by name, file, or `MODULE:NAME`; see `recipe_name`.

    Raises:
      ValueError: there is none; the nearest are listed.
    """
    name = recipe_name(reference)
    try:
        made = _recipes[name]()
    except TypeError as error:
        raise ValueError(f"the recipe {name!r} cannot be made: {error}") from error
    if not isinstance(made, Recipe):
        raise ValueError(f"the recipe {name!r} must return a Recipe, not {type(made).__name__}")
    return made


def describe_recipe(reference: str) -> str:
    """The docstring of a recipe: command, time on a CPU, metric reached."""
    return inspect.getdoc(_recipes[recipe_name(reference)]) or ""


def load_data(recipe: Recipe) -> data.Dataset:
    """The data set of a recipe, its validation split held out.

    Raises:
      ValueError: there is no such data set, or an option is wrong.
      FileNotFoundError: its file or folder is not there.
    """
    builder = dataset_builder(recipe.data)
    elsewhere = {name: f"set {name}=… of the recipe" for name in ("seed", "validation")}
    for name in recipe.data_options.keys() & elsewhere.keys():
        raise ValueError(f"{name} is no option of data set {recipe.data!r}: {elsewhere[name]}")
    if builder is not None:
        check_options(
            builder, recipe.data_options, f"data set {recipe.data!r}", elsewhere={"path": "it is in the name"}
        )
    try:
        dataset = data.load(recipe.data, seed=recipe.seed, **recipe.data_options)
    except FileNotFoundError as error:
        kind, colon, _ = recipe.data.partition(":")
        if not colon:
            raise
        raise FileNotFoundError(f"{error}; put it there, or train on yours: data={kind}:PATH") from None
    if not recipe.validation or "validation" in dataset.splits:
        return dataset
    return hold_out(dataset, recipe.validation, recipe.seed)


def override(base: Recipe, settings: Sequence[str]) -> Recipe:
    """A recipe with fields replaced by `NAME=VALUE` settings, such as `epochs=3` or `model_options.dropout_rate=0.2`.

    Values are Python literals (numbers, True, None, lists, "strings"); anything else is a string. Those of options that
    take values by name have one more: `optimizer_options.weight_decay.head=0.01`.

    Raises:
      ValueError: a setting has no `=`, names no field (the nearest are listed) or gives a value of the wrong type.
    """
    hints = typing.get_type_hints(Recipe)
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"a setting has the form NAME=VALUE, such as epochs=3; not {setting!r}")
        field, _, option = name.partition(".")
        if field not in hints:
            raise ValueError(_unknown_field(base, name, text))
        value = literal(text)
        if option and hints[field] == dict[str, Any]:
            option, _, inner = (option, "", "") if field == "layer_rates" else option.partition(".")
            group = getattr(base, field)
            before = group.get(option)
            value = {
                **group,
                option: {**(before if isinstance(before, dict) else {}), inner: value} if inner else value,
            }
        elif option:
            raise ValueError(f"{field} is not a group of options; set it as {field}={text}")
        elif hints[field] == dict[str, Any] and not isinstance(value, dict):
            raise ValueError(f"{field} holds options by name: set {field}.NAME=VALUE, or {field}={{}} for none")
        if field == "data":
            base = _for_other_data(base, str(value))
        base = dataclasses.replace(base, **{field: _typed(field, value, hints[field])})
    return _in_a_size(base) if any(setting.startswith("data=") for setting in settings) else base


def _unknown_field(base: Recipe, name: str, text: str) -> str:
    """What is wrong with a setting that names no field, and how an option of this name is set."""
    hints = typing.get_type_hints(Recipe)
    groups = {"data_options": options_of_data(base.data), "model_options": ()}
    if base.model in list_models():
        groups["model_options"] = tuple(model_card(base.model).options)
    for group, options in groups.items():
        if name in options:
            return f"{name} is an option: set {group}.{name}={text}"
    return (
        f"{unknown('field of a recipe', name.partition('.')[0], hints)}; an option stands behind its group, such as "
        f"data_options.{name}, optimizer_options.{name} or schedule_options.{name}"
    )


def options_of_data(name: str) -> tuple[str, ...]:
    """The options of a data set, for `data_options`; none where there is no such data set."""
    builder = dataset_builder(name)
    parameters = inspect.signature(builder).parameters.values() if builder is not None else ()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def _for_other_data(base: Recipe, name: str) -> Recipe:
    """The recipe without the options of its data that another data set does not have."""
    if name.partition(":")[0] == base.data.partition(":")[0] or dataset_builder(name) is None:
        return base
    known = options_of_data(name)
    left_out = [f"{option}={value}" for option, value in base.data_options.items() if option not in known]
    if left_out:
        _LOG.warning("of the recipe's data_options %s is left out: %s has no such option", ", ".join(left_out), name)
    return dataclasses.replace(base, data_options={n: v for n, v in base.data_options.items() if n in known})


def pictures_of(model: str) -> dict[str, Any]:
    """Options of a folder of pictures for what a model is made for, 32×32 in grey for LeNet-5; none for no pictures."""
    shape = model_card(model).input_shape
    return {"image_size": list(shape[:2]), "channels": shape[2]} if len(shape) == 3 else {}


def _in_a_size(base: Recipe) -> Recipe:
    """Of a folder of pictures the size is that of the model, where nothing else says it; and it is told."""
    if not base.data.startswith("folder:") or "image_size" in base.data_options or base.weights or not base.model:
        return base
    options = {**(pictures_of(base.model) if base.model in list_models() else {}), **base.data_options}
    why = f"the size that {base.model} is made for" if "image_size" in options else "the default"
    tell_pictures(options, f"{why}; data_options.image_size=… and data_options.channels=… take others")
    return dataclasses.replace(base, data_options=options)


def tell_pictures(options: Mapping[str, Any], why: str) -> None:
    """Says in which size and colours the pictures of a folder are read."""
    sizes = {name: options[name] for name in ("image_size", "channels") if name in options}
    height, width, channels = data.ImageReader.of(**sizes).shape
    _LOG.warning("pictures are read as %d×%d in %s, %s", height, width, "grey" if channels == 1 else "colours", why)


def from_json(text: str) -> Recipe:
    """The inverse of `Recipe.to_json`.

    Raises:
      ValueError: the text is no recipe; says which fields are unknown, missing or of the wrong type.
    """
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    hints = typing.get_type_hints(Recipe)
    if not isinstance(fields, dict) or not {"model", "data"} <= set(fields):
        raise ValueError("a recipe names at least a model and data")
    for field in fields:
        if field not in hints:
            raise ValueError(unknown("field of a recipe", field, hints))
    return Recipe(**{field: _typed(field, value, hints[field]) for field, value in fields.items()})


_RANGES = {
    "batch_size": COUNT,
    "epochs": POSITIVE,
    "learning_rate": Range(0),
    "validation": Range(0),
    "trained_layers": COUNT,
    "patience": COUNT,
    "seed": Range(0, 2**32 - 1),
    "evaluate_every": COUNT,
    "checkpoint_every": COUNT,
    "keep": COUNT,
    "steps_per_dispatch": COUNT,
    "observe_every": COUNT,
}


def require_ranges(recipe: Recipe) -> None:
    """Refuses numbers that no training can have.

    Raises:
      ValueError: names the field, its value and what it may be.
    """
    for field, allowed in _RANGES.items():
        value = getattr(recipe, field)
        if value is not None and (value not in allowed or value == float("inf")):
            raise ValueError(f"{field} must be {allowed}, not {value}")


def differences(old: Recipe, new: Recipe) -> list[str]:
    """The fields in which two recipes differ, as `name: old → new`, sorted."""
    before, after = json.loads(old.to_json()), json.loads(new.to_json())
    return sorted(f"{name}: {before[name]} → {after[name]}" for name in before if before[name] != after[name])


def _typed(field: str, value: Any, hint: Any) -> Any:
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (typing.get_origin(hint) or hint,)
    if float in allowed and int not in allowed and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{field} must be finite, not a number of {len(str(value))} digits") from None
    if type(value) not in allowed:
        raise ValueError(f"{field} must be {in_words(hint)}, not {value!r}")
    return value
