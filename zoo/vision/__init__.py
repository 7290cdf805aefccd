"""Networks that see images."""

from zoo.vision import alexnet, cnn, convnext, densenet, efficientnet, lenet, mobilenet, resnet, vgg, vit

__all__ = ["alexnet", "cnn", "convnext", "densenet", "efficientnet", "lenet", "mobilenet", "resnet", "vgg", "vit"]
