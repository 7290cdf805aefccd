"""What the tests of layers share."""

from __future__ import annotations

import jax
import pytest

from zoo.layers import onednn


@pytest.fixture(params=["as here", "without oneDNN"])
def library(request, monkeypatch):
    if request.param == "without oneDNN":
        monkeypatch.setattr(onednn, "takes", lambda dtype: False)
    jax.clear_caches()
    yield request.param
    jax.clear_caches()
