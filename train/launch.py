"""How a program starts: with what memory, and as one of how many processes."""

from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
"""Parameters of glibc's `mallopt`."""

_MOST = 2**31 - 1
"""Bytes that lie free at the end of the heap before some go back to the kernel; as many stay."""


def keep_memory() -> None:
    """Lets the process keep the memory that it frees, where the C library is glibc, as on most Linux systems.

    XLA on a CPU takes the memory of each step anew. The kernel hands it out page by page, on first touch, which was a
    third of a small convolutional network's step. What is kept need not be asked for again; the price is a peak of
    about twice as much. Call it before JAX has started its threads: they would have pools of their own, which it does
    not reach. `ZOO_CPU_LOWERING=plain` in the environment turns it off.
    """
    if platform.libc_ver()[0] != "glibc" or os.environ.get("ZOO_CPU_LOWERING") == "plain":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _MOST)
    mallopt(_M_TOP_PAD, _MOST)  # address space alone until it is touched; by default all but 128 kB goes back
    mallopt(_M_ARENA_MAX, 1)


def join_processes() -> None:
    """Makes this process one of several, as the cluster or the environment says."""
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    environment = os.environ
    if "JAX_NUM_PROCESSES" in environment:
        jax.distributed.initialize(
            environment.get("JAX_COORDINATOR_ADDRESS"),
            int(environment["JAX_NUM_PROCESSES"]),
            int(environment["JAX_PROCESS_ID"]),
        )
    else:
        jax.distributed.initialize()
