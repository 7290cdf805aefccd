"""Weights on disk: what is saved comes back bit for bit, and what is damaged is refused by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from tests.descriptors import MODELS, by_representatives, random_variables
from zoo.checkpoint import DamagedError


def small(name, **options):
    options = {**MODELS[name].small, **options}
    model = zoo.create_model(name, **options)
    x = np.zeros((1, *MODELS[name].shape), zoo.model_card(name).input_dtype)
    return model, random_variables(model, x), options


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with statistics, saved once; tests that damage it take a copy."""
    folder = tmp_path_factory.mktemp("saved") / "cnn"
    _, variables, options = small("cnn")
    zoo.save_model(folder, "cnn", variables, **options)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.mark.slow
@by_representatives(MODELS)
def test_round_trip_is_bitwise(name, tmp_path):
    model, variables, options = small(name)
    zoo.save_model(tmp_path / "model", name, jax.tree.map(jnp.asarray, variables), **options)
    loaded, restored = zoo.load_model(tmp_path / "model")
    assert loaded == model
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, variables)
    chex.assert_trees_all_equal(restored, variables, strict=True)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored))


@pytest.mark.slow
def test_what_was_loaded_computes_the_same(saved):
    x = np.random.default_rng(0).normal(size=(2, *MODELS["cnn"].shape)).astype(np.float32)
    model, variables, _ = small("cnn")
    loaded, restored = zoo.load_model(saved)
    chex.assert_trees_all_equal(loaded.apply(restored, x), model.apply(variables, x))


def test_bfloat16_parameters_stay_bitwise(tmp_path):
    model, variables, options = small("mlp", dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("bfloat16")}
    zoo.save_model(str(tmp_path / "model"), "mlp", variables, **options)
    loaded, restored = zoo.load_model(str(tmp_path / "model"))
    assert loaded == model
    assert loaded.dtype == loaded.param_dtype == jnp.bfloat16
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, variables)
    bits = [jax.tree.map(lambda leaf: np.asarray(leaf).view(np.uint16), tree) for tree in (restored, variables)]
    chex.assert_trees_all_equal(*bits)


def test_special_values_survive(tmp_path):
    _, variables, options = small("perceptron")
    kernel = variables["params"]["Dense_0"]["kernel"]
    kernel.reshape(-1)[:4] = [np.nan, np.inf, -0.0, 1e-42]
    zoo.save_model(tmp_path / "model", "perceptron", variables, **options)
    restored = zoo.load_model(tmp_path / "model")[1]["params"]["Dense_0"]["kernel"]
    chex.assert_trees_all_equal(restored.view(np.uint32), kernel.view(np.uint32))


def test_arrays_sharded_over_devices_come_back_whole(tmp_path):
    _, variables, options = small("mlp")
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    on_devices = jax.tree.map(lambda a: jax.device_put(a, whole if a.shape[0] % 2 else spread), variables)
    zoo.save_model(tmp_path / "model", "mlp", on_devices, **options)
    chex.assert_trees_all_equal(zoo.load_model(tmp_path / "model")[1], variables)


def test_options_are_kept_as_plain_json(tmp_path):
    options = {**MODELS["mlp"].small, "hidden_sizes": [8, 6], "activation": "tanh", "dropout_rate": np.float32(0.25)}
    model = zoo.create_model("mlp", **options)
    zoo.save_model(tmp_path / "model", "mlp", random_variables(model, np.zeros((1, 5), np.float32)), **options)
    meta = json.loads((tmp_path / "model" / "meta" / "metadata").read_text())
    wanted = {"hidden_sizes": [8, 6], "num_classes": 3, "activation": "tanh", "dropout_rate": 0.25}
    assert meta["model"] == "mlp"
    assert meta["model_options"] == wanted
    assert zoo.load_model(tmp_path / "model")[0] == model


def test_an_existing_path_is_refused_and_left_alone(saved):
    _, variables, options = small("mlp")
    with pytest.raises(FileExistsError, match=str(saved)):
        zoo.save_model(saved, "mlp", variables, **options)
    assert zoo.load_model(saved)[0] == small("cnn")[0]


