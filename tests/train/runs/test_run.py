"""What a training reports. What it leaves in its folder: see `tests/train/cli/test_training.py`."""

from __future__ import annotations

import json

import pytest

import train.recipes  # noqa: F401
from train.loop.callbacks import read_history
from train.recipe import get_recipe, override
from train.runs import run


@pytest.mark.slow
def test_the_report_is_of_the_best_checkpoint_and_the_steps_of_all(tmp_path, monkeypatch):
    """Where the greatest loss is the best, that is the first one."""
    monkeypatch.setattr(run, "higher_is_better", lambda name: True)
    settings = ["monitor=validation_loss", "epochs=2", "model_options.hidden_sizes=[8]"]
    report = run.train(override(get_recipe("mlp_digits"), settings), tmp_path / "run")
    first, last = read_history(tmp_path / "run" / "history.csv")
    assert first["validation_loss"] > last["validation_loss"]
    assert (report["best_step"], report["steps"]) == (first["step"], last["step"])
    for name in ("epoch", "loss", "validation_loss", "validation_accuracy"):
        assert report[name] == pytest.approx(first[name])
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == report
