"""Which trials are worth going on with: successive halving and Hyperband, in their asynchronous form.

A trial is looked at when it has been evaluated 1, 3, 9 … times, and goes on where it is among the best third of those
that came so far (Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning, algorithm 2). Hyperband gives
a share of the trials a later first look: 3, 9 … evaluations (Li et al. 2018, Hyperband, algorithm 1).

A decision is a function of the values that trials have reported and of nothing else. So a trial whose process died
is decided on as if it had not: Optuna's own pruners note in the storage which rungs a trial has passed, and a process
that dies between this note and its decision would let the trial pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

PRUNERS = ("hyperband", "halving", "none")

ETA = 3
"""One in so many goes on, and then so many times as long."""

_GOLDEN = (math.sqrt(5) - 1) / 2

Values = Mapping[int, float]
"""The best value of a trial so far, by the number of evaluations."""


def bracket(pruner: str, number: int, length: int) -> int | None:
    """The bracket s of a trial, whose first look is after ηˢ evaluations; None where it is never looked at.

    Of each 49 trials of 27 evaluations or more, Hyperband gives 27 to bracket 0, 12 to bracket 1, 6 and 4 to the next
    two: the paper's numbers, spread evenly over the trials.

    Args:
      pruner: one of `PRUNERS`.
      number: of the trial.
      length: evaluations of a whole training.
    """
    if pruner == "none":
        return None
    if pruner == "halving":
        return 0
    count = 1
    while ETA**count <= length:
        count += 1
    budgets = [math.ceil(count * ETA ** (count - 1 - s) / (count - s)) for s in range(count)]
    place = (number * _GOLDEN) % 1 * sum(budgets)
    for s, budget in enumerate(budgets):
        place -= budget
        if place < 0:
            return s
    return count - 1


def is_pruned(
    pruner: str,
    number: int,
    evaluations: int,
    trials: Iterable[tuple[int, Values]],
    *,
    length: int,
    maximize: bool,
) -> bool:
    """Whether a trial ends after so many evaluations.

    Args:
      pruner: one of `PRUNERS`.
      number: of the trial.
      evaluations: that it has had.
      trials: the number and the values of all trials, this one included.
      length: evaluations of a whole training.
      maximize: whether more is better.
    """
    s = bracket(pruner, number, length)
    if s is None or evaluations >= length or evaluations not in {ETA ** (s + k) for k in range(length.bit_length())}:
        return False
    sign = 1 if maximize else -1
    seen = {
        other: sign * values[evaluations]
        for other, values in trials
        if evaluations in values and bracket(pruner, other, length) == s
    }
    if number not in seen:
        return True  # it has no value that is a number
    kept = max(1, len(seen) // ETA)  # the first ones go on where they are the best so far
    return seen[number] < sorted(seen.values(), reverse=True)[kept - 1]
