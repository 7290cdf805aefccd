"""What the tests of tasks share: small models, batches for them, and the irises."""

from __future__ import annotations

import functools

import chex
import jax
import numpy as np
import optax

import zoo
from tests.descriptors import MODELS
from train.metrics import summarize
from train.optim.optimizers import optimizer
from train.tasks import TASKS

BATCH = 8
KEY = jax.random.key(
    0, impl="rbg"
)  # for a deep network its initialisation compiles several times faster than threefry's


@functools.cache
def batch_of(name, batch_size=BATCH):
    row, card, rng = MODELS[name], zoo.model_card(name), np.random.default_rng(1)
    if card.task in ("diffusion", "gan", "reconstruction", "vae"):
        shape = row.small.get("image_shape", row.shape)
        return {"image": rng.uniform(size=(batch_size, *shape)).astype(np.float32)}
    if card.input_dtype == "int32":
        x = rng.integers(0, row.small["vocab_size"], (batch_size, *row.shape), np.int32)
    else:
        x = rng.normal(size=(batch_size, *row.shape)).astype(np.float32)
    match card.task:
        case "language_modeling":
            return {"tokens": x}
        case "seq2seq":
            return {"inputs": x, "targets": x}
        case "node_classification":
            ends = np.arange(batch_size, dtype=np.int32)
            edges = {"senders": ends, "receivers": np.roll(ends, 1)}
            return {"nodes": x, **edges, "node": ends, "label": (ends % row.num_outputs).astype(np.int32)}
        case "graph_classification":
            ends = np.tile(np.arange(x.shape[1], dtype=np.int32), (batch_size, 1))
            edges = {"senders": ends, "receivers": np.roll(ends, 1, axis=1)}
            mask = np.arange(x.shape[1])[None] < rng.integers(1, x.shape[1] + 1, (batch_size, 1))
            labels = (np.arange(batch_size) % row.num_outputs).astype(np.int32)
            return {"nodes": x, **edges, "node_mask": mask, "label": labels}
        case "density":
            return {"features": x, "log_density": rng.normal(size=batch_size).astype(np.float32)}
        case "latent_ode":
            times = np.sort(rng.uniform(size=x.shape[:2]).astype(np.float32), axis=1)
            observed = (np.arange(x.shape[1])[None] < rng.integers(2, 5, (batch_size, 1))).astype(np.float32)
            return {"inputs": x, "times": times, "observed": observed}
        case "regression":
            return {"inputs": x, "target": rng.normal(size=(batch_size, row.num_outputs)).astype(np.float32)}
    return {"image": x, "label": (np.arange(batch_size) % row.num_outputs).astype(np.int32)}


def task_of(name, tx, *, model_options=None, **options):
    """The small variant of a model in the task that it is made for."""
    model = zoo.create_model(name, **{**MODELS[name].small, **(model_options or {})})
    return TASKS[zoo.model_card(name).task](model, tx, **options)


@functools.cache
def trainer(name):
    """The task of the small variant, its compiled train step and evaluation, and an initial state."""
    options = {"dropout_rate": 0.0} if "dropout_rate" in zoo.model_card(name).options else {}
    tx = optax.flatten(optimizer("adam", 1e-2))  # a program of far fewer operations
    task = task_of(name, tx, model_options=options)
    return task, jax.jit(task.train_step), jax.jit(task.eval_step), task.init(KEY, batch_of(name))


def linear(num_outputs=3, **options):
    """Softmax regression, or linear regression: all in closed form."""
    return zoo.create_model("mlp", hidden_sizes=(), num_classes=num_outputs, **options)


def assert_same_state(first, second):
    def data_of(state):
        return state.replace(key=jax.random.key_data(state.key))

    chex.assert_trees_all_equal(data_of(first), data_of(second))


def step_of(task, examples):
    """The state before and after one step on these examples, and what the step reports."""
    state = task.init(jax.random.key(0), examples)
    new, metrics = jax.jit(task.train_step)(state, examples)
    return state, new, summarize(metrics)


def kernel_and_bias(state):
    (layer,) = state.params.values()
    return np.asarray(layer["kernel"], np.float64), np.asarray(layer["bias"], np.float64)


@functools.cache
def iris():
    from sklearn.datasets import load_iris

    features, labels = load_iris(return_X_y=True)
    return ((features - features.mean(axis=0)) / features.std(axis=0)).astype(np.float32), labels.astype(np.int32)


def train_on(task, batch, steps):
    def step(state, _):
        state, metrics = task.train_step(state, batch)
        return state, metrics["loss"].total / metrics["loss"].weight

    return jax.jit(lambda state: jax.lax.scan(step, state, length=steps))(task.init(jax.random.key(0), batch))
