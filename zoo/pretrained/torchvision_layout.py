"""The layout of torchvision's state dicts."""

from __future__ import annotations

import re

from zoo.pretrained.place import LEAVES, Place, Rule, layer
from zoo.vision.alexnet import AlexNet
from zoo.vision.convnext import ConvNeXt
from zoo.vision.densenet import DenseNet
from zoo.vision.efficientnet import EfficientNet
from zoo.vision.mobilenet import MobileNetV3
from zoo.vision.resnet import ResNet
from zoo.vision.vgg import VGG
from zoo.vision.vit import ViT


def numbers(name: str) -> list[int]:
    """The numbers in a name: "stage3_block2" → [3, 2]."""
    return [int(number) for number in re.findall(r"\d+", name)]


def _alexnet(model: AlexNet, path: str) -> Place:
    name, leaf = path.split("/")
    convolutions = {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10}
    if name in convolutions:
        return layer(f"features.{convolutions[name]}", leaf)
    return _classifier({"fc1": 1, "fc2": 4, "head": 6}, name, leaf, window=(6, 6))


def _vgg(model: VGG, path: str) -> Place:
    name, leaf = path.split("/")
    if name.startswith("stage"):
        return layer(vgg_features(model, name), leaf)
    return _classifier({"fc1": 0, "fc2": 3, "head": 6}, name, leaf, window=(7, 7))


def _classifier(index: dict[str, int], name: str, leaf: str, window: tuple[int, int]) -> Place:
    return layer(f"classifier.{index[name]}", leaf, window=window if name == "fc1" else (1, 1))


def vgg_features(model: VGG, name: str) -> str:
    """The key of a convolution or norm of VGG: these, the ReLUs and the max-pools are numbered through."""
    stage, index = numbers(name)
    before = sum(model.stage_sizes[: stage - 1]) + index - 1
    return f"features.{before * (3 if model.batch_norm else 2) + stage - 1 + name.count('norm')}"


def _resnet(model: ResNet, path: str) -> Place:
    *block, name, leaf = path.split("/")
    if not block:
        return layer({"conv_stem": "conv1", "norm_stem": "bn1", "head": "fc"}[name], leaf)
    stage, index = numbers(block[0])
    name = {"conv_proj": "downsample.0", "norm_proj": "downsample.1"}.get(name, name.replace("norm", "bn"))
    return layer(f"layer{stage}.{index - 1}.{name}", leaf)


def _densenet(model: DenseNet, path: str) -> Place:
    *block, name, leaf = path.split("/")
    if not block:
        last = f"features.norm{len(model.stage_sizes) + 1}"
        outer = {"conv_stem": "features.conv0", "norm_stem": "features.norm0", "norm_head": last, "head": "classifier"}
        return layer(outer[name], leaf)
    stage, *index = numbers(block[0])
    if index:
        return layer(f"features.denseblock{stage}.denselayer{index[0]}.{name}", leaf)
    return layer(f"features.transition{stage - 1}.{name}", leaf)


def _mobilenet(model: MobileNetV3, path: str) -> Place:
    name, *inner, leaf = path.split("/")
    last = sum(model.stage_sizes) + 1
    if not inner:
        outer = {"conv_stem": "features.0.0", "norm_stem": "features.0.1", "hidden": "classifier.0"}
        outer |= {"conv_head": f"features.{last}.0", "norm_head": f"features.{last}.1", "head": "classifier.3"}
        return layer(outer[name], leaf)
    stage, block = numbers(name)
    index = sum(model.stage_sizes[: stage - 1]) + block
    return _inverted_residual(f"features.{index}", inner, leaf, expands=stage > 1, squeezes=stage in (3, 5, 6))


def _efficientnet(model: EfficientNet, path: str) -> Place:
    name, *inner, leaf = path.split("/")
    last = len(model.stage_sizes) + 1
    if not inner:
        outer = {"conv_stem": "features.0.0", "norm_stem": "features.0.1", "head": "classifier.1"}
        outer |= {"conv_head": f"features.{last}.0", "norm_head": f"features.{last}.1"}
        return layer(outer[name], leaf)
    stage, block = numbers(name)
    return _inverted_residual(f"features.{stage}.{block - 1}", inner, leaf, expands=stage > 1, squeezes=True)


def _inverted_residual(key: str, inner: list[str], leaf: str, *, expands: bool, squeezes: bool) -> Place:
    """What the block has is numbered; each convolution and its norm are a pair."""
    steps = ["expand"] * expands + ["depthwise"] + ["excite"] * squeezes + ["project"]
    if inner[0] == "squeeze_excite":
        return layer(f"{key}.block.{steps.index('excite')}.{_SQUEEZE_EXCITE[inner[1]]}", leaf, rank=4)
    kind, step = inner[0].split("_")
    return layer(f"{key}.block.{steps.index(step)}.{int(kind == 'norm')}", leaf)


_SQUEEZE_EXCITE = {"reduce": "fc1", "expand": "fc2"}


def _convnext(model: ConvNeXt, path: str) -> Place:
    *block, name, leaf = path.split("/")
    if block:
        stage, index = numbers(block[0])
        inner = {"conv_depthwise": 0, "norm": 2, "fc1": 3, "fc2": 5}[name]
        return layer(f"features.{2 * stage - 1}.{index - 1}.block.{inner}", leaf)
    if leaf == "layer_scale":
        stage, index = numbers(name)
        return Place(f"features.{2 * stage - 1}.{index - 1}.layer_scale", rank=3)
    if name.startswith("stage"):
        return layer(f"features.{2 * numbers(name)[0] - 2}.{int('conv' in name)}", leaf)
    outer = {"conv_stem": "features.0.0", "norm_stem": "features.0.1", "norm_head": "classifier.0"}
    return layer(outer.get(name, "classifier.2"), leaf)


def _vit(model: ViT, path: str) -> Place:
    *inner, leaf = path.split("/")
    match inner:
        case []:
            return Place({"class_token": "class_token", "position_embedding": "encoder.pos_embedding"}[leaf])
        case [name]:
            return layer({"embed": "conv_proj", "norm_head": "encoder.ln", "head": "heads.head"}[name], leaf)
    key = f"encoder.layers.encoder_layer_{numbers(inner[0])[0] - 1}"
    match inner[1:]:
        case ["attention", "out"]:
            return layer(f"{key}.self_attention.out_proj", leaf)
        case ["attention", name]:
            part = ("query", "key", "value").index(name), 3
            return Place(f"{key}.self_attention.in_proj_{LEAVES[leaf]}", part)
        case [name]:
            return layer(f"{key}.{_ENCODER[name]}", leaf)
    raise KeyError(path)


_ENCODER = {"norm1": "ln_1", "norm2": "ln_2", "fc1": "mlp.0", "fc2": "mlp.3"}

RULES: dict[type, Rule] = {
    AlexNet: _alexnet,
    ConvNeXt: _convnext,
    DenseNet: _densenet,
    EfficientNet: _efficientnet,
    MobileNetV3: _mobilenet,
    ResNet: _resnet,
    VGG: _vgg,
    ViT: _vit,
}
"""The rule for each family."""

EPSILON = {"mobilenet_v3_large": 1e-3, "efficientnet_b5": 1e-3, "efficientnet_b6": 1e-3, "efficientnet_b7": 1e-3}
"""Batch norm's ε where it is not 1e-5."""


def modern(key: str) -> str:
    """The present name of an entry in a file from before torchvision renamed parts of DenseNet and ViT."""
    key = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)
    return key.replace("mlp.linear_1.", "mlp.0.").replace("mlp.linear_2.", "mlp.3.")
