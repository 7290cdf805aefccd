"""Metrics as sums and counts, so that they merge exactly across batches, devices and hosts.

Guide, section 12.2. What is no sum, such as the area under a curve, is computed of all predictions, see
`train.inference.scores`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

CALIBRATION_BINS = 15
"""Equal bins of the confidence, as in Guo et al. 2017."""

_Sums = TypeVar("_Sums", bound=tuple)


class Metric(Protocol):
    """A named tuple of sums over examples. Arrays may have leading axes, such as steps, which `summary` sums over."""

    def merge(self, other: Any, /) -> Any:
        """The metric of both sets of examples together."""
        ...

    def summary(self) -> float:
        """The metric as a number."""
        ...


def _added(first: _Sums, second: _Sums) -> _Sums:
    return jax.tree.map(lambda a, b: a + b, first, second)


class Mean(NamedTuple):
    """A weighted mean in parts: `total` is Σ wᵢ vᵢ, `weight` is Σ wᵢ."""

    total: jax.Array
    weight: jax.Array

    def merge(self, other: Mean) -> Mean:
        """The mean over both sets of examples."""
        return _added(self, other)

    def summary(self) -> float:
        """The mean as a number. Totals may have leading axes, such as steps, which are summed in float64."""
        # Of an array of JAX, np.sum would be JAX's own, in float32.
        total, weight = (np.asarray(part).sum(dtype=np.float64) for part in self)
        return float(total / weight)


class HalfWidth(NamedTuple):
    """Half the width of the 95 % confidence interval of a mean of n values: 1.96 standard deviations / √n.

    Attributes:
      deviations: Σ (vᵢ − m)² within parts, each around its own mean m.
      total: Σ vᵢ of each part.
      squares: (Σ vᵢ)² / n of each part, so that parts may be added.
      weight: n.
    """

    deviations: jax.Array
    total: jax.Array
    squares: jax.Array
    weight: jax.Array

    @classmethod
    def of(cls, value: jax.Array, mask: jax.Array | None = None) -> HalfWidth:
        """Of values `[batch]`, those that `mask` (0 or 1) keeps."""
        kept = jnp.ones(value.shape, bool) if mask is None else mask > 0
        value = jnp.where(kept, value.astype(jnp.float32), 0)
        weight = kept.sum(dtype=jnp.float32)
        mean = value.sum() / jnp.maximum(weight, 1)
        return cls(jnp.where(kept, jnp.square(value - mean), 0).sum(), value.sum(), value.sum() * mean, weight)

    def merge(self, other: HalfWidth) -> HalfWidth:
        """Of both sets of values."""
        return _added(self, other)

    def summary(self) -> float:
        """See the class; NaN for a single value."""
        deviations, total, squares, weight = (np.asarray(part).sum(dtype=np.float64) for part in self)
        if weight < 2:
            return math.nan
        variance = max(deviations + squares - total**2 / weight, 0.0) / (weight - 1)
        return float(1.96 * math.sqrt(variance / weight))


class Perplexity(Mean):
    """The parts of a mean cross-entropy in nats, summarised as its exponential."""

    def summary(self) -> float:
        """See the class."""
        with np.errstate(over="ignore"):
            return float(np.exp(super().summary()))


class Bits(Mean):
    """The parts of a mean in nats, summarised in bits."""

    def summary(self) -> float:
        """See the class."""
        return super().summary() / math.log(2)


class ClassCounts(NamedTuple):
    """TP, TP + FP and TP + FN of each class (eq. 75-78), each `[…, classes]`."""

    hits: jax.Array
    predicted: jax.Array
    actual: jax.Array

    def merge(self, other: ClassCounts) -> ClassCounts:
        """The counts of both sets of examples."""
        return _added(self, other)

    def scores(self) -> ClassScores:
        """Precision, recall and F1 of each class (eq. 76-78); 0 where they are 0/0, as in scikit-learn."""
        hits, predicted, actual = (_summed(part) for part in self)

        def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
            return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)

        f1 = ratio(2 * hits, predicted + actual)
        return ClassScores(ratio(hits, predicted), ratio(hits, actual), f1, predicted, actual)


class ClassScores(NamedTuple):
    """Precision, recall and F1 of each class, and how often it is predicted and actual, float64 `[classes]`."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    predicted: np.ndarray
    actual: np.ndarray

    def macro(self, values: np.ndarray) -> float:
        """The mean over the classes that occur among labels or predictions."""
        return _mean(values, self.predicted + self.actual > 0)

    def weighted(self, values: np.ndarray) -> float:
        """The mean over classes, each weighted by its number of labels."""
        return _mean(values, self.actual)


class BalancedAccuracy(ClassCounts):
    """Summarised as the mean recall of the classes that occur among the labels."""

    def summary(self) -> float:
        """See the class."""
        scores = self.scores()
        return _mean(scores.recall, scores.actual > 0)


