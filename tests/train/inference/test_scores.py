"""What is told of all predictions together: against scikit-learn, and where it is not defined."""

from __future__ import annotations

import logging
import math

import jax
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

import data
import zoo
from train.inference import Run, examine
from train.inference.scores import ClassPredictions, class_report, confusion_matrix, ranking, top_label_bins
from train.recipe import Recipe


def predictions(labels, classes, seed=0, num_outputs=None):
    logits = np.random.default_rng(seed).normal(size=(len(labels), num_outputs or classes)).astype(np.float32)
    return ClassPredictions.of_logits(np.array(labels), logits, tuple(f"c{i}" for i in range(classes)))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=6, max_size=30), st.integers(0, 99))
def test_areas_are_scikit_learns(rest, seed):
    labels = np.array([0, 1, 2, 3, *rest])
    found = predictions(labels, 4, seed)
    report = class_report(found)
    p = found.probabilities
    scores = ranking(found, report)
    assert scores["roc_auc"] == pytest.approx(sklearn.metrics.roc_auc_score(labels, p, multi_class="ovr"))
    hot = np.eye(4)[labels]
    assert scores["average_precision"] == pytest.approx(sklearn.metrics.average_precision_score(hot, p))
    for average in ("macro", "weighted"):
        row = report[f"{average} avg"]
        assert row["roc_auc"] == pytest.approx(
            sklearn.metrics.roc_auc_score(labels, p, multi_class="ovr", average=average)
        )
        assert row["average_precision"] == pytest.approx(
            sklearn.metrics.average_precision_score(hot, p, average=average)
        )
    wanted = sklearn.metrics.classification_report(
        labels, found.predicted, target_names=found.classes, output_dict=True, zero_division=0
    )
    for name in (*found.classes, "macro avg", "weighted avg"):
        assert {key: report[name][key] for key in wanted[name]} == pytest.approx(wanted[name])
    for key in ("precision", "recall", "f1-score"):
        assert report["micro avg"][key] == pytest.approx(wanted["accuracy"])


@pytest.mark.parametrize("num_outputs", [1, 2])
def test_of_two_classes_the_second_counts(num_outputs):
    labels = np.array([0, 1, 1, 0, 1, 0, 0])
    found = predictions(labels, 2, 3, num_outputs)
    scores = ranking(found, class_report(found))
    p = found.probabilities[:, 1]
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert scores["roc_auc"] == pytest.approx(sklearn.metrics.roc_auc_score(labels, p))
    assert scores["average_precision"] == pytest.approx(sklearn.metrics.average_precision_score(labels, p))


def test_a_logit_of_zero_is_the_second_class():
    """As in the task: 1 where z ≥ 0, though both have the probability ½."""
    found = ClassPredictions.of_logits(np.array([1, 0]), np.float32([[0], [-1]]), ("no", "yes"))
    np.testing.assert_array_equal(found.predicted, [1, 0])
    np.testing.assert_array_equal(confusion_matrix(found), [[1, 0], [0, 1]])


def test_the_order_of_great_logits_is_kept():
    """In float32 both would have the probability 1, and the curve no order."""
    found = ClassPredictions.of_logits(np.array([0, 1]), np.float32([[20], [25]]), ("no", "yes"))
    assert ranking(found, class_report(found))["roc_auc"] == 1


def test_another_number_of_outputs():
    with pytest.raises(ValueError, match="gives 3 outputs, and the data have 2 classes"):
        predictions([0, 1], 2, num_outputs=3)


def test_a_class_without_examples():
    """Of a class that is neither actual nor predicted there is no score; the means are scikit-learn's."""
    labels = np.array([0, 0, 2, 2, 0])
    logits = np.float32([[2, 0, 1, -9], [1, 3, 0, -9], [0, 1, 2, -9], [0, 0, 1, -9], [4, 1, 0, -9]])
    found = ClassPredictions.of_logits(labels, logits, ("a", "b", "c", "d"))
    report = class_report(found)
    assert all(math.isnan(report["d"][name]) for name in ("precision", "recall", "f1-score", "roc_auc"))
    assert report["d"]["support"] == 0
    assert report["b"]["precision"] == 0, "it was predicted once, and wrongly"
    assert math.isnan(report["b"]["roc_auc"])
    assert math.isnan(report["b"]["average_precision"]), "scikit-learn says 0, and warns"
    assert math.isnan(ranking(found, report)["roc_auc"])
    macro = sklearn.metrics.f1_score(labels, found.predicted, average="macro")
    assert report["macro avg"]["f1-score"] == pytest.approx(macro)
    assert report["a"]["roc_auc"] == sklearn.metrics.roc_auc_score(labels == 0, found.probabilities[:, 0])


