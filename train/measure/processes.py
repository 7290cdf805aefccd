"""A function in a process of its own."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

_LAST_STEP = 10.0
"""Seconds that a process has to end what it does."""


@contextmanager
def beside(make: Callable[..., Callable[..., Any]], *arguments: Any) -> Iterator[Callable[..., Any]]:
    """`make(*arguments)`, a function, made and called in a new process, with memory and threads of its own.

    The process ends with this one too: its pipe is closed then.

    Raises:
      ValueError: `make` does, or the function where it is called.
      RuntimeError: they raise something else, or the process dies.
    """
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,))  # more would hang here where the process dies at its start
    process.start()
    there.close()

    def ask(question: Any) -> Any:
        try:
            here.send(question)
            result, error = here.recv()
        except (EOFError, ConnectionError):
            process.join(_LAST_STEP)
            raise RuntimeError(f"the process died, exit code {process.exitcode}") from None
        if error is not None:
            raise error
        return result

    def call(*arguments: Any, **options: Any) -> Any:
        return ask((arguments, options))

    try:
        ask((make, arguments))
        yield call
        here.close()
        process.join(_LAST_STEP)
    finally:
        here.close()
        process.kill()
        process.join()


def _serve(pipe: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process hears it, and closes the pipe
    try:
        make, arguments = pipe.recv()
        function, error = _outcome(make, arguments, {})
        pipe.send((None, error))
        while error is None:
            pipe.send(_outcome(function, *pipe.recv()))
    except (EOFError, ConnectionError):
        pass


def _outcome(function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[Any, Exception | None]:
    """The result of a call, or the error that it raises, as one that can be sent."""
    try:
        return function(*arguments, **options), None
    except ValueError as error:
        return None, ValueError(str(error))
    except Exception as error:
        traceback.print_exc()
        return None, RuntimeError(f"{type(error).__name__}: {error}")
