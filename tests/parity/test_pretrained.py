"""Files and facts of PyTorch, timm and torchvision, with the packages themselves."""

from __future__ import annotations

import re
import types

import jax
import numpy as np
import pytest

import zoo
from tests.descriptors import MODELS, random_variables
from tests.parity.torch_weights import tensors
from tests.parity.torchvision_ops import timm
from zoo import pretrained
from zoo.pretrained import keras as keras_files
from zoo.pretrained import timm_layout as timms
from zoo.pretrained import torchvision_layout

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

NAMES = [name for name in MODELS if type(zoo.create_model(name)) in timms.RULES]
IN_TIMM = {"mobilenet_v3_large": "mobilenetv3_large_100"}
IN_TORCHVISION = {"vit_base_patch16_224": "vit_b_16"}


@pytest.fixture(scope="module")
def vit():
    """Options, variables and timm's state dict, of tensors, of a small ViT."""
    row = MODELS["vit_tiny_patch16_224"]
    options = row.small
    variables = random_variables(
        zoo.create_model("vit_tiny_patch16_224", **options), np.zeros((1, *row.shape), np.float32)
    )
    return options, variables, tensors("vit_tiny_patch16_224", variables, **options)


def assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def load(file, options):
    return pretrained.load("vit_tiny_patch16_224", file, **options).variables


def test_tensors_and_parameters(vit):
    options, variables, state = vit
    parameters = {key: torch.nn.Parameter(tensor) for key, tensor in state.items()}
    assert_same(pretrained.from_torch("vit_tiny_patch16_224", parameters, **options).variables, variables)


def test_load_reads_a_file_of_torch(vit, tmp_path):
    options, variables, state = vit
    torch.save(state, tmp_path / "model.pth")
    assert_same(load(tmp_path / "model.pth", options), variables)
    halves = {key: tensor.bfloat16() for key, tensor in state.items()}
    torch.save(halves, tmp_path / "model.pt")
    wanted = {key: tensor.float().numpy() for key, tensor in halves.items()}
    assert_same(
        load(tmp_path / "model.pt", options), pretrained.from_torch("vit_tiny_patch16_224", wanted, **options).variables
    )


class Unwanted:
    """What a pickle may bring along."""


def test_load_unpickles_tensors_alone(vit, tmp_path):
    options, _, state = vit
    file = tmp_path / "model.pth"
    torch.save({**state, "extra": Unwanted()}, file)
    with pytest.raises(ValueError, match=r"model\.pth is no file of tensors: it also holds extra \(.*Unwanted\)"):
        load(file, options)
    file.write_bytes(b"no pickle")
    with pytest.raises(ValueError, match=r"model\.pth is no file of tensors"):
        load(file, options)


def test_load_names_what_a_checkpoint_holds(vit, tmp_path):
    options, _, state = vit
    torch.save({"epoch": 3, "model": {"layers": state}}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"holds no state dict but epoch, model; give its tensors to from_torch"):
        load(tmp_path / "model.pth", options)
    torch.save([1, 2], tmp_path / "model.pth")
    with pytest.raises(ValueError, match="holds no state dict but list"):
        load(tmp_path / "model.pth", options)


@pytest.mark.parametrize("name", NAMES)
def test_preprocessing_of_timm(name):
    config = timm.models.get_pretrained_cfg(IN_TIMM.get(name, name)) if name != "alexnet" else None
    if config is None or config.tag == "untrained":
        with pytest.raises(ValueError, match=f"timm has no weights for '{name}'"):
            pretrained.preprocessing(name, "timm")
        return
    found = pretrained.preprocessing(name, "timm")
    assert (3, found.image_size, found.image_size) == config.input_size
    assert found[1:6] == (config.crop_pct, config.interpolation, config.mean, config.std, config.crop_mode == "squash")
    assert found == pretrained.preprocessing(name)


@pytest.mark.parametrize("name", NAMES)
def test_preprocessing_and_epsilon_of_torchvision(name):
    if name in ("vit_tiny_patch16_224", "vit_small_patch16_224"):
        with pytest.raises(ValueError, match=f"torchvision has no weights for '{name}'"):
            pretrained.preprocessing(name, "torchvision")
        return
    theirs = IN_TORCHVISION.get(name, name)
    transforms = torchvision.models.get_model_weights(theirs).DEFAULT.transforms()
    found = pretrained.preprocessing(name, "torchvision")
    assert ([found.image_size], [found.resized]) == (transforms.crop_size, transforms.resize_size)
    assert found.interpolation == transforms.interpolation.value
    assert (list(found.mean), list(found.std)) == (transforms.mean, transforms.std)
    assert not found.squash
    with torch.device("meta"):
        modules = torchvision.models.get_model(theirs).modules()
    found = {module.eps for module in modules if isinstance(module, torch.nn.BatchNorm2d)}
    assert found <= {torchvision_layout.EPSILON.get(name, 1e-5)}


