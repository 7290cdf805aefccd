"""Where the first NaN or infinity of a computation is made: the layer and the operation.

Training itself looks at the loss alone. Only when that is no number is the step computed again, and each of its
operations looked at: what is not finite is followed back to the operation that made it of finite numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr

from zoo.observe import Noted, interpret, layer_of

_LONGEST_LOOP = 10_000
"""Turns of a `while_loop` that are looked at."""


class Made(NamedTuple):
    """What made the first number that is not finite.

    Attributes:
      what: "NaN" or "infinity".
      operation: its name in the jaxpr, such as "log"; "" where it was there already, in an argument.
      layer: the path of the layer; "" is the model itself, None is outside of models.
      direction: "forward", "backward", or "" for neither, as in an optimizer.
      where: the line of the program, as `file.py:12`; of an argument its path, such as `[1]['image']`.
      turn: of a loop, counted from 0, where it is in one.
    """

    what: str
    operation: str
    layer: str | None = None
    direction: str = ""
    where: str = ""
    turn: int | None = None

    def __str__(self) -> str:
        if not self.operation:
            return f"{self.what} is in {self.where}"
        if self.layer is None:
            place = {"": "the optimizer's update", "forward": "the loss", "backward": "the loss"}[self.direction]
        else:
            place = f"layer {self.layer}" if self.layer else "the model"
        details = [self.direction] if self.direction else []
        details += [f"turn {self.turn} of its loop"] if self.turn is not None else []
        details += [self.where] if self.where else []
        return f"the first {self.what} is made by `{self.operation}` in {place} ({', '.join(details)})"


def first_nonfinite(
    function: Callable[..., Any], *args: Any, of: Callable[[Any], Any] = lambda outputs: outputs
) -> Made | None:
    """What made the NaN or infinity in the outputs of `function(*args)`; None where they are finite.

    Args:
      function: what can be traced; it is compiled once more, with a test of each operation.
      *args: its arguments.
      of: outputs → those to look at.
    """
    closed = jax.make_jaxpr(lambda *args: of(function(*args)))(*args)
    leaves = jax.tree_util.tree_flatten_with_path(args)[0]
    found = _search(closed, [leaf for _, leaf in leaves])
    if isinstance(found, int):
        path, leaf = leaves[found]
        return Made("NaN" if bool(jnp.isnan(leaf).any()) else "infinity", "", where=jax.tree_util.keystr(path))
    return found


class _Node(NamedTuple):
    """An operation that was looked at."""

    equation: Any
    place: str
    operands: tuple[Any, ...]
    constants_are_finite: bool


_GIVEN = ("given", 0)
"""The source of what is infinite by intention, such as a mask that is filled with a constant −∞."""


def _search(closed: ClosedJaxpr, args: Sequence[Any], place: str = "") -> Made | int | None:
    """What made it; the number of the argument that is not finite; None where all results are."""
    nodes: list[_Node] = []
    roots: list[Any] = []

    def program(args: Sequence[Any]) -> Any:
        flags: list[jax.Array] = []

        def visit(equation: Any, place: str, operands: Sequence[Noted], results: Sequence[Any]) -> list[Any]:
            fixed = all(_is_known_finite(operand.array) for operand in operands if operand.note is None)
            nodes.append(_Node(equation, place, tuple(o.note for o in operands if o.note is not None), fixed))
            flags.append(jnp.stack([_flags(result) for result in results]).any(axis=0))
            return [("node", len(nodes) - 1)] * len(results)

        outputs = interpret(closed, _noted(args), visit, place)
        roots.extend(output.note for output in outputs if output.note is not None)
        return [_flags(arg) for arg in args], flags

    given, flags = jax.device_get(jax.jit(program)(list(args)))
    sources: dict[Any, Any] = {}
    for index, flag in enumerate(given):
        sources["argument", index] = ("argument", index) if flag.any() else None
    for index, (node, flag) in enumerate(zip(nodes, flags, strict=True)):
        sources["node", index] = _source(("node", index), node, flag, [sources[note] for note in node.operands])
    bad = [sources[root] for root in roots if sources[root] not in (None, _GIVEN)]
    if not bad:
        return None
    kind, number = min(bad)
    if kind == "argument":
        return number
    node = nodes[number]
    if node.equation.primitive.name in _LOOPS and (inner := _inside(closed, args, number, node)) is not None:
        return inner
    return _made(node, bool(flags[number][0]))


def _noted(args: Sequence[Any]) -> list[Noted]:
    return [Noted(arg, ("argument", index)) for index, arg in enumerate(args)]


def _source(own: Any, node: _Node, flag: np.ndarray, before: Sequence[Any]) -> Any:
    """Where what is not finite in a result comes from; None where nothing is."""
    is_nan, is_infinite = flag
    if not (is_nan or is_infinite):
        return None
    made_before = [source for source in before if source not in (None, _GIVEN)]
    if made_before:
        return min(made_before)
    return own if is_nan or (node.constants_are_finite and _GIVEN not in before) else _GIVEN


def _made(node: _Node, is_nan: bool) -> Made:
    at = layer_of(node.place)
    backward, forward = "transpose(" in node.place, "jvp(" in node.place or at is not None
    direction = "backward" if backward else "forward" if forward else ""
    layer = None if at is None else at.layer
    what = "NaN" if is_nan else "infinity"
    return Made(what, node.equation.primitive.name, layer, direction, _line(node.equation))


def _line(equation: Any) -> str:
    """The line of the user's program that an equation is from, as `file.py:12`; "" where it is not known."""
    found = re.match(r"(.+?):(\d+)", source_info_util.summarize(equation.source_info))
    return f"{Path(found[1]).name}:{found[2]}" if found else ""


