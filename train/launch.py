"""How a program starts: with what memory, and as one of how many processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
"""Parameters of glibc's `mallopt`."""

_MOST = 2**31 - 1
"""Bytes that lie free at the end of the heap before some go back to the kernel; as many stay."""


interruption_heard = threading.Event()
"""Set where Ctrl-C has reached what must then end in peace, such as the writing of checkpoints."""


@contextlib.contextmanager
def hearing_interruption() -> Iterator[None]:
    """Marks Ctrl-C as heard where it ends what is inside."""
    try:
        yield
    except KeyboardInterrupt:
        interruption_heard.set()
        raise


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


class Membership(NamedTuple):
    """One process among several, as the environment says it."""

    coordinator_address: str
    num_processes: int
    process_id: int


_VARIABLES = ["JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"]


def membership(environment: Mapping[str, str]) -> Membership | None:
    """What the environment says of this process and the others; None where a known cluster says it.

    Raises:
      ValueError: a variable is missing, or has no such value.
    """
    given = [name for name in _VARIABLES if environment.get(name)]
    if given in ([], _VARIABLES[:1]):  # JAX reads the address, and the cluster tells the rest
        return None
    if missing := [name for name in _VARIABLES if name not in given]:
        raise ValueError(f"{', '.join(given)} without {', '.join(missing)}: set all three, or none on a known cluster")
    coordinator, *numbers = (environment[name] for name in _VARIABLES)
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 2**16):
        raise ValueError(f"JAX_COORDINATOR_ADDRESS is host:port, such as 10.0.0.1:1234; not {coordinator!r}")
    for name, number in zip(_VARIABLES[1:], numbers, strict=True):
        if not number.isdigit():
            raise ValueError(f"{name} is a whole number from 0, not {number!r}")
    processes, process = map(int, numbers)
    if not process < processes:
        raise ValueError(
            f"JAX_PROCESS_ID is from 0 to {processes - 1} for JAX_NUM_PROCESSES={processes}, not {process}"
        )
    return Membership(coordinator, processes, process)


def join_processes(timeout: float = 300) -> None:
    """Makes this process one of several, as the cluster or the environment says.

    While it waits, it says for whom; after the time-out it says so and ends the process.

    Args:
      timeout: seconds to wait for the others.

    Raises:
      ValueError: see `membership`.
    """
    if not 1 <= timeout <= _LONGEST_WAIT:
        raise ValueError(f"the time to wait for other processes is from 1 to {_LONGEST_WAIT} seconds, not {timeout}")
    own = membership(os.environ)
    waits_for = "the processes of this cluster"
    if own is not None:
        address, last = own.coordinator_address, own.num_processes - 1
        waits_for = f"the coordinator at {address} (this is process {own.process_id} of {own.num_processes})"
        if own.process_id == 0:
            waits_for = f"process 1 to {last} to come to {address} (this is process 0, the coordinator)"
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    arrived = threading.Event()
    threading.Thread(target=_tell, args=(arrived, waits_for, timeout), daemon=True).start()
    try:
        arguments: dict[str, Any] = {} if own is None else own._asdict()
        # XLA ends a process that has waited too long, with a stack in the place of words: be earlier.
        jax.distributed.initialize(**arguments, initialization_timeout=int(timeout) + 60)
    finally:
        arrived.set()


_FIRST_WORD, _NEXT_WORD, _LONGEST_WAIT = 3.0, 30.0, 86_400
"""Seconds until it is said for whom a process waits, then again, and that it may wait at all."""


def _tell(arrived: threading.Event, waits_for: str, timeout: float) -> None:
    end, pause = time.monotonic() + timeout, _FIRST_WORD
    while not arrived.wait(min(pause, max(0.0, end - time.monotonic()))):
        if time.monotonic() >= end:
            print(f"zoo: error: waited {timeout:g} seconds for {waits_for}, in vain", file=sys.stderr, flush=True)
            os._exit(1)  # the main thread is inside XLA, where no exception reaches it
        print(f"zoo: waiting for {waits_for}", file=sys.stderr, flush=True)
        pause = _NEXT_WORD
