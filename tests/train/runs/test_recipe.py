"""Recipes as data: overriding, JSON, differences; and what building them finds wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import train.recipes  # noqa: F401
import zoo
from tests.descriptors import random_variables
from train import recipe
from train.metrics import higher_is_better
from train.recipe import Recipe, describe_recipe, differences, from_json, get_recipe, list_recipes, override
from train.runs.build import build
from train.runs.transfer import resolve
from train.settings import literal

BASE = Recipe(model="mlp", data="digits", model_options={"dropout_rate": 0.1}, data_options={"flat": True})
with_mnist = pytest.mark.skipif("ZOO_DATA_DIR" not in os.environ, reason="MNIST is read from ZOO_DATA_DIR")
every_recipe = pytest.mark.parametrize("name", list_recipes())


# ---- override ----


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("epochs=3", "epochs", 3.0),
        ("epochs=0.5", "epochs", 0.5),
        ("learning_rate=1e-4", "learning_rate", 1e-4),
        ("model=lenet5", "model", "lenet5"),
        ('model="lenet5"', "model", "lenet5"),
        ("patience=3", "patience", 3),
        ("patience=None", "patience", None),
        ("validation=500", "validation", 500),
        ("validation=0.25", "validation", 0.25),
        ("seed=-1", "seed", -1),
        ("model_options.dropout_rate=0.5", "model_options", {"dropout_rate": 0.5}),
        ("model_options.hidden_sizes=[32, 16]", "model_options", {"dropout_rate": 0.1, "hidden_sizes": [32, 16]}),
        ("model_options.activation=tanh", "model_options", {"dropout_rate": 0.1, "activation": "tanh"}),
        ("data_options.standardize=True", "data_options", {"flat": True, "standardize": True}),
        ("model_options={'num_classes': 3}", "model_options", {"num_classes": 3}),
        ("model_options={}", "model_options", {}),
        ("schedule_options.milestones=(0.1, 0.2)", "schedule_options", {"milestones": (0.1, 0.2)}),
        ("optimizer_options.mask=None", "optimizer_options", {"mask": None}),
        ("monitor=a=b", "monitor", "a=b"),
        ("monitor=", "monitor", ""),
    ],
)
def test_override(setting, field, value):
    changed = override(BASE, [setting])
    assert getattr(changed, field) == value
    assert type(getattr(changed, field)) is type(value)
    assert dataclasses.replace(changed, **{field: getattr(BASE, field)}) == BASE, "nothing else changes"


def test_overrides_add_up_and_the_last_one_wins():
    before = BASE.to_json()
    settings = ["epochs=3", "optimizer_options.b1=0.5", "optimizer_options.b2=0.9", "epochs=4"]
    changed = override(BASE, settings)
    assert (changed.epochs, changed.optimizer_options) == (4.0, {"b1": 0.5, "b2": 0.9})
    assert BASE.to_json() == before, "a recipe is a value"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "NAME=VALUE, such as epochs=3; not 'epochs'"),
        ("--epochs", "NAME=VALUE"),
        ("epoch=3", "unknown field of a recipe: 'epoch'; nearest: epochs"),
        ("learning-rate=3", "nearest: learning_rate"),
        ("=3", "a setting has the form NAME=VALUE, such as epochs=3; not '=3'"),
        ("standardize=True", "standardize is an option: set data_options.standardize=True"),
        ("dropout_rate=0", "dropout_rate is an option: set model_options.dropout_rate=0"),
        (
            "clip_norm=1",
            "behind its group, such as data_options.clip_norm, optimizer_options.clip",
        ),
        ("optimiser_options.b1=3", "nearest: optimizer_options"),
        ("epochs=many", "epochs must be a number, not 'many'"),
        ("epochs=True", "epochs must be a number, not True"),
        ("epochs=None", "epochs must be a number, not None"),
        ("batch_size=3.5", "batch_size must be a whole number, not 3.5"),
        ("batch_size=[1]", r"batch_size must be a whole number, not \[1\]"),
        ("seed=True", "seed must be a whole number, not True"),
        ("patience=soon", "patience must be a whole number or None, not 'soon'"),
        ("validation=half", "validation must be a number or a whole number, not 'half'"),
        ("model=5", "model must be a text, not 5"),
        ("model_options=5", "model_options holds options by name: set model"),
        ("model.features=5", "model is not a group of options; set it as model=5"),
    ],
)
def test_settings_that_are_wrong(setting, message):
    with pytest.raises(ValueError, match=message):
        override(BASE, [setting])


def test_pictures_of_a_folder_are_read_in_the_size_of_the_model(caplog):
    """Unless a setting, or weights, say another."""
    lenet = Recipe(model="lenet5", data="digits", data_options={"upsample": 4})
    grey = {"image_size": [32, 32], "channels": 1}
    assert override(lenet, ["data=folder:photos"]).data_options == grey
    assert "32×32 in grey, the size that lenet5 is made for; data_options.image_size=…" in caplog.text
    found = override(lenet, ["data=folder:photos", "data_options.image_size=64", "model=resnet18"])
    assert found.data_options == {"image_size": 64}
    assert override(lenet, ["data=folder:photos", "weights=runs/mine"]).data_options == {}
    assert override(BASE, ["data=folder:photos"]).data_options == {}
    assert "224×224 in colours, the default" in caplog.text


def test_literals():
    assert literal("1e-3") == 1e-3
    assert literal("[1, 'a', None]") == [1, "a", None]
    assert literal("relu") == "relu"
    assert literal("__import__('os')") == "__import__('os')", "nothing is executed"
    assert literal("") == ""


# ---- JSON ----


@every_recipe
def test_json_round_trip(name):
    original = get_recipe(name)
    assert from_json(original.to_json()) == original
    assert set(json.loads(original.to_json())) == {field.name for field in dataclasses.fields(Recipe)}


def test_json_knows_dtypes_and_tuples_as_plain_data():
    text = dataclasses.replace(
        BASE, model_options={"dtype": np.dtype("float16"), "hidden_sizes": (8, 4), "num_classes": np.int64(3)}
    ).to_json()
    assert from_json(text).model_options == {"dtype": "float16", "hidden_sizes": [8, 4], "num_classes": 3}


def test_fields_that_are_not_there_have_their_defaults():
    assert from_json('{"model": "mlp", "data": "digits"}') == Recipe(model="mlp", data="digits")
    assert from_json('{"model": "mlp", "data": "digits", "epochs": 3}').epochs == 3.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "at least a model and data"),
        ("3", "at least a model and data"),
        ('{"model": "mlp"}', "at least a model and data"),
        ('{"model": "mlp", "data": "digits", "epoch": 3}', "unknown field of a recipe: 'epoch'; nearest: epochs"),
        ('{"model": "mlp", "data": "digits", "epochs": "3"}', "epochs must be a number, not '3'"),
        ('{"model": "mlp", "data": ["digits"]}', "data must be a text"),
    ],
)
def test_json_that_is_no_recipe(text, message):
    with pytest.raises(ValueError, match=message):
        from_json(text)


def test_differences():
    other = override(BASE, ["epochs=3", "model_options.dropout_rate=0.5", "patience=2"])
    assert differences(BASE, other) == [
        "epochs: 10.0 → 3.0",
        "model_options: {'dropout_rate': 0.1} → {'dropout_rate': 0.5}",
        "patience: None → 2",
    ]
    assert differences(BASE, BASE) == []
    tuples, lists = (dataclasses.replace(BASE, model_options={"hidden_sizes": kind([3, 4])}) for kind in (tuple, list))
    assert differences(tuples, lists) == [], "JSON does not tell them apart"


@pytest.mark.parametrize(
    ("monitor", "highest"),
    [
        *(("validation_accuracy", True), ("accuracy", True), ("validation_elbo", True), ("step", True)),
        *(("validation_loss", False), ("mae", False)),
    ],
)
def test_which_way_a_metric_is_better(monitor, highest):
    assert higher_is_better(monitor) is highest


# ---- the list ----


def test_recipes_are_listed():
    assert list_recipes() == sorted(list_recipes())
    assert {"lenet5_digits", "mlp_digits", "perceptron_iris", "cnn_mnist"} <= set(list_recipes())


@pytest.mark.slow
def test_a_program_need_not_import_the_recipes_first():
    script = """if True:
        from train.comparison import get_comparison
        from train.recipe import get_recipe
        print(get_recipe("mlp_digits").model, get_comparison("optimizers").recipe)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("mlp mlp_digits\n", "")


