"""The runs that commands are tried on, trained once in a process, and pictures to classify.

A test that writes into a run does so in a copy.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import data
from tests.train.cli.command import parsed, run


@pytest.fixture(scope="package")
def runs(tmp_path_factory):
    """Three small runs by recipe, with what the command printed."""
    folder = tmp_path_factory.mktemp("runs")
    printed = {
        "mlp_digits": run("train", "mlp_digits", "epochs=4", "checkpoint_every=2", "--run", folder / "mlp_digits"),
        "lenet5_digits": parsed("train", "lenet5_digits", "epochs=0.2", "--run", folder / "lenet5_digits"),
        "perceptron_iris": parsed("train", "perceptron_iris", "epochs=2", "--run", folder / "perceptron_iris"),
    }
    return folder, printed


@pytest.fixture
def mlp(runs):
    return runs[0] / "mlp_digits"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """The first digits of the test split as PNG files, light on dark, and their labels."""
    folder = tmp_path_factory.mktemp("pictures")
    test = data.load("digits").splits["test"][np.arange(40)]
    files = [folder / f"{index}.png" for index in range(40)]
    for file, image in zip(files, test["image"][..., 0], strict=True):
        Image.fromarray(np.uint8(np.round(image * 255))).save(file)
    return files, test["label"]
