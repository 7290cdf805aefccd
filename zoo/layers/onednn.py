"""oneDNN's convolution and matrix product, which jaxlib for Linux on x86-64 contains as custom calls.

The compiler does not use them of itself. They take the time that PyTorch takes, which has the same library.
"""

from __future__ import annotations

import functools
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_VERSIONS = (0, 10), (0, 12)
"""The jaxlib releases, first and last, whose custom calls were tried: their arguments have changed between versions."""


class Following(NamedTuple):
    """What an operation does with its result before it is written: activation(result + bias + summand).

    Attributes:
      bias: `[features]`.
      summand: of the shape of the result.
      activation: of `ACTIVATIONS`.
    """

    bias: jax.Array | None = None
    summand: jax.Array | None = None
    activation: str | None = None


NOTHING = Following()

ACTIVATIONS = {"relu": "RELU", "gelu": "GELU_ERF", "gelu_tanh": "GELU_TANH", "silu": "SWISH"}


def call(
    name: str,
    a: jax.Array,
    b: jax.Array,
    shape: tuple[int, ...],
    config: dict[str, Any],
    dtype: Any,
    following: Following = NOTHING,
) -> jax.Array:
    """XLA's custom call of oneDNN's `name`, "conv" or "matmul", of two arrays.

    Args:
      name: of the operation.
      a: its first operand.
      b: its second.
      shape: of the result.
      config: a message of XLA's `onednn_config.proto`, as it is in JSON.
      dtype: of the result.
      following: what is done with the result.
    """
    operands, names = [a, b], []
    if following.bias is not None:
        # A product takes it as a matrix alone: as a vector, it ends the process.
        operands.append(following.bias.reshape(1, -1) if name == "matmul" else following.bias)
        names.append("BIAS")
    if following.summand is not None:
        operands.append(following.summand)
        names.append("BINARY_ADD")
    if following.activation is not None:
        names.append(ACTIVATIONS[following.activation])
    config = {**config, "fusions": {"ops": names}} if names else config
    return jax.ffi.ffi_call(
        f"__onednn${_TARGETS[name]}",
        jax.ShapeDtypeStruct(shape, dtype),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({f"onednn_{name}_config": config}),
    )(*operands)


_TARGETS = {"conv": "convolution", "matmul": "matmul"}


def takes(dtype: Any) -> bool:
    """Whether oneDNN is there, and computes in this dtype with instructions of the CPU's own."""
    if dtype == jnp.float32:
        return _is_there()
    return dtype == jnp.bfloat16 and _is_there() and _has_bfloat16()


def convolves(dtype: Any) -> bool:
    """Whether its convolution computes in this dtype, and faster than in float32.

    In bfloat16 with AMX alone: on 2 cores of a Sapphire Rapids 3×3, 64 → 64 channels, 64 images of 32×32, 13.8 ms →
    1.9. On a CPU that has AVX512-BF16, but no AMX, it crashed where several devices of one process ran it.
    """
    if dtype != jnp.bfloat16:
        return takes(dtype)
    return takes(dtype) and _has_tiles() and jax.local_device_count("cpu") == 1


@functools.cache
def _is_there() -> bool:
    """Whether this jaxlib has oneDNN as it is called here; tried out once."""
    version = tuple(int(part) for part in metadata.version("jaxlib").split(".")[:2])
    known = _VERSIONS[0] <= version <= _VERSIONS[1]
    if not (known and platform.system() == "Linux" and platform.machine() == "x86_64"):
        return False
    # Without it, convolutions would be the products that corrupt the heap: see `cpu_convolution`.
    return "avx2" in _instructions() and _multiplies(jnp.float32)


@functools.cache
def _has_bfloat16() -> bool:
    return bool({"avx512_bf16", "amx_bf16"} & _instructions()) and _multiplies(jnp.bfloat16)


@functools.cache
def _has_tiles() -> bool:
    return "amx_bf16" in _instructions()


def _multiplies(dtype: Any) -> bool:
    """Whether a product comes out right; the convolution came to jaxlib with it."""
    a, b = np.arange(6.0).reshape(3, 2), np.arange(8.0).reshape(4, 2)
    config = {"transpose_b": True}
    try:
        # Lowering may go on inside a trace, which these arrays must stay out of.
        with jax.ensure_compile_time_eval(), jax.default_device(jax.local_devices(backend="cpu")[0]):
            multiply = functools.partial(call, "matmul", shape=(3, 4), config=config, dtype=dtype)
            found = jax.jit(multiply)(jnp.asarray(a, dtype), jnp.asarray(b, dtype))
            return bool(np.array_equal(np.asarray(found, np.float64), a @ b.T))
    except (RuntimeError, ValueError, NotImplementedError):
        return False


def _instructions() -> set[str]:
    """What Linux says of the CPU, its sets of instructions among it, less those that oneDNN is told not to use."""
    try:
        found = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return set()
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "ALL")).upper()
    if most in ("SSE41", "AVX"):
        found.discard("avx2")
    if most not in ("ALL", "DEFAULT") and not any(name in most for name in ("BF16", "FP16", "AMX", "AVX10")):
        found -= {"avx512_bf16", "amx_bf16"}
    if most not in ("ALL", "DEFAULT") and "AMX" not in most:
        found.discard("amx_bf16")
    return found
