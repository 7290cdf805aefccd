"""Commands on models: list, card, convert."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import zoo
from tests.train.cli.command import error, parsed, run


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


@pytest.mark.slow
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
    grey = ["channels=1", "mean=[0.4]", "std=[0.2]", "crop=1.0", "image_size=8"]
    parsed("convert", "resnet18", hub, *settings, *grey, "--out", tmp_path / "grey")
    (found,) = parsed("predict", tmp_path / "grey", pictures[0][0])
    x = (np.asarray(Image.open(pictures[0][0]).convert("L"), np.float32)[None, ..., None] / 255 - 0.4) / 0.2
    kernel = variables["params"]["conv_stem"]["kernel"].sum(axis=2, keepdims=True)
    adapted = {**variables, "params": {**variables["params"], "conv_stem": {"kernel": kernel}}}
    wanted = jax.nn.softmax(model.apply(adapted, x))[0]
    np.testing.assert_allclose(list(found["probabilities"].values()), wanted, atol=1e-4)
    zoo.save_model(tmp_path / "bare", "resnet18", variables, **options)
    assert "was saved without preprocessing" in error("predict", tmp_path / "bare", pictures[0][0])


def test_convert_names_an_entry_and_takes_faults_when_asked(tmp_path):
    torch = pytest.importorskip("torch")
    from tests.descriptors import MODELS, random_variables
    from zoo import pretrained

    options = MODELS["resnet18"].small
    variables = random_variables(zoo.create_model("resnet18", **options), np.zeros((1, 9, 9, 3), np.float32))
    state = {k: torch.from_numpy(x) for k, x in pretrained.to_torch("resnet18", variables, **options).items()}
    average = {**state, "fc.bias": state["fc.bias"] * float("nan")}
    torch.save({"state_dict": state, "state_dict_ema": average}, tmp_path / "a.pth")
    settings = [f"{name}={list(value) if isinstance(value, tuple) else value}" for name, value in options.items()]
    command = ("convert", "resnet18", tmp_path / "a.pth", *settings, "--out", tmp_path / "out")
    assert "name one, entry='state_dict' (--entry state_dict of `zoo convert`)" in error(*command)
    assert "have NaN or infinity in fc.bias" in error(*command, "--entry", "state_dict_ema")
    parsed(*command, "--entry", "state_dict_ema", "--allow-faults")
    assert np.isnan(zoo.load_model(tmp_path / "out").variables["params"]["head"]["bias"]).all()
