"""What a function that calls models computes on the way: what each layer gives, and the gradient that comes back to it.

    outputs, calls = observe(lambda variables: loss(model.apply(variables, x)))(variables)

While the function is traced, each call of a module is marked by an identity. The jaxpr, with the marks and with their
transposes in the backward pass, is then read equation by equation. Nothing of the function has to know of it: it may be
a train step with its gradients, its dropout and its optimizer. Inside loops (`lax.scan`, `while_loop`) nothing is seen.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, Primitive
from jax.interpreters import ad, batching, mlir


class Mark(NamedTuple):
    """What is known of a marked array: all that is static.

    Attributes:
      role: "output" of a layer, "tangent" or "gradient" of it; "steps" of a recurrent layer, with a "steps tangent" and
        a "steps gradient"; or "parameters", for their gradient as the optimizer gets it.
      path: names from the model down to the layer, or to the parameter.
      kind: the class of the layer; of steps the nonlinearity whose range the states have.
      call: a number of its own for each call.
    """

    role: str
    path: tuple[str, ...]
    kind: str = ""
    call: int = 0


_mark_p = Primitive("mark")
_mark_p.def_impl(lambda x, *, at: x)
_mark_p.def_abstract_eval(lambda x, *, at: x)
mlir.register_lowering(_mark_p, lambda ctx, x, *, at: [x])
batching.primitive_batchers[_mark_p] = lambda args, axes, *, at: (_mark_p.bind(*args, at=at), axes[0])

_TANGENT = {"output": "tangent", "steps": "steps tangent"}
_TRANSPOSED = {
    **{"tangent": "gradient", "gradient": "tangent"},
    **{"steps tangent": "steps gradient", "steps gradient": "steps tangent"},
}


def _marked_jvp(primals: Any, tangents: Any, *, at: Mark) -> tuple[Any, Any]:
    (tangent,) = tangents
    if type(tangent) is not ad.Zero:
        tangent = _mark_p.bind(tangent, at=at._replace(role=_TANGENT.get(at.role, at.role)))
    return _mark_p.bind(*primals, at=at), tangent


def _marked_transpose(cotangent: Any, x: Any, *, at: Mark) -> list[Any]:
    if type(cotangent) is ad.Zero:
        return [cotangent]
    return [_mark_p.bind(cotangent, at=at._replace(role=_TRANSPOSED.get(at.role, at.role)))]


ad.primitive_jvps[_mark_p] = _marked_jvp
ad.primitive_transposes[_mark_p] = _marked_transpose

_observing: ContextVar[Iterator[int] | None] = ContextVar("observing", default=None)


def mark_gradients(gradients: Any, *path: str) -> Any:
    """The gradients of parameters as they are; a train step marks what it gives to its optimizer.

    Args:
      gradients: a tree as the parameters are.
      path: where in all parameters these are, if they are a part.
    """
    if _observing.get() is None:
        return gradients

    def mark(where: Any, leaf: Any) -> Any:
        names = tuple(jax.tree_util.keystr((key,), simple=True) for key in where)
        return _mark_p.bind(leaf, at=Mark("parameters", (*path, *names)))

    return jax.tree_util.tree_map_with_path(mark, gradients)


def mark_steps(projected: jax.Array, module: nn.Module, nonlinearity: str, *, reverse: bool = False) -> jax.Array:
    """What goes into each step of a recurrent layer as it is; its gradient tells what comes back through time.

    Args:
      projected: `[time, batch, features]`.
      module: the layer.
      nonlinearity: "tanh" or "relu", whose range the states have.
      reverse: whether the last step is taken first.
    """
    if _observing.get() is None:
        return projected
    ordered = jnp.flip(projected, 0) if reverse else projected
    marked = _mark_p.bind(ordered, at=Mark("steps", tuple(module.path), nonlinearity))
    return jnp.flip(marked, 0) if reverse else marked


def _mark_output(next_call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    y = next_call(*args, **kwargs)
    calls = _observing.get()
    leaves, tree = jax.tree.flatten(y)
    floats = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)]
    if context.method_name != "__call__" or calls is None or not floats:
        return y
    largest = max(floats, key=lambda i: leaves[i].size)  # of a recurrent layer all outputs, and not the last state
    module = context.module
    at = Mark("output", tuple(module.path), type(module).__name__, next(calls))
    leaves[largest] = _mark_p.bind(leaves[largest], at=at)
    return jax.tree.unflatten(tree, leaves)


@contextlib.contextmanager
def marking() -> Iterator[None]:
    """What is traced inside has marks."""
    token = _observing.set(itertools.count())
    try:
        with nn.intercept_methods(_mark_output):
            yield
    finally:
        _observing.reset(token)


class Call(NamedTuple):
    """One call of a layer.

    Attributes:
      path: of the layer; () is the model itself.
      kind: its class.
      output: what it gave; of several arrays the largest.
      gradient: of what is differentiated by `output`; None where nothing is.
      nonlinearity: "relu", "tanh" or "sigmoid" where one follows at once, or is the last that the layer does; of a
        recurrent layer that whose range its outputs have.
      activation: what the nonlinearity gave, else `output`.
      steps_gradient: of a recurrent layer, by what went into each step, `[time, batch, features]`, the first step
        first; it came back through all later ones. None where nothing is differentiated, or of another layer.
    """

    path: tuple[str, ...]
    kind: str
    output: jax.Array
    gradient: jax.Array | None
    nonlinearity: str | None
    activation: jax.Array
    steps_gradient: jax.Array | None


class Observation(NamedTuple):
    """What was seen.

    Attributes:
      calls: of layers in their order, children before what they make up.
      gradients: of parameters by path, as an optimizer got them.
    """

    calls: list[Call]
    gradients: dict[tuple[str, ...], jax.Array]


class Noted(NamedTuple):
    """An array of a jaxpr that is being evaluated, and what a visitor noted of it."""

    array: Any
    note: Any = None


Visit = Callable[[Any, str, Sequence[Noted], Sequence[Any]], Sequence[Any]]
"""(equation, where it stands, operands, results) → a note for each result."""


def observe(function: Callable[..., Any]) -> Callable[..., tuple[Any, Observation]]:
    """The function that gives, beside the outputs of `function`, what its layers computed. It can be compiled."""

    def observed(*args: Any) -> tuple[Any, Observation]:
        with marking():
            closed, shapes = jax.make_jaxpr(lambda *args: function(*args), return_shape=True)(*args)
        watcher = _Watcher()
        results = interpret(closed, [Noted(leaf) for leaf in jax.tree.leaves(args)], watcher.visit)
        outputs = jax.tree.unflatten(jax.tree.structure(shapes), [result.array for result in results])
        return outputs, watcher.observation()

    return observed


class _From(NamedTuple):
    """Where an array comes from, views aside: from calls of layers, or from a nonlinearity of them."""

    calls: tuple[int, ...] = ()
    nonlinearity: str | None = None
    of: tuple[int, ...] = ()


_VIEWS = ("mark", "convert_element_type", "reshape", "transpose", "copy", "squeeze", "copy_p")


class _Watcher:
    """Collects what is marked, and the nonlinearities behind it."""

    def __init__(self) -> None:
        self._outputs: dict[int, tuple[Mark, Any]] = {}
        self._gradients: dict[int, Any] = {}
        self._behind: dict[int, tuple[str, Any]] = {}
        self._of_parameters: dict[tuple[str, ...], Any] = {}
        self._steps: dict[tuple[str, ...], str] = {}
        self._steps_gradients: dict[tuple[str, ...], Any] = {}

    def visit(self, equation: Any, place: str, operands: Sequence[Noted], results: Sequence[Any]) -> list[Any]:
        name = equation.primitive.name
        came = next((o.note for o in operands if o.note is not None), _From())
        if name == "mark":
            return [self._marked(equation.params["at"], came, results[0])]
        if layer_of(place) is not None and (found := _nonlinearity(equation, operands)) is not None:
            for call in came.calls:
                self._behind.setdefault(call, (found, results[0]))
            return [_From((), found, came.calls)]
        self._take_back(equation, operands)
        return [came if name in _VIEWS else None] * len(results)

    def _take_back(self, equation: Any, operands: Sequence[Noted]) -> None:
        """What looked like a nonlinearity is a part of another: z σ(z) is SiLU, and max(z, 0) beside z − 0 softplus."""
        name = equation.primitive.name
        notes = [o.note for o in operands if o.note is not None]
        if name == "mul" and len(notes) == 2:
            gated = {*notes[0].of} & {*notes[1].calls} | {*notes[1].of} & {*notes[0].calls}
        elif name == "sub" and notes and _is_number(equation.invars[1], operands[1], 0):
            gated = {*notes[0].calls}
        else:
            return
        for call in gated:
            self._behind.pop(call, None)

    def _marked(self, at: Mark, came: _From, value: Any) -> Any:
        if at.role == "output" and at.call not in self._outputs:  # with `nn.remat` it is computed twice
            self._outputs[at.call] = at, value
            if came.nonlinearity:
                self._behind[at.call] = came.nonlinearity, value
        elif at.role == "gradient":
            self._gradients[at.call] = self._gradients[at.call] + value if at.call in self._gradients else value
        elif at.role == "parameters":
            self._of_parameters[at.path] = value
        elif at.role == "steps":
            self._steps[at.path] = at.kind
        elif at.role == "steps gradient":
            self._steps_gradients[at.path] = value
        return _From((*came.calls, at.call)) if at.role == "output" else None

    def observation(self) -> Observation:
        calls = []
        for call, (at, output) in self._outputs.items():
            nonlinearity, activation = self._behind.get(call, (self._steps.get(at.path), output))
            gradient, of_steps = self._gradients.get(call), self._steps_gradients.get(at.path)
            calls.append(Call(at.path, at.kind, output, gradient, nonlinearity, activation, of_steps))
        return Observation(calls, self._of_parameters)


def _nonlinearity(equation: Any, operands: Sequence[Noted]) -> str | None:
    name = equation.primitive.name
    if name == "clamp":
        return "relu" if _is_number(equation.invars[0], operands[0], 0) else None
    if name == "max":
        zero = [_is_number(atom, o, 0) for atom, o in zip(equation.invars, operands, strict=True)]
        return "relu" if any(zero) else None
    return {"tanh": "tanh", "logistic": "sigmoid"}.get(name)


def _is_number(atom: Any, operand: Noted, number: float) -> bool:
    value = atom.val if isinstance(atom, Literal) else operand.array
    return isinstance(value, np.ndarray | np.generic | float | int) and np.ndim(value) == 0 and value == number


def interpret(closed: ClosedJaxpr, inputs: Sequence[Noted], visit: Visit, place: str = "") -> list[Noted]:
    """Evaluates a jaxpr equation by equation, those of the functions that it calls too, but none inside loops.

    Args:
      closed: the jaxpr.
      inputs: its arguments.
      visit: is told of each equation, and notes what it likes of the results.
      place: the name stack of the call.
    """
    values: dict[Any, Noted] = {}

    def read(atom: Any) -> Noted:
        return Noted(atom.val) if isinstance(atom, Literal) else values[atom]

    jaxpr = closed.jaxpr
    values.update(zip(jaxpr.constvars, map(Noted, closed.consts), strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))
    last_read = {atom: i for i, e in enumerate(jaxpr.eqns) for atom in e.invars if not isinstance(atom, Literal)}
    kept = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    for index, equation in enumerate(jaxpr.eqns):
        operands = [read(atom) for atom in equation.invars]
        stack = "/".join(part for part in (place, str(equation.source_info.name_stack)) if part)
        if (inner := called(equation)) is not None:
            results = interpret(inner, operands, visit, stack)
        else:
            arrays = bound(equation, [operand.array for operand in operands])
            results = list(map(Noted, arrays, visit(equation, stack, operands, arrays)))
        values.update(zip(equation.outvars, results, strict=True))
        for atom in {atom for atom in equation.invars if not isinstance(atom, Literal)} - kept:
            if last_read[atom] == index:  # let go of what nobody will read
                values.pop(atom, None)
    return [read(atom) for atom in jaxpr.outvars]


_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")


def called(equation: Any) -> ClosedJaxpr | None:
    """The jaxpr of a function that is called once; None of all other operations."""
    if equation.primitive.name not in _CALLS:
        return None
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())


def bound(equation: Any, operands: Sequence[Any]) -> list[Any]:
    """The results of an equation on these arrays."""
    results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
    return list(results) if equation.primitive.multiple_results else [results]


class Place(NamedTuple):
    """Where an equation stands: the path of its layer, "" for the model itself, and "forward" or "backward"."""

    layer: str
    direction: str


def layer_of(place: str) -> Place | None:
    """The layer in which an equation stands, by its name stack; None outside models, as in a loss.

    `jvp(MLP)/Dense_0` is ("Dense_0", "forward"), `transpose(jvp(MLP))/Dense_0` is ("Dense_0", "backward").
    """
    names = [name for name in re.sub(_TRANSFORMATIONS, "", place).split("/") if name]
    if not names:
        return None
    return Place("/".join(dict.fromkeys(names[1:])), "backward" if "transpose(" in place else "forward")


_TRANSFORMATIONS = r"\b(jvp|transpose|vmap|checkpoint|rematted_computation|remat|jit)\b\(?|[()]"
"""What JAX adds to the names of layers."""
