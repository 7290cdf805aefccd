"""Texts on the command line: a run on a file of one's own, what it writes, and what it refuses."""

from __future__ import annotations

import json
import math

import pytest
from PIL import Image

import data
from tests.train.cli.command import error, parsed, run

pytestmark = pytest.mark.slow

TEXT = "one for sorrow, two for joy,\nthree for a girl, four for a boy;\n" * 40


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "verses.txt").write_text(TEXT)
    settings = (f"data=text:{folder / 'verses.txt'}", "data_options.length=20", "model_options.hidden_size=16")
    shorter = ("batch_size=16", "epochs=0.3", "evaluate_every=20", "schedule_options.warmup_steps=5")
    report = parsed("train", "char_lstm", *settings, *shorter, "--run", folder / "run")
    return folder / "run", report


def test_a_run_on_a_file_of_ones_own(text_run):
    folder, report = text_run
    assert tuple(json.loads((folder / "vocabulary.json").read_text())) == tuple(sorted(set(TEXT)))
    distinct = len(set(TEXT))
    assert report["parameters"] == 4 * 16 * (distinct + 17) + 4 * 16 * 33 + 17 * distinct
    assert report["validation_loss"] < math.log(distinct) - 0.3, "better than a guess"
    assert {"test_perplexity", "test_bits_per_character", "test_accuracy"} <= set(report)


def test_text_is_written(text_run, monkeypatch):
    """Of the text that it was trained on a run needs nothing any more."""
    folder, _ = text_run
    monkeypatch.setattr(data, "load", lambda *arguments, **options: pytest.fail("the data were asked for"))
    printed = run("generate", folder, "--prompt", "two", "--length", 150, "--seed", 3)
    assert printed.startswith("two")
    assert len(printed) == 3 + 150 + 1
    options = ("--prompt", "two", "--length", 150, "--seed", 3)
    assert parsed("generate", folder, *options) == {"texts": [printed[:-1]], "seed": 3}
    (first, second) = parsed("generate", folder, *options, "--n", 2)["texts"]
    assert first == printed[:-1] != second
    both = run("generate", folder, *options, "--n", 2)
    assert both == f"{first}\n{'—' * 40}\n{second}\n"
    (text,) = parsed("generate", folder, "--length", 80, "--greedy", "--stop", "rw")["texts"]
    assert len(text) == 80 or (text[-1] in "rw" and not set("rw") & set(text[:-1]))
    assert run("generate", folder, "--length", 20, "--top-k", 1) == run("generate", folder, "--length", 20, "--greedy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompt", "Ωne"), "the model knows no 'Ω'; the characters that it was trained on are '\\n ,;abef"),
        (("--temperature", "0"), "temperature must be finite and at least 0.0001, not 0.0"),
        (("--temperature", "-1"), "temperature must be finite and at least 0.0001"),
        (("--top-p", "1.5"), "top_p must be in [0.0001, 1], not 1.5"),
        (("--top-k", "0"), "top_k must be at least 1"),
        (("--length", "0"), "length must be from 1 to 100,000,000, not 0"),
        (("--n", "0"), "n must be at least 1"),
    ],
)
def test_what_cannot_be_written_is_told(text_run, options, message):
    assert message in error("generate", text_run[0], *options)


def test_other_commands_say_what_a_text_run_is_not(text_run, tmp_path):
    folder, _ = text_run
    assert "this run is no classifier, but does language_modeling" in error("predict", folder, "x.png")
    assert "this run is no classifier, but does language_modeling" in error("export", folder, "--out", tmp_path / "x")
    assert "this run does language_modeling, and draws no images" in error("sample", folder, "--out", tmp_path / "x")


def test_runs_are_compared(text_run, tmp_path):
    folder, report = text_run
    out = tmp_path / "made" / "both.png"
    facts = parsed("compare", folder, folder, "--metric", "perplexity", "--out", out)
    last = {name: report[name] for name in ("perplexity", "validation_perplexity")}
    assert facts == {"file": str(out), "runs": [{"run": str(folder), **last}]}, (
        "a run that is given twice is drawn once"
    )
    with Image.open(out) as image:
        assert min(image.size) > 400
    assert "curves in" in run("compare", folder, "--out", out)
    assert "history.csv is not there" in error("compare", tmp_path)
    assert "has no metric 'mae'" in error("compare", folder, "--metric", "mae", "--out", out)
    assert "no run given" in error("compare")
