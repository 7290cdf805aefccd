"""Weights for other images than they were trained on, and files as others leave them: timm, PyTorch and Keras."""

from __future__ import annotations

import argparse
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from tests.descriptors import MODELS, random_variables
from tests.parity.torch_weights import tensors
from tests.parity.torchvision_ops import timm
from zoo import pretrained
from zoo.pretrained import keras as keras_files

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:keras", "ignore:__array__ implementation:DeprecationWarning"
)

VIT = MODELS["vit_tiny_patch16_224"].small
RESNET = MODELS["resnet18"].small


def small(name, options, channels=3):
    shape = (1, *MODELS[name].shape[:2], channels)
    return random_variables(zoo.create_model(name, **options), np.zeros(shape, np.float32))


def assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.fixture(scope="module")
def resnet():
    variables = small("resnet18", RESNET)
    return variables, tensors("resnet18", variables, **RESNET)


@pytest.mark.parametrize(("before", "after"), [(8, 12), (12, 6), (8, 6)])
def test_position_embeddings_for_another_size(before, after, caplog):
    options = {**VIT, "image_size": before}
    state = tensors("vit_tiny_patch16_224", small("vit_tiny_patch16_224", options), **options)
    wanted = timm.layers.resample_abs_pos_embed(state["pos_embed"], [after // 2, after // 2]).numpy()
    with caplog.at_level(logging.WARNING, "zoo"):
        found = pretrained.from_torch("vit_tiny_patch16_224", state, **{**VIT, "image_size": after}).variables
    np.testing.assert_allclose(found["params"]["position_embedding"], wanted, rtol=0, atol=1e-6)
    assert f"position embeddings of {before // 2} × {before // 2} patches are resampled to {after // 2}" in caplog.text


def test_the_size_of_a_vit_comes_with_its_weights(caplog):
    options = {**VIT, "image_size": 12}
    variables = small("vit_tiny_patch16_224", options)
    given = {name: value for name, value in VIT.items() if name != "image_size"}
    model, found = pretrained.from_torch(
        "vit_tiny_patch16_224", tensors("vit_tiny_patch16_224", variables, **options), **given
    )
    assert model.image_size == 12
    assert_same(found, variables)
    assert not caplog.text


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_images_of_other_channels(channels, resnet, caplog):
    variables, state = resnet
    wanted = timm.models.adapt_input_conv(channels, state["conv1.weight"]).numpy().transpose(2, 3, 1, 0)
    with caplog.at_level(logging.WARNING, "zoo"):
        found = pretrained.from_torch("resnet18", state, channels=channels, **RESNET).variables
    np.testing.assert_allclose(found["params"]["conv_stem"]["kernel"], wanted, rtol=1e-6, atol=1e-7)
    assert_same(found["params"]["head"], variables["params"]["head"])
    assert f"conv1.weight of the state dict is adapted from images of 3 channels to {channels}" in caplog.text


def test_grey_images_are_prepared_for(resnet, tmp_path):
    _, state = resnet
    torch.save(state, tmp_path / "model.pth")
    prepared = pretrained.load("resnet18", tmp_path / "model.pth", channels=1, **RESNET).preprocessing
    assert prepared.channels == 1
    assert prepared.mean == pytest.approx((0.449,))
    assert pretrained.load("resnet18", tmp_path / "model.pth", channels=4, **RESNET).preprocessing is None


def test_weights_without_a_last_layer_give_features(resnet, caplog):
    variables, state = resnet
    bare = {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
    given = {name: value for name, value in RESNET.items() if name != "num_classes"}
    with caplog.at_level(logging.WARNING, "zoo"):
        model, found = pretrained.from_torch("resnet18", bare, **given)
    assert model.num_classes == 0
    assert_same(found["params"]["conv_stem"], variables["params"]["conv_stem"])
    assert "has no last layer (fc.weight): the model gives features" in caplog.text


def test_variables_in_bfloat16_for_torch():
    options = {**RESNET, "param_dtype": "bfloat16"}
    variables = small("resnet18", options)
    assert variables["params"]["head"]["kernel"].dtype == jnp.bfloat16
    state = {key: torch.from_numpy(x) for key, x in pretrained.to_torch("resnet18", variables, **options).items()}
    theirs = torch.nn.Linear(32, 3).bfloat16()
    theirs.load_state_dict({"weight": state["fc.weight"], "bias": state["fc.bias"]})
    wanted = variables["params"]["head"]["kernel"].astype(np.float32).T
    np.testing.assert_array_equal(theirs.weight.detach().float().numpy(), wanted)


# ---- checkpoints of trainers ----


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_prefixes_of_wrappers(prefix, resnet, tmp_path):
    variables, state = resnet
    torch.save({"state_dict": {prefix + key: tensor for key, tensor in state.items()}}, tmp_path / "model.pth")
    assert_same(pretrained.load("resnet18", tmp_path / "model.pth", **RESNET).variables, variables)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_of_timm(legacy, resnet, tmp_path):
    """Weights, their average, an optimizer and an `argparse.Namespace`, which is not loaded."""
    variables, state = resnet
    average = {key: tensor * 2 for key, tensor in state.items()}
    network = torch.nn.Linear(2, 2)
    content = {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": state,
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.1).state_dict(),
        "args": argparse.Namespace(lr=0.1, data="there"),
        "metric": np.float64(0.5),
    }
    file = tmp_path / "model.pth.tar"
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    assert_same(pretrained.load("resnet18", file, **RESNET).variables, variables)
    torch.save({**content, "state_dict_ema": average}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        ValueError, match="the state dicts state_dict, state_dict_ema, which of them is meant: name one"
    ):
        pretrained.load("resnet18", file, **RESNET)
    with pytest.raises(ValueError, match="and no state dict 'model_ema': name one, entry='state_dict'"):
        pretrained.load("resnet18", file, entry="model_ema", **RESNET)
    assert_same(pretrained.load("resnet18", file, entry="state_dict", **RESNET).variables, variables)
    found = pretrained.load("resnet18", file, entry="state_dict_ema", **RESNET).variables
    np.testing.assert_array_equal(found["params"]["head"]["bias"], variables["params"]["head"]["bias"] * 2)
    torch.save(state, file)
    with pytest.raises(ValueError, match="holds one set of weights: leave out entry='model'"):
        pretrained.load("resnet18", file, entry="model", **RESNET)


class Trap:
    """Runs code where a pickle is loaded in earnest."""

    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('sprung').touch()",)


def test_nothing_that_a_checkpoint_names_is_run(resnet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in ({"state_dict": resnet[1], "trap": Trap()}, {**resnet[1], "trap": Trap()}):
        torch.save(content, "model.pth")
        with pytest.raises(ValueError, match=r"model\.pth is no file of tensors"):
            pretrained.load("resnet18", "model.pth", **RESNET)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.to_sparse(), r"the entry fc\.weight is a sparse_coo tensor; weights are dense"),
        (lambda t: t.to(torch.complex64), r"the entry fc\.weight is of type complex64"),
        (
            lambda t: t[:1, :1].clone().expand(3, 32),
            r"fc\.weight has the shape \[3, 32\], and 4 bytes are stored of it",
        ),
        (lambda t: t.to("meta"), r"the entry fc\.weight is a without values tensor"),
    ],
)
def test_tensors_that_are_no_arrays(spoil, message, resnet, tmp_path):
    state = {**resnet[1], "fc.weight": spoil(resnet[1]["fc.weight"])}
    torch.save({"model": state}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=message):
        pretrained.load("resnet18", tmp_path / "model.pth", **RESNET)


