"""Scores of classes, calibration and R² as sums: against scikit-learn, however examples are cut and padded."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.calibration import calibration_curve

from tests.train.tasks.small import linear
from train.loop import evaluate, parallel
from train.metrics import CALIBRATION_BINS, R2, calibration_bins, class_metrics, higher_is_better, merge, summarize
from train.recipe import Recipe
from train.runs.build import build
from train.tasks import classification, regression
from train.tasks.regression import target_sums

BATCH, CLASSES = 12, 4
sweep = settings(max_examples=60, deadline=None)
some_classes = hnp.arrays(np.int32, BATCH, elements=st.integers(0, CLASSES - 1))
masks = hnp.arrays(np.float32, BATCH, elements=st.sampled_from([0.0, 1.0])).filter(lambda mask: mask.any())


def wanted_of(labels, predicted):
    def scores(average):
        values = sklearn.metrics.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)
        return dict(zip(("precision", "recall", "f1"), values[:3], strict=True))

    macro, weighted = scores("macro"), scores("weighted")
    recalls = [np.mean(predicted[labels == each] == each) for each in np.unique(labels)]
    return {
        "balanced_accuracy": np.mean(recalls),
        **{f"{name}_macro": value for name, value in macro.items()},
        "precision_weighted": weighted["precision"],
        "f1_weighted": weighted["f1"],
    }


@pytest.mark.slow
@sweep
@given(some_classes, some_classes, masks, st.integers(0, BATCH))
def test_scores_of_classes_are_scikit_learns(labels, predicted, mask, cut):
    """Classes that are missing among labels, predictions or both; padding; and any cut into two batches."""
    parts = [class_metrics(predicted[a:b], labels[a:b], CLASSES, mask[a:b]) for a, b in ((0, cut), (cut, BATCH))]
    found, kept = summarize(merge(*parts)), mask > 0
    assert found == pytest.approx(wanted_of(labels[kept], predicted[kept]), abs=1e-12)
    stacked = summarize(jax.tree.map(lambda *leaves: np.stack(leaves), *parts))
    assert stacked == found


def test_balanced_accuracy_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 5, (2, 200))
    found = summarize(class_metrics(predicted, labels, 7))
    assert found["balanced_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, predicted))


def test_what_is_the_accuracy_where_each_example_has_one_label():
    """Micro averages, and recall weighted by labels: why neither is reported beside the accuracy."""
    labels, predicted = np.random.default_rng(1).integers(0, 4, (2, 50))
    for average in ("micro", "weighted"):
        recall = sklearn.metrics.recall_score(labels, predicted, average=average)
        assert recall == pytest.approx(np.mean(labels == predicted))


def test_no_prediction_is_a_miss():
    """−1, as for logits that are NaN: wrong for its label, and counted for no class."""
    found = summarize(class_metrics(np.array([-1, 1, 1]), np.array([0, 1, 1]), 2))
    assert found["balanced_accuracy"] == 0.5
    assert found["precision_macro"] == 0.5
    assert found["precision_weighted"] == pytest.approx(2 / 3)


def test_of_no_examples_there_is_no_score():
    found = summarize(class_metrics(np.array([0, 1]), np.array([0, 1]), 2, np.zeros(2)))
    assert all(math.isnan(value) for value in found.values())
    assert math.isnan(calibration_bins(jnp.ones(3), jnp.ones(3), jnp.zeros(3)).summary())


confidences = hnp.arrays(np.float32, BATCH, elements=st.floats(0.0625, 1, width=32))


@sweep
@given(confidences, hnp.arrays(np.bool_, BATCH), masks)
def test_calibration_error_is_made_of_scikit_learns_curve(confidence, right, mask):
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    if np.abs(confidence[:, None] - edges).min() < 1e-6:
        return  # at an edge float32 and float64 may differ in the bin
    bins = calibration_bins(jnp.asarray(confidence), jnp.asarray(right), jnp.asarray(mask))
    kept = mask > 0
    true, told = calibration_curve(right[kept], confidence[kept], n_bins=CALIBRATION_BINS)
    counts = np.histogram(confidence[kept], edges)[0]
    wanted = (np.abs(true - told) * counts[counts > 0]).sum() / kept.sum()
    assert bins.summary() == pytest.approx(wanted, abs=1e-6)


def test_masked_confidence_may_be_no_number():
    bins = calibration_bins(jnp.array([0.9, jnp.nan]), jnp.array([True, False]), jnp.array([1, 0]))
    assert bins.summary() == pytest.approx(0.1, abs=1e-6)
    assert math.isnan(calibration_bins(jnp.array([0.9, jnp.nan]), jnp.array([True, False])).summary())


targets = hnp.arrays(np.float32, (2, BATCH, 2), elements=st.integers(-9, 9))


@jax.jit
def regression_metrics(target, prediction, mask):
    return {"r2": R2(*target_sums(prediction, target, mask))}


@sweep
@given(targets, masks.filter(lambda mask: mask.sum() > 1), st.integers(0, BATCH), st.sampled_from([0, 1000]))
def test_r2_is_scikit_learns(values, mask, cut, offset):
    """Also far from zero, where Σ y² − n ȳ² would have lost its digits."""
    target, prediction = values + np.float32(offset)
    kept = mask > 0
    wanted = sklearn.metrics.r2_score(target[kept], prediction[kept])
    first = np.arange(BATCH) < cut
    halves = [regression_metrics(target, prediction, mask * part) for part in (first, ~first)]
    assert summarize(merge(*halves))["r2"] == pytest.approx(wanted, rel=2e-5, abs=2e-5)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *halves)
    assert summarize(stacked)["r2"] == pytest.approx(wanted, rel=2e-5, abs=2e-5)


@pytest.mark.parametrize(("told", "wanted"), [([0.1, 0.1, 0.1], 1.0), ([0.1, 0.2, 0.1], 0.0)])
def test_r2_of_a_constant(told, wanted):
    target = np.float32([0.1, 0.1, 0.1])
    assert sklearn.metrics.r2_score(target, np.float32(told)) == wanted
    assert summarize(regression_metrics(target, np.float32(told), np.ones(3)))["r2"] == wanted


def test_r2_of_one_example_is_no_number():
    assert math.isnan(summarize(regression_metrics(*np.ones((3, 1), np.float32)))["r2"])


@pytest.mark.parametrize("name", ["validation_f1_macro", "accuracy", "top_5_accuracy", "r2", "elbo", "test_roc_auc"])
def test_more_is_better(name):
    assert higher_is_better(name)


@pytest.mark.parametrize("name", ["loss", "log_loss", "expected_calibration_error", "rmse", "perplexity", "mae"])
def test_less_is_better(name):
    assert not higher_is_better(name)


# ---- a split through the feed: 37 examples, which no batch divides, on one device and on eight ----

EXAMPLES = 37
PLANS = {
    "one device": lambda: parallel.jit(jax.devices()[:1]),
    "jit": parallel.jit,
    "fsdp": lambda: parallel.fsdp(least_size=4),
    "pmap": parallel.pmap,
}


@functools.cache
def classified(num_outputs, classes):
    """A linear model with random parameters on random examples, of which each class but the last has some."""
    rng = np.random.default_rng(num_outputs)
    x = rng.normal(size=(EXAMPLES, 5)).astype(np.float32)
    labels = rng.integers(0, classes - (classes > 2), EXAMPLES).astype(np.int32)
    task = classification(linear(num_outputs), optax.sgd(0.1), inputs="features", label_smoothing=0.0)
    state = task.init(jax.random.key(1), {"features": x, "label": labels})
    logits = np.asarray(linear(num_outputs).apply(state.variables, x), np.float64)
    logits = logits if num_outputs > 1 else np.concatenate([0 * logits, logits], axis=1)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return task, state, {"features": x, "label": labels}, p


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("num_outputs", "classes"), [(7, 7), (1, 2)])
def test_a_classifier_on_any_devices(plan, num_outputs, classes):
    task, state, arrays, p = classified(num_outputs, classes)
    found = evaluate(task, arrays, state, plan=PLANS[plan](), batch_size=4)
    labels, predicted = arrays["label"], p.argmax(axis=1)
    wanted = {
        **wanted_of(labels, predicted),
        "accuracy": np.mean(labels == predicted),
        "log_loss": sklearn.metrics.log_loss(labels, p, labels=range(classes)),
    }
    if classes > 5:
        wanted["top_5_accuracy"] = sklearn.metrics.top_k_accuracy_score(labels, p, k=5, labels=range(classes))
        assert 0 < wanted["top_5_accuracy"] < 1
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-5)
    assert found["loss"] == pytest.approx(wanted["log_loss"], abs=1e-5)
    assert set(found) == {*wanted, "loss", "expected_calibration_error"}


@pytest.mark.parametrize("plan", PLANS)
def test_a_regression_on_any_devices(plan):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(EXAMPLES, 3)).astype(np.float32)
    target = (2000 + 5 * rng.normal(size=(EXAMPLES, 2))).astype(np.float32)
    task = regression(linear(2), optax.sgd(0.1))
    state = task.init(jax.random.key(0), {"inputs": x, "target": target})
    state = state.replace(params=jax.tree.map(lambda leaf: leaf + 2000 * (leaf.ndim == 1), state.params))
    told = np.asarray(linear(2).apply(state.variables, x))
    found = evaluate(task, {"inputs": x, "target": target}, state, plan=PLANS[plan](), batch_size=4)
    assert found == pytest.approx(
        {
            "loss": sklearn.metrics.mean_squared_error(target, told),
            "mae": sklearn.metrics.mean_absolute_error(target, told),
            "rmse": sklearn.metrics.root_mean_squared_error(target, told),
            "r2": sklearn.metrics.r2_score(target, told),
        },
        rel=1e-5,
    )


def test_what_can_be_monitored():
    """All that evaluation tells of the validation split; of training no more than it reports."""
    recipe = Recipe(model="mlp", data="iris", task_options={"inputs": "features"}, monitor="validation_f1_macro")
    assert build(recipe).steps > 0
    assert build(dataclasses.replace(recipe, monitor="loss")).steps > 0
    with pytest.raises(ValueError, match="unknown metric to monitor: 'f1_macro'; nearest: validation_f1_macro"):
        build(dataclasses.replace(recipe, monitor="f1_macro"))
