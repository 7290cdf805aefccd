"""The words of a command line in any order, what a terminal is shown, and names of files to write."""

from __future__ import annotations

import functools

import pytest

from tests.train.cli.command import error, parsed, run
from train import cli
from train.cli.arguments import picture_file, positionals_first
from train.cli.console import print_report, printable
from train.cli.inference import predict
from train.cli.training import train


@pytest.mark.parametrize(
    ("command", "words", "ordered"),
    [
        (train, "mlp epochs=1 --run r batch_size=64", "mlp epochs=1 batch_size=64 --run r"),
        (train, "--resume mlp --run=r epochs=1 --json", "mlp epochs=1 --resume --run=r --json"),
        (train, "--run r --import a.py mlp --import b", "mlp --run r --import a.py --import b"),
        (predict, "runs/a a.png --json b.png --top 3 c.png", "runs/a a.png b.png c.png --json --top 3"),
        (predict, "runs/a --invert", "runs/a --invert"),
        (train, "mlp --run", "mlp --run"),
    ],
)
def test_settings_stand_before_and_behind_options(command, words, ordered):
    assert positionals_first(words.split(), command) == ordered.split()


def test_an_interrupted_training_tells_the_command_that_goes_on(monkeypatch):
    @functools.wraps(train)
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "train", interrupted)
    for more in ([], ["--resume"]):
        with pytest.raises(KeyboardInterrupt) as caught:
            cli.main(["train", "--run", "runs/a b", "mlp_digits", "epochs=1", *more])
        wanted = "zoo train --run 'runs/a b' mlp_digits epochs=1 --resume"
        assert str(caught.value) == f"; this continues from the newest checkpoint:\n{wanted}"
    monkeypatch.setitem(cli.COMMANDS, "search", interrupted)
    with pytest.raises(KeyboardInterrupt, match="; the same command goes on with the search"):
        cli.main(["search", "darts_digits"])


def test_the_version(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out.startswith("zoo 0.")


@pytest.mark.parametrize(
    ("text", "shown"), [("\x1b[31mred", r"\x1b[31mred"), ("a\nb", r"a\nb"), ("é ✓", "é ✓"), ("\u202eabc", r"\u202eabc")]
)
def test_control_characters_are_escaped(text, shown):
    assert printable(text) == shown


def test_names_in_errors_and_reports_do_nothing_to_the_terminal(capsys):
    assert "\x1b" not in error("card", "\x1b[31mmlp")
    print_report(
        {"\x1b": 1} and {"classes": {"\x1b[2J": dict.fromkeys(("precision", "recall", "f1-score", "support"), 1.0)}}
    )
    assert "\x1b" not in capsys.readouterr().out


def test_each_level_of_a_report_is_set_in(capsys):
    print_report({"compare": {"torch": {"ratio": 0.5}}, "seconds": 2})
    assert [len(line) - len(line.lstrip()) for line in capsys.readouterr().out.splitlines()] == [0, 2, 4, 0]


def test_long_lists_are_cut(capsys):
    print_report({"names": list(range(1000))})
    assert capsys.readouterr().out == "names                   0, 1, 2, 3, 4, 5, 6, 7, 8, 9 … (1000)\n"


def test_names_of_pictures(tmp_path):
    assert picture_file(tmp_path / "a") == tmp_path / "a.png"
    assert picture_file(tmp_path / "a.PNG") == tmp_path / "a.PNG"
    with pytest.raises(ValueError, match=r"pictures are written as PNG; .*a\.jpg ends in \.jpg"):
        picture_file(tmp_path / "a.jpg")
    for command in (["sample", "nowhere"], ["compare", "nowhere"], ["augment", "mlp_digits"]):
        assert "written as PNG" in error(*command, "--out", tmp_path / "a.pdf")
    assert list(tmp_path.iterdir()) == []


def test_a_short_table_of_recipes():
    lines = run("recipes").splitlines()
    assert lines[0].split() == ["name", "model", "data", "about"]
    assert max(map(len, lines)) < 250
    assert [line.split()[0] for line in lines[1:]] == [row["name"] for row in parsed("recipes")]


def test_bench_measures_what_it_says():
    assert "dtype must be float32, bfloat16 or float16, not 'float64'" in error("bench", "mlp", "--dtype", "float64")
    assert "seconds must be positive and at most 3600" in error("bench", "mlp", "--seconds", "inf")
    assert "no 'mxnet' to compare with; there are torch" in error("bench", "mlp", "--compare", "torch,mxnet")
    assert "give a model to measure, or --suite" in error("bench")
    assert "--suite takes no model, and so no 'mlp'" in error("bench", "mlp", "--suite")
    assert "unknown row: 'gtp'; nearest: gpt" in error("bench", "--suite", "--rows", "vae,gtp")
