"""What a trained run says of images, of lines of a table, of texts and of graphs."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import data
import zoo
from data.scaling import to_unit
from data.table_file import ENDINGS
from data.text.texts import UNKNOWN
from data.text.tokens import PAD
from train.inference.graphs import ON_GRAPHS
from train.inference.loading import Run, classes_of, is_classifier, load
from train.tasks.classification import class_probabilities
from train.tasks.few_shot import FEW_SHOT

_LOG = logging.getLogger(__name__)

_BATCH = 64
"""The most image files that are classified at a time."""


class Prediction(NamedTuple):
    """The class of one example, its probability, and the probabilities of all classes by name.

    Attributes:
      file: where the example is: an image file, a file and a row of it, a text itself, or a node.
      label: the most probable class.
      probability: of this class.
      probabilities: of all classes.
    """

    file: str
    label: str
    probability: float
    probabilities: dict[str, float]

    def top(self, count: int) -> list[tuple[str, float]]:
        """The most probable classes and their probabilities, the most probable first."""
        return sorted(self.probabilities.items(), key=lambda each: -each[1])[:count]


class Estimate(NamedTuple):
    """The numbers that a regression tells of one example.

    Attributes:
      file: where the example is: a file, or a file and a line of it.
      values: one for each target.
    """

    file: str
    values: list[float]


def predict(
    folder: str | Path, files: Sequence[str | Path] = (), *, texts: Sequence[str] = (), invert: bool = False
) -> list[Prediction] | list[Estimate]:
    """What the best checkpoint of a run says of image files, of lines of CSV files, of texts, or of graphs.

    Args:
      folder: the run of a classifier or a regression, on images, a table or texts; or a folder of `zoo convert`.
      files: images in any format that Pillow reads, which are resized to what the data set has, and cropped where its
        were; or CSV files with the columns of the run's own; or text files, each one text. A folder stands for all such
        files in it and in the folders within, a wildcard such as "photos/*.jpg" for what it matches.
      texts: for a classifier of texts, in the place of files or beside them.
      invert: for dark strokes on a light ground, where the data set has light ones on a dark ground. The readers of
        handwritten digits find that out by themselves.

    On graphs, `files` are numbers or names of nodes of the run's own graph for the task node_classification, pairs of
    them such as "3-17" for link_prediction, and graphs, as `data.load("graph:…")` takes them, for graph_classification.

    Returns:
      For each example, in order, a `Prediction` of a classifier or an `Estimate` of a regression.

    Raises:
      FileNotFoundError: there is no such file, or none that a folder or a wildcard stands for.
      ValueError: the run does something else, or a file cannot be read.
    """
    run = load(folder)
    reader = run.dataset.reader
    if texts and not isinstance(reader, data.TextReader):
        raise ValueError(f"the data of this run ({run.recipe.data}) are no texts; give files")
    if run.recipe.task in FEW_SHOT:
        raise ValueError(
            "a few-shot learner knows no classes until it is shown pictures of them: zoo adapt RUN --support FOLDER "
            "--query FILE…"
        )
    if (of_graphs := ON_GRAPHS.get(run.recipe.task)) is not None:
        return _predictions(*of_graphs(run, [str(file) for file in files]))
    if run.recipe.task != "regression":
        classes_of(run)  # refuses what is no classifier
    field = {data.TableReader: "features", data.TextReader: "tokens"}.get(type(reader), "image")
    if field not in run.dataset.spec.fields:
        raise ValueError(
            f"the data of this run ({run.recipe.data}) are no images, table or texts; they have the "
            f"fields {', '.join(run.dataset.spec.fields)}"
        )
    outputs = jax.jit(_outputs(run, field))
    names: list[str] = []
    parts: list[np.ndarray] = []
    for batch_names, batch in _batches(run, files_of(files, _ENDINGS.get(type(reader))), texts, invert=invert):
        names += batch_names
        parts.append(np.asarray(outputs(batch)))
    values = np.concatenate(parts)
    if run.recipe.task == "regression":
        if isinstance(run.dataset.reader, data.TableReader):
            values = run.dataset.reader.unscaled(values)
        return [Estimate(name, row.ravel().tolist()) for name, row in zip(names, values, strict=True)]
    classes = classes_of(run)
    if values.shape[1] != len(classes):
        raise ValueError(f"the model gives {values.shape[1]} outputs, and the data have {len(classes)} classes")
    return _predictions(names, values, classes)


def _predictions(names: Sequence[str], values: np.ndarray, classes: Sequence[str]) -> list[Prediction]:
    return [
        Prediction(name, classes[int(row.argmax())], float(row.max()), dict(zip(classes, row.tolist(), strict=True)))
        for name, row in zip(names, values, strict=True)
    ]


_ENDINGS = {data.TableReader: ENDINGS, data.TextReader: (".txt", *ENDINGS)}


def files_of(given: Sequence[str | Path], endings: Sequence[str] | None = None) -> list[Path]:
    """Files, and what folders and wildcards stand for: images, or files with one of the `endings`, sorted.

    Raises:
      FileNotFoundError: a folder or a wildcard stands for nothing.
    """
    found: list[Path] = []
    for each in map(Path, given):
        if each.is_dir():
            inside = sorted(_within(each, endings))
        elif glob.has_magic(str(each)) and not each.exists():
            inside = sorted(map(Path, glob.glob(str(each), recursive=True)))
        else:
            inside = [each]
        if not inside:
            raise FileNotFoundError(f"there is no {' or '.join(endings) + ' file' if endings else 'image'} in {each}")
        found += inside
    return found


def _within(folder: Path, endings: Sequence[str] | None) -> Iterator[Path]:
    if endings is None:
        from PIL import Image

        endings = tuple(Image.registered_extensions())
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        yield from (Path(parent) / n for n in names if n[0] != "." and Path(n).suffix.lower() in endings)


def _known(names: list[str], rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The same; it says of which texts no word is in the vocabulary."""
    if unknown := [name for name, row in zip(names, rows, strict=True) if set(row) <= {PAD, UNKNOWN}]:
        told = ", ".join(map(repr, unknown[:3])) + (f" … ({len(unknown)})" if len(unknown) > 3 else "")
        _LOG.warning("the model knows no word of %s; its answer says how long they are, and no more", told)
    return names, rows


