"""Steps of several programs measured turn by turn, so that what else the machine does meets all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Turn = Callable[[int], tuple[float, Any]]
"""Takes so many steps; tells the seconds of one, and what the last one gave: of a train step that is its loss."""

_WARM_UP = 4
"""Steps after the one that compiles and before those that count: they still ask the kernel for memory."""

_TURN_SECONDS = 0.1
"""The least that a turn takes: short steps are many in a turn, as in use, where their data stay in the caches."""

_LEAST_TURNS = 5


def timed(step: Callable[[], Any]) -> Turn:
    """Turns of a step, which returns when its work is done.

    Where there are several, one goes before them: the threads of the program before may still be waiting for work, and
    the caches hold its data.
    """

    def turn(count: int) -> tuple[float, Any]:
        if count > 1:
            step()
        result = None
        began = time.perf_counter()
        for _ in range(count):
            result = step()
        return (time.perf_counter() - began) / count, result

    return turn


class Measured(NamedTuple):
    """Seconds of a step in each turn of each program, `[programs, turns]`, and steps in a turn of each."""

    seconds: np.ndarray
    counts: list[int]


def alternate(turns: Sequence[Callable[[int], float]], seconds: float) -> Measured:
    """Takes turns until the first program has had so many seconds.

    Args:
      turns: of each program: how many steps to take → the seconds of one.
      seconds: how long.
    """
    counts = []
    for turn in turns:
        turn(1)
        counts.append(max(1, math.ceil(_TURN_SECONDS / max(turn(_WARM_UP), 1e-9))))
    rounds: list[list[float]] = []
    spent = 0.0
    while len(rounds) < _LEAST_TURNS or spent < seconds:
        began = time.perf_counter()
        own = turns[0](counts[0])
        spent += time.perf_counter() - began
        others = zip(turns[1:], counts[1:], strict=True)
        rounds.append([own, *(turn(count) for turn, count in others)])
    return Measured(np.array(rounds).T, counts)


def quantiles(values: np.ndarray, name: str, scale: float = 1.0) -> dict[str, float]:
    """The median under `name`, and with the endings `_10` and `_90` the quantiles of 10 % and 90 %."""
    low, median, high = (float(value) * scale for value in np.quantile(values, [0.1, 0.5, 0.9]))
    return {name: median, f"{name}_10": low, f"{name}_90": high}
