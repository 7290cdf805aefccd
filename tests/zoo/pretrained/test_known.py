"""Weights of others by the name of their model alone."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

import zoo
from tests.descriptors import MODELS, random_variables
from zoo import pretrained

OPTIONS = dict(MODELS["resnet18"].small)
GPT = {"vocab_size": 11, "max_len": 8, "hidden_size": 8, "num_layers": 2, "num_heads": 4, "mlp_dim": 12}


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A hub that has whatever it is asked for in `tmp_path / USER / NAME`, and what it was asked for."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    names = []

    def snapshot_download(name, **options):
        names.append(name)
        if not (tmp_path / "hub" / name).is_dir():
            raise RuntimeError(f"404: {name}")
        return str(tmp_path / "hub" / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return names


def folder(tmp_path, name):
    made = tmp_path / "hub" / name
    made.mkdir(parents=True)
    return made


def assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_images_by_timms_default_name(asked, tmp_path):
    variables = random_variables(
        zoo.create_model("resnet18", **OPTIONS), np.zeros((1, *MODELS["resnet18"].shape), np.float32)
    )
    hub = folder(tmp_path, "timm/resnet18.a1_in1k")
    safetensors.numpy.save_file(pretrained.to_torch("resnet18", variables, **OPTIONS), hub / "model.safetensors")
    (hub / "config.json").write_text(json.dumps({"num_classes": 3, "pretrained_cfg": {"input_size": [3, 8, 8]}}))
    found = pretrained.load("resnet18", **OPTIONS)
    assert_same(found.variables, variables)
    assert found.preprocessing.image_size == 8
    options = {key: value for key, value in OPTIONS.items() if key != "num_classes"}
    pretrained.convert("resnet18", None, tmp_path / "out", **options)
    assert_same(zoo.load_model(tmp_path / "out").variables, jax.tree.map(np.asarray, variables))
    assert set(asked) == {"timm/resnet18.a1_in1k"}


def test_language_models_by_name(asked, tmp_path):
    model = zoo.create_model("gpt2", **GPT)
    variables = random_variables(model, np.zeros((1, 1), np.int32))
    pretrained.to_hub(model, variables, tmp_path / "hub" / "openai-community" / "gpt2")
    found = pretrained.load("gpt2", hidden_size=8, num_layers=2)
    assert found.model == model.clone(activation=found.model.activation)
    assert_same(found.variables, variables)
    with pytest.raises(ValueError, match="are of another model than 'gpt2': they have hidden_size = 8, not 768"):
        pretrained.load("gpt2")
    with pytest.raises(ValueError, match="origin, head, channels and entry are for images"):
        pretrained.load("gpt2", head="new")
    assert set(asked) == {"openai-community/gpt2"}


def test_a_name_that_is_not_known(asked):
    with pytest.raises(ValueError, match=r"unknown name of published weights: 'alexnet'; .*`zoo weights` lists"):
        pretrained.load("alexnet")
    with pytest.raises(OSError, match=r"there is no folder timm/vgg11\.tv_in1k, and the hub did not give it: 404"):
        pretrained.load("vgg11")
    assert asked == ["timm/vgg11.tv_in1k"]


@pytest.mark.parametrize("name", pretrained.KNOWN)
def test_what_is_known_fits_the_registry(name):
    """The licence on the card of a model is that of the weights that it is loaded with by default."""
    row, card = pretrained.KNOWN[name], zoo.model_card(name)
    assert card.weights_licence is not None
    assert row.licence == card.weights_licence.partition(" (")[0].replace("Apache 2.0", "Apache-2.0")
    assert bool(row.published) == bool(row.reference)
    if row.source.startswith("timm/"):
        prepared = pretrained.preprocessing(name, "timm")
        assert prepared.image_size >= 224
        assert "top-1" in row.published


def test_all_models_of_images_with_weights_of_timm_are_known():
    known = {name for name, row in pretrained.KNOWN.items() if row.source.startswith("timm/")}
    found = set()
    for name in zoo.list_models():
        try:
            pretrained.preprocessing(name, "timm")
        except ValueError:
            continue
        found.add(name)
    assert found == known
