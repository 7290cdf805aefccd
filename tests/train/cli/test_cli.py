"""The command line as a whole: help, usage, mistakes in one line, exit status, debugging, memory."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.cli.command import error, python, run, usage_error
from train.cli import COMMANDS, main

# ---- help and usage ----


def test_help(tmp_path):
    finished = python("-m", "train", "--help", cwd=tmp_path)
    assert finished.returncode == 0
    assert finished.stderr == ""
    for command in COMMANDS:
        assert command in finished.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert ("--json" in text) == (command != "demo")  # which serves a page, and has no result
    assert " ".join(COMMANDS[command].__doc__.split()[:4]) in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "list, card, recipes, train"),
        (["card"], "NAME"),
        (["predict"], "RUN"),
        (["export", "run"], "--out"),
        (["bench", "mlp", "--batch-size", "many"], "many"),
    ],
)
def test_usage(arguments, message):
    assert message in usage_error(*arguments)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["card", "lenet"], "unknown model: 'lenet'; nearest: lenet5"),
        (["card", "mlp", "dropout=0.1"], "unknown option of model 'mlp': 'dropout'; nearest: dropout_rate"),
        (["card", "mlp", "dropout_rate"], "OPTION=VALUE, such as num_classes=10; not 'dropout_rate'"),
        (
            ["card", "mlp", "dropout_rate=much"],
            "dropout_rate of model 'mlp' must be a number or a list of numbers, not 'much'",
        ),
        (["card", "lenet5", "num_classes=-3"], "num_classes of model 'lenet5' must be at least 0, not -3"),
        (["card", "mlp", "activation=rleu"], "unknown activation: 'rleu'"),
        (["recipes", "lenet5_digit"], "unknown recipe: 'lenet5_digit'; nearest: lenet5_digits"),
        (["train", "lenet5_digit"], "unknown recipe: 'lenet5_digit'; nearest: lenet5_digits"),
        (["train", "mlp_digits", "epoch=3"], "unknown field of a recipe: 'epoch'; nearest: epochs"),
        (["trian"], "unknown command: 'trian'; nearest: train"),
        (
            ["train", "mlp_digits", "--epochs", "3"],
            "unknown option: '--epochs'; a setting has no dashes: epochs=3",
        ),
        (["train", "--learning_rate=3"], "a setting has no dashes: learning_rate=3"),
        (["evaluate", "run", "--splt", "test"], "unknown option: '--splt'; nearest: --split"),
        (["train", "mlp_digits", "lenet5_digits"], "one recipe at a time, with settings such as epochs=3; not"),
        (["train", "finetune", "folder:."], "folder:. is no recipe; data of your own are a setting: data=folder:."),
        (["train", "text_classifier", "data=."], "for this one say folder:., or texts:. where it holds texts"),
        (["card", "runs/nowhere"], "there is no run folder runs/nowhere"),
        (["predict", "lenet5_mnist", "no.png"], "cannot read 'no.png' as an image: there is no such file"),
        (["train", "mlp_digits", "epochs", "=", "3"], "a setting has no spaces around its =, such as epochs=3"),
        (["train", "mlp_digits", "--resume=yes"], "--resume takes no value"),
        (["train", "my_recipe"], "one of your own is given as FILE.py, or made known by --import FILE.py"),
        (["train", "transfer_cifar_folder"], "runs/pretrain_cifar_folder; train it first (zoo train pretrain_cifar"),
        (["recipes", "nothing*"], "no recipe matches 'nothing*'"),
        (["train", "mlp_digits", "epochs=long"], "epochs must be a number, not 'long'"),
        (["train", "mlp_digits", "model=mpl"], "unknown model: 'mpl'; nearest: mlp"),
        (["train", "mlp_digits", "model=lenet5"], "does not fit the data set 'digits'"),
        (["evaluate", "nowhere"], "there is no run folder nowhere"),
        (["predict", "nowhere", "a.png"], "there is no run folder nowhere"),
        (["export", "nowhere", "--out", "x"], "there is no run folder nowhere"),
        (["generate", "runs/char_lstm"], "no run folder runs/char_lstm; `zoo train char_lstm` makes it"),
        (["sample", "runs/gan_digits"], "`zoo train gan_digits` makes it; gan_digits ships with the zoo"),
        (["predict", "char_gpt", "a.png"], "does language_modeling: zoo generate char_gpt"),
        (["export", "char_gpt", "--out", "a"], "use it by zoo generate char_gpt --temperature 0.7; or in Python by"),
        (["export", "pretrain_speakers", "--out", "a"], 'use it by zoo predict pretrain_speakers --text "…"; or in'),
        (["train", "mlp_table"], "table.csv; put it there, or train on yours: data=csv:PATH"),
        (["train", "finetune", "weights=resnet18"], "weights=timm/resnet18.a1_in1k model=resnet18"),
        (["bench", "lenet"], "unknown model: 'lenet'; nearest: lenet5"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = error(*arguments)
    assert message in found
    assert "\n" not in found
    assert list(tmp_path.iterdir()) == [], "nothing is begun"


@pytest.mark.slow
def test_the_exit_status_and_stderr_of_a_mistake(tmp_path):
    finished = python("-m", "train", "card", "lenet", cwd=tmp_path)
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert finished.stderr.startswith("zoo: error: unknown model: 'lenet'; nearest: lenet5")
    assert finished.stderr.count("\n") == 1


def test_debugging_shows_where(monkeypatch):
    monkeypatch.setenv("ZOO_DEBUG", "1")
    with pytest.raises(ValueError, match="unknown model"):
        run("card", "lenet")


# ---- memory ----

_MEMORY = """
import resource, sys
from train.launch import keep_memory

keep_memory()
import jax, jax.numpy as jnp

double = jax.jit(lambda x: jnp.cumsum(x * 2) + 1)
x = jnp.ones(2**23)
for _ in range(8):
    double(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    double(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

_HUGE = """
import re
from pathlib import Path
from train.launch import keep_memory

keep_memory()
import numpy as np

array = np.ones(2**24)
print(re.search(r"AnonHugePages: *([0-9]+) kB", Path("/proc/self/smaps_rollup").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_memory_is_kept_from_step_to_step(monkeypatch):
    """The kernel hands out a step's pages anew where nothing is kept, and else but for holes that were filled."""

    def new_pages():
        return int(subprocess.run([sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True).stdout)

    kept = new_pages()
    monkeypatch.setenv("ZOO_CPU_LOWERING", "plain")
    assert kept < new_pages() / 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_memory_comes_in_huge_pages_where_the_kernel_leaves_that_to_programs():
    told = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not told.exists() or "[madvise]" not in told.read_text():
        pytest.skip("the kernel gives huge pages to all or to none")
    done = subprocess.run([sys.executable, "-c", _HUGE], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 2**16  # kB, of the 2**17 of the array
