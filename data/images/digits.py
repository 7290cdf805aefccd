"""Handwritten digits, 1797 images of 8x8 in 17 grey levels (Alpaydin & Kaynak, 1998), as scikit-learn has them."""

import importlib.util
import math
from pathlib import Path

import numpy as np

from data.dataset import ArraySource, Batch, Dataset, Field, Spec, take
from data.images.strokes import StrokeReader
from data.registry import register
from data.scaling import flatten, standardizer


@register("digits")
def digits(*, flat: bool = False, standardize: bool = False, upsample: int = 1) -> Dataset:
    """1437 train and 360 test examples: `train_test_split(test_size=0.2, random_state=42)`.

    Args:
        flat: images as [64] rather than [8, 8, 1], or the upsampled size.
        standardize: zero mean and unit variance for each pixel, by the statistics of the whole train split.
        upsample: repeats each pixel so many times along height and width; 4 gives 32x32.
    """
    if upsample < 1:
        raise ValueError(f"upsample must be at least 1; got {upsample}")
    table = _table()
    images = (table[:, :-1] / 16).reshape(-1, 8, 8, 1)
    examples = ArraySource({"image": images, "label": table[:, -1].astype(np.int32)})
    order = np.random.RandomState(42).permutation(len(images))  # what train_test_split does
    test, train = np.split(order, [math.ceil(0.2 * len(images))])
    scale = standardizer(images[train]) if standardize else lambda image: image
    side = 8 * upsample

    def preprocess(batch: Batch) -> Batch:
        image = scale(batch["image"]).repeat(upsample, axis=1).repeat(upsample, axis=2)
        return {**batch, "image": flatten(image) if flat else image}

    return Dataset(
        name="digits",
        spec=Spec(
            {"image": Field((side * side,) if flat else (side, side, 1), "float32"), "label": Field((), "int32")},
            classes=tuple("0123456789"),
        ),
        splits={"train": take(examples, train), "test": take(examples, test)},
        preprocess=preprocess,
        reader=StrokeReader(8, (8, 5), "box", squash=True, upright=True, blocks=4),
    )


def _table() -> np.ndarray:
    """The 64 grey levels and the label of each image, `[1797, 65]`, from scikit-learn's file: its import is slow."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ImportError("the data set digits is a part of scikit-learn: pip install scikit-learn")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    return np.loadtxt(file, np.float32, delimiter=",")