def test_unknown_recipe():
    with pytest.raises(ValueError, match="unknown recipe: 'lenet_digits'; nearest: lenet5_digits"):
        get_recipe("lenet_digits")
    with pytest.raises(ValueError, match="unknown recipe"):
        describe_recipe("lenet_digits")


def test_a_name_is_taken_once(monkeypatch):
    monkeypatch.setattr(recipe, "_recipes", dict(recipe._recipes))

    def mine() -> Recipe:
        return BASE

    assert recipe.recipe(mine) is mine
    assert get_recipe("mine") == BASE
    with pytest.raises(ValueError, match="a recipe named 'mine' exists already"):
        recipe.recipe(mine)


@every_recipe
def test_every_recipe_describes_itself(name):
    assert len(describe_recipe(name)) > 20


def needs_files(name):
    return get_recipe(name).data in ("mnist", "tiny_shakespeare", "shakespeare_speakers", "folder:cifar10_jpg_subset")


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """What the recipes for a user's own data take, by the names that they have there."""
    monkeypatch.chdir(tmp_path)
    lines = "".join(f"{index},{index % 7},{'ab'[index % 2]}\n" for index in range(60))
    (tmp_path / "table.csv").write_text(f"x,y,kind\n{lines}")
    for index in range(60):
        file = tmp_path / "pictures" / "abc"[index % 3] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 4 * index, np.uint8)).save(file)
    for index in range(120):
        file = tmp_path / "texts" / "ab"[index % 2] / f"{index}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"a text {'of one' if index % 2 else 'of another'} kind")


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=with_mnist) if needs_files(n) else n for n in list_recipes()])
def test_every_recipe_builds(name, tmp_path, own_data):
    wanted = get_recipe(name)
    ships = wanted.weights in zoo.shipped_models()
    if (wanted.weights and not ships) or not wanted.model:  # of a run of another recipe, which has another head
        saved = wanted.model or "resnet18"
        options = wanted.model_options if wanted.model else {"stem": "cifar", "features": 4}
        model = zoo.create_model(saved, **options, num_classes=7)
        variables = random_variables(model, np.zeros((1, 32, 32, 3), np.float32))
        prepared = zoo.pretrained.Preprocessing(32)._asdict()
        zoo.save_model(tmp_path / "weights", saved, variables, preprocessing=prepared, **options, num_classes=7)
        wanted = dataclasses.replace(wanted, weights=str(tmp_path / "weights"))
    parts = build(resolve(wanted))
    assert parts.dataset.name == wanted.data
    per_epoch = len(parts.dataset.splits["train"]) // wanted.batch_size
    rates = [float(parts.schedule(step)) for step in (0, 1, round(wanted.epochs * per_epoch) - 1)]
    assert 0 < max(rates) <= wanted.learning_rate * 1.0001
    assert "validation" in parts.dataset.splits


