"""Handwritten digits, 1797 images of 8x8 in 17 grey levels (Alpaydin & Kaynak, 1998), as scikit-learn has them."""

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
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if upsample < 1:
        raise ValueError(f"upsample must be at least 1; got {upsample}")
    images, labels = load_digits(return_X_y=True)
    images = (np.asarray(images) / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    examples = ArraySource({"image": images, "label": np.asarray(labels, np.int32)})
    train, test = map(np.asarray, train_test_split(np.arange(len(images)), test_size=0.2, random_state=42))
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
