"""Many configurations of a network, trained at once by one compiled program.

    members = [Member(classification(model, optax.adam(rate)), seed) for rate in rates for seed in range(4)]
    trained = fit_population(members, dataset, batch_size=32, epochs=10)

Each member ends where `train.loop.fit` alone would have brought it, up to rounding. Members whose programs differ in
numbers alone, such as learning rate, weight decay, dropout rate and seed, form a group:
`train/search/common_program.py` makes one program of theirs. It trains a group all at once, under `jax.vmap`, or one
member after the other.

With `Exploit` this is population-based training (Jaderberg et al. 2017): at times the worst members go on from the
states of the best, with settings near theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

import data
from train.loop import parallel
from train.loop.feed import feed
from train.loop.fitting import History, length_of
from train.loop.training_data import Data, as_dataset, require_validation
from train.search.group import Group
from train.search.members import Callback, Course, Evaluated, Exploit, Member, Trained, Way, trace
from train.state import Task
from zoo.options import unknown

__all__ = ["Evaluated", "Exploit", "Member", "Trained", "fit_population"]


def fit_population(
    members: Sequence[Member | Task],
    dataset: Data,
    *,
    batch_size: int,
    epochs: float | None = None,
    steps: int | None = None,
    validation: str | None = "validation",
    evaluate_every: int | None = None,
    steps_per_dispatch: int | None = None,
    way: Way | None = None,
    devices: Sequence[Any] | None = None,
    callback: Callback | None = None,
    exploit: Exploit | None = None,
) -> list[Trained]:
    """Trains each member as `fit` would.

    Args:
      members: what to train; a task alone has the seed 0.
      dataset: as for `fit`.
      batch_size: examples in a step of one member.
      epochs: as for `fit`.
      steps: as for `fit`.
      validation: as for `fit`.
      evaluate_every: as for `fit`.
      steps_per_dispatch: as for `fit`.
      way: `vmap` or `loop`. By default `vmap`, but on a CPU `loop` for networks with convolutions, which are grouped
        convolutions for several members at once and slow there, and on graphs, likewise.
      devices: over which members are divided evenly; by default as many as divide a group.
      callback: told of each evaluation of each group.
      exploit: for population-based training. The members then form one group.

    Raises:
      ValueError: there is no member, sizes do not fit together, or members with several seeds are to be trained on data
        that are too many to lie on the device.
    """
    members = [member if isinstance(member, Member) else Member(member) for member in members]
    if not members:
        raise ValueError("a population has at least one member")
    if wrong := [member for member in members if not isinstance(member.task, Task)]:
        raise ValueError(f"a member of a population is a task, or a Member with one; not {wrong[0].task!r}")
    if way not in (None, "vmap", "loop"):
        raise ValueError(unknown("way", str(way), ("vmap", "loop")))
    dataset = as_dataset(dataset)
    require_validation(dataset, validation)
    place = parallel.jit(jax.devices()[:1])
    training = feed(dataset, "train", place)
    if not training.shared and len({member.seed for member in members}) > 1:
        raise ValueError(
            f"data set {dataset.name!r} does not lie on the device: each seed would read it in an order of its own. "
            "Give all members one seed"
        )
    per_epoch = data.steps_per_epoch(training.num_examples, batch_size)
    for name, value in (("evaluate_every", evaluate_every), ("steps_per_dispatch", steps_per_dispatch)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    total = length_of(epochs, steps, per_epoch, batch_size)
    every = min(evaluate_every or per_epoch, total)
    evaluation = feed(dataset, validation, place) if validation is not None and validation in dataset.splits else None
    if exploit is not None:
        _require(exploit, members)
    course = Course(dataset, training, evaluation, validation, batch_size, total, every, per_epoch, steps_per_dispatch)
    traced = trace(members, course)
    forms: dict[Any, list[int]] = {}
    for number, each in enumerate(traced):
        forms.setdefault(each.form, []).append(number)
    if exploit is not None:
        if len(forms) > 1:
            raise ValueError("the settings change more of the members' programs than numbers: Exploit needs one group")
        evaluated = traced[0].evaluate
        known = [*traced[0].train.result[1]]
        known += [] if evaluated is None else [f"{validation}_{name}" for name in evaluated.result]
        if exploit.monitor not in known:
            raise ValueError(unknown("metric of Exploit", exploit.monitor, known))
    histories: list[History] = [[] for _ in members]
    results: dict[int, Trained] = {}
    for number, group in enumerate(forms.values()):
        trained = Group(course, [members[i] for i in group], [traced[i] for i in group], way, devices, exploit)
        results |= trained.run(number, group, histories, callback)
    return [results[number] for number in range(len(members))]


def _require(exploit: Exploit, members: Sequence[Member]) -> None:
    if len(exploit.settings) != len(members):
        raise ValueError(f"Exploit has settings for {len(exploit.settings)} members, and there are {len(members)}")
    if not 0 < exploit.share <= 0.5:
        raise ValueError(f"share of Exploit is a fraction up to 0.5, not {exploit.share}")
    if exploit.every < 1:
        raise ValueError(f"every of Exploit must be at least 1, not {exploit.every}")
    if len(members) < 2:
        raise ValueError("population-based training needs at least 2 members")
