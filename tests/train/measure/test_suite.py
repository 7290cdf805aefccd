"""The suite of measurements: its table and figure, what it does again and what it does not."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from PIL import Image

import zoo
from train.measure import report, suite
from train.measure.processes import beside
from train.measure.suite import ROWS, Row, run_suite

MACHINE = {"processor": "Abacus", "cores": 2, "system": "Linux", "python": "3.11", "libraries": {"jax": "1.0"}}
RESULTS = {"machine": MACHINE, "compare": ["torch", "keras"], "date": "2026-01-01", "load": 0.25}


def other(step_ms, ratio):
    return {"step_ms": step_ms, "ratio": ratio, "ratio_10": ratio - 0.1, "ratio_90": ratio + 0.1}


LINES = [
    report.Line("GPT, step", 12, {"step_ms": 10.0, "compare": {"torch": other(40, 0.25), "keras": other(20, 0.5)}}),
    report.Line("VAE, step", 128, {"step_ms": 1234.5, "compare": {"torch": other(1000, 1.23)}}),
    report.Line("GAN, step", 8, {"step_ms": 0.12345}),
]


def test_the_table_has_times_and_the_ratio_to_the_fastest():
    lines = report.table(LINES, RESULTS).splitlines()
    assert lines[0] == "| model (batch) | zoo | torch | keras | ratio to the fastest |"
    assert lines[2:5] == [
        "| GPT, step (12) | 10 | 40 | 20 | 0.50 (0.40–0.60) |",
        "| VAE, step (128) | 1234 | 1000 | — | 1.23 (1.13–1.33) |",
        "| GAN, step (8) | 0.123 | — | — | — |",
    ]
    assert lines[-1] == (
        "Milliseconds, medians of turns, float32, Abacus, 2 cores, Linux, Python 3.11, jax 1.0, 2026-01-01, "
        "load at the start 0.25."
    )


def test_the_figure_has_a_bar_for_each_row_that_is_compared(tmp_path):
    path = tmp_path / "bench.png"
    heights = []
    for lines in (LINES, LINES[:2] * 5):
        report.figure(lines, path)
        with Image.open(path) as picture:
            heights.append(picture.height)
    assert heights[1] > heights[0]
    report.figure(LINES[2:], path)
    assert not path.exists(), "there is nothing to draw"


@pytest.mark.parametrize("name", ROWS)
def test_the_rows_are_of_models_that_are_there(name):
    row = ROWS[name]
    assert row.model in zoo.list_models()
    assert set(row.arguments) <= {"stem", "num_classes", "image_size", "length"}


@pytest.mark.slow
def test_a_row_is_measured_once(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setitem(ROWS, "mlp", Row("MLP, step", "mlp", "train", 32))
    told = []
    results = run_suite(tmp_path, rows=["mlp"], compare=["torch"], seconds=0.01, tell=told.append)
    measured = results["rows"]["mlp"]["train"]
    assert measured["step_ms"] > 0
    assert measured["compare"]["torch"]["ratio"] > 0
    assert json.loads((tmp_path / "bench.json").read_text())["rows"]["mlp"]["train"]["step_ms"] > 0
    assert "| MLP, step (32) |" in (tmp_path / "bench.md").read_text()
    assert (tmp_path / "bench.png").exists()
    assert told[0].startswith("1/1 mlp: ")
    run_suite(tmp_path, rows=["mlp"], compare=["torch"], seconds=0.01, tell=told.append)
    assert told[1:] == ["1/1 mlp: is there already"]
    with pytest.raises(ValueError, match="measured on another machine, with other libraries, peers or seconds"):
        run_suite(tmp_path, rows=["mlp"], compare=["torch"], seconds=1)


@pytest.mark.slow
def test_a_row_that_fails_is_told_and_the_others_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "_measurer", failing)
    told = []
    results = run_suite(tmp_path, rows=["gpt", "vae"], compare=["torch", "keras"], seconds=0.01, tell=told.append)
    assert told == ["1/2 gpt: the process died, exit code 3", told[1], "    without keras: not installed"]
    assert told[1].startswith("2/2 vae: 2 ms; over torch 0.50 (0.40–0.60)")
    assert list(results["rows"]) == ["vae"]


def failing():
    def measure(row, compare, seconds):
        if row.model == "char_gpt":
            os._exit(3)
        return {
            row.part: {"step_ms": 2.0, "compare": {"torch": other(4, 0.5)}},
            "left_out": {"keras": "not installed"},
        }

    return measure


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": ["gtp"]}, "unknown row: 'gtp'; nearest: gpt"),
        ({"compare": ["mxnet"]}, "no 'mxnet' to compare with; there are torch, torch-compile, keras, tensorflow"),
    ],
)
def test_bad_input_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_suite(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def echo():
    def answer(word):
        if word == "fail":
            raise KeyError(word)
        if word == "refuse":
            raise ValueError("not so")
        return os.getpid()

    return answer


@pytest.mark.slow
def test_a_function_runs_in_a_process_that_ends():
    with beside(echo) as answer:
        other = answer("who")
        assert other != os.getpid()
        os.kill(other, signal.SIGINT)  # Ctrl-C reaches all processes of a terminal
        time.sleep(0.1)
        assert answer("who") == other
        with pytest.raises(ValueError, match="not so"):
            answer("refuse")
        assert answer("who") == other, "it goes on after an error"
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)


@pytest.mark.slow
def test_what_fails_there_is_told_here(capfd):
    with beside(echo) as answer, pytest.raises(RuntimeError, match="KeyError: 'fail'"):
        answer("fail")
    assert "Traceback" in capfd.readouterr().err
