"""What published weights want to see: how the images that they were trained on were prepared."""

from __future__ import annotations

from zoo.loaded import Preprocessing
from zoo.registry import unknown


def preprocessing(name: str, source: str | None = None) -> Preprocessing:
    """What the default weights for the model `name` want, those of "timm", "torchvision" or "keras".

    Without a `source`, of the first of these that has any.

    Raises:
      ValueError: none of them, or not this source, has weights for `name`; or there is no such source.
    """
    if source is not None and source not in _TABLES:
        raise ValueError(unknown("source of weights", source, _TABLES))
    for table in [_TABLES[source]] if source else _TABLES.values():
        if name in table:
            return table[name]
    raise ValueError(f"{source} has no weights for {name!r}" if source else f"no weights are known for {name!r}")


_HALF = (0.5, 0.5, 0.5)
_RESNET = Preprocessing(224, 0.95, "bicubic")
_VGG = Preprocessing(224, 0.875, "bilinear")
_VIT = Preprocessing(224, 0.9, "bicubic", _HALF, _HALF)

_TIMM = {
    "convnext_tiny": Preprocessing(224, 0.95, "bicubic"),
    "densenet121": Preprocessing(224, 0.875, "bicubic"),
    "efficientnet_b0": Preprocessing(224, 0.875, "bicubic"),
    "efficientnet_b1": Preprocessing(240, 0.9, "bicubic", _HALF, _HALF),
    "efficientnet_b2": Preprocessing(256, 0.875, "bicubic"),
    "efficientnet_b3": Preprocessing(288, 0.875, "bicubic"),
    "efficientnet_b4": Preprocessing(320, 0.875, "bicubic"),
    "efficientnet_b5": Preprocessing(448, 1.0, "bicubic", squash=True),
    "mobilenet_v3_large": Preprocessing(224, 0.875, "bicubic"),
    "resnet18": _RESNET,
    "resnet34": _RESNET,
    "resnet50": _RESNET,
    "resnet101": _RESNET,
    "resnet152": _RESNET,
    "vgg11": _VGG,
    "vgg11_bn": _VGG,
    "vgg13": _VGG,
    "vgg13_bn": _VGG,
    "vgg16": _VGG,
    "vgg16_bn": _VGG,
    "vgg19": _VGG,
    "vgg19_bn": _VGG,
    "vit_base_patch16_224": _VIT,
    "vit_small_patch16_224": _VIT,
    "vit_tiny_patch16_224": _VIT,
}

_RESIZED_256 = Preprocessing(224, 224 / 256, "bilinear")
_RESIZED_232 = Preprocessing(224, 224 / 232, "bilinear")

_TORCHVISION = {
    "alexnet": _RESIZED_256,
    "convnext_tiny": Preprocessing(224, 224 / 236, "bilinear"),
    "densenet121": _RESIZED_256,
    "efficientnet_b0": Preprocessing(224, 224 / 256, "bicubic"),
    "efficientnet_b1": Preprocessing(240, 240 / 255, "bilinear"),
    "efficientnet_b2": Preprocessing(288, 1.0, "bicubic"),
    "efficientnet_b3": Preprocessing(300, 300 / 320, "bicubic"),
    "efficientnet_b4": Preprocessing(380, 380 / 384, "bicubic"),
    "efficientnet_b5": Preprocessing(456, 1.0, "bicubic"),
    "efficientnet_b6": Preprocessing(528, 1.0, "bicubic"),
    "efficientnet_b7": Preprocessing(600, 1.0, "bicubic"),
    "mobilenet_v3_large": _RESIZED_232,
    "resnet18": _RESIZED_256,
    "resnet34": _RESIZED_256,
    "resnet50": _RESIZED_232,
    "resnet101": _RESIZED_232,
    "resnet152": _RESIZED_232,
    "vgg11": _RESIZED_256,
    "vgg11_bn": _RESIZED_256,
    "vgg13": _RESIZED_256,
    "vgg13_bn": _RESIZED_256,
    "vgg16": _RESIZED_256,
    "vgg16_bn": _RESIZED_256,
    "vgg19": _RESIZED_256,
    "vgg19_bn": _RESIZED_256,
    "vit_base_patch16_224": _RESIZED_256,
}

# Keras leaves resizing and cropping to its users; this is the usual way. Mean and scale of what its
# `preprocess_input` calls "caffe" are in [0, 255].
_CAFFE = Preprocessing(
    224, 0.875, "bilinear", (123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)
)

_KERAS = {
    "efficientnet_b0": Preprocessing(224, 0.875, "bilinear"),
    "resnet50": _CAFFE,
    "vgg16": _CAFFE,
}

_TABLES = {"timm": _TIMM, "torchvision": _TORCHVISION, "keras": _KERAS}
