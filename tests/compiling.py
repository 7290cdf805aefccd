"""Compiling takes most of the time of the tests: it is done without optimisations, and once for equal programs."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import compiler  # JAX's own cache of programs writes them, which XLA cannot do with calls of oneDNN

MOST = 400
"""Programs that are kept."""

UNOPTIMISED = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
"""For the environment of a process that trains shortly."""

_programs: dict[bytes, Any] = {}
_lock = threading.Lock()
_compile = compiler.backend_compile_and_load


def _compile_once(backend: Any, module: Any, devices: Any, options: Any, host_callbacks: Any) -> Any:
    if host_callbacks:  # they are part of the program, and not of its text
        return _compile(backend, module, devices, options, host_callbacks)
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
