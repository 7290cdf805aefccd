"""Classification: against scikit-learn, one logit for two classes, Rosenblatt's rule, and what is refused."""

from __future__ import annotations

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression, Perceptron

import data
import zoo
from tests.train.tasks.small import BATCH, batch_of, iris, linear, train_on, trainer
from train.metrics import summarize
from train.optim.optimizers import optimizer
from train.tasks import classification
from train.tasks.classification import class_probabilities, predicted_class

# ---- against scikit-learn ----


@pytest.mark.parametrize("l2", [0.01, 0.1])
def test_softmax_regression_ends_where_scikit_learn_does(l2):
    """Cross-entropy with λ/2 ‖W‖² of eq. 27 is LogisticRegression with C = 1/(nλ)."""
    x, labels = iris()
    task = classification(linear(), optimizer("sgd", 0.5, l2=l2, momentum=0.9, nesterov=True))
    state, _ = train_on(task, {"image": x, "label": labels}, 1500)
    reference = LogisticRegression(C=1 / (len(x) * l2), tol=1e-8, max_iter=2000).fit(x, labels)
    logits = linear().apply(state.variables, x)
    np.testing.assert_allclose(class_probabilities(logits), reference.predict_proba(x), atol=1e-3)
    np.testing.assert_array_equal(predicted_class(logits), reference.predict(x))


def test_a_single_logit_ends_where_scikit_learn_does():
    x, labels = iris()
    labels = (labels == 1).astype(np.int32)
    task = classification(linear(1), optimizer("sgd", 0.5, l2=0.05, momentum=0.9))
    state, losses = train_on(task, {"image": x, "label": labels}, 1500)
    reference = LogisticRegression(C=1 / (len(x) * 0.05), tol=1e-8, max_iter=2000).fit(x, labels)
    logits = linear(1).apply(state.variables, x)
    np.testing.assert_allclose(class_probabilities(logits), reference.predict_proba(x), atol=1e-3)
    np.testing.assert_array_equal(predicted_class(logits), reference.predict(x))
    assert losses[-1] < losses[0]


# ---- one logit for two classes, and Rosenblatt's rule ----


def test_one_logit_is_two_classes():
    """The logit z of one class is the pair (0, z)."""
    x, labels = iris()
    batch = {"image": x, "label": (labels == 1).astype(np.int32)}
    one, two = (classification(linear(n), optimizer("sgd", 0.1)) for n in (1, 2))
    state = one.init(jax.random.key(0), batch)
    kernel = state.params["Dense_0"]["kernel"]
    params = {"Dense_0": {"kernel": jnp.concatenate([0 * kernel, kernel], axis=1), "bias": jnp.array([0.0, 0.3])}}
    state = state.replace(params={"Dense_0": {"kernel": kernel, "bias": jnp.array([0.3])}})
    first, second = jax.jit(one.eval_step)(state, batch), jax.jit(two.eval_step)(state.replace(params=params), batch)
    chex.assert_trees_all_close(first, second, rtol=1e-5)
    assert 0 < summarize(first)["accuracy"] < 1
    logits = linear(1).apply(state.variables, x)
    two_logits = linear(2).apply({"params": params}, x)
    np.testing.assert_allclose(class_probabilities(logits), class_probabilities(two_logits), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(predicted_class(logits), predicted_class(two_logits))


def test_class_probabilities_of_extreme_logits():
    np.testing.assert_array_equal(class_probabilities(jnp.array([[1e4], [-1e4]])), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(class_probabilities(jnp.array([[1e4, -1e4, 0.0]])), [[1, 0, 0]])
    assert class_probabilities(jnp.zeros((1, 3), jnp.float16)).dtype == jnp.float32


def test_half_precision_probabilities_sum_to_one():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 100)), jnp.bfloat16)
    np.testing.assert_allclose(class_probabilities(logits).sum(axis=1), 1, rtol=1e-5)


def test_at_zero_the_output_fires():
    np.testing.assert_array_equal(predicted_class(jnp.array([[0.0], [-1e-9], [1e-9]])), [1, 0, 1])


@functools.cache
def rosenblatt():
    """Iris setosa in the order of five epochs, and what the recipe's task makes of it step by step."""
    dataset = data.load("iris", positive="setosa")
    source = dataset.splits["train"]
    rows = data.batch_indices(0, len(source), 1, 0, 5 * len(source))[:, 0]
    task = classification(zoo.create_model("perceptron"), optimizer("sgd", 1.0), loss="perceptron", inputs="features")
    examples = {name: array[:, None] for name, array in dataset.preprocess(source[rows]).items()}
    state = task.init(jax.random.key(0), dataset.spec.example())

    def step(state, batch):
        state, metrics = task.train_step(state, batch)
        return state, (state.params["Dense_0"], metrics)

    state, (params, metrics) = jax.jit(lambda s: jax.lax.scan(step, s, examples))(state)
    return dataset, examples, task, state, params, metrics


