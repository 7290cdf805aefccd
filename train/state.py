"""The two shapes that all training has: a state, and a task that moves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax

from train.metrics import Metrics
from train.precision import LossScale

Batch = Mapping[str, Any]
"""One batch by field: `image`, `label`, `inputs`, `target`, `mask` …, arrays `[batch, …]`."""


@flax.struct.dataclass
class State:
    """Everything that a train step changes, and so everything that a checkpoint holds.

    Attributes:
      step: number of steps taken, int32 scalar.
      params: the trained parameters.
      model_state: the model's other collections, such as `batch_stats`.
      opt_state: the state of the Optax transformation.
      key: the root of all randomness; a step uses `fold_in(key, step)` and leaves it as it is.
      ema: the average of the variables, `params` and `model_state`, by which the model is evaluated: an exponential
        moving one, or that of a schedule-free optimizer. None where there is none.
      loss_scale: the dynamic loss scale of float16 training, or None.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    key: jax.Array
    ema: Any = None
    loss_scale: LossScale | None = None

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes for inference: averages where there are any."""
        return {"params": self.params, **self.model_state} if self.ema is None else self.ema


class Task(NamedTuple):
    """A model paired with the steps that train and evaluate it: three pure functions.

    Attributes:
      init: (key, batch) → state. Of the batch only shapes and dtypes matter.
      train_step: (state, batch) → (state, metrics). Runs under `jax.jit` and `jax.pmap(axis_name="batch")` unchanged.
      eval_step: (state, batch) → metrics.
    """

    init: Callable[[jax.Array, Batch], State]
    train_step: Callable[[State, Batch], tuple[State, Metrics]]
    eval_step: Callable[[State, Batch], Metrics]
