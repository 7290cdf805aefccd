"""Tasks that make images take them with values in [0, 1], and say so where they get others."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from train.state import Batch, State, Task


def of_unit_images(task: Task, inputs: str) -> Task:
    """The same task, whose `init` refuses a batch with values outside [0, 1].

    Steps cannot: what they are given is known only on the device. `init` sees values outside of `jax.jit`.

    Args:
      task: makes images.
      inputs: the field of the batch that holds the images.
    """

    def init(key: jax.Array, batch: Batch) -> State:
        require_unit_range(batch[inputs], inputs)
        return task.init(key, batch)

    return task._replace(init=init)


def require_unit_range(images: Any, name: str) -> None:
    """Refuses images with values outside [0, 1], unless they are traced.

    Raises:
      ValueError: names the least and the greatest value.
    """
    if isinstance(images, Tracer | jax.ShapeDtypeStruct):
        return
    values = np.asarray(images)
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            f"the task takes values in [0, 1], and those of {name!r} go from {values.min():.3g} to {values.max():.3g}: "
            "divide pixels by 255, and standardize nothing (leave data_options.standardize out)"
        )
