"""What is measured on both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from train.measure.turns import Turn


class Work(NamedTuple):
    """What a peer is asked for.

    Attributes:
      name: of the model.
      batch: `image`, float32 `[batch, height, width, channels]` or `[batch, features]` or tokens `[batch, time]`, and
        `label`; `inputs` and `target` of a regression; `tokens` of a language model.
      outputs: the number of classes.
      options: of the model. Of those, others have `num_classes`, and `stem="cifar"` of a ResNet.
      parts: what is measured: "train", "inference", "generate" or "epoch".
      rows: `image` and `label` of the training set that an epoch goes through.
    """

    name: str
    batch: Mapping[str, np.ndarray]
    outputs: int
    options: Mapping[str, Any] = {}
    parts: Sequence[str] = ()
    rows: Mapping[str, np.ndarray] = {}


class Peer(NamedTuple):
    """A model elsewhere: its number of parameters, and what makes its parts ready to be measured."""

    parameters: int
    parts: Mapping[str, Callable[[], Turn]]


GENERATED = 200
"""Characters of a text that is generated."""

LEAD_IN = 5
"""Epochs that do not count, in a turn of several; the first compile."""


def refuse(options: Mapping[str, Any], name: str, library: str) -> None:
    """Refuses options that a peer does not have.

    Raises:
      ValueError: names them.
    """
    if options:
        raise ValueError(f"{library}'s {name!r} has no option {', '.join(options)} to compare with")
