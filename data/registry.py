"""Data sets by name."""

import difflib
import functools
import inspect
import logging
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

import typeguard

from data import tfds
from data.dataset import Dataset, labels_of, take
from data.pipeline import held_out

_LOG = logging.getLogger(__name__)

_BUILDERS: dict[str, Callable[..., Dataset]] = {}
_Builder = TypeVar("_Builder", bound=Callable[..., Dataset])


def register(name: str) -> Callable[[_Builder], _Builder]:
    """Decorator that enters a function which builds a data set under `name`.

        @data.register("mine")
        def mine(*, standardize: bool = False) -> data.Dataset: …

    Its keyword-only arguments are the options of the data set; `seed` is passed to a builder that takes it. A builder
    with an argument `path` is asked for as `name:PATH`.

    Raises:
        ValueError: if the name is taken.
    """

    def enter(builder: _Builder) -> _Builder:
        if name in _BUILDERS:
            raise ValueError(f"a data set named {name!r} is registered already, by {_BUILDERS[name].__module__}")
        _BUILDERS[name] = builder
        return builder

    return enter


@functools.cache
def load_installed() -> None:
    """Imports what installed packages offer under the entry point group `flaxzoo`, once."""
    for entry in entry_points(group="flaxzoo"):
        try:
            entry.load()
        except Exception as error:  # another package's fault must not take the zoo down with it
            package = entry.dist.name if entry.dist else "a package"
            _LOG.warning("%s offers %s to flaxzoo, which cannot be imported: %s", package, entry.value, error)


def dataset_builder(name: str) -> Callable[..., Dataset] | None:
    """The function that is registered for a name such as "digits" or "folder:PATH"; None for those of others."""
    kind = name.partition(":")[0]
    if kind not in _BUILDERS:
        load_installed()
    return _BUILDERS.get(kind)


def list_datasets() -> list[str]:
    """Names of the data sets defined here. `load` also takes the names of TensorFlow Datasets."""
    load_installed()
    return sorted(_BUILDERS)


def load(name: str, /, *, validation: float | int = 0, seed: int = 0, **options) -> Dataset:
    """Loads a data set.

    Args:
        name: one of `list_datasets()`, some with a path, e.g. "folder:pictures", or else a name of TensorFlow Datasets,
            e.g. "cifar10" or "svhn_cropped:3.0.0".
        validation: examples to take out of train by a seeded shuffle, as a fraction in (0, 1) or as a number. Of
            folders, arrays and tables the same share of each class.
        seed: of that shuffle, and of the examples of a synthetic data set.
        **options: of the data set, see its builder.

    Raises:
        ValueError: if a name, an option or its value is not known or not possible.
        FileNotFoundError: if the files are not here and cannot be downloaded.
        ImportError: if preparing the files needs TensorFlow.
    """
    builder: Callable[..., Dataset]
    kind, _, path = name.partition(":")
    ours = dataset_builder(name)
    if ours is not None and (of_path := inspect.signature(ours).parameters.get("path")):
        if not path and of_path.default is of_path.empty:
            raise ValueError(f"data set {kind!r} needs a path: {kind}:PATH")
        builder = functools.partial(ours, path) if path else ours
    elif ours is not None and not path:
        builder = ours
    elif name.partition(":")[0].partition("/")[0] in tfds.names():
        builder = functools.partial(tfds.build, name)
    else:
        raise ValueError(
            f"unknown data set {name!r}{_nearest(name, [*_BUILDERS, *tfds.names()])}. "
            f"Data sets here: {', '.join(list_datasets())}; any name of TensorFlow Datasets is taken too"
            f"{_of_path(name)}."
        )
    parameters = inspect.signature(builder).parameters
    known = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY and p.name != "seed"]
    for option in options:
        if option not in known:
            raise ValueError(
                f"data set {name!r} has no option {option!r}{_nearest(option, known)}. Its options: {', '.join(known)}."
            )
    _require_types(builder, options, f"data set {name!r}")
    if "seed" in parameters:
        options["seed"] = seed
    built = builder(**options)
    if not isinstance(built, Dataset):
        raise ValueError(f"the builder of data set {name!r} must return a data.Dataset, not {type(built).__name__}")
    return hold_out(built, validation, seed) if validation != 0 else built


def _require_types(builder: Callable[..., Dataset], options: Mapping[str, object], what: str) -> None:
    hints = typing.get_type_hints(getattr(builder, "func", builder))
    for option, value in options.items():
        hint = hints.get(option, object)
        if typing.get_origin(hint) is typing.Literal:  # the builder tells the choices
            continue
        if not _fits(value, hint):
            raise ValueError(f"{option} of {what} must be {getattr(hint, '__name__', hint)}, not {value!r}")


def _fits(value: object, hint: object) -> bool:
    if isinstance(value, bool):  # Python counts them among the whole numbers
        return hint is object or bool in (hint, *typing.get_args(hint))
    try:
        typeguard.check_type(tuple(value) if isinstance(value, list) else value, hint)
    except typeguard.TypeCheckError:
        return False
    return True


def _of_path(name: str) -> str:
    """How a file or folder is asked for, where the name is one."""
    path = Path(name).expanduser()
    table = f"csv:{name}, or texts:{name} where it holds texts in classes"
    files = {".csv": table, ".tsv": table, ".npz": f"npz:{name}", ".txt": f"text:{name}"}
    folder = f"folder:{name}, or texts:{name} where it holds texts"
    said = folder if path.is_dir() else files.get(path.suffix.lower()) if path.is_file() else None
    return f"; for this one say {said}" if said else ""


def _nearest(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, dict.fromkeys(known))
    return f"; nearest: {', '.join(matches)}" if matches else ""


def hold_out(built: Dataset, validation: float | int, seed: int) -> Dataset:
    """The data set with a validation split that is taken out of its train split.

    Raises:
        ValueError: if there is no train split, a validation split already, or if either part would be empty.
    """
    if "validation" in built.splits or "train" not in built.splits:
        raise ValueError(
            f"validation={validation} takes examples out of a train split into a new validation split, but data set "
            f"{built.name!r} has the splits {', '.join(built.splits)}; leave validation at 0"
        )
    train = built.splits["train"]
    labels = labels_of(train) if built.stratified else None
    rest, held = held_out(
        len(train), validation, seed, what="validation", where=f"data set {built.name!r}", labels=labels
    )
    splits = {"train": take(train, rest), "validation": take(train, held)}
    return replace(built, splits={**built.splits, **splits})
