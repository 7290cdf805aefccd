"""The trials of a study: handed out to processes, told of, and taken back from those that died.

All trials of a study wait in its storage from the beginning, by number. A process takes one that waits; so there are
never more of them than were asked for, however many processes and machines work. A trial whose process has died waits
again, with the values that it drew, and whoever takes it goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import threading
import uuid
import warnings
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from train.search.pruning import Values, is_pruned
from train.search.space import Space
from train.search.storage import GRACE, HEARTBEAT, alone, holding, is_held, open_storage

SAMPLERS = ("tpe", "random")

MOST_DEATHS = 5
"""A trial fails whose process has died so often after the same number of evaluations."""


class Plan(NamedTuple):
    """What a study searches; two with the same plan draw the same values.

    Attributes:
      space: what is drawn.
      maximize: whether more is better.
      sampler: one of `SAMPLERS`.
      pruner: one of `train.search.pruning.PRUNERS`.
      length: evaluations of a whole training, for the pruner.
      seed: of the draws.
      about: what else the study is of, by name; it goes on only with the same.
    """

    space: Space
    maximize: bool
    sampler: str = "tpe"
    pruner: str = "none"
    length: int = 1
    seed: int = 0
    about: dict[str, Any] = {}  # noqa: RUF012  never changed

    def facts(self) -> dict[str, Any]:
        """All of it as JSON, by name."""
        return {**self.about, **self._replace(space=None, about=None)._asdict(), "space": dict(self.space.texts)}  # type: ignore[arg-type]


class ByNumber(BaseSampler):
    """Draws by (seed, number of the trial, name of the draw) and by the trials that have ended, and nothing else.

    So a study that was interrupted draws what it would have drawn, and a trial that is taken up again does too.
    """

    def __init__(self, kind: str, seed: int):
        self._kind = kind
        self._seed = seed

    def _sampler(self, trial: FrozenTrial, name: str = "") -> BaseSampler:
        words = np.random.SeedSequence([self._seed, trial.number, zlib.crc32(name.encode())])
        seed = int(words.generate_state(1)[0])
        # Running trials count as bad ones: several processes, or a batch, do not all try the same.
        return RandomSampler(seed) if self._kind == "random" else TPESampler(seed=seed, constant_liar=True)

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, Any]:
        """See Optuna."""
        return self._sampler(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """See Optuna."""
        return self._sampler(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """See Optuna."""
        return self._sampler(trial, param_name).sample_independent(study, trial, param_name, param_distribution)


def open_study(plan: Plan, name: str, folder: Path | None = None, url: str | None = None) -> optuna.Study:
    """The study of a name in a storage; it is made where it is not there.

    Raises:
      ValueError: the storage cannot be used, or holds a study of this name with another plan.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(folder, url)
    parts: dict[str, Any] = {"storage": storage, "study_name": name}
    parts |= {"sampler": ByNumber(plan.sampler, plan.seed), "pruner": optuna.pruners.NopPruner()}  # see pruning.py
    try:
        if name in optuna.get_all_study_names(storage):  # nothing is written where nothing is left to do
            study = optuna.load_study(**parts)
        else:
            direction = "maximize" if plan.maximize else "minimize"
            study = optuna.create_study(**parts, direction=direction, load_if_exists=True)
    except (KeyError, AssertionError) as error:
        raise ValueError(f"{url or folder} holds no study of this version of Optuna: {error}") from None
    kept, wanted = study.user_attrs.get("plan"), plan.facts()
    if kept is None:
        if study.get_trials(deepcopy=False):
            raise ValueError(f"the study {name!r} in {url or folder} was not made by `zoo tune`; choose another name")
        study.set_user_attr("plan", wanted)
    elif changed := [f"{n}: {kept.get(n)} → {wanted.get(n)}" for n in wanted if kept.get(n) != wanted.get(n)]:
        raise ValueError(
            f"the study {name!r} in {url or folder} is of something else; go on with what it is of, or choose another "
            "folder with --run:\n  " + "\n  ".join(changed)
        )
    return study


@contextlib.contextmanager
def opened_study(plan: Plan, name: str, folder: Path | None = None, url: str | None = None) -> Iterator[optuna.Study]:
    """`open_study`, which lets go of its database in the end."""
    study = open_study(plan, name, folder, url)
    try:
        yield study
    finally:
        backend = getattr(study._storage, "_backend", None)
        if isinstance(backend, RDBStorage):
            backend.remove_session()
            backend.engine.dispose()


