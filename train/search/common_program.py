"""Programs that differ in numbers alone, as one program of those numbers.

Two configurations of a network which differ in learning rate, weight decay or dropout rate have the same program but
for some numbers in it. The programs, jaxprs, are read side by side; what differs becomes an argument. So one compiled
program serves all configurations, one after another, or all at once under `jax.vmap`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

_INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
"""Primitives that compute what is in this parameter, and nothing else once all derivatives have been taken."""

_RULES = {"custom_jvp_call", "custom_vjp_call"}
"""Primitives whose other parameters are rules for derivatives: functions, which are others in each program."""


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
    return first is second or np.array_equal(first, second, equal_nan=first.dtype.kind == "f")


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
        for name, value in sorted(eqn.params.items()):
            for inner, inner_consts in _programs(value):
                inner_form, inner_numbers = _read(inner, inner_consts)
                numbers.extend(inner_numbers)
                parameters.append((name, inner_form))
            if eqn.primitive.name not in _RULES and not any(_programs(value)):
                parameters.append((name, _hashable(value)))
        for var in eqn.outvars:
            names[var] = len(names)
        shapes = tuple(str(var.aval) for var in eqn.outvars)
        form.append((eqn.primitive.name, operands, tuple(parameters), shapes))
    form.append(tuple(operand(atom) for atom in jaxpr.outvars))
    return tuple(form), numbers


def _programs(value: Any) -> Iterator[tuple[Jaxpr, Sequence[Any]]]:
    """The programs in a parameter, each with its constants."""
    for each in value if isinstance(value, tuple | list) else (value,):
        if isinstance(each, ClosedJaxpr):
            yield each.jaxpr, each.consts
        elif isinstance(each, Jaxpr):
            yield each, ()


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
        inner = [program for _, value in sorted(eqn.params.items()) for program in _programs(value)]
        began = self._place
        counts = [len(_read(jaxpr, consts)[1]) for jaxpr, consts in inner]
        self._place += sum(counts)
        if not any(began <= place < self._place for place in self._replaced):
            results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
            return results if eqn.primitive.multiple_results else [results]
        at = began + np.cumsum([0, *counts])

        def run(index: int, *arguments: Any) -> list[Any]:
            evaluation = _Evaluation(self._replaced)
            evaluation._place = int(at[index])
            return evaluation(*inner[index], arguments)

        name, p = eqn.primitive.name, eqn.params
        if name in _INLINED:
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
        if name == "cond":
            index, *arguments = operands
            return lax.switch(index, [lambda *a, i=i: run(i, *a) for i in range(len(inner))], *arguments)
        raise NotImplementedError(f"numbers differ inside of {name}, whose program cannot be opened")


def _split(values: list[Any], first: int, second: int) -> tuple[list[Any], list[Any], list[Any]]:
    return values[:first], values[first : first + second], values[first + second :]