def test_two_recipes_of_one_name_are_equal():
    assert all(get_recipe(name) == get_recipe(name) for name in list_recipes())


# ---- build ----


def test_build_fills_in_classes_and_precision():
    parts = build(dataclasses.replace(BASE, precision="bfloat16"))
    assert parts.model_options == {"dropout_rate": 0.1, "num_classes": 10, "dtype": "bfloat16"}
    assert (parts.model.num_classes, parts.model.dtype, parts.model.dropout_rate) == (10, "bfloat16", 0.1)
    assert build(override(BASE, ["model_options.num_classes=10"])).model.num_classes == 10


def test_float16_scales_the_loss():
    example = {"image": np.zeros((1, 64), np.float32)}
    for precision, scaled in (("float16", True), ("bfloat16", False), ("float32", False)):
        task = build(dataclasses.replace(BASE, precision=precision)).task
        state = jax.eval_shape(task.init, jax.random.key(0), example)
        assert (state.loss_scale is not None) == scaled


def test_the_schedule_spans_the_training():
    """1437 digits less a tenth are 40 batches of 32 an epoch."""
    parts = build(override(BASE, ["epochs=3", "schedule=linear", "learning_rate=0.5"]))
    assert float(parts.schedule(0)) == 0.5
    assert float(parts.schedule(60)) == pytest.approx(0.25)
    assert float(parts.schedule(120)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model=mpl"], "unknown model: 'mpl'; nearest: mlp"),
        (["model_options.dropuot_rate=0.5"], "unknown option of model 'mlp': 'dropuot_rate'; nearest: dropout_rate"),
        (["data=digit"], "unknown data set 'digit'; nearest: digits"),
        (["data_options.upsampel=4"], "unknown option of data set 'digits': 'upsampel'; nearest: upsample"),
        (["data_options.upsample=0"], "upsample of data set 'digits' must be at least 1, not 0"),
        (["task=clasification"], "unknown task: 'clasification'; nearest: classification"),
        (["task_options.label_smooting=0.1"], "task 'classification': .*label_smooting"),
        (
            ["task_options.label_smoothing=1.5"],
            r"label_smoothing of task 'classification' must be in \[0, 1\), not 1.5",
        ),
        (
            ["task_options.loss=hinge"],
            "loss of task 'classification' must be 'cross_entropy' or 'perceptron', not 'hinge'",
        ),
        (["task_options.inputs=pixels"], "has no field 'pixels' for the model; it has image, label"),
        (["data=iris", "data_options={}"], "has no field 'image' for the model; it has features, label"),
        (["task=regression"], "has no field 'inputs' for the model; it has image, label"),
        (["optimizer=adm"], "unknown optimizer: 'adm'; nearest: adam"),
        (["optimizer_options.momentum=0.5"], "unknown option of optimizer 'adam': 'momentum'"),
        (["optimizer_options.clip_norm=-1"], "clip_norm of optimizer 'adam' must be greater than 0, not -1"),
        (["schedule=cosin"], "unknown schedule: 'cosin'; nearest: cosine"),
        (["schedule_options.final=0"], "schedule 'constant': .*final"),
        (["schedule_options.warmup_steps=400"], "warmup_steps must be at least 0 and less than the 400 steps, not 400"),
        (["plan=gpu"], "unknown plan: 'gpu'"),
        (["precision=float61"], "unknown precision: 'float61'; nearest: float16"),
        (["epochs=0"], "epochs must be greater than 0, not 0.0"),
        (["epochs=-1"], "epochs must be greater than 0, not -1.0"),
        (["batch_size=0"], "batch_size must be at least 1, not 0"),
        (["batch_size=2000"], "batch_size must be from 1 to the number of training examples, 1293; got 2000"),
        (["validation=1.5"], "validation must be"),
        (["validation=5000"], "validation must be"),
        (
            ["model=lenet5", "model_options={}", "data_options={}"],
            r"'lenet5', .*does not fit the data set 'digits', whose .*height ≥ 32.*\[1, 8, 8, 1\]",
        ),
        (
            ["model=cnn"],
            r"'cnn', .*does not fit the data set 'digits', .* image \[64\].*takes images.*\[1, 64\]",
        ),
        (["model_options.activation=rleu"], "rleu"),
        (["model_options.num_classes=12"], "num_classes=12 does not fit the data set 'digits', which has 10 classes"),
        (["model_options.num_classes=1", "task_options.loss=perceptron"], "num_classes=1 does not fit the data set"),
        (["optimizer_options.learning_rate=3"], "learning_rate is no option of optimizer 'adam'"),
        (["data_options.seed=3"], "seed is no option of data set 'digits': set seed=… of the recipe"),
        (["task_options.frozen=3"], "frozen is no option of task 'classification': set trained_layers=…"),
        (["optimizer_options.accumulate_steps=401"], "accumulate_steps=401 is more than the 400 steps"),
        (["schedule=step", "schedule_options.milestones=[100]"], r"rising fractions of the training, in \(0, 1\), not"),
        (["schedule=step", "schedule_options.milestones=[0.5, 0.2]"], "rising fractions of the training"),
        (["plateau_options.patience=0"], "patience of the plateau must be at least 1, not 0"),
        (["learning_rate=-0.1"], "learning_rate must be at least 0, not -0.1"),
        (["seed=99999999999999999999"], r"seed must be in \[0, "),
        (["epochs=1e400"], "epochs must be greater than 0, not inf"),
        (["keep=0"], "keep must be at least 1, not 0"),
        (["task_options.loss=perceptron"], "the perceptron criterion takes one logit, not 10"),
    ],
)
def test_build_finds_what_is_wrong(settings, message):
    with pytest.raises(ValueError, match=message):
        build(override(BASE, settings))


