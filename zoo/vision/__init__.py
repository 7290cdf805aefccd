"""Networks that see images."""

from zoo.vision import alexnet, cnn, conv4, convnext, densenet, efficientnet, lenet, mobilenet, resnet, vgg, vit

__all__ = [
    "alexnet",
    "cnn",
    "conv4",
    "convnext",
    "densenet",
    "efficientnet",
    "lenet",
    "mobilenet",
    "resnet",
    "vgg",
    "vit",
]
