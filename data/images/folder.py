"""Folders of pictures, a folder for each class."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from data.dataset import ArraySource, Batch, Dataset, Field, LazySplits, Source, Spec, labels_of, take
from data.image import ImageReader, open_image, require_image_file
from data.pipeline import TEST_SEED, held_out
from data.places import class_folders, find_folder, split_folders
from data.registry import register

IN_MEMORY_BYTES = 2**30
"""Decoded images of at most this size are kept in memory."""

_LOG = logging.getLogger(__name__)
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class FolderSource:
    """Pictures that are decoded when asked for, in as many threads as there are cores.

    Args:
        files: one for each example.
        labels: the class of each, int32 [example].
        reader: reads a file.
    """

    def __init__(self, files: Sequence[Path], labels: np.ndarray, reader: ImageReader):
        self.files = files
        self.labels = labels
        self._reader = reader

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        """Examples by number.

        Raises:
            ValueError: if files cannot be read; all of them are named.
        """
        images = np.empty((len(indices), *self._reader.shape), np.uint8)

        def decode(row: int) -> str | None:
            try:
                images[row] = self._reader.read(self.files[indices[row]])
            except ValueError as error:
                return str(error)
            return None

        problems = [problem for problem in _in_threads(decode, range(len(indices))) if problem is not None]
        if problems:
            raise ValueError(unreadable_files(problems))
        return {"image": images, "label": self.labels[indices]}


@register("folder")
def folder(
    path: str,
    *,
    image_size: int | tuple[int, int] = 224,
    crop: float = 1.0,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    squash: bool = False,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    channels: int = 3,
    classes: Sequence[str] | None = None,
    test: float | int | None = None,
    unreadable: Literal["raise", "skip"] = "raise",
    in_memory: bool | None = None,
) -> Dataset:
    """Pictures in `PATH/SPLIT/CLASS/…`, or in `PATH/CLASS/…` with a fifth of each class taken out for the test split.

    A path that is not there is looked for in the folder that the environment variable `ZOO_DATA_DIR` names. Splits are
    the folders train, validation (or val) and test; classes are the names of folders, sorted; pictures may lie in
    folders within. What begins with a dot is passed over.

    Args:
        path: of the folder.
        image_size: (height, width) of what the model sees, or one number for both.
        crop: see `ImageReader`, as the next five.
        interpolation: of the resizing.
        squash: whether the aspect ratio is lost rather than the margin.
        mean: taken off each channel in [0, 1].
        std: what each channel is divided by afterwards.
        channels: 1 for grey, 3 for colours.
        classes: the classes wanted, where not all are.
        test: share or number of examples of the test split, where there are no folders for splits; 0.2 by default.
        unreadable: "raise" names all files that are no images, or damaged; "skip" leaves them out and logs how many.
        in_memory: whether decoded images are kept; by default where all of them take at most 1 GiB. Others are read
            when asked for: that files are images is found out before the first, that one is damaged when it is read
            (with "skip", before the first too, which takes the time of reading each).

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it has no classes, or only one, or one without pictures; if splits differ in their classes; or if
            files cannot be read.
    """
    if unreadable not in ("raise", "skip"):
        raise ValueError(f'unreadable must be "raise" or "skip"; got {unreadable!r}')
    reader = ImageReader.of(
        image_size=image_size,
        crop=crop,
        interpolation=interpolation,
        squash=squash,
        mean=mean,
        std=std,
        channels=channels,
    )
    root = find_folder(path)
    folders = split_folders(root)
    if test is not None and folders:
        raise ValueError(f"test={test} makes a test split where there is none, but {root} has folders for splits")
    names = _classes(folders or {"train": root}, classes)

    def read() -> dict[str, Source]:
        listed = {
            split: _list([where / name for name in names]) for split, where in (folders or {"train": root}).items()
        }
        whole = sum(len(files) for files, _ in listed.values()) * int(np.prod(reader.shape))
        keep = whole <= IN_MEMORY_BYTES if in_memory is None else in_memory
        skip = unreadable == "skip"
        advice = "mend them, or leave them out with data_options.unreadable=skip"
        sources = _sources(listed, reader, keep=keep, skip=skip, advice=advice)
        if folders:
            return sources
        every = sources["train"]
        share = 0.2 if test is None else test
        labels = labels_of(every)
        rest, held = held_out(len(every), share, TEST_SEED, what="test", where=str(root), labels=labels)
        return {"train": take(every, rest), "test": take(every, held)}

    return Dataset(
        name=f"folder:{path}",
        spec=Spec({"image": Field(reader.shape, "float32"), "label": Field((), "int32")}, names),
        splits=LazySplits(tuple(folders) or ("train", "test"), read),
        preprocess=reader.preprocess,
        image_shape=reader.shape,
        reader=reader,
        stratified=True,
    )


def read_classes(folders: Sequence[Path], reader: ImageReader) -> Source:
    """The pictures of these folders in memory, sorted by class: the first folder's have the label 0.

    Raises:
        ValueError: if a folder holds no file, or files that cannot be read; all of them are named.
    """
    files, labels = _list(folders)
    listed = {"train": (files, labels)}
    return _sources(listed, reader, keep=True, skip=False, advice="mend them, or take them out")["train"]


_SHOWN = 20
"""The most files that an error names."""


def unreadable_files(problems: Sequence[str]) -> str:
    """One message of all that is wrong with files."""
    if len(problems) == 1:
        return problems[0]
    listed = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
    rest = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return f"{len(problems)} files cannot be read as images:{listed}{rest}"


def _classes(folders: Mapping[str, Path], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes, the same in all splits."""
    found = {}
    for split, where in folders.items():
        found[split] = [each.name for each in class_folders(where)]
        if missing := sorted(set(wanted or ()) - set(found[split])):
            raise ValueError(f"{where} has no class {', '.join(missing)}; it has {', '.join(found[split]) or 'none'}")
    if wanted is not None:
        found = dict.fromkeys(found, sorted(wanted))
    names = found["train"]
    for split, others in found.items():
        if others != names:
            here, there = sorted(set(names) - set(others)), sorted(set(others) - set(names))
            raise ValueError(
                f"the classes of the splits differ: {', '.join(here) or 'none'} only in {folders['train']}, "
                f"{', '.join(there) or 'none'} only in {folders[split]}"
            )
    if len(names) < 2:
        raise ValueError(
            f"{folders['train']} has {'one class' if names else 'no classes'}; expected a folder of pictures for each "
            "class, and at least two: FOLDER/CLASS/PICTURE or FOLDER/train/CLASS/PICTURE"
        )
    return tuple(names)


