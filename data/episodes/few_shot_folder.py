"""Episodes from any folder of pictures, a folder for each class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from data.dataset import ArraySource, Dataset
from data.episodes.pictures import SPLITS, Pictures, Protocol, dataset
from data.image import ImageReader
from data.images.folder import read_classes
from data.pipeline import TEST_SEED, permutation
from data.places import class_folders, find_folder, split_folders
from data.registry import register


@register("few_shot_folder")
def few_shot_folder(
    path: str,
    *,
    image_size: int = 84,
    channels: int = 3,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    train_ways: int | None = None,
    train_shots: int | None = None,
    train_queries: int | None = None,
    rotations: bool = False,
    episodes: int = 100_000,
    test_episodes: int = 600,
    seed: int = 0,
) -> Dataset:
    """N-way K-shot tasks of the pictures in `PATH/CLASS/…`, asked for as `few_shot_folder:PATH`.

    Splits share no class. `PATH/train/CLASS/…`, `PATH/validation/CLASS/…` (or val) and `PATH/test/CLASS/…` say which
    classes are in which; else of the classes, shuffled by a constant seed, a fifth are for the test, a fifth for
    validation and the rest for training. A path that is not here is looked for in `ZOO_DATA_DIR`.

    Args:
        path: of the folder.
        image_size: height and width.
        channels: 1 for grey, 3 for colours.
        interpolation: of the resizing.
        mean: taken off each channel in [0, 1].
        std: what each channel is divided by afterwards.
        ways: classes of a task, as the next five see `omniglot`.
        shots: pictures of each class that are learned from.
        queries: pictures of each class that are told.
        train_ways: of tasks in training.
        train_shots: likewise.
        train_queries: likewise.
        rotations: whether pictures turned by 90, 180 and 270 degrees are classes of their own.
        episodes: different tasks in training.
        test_episodes: tasks of the test.
        seed: of the tasks in training.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if classes or pictures are too few for an episode, or if files cannot be read.
    """
    protocol = Protocol.of(
        ways=ways,
        shots=shots,
        queries=queries,
        train_ways=train_ways,
        train_shots=train_shots,
        train_queries=train_queries,
        episodes=episodes,
        test_episodes=test_episodes,
    )
    reader = ImageReader.of(image_size=image_size, channels=channels, interpolation=interpolation, mean=mean, std=std)
    root = find_folder(path)

    def read() -> Mapping[str, Pictures]:
        return {split: _pictures(folders, reader) for split, folders in _splits(root).items()}

    return dataset(f"few_shot_folder:{path}", protocol, read, reader.preprocess, reader, seed=seed, rotations=rotations)


def _splits(root: Path) -> dict[str, list[Path]]:
    """The folders of classes of each split."""
    if named := split_folders(root):
        if missing := [split for split in SPLITS if split not in named]:
            raise ValueError(
                f"{root} has folders for splits, and none for {', '.join(missing)}; add SPLIT/CLASS/PICTURE"
            )
        return {split: class_folders(folder) for split, folder in named.items()}
    found = class_folders(root)
    if len(found) < 6:
        raise ValueError(
            f"{root} has {len(found)} classes (folders of pictures); few-shot learning takes at least 6, 2 each to "
            "train, to validate and to test: FOLDER/CLASS/PICTURE"
        )
    order, held = permutation(TEST_SEED, len(found), -1), max(2, len(found) // 5)
    cuts = np.split(order, [len(found) - 2 * held, len(found) - held])
    return {split: [found[i] for i in np.sort(part)] for split, part in zip(SPLITS, cuts, strict=True)}


def _pictures(folders: list[Path], reader: ImageReader) -> Pictures:
    source = read_classes(folders, reader)
    assert isinstance(source, ArraySource)
    labels = source.arrays["label"]
    return Pictures(source.arrays["image"], np.bincount(labels, minlength=len(folders)), [f.name for f in folders])
