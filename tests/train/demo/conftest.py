"""One tiny run of each kind. Only the classifier was trained: what the others answer need not be good."""

from __future__ import annotations

import json
import shutil
import threading

import jax
import numpy as np
import pytest

import data
import zoo
from train.demo import Server, panel
from train.recipe import Recipe

ALPHABET = "\n abcdefghijklmnopqrstuvwxyz"


def save(folder, recipe, example):
    """A run folder without the run: its recipe, and a checkpoint of a model that is initialised."""
    model = zoo.create_model(recipe.model, **recipe.model_options)
    variables = jax.jit(model.init)(jax.random.key(3), *example)
    step = folder / "checkpoints" / "1"
    zoo.save_model(step, recipe.model, variables, **recipe.model_options)
    meta = step / "meta" / "metadata"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "score": 0.0, "checksum": None}))
    (folder / "recipe.json").write_text(recipe.to_json())


@pytest.fixture(scope="package")
def runs(tmp_path_factory):
    """A folder with the runs `draw`, `walk`, `write` and `translate`, two that suit no panel, and a damaged one."""
    folder = tmp_path_factory.mktemp("demo") / "runs"
    shutil.copytree(zoo.published.SHIPPED / "mlp_digits", folder / "draw")
    for name in ("walk", "write", "translate", "unsuited", "iris", "damaged"):
        (folder / name).mkdir(parents=True)
    image = np.zeros((1, 8, 8, 1), np.float32)
    options = {"image_shape": (8, 8, 1), "features": (4, 4), "hidden_size": 8, "latent_size": 3}
    save(folder / "walk", Recipe(model="vae", data="digits", task="vae", model_options=options), (image,))
    options = {"vocab_size": len(ALPHABET), "hidden_size": 8, "num_layers": 1}
    recipe = Recipe(model="char_lstm", data="text:nowhere", task="language_modeling", model_options=options)
    save(folder / "write", recipe, (np.zeros((1, 3), np.int32),))
    (folder / "write" / "vocabulary.json").write_text(json.dumps(list(ALPHABET)))
    spec = data.load("dates", size=1).spec
    options = {"vocab_size": len(spec.vocabulary), "hidden_size": 16, "num_layers": 1, "mlp_dim": 16, "max_len": 36}
    recipe = Recipe(
        model="transformer_tiny", data="dates", data_options={"size": 1}, task="seq2seq", model_options=options
    )
    save(folder / "translate", recipe, (np.ones((1, 36), np.int32), np.ones((1, 11), np.int32)))
    (folder / "unsuited" / "recipe.json").write_text(Recipe(model="mlp", data="iris", task="regression").to_json())
    options = {"num_outputs": 3}
    save(
        folder / "iris", Recipe(model="perceptron", data="iris", model_options=options), (np.zeros((1, 4), np.float32),)
    )
    (folder / "damaged" / "recipe.json").write_text("{")
    return folder


@pytest.fixture(scope="package")
def panels(runs):
    return [panel(runs / name) for name in ("draw", "walk", "write", "translate")]


@pytest.fixture(scope="package")
def server(panels):
    """A server of all panels, in this process."""
    server = Server(panels)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.close()
