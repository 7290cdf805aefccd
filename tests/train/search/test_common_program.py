"""What differs between programs becomes an argument, wherever in them it stands."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from train.search.common_program import alike, common, read

X = jnp.linspace(-1, 2, 6)


def in_plain_sight(rate):
    return lambda x: x * rate + jnp.arange(6.0) * np.float32(rate)


def in_a_constant(rate):
    table = np.full(6, rate, np.float32)
    return lambda x: jnp.asarray(table) - x


def in_a_compiled_function(rate):
    inner = jax.jit(lambda x: jnp.where(x > rate, x, rate))
    return lambda x: inner(x) + inner(-x)


def in_a_scan(rate):
    return lambda x: lax.scan(lambda carry, item: (carry * rate + item, carry), 0.0, x, reverse=True)


def in_a_loop(rate):
    return lambda x: lax.while_loop(lambda c: c[0] < 5 * rate, lambda c: (c[0] + rate / 2, c[1] * rate), (0.0, x))


def in_a_branch(rate):
    return lambda x: lax.cond(x.sum() > 0, lambda x: x * rate, lambda x: x - rate, x)


def in_a_function_with_rules(rate):
    @jax.custom_jvp
    def f(x):
        return x * rate

    f.defjvp(lambda primals, tangents: (f(*primals), tangents[0] * rate * 3))
    return lambda x: f(x) + jax.grad(lambda x: f(x).sum())(x)


def in_a_checkpoint(rate):
    return jax.grad(lambda x: jax.checkpoint(lambda x: jnp.sin(x * rate).sum())(x))


def in_a_result(rate):
    return lambda x: (x, jnp.float32(rate))


def in_integers(rate):
    return lambda x: x > jnp.uint8(rate * 10)


PLACES = [
    in_plain_sight,
    in_a_constant,
    in_a_compiled_function,
    in_a_scan,
    in_a_loop,
    in_a_branch,
    in_a_function_with_rules,
    in_a_checkpoint,
    in_a_result,
    in_integers,
]


@pytest.mark.slow
@pytest.mark.parametrize("make", PLACES, ids=lambda make: make.__name__)
def test_one_program_is_each_of_them(make):
    rates = (0.5, 0.9, 1.3)
    made = common([read(make(rate), X) for rate in rates])
    assert made.numbers, "they differ"
    at_once = jax.jit(jax.vmap(made.function, in_axes=(0, None)))(made.numbers, X)
    for i, rate in enumerate(rates):
        wanted = make(rate)(X)
        alone = jax.jit(made.function)([number[i] for number in made.numbers], X)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), alone, wanted)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-7), at_once, wanted)


def test_what_does_not_differ_is_no_argument():
    made = common([read(lambda x, rate=rate: (x * 2 + 1) * rate, X) for rate in (0.5, 0.9)])
    assert [number.tolist() for number in made.numbers] == [np.float32([0.5, 0.9]).tolist()]
    assert not common([read(lambda x: x * 2, X)] * 2).numbers


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x + 0.5,
        lambda x: x * 0.5 * 1.0001,
        lambda x: (x * 0.5).astype(jnp.float16),
        lambda x: (x * 0.5,),
        lambda x: jnp.concatenate([x * 0.5, x]),
        lambda x: lax.reduce_precision(x * 0.5, 5, 10),
    ],
)
def test_programs_that_differ_in_more_have_other_forms(other):
    first, second = read(lambda x: x * 0.5, X), read(other, X)
    assert first.form != second.form
    with pytest.raises(ValueError, match="differ in more than numbers"):
        common([first, second])


def test_the_numbers_of_further_programs():
    def program(rate, offset=1.0):
        return read(lambda x: x * rate + offset, X)

    made = common([program(0.5), program(0.9)])
    assert made.numbers_of([program(3.0)])[0] == [3.0]
    with pytest.raises(ValueError, match="more than the numbers that are arguments"):
        made.numbers_of([program(3.0, offset=2.0)])


def through_python(rate):
    return lambda x: jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x) * rate


def in_a_solver(rate):
    return lambda x: lax.custom_linear_solve(lambda v: v * rate, x, lambda _, b: b / rate, symmetric=True)


@pytest.mark.parametrize("make", [through_python, in_a_solver], ids=lambda make: make.__name__)
def test_numbers_that_cannot_be_replaced_make_another_form(make):
    first, second, again = (read(make(rate), X) for rate in (1.0, 2.0, 1.0))
    assert first.form != second.form
    if make is in_a_solver:
        assert first.form == again.form
        alone = common([first, again])
        np.testing.assert_allclose(alone.function(alone.numbers, X), make(1.0)(X))


def test_functions_are_alike_that_hold_the_same_values():
    def made(rate, shift=(1, 2.0), model=None):
        def inner(x, *, scale=rate):
            return x * scale + shift[1]

        return lambda x: inner(x) if model is None else model.apply({}, x)

    dense = [nn.Dense(size, name="d") for size in (3, 3, 4)]
    assert alike(made(0.1), made(0.1, (1, 2.0)))
    assert alike(partial(made(0.1, model=dense[0]), 3), partial(made(0.1, model=dense[1]), 3))
    assert alike(dense[0].apply, dense[1].apply)
    for other in (made(0.2), made(0.1, (1, 2.5)), made(0.1, (True, 2.0)), made(0.1, [1, 2.0]), made(-0.0), jnp.sin):
        assert not alike(made(0.1), other), other
    assert not alike(made(0.0), made(-0.0))
    assert not alike(made(0.1, model=dense[0]), made(0.1, model=dense[2]))
    assert not alike(made(np.ones(2)), made(np.ones(2))), "arrays are not read"
    assert not alike(partial(made(0.1), 3), partial(made(0.1), 4))
