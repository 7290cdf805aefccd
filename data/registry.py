"""Data sets by name."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from data import tfds
from data.dataset import Dataset, take
from data.pipeline import held_out

_BUILDERS: dict[str, Callable[..., Dataset]] = {}
_Builder = TypeVar("_Builder", bound=Callable[..., Dataset])


def dataset(name: str) -> Callable[[_Builder], _Builder]:
    """Registers a builder under `name`. Its keyword-only arguments are the options of the data set; `seed` is passed
    to a builder that takes it. A builder with an argument `path` is asked for as `name:PATH`.

    Raises:
        ValueError: if the name is taken.
    """

    def register(builder: _Builder) -> _Builder:
        if name in _BUILDERS:
            raise ValueError(f"a data set named {name!r} is already registered, by {_BUILDERS[name].__module__}")
        _BUILDERS[name] = builder
        return builder

    return register


def list_datasets() -> list[str]:
    """Names of the data sets defined here. `load` also takes the names of TensorFlow Datasets."""
    return sorted(_BUILDERS)


def load(name: str, *, validation: float | int = 0, seed: int = 0, **options) -> Dataset:
    """Loads a data set.

    Args:
        name: one of `list_datasets()`, some with a path, e.g. "folder:pictures", or else a name of TensorFlow Datasets,
            e.g. "cifar10" or "svhn_cropped:3.0.0".
        validation: examples to take out of train by a seeded shuffle, as a fraction in (0, 1) or as a number.
        seed: of that shuffle, and of the examples of a synthetic data set.
        **options: of the data set, see its builder.

    Raises:
        ValueError: if a name, an option or its value is not known or not possible.
        FileNotFoundError: if the files are not here and cannot be downloaded.
        ImportError: if preparing the files needs TensorFlow.
    """
    builder: Callable[..., Dataset]
    kind, _, path = name.partition(":")
    if kind in _BUILDERS and (of_path := inspect.signature(_BUILDERS[kind]).parameters.get("path")):
        if not path and of_path.default is of_path.empty:
            raise ValueError(f"data set {kind!r} needs a path: {kind}:PATH")
        builder = functools.partial(_BUILDERS[kind], path) if path else _BUILDERS[kind]
    elif name in _BUILDERS:
        builder = _BUILDERS[name]
    elif name.partition(":")[0].partition("/")[0] in tfds.names():
        builder = functools.partial(tfds.build, name)
    else:
        raise ValueError(
            f"unknown data set {name!r}{_nearest(name, [*_BUILDERS, *tfds.names()])}. "
            f"Data sets here: {', '.join(list_datasets())}; any name of TensorFlow Datasets is taken too."
        )
    parameters = inspect.signature(builder).parameters
    known = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY and p.name != "seed"]
    for option in options:
        if option not in known:
            raise ValueError(
                f"data set {name!r} has no option {option!r}{_nearest(option, known)}. Its options: {', '.join(known)}."
            )
    if "seed" in parameters:
        options["seed"] = seed
    built = builder(**options)
    return _hold_out(built, validation, seed) if validation != 0 else built


def _nearest(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, known)
    return f"; nearest: {', '.join(matches)}" if matches else ""


def _hold_out(built: Dataset, validation: float | int, seed: int) -> Dataset:
    if "validation" in built.splits or "train" not in built.splits:
        raise ValueError(
            f"validation={validation} takes examples out of a train split into a new validation split, but data set "
            f"{built.name!r} has the splits {', '.join(built.splits)}; leave validation at 0"
        )
    train = built.splits["train"]
    rest, held = held_out(len(train), validation, seed, what="validation", where=f"data set {built.name!r}")
    splits = {"train": take(train, rest), "validation": take(train, held)}
    return replace(built, splits={**built.splits, **splits})
