"""What is told of all predictions of a split together, by scikit-learn: scores of each class, and areas under curves.

Which metrics belong to which kind of task (guide, section 12.2):

- classification: `loss`, `accuracy`, `top_5_accuracy`, `balanced_accuracy`, precision, recall and F1 as macro and
  weighted means, `log_loss` and `expected_calibration_error` are sums, which the task's `eval_step` makes. `roc_auc`
  and `average_precision` need the order of all predictions, and are made here; of two classes they are of the second.
- regression: `loss`, `mae`, `rmse` and `r2`, all of them sums.
- language_modeling: `loss`, `accuracy`, `perplexity`, `bits_per_character`; seq2seq: `loss`, `accuracy`, `perplexity`,
  `sequence_accuracy`, and `exact_match` of what greedy decoding finds.
- reconstruction: `loss`, `mse`; vae: `loss`, `elbo`, `reconstruction`, `kl`; diffusion: `loss`, the error of the noise.
- gan: the losses and logits of its players, which measure no progress; `train.inference.fidelity` judges its images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from train.metrics import calibration_bins
from train.tasks.classification import predicted_class


class ClassPredictions(NamedTuple):
    """What a classifier makes of a split.

    Attributes:
      labels: integer `[examples]`.
      predicted: the most probable class, integer `[examples]`.
      probabilities: `[examples, classes]`, float64: in float32 all that are nearly 1 would be equal, and have no order.
      classes: their names.
    """

    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]

    @classmethod
    def of_logits(cls, labels: np.ndarray, logits: np.ndarray, classes: tuple[str, ...]) -> ClassPredictions:
        """From logits, float32 `[examples, classes]`, or `[examples, 1]` where there are two classes.

        Raises:
          ValueError: the logits are those of another number of classes.
        """
        from scipy.special import softmax

        predicted = np.asarray(predicted_class(jnp.asarray(logits)))
        if logits.shape[1] == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        if logits.shape[1] != len(classes):
            raise ValueError(f"the model gives {logits.shape[1]} outputs, and the data have {len(classes)} classes")
        return cls(labels.astype(np.int32), predicted, softmax(logits.astype(np.float64), axis=1), classes)

    @property
    def of_label(self) -> np.ndarray:
        """The probability of the right class, `[examples]`."""
        return self.probabilities[np.arange(len(self.labels)), self.labels]


class Estimates(NamedTuple):
    """What a regression makes of a split, `[examples, targets]`, in the units of the data, and the targets' names."""

    targets: np.ndarray
    predictions: np.ndarray
    names: tuple[str, ...]


def confusion_matrix(predictions: ClassPredictions) -> np.ndarray:
    """How often each class was taken for each, counts `[actual, predicted]`."""
    from sklearn import metrics

    numbers = list(range(len(predictions.classes)))
    return metrics.confusion_matrix(predictions.labels, predictions.predicted, labels=numbers)


def class_report(predictions: ClassPredictions) -> dict[str, Any]:
    """Precision, recall, F1 (eq. 76-78), area under the ROC curve and average precision of each class, and their means.

    The rows are as in scikit-learn's `classification_report`, with `roc_auc` and `average_precision`, of each class
    against all others. "macro avg" is the mean over the classes that occur among labels or predictions; where there is
    one label an example, "micro avg" is the accuracy; it has no areas.

    A class that occurs in neither has no scores: they are NaN. So are the areas of a class that has no label, or all;
    and with them their means.
    """
    from sklearn import metrics

    labels, predicted, classes = predictions.labels, predictions.predicted, predictions.classes
    numbers = list(range(len(classes)))
    of: Any = metrics.precision_recall_fscore_support
    score = partial(of, labels, predicted, zero_division=0)
    every = score(labels=numbers)
    occurring = np.bincount(labels, minlength=len(classes)) + np.bincount(predicted, minlength=len(classes)) > 0
    areas = [_areas(labels == number, predictions.probabilities[:, number]) for number in numbers]
    rows: dict[str, Any] = {}
    for number, name in enumerate(classes):
        scores = [float(part[number]) if occurring[number] else math.nan for part in every[:3]]
        rows[name] = _row(scores, int(every[3][number]), areas[number])
    for average in ("micro", "macro", "weighted"):
        *scores, _ = score(average=average)
        areas_of_all = () if average == "micro" else _mean_areas(areas, every[3] if average == "weighted" else None)
        rows[f"{average} avg"] = _row(list(map(float, scores)), len(labels), areas_of_all)
    return rows


def ranking(predictions: ClassPredictions, report: dict[str, Any]) -> dict[str, float]:
    """`roc_auc` and `average_precision`: of the second of two classes, else the mean over all."""
    classes = predictions.classes
    row = report[classes[1]] if len(classes) == 2 else report["macro avg"]
    return {name: row[name] for name in ("roc_auc", "average_precision")}


def top_label_bins(predictions: ClassPredictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each bin of the confidence: examples, mean confidence, share that is right; NaN where it is empty."""
    confidence = jnp.asarray(predictions.probabilities.max(axis=1), jnp.float32)
    bins = calibration_bins(confidence, jnp.asarray(predictions.predicted == predictions.labels))
    examples, confident, right = (np.asarray(part, np.float64) for part in bins)
    empty = np.full_like(examples, np.nan)
    means = [np.divide(part, examples, out=empty.copy(), where=examples > 0) for part in (confident, right)]
    return examples, means[0], means[1]


def require_finite(values: np.ndarray, where: str) -> None:
    """Refuses outputs of a model that are no numbers: whatever is counted of them would be wrong.

    Raises:
      ValueError: says how many examples have such outputs, and which is the first.
    """
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if bad.size:
        raise ValueError(
            f"the outputs of the model are no finite numbers for {bad.size} of the {len(values)} examples of {where}; "
            f"the first is example {bad[0]}. Look at its inputs, and whether the training diverged"
        )


def _areas(positive: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Area under the ROC curve and average precision; NaN where all examples are positive, or none."""
    from sklearn import metrics

    if positive.all() or not positive.any():
        return math.nan, math.nan
    return float(metrics.roc_auc_score(positive, scores)), float(metrics.average_precision_score(positive, scores))


def _mean_areas(areas: Sequence[tuple[float, float]], weights: np.ndarray | None) -> tuple[float, float]:
    roc, precision = np.average(np.asarray(areas), axis=0, weights=weights)
    return float(roc), float(precision)


def _row(scores: Sequence[float], support: int, areas: Sequence[float]) -> dict[str, float]:
    names = ("precision", "recall", "f1-score", "support", "roc_auc", "average_precision")
    return dict(zip(names, (*scores, support, *areas), strict=False))
