"""FLOPs by formula against published counts and the registry, and the peaks of devices."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import zoo
from tests.accelerator import cases


@pytest.mark.parametrize(
    ("model", "forward"),
    # Multiplications and additions of a forward pass: torchvision's 4.089 GMACs of a ResNet-50, 17.56 of a ViT-B/16.
    [(cases.RESNET, 2 * 4.089e9), (cases.VIT, 2 * 17.56e9)],
)
def test_flops_of_networks_for_images_are_those_published(model, forward):
    assert model.flops == pytest.approx(3 * forward, rel=0.005)


def test_resnet18_has_its_published_flops():
    assert cases.resnet_flops(224, (2, 2, 2, 2), False) == pytest.approx(6 * 1.814e9, rel=0.005)


def test_flops_of_gpt2_are_six_for_each_weight_and_those_of_attention():
    """The weights in products are all but the positions, the biases and the norms."""
    per_token = cases.GPT2.flops / 1024
    weights = 124_439_808 - 1024 * 768
    assert per_token == pytest.approx(6 * weights + 12 * 12 * 768 * 1024, rel=0.002)
    assert cases.GPT2_PADDED.flops - cases.GPT2.flops == 1024 * 6 * (50_304 - 50_257) * 768


@pytest.mark.parametrize(
    ("device", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("none", None),
    ],
)
def test_the_peak_is_that_of_the_data_sheet(device, rate):
    assert cases.peak(device) == rate


@pytest.mark.slow
@pytest.mark.parametrize("tiny", [True, False])
def test_the_models_are_those_of_the_registry_and_take_their_batches(tiny):
    for case in (case for todo in cases.training(tiny).values() for case in todo):
        batch = cases.batch_of(case.model, 2)
        inputs = batch["tokens"][:, :-1] if case.model.kind == "text" else batch["image"]
        model = zoo.create_model(case.model.zoo, dtype="bfloat16", **case.model.options)
        out, _ = jax.eval_shape(lambda key, x, model=model: model.init_with_output(key, x), jax.random.key(0), inputs)
        assert out.shape[0] == 2
        assert case.model.units(3) == (3 if case.model.kind == "image" else 3 * case.model.size)


def test_labels_and_tokens_are_in_range():
    assert cases.batch_of(cases.RESNET, 2)["label"].max() < 1000
    tokens = cases.batch_of(cases.GPT2, 2)["tokens"]
    assert tokens.shape == (2, 1025)
    assert tokens.dtype == np.int32
