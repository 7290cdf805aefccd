"""What the README says is so: its code runs, and its tables agree with the registries."""

import ast
import fnmatch
import functools
import json
import re
import shlex
from pathlib import Path

import pytest

import data
import train.recipes  # noqa: F401
import zoo
from tests import readme_tables
from tests.train.cli.command import python
from train import cli, tasks
from train import recipe as recipe_module
from train.recipe import list_recipes

README = (Path(__file__).parents[1] / "README.md").read_text()


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_python_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    """With no name but what they define themselves."""
    monkeypatch.chdir(tmp_path)
    blocks, known = BLOCKS, {"__name__": "readme"}
    # Needs a trained run: see train/cli/test_using.py.
    exported = [block for block in blocks if "digits.stablehlo" in block]
    registries = (zoo.registry, "_builders"), (zoo.registry, "_cards"), (data.registry, "_BUILDERS"), (tasks, "TASKS")
    for module, table in (*registries, (recipe_module, "_recipes")):  # what the README registers is gone afterwards
        monkeypatch.setattr(module, table, dict(getattr(module, table)))
    for block in blocks:
        if block not in exported:
            exec(block, known)
    assert len(blocks) - len(exported) >= 4
    assert known["features"].num_classes == 0
    assert set(known["seen"]["intermediates"]) >= {"stage1", "stage4"}
    assert (int(known["state"].step), len(known["history"])) == (2 * 3, 2)
    assert set(known["mine"].splits) == {"train", "validation", "test"}
    assert known["fitted"].history[-1]["validation_accuracy"] > 0.9
    assert "validation_accuracy" in capsys.readouterr().out


def test_the_file_of_ones_own_trains(tmp_path):
    (block,) = (block for block in BLOCKS if block.startswith("# my_digits.py"))
    (tmp_path / "my_digits.py").write_text(block)
    done = python("-m", "zoo", "train", "my_digits.py", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["test_accuracy"] > 0.9
    done = python("-m", "zoo", "evaluate", "runs/my_recipe", "--import", "my_digits.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_tables_are_as_they_are_written():
    """From the registry and the recorded runs: `python -m tests.readme_tables` writes them anew."""
    assert readme_tables.written(README) == README


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_stands_in_the_table(name):
    """With what it reached: per cent right, or for recipes that make images a figure and what it is of."""
    assert re.search(rf"^\| `{name}` \|[^|]+\|[^|]+\|[^|]*\d[^|]*\|$", README, re.MULTILINE)


@pytest.mark.parametrize("pattern", readme_tables.PARITY)
def test_what_the_table_says_of_parity_is_what_a_test_says(pattern):
    parity = readme_tables.PARITY[pattern]
    file, _, name = parity.test.partition("::")
    source = (Path(__file__).parent / "parity" / f"{file}.py").read_text()
    functions = {node.name: ast.unparse(node) for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    helpers = [
        text for function, text in functions.items() if function.startswith("assert_") and function in functions[name]
    ]
    assert any(str(float(parity.bound)) in text for text in [functions[name], *helpers])
    assert fnmatch.filter(zoo.list_models(), pattern)


@pytest.mark.parametrize("command", re.findall(r"^    (zoo [a-z].*?)(?:  +#.*)?$", README, re.MULTILINE))
def test_every_command_is_understood(command, monkeypatch):
    """The arguments parse: the functions behind them are replaced by ones that do nothing."""
    words = shlex.split(command)[1:]
    called = []

    def instead(function):
        @functools.wraps(function)
        def note(*args, **kwargs):
            called.append(function.__name__)

        return note

    monkeypatch.setattr("train.user_code.import_code", called.append)
    monkeypatch.setattr(cli, "COMMANDS", {name: instead(function) for name, function in cli.COMMANDS.items()})
    cli.main(words)
    assert called