class MacroPrecision(ClassCounts):
    """Summarised as the mean precision of all classes that occur among labels or predictions."""

    def summary(self) -> float:
        """See the class."""
        scores = self.scores()
        return scores.macro(scores.precision)


class MacroRecall(ClassCounts):
    """Summarised as the mean recall of all classes that occur among labels or predictions."""

    def summary(self) -> float:
        """See the class."""
        scores = self.scores()
        return scores.macro(scores.recall)


class MacroF1(ClassCounts):
    """Summarised as the mean F1 of all classes that occur among labels or predictions."""

    def summary(self) -> float:
        """See the class."""
        scores = self.scores()
        return scores.macro(scores.f1)


class WeightedPrecision(ClassCounts):
    """Summarised as the mean precision, each class weighted by its number of labels."""

    def summary(self) -> float:
        """See the class."""
        scores = self.scores()
        return scores.weighted(scores.precision)


class WeightedF1(ClassCounts):
    """Summarised as the mean F1, each class weighted by its number of labels."""

    def summary(self) -> float:
        """See the class."""
        scores = self.scores()
        return scores.weighted(scores.f1)


class CalibrationBins(NamedTuple):
    """Examples by the confidence of their prediction: number, Σ confidence and number right, each `[…, bins]`."""

    examples: jax.Array
    confidence: jax.Array
    right: jax.Array

    def merge(self, other: CalibrationBins) -> CalibrationBins:
        """The bins of both sets of examples."""
        return _added(self, other)

    def summary(self) -> float:
        """The expected calibration error: Σ |right − Σ confidence| / n over bins (Guo et al. 2017, eq. 3)."""
        examples, confidence, right = (_summed(part) for part in self)
        return float(np.abs(right - confidence).sum() / examples.sum()) if examples.sum() else math.nan