def _batches(
    run: Run, files: Sequence[Path], texts: Sequence[str], *, invert: bool
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names of examples and the examples, raw, `[batch, …]`."""
    reader = run.dataset.reader
    if isinstance(reader, data.TableReader):
        for file in files:
            features = reader.read(file)
            yield [f"{file}, row {row}" for row in range(1, len(features) + 1)], features
        return
    if isinstance(reader, data.TextReader):
        for file in files:
            rows = reader.read(file)
            several = file.suffix.lower() in ENDINGS
            yield _known([f"{file}, row {row}" if several else str(file) for row in range(1, len(rows) + 1)], rows)
        if texts:
            yield _known(list(texts), reader.rows(texts))
        return
    shape = run.dataset.raw_image_shape
    if reader is None:
        _require_pixels(run)

    def decode(file: Path) -> np.ndarray:
        if reader is None:
            return data.decode_image(file, shape, invert=invert)
        if isinstance(reader, data.StrokeReader):
            return reader.read(file, invert=invert or None)
        image = to_unit(reader.read(file))
        return 1 - image if invert else image

    for start in range(0, len(files), _BATCH):
        batch = files[start : start + _BATCH]
        yield [str(file) for file in batch], np.stack([decode(file) for file in batch])


def _require_pixels(run: Run) -> None:
    """Refuses runs on images that were not pixels any more: a picture cannot be prepared as they were."""
    for source in list(run.dataset.splits.values())[:1]:
        image = np.asarray(source[np.arange(min(len(source), 16))]["image"])
        if image.dtype.kind == "f" and (image.min() < 0 or image.max() > 1):
            raise ValueError(
                f"the images of this run were standardized before ({image.min():.3g} to {image.max():.3g}), and a "
                "picture cannot be prepared likewise; train on pixels, uint8 or in [0, 1]"
            )


def _outputs(run: Run, field: str) -> Callable[[Any], jax.Array]:
    """From raw examples to class probabilities, or to the targets of a regression."""

    apply = zoo.fuse(run.model, run.variables)

    def outputs(raw: Any) -> jax.Array:
        values = jnp.asarray(apply(run.dataset.preprocess({field: raw})[field]))
        return class_probabilities(values) if is_classifier(run) else values.astype(jnp.float32)

    return outputs


def image_classifier(run: Run) -> Callable[[Any], jax.Array]:
    """A function from images in [0, 1], `[batch, height, width, channels]` as in the data set, to class probabilities.

    Preprocessing is part of it.

    Raises:
      ValueError: the run is no classifier of images.
    """
    classes_of(run)
    if "image" not in run.dataset.spec.fields:
        raise ValueError(
            f"the data of this run ({run.recipe.data}) are not images, but {', '.join(run.dataset.spec.fields)}"
        )
    return _outputs(run, "image")
