"""The models that ship: each does what its card says, and all of them are small."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

import pytest

import zoo
from tests.compiling import optimised
from train.inference.evaluation import examine, load_with_data
from train.publishing.cards import facts_of, run_card
from train.publishing.headline import headline
from train.publishing.shipping import LICENCE, MOST_BYTES
from train.recipe import get_recipe
from zoo.hub_folder import CARD
from zoo.published import SHIPPED

NAMES = zoo.shipped_models()
FILES = {
    "README.md",
    "config.json",
    "history.csv",
    "model.safetensors",
    "recipe.json",
    "report.json",
    "vocabulary.json",
}
NEED_FILES = {"mnist", "cora", "tiny_shakespeare", "shakespeare_speakers"}
LONG = {"diffusion_mnist", "vae_mnist"}
"""Those whose evaluation runs longer than it is compiled."""


def test_they_are_small_and_whole():
    files = [file for file in SHIPPED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < MOST_BYTES
    assert {file.name for file in files} <= FILES
    assert {"lenet5_digits", "mlp_digits", "perceptron_iris"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_tells_what_the_report_tells(name):
    facts = facts_of(name)
    assert (SHIPPED / name / CARD).read_text(encoding="utf-8") == run_card(facts, name, licence=LICENCE)
    assert facts.recipe_name == name == facts.report["recipe"], "it was trained by the recipe that has its name"
    assert facts.recipe == get_recipe(name)
    conditions = facts.report["conditions"]
    assert conditions["seed"] == facts.recipe.seed
    assert len(conditions["commit"]) == 12, "trained by the code of a commit"
    assert conditions["jax"]
    assert conditions["device"]
    assert facts.report["seconds"] > 0


SLOWEST = "diffusion_mnist", "gan_mnist", "transformer_dates"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.exhaustive) if name in SLOWEST else name for name in NAMES]
)
def test_the_file_does_what_its_card_says(name):
    facts = facts_of(name)
    assert facts.recipe is not None
    if facts.recipe.data in NEED_FILES and not os.environ.get("ZOO_DATA_DIR"):
        pytest.skip(f"needs the files of {facts.recipe.data}, in ZOO_DATA_DIR")
    told = headline(facts.recipe.task, facts.report)
    assert told is not None
    run = load_with_data(name)
    # Elsewhere sums are rounded in another order: one example may be told otherwise.
    size = len(run.dataset.splits[told.split])
    with optimised() if name in LONG else contextlib.nullcontext():
        again = examine(run, told.split).report
    metric = told.metric if told.metric in again else f"{told.split}_loss"  # to draw images anew would take too long
    assert math.isclose(again[metric], facts.report[metric], rel_tol=1e-3, abs_tol=1.01 / size)


def test_nothing_names_this_machine():
    for file in SHIPPED.rglob("*"):
        if file.suffix in (".json", ".md", ".csv"):
            assert str(Path.home()) not in file.read_text(encoding="utf-8"), file
