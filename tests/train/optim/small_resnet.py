"""What the tests of freezing and of transfer learning share: a small ResNet, its images, and trees by their paths."""

from __future__ import annotations

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

import zoo
from tests.descriptors import random_variables

SMALL = {"features": 4, "stage_sizes": (1,), "stem": "cifar"}


def small_resnet():
    return zoo.create_model("resnet18", num_classes=3, **SMALL)


def batch_of_images():
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(8, 6, 6, 3)).astype(np.float32),
        "label": rng.integers(0, 3, 8).astype(np.int32),
    }


def start(model, x):
    """Random weights and statistics, with zeros of both signs among them."""
    variables = flat(random_variables(model, x))
    variables["params/norm_stem/bias"][:2] = [-0.0, 0.0]
    return unflatten_dict(variables, sep="/")


def flat(tree):
    return flatten_dict(tree, sep="/")


def same_bits(a, b):
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()
