"""Checkpoints of a training run: the whole state, saved in the background, the last few and the best kept."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.loop.parallel import to_host
from train.state import State
from zoo import checkpoint as weights

History = list[dict[str, float]]

_AT_LEAST = 2.0
"""Seconds that lie between a checkpoint and one after it that is written only because it is the best so far."""


_LOG = logging.getLogger(__name__)


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
      state: everything that training goes on from.
      history: a row for each evaluation until then.
      finished: how many steps had been asked for where training ended there; 0 where it did not end.
      pause: what else there is to go on with where training was interrupted between two evaluations.
    """

    state: State
    history: History
    finished: int
    pause: Pause | None = None


class Pause(NamedTuple):
    """Between two evaluations: what the next row of the history will be made of.

    Attributes:
      metrics: the leaves of the metrics of each step since the last row, as lists.
      seconds: since the start of the run.
    """

    metrics: list[list[float]]
    seconds: float


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or none could be read."""


def finished_steps(folder: str | Path) -> int:
    """How many steps had been asked for where the training in a run folder has ended; 0 where it goes on."""
    steps = [int(step.name) for step in (Path(folder) / weights.CHECKPOINTS).glob("*") if step.name.isdigit()]
    try:
        return int(weights.read_meta(Path(folder) / weights.CHECKPOINTS / str(max(steps)))["finished"]) if steps else 0
    except (ValueError, KeyError):  # damaged: the one before it will be taken, from which training goes on
        return 0


class Checkpoints:
    """The checkpoints of one run.

    A checkpoint appears under its step's name only once it is complete, so that a killed process leaves none half done.
    Inference reads `params`, `model_state` and `meta` of it (see `zoo.load_model`) and nothing else.

    Args:
      folder: the run; checkpoints go to its folder `checkpoints`.
      meta: JSON that goes with each, at least `model` and `model_options`.
      monitor: the column of the history that tells which checkpoint is best.
      best_is_highest: whether more of it is better.
      keep: how many of the last ones are kept beside the best.
      every: how many evaluations lie between two checkpoints; the last evaluation always makes one, and so does one
        that is better than all before it. Where that comes less than two seconds after another checkpoint, it is kept
        in memory, and written before the next one or by `wait` or `close`, if none is better by then.
    """

    def __init__(
        self,
        folder: str | Path,
        meta: Mapping[str, Any],
        *,
        monitor: str = "loss",
        best_is_highest: bool = False,
        keep: int = 2,
        every: int = 1,
    ):
        if keep < 1 or every < 1:
            raise ValueError(f"at least 1 checkpoint is kept, every 1 evaluation or more; not {keep} and {every}")
        self._folder = Path(folder).absolute() / weights.CHECKPOINTS
        self._meta = dict(meta)
        self._monitor = monitor
        self._sign = 1.0 if best_is_highest else -1.0
        self._keep = keep
        self._every = every
        self._written = -np.inf
        self._unwritten: tuple[int, State, History, float] | None = None
        self._mend_scores()
        self._manager = weights.manager(self._folder, keep=keep)

    def save(self, step: int, state: State, history: History, *, finished: int = 0) -> None:
        """Saves in the background; the state may be donated as soon as this returns.

        Args:
          step: the name of the checkpoint.
          state: what to save.
          history: what goes with it, a row for each evaluation so far.
          finished: how many steps were asked for, where training ends here; 0 where it goes on. The state at the end is
            always saved.

        Raises:
          CheckpointError: this checkpoint or the one before it could not be written, as on a full disk.
          ValueError: the history has no column of the name to monitor.
        """
        if self._monitor not in history[-1]:
            raise ValueError(f"cannot monitor {self._monitor!r}: the history has {', '.join(history[-1])}")
        *before, score = map(self._score, history)
        is_best = score > max(before, default=-np.inf)
        if is_best:
            self._unwritten = None
        if not finished and len(history) % self._every:
            if not is_best:
                return
            # Several processes write together, and their clocks do not agree.
            if time.monotonic() < self._written + _AT_LEAST and jax.process_count() == 1:
                self._unwritten = step, to_host(state), [dict(row) for row in history], score
                return
        self._write(step, state, history, score, finished=finished)

    def save_pause(self, step: int, state: State, history: History, pause: Pause) -> None:
        """Saves between two evaluations, as where a machine is taken away; such a checkpoint is never the best.

        Raises:
          CheckpointError: as `save`.
        """
        self._write_best()
        if step != self.newest_step:
            self._write(step, state, history, -np.inf, pause=pause._asdict())

    def _write_best(self) -> None:
        """Writes the best one, where that is in memory alone: training must not go on behind it without it."""
        best, self._unwritten = self._unwritten, None
        if best is not None:
            self._write(*best)

    def _write(self, step: int, state: State, history: History, score: float, finished: int = 0, **more: Any) -> None:
        self._write_best()
        # A copy: it is written in the background, while training adds to the history.
        rows = [dict(row) for row in history]
        meta = {**self._meta, "score": score, "history": rows, "finished": finished, **more}
        try:
            self._manager.save(
                step, args=weights.composite(_to_items(state), meta), metrics={"score": score}, force=True
            )
        except Exception as error:  # whatever Orbax and TensorStore make of a failed write
            raise self._failed(error) from error
        self._written = time.monotonic()

    def _score(self, row: Mapping[str, float]) -> float:
        """How good a row of the history is; what is not finite is worse than all that is."""
        value = self._sign * row[self._monitor]
        return value if np.isfinite(value) else -np.inf

    def wait(self) -> None:
        """Returns when all is on disk.

        Raises:
          CheckpointError: the last checkpoint could not be written.
        """
        self._write_best()
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def restore(self, like: State) -> Restored | None:
        """The newest checkpoint that can be read, with the shapes and the layout of `like`; None where there is none.

        A damaged one is passed over with a warning for the one before it, and put aside as `damaged-STEP`.

        Raises:
          CheckpointError: there are checkpoints, and none of them can be read.
        """
        damaged: list[tuple[int, str]] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                meta = weights.read_meta(self._folder / str(step))
                state = _from_items(self._read(step, _to_items(like)), like)
            except Exception as error:  # JSON, key, value and OS errors alike: what matters is that it cannot be read
                damaged.append((step, _first_line(error)))
                continue
            for bad, reason in damaged:
                _LOG.warning("checkpoint %d in %s is damaged: %s", bad, self._folder, reason)
                if jax.process_index() == 0:  # the folder is the same for all processes
                    (self._folder / str(bad)).rename(self._folder / f"damaged-{bad}")
            if damaged:
                _LOG.warning("continuing from the checkpoint before it, step %d", step)
                self._manager.reload()
            pause = Pause(**meta["pause"]) if "pause" in meta else None
            return Restored(state, meta["history"], int(meta["finished"]), pause)
        if damaged:
            step, reason = damaged[0]
            raise CheckpointError(f"none of the checkpoints in {self._folder} can be read; of step {step}: {reason}")
        return None

    @property
    def monitor(self) -> str:
        """The column of the history that tells which checkpoint is best."""
        return self._monitor

    def restore_best(self, like: State) -> State:
        """The best state, with the shapes and the layout of `like`.

        Raises:
          CheckpointError: it cannot be read.
        """
        self.wait()
        step = self._manager.best_step()
        try:
            assert step is not None  # the last state at least is kept
            return _from_items(self._read(step, _to_items(like)), like)
        except Exception as error:
            raise CheckpointError(
                f"the best checkpoint in {self._folder} cannot be read: {_first_line(error)}"
            ) from error

    def _mend_scores(self) -> None:
        """Writes scores anew where they cannot be read: Orbax reads all of them when it begins, and stops at a bad one.

        What else is damaged in such a checkpoint, `restore` finds.
        """
        for step in sorted(self._folder.glob("*")) if self._folder.is_dir() else []:
            kept = step / "metrics" / "metrics"
            if not step.name.isdigit() or not kept.parent.is_dir():
                continue
            try:
                json.loads(kept.read_text())
            except (ValueError, OSError):
                _LOG.warning("the score of checkpoint %s in %s is damaged; it is written anew", step.name, self._folder)
                try:
                    score = weights.read_meta(step)["score"]
                except (ValueError, KeyError):
                    score = -np.inf
                if jax.process_index() == 0:
                    kept.write_text(json.dumps({"score": score}))

    def _read(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        import orbax.checkpoint as ocp

        present = {name: tree for name, tree in like.items() if jax.tree.leaves(tree)}
        wanted = {
            name: ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))
            for name, tree in present.items()
        }
        restored = self._manager.restore(step, args=ocp.args.Composite(**wanted))
        for name in present:
            weights.require_whole(self._folder / str(step), name, restored[name])
        return {**like, **{name: restored[name] for name in present}}

    @property
    def newest_step(self) -> int:
        """The step of the newest checkpoint, 0 where there is none."""
        return self._manager.latest_step() or 0

    def require_space(self, state: State) -> None:
        """Refuses to start what would fill the disk.

        Raises:
          CheckpointError: less is free than the checkpoints to be kept will take.
        """
        each = sum(leaf.nbytes for leaf in jax.tree.leaves(_to_items(state)))
        needed = each * (self._keep + 2)  # the best, and the one being written
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise CheckpointError(
                f"{self._folder} has {free / 2**20:.0f} MiB free, and the checkpoints of this run take "
                f"{needed / 2**20:.0f} MiB; free some space or choose another folder with --run"
            )

    def close(self) -> None:
        """Waits and lets go of the folder.

        Raises:
          CheckpointError: the last checkpoint could not be written.
        """
        try:
            self._write_best()
        finally:
            try:
                self._manager.close()
            except Exception as error:
                raise self._failed(error) from error

    def _failed(self, error: Exception) -> CheckpointError:
        free = shutil.disk_usage(self._folder).free
        return CheckpointError(
            f"could not write a checkpoint to {self._folder} ({free / 2**20:.0f} MiB free): {_first_line(error)}; "
            "earlier checkpoints are intact, and --resume continues from them"
        )


def _to_items(state: State) -> dict[str, Any]:
    return {
        "params": state.params,
        "model_state": state.model_state,
        "opt_state": state.opt_state,
        "ema": {} if state.ema is None else state.ema,
        "loss_scale": {} if state.loss_scale is None else state.loss_scale,
        # As NumPy: Orbax refuses an array of one process alone when there are several.
        "progress": {"step": np.asarray(state.step), "key": np.asarray(jax.random.key_data(state.key))},
    }


def _from_items(items: Mapping[str, Any], like: State) -> State:
    progress = items["progress"]
    return State(
        step=jnp.asarray(progress["step"]),
        params=items["params"],
        model_state=items["model_state"],
        opt_state=items["opt_state"],
        key=jax.random.wrap_key_data(progress["key"], impl=jax.random.key_impl(like.key)),
        ema=None if like.ema is None else items["ema"],
        loss_scale=None if like.loss_scale is None else items["loss_scale"],
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
