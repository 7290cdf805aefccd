"""Options and files at random: whatever is wrong ends in an error of the project's own kinds, of a few lines."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data
import train.recipes  # noqa: F401
import zoo
from data import augment
from train.files import read_json
from train.inference.loading import load as load_run
from train.loop.callbacks import read_history
from train.loop.checkpoints import CheckpointError, finished_steps
from train.optim.optimizers import optimizer
from train.optim.plateau import Plateau
from train.optim.schedules import schedule
from train.recipe import Recipe, from_json, get_recipe, override
from train.runs.build import build
from train.tasks import TASKS

OWN = (ValueError, OSError, ImportError, CheckpointError)
"""ValueError has JSON's and Unicode's errors among its kinds; FileNotFoundError is an OSError."""

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.sampled_from([10**9, 2**63, -(10**9), 10**400, float("nan"), float("inf"), -0.5, 0.0, 1e-300, 0.3, 1.5, 1e300]),
    st.text(max_size=4),
    st.sampled_from(["abc", "1", "None", "float32", "gelu", "cosine", "sgd", "digits", "\x1b[31m", "../x", "a=b"]),
    st.lists(st.integers(-1, 9) | st.floats() | st.text(max_size=2), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
MODELS = st.sampled_from(
    ["mlp", "lenet5", "resnet18", "char_lstm", "char_gpt", "vae", "gan", "transformer_tiny", "cnn"]
)

quickly = settings(max_examples=250, deadline=None, derandomize=True)


def holds(action):
    """It succeeds, or says in at most 20 lines what is wrong."""
    try:
        action()
    except OWN as error:
        message = str(error)
        assert message.strip()
        assert len(message.splitlines()) <= 20, message
        assert len(message) < 4000, message


def constructors():
    """Each with the names of its options."""
    model = zoo.create_model("mlp", num_classes=3)
    found = {f"model {name}": (lambda name=name, **o: zoo.create_model(name, **o)) for name in ("mlp", "lenet5", "cnn")}
    found |= {
        f"model {name}": (lambda name=name, **o: zoo.create_model(name, **o)) for name in ("char_gpt", "vae", "gan")
    }
    names = {key: list(zoo.model_card(key.split()[1]).options) for key in found}
    for name, options in {
        "digits": ["flat", "standardize", "validation", "upsample"],
        "iris": ["standardize", "validation"],
        "sum_sequence": ["length", "size"],
    }.items():
        if name in data.list_datasets():
            found[f"data {name}"] = lambda name=name, **o: data.load(name, **o)
            names[f"data {name}"] = [*options, "nothing"]
    for name in ("sgd", "adam", "adamw"):
        found[f"optimizer {name}"] = lambda name=name, **o: optimizer(name, 0.1, **o).init({"a": np.zeros(2)})
        names[f"optimizer {name}"] = [
            "b1",
            "b2",
            "eps",
            "momentum",
            "weight_decay",
            "clip_norm",
            "accumulate_steps",
            "l2",
        ]
    for name in ("constant", "cosine", "step", "warmup_cosine", "one_cycle", "exponential"):
        found[f"schedule {name}"] = lambda name=name, **o: schedule(name, 0.1, 100, **o)
        names[f"schedule {name}"] = [
            "warmup_steps",
            "milestones",
            "decay_factor",
            "final_fraction",
            "decay_steps",
            "peak_at",
        ]
    for name in TASKS:
        found[f"task {name}"] = lambda name=name, **o: TASKS[name](model, optax.sgd(0.1), **o)
        names[f"task {name}"] = sorted(inspect.signature(TASKS[name]).parameters.keys() - {"model", "tx", "options"})
    found["plateau"], names["plateau"] = Plateau, [field.name for field in dataclasses.fields(Plateau)]
    found["policy"] = lambda **o: augment.policy("guide", **o)
    names["policy"] = [field.name for field in dataclasses.fields(augment.Policy)]
    return {key: (make, names[key]) for key, make in found.items()}


CONSTRUCTORS = constructors()


@pytest.mark.slow
@quickly
@given(st.data())
def test_options_of_recipes_as_settings(data):
    """What `zoo train` is given, as text; and all that it names is built, but not trained."""
    fields = [*Recipe.__dataclass_fields__, "model_options.hidden_sizes", "optimizer_options.clip_norm", "nothing"]
    fields += ["schedule_options.warmup_steps", "data_options.upsample", "task_options.ema_decay", "layer_rates.head"]
    chosen = data.draw(st.lists(st.tuples(st.sampled_from(fields), VALUES), min_size=1, max_size=2))
    words = [f"{name}={value}" for name, value in chosen]
    holds(lambda: build(override(get_recipe("mlp_digits"), words)))


@quickly
@given(st.data())
def test_options_of_constructors(data):
    make, names = CONSTRUCTORS[data.draw(st.sampled_from(sorted(CONSTRUCTORS)))]
    options = dict(data.draw(st.lists(st.tuples(st.sampled_from(names), VALUES), min_size=1, max_size=2)))
    holds(lambda: make(**options))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from train.runs.run import train

    folder = tmp_path_factory.mktemp("random") / "run"
    train(override(get_recipe("mlp_digits"), ["epochs=1", "model_options.hidden_sizes=[3]"]), folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def copy(run):
    """What is damaged, one file at a time."""
    return shutil.copytree(run, run.parent / "copy")


def changed_json(draw, value):
    """JSON with one entry removed, or replaced by something else."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        if draw(st.booleans()):
            return {name: each for name, each in value.items() if name != key}
        return {**value, key: changed_json(draw, value[key])}
    return draw(VALUES)


@pytest.mark.slow
@quickly
@given(st.data())
def test_damaged_copies_of_what_is_read_back(run, copy, data):
    files = sorted(p for p in copy.rglob("*") if p.is_file() and p.suffix != ".png" and "tensorboard" not in p.parts)
    path: Path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["truncate", "flip", "json", "empty"]))
    if kind == "truncate":
        del content[data.draw(st.integers(0, len(content))) :]
    elif kind == "flip" and content:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "json" and path.name in ("recipe.json", "report.json", "metadata"):
        content = bytearray(json.dumps(changed_json(data.draw, json.loads(content))).encode())
    else:
        content.clear()
    path.write_bytes(content)
    try:
        for read in (
            lambda: load_run(copy),
            lambda: read_history(copy / "history.csv"),
            lambda: finished_steps(copy),
            lambda: from_json((copy / "recipe.json").read_text()),
            lambda: read_json(copy / "report.json", dict),
        ):
            holds(read)
    finally:
        shutil.copyfile(run / path.relative_to(copy), path)
