"""Callbacks of the training loop: functions that are told of each dispatch and evaluation.

What a callback needs to know of the past it takes from the history in its report, so that it behaves in a run that was
interrupted as it would have in one that was not.
"""

from __future__ import annotations

import contextlib
import csv
import io
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from train.files import write_whole
from train.loop import inspection
from train.loop.checkpoints import History
from train.loop.fitting import Callback, Interrupted, Report
from train.optim.plateau import Plateau


def early_stopping(
    monitor: str, patience: int, *, best_is_highest: bool = False, least_change: float = 0.0
) -> Callback:
    """Ends the training when `monitor` has not got better for `patience` evaluations (guide, section 12.1).

    Args:
      monitor: a column of the history, such as "validation_loss".
      patience: evaluations to wait for a better one.
      best_is_highest: whether more of it is better.
      least_change: what counts as better.
    """
    if patience < 1:
        raise ValueError(f"patience must be at least 1, not {patience}")
    sign = 1 if best_is_highest else -1

    def callback(report: Report) -> bool:
        if not report.evaluated:
            return False
        if monitor not in report.history[-1]:
            raise ValueError(f"cannot monitor {monitor!r}: the history has {', '.join(report.history[-1])}")
        best, best_index = -float("inf"), 0
        for index, row in enumerate(report.history):
            if sign * row[monitor] > best + least_change:
                best, best_index = sign * row[monitor], index
        return len(report.history) - 1 - best_index >= patience

    return callback


@contextlib.contextmanager
def progress_bar(total_steps: int | None = None, first_step: int = 0) -> Iterator[Callback]:
    """A bar for the terminal or the notebook, with the metrics of the last evaluation that training has too beside it.

    Where training ends early, the bar says so. In a file it is written anew twice a minute, in a terminal ten times a
    second.
    """
    from tqdm.auto import tqdm

    often = 0.1 if sys.stderr.isatty() or "ipykernel" in sys.modules else 30
    with tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True, mininterval=often) as bar:

        def callback(report: Report) -> None:
            bar.total = bar.total or report.total_steps
            bar.update(report.step - bar.n)
            if report.evaluated:
                row, hidden = report.history[-1], ("step", "epoch", "seconds")
                both = [name for name in row if name.removeprefix("validation_") in row and name not in hidden]
                shown = {name: f"{row[name]:.4g}" for name in both}
                bar.set_postfix(shown, refresh=False)

        yield callback
        if bar.total and bar.n < bar.total:
            bar.set_description(f"ended after {bar.n} of {bar.total} steps")


def log_to(logger: Any) -> Callback:
    """Hands what is reported to an object that logs numbers by step, such as a run of Weights & Biases or MLflow.

        callbacks=[log_to(wandb.init(project="digits"))]
        callbacks=[log_to(mlflow)]

    After each dispatch the training metrics as `train/NAME`, after each evaluation its row as `evaluation/NAME`.

    Args:
      logger: has a method `log(metrics, step=…)` or `log_metrics(metrics, step=…)`.

    Raises:
      ValueError: it has neither.
    """
    method = getattr(logger, "log_metrics", None) or getattr(logger, "log", None)
    if not callable(method):
        raise ValueError(
            f"log_to takes an object with a method log(metrics, step=…) or log_metrics(metrics, step=…), not {logger!r}"
        )

    def callback(report: Report) -> None:
        if report.evaluated:
            row = {f"evaluation/{name}": value for name, value in report.history[-1].items() if name != "step"}
            method(row, step=report.step)
        else:
            method({f"train/{name}": value for name, value in report.metrics.items()}, step=report.step)

    return callback


