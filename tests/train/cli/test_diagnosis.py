"""zoo diagnose, zoo lr-find, and SIGTERM to a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import zoo
from tests.compiling import UNOPTIMISED
from tests.train.cli.command import error, parsed, run

pytestmark = pytest.mark.slow


def test_diagnose(mlp, tmp_path):
    printed = run("diagnose", mlp, "--examples", "64", "--out", tmp_path / "out")
    assert "Dense_0" in printed
    assert "update/weight" in printed
    assert "diagnosis.json, gradient_flow.png, histograms.png, curves.png" in printed
    facts = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert [layer["name"] for layer in facts["layers"] if layer["num_weights"]] == ["Dense_0", "Dense_1", "Dense_2"]
    assert {finding["illness"] for finding in facts["findings"]} <= {"underfitting"}, "four epochs are few"


def test_diagnose_json(mlp):
    facts = parsed("diagnose", mlp, "--examples", "64")
    assert facts["step"] > 0
    assert facts["layers"][0]["dead_units"] is not None


def test_diagnose_bad_input(tmp_path, mlp):
    assert "is not a run folder" in error("diagnose", tmp_path)
    assert "examples must be at least 1, not 0" in error("diagnose", mlp, "--examples", "0")


def test_lr_find(tmp_path):
    settings = ("mlp_digits", "model_options.hidden_sizes=[16]", "--steps", "60", "--lowest", "1e-5")
    printed = run("lr-find", *settings, "--out", tmp_path / "curve")
    rate = float(printed.partition("\n")[0].removeprefix("learning_rate="))
    assert 3e-4 < rate < 0.1
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_lr_find_bad_input(tmp_path):
    assert "unknown recipe: 'mlp_digit'" in error("lr-find", "mlp_digit")
    assert "rates rise from a lowest above 0" in error("lr-find", "mlp_digits", "--lowest", "1", "--highest", "0.1")
    assert "leave layer_rates out" in error("lr-find", "mlp_digits", 'layer_rates={"*": 0.1}')
    assert "written as PNG" in error("lr-find", "mlp_digits", "--out", tmp_path / "a.pdf")


def test_sigterm_saves_and_resume_goes_on(tmp_path):
    """Interrupted in the middle of an epoch and gone on with, a run is that which was never interrupted, to the bit."""
    settings = ["mlp_digits", "epochs=6", "steps_per_dispatch=1", "model_options.hidden_sizes=[8]"]
    root = Path(__file__).parents[3]
    environment = {**os.environ, **UNOPTIMISED, "PYTHONPATH": str(root)}
    slow = tmp_path / "slow.py"  # so many steps are over before a signal arrives
    slow.write_text(
        "import time\nfrom train.loop import callbacks\nplain = callbacks.csv_history\n"
        "def csv_history(path):\n    told = plain(path)\n"
        "    def callback(report):\n"
        "        time.sleep(0.02)\n        open(path.parent / 'steps', 'w').write(str(report.step))\n"
        "        return told(report)\n"
        "    return callback\ncallbacks.csv_history = csv_history\n"
    )
    command = [sys.executable, "-m", "train", "train", *settings]

    def start(*more):
        return subprocess.Popen(
            [*command, *more], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    whole = start("--run", str(tmp_path / "whole"))
    process = start("--run", str(tmp_path / "cut"), "--import", str(slow))
    steps, deadline = tmp_path / "cut" / "steps", time.monotonic() + 200
    while not (steps.is_file() and int(steps.read_text() or 0) > 60) and time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "training was interrupted after step" in output
    assert f"zoo train mlp_digits --run {tmp_path / 'cut'} --resume" in output
    assert not (tmp_path / "cut" / "report.json").exists()
    finished = start("--run", str(tmp_path / "cut"), "--resume")
    for each in (whole, finished):
        output, _ = each.communicate(timeout=300)
        assert each.returncode == 0, output
    kept = [(tmp_path / name / "checkpoints").glob("[0-9]*") for name in ("whole", "cut")]
    newest = [max(folders, key=lambda folder: int(folder.name)) for folders in kept]
    first, second = (zoo.load_model(folder).variables for folder in newest)
    jax.tree.map(np.testing.assert_array_equal, first, second)
