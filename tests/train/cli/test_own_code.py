"""A user's own model, data set, task and recipe from the command line."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import data
import train.recipes  # noqa: F401  what is imported first inside of `zoo_command` is forgotten with it
import zoo
from tests.train.cli.command import python
from train import recipe, tasks
from train.cli import main

pytestmark = pytest.mark.slow

CODE = '''
import data, train.tasks, zoo
import flax.linen as nn, numpy as np
from train.recipe import Recipe, recipe


@zoo.register("my_model", input_shape=(4, 4, 1))
class MyModel(nn.Module):
    num_classes: int = 2

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(self.num_classes, name="head")(x.reshape(x.shape[0], -1))


@data.register("my_data")
def my_data(*, size: int = 64):
    rng = np.random.default_rng(0)
    label = np.arange(size) % 2
    image = rng.uniform(0, 0.5, (size, 4, 4, 1)) + label[:, None, None, None] / 2
    return data.from_arrays(image=image, label=label, classes=("dark", "light"), test=0.25, name="my_data")


@train.tasks.register
def my_task(model, tx, *, inputs: str = "image", **options):
    return train.tasks.classification(model, tx, inputs=inputs, **options)


@recipe
def my_recipe():
    """My own."""
    return Recipe(model="my_model", data="my_data", batch_size=8, epochs=12.0, learning_rate=0.1, validation=0.25)
'''


REGISTRIES = (
    *(zoo.registry._builders, zoo.registry._cards, data.registry._BUILDERS),
    *(tasks.TASKS, recipe._recipes),
)


def zoo_command(*arguments, cwd):
    """As in a process of its own: what it imports and registers is forgotten after it."""
    out, err = io.StringIO(), io.StringIO()
    code, log = None, logging.StreamHandler(err)
    logging.root.addHandler(log)
    importlib.invalidate_caches()
    try:
        with contextlib.ExitStack() as stack:
            for restored in (mock.patch.dict(table) for table in REGISTRIES):
                stack.enter_context(restored)
            stack.enter_context(mock.patch.object(sys, "path", list(sys.path)))
            for context in (contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)):
                stack.enter_context(context)
            main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    finally:
        logging.root.removeHandler(log)
        for name, module in list(sys.modules.items()):
            if Path(cwd) in Path(getattr(module, "__file__", None) or "/").parents:
                del sys.modules[name]
    said = f"{code}\n" if isinstance(code, str) else ""
    return SimpleNamespace(returncode=int(bool(code)), stdout=out.getvalue(), stderr=err.getvalue() + said)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the code, and a run that was trained with it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(CODE)
    done = python("-m", "zoo", "train", "mine.py", "--run", "runs/a", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_training_learns(trained):
    assert trained[1]["test_accuracy"] == 1


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        (("list", "my_*", "--import", "mine.py"), "my_model 34"),
        (("card", "my_model", "--import", "mine"), "parameters 34"),
        (("recipes", "mine.py"), "My own."),
        (("recipes", "mine:my_recipe"), "My own."),
        (("evaluate", "runs/a", "--import", "mine.py"), "test_accuracy 1"),
        (("predict", "runs/a", "light.png", "--import", "mine.py"), "light.png: light ("),
        (("export", "runs/a", "--out", "a.stablehlo", "--import", "mine.py"), "a.stablehlo"),
        (("bench", "my_model", "--seconds", "0.01", "--import", "mine.py"), "my_model"),
        (("train", "mine:my_recipe", "task=my_task", "data_options.size=48", "--run", "runs/b"), "kept in runs/b"),
        (("predict", "runs/b", "light.png", "--import", "mine.py"), "light.png: light ("),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_every_command_knows_what_was_imported(trained, command, printed):
    Image.fromarray(np.full((4, 4), 250, np.uint8)).save(trained[0] / "light.png")
    done = zoo_command(*command, cwd=trained[0])
    assert done.returncode == 0, done.stderr
    assert printed in " ".join(done.stdout.split())


def test_a_run_says_which_code_it_needs(trained):
    folder, _ = trained
    done = python("-m", "zoo", "evaluate", "runs/a", cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    where = folder / "mine.py"
    assert done.stderr == (
        f"zoo: error: the model 'my_model' of runs/a is defined in {where}: import it first (--import {where} on the "
        "command line)\n"
    )


def test_a_run_says_when_its_code_has_changed(trained, tmp_path):
    (tmp_path / "mine.py").write_text(CODE + "# changed\n")
    done = zoo_command("evaluate", trained[0] / "runs/a", "--import", "mine.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    changed = "the model 'my_model' and data set 'my_data' of"
    assert f"zoo: {tmp_path / 'mine.py'}, which defines {changed}" in done.stderr
    assert "has changed since that was trained" in done.stderr


def test_weights_say_which_code_they_need(trained, tmp_path):
    done = zoo_command("train", "mlp_digits", "model=", f"weights={trained[0] / 'runs' / 'a'}", cwd=tmp_path)
    assert f"is defined in {trained[0] / 'mine.py'}: import it first" in done.stderr


@pytest.mark.parametrize(
    ("before", "after"), [("self.num_classes, name", "3 * self.num_classes, name"), ('name="head"', 'name="top"')]
)
def test_parameters_that_are_not_those_of_the_code_as_it_is_now(trained, tmp_path, before, after):
    (tmp_path / "mine.py").write_text(CODE.replace(before, after))
    done = zoo_command("evaluate", trained[0] / "runs/a", "--import", "mine.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "zoo: error: " in done.stderr
    assert "not th" in done.stderr
    assert "head/" in done.stderr


def test_more_outputs_than_classes_are_refused(tmp_path):
    (tmp_path / "mine.py").write_text(CODE.replace("self.num_classes, name", "5, name"))
    done = zoo_command("train", "mlp_digits", "model=my_model", "--import", "mine.py", cwd=tmp_path)
    assert "model 'my_model' gives 5 outputs, and the data set 'digits' has 10 classes" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_builder_that_gives_no_data_set(tmp_path):
    (tmp_path / "mine.py").write_text(CODE.replace("return data.from_arrays", "data.from_arrays"))
    done = zoo_command("train", "mine.py", cwd=tmp_path)
    assert done.stderr == "zoo: error: the builder of data set 'my_data' must return a data.Dataset, not NoneType\n"


def test_mistakes(trained):
    folder, _ = trained
    (folder / "none.py").write_text("a = 1\n")
    (folder / "two.py").write_text(CODE.split("@zoo")[0] + "@recipe\ndef a(): ...\n@recipe\ndef b(): ...\n")
    for reference, message in {
        "none.py": "none.py defines no recipe; put @recipe, of train.recipe, above a function that returns a Recipe",
        "two.py": "two.py defines several recipes; choose one, such as two.py:a: a, b",
        "two.py:c": "unknown recipe in two.py: 'c'; known: a, b",
        "two.py:a": "the recipe 'a' must return a Recipe, not NoneType",
        "missing.py": "there is no file missing.py",
    }.items():
        assert zoo_command("train", reference, cwd=folder).stderr == f"zoo: error: {message}\n"
    assert not (folder / "runs" / "none").exists()
