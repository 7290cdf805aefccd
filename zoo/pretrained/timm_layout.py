"""The layout of timm's state dicts."""

from __future__ import annotations

from zoo.pretrained import torchvision_layout
from zoo.pretrained.place import Place, Rule, layer
from zoo.pretrained.torchvision_layout import numbers, vgg_features
from zoo.vision.convnext import ConvNeXt
from zoo.vision.efficientnet import EfficientNet
from zoo.vision.mobilenet import MobileNetV3
from zoo.vision.vgg import VGG
from zoo.vision.vit import ViT


def _vgg(model: VGG, path: str) -> Place:
    """The first two dense layers are kept as convolutions."""
    name, leaf = path.split("/")
    match name:
        case "fc1":
            return layer("pre_logits.fc1", leaf, rank=4, window=(7, 7))
        case "fc2":
            return layer("pre_logits.fc2", leaf, rank=4)
        case "head":
            return layer("head.fc", leaf)
    return layer(vgg_features(model, name), leaf)


def _mobilenet(model: MobileNetV3, path: str) -> Place:
    name, *inner, leaf = path.split("/")
    if inner:
        return _inverted_residual(name, inner, leaf)
    last = f"blocks.{len(model.stage_sizes)}.0"
    outer = {"conv_stem": "conv_stem", "norm_stem": "bn1", "conv_head": f"{last}.conv", "norm_head": f"{last}.bn1"}
    outer |= {"hidden": "conv_head", "head": "classifier"}
    return layer(outer[name], leaf, rank=4 if name == "hidden" else None)


def _efficientnet(model: EfficientNet, path: str) -> Place:
    name, *inner, leaf = path.split("/")
    if inner:
        return _inverted_residual(name, inner, leaf)
    outer = {"conv_stem": "conv_stem", "norm_stem": "bn1", "conv_head": "conv_head", "norm_head": "bn2"}
    return layer(outer.get(name, "classifier"), leaf)


def _inverted_residual(name: str, inner: list[str], leaf: str) -> Place:
    """The norms are numbered; the last convolution has another name where there is none to expand (stage 1)."""
    stage, block = numbers(name)
    key = f"blocks.{stage - 1}.{block - 1}"
    if inner[0] == "squeeze_excite":
        return layer(f"{key}.se.conv_{inner[1]}", leaf, rank=4)
    kind, step = inner[0].split("_")
    steps = {"expand": "pw", "depthwise": "dw", "project": "pwl"} if stage > 1 else {"depthwise": "dw", "project": "pw"}
    if kind == "conv":
        return layer(f"{key}.conv_{steps[step]}", leaf)
    return layer(f"{key}.bn{list(steps).index(step) + 1}", leaf)


def _convnext(model: ConvNeXt, path: str) -> Place:
    *block, name, leaf = path.split("/")
    if block:
        stage, index = numbers(block[0])
        inner = {"conv_depthwise": "conv_dw", "norm": "norm", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}[name]
        return layer(f"stages.{stage - 1}.blocks.{index - 1}.{inner}", leaf)
    if leaf == "layer_scale":
        stage, index = numbers(name)
        return Place(f"stages.{stage - 1}.blocks.{index - 1}.gamma")
    if name.startswith("stage"):
        return layer(f"stages.{numbers(name)[0] - 1}.downsample.{int('conv' in name)}", leaf)
    outer = {"conv_stem": "stem.0", "norm_stem": "stem.1", "norm_head": "head.norm", "head": "head.fc"}
    return layer(outer[name], leaf)


def _vit(model: ViT, path: str) -> Place:
    *inner, leaf = path.split("/")
    match inner:
        case []:
            return Place({"class_token": "cls_token", "position_embedding": "pos_embed"}[leaf])
        case [name]:
            return layer({"embed": "patch_embed.proj", "norm_head": "norm", "head": "head"}[name], leaf)
    key = f"blocks.{numbers(inner[0])[0] - 1}"
    match inner[1:]:
        case ["attention", "out"]:
            return layer(f"{key}.attn.proj", leaf)
        case ["attention", name]:
            return layer(f"{key}.attn.qkv", leaf)._replace(part=(("query", "key", "value").index(name), 3))
        case [name]:
            return layer(f"{key}.mlp.{name}" if name.startswith("fc") else f"{key}.{name}", leaf)
    raise KeyError(path)


RULES: dict[type, Rule] = {
    **torchvision_layout.RULES,  # timm's ResNet and DenseNet are torchvision's; it has no AlexNet
    ConvNeXt: _convnext,
    EfficientNet: _efficientnet,
    MobileNetV3: _mobilenet,
    VGG: _vgg,
    ViT: _vit,
}
"""The rule for each family."""
