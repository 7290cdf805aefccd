"""timm, importable beside a PyTorch without CUDA.

The torchvision of PyPI is built for CUDA; without its library, the import stops where it describes operators that were
never declared. Nothing here calls them: their schemas are all that is needed.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

try:
    pytest.importorskip("torchvision")
except RuntimeError:  # "operator torchvision::nms does not exist"
    torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

timm = pytest.importorskip("timm")
