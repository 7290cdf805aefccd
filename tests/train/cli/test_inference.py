"""Commands that use a trained run: evaluate, predict, export."""

from __future__ import annotations

import csv
import json
import shutil

import jax
import numpy as np
import pytest
import sklearn.metrics
from PIL import Image

import data
import zoo
from tests.train.cli.command import error, parsed, python, run

# ---- evaluate ----


@pytest.mark.slow
def test_evaluate_is_what_the_model_gives(mlp):
    """Loss and accuracy, and precision, recall and F1 (eq. 75-78), from the model's logits by hand."""
    report = parsed("evaluate", mlp)
    digits = data.load("digits", flat=True, standardize=True)
    test = digits.preprocess(digits.splits["test"][np.arange(360)])
    model, variables = zoo.load_model(mlp)
    logits = np.asarray(model.apply(variables, test["image"]), np.float64)
    predicted = logits.argmax(axis=1)
    assert report["test_accuracy"] == pytest.approx(np.mean(predicted == test["label"]), abs=1e-6)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    smooth = 0.9 * np.eye(10)[test["label"]] + 0.01  # the recipe's label smoothing of 0.1
    assert report["test_loss"] == pytest.approx(-(smooth * log_p).sum(axis=1).mean(), rel=1e-4)
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(test["label"], predicted)
    for index in range(10):
        row = report["classes"][str(index)]
        found = [row["precision"], row["recall"], row["f1-score"], row["support"]]
        np.testing.assert_allclose(found, [precision[index], recall[index], f1[index], support[index]])
    kept = json.loads((mlp / "report.json").read_text())
    assert {name: kept[name] for name in report if name != "test_loss"} == {
        name: value for name, value in report.items() if name != "test_loss"
    }


METRICS = {
    *("loss", "accuracy", "top_5_accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro"),
    *("precision_weighted", "f1_weighted", "log_loss", "expected_calibration_error", "roc_auc", "average_precision"),
}


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "validation"])
def test_evaluate_another_split(mlp, split):
    report = parsed("evaluate", mlp, "--split", split)
    assert set(report) == {"classes", *(f"{split}_{name}" for name in METRICS)}
    held = {"train": 1293, "validation": 144}[split]
    assert report["classes"]["macro avg"]["support"] == held
    if split == "validation":
        with (mlp / "history.csv").open() as file:
            best = min(csv.DictReader(file), key=lambda row: float(row["validation_loss"]))
        assert report["validation_loss"] == pytest.approx(float(best["validation_loss"]), abs=1e-6)
        assert report["validation_accuracy"] == pytest.approx(float(best["validation_accuracy"]), abs=1e-6)


def test_evaluate_in_words(mlp):
    text = run("evaluate", mlp)
    assert "test_accuracy" in text
    header, *rows = [line.split() for line in text.partition("\n\n")[2].splitlines()]
    assert header == ["class", "precision", "recall", "f1", "roc", "auc", "avg", "prec", "examples"]
    assert [row[0] for row in rows[:10]] == [str(i) for i in range(10)]
    assert all(0 <= float(value) <= 1 for row in rows[:10] for value in row[1:6])


@pytest.mark.slow
def test_evaluate_into_a_folder(mlp, tmp_path):
    out = tmp_path / "deep" / "digits"
    text = run("evaluate", mlp, "--out", out)
    files = {file.name for file in out.iterdir()}
    assert all(name in text for name in files)
    assert {"evaluation.json", "classes.csv", "predictions.csv", "mistakes.png", "roc.png"} <= files
    assert json.loads((out / "evaluation.json").read_text()) == parsed("evaluate", mlp)
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    accuracy = np.mean([row["label"] == row["predicted"] for row in rows])
    assert accuracy == pytest.approx(parsed("evaluate", mlp)["test_accuracy"])


