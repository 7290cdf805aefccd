"""Tuning: the settings of a recipe that give the best metric (guide, section 12.3).

A study folder holds `study.json` (what is searched), `study.journal` (where no database keeps it), the run folder of
each trial in `trials/`, `trials.csv` and `trials.json`, `report.json`, and pictures: `history.png`, `importance.png`
and `parallel.png`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import data
from train.files import as_json, read_json, write_whole
from train.inference.required_code import sources
from train.loop.callbacks import sigterm
from train.loop.checkpoints import History
from train.loop.fitting import InterruptedTraining
from train.metrics import higher_is_better
from train.recipe import Recipe, load_data, override
from train.runs.build import build
from train.runs.transfer import with_absolute_paths
from train.search.evaluation import Candidate, Evaluate, one_by_one
from train.search.processes import side_by_side
from train.search.pruning import PRUNERS
from train.search.results import summarise
from train.search.space import Space, of_floats, parse_space
from train.search.trials import SAMPLERS, Plan, Trials, opened_study
from train.user_code import Code
from zoo.options import COUNT, POSITIVE, Range, unknown
from zoo.registry import list_models, model_card

STUDY = "study.json"

GUIDE_SPACE = (
    "model_options.hidden_sizes=[32..512:32]*1..4",
    "model_options.dropout_rate=0..0.5:0.1",
    "learning_rate=log:1e-4..1e-2",
)
"""The guide's space (section 12.3), for recipes whose model is an MLP; the dropout rate is that of all layers."""

_COMPARABLE = {
    "data": "trials on other data cannot be compared",
    "validation": "trials on other validation examples cannot be compared",
    "seed": "it decides which examples validate, so that trials could not be compared; --seed is that of the search",
    "task": "trials of another task cannot be compared",
    "monitor": "it is what is searched for; choose it with --metric",
    "evaluate_every": "trials are compared after the same number of evaluations",
}
"""Fields of a recipe that cannot be drawn, and why."""


class Work(NamedTuple):
    """What a process that trains candidates needs to know."""

    plan: Plan
    recipe: Recipe
    metric: str
    folder: Path
    name: str
    url: str | None
    trials: int
    deadline: float | None
    evaluator: Callable[[], Evaluate]
    population: int
    progress: bool
    code: tuple[Code, ...]


class OutOfTime(Exception):
    """The time that a search had is over."""


class InterruptedSearch(RuntimeError):
    """A search was asked to end by SIGTERM; the same call goes on with it."""


