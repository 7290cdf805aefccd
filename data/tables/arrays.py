"""Arrays of one's own, in memory or in an NPZ file, as a data set."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import ArraySource, Batch, Dataset, Field, Source, Spec, labels_of, take
from data.image import ImageReader
from data.pipeline import TEST_SEED, held_out
from data.registry import hold_out, register
from data.scaling import standardizer, to_unit

_LOG = logging.getLogger(__name__)

_SPLITS = ("train", "validation", "test")

_SPARSE = 10
"""Labels whose greatest is so many times as great as their count number no classes: 0 and 255 are colours of a mask."""


def from_arrays(
    *,
    test: Mapping[str, Any] | float | int = 0,
    validation: Mapping[str, Any] | float | int = 0,
    classes: Sequence[str] | None = None,
    standardize: bool = False,
    seed: int = 0,
    name: str = "arrays",
    **fields: Any,
) -> Dataset:
    """A data set of arrays, one for each field of an example, with the example first.

        digits = data.from_arrays(image=images, label=labels, test=0.2)
        houses = data.from_arrays(features=rows, target=prices, test={"features": more, "target": their_prices})

    What a field is follows from its name and type:

    - `image`: uint8, which become float32 in [0, 1], or floats in [0, 1] or standardized, which stay as they are.
      `[example, height, width]` gets a channel.
    - `label`: the class of each example: its number from 0, which is kept as it is; its name; booleans; or one-hot.
      `[example]` or `[example, 1]`.
    - `target`: numbers to be told, `[example]` or `[example, targets]`.
    - `sample_weight`: what a mistake on each example costs in training, `[example]`, at least 0.
    - any other, such as `features`, `inputs` or `tokens`: floats become float32, integers int32.

    Args:
        test: the arrays of the test split by field, or the share (or number) of the examples to take out for it.
        validation: the same for the validation split, whose shuffle is seeded.
        classes: names of the classes in the order of their numbers. By default "0", "1" … up to the greatest number, or
            the distinct names, sorted.
        standardize: whether `features` (or `inputs`) get zero mean and unit variance, by the statistics of the training
            examples, the validation split among them.
        seed: of the shuffle for `validation`. That for `test` is always the same, and comes first.
        name: of the data set, for messages.
        **fields: the arrays.

    Raises:
        ValueError: if lengths differ, if numbers are not finite, if a label has no class, or if a type has no meaning.
    """
    for split, given in (("test", test), ("validation", validation)):
        if isinstance(given, tuple | list | np.ndarray):
            wanted = ", ".join(f"{field!r}: …" for field in fields)
            raise ValueError(f"{name}: {split} is a share, a number of examples or arrays by field, {{{wanted}}}")
    names = None if classes is None else tuple(map(str, classes))
    if names is not None and len(set(names)) < len(names):
        raise ValueError(f"{name}: two classes have the same name: {', '.join(names)}")
    if "label" in fields:
        fields["label"], names = _labels(fields["label"], names, name)
    train = ArraySource({field: _checked(field, array, name) for field, array in fields.items()})
    splits: dict[str, Source] = {"train": train}
    for split, given in (("test", test), ("validation", validation)):
        if isinstance(given, Mapping):
            splits[split] = _another_split(given, train, names, f"{name} ({split})")
    if not isinstance(test, Mapping) and test:
        rest, held = held_out(len(train), test, TEST_SEED, what="test", where=name, labels=labels_of(train))
        splits |= {"train": take(train, rest), "test": take(train, held)}
    built = of_splits(name, splits, names or (), standardize=standardize)
    return built if isinstance(validation, Mapping) or not validation else hold_out(built, validation, seed)


def _another_split(
    arrays: Mapping[str, Any], train: ArraySource, classes: tuple[str, ...] | None, where: str
) -> ArraySource:
    """The source of a split that is given as arrays, which must be like those of the train split."""
    arrays = dict(arrays)
    if set(arrays) != set(train.arrays):
        raise ValueError(f"{where} needs the fields {', '.join(train.arrays)}; got {', '.join(arrays) or 'none'}")
    if "label" in arrays:
        arrays["label"], _ = _labels(arrays["label"], classes, where)
    source = ArraySource({field: _checked(field, array, where) for field, array in arrays.items()})
    for field, array in source.arrays.items():
        of_train = train.arrays[field].shape[1:]
        if array.shape[1:] != of_train:
            raise ValueError(
                f"{where}: an example of {field} has the shape {list(array.shape[1:])}, and {list(of_train)} in train"
            )
    return source


def of_splits(name: str, splits: Mapping[str, Source], classes: tuple[str, ...], *, standardize: bool) -> Dataset:
    """The data set of splits whose arrays are checked, with the preprocessing that their fields ask for."""
    train = splits["train"]
    assert isinstance(train, ArraySource)
    standardized = [field for field in ("features", "inputs") if standardize and field in train.arrays]
    scale = {field: standardizer(train.arrays[field]) for field in standardized}

    def preprocess(batch: Batch) -> Batch:
        changed = {field: function(batch[field]) for field, function in scale.items() if field in batch}
        if "image" in batch:
            changed["image"] = to_unit(batch["image"])
        return {**batch, **changed}

    image = train.arrays.get("image")
    reader = None
    # Images that were standardized before have no reader: what was done to them cannot be done to a picture.
    if image is not None and image.ndim == 4 and image.shape[-1] in (1, 3) and image.min() >= 0:
        reader = ImageReader(image_size=(image.shape[1], image.shape[2]), channels=image.shape[3], squash=True)
    example = preprocess(train[np.arange(1)])
    return Dataset(
        name=name,
        spec=Spec({field: Field(array.shape[1:], str(array.dtype)) for field, array in example.items()}, classes),
        splits=dict(splits),
        preprocess=preprocess,
        image_shape=None if reader is None else reader.shape,
        reader=reader,
        stratified=True,
    )


@register("npz")
def npz(path: str, *, test: float | int | None = None, classes: Sequence[str] | None = None, standardize: bool = False):
    """The arrays in a file that `np.savez` wrote, asked for as `npz:FILE`.

    Arrays are named by field, as for `from_arrays`; those of another split have its name before or behind:
    `test_image`, `label_train`. `x` and `y` are taken for `image` and `label` where `y` holds integers or names, else
    for `inputs` and `target`, so that `x_train, y_train, x_test, y_test` will do.

    Args:
        path: of the file.
        test: share or number of examples of the test split, where the file has none; 0.2 by default.
        classes: see `from_arrays`.
        standardize: see `from_arrays`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no NPZ file, holds Python objects, or as `from_arrays`.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file.absolute()}")
    try:
        with file.open("rb") as opened:
            archive = np.load(opened, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds one array, without a name, as np.save writes it")
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:  # zipfile, zlib and NumPy raise what they met first
        reason = "it holds Python objects" if "allow_pickle" in str(error) else str(error).splitlines()[0]
        raise ValueError(f"{path} is no file of arrays that np.savez wrote: {reason}") from None
    found: dict[str, dict[str, Any]] = {split: {} for split in _SPLITS}
    options = {n for n, p in inspect.signature(from_arrays).parameters.items() if p.kind is p.KEYWORD_ONLY}
    for key, array in arrays.items():
        split, field = _split_and_field(key)
        if field in options:
            raise ValueError(f"{path}: an array cannot be called {key!r}, which is an option; choose another name")
        if field in found[split]:
            raise ValueError(f"{path}: two arrays are {field!r} of the split {split!r}")
        found[split][field] = array
    if not found["train"]:
        raise ValueError(
            f"{path} has no training arrays, such as image and label; it has {', '.join(arrays) or 'none'}"
        )
    y = np.asarray(found["train"].get("y", 0))
    roles = {"x": "image", "y": "label"} if y.dtype.kind in "iubUS" else {"x": "inputs", "y": "target"}
    found = {split: {roles.get(field, field): array for field, array in of.items()} for split, of in found.items()}
    if test is not None and found["test"]:
        raise ValueError(f"test={test} makes a test split where there is none, but {path} has arrays for one")
    others: dict[str, Any] = {"name": f"npz:{path}", "standardize": standardize}
    share = found["test"] or (0.2 if test is None and not found["validation"] else test or 0)
    return from_arrays(**found["train"], test=share, validation=found["validation"] or 0, classes=classes, **others)


def _split_and_field(key: str) -> tuple[str, str]:
    for split in _SPLITS:
        for field in (key.removeprefix(f"{split}_"), key.removesuffix(f"_{split}")):
            if field != key:
                return split, field.lower()
    return "train", key.lower()


def _checked(field: str, array: Any, where: str) -> np.ndarray:
    """The array with a type that models compute with."""
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise ValueError(f"{where}: {field} is no array: its examples differ in shape") from error
    if array.ndim == 0:
        options = "test, validation, classes, standardize, seed and name"
        raise ValueError(f"{where}: {field}={array} is no array of examples; the options of from_arrays are {options}")
    if not len(array):
        raise ValueError(f"{where}: {field} has no examples; its shape is {list(array.shape)}")
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
            raise ValueError(f"{where}: {field} holds numbers that are not finite; the first is in example {row}")
        if field == "image" and array.min() >= 0 and array.max() > 1:
            raise ValueError(
                f"{where}: image holds floats from {array.min():.3g} to {array.max():.3g}; pixels are uint8, or floats "
                "in [0, 1]: divide by the greatest value there can be, or give 0 … 255 as uint8"
            )
    elif array.dtype.kind in "iu":
        if field == "image" and array.dtype != np.uint8:
            raise ValueError(f"{where}: images are uint8, or floats in [0, 1]; not {array.dtype}")
        array = array if field == "image" else _narrowed(field, array, where)
    elif array.dtype.kind == "b":
        array = array.astype(np.int32)
    else:
        raise ValueError(f"{where}: {field} holds neither numbers nor booleans, but {array.dtype}")
    if field == "image" and array.ndim == 3:
        array = array[..., None]
    if field == "sample_weight" and (array.ndim != 1 or array.min() < 0):
        found = (
            f"the least is {array.min():g}" if array.ndim == 1 else f"an example has the shape {list(array.shape[1:])}"
        )
        raise ValueError(f"{where}: sample_weight is one number of at least 0 for each example; {found}")
    if field == "target":
        array = array.astype(np.float32).reshape(len(array), -1)
    return array


def _narrowed(field: str, array: np.ndarray, where: str) -> np.ndarray:
    bounds = np.iinfo(np.int32)
    if array.min() < bounds.min or array.max() > bounds.max:
        raise ValueError(f"{where}: {field} holds integers beyond 32 bits")
    return array.astype(np.int32)


def _labels(labels: Any, classes: tuple[str, ...] | None, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as int32 [example], and the names of the classes."""
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    elif array.ndim == 2:
        if array.dtype.kind not in "fiub" or not (np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all()):
            raise ValueError(f"{where}: labels [example, classes] must be one-hot; else give [example]")
        names = classes or tuple(map(str, range(array.shape[1])))
        if len(names) != array.shape[1]:
            raise ValueError(f"{where}: one-hot labels of {array.shape[1]} classes, and {len(names)} names")
        return array.argmax(axis=1).astype(np.int32), names
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{where}: labels are [example], not {list(array.shape)}")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and (array == np.round(array)).all()):
            raise ValueError(f"{where}: labels are whole numbers or names; numbers to be told are called target")
        array = array.astype(np.int64)
    if array.dtype.kind not in "iubOUS":
        raise ValueError(f"{where}: labels are whole numbers or names, not {array.dtype}")
    if array.dtype.kind == "b" and classes is not None:
        array = array.astype(np.int64)
    if array.dtype.kind == "O" and not all(isinstance(each, str) for each in array):
        raise ValueError(f"{where}: labels are whole numbers or names; a mixture, or None, is neither")
    texts = np.array([each.decode() if isinstance(each, bytes) else str(each) for each in array.tolist()])
    if classes is None and array.dtype.kind in "iu":
        least, most, count = int(array.min()), int(array.max()), len(np.unique(array))
        if least < 0 or most >= _SPARSE * count + _SPARSE:
            raise ValueError(
                f"{where}: labels are the numbers of classes from 0, not {least} to {most} of {count} different ones; "
                "give the names of the classes as labels, or number them; numbers to be predicted are floats (target)"
            )
        if least:
            _LOG.warning("%s: labels begin with %d; the classes before it have no examples", where, least)
        return array.astype(np.int32), tuple(map(str, range(most + 1)))
    if classes is None:
        distinct = np.unique(array).tolist()
        classes = tuple(each.decode() if isinstance(each, bytes) else str(each) for each in distinct)
    elif array.dtype.kind in "iu" and not set(texts) <= set(classes):
        if array.min() < 0 or array.max() >= len(classes):
            bad = int(np.flatnonzero((array < 0) | (array >= len(classes)))[0])
            raise ValueError(f"{where}: label {array[bad]} of example {bad} is none of the {len(classes)} classes")
        return array.astype(np.int32), classes
    number = {name: index for index, name in enumerate(classes)}
    unknown = [index for index, text in enumerate(texts.tolist()) if text not in number]
    if unknown:
        raise ValueError(
            f"{where}: label {str(texts[unknown[0]])!r} of example {unknown[0]} is none of the classes "
            f"{', '.join(classes[:20])}{' …' if len(classes) > 20 else ''}"
        )
    return np.array([number[text] for text in texts.tolist()], np.int32), classes
