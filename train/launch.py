"""How a program starts: with what memory, and as one of how many processes."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import mmap
import os
import platform
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
"""Parameters of glibc's `mallopt`."""

_MOST = 2**31 - 1
"""Bytes that lie free at the end of the heap before some go back to the kernel; as many stay."""

_HUGE, _MADV_HUGEPAGE = 2**21, 14
"""Bytes of a huge page, and Linux's word for them."""

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
    about twice as much. The first two gigabytes come in huge pages, of 2 MB each, where the kernel leaves that to
    programs: steps of the guide's CNN and of ResNet-50 take 8 and 4 % less. Call it before JAX has started its
    threads: they would have pools of their own, which it does not reach. `ZOO_CPU_LOWERING=plain` in the environment
    turns it off.
    """
    if platform.libc_ver()[0] != "glibc" or os.environ.get("ZOO_CPU_LOWERING") == "plain":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _MOST)
    mallopt(_M_TOP_PAD, _MOST)  # address space alone until it is touched; by default all but 128 kB goes back
    mallopt(_M_ARENA_MAX, 1)
    _ask_for_huge_pages()


def _ask_for_huge_pages() -> None:
    """For the heap up to its end; that the kernel refuses, or that there is another heap, changes speed alone."""
    library = ctypes.CDLL(None)
    library.sbrk.restype = library.malloc.restype = ctypes.c_void_p
    library.sbrk.argtypes = [ctypes.c_ssize_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.malloc.argtypes = [ctypes.c_size_t]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    first = -(-library.sbrk(0) // _HUGE) * _HUGE
    library.free(library.malloc(32 * _HUGE))  # more than lies free: the heap now ends `_MOST` behind it
    library.madvise(first, max(library.sbrk(0) - first, 0) // _HUGE * _HUGE, _MADV_HUGEPAGE)


def keep_programs(environment: MutableMapping[str, str]) -> None:
    """Lets JAX keep compiled programs for the next start, in a folder `flaxzoo` of the user's cache.

    Programs for GPU and TPU are kept, and those for a CPU that are compiled before the first that calls oneDNN: see
    `zoo/layers/lowering.py`. JAX_COMPILATION_CACHE_DIR chooses another folder, JAX_ENABLE_COMPILATION_CACHE=false none.
    Call it before JAX is imported.

    Args:
      environment: of the process; JAX reads it.
    """
    if "JAX_COMPILATION_CACHE_DIR" in environment:
        return
    try:
        cache = environment.get("XDG_CACHE_HOME") or environment.get("LOCALAPPDATA") or Path.home() / ".cache"
        folder = Path(cache) / "flaxzoo" / "programs"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return  # there is no home, or it cannot be written to: nothing is kept
    if os.access(folder, os.W_OK):
        environment["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def require_known_xla_flags(environment: Mapping[str, str]) -> None:
    """Refuses flags in XLA_FLAGS that XLA does not know: it would print all that it knows, and abort.

    Raises:
      ValueError: names the first, and those that are near.
    """
    words = environment.get("XLA_FLAGS", "").split()
    flags = [word.partition("=")[0].removeprefix("--") for word in words if word.startswith("--xla")]
    package = importlib.util.find_spec("jaxlib")
    libraries = [*Path(package.origin or "").parent.glob("libjax_common.*")] if flags and package else []
    for library in libraries:
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
            for flag in flags:
                if code.find(flag.encode() + b"\0") >= 0:
                    continue
                from zoo.options import unknown

                known = {name.decode() for name in re.findall(rb"xla_[a-z0-9_]+(?=\0)", code)}
                raise ValueError(f"XLA_FLAGS: {unknown('flag', flag, sorted(known))}")


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
      ValueError: see `membership`; two processes have one number, or count differently.
      TimeoutError: names the processes that did not come.
    """
    if not 1 <= timeout <= _LONGEST_WAIT:
        raise ValueError(f"the time to wait for other processes is from 1 to {_LONGEST_WAIT} seconds, not {timeout}")
    own = membership(os.environ)
    if own is not None:
        roll_call(own, timeout)
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    arrived = threading.Event()
    threading.Thread(target=_tell, args=(arrived, timeout), daemon=True).start()
    try:
        arguments: dict[str, Any] = {} if own is None else own._asdict()
        # XLA ends a process that has waited too long, with a stack in the place of words: be earlier.
        jax.distributed.initialize(**arguments, initialization_timeout=int(timeout) + 60)
    finally:
        arrived.set()


_FIRST_WORD, _NEXT_WORD, _LONGEST_WAIT = 3.0, 30.0, 86_400
"""Seconds until it is said for whom a process waits, then again, and that it may wait at all."""


def _tell(arrived: threading.Event, timeout: float) -> None:
    waiting = _Waiting(timeout)
    while not arrived.wait(_PAUSE):
        try:
            waiting.pause("the other processes")
        except TimeoutError as error:
            print(f"zoo: error: {error}", file=sys.stderr, flush=True)
            os._exit(1)  # the main thread is inside XLA, where no exception reaches it


_PAUSE, _GRACE = 0.2, 5.0
"""Seconds between two looks at who has come, and that the others wait longer for the word of process 0."""