# ---- Keras ----


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A small ResNet of our own in the layers and names of Keras's, without its last layer, and our variables of it."""
    keras = pytest.importorskip("keras")
    pytest.importorskip("h5py")
    layers = keras.layers
    options = {"features": 4, "stage_sizes": (1,), **keras_files.OPTIONS["resnet50"]}
    with jax.numpy_rank_promotion("allow"):
        image = keras.Input((12, 12, 3))

        def pair(x, name, features, size, strides=1, *, relu=True, pad=0):
            x = layers.ZeroPadding2D(pad)(x) if pad else x
            x = layers.Conv2D(features, size, strides, name=f"{name}_conv", padding="same" if size == 3 else "valid")(x)
            x = layers.BatchNormalization(epsilon=1.001e-5, name=f"{name}_bn")(x)
            return layers.ReLU()(x) if relu else x

        x = pair(image, "conv1", 4, 7, 2, pad=3)
        x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
        shortcut = pair(x, "conv2_block1_0", 16, 1, relu=False)
        y = pair(pair(x, "conv2_block1_1", 4, 1), "conv2_block1_2", 4, 3)
        y = pair(y, "conv2_block1_3", 16, 1, relu=False)
        x = layers.ReLU()(layers.Add()([shortcut, y]))
        base = keras.Model(image, layers.GlobalAveragePooling2D()(x), name="resnet50")
        rng = np.random.default_rng(0)
        base.set_weights(
            [rng.uniform(0.3, 0.9, variable.shape) - 0.4 * ("kernel" in variable.path) for variable in base.weights]
        )
    return keras, base, options


