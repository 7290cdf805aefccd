"""A process that measures one model in one framework: it compiles, says so, waits for its turn, and measures.

    python -m tests.accelerator.worker jax gpt2 --stop-compiling EPOCH [--tiny]

All processes compile side by side, and measure one after another. What they report are lines of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from tests.accelerator import cases

_BLOCKS = 3
"""Parts of a measurement; the median of their rates counts."""

_PATIENCE, _ATTEMPTS = 10, 3
"""Seconds until memory is asked for again that a neighbour held, and how often."""


class Prepared(NamedTuple):
    """A compiled case.

    Attributes:
      run: takes so many steps, waits for them, and returns the seconds.
      facts: what is known before measuring.
      after: what is known afterwards, such as peak memory.
    """

    run: Callable[[int], float]
    facts: dict[str, Any]
    after: Callable[[], dict[str, Any]]


def say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def seconds_per_step(run: Callable[[int], float], seconds: float) -> float:
    """The median over blocks of steps that take about `seconds` together, after a warm-up; what is slow runs once."""
    run(1)
    once = max(run(1), 1e-6)
    if once > seconds / 2:
        return once
    steps = max(1, round(seconds / _BLOCKS / once))
    return statistics.median(run(steps) / steps for _ in range(_BLOCKS))


def out_of_memory(error: BaseException) -> bool:
    text = f"{type(error).__name__}: {error}".lower()
    return any(words in text for words in ("out of memory", "resource_exhausted", "outofmemory"))


def in_words(error: BaseException) -> str:
    """The first line of an error, short enough for a table."""
    if out_of_memory(error):
        return "out of memory"
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]


def prepare(make: Callable[[Any], Prepared], case: Any) -> Prepared:
    """Compiles a case, again where a neighbour that compiles too held the memory."""
    for attempt in range(_ATTEMPTS):
        try:
            return make(case)
        except Exception as error:
            if not out_of_memory(error) or attempt == _ATTEMPTS - 1:
                raise
        time.sleep(_PATIENCE)
    raise AssertionError


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=("jax", "torch"))
    parser.add_argument("what")
    parser.add_argument("--stop-compiling", type=float, default=float("inf"))
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    kind = "generation" if args.what == "generation" else "training"
    room = import_module(f"tests.accelerator.{args.framework}_{kind}")
    todo = cases.generation(args.tiny) if kind == "generation" else cases.training(args.tiny)[args.what]
    ready: list[tuple[int, Any, Prepared]] = []
    for index, case in enumerate(todo):
        if index and time.time() > args.stop_compiling:
            say("result", case=index, status="not tried: no time to compile it")
            continue
        try:
            began = time.perf_counter()
            prepared = prepare(room.prepare, case)
            say("compiled", case=index, seconds=time.perf_counter() - began)
            ready.append((index, case, prepared))
        except Exception as error:
            traceback.print_exc()
            say("result", case=index, status=in_words(error))
    say("ready")
    sys.stdin.readline()
    # Peak memory only grows in a process: smaller batches go first.
    for index, _, prepared in sorted(ready, key=lambda entry: entry[1].batch):
        try:
            step = seconds_per_step(prepared.run, args.seconds)
            say("result", case=index, status="ok", step=step, **prepared.facts, **prepared.after())
        except Exception as error:
            traceback.print_exc()
            say("result", case=index, status=in_words(error), **prepared.facts)


if __name__ == "__main__":
    main()
