"""How the packages are found where files of a user's have their names, and how the command starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CLASH = {
    "train.py": ("train.py", "train.py"),
    "data.py": ("data.py", "data.py"),
    "data/__init__.py": ("data", "data"),
    "zoo/__init__.py": ("zoo", "zoo"),
}
"""A user's file: what the error names, and the package that is hidden."""


@pytest.fixture(params=CLASH)
def clash(request, tmp_path):
    file = tmp_path / request.param
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine = 1\n")
    return tmp_path, *CLASH[request.param]


def python(*arguments, cwd, path=(ROOT,)):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_a_hidden_package_is_one_error_that_says_what_to_rename(clash):
    folder, file, hidden = clash
    hidden = hidden.removesuffix(".py")
    first = next(name for name in ("data", "train", "zoo") if name != hidden)
    done = python("-c", f"import {first}\nimport {hidden}\nprint({hidden}.mine)", cwd=folder)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: {folder / file} hides the package {hidden!r} of flaxzoo: rename it, or start Python in another "
        "folder"
    )


@pytest.mark.parametrize("first", ["train", "zoo"])
def test_what_was_imported_before_ours_is_found_out_too(tmp_path, first):
    (tmp_path / "data.py").write_text("mine = 1\n")
    done = python("-c", f"import data\nimport {first}", cwd=tmp_path)
    assert f"{tmp_path / 'data.py'} hides the package 'data'" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_script_called_train_can_use_the_models_alone(tmp_path):
    (tmp_path / "train.py").write_text("import zoo\nprint(zoo.create_model('mlp').num_classes)\n")
    done = python("train.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "10\n"), done.stderr


@pytest.mark.slow
def test_the_command_takes_its_own_packages(clash):
    folder, _, hidden = clash
    start = f"import runpy; runpy.run_path({str(ROOT / 'train' / 'entry.py')!r})['main']()"
    done = python("-c", start, "list", "mlp", cwd=folder, path=(folder, ROOT))
    assert (done.returncode, done.stderr) == (0, "")
    assert "17,226" in done.stdout
    if hidden != "zoo":
        assert python("-m", "zoo", "list", "mlp", cwd=folder).stdout == done.stdout


def test_the_command_starts_in_a_module_of_its_own():
    entries, start = ((ROOT / file).read_text() for file in ("pyproject.toml", "train/cli/flaxzoo.py"))
    assert 'zoo = "flaxzoo:main"' in entries
    assert '"train/cli/flaxzoo.py" = "flaxzoo.py"' in entries
    assert not any(line.startswith(("import train", "from train")) for line in start.splitlines())


LOST = """
import gc, os, signal, time
import train.cli
from train import entry

def main():
    def callback(phase, info):  # what JAX has one of
        gc.callbacks.remove(callback)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    gc.callbacks.append(callback)
    gc.collect()
    time.sleep(30)

train.cli.main = main
entry.main()
"""


def test_an_interruption_that_python_drops_comes_again(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LOST],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "\nzoo: interrupted\n")
