"""Weights that others have trained: from their files to the variables of our models, and back.

variables = pretrained.load("resnet50", "resnet50.safetensors")
logits = zoo.create_model("resnet50").apply(variables, images)
"""

from zoo.pretrained.inputs import Preprocessing, preprocessing
from zoo.pretrained.state_dict import from_torch, load, to_torch

__all__ = ["Preprocessing", "from_torch", "load", "preprocessing", "to_torch"]
