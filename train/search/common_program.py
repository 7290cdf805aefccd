"""Programs that differ in numbers alone, as one program of those numbers.

Two configurations of a network which differ in learning rate, weight decay or dropout rate have the same program but
for some numbers in it. The programs, jaxprs, are read side by side; what differs becomes an argument. So one compiled
program serves all configurations, one after another, or all at once under `jax.vmap`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from zoo.observe import bound, called

_OPENED = ("scan", "while", "cond")
"""Primitives with programs inside, beside those that call one, whose numbers can be replaced."""


class Program(NamedTuple):
    """A traced function.

    Attributes:
      form: all that it is but its numbers; equal where two programs differ in numbers alone.
      numbers: in the order of reading.
      closed: the program itself.
      result: the shapes of what it returns, as a pytree.
    """

    form: Hashable
    numbers: list[np.ndarray]
    closed: ClosedJaxpr
    result: Any


class Common(NamedTuple):
    """One program for several.

    Attributes:
      numbers: what they differ in: arrays `[programs, …]`, for each place one.
      function: (numbers of one program, *arguments) → what that program returns.
      numbers_of: other programs, of the same form, that differ in these places alone → their numbers.
    """

    numbers: list[np.ndarray]
    function: Callable[..., Any]
    numbers_of: Callable[[Sequence[Program]], list[np.ndarray]]


def read(function: Callable[..., Any], *arguments: Any) -> Program:
    """Traces a function of arrays, or of their shapes."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    form, numbers = _read(closed.jaxpr, closed.consts)
    return Program((form, jax.tree.structure(shape)), numbers, closed, shape)


def alike(first: Any, second: Any, seen: frozenset[tuple[int, int]] = frozenset()) -> bool:
    """Whether two functions are one piece of code that holds equal values: they trace to one program.

    What they hold is compared as far as it is functions, models, containers, numbers and text. Of all else the two must
    hold the same object.

    Args:
      first: a function, or what it holds.
      second: another.
      seen: pairs that are being compared already.
    """
    if first is second or (id(first), id(second)) in seen:
        return True
    if type(first) is not type(second):
        return False
    if isinstance(first, int | float | complex | str):
        return repr(first) == repr(second)
    if isinstance(first, FunctionType):
        if first.__code__ is not second.__code__ or first.__globals__ is not second.__globals__:
            return False
    elif isinstance(first, dict):
        if list(first) != list(second):
            return False
    elif not isinstance(first, tuple | list | partial | MethodType | nn.Module):
        return False
    parts = _held(first), _held(second)
    seen |= {(id(first), id(second))}
    return len(parts[0]) == len(parts[1]) and all(alike(a, b, seen) for a, b in zip(*parts, strict=True))


def _held(value: Any) -> list[Any]:
    if isinstance(value, FunctionType):
        return [value.__defaults__, value.__kwdefaults__, *(cell.cell_contents for cell in value.__closure__ or ())]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, nn.Module):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return list(value.values() if isinstance(value, dict) else value)


def common(programs: Sequence[Program]) -> Common:
    """One program for several that differ in numbers alone.

    Raises:
      ValueError: they differ in more: their forms are not equal.
    """
    first = programs[0]
    if any(program.form != first.form for program in programs):
        raise ValueError("these programs differ in more than numbers")
    places = [
        place
        for place, values in enumerate(zip(*(program.numbers for program in programs), strict=True))
        if any(not _same(values[0], value) for value in values[1:])
    ]

    def numbers_of(programs: Sequence[Program]) -> list[np.ndarray]:
        for program in programs:
            rest = [n for n in range(len(first.numbers)) if n not in chosen]
            if program.form != first.form or any(not _same(first.numbers[n], program.numbers[n]) for n in rest):
                raise ValueError("these programs differ in more than the numbers that are arguments")
        return [np.stack([program.numbers[place] for program in programs]) for place in places]

    chosen = set(places)

    def function(numbers: Sequence[jax.Array], *arguments: Any) -> Any:
        replaced = dict(zip(places, numbers, strict=True))
        results = _Evaluation(replaced)(first.closed.jaxpr, first.closed.consts, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(first.result), results)

    return Common(numbers_of(programs), function, numbers_of)


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    if first is second or first.tobytes() == second.tobytes():
        return first.shape == second.shape
    return np.array_equal(first, second)  # 0 and −0


# ---- reading ----


