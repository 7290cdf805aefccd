"""Weights in foreign layouts: round trips, and every way in which a state dict may not fit."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

import zoo
from tests.descriptors import MODELS, random_variables
from zoo import pretrained
from zoo.pretrained import place, timm_layout, torchvision_layout
from zoo.pretrained.state_dict import _place

FAMILIES = {type(zoo.create_model(name)): name for name in MODELS}
FAMILIES = {family: name for family, name in FAMILIES.items() if family in timm_layout.RULES}
every_family = pytest.mark.parametrize("name", [*FAMILIES.values(), "resnet18", "vgg11"])


def small(name, **options):
    """The options of a small model, and its random variables."""
    options = {**MODELS[name].small, **options}
    model = zoo.create_model(name, **options)
    return options, random_variables(model, np.zeros((1, *MODELS[name].shape), np.float32))


def in_torchvisions_layout(name, variables, options):
    model, state = zoo.create_model(name, **options), {}
    for path, leaf in flatten_dict(variables, sep="/").items():
        where = _place("torchvision", model, path)
        state.setdefault(where.key, {})[where.part[0]] = place.to_foreign(leaf, where)
    return {key: np.concatenate([parts[i] for i in sorted(parts)]) for key, parts in state.items()}


def assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def without(variables, layer):
    return {**variables, "params": {name: tree for name, tree in variables["params"].items() if name != layer}}


@pytest.fixture(scope="module")
def resnet():
    """Options, variables and timm's state dict of a small ResNet with three classes."""
    options, variables = small("resnet18")
    return options, variables, pretrained.to_torch("resnet18", variables, **options)


def test_every_family_of_images_has_a_rule_in_both_layouts():
    assert set(timm_layout.RULES) == set(torchvision_layout.RULES) == set(FAMILIES)


@pytest.mark.slow
@every_family
def test_there_and_back_is_the_identity(name):
    options, variables = small(name)
    state = pretrained.to_torch(name, variables, **options)
    sizes = [array.size for key, array in state.items() if not key.endswith("num_batches_tracked")]
    assert sum(sizes) == sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert_same(pretrained.from_torch(name, state, **options).variables, variables)


@pytest.mark.slow
@every_family
def test_torchvisions_layout_is_told_by_its_keys(name):
    epsilon = torchvision_layout.EPSILON.get(name)
    options, variables = small(name, **({"epsilon": epsilon} if epsilon else {}))
    state = in_torchvisions_layout(name, variables, options)
    assert_same(pretrained.from_torch(name, state, **options).variables, variables)


def test_arrays_lie_in_memory_as_files_take_them(tmp_path):
    options, variables = small("resnet18")
    state = pretrained.to_torch("resnet18", variables, **options)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in state.values())
    safetensors.numpy.save_file(state, tmp_path / "model.safetensors")
    assert_same(pretrained.load("resnet18", tmp_path / "model.safetensors", **options).variables, variables)


