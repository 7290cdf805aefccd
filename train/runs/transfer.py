"""Transfer learning (guide, section 11): starting from given weights, and training some of the layers.

Feature extraction trains the head alone (`trained_layers=1`), fine-tuning the last layers, each part with a learning
rate of its own (`layer_rates`), full training everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

import zoo
from train.inference.loading import read_recipe
from train.inference.required_code import require_sources
from train.optim.freezing import Frozen, matches
from train.recipe import Recipe, list_recipes, options_of_data, pictures_of, tell_pictures
from zoo import pretrained
from zoo.checkpoint import CHECKPOINTS, saved_meta
from zoo.published import find, is_published
from zoo.registry import unknown
from zoo.summary import abstract_variables, layers

_OF_THE_TASK = ("num_classes", "dtype", "param_dtype")
"""Options of a model that do not come with its weights."""

_WORDS = ("vocabulary", "tokens", "lowercase")
"""How a text becomes tokens; how many of them a model sees is another's to say."""


def layer_order(model: nn.Module, x: Any) -> list[str]:
    """Paths of the modules that own parameters, in the order in which a model calls them on `x`.

    The model's own parameters, such as a class token, come first, under "".
    """
    owners = {path.rpartition("/")[0] for path in flatten_dict(abstract_variables(model, x)["params"], sep="/")}
    called = dict.fromkeys(layer.path for layer in layers(model, x) if layer.path in owners and layer.path)
    return ([""] if "" in owners else []) + list(called)


def named_layer_rates(model: nn.Module, x: Any, rates: Mapping[str, Any]) -> dict[str, Any]:
    """`layer_rates` in which `head` is the last layer, also of a model that calls it otherwise (LeNet-5's `output`)."""
    order = layer_order(model, x) if "head" in rates else []
    if not order or any(matches(path, "head") for path in order):
        return dict(rates)
    rate = rates.get(order[-1], rates["head"])  # what names the layer itself comes first
    return {order[-1] if pattern == "head" else pattern: each for pattern, each in rates.items()} | {order[-1]: rate}


def frozen_layers(
    model: nn.Module, x: Any, *, trained_layers: int | None = None, layer_rates: Mapping[str, float] | None = None
) -> Frozen | None:
    """Which parameters of a model a transfer leaves as they are; None for none of them.

    Args:
      model: the network.
      x: a batch, of which only the shape matters.
      trained_layers: only so many of the last layers are trained, in the order of execution. A layer is a module with
        parameters of its own: a convolution, a norm, a dense layer.
      layer_rates: learning rates by wildcard, see `train.optim.optimizers.optimizer`. A rate of 0 freezes, another one
        trains, whatever `trained_layers` says.

    Raises:
      ValueError: a number is out of range, a wildcard means no parameter, or nothing is left to train.
    """
    order = layer_order(model, x)
    rates = dict(layer_rates or {})
    paths = list(flatten_dict(abstract_variables(model, x)["params"], sep="/"))
    if trained_layers is not None and not 1 <= trained_layers <= len(order):
        raise ValueError(f"trained_layers must be from 1 to the {len(order)} layers of the model, not {trained_layers}")
    for pattern, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or rate < 0:
            raise ValueError(f"a learning rate in layer_rates must be at least 0, not {pattern}={rate!r}")
        if not any(matches(path, pattern) for path in paths):
            raise ValueError(unknown("layer in layer_rates", pattern, order))
    trained = set(order if trained_layers is None else order[-trained_layers:])

    def frozen(path: str) -> bool:
        rate = next((rate for pattern, rate in rates.items() if matches(path, pattern)), None)
        return path.rpartition("/")[0] not in trained if rate is None else rate == 0

    kept = [path for path in paths if frozen(path)]
    if len(kept) == len(paths):
        raise ValueError("trained_layers and layer_rates freeze every parameter; leave some to train")
    return frozen if kept else None


