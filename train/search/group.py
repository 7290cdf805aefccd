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
        # A CPU takes the steps of a loop in one thread, and programs that one thread starts one after the other.
        on_cpu = jax.default_backend() == "cpu"
        self._threads = ThreadPoolExecutor(os.cpu_count()) if self.way == "loop" and on_cpu else None
        self._one_order = len({member.seed for member in members}) == 1
        many = 1 if self.way == "vmap" and jax.default_backend() == "cpu" else suitable_steps(traced[0].train.closed)
        self._steps = course.steps_per_dispatch or many
        devices = devices or jax.devices()
        count = max(n for n in range(1, len(devices) + 1) if len(members) % n == 0)
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
        self._states: Any = self._run(init.function, (0, 0))(self._placed(init.numbers), self._joined(keys))

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
        self._train_numbers = self._placed(self._train.numbers_of([each.train for each in traced]))
        if self._evaluation is not None:
            self._evaluate_numbers = self._placed(self._evaluation.numbers_of(_evaluations(traced)))

    # How a function of one member is computed for all. All at once: their arrays lie in one, whose first axis is the
    # member's. One after the other: they are a list.

    def _run(self, function: Callable[..., Any], axes: Sequence[int | None], donated: int | None = None) -> Any:
        donate = () if donated is None else (donated,)
        options = parallel.compiler_options()
        if self.way == "vmap":
            return jax.jit(
                jax.vmap(function, in_axes=tuple(axes)),
                donate_argnums=donate,
                out_shardings=self._split,
                compiler_options=options,
            )
        compiled = jax.jit(function, donate_argnums=donate, compiler_options=options)

        def run(*arguments: Any) -> list[Any]:
            def of(i: int) -> Any:
                if i not in self._alive:
                    return None
                result = compiled(*(a if axis is None else a[i] for a, axis in zip(arguments, axes, strict=True)))
                return result if self._threads is None else jax.block_until_ready(result)

            return list((self._threads.map if self._threads else map)(of, range(len(self._members))))

        return run

    def _joined(self, parts: Sequence[Any]) -> Any:
        if self.way == "loop":
            return list(parts)
        return jax.device_put(jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts), self._split)

    def _placed(self, numbers: Sequence[np.ndarray]) -> Any:
        if self.way == "loop":
            return [[number[i] for number in numbers] for i in range(len(self._members))]
        return jax.device_put(list(numbers), self._split)

    def _put(self, shared: Any) -> Any:
        return shared if self.way == "loop" else jax.device_put(shared, self._whole)

    def _of(self, joined: Any, member: int) -> Any:
        return joined[member] if self.way == "loop" else jax.tree.map(lambda leaf: leaf[member], joined)

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
        moved = self._step(self._train_numbers, self._states, item, self._shared)
        if self.way == "vmap":
            self._states, metrics = moved
            return metrics
        for member in self._alive:
            self._states[member] = moved[member][0]
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
        if self.way == "vmap":
            return jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *since)
        return [None if parts[0] is None else concatenate(parts) for parts in zip(*since, strict=True)]

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
        traced = [trace(member._replace(task=make(**settings)), self._course) for member, settings in members]
        try:
            self._renumber(traced)
        except ValueError:  # a setting that all have shared until now is explored for the first time
            self._compile(traced, self._known)
        if self.way == "loop":
            taken = [jax.tree.map(jnp.copy, self._states[i]) for i in source]
            own = [state.key for state in self._states]
            self._states = [dataclasses.replace(s, key=jnp.copy(key)) for s, key in zip(taken, own, strict=True)]
        else:
            own = self._states
            taken = jax.tree.map(lambda leaf: leaf[source], own)
            self._states = jax.device_put(dataclasses.replace(taken, key=own.key), self._split)


def _evaluations(traced: Sequence[Traced]) -> list[Program]:
    return [each.evaluate for each in traced if each.evaluate is not None]