_LOOPS = ("scan", "while", "cond")


def _inside(closed: ClosedJaxpr, args: Sequence[Any], number: int, node: _Node) -> Made | None:
    """What made it inside a loop, whose turns are computed one by one, or inside a branch."""
    operands: list[Any] = []

    def program(args: Sequence[Any]) -> list[Any]:
        count = iter(range(number + 1))

        def visit(equation: Any, place: str, values: Sequence[Noted], results: Sequence[Any]) -> list[Any]:
            if next(count, None) == number:
                operands.extend(value.array for value in values)
            return [None] * len(results)

        interpret(closed, _noted(args), visit)
        return operands

    operands = jax.jit(program)(list(args))
    params, name = node.equation.params, node.equation.primitive.name
    if name == "cond":
        index = int(jnp.clip(operands[0], 0, len(params["branches"]) - 1))
        found = _search(params["branches"][index], operands[1:], node.place)
        return found if isinstance(found, Made) else None
    turns = _scan_turns if name == "scan" else _while_turns
    for turn, (body, inputs, outputs) in enumerate(turns(params, operands)):
        if not all(bool(jnp.isfinite(x).all()) for x in outputs if jnp.issubdtype(x.dtype, jnp.inexact)):
            found = _search(body, inputs, node.place)
            return found._replace(turn=turn) if isinstance(found, Made) else None
    return None


def _scan_turns(params: Any, operands: Sequence[Any]) -> Iterator[tuple[ClosedJaxpr, list[Any], list[Any]]]:
    """The jaxpr, the inputs and the outputs of each turn."""
    body, fixed, carried = params["jaxpr"], params["num_consts"], params["num_carry"]
    turn = jax.jit(jax.extend.core.jaxpr_as_fun(body))
    constants, carry, sequences = operands[:fixed], operands[fixed : fixed + carried], operands[fixed + carried :]
    order = range(params["length"])
    for index in reversed(order) if params["reverse"] else order:
        inputs = [*constants, *carry, *(sequence[index] for sequence in sequences)]
        outputs = turn(*inputs)
        yield body, inputs, outputs
        carry = outputs[:carried]


def _while_turns(params: Any, operands: Sequence[Any]) -> Iterator[tuple[ClosedJaxpr, list[Any], list[Any]]]:
    """As `_scan_turns`, of a loop whose length is known when it ends."""
    body, at_test, at_body = params["body_jaxpr"], params["cond_nconsts"], params["body_nconsts"]
    goes_on = jax.jit(jax.extend.core.jaxpr_as_fun(params["cond_jaxpr"]))
    turn = jax.jit(jax.extend.core.jaxpr_as_fun(body))
    tested, constants, carry = operands[:at_test], operands[at_test : at_test + at_body], operands[at_test + at_body :]
    for _ in range(_LONGEST_LOOP):
        if not goes_on(*tested, *carry)[0]:
            return
        inputs = [*constants, *carry]
        outputs = turn(*inputs)
        yield body, inputs, outputs
        carry = outputs


def _flags(value: Any) -> jax.Array:
    """Whether there is a NaN, and whether there is an infinity, `[2]`."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact) or not np.size(value):
        return jnp.zeros(2, bool)
    return jnp.stack([jnp.isnan(value).any(), jnp.isinf(value).any()])


def _is_known_finite(value: Any) -> bool:
    """Of a constant."""
    dtype = getattr(value, "dtype", None)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.inexact):
        return True
    return bool(np.isfinite(np.asarray(value)).all())
