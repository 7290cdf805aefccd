"""How good generated images are, in the eyes of a classifier that was trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.inference.image_sampling import draw, generator
from train.inference.loading import Run, load
from train.inference.prediction import image_classifier
from train.loop.feed import padded_rows, require_split

_BATCH = 256


def fidelity(
    folder: str | Path, classifier: str | Path, split: str = "test", *, n: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Draws images from a generative run and shows them to the classifier of another run.

    Args:
      folder: the run of a VAE, a GAN or a diffusion model.
      classifier: the run of a classifier of the same kind of images, whose model knows `num_classes=0`.
      split: of the generative run's data: the real images to compare with.
      n: how many images to draw; as many as the split has, 10,000 at most, unless given.
      seed: of the images.

    Returns:
      `classifier_frechet_distance`, see `frechet_distance`, in the space of the classifier's last features. This is not
        the FID of the literature, which takes the features of an Inception network trained on ImageNet;
      `classifier_frechet_distance_of_real`, the same for n images of the training split: what a perfect model would
        reach;
      `classifier_confidence`, the mean probability of the class that the classifier finds most probable;
      `classifier_confidence_in_real`, the same for the real images;
      `class_coverage`, the share of the classes that are found among the generated images, at least a tenth as often as
        if all were alike frequent; `class_shares`, the share of the images in each class.

    Raises:
      ValueError: one of the runs is of another kind than is needed, or their images differ in shape.
    """
    run, judge = load(folder), load(classifier)
    _require_suited(run, judge)
    n = n or min(10_000, len(require_split(run.dataset, split)))
    generated = _seen(judge, draw(run, n, seed))
    real, training = (_seen(judge, _images(run, name, n)) for name in (split, "train"))
    classes = judge.dataset.spec.classes
    shares = np.bincount(generated[1].argmax(axis=1), minlength=len(classes)) / n
    return {
        "classifier_frechet_distance": frechet_distance(generated[0], real[0]),
        "classifier_frechet_distance_of_real": frechet_distance(training[0], real[0]),
        "classifier_confidence": float(generated[1].max(axis=1).mean()),
        "classifier_confidence_in_real": float(real[1].max(axis=1).mean()),
        "class_coverage": float(np.mean(shares >= 0.1 / len(classes))),
        "class_shares": dict(zip(classes, map(float, shares), strict=True)),
    }


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½): the squared 2-Wasserstein distance between normal distributions.

    Those with the means and covariances of the two sets of features, `[examples, features]` (Dowson & Landau 1982;
    Heusel et al. 2017). Covariances are biased where there are few more examples than features: compare equal numbers.
    """
    means = [features.mean(axis=0, dtype=np.float64) for features in (first, second)]
    covariances = [np.atleast_2d(np.cov(features.astype(np.float64), rowvar=False)) for features in (first, second)]
    # Σ₁ Σ₂ has the eigenvalues of the symmetric Σ₁^½ Σ₂ Σ₁^½.
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum()
    traces = np.trace(covariances[0]) + np.trace(covariances[1])
    return float(np.square(means[0] - means[1]).sum() + traces - 2 * overlap)


def _require_suited(run: Run, judge: Run) -> None:
    generator(run)
    image_classifier(judge)
    if not hasattr(judge.model, "num_classes"):
        raise ValueError(f"the classifier {judge.recipe.model} gives no features: it has no option num_classes")
    drawn, known = run.dataset.spec.fields["image"].shape, judge.dataset.raw_image_shape
    if drawn != known:
        raise ValueError(f"the classifier takes images of shape {list(known)}, and this run draws {list(drawn)}")


def _images(run: Run, split: str, n: int) -> np.ndarray:
    """The first n images of a split, as the model was trained on them."""
    source = require_split(run.dataset, split)
    return np.asarray(run.dataset.preprocess(source[np.arange(min(n, len(source)))])["image"])


def _seen(judge: Run, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classifier's last features and its class probabilities, `[n, features]` and `[n, classes]`."""
    headless = judge.model.clone(num_classes=0)
    classify = image_classifier(judge)

    @jax.jit
    def see(images: jax.Array) -> tuple[Any, jax.Array]:
        prepared = judge.dataset.preprocess({"image": images})["image"]
        return headless.apply(judge.variables, prepared), classify(images)

    parts = []
    for rows in padded_rows(len(images), min(_BATCH, len(images))):
        features, probabilities = see(jnp.asarray(images[np.maximum(rows, 0)]))
        parts.append((np.asarray(features, np.float32)[rows >= 0], np.asarray(probabilities)[rows >= 0]))
    features, probabilities = zip(*parts, strict=True)
    return np.concatenate(features), np.concatenate(probabilities)
