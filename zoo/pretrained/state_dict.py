"""Variables of our models from state dicts of PyTorch, and back. PyTorch itself is needed for its own files alone.

For each family and each foreign layout there is one rule, which says where a variable lies. Loading, saving and all
checks derive from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax.traverse_util import flatten_dict, unflatten_dict

from zoo.checkpoint import Loaded, require_variables
from zoo.pretrained import timm, torchvision
from zoo.pretrained.place import Place, from_foreign, to_foreign
from zoo.registry import create_model, model_card
from zoo.summary import abstract_variables

_HEAD = "head/"
_COUNTER = "num_batches_tracked"

_SHOWN = 20
"""The most entries that an error lists of each kind."""


def from_torch(
    name: str,
    state_dict: Mapping[str, Any],
    *,
    head: Literal["given", "new"] = "given",
    channels: int = 3,
    **overrides: Any,
) -> Loaded:
    """A model and its variables from a state dict of timm or torchvision, told by its keys.

        model, variables = from_torch("resnet18", torch_model.state_dict())

    Args:
      name: of a registered model.
      state_dict: tensors or arrays of any float type; they become float32 (or `param_dtype`).
      head: "given" takes the last layer from the state dict, which must have as many outputs as the model; "new" leaves
        it there, and the model's own, where it has one, starts at zero (Dosovitskiy et al. 2021, section 3.2).
      channels: of the images.
      overrides: options of the model. What the weights demand need not be given: the `epsilon` of torchvision's norms,
        and `num_classes` where the head is given.

    Raises:
      ValueError: no layout is known for the model, the keys resemble none, an option contradicts the weights, or
        entries are missing, unexpected or of another shape; all of them are named.
    """
    model = create_model(name, **overrides)
    if head not in ("given", "new"):
        raise ValueError(f'head must be "given" or "new", not {head!r}')
    found = {torchvision.modern(key): x for key, x in state_dict.items() if not key.endswith(_COUNTER)}
    image = jax.ShapeDtypeStruct((1, *model_card(name).input_shape[:2], channels), jnp.float32)
    layout = _layout(name, model, flatten_dict(abstract_variables(model, image), sep="/"), found)
    model = create_model(name, **overrides, **_demanded(name, layout, model, found, head, overrides))
    wanted: dict[str, Any] = flatten_dict(abstract_variables(model, image), sep="/")
    places = {path: _place(layout, model, path) for path in wanted}
    if head == "new":
        file_head = {_place(layout, model, f"params/{_HEAD}{leaf}").key for leaf in ("kernel", "bias")}
        found = {key: x for key, x in found.items() if key not in file_head}
        places = {path: place for path, place in places.items() if not path.startswith(f"params/{_HEAD}")}
    require_same_entries(
        f"the state dict does not fit {name!r} with these options (is it for other num_classes or channels? "
        'head="new", --new-head on the command line, leaves its last layer out)',
        {places[path].key: _shape(wanted[path], places[path]) for path in places},
        found,
    )
    variables = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in wanted.items() if path not in places}
    for path, place in places.items():
        array = _numpy(found[place.key])
        index, count = place.part
        part = array.reshape(count, -1, *array.shape[1:])[index] if count > 1 else array
        variables[path] = from_foreign(part, place, wanted[path].shape).astype(wanted[path].dtype)
    return Loaded(
        model, unflatten_dict({tuple(path.split("/")): jnp.asarray(array) for path, array in variables.items()})
    )


def _demanded(
    name: str, layout: str, model: nn.Module, found: Mapping[str, Any], head: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The options that the weights ask for and that are not given.

    Raises:
      ValueError: one that is given contradicts them.
    """
    options: dict[str, Any] = {}
    if layout == "torchvision" and (epsilon := torchvision.EPSILON.get(name)):
        options["epsilon"] = epsilon
        if given.get("epsilon", epsilon) != epsilon:
            raise ValueError(
                f"torchvision's {name} normalises with ε = {epsilon}, not {given['epsilon']}: leave it out"
            )
    outputs = found.get(_place(layout, model, f"params/{_HEAD}bias").key)
    if head == "given" and outputs is not None and hasattr(model, "num_classes"):
        options["num_classes"] = int(np.shape(outputs)[0])
    return {option: value for option, value in options.items() if option not in given}


def to_torch(name: str, variables: Mapping[str, Any], **overrides: Any) -> dict[str, np.ndarray]:
    """A state dict in timm's layout (torchvision's for `alexnet`, which timm lacks), as NumPy arrays.

    Args:
      name: of a registered model.
      variables: of `create_model(name, **overrides)`.
      overrides: options of the model, such as `num_classes`.

    Raises:
      ValueError: no layout is known for the model, or the variables are those of another.
    """
    model = create_model(name, **overrides)
    _require_family(name, model)
    require_variables(name, overrides, variables)
    parts: dict[str, list[np.ndarray]] = {}
    for path, leaf in flatten_dict(dict(variables), sep="/").items():
        place = _place("timm", model, path)
        index, count = place.part
        parts.setdefault(place.key, [np.empty(0)] * count)[index] = to_foreign(np.asarray(leaf), place)
    # NumPy keeps the order of transposed arrays in memory; writers of files take it to be that of C.
    state = {key: np.ascontiguousarray(np.concatenate(arrays)) for key, arrays in parts.items()}
    counters = [key.replace("running_mean", _COUNTER) for key in state if key.endswith("running_mean")]
    return state | {key: np.zeros((), np.int64) for key in counters}


