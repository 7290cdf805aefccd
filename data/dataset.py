"""What a data set is: splits of raw examples, and the pure function that turns them into a model's batches."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

Batch = dict[str, np.ndarray]


class Field(NamedTuple):
    """One named array of an example as a model sees it, without the batch axis."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Spec:
    """What a model sees.

    Attributes:
        fields: of a preprocessed example.
        classes: their names, if examples are classified.
        vocabulary: what each token stands for, if examples are texts.
    """

    fields: dict[str, Field]
    classes: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 when the task is not classification."""
        return len(self.classes)

    def example(self, batch_size: int = 1) -> Batch:
        """A batch of zeros, for the shapes and dtypes that initialising or compiling a model needs."""
        return {name: np.zeros((batch_size, *field.shape), field.dtype) for name, field in self.fields.items()}


class Source(Protocol):
    """Random access to raw examples, many at a time: `source[np.array([3, 1])]` has a leading axis of 2."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: np.ndarray, /) -> Batch: ...


class Reader(Protocol):
    """How a file becomes raw examples; a dataclass, so that a run can keep it beside its weights."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an example."""
        ...

    def read(self, path: str | os.PathLike[str], /) -> np.ndarray:
        """What is in a file."""
        ...


class ArraySource:
    """Examples held in memory.

    Args:
        arrays: one array for each field, example first.

    Raises:
        ValueError: if there is no array, or if the arrays differ in length.
    """

    def __init__(self, arrays: Batch):
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"a source needs arrays of the same number of examples; got {lengths or 'none'}")
        self.arrays = arrays

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        return self.gather(self.arrays, indices)

    def gather(self, arrays: Any, indices: Any) -> Any:
        """The examples at `indices` of `arrays`, which are this source's, on the host or on a device."""
        return {name: array[indices] for name, array in arrays.items()}

    @property
    def nbytes(self) -> int:
        """Memory taken by the examples, in bytes."""
        return sum(array.nbytes for array in self.arrays.values())


class Subset:
    """Some examples of a source that is not in memory."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.whole = source
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        return self.whole[self.indices[indices]]


def take(source: Source, indices: np.ndarray) -> Source:
    """The examples of `source` at `indices`: in memory if the source is, else read when asked for."""
    if (taken := getattr(source, "take", None)) is not None:
        return taken(indices)
    return ArraySource(source[indices]) if isinstance(source, ArraySource) else Subset(source, indices)


def labels_of(source: Source) -> np.ndarray | None:
    """The class of each example, integer [example], where they are known without reading the examples."""
    if isinstance(source, ArraySource):
        labels = source.arrays.get("label")
        return labels if labels is not None and labels.ndim == 1 else None
    if isinstance(source, Subset):
        labels = labels_of(source.whole)
        return None if labels is None else labels[source.indices]
    return getattr(source, "labels", None)


class LazySplits(Mapping[str, Source]):
    """Splits whose files are read when one of them is first asked for: inference needs the spec, and not the data.

    Args:
        names: of the splits.
        read: gives them all.
    """

    def __init__(self, names: Sequence[str], read: Callable[[], Mapping[str, Source]]):
        self._names = tuple(names)
        self._read = cache(read)

    def __getitem__(self, name: str) -> Source:
        if name not in self._names:
            raise KeyError(name)
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Dataset:
    """Named splits of raw examples, and how to prepare a batch of them.

    Attributes:
        name: what it was loaded as.
        spec: a batch after `preprocess`.
        splits: "train", "test" and, where provided or asked for, "validation". Examples are raw: images are uint8 where
            the original's are.
        preprocess: raw batch -> batch as in `spec`. A pure function of array methods and operators only, so it runs
            on numpy arrays on the host and on traced jax arrays inside a compiled step.
        image_shape: (height, width, channels) of an image before `preprocess`, where it is known without reading one.
        reader: how files become its examples, where that is known: an `ImageReader`, a `StrokeReader`, a
            `TableReader` or a `TextReader`.
        stratified: whether what is held out of its train split has the same share of each class.
    """

    name: str
    spec: Spec
    splits: Mapping[str, Source]
    preprocess: Callable[[Any], Any]
    image_shape: tuple[int, int, int] | None = None
    reader: Reader | None = None
    stratified: bool = False

    def __repr__(self) -> str:
        fields = ", ".join(f"{name} {field.dtype} {list(field.shape)}" for name, field in self.spec.fields.items())
        classes = f", {len(self.spec.classes)} classes" if self.spec.classes else ""
        return f"<data set {self.name!r}: {fields}{classes}; splits {', '.join(self.splits)}>"

    @property
    def raw_image_shape(self) -> tuple[int, ...]:
        """Shape (height, width, channels) of an image before `preprocess`, which may resize, pad or flatten it.

        Raises:
            ValueError: if the data set has no images.
        """
        if self.image_shape is not None:
            return self.image_shape
        example = next(iter(self.splits.values()))[np.array([0])]
        if "image" not in example:
            raise ValueError(f"data set {self.name!r} has no images; its fields are {sorted(example)}")
        return example["image"].shape[1:]