def test_one_class_alone():
    report = class_report(predictions([1, 1, 1], 2))
    assert all(math.isnan(report[name]["roc_auc"]) for name in ("c0", "c1", "macro avg", "weighted avg"))


def test_bins_of_confidence():
    found = predictions(np.arange(60) % 3, 3)
    examples, confidence, right = top_label_bins(found)
    assert examples.sum() == 60
    filled = examples > 0
    assert np.isnan(confidence[~filled]).all()
    assert (right[filled] * examples[filled]).sum() == pytest.approx((found.predicted == found.labels).sum())
    assert (confidence[filled] * examples[filled]).sum() == pytest.approx(
        found.probabilities.max(axis=1).sum(), rel=1e-5
    )


# ---- a run ----


def run_on(test_labels, features=None, batch_size=4):
    """A run of a linear model that was never trained, on seven or so test examples."""
    rng = np.random.default_rng(0)
    shown = rng.normal(size=(len(test_labels), 3)).astype(np.float32) if features is None else features
    dataset = data.from_arrays(
        features=rng.normal(size=(3, 3)),
        label=np.arange(3),
        classes=("a", "b", "c"),
        test={"features": np.nan_to_num(shown), "label": np.array(test_labels)},
    )
    dataset.splits["test"].arrays["features"][...] = shown
    recipe = Recipe(model="mlp", data="arrays", batch_size=batch_size, task_options={"inputs": "features"})
    model = zoo.create_model("mlp", num_classes=3, hidden_sizes=())
    return Run(recipe, dataset, model, dict(model.init(jax.random.key(0), shown[:1])))


def test_sums_and_predictions_agree():
    """What the step counts, padded to whole batches, and what is told of the predictions one by one."""
    evaluation = examine(run_on(np.arange(37) % 3), "test")
    report, found = evaluation.report, evaluation.predictions
    assert len(found.labels) == 37
    assert report["test_accuracy"] == pytest.approx(report["classes"]["micro avg"]["f1-score"])
    for average, key in (("macro", "precision"), ("macro", "recall"), ("macro", "f1"), ("weighted", "f1")):
        row = report["classes"][f"{average} avg"]
        assert report[f"test_{key}_{average}"] == pytest.approx(row["f1-score" if key == "f1" else key])
    examples, confidence, right = top_label_bins(found)
    error = np.nansum(np.abs(confidence - right) * examples) / 37
    assert report["test_expected_calibration_error"] == pytest.approx(error, abs=1e-6)
    assert report["test_log_loss"] == pytest.approx(
        sklearn.metrics.log_loss(found.labels, found.probabilities), rel=1e-5
    )


def test_a_missing_class_is_told_of(caplog):
    with caplog.at_level(logging.WARNING):
        report = examine(run_on([0, 1, 0, 1, 0]), "test").report
    assert "no example of 'c'" in caplog.text
    assert math.isnan(report["test_roc_auc"])
    assert 0 <= report["test_accuracy"] <= 1


def test_outputs_that_are_no_numbers_are_refused():
    features = np.zeros((5, 3), np.float32)
    features[[2, 4]] = np.nan
    with pytest.raises(
        ValueError, match="for 2 of the 5 examples of the test split of 'arrays'; the first is example 2"
    ):
        examine(run_on([0, 1, 2, 0, 1], features), "test")


def test_no_examples():
    run = run_on([0, 1])
    for name, array in run.dataset.splits["test"].arrays.items():
        run.dataset.splits["test"].arrays[name] = array[:0]
    with pytest.raises(ValueError, match="has no examples"):
        examine(run, "test")
