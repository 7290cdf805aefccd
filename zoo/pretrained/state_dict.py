"""Variables of our models from state dicts of PyTorch, and back. PyTorch itself is needed for its own files alone.

For each family and each foreign layout there is one rule, which says where a variable lies. Loading, saving and all
checks derive from it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from zoo.checkpoint import require_variables
from zoo.loaded import Loaded
from zoo.pretrained import timm_layout, torchvision_layout
from zoo.pretrained.adapt import TRAINED_CHANNELS, adapt_input_channels, adapt_positions, input_kernels, square_side
from zoo.pretrained.place import Place, from_foreign, to_foreign
from zoo.pretrained.tensors import dense, faults_of, require_same_entries, without_prefixes
from zoo.registry import create_model, model_card
from zoo.summary import abstract_variables
from zoo.tensor_file import listed
from zoo.vision.vit import ViT

_LOG = logging.getLogger(__name__)

_HEAD = "head/"
_POSITIONS = "position_embedding"
_COUNTER = "num_batches_tracked"


def from_torch(
    name: str,
    state_dict: Mapping[str, Any],
    *,
    head: Literal["given", "new"] = "given",
    channels: int = TRAINED_CHANNELS,
    source: str = "the state dict",
    **overrides: Any,
) -> Loaded:
    """A model and its variables from a state dict of timm or torchvision, told by its keys.

        model, variables = from_torch("resnet18", torch_model.state_dict())

    Args:
      name: of a registered model.
      state_dict: tensors or arrays of any float type; they become float32 (or `param_dtype`). Prefixes of all keys such
        as "module." are taken off. Position embeddings of a ViT for another `image_size` are resampled.
      head: "given" takes the last layer from the state dict, which must have as many outputs as the model; "new" leaves
        it there, and the model's own, where it has one, starts at zero (Dosovitskiy et al. 2021, section 3.2).
      channels: of the images. A first convolution for three channels is adapted to others.
      source: what errors and warnings call the state dict.
      overrides: options of the model. What the weights demand need not be given: the `epsilon` of torchvision's norms,
        `num_classes` where the head is given (0 where there is none), and the `image_size` of a ViT.

    Raises:
      ValueError: no layout is known for the model, the keys resemble none, an option contradicts the weights, or
        entries are missing, unexpected, of another shape or no arrays; all of them are named.
    """
    model = create_model(name, **overrides)
    if head not in ("given", "new"):
        raise ValueError(f'head must be "given" or "new", not {head!r}')
    found = _entries(state_dict, source)
    images = (jax.ShapeDtypeStruct((1, *model_card(name).input_shape[:2], c), jnp.float32) for c in (channels, 3))
    image, usual_image = images
    layout = _layout(name, model, flatten_dict(abstract_variables(model, image), sep="/"), found, source)
    model = create_model(name, **overrides, **_demanded(name, layout, model, found, head, overrides, source))
    wanted: dict[str, Any] = flatten_dict(abstract_variables(model, image), sep="/")
    places = {path: _place(layout, model, path) for path in wanted}
    if head == "new":
        file_head = {_place(layout, model, f"params/{_HEAD}{leaf}").key for leaf in ("kernel", "bias")}
        found = {key: x for key, x in found.items() if key not in file_head}
        places = {path: place for path, place in places.items() if not path.startswith(f"params/{_HEAD}")}
    shapes = {places[path].key: _shape(wanted[path], places[path]) for path in places}
    if channels != TRAINED_CHANNELS:
        for path in input_kernels(wanted, flatten_dict(abstract_variables(model, usual_image), sep="/")):
            key = places[path].key
            if len(np.shape(found.get(key, ()))) == 4:
                found[key] = adapt_input_channels(dense(key, found[key]), channels, 1, f"{key} of {source}")
    if (path := f"params/{_POSITIONS}") in places and (key := places[path].key) in found:
        found[key] = adapt_positions(dense(key, found[key]), shapes[key])
    require_same_entries(
        f"{source} does not fit {name!r} with these options (is it for other num_classes or channels? "
        'head="new", --new-head on the command line, leaves its last layer out)',
        shapes,
        found,
    )
    stored = {key: dense(key, found[key]) for key in shapes}
    taken = {
        path: from_foreign(_part(stored[place.key], place), place, wanted[path].shape).astype(wanted[path].dtype)
        for path, place in places.items()
    }
    fresh = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in wanted.items() if path not in places}
    faults = faults_of(source, stored, taken, {path: place.key for path, place in places.items()})
    variables = {tuple(path.split("/")): jnp.asarray(array) for path, array in {**fresh, **taken}.items()}
    return Loaded(model, unflatten_dict(variables), faults=faults)


def _entries(state_dict: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What belongs to a model, under the names of today.

    Raises:
      ValueError: an entry has no name, or is no array.
    """
    kept = {key: x for key, x in state_dict.items() if not str(key).endswith(_COUNTER)}
    strange = [key for key, x in kept.items() if not isinstance(key, str) or not hasattr(x, "shape")]
    if strange:
        raise ValueError(f"{source} must be arrays by name, as model.state_dict() is; it has {listed(strange)}")
    return {torchvision_layout.modern(key): x for key, x in without_prefixes(kept).items()}


