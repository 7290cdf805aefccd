"""Weights of classes: what a mistake on each of them costs in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

import data
from data.dataset import labels_of

ClassWeight = Sequence[float] | np.ndarray | Mapping[int, float]
"""One weight a class, in their order; or by number, where classes that are not named have the weight 1."""


def class_weights(given: str | ClassWeight | Mapping[str, float], dataset: data.Dataset) -> list[float]:
    """One weight for each class of a data set, as the task classification takes them.

        weights = class_weights("balanced", digits)
        task = classification(model, tx, class_weight=weights)

    Args:
      given: "balanced", by which class k of K with nₖ of n training examples has the weight n / (K nₖ), as in
        scikit-learn: the mean over the training examples is 1. Or numbers in the order of the classes; or numbers by
        name (or number) of a class, where the others have the weight 1.
      dataset: has classes; for "balanced", its split "train" is counted.

    Raises:
      ValueError: a weight is negative or no number, there is none for some class, or one for a class that is unknown;
        or, for "balanced", a class has no training example.
    """
    classes = dataset.spec.classes
    if not classes:
        raise ValueError(f"class_weight weighs classes, and the data set {dataset.name!r} has none")
    if isinstance(given, str):
        if given != "balanced":
            raise ValueError(f"class_weight is 'balanced', a list of numbers, or numbers by class; not {given!r}")
        return _balanced(dataset)
    if isinstance(given, Mapping):
        numbers = {name: index for index, name in enumerate(classes)}
        numbers |= {str(index): index for index in range(len(classes)) if str(index) not in numbers}
        for name in given:
            if str(name) not in numbers:
                shown = ", ".join(classes[:10]) + (" …" if len(classes) > 10 else "")
                raise ValueError(f"class_weight: the data set {dataset.name!r} has no class {name!r}; it has {shown}")
        named = {numbers[str(name)]: weight for name, weight in given.items()}
        if len(named) < len(given):
            raise ValueError(f"class_weight gives two weights to one class: {dict(given)}")
        given = named
    return weights_in_order(given, len(classes)).tolist()


def weights_in_order(given: ClassWeight | str, num_classes: int) -> np.ndarray:
    """The weights of classes 0, 1 …, float32 `[num_classes]`.

    Raises:
      ValueError: they are of another number, or one is negative or no number; names what was found.
    """
    if isinstance(given, str):
        raise ValueError(
            f"class_weight={given!r} needs the labels of all training examples, which a task does not see: "
            "give it train.class_weights.class_weights('balanced', dataset)"
        )
    if isinstance(given, Mapping):
        unknown = [k for k in given if isinstance(k, bool) or not isinstance(k, int | np.integer)]
        unknown += [k for k in given if k not in unknown and not 0 <= k < num_classes]
        if unknown:
            raise ValueError(f"class_weight: there is no class {unknown[0]!r}; classes are 0 … {num_classes - 1}")
        given = [given.get(index, 1.0) for index in range(num_classes)]
    numbers = [isinstance(each, int | float | np.number) and not isinstance(each, bool) for each in given]
    if not all(numbers):
        raise ValueError(f"class_weight holds {given[numbers.index(False)]!r}, which is no number")
    weights = np.asarray(given, np.float32)
    if weights.shape != (num_classes,):
        raise ValueError(f"class_weight needs one weight for each of the {num_classes} classes; it has {len(weights)}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        bad = int(np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))[0])
        raise ValueError(f"class_weight of class {bad} is {weights[bad]:g}; weights are finite and at least 0")
    if not weights.any():
        raise ValueError("class_weight is 0 for all classes: nothing would be learned")
    return weights


def _balanced(dataset: data.Dataset) -> list[float]:
    labels = labels_of(dataset.splits["train"])
    if labels is None:
        raise ValueError(
            f"class_weight='balanced' counts labels, and those of {dataset.name!r} are not known before its examples "
            "are read: give the weights as numbers"
        )
    counts = np.bincount(labels, minlength=dataset.spec.num_classes)
    if missing := [name for name, count in zip(dataset.spec.classes, counts, strict=True) if not count]:
        raise ValueError(
            f"class_weight='balanced' divides by the number of examples of each class, and {dataset.name!r} has no "
            f"training example of {', '.join(map(repr, missing[:5]))}: give the weights as numbers"
        )
    return (len(labels) / (len(counts) * counts)).tolist()
