"""Omniglot (Lake, Salakhutdinov & Tenenbaum, 2015): 1,623 characters of 50 alphabets, each drawn by 20 people."""

from __future__ import annotations

import io
import logging
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.episodes.pictures import Pictures, Protocol, dataset
from data.image import open_image
from data.registry import register
from data.scaling import to_unit

SIDE = 28
"""Height and width of a picture; the originals have 105."""

SPLIT_SEED = 0
"""Of the shuffle of the characters: a constant, so that no other seed moves a character into the training."""

NUM_VALIDATION = 100

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class DrawingReader:
    """How a picture of a character becomes what Omniglot's are: light strokes on black.

    Attributes:
        size: height and width.
    """

    size: int = SIDE

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an example."""
        return self.size, self.size, 1

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """uint8 [size, size, 1]; inverted where the edge of the picture is light, as paper is.

        Raises:
            ValueError: if it cannot be read as an image.
        """
        pixels = np.asarray(open_image(path, 1, ground="white"))
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        return shrunk(255 - pixels if np.median(edge) > 127 else pixels, self.size)


def shrunk(drawing: np.ndarray, size: int = SIDE) -> np.ndarray:
    """uint8 [height, width], light on black → [size, size, 1] by Lanczos' filter, as MAML's code has it."""
    from PIL import Image

    resized = Image.fromarray(drawing).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(resized)[..., None]


@register("omniglot")
def omniglot(
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    train_ways: int | None = None,
    train_shots: int | None = None,
    train_queries: int | None = None,
    rotations: bool = True,
    train_characters: int = 1200,
    episodes: int = 100_000,
    test_episodes: int = 600,
    seed: int = 0,
) -> Dataset:
    """N-way K-shot tasks of handwritten characters, 28×28, light on black in [0, 1].

    The 1,623 characters are shuffled by a constant seed, alphabets mixed (Vinyals et al. 2016; the list is lost, so
    that each code has its own). Of the first `train_characters` 100 are for validation and the others are trained on;
    the rest are for the test. Each character turned by 90, 180 and 270 degrees is a class of its own, in all splits.

    `images_background.npz` and `images_evaluation.npz`, or the original `images_background.zip` and
    `images_evaluation.zip`, are looked for in the folder "omniglot" of `ZOO_DATA_DIR`.

    Args:
        ways: classes of a task, in the test; and in training unless `train_ways` is given.
        shots: pictures of each class that are learned from.
        queries: pictures of each class that are told.
        train_ways: of tasks in training; prototypical networks learn best from many.
        train_shots: likewise.
        train_queries: likewise.
        rotations: whether turned characters are classes.
        train_characters: for training and validation, of 1,623.
        episodes: different tasks in training; an epoch sees each once.
        test_episodes: tasks of the test.
        seed: of the tasks in training.

    Raises:
        FileNotFoundError: if the files are not here.
        ValueError: if they are others, or if a number does not fit them.
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
    folder = _folder()

    def read() -> Mapping[str, Pictures]:
        images, names = _read(folder)
        num_classes = len(names)
        if not NUM_VALIDATION < train_characters < num_classes:
            raise ValueError(
                f"train_characters must be more than {NUM_VALIDATION}, which are for validation, and less than the "
                f"{num_classes} characters that there are; got {train_characters}"
            )
        order = np.random.default_rng(SPLIT_SEED).permutation(num_classes)
        cuts = np.split(order, [train_characters - NUM_VALIDATION, train_characters])
        _LOG.info("omniglot: %d characters to train, %d to validate, %d to test", *map(len, cuts))
        parts = {}
        for split, chosen in zip(("train", "validation", "test"), cuts, strict=True):
            count = np.full(len(chosen), images.shape[1], np.int32)
            parts[split] = Pictures(images[chosen].reshape(-1, SIDE, SIDE, 1), count, [names[i] for i in chosen])
        return parts

    def preprocess(batch: Any) -> Any:
        return {**batch, "image": to_unit(batch["image"])}

    return dataset("omniglot", protocol, read, preprocess, DrawingReader(), seed=seed, rotations=rotations)


_PARTS = ("images_background", "images_evaluation")


def _folder() -> Path:
    root = os.environ.get("ZOO_DATA_DIR")
    advice = (
        "put images_background.zip and images_evaluation.zip (https://github.com/brendenlake/omniglot, folder python), "
        "or the two as .npz (https://github.com/bitsandscraps/omniglot), into a folder omniglot of the one that the "
        "environment variable ZOO_DATA_DIR names"
    )
    if not root:
        raise FileNotFoundError(f"Omniglot is not here (ZOO_DATA_DIR is not set): {advice}")
    folder = Path(root) / "omniglot"
    for part in _PARTS:
        if not any((folder / f"{part}{ending}").is_file() for ending in (".npz", ".zip")):
            raise FileNotFoundError(f"Omniglot is not here: {folder} has no {part}.npz and no {part}.zip; {advice}")
    return folder


def _read(folder: Path) -> tuple[np.ndarray, list[str]]:
    """Pictures uint8 [character, 20, 28, 28, 1] and the names of the characters."""
    images, names = [], []
    for part in _PARTS:
        file = folder / f"{part}.npz"
        drawings, found = _of_arrays(file) if file.is_file() else of_zip(folder / f"{part}.zip")
        images.append(np.stack([np.stack([shrunk(drawing) for drawing in character]) for character in drawings]))
        names += found
    return np.concatenate(images), names


def _of_arrays(file: Path) -> tuple[np.ndarray, list[str]]:
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as archive:
            paper = archive["images"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} cannot be read ({error}); get it anew") from error
    if paper.ndim != 4 or paper.dtype != bool:
        raise ValueError(
            f"{file} must hold images, bool [character, drawer, height, width], not {paper.dtype} {paper.shape}"
        )
    return np.where(paper, np.uint8(0), np.uint8(255)), [f"{file.stem} {number + 1}" for number in range(len(paper))]


_PICTURE = re.compile(r"[^/]+/([^/]+)/(character\d+)/\d+_(\d+)\.png")


def of_zip(file: Path) -> tuple[np.ndarray, list[str]]:
    """The original archive: drawings uint8 [character, 20, 105, 105], light on black, and "Alphabet/characterNN".

    Raises:
        ValueError: if it is damaged, or holds something else.
    """
    from PIL import Image

    found: dict[str, dict[int, np.ndarray]] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for name in sorted(archive.namelist()):
                if match := _PICTURE.fullmatch(name):
                    drawing = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L"))
                    found.setdefault(f"{match[1]}/{match[2]}", {})[int(match[3])] = 255 - drawing
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file} cannot be read ({error}); get it anew") from error
    if not found or len({tuple(sorted(each)) for each in found.values()}) != 1:
        raise ValueError(f"{file} must hold FOLDER/ALPHABET/characterNN/NUMBER_DRAWER.png, as many of each character")
    return np.stack([np.stack([each[i] for i in sorted(each)]) for each in found.values()]), list(found)
