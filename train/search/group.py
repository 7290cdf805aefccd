"""Members whose programs differ in numbers alone, trained by one program."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from train.loop import parallel
from train.loop.fitting import Fitted, History, concatenate
from train.loop.programs import dispatches, suitable_steps
from train.memory import require_memory, tree_bytes
from train.metrics import higher_is_better, summarize
from train.search.common_program import Program, common
from train.search.members import Callback, Course, Evaluated, Exploit, Member, Traced, Trained, Way, trace
from train.state import State

_AXIS = "member"


class Group:
    """Members whose programs differ in numbers alone, in training."""

    def __init__(
        self,
        course: Course,
        members: Sequence[Member],
        traced: Sequence[Traced],
        way: Way | None,
        devices: Sequence[Any] | None,
        exploit: Exploit | None,
    ):
        self._course, self._members = course, members
        tree = traced[0].init.result
        require_memory(3 * len(members) * tree_bytes(tree), f"a population of {len(members)}")
        self._alive = list(range(len(members)))
        convolutions = suitable_steps(traced[0].train.closed) == 1
        # Products of sparse rows, one for each member, take 180 ms for 20 on 2 CPU cores, and .5 ms for one.
        on_graphs = "senders" in course.dataset.spec.fields and jax.default_backend() == "cpu"
        self.way: Way = way or ("loop" if convolutions or on_graphs or len(members) == 1 else "vmap")
        self._one_order = len({member.seed for member in members}) == 1
        devices = devices or jax.devices()
        count = _divisor(len(members), len(devices))
        # A CPU takes the steps of a scan in one thread, and programs that one thread starts one after the other: each
        # of its cores has members of its own.
        cores = (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1
        at_once = _divisor(len(members), cores) if count == 1 else 1
        self._size = 1 if self.way == "loop" else len(members) // at_once
        self._threads = ThreadPoolExecutor(cores) if cores > 1 else None
        many = 1 if self.way == "vmap" and at_once < cores else suitable_steps(traced[0].train.closed)
        self._steps = course.steps_per_dispatch or many
        mesh = jax.make_mesh((count,), (_AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])
        self._split = NamedSharding(mesh, PartitionSpec(_AXIS))
        self._whole = NamedSharding(mesh, PartitionSpec())
        self._exploit = exploit
        if exploit is not None:
            self._rng = np.random.default_rng(exploit.seed)
            self._settings = [dict(settings) for settings in exploit.settings]
        self._shared = self._put(course.training.shared)
        self._evaluation_shared = None if course.evaluation is None else self._put(course.evaluation.shared)
        self._compile(traced)
        init = common([each.init for each in traced])
        keys = [jax.random.key(member.seed) for member in members]
        # What runs once is optimised a little, as that of a training alone, to the same bits.
        start = self._run(init.function, (0, 0), xla_backend_optimization_level=1)
        self._states: Any = start(self._parted(list(init.numbers)), self._joined(keys))

    def _compile(self, traced: Sequence[Traced], known: Sequence[Traced] = ()) -> None:
        """Makes one program of those of the members; what others differ in that are known is an argument of it too."""
        self._train = common([each.train for each in (*traced, *known)])
        self._evaluation = common(programs) if (programs := _evaluations([*traced, *known])) else None
        items = None if self._one_order else 0
        self._step = self._run(self._steps_of(self._train.function), (0, 0, items, None), 1)
        if self._evaluation is not None:
            self._evaluate = self._run(self._evaluation.function, (0, 0, None, None))
        self._known = [*traced, *known]
        self._renumber(traced)

    def _renumber(self, traced: Sequence[Traced]) -> None:
        self._train_numbers = self._parted(list(self._train.numbers_of([each.train for each in traced])))
        if self._evaluation is not None:
            self._evaluate_numbers = self._parted(list(self._evaluation.numbers_of(_evaluations(traced))))

    # How a function of one member is computed for all: part by part, as many side by side as a CPU has cores. A part
    # holds a member; or several at once, and then their arrays lie in one, whose first axis is the member's.

    def _run(
        self, function: Callable[..., Any], axes: Sequence[int | None], donated: int | None = None, **options: Any
    ) -> Any:
        donate = () if donated is None else (donated,)
        options = {**(parallel.compiler_options() or {}), **options}
        if self.way == "vmap":
            several = jax.vmap(function, in_axes=tuple(axes))
            compiled = jax.jit(several, donate_argnums=donate, out_shardings=self._split, compiler_options=options)
        else:
            compiled = jax.jit(function, donate_argnums=donate, compiler_options=options)

        def run(*arguments: Any) -> list[Any]:
            def of(part: int) -> Any:
                if all(member // self._size != part for member in self._alive):
                    return None
                own = (a if axis is None else a[part] for a, axis in zip(arguments, axes, strict=True))
                result = compiled(*own)
                return result if self._threads is None else jax.block_until_ready(result)

            parts = range(len(self._members) // self._size)
            return list((map if self._threads is None else self._threads.map)(of, parts))

        return run

    def _joined(self, members: Sequence[Any]) -> list[Any]:
        """The parts, from what each member has."""
        if self.way == "loop":
            return list(members)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
        return self._parted(stacked)

    def _parted(self, whole: Any) -> list[Any]:
        """The parts of arrays whose first axis is the member's."""
        if self.way == "loop":
            return [jax.tree.map(lambda leaf, i=i: leaf[i], whole) for i in range(len(self._members))]
        starts = range(0, len(self._members), self._size)
        parts = (jax.tree.map(lambda leaf, i=i: leaf[i : i + self._size], whole) for i in starts)
        return [jax.device_put(part, self._split) for part in parts]

    def _put(self, shared: Any) -> Any:
        return shared if self.way == "loop" else jax.device_put(shared, self._whole)

    def _of(self, joined: Sequence[Any], member: int) -> Any:
        part, place = divmod(member, self._size)
        return joined[part] if self.way == "loop" else jax.tree.map(lambda leaf: leaf[place], joined[part])

    def _state(self, member: int) -> State:
        """The state of a member, which the next step leaves as it is."""
        state = self._of(self._states, member)
        return jax.tree.map(jnp.copy, state) if self.way == "loop" else state

    @staticmethod
    def _steps_of(step: Callable[..., Any]) -> Callable[..., Any]:
        """Several steps, whose items have a leading axis, from the program of one."""

        def steps(numbers: Any, state: State, items: Any, shared: Any) -> Any:
            if jax.tree.leaves(items)[0].shape[0] == 1:
                return step(numbers, state, items, shared)

            def one(state: State, item: Any) -> Any:
                state, metrics = step(numbers, state, jax.tree.map(lambda leaf: leaf[None], item), shared)
                return state, jax.tree.map(lambda leaf: leaf[0], metrics)

            return jax.lax.scan(one, state, items)

        return steps

    def _items(self) -> Iterator[tuple[int, int, Any]]:
        """(start, number of steps, what the steps are given), to the end of training."""
        course = self._course
        bounds = list(dispatches(0, course.total, course.every, min(self._steps, course.every)))
        if self._one_order:
            seed = self._members[0].seed
            rows = (course.rows(seed, start, count) for start, count in bounds)
            for (start, count), item in zip(bounds, course.training.items(rows), strict=True):
                yield start, count, item
            return
        first, rows = 0, np.zeros(())
        for start, count in bounds:
            if start % course.every == 0:
                first, length = start, min(course.every, course.total - start)
                rows = np.stack([course.rows(member.seed, start, length) for member in self._members])
            yield start, count, rows[:, start - first : start - first + count]

    def run(
        self, group: int, numbers: Sequence[int], histories: Sequence[History], callback: Callback | None
    ) -> dict[int, Trained]:
        """Trains to the end; the result of each member by its number in the population."""
        course, began = self._course, time.perf_counter()
        results: dict[int, Trained] = {}
        since: list[Any] = []

        def end(member: int, diverged: int = 0) -> None:
            settings = self._settings[member] if self._exploit is not None else None
            fitted = Fitted(self._state(member), histories[numbers[member]])
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted.state.params)):
                diverged = diverged or int(fitted.state.step)  # by the step that it took last
            results[numbers[member]] = Trained(fitted, diverged, self.way, group, settings)
            self._alive.remove(member)

        for start, count, item in self._items():
            since.append(self._take(item))
            step = start + count
            if step % course.every and step != course.total:
                continue
            for member, row, diverged in self._rows(since, step):
                if diverged:
                    end(member, diverged)
                else:
                    histories[numbers[member]].append({**row, "seconds": time.perf_counter() - began})
            since.clear()
            self._adapt(histories, numbers)
            for member in self._told(step, histories, numbers, callback):
                end(member)
            if not self._alive:
                break
            evaluations = -(-step // course.every)
            if self._exploit is not None and step != course.total and evaluations % self._exploit.every == 0:
                self._exchange(histories, numbers)
        for member in tuple(self._alive):
            end(member)
        return results

    def _take(self, item: Any) -> Any:
        """Takes steps; the metrics of each member."""
        item = item if self._one_order else self._parted(item)
        moved = self._step(self._train_numbers, self._states, item, self._shared)
        self._states = [old if pair is None else pair[0] for old, pair in zip(self._states, moved, strict=True)]
        return [pair and pair[1] for pair in moved]

    def _told(
        self,
        step: int,
        histories: Sequence[History],
        numbers: Sequence[int],
        callback: Callback | None,
    ) -> list[int]:
        """Members that the callback stops."""
        if callback is None or not self._alive:
            return []
        place = {numbers[member]: member for member in self._alive}
        told = Evaluated(step, list(place), histories, lambda number: self._state(place[number]))
        return [place[number] for number in callback(told) or ()]

    def _rows(self, since: Sequence[Any], step: int) -> list[tuple[int, dict[str, float], int]]:
        """Members with the row of their history, and the step at which they diverged, or 0."""
        course, metrics_of = self._course, self._steps_together(jax.device_get(list(since)))
        validation: list[Any] = []
        if course.evaluation is not None:
            items = course.evaluation.items(iter(course.evaluated()))
            shared = self._evaluation_shared
            told = [self._evaluate(self._evaluate_numbers, self._states, item, shared) for item in items]
            validation = jax.device_get(told)
        rows = []
        for member in self._alive:
            metrics = self._of(metrics_of, member)
            losses = metrics["loss"].total
            bad = 0 if np.isfinite(losses).all() else step - len(losses) + int(np.argmin(np.isfinite(losses))) + 1
            row = {"step": float(step), "epoch": step / course.per_epoch}
            if not bad:
                row |= summarize(metrics)
                if validation:
                    parts = jax.tree.map(lambda *leaves: np.stack(leaves), *(self._of(v, member) for v in validation))
                    row |= {f"{course.validation}_{name}": value for name, value in summarize(parts).items()}
            rows.append((member, row, bad))
        return rows

    def _steps_together(self, since: Sequence[Any]) -> Any:
        """The metrics of several calls as those of one."""
        axis = 0 if self.way == "loop" else 1
        return [None if parts[0] is None else concatenate(parts, axis) for parts in zip(*since, strict=True)]

    def _adapt(self, histories: Sequence[History], numbers: Sequence[int]) -> None:
        if all(member.adapt is None for member in self._members):
            return
        states = [self._of(self._states, member) for member in range(len(numbers))]
        for member in self._alive:
            if (adapt := self._members[member].adapt) is not None:
                states[member] = adapt(states[member], histories[numbers[member]])
        self._states = self._joined(states)

    def _exchange(self, histories: Sequence[History], numbers: Sequence[int]) -> None:
        """The worst go on from the states of the best."""
        assert self._exploit is not None
        alive = self._alive
        if len(alive) < 2:
            return
        name = self._exploit.monitor
        sign = -1 if higher_is_better(name) else 1
        values = {member: histories[numbers[member]][-1][name] for member in alive}
        ranked = sorted(alive, key=lambda member: (np.isnan(values[member]), sign * values[member]))
        count = max(1, int(len(ranked) * self._exploit.share))
        source = np.arange(len(numbers))
        for worst in ranked[-count:]:
            best = int(self._rng.choice(ranked[:count]))
            source[worst] = best
            self._settings[worst] = dict(self._exploit.explore(self._settings[best], self._rng))
        make, members = self._exploit.make, zip(self._members, self._settings, strict=True)
        traced = trace([member._replace(task=make(**settings)) for member, settings in members], self._course)
        try:
            self._renumber(traced)
        except ValueError:  # a setting that all have shared until now is explored for the first time
            self._compile(traced, self._known)
        keys = [self._of(self._states, member).key for member in range(len(numbers))]
        taken = [dataclasses.replace(self._state(int(i)), key=key) for i, key in zip(source, keys, strict=True)]
        self._states = self._joined(taken)


def _divisor(number: int, most: int) -> int:
    """The greatest divisor of a number that is at most so great."""
    return max(n for n in range(1, most + 1) if number % n == 0)


def _evaluations(traced: Sequence[Traced]) -> list[Program]:
    return [each.evaluate for each in traced if each.evaluate is not None]
