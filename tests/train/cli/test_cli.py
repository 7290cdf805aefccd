"""The command line: what it prints, what it writes, and how it says that something is wrong."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import sklearn.metrics
from PIL import Image

import data
import zoo
from train.cli import COMMANDS, main
from train.loop import parallel
from train.recipe import from_json, get_recipe, list_recipes, override


def run(*arguments):
    """What a command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        main([str(argument) for argument in arguments])
    return out.getvalue()


def parsed(*arguments):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(run(*arguments, "--json"), parse_constant=refuse)


def error(*arguments):
    """The one line that ends a command which cannot do what it is told."""
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    message = caught.value.code
    assert isinstance(message, str), "a message goes to stderr and makes the exit status 1"
    assert message.startswith("zoo: error: ")
    return message


def usage_error(*arguments):
    """What tyro says of a command line that it cannot read; exit status 2."""
    err = io.StringIO()
    with pytest.raises(SystemExit) as caught, contextlib.redirect_stderr(err), contextlib.redirect_stdout(err):
        main([str(argument) for argument in arguments])
    assert caught.value.code == 2
    assert "Traceback" not in err.getvalue()
    return err.getvalue()


def python(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three small runs by recipe, each trained on one device, with what the command printed."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "devices_for", lambda batch_size: jax.devices()[:1])
        printed = {
            "mlp_digits": run("train", "mlp_digits", "epochs=4", "checkpoint_every=2", "--run", folder / "mlp_digits"),
            "lenet5_digits": parsed("train", "lenet5_digits", "epochs=0.2", "--run", folder / "lenet5_digits"),
            "perceptron_iris": parsed("train", "perceptron_iris", "epochs=2", "--run", folder / "perceptron_iris"),
        }
    return folder, printed


@pytest.fixture
def mlp(runs):
    return runs[0] / "mlp_digits"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The first digits of the test split as PNG files, light on dark, and their labels."""
    folder = tmp_path_factory.mktemp("pictures")
    test = data.load("digits").splits["test"][np.arange(40)]
    files = [folder / f"{index}.png" for index in range(40)]
    for file, image in zip(files, test["image"][..., 0], strict=True):
        Image.fromarray(np.uint8(np.round(image * 255))).save(file)
    return files, test["label"]


# ---- list, card, recipes ----


def test_list():
    lines = run("list").splitlines()
    assert lines[0].split() == ["name", "parameters", "input", "paper"]
    assert [line.split()[0] for line in lines[1:]] == zoo.list_models()
    (lenet,) = [line for line in lines if line.startswith("lenet5 ")]
    assert "61,706" in lenet
    assert "32×32×1" in lenet


def test_list_with_a_wildcard():
    lines = run("list", "resnet1*").splitlines()
    assert [line.split()[0] for line in lines[1:]] == zoo.list_models("resnet1*")
    assert len(lines) > 2
    assert "no model matches 'nothing*'; `zoo list` shows all" in error("list", "nothing*")


def test_list_as_json():
    rows = parsed("list")
    assert [row["name"] for row in rows] == zoo.list_models()
    (row,) = parsed("list", "lenet5")
    assert (row["parameters"], row["input"], row["task"]) == (61_706, [32, 32, 1], "classification")
    assert parsed("list", "nothing*") == []


def test_card():
    text = run("card", "lenet5")
    for part in ("61,706", "[1, 32, 32, 1]", "Y. LeCun", "num_classes"):
        assert part in text
    *layers, whole = [int(line.split()[-1].replace(",", "")) for line in text.partition("\n\n")[2].splitlines()[1:]]
    assert sum(layers) == whole == 61_706


def test_card_as_json():
    card = parsed("card", "mlp")
    *layers, whole = card["layers"]
    assert card["parameters"] == 17_226 == whole["num_parameters"] == sum(layer["num_parameters"] for layer in layers)
    assert card["options"]["hidden_sizes"] == [128, 64]
    assert (card["name"], card["input"], card["weights_licence"]) == ("mlp", [1, 64], None)
    # Two operations for each weight, one more for each of a few activations.
    assert 2 * 17_024 <= card["flops"] < 2.2 * 17_024


def test_card_with_options():
    card = parsed("card", "mlp", "hidden_sizes=[3]", "num_classes=2", "activation=tanh")
    assert card["parameters"] == 64 * 3 + 3 + 3 * 2 + 2
    assert card["options"]["hidden_sizes"] == [3]
    assert card["options"]["activation"] == "tanh"


def test_recipes():
    text = run("recipes")
    assert [line for line in text.splitlines() if line and not line.startswith(" ")] == list_recipes()
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


# ---- train and evaluate ----


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
    for part in ("parameters              17,226", "steps                   160", "test_accuracy", "precision"):
        assert part in printed


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


@pytest.mark.parametrize("split", ["train", "validation"])
def test_evaluate_another_split(mlp, split):
    report = parsed("evaluate", mlp, "--split", split)
    assert set(report) == {f"{split}_loss", f"{split}_accuracy", "classes"}
    held = {"train": 1293, "validation": 144}[split]
    assert report["classes"]["macro avg"]["support"] == held
    if split == "validation":
        with (mlp / "history.csv").open() as file:
            best = max(float(row["validation_accuracy"]) for row in list(csv.DictReader(file))[1::2])
        assert report["validation_accuracy"] == pytest.approx(best, abs=1e-6), "the best of the checkpoints"


def test_evaluate_in_words(mlp):
    text = run("evaluate", mlp)
    assert "test_accuracy" in text
    header, *rows = [line.split() for line in text.partition("\n\n")[2].splitlines()]
    assert header == ["class", "precision", "recall", "f1", "examples"]
    assert [row[0] for row in rows[:10]] == [str(i) for i in range(10)]
    assert all(0 <= float(value) <= 1 for row in rows[:10] for value in row[1:4])


def test_a_run_is_used_on_any_number_of_devices(runs):
    """Trained one example a step on one device, evaluated on eight."""
    assert jax.device_count() == 8
    assert parsed("evaluate", runs[0] / "perceptron_iris")["test_accuracy"] == 1.0


def test_a_binary_run_names_its_classes(runs):
    assert {"other", "setosa"} <= set(parsed("evaluate", runs[0] / "perceptron_iris")["classes"])


def test_resuming_a_finished_run_gives_its_report(mlp):
    kept = json.loads((mlp / "report.json").read_text())
    settings = ["epochs=4", "checkpoint_every=2"]
    assert parsed("train", "mlp_digits", *settings, "--run", mlp, "--resume") == kept


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
    (plain,) = parsed("predict", mlp, negative)
    np.testing.assert_allclose(
        list(inverted["probabilities"].values()), list(wanted["probabilities"].values()), atol=1e-4
    )
    assert plain["probabilities"] != wanted["probabilities"]


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["card", "lenet"], "unknown model: 'lenet'; nearest: lenet5"),
        (["card", "mlp", "dropout=0.1"], "unknown option of model 'mlp': 'dropout'; nearest: dropout_rate"),
        (["card", "mlp", "dropout_rate"], "OPTION=VALUE, such as num_classes=10; not 'dropout_rate'"),
        (["card", "mlp", "dropout_rate=much"], "model 'mlp' cannot be built with dropout_rate=much: "),
        (["card", "lenet5", "num_classes=-3"], "model 'lenet5' cannot be built with num_classes=-3: "),
        (["card", "mlp", "activation=rleu"], "unknown activation: 'rleu'"),
        (["recipes", "lenet5_digit"], "unknown recipe: 'lenet5_digit'; nearest: lenet5_digits"),
        (["train", "lenet5_digit"], "unknown recipe: 'lenet5_digit'; nearest: lenet5_digits"),
        (["train", "mlp_digits", "epoch=3"], "unknown field of a recipe: 'epoch'; nearest: epochs"),
        (["train", "mlp_digits", "epochs"], "a setting has the form NAME=VALUE"),
        (["train", "mlp_digits", "epochs=long"], "epochs must be float, not 'long'"),
        (["train", "mlp_digits", "model=mpl"], "unknown model: 'mpl'; nearest: mlp"),
        (["train", "mlp_digits", "model=lenet5"], "does not fit the data set 'digits'"),
        (["train", "mlp_digits", "--resume", "--run", "nowhere"], "nowhere is not a run folder"),
        (["evaluate", "nowhere"], "nowhere is not a run folder: it has no recipe.json"),
        (["predict", "nowhere", "a.png"], "nowhere is not a run folder"),
        (["export", "nowhere", "--out", "x"], "nowhere is not a run folder"),
        (["bench", "lenet"], "unknown model: 'lenet'; nearest: lenet5"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = error(*arguments)
    assert message in found
    assert "\n" not in found
    assert list(tmp_path.iterdir()) == [], "nothing is begun"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "list, card, recipes, train"),
        (["tarin"], "list, card, recipes, train"),
        (["train", "mlp_digits", "--epochs", "3"], "--epochs"),
        (["card"], "NAME"),
        (["predict"], "RUN"),
        (["export", "run"], "--out"),
        (["bench", "mlp", "--batch-size", "many"], "many"),
    ],
)
def test_usage(arguments, message):
    assert message in usage_error(*arguments)


def test_the_exit_status_and_stderr_of_a_mistake(tmp_path):
    finished = python("-m", "train", "card", "lenet", cwd=tmp_path)
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert finished.stderr.startswith("zoo: error: unknown model: 'lenet'; nearest: lenet5")
    assert finished.stderr.count("\n") == 1


def test_help(tmp_path):
    finished = python("-m", "train", "--help", cwd=tmp_path)
    assert finished.returncode == 0
    assert finished.stderr == ""
    for command in COMMANDS:
        assert command in finished.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert " ".join(COMMANDS[command].__doc__.split()[:4]) in " ".join(text.split())


_MEMORY = """
import resource, sys
from train.launch import keep_memory

keep_memory()
import jax, jax.numpy as jnp

double = jax.jit(lambda x: jnp.cumsum(x * 2) + 1)
x = jnp.ones(2**24)
for _ in range(12):
    double(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    double(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_memory_is_kept_from_step_to_step(monkeypatch):
    """The kernel hands out a step's pages anew where nothing is kept, and else but for holes that were filled."""

    def new_pages():
        return int(subprocess.run([sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True).stdout)

    kept = new_pages()
    monkeypatch.setenv("ZOO_CPU_LOWERING", "plain")
    assert kept < new_pages() / 2


def test_debugging_shows_where(monkeypatch):
    monkeypatch.setenv("ZOO_DEBUG", "1")
    with pytest.raises(ValueError, match="unknown model"):
        run("card", "lenet")


def test_a_folder_that_is_taken(mlp, tmp_path):
    before = (mlp / "recipe.json").read_text()
    assert f"{mlp} holds a run already; continue it with --resume" in error("train", "mlp_digits", "--run", mlp)
    assert (mlp / "recipe.json").read_text() == before
    (tmp_path / "notes.txt").write_text("mine")
    assert "exists and is not a run folder" in error("train", "mlp_digits", "--run", tmp_path)
    assert "exists and is not a run folder" in error("train", "mlp_digits", "--run", tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_resuming_with_other_settings_lists_them(mlp):
    message = error("train", "mlp_digits", "epochs=5", "checkpoint_every=2", "seed=1", "--run", mlp, "--resume")
    head, *changes = message.splitlines()
    assert "the recipe differs from that of the run" in head
    assert [change.strip() for change in changes] == ["epochs: 4.0 → 5.0", "seed: 0 → 1"]


def test_predict_without_a_picture(mlp):
    assert "no image given: zoo predict RUN FILE…" in error("predict", mlp)


def test_predict_what_is_no_picture(mlp, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no image")
    for file in (text, tmp_path, tmp_path / "missing.png"):
        message = error("predict", mlp, file)
        assert f"cannot read '{file}' as an image" in message
        assert "\n" not in message


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


def test_export_where_nothing_can_be_written(mlp, tmp_path):
    assert "Is a directory" in error("export", mlp, "--out", tmp_path)


def test_a_recipe_that_was_damaged(mlp, tmp_path):
    (tmp_path / "recipe.json").write_text((mlp / "recipe.json").read_text()[:-40])
    assert "recipe.json: not JSON" in error("evaluate", tmp_path)
    (tmp_path / "recipe.json").write_text((mlp / "recipe.json").read_text())
    assert str(tmp_path) in error("evaluate", tmp_path)  # there is no checkpoint


# ---- convert and augment ----


def test_converted_weights_are_used_as_a_run_is(tmp_path, pictures):
    """Resized and cropped as the weights want it, by the command as by hand."""
    from tests.descriptors import MODELS, random_variables
    from zoo import pretrained

    options = {**MODELS["resnet18"].small, "stem": "cifar"}
    model = zoo.create_model("resnet18", **options)
    variables = random_variables(model, np.zeros((1, 9, 9, 3), np.float32))
    hub = tmp_path / "hub"
    hub.mkdir()
    safetensors.numpy.save_file(pretrained.to_torch("resnet18", variables, **options), hub / "model.safetensors")
    config = {"input_size": [3, 6, 6], "crop_pct": 0.75, "interpolation": "bilinear"}
    (hub / "config.json").write_text(
        json.dumps({"num_classes": 3, "pretrained_cfg": config, "label_names": list("abc")})
    )
    settings = [f"{name}={list(value) if isinstance(value, tuple) else value}" for name, value in options.items()]
    facts = parsed("convert", "resnet18", hub, *settings, "--out", tmp_path / "out")
    assert (facts["layout"], facts["image_size"], facts["crop"]) == ("timm", 6, 0.75)
    predictions = parsed("predict", tmp_path / "out", *pictures[0][:3])
    for file, prediction in zip(pictures[0][:3], predictions, strict=True):
        image = Image.open(file).convert("RGB").resize((8, 8), Image.Resampling.BILINEAR).crop((1, 1, 7, 7))
        x = (np.asarray(image, np.float32) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        wanted = jax.nn.softmax(model.apply(variables, x[None].astype(np.float32)))[0]
        np.testing.assert_allclose(list(prediction["probabilities"].values()), wanted, atol=1e-4)
        assert prediction["label"] == "abc"[int(wanted.argmax())]
    assert parsed("export", tmp_path / "out", "--out", tmp_path / "a.stablehlo")["classes"] == list("abc")
    assert "out exists; choose another folder" in error(
        "convert", "resnet18", hub, *settings, "--out", tmp_path / "out"
    )
    zoo.save_model(tmp_path / "bare", "resnet18", variables, **options)
    assert "was saved without preprocessing" in error("predict", tmp_path / "bare", pictures[0][0])


def test_a_grid_of_augmented_images(tmp_path):
    facts = parsed("augment", "lenet5_digits", "augmentation=guide", "--out", tmp_path / "a" / "grid.png")
    assert (facts["images"], facts["draws"]) == (8, 8)
    with Image.open(facts["file"]) as image:
        assert min(image.size) > 200
    assert "this recipe has no augmentation" in error("augment", "lenet5_digits", "--out", tmp_path / "b.png")
