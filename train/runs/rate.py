"""The learning-rate range test of a recipe."""

from __future__ import annotations

import dataclasses

import optax

from train.loop.rate_test import RateTest, find_rate
from train.recipe import Recipe
from train.runs.build import build
from train.runs.transfer import with_absolute_paths
from train.state import Task


def find_recipe_rate(recipe: Recipe, *, lowest: float = 1e-7, highest: float = 10.0, steps: int = 100) -> RateTest:
    """Tries learning rates on a recipe, in the place of its own and of its schedule. See `train.loop.find_rate`.

    Where several batches make one update, each rate has so many steps.

    Raises:
      ValueError: the recipe is wrong, gives layers rates of their own, or the rates do not rise.
    """
    if recipe.layer_rates:
        raise ValueError("a range test looks for one learning rate; leave layer_rates out: layer_rates={}")
    window = recipe.optimizer_options.get("accumulate_steps", 1)
    plain = dataclasses.replace(
        with_absolute_paths(recipe), schedule="constant", schedule_options={}, plateau_options={}
    )
    parts = build(plain)

    def task_of(rate: optax.Schedule) -> Task:
        return build(plain, rate=rate).task

    return find_rate(
        task_of,
        parts.dataset,
        batch_size=recipe.batch_size,
        lowest=lowest,
        highest=highest,
        steps=steps * window,
        seed=recipe.seed,
        plan=parts.plan,
        augment=parts.augment,
    )
