"""Averages of a model's weights, by which it is evaluated.

The exponential moving average (Polyak & Juditsky 1992; Izmailov et al. 2018) follows any optimizer. A schedule-free one
(Defazio et al. 2024) keeps an average of its own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from train.precision import select
from train.state import State


def start_average(state: State, decay: float | None) -> State:
    """The state with an average of its variables, where there is a decay to average them by or the optimizer has one.

    Raises:
      ValueError: there are both.
    """
    free = is_schedule_free(state.opt_state)
    if free and decay is not None:
        raise ValueError("a schedule-free optimizer averages the parameters itself: leave ema_decay out")
    # donated buffers must be distinct
    copied = jax.tree.map(jnp.copy, state.variables) if free or decay is not None else None
    return dataclasses.replace(state, ema=copied)


def average(ema: Any, variables: Any, decay: float | None, opt_state: Any) -> Any:
    """The average after a step that led to these variables; None where there is none.

    While gradients are accumulated (`optax.MultiSteps`) it is taken only after the step that moves parameters.
    Statistics of batch norm are averaged with the parameters: those of the last few steps do not suit an average over
    many. What does not change stays as it is to the bit.

    Of a schedule-free optimizer the parameters are x = (y − (1 − β) z) / β; y are those that are trained. Statistics of
    batch norm are then those at y.

    Args:
      ema: the average so far.
      variables: after the step.
      decay: the share of the old average that stays.
      opt_state: of the optimizer after the step.
    """
    if is_schedule_free(opt_state):
        return {**variables, "params": _schedule_free_average(opt_state, variables["params"])}
    if decay is None:
        return None
    moved = jax.tree.map(lambda old, new: jnp.where(new == old, old, old + (1 - decay) * (new - old)), ema, variables)
    waiting = optax.tree_utils.tree_get(opt_state, "mini_step")
    return moved if waiting is None else select(waiting == 0, moved, ema)


def is_schedule_free(opt_state: Any) -> bool:
    """Whether an optimizer with this state keeps an average of the parameters."""
    return bool(_schedule_free_states(opt_state))


def _schedule_free_states(opt_state: Any) -> list[optax.contrib.ScheduleFreeState]:
    """One for each group of parameters with a rate or a decay of its own."""

    def is_one(node: Any) -> bool:
        return isinstance(node, optax.contrib.ScheduleFreeState)

    return [leaf for leaf in jax.tree.leaves(opt_state, is_leaf=is_one) if is_one(leaf)]


def _schedule_free_average(opt_state: Any, params: Any) -> Any:
    def is_of_another_group(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    for state in _schedule_free_states(opt_state):

        def x_of(z: Any, y: jax.Array, b1: Any = state.b1) -> jax.Array:
            return y if is_of_another_group(z) else (y - (1 - b1) * z) / b1

        params = jax.tree.map(x_of, state.z, params, is_leaf=is_of_another_group)
    return params
