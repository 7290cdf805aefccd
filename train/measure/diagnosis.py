from typing import NamedTuple
import numpy as np


class Finding(NamedTuple):
    illness: str
    layer: str | None
    words: str


class Steps(NamedTuple):
    before: np.ndarray
    after: np.ndarray
    one_loss: bool = True


def findings(layers, *, history=(), steps=None, made=None):
    return [steps]