def start_variables(recipe: Recipe, model: nn.Module, x: Any) -> dict[str, Any] | None:
    """The variables that a recipe's training starts from, without the last layer where that is to be new.

    Args:
      recipe: its `weights` are a run, a folder of `zoo convert` or `zoo.save_model`, a model that ships with the zoo,
        or what `zoo.pretrained.load` takes.
      model: what the recipe trains.
      x: a batch, of which only the shape matters.

    Raises:
      ValueError: the weights do not fit the model; all that does not is named.
      FileNotFoundError: there are no such weights.
    """
    if recipe.weights is None:
        return None
    head = layer_order(model, x)[-1] if recipe.new_head else None
    if _is_saved(recipe.weights):
        found = zoo.load_model(recipe.weights).variables
    else:
        options = {name: value for name, value in recipe.model_options.items() if name not in _OF_THE_TASK}
        found = pretrained.load(
            recipe.model,
            recipe.weights,
            head="new" if recipe.new_head else "given",
            channels=x.shape[-1],
            num_classes=getattr(model, "num_classes", 0),
            **options,
            **{name: getattr(model, name) for name in ("image_size",) if hasattr(model, name) and name not in options},
        ).variables
    given: dict[str, Any] = flatten_dict(found, sep="/")
    wanted: dict[str, Any] = flatten_dict(abstract_variables(model, x), sep="/")
    if head is not None:
        given, wanted = (
            {path: leaf for path, leaf in tree.items() if not path.startswith(f"params/{head}/")}
            for tree in (given, wanted)
        )
    pretrained.require_same_entries(
        f"the weights {recipe.weights} do not fit {recipe.model!r} with these options",
        {path: leaf.shape for path, leaf in wanted.items()},
        given,
    )
    return unflatten_dict(given, sep="/")


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with what its weights bring along: options of the model, and how pictures or texts are read.

    Of pictures that is for a folder of them, of texts for data sets with an option `vocabulary`: what a token stands
    for, and how texts are cut into tokens.

    What the recipe says itself stays.

    Raises:
      ValueError: the weights are those of another model.
      FileNotFoundError: there are no such weights.
    """
    words: dict[str, Any] = {}
    if recipe.weights is None:
        if not recipe.model:
            raise ValueError(
                "this recipe starts from given weights: say which, weights=runs/NAME or a folder of `zoo convert`, or "
                "a file and its model, weights=FILE model=NAME"
            )
        return recipe
    if _is_saved(recipe.weights):
        meta = saved_meta(recipe.weights)
        require_sources(recipe.weights, meta)
        if not recipe.model:
            recipe = replace(recipe, model=meta["model"])
        if meta["model"] != recipe.model:
            raise ValueError(f"the weights {recipe.weights} are those of {meta['model']!r}, not of {recipe.model!r}")
        options = meta["model_options"]
        preparation = meta.get("preprocessing") or pictures_of(meta["model"])
        why = _why(str(recipe.weights), meta)
        if "texts" in meta and "vocabulary" in options_of_data(recipe.data):
            words = {name: meta["texts"][name] for name in _WORDS}
    else:
        _require_weights(recipe)
        if not recipe.model:
            raise ValueError(f"which model are the weights {recipe.weights} for? Say model=NAME, of `zoo list`")
        source = pretrained.describe(recipe.model, recipe.weights)
        options, why = source.model_options, f"as for the weights {recipe.weights}"
        preparation = source.preprocessing._asdict() if source.preprocessing else {}
    options = {name: value for name, value in options.items() if name not in _OF_THE_TASK}
    if not recipe.data.startswith("folder:"):
        preparation = {}
    elif preparation and "image_size" not in recipe.data_options:
        tell_pictures({**preparation, **recipe.data_options}, why)
    return replace(
        recipe,
        model_options={**options, **recipe.model_options},
        data_options={**preparation, **words, **recipe.data_options},
    )


def _why(weights: str, meta: Mapping[str, Any]) -> str:
    """Why pictures are read so; and that the weights saw others, where theirs were in no folder."""
    folder = find(weights)
    if meta.get("preprocessing") or not (folder / "recipe.json").is_file():
        return f"as for the weights {weights}"
    return (
        f"the size that {meta['model']} is made for; what else was done to {read_recipe(folder).data}, which the "
        f"weights {weights} know, such as standardizing, or turning dark strokes light, is not done to them"
    )


def _require_weights(recipe: Recipe) -> None:
    """Refuses weights that are neither here nor on the hub of Hugging Face."""
    path = Path(str(recipe.weights))
    of_a_run = path.parent.name == "runs" or path.is_absolute() or str(path).startswith(".")
    if path.exists() or not (of_a_run or not recipe.model):
        return
    if path.name in list_recipes():
        advice = f"train it first (zoo train {path.name}), or say which: weights=…"
    elif (known := pretrained.KNOWN.get(str(recipe.weights))) is not None:
        advice = f"those on the hub are weights={known.source} model={recipe.weights}"
    else:
        advice = "of weights by name on the hub say which model they are for: model=NAME"
    raise FileNotFoundError(f"there is no file or folder {path.absolute()}; {advice}")


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with the data and weights that are here by their whole path: a run is used from anywhere."""
    kind, colon, path = recipe.data.partition(":")
    if colon and Path(path).expanduser().exists():
        recipe = replace(recipe, data=f"{kind}:{Path(path).expanduser().resolve()}")
    if recipe.weights and Path(recipe.weights).exists():
        recipe = replace(recipe, weights=str(Path(recipe.weights).resolve()))
    return recipe


def _is_saved(weights: str) -> bool:
    """Whether these are weights of ours: of a run, of a model alone, of one that ships, or of one on the hub."""
    folder = find(weights)
    return is_published(folder) or any((folder / inside).is_dir() for inside in (CHECKPOINTS, "meta"))
