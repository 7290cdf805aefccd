"""Augmentation inside the training step: what it sees, whose key it has, and what it leaves alone."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import data
import zoo
from train.loop import parallel
from train.loop.fitting import fit
from train.metrics import weigh
from train.recipe import Recipe
from train.runs.build import build
from train.runs.preview import augmented
from train.state import State, Task
from train.tasks import classification
from train.tasks.step import step_key

ROWS = 8


class Lazy:
    """A source that is not in memory."""

    def __init__(self, source):
        self._source = source

    def __len__(self):
        return len(self._source)

    def __getitem__(self, indices):
        return self._source[indices]


def dataset(lazy=False):
    """Images of zeros, which preprocessing makes tens."""
    source = data.ArraySource(
        {"image": np.zeros((ROWS, 2, 2, 1), np.float32), "label": np.arange(ROWS, dtype=np.int32) % 2}
    )
    spec = data.Spec({"image": data.Field((2, 2, 1), "float32"), "label": data.Field((), "int32")}, classes=("a", "b"))
    source = Lazy(source) if lazy else source
    splits = {"train": source, "validation": source}
    return data.Dataset("zeros", spec, splits, lambda batch: {**batch, "image": batch["image"] + 10})


def observer():
    """A task that learns nothing; its loss is the mean of the images that it sees, and `spread` how they differ."""

    def look(batch):
        means = batch["image"].mean(axis=(1, 2, 3))
        return weigh({"loss": means, "squared": means**2}, batch.get("mask"))

    def init(key, batch):
        return State(jnp.int32(0), {"w": jnp.zeros(())}, {}, (), jax.random.fold_in(key, 0))

    def train_step(state, batch):
        metrics = look(batch)
        axis = zoo.layers.batch_axis()
        metrics = metrics if axis is None else jax.lax.psum(metrics, axis)
        return dataclasses.replace(state, step=state.step + 1), metrics

    return Task(init, train_step, lambda state, batch: look(batch))


def draw(raw, key):
    """One number for all images of a device's step."""
    assert isinstance(raw["image"], jax.Array)
    return {**raw, "image": raw["image"] + jax.random.uniform(key)}


def losses(plan, lazy=False, **options):
    seen = []
    fitted = fit(
        observer(),
        dataset(lazy),
        batch_size=4,
        epochs=2,
        plan=plan,
        augment=draw,
        steps_per_dispatch=1,
        callbacks=[lambda report: None if report.evaluated else seen.append(report.metrics)],
        **options,
    )
    return seen, fitted


@pytest.mark.parametrize("lazy", [False, True])
def test_each_step_has_a_draw_of_its_own_and_evaluation_has_none(lazy):
    seen, fitted = losses(parallel.jit(jax.devices()[:1]), lazy)
    means = [metrics["loss"] for metrics in seen]
    assert len(set(means)) == 4
    state = State(jnp.int32(0), {}, {}, (), jax.random.fold_in(jax.random.key(0), 0))
    keys = [jax.random.fold_in(step_key(dataclasses.replace(state, step=jnp.int32(i))), 3) for i in range(4)]
    np.testing.assert_allclose(means, [10 + jax.random.uniform(key) for key in keys], rtol=1e-6)
    assert [row["validation_loss"] for row in fitted.history] == [10, 10]


def test_draws_depend_on_seed_and_step_alone():
    plan = parallel.jit(jax.devices()[:1])
    first, _ = losses(plan)
    assert losses(plan)[0] == first != losses(plan, seed=1)[0]
    for split, whole in zip(losses(parallel.jit(jax.devices()[:4]))[0], first, strict=True):
        assert split == pytest.approx(whole)


def test_each_device_of_a_pmap_has_a_draw_of_its_own():
    seen, _ = losses(parallel.pmap(jax.devices()[:2]))
    spreads = [metrics["squared"] - metrics["loss"] ** 2 for metrics in seen]
    assert min(spreads) > 1e-4
    one, _ = losses(parallel.pmap(jax.devices()[:1]))
    assert max(abs(m["squared"] - m["loss"] ** 2) for m in one) < 1e-4


# ---- recipes ----

DIGITS = Recipe(model="lenet5", data="digits", data_options={"upsample": 4}, batch_size=8)


def test_a_recipe_without_augmentation_has_none():
    assert build(DIGITS).augment is None


def test_a_recipe_changes_raw_images_and_its_labels():
    parts = build(dataclasses.replace(DIGITS, augmentation="guide", augmentation_options={"mixup": 0.3}))
    raw = parts.dataset.splits["train"][np.arange(4)]
    changed = jax.jit(parts.augment)(raw, key=jax.random.key(0))
    assert changed["image"].shape == raw["image"].shape == (4, 8, 8, 1)
    assert changed["label"].shape == (4, 10)
    np.testing.assert_allclose(changed["label"].sum(axis=1), 1, atol=1e-6)


def test_a_classifier_learns_from_mixed_labels():
    task = classification(zoo.create_model("mlp", hidden_sizes=(4,), num_classes=2), optax.sgd(0.1))
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    hard = np.array([0, 1, 1, 0, 1, 0], np.int32)
    state = task.init(jax.random.key(0), {"image": x})
    step = jax.jit(task.train_step)
    first, metrics = step(state, {"image": x, "label": hard})
    second, same = step(state, {"image": x, "label": np.eye(2, dtype=np.float32)[hard]})
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(metrics[name].total, same[name].total, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), first.params, second.params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": "guid"}, "unknown augmentation: 'guid'; known: guide"),
        ({"augmentation_options": {"hue": 0.1}}, "saturation and hue need images of 3 channels; these have 1"),
        ({"augmentation_options": {"tilt": 0.1}}, "unknown setting of an augmentation: 'tilt'"),
        (
            {"augmentation_options": {"mixup": 0.1}, "task": "reconstruction", "model": "conv_autoencoder"},
            "mixup and cutmix mix the labels of a classifier; the task is 'reconstruction'",
        ),
        (
            {"augmentation": "guide", "data": "iris", "model": "mlp", "data_options": {}},
            "has no field 'image'",
        ),
        ({"plateau_options": {"patients": 3}}, "unknown option of the plateau: 'patients'; nearest: patience"),
        ({"plateau_options": {"patience": 0}}, "patience of the plateau must be at least 1, not 0"),
        ({"plateau_options": {"monitor": "validation_los"}}, "unknown metric to monitor: 'validation_los'"),
    ],
)
def test_recipes_that_are_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        build(dataclasses.replace(DIGITS, **{"monitor": "validation_loss", **changes}))


def test_a_picture_of_the_augmentation():
    images = augmented(dataclasses.replace(DIGITS, augmentation="guide"), rows=3, columns=2, seed=1)
    assert images.shape == (3, 3, 8, 8, 1)
    train = data.load("digits", validation=0.1).splits["train"]
    np.testing.assert_array_equal(images[:, 0], train[np.linspace(0, len(train) - 1, 3, dtype=np.int32)]["image"])
    assert all((images[:, 0] != images[:, column]).any() for column in (1, 2))
    with pytest.raises(ValueError, match="this recipe has no augmentation; choose one"):
        augmented(DIGITS)
