"""Arrays by name, of safetensors and PyTorch. What a file says of itself is checked before it is believed."""

from __future__ import annotations

import io
import logging
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from zoo.tensor_file import SHOWN, listed, printable, read_safetensors

_LOG = logging.getLogger(__name__)


def require_same_entries(problem: str, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, Any]) -> None:
    """Refuses arrays by name that are not those wanted.

    Raises:
      ValueError: says the `problem`, and names what is missing, unexpected or of another shape, up to 20 of each.
    """
    shapes = {key: tuple(np.shape(x)) for key, x in found.items()}
    missing = [f"{printable(key)} {list(shape)}" for key, shape in wanted.items() if key not in shapes]
    unexpected = [f"{printable(key)} {list(shape)}" for key, shape in shapes.items() if key not in wanted]
    misshapen = [
        f"{printable(key)} {list(shapes[key])}, not {list(shape)}"
        for key, shape in wanted.items()
        if shapes.get(key, shape) != shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(problems.values()):
        lines = []
        for kind, entries in problems.items():
            lines += [f"\n  {kind}: {entry}" for entry in sorted(entries)[:SHOWN]]
            if len(entries) > SHOWN:
                lines.append(f"\n  {kind}: … and {len(entries) - SHOWN} more")
        raise ValueError(f"{problem}:{''.join(lines)}")


def faults_of(
    source: object, stored: Mapping[str, np.ndarray], taken: Mapping[str, np.ndarray], names: Mapping[str, str]
) -> tuple[str, ...]:
    """What no trained weights are like: integers, NaN, infinity, negative variances. Each is logged.

    Args:
      source: what warnings call the file.
      stored: the arrays of a file that were taken, by their names there.
      taken: our variables, by their paths.
      names: those in the file, by these paths.
    """
    broken = [names[path] for path, array in taken.items() if not np.isfinite(array).all()]
    negative = [names[path] for path, array in taken.items() if path.endswith("/var") and (array < 0).any()]
    kinds = {
        "integers where floats belong": [key for key, array in stored.items() if array.dtype.kind in "biu"],
        "NaN or infinity": list(dict.fromkeys(broken)),
        "negative variances": list(dict.fromkeys(negative)),
    }
    faults = tuple(f"{kind} in {listed(keys, 5)}" for kind, keys in kinds.items() if keys)
    for fault in faults:
        _LOG.warning("%s has %s", source, fault)
    return faults


def without_prefixes(state: Mapping[str, Any]) -> dict[str, Any]:
    """The entries without what wrappers of a model put in front of all their names."""
    prefixes = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, and trainers
    while prefix := next((p for p in prefixes if state and all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return dict(state)


def dense(key: str, tensor: Any) -> np.ndarray:
    """An entry of a state dict as an array. NumPy has no bfloat16, so tensors of PyTorch go through float32.

    Raises:
      ValueError: it is no array of real numbers that is stored element by element; names it.
    """
    if hasattr(tensor, "detach"):
        kind = str(getattr(tensor, "layout", "torch.strided")).removeprefix("torch.")
        kind = "quantized" if tensor.is_quantized else "without values" if tensor.is_meta else kind
        if kind != "strided":
            raise ValueError(
                f"the entry {printable(key)} is a {kind} tensor; weights are dense: save tensor.to_dense()"
            )
        stored = tensor.untyped_storage().nbytes()
        if tensor.numel() * tensor.element_size() > stored:
            raise ValueError(
                f"the entry {printable(key)} has the shape {list(tensor.shape)}, and {stored} bytes are stored of it; "
                "save tensor.contiguous()"
            )
        tensor = tensor.detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
    array = np.asarray(tensor)
    if array.dtype.kind not in "biuf" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"the entry {printable(key)} is of type {array.dtype}; weights are arrays of floats")
    return array


def read_state_dict(file: Path, entry: str | None = None) -> dict[str, Any]:
    """The tensors of a `.safetensors` file, or of one that `torch.save` wrote (never unpickling more than tensors).

    Args:
      file: where they are.
      entry: the name of the weights in a checkpoint that holds more, such as "state_dict" or "model_ema". It may be
        left out where there is one state dict.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: a file of PyTorch's needs PyTorch.
      ValueError: the file holds no state dict, or several, or none of this name.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file; expected .safetensors or a file written by torch.save")
    if file.suffix != ".safetensors":
        return _state_dict_in(_read_torch(file), file, entry)
    refuse_entry(file, entry)
    return dict(read_safetensors(file))


def refuse_entry(file: Path, entry: str | None) -> None:
    """Refuses the name of a part of a file that has no parts.

    Raises:
      ValueError: there is such a name.
    """
    if entry is not None:
        raise ValueError(f"{file} holds one set of weights: leave out entry={entry!r}")


class _Foreign:
    """Stands for an object of a class that is not loaded: it takes whatever a file says of it, and keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Foreign:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _read_torch(file: Path) -> Any:
    """What is in a file of `torch.save`: tensors, plain data, and empty shells where objects of other classes were.

    PyTorch's restricted unpickler reads it. No class or function that the file names is imported or called.
    """
    try:
        import torch
    except ImportError:
        raise ImportError(f"reading {file} needs PyTorch (pip install torch); a .safetensors file does not") from None
    try:
        # PyTorch's own names, those of tensors, go before these.
        shells: list[Any] = [(type(name, (_Foreign,), {}), name) for name in _names_in_pickles(file)]
        with torch.serialization.safe_globals(shells):
            return torch.load(file, map_location="cpu", weights_only=True)
    except _TooLargeError:
        raise
    except Exception as error:  # whatever the unpickler meets first
        reason = printable((str(error).strip() or type(error).__name__).splitlines()[0])
        raise ValueError(f"{file} is no file of tensors that torch.load(weights_only=True) reads: {reason}") from None


def _names_in_pickles(file: Path) -> set[str]:
    """The classes and functions that a file of `torch.save` names, as "module.name"; nothing is unpickled.

    Raises:
      ValueError: the file is damaged, or unpacks to more than it can hold.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            require_unpacked_size(file, sum(inside.file_size for inside in archive.infolist()))
            inside = next((name for name in archive.namelist() if name.endswith("/data.pkl")), "data.pkl")
            return _names_in(io.BytesIO(archive.read(inside)), 1)
    with file.open("rb") as content:  # before version 1.6: a number, a version, facts of the machine, the data
        return _names_in(content, 4)


def _names_in(content: Any, pickles: int) -> set[str]:
    operations = (operation for _ in range(pickles) for operation in pickletools.genops(content))
    return {str(name).replace(" ", ".") for operation, name, _ in operations if operation.name == "GLOBAL"}


class _TooLargeError(ValueError):
    """What a file unpacks to is more than its weights can be."""


_MOST_PACKED = 10
"""Weights that unpack to more than so many times the size of their file are none: packing saves hardly anything."""


def require_unpacked_size(file: Path, size: int) -> None:
    """Refuses a file whose weights need far more bytes than it has, before they are read.

    Raises:
      ValueError: says both sizes.
    """
    stored = file.stat().st_size
    if size > _MOST_PACKED * stored:
        raise _TooLargeError(
            f"{file} has {stored:,} bytes, and its weights would have {size:,}: it is damaged, or made to fill the "
            "memory"
        )


def _state_dict_in(content: Any, file: Path, entry: str | None) -> dict[str, Any]:
    """The weights in what `torch.save` wrote: all of it, or the entry of this name."""
    if _is_state_dict(content):
        refuse_entry(file, entry)
        return dict(content)
    if not isinstance(content, Mapping):
        raise ValueError(f"{file} holds no state dict but {printable(type(content).__name__)}: save model.state_dict()")
    found = [key for key, value in content.items() if isinstance(key, str) and _is_state_dict(value)]
    if entry is None and len(found) == 1:
        return dict(content[found[0]])
    if entry in found:
        return dict(content[entry])
    strange = [f"{key} ({type(x).__name__})" for key, x in content.items() if not hasattr(x, "untyped_storage")]
    if 2 * len(strange) < len(content):
        raise ValueError(f"{file} is no file of tensors: it also holds {listed(strange)}; save model.state_dict()")
    if not found:
        raise ValueError(f"{file} holds no state dict but {listed(content)}; give its tensors to from_torch")
    wanted = "which of them is meant" if entry is None else f"and no state dict {entry!r}"
    raise ValueError(
        f"{file} holds the state dicts {listed(found)}, {wanted}: name one, entry={found[0]!r} "
        f"(--entry {printable(found[0])} of `zoo convert`)"
    )


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) and hasattr(x, "untyped_storage") for key, x in value.items())
    )