class _Waiting:
    """Says from time to time for whom a process waits, and in the end that it was in vain."""

    def __init__(self, timeout: float):
        self._timeout = timeout
        self._end = time.monotonic() + timeout
        self._next_word = time.monotonic() + _FIRST_WORD

    def pause(self, whom: str, grace: float = 0) -> None:
        now = time.monotonic()
        if now >= self._end + grace:
            raise TimeoutError(f"waited {self._timeout:g} seconds for {whom}, in vain")
        if now >= self._next_word:
            print(f"zoo: waiting for {whom}", file=sys.stderr, flush=True)
            self._next_word = now + _NEXT_WORD


def roll_call(own: Membership, timeout: float) -> None:
    """Returns when all processes are there; JAX's own service cannot tell which are missing.

    The others tell process 0 their numbers, on the port that JAX's service has afterwards.

    Raises:
      ValueError: two processes have one number, or count differently; or the port is taken.
      TimeoutError: names the processes that did not come.
    """
    host, _, port = own.coordinator_address.rpartition(":")
    if own.process_id:
        _answer(own, host.strip("[]"), int(port), _Waiting(timeout))
    else:
        _call(own, int(port), _Waiting(timeout))


def _call(own: Membership, port: int, waiting: _Waiting) -> None:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    present: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.create_server(("", port), family=family, dualstack_ipv6=dual))
        except OSError as error:
            raise ValueError(f"process 0 cannot listen on {own.coordinator_address}: {error.strerror}") from None
        listener.settimeout(_PAUSE)
        while len(present) < own.num_processes - 1:
            caller = _next_caller(listener)
            if caller is not None:
                stack.enter_context(caller)
                number, fault = _number(caller, own, present)
                with contextlib.suppress(OSError):  # it may have gone already
                    caller.sendall(f"{fault}\n".encode() if fault else _HEARD)
                if fault:
                    _tell_all(present, f"{fault}\n".encode())
                    raise ValueError(fault)
                if number is not None:
                    present[number] = caller
            present = {number: caller for number, caller in present.items() if not _gone(caller)}
            missing = [number for number in range(1, own.num_processes) if number not in present]
            word = f"process{'es' if len(missing) > 1 else ''} {', '.join(map(str, missing))} of {own.num_processes}"
            if missing:
                try:
                    waiting.pause(f"{word} to come to {own.coordinator_address} (this is process 0, the coordinator)")
                except TimeoutError as error:
                    _tell_all(present, f"process 0 {error}\n".encode())
                    raise
        _tell_all(present, _ALL_HERE)


def _tell_all(present: Mapping[int, socket.socket], words: bytes) -> None:
    for caller in present.values():
        caller.settimeout(1)
        with contextlib.suppress(OSError):
            caller.sendall(words)
            caller.shutdown(socket.SHUT_WR)
            caller.recv(1)  # who closes first keeps the port for a while: let it be the other side


def _next_caller(listener: socket.socket) -> socket.socket | None:
    try:
        return listener.accept()[0]
    except TimeoutError:
        return None


_HEARD, _ALL_HERE = b"heard\n", b"all here\n"


def _number(caller: socket.socket, own: Membership, present: Mapping[int, Any]) -> tuple[int | None, str]:
    """The number that a process tells, None where it is none of ours, and what is wrong with it."""
    caller.settimeout(5)
    try:
        words = caller.recv(64).decode(errors="replace").split()
    except OSError:
        return None, ""
    if len(words) != 3 or words[0] != "zoo" or not all(map(str.isdigit, words[1:])):
        return None, ""
    number, processes = map(int, words[1:])
    if processes != own.num_processes:
        return None, f"JAX_NUM_PROCESSES is {own.num_processes} in process 0 and {processes} in process {number}"
    return number, f"two processes have JAX_PROCESS_ID={number}" if number in present else ""


def _gone(caller: socket.socket) -> bool:
    caller.setblocking(False)
    try:
        return caller.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _answer(own: Membership, host: str, port: int, waiting: _Waiting) -> None:
    at = own.coordinator_address
    whom = f"the coordinator at {at} (this is process {own.process_id} of {own.num_processes})"
    others = f"the processes that are missing at {at}; process 0 says which"
    while True:
        with contextlib.ExitStack() as stack:
            try:
                coordinator = stack.enter_context(socket.create_connection((host, port), timeout=5))
                coordinator.sendall(f"zoo {own.process_id} {own.num_processes}\n".encode())
            except OSError:
                waiting.pause(whom)
                time.sleep(_PAUSE)
                continue
            coordinator.settimeout(_PAUSE)
            heard, more = b"", b"."
            while more and not heard.endswith(_ALL_HERE):
                try:
                    heard += (more := coordinator.recv(256))
                except TimeoutError:
                    waiting.pause(others, _GRACE)
                except OSError:
                    break
        words = heard.removeprefix(_HEARD)
        if words == _ALL_HERE:
            return
        if words:
            raise ValueError(words.decode(errors="replace").strip())
        waiting.pause(whom)
        time.sleep(_PAUSE)