def _part(array: np.ndarray, place: Place) -> np.ndarray:
    index, count = place.part
    return array.reshape(count, -1, *array.shape[1:])[index] if count > 1 else array


def _demanded(
    name: str,
    layout: str,
    model: nn.Module,
    found: Mapping[str, Any],
    head: str,
    given: Mapping[str, Any],
    source: str,
) -> dict[str, Any]:
    """The options that the weights ask for and that are not given.

    Raises:
      ValueError: one that is given contradicts them.
    """
    options: dict[str, Any] = {}
    if layout == "torchvision" and (epsilon := torchvision_layout.EPSILON.get(name)):
        options["epsilon"] = epsilon
        if given.get("epsilon", epsilon) != epsilon:
            raise ValueError(
                f"torchvision's {name} normalises with ε = {epsilon}, not {given['epsilon']}: leave it out"
            )
    keys = [_place(layout, model, f"params/{_HEAD}{leaf}").key for leaf in ("bias", "kernel")]
    if head == "given" and "num_classes" not in given:
        if outputs := np.shape(found[keys[0]]) if keys[0] in found else ():
            options["num_classes"] = int(outputs[0])
        elif not any(key in found for key in keys):
            options["num_classes"] = 0
            _LOG.warning("%s has no last layer (%s): the model gives features", source, keys[1])
    if isinstance(model, ViT):
        positions = np.shape(found.get(_place(layout, model, f"params/{_POSITIONS}").key, ()))
        if side := square_side(positions):
            options["image_size"] = side * model.patch_size
    return {option: value for option, value in options.items() if option not in given}


def to_torch(name: str, variables: Mapping[str, Any], **overrides: Any) -> dict[str, np.ndarray]:
    """A state dict in timm's layout (torchvision's for `alexnet`, which timm lacks), as NumPy arrays.

    What is bfloat16 becomes float32, which holds the same numbers: `torch.from_numpy` knows no bfloat16.

    Args:
      name: of a registered model.
      variables: of `create_model(name, **overrides)`.
      overrides: options of the model, such as `num_classes`.

    Raises:
      ValueError: no layout is known for the model, or the variables are those of another.
    """
    model = create_model(name, **overrides)
    _require_family(name, model)
    require_variables(name, overrides, variables, sizes=False)  # a head of any size is written
    parts: dict[str, list[np.ndarray]] = {}
    for path, leaf in flatten_dict(dict(variables), sep="/").items():
        place = _place("timm", model, path)
        index, count = place.part
        parts.setdefault(place.key, [np.empty(0)] * count)[index] = to_foreign(_for_torch(leaf), place)
    # NumPy keeps the order of transposed arrays in memory; writers of files take it to be that of C.
    state = {key: np.ascontiguousarray(np.concatenate(arrays)) for key, arrays in parts.items()}
    counters = [key.replace("running_mean", _COUNTER) for key in state if key.endswith("running_mean")]
    return state | {key: np.zeros((), np.int64) for key in counters}


def _for_torch(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def layout_of(name: str, state_dict: Mapping[str, Any], *, source: str = "the state dict", **overrides: Any) -> str:
    """Whose layout a state dict for the model `name` is in: "timm" or "torchvision", the first where it is both's.

    Raises:
      ValueError: no layout is known for the model, or the keys resemble none.
    """
    model = create_model(name, **overrides)
    wanted = flatten_dict(abstract_variables(model, model_card(name).example()), sep="/")
    return _layout(name, model, wanted, _entries(state_dict, source), source)


_RULES = {"timm": timm_layout.RULES, "torchvision": torchvision_layout.RULES}


def _place(layout: str, model: nn.Module, path: str) -> Place:
    """Where the variable at "params/…" or "batch_stats/…" lies."""
    return _RULES[layout][type(model)](model, path.partition("/")[2])


def _layout(name: str, model: nn.Module, wanted: Mapping[str, Any], found: Mapping[str, Any], source: str) -> str:
    """The layout with most keys in common with the state dict, timm's where both have as many."""
    _require_family(name, model)
    keys = {layout: {_place(layout, model, path).key for path in wanted} for layout in _RULES}
    best = max(keys, key=lambda layout: len(keys[layout] & set(found)))
    if not keys[best] & set(found):
        samples = {layout: ", ".join(sorted(names)[:3]) for layout, names in keys.items()}
        raise ValueError(
            f"{source} is no state dict of {name!r}: its keys are such as {listed(sorted(found)[:3])}, "
            f"where timm has {samples['timm']} and torchvision {samples['torchvision']}"
        )
    return best


def _require_family(name: str, model: nn.Module) -> None:
    if type(model) not in timm_layout.RULES:
        families = ", ".join(sorted(family.__name__ for family in timm_layout.RULES))
        raise ValueError(f"no foreign weights are known for {name!r}; there are some for {families}")


def _shape(leaf: jax.ShapeDtypeStruct, place: Place) -> tuple[int, ...]:
    rows, *rest = jax.eval_shape(partial(to_foreign, place=place), leaf).shape
    return (rows * place.part[1], *rest)
