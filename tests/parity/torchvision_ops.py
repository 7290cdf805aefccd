"""timm, importable beside a PyTorch without CUDA."""

from __future__ import annotations

import pytest

from train.measure.peers.pytorch_networks import import_timm

torch = pytest.importorskip("torch")
try:
    timm = import_timm(torch)
except ValueError as error:
    pytest.skip(str(error), allow_module_level=True)
