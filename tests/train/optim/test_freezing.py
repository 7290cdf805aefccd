"""Freezing: what is frozen stays to the bit, takes no memory and no gradient, and is in inference."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import zoo
from tests.train.optim.small_resnet import SMALL, batch_of_images, flat, same_bits, small_resnet, start
from train.loop import parallel
from train.optim.freezing import freeze, in_inference, merge, partition
from train.optim.optimizers import optimizer
from train.runs import transfer
from train.tasks import classification
from zoo.layers import Dropout, record
from zoo.summary import abstract_variables


@pytest.fixture
def batch():
    return batch_of_images()


@pytest.fixture(scope="module")
def model():
    return small_resnet()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9, "loss_scaling": True}])
def test_what_is_frozen_stays_to_the_bit(model, batch, options):
    """And the variables that training started from stay whole, though steps are given their states for good."""
    frozen = transfer.frozen_layers(model, batch["image"], trained_layers=2)
    tx = freeze(optimizer("adamw", 0.1, l2=0.1, clip_norm=1.0), frozen)
    variables = start(model, batch["image"])
    task = classification(model, tx, frozen=frozen, start=variables, **options)
    state = task.init(jax.random.key(1), batch)
    step = jax.jit(task.train_step, donate_argnums=0)
    for _ in range(3):
        state, _ = step(state, batch)
    before = start(model, batch["image"])
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    for name, tree in (("params", state.params), ("ema", (state.ema or {}).get("params", {}))):
        for path, leaf in flat(tree).items():
            assert same_bits(leaf, flat(before["params"])[path]) == frozen(path), (name, path)
    averaged = flat(state.ema["batch_stats"]) if state.ema else {}
    for path, leaf in (*flat(state.model_state["batch_stats"]).items(), *averaged.items()):
        moved = not same_bits(leaf, flat(before["batch_stats"])[path])
        assert moved == (not frozen(f"{path.rpartition('/')[0]}/scale")), path


def test_what_is_frozen_takes_no_memory_in_the_optimizer(model, batch):
    frozen = transfer.frozen_layers(model, batch["image"], trained_layers=1)
    tx = freeze(optimizer("adam", 0.1, accumulate_steps=2, clip_norm=1.0), frozen)
    params = abstract_variables(model, batch["image"])["params"]
    state = jax.eval_shape(tx.init, params)
    floats = sum(leaf.size for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating))
    assert floats == 3 * (4 * 3 + 3), "two moments and one sum of gradients of the head"


def test_a_frozen_backbone_is_in_inference(model, batch):
    """With the head alone trained, the loss is that of the running statistics, the gradient that of the features."""
    variables = start(model, batch["image"])
    frozen = transfer.frozen_layers(model, batch["image"], trained_layers=1)
    task = classification(model, freeze(optax.sgd(1.0), frozen), frozen=frozen, start=variables)
    state = task.init(jax.random.key(0), batch)
    after, metrics = jax.jit(task.train_step)(state, batch)
    features = zoo.create_model("resnet18", num_classes=0, **SMALL).apply(
        {**variables, "params": {k: v for k, v in variables["params"].items() if k != "head"}}, batch["image"]
    )
    head = variables["params"]["head"]
    logits = features @ head["kernel"] + head["bias"][None]
    errors = jax.nn.softmax(logits) - jax.nn.one_hot(batch["label"], 3)
    loss = -np.log(np.asarray(jax.nn.softmax(logits))[np.arange(8), batch["label"]])
    np.testing.assert_allclose(metrics["loss"].total, loss.sum(), rtol=1e-5)
    moved = after.params["head"]["kernel"] - head["kernel"]
    np.testing.assert_allclose(moved, -features.T @ errors / 8, rtol=1e-4, atol=1e-5)


class Half(nn.Module):
    """Dropout and a dense layer."""

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(4)(Dropout(0.5)(x, train=train))


class Two(nn.Module):
    """Two such, and dropout of its own between them."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = Half(name="first")(x, train=train)
        record(self, "between", x)
        return Half(name="second")(Dropout(0.5)(x, train=train), train=train)


