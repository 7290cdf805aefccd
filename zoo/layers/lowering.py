"""The one place where it is chosen how a product or a convolution is computed.

They are primitives, linear in each of two arrays, and the transposes of each are such primitives again, so that
derivatives of every order stay among them. They lower to XLA's own operation, except in a program for a single CPU, or
for each of several by itself: there to oneDNN's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

ENABLED = os.environ.get("ZOO_CPU_LOWERING", "fast") != "plain"
"""`ZOO_CPU_LOWERING=plain` in the environment leaves everything to XLA's defaults, to compare with or in distress."""


Compute = Callable[..., jax.Array]
"""(operands, at) → result, where `at` is all that is static."""


def primitive(name: str, plain: Compute, on_cpu: Compute, on_cuda: Compute | None = None) -> Primitive:
    """A primitive of arrays and a static parameter `at`, whose derivatives are still to be defined.

    Args:
      name: in a jaxpr.
      plain: what it computes, in operations of XLA.
      on_cpu: the same in a program for a single CPU.
      on_cuda: the same in a program for NVIDIA GPUs, if it is something else there.
    """
    made = Primitive(name)
    made.def_impl(jax.jit(made.bind, static_argnames="at"))

    @made.def_abstract_eval
    def _(*operands: ShapedArray, at: Hashable) -> ShapedArray:
        result = jax.eval_shape(partial(plain, at=at), *operands)
        return ShapedArray(result.shape, result.dtype)

    def batch(args: Sequence[Any], axes: Sequence[int | None], *, at: Hashable) -> tuple[jax.Array, int]:
        return jax.vmap(partial(plain, at=at), in_axes=tuple(axes))(*args), 0

    batching.primitive_batchers[made] = batch

    lower_plain = mlir.lower_fun(plain, multiple_results=False)
    lower_on_cpu = mlir.lower_fun(on_cpu, multiple_results=False)

    def lower(ctx: mlir.LoweringRuleContext, *args: Any, at: Hashable) -> Any:
        fast = ENABLED and _is_for_one_device(ctx.module_context)
        if fast:
            _write_no_programs()
        return (lower_on_cpu if fast else lower_plain)(ctx, *args, at=at)

    mlir.register_lowering(made, lower_plain)
    mlir.register_lowering(made, lower, platform="cpu")
    if on_cuda is not None:
        mlir.register_lowering(made, mlir.lower_fun(on_cuda, multiple_results=False), platform="cuda")
    return made


def _write_no_programs() -> None:
    """Ends the writing to JAX's persistent compilation cache in this process; reading goes on.

    XLA cannot write a program that calls oneDNN: in jaxlib 0.10 to 0.12 it reads memory that is not its own on the way,
    and JAX has no word to leave out a single program. A program is written once it is compiled, right after this.
    """
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_persistent_cache_min_compile_time_secs", math.inf)


def _is_for_one_device(module: Any) -> bool:
    """Whether each device runs the operation as it is written, and on the machine that compiles it.

    The partitioner of a sharded program knows XLA's operations alone, and an exported program must run anywhere. Inside
    `shard_map` over all axes of a mesh, as in `pmap`, nothing is left to partition.
    """
    if module.lowering_parameters.for_export:
        return False
    axes = module.axis_context
    mesh = getattr(axes, "mesh", None)
    if mesh is None:
        return getattr(axes, "num_devices", 1) == 1
    return mesh.size == 1 or axes.manual_axes == frozenset(mesh.axis_names)


def scan(body: Callable[[Any, Any], tuple[Any, Any]], state: Any, xs: Any, *, reverse: bool) -> tuple[Any, Any]:
    """`lax.scan` without derivatives in bfloat16; a single step, as in generating text, needs no loop.

    What is stacked in bfloat16 travels as bits: a CPU would copy the whole stack at each step, by way of float32. The
    train step of an LSTM for 128 texts of 100 characters took 364 ms so, and 172 as bits.

    Raises:
      TypeError: it is differentiated, and something is bfloat16.
    """
    dtypes: list[Any] = []

    def step(state: Any, at: Any) -> tuple[Any, Any]:
        state, out = body(state, jax.tree.map(_from_bits, at, taken))
        dtypes.append(jax.tree.map(jnp.result_type, out))
        return state, jax.tree.map(_to_bits, out)

    taken = jax.tree.map(jnp.result_type, xs)
    once = jax.tree.leaves(xs)[0].shape[0] == 1
    state, outs = lax.scan(step, state, jax.tree.map(_to_bits, xs), reverse=reverse, unroll=once)
    return state, jax.tree.map(_from_bits, outs, dtypes[-1])


