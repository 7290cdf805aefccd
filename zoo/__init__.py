"""A functional model zoo for JAX and Flax Linen.

model = zoo.create_model("resnet50", num_classes=10)
variables = model.init(jax.random.key(0), images)
logits = model.apply(variables, images)
"""

from zoo import (
    activations,
    alexnet,
    attention,
    autoencoder,
    cnn,
    convnext,
    convolution,
    densenet,
    diffusion,
    efficientnet,
    gan,
    layers,
    lenet,
    mlp,
    mobilenet,
    perceptron,
    pretrained,
    resnet,
    vae,
    vgg,
    vit,
)
from zoo.checkpoint import load_model, save_model
from zoo.registry import Card, create_model, list_models, model_card, register

__all__ = [
    "Card",
    "activations",
    "alexnet",
    "attention",
    "autoencoder",
    "cnn",
    "convnext",
    "convolution",
    "create_model",
    "densenet",
    "diffusion",
    "efficientnet",
    "gan",
    "layers",
    "lenet",
    "list_models",
    "load_model",
    "mlp",
    "mobilenet",
    "model_card",
    "perceptron",
    "pretrained",
    "register",
    "resnet",
    "save_model",
    "vae",
    "vgg",
    "vit",
]
