"""The ε of every norm, beside those of the modules in timm, torchvision, transformers and Keras.

Outputs with random weights hardly tell 1e-6 from 1e-5. Activations of a trained network that are nearly constant do.
"""

from __future__ import annotations

from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import zoo
from tests.parity.torchvision_ops import timm
from zoo import pretrained
from zoo.layers import BatchNorm
from zoo.pretrained import torchvision_layout

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")


def epsilons(model, x):
    """How often each ε occurs, by kind of norm."""
    found = {}

    def look(call, args, options, context):
        if context.method_name == "__call__" and isinstance(context.module, _KINDS):
            kind = "batch" if isinstance(context.module, BatchNorm) else "features"
            found[context.module.path] = (kind, context.module.epsilon)
        return call(*args, **options)

    with nn.intercept_methods(look):
        jax.eval_shape(model.init, jax.random.key(0), x)
    return Counter(found.values())


_KINDS = (BatchNorm, nn.BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def epsilons_of_torch(module):
    found = []
    for each in module.modules():
        epsilon = getattr(each, "eps", getattr(each, "variance_epsilon", None))
        if epsilon is not None:
            found.append(("batch" if isinstance(each, torch.nn.modules.batchnorm._NormBase) else "features", epsilon))
    return Counter(found)


def image_of(name):
    return jax.ShapeDtypeStruct((1, *zoo.model_card(name).input_shape), jnp.float32)


OF_TIMM = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "vgg11_bn": "vgg11_bn",
    "densenet121": "densenet121",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "efficientnet_b0": "efficientnet_b0",
    "convnext_tiny": "convnext_tiny",
    "vit_tiny_patch16_224": "vit_tiny_patch16_224",
}


@pytest.mark.parametrize("name", OF_TIMM)
def test_of_timm(name):
    with torch.device("meta"):
        theirs = timm.create_model(OF_TIMM[name])
    assert epsilons(zoo.create_model(name), image_of(name)) == epsilons_of_torch(theirs)


@pytest.mark.parametrize("name", [*list(OF_TIMM)[:-1], "efficientnet_b5", "vit_base_patch16_224"])
def test_of_torchvision(name):
    with torch.device("meta"):
        theirs = torchvision.models.get_model({"vit_base_patch16_224": "vit_b_16"}.get(name, name))
    epsilon = torchvision_layout.EPSILON.get(name)
    ours = zoo.create_model(name, **({"epsilon": epsilon} if epsilon else {}))
    assert epsilons(ours, image_of(name)) == epsilons_of_torch(theirs)


SIZES = {
    "BertModel": {
        "vocab_size": 9,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
    },
    "GPT2LMHeadModel": {"vocab_size": 9, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 12},
    "LlamaForCausalLM": {
        "vocab_size": 9,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
    },
}
OPTION = {"BertModel": "layer_norm_eps", "GPT2LMHeadModel": "layer_norm_epsilon", "LlamaForCausalLM": "rms_norm_eps"}


@pytest.mark.parametrize("epsilon", [None, 3e-4])
@pytest.mark.parametrize("name", SIZES)
def test_of_transformers(name, epsilon, tmp_path):
    """By default, and as a configuration says."""
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, name)
    options = {} if epsilon is None else {OPTION[name]: epsilon}
    theirs = kind(kind.config_class(**SIZES[name], **options))
    transformers.logging.disable_progress_bar()
    theirs.save_pretrained(tmp_path)
    model, _ = pretrained.from_hub(tmp_path)
    assert epsilons(model, jnp.zeros((1, 3), jnp.int32)) == epsilons_of_torch(theirs)


def test_of_models_by_name():
    """Also without a file: BERT and GPT-2 have what their configurations have by default."""
    transformers = pytest.importorskip("transformers")
    tokens = jax.ShapeDtypeStruct((1, 3), jnp.int32)
    for name, kind in (("bert_base", transformers.BertModel), ("gpt2", transformers.GPT2Model)):
        with torch.device("meta"):
            theirs = kind(kind.config_class())
        assert epsilons(zoo.create_model(name), tokens) == epsilons_of_torch(theirs)


@pytest.mark.parametrize("name", ["efficientnet_b0", "resnet50"])
def test_of_keras(name):
    keras = pytest.importorskip("keras")
    with jax.numpy_rank_promotion("allow"):
        network = {"efficientnet_b0": "EfficientNetB0", "resnet50": "ResNet50"}[name]
        theirs = getattr(keras.applications, network)(weights=None)
    norms = [layer for layer in theirs.layers if isinstance(layer, keras.layers.BatchNormalization)]
    ours = epsilons(zoo.create_model(name, **pretrained.keras.OPTIONS[name]), image_of(name))
    assert ours == Counter(("batch", layer.epsilon) for layer in norms)