def test_counters_are_zeros_on_the_way_out_and_ignored_on_the_way_in(resnet):
    options, variables, state = resnet
    counters = {key: array for key, array in state.items() if key.endswith("num_batches_tracked")}
    assert {key.rpartition(".")[0] for key in counters} == {
        key.rpartition(".")[0] for key in state if key.endswith("running_var")
    }
    assert all(array.shape == () and array.dtype == np.int64 and array == 0 for array in counters.values())
    others = {key: array for key, array in state.items() if key not in counters}
    assert_same(pretrained.from_torch("resnet18", others, **options).variables, variables)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_other_float_types_become_float32(resnet, dtype):
    options, _, state = resnet
    cast = {key: array.astype(dtype) for key, array in state.items()}
    variables = pretrained.from_torch("resnet18", cast, **options).variables
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    wanted = cast["layer1.0.conv1.weight"].astype(np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(variables["params"]["stage1_block1"]["conv1"]["kernel"], wanted)


def test_variables_are_of_param_dtype(resnet):
    options, _, state = resnet
    variables = pretrained.from_torch("resnet18", state, **options, param_dtype="bfloat16").variables
    assert variables["params"]["conv_stem"]["kernel"].dtype == jnp.bfloat16
    assert variables["batch_stats"]["norm_stem"]["var"].dtype == jnp.float32


def test_one_error_names_all_that_does_not_fit(resnet):
    options, _, state = resnet
    state = {**state, "a.weight": np.zeros(2), "fc.bias": np.zeros(5), "bn1.weight": np.zeros((4, 1))}
    del state["layer2.0.conv1.weight"], state["bn1.running_mean"]
    with pytest.raises(ValueError, match="does not fit 'resnet18'") as error:
        pretrained.from_torch("resnet18", state, **options)
    assert str(error.value).splitlines()[1:] == [
        "  missing: bn1.running_mean [4]",
        "  missing: layer2.0.conv1.weight [8, 4, 3, 3]",
        "  unexpected: a.weight [2]",
        "  of another shape: bn1.weight [4, 1], not [4]",
        "  of another shape: fc.bias [5], not [3]",
    ]


def test_another_head_is_asked_for_by_name(resnet):
    options, variables, state = resnet
    with pytest.raises(ValueError, match=r'(?s)head="new".*fc.weight \[3, 32\], not \[7, 32\]'):
        pretrained.from_torch("resnet18", state, **{**options, "num_classes": 7})
    found = pretrained.from_torch("resnet18", state, **{**options, "num_classes": 7}, head="new").variables
    assert_same(without(found, "head"), without(variables, "head"))
    assert_same(found["params"]["head"], {"kernel": np.zeros((32, 7), np.float32), "bias": np.zeros(7, np.float32)})
    with pytest.raises(ValueError, match=r"head must be .*, not 'drop'"):
        pretrained.from_torch("resnet18", state, **options, head="drop")


def test_without_classes_there_is_no_head(resnet):
    options, variables, state = resnet
    headless = {**options, "num_classes": 0}
    with pytest.raises(ValueError, match=r"unexpected: fc.bias \[3\]\n  unexpected: fc.weight \[3, 32\]"):
        pretrained.from_torch("resnet18", state, **headless)
    assert_same(pretrained.from_torch("resnet18", state, **headless, head="new").variables, without(variables, "head"))


def test_images_of_one_channel():
    options = MODELS["resnet18"].small
    model = zoo.create_model("resnet18", **options)
    variables = random_variables(model, np.zeros((1, 9, 9, 1), np.float32))
    state = pretrained.to_torch("resnet18", variables, **options)
    assert_same(pretrained.from_torch("resnet18", state, **options, channels=1).variables, variables)
    with pytest.raises(ValueError, match=r"conv1.weight \[4, 1, 7, 7\], not \[4, 3, 7, 7\]"):
        pretrained.from_torch("resnet18", state, **options)


def test_a_state_dict_of_something_else():
    with pytest.raises(ValueError, match=r"no state dict of 'resnet18': its keys are such as a, b, where timm has bn1"):
        pretrained.from_torch("resnet18", {"b": np.zeros(1), "a": np.zeros(2)})
    with pytest.raises(ValueError, match=r"keys are such as \(none\)"):
        pretrained.from_torch("resnet18", {})


def test_a_model_without_foreign_weights():
    options, variables = small("mlp")
    with pytest.raises(ValueError, match=r"no foreign weights are known for 'mlp'; there are some for AlexNet.* ViT"):
        pretrained.to_torch("mlp", variables, **options)
    with pytest.raises(ValueError, match="no foreign weights are known for 'mlp'"):
        pretrained.from_torch("mlp", {"a": np.zeros(1)})


def test_variables_of_another_model_are_not_written(resnet):
    options, variables, _ = resnet
    with pytest.raises(ValueError, match="not the variables of 'resnet18'"):
        pretrained.to_torch("resnet18", {"params": variables["params"]}, **options)


@pytest.mark.parametrize("name", torchvision_layout.EPSILON)
def test_torchvisions_epsilon_comes_with_its_weights(name):
    options, variables = small(name)
    state = in_torchvisions_layout(name, variables, options)
    assert pretrained.from_torch(name, state, **options).model.epsilon == 1e-3
    with pytest.raises(ValueError, match=rf"torchvision's {name} normalises with ε = 0.001, not 1e-05: leave it out"):
        pretrained.from_torch(name, state, **options, epsilon=1e-5)


def test_the_number_of_classes_comes_with_the_head(resnet):
    options, variables, state = resnet
    rest = {option: value for option, value in options.items() if option != "num_classes"}
    model, found = pretrained.from_torch("resnet18", state, **rest)
    assert model == zoo.create_model("resnet18", **options)
    assert_same(found, variables)


def test_a_model_of_imagenet_knows_its_classes(tmp_path):
    options, variables = small("resnet18", num_classes=1000)
    state = pretrained.to_torch("resnet18", variables, **options)
    safetensors.numpy.save_file(state, tmp_path / "model.safetensors")
    given = {option: value for option, value in options.items() if option != "num_classes"}
    loaded = pretrained.load("resnet18", tmp_path / "model.safetensors", **given)
    assert (len(loaded.classes), loaded.classes[0], loaded.classes[999]) == (1000, "tench", "toilet tissue")
    assert loaded.preprocessing == pretrained.preprocessing("resnet18", "timm")
    pretrained.convert("resnet18", tmp_path / "model.safetensors", tmp_path / "converted", **given)
    again = zoo.load_model(tmp_path / "converted")
    assert (again.classes, again.preprocessing) == (loaded.classes, loaded.preprocessing)
    assert again.model == loaded.model
    assert pretrained.load("resnet18", tmp_path / "model.safetensors", head="new", **given).classes == ()


def test_names_of_older_files():
    modern = torchvision_layout.modern
    assert modern("features.denseblock1.denselayer2.norm.1.weight") == "features.denseblock1.denselayer2.norm1.weight"
    assert modern("features.denseblock1.denselayer2.conv.2.weight") == "features.denseblock1.denselayer2.conv2.weight"
    assert modern("encoder.layers.encoder_layer_3.mlp.linear_2.bias") == "encoder.layers.encoder_layer_3.mlp.3.bias"
    for key in ("features.norm5.weight", "features.transition1.conv.weight", "layer1.0.conv1.weight"):
        assert modern(key) == key


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_load_reads_safetensors(resnet, tmp_path, dtype):
    options, _, state = resnet
    cast = {key: array.astype(dtype) for key, array in state.items() if array.ndim}
    file = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(cast, file)
    wanted = pretrained.from_torch("resnet18", cast, **options).variables
    assert_same(pretrained.load("resnet18", str(file), **options).variables, wanted)


def test_load_names_what_is_wrong_with_a_file(resnet, tmp_path, monkeypatch):
    options, _, state = resnet
    file = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is no file"):
        pretrained.load("resnet18", file, **options)
    file.write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file"):
        pretrained.load("resnet18", file, **options)
    safetensors.numpy.save_file({key: array.astype(np.complex64) for key, array in state.items()}, file)
    with pytest.raises(ValueError, match="holds tensors of type C64; weights are BF16, F16"):
        pretrained.load("resnet18", file, **options)
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "model.pth").write_bytes(b"")
    with pytest.raises(ImportError, match=r"model\.pth needs PyTorch"):
        pretrained.load("resnet18", tmp_path / "model.pth", **options)


