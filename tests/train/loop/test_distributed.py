"""Two processes, joined by `jax.distributed`, end with the parameters of one."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

import zoo
from tests.compiling import FLAGS, UNOPTIMISED

pytestmark = pytest.mark.slow

SETTINGS = [
    "epochs=2",
    "checkpoint_every=1",
    "optimizer=sgd",
    "learning_rate=0.05",
    "batch_size=64",
]


def start(recipe, folder, settings, process=None, count=1, devices=1, port=0):
    environment = {
        **os.environ,
        **UNOPTIMISED,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "train", "train", recipe, *SETTINGS, *settings, "--run", str(folder)]
    if process is not None:
        command.append("--distributed")
        environment |= {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(process),
        }
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*processes):
    outputs = []
    try:
        for process in processes:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
            outputs.append(output)
        return outputs
    finally:
        for process in processes:  # those that wait for one that failed
            process.kill()
            process.communicate()


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def told(folder):
    """The rows of the history, and the report."""
    with open(folder / "history.csv") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return rows, json.loads((folder / "report.json").read_text())


def same_figures(rows, report, other_rows, other_report):
    """All that is measured: in the history by both processes, of padded batches; F1, ROC-AUC … of the report."""
    assert len(rows) == len(other_rows)
    for row, other in zip(rows, other_rows, strict=True):
        assert {"validation_accuracy", "validation_loss"} <= row.keys() == other.keys()
        row, other = ({**each, "seconds": 0.0} for each in (row, other))
        assert row == pytest.approx(other, rel=1e-3)
    figures = [{k: v for k, v in each.items() if k.startswith("test_")} for each in (report, other_report)]
    wanted = {"test_top_5_accuracy", "test_f1_macro", "test_roc_auc", "test_expected_calibration_error"}
    assert wanted <= figures[0].keys() == figures[1].keys()
    assert figures[0] == pytest.approx(figures[1], rel=1e-3, abs=1e-5)
    for number, each in report["classes"].items():
        assert each == pytest.approx(other_report["classes"][number], rel=1e-3)


# mlp: one resident scan; cnn: batch norm over both processes, dropout off so that the masks need not agree.
@pytest.mark.parametrize(
    ("recipe", "plan", "settings"),
    [
        ("mlp_digits", "jit", []),
        pytest.param("mlp_digits", "fsdp", ["model_options.dropout_rate=0"], marks=pytest.mark.exhaustive),
        pytest.param(
            "lenet5_digits",
            "pmap",
            ["model=cnn", "model_options.features=[4, 8]", "model_options.dropout_rate=0"],
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_two_processes_agree_with_one(tmp_path, recipe, plan, settings):
    settings = [*settings, f"plan={plan}"]
    port = free_port()
    finish(*(start(recipe, tmp_path / "two", settings, process, 2, port=port) for process in (0, 1)))
    finish(start(recipe, tmp_path / "one", settings, devices=2))
    _, two = zoo.load_model(tmp_path / "two")
    _, one = zoo.load_model(tmp_path / "one")
    chex.assert_trees_all_close(two, one, rtol=1e-4, atol=1e-6)
    same_figures(*told(tmp_path / "two"), *told(tmp_path / "one"))
    files = {path.name for path in (tmp_path / "two").iterdir()}
    assert files >= {"recipe.json", "history.csv", "curves.png", "report.json", "confusion_matrix.png", "checkpoints"}
    if plan == "jit":
        continues_with_one(tmp_path / "two", settings)


def continues_with_one(run, settings):
    """From the checkpoint before the last, to the parameters of the last."""
    newest = max((run / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    before = zoo.load_model(newest).variables
    shutil.rmtree(newest)
    finish(start("mlp_digits", run, [*settings, "--resume"]))
    chex.assert_trees_all_close(zoo.load_model(newest).variables, before, rtol=1e-4, atol=1e-6)


SLOW = """
import time
from pathlib import Path
from train.loop import callbacks

plain = callbacks.csv_history


def csv_history(path):
    told = plain(path)

    def callback(report):
        time.sleep(0.02)
        (path.parent / "steps").write_text(str(report.step))
        return told(report)

    return callback


callbacks.csv_history = csv_history
"""


def test_sigterm_to_one_of_two_processes_ends_both_at_one_step(tmp_path):
    """Both save one checkpoint together, and end; gone on with, they come to the bits of a run never interrupted."""
    slow = tmp_path / "slow.py"  # so many steps are over before a signal arrives
    slow.write_text(SLOW)
    settings = ["epochs=8", "steps_per_dispatch=1", "model_options.hidden_sizes=[8]"]

    def both(folder, *more):
        port = free_port()
        return [start("mlp_digits", folder, [*settings, *more], process, 2, port=port) for process in (0, 1)]

    cut, whole = tmp_path / "cut", tmp_path / "whole"
    processes = both(cut, "--import", str(slow))
    steps, deadline = cut / "steps", time.monotonic() + 200
    while not (steps.is_file() and int(steps.read_text() or 0) > 30) and time.monotonic() < deadline:
        assert [process.poll() for process in processes] == [None, None]
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    outputs = finish(*processes)
    ends = [re.findall(r"training was interrupted after step (\d+)", output) for output in outputs]
    assert len(ends[0]) == 1, outputs
    assert ends[0] == ends[1], outputs
    assert not (cut / "report.json").exists()
    assert max(int(path.name) for path in (cut / "checkpoints").glob("[0-9]*")) == int(ends[0][0])
    finish(*both(cut, "--resume"))
    finish(*both(whole))
    first, second = (zoo.load_model(folder).variables for folder in (cut, whole))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    rows, others = (told(folder)[0] for folder in (cut, whole))
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in others]
