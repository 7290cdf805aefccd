"""The words of a population: its members, what they have in common, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

import data
from train.loop.feed import Feed, padded_rows
from train.loop.fitting import Adapt, Augment, Fitted, History
from train.loop.programs import train_program
from train.loop.training_data import first_examples
from train.search.common_program import Program, alike, read
from train.state import State, Task

Way = Literal["vmap", "loop"]
"""All members of a group at once, or one after the other; with one compiled program in both."""


class Member(NamedTuple):
    """One configuration.

    Attributes:
      task: as for `fit`.
      seed: as for `fit`.
      augment: as for `fit`.
      adapt: as for `fit`.
    """

    task: Task
    seed: int = 0
    augment: Augment | None = None
    adapt: Adapt | None = None


class Trained(NamedTuple):
    """What became of a member.

    Attributes:
      fitted: as `fit` gives it; until where it was stopped, or its loss was no number.
      diverged: the step at which its loss became NaN or infinite, 0 where it never did.
      way: how its group was trained.
      group: the number of its group.
      settings: with `exploit`, those that it had at the end.
    """

    fitted: Fitted
    diverged: int
    way: Way
    group: int
    settings: Mapping[str, float] | None = None


class Evaluated(NamedTuple):
    """What a callback is told after each evaluation of a group.

    Attributes:
      step: steps taken.
      members: the numbers of those that still train.
      histories: of each member, by its number.
      state: number of a member → its state.
    """

    step: int
    members: Sequence[int]
    histories: Sequence[History]
    state: Callable[[int], State]


Callback = Callable[[Evaluated], Sequence[int] | None]
"""Returns the numbers of members that are to stop."""


def perturbed(settings: Mapping[str, float], rng: np.random.Generator) -> dict[str, float]:
    """Each setting times 0.8 or 1.25."""
    return {name: float(value * rng.choice([0.8, 1.25])) for name, value in settings.items()}


class Exploit(NamedTuple):
    """Population-based training.

    Attributes:
      make: settings → task. Tasks of different settings must differ in numbers alone.
      settings: of each member, in their order.
      monitor: what tells which are best, as in the history.
      every: evaluations between two exchanges.
      share: of the members that are replaced, and of those that replace them.
      explore: (settings, random generator) → settings near them.
      seed: of all that is drawn.
    """

    make: Callable[..., Task]
    settings: Sequence[Mapping[str, float]]
    monitor: str = "validation_loss"
    every: int = 1
    share: float = 0.25
    explore: Callable[[Mapping[str, float], np.random.Generator], Mapping[str, float]] = perturbed
    seed: int = 0


class Course(NamedTuple):
    """What all members have in common."""

    dataset: data.Dataset
    training: Feed
    evaluation: Feed | None
    validation: str | None
    batch_size: int
    total: int
    every: int
    per_epoch: int
    steps_per_dispatch: int | None

    def rows(self, seed: int, start: int, count: int) -> np.ndarray:
        """The examples of some steps of a member, `[count, batch_size]`."""
        return data.batch_indices(seed, self.training.num_examples, self.batch_size, start, count)

    def evaluated(self) -> list[np.ndarray]:
        """The examples of the batches of an evaluation."""
        assert self.evaluation is not None
        count = self.evaluation.num_examples
        return list(padded_rows(count, min(4 * self.batch_size, count)))


class Traced(NamedTuple):
    """The programs of a member: its start, one step, and the evaluation of a batch."""

    init: Program
    train: Program
    evaluate: Program | None

    @property
    def form(self) -> Any:
        """Equal for members that form a group."""
        return self.init.form, self.train.form, self.evaluate and self.evaluate.form


def trace(members: Sequence[Member], course: Course) -> list[Traced]:
    """Reads the programs of members. Those that differ in their seeds alone have the same, whose argument a seed is."""
    programs: dict[tuple[int, int], tuple[Member, Traced]] = {}
    sources = [(id(member.task), id(member.augment)) for member in members]
    for source, member in zip(sources, members, strict=True):
        if source not in programs:
            programs[source] = member, _trace(member, course, [*programs.values()])
    return [programs[source][1] for source in sources]


def _trace(member: Member, course: Course, others: Sequence[tuple[Member, Traced]]) -> Traced:
    """Members that differ in their optimizers alone start and are evaluated alike: others' programs are taken then."""
    example = first_examples(course.dataset)
    key = jax.random.key(member.seed)
    started = (traced.init for other, traced in others if alike(member.task.init, other.task.init))
    init = next(started, None) or read(lambda key: member.task.init(key, example), key)
    state = init.result
    item = next(iter(course.training.items(iter([course.rows(0, 0, 1)]))))
    step = train_program(member.task, course.training, member.augment)
    train = read(step, state, item, course.training.shared)
    source, evaluate = course.evaluation, None
    if source is not None:

        def program(state: State, item: Any, shared: Any) -> Any:
            return member.task.eval_step(state, source.load(item, shared))

        item = next(iter(source.items(iter(course.evaluated()))))
        of_state = jax.tree.structure(state), jax.tree.leaves(state)  # that of another optimizer may have other parts
        known = (
            traced.evaluate
            for other, traced in others
            if (jax.tree.structure(traced.init.result), jax.tree.leaves(traced.init.result)) == of_state
            and alike(member.task.eval_step, other.task.eval_step)
        )
        evaluate = next(known, None) or read(program, state, item, source.shared)
    return Traced(init, train, evaluate)
