"""Texts by the zoo's compiled loop."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np

import zoo
from tests.accelerator.cases import Generation
from tests.accelerator.worker import Prepared
from train.inference.text_generation import generate


def prepare(case: Generation) -> Prepared:
    model = zoo.create_model("gpt2", dtype="bfloat16", param_dtype="bfloat16", **case.options)
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 256, (case.batch, case.prompt), np.int32)
    # Any weights will do; to compile the drawing of the model's own takes a GPU a minute.
    shapes = jax.eval_shape(model.init, jax.random.key(0), prompt[:1])
    variables = jax.tree.map(lambda leaf: jnp.asarray(0.02 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)

    def run(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            made = generate(model, variables, prompt, case.length, greedy=True)
            assert made.shape == (case.batch, case.length)
        return time.perf_counter() - began

    return Prepared(run, {"compile_seconds": run(1)}, lambda: {})
