"""The plans agree with each other, with one device, and with what they promise about layout."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import zoo
from train.loop import parallel
from train.tasks import classification

STEPS = 20
BATCH = 16


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(STEPS, BATCH, 8, 8, 3)).astype(np.float32)
    return [{"image": x, "label": rng.integers(0, 10, BATCH).astype(np.int32)} for x in images]


def train(plan, batches, tx):
    model = zoo.create_model("resnet18", stem="cifar", features=8, stage_sizes=(1, 1), num_classes=10)
    task = classification(model, tx)
    state = plan.place(task.init(jax.random.key(1), batches[0]))
    program = plan.compile(lambda state, batch, shared: task.train_step(state, batch))
    losses = []
    for batch in batches:
        state, metrics = program(state, plan.split(batch, 0), {})
        losses.append(float(metrics["loss"].total / metrics["loss"].weight))
    return state, jax.device_get(plan.unplace(state).variables), losses


@pytest.fixture(scope="module")
def reference(batches):
    """One program on one device."""
    return train(parallel.jit(jax.devices()[:1]), batches, optax.sgd(0.05, momentum=0.9))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jit", "pmap", "fsdp"])
def test_twenty_steps_with_batch_norm_agree_with_one_device(name, batches, reference):
    _, variables, losses = train(parallel.plan(name), batches, optax.sgd(0.05, momentum=0.9))
    np.testing.assert_allclose(losses, reference[2], rtol=1e-4)
    # Float32 sums in another order, amplified by 20 steps of momentum.
    chex.assert_trees_all_close(variables, reference[1], rtol=1e-3, atol=2e-5)
    moved = jax.tree.map(lambda a: float(np.abs(a).max()), variables["batch_stats"])
    assert min(jax.tree.leaves(moved)) > 0


@pytest.mark.slow
def test_fsdp_splits_large_arrays_and_the_optimizer_with_them(batches):
    plan = parallel.fsdp(least_size=512)
    state, _, _ = train(plan, batches[:2], optax.adam(1e-3))
    for tree in (state.params, state.opt_state[0].mu):
        kernel = tree["stage1_block1"]["conv1"]["kernel"]  # [3, 3, 8, 8]
        assert kernel.sharding.spec == PartitionSpec(None, None, "batch")
        assert kernel.addressable_shards[0].data.shape == (3, 3, 1, 8)
    assert state.params["stage1_block1"]["norm1"]["scale"].sharding.spec == PartitionSpec()


@pytest.mark.parametrize("name", ["jit", "pmap", "fsdp"])
def test_place_and_unplace_are_inverse(name):
    plan = parallel.plan(name)
    task = classification(zoo.create_model("mlp"), optax.adam(1e-3))
    state = task.init(jax.random.key(3), {"image": jnp.zeros((1, 64)), "label": jnp.zeros(1, jnp.int32)})
    back = plan.unplace(plan.place(state))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    chex.assert_trees_all_equal(
        jax.device_get((back.step, back.params, back.opt_state)),
        jax.device_get((state.step, state.params, state.opt_state)),
    )
    np.testing.assert_array_equal(jax.random.key_data(back.key), jax.random.key_data(state.key))


@pytest.mark.parametrize("name", ["jit", "pmap", "fsdp"])
def test_split_keeps_rows_in_order(name):
    plan = parallel.plan(name)
    rows = np.arange(3 * 16).reshape(3, 16)
    split = plan.split(rows, 1)
    parts = sorted(split.addressable_shards, key=lambda shard: shard.device.id)
    together = np.concatenate([np.asarray(part.data).reshape(3, 2) for part in parts], axis=1)
    np.testing.assert_array_equal(together, rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jit", "pmap", "fsdp"])
def test_dropout_differs_between_devices(name):
    # Under pmap each device folds its index into the key; under jit one mask covers the whole batch.
    plan = parallel.plan(name)
    task = classification(zoo.create_model("mlp", hidden_sizes=(64,), dropout_rate=0.5), optax.sgd(1.0))
    batch = {"image": np.ones((8, 64), np.float32), "label": np.zeros(8, np.int32)}
    state = plan.place(task.init(jax.random.key(0), batch))
    program = plan.compile(lambda state, batch, shared: task.train_step(state, batch))
    before = jax.device_get(plan.unplace(state).params["Dense_1"]["kernel"])
    after, _ = program(state, plan.split(batch, 0), {})
    moved = jax.device_get(plan.unplace(after).params["Dense_1"]["kernel"]) - before
    active = np.abs(moved).sum(axis=1)
    active = active[active > 0] / active.max()
    # With one mask for all eight examples a unit would move fully or not at all.
    assert len(np.unique(active.round(3))) > 3


def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match=r"batch of 12 .* 8 devices; take 8"):
        parallel.jit().rows(12)
    with pytest.raises(ValueError, match="take 8"):
        parallel.pmap().rows(3)


def test_unknown_plan_lists_the_nearest():
    with pytest.raises(ValueError, match=r"unknown plan: 'pmab'; nearest: pmap"):
        parallel.plan("pmab")