def scan_in_place(
    body: Callable[[Any, Any, jax.Array, Callable[[jax.Array], jax.Array]], tuple[Any, Any]],
    state: Any,
    xs: Any,
    place: jax.Array,
    *,
    reverse: bool,
) -> tuple[Any, Any, jax.Array]:
    """`scan` whose body also makes something else of each step of `place`, of the same shape and dtype.

    A CPU waits for memory in such a loop; there it is written where the step was read. The train step of an LSTM for
    128 texts of 100 characters: 188 ms → 162, in bfloat16 133 → 103.

    Args:
      body: (state, step of `xs`, step of `place`, write) → state, step of the outputs. `write(new)` is to be called
        once, and what it returns, which is `new`, used from there on: what still reads the old step after it, makes
        XLA copy all of `place` at each step.
      state: before the first step.
      xs: arrays `[time, …]`.
      place: `[time, …]`.
      reverse: whether to go from the last step to the first.

    Returns:
      The state after the last step, the outputs `[time, …]`, and what has become of `place`.
    """
    written: list[jax.Array] = []

    def remember(new: jax.Array) -> jax.Array:
        written.append(new)
        return new

    def along(state: Any, at: Any) -> tuple[Any, Any]:
        x, here = at
        state, out = body(state, x, here, remember)
        return state, (out, written.pop())

    if not (ENABLED and jax.default_backend() == "cpu" and place.shape[0]):
        state, (outs, place) = scan(along, state, (xs, place), reverse=reverse)
        return state, outs, place
    times, dtype, taken = place.shape[0], place.dtype, jax.tree.map(jnp.result_type, xs)
    step = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (xs, place))
    out, _ = jax.eval_shape(along, state, step)[1]

    def advance(i: jax.Array, carry: Any) -> Any:
        state, outs, place = carry
        t = np.uint32(times - 1) - i if reverse else i

        def take(stack: jax.Array, dtype: Any) -> jax.Array:
            return _from_bits(lax.dynamic_index_in_dim(stack, t, keepdims=False), dtype)

        def put(stack: jax.Array, x: jax.Array) -> jax.Array:
            return lax.dynamic_update_index_in_dim(stack, _to_bits(x), t, axis=0)

        def write(new: jax.Array) -> jax.Array:
            written.append(lax.optimization_barrier(put(place, new)))
            return take(written[-1], dtype)

        state, out = body(state, jax.tree.map(take, xs, taken), take(place, dtype), write)
        return state, jax.tree.map(put, outs, out), written.pop()

    outs = jax.tree.map(lambda x: _to_bits(jnp.zeros((times, *x.shape), x.dtype)), out)
    xs, place = jax.tree.map(_to_bits, (xs, place))
    state, outs, place = lax.fori_loop(np.uint32(0), np.uint32(times), advance, (state, outs, place))
    return state, jax.tree.map(lambda stack, x: _from_bits(stack, x.dtype), outs, out), _from_bits(place, dtype)


def _to_bits(x: jax.Array) -> jax.Array:
    return _bits(x) if x.dtype == jnp.bfloat16 else x


def _from_bits(x: jax.Array, dtype: Any) -> jax.Array:
    return x if x.dtype == dtype else lax.bitcast_convert_type(x, dtype)


@jax.custom_jvp
def _bits(x: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(x, jnp.uint16)


@_bits.defjvp
def _(primals: Any, tangents: Any) -> Any:
    # Without it JAX would take them for constants, and every gradient for zero.
    raise TypeError("this loop has no derivatives in bfloat16, such as second ones of a recurrent layer; take float32")
