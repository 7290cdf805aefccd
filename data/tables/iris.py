"""Iris: four lengths in cm of 150 flowers of three species (Fisher, 1936), as scikit-learn has it."""

import numpy as np

from data.dataset import ArraySource, Batch, Dataset, Field, Spec, take
from data.registry import register
from data.scaling import standardizer


@register("iris")
def iris(*, positive: str | None = None, standardize: bool = False) -> Dataset:
    """120 train and 30 test examples, stratified: `train_test_split(test_size=0.2, random_state=42, stratify=y)`.

    Args:
        positive: makes the task binary: label 1 for this species, 0 for the others. "setosa" is linearly separable.
        standardize: zero mean and unit variance for each feature, by the statistics of the whole train split.
    """
    from sklearn.datasets import load_iris
    from sklearn.model_selection import train_test_split

    features, labels = (np.asarray(array) for array in load_iris(return_X_y=True))
    features = features.astype(np.float32)
    classes = ("setosa", "versicolor", "virginica")
    rows = np.arange(len(labels))
    train, test = map(np.asarray, train_test_split(rows, test_size=0.2, random_state=42, stratify=labels))
    if positive is not None:
        if positive not in classes:
            raise ValueError(f"positive must be one of {', '.join(classes)}; got {positive!r}")
        labels = labels == classes.index(positive)
        classes = ("other", positive)
    examples = ArraySource({"features": features, "label": labels.astype(np.int32)})
    scale = standardizer(features[train]) if standardize else lambda x: x

    def preprocess(batch: Batch) -> Batch:
        return {**batch, "features": scale(batch["features"])}

    return Dataset(
        name="iris",
        spec=Spec({"features": Field((4,), "float32"), "label": Field((), "int32")}, classes),
        splits={"train": take(examples, train), "test": take(examples, test)},
        preprocess=preprocess,
    )
