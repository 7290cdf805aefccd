"""Compiling takes most of the time of the tests: it is done without optimisations, and once for equal programs."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import compiler  # JAX's own cache of programs writes them, which XLA cannot do with calls of oneDNN

from train.launch import require_known_xla_flags

MOST = 400
"""Programs that are kept."""


def _known(flag: str) -> bool:
    try:
        require_known_xla_flags({"XLA_FLAGS": f"--{flag}"})
    except ValueError:
        return False
    return True


OPTIONS = [
    (flag, value)
    for flag, value in (("xla_cpu_use_fusion_emitters", False), ("xla_cpu_parallel_codegen_split_count", 1))
    if _known(flag)  # newer compilers have the slow way alone
]
"""Of the compiler, beside those of JAX: kernels are made in the way that compiles three times faster."""

FLAGS = " ".join(f"--{flag}={int(value)}" for flag, value in OPTIONS)
UNOPTIMISED = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": FLAGS}
"""For the environment of a process that trains shortly."""

_programs: dict[bytes, Any] = {}
_lock = threading.Lock()
_compile = compiler.backend_compile_and_load


def _compile_once(backend: Any, module: Any, devices: Any, options: Any, host_callbacks: Any) -> Any:
    if host_callbacks:  # they are part of the program, and not of its text
        return _compile(backend, module, devices, options, host_callbacks)
    if backend.platform == "cpu" and jax.config.read("jax_disable_most_optimizations"):
        options.env_option_overrides = [*options.env_option_overrides, *OPTIONS]
    text = module.operation.get_asm(enable_debug_info=False)
    where = f"{backend.platform} {[device.id for device in devices]}"
    key = hashlib.sha256(text.encode() + where.encode() + options.SerializeAsString()).digest()
    program = _programs.get(key)
    if program is None:
        program = _compile(backend, module, devices, options, host_callbacks)
        with _lock:
            _programs[key] = program
            if len(_programs) > MOST:
                del _programs[next(iter(_programs))]
    return program


def compile_equal_programs_once() -> None:
    """Tests build the same tasks and trainings anew; `jax.clear_caches` leaves the programs that are kept."""
    compiler.backend_compile_and_load = _compile_once


@contextlib.contextmanager
def optimised() -> Iterator[None]:
    """Programs are optimised, as outside of the tests: for those that run longer than they are compiled."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
