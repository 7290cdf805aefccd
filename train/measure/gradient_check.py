"""Gradients against differences of the loss: whether a backward pass is that of its forward pass.

    def loss(params, x, y):
        return cross_entropy(model.apply({"params": params}, x), y).mean()

    print(check_gradients(loss, params, x, y))     # ok: the worst relative error is 2.1e-10, of Dense_1/kernel

    check_gradients(loss, params, x, y, gradient=by_hand)            # of gradients that are not `jax.grad`'s
    assert check_gradients(loss, params, x, y).ok

Of each parameter g, the slope ⟨g, v⟩ along some random directions v of length 1 is compared with the central difference
(ℒ(w + h v) − ℒ(w − h v)) / 2h, whose own error is of the order of h² and of rounding / h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.optim.freezing import path_of


class Slope(NamedTuple):
    """One comparison.

    Attributes:
      parameter: path of the parameter.
      along: the coordinate as its index, such as (3, 0); "random" for a direction.
      gradient: the slope that the gradient gives.
      difference: the slope that the loss has.
      error: |gradient − difference| over the greater of the two, less what rounding explains.
    """

    parameter: str
    along: tuple[int, ...] | str
    gradient: float
    difference: float
    error: float


class GradientCheck(NamedTuple):
    """All comparisons, the worst first.

    Attributes:
      slopes: one for each parameter and direction or coordinate.
      tolerance: the greatest error that is right.
      dtype: what the loss was computed in.
    """

    slopes: list[Slope]
    tolerance: float
    dtype: str

    @property
    def worst(self) -> Slope:
        """The comparison of the greatest error."""
        return self.slopes[0]

    @property
    def ok(self) -> bool:
        """Whether all errors are within the tolerance; what is no number is not."""
        return self.worst.error <= self.tolerance

    def __str__(self) -> str:
        slope = self.worst
        word = "ok" if self.ok else "WRONG"
        place = slope.parameter if slope.along == "random" else f"{slope.parameter}{list(slope.along)}"
        return (
            f"{word}: the worst relative error is {slope.error:.1e}, of {place}: gradient {slope.gradient:.6g}, "
            f"difference {slope.difference:.6g} ({self.dtype}, tolerance {self.tolerance:.0e})"
        )


def check_gradients(
    loss: Callable[..., jax.Array],
    params: Any,
    *arguments: Any,
    gradient: Callable[..., Any] | None = None,
    directions: int = 2,
    coordinates: int = 0,
    seed: int = 0,
    tolerance: float | None = None,
) -> GradientCheck:
    """Compares a gradient with central differences.

    Everything is computed in float64, as far as the loss lets it be: where it turns its numbers into float32 on the
    way, differences are rougher, steps are longer and the tolerance is wider. Of three lengths of the step the best
    counts: a wrong gradient fits at none, and next to a kink, such as ReLU's, a right one fits at some. At the kink
    itself a difference is between the slopes of both sides: add some noise to parameters that start at zero.

    Args:
      loss: (params, *arguments) → a scalar; the same each time, so dropout has a fixed key.
      params: a tree of arrays.
      *arguments: what else the loss takes, such as a batch.
      gradient: (params, *arguments) → a tree like `params`; `jax.grad(loss)` by default.
      directions: random directions for each parameter.
      coordinates: single components for each parameter that are compared as well, drawn at random; all where it has
        no more.
      seed: of directions and coordinates.
      tolerance: greatest relative error; by default 1e-6 in float64 and 2e-2 in float32.

    Raises:
      ValueError: there is nothing to compare; parameters are not real numbers; the loss is no real scalar; or the
        gradient has another form than the parameters.
    """
    if directions < 0 or coordinates < 0 or not directions + coordinates:
        raise ValueError(f"take at least one direction or coordinate, not {directions} and {coordinates}")
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError("there are no parameters whose gradient could be compared")
    for path, leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(f"parameters are real numbers; {path_of(path)} is {jnp.result_type(leaf)}")
    with jax.enable_x64(True):
        params, arguments = jax.tree.map(_widened, (params, arguments))
        value = jax.eval_shape(loss, params, *arguments)
        if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(f"the loss must be a real scalar, not {jax.tree.map(lambda a: a, value)}")
        found = jax.jit(gradient or jax.grad(loss))(params, *arguments)
        _require_same_form(found, params)
        inexact = _narrowest(loss, params, *arguments)
        slopes = _compare(
            jax.jit(loss), params, arguments, jax.tree.leaves(found), inexact, directions, coordinates, seed
        )
    exact = inexact == jnp.float64
    slopes.sort(key=lambda slope: np.inf if np.isnan(slope.error) else slope.error, reverse=True)
    return GradientCheck(slopes, (1e-6 if exact else 2e-2) if tolerance is None else tolerance, inexact.name)


_STEPS = (10.0, 1.0, 0.1)
"""Lengths that are tried, in units of the one at which both errors of a difference are about the same."""

_ROUNDINGS = 4.0
"""How many units in the last place of the loss its two values may be off together: sums over a batch are rounded."""


def _compare(
    loss: Callable[..., jax.Array],
    params: Any,
    arguments: Any,
    gradients: list[jax.Array],
    inexact: Any,
    directions: int,
    coordinates: int,
    seed: int,
) -> list[Slope]:
    rng = np.random.default_rng(seed)
    leaves, form = jax.tree_util.tree_flatten_with_path(params)
    values, unit = [np.asarray(leaf) for _, leaf in leaves], float(jnp.finfo(inexact).eps)
    slopes: list[Slope] = []
    for index, (path, _) in enumerate(leaves):
        here, g = values[index], np.asarray(gradients[index], np.float64)
        if not here.size:
            continue
        chosen = rng.choice(here.size, min(coordinates, here.size), replace=False)
        ways: list[tuple[Any, np.ndarray]] = [("random", rng.normal(size=here.shape)) for _ in range(directions)]
        ways += [
            (tuple(map(int, np.unravel_index(i, here.shape))), np.eye(1, here.size, i).reshape(here.shape))
            for i in chosen
        ]
        for along, way in ways:
            way = way / np.linalg.norm(way)
            slope, best = float((g * way).sum()), (np.inf, np.nan)
            scale = max(1.0, float(np.linalg.norm(here)) / max(1.0, here.size**0.5))
            for step in (times * unit ** (1 / 3) * scale for times in _STEPS):
                ends = []
                for sign in (1, -1):
                    moved = [*values[:index], here + sign * step * way, *values[index + 1 :]]
                    ends.append(float(loss(jax.tree_util.tree_unflatten(form, moved), *arguments)))
                difference = (ends[0] - ends[1]) / (2 * step)
                rounding = _ROUNDINGS * unit * max(map(abs, ends)) / (2 * step)
                size = max(abs(slope), abs(difference))
                error = max(abs(slope - difference) - rounding, 0.0) / size if size else 0.0
                if not error >= best[0]:
                    best = (error, difference)
            slopes.append(Slope(path_of(path), along, slope, best[1], best[0]))
    return slopes


def _widened(leaf: Any) -> Any:
    array = jnp.asarray(leaf)
    return array.astype(jnp.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _require_same_form(found: Any, params: Any) -> None:
    shapes = [
        {path_of(path): np.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(t)}
        for t in (found, params)
    ]
    for path in sorted(shapes[0].keys() | shapes[1].keys()):
        if shapes[0].get(path) != shapes[1].get(path):
            told = [str(list(s[path])) if path in s else "nothing" for s in shapes]
            raise ValueError(f"the gradient of {path} is {told[0]}, and the parameter {told[1]}")


def _narrowest(loss: Callable[..., jax.Array], *arguments: Any) -> Any:
    """The least exact kind of numbers that the loss is computed in on the way from its parameters."""
    found = {jnp.dtype(jnp.float64)}

    def kinds(variables: Any) -> list[Any]:
        dtypes = [v.aval.dtype for v in variables if hasattr(v.aval, "dtype")]
        return [jnp.dtype(dtype) for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]

    def exactness(dtype: Any) -> float:
        return -float(jnp.finfo(dtype).eps)

    def look(jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            taken = max(map(exactness, kinds(equation.invars)), default=-np.inf)
            found.update(dtype for dtype in kinds(equation.outvars) if exactness(dtype) < taken)
            for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    look(getattr(inner, "jaxpr", inner))

    look(jax.make_jaxpr(loss)(*arguments).jaxpr)
    return min(found, key=exactness)
