"""The recipes learn: those on embedded data in full, to what their docstrings say; those on MNIST for some steps."""

import os

import jax
import pytest

import train.recipes  # noqa: F401
from train import parallel
from train.build import build
from train.loop import evaluate, fit
from train.recipe import get_recipe

one_device = parallel.jit(jax.devices()[:1])


@pytest.mark.parametrize(("name", "least"), [("perceptron_iris", 1.0), ("mlp_digits", 0.975), ("lenet5_digits", 0.97)])
def test_recipes_on_embedded_data_reach_what_they_say(name, least):
    recipe = get_recipe(name)
    parts = build(recipe)
    fitted = fit(
        parts.task, parts.dataset, batch_size=recipe.batch_size, epochs=recipe.epochs, seed=recipe.seed, plan=one_device
    )
    assert evaluate(parts.task, parts.dataset, fitted.state, plan=one_device)["accuracy"] >= least


@pytest.mark.skipif("ZOO_DATA_DIR" not in os.environ, reason="needs MNIST in ZOO_DATA_DIR")
@pytest.mark.parametrize(
    ("name", "steps", "most_loss"), [("lenet5_mnist", 120, 0.5), ("cnn_mnist", 40, 0.7), ("resnet18_mnist", 12, 2.2)]
)
def test_recipes_on_mnist_begin_to_learn(name, steps, most_loss):
    recipe = get_recipe(name)
    parts = build(recipe)
    fitted = fit(
        parts.task,
        parts.dataset,
        batch_size=recipe.batch_size,
        steps=steps,
        seed=recipe.seed,
        plan=one_device,
        validation=None,
        evaluate_every=steps // 4,
    )
    losses = [row["loss"] for row in fitted.history]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < most_loss