def test_dropout_rests_in_frozen_modules_and_works_elsewhere():
    x, two = np.ones((3, 4), np.float32), Two()
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), abstract_variables(two, x)["params"])

    def drops(frozen):
        """Whether the first module drops units, and whether anything does."""
        with nn.intercept_methods(in_inference(params, frozen)):
            y, seen = two.apply(
                {"params": params}, x, train=True, rngs={"dropout": jax.random.key(0)}, mutable=["intermediates"]
            )
        return bool((np.asarray(seen["intermediates"]["between"]) != 5).any()), bool((np.asarray(y) != 21).any())

    assert drops(lambda path: False) == (True, True)
    assert drops(lambda path: path.startswith("first/")) == (False, True)
    assert drops(lambda path: path == "first/Dense_0/kernel") == (True, True), "its bias is trained"
    assert drops(lambda path: True) == (False, True), "the model's own dropout, in no module, works"


def test_gradients_of_frozen_layers_are_not_computed(model, batch):
    """No convolution of the backward pass is left where the head alone is trained."""

    def convolutions(**options):
        frozen = transfer.frozen_layers(model, batch["image"], **options)
        task = (
            classification(model, optax.sgd(0.1))
            if frozen is None
            else classification(model, freeze(optax.sgd(0.1), frozen), frozen=frozen)
        )
        state = jax.eval_shape(task.init, jax.random.key(0), batch)
        text = jax.jit(task.train_step).trace(state, batch).lower(lowering_platforms=("tpu",)).as_text()
        return text.count("stablehlo.convolution")

    forward = 3
    assert convolutions(trained_layers=1) == forward
    assert convolutions() > 2 * forward


@pytest.mark.parametrize("plan", ["pmap", "fsdp"])
def test_freezing_under_every_plan(model, batch, plan):
    frozen = transfer.frozen_layers(model, batch["image"], trained_layers=2)
    tx = freeze(optax.sgd(0.1), frozen)
    task = classification(model, tx, frozen=frozen, start=start(model, batch["image"]))
    state = task.init(jax.random.key(0), batch)
    wanted, _ = jax.jit(task.train_step)(state, batch)
    laid_out = parallel.plan(plan, jax.devices()[:2])
    program = laid_out.compile(lambda state, items, _: task.train_step(state, items), donate=False)
    placed, _ = program(laid_out.place(state), laid_out.split(batch, 0), laid_out.replicate({}))
    found = laid_out.unplace(placed)
    for path, leaf in flat(found.params).items():
        assert same_bits(leaf, flat(state.params)[path]) == frozen(path)
        np.testing.assert_allclose(leaf, flat(wanted.params)[path], atol=1e-5)


def test_partition_and_merge():
    tree = {"a": {"b": 1, "c": 2}, "d": 3}
    first, second = partition(tree, lambda path: path in ("a/b", "d"))
    assert first == {"a": {"b": None, "c": 2}, "d": None}
    assert second == {"a": {"b": 1, "c": None}, "d": 3}
    assert merge(first, second) == tree


def test_learning_rates_by_layer():
    params = {"head": {"kernel": jnp.ones(2)}, "stem": {"kernel": jnp.ones(2)}, "body": {"kernel": jnp.ones(2)}}
    tx = optimizer("sgd", 1.0, layer_rates={"head": 0.5, "*/kernel": lambda step: 0.25 / (step + 1), "stem": 9.0})
    state = tx.init(params)
    for wanted in (0.25, 0.125):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        np.testing.assert_allclose(updates["head"]["kernel"], -0.5)
        np.testing.assert_allclose(updates["stem"]["kernel"], -wanted)  # the first wildcard decides
        np.testing.assert_allclose(updates["body"]["kernel"], -wanted)
    norm = optimizer("sgd", 1.0, layer_rates={"head": 0.5}, clip_norm=1.0)
    updates, _ = norm.update(jax.tree.map(jnp.ones_like, params), norm.init(params), params)
    np.testing.assert_allclose(updates["body"]["kernel"], -1 / np.sqrt(6), rtol=1e-6)  # the norm of all together
