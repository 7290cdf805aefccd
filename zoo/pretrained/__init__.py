"""Weights that others have trained: from their files to the variables of our models, and back.

Each loader returns a model and its variables:

    model, variables = pretrained.load("resnet50")  # from the hub; or load("resnet50", "resnet50.safetensors")
    logits = model.apply(variables, images)
    model, variables = pretrained.from_hub("openai-community/gpt2")
"""

from zoo.loaded import Loaded, Preprocessing
from zoo.pretrained.files import convert, describe, load
from zoo.pretrained.hugging_face import from_hub, load_tokenizer, to_hub
from zoo.pretrained.imagenet import imagenet_classes
from zoo.pretrained.inputs import preprocessing
from zoo.pretrained.keras import from_keras
from zoo.pretrained.known import KNOWN, Known, known_weights
from zoo.pretrained.state_dict import from_torch, to_torch
from zoo.pretrained.tensors import require_same_entries

__all__ = [
    "KNOWN",
    "Known",
    "Loaded",
    "Preprocessing",
    "convert",
    "describe",
    "from_hub",
    "from_keras",
    "from_torch",
    "imagenet_classes",
    "known_weights",
    "load",
    "load_tokenizer",
    "preprocessing",
    "require_same_entries",
    "to_hub",
    "to_torch",
]
