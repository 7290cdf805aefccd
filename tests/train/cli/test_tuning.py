"""`zoo tune` on the command line: what it prints, and the one line that says what is wrong."""

import sys

import pytest

from tests.train.cli.command import error, parsed, run

SMALL = ["epochs=1", "model_options.hidden_sizes=[8]", "--sampler", "random"]


@pytest.mark.slow
def test_a_study_is_told_as_a_table_and_as_json(tmp_path):
    space = tmp_path / "space.txt"
    space.write_text("learning_rate=log:1e-3..1e-1\nbatch_size=32,64  # overridden\n")
    command = [
        "tune",
        "mlp_digits",
        *SMALL,
        "batch_size=64",
        "--space",
        space,
        "--trials",
        "2",
        "--run",
        tmp_path / "s",
    ]
    printed = run(*command)
    report = parsed(*command)
    best = report["best"]
    assert report["trials"] == 2
    assert printed.splitlines()[0].split() == ["trial", "state", "value", "evaluations", "settings"]
    assert f"best: trial {best['trial']}, validation_loss {best['value']:.6g}, learning_rate=" in printed
    assert f"test_accuracy {best['report']['test_accuracy']:.6g}" in printed
    assert {tuple(row["settings"]) for row in report["table"]} == {("learning_rate",)}
    assert parsed("evaluate", best["run"])["test_accuracy"] == best["report"]["test_accuracy"]
    assert parsed("export", best["run"], "--out", tmp_path / "best.stablehlo")["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["learning_rate=log:1e-4..1e-2"], "the recipe comes first: zoo tune RECIPE learning_rate=log:1e-4..1e-2"),
        (["mlp_digit"], "unknown recipe: 'mlp_digit'; nearest: mlp_digits"),
        (["lenet5_digits"], "the space is empty"),
        (["mlp_digits", "rate=1..2"], "unknown field of a recipe: 'rate'"),
        (["mlp_digits", "--space", "nowhere.txt"], "the space nowhere.txt cannot be read: No such file or directory"),
        (["mlp_digits", "--metric", "f1"], "unknown metric to monitor: 'f1'"),
        (["mlp_digits", "--storage", "study.journal"], "--storage takes the URL of a database"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in error("tune", *arguments)
    assert not (tmp_path / "runs" / "tune_mlp_digits" / "trials").exists()


def test_without_optuna_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert error("tune", "mlp_digits") == 'zoo: error: a search needs Optuna 5: pip install "flaxzoo[tune]"'
