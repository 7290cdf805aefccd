"""What models that solve differential equations share: the options of the solver, and how a field is called."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.dynamics.solve import Adjoint, ErrorControl, Field, Method, Solution, Solver, solve


class Continuous(nn.Module):
    """A model with a vector field; its options are those of `zoo.dynamics.solve.Method`.

    Each call reports the metrics `solver_steps` and `field_evaluations` of an example, and of an adaptive solver the
    share `unsolved`, which tasks add to their own.
    """

    solver: Solver = "tsit5"
    rtol: float = 1e-3
    atol: float = 1e-4
    adjoint: Adjoint = "direct"
    error_control: ErrorControl = "batch"
    max_steps: int = 256
    num_steps: int = 4
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def method(self) -> Method:
        """How the model solves."""
        options = (self.rtol, self.atol, self.adjoint, self.error_control, self.max_steps, self.num_steps)
        return Method(self.solver, *options)

    def field_of(self, module: nn.Module, y: jax.Array, name: str = "field") -> tuple[Field, Any]:
        """A module `(y, t)` → dy/dt as a pure function of (t, y, args), and the args: its own parameters.

        They are a parameter of this model. The module itself is bound to none: the loop of a solver would leak what it
        traces into one that is.
        """
        shape, dtype = (1, *y.shape[1:]), jnp.float32
        apart, example = _Apart(module, name, parent=None), (jnp.zeros(shape, dtype), jnp.zeros((), dtype))
        params = self.param(name, lambda key: apart.init(key, *example, method="call")["params"][name])

        def field(t: jax.Array, y: jax.Array, params: Any) -> jax.Array:
            return apart.apply({"params": {name: params}}, y, t, method="call")  # type: ignore[return-value]

        return field, params

    def integrate(self, field: Field, y: jax.Array, times: Any, args: Any) -> Solution:
        """`zoo.dynamics.solve.solve` in float32 by the model's own method."""
        solution = solve(field, y.astype(jnp.promote_types(y.dtype, jnp.float32)), times, args, method=self.method)
        values = {
            "solver_steps": solution.steps,
            "field_evaluations": solution.evaluations,
            "unsolved": ~solution.solved,
        }
        if not self.method.is_adaptive:
            del values["unsolved"]
        for metric, value in values.items() if not self.is_initializing() else ():
            self.sow("metrics", metric, value, reduce_fn=lambda _, new: new, init_fn=lambda value=value: value)
        return solution


class _Apart(nn.Module):
    """A module under the name that it has in a model, which it is not bound to: who looks at layers finds its path."""

    module: nn.Module
    within: str

    @nn.compact
    def call(self, y: jax.Array, t: jax.Array) -> jax.Array:
        """Of the state and the time."""
        return self.module.copy(parent=self, name=self.within)(y, t)


def with_time(y: jax.Array, t: jax.Array) -> jax.Array:
    """The time as one more channel in front, `[batch, …, channels]` → `[batch, …, 1 + channels]`.

    `t` is a scalar, or of each example `[batch]`.
    """
    t = t.astype(y.dtype).reshape(-1, *(1,) * (y.ndim - 1))
    return jnp.concatenate([jnp.broadcast_to(t, (*y.shape[:-1], 1)), y], axis=-1)
