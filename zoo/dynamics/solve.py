"""Initial value problems dh/dt = f(h, t, θ) (guide, eq. 80), and their gradients.

Adaptive solvers are diffrax's. Fixed steps are unrolled here: on a CPU a convolution inside a loop would run on one
thread.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from zoo.dynamics.replay import replayed_gradients
from zoo.options import unknown

Field = Callable[[Any, jax.Array, Any], jax.Array]
"""(t, y `[batch, …]`, args) → dy/dt. What is differentiated stands in `args`; a closure would not be."""

Solver = Literal["tsit5", "dopri5", "heun", "fixed_euler", "fixed_heun", "fixed_rk4"]
Adjoint = Literal["direct", "checkpoint", "backsolve"]
ErrorControl = Literal["batch", "example"]

ADAPTIVE = {"tsit5": "Tsit5", "dopri5": "Dopri5", "heun": "Heun"}
"""Adaptive solvers, and what they are called in diffrax."""


class Tableau(NamedTuple):
    """An explicit Runge-Kutta method: the rows of `lower` weigh the slopes before each stage after the first."""

    nodes: tuple[float, ...]
    lower: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


FIXED = {
    "fixed_euler": Tableau((0,), ((),), (1,)),
    "fixed_heun": Tableau((0, 1), ((), (1,)), (1 / 2, 1 / 2)),
    "fixed_rk4": Tableau((0, 1 / 2, 1 / 2, 1), ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
"""Butcher tableaux of the methods with fixed steps."""


class Solution(NamedTuple):
    """What `solve` finds.

    Attributes:
      values: y at each of the times, `[times, *y.shape]`. NaN where the problem was not solved.
      steps: steps that were taken or tried, int32 `[batch]`.
      evaluations: how often the field was computed for it in the forward pass, int32 `[batch]`.
      solved: whether the last time was reached within `max_steps`, bool `[batch]`.
    """

    values: jax.Array
    steps: jax.Array
    evaluations: jax.Array
    solved: jax.Array


class SolverError(ValueError):
    """The problem was not solved within the limit of steps."""


@dataclasses.dataclass(frozen=True)
class Method:
    """How a problem is solved.

    Attributes:
      solver: "tsit5" (Tsitouras 2011), "dopri5" (Dormand & Prince 1980) and "heun" choose their steps by the error;
        "fixed_euler", "fixed_heun" and "fixed_rk4" take `num_steps` equal steps between two times.
      rtol, atol: an adaptive step is taken where the root of the mean of (error / (atol + rtol |y|))² is below 1.
      adjoint: how an adaptive solver is differentiated. "direct" goes back over the very steps that were taken, and
        keeps the state of each. "checkpoint" does the same in less memory, by computing states again
        (`diffrax.RecursiveCheckpointAdjoint`); it can be differentiated twice. "backsolve" solves the adjoint equation
        backwards in time (Chen et al. 2018, eq. 4-5): memory does not grow with steps, gradients are approximate.
        Fixed steps are differentiated directly.
      error_control: whose error an adaptive step is judged by. "batch": the mean over all examples, as torchdiffeq does
        it: all take the same steps, and a result depends on the batch within the tolerance. "example": each takes its
        own steps; the field is computed for all until the last one has arrived.
      max_steps: limit of an adaptive solver. "direct" has memory for so many states.
      num_steps: of a solver with fixed steps, between two times.
    """

    solver: Solver = "tsit5"
    rtol: float = 1e-3
    atol: float = 1e-4
    adjoint: Adjoint = "direct"
    error_control: ErrorControl = "batch"
    max_steps: int = 256
    num_steps: int = 4

    def __post_init__(self) -> None:
        for name, kind in (("solver", Solver), ("adjoint", Adjoint), ("error_control", ErrorControl)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(unknown(name.replace("_", " "), str(getattr(self, name)), get_args(kind)))
        for name in ("max_steps", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def is_adaptive(self) -> bool:
        """Whether the solver chooses its steps."""
        return self.solver in ADAPTIVE


def solve(
    field: Field, y: jax.Array, times: Any, args: Any = None, *, method: Method | None = None, **options: Any
) -> Solution:
    """Solves dy/dt = field(t, y, args) from y at the first of the times.

        solution = solve(lambda t, y, args: -args * y, jnp.ones((8, 2)), (0.0, 1.0), 2.0, solver="dopri5")

    Differentiable in y, args and times (with "backsolve" not in times, which is an error). Where it is called with
    numbers, and not inside `jax.jit`, a problem that is not solved raises `SolverError`. Inside, its values are NaN.

    Args:
      field: f. `t` is a scalar; with fixed steps and times of each example `[batch]`.
      y: the state at the first time, `[batch, …]`.
      times: rising or falling, at least two, `[times]`. With fixed steps each example may have its own,
        `[batch, times]`.
      args: what the field depends on, such as the variables of a Flax module.
      method: how, or
      **options: the fields of `Method`.

    Raises:
      ValueError: an option is wrong; the tolerance is finer than the numbers; or the field changes the shape.
      ImportError: diffrax is not installed, and the solver needs it.
      SolverError: see above.
    """
    method = Method(**options) if method is None else dataclasses.replace(method, **options)
    y = jnp.asarray(y)
    if not jnp.issubdtype(y.dtype, jnp.floating) or not y.ndim:
        raise ValueError(f"the state must be real numbers [batch, …], not {y.dtype} {list(y.shape)}")
    times = jnp.asarray(times, y.dtype)
    if times.ndim not in (1, 2) or times.shape[-1] < 2 or (times.ndim == 2 and times.shape[0] != y.shape[0]):
        raise ValueError(
            f"times must be at least two, [times], or of each of the {y.shape[0]} examples, [batch, times]; "
            f"not {list(times.shape)}"
        )
    if times.ndim == 2 and method.is_adaptive and method.error_control == "batch":
        raise ValueError("with times of its own each example takes its own steps: choose error_control='example'")
    slope = jax.eval_shape(field, times.reshape(-1)[0] if method.is_adaptive else times[..., 0], y, args)
    if jax.tree.structure(slope).num_nodes != 1 or slope.shape != y.shape:
        raise ValueError(
            f"the field must give one array of the shape of the state, {list(y.shape)}, not "
            f"{jax.tree.map(lambda leaf: list(leaf.shape), slope)}"
        )
    if not method.is_adaptive:
        solution = _take_fixed_steps(field, y, times, args, method)
    else:
        _require_tolerance(method, y.dtype)
        solution = _adaptive(field, y, times, args, method)
    if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(solution)) and not bool(solution.solved.all()):
        raise SolverError(unsolved(method.max_steps))
    return solution


def unsolved(steps: float) -> str:
    """What is wrong with a problem that was not solved in so many steps, and what to do."""
    return (
        f"an ODE was not solved within its limit of {steps:.0f} steps (max_steps): it is stiff, or its field has "
        "become large or no number. Raise max_steps, loosen rtol and atol, or take a smooth field (tanh or softplus)"
    )


def _require_tolerance(method: Method, dtype: Any) -> None:
    finest = float(jnp.finfo(dtype).eps)
    if not (method.rtol >= finest and method.atol > finest / 10):
        raise ValueError(
            f"rtol={method.rtol:g} and atol={method.atol:g} are finer than {dtype} is: rtol must be at least "
            f"{finest:.1e} and atol more than {finest / 10:.1e}. Loosen them, or compute in float64 (jax.enable_x64)"
        )


# ---- fixed steps ----

_UNROLLED = 16
"""The most steps between two times that are written out; more are a loop."""


def _take_fixed_steps(field: Field, y: jax.Array, times: jax.Array, args: Any, method: Method) -> Solution:
    tableau, count = FIXED[method.solver], method.num_steps

    def along(number: jax.Array) -> jax.Array:
        return number.reshape(number.shape + (1,) * (y.ndim - number.ndim)) if number.ndim else number

    def step(y: jax.Array, t: jax.Array, h: jax.Array) -> jax.Array:
        slopes: list[jax.Array] = []
        for node, row in zip(tableau.nodes, tableau.lower, strict=True):
            slopes.append(field(t + node * h, y + along(h) * _weighted(row, slopes), args).astype(y.dtype))
        return y + along(h) * _weighted(tableau.weights, slopes)

    def interval(y: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        start, h = ends[0], (ends[1] - ends[0]) / count
        if count <= _UNROLLED:
            for index in range(count):
                y = step(y, start + index * h, h)
        else:
            y, _ = lax.scan(lambda y, index: (step(y, start + index * h, h), None), y, jnp.arange(count, dtype=y.dtype))
        return y, y

    moments = jnp.moveaxis(times, -1, 0)
    if len(moments) == 2:  # not a loop
        values = interval(y, (moments[0], moments[1]))[0][None]
    else:
        _, values = lax.scan(interval, y, (moments[:-1], moments[1:]))
    taken = jnp.full(y.shape[:1], count * (len(moments) - 1), jnp.int32)
    solved = jnp.ones(y.shape[:1], bool)
    return Solution(jnp.concatenate([y[None], values]), taken, taken * len(tableau.nodes), solved)


def _weighted(weights: tuple[float, ...], slopes: list[jax.Array]) -> jax.Array:
    terms = [jnp.asarray(w, k.dtype) * k for w, k in zip(weights, slopes, strict=False) if w]
    return functools.reduce(jnp.add, terms) if terms else jnp.zeros(())


# ---- adaptive steps ----


def require_diffrax() -> Any:
    """The library of solvers.

    Raises:
      ImportError: it is not installed; says how to.
    """
    try:
        import diffrax
    except ImportError:
        raise ImportError(
            f'the solvers {", ".join(ADAPTIVE)} need diffrax: pip install "flaxzoo[ode]"; '
            f"{', '.join(FIXED)} need nothing"
        ) from None
    return diffrax


def _adaptive(field: Field, y: jax.Array, times: jax.Array, args: Any, method: Method) -> Solution:
    diffrax = require_diffrax()
    find = partial(_values_of, field, method)
    if method.adjoint != "direct":
        adjoint = diffrax.RecursiveCheckpointAdjoint() if method.adjoint == "checkpoint" else diffrax.BacksolveAdjoint()
        find = partial(_by_diffrax, field, method, adjoint)
    if method.error_control == "batch":
        values, steps, solved = find(y, times, args)
        steps, solved = (jnp.broadcast_to(x, y.shape[:1]) for x in (steps, solved))
    else:

        def one(y: jax.Array, times: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            values, steps, solved = find(y[None], times, args)
            return values[:, 0], steps, solved

        own = 0 if times.ndim == 2 else None
        values, steps, solved = jax.vmap(one, in_axes=(0, own), out_axes=(1, 0, 0))(y, times)
    reached = solved.reshape(1, -1, *(1,) * (values.ndim - 2))
    values = jnp.where(reached, values, jnp.full((), jnp.nan, values.dtype))
    tableau = _diffrax_solver(method).tableau
    reused = int(tableau.fsal)  # the last slope of a step is the first of the next
    evaluations = steps * (tableau.num_stages - reused) + reused
    return Solution(values, steps, evaluations, solved)


def _diffrax_solver(method: Method) -> Any:
    return getattr(require_diffrax(), ADAPTIVE[method.solver])()


def _by_diffrax(
    field: Field, method: Method, adjoint: Any, y: jax.Array, times: jax.Array, args: Any, keep_steps: bool = False
) -> Any:
    """Values `[times, …]`, steps and whether it is solved; with `keep_steps` also the steps' ends, states and count."""
    diffrax = require_diffrax()
    asked: dict[str, Any] = {"t1": True} if len(times) == 2 else {"ts": times[1:]}
    at = diffrax.SaveAt(**asked)
    if keep_steps:
        at = diffrax.SaveAt(subs=[diffrax.SubSaveAt(**asked), diffrax.SubSaveAt(steps=True)])
    found = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: field(t, y, args).astype(y.dtype)),
        _diffrax_solver(method),
        times[0],
        times[-1],
        None,
        y,
        args,
        saveat=at,
        stepsize_controller=diffrax.PIDController(rtol=method.rtol, atol=method.atol),
        adjoint=adjoint,
        max_steps=method.max_steps,
        throw=False,
    )
    solved = found.result == diffrax.RESULTS.successful
    values = jnp.concatenate([y[None], found.ys[0] if keep_steps else found.ys])
    result = values, found.stats["num_steps"].astype(jnp.int32), solved
    if not keep_steps:
        return result
    return result, (found.ts[1], found.ys[1], found.stats["num_accepted_steps"].astype(jnp.int32))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _values_of(field: Field, method: Method, y: jax.Array, times: jax.Array, args: Any) -> Any:
    return _by_diffrax(field, method, require_diffrax().ForwardMode(), y, times, args)


def _forward(field: Field, method: Method, y: jax.Array, times: jax.Array, args: Any) -> Any:
    result, kept = _by_diffrax(field, method, require_diffrax().ForwardMode(), y, times, args, keep_steps=True)
    return result, (y, times, args, result[0], *kept)


def _backward(field: Field, method: Method, kept: Any, cotangents: Any) -> Any:
    y, times, args, values, ends, states, count = kept
    solver = _diffrax_solver(method)
    return replayed_gradients(field, solver, y, times, args, values, ends, states, count, cotangents[0])


_values_of.defvjp(_forward, _backward)