def close(model, variables, theirs):
    """Ours is theirs, on images that see blue first there."""
    x = np.random.default_rng(1).normal(size=(2, 12, 12, 3)).astype(np.float32)
    with jax.numpy_rank_promotion("allow"):
        wanted = np.asarray(theirs(x[..., ::-1], training=False)).astype(np.float32)
    found = np.asarray(model.apply(variables, x))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["keras", "weights.h5", "h5"])
def test_a_network_of_keras_without_a_last_layer_and_in_another_one(kind, network, tmp_path, caplog):
    keras, base, options = network
    file = tmp_path / f"bare.{kind}"
    base.save_weights(file) if kind == "weights.h5" else base.save(file)
    model, variables = pretrained.from_keras("resnet50", file, **options)
    assert model.num_classes == 0
    close(model, variables, base)
    new = pretrained.from_keras("resnet50", file, head="new", num_classes=5, **options)
    assert new.variables["params"]["head"]["kernel"].shape == (16, 5)
    with jax.numpy_rank_promotion("allow"):
        whole = keras.Sequential([base, keras.layers.Dropout(0.1), keras.layers.Dense(3)])
        whole.build((None, 12, 12, 3))
    file = tmp_path / f"whole.{kind}"
    whole.save_weights(file) if kind == "weights.h5" else whole.save(file)
    model, variables = pretrained.from_keras("resnet50", file, **options)
    assert model.num_classes == 3
    close(model, variables, whole)
    new = pretrained.from_keras("resnet50", file, head="new", num_classes=0, **options)
    close(*new, base)


@pytest.mark.parametrize("kind", ["weights.h5", "h5"])
def test_a_network_of_keras_in_bfloat16(kind, network, tmp_path):
    keras, base, options = network
    values = [np.asarray(variable) for variable in base.weights]
    with jax.numpy_rank_promotion("allow"):
        config = base.get_config()
        for layer in config["layers"]:
            if "dtype" in layer["config"]:
                layer["config"]["dtype"] = "bfloat16"
        half = keras.Model.from_config(config)
        half.set_weights(values)
    file = tmp_path / f"half.{kind}"
    half.save_weights(file) if kind == "weights.h5" else half.save(file)
    found = pretrained.from_keras("resnet50", file, **options).variables
    kernel = dict(zip([v.path for v in base.weights], values, strict=True))["conv2_block1_3_conv/kernel"]
    wanted = kernel.astype(jnp.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(found["params"]["stage1_block1"]["conv3"]["kernel"], wanted)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_for_weights_of_keras(channels, network, tmp_path):
    _, base, options = network
    base.save_weights(tmp_path / "bare.weights.h5")
    usual = pretrained.from_keras("resnet50", tmp_path / "bare.weights.h5", **options).variables
    found = pretrained.from_keras("resnet50", tmp_path / "bare.weights.h5", channels=channels, **options).variables
    kernel = torch.from_numpy(np.array(usual["params"]["conv_stem"]["kernel"].transpose(3, 2, 0, 1)))
    wanted = timm.models.adapt_input_conv(channels, kernel).numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(found["params"]["conv_stem"]["kernel"], wanted, rtol=1e-6, atol=1e-7)


def test_names_of_layers_where_a_process_made_the_network_before(tmp_path):
    """EfficientNet's normalization has no name of its own, so the second one is normalization_1."""
    keras, h5py = pytest.importorskip("keras"), pytest.importorskip("h5py")
    layer = keras.layers.Normalization(name="normalization_7")
    layer.build((None, 4, 4, 3))
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["layer_names"] = [layer.name]
        group = file.create_group(layer.name)
        group.attrs["weight_names"] = [variable.path for variable in layer.weights]
        for variable, value in zip(layer.weights, ([0.1, 0.2, 0.3], [0.04, 0.09, 0.16], 0), strict=True):
            group[variable.path] = np.asarray(value, np.float32)
    mean, deviation = keras_files.normalization(tmp_path / "model.h5")
    assert (mean, deviation) == (pytest.approx((0.1, 0.2, 0.3)), pytest.approx((0.2, 0.3, 0.4)))