def tune(
    recipe: Recipe,
    folder: str | Path,
    settings: Sequence[str] = (),
    *,
    trials: int,
    metric: str | None = None,
    sampler: str = "tpe",
    pruner: str = "hyperband",
    seed: int = 0,
    timeout: float | None = None,
    workers: int = 1,
    storage: str | None = None,
    evaluator: Callable[[], Evaluate] = one_by_one,
    population: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains a recipe with settings that a search draws, each trial in a run folder, and reports the best.

    A study that was interrupted, however hard, goes on to the same number of trials: a trial that was running goes on
    from its checkpoint. With one worker, the end is that of a study that was not interrupted. Several processes and
    machines may work on one study.

    Args:
      recipe: what to train.
      folder: of the study; made if it is not there.
      settings: the space and changes to the recipe, see `train.search.space`; by default `GUIDE_SPACE`, for an MLP.
      trials: how many the study has in the end.
      metric: what to search for, a column of the history; `recipe.monitor` by default. The value of a trial is its best
        one, that of the checkpoint which its run uses.
      sampler: "tpe" or "random".
      pruner: "hyperband", "halving" or "none".
      seed: of the search; one worker draws the same trials by the same seed.
      timeout: seconds after which no more is trained; what was being trained goes on when the study does.
      workers: processes that train.
      storage: URL of a database, for several machines; by default a journal in the folder.
      evaluator: makes the function that trains candidates, in each worker.
      population: how many candidates it is given at once.
      progress: whether to tell of each trial as it ends.

    Returns:
      The report, as in `report.json`, with a row for each trial under `table`.

    Raises:
      ValueError: something is wrong with the space, the recipe, the folder or the storage, before anything is trained;
        or no trial has a value, afterwards.
      InterruptedSearch: SIGTERM has come. The trial that was running goes on from its checkpoint when the study does.
    """
    folder = Path(folder)
    for name, value, allowed in (
        ("trials", trials, COUNT),
        ("workers", workers, COUNT),
        ("population", population, COUNT),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be {allowed}, not {value}")
    if timeout is not None and timeout not in POSITIVE:
        raise ValueError(f"timeout must be {POSITIVE} seconds, not {timeout}")
    if seed not in (seeds := Range(0, 2**32 - 1)):
        raise ValueError(f"seed must be {seeds}, not {seed}")
    for name, value, known in (("sampler", sampler, SAMPLERS), ("pruner", pruner, PRUNERS)):
        if value not in known:
            raise ValueError(unknown(name, value, known))
    deadline = None if timeout is None else time.time() + timeout
    space, fixed = parse_space(settings)
    base = override(recipe, fixed)
    if not space.draws:
        space = _default_space(base)
    base = with_absolute_paths(dataclasses.replace(base, monitor=metric or base.monitor))
    space = _checked_names(space, base)
    length, code = _tried(space, base)
    about = json.loads(base.to_json())
    plan = Plan(space, higher_is_better(base.monitor), sampler, pruner, length, seed, about)
    _claim(folder, plan)
    work = Work(
        *(plan, base, base.monitor, folder, folder.resolve().name, storage, trials),
        *(deadline, evaluator, population, progress, code),
    )
    with opened_study(plan, work.name, folder, storage) as study:
        write_whole(folder / STUDY, as_json(plan.facts()) + "\n")
        shared = Trials(study, plan, trials, folder)
        if progress:
            goal = "highest" if plan.maximize else "lowest"
            print(f"{trials} trials for the {goal} {base.monitor}, each of up to {length} evaluations", file=sys.stderr)
        interrupted = train_candidates(shared, work) if workers == 1 else side_by_side(do, work, workers, shared)
        shared.take_back()
        if interrupted:
            raise InterruptedSearch(
                f"the search was interrupted after {shared.ended()} of {trials} trials, and is saved"
            )
        return summarise(study, space, base, folder)


def do(work: Work) -> None:
    """Trains candidates of a study in a process of its own."""
    with opened_study(work.plan, work.name, work.folder, work.url) as study:
        train_candidates(Trials(study, work.plan, work.trials, work.folder), work)


def train_candidates(trials: Trials, work: Work) -> bool:
    """Trains candidates until no trial waits, the time is over, or SIGTERM comes; whether that came."""
    with sigterm() as interrupted:
        return _train(trials, work, lambda: interrupted(0))


def _train(trials: Trials, work: Work, interrupted: Callable[[], bool]) -> bool:
    evaluate = work.evaluator()
    column, better = work.metric, max if work.plan.maximize else min

    def best(history: History) -> float:
        values = [row[column] for row in history if row[column] == row[column]]
        return better(values) if values else float("nan")

    def tell(number: int, history: History) -> bool:
        stop = trials.report(number, len(history), best(history))
        if interrupted() or (work.deadline is not None and time.time() > work.deadline):
            raise OutOfTime
        return stop

    with trials.working():
        try:
            while not interrupted() and (work.deadline is None or time.time() < work.deadline):
                if not (taken := trials.claim(work.population)):
                    break
                candidates = [Candidate(n, set_fields(work.recipe, s), run_of(work.folder, n)) for n, s in taken]
                drawn = dict(taken)
                for outcome in evaluate(candidates, tell):
                    number, value = outcome.number, best(outcome.history)
                    if outcome.failure:
                        trials.fail(number, outcome.failure)
                    elif outcome.stopped:
                        trials.prune(number)
                    else:
                        trials.complete(number, value)
                    if work.progress:
                        how = "pruned after" if outcome.stopped else "trained for"
                        evaluations = f"{len(outcome.history)} of {work.plan.length} evaluations"
                        way = outcome.way and f", {outcome.way}"
                        ended = outcome.failure or f"{how} {evaluations}{way}, {column} {value:.6g}"
                        words = " ".join(f"{name}={setting}" for name, setting in drawn[number].items())
                        print(f"trial {number}: {ended}  {words}", file=sys.stderr, flush=True)
        except OutOfTime:
            pass
        except InterruptedTraining:  # it heard the signal in our place
            return True
    return interrupted()


def run_of(folder: Path, number: int) -> Path:
    """The run folder of a trial."""
    return folder / "trials" / f"{number:04d}"


def set_fields(recipe: Recipe, settings: dict[str, Any]) -> Recipe:
    """The recipe with settings by name."""
    return override(recipe, [f"{name}={value!r}" for name, value in settings.items()])


def _default_space(recipe: Recipe) -> Space:
    if recipe.model != "mlp":
        raise ValueError(
            "the space is empty: give a range or a choice, such as learning_rate=log:1e-4..1e-2 or batch_size=16,32,64"
        )
    return parse_space(GUIDE_SPACE)[0]


def _checked_names(space: Space, recipe: Recipe) -> Space:
    """The space with ranges of floats where the settings are floats."""
    defaults = dict(model_card(recipe.model).options) if recipe.model in list_models() else {}
    defaults |= recipe.model_options
    draws = dict(space.draws)
    for name, kind in draws.items():
        field, _, option = name.partition(".")
        if field in _COMPARABLE:
            raise ValueError(f"{name} cannot be searched: {_COMPARABLE[field]}")
        if field == "task_options" and option != "ema_decay" and recipe.monitor.endswith(("loss", "elbo")):
            raise ValueError(
                f"{name} cannot be searched for the best {recipe.monitor}: it may change what that measures; choose "
                "another metric, such as --metric validation_accuracy"
            )
        group = defaults if field == "model_options" else getattr(recipe, field, None)
        default = group.get(option) if isinstance(group, dict) else group
        if isinstance(default, float):
            draws[name] = of_floats(kind)
    return space._replace(draws=draws)


def _tried(space: Space, recipe: Recipe) -> tuple[int, tuple[Code, ...]]:
    """Builds the recipe at each end of the space, which finds out what is wrong there.

    Returns:
      The most evaluations of a training, and the code of a user's own that it needs.
    """
    if recipe.monitor == "step":
        raise ValueError(f"the task {recipe.task!r} tells nothing that is better or worse; choose what with --metric")
    dataset = load_data(recipe)
    options = json.dumps(recipe.data_options)

    def length(at: Recipe, dataset: data.Dataset | None) -> int:
        parts = build(at, dataset)
        examples = len(parts.dataset.splits["train"])
        every = at.evaluate_every or data.steps_per_epoch(examples, at.batch_size)
        return -(-parts.steps // min(every, parts.steps))

    lengths, codes = [length(recipe, dataset)], sources(recipe)
    for name, value in space.ends():
        try:
            at = set_fields(recipe, {name: value})
            lengths.append(length(at, dataset if json.dumps(at.data_options) == options else None))
            codes += sources(at)
        except ValueError as error:
            raise ValueError(f"the space holds what cannot be trained, {name}={value}: {error}") from error
    return max(lengths), tuple(dict.fromkeys(codes))


def _claim(folder: Path, plan: Plan) -> None:
    """Refuses a folder that holds something else, and makes one that is not there."""
    if (folder / STUDY).is_file():
        kept, wanted = read_json(folder / STUDY, dict[str, Any]), json.loads(as_json(plan.facts()))
        if changed := [f"{n}: {kept.get(n)} → {wanted.get(n)}" for n in wanted if kept.get(n) != wanted.get(n)]:
            raise ValueError(
                f"the study in {folder} is of something else; go on with what it is of, or choose another folder with "
                "--run:\n  " + "\n  ".join(changed)
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is no study of `zoo tune`; choose another folder with --run")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / ".writable", "")
        (folder / ".writable").unlink()
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be written to: {error.strerror or error}") from None
