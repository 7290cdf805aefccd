"""Weights of this project's modules in the layout of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from zoo import pretrained

torch = pytest.importorskip("torch")


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


def tensors(name: str, variables: Mapping[str, Any], **options: Any) -> dict[str, torch.Tensor]:
    """Variables, or a tree of their shape such as gradients, under the keys of timm."""
    return {key: torch.from_numpy(array) for key, array in pretrained.to_torch(name, variables, **options).items()}


def load(module: torch.nn.Module, name: str, variables: Mapping[str, Any], **options: Any) -> torch.nn.Module:
    """`module`, for inference, with the weights and statistics of a model of ours; every key must match."""
    module.load_state_dict(tensors(name, variables, **options), strict=True, assign=True)
    return module.eval()