def layout_of(name: str, state_dict: Mapping[str, Any], **overrides: Any) -> str:
    """Whose layout a state dict for the model `name` is in: "timm" or "torchvision", the first where it is both's.

    Raises:
      ValueError: no layout is known for the model, or the keys resemble none.
    """
    model = create_model(name, **overrides)
    wanted = flatten_dict(abstract_variables(model, model_card(name).example()), sep="/")
    return _layout(name, model, wanted, {torchvision.modern(key): x for key, x in state_dict.items()})


def read_state_dict(file: Path) -> dict[str, Any]:
    """The tensors of a `.safetensors` file, or of one that `torch.save` wrote (never unpickling more than tensors).

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: a file of PyTorch's needs PyTorch.
      ValueError: the file holds no state dict.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file; expected .safetensors or a file written by torch.save")
    return read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)


_RULES = {"timm": timm.RULES, "torchvision": torchvision.RULES}


def _place(layout: str, model: nn.Module, path: str) -> Place:
    """Where the variable at "params/…" or "batch_stats/…" lies."""
    return _RULES[layout][type(model)](model, path.partition("/")[2])


def _layout(name: str, model: nn.Module, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The layout with most keys in common with the state dict, timm's where both have as many."""
    _require_family(name, model)
    keys = {layout: {_place(layout, model, path).key for path in wanted} for layout in _RULES}
    best = max(keys, key=lambda layout: len(keys[layout] & set(found)))
    if not keys[best] & set(found):
        samples = {layout: ", ".join(sorted(names)[:3]) for layout, names in keys.items()}
        raise ValueError(
            f"this is no state dict of {name!r}: its keys are such as {', '.join(sorted(found)[:3]) or '(none)'}, "
            f"where timm has {samples['timm']} and torchvision {samples['torchvision']}"
        )
    return best


def _require_family(name: str, model: nn.Module) -> None:
    if type(model) not in timm.RULES:
        families = ", ".join(sorted(family.__name__ for family in timm.RULES))
        raise ValueError(f"no foreign weights are known for {name!r}; there are some for {families}")


def _shape(leaf: jax.ShapeDtypeStruct, place: Place) -> tuple[int, ...]:
    rows, *rest = jax.eval_shape(partial(to_foreign, place=place), leaf).shape
    return (rows * place.part[1], *rest)


def require_same_entries(problem: str, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, Any]) -> None:
    """Refuses arrays by name that are not those wanted.

    Raises:
      ValueError: says the `problem`, and names what is missing, unexpected or of another shape, up to 20 of each.
    """
    shapes = {key: tuple(np.shape(x)) for key, x in found.items()}
    missing = [f"{key} {list(shape)}" for key, shape in wanted.items() if key not in shapes]
    unexpected = [f"{key} {list(shape)}" for key, shape in shapes.items() if key not in wanted]
    misshapen = [
        f"{key} {list(shapes[key])}, not {list(shape)}"
        for key, shape in wanted.items()
        if shapes.get(key, shape) != shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(problems.values()):
        lines = []
        for kind, entries in problems.items():
            lines += [f"\n  {kind}: {entry}" for entry in sorted(entries)[:_SHOWN]]
            if len(entries) > _SHOWN:
                lines.append(f"\n  {kind}: … and {len(entries) - _SHOWN} more")
        raise ValueError(f"{problem}:{''.join(lines)}")


def _numpy(tensor: Any) -> np.ndarray:
    """NumPy has no bfloat16, so tensors of PyTorch go through float32."""
    return np.asarray(tensor.detach().cpu().float() if hasattr(tensor, "detach") else tensor)


_SAFETENSORS = {"BF16": jnp.bfloat16, "F16": np.float16, "F32": np.float32, "F64": np.float64, "I64": np.int64}


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name.

    Raises:
      ValueError: it is no such file, or holds other types than weights have.
    """
    # The reader of safetensors for NumPy knows no bfloat16, its parser does.
    try:
        entries = safetensors.deserialize(file.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is no safetensors file: {error}") from None
    unknown = sorted({entry["dtype"] for _, entry in entries} - set(_SAFETENSORS))
    if unknown:
        raise ValueError(f"{file} holds tensors of type {', '.join(unknown)}; weights are {', '.join(_SAFETENSORS)}")
    return {
        key: np.frombuffer(entry["data"], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
        for key, entry in entries
    }


def _read_torch(file: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        raise ImportError(f"reading {file} needs PyTorch (pip install torch); a .safetensors file does not") from None
    try:
        state_dict = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler meets first
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file} is no file of tensors that torch.load(weights_only=True) reads: {reason}") from None
    if not isinstance(state_dict, dict) or not all(hasattr(tensor, "shape") for tensor in state_dict.values()):
        inside = ", ".join(map(str, state_dict)) if isinstance(state_dict, dict) else type(state_dict).__name__
        raise ValueError(f"{file} holds no state dict but {inside}; give its tensors to from_torch")
    return state_dict