def test_preprocessing():
    found = pretrained.preprocessing("resnet50")
    assert found == pretrained.preprocessing("resnet50", "timm") != pretrained.preprocessing("resnet50", "torchvision")
    assert (found.image_size, found.resized) == (224, 235)
    assert pretrained.preprocessing("resnet50", "torchvision").resized == 232
    assert pretrained.preprocessing("alexnet") == pretrained.preprocessing("alexnet", "torchvision")
    with pytest.raises(ValueError, match="timm has no weights for 'alexnet'"):
        pretrained.preprocessing("alexnet", "timm")
    with pytest.raises(ValueError, match="unknown source of weights: 'tim'; nearest: timm"):
        pretrained.preprocessing("resnet50", "tim")
    with pytest.raises(ValueError, match="no weights are known for 'lenet5'"):
        pretrained.preprocessing("lenet5")


@pytest.mark.parametrize(
    ("source", "name", "resized", "seen"),
    [
        ("timm", "resnet50", 235, 224),
        ("timm", "vgg16", 256, 224),
        ("timm", "vit_base_patch16_224", 248, 224),
        ("timm", "convnext_tiny", 235, 224),
        ("timm", "densenet121", 256, 224),
        ("timm", "efficientnet_b1", 266, 240),
        ("timm", "efficientnet_b5", 448, 448),
        ("torchvision", "resnet18", 256, 224),
        ("torchvision", "resnet50", 232, 224),
        ("torchvision", "convnext_tiny", 236, 224),
        ("torchvision", "efficientnet_b1", 255, 240),
        ("torchvision", "efficientnet_b3", 320, 300),
        ("torchvision", "efficientnet_b7", 600, 600),
        ("torchvision", "vit_base_patch16_224", 256, 224),
        ("keras", "resnet50", 256, 224),
    ],
)
def test_images_are_resized_and_cropped_as_is_published(source, name, resized, seen):
    """A few by hand; tests/parity has all of them beside the originals."""
    prepared = pretrained.preprocessing(name, source)
    assert (prepared.resized, prepared.image_size) == (resized, seen)
