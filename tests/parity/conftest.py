"""Keras runs on JAX here, so that it computes on the same platform as the models that are compared with it."""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent

os.environ.setdefault("KERAS_BACKEND", "jax")


def pytest_ignore_collect(config):
    """Neither the first answer nor what plain `pytest` leaves out imports them."""
    return True if config.option.markexpr in ("not slow", "exhaustive") else None


def pytest_collection_modifyitems(items):
    """What stands here is slow as a whole: to import the other libraries takes seconds."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.slow)
