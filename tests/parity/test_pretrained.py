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
from zoo.pretrained import timm as timms
from zoo.pretrained import torchvision as torchvisions

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
    return pretrained.load("vit_tiny_patch16_224", file, **options)


def test_tensors_and_parameters(vit):
    options, variables, state = vit
    parameters = {key: torch.nn.Parameter(tensor) for key, tensor in state.items()}
    assert_same(pretrained.from_torch("vit_tiny_patch16_224", parameters, **options), variables)


def test_load_reads_a_file_of_torch(vit, tmp_path):
    options, variables, state = vit
    torch.save(state, tmp_path / "model.pth")
    assert_same(load(tmp_path / "model.pth", options), variables)
    halves = {key: tensor.bfloat16() for key, tensor in state.items()}
    torch.save(halves, tmp_path / "model.pt")
    wanted = {key: tensor.float().numpy() for key, tensor in halves.items()}
    assert_same(load(tmp_path / "model.pt", options), pretrained.from_torch("vit_tiny_patch16_224", wanted, **options))


class Unwanted:
    """What a pickle may bring along."""


def test_load_unpickles_tensors_alone(vit, tmp_path):
    options, _, state = vit
    file = tmp_path / "model.pth"
    torch.save({**state, "extra": Unwanted()}, file)
    with pytest.raises(ValueError, match=r"model\.pth is no file of tensors"):
        load(file, options)
    file.write_bytes(b"no pickle")
    with pytest.raises(ValueError, match=r"model\.pth is no file of tensors"):
        load(file, options)


def test_load_names_what_a_checkpoint_holds(vit, tmp_path):
    options, _, state = vit
    torch.save({"epoch": 3, "model": state}, tmp_path / "model.pth")
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
    assert found[1:] == (config.crop_pct, config.interpolation, config.mean, config.std, config.crop_mode == "squash")
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
    assert found <= {torchvisions.EPSILON.get(name, 1e-5)}


def test_names_of_older_files():
    """As torchvision translates them when it reads its published files of DenseNet and ViT."""
    densenet = torchvision.models.densenet121()
    known = {key: x for key, x in densenet.state_dict().items() if not key.endswith("num_batches_tracked")}
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): x for key, x in known.items()}
    weights = types.SimpleNamespace(get_state_dict=lambda **_: dict(old))
    torchvision.models.densenet._load_state_dict(densenet, weights, progress=False)
    assert set(old) != set(known) == {torchvisions.modern(key) for key in old}
    with torch.device("meta"):
        vit = torchvision.models.vit_b_16()
    known = vit.state_dict()
    old = {key.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): x for key, x in known.items()}
    vit.load_state_dict(old)
    assert set(old) != set(known) == {torchvisions.modern(key) for key in old}
