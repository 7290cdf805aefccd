"""A functional model zoo for JAX and Flax Linen.

model = zoo.create_model("resnet50", num_classes=10)
variables = model.init(jax.random.key(0), images)
logits = model.apply(variables, images)
"""

from zoo import activations, cnn, convolution, layers, lenet, mlp, perceptron, resnet
from zoo.checkpoint import load_model, save_model
from zoo.registry import Card, create_model, list_models, model_card, register

__all__ = [
    "Card",
    "activations",
    "cnn",
    "convolution",
    "create_model",
    "layers",
    "lenet",
    "list_models",
    "load_model",
    "mlp",
    "model_card",
    "perceptron",
    "register",
    "resnet",
    "save_model",
]
