"""How a program starts: with what memory, and as one of how many processes."""

from __future__ import annotations

import os
import sys


def take_large_pages() -> None:
    """Starts the program again with memory in pages of 2 MB, where it has been started on Linux without.

    XLA on a CPU takes the memory of each step anew, and meeting it for the first time, 4 KB by 4 KB, was a third of a
    small convolutional network's step. The C library reads this setting when a program starts, and then alone. Beside
    PyTorch it is left as it is: two programs that take turns at many such pages wait for the kernel to find them.
    """
    left = (
        "GLIBC_TUNABLES" in os.environ
        or os.environ.get("ZOO_CPU_LOWERING")
        or any(word.startswith("--compare") for word in sys.argv)
    )
    if sys.platform == "linux" and not left:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


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