def _read(jaxpr: Jaxpr, consts: Sequence[Any]) -> tuple[Hashable, list[np.ndarray]]:
    """The form of a jaxpr, and its numbers: constants first, then literals and those of inner programs in order."""
    names: dict[Any, int] = {}
    numbers = [np.asarray(const) for const in consts if not _is_key(const)]
    form: list[Hashable] = [
        id(const) if _is_key(const) else None for const in consts
    ]  # keys: the same, or another form
    for var in (*jaxpr.constvars, *jaxpr.invars):
        names[var] = len(names)
        form.append(str(var.aval))

    def operand(atom: Any) -> Hashable:
        if isinstance(atom, Literal):
            numbers.append(np.asarray(atom.val, getattr(atom.aval, "dtype", None)))
            return str(atom.aval), bool(getattr(atom.aval, "weak_type", False))
        return names[atom]

    for eqn in jaxpr.eqns:
        operands = tuple(operand(atom) for atom in eqn.invars)
        parameters: list[Hashable] = []
        opened, inside = _inside(eqn)
        for inner in inside:
            inner_form, inner_numbers = _read(inner.jaxpr, inner.consts)
            parameters.append(inner_form)
            if opened:
                numbers.extend(inner_numbers)
            else:  # other numbers are another form
                parameters.append(tuple((n.shape, n.dtype.str, n.tobytes()) for n in inner_numbers))
        if called(eqn) is None:  # a call has rules for derivatives beside its program: others in each program
            parameters += [(n, _hashable(v)) for n, v in sorted(eqn.params.items()) if not any(_programs(v))]
        for var in eqn.outvars:
            names[var] = len(names)
        shapes = tuple(str(var.aval) for var in eqn.outvars)
        form.append((eqn.primitive.name, operands, tuple(parameters), shapes))
    form.append(tuple(operand(atom) for atom in jaxpr.outvars))
    return tuple(form), numbers


def _inside(eqn: Any) -> tuple[bool, list[ClosedJaxpr]]:
    """The programs in an equation, and whether their numbers can be replaced."""
    if (call := called(eqn)) is not None:
        return True, [call]
    return eqn.primitive.name in _OPENED, [inner for _, v in sorted(eqn.params.items()) for inner in _programs(v)]


def _programs(value: Any) -> Iterator[ClosedJaxpr]:
    """The programs in a parameter."""
    for each in value if isinstance(value, tuple | list) else (value,):
        if isinstance(each, ClosedJaxpr):
            yield each
        elif isinstance(each, Jaxpr):
            yield ClosedJaxpr(each, ())


def _is_key(const: Any) -> bool:
    return hasattr(const, "dtype") and jnp.issubdtype(const.dtype, jax.dtypes.prng_key)


def _hashable(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value


# ---- evaluating ----


class _Evaluation:
    """Evaluates a jaxpr with other numbers at some places, in the order in which they were read."""

    def __init__(self, replaced: dict[int, jax.Array]):
        self._replaced = replaced
        self._place = 0

    def __call__(self, jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        values: dict[Any, Any] = {}
        consts = [const if _is_key(const) else self._number(const) for const in consts]
        values.update(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

        def operand(atom: Any) -> Any:
            return self._number(atom.val) if isinstance(atom, Literal) else values[atom]

        for eqn in jaxpr.eqns:
            operands = [operand(atom) for atom in eqn.invars]
            results = self._equation(eqn, operands)
            values.update(zip(eqn.outvars, results, strict=True))
        return [operand(atom) for atom in jaxpr.outvars]

    def _number(self, value: Any) -> Any:
        self._place += 1
        return self._replaced.get(self._place - 1, value)

    def _equation(self, eqn: Any, operands: list[Any]) -> Sequence[Any]:
        opened, inner = _inside(eqn)
        began = self._place
        counts = [len(_read(each.jaxpr, each.consts)[1]) for each in inner] if opened else []
        self._place += sum(counts)
        if not any(began <= place < self._place for place in self._replaced):
            return bound(eqn, operands)
        at = began + np.cumsum([0, *counts])

        def run(index: int, *arguments: Any) -> list[Any]:
            evaluation = _Evaluation(self._replaced)
            evaluation._place = int(at[index])
            return evaluation(inner[index].jaxpr, inner[index].consts, arguments)

        name, p = eqn.primitive.name, eqn.params
        if called(eqn) is not None:
            return run(0, *operands)
        if name == "scan":
            consts, carried, items = _split(operands, p["num_consts"], p["num_carry"])

            def step(carry: Any, item: Any) -> tuple[Any, Any]:
                results = run(0, *consts, *carry, *item)
                return results[: len(carried)], results[len(carried) :]

            carry, stacked = lax.scan(
                step, carried, items, length=p["length"], reverse=p["reverse"], unroll=p["unroll"]
            )
            return [*carry, *stacked]
        if name == "while":  # parameters in order: body_jaxpr, cond_jaxpr
            of_condition, of_body, carried = _split(operands, p["cond_nconsts"], p["body_nconsts"])
            return lax.while_loop(
                lambda carry: run(1, *of_condition, *carry)[0], lambda carry: run(0, *of_body, *carry), carried
            )
        index, *arguments = operands  # of cond
        return lax.switch(index, [lambda *a, i=i: run(i, *a) for i in range(len(inner))], *arguments)


def _split(values: list[Any], first: int, second: int) -> tuple[list[Any], list[Any], list[Any]]:
    return values[:first], values[first : first + second], values[first + second :]
