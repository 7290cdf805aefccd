"""Files and folders of weights: what is read of them, and what is kept beside them."""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

import zoo
from tests.descriptors import MODELS, random_variables
from zoo import pretrained
from zoo.checkpoint import saved_meta

OPTIONS = MODELS["resnet18"].small
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 3,
    "label_names": ["ant", "bee", "cat"],
    "pretrained_cfg": {
        "input_size": [3, 48, 48],
        "interpolation": "bilinear",
        "crop_pct": 0.8,
        "crop_mode": "squash",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    },
}
PREPARED = pretrained.Preprocessing(48, 0.8, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), squash=True)


@pytest.fixture(scope="module")
def variables():
    return random_variables(
        zoo.create_model("resnet18", **OPTIONS), np.zeros((1, *MODELS["resnet18"].shape), np.float32)
    )


@pytest.fixture
def hub(variables, tmp_path):
    """A folder as timm saves one for the hub."""
    folder = tmp_path / "hub"
    folder.mkdir()
    state = pretrained.to_torch("resnet18", variables, **OPTIONS)
    safetensors.numpy.save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def without_classes():
    return {name: value for name, value in OPTIONS.items() if name != "num_classes"}


def test_a_folder_in_the_layout_of_the_hub(hub, variables):
    assert_same(pretrained.load("resnet18", hub, **OPTIONS).variables, variables)
    found = pretrained.describe("resnet18", hub, **OPTIONS)
    assert found.preprocessing == PREPARED
    assert (found.layout, found.num_classes, found.classes) == ("timm", 3, ("ant", "bee", "cat"))
    (hub / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        pretrained.load("resnet18", hub, **OPTIONS)
    (hub / "config.json").write_text(
        json.dumps({"pretrained_cfg": {"input_size": [3, 8, 8], "interpolation": "random"}})
    )
    with pytest.raises(ValueError, match="resized by 'random'; known are bilinear and bicubic"):
        pretrained.describe("resnet18", hub, **OPTIONS)


def test_what_a_configuration_leaves_out_has_timms_default(hub):
    (hub / "config.json").write_text(json.dumps({"pretrained_cfg": {"input_size": [3, 8, 8]}}))
    assert pretrained.describe("resnet18", hub, **OPTIONS).preprocessing == pretrained.Preprocessing(
        8, 0.875, "bicubic"
    )


def test_a_repository_on_the_hub(hub, variables, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(name, **options):
        asked.append(name)
        return str(hub)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert_same(pretrained.load("resnet18", "timm/resnet18.a1_in1k", **OPTIONS).variables, variables)
    assert asked == ["timm/resnet18.a1_in1k"]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="needs huggingface_hub: pip install"):
        pretrained.load("resnet18", "timm/resnet18.a1_in1k", **OPTIONS)


def test_convert(hub, variables, tmp_path):
    pretrained.convert("resnet18", hub, tmp_path / "out", **without_classes())
    model, found = zoo.load_model(tmp_path / "out")
    assert model == zoo.create_model("resnet18", **OPTIONS)
    assert_same(found, jax.tree.map(np.asarray, variables))
    meta = saved_meta(tmp_path / "out")
    assert meta["classes"] == ["ant", "bee", "cat"]
    assert meta["preprocessing"] == {**json.loads(json.dumps(PREPARED._asdict())), "channels": 3}
    with pytest.raises(FileExistsError, match="out exists; choose another folder"):
        pretrained.convert("resnet18", hub, tmp_path / "out", **without_classes())


def test_convert_with_another_head(hub, variables, tmp_path):
    pretrained.convert("resnet18", hub, tmp_path / "out", head="new", num_classes=5, **without_classes())
    _, found = zoo.load_model(tmp_path / "out")
    assert found["params"]["head"]["kernel"].shape == (32, 5)
    np.testing.assert_array_equal(found["params"]["conv_stem"]["kernel"], variables["params"]["conv_stem"]["kernel"])
    assert saved_meta(tmp_path / "out")["classes"] == []


def test_convert_takes_the_preprocessing_of_the_origin(hub, tmp_path):
    (hub / "config.json").unlink()
    for origin in ("timm", "torchvision"):
        pretrained.convert("resnet18", hub, tmp_path / origin, origin=origin, **OPTIONS)
        wanted = pretrained.preprocessing("resnet18", origin)
        assert saved_meta(tmp_path / origin)["preprocessing"]["image_size"] == wanted.image_size
        assert saved_meta(tmp_path / origin)["preprocessing"]["crop"] == wanted.crop


def test_convert_adds_the_options_that_weights_demand(tmp_path):
    from tests.zoo.pretrained.test_pretrained import in_torchvisions_layout, small

    options, its_variables = small("efficientnet_b5", epsilon=1e-3)
    state = in_torchvisions_layout("efficientnet_b5", its_variables, options)
    safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, tmp_path / "a.safetensors")
    given = {name: value for name, value in options.items() if name != "epsilon"}
    found = pretrained.convert("efficientnet_b5", tmp_path / "a.safetensors", tmp_path / "out", **given)
    assert (found.layout, found.model_options) == ("torchvision", {"epsilon": 1e-3})
    assert zoo.load_model(tmp_path / "out")[0].epsilon == 1e-3


