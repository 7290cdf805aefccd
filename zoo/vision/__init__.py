"""Networks that see images."""

from zoo.vision import (
    alexnet,
    cells,
    cnn,
    conv4,
    convnext,
    darts,
    densenet,
    efficientnet,
    lenet,
    mobilenet,
    nas_bench,
    resnet,
    vgg,
    vit,
)

__all__ = [
    "alexnet",
    "cells",
    "cnn",
    "conv4",
    "convnext",
    "darts",
    "densenet",
    "efficientnet",
    "lenet",
    "mobilenet",
    "nas_bench",
    "resnet",
    "vgg",
    "vit",
]
