"""The exponential moving average of a model's weights (Polyak & Juditsky 1992; Izmailov et al. 2018)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from train.precision import select
from train.state import State


def start_average(state: State, decay: float | None) -> State:
    """The state with an average of its variables, where there is a decay to average them by."""
    copied = None if decay is None else jax.tree.map(jnp.copy, state.variables)  # donated buffers must be distinct
    return dataclasses.replace(state, ema=copied)


def average(ema: Any, variables: Any, decay: float | None, opt_state: Any) -> Any:
    """The average after a step that led to these variables; None without a decay.

    While gradients are accumulated (`optax.MultiSteps`) it is taken only after the step that moves parameters.
    Statistics of batch norm are averaged with the parameters: those of the last few steps do not suit an average over
    many. What does not change stays as it is to the bit.

    Args:
      ema: the average so far.
      variables: after the step.
      decay: the share of the old average that stays.
      opt_state: of the optimizer after the step.
    """
    if decay is None:
        return None
    moved = jax.tree.map(lambda old, new: jnp.where(new == old, old, old + (1 - decay) * (new - old)), ema, variables)
    waiting = optax.tree_utils.tree_get(opt_state, "mini_step")
    return moved if waiting is None else select(waiting == 0, moved, ema)
