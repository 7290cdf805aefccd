"""What the README says is so: its code runs, and its tables agree with the registries."""

import functools
import re
import shlex
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import train.recipes  # noqa: F401
import zoo
from train import cli
from train.recipe import list_recipes

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_python_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    images = jnp.ones((8, 32, 32, 3))
    known = {
        "images": images,
        "key": jax.random.key(0),
        "tokens": jnp.zeros((2, 8), jnp.int32),
        "batch": {"image": images, "label": jnp.arange(8) % 10},
        "nn": nn,
    }
    exported = [block for block in blocks if "digits.stablehlo" in block]  # needs a trained run: see train/test_cli.py
    for table in ("_builders", "_cards"):  # what the README registers is gone afterwards
        monkeypatch.setattr(zoo.registry, table, dict(getattr(zoo.registry, table)))
    for block in blocks:
        if block not in exported:
            exec(block, known)
    assert len(blocks) - len(exported) >= 4
    assert known["features"].num_classes == 0
    assert set(known["seen"]["intermediates"]) >= {"stage1", "stage4"}
    assert int(known["state"].step) == 1
    assert known["fitted"].history[-1]["validation_accuracy"] > 0.9
    assert "validation_accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_model_stands_in_the_table_with_its_count(name):
    assert re.search(rf"^\| `{name}` \| {zoo.model_card(name).num_parameters:,} \|", README, re.MULTILINE)


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_stands_in_the_table(name):
    """With what it reached: per cent right, or for recipes that make images a figure and what it is of."""
    assert re.search(rf"^\| `{name}` \|[^|]+\|[^|]+\|[^|]*\d[^|]*\|$", README, re.MULTILINE)


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

    monkeypatch.setattr(cli, "COMMANDS", {name: instead(function) for name, function in cli.COMMANDS.items()})
    cli.main(words)
    assert called
