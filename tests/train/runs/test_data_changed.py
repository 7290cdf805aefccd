"""A run notices that its data have changed, that another process trains in its folder, and that it never began."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from train.data_facts import data_facts
from train.files import locked
from train.inference import evaluate
from train.recipe import Recipe
from train.runs.run import train

pytestmark = pytest.mark.slow

CLASSES = ("ant", "bee", "cat")


def paint(folder, names=CLASSES, count=12):
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = np.full((4, 4), 80 * label + index, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


@pytest.fixture
def trained(tmp_path):
    """A folder of pictures, a recipe on it, and a run."""
    paint(tmp_path / "pictures")
    options = {"image_size": 4, "channels": 1}
    recipe = Recipe("mlp", f"folder:{tmp_path / 'pictures'}", data_options=options, batch_size=8, epochs=2.0)
    train(recipe, tmp_path / "run", progress=False)
    return tmp_path / "pictures", recipe, tmp_path / "run"


def test_a_renamed_class_is_refused(trained):
    pictures, recipe, run = trained
    (pictures / "bee").rename(pictures / "wasp")
    wanted = r"the classes of .* have changed .*\n  then: 'ant', 'bee', 'cat'\n  now:  'ant', 'cat', 'wasp'"
    before = (run / "report.json").read_bytes(), (run / "recipe.json").stat().st_mtime_ns
    with pytest.raises(ValueError, match=wanted):
        evaluate(run)
    for epochs in (2.0, 3.0):
        with pytest.raises(ValueError, match=wanted):
            train(Recipe(**{**vars(recipe), "epochs": epochs}), run, resume=True, progress=False)
    assert before == ((run / "report.json").read_bytes(), (run / "recipe.json").stat().st_mtime_ns)


def test_more_pictures_are_told_of_and_not_trained_on(trained, caplog):
    pictures, recipe, run = trained
    paint(pictures, count=13)
    with caplog.at_level(logging.WARNING):
        evaluate(run)
    assert "has changed since the run" in caplog.text
    assert "from test 7, train 26, validation 3 to test 8, train 28, validation 3 examples" in caplog.text
    with pytest.raises(ValueError, match=r"has changed since the run .*; train into another folder with --run"):
        train(Recipe(**{**vars(recipe), "epochs": 3.0}), run, resume=True, progress=False)


def test_other_pictures_under_the_same_names_are_seen(trained, caplog):
    pictures, _, run = trained
    for index in range(12):
        Image.fromarray(np.full((4, 4), 255, np.uint8)).save(pictures / "ant" / f"{index}.png")
    with caplog.at_level(logging.WARNING):
        evaluate(run)
    assert "was trained: some of its examples" in caplog.text


def test_the_same_data_have_the_same_facts(trained, caplog):
    _, recipe, run = trained
    from train.recipe import load_data

    assert data_facts(load_data(recipe)) == data_facts(load_data(recipe))
    with caplog.at_level(logging.WARNING):
        evaluate(run)
    assert "changed" not in caplog.text


def test_a_folder_is_for_one_process(trained):
    _, recipe, run = trained
    other = f"from pathlib import Path; from train.files import locked\nwith locked(Path({str(run)!r})): print(1)"
    longer = Recipe(**{**vars(recipe), "epochs": 3.0})
    with locked(run):
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
        assert f"another process is training in {run}" in done.stderr
        with pytest.raises(ValueError, match="another process is training in"):
            train(longer, run, resume=True, progress=False)
    assert train(longer, run, resume=True, progress=False)["steps"] == 9
    assert not (run / ".lock").exists()


def test_a_run_that_never_began_begins_anew(trained, monkeypatch, caplog):
    _, recipe, run = trained

    def no_device(*args, **options):
        raise RuntimeError("no device")

    with monkeypatch.context() as patch:
        patch.setattr("train.runs.run.fit", no_device)
        with pytest.raises(RuntimeError, match="no device"):
            train(recipe, run.with_name("other"), progress=False)
    assert (run.with_name("other") / "recipe.json").exists()
    with caplog.at_level(logging.WARNING):
        train(recipe, run.with_name("other"), progress=False)
    assert "ended before its first checkpoint; it begins anew" in caplog.text
