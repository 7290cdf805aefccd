"""What an evaluation leaves in a folder."""

from __future__ import annotations

import csv
import json

import jax
import numpy as np
import pytest
from PIL import Image

import data
import zoo
from tests.train.measure.test_pictures import has_color, opened
from train.inference import Evaluation, Run, examine
from train.inference.scores import ClassPredictions, Estimates
from train.measure.evaluation import MOST_MISTAKES, worst_mistakes, write
from train.recipe import Recipe

ALL = ["evaluation.json", "classes.csv", "predictions.csv", "confusion_matrix.png", "roc.png", "precision_recall.png"]


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def classifier(count=40, classes=("$0", "línea\n1", "3"), image=True, seed=0):
    """The run of a linear model on noise, and what it does."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 255, (count, 4, 4, 1)).astype(np.uint8) if image else rng.normal(size=(count, 16))
    field = "image" if image else "features"
    labels = np.arange(count) % len(classes)
    dataset = data.from_arrays(**{field: x, "label": labels}, classes=classes, test={field: x, "label": labels})
    recipe = Recipe(model="mlp", data="arrays", batch_size=8, task_options={"inputs": field})
    model = zoo.create_model("mlp", num_classes=len(classes), hidden_sizes=())
    example = dataset.preprocess(dataset.splits["test"][np.arange(1)])[field]
    run = Run(recipe, dataset, model, dict(model.init(jax.random.key(0), example)))
    return run, examine(run, "test")


@pytest.fixture(scope="module")
def noise():
    return classifier()


@pytest.mark.slow
def test_files_of_a_classifier(noise, tmp_path):
    run, evaluation = noise
    files = write(run, "test", evaluation, tmp_path / "new" / "out", title="$x: test")
    assert [file.name for file in files] == [*ALL, "reliability.png", "mistakes.png"]
    assert sorted(file.name for file in (tmp_path / "new" / "out").iterdir()) == sorted(file.name for file in files)
    by_name = {file.name: file for file in files}
    found = evaluation.predictions
    rows = rows_of(by_name["predictions.csv"])
    for index, row in enumerate(rows):
        assert row["example"] == str(index)
        assert row["label"] == found.classes[found.labels[index]]
        assert row["predicted"] == found.classes[found.predicted[index]]
        told = [float(row[f"probability_of_{name}"]) for name in found.classes]
        np.testing.assert_array_equal(told, found.probabilities[index])
        assert float(row["probability_of_label"]) == told[found.labels[index]]
        assert float(row["probability"]) == max(told)
    assert len(rows) == 40
    scores = {row["class"]: row for row in rows_of(by_name["classes.csv"])}
    assert float(scores["$0"]["roc_auc"]) == evaluation.report["classes"]["$0"]["roc_auc"]
    kept = json.loads(by_name["evaluation.json"].read_text())
    assert kept["test_accuracy"] == evaluation.report["test_accuracy"]
    for name in ("roc.png", "precision_recall.png"):
        assert all(has_color(opened(by_name[name]), color) for color in ("#1f77b4", "#ff7f0e", "#2ca02c"))
    assert has_color(opened(by_name["reliability.png"]), "#2a6fbb")
    assert has_color(opened(by_name["mistakes.png"]), "#b3261e")


def test_mistakes_are_the_worst_first(noise):
    found = noise[1].predictions
    wrong = worst_mistakes(found)
    assert len(wrong) == min(MOST_MISTAKES, (found.predicted != found.labels).sum())
    assert (found.predicted[wrong] != found.labels[wrong]).all()
    assert (np.diff(found.of_label[wrong]) >= 0).all()
    right = np.flatnonzero(found.predicted != found.labels)
    assert found.of_label[wrong[0]] == found.of_label[right].min()


def test_a_classifier_that_makes_no_mistakes(noise, tmp_path):
    """What a run before left of mistakes is gone; of one class alone there are no curves, and it says so."""
    run, evaluation = noise
    (tmp_path / "mistakes.png").write_bytes(b"old")
    labels = np.ones(5, int)
    perfect = ClassPredictions.of_logits(labels, np.float32([[0, 9, 0]] * 5), evaluation.predictions.classes)
    files = write(run, "test", Evaluation({}, perfect), tmp_path)
    assert [file.name for file in files] == [*ALL, "reliability.png"]
    assert not (tmp_path / "mistakes.png").exists()
    assert not has_color(opened(tmp_path / "roc.png"), "#ff7f0e")
    assert rows_of(tmp_path / "classes.csv")[1]["roc_auc"] == "nan"


@pytest.mark.slow
def test_many_classes_and_no_images(tmp_path):
    run, evaluation = classifier(240, tuple(f"class {i}" for i in range(120)), image=False)
    files = write(run, "test", evaluation, tmp_path)
    assert "mistakes.png" not in [file.name for file in files]
    assert "probability_of_class 0" not in rows_of(tmp_path / "predictions.csv")[0]
    assert has_color(opened(tmp_path / "roc.png"), "#2a6fbb")


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 7, 300])
@pytest.mark.parametrize("names", [("price",), ("a", "b", "c", "d", "e", "f", "$g")])
def test_files_of_a_regression(noise, tmp_path, count, names):
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(count, len(names))).astype(np.float32)
    estimates = Estimates(targets, targets + 1, names)
    files = write(noise[0], "test", Evaluation({"test_r2": float("nan")}, estimates), tmp_path)
    assert [file.name for file in files] == ["evaluation.json", "predictions.csv", "predicted.png", "residuals.png"]
    assert json.loads((tmp_path / "evaluation.json").read_text()) == {"test_r2": None}
    rows = rows_of(tmp_path / "predictions.csv")
    assert [float(row[f"predicted {names[-1]}"]) for row in rows] == pytest.approx((targets[:, -1] + 1).tolist())
    with Image.open(tmp_path / "predicted.png") as one, Image.open(tmp_path / "residuals.png") as other:
        assert one.size == other.size
        assert one.size[0] == 648 * min(3, len(names))


def test_others_leave_their_report(noise, tmp_path):
    (file,) = write(noise[0], "test", Evaluation({"test_elbo": -3.0}), tmp_path)
    assert json.loads(file.read_text()) == {"test_elbo": -3.0}