def test_two_classes_may_have_one_logit():
    settings = ["data=iris", "model=perceptron", "model_options={}", "data_options={'positive': 'setosa'}"]
    wanted = ["task_options={'loss': 'perceptron', 'inputs': 'features'}"]
    assert build(override(BASE, settings + wanted)).model.num_outputs == 1


def test_the_last_window_of_accumulated_gradients_closes():
    """40 batches an epoch and windows of 7: 42 steps."""
    assert build(override(BASE, ["epochs=1", "optimizer_options.accumulate_steps=7"])).steps == 42


def test_regression_of_targets_of_another_shape():
    wrong = Recipe(model="mlp", data="sum_sequence", task="regression", model_options={"num_classes": 3}, validation=0)
    with pytest.raises(ValueError, match=r"does not fit the data set 'sum_sequence', .*: prediction and target differ"):
        build(wrong)


@pytest.mark.parametrize(("batch_size", "count"), [(32, 8), (30, 6), (1, 1), (7, 7), (12, 6)])
def test_as_many_devices_as_share_the_batch_evenly(all_devices, caplog, batch_size, count):
    assert jax.device_count() == 8
    assert build(dataclasses.replace(BASE, batch_size=batch_size)).plan.num_devices == count
    assert ("over" in caplog.text) == (count < 8)


@pytest.mark.parametrize("monitor", ["validation_acuracy", "validation_loss"])
def test_a_metric_to_monitor_that_there_will_not_be(monitor):
    with pytest.raises(ValueError, match=f"unknown metric to monitor: '{monitor}'; nearest: .*accuracy|loss"):
        build(dataclasses.replace(BASE, monitor=monitor, validation=0))
