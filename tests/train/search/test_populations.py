"""Each member of a population ends where `fit` alone would have brought it."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import data
import zoo
from train.loop import fitting, parallel
from train.loop.feed import feed
from train.optim.schedules import schedule
from train.search import members as members_of
from train.search import populations
from train.search.populations import Exploit, Member
from train.tasks.classification import classification

pytestmark = pytest.mark.slow

COURSE = {"batch_size": 8, "steps": 7, "evaluate_every": 3}
ONE = jax.devices()[:1]


def arrays(examples=40):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, 6)).astype(np.float32)
    label = (x.sum(axis=1) > 0).astype(np.int32)
    return data.from_arrays(features=x, label=label, validation=10)


DATA = arrays()


def fit(task, dataset, **options):
    return fitting.fit(task, dataset, plan=parallel.jit(ONE), **options)


def fit_population(members, dataset, devices=ONE, **options):
    return populations.fit_population(members, dataset, devices=devices, **options)


def task(rate=0.1, *, dropout=0.25, decay=0.0, smoothing=0.0, features=(5,), momentum=0.9, name="cosine"):
    model = zoo.create_model("mlp", hidden_sizes=features, num_classes=2, dropout_rate=dropout)
    tx = optax.chain(optax.add_decayed_weights(decay), optax.sgd(schedule(name, rate, COURSE["steps"]), momentum))
    return classification(model, tx, label_smoothing=smoothing, inputs="features")


MEMBERS = [
    Member(task(0.1, decay=0.01, smoothing=0.1), 0),
    Member(task(0.3, decay=0.02, smoothing=0.2, dropout=0.5), 1),
    Member(task(0.2, decay=0.03, smoothing=0.05, momentum=0.5), 0),
    Member(task(0.2, decay=0.01, smoothing=0.1), 4),
]


def assert_same_row(row, other):
    row, other = ({name: value for name, value in each.items() if name != "seconds"} for each in (row, other))
    assert row == pytest.approx(other, rel=2e-5, abs=1e-6, nan_ok=True)


def assert_same(trained, fitted, atol=1e-6):
    for row, other in zip(trained.history, fitted.history, strict=True):
        assert_same_row(row, other)
    for leaf, other in zip(jax.tree.leaves(trained.state), jax.tree.leaves(fitted.state), strict=True):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, other = jax.random.key_data(leaf), jax.random.key_data(other)
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=atol)


@pytest.fixture(scope="module")
def alone():
    return [fit(member.task, DATA, seed=member.seed, **COURSE) for member in MEMBERS]


@pytest.mark.parametrize(("way", "devices", "steps"), [("vmap", 1, 1), ("vmap", 4, 2), ("loop", 1, 3)])
def test_each_member_is_as_alone(alone, way, devices, steps):
    trained = fit_population(
        MEMBERS, DATA, way=way, devices=jax.devices()[:devices], steps_per_dispatch=steps, **COURSE
    )
    assert [(each.way, each.group, each.diverged) for each in trained] == [(way, 0, 0)] * 4
    for each, fitted in zip(trained, alone, strict=True):
        assert_same(each.fitted, fitted)


def test_one_seed_for_all_and_a_task_alone(alone):
    trained = fit_population([MEMBERS[0].task, MEMBERS[2].task], DATA, **COURSE)
    for each, fitted in zip(trained, (alone[0], alone[2]), strict=True):
        assert_same(each.fitted, fitted)


def test_what_changes_shapes_or_operations_is_a_group_of_its_own(alone):
    members = [
        MEMBERS[0],
        Member(task(features=(4,))),
        MEMBERS[1],
        Member(task(dropout=0.0)),
        Member(task(features=(4,))),
    ]
    trained = fit_population(members, DATA, **COURSE)
    assert [each.group for each in trained] == [0, 1, 0, 2, 1]
    assert [each.way for each in trained] == ["vmap", "vmap", "vmap", "loop", "vmap"], "nothing to vmap over"
    assert_same(trained[0].fitted, alone[0])
    assert_same(trained[2].fitted, alone[1])


def test_convolutions_on_a_cpu_are_trained_one_after_the_other():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            x = nn.BatchNorm(use_running_average=not train)(zoo.layers.Conv(2, (3, 3))(x.reshape(-1, 2, 3, 1)))
            return nn.Dense(2)(x.reshape(len(x), -1))

    members = [
        Member(classification(Net(), optax.sgd(rate), inputs="features"), seed) for seed, rate in enumerate((0.1, 0.01))
    ]
    trained = fit_population(members, DATA, **COURSE)
    assert {each.way for each in trained} == {"loop"}
    for each, member in zip(trained, members, strict=True):
        assert_same(each.fitted, fit(member.task, DATA, seed=member.seed, **COURSE))


def test_members_that_differ_in_their_optimizers_start_and_are_evaluated_by_one_program():
    """Only the train step is traced for each of them."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            read.append(train)
            return nn.Dense(2)(x)

    read: list[bool] = []
    members = [classification(Net(), optax.sgd(rate), inputs="features") for rate in (0.1, 0.2, 0.3, 0.4)]
    course = members_of.Course(DATA, *[feed(DATA, s, parallel.jit(ONE)) for s in ("train", "validation")], "", *[8] * 5)
    traced = members_of.trace([Member(member) for member in members], course)
    assert read == [False, True, False, True, True, True]
    assert len({id(each.evaluate) for each in traced}) == len({each.train.form for each in traced}) == 1