def _list(folders: Sequence[Path]) -> tuple[list[Path], np.ndarray]:
    """The files of all classes and their labels."""
    files, labels = [], []
    for label, where in enumerate(folders):
        found = list(_files(where))
        if not found:
            raise ValueError(f"the class {where.name!r} is empty: there is no file in {where}")
        files += sorted(found)
        labels += [label] * len(found)
    return files, np.array(labels, np.int32)


def _files(folder: Path) -> Iterator[Path]:
    """All regular files in a folder and in the folders within, those left out whose name begins with a dot.

    Raises:
        ValueError: if links lead back to a folder that they are in, or if something is neither file nor folder.
    """
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in folders:
            inside = Path(parent, name)
            if inside.is_symlink() and Path(parent).resolve().is_relative_to(inside.resolve()):
                raise ValueError(f"the link {inside} leads to {inside.resolve()}, a folder that it is in itself")
        for name in names:
            file = Path(parent, name)
            if name[0] == ".":
                continue
            if file.exists() and not file.is_file():
                raise ValueError(f"{file} is neither a file nor a folder; take it out")
            yield file


def _sources(
    listed: Mapping[str, tuple[list[Path], np.ndarray]], reader: ImageReader, *, keep: bool, skip: bool, advice: str
) -> dict[str, Source]:
    """The splits, in memory where they are to be kept, without unreadable files where these are to be skipped."""
    sources: dict[str, Source] = {}
    problems: list[str] = []
    for split, (files, labels) in listed.items():
        images = np.empty((len(files) if keep else 0, *reader.shape), np.uint8)
        found = _in_threads(_examiner(files, reader, images if keep else None, whole=skip), range(len(files)))
        problems += [problem for problem in found if problem is not None]
        good = np.flatnonzero([problem is None for problem in found])
        source = ArraySource({"image": images, "label": labels}) if keep else FolderSource(files, labels, reader)
        sources[split] = take(source, good) if len(good) < len(files) else source
        lost = np.flatnonzero(~np.isin(labels, labels[good]))
        if skip and lost.size:
            raise ValueError(f"no file in the folder of a class can be read, such as {files[lost[0]]}")
    if problems and not skip:
        raise ValueError(f"{unreadable_files(problems)}\n{advice}")
    if problems:
        total = sum(len(files) for files, _ in listed.values())
        _LOG.warning("left out, of %d files: %s", total, unreadable_files(problems))
    return sources


def _examiner(
    files: Sequence[Path], reader: ImageReader, images: np.ndarray | None, *, whole: bool
) -> Callable[[int], str | None]:
    """What is wrong with the file of a row: it is read into `images`, or as a `whole`, or only its beginning is."""

    def examine(row: int) -> str | None:
        try:
            if images is not None:
                images[row] = reader.read(files[row])
            elif whole:
                open_image(files[row], reader.channels)
            else:
                require_image_file(files[row])
        except ValueError as error:
            return str(error)
        return None

    return examine


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")


def _in_threads(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """`function` of each of `items`, in order; a few stretches of them for each thread."""
    count = min(len(items), 4 * (os.cpu_count() or 1))
    bounds = [len(items) * index // max(count, 1) for index in range(count + 1)]

    def stretch(index: int) -> list[_Result]:
        return [function(item) for item in items[bounds[index] : bounds[index + 1]]]

    return [result for part in _threads().map(stretch, range(count)) for result in part]
