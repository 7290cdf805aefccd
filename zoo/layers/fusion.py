"""Models for inference: what depends on their variables alone is computed once, and passes over memory become few.

    classify = zoo.fuse(model, variables)
    logits = classify(images)                      # as model.apply(variables, images)

The program that a model is, a jaxpr, is read from front to back. Values that depend on no input are computed at once.
A convolution or a product with a kernel that is known waits for what follows it: factors and summands for each feature,
as of a batch norm, go into kernel and bias (Jacob et al. 2018, section 3.2); one summand of its own shape, as of a
residual branch, and an activation become part of the same pass. Whatever else follows ends the waiting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import core
from jax.extend.core import ClosedJaxpr, Literal

from zoo.layers import activations, convolution, cpu_convolution, lowering, onednn, product
from zoo.observe import bound, called

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": activations.relu,
    "gelu": activations.gelu,
    "gelu_tanh": activations.gelu_tanh,
    "silu": jax.nn.silu,
}
"""What may follow, by the name that the function has in a jaxpr."""


class Epilogue(NamedTuple):
    """All that is static about it: the primitive in front, its parameter, and the activation behind."""

    primitive: Any
    at: Any
    activation: str | None


def _apart(a: jax.Array, b: jax.Array, bias: jax.Array, *summand: jax.Array, at: Epilogue) -> jax.Array:
    return _follow(at.primitive.bind(a, b, at=at.at), bias, *summand, activation=at.activation)


def _follow(y: jax.Array, bias: jax.Array, *summand: jax.Array, activation: str | None) -> jax.Array:
    y = (y + bias.reshape((1,) * (y.ndim - 1) + (-1,))).astype(y.dtype)
    y = y + summand[0] if summand else y
    return ACTIVATIONS[activation](y) if activation else y


def _on_cpu(a: jax.Array, b: jax.Array, bias: jax.Array, *summand: jax.Array, at: Epilogue) -> jax.Array:
    following = onednn.Following(bias, summand[0] if summand else None, at.activation)
    if at.primitive is product.PRIMITIVE:
        y, done = product.on_cpu(a, b, at.at, following)
    else:
        y, done = cpu_convolution.output(a, b, at.at, following=following)
    return y if done else _follow(y, bias, *summand, activation=at.activation)


PRIMITIVES = (convolution.OUTPUT, product.PRIMITIVE)
"""What an epilogue can follow."""

_epilogue_p = lowering.primitive("epilogue", _apart, _on_cpu)


def followed(
    primitive: Any, a: jax.Array, b: jax.Array, at: Any, bias: jax.Array, summand: jax.Array | None, name: str | None
) -> jax.Array:
    """activation(primitive(a, b) + bias + summand).

    Args:
      primitive: of `PRIMITIVES`.
      a: its first operand.
      b: its second.
      at: its parameter.
      bias: `[features]`, in float32.
      summand: of the shape and dtype of the result, or None.
      name: of the activation, in `ACTIVATIONS`, or None.
    """
    return _epilogue_p.bind(a, b, bias, *(() if summand is None else (summand,)), at=Epilogue(primitive, at, name))


def fuse(model: nn.Module, variables: Any, **options: Any) -> Callable[..., Any]:
    """The function of a model with given variables, prepared for inference.

    Args:
      model: whose inference has no random numbers.
      variables: what its `apply` takes.
      **options: of `apply`, such as `method`.

    Returns:
      A function of what `model.apply(variables, …)` takes, arrays, with the same outputs up to rounding. For each new
      shape the model is prepared anew. It has no derivatives.
    """
    programs: dict[Any, tuple[Callable[..., Any], Any]] = {}

    def apply(*inputs: Any) -> Any:
        leaves, tree = jax.tree.flatten(inputs)
        shapes = tuple(jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        key = tree, shapes
        if key not in programs:
            programs[key] = _prepared(lambda inputs: model.apply(variables, *inputs, **options), tree, shapes)
        run, constants = programs[key]
        return run(constants, leaves)

    return apply


def _prepared(function: Callable[..., Any], tree: Any, shapes: Sequence[Any]) -> tuple[Callable[..., Any], Any]:
    """A compiled function of what is known and of the input's leaves, and what is known."""
    made, outputs = jax.make_jaxpr(lambda *leaves: function(jax.tree.unflatten(tree, leaves)), return_shape=True)(
        *shapes
    )
    fused = jax.make_jaxpr(lambda *leaves: _interpret(made, leaves))(*shapes)
    structure = jax.tree.structure(outputs)

    @jax.jit
    def run(constants: Any, leaves: Any) -> Any:
        return jax.tree.unflatten(structure, core.eval_jaxpr(fused.jaxpr, constants, *leaves))

    with jax.ensure_compile_time_eval():  # the first call may be inside a trace, which what is kept must stay out of
        return run, [jnp.asarray(constant) for constant in fused.consts]


