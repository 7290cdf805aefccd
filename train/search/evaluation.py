"""How configurations are evaluated: each trained in a run folder of its own, one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import data
from train.loop.checkpoints import CheckpointError, History
from train.loop.fitting import InterruptedTraining, Report
from train.recipe import Recipe, load_data
from train.runs.run import learn


class Candidate(NamedTuple):
    """A configuration to evaluate: the number of its trial, its recipe, and the folder of its run."""

    number: int
    recipe: Recipe
    folder: Path


class Outcome(NamedTuple):
    """How the training of a candidate ended.

    Attributes:
      number: of the trial.
      history: a row for each evaluation.
      stopped: whether it ended before its time, as it was told to.
      failure: why it has no result; empty where it has one.
      way: how it was trained, where not by itself.
    """

    number: int
    history: History = []  # noqa: RUF012  never changed
    stopped: bool = False
    failure: str = ""
    way: str = ""


Tell = Callable[[int, History], bool]
"""Called after each evaluation with the number of the trial and its rows so far; a true answer ends its training."""


class Evaluate(Protocol):
    """Trains candidates, calls `tell` after each of their evaluations, and yields the outcome of each as it ends.

    A candidate whose folder holds a run goes on from its checkpoint. What `tell` raises ends them all; what is wrong
    with one candidate is its outcome.
    """

    def __call__(self, candidates: Sequence[Candidate], tell: Tell) -> Iterator[Outcome]: ...  # noqa: D102


class _Stopped(Exception):
    """A training is not worth going on with, or cannot be told of: then its cause says why."""


def one_by_one() -> Evaluate:
    """Trains one candidate after the other; data that several of them train on are loaded once."""
    loaded: dict[str, data.Dataset] = {}

    def dataset_of(recipe: Recipe) -> data.Dataset:
        key = json.dumps([recipe.data, recipe.data_options, recipe.seed, recipe.validation], sort_keys=True)
        if key not in loaded:
            loaded.clear()  # data sets may be large
            loaded[key] = load_data(recipe)
        return loaded[key]

    def outcome(candidate: Candidate, tell: Tell) -> Outcome:
        rows: History = []

        def hear(report: Report) -> None:
            if not report.evaluated:
                return
            rows[:] = report.history
            try:
                stop = tell(candidate.number, report.history)
            except Exception as error:  # of the storage, not of the configuration
                raise _Stopped from error
            if stop and report.step < report.total_steps:
                raise _Stopped

        try:
            history = learn(candidate.recipe, candidate.folder, [hear], dataset_of(candidate.recipe))
        except _Stopped as stopped:
            if stopped.__cause__ is not None:
                raise stopped.__cause__ from None
            return Outcome(candidate.number, rows, stopped=True)
        except (CheckpointError, InterruptedTraining):  # the disk or SIGTERM, not the configuration
            raise
        except (ValueError, TypeError, ArithmeticError, MemoryError, RuntimeError) as error:
            return Outcome(candidate.number, rows, failure=reason(error))
        return Outcome(candidate.number, history)

    def evaluate(candidates: Sequence[Candidate], tell: Tell) -> Iterator[Outcome]:
        for candidate in candidates:
            yield outcome(candidate, tell)

    return evaluate


def reason(error: Exception) -> str:
    """What an error says, without the pages that XLA adds."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:500]
