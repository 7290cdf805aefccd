"""Callbacks: what they decide and write, given reports."""

from __future__ import annotations

import concurrent.futures
import csv
import errno
import math
import os
import signal

import numpy as np
import pytest
import tqdm.auto

from train.loop import callbacks
from train.loop.fitting import Report
from train.loop.inspection import Inside
from train.optim.plateau import Plateau


def rows(values, name="validation_loss"):
    return [{"step": 10.0 * (i + 1), "epoch": i + 1.0, name: v, "seconds": float(i)} for i, v in enumerate(values)]


def evaluated(history, total=100):
    last = history[-1]
    return Report(int(last["step"]), total, last["epoch"], {}, history, True)


def dispatched(step, metrics=(), history=(), total=100):
    return Report(step, total, step / 10, dict(metrics), list(history), False)


def stops_at(values, patience, **options):
    """The number of evaluations after which the training ends, or None."""
    callback = callbacks.early_stopping("validation_loss", patience, **options)
    for count in range(1, len(values) + 1):
        if callback(evaluated(rows(values[:count]))):
            return count
    return None


@pytest.mark.parametrize(
    ("values", "patience", "wanted"),
    [
        ([3, 2, 1, 0], 1, None),
        ([3, 2, 2.5, 1], 1, 3),
        ([3, 2, 2.5, 1], 2, None),
        ([3, 2, 2.5, 2.4, 2.3], 3, 5),
        ([3, 2, 2.5, 1.9, 2, 2, 2], 3, 7),
        ([1, 2, 3, 4], 3, 4),
        ([1], 1, None),
        ([2, 2, 2], 2, 3),  # a tie is no improvement
        ([math.nan, math.nan, math.nan], 2, 3),
        ([math.nan, 5, math.nan, 4], 2, None),
        ([2, math.inf, math.inf], 2, 3),
    ],
)
def test_early_stopping(values, patience, wanted):
    assert stops_at(values, patience) == wanted


@pytest.mark.parametrize(
    ("values", "patience", "wanted"),
    [([0.1, 0.2, 0.3], 1, None), ([0.1, 0.3, 0.2, 0.25], 2, 4), ([0.5, 0.5], 1, 2), ([-3, -2, -1], 1, None)],
)
def test_early_stopping_on_the_highest(values, patience, wanted):
    assert stops_at(values, patience, best_is_highest=True) == wanted


@pytest.mark.parametrize(("least_change", "wanted"), [(0.0, None), (0.05, None), (0.25, 3)])
def test_least_change(least_change, wanted):
    assert stops_at([1.0, 0.9, 0.8, 0.7], 2, least_change=least_change) == wanted
    assert stops_at([0.7, 0.8, 0.9, 1.0], 2, least_change=least_change, best_is_highest=True) == wanted


def test_early_stopping_has_no_memory_of_its_own():
    """A callback that is made anew, as when a run is resumed, decides as the old one would have."""
    history = rows([3, 2, 2.5, 2.4, 2.3])
    assert callbacks.early_stopping("validation_loss", 3)(evaluated(history)) is True


def test_early_stopping_waits_for_evaluations():
    callback = callbacks.early_stopping("validation_loss", 1)
    assert callback(dispatched(5)) is False
    assert callback(dispatched(35, history=rows([1, 2, 3]))) is False


@pytest.mark.parametrize("patience", [0, -1])
def test_patience_that_makes_no_sense(patience):
    with pytest.raises(ValueError, match=f"patience must be at least 1, not {patience}"):
        callbacks.early_stopping("validation_loss", patience)


def test_a_column_that_is_missing():
    callback = callbacks.early_stopping("accuracy", 1)
    with pytest.raises(ValueError, match="cannot monitor 'accuracy': the history has step, epoch, validation_loss"):
        callback(evaluated(rows([1])))


def read(path):
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_csv_history(tmp_path):
    path = tmp_path / "history.csv"
    callback = callbacks.csv_history(path)
    callback(dispatched(5))
    assert not path.exists()
    for count in (1, 2, 3):
        history = rows([0.1, 1 / 3, 1e-30][:count])
        callback(evaluated(history))
        assert read(path) == history, "every bit of it, at any moment"
    assert [file.name for file in tmp_path.iterdir()] == ["history.csv"]
    callback(evaluated(rows([5.0])))  # as after resuming from an earlier checkpoint
    assert len(read(path)) == 1


def test_a_history_is_read_as_it_was_written(tmp_path):
    history = rows([0.1, math.inf, 1e-9])
    callbacks.write_history(tmp_path / "history.csv", history)
    assert callbacks.read_history(tmp_path / "history.csv") == history
    with pytest.raises(ValueError, match=r"nothing\.csv is not there; it is written by"):
        callbacks.read_history(tmp_path / "nothing.csv")
    (tmp_path / "history.csv").write_text("step,loss\n")
    with pytest.raises(ValueError, match=r"history\.csv is empty"):
        callbacks.read_history(tmp_path / "history.csv")


def test_csv_history_stays_whole_when_writing_fails(tmp_path):
    path = tmp_path / "history.csv"
    callbacks.write_history(path, rows([1.0]))

    class Unwritable(float):
        def __repr__(self):
            raise OSError("no space left on device")

        __str__ = __repr__

    with pytest.raises(OSError, match="no space"):
        callbacks.write_history(path, rows([1.0, Unwritable(2)]))
    assert read(path) == rows([1.0])


