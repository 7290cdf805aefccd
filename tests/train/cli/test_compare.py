"""The command compare on variants of a recipe; that on runs is in test_text_cli.py."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.train.cli.command import error, parsed, run

FEW = ["epochs=1", "validation=0.5", "model_options.hidden_sizes=[8]"]


@pytest.fixture(autouse=True)
def inside(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_variants_of_a_recipe(tmp_path):
    printed = run("compare", "mlp_digits", *FEW, "optimizer=sgd,momentum", "seed=0,1")
    lines = printed.splitlines()
    assert lines[0] == "1 of 4: sgd_seed0"
    assert lines[4].split()[:2] == ["variant", "runs"]
    assert [line.split()[:2] for line in lines[5:7]] == [["sgd", "2"], ["momentum", "2"]]
    folder = tmp_path / "runs" / "compare_mlp_digits"
    assert f"curves in {folder.relative_to(tmp_path)}/compare.png, figures in" in lines[-1]
    facts = json.loads((folder / "compare.json").read_text())
    assert [row["settings"] for row in facts["variants"]] == [["optimizer=sgd"], ["optimizer=momentum"]]
    places = [f"runs/compare_mlp_digits/sgd_seed{seed}" for seed in (0, 1)]
    assert facts["variants"][0]["runs"] == places
    again = parsed("compare", "mlp_digits", *FEW, "optimizer=sgd,momentum", "seed=0,1", "--out", tmp_path / "p.png")
    assert again["variants"] == facts["variants"]
    with Image.open(tmp_path / "p.png") as image:
        assert image.size[0] > 1000
    # Its runs are runs as any others.
    assert "accuracy" in run("compare", *places, "--metric", "accuracy")
    assert parsed("evaluate", places[0])["test_accuracy"] >= 0


@pytest.mark.slow
def test_a_comparison_by_name_with_settings_of_its_own(tmp_path):
    facts = parsed("compare", "optimizers", *FEW, "--folder", tmp_path / "c")
    assert [row["variant"] for row in facts["variants"]] == ["SGD", "momentum", "RMSprop", "Adam"]
    assert facts["recipe"]["epochs"] == 1.0
    assert (tmp_path / "c" / "RMSprop" / "report.json").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mlp_digits", "epochs=1"], "there is nothing to compare: give a setting of mlp_digits several values"),
        (["mlp_digit", "optimizer=sgd,adam"], "unknown recipe: 'mlp_digit'; nearest: mlp_digits"),
        (
            ["mlp_digits", "lenet5_digits", "optimizer=sgd,adam"],
            "settings are of one recipe or comparison; not of 'mlp_d",
        ),
        (["optimizer=sgd,adam"], "settings are of one recipe or comparison; not of none"),
        (["mlp_digits", "optimizer=sgd,adm"], "adm: unknown optimizer: 'adm'; nearest: adam"),
        (["mlp_digits", "optimizer=sgd,sgd"], "a value of optimizer is empty, or stands there twice"),
        (["mlp_digits", "learning_rate=0.1,much"], "learning_rate must be a number, not 'much'"),
        (["mlp_digits", "optimizer=sgd,adam", "seed=0,x"], "seed must be a whole number, not 'x'"),
        (["optimizer"], "optimizer/history.csv is not there"),
        (["a_run", "--folder", "f"], "--folder is for the runs of a recipe"),
        ([], "no run given: zoo compare RUN RUN…, or zoo compare RECIPE NAME=VALUE,VALUE"),
    ],
)
def test_mistakes_end_in_one_line(words, message, tmp_path):
    found = error("compare", *words)
    assert message in found
    assert "\n" not in found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_decay_by_wildcard_in_a_recipe(tmp_path):
    """It is kept with the run, in its order, and a wildcard that matches nothing is told before anything is written."""
    decay = ["optimizer=adamw", "optimizer_options.weight_decay.Dense_1=1e-3", "optimizer_options.weight_decay.*=0.1"]
    assert parsed("train", "mlp_digits", *FEW, *decay, "--run", tmp_path / "run")["steps"] > 0
    kept = json.loads((tmp_path / "run" / "recipe.json").read_text())["optimizer_options"]
    assert list(kept["weight_decay"].items()) == [("Dense_1", 1e-3), ("*", 0.1)]
    assert parsed("train", "--run", tmp_path / "run", "--resume")["steps"] > 0
    message = error("train", "mlp_digits", *FEW, "optimizer_options.l2.conv*=0.1", "--run", tmp_path / "other")
    assert "l2: 'conv*' matches none of the trained parameters: Dense_0/bias, Dense_0/kernel, Dense_1/bias" in message
    assert not (tmp_path / "other").exists()