def test_a_member_that_diverges_takes_no_other_with_it(alone):
    trained = fit_population([MEMBERS[0], MEMBERS[1]._replace(task=task(1e30))], DATA, **COURSE)
    assert trained[0].diverged == 0
    assert trained[1].diverged in (2, 3)
    assert not trained[1].fitted.history
    assert_same(trained[0].fitted, alone[0])


@pytest.mark.parametrize("way", ["vmap", "loop"])
def test_a_callback_is_told_and_stops_members(alone, way):
    told = []

    def callback(evaluated):
        told.append((evaluated.step, tuple(evaluated.members), int(evaluated.state(evaluated.members[-1]).step)))
        return [1] if evaluated.step == 3 else None

    trained = fit_population(MEMBERS[:3], DATA, way=way, callback=callback, **COURSE)
    assert told == [(3, (0, 1, 2), 3), (6, (0, 2), 6), (7, (0, 2), 7)]
    assert [int(each.fitted.state.step) for each in trained] == [7, 3, 7]
    assert [len(each.fitted.history) for each in trained] == [3, 1, 3]
    assert_same(trained[2].fitted, alone[2])


def test_adapting_is_of_each_member_alone():
    def adapt(state, history):
        return dataclasses.replace(state, params=jax.tree.map(lambda p: p * (1 - 0.1 * len(history)), state.params))

    members = [MEMBERS[0], MEMBERS[1]._replace(adapt=adapt)]
    trained = fit_population(members, DATA, **COURSE)
    for each, member in zip(trained, members, strict=True):
        assert_same(each.fitted, fit(member.task, DATA, seed=member.seed, adapt=member.adapt, **COURSE))


# ---- population-based training ----


def exploit(settings, **options):
    return Exploit(lambda rate: task(rate, name="constant", dropout=0.25), settings, **options)


@pytest.mark.parametrize("way", ["vmap", "loop"])
def test_the_worst_go_on_from_the_best(way):
    settings = [{"rate": 0.2}, {"rate": 1e-7}, {"rate": 0.1}, {"rate": 0.15}]
    given = exploit(settings, every=2, monitor="validation_loss")
    members = [Member(given.make(**each), seed) for seed, each in enumerate(settings)]
    trained = fit_population(members, DATA, batch_size=8, steps=12, evaluate_every=3, way=way, exploit=given)
    assert [each.settings for each in trained[2:]] == [{"rate": 0.1}, {"rate": 0.15}] or trained[1].settings[
        "rate"
    ] > 0.01
    assert trained[1].settings["rate"] in {round(rate * f, 9) for rate in (0.2, 0.1, 0.15) for f in (0.8, 1.25)}
    losses = [[row["validation_loss"] for row in each.fitted.history] for each in trained]
    assert abs(losses[1][1] - losses[1][0]) < 1e-3, "it learned nothing by itself"
    assert losses[1][2] < losses[1][1] - 0.01, "it went on from another's state"
    again = fit_population(members, DATA, batch_size=8, steps=12, evaluate_every=3, way=way, exploit=given)
    assert [each.settings for each in again] == [each.settings for each in trained], "its seed decides"


