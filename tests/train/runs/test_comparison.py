"""Comparisons: which variants settings mean, what is written, what is resumed, and what is refused before training."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

import train.recipes  # noqa: F401
from train.loop.callbacks import read_history
from train.recipe import get_recipe, override
from train.runs.comparison import compare, get_comparison, list_comparisons, variants_of

FEW = ["epochs=2", "validation=0.5", "model_options.hidden_sizes=[8]", "checkpoint_every=2"]


def base(*settings):
    return override(get_recipe("mlp_digits"), [*FEW, *settings])


@pytest.mark.parametrize(
    ("settings", "same", "variants"),
    [
        (["epochs=3"], ["epochs=3"], {"": []}),
        (["optimizer=sgd,adam"], [], {"sgd": ["optimizer=sgd"], "adam": ["optimizer=adam"]}),
        (
            ["learning_rate=0.1,1e-2", "seed=1"],
            ["seed=1"],
            {"learning_rate=0.1": ["learning_rate=0.1"], "learning_rate=1e-2": ["learning_rate=1e-2"]},
        ),
        (
            ["optimizer=sgd,adam", "model_options.dropout_rate=0,0.5"],
            [],
            {
                f"{name}, dropout_rate={rate}": [f"optimizer={name}", f"model_options.dropout_rate={rate}"]
                for name in ("sgd", "adam")
                for rate in ("0", "0.5")
            },
        ),
        (
            ["model_options.hidden_sizes=[64],[64, 32]"],
            [],
            {f"hidden_sizes={v}": [f"model_options.hidden_sizes={v}"] for v in ("[64]", "[64, 32]")},
        ),
        (["model_options.hidden_sizes=[64,32]"], ["model_options.hidden_sizes=[64,32]"], {"": []}),
        (["data='csv:a,b.csv'"], ["data='csv:a,b.csv'"], {"": []}),
        (["optimizer_options.l2={'a': 1, 'b': 2}"], ["optimizer_options.l2={'a': 1, 'b': 2}"], {"": []}),
    ],
)
def test_settings_with_several_values_are_variants(settings, same, variants):
    assert variants_of(settings) == (same, variants)


@pytest.mark.parametrize("setting", ["optimizer=sgd,", "optimizer=,sgd", "optimizer=sgd,sgd"])
def test_a_value_that_is_empty_or_double(setting):
    with pytest.raises(ValueError, match="a value of optimizer is empty, or stands there twice"):
        variants_of([setting])


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    lines = []
    variants = {"plain": [], "sgd": ["optimizer=sgd"]}
    found = compare(base(), variants, folder, seeds=[0, 1], progress=False, tell=lines.append)
    return folder, found, lines


@pytest.mark.slow
def test_what_a_comparison_leaves(compared):
    folder, found, lines = compared
    assert sorted(path.name for path in folder.iterdir()) == [
        "compare.csv",
        "compare.json",
        "compare.png",
        *(f"{name}_seed{seed}" for name in ("plain", "sgd") for seed in (0, 1)),
    ]
    assert lines == ["1 of 4: plain_seed0", "2 of 4: plain_seed1", "3 of 4: sgd_seed0", "4 of 4: sgd_seed1"]
    assert json.loads((folder / "compare.json").read_text()) == found
    with (folder / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == ["plain", "sgd"]
    assert [row["settings"] for row in rows] == ["", "optimizer=sgd"]
    assert float(rows[0]["validation_accuracy"]) == found["variants"][0]["validation_accuracy"]
    with Image.open(folder / "compare.png") as image:
        assert image.size[0] > 1000


@pytest.mark.slow
def test_the_figures_are_means_over_the_seeds_at_the_end(compared):
    folder, found, _ = compared
    assert found["metric"] == "accuracy"
    for row in found["variants"]:
        histories = [read_history(folder / f"{row['variant']}_seed{seed}" / "history.csv") for seed in (0, 1)]
        ends = [history[-1]["validation_accuracy"] for history in histories]
        assert row["validation_accuracy"] == pytest.approx(np.mean(ends))
        assert row["validation_accuracy_sd"] == pytest.approx(np.std(ends, ddof=1))
        assert row["gap"] == pytest.approx(row["training_accuracy"] - row["validation_accuracy"])
        # In inference: without dropout, and by the weights of the end, the training images are better known.
        assert row["training_accuracy"] > np.mean([history[-1]["accuracy"] for history in histories])
    plain, sgd = found["variants"]
    assert plain["validation_accuracy"] > sgd["validation_accuracy"]


@pytest.mark.slow
def test_what_is_finished_is_not_trained_again(compared):
    folder, found, _ = compared
    runs = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder]
    before = {path: path.stat().st_mtime_ns for path in runs}
    again = compare(base(), {"plain": [], "sgd": ["optimizer=sgd"]}, folder, seeds=[0, 1], progress=False)
    assert again == found
    assert {path: path.stat().st_mtime_ns for path in runs} == before


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on(tmp_path, monkeypatch):
    """With the runs that are there, and to the same figures."""
    from train.runs import run as runs

    variants = {"adam": [], "sgd": ["optimizer=sgd"]}
    whole = compare(base(), variants, tmp_path / "whole", progress=False)
    train = runs.train

    def stop(recipe, folder, **options):
        if recipe.optimizer == "sgd":
            raise KeyboardInterrupt
        return train(recipe, folder, **options)

    monkeypatch.setattr(runs, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        compare(base(), variants, tmp_path / "cut", progress=False)
    monkeypatch.setattr(runs, "train", train)
    assert (tmp_path / "cut" / "adam" / "report.json").is_file()
    goes_on = compare(base(), variants, tmp_path / "cut", progress=False)
    for first, second in zip(whole["variants"], goes_on["variants"], strict=True):
        assert {n: v for n, v in first.items() if n not in ("runs", "seconds")} == {
            n: v for n, v in second.items() if n not in ("runs", "seconds")
        }


@pytest.mark.slow
def test_a_loss_that_is_no_number_does_not_end_the_others(tmp_path):
    variants = {"fine": [], "far": ["optimizer=sgd", "learning_rate=1e38"]}
    found = compare(base("model_options.dropout_rate=0"), variants, tmp_path, progress=False)
    fine, far = found["variants"]
    assert "validation_accuracy" in fine
    assert "validation_accuracy" not in far
    assert "the loss is nan at step" in far["ended_early"][0]
    assert (tmp_path / "compare.png").is_file()
    with pytest.raises(ValueError, match="no variant came to an evaluation"):
        compare(base(*variants["far"]), {"a": [], "b": ["seed=1"]}, tmp_path / "none", progress=False)


@pytest.mark.slow
def test_a_loss_is_the_better_the_less_it_is(tmp_path):
    variants = {"a": [], "b": ["seed=1"]}
    found = compare(base(), variants, tmp_path, metric="loss", progress=False)
    for row in found["variants"]:
        assert row["gap"] == row["validation_loss"] - row["training_loss"]
    with pytest.raises(ValueError, match="unknown metric of these runs: 'acuracy'; nearest: accuracy"):
        compare(base(), variants, tmp_path, metric="acuracy", progress=False)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"a": [], "b": ["optimizer=sdg"]}, "b: unknown optimizer: 'sdg'; nearest: sgd"),
        ({"a": [], "b": ["optimizer_options.l2={'Dens_0': 0.1}"]}, "b: l2: 'Dens_0' matches none of the trained param"),
        ({"a": [], "b": ["optimizer=adam"]}, "'a' and 'b' are the same training"),
        ({"a/b": [], "a b": ["seed=1"]}, "would have one folder, .*a_b; call one otherwise"),
        ({"a": ["epoch=3"]}, "unknown field of a recipe: 'epoch'"),
        ({"a": [], "b": ["batch_size=0"]}, "b: batch_size must be at least 1, not 0"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(tmp_path, variants, message):
    with pytest.raises(ValueError, match=message):
        compare(base(), variants, tmp_path / "c", progress=False)
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
def test_a_folder_of_other_runs_is_refused(compared):
    folder, _, _ = compared
    with pytest.raises(
        ValueError, match=r"plain_seed0 holds a run of other settings; take another folder with --folder"
    ):
        compare(base("learning_rate=0.1"), {"plain": [], "sgd": ["optimizer=sgd"]}, folder, seeds=[0], progress=False)


@pytest.mark.parametrize("name", list_comparisons())
def test_the_comparisons_can_be_built(name):
    """Each variant's settings fit, and no two are one training."""
    from train.runs.build import build

    known = get_comparison(name)
    recipes = [override(get_recipe(known.recipe), [*known.settings, *of]) for of in known.variants.values()]
    assert len({recipe.to_json() for recipe in recipes}) == len(recipes) > 2
    for recipe in recipes[:: max(1, len(recipes) // 4)]:
        assert build(recipe).steps > 0


def test_an_unknown_comparison():
    with pytest.raises(ValueError, match="unknown comparison: 'optimisers'; nearest: optimizers"):
        get_comparison("optimisers")
