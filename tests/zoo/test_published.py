"""Published models: what is written comes back, what is damaged is refused, and names are found in the right order."""

from __future__ import annotations

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import zoo
from tests.descriptors import MODELS, random_variables
from zoo import pretrained, published
from zoo.checkpoint import saved_meta
from zoo.hub_folder import CONFIG, WEIGHTS, is_repository

OPTIONS = dict(MODELS["cnn"].small)


@pytest.fixture(scope="module")
def variables():
    return random_variables(zoo.create_model("cnn", **OPTIONS), np.zeros((1, *MODELS["cnn"].shape), np.float32))


def write(folder, variables, name="cnn", *, half=False, **meta):
    folder.mkdir(parents=True)
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in OPTIONS.items()}
    published.write_published(folder, variables, {"model": name, "model_options": options, **meta}, half=half)
    return folder


@pytest.fixture
def folder(variables, tmp_path):
    return write(tmp_path / "cnn", variables, classes=["a", "b", "c"])


def assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_there_and_back_is_the_identity(folder, variables):
    model, read = zoo.load_model(folder)
    assert model == zoo.create_model("cnn", **OPTIONS)
    assert_same(read, jax.tree.map(np.asarray, variables))
    assert saved_meta(folder)["classes"] == ["a", "b", "c"]
    assert {leaf.dtype for leaf in jax.tree.leaves(read)} == {np.dtype(np.float32)}


def test_half_of_the_space(variables, tmp_path):
    whole, half = write(tmp_path / "whole", variables), write(tmp_path / "half", variables, half=True)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert (whole / WEIGHTS).stat().st_size - (half / WEIGHTS).stat().st_size == pytest.approx(2 * numbers, abs=16)
    _, read = zoo.load_model(half)
    rounded = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16).astype(np.float32), variables)
    assert_same(read, rounded)
    assert {leaf.dtype for leaf in jax.tree.leaves(read)} == {np.dtype(np.float32)}
    own = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16), variables)
    assert_same(zoo.load_model(write(tmp_path / "own", own, half=True))[1], own)
    assert {leaf.dtype for leaf in jax.tree.leaves(zoo.load_model(tmp_path / "own")[1])} == {np.dtype(np.float16)}
    great = {"params": {"a": {"kernel": np.float32([1, 7e4])}}}
    with pytest.raises(ValueError, match="params/a/kernel has numbers that are too great for float16; keep float32"):
        write(tmp_path / "great", great, half=True)


def test_other_dtypes_stay(tmp_path):
    leaves = {"a": jnp.ones((2,), jnp.bfloat16), "b": np.arange(3), "c": np.float16([1, 2]), "d": np.float32(3)}
    folder = write(tmp_path / "a", {"params": leaves})
    read = published.read_variables(folder, saved_meta(folder))["params"]
    assert {name: read[name].dtype for name in leaves} == {name: np.asarray(leaves[name]).dtype for name in leaves}
    assert_same(read, {name: np.asarray(leaf) for name, leaf in leaves.items()})


def test_damage_is_told(folder, variables, tmp_path):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: .* is not what was written"):
        zoo.load_model(folder)
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file"):
        zoo.load_model(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        zoo.load_model(folder)
    (folder / CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        zoo.load_model(folder)
    (folder / CONFIG).write_text('{"library_name": "flaxzoo", "model": 3}')
    with pytest.raises(ValueError, match="model"):
        zoo.load_model(folder)
    away = write(tmp_path / "other" / "cnn", variables)
    (folder / CONFIG).write_text((away / CONFIG).read_text())
    (folder / WEIGHTS).symlink_to(away / WEIGHTS)
    with pytest.raises(ValueError, match="lies outside the folder"):
        zoo.load_model(folder)


def test_variables_of_another_model_are_refused(folder, variables):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "model_options": {**config["model_options"], "num_classes": 5}}))
    with pytest.raises(ValueError, match="these are not the variables of 'cnn' with these options"):
        zoo.load_model(folder)
    (folder / CONFIG).write_text(json.dumps({**config, "model": "vae", "model_options": {}}))
    with pytest.raises(ValueError, match="these are not the variables of 'vae': missing"):
        zoo.load_model(folder)


@pytest.fixture
def shipped(variables, tmp_path, monkeypatch):
    """One model that ships, and an empty working directory."""
    monkeypatch.setattr(published, "SHIPPED", tmp_path / "package")
    write(tmp_path / "package" / "cnn_small", variables)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "package" / "cnn_small"


def test_a_shipped_model_is_loaded_by_its_name(shipped, variables):
    assert zoo.shipped_models() == ["cnn_small"]
    assert published.find("cnn_small") == shipped
    assert_same(zoo.load_model("cnn_small").variables, jax.tree.map(np.asarray, variables))
    with pytest.raises(ValueError, match="holds no saved model"):
        zoo.load_model("cnn_smal")
    assert_same(pretrained.load("cnn", "cnn_small").variables, jax.tree.map(np.asarray, variables))
    with pytest.raises(ValueError, match="are those of 'cnn', not of 'vgg11'"):
        pretrained.load("vgg11", "cnn_small")
    with pytest.raises(ValueError, match=r"was trained here: zoo\.load_model reads it"):
        pretrained.from_hub(shipped)
    with pytest.raises(ValueError, match="bring the options of their model along"):
        pretrained.load("cnn", "cnn_small", num_classes=5)


def test_a_folder_here_comes_first(shipped, variables, tmp_path, caplog):
    other = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, variables)
    write(tmp_path / "here" / "runs" / "cnn_small", other)
    published._tell_of_namesake.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert published.find("cnn_small") == shipped
        published.find("cnn_small")
    assert caplog.text.count("cnn_small is the model that ships with the zoo; yours is runs/cnn_small") == 1
    write(tmp_path / "here" / "cnn_small", other)
    assert_same(zoo.load_model("cnn_small").variables, other)


def test_a_link_to_a_shipped_file_is_followed(shipped, tmp_path):
    """Some installers keep the files of packages elsewhere, and link them."""
    kept = (shipped / WEIGHTS).rename(tmp_path / "kept")
    (shipped / WEIGHTS).symlink_to(kept)
    zoo.load_model("cnn_small")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("timm/resnet18.a1_in1k", True),
        ("someone/lenet5", True),
        ("lenet5", False),
        ("runs/first", False),
        ("../first", False),
        ("a/b/c", False),
        ("/tmp/a", False),
        ("some/model.safetensors", False),
        ("here/first", False),
    ],
)
def test_what_is_a_repository(name, wanted, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert is_repository(name) == wanted


def test_a_model_on_the_hub(folder, variables, monkeypatch, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(name, **options):
        asked.append(name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    wanted = jax.tree.map(np.asarray, variables)
    assert_same(zoo.load_model("someone/small").variables, wanted)
    assert_same(pretrained.load("cnn", "someone/small").variables, wanted)
    assert asked == ["someone/small"] * 2


def test_safetensors_reads_it_without_us(folder, variables):
    arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    flat = {"/".join(path): leaf for path, leaf in _leaves(variables)}
    assert arrays.keys() == flat.keys()
    for path, leaf in flat.items():
        np.testing.assert_array_equal(arrays[path], leaf)


def _leaves(tree, path=()):
    for name, inner in tree.items():
        if isinstance(inner, dict):
            yield from _leaves(inner, (*path, name))
        else:
            yield (*path, name), inner
