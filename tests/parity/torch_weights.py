"""Weights of this project's modules in the layout of PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

_BLOCK_LAYERS = {"conv_proj": "downsample.0", "norm_proj": "downsample.1"}
_OUTER_LAYERS = {"conv_stem": "conv1", "norm_stem": "bn1", "head": "fc"}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def tensor(leaf: Any) -> torch.Tensor:
    """HWIO → OIHW, `[inputs, outputs]` → `[outputs, inputs]`, vectors as they are."""
    array = np.array(leaf)
    return torch.from_numpy(np.ascontiguousarray(array.transpose({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim])))


def images(x: np.ndarray) -> torch.Tensor:
    """NHWC → NCHW."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def channels_last(y: torch.Tensor) -> np.ndarray:
    """NCHW → NHWC."""
    return y.detach().numpy().transpose(0, 2, 3, 1)


def resnet_key(path: str) -> str:
    """The name that torchvision and timm give to a variable of `zoo.resnet`, such as "layer2.0.bn1.weight"."""
    *outer, layer, leaf = path.split("/")
    if outer:
        stage, block = re.fullmatch(r"stage(\d+)_block(\d+)", outer[0]).groups()
        layer = _BLOCK_LAYERS.get(layer, layer.replace("norm", "bn"))
        return f"layer{stage}.{int(block) - 1}.{layer}.{_LEAVES[leaf]}"
    return f"{_OUTER_LAYERS[layer]}.{_LEAVES[leaf]}"


def resnet_tensors(*trees: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Parameters, statistics or gradients of a ResNet under the keys of timm."""
    flat = {path: leaf for tree in trees for path, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()}
    return {resnet_key(path): tensor(leaf) for path, leaf in flat.items()}


def load(module: torch.nn.Module, variables: Mapping[str, Any]) -> torch.nn.Module:
    """`module` with the weights and statistics of a ResNet of ours; every key must match."""
    state = resnet_tensors(*(variables[collection] for collection in ("params", "batch_stats")))
    counters = {key: torch.tensor(0) for key in module.state_dict() if key.endswith("num_batches_tracked")}
    module.load_state_dict({**state, **counters}, strict=True)
    return module.eval()