def test_names_of_older_files():
    """As torchvision translates them when it reads its published files of DenseNet and ViT."""
    densenet = torchvision.models.densenet121()
    known = {key: x for key, x in densenet.state_dict().items() if not key.endswith("num_batches_tracked")}
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): x for key, x in known.items()}
    weights = types.SimpleNamespace(get_state_dict=lambda **_: dict(old))
    torchvision.models.densenet._load_state_dict(densenet, weights, progress=False)
    assert set(old) != set(known) == {torchvision_layout.modern(key) for key in old}
    with torch.device("meta"):
        vit = torchvision.models.vit_b_16()
    known = vit.state_dict()
    old = {key.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): x for key, x in known.items()}
    vit.load_state_dict(old)
    assert set(old) != set(known) == {torchvision_layout.modern(key) for key in old}


# ---- Keras ----


def randomise(network):
    """Random weights and statistics, as `random_variables` draws them."""
    rng = np.random.default_rng(0)

    def draw(variable):
        kind, shape = variable.path.rpartition("/")[2], variable.shape
        if kind == "kernel":
            fan_in = np.prod(shape[:-1]) if shape[-1] > 1 else np.prod(shape[:2])  # of a depthwise kernel its window
            return rng.normal(0, np.sqrt(2 / fan_in), shape)
        if kind in ("gamma", "moving_variance", "variance"):
            return rng.uniform(0.5, 1, shape)
        return np.zeros(shape) if kind == "count" else rng.normal(0, 0.2, shape)

    network.set_weights([draw(variable).astype(variable.dtype) for variable in network.weights])


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "builder", "size", "kinds"),
    [
        ("resnet50", "ResNet50", (64, 33), ("keras", "weights.h5", "h5")),
        ("efficientnet_b0", "EfficientNetB0", (33, 64), ("weights.h5",)),
        ("vgg16", "VGG16", (224, 224), ("weights.h5",)),  # its dense layers take this size alone
    ],
)
def test_keras_applications(name, builder, size, kinds, tmp_path):
    """Files of Keras's own networks, with their own preprocessing of images in [0, 255]."""
    keras = pytest.importorskip("keras")
    pytest.importorskip("h5py")
    images = np.random.default_rng(1).integers(0, 256, (1, *size, 3)).astype(np.float32)
    module = {"resnet50": "resnet", "efficientnet_b0": "efficientnet", "vgg16": "vgg16"}[name]
    theirs = getattr(keras.applications, module).preprocess_input(images.copy())
    with jax.numpy_rank_promotion("allow"):
        inputs = keras.Input(batch_shape=theirs.shape)  # of an open batch size, Keras works out all shapes twice
        network = getattr(keras.applications, builder)(
            weights=None, input_tensor=inputs, classes=5, classifier_activation=None
        )
        randomise(network)
        wanted = np.asarray(network(theirs, training=False))
    options = {"num_classes": 5, **keras_files.OPTIONS[name]}
    for kind in kinds:
        file = tmp_path / f"model.{kind}"
        network.save_weights(file) if kind == "weights.h5" else network.save(file)
        variables = pretrained.from_keras(name, file, **options).variables
        prepared = pretrained.describe(name, file).preprocessing
        x = ((images / 255 - np.array(prepared.mean)) / np.array(prepared.std)).astype(np.float32)
        logits = np.asarray(jax.jit(zoo.create_model(name, **options).apply)(variables, x))
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
        file.unlink()


def test_deviations_of_the_published_efficientnet(monkeypatch):
    """They stand in the place of variances in the published file, and Keras divides by their root twice."""
    arrays = {"normalization/mean": np.array([0.485, 0.456, 0.406]), "normalization/variance": np.zeros(3)}
    monkeypatch.setattr(keras_files, "read_keras", lambda *_: arrays)
    arrays["normalization/variance"] = np.array([0.229, 0.224, 0.225], np.float32)
    assert keras_files.normalization("a.h5")[1] == pytest.approx((0.229, 0.224, 0.225))
    arrays["normalization/variance"] = np.array([0.25, 0.16, 0.09])
    assert keras_files.normalization("a.h5")[1] == pytest.approx((0.5, 0.4, 0.3))


@pytest.mark.parametrize("name", NAMES)
def test_licence_of_weights(name):
    """As timm states it of its default weights; torchvision's weights are under the licence of its code."""
    config = timm.models.get_pretrained_cfg(IN_TIMM.get(name, name)) if name != "alexnet" else None
    found = zoo.model_card(name).weights_licence
    assert found is not None
    if config is not None and config.tag != "untrained" and config.license:
        assert found.split(" ")[0].lower() == config.license


@pytest.mark.parametrize("name", [name for name, row in pretrained.KNOWN.items() if row.source.startswith("timm/")])
def test_known_weights_are_those_that_timm_takes_by_default(name):
    config = timm.models.get_pretrained_cfg(IN_TIMM.get(name, name))
    known = pretrained.KNOWN[name]
    assert known.source == f"timm/{config.architecture}.{config.tag}"
    assert known.licence.lower() == (config.license or "apache-2.0")