def test_convert_takes_fields_of_the_preprocessing(hub, tmp_path):
    given = {"crop": 0.9, "mean": [0.1, 0.2, 0.3], "image_size": 40, "squash": False}
    found = pretrained.convert("resnet18", hub, tmp_path / "out", **given, **without_classes())
    wanted = PREPARED._replace(crop=0.9, mean=(0.1, 0.2, 0.3), image_size=40, squash=False)
    assert found.preprocessing == zoo.load_model(tmp_path / "out").preprocessing == wanted
    for fields, message in (
        ({"crop": 2}, r"crop of the preprocessing must be in \[0, 1\], not 2"),
        ({"mean": [0.5]}, r"mean needs a number for each of 3 channels, not \[0.5\]"),
        ({"channels": 1, "std": [0.5, 0.5, 0.5]}, "std needs a number for each of 1 channels"),
        ({"channels": 4}, "images have 1 channel or 3, not 4"),
        ({"interpolation": "nearest"}, "interpolation of the preprocessing must be 'bilinear' or 'bicubic'"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrained.convert("resnet18", hub, tmp_path / "bad", **fields, **without_classes())
    assert not (tmp_path / "bad").exists()


def test_convert_needs_to_know_the_images(variables, tmp_path):
    state = pretrained.to_torch("resnet18", variables, **OPTIONS)
    safetensors.numpy.save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="no foreign weights are known for 'mlp'"):
        pretrained.convert("mlp", tmp_path / "a.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- files of Keras, written here by hand; tests/parity compares with Keras itself ----


@pytest.fixture
def vgg(tmp_path):
    """Options, variables and a file of the older kind of a small VGG, whose first convolution sees blue first."""
    h5py = pytest.importorskip("h5py")
    options = {**MODELS["vgg16"].small, "batch_norm": False}
    model = zoo.create_model("vgg16", **options)
    found = random_variables(model, np.zeros((1, 4, 4, 3), np.float32))
    names = {
        "stage1_conv1": "block1_conv1",
        "stage2_conv1": "block2_conv1",
        "stage2_conv2": "block2_conv2",
        "head": "predictions",
    }
    with h5py.File(tmp_path / "vgg.h5", "w") as file:
        file.attrs["layer_names"] = ["input_1", *(names.get(path, path) for path in found["params"])]
        file.create_group("input_1").attrs["weight_names"] = []
        for path, entries in found["params"].items():
            name = names.get(path, path)
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel:0", f"{name}/bias:0"]
            kernel = entries["kernel"][:, :, ::-1] if path == "stage1_conv1" else entries["kernel"]
            group[f"{name}/kernel:0"], group[f"{name}/bias:0"] = kernel, entries["bias"]
    return options, found, tmp_path / "vgg.h5"


def test_an_older_file_of_keras(vgg):
    options, found, file = vgg
    assert_same(pretrained.from_keras("vgg16", file, **options).variables, found)
    assert_same(pretrained.load("vgg16", file, **options).variables, found)
    new = pretrained.from_keras("vgg16", file, head="new", **{**options, "num_classes": 9}).variables
    assert not new["params"]["head"]["kernel"].any()
    with pytest.raises(ValueError, match=r"(?s)does not fit 'vgg16'.*predictions/bias \[3\], not \[9\]"):
        pretrained.from_keras("vgg16", file, **{**options, "num_classes": 9})


def test_files_of_keras_that_do_not_fit(vgg, tmp_path, monkeypatch):
    options, _, file = vgg
    with pytest.raises(ValueError, match=r"Keras's resnet50 has stride_in='1x1', not '3x3': leave it out"):
        pretrained.from_keras("resnet50", file, stride_in="3x3")
    with pytest.raises(ValueError, match="no weights of Keras are known for 'vgg19'; there are some for effi"):
        pretrained.from_keras("vgg19", file)
    with pytest.raises(
        ValueError, match=r"(?s)missing: conv1_bn/bias.*missing: … and 298 more\n  unexpected: block1_c"
    ):
        pretrained.from_keras("resnet50", file)
    with pytest.raises(FileNotFoundError, match=r"none\.keras is no file"):
        pretrained.from_keras("vgg16", tmp_path / "none.keras")
    for name in ("bad.keras", "bad.weights.h5"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(ValueError, match=rf"{name} is no file of weights that Keras wrote"):
            pretrained.from_keras("vgg16", tmp_path / name, **options)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="needs h5py: pip install"):
        pretrained.from_keras("vgg16", file)


# ---- what timm writes beside its weights ----


def configured(folder, variables, config):
    folder.mkdir()
    safetensors.numpy.save_file(pretrained.to_torch("resnet18", variables, **OPTIONS), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_older_configuration_has_its_entries_at_the_top(variables, tmp_path):
    config = {
        "input_size": [3, 48, 48],
        "crop_pct": 0.8,
        "interpolation": "bilinear",
        "mean": [0.1] * 3,
        "std": [0.2] * 3,
    }
    found = pretrained.load("resnet18", configured(tmp_path / "a", variables, config), **OPTIONS).preprocessing
    assert found == pretrained.Preprocessing(48, 0.8, "bilinear", (0.1,) * 3, (0.2,) * 3)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"crop_mode": "border"}, "cropped by the mode 'border'; known are center and squash"),
        ({"interpolation": "lanczos"}, "resized by 'lanczos'"),
        (
            {"input_size": [3, 48, 64]},
            r"input_size in .*config\.json must be \[channels, side, side\], not \[3, 4",
        ),
        ({"input_size": [48]}, r"input_size in .*config\.json must be"),
        ({"input_size": [3, "a", "a"]}, r"input_size of .*config\.json must be a list of whole numbers, not"),
    ],
)
def test_what_is_not_understood_is_refused(variables, tmp_path, entry, message):
    folder = configured(tmp_path / "a", variables, {"pretrained_cfg": {"input_size": [3, 48, 48], **entry}})
    with pytest.raises(ValueError, match=message):
        pretrained.load("resnet18", folder, **OPTIONS)


def test_a_configuration_without_a_size_has_timms_default(variables, tmp_path):
    folder = configured(tmp_path / "a", variables, {"pretrained_cfg": {"crop_pct": 0.9}})
    assert pretrained.load("resnet18", folder, **OPTIONS).preprocessing.image_size == 224
