"""The training loop: what is trained on, when it is evaluated, how it stops, and that it learns."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import data
import zoo
from train.loop import parallel, programs
from train.loop.checkpoints import Checkpoints
from train.loop.fitting import DivergedError, evaluate, fit
from train.metrics import weigh
from train.state import State, Task
from train.tasks import classification


def make_dataset(num_examples=64, validation=20, classes=3):
    rng = np.random.default_rng(0)
    sources = {}
    for split, size in (("train", num_examples), ("validation", validation), ("test", 13)):
        label = rng.integers(0, classes, size).astype(np.int32)
        image = (rng.normal(size=(size, 6)) + 4 * label[:, None]).astype(np.float32)
        sources[split] = data.ArraySource({"image": image, "label": label, "row": np.arange(size, dtype=np.int32)})
    fields = {"image": data.Field((6,), "float32"), "label": data.Field((), "int32"), "row": data.Field((), "int32")}
    spec = data.Spec(fields, tuple("abc"[:classes]))
    return data.Dataset("made", spec, sources, lambda batch: batch)


class Lazy:
    """A source that is not in memory, so that the loop reads it ahead on the host."""

    def __init__(self, source):
        self._source = source

    def __len__(self):
        return len(self._source)

    def __getitem__(self, indices):
        return self._source[indices]


def lazily(dataset):
    splits = {name: Lazy(source) for name, source in dataset.splits.items()}
    return data.Dataset(dataset.name, dataset.spec, splits, dataset.preprocess)


def mlp_task(tx=None, **options):
    return classification(zoo.create_model("mlp", hidden_sizes=(8,), num_classes=3), tx or optax.adam(1e-2), **options)


def recorder():
    """A task that learns nothing and remembers, in its state, the order of the rows that it saw."""

    def init(key, batch):
        return State(jnp.int32(0), {"seen": jnp.full(400, -1, jnp.int32)}, {}, (), jax.random.fold_in(key, 0))

    def train_step(state, batch):
        rows = batch["row"]
        seen = jax.lax.dynamic_update_slice(state.params["seen"], rows, (state.step * rows.shape[0],))
        state = State(state.step + 1, {"seen": seen}, {}, (), state.key)
        return state, weigh({"loss": rows}, batch["mask"])

    def eval_step(state, batch):
        return weigh({"loss": batch["row"]}, batch.get("mask"))

    return Task(init, train_step, eval_step)


one_device = parallel.jit(jax.devices()[:1])


@pytest.mark.parametrize("make", [make_dataset, lambda: lazily(make_dataset())], ids=["resident", "host"])
@pytest.mark.parametrize("k", [1, 3, 100])
def test_each_step_sees_the_rows_that_seed_and_step_determine(make, k):
    fitted = fit(recorder(), make(), batch_size=16, steps=10, seed=5, plan=one_device, steps_per_dispatch=k)
    expected = data.batch_indices(5, 64, 16, 0, 10).reshape(-1)
    np.testing.assert_array_equal(fitted.state.params["seen"][:160], expected)


@pytest.mark.parametrize("make", [make_dataset, lambda: lazily(make_dataset())], ids=["resident", "host"])
def test_evaluation_counts_every_example_once(make):
    # 20 validation rows in batches of 8: the last batch is padded.
    fitted = fit(recorder(), make(), batch_size=2, steps=1, plan=one_device)
    assert fitted.history[0]["validation_loss"] == pytest.approx(np.arange(20).mean())
    assert evaluate(recorder(), make(), fitted.state, plan=parallel.jit(), batch_size=1)["loss"] == pytest.approx(6)


def test_the_training_metrics_of_a_row_are_means_over_its_steps():
    fitted = fit(recorder(), make_dataset(), batch_size=16, steps=8, plan=one_device, evaluate_every=2)
    order = data.batch_indices(0, 64, 16, 0, 8).reshape(4, -1)
    assert [row["loss"] for row in fitted.history] == pytest.approx(list(order.mean(axis=1)))
    assert [row["step"] for row in fitted.history] == [2, 4, 6, 8]
    assert [row["epoch"] for row in fitted.history] == [0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize(("every", "steps"), [(4, [4, 8, 10]), (3, [3, 6, 9, 10]), (99, [10])])
def test_the_end_is_evaluated_wherever_it_falls(every, steps):
    fitted = fit(recorder(), make_dataset(), batch_size=16, steps=10, plan=one_device, evaluate_every=every)
    assert [row["step"] for row in fitted.history] == steps
    order = data.batch_indices(0, 64, 16, 0, 10)
    last = steps[-2] if len(steps) > 1 else 0
    assert fitted.history[-1]["loss"] == pytest.approx(order[last:].mean())


@pytest.mark.slow
def test_scan_and_single_dispatch_agree_bitwise_in_order_and_closely_in_value():
    results = [
        fit(mlp_task(), make_dataset(), batch_size=16, epochs=3, plan=one_device, steps_per_dispatch=k).state.params
        for k in (1, 4)
    ]
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jit", "pmap", "fsdp"])
@pytest.mark.parametrize("make", [make_dataset, lambda: lazily(make_dataset())], ids=["resident", "host"])
def test_plans_and_feeds_end_with_the_same_parameters(name, make):
    def task():
        model = zoo.create_model("mlp", hidden_sizes=(8,), num_classes=3, dropout_rate=0.0)
        return classification(model, optax.sgd(0.05))

    reference = fit(task(), make_dataset(), batch_size=16, epochs=2, plan=one_device)
    fitted = fit(task(), make(), batch_size=16, epochs=2, plan=parallel.plan(name))
    chex.assert_trees_all_close(
        jax.device_get(fitted.state.params), jax.device_get(reference.state.params), rtol=1e-4, atol=1e-6
    )
    for row, wanted in zip(fitted.history, reference.history, strict=True):
        assert {k: v for k, v in row.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in wanted.items() if k != "seconds"}, rel=1e-4
        )


@pytest.mark.slow
def test_it_learns_what_is_there_to_learn_and_nothing_from_random_labels():
    dataset = make_dataset(256)
    learned = fit(mlp_task(), dataset, batch_size=32, epochs=40)
    assert learned.history[-1]["validation_accuracy"] > 0.9
    assert evaluate(mlp_task(), dataset, learned.state)["accuracy"] > 0.9
    shuffled = dict(dataset.splits["train"].arrays)
    shuffled["label"] = np.random.default_rng(1).permutation(shuffled["label"])
    noise = data.Dataset("noise", dataset.spec, {**dataset.splits, "train": data.ArraySource(shuffled)}, lambda b: b)
    assert fit(mlp_task(), noise, batch_size=32, epochs=40).history[-1]["validation_accuracy"] < 0.7


def test_callbacks_see_every_step_and_can_end_the_training():
    reports = []

    def stop_after_two_evaluations(report):
        reports.append(report)
        return report.evaluated and len(report.history) == 2

    fitted = fit(mlp_task(), make_dataset(), batch_size=16, epochs=9, callbacks=[stop_after_two_evaluations])
    assert int(fitted.state.step) == 8
    assert [r.step for r in reports if not r.evaluated] == [4, 8]
    assert [r.step for r in reports if r.evaluated] == [4, 8]
    assert all(set(r.metrics) == {"loss", "accuracy"} for r in reports if not r.evaluated)


def test_the_seconds_of_a_resumed_run_go_on(tmp_path):
    checkpoints, task = Checkpoints(tmp_path, {"model": "none", "model_options": {}}), recorder()
    state = task.init(jax.random.key(0), {}).replace(step=jnp.int32(4))
    checkpoints.save(4, state, [{"step": 4.0, "loss": 1.0, "seconds": 1000.0}])
    checkpoints.wait()
    fitted = fit(task, make_dataset(), batch_size=16, epochs=2, plan=one_device, checkpoints=checkpoints)
    checkpoints.close()
    assert [row["step"] for row in fitted.history] == [4, 8]
    assert fitted.history[1]["seconds"] > 1000


def test_a_callback_that_ends_the_training_hides_nothing_from_those_behind_it():
    """Such as from the file of the history, which else would lack the last evaluation."""
    before, behind = [], []

    def watch(seen):
        return lambda report: seen.append((report.step, report.evaluated)) or False

    callbacks = [watch(before), lambda report: report.evaluated, watch(behind)]
    fit(recorder(), make_dataset(), batch_size=16, epochs=3, plan=one_device, callbacks=callbacks)
    assert before == behind == [(4, False), (4, True)]


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_loss_that_is_no_number_stops_and_names_the_step(k):
    dataset = make_dataset()
    arrays = dict(dataset.splits["train"].arrays)
    bad_row = data.batch_indices(0, 64, 16, 6)[0, 3]  # seen first in step 7, unless the first epoch has it before
    first = int(np.argwhere(data.batch_indices(0, 64, 16, 0, 4) == bad_row)[0, 0]) + 1
    arrays["image"] = arrays["image"].copy()
    arrays["image"][bad_row] = np.nan
    broken = data.Dataset("broken", dataset.spec, {"train": data.ArraySource(arrays)}, lambda batch: batch)
    with pytest.raises(DivergedError, match=rf"the loss is nan at step {first};"):
        fit(mlp_task(), broken, batch_size=16, epochs=3, plan=one_device, steps_per_dispatch=k)


def test_labels_outside_the_classes_are_refused_before_training():
    dataset = make_dataset()
    arrays = dict(dataset.splits["train"].arrays)
    arrays["label"] = arrays["label"].copy()
    arrays["label"][5] = 7
    for source in (data.ArraySource(arrays), Lazy(data.ArraySource(arrays))):
        broken = data.Dataset("broken", dataset.spec, {"train": source}, lambda batch: batch)
        with pytest.raises(ValueError, match=r"1 labels are outside 0 … 2; the first is 7"):
            fit(mlp_task(), broken, batch_size=16, epochs=1, plan=one_device)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 65, "epochs": 1}, "batch_size must be from 1 to the number of training examples, 64"),
        ({"batch_size": 0, "epochs": 1}, "batch_size must be from 1"),
        ({"batch_size": 12, "epochs": 1}, "cannot be split evenly over 8 devices; take 8"),
        ({"batch_size": 16}, "epochs or as steps"),
        ({"batch_size": 16, "epochs": 1, "steps": 4}, "epochs or as steps"),
        ({"batch_size": 16, "epochs": 0}, "at least one step"),
        ({"batch_size": 16, "epochs": 1, "evaluate_every": 0}, "evaluate_every must be at least 1, not 0"),
        ({"batch_size": 16, "epochs": 1, "steps_per_dispatch": -1}, "steps_per_dispatch must be at least 1, not -1"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(mlp_task(), make_dataset(), plan=parallel.jit(), **arguments)


def test_a_split_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"no split 'dev'; it has test, train, validation"):
        evaluate(
            mlp_task(), make_dataset(), mlp_task().init(jax.random.key(0), make_dataset().spec.example()), split="dev"
        )


def test_convolutions_are_not_looped_over_on_a_cpu():
    example = {"image": jnp.zeros((1, 8, 8, 1)), "label": jnp.zeros(1, jnp.int32)}
    flat = {"image": jnp.zeros((1, 64)), "label": jnp.zeros(1, jnp.int32)}
    for name, batch, expected in (("cnn", example, 1), ("mlp", flat, programs.MAX_STEPS_PER_DISPATCH)):
        task = classification(zoo.create_model(name), optax.sgd(0.1))
        evaluation = jax.make_jaxpr(task.eval_step)(task.init(jax.random.key(0), batch), batch)
        assert programs.suitable_steps(evaluation) == expected


@pytest.mark.parametrize("first", [0, 6, 12, 18])
def test_dispatches_are_cut_at_the_same_steps_wherever_a_run_begins(first):
    whole = list(programs.dispatches(0, 20, 6, 4))
    assert whole == [(0, 4), (4, 2), (6, 4), (10, 2), (12, 4), (16, 2), (18, 2)]
    assert list(programs.dispatches(first, 20, 6, 4)) == [(start, count) for start, count in whole if start >= first]
