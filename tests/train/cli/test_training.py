"""Commands on recipes and trainings: recipes, train, augment; what a run folder holds, and how it is resumed."""

from __future__ import annotations

import csv
import json
import os
import shutil

import pytest
from PIL import Image

from tests.train.cli.command import error, parsed, run
from train.recipe import from_json, get_recipe, list_recipes, override

# ---- recipes ----


def test_recipes():
    rows = parsed("recipes")
    assert [row["name"] for row in rows] == list_recipes()
    for row in rows:
        assert row["about"]
        assert from_json(json.dumps(row["settings"])) == get_recipe(row["name"])


def test_one_recipe():
    text = run("recipes", "lenet5_digits")
    assert text.startswith("lenet5_digits\n    LeNet-5")
    assert from_json(text[text.index("{") :]) == get_recipe("lenet5_digits")
    (row,) = parsed("recipes", "lenet5_digits")
    assert row["settings"]["model"] == "lenet5"


# ---- train ----


@pytest.mark.slow
def test_a_run_folder(mlp, runs):
    names = {path.name for path in mlp.iterdir()}
    assert names == {
        "recipe.json",
        "checkpoints",
        "history.csv",
        "curves.png",
        "report.json",
        "tensorboard",
        "confusion_matrix.png",
    }
    wanted = override(get_recipe("mlp_digits"), ["epochs=4", "checkpoint_every=2"])
    assert from_json((mlp / "recipe.json").read_text()) == wanted
    with (mlp / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    for name in ("curves.png", "confusion_matrix.png"):
        with Image.open(mlp / name) as image:
            assert min(image.size) > 400
    printed = runs[1]["mlp_digits"]
    assert f"kept in {mlp}" in printed
    for part in ("parameters 17,226", "steps 160", "test_accuracy", "precision"):
        assert part in " ".join(printed.split())


@pytest.mark.slow
def test_the_printed_report_is_the_one_that_is_kept(runs):
    folder, printed = runs
    assert printed["lenet5_digits"] == json.loads((folder / "lenet5_digits" / "report.json").read_text())
    assert printed["lenet5_digits"]["steps"] == 8
    assert printed["lenet5_digits"]["parameters"] == 61_706
    assert printed["perceptron_iris"]["test_accuracy"] == 1.0, "two epochs of iris setosa are enough"


def test_training_learns(mlp):
    report = json.loads((mlp / "report.json").read_text())
    assert report["test_accuracy"] > 0.85
    assert report["validation_accuracy"] > 0.85


def test_resuming_a_finished_run_gives_its_report(mlp, tmp_path):
    kept = json.loads((mlp / "report.json").read_text())
    settings = ["epochs=4", "checkpoint_every=2"]
    copy = shutil.copytree(mlp, tmp_path / "mlp_digits")
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    for given in (["mlp_digits", *settings], ["mlp_digits"], []):
        assert parsed("train", *given, "--run", copy, "--resume") == kept
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before, "nothing is written"


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (["epochs=5", "seed=1"], ["seed: 0 → 1"]),
        (["epochs=3"], ["epochs: 4.0 → 3.0"]),
        (["learning_rate=0.1"], ["learning_rate: 0.005 → 0.1"]),
    ],
)
def test_resuming_with_other_settings_lists_them(mlp, settings, changes):
    message = error("train", "mlp_digits", *settings, "--run", mlp, "--resume")
    head, *listed = message.splitlines()
    assert "the recipe differs from that of the run" in head
    assert [change.strip() for change in listed] == changes


def test_resuming_another_recipe_is_refused(mlp):
    message = error("train", "lenet5_digits", "--run", mlp, "--resume")
    assert f"the run in {mlp} has the model 'mlp', and this recipe the model 'lenet5'" in message


@pytest.mark.slow
def test_resuming_nothing_begins(tmp_path, caplog):
    command = ["train", "mlp_digits", "epochs=1", "--run", tmp_path / "a", "--resume"]
    first = parsed(*command)
    assert f"there is no run in {tmp_path / 'a'} yet; it begins" in caplog.text
    assert parsed(*command) == first
    assert "has ended already; nothing is left to do" in caplog.text


@pytest.mark.slow
def test_a_finished_run_goes_on_for_more_epochs(tmp_path):
    """With a constant rate to the same bits as one that was longer from the beginning."""
    settings = ["mlp_digits", "schedule=constant"]
    parsed("train", *settings, "epochs=2", "--run", tmp_path / "a")
    longer = parsed("train", "--run", tmp_path / "a", "--resume", "epochs=3")
    whole = parsed("train", *settings, "epochs=3", "--run", tmp_path / "b")
    assert {**longer, "seconds": 0} == {**whole, "seconds": 0}
    assert from_json((tmp_path / "a" / "recipe.json").read_text()).epochs == 3


@pytest.mark.slow
def test_settings_alone_are_for_the_default_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parsed("train", "epochs=0.1")["steps"] == 4
    assert from_json((tmp_path / "runs/lenet5_digits/recipe.json").read_text()).model == "lenet5"


def test_a_folder_that_is_taken(mlp, tmp_path):
    before = (mlp / "recipe.json").read_text()
    assert f"{mlp} holds a run already; continue it with --resume" in error("train", "mlp_digits", "--run", mlp)
    assert (mlp / "recipe.json").read_text() == before
    (tmp_path / "notes.txt").write_text("mine")
    assert "exists and is not a run folder" in error("train", "mlp_digits", "--run", tmp_path)
    assert "exists and is not a run folder" in error("train", "mlp_digits", "--run", tmp_path / "notes.txt")
    assert "notes.txt is a file" in error("train", "mlp_digits", "--run", tmp_path / "notes.txt" / "inside")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# ---- augment ----


@pytest.mark.skipif("ZOO_DATA_DIR" not in os.environ, reason="needs pictures of CIFAR-10 in ZOO_DATA_DIR")
def test_a_grid_needs_no_weights(tmp_path):
    assert parsed("augment", "transfer_cifar_folder", "--out", tmp_path / "c.png")["images"] == 8


def test_a_grid_of_augmented_images(tmp_path):
    facts = parsed("augment", "lenet5_digits", "augmentation=guide", "--out", tmp_path / "a" / "grid.png")
    assert (facts["images"], facts["draws"]) == (8, 8)
    with Image.open(facts["file"]) as image:
        assert min(image.size) > 200
    assert "this recipe has no augmentation" in error("augment", "lenet5_digits", "--out", tmp_path / "b.png")
