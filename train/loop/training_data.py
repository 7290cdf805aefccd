"""What training takes as data, and whether it is what the task needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

import data
from train.memory import require_memory, tree_bytes

Data = data.Dataset | Mapping[str, Any] | tuple[Any, Any]
"""A data set; arrays by field, as `data.from_arrays` takes them; or inputs and what is to be told of them."""


def as_dataset(source: Data) -> data.Dataset:
    """What `fit` and `evaluate` take as data, as a data set; arrays are its split "train".

    Raises:
      ValueError: see `data.from_arrays`.
    """
    if isinstance(source, data.Dataset):
        return source
    if isinstance(source, Mapping):
        return data.from_arrays(**source)
    if not isinstance(source, tuple) or len(source) != 2:
        raise ValueError(
            "data are a data set, a dict of arrays by field, or a pair (x, y); not "
            f"{type(source).__name__}{f' of {len(source)}' if isinstance(source, tuple | list) else ''}"
        )
    x, y = source
    if isinstance(x, tuple) or isinstance(y, tuple):
        raise ValueError(
            "of the pair (x, y) each is one array; a test split goes into data.from_arrays(…, test=…), other fields "
            "into a dict"
        )
    names = ("inputs", "target") if _are_numbers(np.asarray(y)) else ("image", "label")
    return data.from_arrays(**dict(zip(names, (x, y), strict=True)))


def _are_numbers(y: np.ndarray) -> bool:
    """Whether these are numbers to be told, and not classes: integers, names, or one-hot rows of floats."""
    one_hot = y.ndim == 2 and y.shape[1] > 1 and np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()
    return y.dtype.kind == "f" and not one_hot


FIRST = 16
"""Examples that a task is shown before it begins."""


def first_examples(dataset: data.Dataset) -> dict[str, np.ndarray]:
    """A batch of the first training examples as a model sees them."""
    source = dataset.splits["train"]
    shapes = {name: jax.ShapeDtypeStruct(field.shape, field.dtype) for name, field in dataset.spec.fields.items()}
    require_memory(FIRST * tree_bytes(shapes), f"a batch of {FIRST} examples of {dataset.name!r}")
    return dict(dataset.preprocess(source[np.arange(min(len(source), FIRST))]))


def require_validation(dataset: data.Dataset, split: str | None) -> None:
    """Refuses a split to validate on that is asked for by name and not there.

    Raises:
      ValueError: names those that are.
    """
    if split not in (None, "validation") and split not in dataset.splits:
        raise ValueError(
            f"data set {dataset.name!r} has no split {split!r} to validate on; it has {', '.join(dataset.splits)}"
        )


_ADVICE = {
    "label": "numbers are told by the task regression (task=regression)",
    "target": "classes are told by the task classification (task=classification)",
}
"""What to do where a data set lacks a field; for all others, see `naming_fields`."""


@contextlib.contextmanager
def naming_fields(dataset: data.Dataset) -> Iterator[None]:
    """Tells in words which field a task looks for that the data do not have; else it is a bare KeyError.

    Raises:
      ValueError: there is no such field.
    """
    fields = dataset.spec.fields
    try:
        yield
    except KeyError as error:
        name = error.args[0] if error.args else None
        if not isinstance(name, str) or name in fields:
            raise
        advice = _ADVICE.get(
            name,
            f"tell the task which of them the model takes (inputs={next(iter(fields), '')!r}), or name the arrays by "
            "their fields; of a pair (x, y), integers, names and one-hot rows are labels of images, floats are targets",
        )
        raise ValueError(
            f"the task needs the field {name!r}, and the data set {dataset.name!r} has {', '.join(fields)}: {advice}"
        ) from error
