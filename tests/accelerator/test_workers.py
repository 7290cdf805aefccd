"""What the processes of a measurement run is imported nowhere else: it must not wait for a GPU to be found broken."""

from __future__ import annotations

from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["jax_training", "jax_generation", "torch_training", "torch_generation"])
def test_workers_can_be_imported(name):
    if name.startswith("torch"):
        pytest.importorskip("torch")
    assert callable(import_module(f"tests.accelerator.{name}").prepare)
