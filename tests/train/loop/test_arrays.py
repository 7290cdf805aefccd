"""Arrays in the place of a data set: what `fit` and `evaluate` make of them."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import numpy as np
import optax
import pytest

import data
from train.loop import DivergedError, evaluate, fit
from train.loop.training_data import as_dataset
from train.optim.optimizers import optimizer
from train.tasks import classification, regression

X = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
LABEL = (X[:, 0] > 0).astype(np.int64)


class Linear(nn.Module):
    size: int

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(self.size)(x)


def trained(source, task):
    fitted = fit(task, source, batch_size=16, epochs=30)
    known = source if isinstance(source, data.Dataset) else as_dataset(source)
    return fitted, evaluate(task, known, fitted.state, split="train")


def test_some_of_the_examples_keep_the_numbers_of_their_classes():
    labels = np.arange(64) % 3
    inputs = np.eye(3, dtype=np.float32)[labels]
    task = classification(Linear(3), optax.adam(0.3))
    fitted = fit(task, (inputs, labels), batch_size=16, epochs=30)
    for some in (labels > 0, labels == 2, labels != 1):
        assert evaluate(task, (inputs[some], labels[some]), fitted.state)["accuracy"] == 1
    with pytest.raises(ValueError, match="labels that are names need the order of the classes"):
        evaluate(task, (inputs, np.array(["a", "b", "c"])[labels]), fitted.state)


@pytest.mark.parametrize(
    "labels", [LABEL, np.array(["no", "yes"])[LABEL], LABEL.astype(bool)], ids=["int", "str", "bool"]
)
def test_a_pair_of_inputs_and_labels(labels):
    _, metrics = trained((X, labels), classification(Linear(2), optax.adam(0.1)))
    assert metrics["accuracy"] > 0.95


def test_a_pair_of_inputs_and_numbers():
    _, metrics = trained((X, X @ np.arange(5.0)), regression(Linear(1), optax.adam(0.3)))
    assert metrics["loss"] < 0.01


def test_arrays_by_field_are_the_data_set_of_them():
    arrays = {"features": X, "label": LABEL}
    task = classification(Linear(2), optax.adam(0.1), inputs="features")
    (first, metrics), (second, _) = trained(arrays, task), trained(data.from_arrays(**arrays), task)
    assert [{**row, "seconds": 0} for row in first.history] == [{**row, "seconds": 0} for row in second.history]
    assert metrics["accuracy"] > 0.95


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (X, "data are a data set, a dict of arrays by field, or a pair .*; not ndarray"),
        ((X,), "not tuple of 1"),
        ([X, LABEL], "not list of 2"),
        (((X, LABEL), (X, LABEL)), "each is one array; a test split goes into data.from_arrays"),
        ((X, LABEL[:3]), "same number of examples"),
        ((X, X[:, 0]), r"needs the field 'image', and the data set 'arrays' has inputs, target: .*\(inputs='inputs'\)"),
        ({"features": X, "label": LABEL}, r"the field 'image', and the data set .* has features, label"),
        ({"image": X}, "needs the field 'label', .* has image: numbers are told by the task regression"),
    ],
)
def test_what_is_refused(source, message):
    task = classification(Linear(2), optax.sgd(0.1))
    with pytest.raises(ValueError, match=message):
        fit(task, source, batch_size=8, epochs=1)
    if isinstance(source, dict):
        with pytest.raises(ValueError, match=message):
            evaluate(task, source, fit(task, (X, LABEL), batch_size=8, epochs=1).state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": "2"}, "epochs of fit must be a number or None, not '2'"),
        ({"batch_size": 8.5}, "batch_size of fit must be a whole number, not 8.5"),
        ({"plan": "pmap"}, r"plan of fit is made by train.parallel, such as parallel.pmap\(\); not 'pmap'"),
        ({"batch_size": 65}, "batch_size must be from 1 to the number of training examples, 64; .*: set batch_size=64"),
    ],
)
def test_options_of_fit_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        fit(classification(Linear(2), optax.sgd(0.1)), (X, LABEL), **{"batch_size": 8, "epochs": 1, **options})


def test_arguments_in_another_order_are_told_of():
    model, tx = Linear(2), optax.sgd(0.1)
    with pytest.raises(ValueError, match=r"fit takes a task, .*classification\(model, optax.adam.*; not Linear"):
        fit(model, (X, LABEL), batch_size=8, epochs=1)
    for wrong, message in (((model, 0.1), "takes an optimizer of Optax, .*, not 0.1"), (("mlp", tx), "a Flax module")):
        with pytest.raises(ValueError, match=message):
            classification(*wrong)
    with pytest.raises(ValueError, match="unknown option of the task: 'ema'; nearest: ema_decay"):
        classification(model, tx, ema=0.9)
    task = classification(model, tx)
    state, _ = fit(task, (X, LABEL), batch_size=8, epochs=1)
    with pytest.raises(ValueError, match=r"evaluate\(task, data, state\) takes the state of `fit` last, not tuple"):
        evaluate(task, state, (X, LABEL))


def test_one_hot_rows_are_labels():
    one_hot = np.eye(2, dtype=np.float32)[LABEL]
    dataset = as_dataset((X, one_hot))
    np.testing.assert_array_equal(dataset.splits["train"][np.arange(64)]["label"], LABEL)
    assert set(as_dataset((X, one_hot / 2)).spec.fields) == {"inputs", "target"}


def test_a_model_with_too_few_outputs_is_asked_about():
    with pytest.raises(DivergedError, match="is nan at step 1; has the model an output for each of the 3 classes"):
        fit(classification(Linear(2), optax.sgd(0.1)), (X, np.arange(64) % 3), batch_size=8, epochs=1)


def test_gradients_that_wait_for_others_at_the_end_are_told_of(caplog):
    options = {"batch_size": 16, "validation": None}
    fit(classification(Linear(2), optimizer("sgd", 0.1, accumulate_steps=2)), (X, LABEL), steps=4, **options)
    assert "moved nothing" not in caplog.text
    fit(classification(Linear(2), optimizer("sgd", 0.1, accumulate_steps=4)), (X, LABEL), steps=3, **options)
    assert "the last 3 steps moved nothing" in caplog.text


def test_a_bar_where_it_is_asked_for(capsys):
    task = classification(Linear(2), optax.sgd(0.1))
    fit(task, (X, LABEL), batch_size=16, epochs=2)
    assert capsys.readouterr().err == ""
    fit(task, (X, LABEL), batch_size=16, epochs=2, progress=True)
    assert "8/8" in capsys.readouterr().err


def test_splits_that_are_not_there_or_empty():
    task = classification(Linear(2), optax.sgd(0.1))
    arrays = data.from_arrays(image=X, label=LABEL)
    with pytest.raises(ValueError, match="data set 'arrays' has no split 'nosuch' to validate on; it has train"):
        fit(task, arrays, batch_size=8, epochs=1, validation="nosuch")
    empty = data.ArraySource({"image": X[:0], "label": LABEL[:0]})
    with pytest.raises(ValueError, match="the split 'validation' of data set 'arrays' has no examples"):
        fit(task, dataclasses.replace(arrays, splits={**arrays.splits, "validation": empty}), batch_size=8, epochs=1)


def test_tokens_that_a_vocabulary_does_not_have_are_refused():
    tokens = np.array([[0, 1, 2], [2, 3, 0]], np.int32)
    fields = {"tokens": data.Field((3,), "int32")}
    source = data.ArraySource({"tokens": tokens})
    texts = data.Dataset("texts", data.Spec(fields, vocabulary=("a", "b", "c")), {"train": source}, lambda batch: batch)
    with pytest.raises(ValueError, match=r"tokens of texts \(train\) holds tokens outside 0 … 2.*is 3, at \[1, 1\]"):
        fit(classification(Linear(3), optax.sgd(0.1), inputs="tokens"), texts, batch_size=2, epochs=1)