class _Waiting(NamedTuple):
    """activation(primitive(x, kernel) · slope + shift + summand), still to be computed, of `shape` and `dtype`.

    Between two roundings to bfloat16 something may be scaled and shifted in float32, as by a batch norm: the first
    rounding is left out.
    """

    primitive: Any
    x: Any
    kernel: jax.Array
    at: Any
    shape: tuple[int, ...]
    own_shape: tuple[int, ...]
    dtype: Any
    slope: np.ndarray | None = None
    shift: np.ndarray | None = None
    summand: Any = None
    activation: str | None = None

    @property
    def features(self) -> int:
        return self.shape[-1]

    @property
    def is_as_computed(self) -> bool:
        return self.dtype == self.kernel.dtype

    @property
    def is_affine(self) -> bool:
        return self.summand is None and self.activation is None

    def scaled(self, factor: np.ndarray) -> _Waiting:
        shift = None if self.shift is None else self.shift * factor
        return self._replace(slope=factor if self.slope is None else self.slope * factor, shift=shift)

    def shifted(self, by: np.ndarray) -> _Waiting:
        return self._replace(shift=by if self.shift is None else self.shift + by)

    def computed(self) -> jax.Array:
        kernel = self.kernel
        if self.slope is not None:
            turned = self.primitive is product.PRIMITIVE and self.at.transpose_b
            slope = self.slope[:, None] if turned else self.slope
            kernel = jnp.asarray(np.multiply(kernel, slope, dtype=np.float64).astype(kernel.dtype))
        if self.shift is None and self.is_affine:
            return self.primitive.bind(self.x, kernel, at=self.at).reshape(self.shape).astype(self.dtype)
        shift = np.zeros(self.features) if self.shift is None else np.broadcast_to(self.shift, (self.features,))
        bias = jnp.asarray(shift.astype(np.float32))
        summand = None if self.summand is None else self.summand.reshape(self.own_shape)
        y = followed(self.primitive, self.x, kernel, self.at, bias, summand, self.activation)
        return y.reshape(self.shape).astype(self.dtype)


class _Spread(NamedTuple):
    """Something known, repeated along axes: its own numbers, as they line up with the last axis, and the whole."""

    features: np.ndarray | None
    make: Callable[[], jax.Array]


def _computed(value: Any) -> Any:
    if isinstance(value, _Waiting):
        return value.computed()
    return value.make() if isinstance(value, _Spread) else value


def _is_known(value: Any) -> bool:
    return not isinstance(value, core.Tracer | _Waiting)


