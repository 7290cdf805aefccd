"""The table behind the cross-cutting tests: one row for each registered model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests.advanced_descriptors import ADVANCED
from zoo.summary import abstract_variables


class Row(NamedTuple):
    """How the tests build one model.

    Attributes:
      num_parameters: exact count at the defaults of the registry, from the paper or counted by hand.
      shape: the smallest example that the strides allow, without the batch axis.
      small: options that make it cheap to compile; the number of outputs is among them.
      outputs: the option that sets the number of outputs.
      num_features: length of the small model's features, which `num_classes=0` gives; None where that is no option.
      intermediates: the shapes of the small model's named intermediates, without the batch axis.
      output_shapes: the shapes of the arrays that the small model gives, without the batch axis; where there are none,
        it gives logits `[num_outputs]`.
      idle: parameters that have no part in what an example alone gives, as those for neighbours.
    """

    num_parameters: int
    shape: tuple[int, ...]
    small: Mapping[str, Any]
    outputs: str = "num_classes"
    num_features: int | None = None
    intermediates: Mapping[str, Any] = {}
    output_shapes: Sequence[tuple[int, ...]] = ()
    idle: Sequence[str] = ()

    @property
    def num_outputs(self) -> int:
        return self.small[self.outputs]

    @property
    def shapes(self) -> Sequence[tuple[int, ...]]:
        return self.output_shapes or [(self.num_outputs,)]


def _stages(stem: int, *features: int) -> dict[str, tuple[int, ...]]:
    """Intermediates of a ResNet whose stem leaves an image of this size: each stage after the first halves it."""
    stages = {f"stage{i + 1}": (-(-stem // 2**i), -(-stem // 2**i), n) for i, n in enumerate(features)}
    return {"stem": (stem, stem, 4), **stages}


def _vgg(num_parameters: int, *, batch_norm: bool) -> Row:
    """Small, all depths are the same module."""
    return Row(
        num_parameters,
        (4, 4, 3),
        {"stage_sizes": (1, 2), "features": (4, 6), "batch_norm": batch_norm, "hidden_size": 7, "num_classes": 3},
        num_features=7,
        intermediates={"stage1": (2, 2, 4), "stage2": (1, 1, 6)},
    )


def _efficientnet(num_parameters: int) -> Row:
    """Small, all are the same module; its last convolution has 8 times as many features as the stem."""
    return Row(
        num_parameters,
        (4, 4, 3),
        {"stage_sizes": (1, 2), "width": 0.05, "dropout_rate": 0.2, "num_classes": 3},
        num_features=64,
        intermediates={"stem": (2, 2, 8), "stage1": (2, 2, 8), "stage2": (1, 1, 8)},
    )


def _vit(num_parameters: int) -> Row:
    """Small, all are the same module, which sees another size than its position embeddings have."""
    sizes = {"hidden_size": 8, "num_heads": 2, "mlp_dim": 6, "num_layers": 2, "patch_size": 2, "image_size": 4}
    return Row(
        num_parameters,
        (4, 6, 3),
        {**sizes, "num_classes": 3},
        num_features=8,
        intermediates={name: (1 + 2 * 3, 8) for name in ("stem", "block1", "block2")},
    )


def _blocks(time: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
    """Intermediates of a stack of two Transformer blocks."""
    return {name: (time, hidden_size) for name in ("block1", "block2")}


_SMALL_TEXT = {"vocab_size": 11, "hidden_size": 8, "num_layers": 2, "num_heads": 2, "mlp_dim": 6}


def _language_model(num_parameters: int, **options: Any) -> Row:
    """Small, all of a family are the same module; sequences are shorter than those that it takes at most."""
    return Row(
        num_parameters,
        (6,),
        {**_SMALL_TEXT, "max_len": 8, **options},
        outputs="vocab_size",
        intermediates=_blocks(6, 8),
        output_shapes=[(6, 11)],
    )


def _gpt(num_parameters: int) -> Row:
    return _language_model(num_parameters, use_bias=True, activation="gelu", dropout_rate=0.1)


def _llama(num_parameters: int) -> Row:
    return _language_model(num_parameters, num_heads=4, num_kv_heads=2, tied=False)


def _bert(num_parameters: int) -> Row:
    small = {**_SMALL_TEXT, "max_len": 8, "num_classes": 3}
    return Row(num_parameters, (6,), small, num_features=8, intermediates=_blocks(6, 8))


def _transformer(num_parameters: int) -> Row:
    """Small; the source stands for the target."""
    small = {**_SMALL_TEXT, "max_len": 8, "norm_first": True}
    return Row(num_parameters, (6,), small, outputs="vocab_size", output_shapes=[(6, 11)])


def _recurrent(num_parameters: int, features: tuple[int, int], **options: Any) -> Row:
    """Small, with layers that give so many features."""
    small = {"num_outputs": 2, "hidden_sizes": (5, 4), "dropout_rate": 0.2, **options}
    intermediates = {"recurrent": {f"outputs{index + 1}": (7, n) for index, n in enumerate(features)}}
    return Row(num_parameters, (7, 3), small, outputs="num_outputs", intermediates=intermediates)


# Encoder and decoder of images of 4×8 with 4 and 6 features, as the convolutional autoencoders have them.
_CONV_CODER = {
    "encoder": {"down1": (2, 4, 4), "down2": (1, 2, 6)},
    "decoder": {"up1": (2, 4, 6), "up2": (4, 8, 4)},
}

MODELS: dict[str, Row] = {
    **{name: Row(**row) for name, row in ADVANCED.items()},
    "perceptron": Row(5, (4,), {"num_outputs": 3}, outputs="num_outputs"),
    "mlp": Row(
        17_226,
        (5,),
        {"hidden_sizes": (8, 6), "num_classes": 3},
        num_features=6,
        intermediates={"hidden1": (8,), "hidden2": (6,)},
    ),
    "cnn": Row(
        241_994,
        (8, 8, 1),
        {"features": (4, 6, 8), "hidden_size": 7, "num_classes": 3},
        num_features=7,
        intermediates={"block1": (4, 4, 4), "block2": (2, 2, 6), "block3": (1, 1, 8)},
    ),
    "conv4": Row(
        112_261,
        (8, 8, 1),
        {"features": 4, "num_layers": 2, "num_classes": 3},
        num_features=4,
        intermediates={"block1": (4, 4, 4), "block2": (2, 2, 4)},
    ),
    "conv4_pool": Row(
        112_261,
        (8, 8, 1),
        {"features": 4, "num_layers": 2, "num_classes": 3},
        num_features=16,
        intermediates={"block1": (4, 4, 4), "block2": (2, 2, 4)},
    ),
    "lenet5": Row(
        61_706,
        (32, 32, 1),
        {"num_classes": 3},
        num_features=84,
        intermediates={"s2": (14, 14, 6), "s4": (5, 5, 16)},
    ),
    "mini_resnet": Row(
        841_706,
        (2, 2, 1),
        {"features": 4, "hidden_size": 6, "num_classes": 3},
        num_features=6,
        intermediates={"block1": (2, 2, 4), "block2": (2, 2, 4)},
    ),
    "resnet18": Row(
        11_689_512,
        (9, 9, 3),
        {"features": 4, "stage_sizes": (1, 1, 1, 1), "num_classes": 3},
        num_features=32,
        intermediates=_stages(3, 4, 8, 16, 32),
    ),
    "resnet34": Row(
        21_797_672,
        (4, 4, 3),
        {"features": 4, "stage_sizes": (2, 1), "stem": "cifar", "num_classes": 3},
        num_features=8,
        intermediates=_stages(4, 4, 8),
    ),
    "resnet50": Row(
        25_557_032,
        (9, 9, 3),
        {"features": 4, "stage_sizes": (1, 1), "num_classes": 3},
        num_features=32,
        intermediates=_stages(3, 16, 32),
    ),
    "resnet101": Row(
        44_549_160,
        (4, 4, 3),
        {"features": 4, "stage_sizes": (2, 1), "stem": "cifar", "num_classes": 3},
        num_features=32,
        intermediates=_stages(4, 16, 32),
    ),
    "resnet152": Row(  # small, it is the same module as the small resnet101, so that what was compiled serves both
        60_192_808,
        (4, 4, 3),
        {"features": 4, "stage_sizes": (2, 1), "stem": "cifar", "num_classes": 3},
        num_features=32,
        intermediates=_stages(4, 16, 32),
    ),
    "alexnet": Row(
        61_100_840,
        (63, 63, 3),
        {"features": (4, 5, 6, 5, 4), "hidden_size": 7, "num_classes": 3},
        num_features=7,
        intermediates={"stage1": (7, 7, 4), "stage2": (3, 3, 5), "stage3": (1, 1, 4)},
    ),
    "vgg11": _vgg(132_863_336, batch_norm=False),
    "vgg13": _vgg(133_047_848, batch_norm=False),
    "vgg16": _vgg(138_357_544, batch_norm=False),
    "vgg19": _vgg(143_667_240, batch_norm=False),
    "vgg11_bn": _vgg(132_868_840, batch_norm=True),
    "vgg13_bn": _vgg(133_053_736, batch_norm=True),
    "vgg16_bn": _vgg(138_365_992, batch_norm=True),
    "vgg19_bn": _vgg(143_678_248, batch_norm=True),
    "densenet121": Row(
        7_978_856,
        (5, 5, 3),
        {"stage_sizes": (2, 1), "growth_rate": 4, "num_classes": 3},
        num_features=12,
        intermediates={"stem": (2, 2, 8), "stage1": (2, 2, 16), "stage2": (1, 1, 12)},
    ),
    "mobilenet_v3_large": Row(
        5_483_032,
        (6, 6, 3),
        {"stage_sizes": (1, 1, 1), "width": 0.25, "hidden_size": 6, "num_classes": 3},
        num_features=6,
        intermediates={"stem": (3, 3, 8), "stage1": (3, 3, 8), "stage2": (2, 2, 8), "stage3": (1, 1, 16)},
    ),
    "efficientnet_b0": _efficientnet(5_288_548),
    "efficientnet_b1": _efficientnet(7_794_184),
    "efficientnet_b2": _efficientnet(9_109_994),
    "efficientnet_b3": _efficientnet(12_233_232),
    "efficientnet_b4": _efficientnet(19_341_616),
    "efficientnet_b5": _efficientnet(30_389_784),
    "efficientnet_b6": _efficientnet(43_040_704),
    "efficientnet_b7": _efficientnet(66_347_960),
    "convnext_tiny": Row(
        28_589_128,
        (8, 8, 3),
        {"stage_sizes": (1, 2), "features": (4, 6), "num_classes": 3},
        num_features=6,
        intermediates={"stem": (2, 2, 4), "stage1": (2, 2, 4), "stage2": (1, 1, 6)},
    ),
    "vit_tiny_patch16_224": _vit(5_717_416),
    "vit_small_patch16_224": _vit(22_050_664),
    "vit_base_patch16_224": _vit(86_567_656),
    "autoencoder": Row(
        222_384,
        (2, 3, 1),
        {"image_shape": (2, 3, 1), "hidden_sizes": (5, 4), "latent_size": 3},
        intermediates={"latent": (3,)},
        output_shapes=[(2, 3, 1)],
    ),
    "conv_autoencoder": Row(
        278_369,
        (4, 8, 1),
        {"image_shape": (4, 8, 1), "features": (4, 6), "latent_size": 3},
        intermediates={**_CONV_CODER, "latent": (3,)},
        output_shapes=[(4, 8, 1)],
    ),
    "vae": Row(
        229_265,
        (4, 8, 1),
        {"image_shape": (4, 8, 1), "features": (4, 6), "hidden_size": 7, "latent_size": 3},
        intermediates=_CONV_CODER,
        output_shapes=[(4, 8, 1), (3,), (3,), (3,)],
    ),
    "gan": Row(  # takes latents
        1_102_402,
        (3,),
        {
            "image_shape": (4, 8, 1),
            "latent_size": 3,
            "generator_features": (6, 5, 4),
            "discriminator_features": (4, 6),
        },
        intermediates={
            "generator": {"up1": (2, 4, 5), "up2": (4, 8, 4)},
            "discriminator": {"down1": (2, 4, 4), "down2": (1, 2, 6)},
        },
        output_shapes=[(1,)],
    ),
    "ddpm_unet": Row(  # at time 0 for all images
        673_665,
        (4, 2, 1),
        {"features": (4, 6), "num_groups": 2},
        intermediates={"down1": (4, 2, 4), "down2": (2, 1, 6), "middle": (2, 1, 6), "up2": (2, 1, 6), "up1": (4, 2, 4)},
        output_shapes=[(4, 2, 1)],
    ),
    "lstm_regressor": _recurrent(29_345, (5, 4)),
    "gru_regressor": _recurrent(22_113, (5, 4)),
    "bilstm_regressor": _recurrent(75_073, (10, 8)),
    "attention_regressor": Row(
        42_241,
        (7, 3),
        {"hidden_size": 5, "num_outputs": 2},
        outputs="num_outputs",
        intermediates={"attention_weights": (7,)},
    ),
    "char_lstm": Row(
        239_297,
        (7,),
        {"vocab_size": 11, "hidden_size": 5},
        outputs="vocab_size",
        intermediates={"lstm": {"outputs1": (7, 5), "outputs2": (7, 5)}},
        output_shapes=[(7, 11)],
    ),
    "transformer_classifier": Row(
        1_480_894,
        (6,),
        {**_SMALL_TEXT, "head_size": 5, "num_classes": 3, "pad_token": 0},
        num_features=5,
        intermediates=_blocks(6, 8),
    ),
    "transformer_base": _transformer(63_082_496),
    "transformer_tiny": _transformer(237_824),
    "gpt2": _gpt(124_439_808),
    "gpt2_medium": _gpt(354_823_168),
    "gpt2_large": _gpt(774_030_080),
    "gpt2_xl": _gpt(1_557_611_200),
    "char_gpt": _gpt(804_096),
    "llama_15m": _llama(15_191_712),
    "tinyllama_1b": _llama(1_100_048_384),
    "llama2_7b": _llama(6_738_415_616),
    "bert_tiny": _bert(4_385_920),
    "bert_small": _bert(28_763_648),
    "bert_base": _bert(109_482_240),
    "bert_large": _bert(335_141_888),
}

REPRESENTATIVES = (
    *("mlp", "lenet5", "resnet50", "densenet121", "efficientnet_b0", "convnext_tiny", "vit_tiny_patch16_224"),
    *("mini_darts", "darts_supernet", "conv_autoencoder", "vae", "gan", "ddpm_unet", "bilstm_regressor", "char_lstm"),
    *("transformer_base", "gpt2", "llama_15m", "bert_tiny", "gat", "graph_classifier", "neural_ode", "latent_ode"),
)
"""Models of each kind, which stand for the others where plain `pytest` does not go through all."""


def by_representatives(names: Iterable[str], others: pytest.MarkDecorator = pytest.mark.exhaustive) -> Any:
    """Goes through the names; those that are no representatives are marked."""
    cases = [name if name in REPRESENTATIVES else pytest.param(name, marks=others) for name in names]
    return pytest.mark.parametrize("name", cases)


def random_variables(model: nn.Module, x: Any, seed: int = 0) -> dict[str, Any]:
    """Random weights *and random statistics* for `model`, drawn by NumPy, so that nothing is compiled.

    Kernels have the gain that suits ReLU; scales lie between 1/2 and 1, so that the sums of a deep residual network
    stay of moderate size; nothing is zero or one, as much is after `model.init`.
    """
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        match jax.tree_util.keystr(path[-1:], simple=True).rstrip("0123456789"):
            case "kernel" | "recurrent_kernel":
                value = rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
            case "scale" | "layer_scale":
                value = rng.uniform(0.5, 1, leaf.shape)
            case "var":
                value = rng.uniform(0.5, 1.5, leaf.shape)
            case "embedding":
                value = rng.normal(0, 0.5, leaf.shape)
            case "sender" | "receiver" | "alpha_normal" | "alpha_reduce" | "alpha_cell":
                value = rng.normal(0, 0.5, leaf.shape)
            case "epsilon" | "bias" | "recurrent_bias" | "mean" | "class_token" | "position_embedding" | "word_bias":
                value = rng.normal(0, 0.2, leaf.shape)
            case other:
                raise NotImplementedError(f"no distribution is stated for variables named {other!r}")
        return value.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(model, x))