def test_a_folder_that_cannot_be_written_is_refused_before_the_run_is_read(tmp_path):
    (tmp_path / "file").write_text("")
    message = error("evaluate", tmp_path / "no_run", "--out", tmp_path / "file" / "inside")
    assert message.endswith(f"cannot be a folder: {tmp_path / 'file'} is a file")
    for command in ("export", "sample"):
        message = error(command, tmp_path / "no_run", "--out", tmp_path / "file" / "inside.png")
        assert message.endswith(f"{tmp_path / 'file'} is a file")
    assert "is a folder; say which file in it" in error("export", tmp_path / "no_run", "--out", tmp_path)
    error("evaluate", tmp_path / "no_run", "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_run_is_used_on_any_number_of_devices(runs):
    """Trained one example a step on one device, evaluated on eight."""
    assert jax.device_count() == 8
    assert parsed("evaluate", runs[0] / "perceptron_iris")["test_accuracy"] == 1.0


def test_a_binary_run_names_its_classes(runs):
    assert {"other", "setosa"} <= set(parsed("evaluate", runs[0] / "perceptron_iris")["classes"])


# ---- predict and export ----


def test_predict(mlp, pictures):
    files, labels = pictures
    predictions = parsed("predict", mlp, *files)
    assert [p["file"] for p in predictions] == [str(file) for file in files]
    images = np.stack([np.asarray(Image.open(file), np.float32)[..., None] / 255 for file in files])
    digits = data.load("digits", flat=True, standardize=True)
    model, variables = zoo.load_model(mlp)
    logits = np.asarray(model.apply(variables, digits.preprocess({"image": images})["image"]), np.float64)
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for prediction, row in zip(predictions, wanted, strict=True):
        assert list(prediction["probabilities"]) == list("0123456789")
        np.testing.assert_allclose(list(prediction["probabilities"].values()), row, atol=1e-5)
        assert prediction["label"] == str(row.argmax())
        assert prediction["probability"] == max(prediction["probabilities"].values())
    assert np.mean([int(p["label"]) == label for p, label in zip(predictions, labels, strict=True)]) >= 0.75


def test_predict_in_words(mlp, pictures):
    (line,) = run("predict", mlp, pictures[0][0]).splitlines()
    (prediction,) = parsed("predict", mlp, pictures[0][0])
    assert line == f"{pictures[0][0]}: {prediction['label']} ({prediction['probability']:.1%})"


def test_predict_dark_on_light(mlp, pictures, tmp_path):
    negative = tmp_path / "negative.png"
    Image.fromarray(255 - np.asarray(Image.open(pictures[0][0]))).save(negative)
    (wanted,) = parsed("predict", mlp, pictures[0][0])
    (inverted,) = parsed("predict", mlp, negative, "--invert")
    (found,) = parsed("predict", mlp, negative)
    assert found["probabilities"] == inverted["probabilities"]
    np.testing.assert_allclose(
        list(inverted["probabilities"].values()), list(wanted["probabilities"].values()), atol=1e-4
    )


ONLY_JAX = """
import json, sys
import jax
import numpy as np

with open(sys.argv[1], "rb") as file:
    classify = jax.export.deserialize(bytearray(file.read()))
probabilities = classify.call(np.load(sys.argv[2]))
strangers = sorted({"flax", "optax", "orbax", "zoo", "train", "data"} & set(sys.modules))
print(json.dumps({"probabilities": np.asarray(probabilities).tolist(), "strangers": strangers}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp_digits", "lenet5_digits"])
def test_an_exported_run_needs_nothing_but_jax(runs, pictures, tmp_path, name):
    folder, out = runs[0] / name, tmp_path / "somewhere" / "digits.stablehlo"
    facts = parsed("export", folder, "--out", out)
    assert facts["file"] == str(out)
    assert facts["bytes"] == out.stat().st_size > 4 * 10_000
    assert facts["platforms"] == ["cpu", "cuda", "tpu"]
    assert facts["classes"] == list("0123456789")
    assert "8,8,1" in facts["input"]
    np.save(tmp_path / "images.npy", np.stack([data.decode_image(file, (8, 8, 1)) for file in pictures[0]]))
    (tmp_path / "run.py").write_text(ONLY_JAX)
    finished = python("-I", tmp_path / "run.py", out, tmp_path / "images.npy", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    answer = json.loads(finished.stdout)
    assert answer["strangers"] == []
    wanted = [list(p["probabilities"].values()) for p in parsed("predict", folder, *pictures[0])]
    np.testing.assert_allclose(answer["probabilities"], wanted, atol=1e-5)


def test_export_in_words(mlp, tmp_path):
    assert "cpu" in run("export", mlp, "--out", tmp_path / "model")


# ---- what goes wrong ----


def test_predict_without_a_picture(mlp):
    assert "no file given: zoo predict RUN FILE…" in error("predict", mlp)
    assert "are no texts; give files" in error("predict", mlp, "--text", "seven")


def test_predict_what_is_no_picture(mlp, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no image")
    for file in (text, tmp_path, tmp_path / "missing.png"):
        message = error("predict", mlp, file)
        assert f"cannot read '{text if file == tmp_path else file}' as an image" in message
        assert "\n" not in message
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "*.jpg"):
        assert error("predict", mlp, nothing) == f"zoo: error: there is no image in {nothing}"


def test_predict_folders_and_wildcards(mlp, pictures, tmp_path):
    files, _ = pictures
    for name, file in (("b.png", files[0]), ("a.PNG", files[1]), ("in/c.png", files[2]), (".hidden.png", files[3])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    wanted = {str(tmp_path / name): file for name, file in (("a.PNG", 1), ("b.png", 0), ("in/c.png", 2))}
    found = parsed("predict", mlp, tmp_path)
    assert [each["file"] for each in found] == sorted(wanted)
    whole = parsed("predict", mlp, *files[:3])
    for each in found:
        assert each["probabilities"] == pytest.approx(whole[wanted[each["file"]]]["probabilities"])
    matched = parsed("predict", mlp, tmp_path / "*.png", tmp_path / "**" / "c.*")
    assert [each["file"] for each in matched] == [str(tmp_path / name) for name in ("b.png", "in/c.png")]


def test_predict_the_most_probable_classes(mlp, pictures):
    file = pictures[0][0]
    (whole,) = parsed("predict", mlp, file)
    best = sorted(whole["probabilities"].items(), key=lambda each: -each[1])[:3]
    line = run("predict", mlp, file, "--top", "3")
    assert line == f"{file}: " + ", ".join(f"{label} ({share:.1%})" for label, share in best) + "\n"
    assert run("predict", mlp, file, "--top", "100").count("%") == 10
    assert error("predict", mlp, file, "--top", "0") == "zoo: error: --top must be at least 1, not 0"


@pytest.mark.parametrize("command", [["predict", "a.png"], ["export", "--out", "a"]])
def test_a_run_without_images(runs, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    message = error(command[0], runs[0] / "perceptron_iris", *command[1:])
    assert "images" in message
    assert "features" in message
    assert list(tmp_path.iterdir()) == []


def test_evaluate_a_split_that_is_not_there(mlp):
    message = error("evaluate", mlp, "--split", "tset")
    assert "data set 'digits' has no split 'tset'; it has test, train, validation" in message


def test_a_recipe_that_was_damaged(mlp, tmp_path):
    (tmp_path / "recipe.json").write_text((mlp / "recipe.json").read_text()[:-40])
    assert "recipe.json: not JSON" in error("evaluate", tmp_path)
    (tmp_path / "recipe.json").write_text((mlp / "recipe.json").read_text())
    assert str(tmp_path) in error("evaluate", tmp_path)  # there is no checkpoint