def _interpret(closed: ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
    return [_computed(value) for value in _evaluate(closed, inputs)]


def _evaluate(closed: ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
    jaxpr = closed.jaxpr
    values: dict[Any, Any] = {}
    read_by = [atom for equation in jaxpr.eqns for atom in equation.invars] + list(jaxpr.outvars)
    readers = Counter(atom for atom in read_by if not isinstance(atom, Literal))

    def read(atom: Any) -> Any:
        return np.asarray(atom.val) if isinstance(atom, Literal) else values[atom]

    def write(variables: Sequence[Any], results: Sequence[Any]) -> None:
        for variable, value in zip(variables, results, strict=True):
            # What several wait for is computed once, before them.
            values[variable] = _computed(value) if readers[variable] > 1 and isinstance(value, _Waiting) else value

    write([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *inputs])
    for equation in jaxpr.eqns:
        write(equation.outvars, _step(equation, [read(atom) for atom in equation.invars]))
    return [read(atom) for atom in jaxpr.outvars]


def _step(equation: Any, operands: list[Any]) -> list[Any]:
    if (inner := called(equation)) is not None:
        if len(operands) == 1 and (waiting := _activated(operands[0], inner)) is not None:
            return [waiting]
        return _evaluate(inner, operands)
    if (
        equation.primitive.name == "broadcast_in_dim"
        and _is_known(operands[0])
        and not isinstance(operands[0], _Spread)
    ):
        return [_spread(equation, operands[0])]
    if equation.primitive.name == "convert_element_type" and isinstance(operands[0], _Spread):
        return [_converted(operands[0], equation.params["new_dtype"])]
    if (waiting := _next_waiting(equation, operands)) is not None:
        return [waiting]
    operands = [_computed(operand) for operand in operands]
    if all(map(_is_known, operands)):
        with jax.ensure_compile_time_eval():
            return bound(equation, operands)
    return bound(equation, operands)


def _spread(equation: Any, operand: Any) -> _Spread:
    shape, axes = equation.params["shape"], equation.params["broadcast_dimensions"]
    own = [n for n, axis in zip(np.shape(operand), axes, strict=True) if axis != len(shape) - 1]
    features = np.asarray(operand, np.float64).reshape(-1) if all(n == 1 for n in own) else None

    def make() -> jax.Array:
        return jax.lax.broadcast_in_dim(jnp.asarray(operand), shape, axes)

    return _Spread(features, make)


def _converted(spread: _Spread, dtype: Any) -> _Spread:
    features = None if spread.features is None else spread.features.astype(dtype).astype(np.float64)
    return _Spread(features, lambda: spread.make().astype(dtype))


def _per_feature(value: Any, features: int) -> np.ndarray | None:
    """The numbers of something known that has one for each feature, or one for all."""
    if isinstance(value, _Spread):
        found = value.features
    elif _is_known(value) and np.shape(value)[:-1] == (1,) * (np.ndim(value) - 1):
        found = np.asarray(value, np.float64).reshape(-1)
    else:
        return None
    return found if found is not None and found.size in (1, features) else None


def _activated(value: Any, inner: ClosedJaxpr) -> _Waiting | None:
    """The activation on what is waiting, where it is one that may follow."""
    if not isinstance(value, _Waiting) or value.activation is not None or not value.is_as_computed:
        return None
    name = inner.jaxpr.debug_info.func_name
    # The name alone may be that of another function.
    is_ours = name in ACTIVATIONS and str(_inside(name, value.shape, value.dtype)) == str(inner.jaxpr)
    return value._replace(activation=name) if is_ours else None


def _inside(activation: str, shape: tuple[int, ...], dtype: Any) -> Any:
    """The jaxpr inside the one call that an activation is."""
    (call,) = jax.make_jaxpr(ACTIVATIONS[activation])(jax.ShapeDtypeStruct(shape, dtype)).eqns
    return call.params["call_jaxpr" if "call_jaxpr" in call.params else "jaxpr"].jaxpr


def _next_waiting(equation: Any, operands: list[Any]) -> _Waiting | None:
    """What waits after an operation, or None where it is one that cannot wait."""
    primitive, params = equation.primitive, equation.params
    if primitive in PRIMITIVES:
        a, kernel = _computed(operands[0]), operands[1]
        shape = equation.outvars[0].aval.shape
        rows = primitive is convolution.OUTPUT or np.ndim(kernel) == 2
        dtype = equation.outvars[0].aval.dtype
        can_wait = not _is_known(a) and _is_known(kernel) and rows
        if can_wait and a.dtype == dtype and dtype in (jnp.float32, jnp.bfloat16):
            known: Any = _computed(kernel)
            at = params["at"]
            if primitive is product.PRIMITIVE and not at.transpose_b and product.is_better_kept_turned(shape[-2]):
                known, at = np.ascontiguousarray(np.asarray(known).T), at._replace(transpose_b=True)
            return _Waiting(primitive, a, known, at, shape, shape, dtype)
        operands[0] = a
        return None
    first = next((value for value in operands if isinstance(value, _Waiting)), None)
    if first is None or first.activation is not None:
        return None
    other = operands[operands[0] is first] if len(operands) == 2 else None
    name = primitive.name
    if name == "reshape" and first.summand is None and params["new_sizes"][-1:] == first.shape[-1:]:
        return first._replace(shape=tuple(params["new_sizes"]))
    if name == "convert_element_type" and first.is_affine and params["new_dtype"] in (jnp.float32, jnp.bfloat16):
        return first._replace(dtype=params["new_dtype"])
    if name == "custom_jvp_call" or other is None:
        return None
    if equation.outvars[0].aval.shape != first.shape:  # it broadcasts over axes of length 1
        return None
    numbers = _per_feature(other, first.features)
    if name in ("add", "add_any", "sub", "mul") and numbers is not None and first.is_affine:
        if name == "mul":
            return first.scaled(numbers)
        if name != "sub":
            return first.shifted(numbers)
        return first.shifted(-numbers) if operands[0] is first else first.scaled(np.array([-1.0])).shifted(numbers)
    if name in ("add", "add_any") and first.summand is None and first.is_as_computed and not _is_known(other):
        other = _computed(other)
        return first._replace(summand=other) if np.shape(other) == first.shape else None
    return None
