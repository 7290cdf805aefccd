"""Lowering the learning rate when an evaluation gets no better: Keras's ReduceLROnPlateau (guide, section 12.1).

The scale is a function of the history of evaluations, and stands in the state of the optimizer: a resumed run has the
rate that it would have had.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from train.metrics import higher_is_better
from train.state import State
from zoo.options import check_options


class PlateauState(NamedTuple):
    """What updates are multiplied by, float32 scalar."""

    plateau_scale: jax.Array


def scale_by_plateau() -> optax.GradientTransformation:
    """Multiplies updates by a number that stands in the state, and which `rescale` sets."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda u: (u * state.plateau_scale).astype(u.dtype), updates), state

    return optax.GradientTransformation(lambda params: PlateauState(jnp.float32(1)), update)


@dataclasses.dataclass(frozen=True)
class Plateau:
    """When the learning rate falls, and by how much.

    Attributes:
      monitor: the column of the history that is to get better.
      factor: what the rate is multiplied by, in (0, 1).
      patience: evaluations without a better value after which it is.
      least_change: what counts as better.
      least_scale: the part of the first rate below which it does not fall.
    """

    monitor: str = "validation_loss"
    factor: float = 0.1
    patience: int = 10
    least_change: float = 1e-4
    least_scale: float = 0.0

    def __post_init__(self):
        check_options(Plateau, dataclasses.asdict(self), "the plateau")
        if not 0 < self.factor < 1:
            raise ValueError(f"factor of the plateau must be in (0, 1), not {self.factor}")

    def scale(self, history: Sequence[dict[str, float]]) -> float:
        """The scale after these evaluations. Each fall is followed by as much patience again."""
        sign = 1.0 if higher_is_better(self.monitor) else -1.0
        scale, best, waited = 1.0, -float("inf"), 0
        for row in history:
            if sign * row[self.monitor] > best + self.least_change:
                best, waited = sign * row[self.monitor], 0
                continue
            waited += 1
            if waited >= self.patience:
                scale, waited = max(scale * self.factor, self.least_scale), 0
        return scale

    def rescale(self, state: State, history: Sequence[dict[str, float]]) -> State:
        """The state with the scale after these evaluations in its optimizer, where the last of them changes it."""
        scale = self.scale(history)
        if scale == self.scale(history[:-1]):
            return state

        def place(node: Any) -> Any:
            if not isinstance(node, PlateauState):
                return node
            leaf = node.plateau_scale
            fill = jax.jit(lambda value: jnp.full_like(leaf, value), out_shardings=leaf.sharding)
            return PlateauState(fill(scale))

        def is_scale(node: Any) -> bool:
            return isinstance(node, PlateauState)

        return dataclasses.replace(state, opt_state=jax.tree.map(place, state.opt_state, is_leaf=is_scale))
