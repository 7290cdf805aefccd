"""A functional model zoo for JAX and Flax Linen.

A model is built by its name, and is a module without parameters in it:

    model = zoo.create_model("resnet50", num_classes=10)
    variables = model.init(jax.random.key(0), images)
    logits = model.apply(variables, images)
"""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).parents[1] / "train" / "entry.py"))["require_ours"](Path(__file__).parents[1])

# Each wing registers its models when it is imported.
from zoo import basic, dynamics, generative, graphs, layers, pretrained, sequence, text, vision
from zoo.basic import backpropagation, mlp, perceptron
from zoo.checkpoint import load_model, save_model
from zoo.dynamics import ffjord, latent_ode, neural_ode, ode_net
from zoo.generative import autoencoder, diffusion, gan, vae
from zoo.graphs import appnp, gat, gcn, gcnii, gin, graph_classifier, graph_network, graphsage, message_passing
from zoo.layers import activations, attention, convolution, recurrent
from zoo.layers.fusion import fuse
from zoo.published import shipped_models
from zoo.registry import Card, create_model, list_models, model_card, register
from zoo.text import bert, char_lm, gpt, llama, transformer
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

# A family is imported without its wing too: `from zoo.resnet import ResNet`.
for _wing in (basic, dynamics, generative, graphs, layers, text, vision):
    for _name, _room in list(vars(_wing).items()):
        if getattr(_room, "__name__", None) == f"{_wing.__name__}.{_name}":
            sys.modules.setdefault(f"{__name__}.{_name}", _room)  # a wing keeps its name: zoo.basic

__all__ = [
    "Card",
    "activations",
    "alexnet",
    "appnp",
    "attention",
    "autoencoder",
    "backpropagation",
    "basic",
    "bert",
    "cells",
    "char_lm",
    "cnn",
    "conv4",
    "convnext",
    "convolution",
    "create_model",
    "darts",
    "densenet",
    "diffusion",
    "dynamics",
    "efficientnet",
    "ffjord",
    "fuse",
    "gan",
    "gat",
    "gcn",
    "gcnii",
    "generative",
    "gin",
    "gpt",
    "graph_classifier",
    "graph_network",
    "graphs",
    "graphsage",
    "latent_ode",
    "layers",
    "lenet",
    "list_models",
    "llama",
    "load_model",
    "message_passing",
    "mlp",
    "mobilenet",
    "model_card",
    "nas_bench",
    "neural_ode",
    "ode_net",
    "perceptron",
    "pretrained",
    "recurrent",
    "register",
    "resnet",
    "save_model",
    "sequence",
    "shipped_models",
    "text",
    "transformer",
    "vae",
    "vgg",
    "vision",
    "vit",
]
