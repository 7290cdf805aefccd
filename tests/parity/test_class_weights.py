"""Losses whose classes and examples are weighed, beside Keras's and PyTorch's."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from tests.train.tasks.small import kernel_and_bias, linear, step_of
from train import losses
from train.tasks import classification

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")

CLASSES, BATCH = 4, 16
WEIGHTS = [0.5, 3.0, 0.0, 1.0]


def batch(**more):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(BATCH, 3)).astype(np.float32)
    return {"image": image, "label": (np.arange(BATCH) % CLASSES).astype(np.int32), **more}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("kind", ["class_weight", "sample_weight"])
def test_a_step_is_that_of_keras(kind):
    """Loss and parameters after `train_on_batch`: the mean is Σ wᵢ lᵢ / n."""
    weights = np.random.default_rng(1).uniform(0, 3, BATCH).astype(np.float32)
    given = {"sample_weight": weights} if kind == "sample_weight" else {}
    examples = batch(**given)
    task = classification(linear(CLASSES), optax.sgd(0.5), class_weight=None if given else WEIGHTS)
    state, new, found = step_of(task, examples)
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(CLASSES)])
    model.set_weights([np.asarray(leaf, np.float32) for leaf in kernel_and_bias(state)])
    model.compile(keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    options = given or {"class_weight": dict(enumerate(WEIGHTS))}
    with jax.numpy_rank_promotion("allow"):
        loss = model.train_on_batch(examples["image"], examples["label"], **options)
    assert found["loss"] == pytest.approx(float(loss), rel=1e-5)
    for ours, theirs in zip(kernel_and_bias(new), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_sum_is_torchs(smoothing):
    """PyTorch's sum over a batch; its mean divides by Σ wᵢ, ours by n. Of mixed labels the two agree as they stand."""
    rng = np.random.default_rng(1)
    labels = rng.dirichlet(np.ones(CLASSES), BATCH).astype(np.float32)
    examples = {"image": batch()["image"], "label": labels}
    task = classification(linear(CLASSES), optax.sgd(1.0), class_weight=WEIGHTS, label_smoothing=smoothing)
    state, _, found = step_of(task, examples)
    logits = np.array(linear(CLASSES).apply(state.variables, examples["image"]))
    if not smoothing:
        wanted = torch.nn.CrossEntropyLoss(weight=torch.tensor(WEIGHTS))(torch.tensor(logits), torch.tensor(labels))
        assert found["loss"] == pytest.approx(wanted.item(), rel=1e-5)
    # The mixture of the weighted losses of each class alone.
    each = [
        losses.cross_entropy(logits, np.full(BATCH, k, np.int32), label_smoothing=smoothing) for k in range(CLASSES)
    ]
    mixture = sum(labels[:, k] * WEIGHTS[k] * np.asarray(each[k]) for k in range(CLASSES))
    assert found["loss"] == pytest.approx(mixture.mean(), rel=1e-5)
    integers = {**examples, "label": batch()["label"]}
    found = step_of(task, integers)[2]
    own = torch.tensor(integers["label"]).long()
    plain = torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=smoothing)(torch.tensor(logits), own)
    weighted = plain.numpy() * np.float32(WEIGHTS)[integers["label"]]
    assert found["loss"] == pytest.approx(weighted.sum() / BATCH, rel=1e-5)
    if not smoothing:
        total = torch.nn.CrossEntropyLoss(weight=torch.tensor(WEIGHTS), reduction="sum")(torch.tensor(logits), own)
        assert found["loss"] * BATCH == pytest.approx(total.item(), rel=1e-5)