@pytest.mark.parametrize(
    "value", [zoo.resnet.BasicBlock, len, np.zeros(3), jnp.zeros(3), {1: 1}, {"a": len}, [1, object()]]
)
def test_an_option_that_is_not_plain_is_refused(value, tmp_path):
    with pytest.raises(ValueError, match=r"option stage_sizes=.* cannot be saved; give numbers, strings, lists"):
        zoo.save_model(tmp_path / "model", "resnet18", {"params": {"a": np.zeros(1)}}, stage_sizes=value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"), [("cnm", {}, "nearest: .*cnn"), ("cnn", {"feature": (1,)}, "nearest: features")]
)
def test_an_unknown_model_or_option_is_refused(name, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        zoo.save_model(tmp_path / "model", name, small("cnn")[1], **options)
    assert not (tmp_path / "model").exists()


def test_what_is_no_model_folder_is_refused_by_name(tmp_path, saved):
    file = tmp_path / "file"
    file.write_text("{}")
    for path in (tmp_path, tmp_path / "nowhere", file, saved / "params"):
        with pytest.raises(ValueError, match=f"{path} holds no saved model"):
            zoo.load_model(path)


def test_a_checkpoint_of_something_else_is_refused(copy):
    (copy / "meta" / "metadata").write_text('{"recipe": "none"}')
    with pytest.raises(ValueError, match=f"{copy} is a checkpoint of something else"):
        zoo.load_model(copy)


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_truncated_json_is_refused_by_name(copy, keep):
    text = (copy / "meta" / "metadata").read_text()
    (copy / "meta" / "metadata").write_text(text[: int(len(text) * keep)])
    with pytest.raises(ValueError, match=f"{copy} is damaged"):
        zoo.load_model(copy)


@pytest.mark.parametrize("item", ["params", "model_state"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "removed"])
def test_damaged_arrays_are_refused_by_name(copy, item, damage):
    """The largest file of each folder `d` holds arrays or the tree that leads to them."""
    for folder in (copy / item).rglob("d"):
        data = max(folder.iterdir(), key=lambda path: path.stat().st_size)
        match damage:
            case "truncated":
                data.write_bytes(data.read_bytes()[: data.stat().st_size // 8])
            case "empty":
                data.write_bytes(b"")
            case "removed":
                data.unlink()
    with pytest.raises(ValueError, match=f"{copy / item} is damaged"):
        zoo.load_model(copy)


@pytest.mark.parametrize("item", ["params", "model_state"])
def test_a_missing_item_is_refused_by_name(copy, item):
    shutil.rmtree(copy / item)
    with pytest.raises(ValueError, match=f"{copy} is damaged: its item '{item}' is missing"):
        zoo.load_model(copy)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_flipped_bit_is_taken_for_an_array(saved, tmp_path, monkeypatch):
    variables = zoo.load_model(saved).variables
    files = sorted(path for path in (saved / "params").rglob("*") if path.is_file())
    total, told_by_checksum = sum(path.stat().st_size for path in files), False
    for place in np.linspace(0, total - 1, 30, dtype=int):
        copy = shutil.copytree(saved, tmp_path / "copy", dirs_exist_ok=True)
        for path in files:
            if place < path.stat().st_size:
                break
            place -= path.stat().st_size
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        (copy / path.relative_to(saved)).write_bytes(content)
        try:
            chex.assert_trees_all_equal(zoo.load_model(copy).variables, variables)
        except DamagedError as error:
            told_by_checksum |= "is not what was written" in str(error)
    assert told_by_checksum
    monkeypatch.setenv("ZOO_CHECKSUMS", "off")
    shutil.copytree(saved, tmp_path / "copy", dirs_exist_ok=True)
    chex.assert_trees_all_equal(zoo.load_model(tmp_path / "copy").variables, variables)


def test_truncated_data_of_a_larger_model_is_refused(tmp_path):
    """Of a megabyte, nearly all is one array, in a file of its own."""
    model = zoo.create_model("mlp", hidden_sizes=(512, 512))
    variables = random_variables(model, np.zeros((1, 5), np.float32))
    zoo.save_model(tmp_path / "model", "mlp", variables, hidden_sizes=(512, 512))
    data = max((p for p in (tmp_path / "model").rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)
    assert data.stat().st_size > 2**19
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{tmp_path / 'model' / 'params'} is damaged"):
        zoo.load_model(tmp_path / "model")


@pytest.mark.slow
def test_a_process_with_one_device_loads_what_eight_saved(tmp_path):
    _, variables, options = small("mlp")
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    zoo.save_model(tmp_path / "model", "mlp", jax.device_put(variables, everywhere), **options)
    program = """
import sys, jax, numpy, zoo
assert jax.device_count() == 1
model, variables = zoo.load_model(sys.argv[1])
numpy.save(sys.argv[2], model.apply(variables, numpy.ones((1, 5), numpy.float32)))
"""
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, str(tmp_path / "model"), str(tmp_path / "y.npy")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    y = small("mlp")[0].apply(variables, np.ones((1, 5), np.float32))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), y, rtol=1e-6)


@pytest.mark.slow
def test_variables_of_another_model_are_refused(tmp_path):
    variables = zoo.create_model("lenet5").init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    message = r"not the variables of 'mlp': missing params/Dense_0/bias.*; unexpected params/c1/bias"
    with pytest.raises(ValueError, match=message):
        zoo.save_model(tmp_path / "model", "mlp", variables)
    bare = zoo.create_model("lenet5", num_classes=0).init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    with pytest.raises(ValueError, match=r"missing params/output/bias, params/output/kernel; unexpected none"):
        zoo.save_model(tmp_path / "model", "lenet5", bare)
    three = zoo.create_model("mlp", num_classes=3).init(jax.random.key(0), jnp.zeros((1, 64)))
    with pytest.raises(ValueError, match=r"params/Dense_2/bias has 3 numbers, not 10; give the options"):
        zoo.save_model(tmp_path / "model", "mlp", three)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_the_dtype_of_parameters_comes_back(tmp_path):
    """Whether it was an option or not; that of the arithmetic where it was one."""
    options = {"hidden_sizes": (4,), "num_classes": 2}
    model = zoo.create_model("mlp", **options, param_dtype="bfloat16")
    variables = model.init(jax.random.key(0), jnp.zeros((1, 5)))
    zoo.save_model(tmp_path / "seen", "mlp", variables, **options)
    again, read = zoo.load_model(tmp_path / "seen")
    assert again == model
    assert {leaf.dtype for leaf in jax.tree.leaves(read)} == {jnp.dtype("bfloat16")}
    zoo.save_model(tmp_path / "told", "mlp", variables, **options, dtype=jnp.bfloat16)
    assert zoo.load_model(tmp_path / "told").model == model.clone(dtype=jnp.dtype("bfloat16"))
    plain = zoo.create_model("mlp", **options).init(jax.random.key(0), jnp.zeros((1, 5)))
    zoo.save_model(tmp_path / "plain", "mlp", plain, **options)
    assert zoo.load_model(tmp_path / "plain").model == zoo.create_model("mlp", **options)
