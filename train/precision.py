"""Mixed precision: bfloat16 needs nothing but a compute dtype; float16 needs its gradients lifted above underflow."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

_GROWTH_INTERVAL = 2000
_LARGEST = 2.0**24


@flax.struct.dataclass
class LossScale:
    """Dynamic loss scale (Micikevicius et al. 2018, section 3.2).

    Attributes:
      scale: what the loss is multiplied by before differentiation, float32 scalar.
      good_steps: steps since the last overflow or growth, int32 scalar.
    """

    scale: jax.Array
    good_steps: jax.Array

    @classmethod
    def create(cls, scale: float = 2.0**15) -> LossScale:
        """A scale to begin with; it finds its own level within a few steps."""
        return cls(jnp.float32(scale), jnp.int32(0))

    def adjust(self, finite: jax.Array) -> LossScale:
        """Halves the scale after an overflow, doubles it after 2000 steps without one."""
        grow = finite & (self.good_steps + 1 >= _GROWTH_INTERVAL)
        scale = jnp.where(finite, jnp.where(grow, self.scale * 2, self.scale), self.scale / 2)
        good_steps = jnp.where(finite & ~grow, self.good_steps + 1, 0)
        return LossScale(jnp.clip(scale, 1.0, _LARGEST), good_steps)


def all_finite(tree: Any) -> jax.Array:
    """Whether no leaf holds an infinity or a NaN, boolean scalar."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def select(condition: jax.Array, then: Any, otherwise: Any) -> Any:
    """`then` where the scalar `condition` holds, else `otherwise`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), then, otherwise)