def test_tensorboard(tmp_path):
    """The scalars are read back from the event file, record by record."""
    with callbacks.tensorboard(tmp_path / "tb", lambda step: 0.5**step) as callback:
        callback(dispatched(1, {"loss": 2.0}))
        callback(dispatched(3, {"loss": 1.5, "accuracy": 0.25}))
        callback(evaluated([{"step": 3.0, "epoch": 0.5, "validation_loss": 1.25, "seconds": 9.0}]))
    (path,) = (tmp_path / "tb").iterdir()
    assert scalars(path) == {
        (1, "train/loss"): 2.0,
        (1, "train/learning_rate"): 1.0,
        (3, "train/loss"): 1.5,
        (3, "train/accuracy"): 0.25,
        (3, "train/learning_rate"): 0.25,
        (3, "evaluation/epoch"): 0.5,
        (3, "evaluation/validation_loss"): 1.25,
        (3, "evaluation/seconds"): 9.0,
    }


def test_tensorboard_on_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(OSError, match=r"/tb cannot be written: No space left on device; mend that, and --resume"),
        callbacks.tensorboard(tmp_path / "tb", lambda step: 1.0),
    ):
        monkeypatch.setattr("tensorboardX.SummaryWriter.close", full)


def test_tensorboard_shows_what_layers_do(tmp_path):
    scalar = np.float32
    layer = Inside(
        "block/dense",
        "Dense",
        "relu",
        (4, 2),
        {"mean": scalar(0.5), "zeros": scalar(0.25), "gradient_norm": scalar(2), "num_weights": scalar(3)}
        | {"kernel_norm": scalar(4), "kernel_update_norm": scalar(1)},
        np.array([0.95, 0.0], np.float32),
        {"activations": np.arange(5, dtype=np.float32)},
    )
    row = [{"step": 3.0, "epoch": 0.5, "loss": 1.25, "seconds": 9.0}]
    with callbacks.tensorboard(tmp_path, lambda step: 1.0) as callback:
        callback(Report(3, 100, 0.5, {}, row, True, [layer]))
    (path,) = tmp_path.iterdir()
    found = scalars(path)
    wanted = {"mean": 0.5, "zeros": 0.25, "gradient_norm": 2, "update_ratio": 0.25}
    assert {name: found[3, f"layers/block/dense/{name}"] for name in wanted} == wanted
    assert (3, "block/dense/activations") in found, "a histogram"


class Logger:
    def __init__(self):
        self.lines = []

    def log(self, metrics, step):
        self.lines.append((step, metrics))


class MlflowLike:
    def __init__(self):
        self.lines = []

    def log_metrics(self, metrics, step=None):
        self.lines.append((step, metrics))


@pytest.mark.parametrize("kind", [Logger, MlflowLike])
def test_log_to_any_object(kind):
    logger = kind()
    callback = callbacks.log_to(logger)
    callback(dispatched(2, {"loss": 2.0}))
    callback(evaluated(rows([1.5])))
    assert logger.lines == [
        (2, {"train/loss": 2.0}),
        (10, {"evaluation/epoch": 1.0, "evaluation/validation_loss": 1.5, "evaluation/seconds": 0.0}),
    ]


def test_log_to_what_cannot_log():
    with pytest.raises(ValueError, match=r"an object with a method log\(metrics, step=…\)"):
        callbacks.log_to(3)


def test_sigterm_is_heard_and_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with callbacks.sigterm() as interrupted:
        assert not interrupted(1)
        with callbacks.sigterm() as interrupted_inside:
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupted_inside(2)
        assert interrupted(2), "a search hears what came behind the last step of a trial"
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_in_another_thread_is_not_heard():
    def work():
        with callbacks.sigterm() as interrupted:
            assert not interrupted(1)
        return True

    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert pool.submit(work).result()


def test_tensorboard_shows_the_rate_that_a_plateau_leaves(tmp_path):
    plateau = Plateau(factor=0.25, patience=1)
    with callbacks.tensorboard(tmp_path, lambda step: 0.5**step, plateau) as callback:
        callback(dispatched(3, history=rows([2, 1])))
        callback(dispatched(4, history=rows([2, 1, 1])))
    (path,) = tmp_path.iterdir()
    assert scalars(path) == {(3, "train/learning_rate"): 0.25, (4, "train/learning_rate"): 0.125 / 4}


def scalars(path):
    """TFRecord frames (length, its checksum, data, their checksum), each an Event."""
    from tensorboardX.proto.event_pb2 import Event

    content, found = path.read_bytes(), {}
    while content:
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        found.update({(event.step, value.tag): value.simple_value for value in event.summary.value})
        content = content[16 + length :]
    return found


def test_progress_bar(monkeypatch):
    bars = []

    class Bar(tqdm.auto.tqdm):
        def __init__(self, **options):
            super().__init__(**options, file=open("/dev/null", "w"))  # noqa: SIM115
            bars.append(self)

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    with callbacks.progress_bar(100, 20) as callback:
        (bar,) = bars
        assert (bar.n, bar.total) == (20, 100)
        seen = []
        for step in (30, 60, 100):
            callback(dispatched(step))
            seen.append(bar.n)
        assert seen == [30, 60, 100]
        measured = {"accuracy": 0.99, "validation_accuracy": 0.98765, "validation_f1_macro": 0.9}
        callback(evaluated([{"step": 100.0, "epoch": 1.0, **measured, "seconds": 3.0}]))
        assert bar.n == 100
        assert bar.postfix == "accuracy=0.99, validation_accuracy=0.9877", "and not all that an evaluation tells"
    assert bar.disable, "it is closed"
    bar.fp.close()


def test_a_training_that_ends_early_says_so(capsys):
    with callbacks.progress_bar(8) as callback:
        callback(dispatched(4))
    assert "ended after 4 of 8 steps" in capsys.readouterr().err


def test_progress_bar_in_a_terminal(capsys):
    with callbacks.progress_bar(4) as callback:
        for step in (1, 4):
            callback(dispatched(step))
    shown = capsys.readouterr()
    assert "4/4" in shown.err
    assert not shown.out