@contextlib.contextmanager
def sigterm() -> Iterator[Interrupted]:
    """What `fit(interrupted=…)` asks: whether SIGTERM has come, by which a machine that is taken away is announced.

        with callbacks.sigterm() as interrupted:
            fit(task, dataset, checkpoints=checkpoints, interrupted=interrupted, …)

    A handler that was there before hears it afterwards. Outside the main thread, where Python hears no signals, nothing
    is heard. Several processes ask one another at which step all of them end; JAX hears the signal for them
    (`jax.experimental.multihost_utils`).
    """
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import reached_preemption_sync_point

        yield reached_preemption_sync_point
        return
    heard = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    before = signal.signal(signal.SIGTERM, lambda *_: heard.set())
    try:
        yield lambda step: heard.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
        if heard.is_set() and callable(before):  # a search around a trial, whose last steps were over when it came
            before(signal.SIGTERM, None)


@contextlib.contextmanager
def tensorboard(
    folder: str | Path, learning_rate: optax.Schedule, plateau: Plateau | None = None
) -> Iterator[Callback]:
    """Writes for TensorBoard: training metrics for each dispatch, evaluations, and the learning rate.

    Where `fit` observes layers, also what each does: scalars as `layers/LAYER/update_ratio`, and histograms of its
    activations, weights and gradients.
    """
    with _absent("torch"):
        from tensorboardX import SummaryWriter

    rate = jax.jit(learning_rate)  # a schedule is many small operations
    writer = SummaryWriter(logdir=str(folder))

    def close() -> None:
        with _naming(folder):
            writer.close()  # which writes what is left

    with contextlib.ExitStack() as stack:
        stack.callback(close)

        @_naming(folder)
        def callback(report: Report) -> None:
            if not report.evaluated:
                scalars = {f"train/{name}": value for name, value in report.metrics.items()}
                scale = 1.0 if plateau is None else plateau.scale(report.history)
                scalars["train/learning_rate"] = scale * np.asarray(rate(report.step - 1)).item()
            else:
                scalars = {f"evaluation/{name}": value for name, value in report.history[-1].items() if name != "step"}
            for name, value in scalars.items():
                writer.add_scalar(name, value, report.step)
            for inside, layer in zip(report.layers, inspection.report(report.layers), strict=True):
                name = layer.name or layer.kind
                for quantity, value in layer._asdict().items():
                    if isinstance(value, float):
                        writer.add_scalar(f"layers/{name}/{quantity}", value, report.step)
                for what, values in inside.samples.items():
                    if np.isfinite(values).all():  # of others there is no histogram
                        writer.add_histogram(f"{name}/{what}", np.asarray(values), report.step)

        yield callback


@contextlib.contextmanager
def _naming(folder: str | Path) -> Iterator[None]:
    """Says where it was that nothing could be written, as on a full disk."""
    try:
        yield
    except OSError as error:
        advice = "mend that, and --resume goes on from the newest checkpoint"
        raise OSError(error.errno, f"{folder} cannot be written: {error.strerror}; {advice}") from error


@contextlib.contextmanager
def _absent(module: str) -> Iterator[None]:
    """Hides a module from what is imported inside: tensorboardX takes a second to import torch where it is there."""
    hidden = module not in sys.modules
    if hidden:
        sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[module]


def csv_history(path: str | Path) -> Callback:
    """Keeps the history as a CSV file that is whole at any moment."""
    path = Path(path)

    def callback(report: Report) -> None:
        if report.evaluated:
            write_history(path, report.history)

    return callback


def write_history(path: Path, history: History) -> None:
    """Writes a row for each evaluation, replacing the file in one go."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(history[0]))
    writer.writeheader()
    writer.writerows(history)
    write_whole(path, text.getvalue())


def read_history(path: Path) -> History:
    """What `write_history` wrote.

    Raises:
      ValueError: there is no such file, or nothing in it.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there; it is written by `zoo train` at the first evaluation")
    with path.open(newline="") as file:
        try:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        except (TypeError, ValueError, csv.Error) as error:
            raise ValueError(f"{path} is damaged: it holds what is no number, or a row of another length") from error
    if not rows:
        raise ValueError(f"{path} is empty")
    return rows