class TargetSums(NamedTuple):
    """What squared errors and R² of each target are made of.

    Attributes:
      squared_error: Σ (y − ŷ)², `[…, targets]`.
      coarse: n c, `[…, targets]`, where c is ȳ to eight binary digits, so that float32 holds it exactly.
      fine: Σ (y − c), `[…, targets]`: both together are Σ y.
      spread: Σ (y − ȳ)² around the mean of these examples, `[…, targets]`. Σ y² would lose its digits in float32 where
        the mean is large.
      weight: number of examples, `[…]`.
    """

    squared_error: jax.Array
    coarse: jax.Array
    fine: jax.Array
    spread: jax.Array
    weight: jax.Array

    def merge(self, other: TargetSums) -> TargetSums:
        """The sums of both sets of examples; spreads merge as in Chan, Golub & LeVeque 1979, eq. 1.5b."""
        first, second = self.weight[..., None], other.weight[..., None]
        count = jnp.maximum(first + second, 1)
        here, there = (rounded(part.coarse / jnp.maximum(part.weight[..., None], 1)) for part in (self, other))
        together = rounded((self.coarse + self.fine + other.coarse + other.fine) / count)
        fine = self.fine + other.fine + first * (here - together) + second * (there - together)
        apart = there - here + other.fine / jnp.maximum(second, 1) - self.fine / jnp.maximum(first, 1)
        spread = self.spread + other.spread + jnp.square(apart) * first * second / count
        error, weight = self.squared_error + other.squared_error, self.weight + other.weight
        return type(self)(error, (first + second) * together, fine, spread, weight)

    def of_all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Mean, Σ (y − ŷ)² and Σ (y − ȳ)² of each target in float64, and the number of examples."""
        weight = np.asarray(self.weight, np.float64).reshape(-1, 1)
        error, coarse, fine, spread = (np.asarray(part, np.float64).reshape(len(weight), -1) for part in self[:4])
        total = coarse + fine
        count = max(float(weight.sum()), 1.0)
        mean = total.sum(axis=0) / count
        between = weight * np.square(total / np.maximum(weight, 1) - mean)
        return mean, error.sum(axis=0), (spread + between).sum(axis=0), float(weight.sum())


def rounded(mean: jax.Array) -> jax.Array:
    """To eight binary digits, so that float32 holds its multiples exactly."""
    return jax.lax.reduce_precision(mean, exponent_bits=8, mantissa_bits=7)


class RootMeanSquaredError(TargetSums):
    """Summarised as √(Σ (y − ŷ)² / n), the mean of it over targets, as scikit-learn does."""

    def summary(self) -> float:
        """See the class."""
        _, error, _, count = self.of_all()
        return float(np.sqrt(error / count).mean()) if count else math.nan


class R2(TargetSums):
    """Summarised as 1 − Σ (y − ŷ)² / Σ (y − ȳ)², the mean of it over targets.

    Of fewer than two examples it is NaN. Of a target that is always the same it is 1 where it is told exactly, else 0.
    All of it as scikit-learn does.
    """

    def summary(self) -> float:
        """See the class."""
        mean, error, spread, count = self.of_all()
        if count < 2:
            return math.nan
        constant = spread <= count * np.square(4 * np.finfo(np.float32).eps * mean)  # what rounding the mean leaves
        told = 1 - np.divide(error, spread, out=np.zeros_like(error), where=~constant)
        return float(np.where(constant, np.where(error == 0, 1.0, 0.0), told).mean())


def _summed(part: Any) -> np.ndarray:
    """The sum over all axes but the last, in float64."""
    part = np.asarray(part, np.float64)
    return part.reshape(-1, part.shape[-1]).sum(axis=0)


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    return float((values * weights).sum() / weights.sum()) if weights.any() else math.nan


Metrics = dict[str, Any]
"""Metrics by name, each a `Metric`."""


def weigh(values: Mapping[str, jax.Array], mask: jax.Array | None = None) -> dict[str, Mean]:
    """Sums per-example values, each `[batch, …]`, over the examples that `mask` (0 or 1, of the same shape) keeps.

    Without a mask every example counts once.
    """

    def mean(value: jax.Array) -> Mean:
        value = value.astype(jnp.float32)
        weight = jnp.ones_like(value) if mask is None else mask.astype(jnp.float32)
        # A masked example may hold anything, also NaN.
        return Mean(jnp.where(weight > 0, value * weight, 0).sum(), weight.sum())

    return {name: mean(value) for name, value in values.items()}


def class_metrics(
    predicted: jax.Array, labels: jax.Array, num_classes: int, mask: jax.Array | None = None
) -> dict[str, Metric]:
    """Balanced accuracy, and precision, recall and F1 averaged over classes.

    Where each example has one label, the micro averages of the three, and recall weighted by labels, are the accuracy.

    Args:
      predicted: classes, integer `[batch]`; −1 for none.
      labels: classes, integer `[batch]`.
      num_classes: their number.
      mask: 0 or 1, `[batch]`.
    """
    kept = jnp.ones(labels.shape) if mask is None else mask.astype(jnp.float32)
    actual = jax.nn.one_hot(labels, num_classes) * kept[:, None]
    told = jax.nn.one_hot(predicted, num_classes) * kept[:, None]
    counts = ((actual * told).sum(axis=0), told.sum(axis=0), actual.sum(axis=0))
    return {
        "balanced_accuracy": BalancedAccuracy(*counts),
        "precision_macro": MacroPrecision(*counts),
        "recall_macro": MacroRecall(*counts),
        "f1_macro": MacroF1(*counts),
        "precision_weighted": WeightedPrecision(*counts),
        "f1_weighted": WeightedF1(*counts),
    }


def calibration_bins(confidence: jax.Array, right: jax.Array, mask: jax.Array | None = None) -> CalibrationBins:
    """The sums of the expected calibration error; bin m of M is ((m − 1) / M, m / M].

    Args:
      confidence: probability of the predicted class, `[batch]`.
      right: whether it is that of the label, `[batch]`.
      mask: 0 or 1, `[batch]`.
    """
    kept = jnp.ones(confidence.shape, bool) if mask is None else mask > 0
    edges = jnp.asarray(np.linspace(0, 1, CALIBRATION_BINS + 1, dtype=np.float32)[1:-1])
    inside = jax.nn.one_hot(jnp.searchsorted(edges, confidence, side="left"), CALIBRATION_BINS)
    inside = jnp.where(kept[:, None], inside, 0)
    confidence = jnp.where(kept, confidence.astype(jnp.float32), 0)
    parts = (jnp.ones_like(confidence), confidence, right.astype(jnp.float32))
    return CalibrationBins(*((inside * part[:, None]).sum(axis=0) for part in parts))


def merge(first: Metrics, second: Metrics) -> Metrics:
    """The metrics of both sets of examples together."""
    return {name: metric.merge(second[name]) for name, metric in first.items()}


_BETTER_HIGH = {"accuracy", "elbo", "precision", "recall", "f1", "r2", "auc"}


def higher_is_better(name: str) -> bool:
    """Whether more of a metric is better: of an accuracy, F1, R² or a bound on the likelihood, yes; of an error, no.

    Of "step" too: a GAN has no metric that tells, and its newest checkpoint is taken for the best.
    """
    words = name.split("_")
    return name == "step" or (words[-1] not in ("loss", "error") and bool(_BETTER_HIGH & set(words)))


def summarize(metrics: Metrics) -> dict[str, float]:
    """Each metric as a number, see `Metric.summary`."""
    return {name: metric.summary() for name, metric in metrics.items()}
