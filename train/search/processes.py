"""Several processes on one study."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing import get_context, parent_process
from typing import Any

from train import launch
from train.files import fcntl
from train.loop.callbacks import sigterm
from train.search.trials import Trials
from train.user_code import Code, import_code

_LOG = logging.getLogger(__name__)

_LOOK = 0.2
"""Seconds between two looks at the processes."""


def side_by_side(do: Callable[[Any], None], work: Any, count: int, trials: Trials) -> bool:
    """Calls `do(work)` in several processes. In the place of one that dies another begins, while trials wait.

    Args:
      do: a function of a module.
      work: what it is given; its `code` is imported first.
      count: how many processes.
      trials: of the study that they work on.

    Returns:
      Whether SIGTERM has ended them.

    Raises:
      RuntimeError: a process ends with an error, or processes die without an end of a trial between.
    """
    if fcntl is None:
        raise ValueError("several workers need the file locks of Linux or macOS; take --workers 1")
    # By default each process would take most of a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    context = get_context("spawn")

    def begin() -> Any:
        process = context.Process(target=_serve, args=(do, work, work.code))
        process.start()
        return process

    with sigterm() as interrupted:
        _watch([begin() for _ in range(count)], begin, count, trials, lambda: interrupted(0))
        return interrupted(0)


def _watch(
    running: list[Any], begin: Callable[[], Any], count: int, trials: Trials, interrupted: Callable[[], bool]
) -> None:
    deaths, ended = 0, trials.ended()
    try:
        while running and not interrupted():
            time.sleep(_LOOK)
            for process in [process for process in running if not process.is_alive()]:
                running.remove(process)
                code = process.exitcode
                if code == 0:
                    continue
                if code is not None and code > 0:
                    raise RuntimeError(f"a worker ended with an error, exit code {code}; what it printed says why")
                deaths = deaths + 1 if trials.ended() == ended else 1
                ended = trials.ended()
                if deaths > 5 * count:
                    raise RuntimeError(
                        f"workers die one after the other, of signal {-(code or 0)}; for want of memory?"
                    )
                _LOG.warning("a worker was killed by signal %d; another takes its place", -(code or 0))
                running.append(begin())
    finally:
        for process in running:  # what they were training goes on when the study does
            process.kill()
            process.join()


def _serve(do: Callable[[Any], None], work: Any, code: Iterable[Code]) -> None:
    launch.keep_memory()
    logging.basicConfig(format="zoo: %(message)s")  # as `train.cli.main`
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process hears it, and ends this one
    for each in code:
        try:
            importlib.import_module(each.module)
        except ImportError:
            import_code(each.file)
    do(work)


def _end_with_the_first() -> None:
    first = parent_process()
    assert first is not None
    first.join()
    os._exit(1)  # at once, as it did: the study goes on where it stands