class Trials:
    """The trials of a study, as one process sees them.

    Args:
      study: see `open_study`.
      plan: of the study.
      total: how many trials it has in the end.
      folder: where processes of this machine meet; None where this is the only one.
    """

    def __init__(self, study: optuna.Study, plan: Plan, total: int, folder: Path | None = None):
        self._study = study
        self._storage = study._storage
        self._plan = plan
        self._total = total
        self._folder = folder
        self._is_database = isinstance(getattr(self._storage, "_backend", None), RDBStorage)
        self._mine: dict[int, Trial] = {}
        self._owner = uuid.uuid4().hex
        with self._alone():
            for _ in range(len(study.get_trials(deepcopy=False)), total):
                study.enqueue_trial({})

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return alone(None if self._folder is None else self._folder / "claim.lock")

    def _holder(self, owner: str) -> Path | None:
        return None if self._folder is None else self._folder / "workers" / owner

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Inside, this process is known to be alive. Trials that it has not finished then wait for another."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(HEARTBEAT):
                for trial in list(self._mine.values()):
                    self._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]

        thread = threading.Thread(target=beat, daemon=True)
        with holding(self._holder(self._owner)):
            if self._is_database:
                thread.start()
            try:
                yield
            finally:
                over.set()
                if self._is_database:
                    thread.join()
                for number in list(self._mine):
                    self._set(self._mine.pop(number)._trial_id, TrialState.WAITING)

    def claim(self, count: int = 1) -> list[tuple[int, dict[str, Any]]]:
        """Takes so many trials that wait, or fewer: the number of each, and its settings."""
        taken = []
        with self._alone():
            self.take_back()
            while len(taken) < count and self._waiting():
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="Heartbeat of storage")
                    trial = self._study.ask()
                if self._is_database:
                    self._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
                if trial.number >= self._total:  # another machine took the last one meanwhile
                    self._set(trial._trial_id, TrialState.WAITING)
                    break
                trial.set_user_attr("owner", self._owner)
                self._mine[trial.number] = trial
                taken.append((trial.number, self._plan.space.draw(trial)))
        return taken

    def _waiting(self) -> bool:
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return any(trial.number < self._total for trial in waiting)

    def take_back(self) -> None:
        """Lets trials wait again whose process has died; one that kills every process fails."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        dead = [trial for trial in running if trial.number not in self._mine and self._is_dead(trial)]
        for holder in {self._holder(trial.user_attrs["owner"]) for trial in dead if "owner" in trial.user_attrs}:
            if holder is not None:
                holder.unlink(missing_ok=True)
        for trial in dead:
            deaths = [*trial.user_attrs.get("deaths", []), trial.last_step or 0]
            self._storage.set_trial_user_attr(trial._trial_id, "deaths", deaths)
            if len(deaths) < MOST_DEATHS or len(set(deaths[-MOST_DEATHS:])) > 1:
                self._set(trial._trial_id, TrialState.WAITING)
                continue
            reason = f"its process died {MOST_DEATHS} times after {deaths[-1]} evaluations; for want of memory?"
            self._storage.set_trial_user_attr(trial._trial_id, "failure", reason)
            self._set(trial._trial_id, TrialState.FAIL)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get("owner")
        holder = self._holder(owner) if owner else None
        if holder is not None and holder.exists():
            return not is_held(holder)
        if not self._is_database:
            return self._folder is not None  # whoever takes a trial is known by now: we are alone
        if owner is None:  # taken on another machine just now
            return trial.datetime_start is None or (datetime.now() - trial.datetime_start).total_seconds() > GRACE
        return trial._trial_id in self._storage._get_stale_trial_ids(self._study._study_id)  # type: ignore[attr-defined]

    def _set(self, trial_id: int, state: TrialState) -> None:
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another process was faster
            self._storage.set_trial_state_values(trial_id, state=state)

    def ended(self) -> int:
        """How many trials have ended."""
        return sum(trial.state.is_finished() for trial in self._study.get_trials(deepcopy=False))

    def report(self, number: int, evaluations: int, value: float) -> bool:
        """Notes the best value of a trial after so many evaluations; whether the trial should end there.

        It also should where another machine has ended it, which took this one for dead.
        """
        latest = self._latest(number)
        try:
            if math.isfinite(value) and evaluations not in latest.intermediate_values:
                self._mine[number].report(value, evaluations)
        except optuna.exceptions.UpdateFinishedTrialError:
            return True

        def trials() -> Iterator[tuple[int, Values]]:
            yield from ((t.number, t.intermediate_values) for t in self._study.get_trials(deepcopy=False))

        plan = self._plan
        return is_pruned(plan.pruner, number, evaluations, trials(), length=plan.length, maximize=plan.maximize)

    def _latest(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._mine[number]._trial_id)

    def complete(self, number: int, value: float) -> None:
        """Ends a trial with its value; one that is no number fails."""
        if math.isfinite(value):
            self._end(number, TrialState.COMPLETE, value)
        else:
            self.fail(number, f"its value is {value}")

    def prune(self, number: int) -> None:
        """Ends a trial before its time; the value that it reported last is its value."""
        self._end(number, TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """Ends a trial without a value; other trials do not hear of it."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._mine[number].set_user_attr("failure", reason)
        self._end(number, TrialState.FAIL)

    def _end(self, number: int, state: TrialState, value: float | None = None) -> None:
        # Another machine may have ended it, which took this one for dead: the values are the same.
        self._study.tell(self._mine.pop(number), value, state=state, skip_if_finished=True)


def rows(study: optuna.Study, space: Space, total: int | None = None) -> list[dict[str, Any]]:
    """A row for each trial that was begun: number, state, value, evaluations, seconds, failure, and its settings."""
    table = []
    for trial in study.get_trials(deepcopy=False)[:total]:
        if trial.state == TrialState.WAITING:
            continue
        seconds = trial.duration.total_seconds() if trial.duration is not None else None
        value = trial.value if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) else None
        table.append(
            {
                "trial": trial.number,
                "state": {"fail": "failed"}.get(trial.state.name.lower(), trial.state.name.lower()),
                "value": value,
                "evaluations": trial.last_step or 0,
                "seconds": seconds,
                "failure": trial.user_attrs.get("failure", ""),
                "settings": {} if trial.state == TrialState.RUNNING else settings_of(trial, space),
                "draws": dict(trial.params),
            }
        )
    return table


def settings_of(trial: FrozenTrial, space: Space) -> dict[str, Any]:
    """The settings that a trial drew."""
    return space.draw(optuna.trial.FixedTrial(dict(trial.params)))