def test_rosenblatts_rule():
    """w := w + α (y − ŷ) x for one example after another, literally."""
    _, examples, _, _, params, metrics = rosenblatt()
    w, b, mistakes = np.zeros(4, np.float32), np.float32(0), []
    for index, (x, y) in enumerate(zip(examples["features"][:, 0], examples["label"][:, 0], strict=True)):
        fired = int(w @ x + b >= 0)
        w, b = w + (y - fired) * x, b + np.float32(y - fired)
        mistakes.append(fired != y)
        np.testing.assert_allclose(params["kernel"][index, :, 0], w, atol=1e-5)
        assert params["bias"][index, 0] == b
    np.testing.assert_array_equal(metrics["accuracy"].total, ~np.array(mistakes))
    assert 1 <= sum(mistakes) < 20
    assert not any(mistakes[-120:]), "the perceptron convergence theorem: the species is linearly separable"


def test_the_perceptron_agrees_with_scikit_learns():
    dataset, _, task, state, _, _ = rosenblatt()
    train, test = (dataset.splits[split][np.arange(len(dataset.splits[split]))] for split in ("train", "test"))
    reference = Perceptron(shuffle=False, tol=None, max_iter=20).fit(train["features"], train["label"])
    for split in (train, test):
        logits = zoo.create_model("perceptron").apply(state.variables, split["features"])
        np.testing.assert_array_equal(predicted_class(logits), reference.predict(split["features"]))
        metrics = jax.jit(task.eval_step)(state, split)
        scores = (
            "balanced_accuracy",
            "precision_macro",
            "recall_macro",
            "f1_macro",
            "precision_weighted",
            "f1_weighted",
        )
        assert summarize(metrics) == {"loss": 0.0, "accuracy": 1.0, **dict.fromkeys(scores, 1.0)}


# ---- errors ----


def test_the_perceptron_criterion_takes_one_logit():
    task = classification(linear(3), optax.sgd(0.1), loss="perceptron")
    with pytest.raises(ValueError, match="takes one logit, not 3"):
        task.eval_step(task.init(jax.random.key(0), batch_of("mlp")), batch_of("mlp"))


def test_unknown_options():
    with pytest.raises(ValueError, match="unknown option of the task: 'momentum'"):
        classification(linear(), optax.sgd(0.1), momentum=0.9)


class Sequences(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(3)(x)


def test_logits_of_another_rank_are_refused():
    task = classification(Sequences(), optax.sgd(0.1))
    batch = {"image": jnp.zeros((4, 6, 5)), "label": jnp.zeros(4, jnp.int32)}
    state = task.init(jax.random.key(0), batch)
    with pytest.raises(ValueError, match=r"a classifier gives logits \[batch, classes\], not \[4, 6, 3\]"):
        task.train_step(state, batch)


def test_a_missing_field_is_named():
    task, _, _, state = trainer("mlp")
    with pytest.raises(KeyError, match="label"):
        task.train_step(state, {"image": batch_of("mlp")["image"]})


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_does_not_exist_is_seen_in_the_loss(label):
    _, step, _, state = trainer("mlp")
    batch = {**batch_of("mlp"), "label": np.full(BATCH, label, np.int32)}
    assert np.isnan(summarize(step(state, batch)[1])["loss"])


@pytest.mark.parametrize("loss", ["cross_entropy", "perceptron"])
def test_of_one_logit_too(loss):
    task = classification(linear(1), optax.sgd(0.1), loss=loss)
    x = np.ones((4, 5), np.float32)
    for label in (-1, 2):
        batch = {"image": x, "label": np.int32([0, 1, label, 1]), "mask": np.array([1, 1, 0, 1])}
        state = task.init(jax.random.key(0), batch)
        moved, metrics = task.train_step(state, batch)
        assert np.isfinite(summarize(metrics)["loss"])
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(moved.params)), "it is masked"
        assert np.isnan(summarize(task.train_step(state, {**batch, "mask": np.ones(4)})[1])["loss"])
        assert np.isnan(summarize(task.eval_step(state, {**batch, "mask": np.ones(4)}))["loss"])
