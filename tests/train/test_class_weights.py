"""Weights of classes and examples in training, and what is refused. See also `tests.parity.test_class_weights`."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

import data
from data import augment
from tests.train.tasks.small import linear, step_of
from train import losses
from train.class_weights import class_weights, weights_in_order
from train.loop import fit, parallel
from train.metrics import summarize
from train.recipe import Recipe
from train.runs.build import build
from train.tasks import classification, gan, language_modeling, regression

CLASSES, BATCH = 4, 16
WEIGHTS = [0.5, 3.0, 0.0, 1.0]
NAMES = ("ham", "spam", "eggs")


@functools.cache
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(BATCH, 3)).astype(np.float32),
        "label": (np.arange(BATCH) % CLASSES).astype(np.int32),
        "sample_weight": rng.uniform(0, 2, BATCH).astype(np.float32),
    }


def named(labels, classes=NAMES):
    return data.from_arrays(features=np.zeros((len(labels), 2)), label=np.array(labels), classes=classes)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=40))
def test_balanced_is_scikit_learns(labels):
    labels = [0, 1, 2, *labels]
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=np.array(labels))
    np.testing.assert_allclose(class_weights("balanced", named(labels)), wanted)
    assert np.mean(wanted[labels]) == pytest.approx(1)


def test_weights_by_name_and_number():
    dataset = named([0, 1, 2])
    assert class_weights({"spam": 5}, dataset) == [1, 5, 1]
    assert class_weights({"1": 5, 0: 2.5}, dataset) == [2.5, 5, 1]
    assert class_weights([1, 2, 0], dataset) == [1, 2, 0]
    np.testing.assert_array_equal(weights_in_order({2: 3}, 4), np.float32([1, 1, 3, 1]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1, 2], "one weight for each of the 3 classes; it has 2"),
        ([1, -2, 1], "class 1 is -2"),
        ([1, 1, float("nan")], "class 2 is nan"),
        ([1, float("inf"), 1], "class 1 is inf"),
        ([0, 0, 0], "0 for all classes"),
        (["1", 2, 3], "'1', which is no number"),
        ([True, 2, 3], "True, which is no number"),
        ({"bacon": 2}, "no class 'bacon'; it has ham, spam, eggs"),
        ({"spam": 2, 1: 3}, "two weights to one class"),
        ({3: 1.0}, "no class 3"),
        ("balance", "not 'balance'"),
    ],
)
def test_bad_weights(given, message):
    with pytest.raises(ValueError, match=message):
        class_weights(given, named([0, 1, 2]))


def test_balanced_needs_an_example_of_each_class():
    with pytest.raises(ValueError, match="no training example of 'eggs'"):
        class_weights("balanced", named([0, 1, 1]))


def gradient(state, new):
    return jax.tree.map(lambda before, after: before - after, state.params, new.params)


def test_two_classes_with_one_logit():
    examples = {"image": batch()["image"], "label": batch()["label"] % 2}
    plain, weighted = (
        step_of(classification(linear(1), optax.sgd(1.0), class_weight=weights), examples)[2]["loss"]
        for weights in (None, [1.0, 1.0])
    )
    assert plain == weighted
    _, _, found = step_of(classification(linear(1), optax.sgd(1.0), class_weight={1: 0.0}), examples)
    state, _, _ = step_of(classification(linear(1), optax.sgd(1.0)), examples)
    z = np.asarray(linear(1).apply(state.variables, examples["image"]))[:, 0]
    negative = np.where(examples["label"] == 0, np.log1p(np.exp(z)), 0)
    assert found["loss"] == pytest.approx(negative.mean(), rel=1e-5)


def test_evaluation_weighs_nothing():
    plain, weighted = (
        classification(linear(CLASSES), optax.sgd(1.0), class_weight=weights) for weights in (None, WEIGHTS)
    )
    state = plain.init(jax.random.key(0), batch())
    assert summarize(weighted.eval_step(state, batch())) == summarize(plain.eval_step(state, batch()))


def test_weight_zero_is_not_there_and_weight_two_is_there_twice():
    """But n counts all: the gradient is that of the repeated examples, times their number over n."""
    examples = {name: array[:4] for name, array in batch().items()}
    counts = np.array([0, 1, 2, 1])
    weighted = {**examples, "sample_weight": np.float32(counts)}
    repeated = {name: np.repeat(array, counts, axis=0) for name, array in examples.items() if name != "sample_weight"}
    task = classification(linear(CLASSES), optax.sgd(1.0))
    first, second = (gradient(*step_of(task, each)[:2]) for each in (weighted, repeated))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), first, second)


@pytest.mark.parametrize("plan", ["jit", "fsdp", "pmap"])
def test_padding_and_plans_agree(plan):
    """Half of the batch is padding with weights and inputs that are NaN; on eight devices it is the same step."""
    examples = batch()
    padded = {name: np.concatenate([array, np.zeros_like(array)]) for name, array in examples.items()}
    padded["mask"] = np.repeat([True, False], BATCH)
    padded["sample_weight"][BATCH:] = np.nan
    task = classification(linear(CLASSES), optax.sgd(1.0), class_weight=WEIGHTS)
    state, wanted, loss = step_of(task, examples)
    on = parallel.plan(plan)
    program = on.compile(lambda state, items, shared: task.train_step(state, items), donate=False)
    order = np.arange(2 * BATCH).reshape(2, BATCH).T.reshape(-1)  # padding on every device
    placed, metrics = program(on.place(state), on.split({n: a[order] for n, a in padded.items()}, 0), {})
    new = on.unplace(placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.params, wanted.params)
    assert summarize(metrics) == pytest.approx(loss, rel=1e-5)


def test_weights_of_examples_in_other_tasks():
    x = batch()["image"]
    examples = {"inputs": x, "target": x[:, :2], "sample_weight": batch()["sample_weight"]}
    state, _, found = step_of(regression(linear(2), optax.sgd(1.0)), examples)
    error = np.asarray(linear(2).apply(state.variables, x)) - x[:, :2]
    assert found["loss"] == pytest.approx((np.square(error).mean(axis=1) * examples["sample_weight"]).mean(), rel=1e-5)
    assert found["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_weights_of_examples_are_refused_before_training(bad):
    weights = np.ones(BATCH, np.float32)
    weights[5] = bad
    with pytest.raises(ValueError, match="not finite" if not np.isfinite(bad) else "at least 0 .*; the least is -1"):
        data.from_arrays(image=batch()["image"], label=batch()["label"], sample_weight=weights)
    task = classification(linear(CLASSES), optax.sgd(1.0))
    source = data.ArraySource({**batch(), "sample_weight": weights})
    dataset = data.from_arrays(image=batch()["image"], label=batch()["label"])
    dataset = dataclasses.replace(dataset, splits={"train": source})
    with pytest.raises(ValueError, match=r"sample_weight must be finite and at least 0; 1 are not.*in row 5"):
        fit(task, dataset, batch_size=8, epochs=1)


def test_a_column_of_weights_is_refused():
    task = classification(linear(CLASSES), optax.sgd(1.0))
    arrays = {**batch(), "sample_weight": np.ones((BATCH, 1), np.float32)}
    with pytest.raises(ValueError, match="one number of at least 0 for each example"):
        fit(task, arrays, batch_size=8, epochs=1)


@pytest.mark.parametrize("weights", [[1, 2], [1, 1, 1, -1], "balanced"])
def test_a_task_refuses_bad_weights_before_training(weights):
    task = classification(linear(CLASSES), optax.sgd(1.0), class_weight=weights)
    arrays = {name: batch()[name] for name in ("image", "label")}
    with pytest.raises(ValueError, match="class_weight"):
        fit(task, arrays, batch_size=8, epochs=1)


def test_mixed_examples_have_no_weight():
    images = {"image": np.zeros((4, 8, 8, 1), np.float32), "label": np.zeros(4, np.int32), "sample_weight": np.ones(4)}
    with pytest.raises(ValueError, match="turn mixup and cutmix off"):
        augment.apply(augment.Policy(mixup=0.2), images, jax.random.key(0), num_classes=2)


def test_a_gan_weighs_nothing():
    import zoo
    from tests.descriptors import MODELS

    task = gan(zoo.create_model("gan", **MODELS["gan"].small), optax.sgd(0.1))
    with pytest.raises(ValueError, match="weighs no examples"):
        task.init(jax.random.key(0), {"image": np.zeros((2, 8, 8, 1), np.float32), "sample_weight": np.ones(2)})


IRIS = Recipe(model="mlp", data="iris", task_options={"inputs": "features"}, model_options={"hidden_sizes": []})


def test_a_recipe_weighs_classes():
    """Balanced over the training examples that are left after the hold-out; the task that is built has the weights."""
    plain, weighted = (build(dataclasses.replace(IRIS, class_weight=each)) for each in (None, {"virginica": 3}))
    source = plain.dataset.splits["train"]
    examples = plain.dataset.preprocess(source[np.arange(len(source))])
    state = plain.task.init(jax.random.key(0), examples)
    weights = np.float32([1, 1, 3])[examples["label"]]
    logits = plain.model.apply(state.variables, examples["features"])
    per_example = np.asarray(losses.cross_entropy(logits, examples["label"]))
    _, found = jax.jit(weighted.task.train_step)(state, examples)
    assert summarize(found)["loss"] == pytest.approx((weights * per_example).mean(), rel=1e-5)
    assert build(dataclasses.replace(IRIS, class_weight="balanced")).task is not None


def test_recipes_that_cannot_weigh_classes():
    recipe = Recipe(model="autoencoder", data="digits", task="reconstruction", class_weight="balanced")
    with pytest.raises(ValueError, match="of tasks that tell classes"):
        build(recipe)
    with pytest.raises(ValueError, match=r"set class_weight=…"):
        build(dataclasses.replace(IRIS, task_options={"inputs": "features", "class_weight": [1, 1, 1]}))


def test_perplexity_is_that_of_the_likelihood():
    """Whatever is smoothed and weighed in training."""
    import zoo
    from tests.descriptors import MODELS

    model = zoo.create_model("char_lstm", **MODELS["char_lstm"].small)
    tokens = np.random.default_rng(0).integers(0, 4, (4, 9)).astype(np.int32)
    examples = {"tokens": tokens, "sample_weight": np.float32([0, 1, 2, 3])}
    plain = language_modeling(model, optax.sgd(0.1))
    smooth = language_modeling(model, optax.sgd(0.1), label_smoothing=0.2)
    state = plain.init(jax.random.key(0), examples)
    first, second = (summarize(jax.jit(task.eval_step)(state, examples)) for task in (plain, smooth))
    assert first["perplexity"] == pytest.approx(np.exp(first["loss"]), rel=1e-5)
    assert second["perplexity"] == pytest.approx(first["perplexity"], rel=1e-6)
    assert second["loss"] != pytest.approx(first["loss"], rel=1e-5)