def test_two_members_exchange_too_and_explore_what_both_had_alike():
    """Label smoothing is in the evaluation; it is the same for both until it is explored."""

    def make(rate, smoothing):
        return task(rate, smoothing=smoothing, name="constant")

    def explore(settings, rng):
        return {**settings, "smoothing": 0.4}

    settings = [{"rate": 0.2, "smoothing": 0.1}, {"rate": 1e-7, "smoothing": 0.1}]
    members = [Member(make(**each), 3) for each in settings]
    given = Exploit(make, settings, explore=explore)
    trained = fit_population(members, DATA, batch_size=8, steps=6, evaluate_every=3, exploit=given)
    assert [each.settings for each in trained] == [settings[0], {"rate": 0.2, "smoothing": 0.4}]

    alone = fit(members[0].task, DATA, seed=3, batch_size=8, steps=3, evaluate_every=3)
    assert_same_row(trained[0].fitted.history[0], alone.history[0])
    wanted = fit(make(0.2, 0.4), DATA, seed=3, state=alone.state, batch_size=8, steps=6, evaluate_every=3)
    assert_same_row(trained[1].fitted.history[1], wanted.history[-1])


# ---- bad input ----


def refused(message, members=MEMBERS, dataset=DATA, **options):
    with pytest.raises(ValueError, match=message):
        fit_population(members, dataset, **{**COURSE, **options})


def test_bad_input():
    refused("at least one member", [])
    refused("is a task, or a Member with one; not 3", [3])
    refused("unknown way: 'pmap'; nearest: vmap", way="pmap")
    refused("has no split 'dev'", validation="dev")
    refused("epochs or as steps, one of the two", epochs=1)
    refused("at least one step", steps=0)
    refused("evaluate_every must be at least 1", evaluate_every=-1)
    refused("batch_size must be from 1 to", batch_size=31)
    two = MEMBERS[:2]
    refused("settings for 1 members, and there are 2", two, exploit=exploit([{"rate": 1.0}]))
    both = [{"rate": 0.1}, {"rate": 0.2}]
    refused("share of Exploit is a fraction up to 0.5, not 0.7", two, exploit=exploit(both, share=0.7))
    refused("every of Exploit", two, exploit=exploit(both, every=0))
    refused("at least 2 members", two[:1], exploit=exploit(both[:1]))
    refused("needs one group", [two[0], Member(task(features=(4,)))], exploit=exploit(both))
    members = [Member(exploit(both).make(**each)) for each in both]
    refused("unknown metric of Exploit: 'los'", members, exploit=exploit(both, monitor="los"))
    refused("steps_per_dispatch must be at least 1, not 0", steps_per_dispatch=0)


def test_data_that_do_not_lie_on_the_device_are_for_one_seed(monkeypatch, alone):
    monkeypatch.setattr("train.loop.feed.RESIDENT_BYTES", 0)
    refused("Give all members one seed")
    trained = fit_population([MEMBERS[0], MEMBERS[2]], DATA, **COURSE)
    assert_same(trained[1].fitted, alone[2])


def test_too_many_members_for_the_memory(monkeypatch):
    monkeypatch.setattr("train.memory.machine_memory", lambda: 1000)
    refused("a population of 4 takes")


def test_public_names():
    assert set(populations.__all__) == {"Evaluated", "Exploit", "Member", "Trained", "fit_population"}
