"""How many configurations are evaluated at once: as a population, each with a run folder of its own in the end."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import data
from train.loop.checkpoints import History
from train.metrics import higher_is_better
from train.recipe import Recipe, load_data
from train.runs.build import Parts
from train.runs.run import prepare, record
from train.search.evaluation import Candidate, Evaluate, Outcome, Tell, one_by_one, reason
from train.search.populations import Evaluated, Member, fit_population
from train.state import State


class _Ready(NamedTuple):
    """A candidate that is to be a member, with what is kept of it: under "best" the step and state of its best."""

    candidate: Candidate
    recipe: Recipe
    parts: Parts
    kept: dict[str, tuple[int, State]]


def at_once() -> Evaluate:
    """Trains candidates together where they have data, batch size and length in common, see `fit_population`.

    A run is written when its training ends: one whose process died begins anew. A candidate that has a run already, or
    a recipe with patience or another plan than jit, is trained by itself.
    """
    alone = one_by_one()

    def evaluate(candidates: Sequence[Candidate], tell: Tell) -> Iterator[Outcome]:
        groups: dict[str, list[Candidate]] = {}
        for candidate in candidates:
            groups.setdefault(_common(candidate), []).append(candidate)
        for name, group in groups.items():
            if not name or len(group) == 1:
                yield from alone(group, tell)
            else:
                yield from _population(group, tell)

    return evaluate


def _common(candidate: Candidate) -> str:
    """What members of a population have in common, as text; empty for a candidate that is trained by itself."""
    recipe = candidate.recipe
    if recipe.patience is not None or recipe.plan != "jit" or (candidate.folder / "recipe.json").exists():
        return ""
    of_data = [recipe.data, recipe.data_options, recipe.seed, recipe.validation]
    return json.dumps([*of_data, recipe.batch_size, recipe.epochs, recipe.evaluate_every], sort_keys=True)


def _population(candidates: Sequence[Candidate], tell: Tell) -> Iterator[Outcome]:
    first = candidates[0].recipe
    dataset: data.Dataset = load_data(first)
    ready: list[_Ready] = []
    for candidate in candidates:
        try:
            recipe, parts = prepare(candidate.recipe, candidate.folder, False, dataset)
            ready.append(_Ready(candidate, recipe, parts, {}))
        except (ValueError, TypeError, RuntimeError) as error:
            yield Outcome(candidate.number, failure=reason(error))
    # What makes several batches one update rounds the length to whole updates.
    for steps in dict.fromkeys(each.parts.steps for each in ready):
        yield from _train([each for each in ready if each.parts.steps == steps], dataset, tell)


def _train(ready: Sequence[_Ready], dataset: data.Dataset, tell: Tell) -> Iterator[Outcome]:
    first = ready[0].recipe
    sign = 1 if higher_is_better(first.monitor) else -1
    scores = dict.fromkeys(range(len(ready)), -math.inf)
    stopped: set[int] = set()

    def hear(evaluated: Evaluated) -> Sequence[int]:
        stop = []
        for member in evaluated.members:
            each, history = ready[member], evaluated.histories[member]
            score = sign * history[-1][first.monitor]
            if score > scores[member] or not each.kept:
                scores[member] = score
                each.kept["best"] = evaluated.step, evaluated.state(member)
            if tell(each.candidate.number, history) and evaluated.step < each.parts.steps:
                stop.append(member)
        stopped.update(stop)
        return stop

    members = [_member(each) for each in ready]
    trained = fit_population(
        members,
        dataset,
        batch_size=first.batch_size,
        steps=ready[0].parts.steps,
        evaluate_every=first.evaluate_every,
        steps_per_dispatch=first.steps_per_dispatch,
        callback=hear,
    )
    for number, (each, result) in enumerate(zip(ready, trained, strict=True)):
        history: History = result.fitted.history
        trial = each.candidate.number
        if result.diverged:
            yield Outcome(trial, history, failure=f"the loss is no number at step {result.diverged}")
            continue
        states = dict([each.kept["best"], (int(history[-1]["step"]), result.fitted.state)])
        record(each.recipe, each.parts, each.candidate.folder, sorted(states.items(), key=_step), history)
        yield Outcome(trial, history, stopped=number in stopped, way=f"{len(ready)} at once by {result.way}")


def _member(ready: _Ready) -> Member:
    parts = ready.parts
    adapt = None if parts.plateau is None else parts.plateau.rescale
    return Member(parts.task, ready.recipe.seed, parts.augment, adapt)


def _step(kept: tuple[int, Any]) -> int:
    return kept[0]
