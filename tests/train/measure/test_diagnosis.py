"""Networks made sick on purpose: the diagnosis names the illness and the layer; in healthy ones it finds nothing."""

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
from train.class_weights import class_weights
from train.loop import fit, inspect, parallel
from train.measure import diagnosis_pictures
from train.measure.diagnosis import diagnose, findings
from train.tasks import classification, reconstruction, regression
from zoo.layers.activations import activation

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", flat=True, standardize=True, validation=0.1)


class Deep(nn.Module):
    depth: int = 10
    activation: str = "relu"
    gain: float = 2.0

    @nn.compact
    def __call__(self, x, *, train=False):
        init = nn.initializers.variance_scaling(self.gain, "fan_in", "normal")
        for index in range(self.depth):
            x = activation(self.activation)(nn.Dense(16, kernel_init=init, name=f"hidden{index}")(x))
        return nn.Dense(10, name="head")(x)


def started(task, dataset):
    example = dataset.preprocess(dataset.splits["train"][np.arange(2)])
    return task.init(jax.random.key(0), example)


def found(task, dataset, state, history=()):
    return diagnose(task, dataset, state, batch_size=32, history=history)


def illnesses(told):
    return [(finding.illness, finding.layer) for finding in told]


def trained_on_one_device(task, dataset, **options):
    return fit(task, dataset, plan=parallel.jit(jax.devices()[:1]), **options)


def at_start(digits, change=lambda params: params, **options):
    """What is found in the layers of a network before its first step."""
    task = classification(Deep(**options), optax.adam(1e-3))
    state = started(task, digits)
    state = dataclasses.replace(state, params=change(state.params))
    layers = inspect(task, state, digits.preprocess(digits.splits["train"][np.arange(128)]))
    return layers, findings(layers)


def test_a_fresh_network_is_healthy(digits):
    assert at_start(digits, depth=10)[1] == []


def test_dead_relus(digits):
    def dead(params):
        return {**params, "hidden1": {**params["hidden1"], "bias": jnp.full(16, -100.0)}}

    layers, told = at_start(digits, dead, depth=3)
    assert illnesses(told)[0] == ("dead", "hidden1")
    assert "layer hidden1 is dead: 16 of its 16 units are zero for all examples" in told[0].words
    assert {layer.name: layer.dead_units for layer in layers}["hidden1"] == 16


def test_vanishing(digits):
    (finding,) = at_start(digits, depth=12, activation="sigmoid", gain=1.0)[1]
    assert finding.illness == "vanishing"
    assert finding.layer.startswith("hidden")
    assert "at layer hidden0" in finding.words


def test_exploding(digits):
    (finding,) = at_start(digits, depth=8, activation="linear", gain=60.0)[1]
    assert finding.illness == "exploding"
    assert "at layer hidden0" in finding.words


def test_saturated(digits):
    assert ("saturated", "hidden0") in illnesses(at_start(digits, depth=2, activation="tanh", gain=900.0)[1])


def test_nan_in_a_layer(digits):
    class Log(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            x = nn.Dense(8, name="first")(x)
            return nn.Dense(10, name="last")(Bad(name="second")(x))

    class Bad(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jnp.log(nn.Dense(8)(x))

    task = classification(Log(), optax.adam(1e-3))
    (finding,) = found(task, digits, started(task, digits)).findings
    assert (finding.illness, finding.layer) == ("not finite", "second")
    assert finding.words.startswith("the first NaN is made by `log` in layer second (forward")


@pytest.fixture(scope="module")
def trained(digits):
    """A healthy training, with the guide's network."""
    task = classification(zoo.create_model("mlp"), optax.adam(1e-3))
    return task, trained_on_one_device(task, digits, batch_size=32, epochs=6)


def test_a_healthy_training(digits, trained):
    task, fitted = trained
    assert found(task, digits, fitted.state, fitted.history).findings == []


def test_a_rate_ten_times_too_high(digits):
    """SGD learns at 0.3 and no more at ten times that."""
    model = zoo.create_model("mlp", hidden_sizes=(32,), dropout_rate=0.0)
    for rate, wanted in ((0.3, []), (3.0, ["rate too high"])):
        task = classification(model, optax.sgd(rate))
        fitted = trained_on_one_device(task, digits, batch_size=32, steps=45, evaluate_every=45)
        told = [finding.illness for finding in found(task, digits, fitted.state, fitted.history).findings]
        assert [illness for illness in told if illness == "rate too high"] == wanted, (rate, told)
        assert bool(told) == bool(wanted), (rate, told)


def test_shuffled_labels(digits):
    rng = np.random.default_rng(0)
    splits = {}
    for name, source in digits.splits.items():
        arrays = source.arrays
        splits[name] = data.ArraySource({**arrays, "label": rng.permutation(arrays["label"])})
    shuffled = dataclasses.replace(digits, splits=splits)
    task = classification(zoo.create_model("mlp", dropout_rate=0.0), optax.adam(1e-3))
    fitted = trained_on_one_device(task, shuffled, batch_size=32, epochs=12)
    (finding,) = found(task, shuffled, fitted.state, fitted.history).findings
    assert finding.illness == "overfitting"
    assert "are the labels right?" in finding.words


def test_underfitting(digits):
    task = classification(zoo.create_model("mlp"), optax.sgd(1e-6))
    fitted = trained_on_one_device(task, digits, batch_size=32, epochs=2)
    assert illnesses(found(task, digits, fitted.state, fitted.history).findings) == [("underfitting", None)]


def test_a_weighted_loss_is_judged_beside_that_of_a_model_that_knows_the_weights():
    """Of classes with 1 % and 99 % of all, the balanced loss of one that knows nothing is not their entropy."""
    rng = np.random.default_rng(0)
    label = (np.arange(2000) % 100 == 0).astype(np.int32)
    image = rng.normal(size=(2000, 3)).astype(np.float32) + 2 * label[:, None]
    rare = data.from_arrays(image=image, label=label, validation=0.2)
    weights = class_weights("balanced", rare)
    model = zoo.create_model("mlp", hidden_sizes=(), num_classes=2)
    task = classification(model, optax.adam(1e-2), class_weight=weights)
    fitted = trained_on_one_device(task, rare, batch_size=32, epochs=4)
    told = diagnose(task, rare, fitted.state, batch_size=32, history=fitted.history, class_weight=weights)
    assert told.findings == []
    assert 0.5 < min(told.blank) <= max(told.blank) < np.log(2) + 0.01, "random weights are a little better"
    entropy = -(0.01 * np.log(0.01) + 0.99 * np.log(0.99))
    plain = diagnose(classification(model, optax.adam(1e-2)), rare, fitted.state, batch_size=32)
    np.testing.assert_allclose(plain.blank, entropy, rtol=0.1)


def test_a_healthy_autoencoder_and_a_healthy_recurrent_network():
    images = data.load("digits", validation=0.1)
    model = zoo.create_model("autoencoder", image_shape=(8, 8, 1), hidden_sizes=(32,), latent_size=8)
    task = reconstruction(model, optax.adam(3e-3))
    fitted = trained_on_one_device(task, images, batch_size=64, epochs=6)
    assert found(task, images, fitted.state, fitted.history).findings == []

    x = np.random.default_rng(0).normal(size=(256, 10, 1)).astype(np.float32)
    task = regression(zoo.create_model("gru_regressor", hidden_sizes=(16,)), optax.adam(1e-2), inputs="inputs")
    sums = {"inputs": x, "target": x.sum(axis=1)}
    fitted = trained_on_one_device(task, sums, batch_size=32, epochs=10)
    assert found(task, sums, fitted.state, fitted.history).findings == []


def test_the_table_against_numpy(digits):
    model = Deep(depth=1)
    x = np.asarray(digits.preprocess(digits.splits["train"][np.arange(50)])["image"])
    variables = model.init(jax.random.key(0), x)
    first, head, whole = inspect(model, variables, x, loss=lambda y: jnp.square(y).sum())
    kernel = np.asarray(variables["params"]["hidden0"]["kernel"])
    h = np.maximum(x @ kernel, 0)
    assert (first.name, first.kind, first.output_shape, first.nonlinearity) == ("hidden0", "Dense", (50, 16), "relu")
    np.testing.assert_allclose([first.mean, first.std, first.zeros], [h.mean(), h.std(), (h == 0).mean()], rtol=1e-4)
    silent = (h == 0).mean(axis=0)
    assert (first.units, first.dead_units, first.silent_units) == (16, (silent > 0.9).sum(), (silent == 1).sum())
    assert first.num_weights == 64 * 16 + 16
    np.testing.assert_allclose(first.weight_norm, np.sqrt(np.square(kernel).sum()), rtol=1e-5)
    y = h @ np.asarray(variables["params"]["head"]["kernel"])
    np.testing.assert_allclose(head.output_gradient_norm, np.linalg.norm(2 * y), rtol=1e-4)
    norm = np.sqrt(np.square(h.T @ (2 * y)).sum() + np.square((2 * y).sum(axis=0)).sum())
    np.testing.assert_allclose(head.gradient_norm, norm, rtol=1e-4)
    assert head.update_ratio is None
    assert (whole.name, whole.num_weights) == ("", 0)


def test_of_a_task_the_update_is_that_of_its_step(digits):
    task = classification(Deep(depth=1), optax.sgd(0.5))
    state = started(task, digits)
    batch = digits.preprocess(digits.splits["train"][np.arange(32)])
    first = inspect(task, state, batch)[0]
    after, _ = jax.jit(task.train_step)(state, batch)
    moved = np.linalg.norm(after.params["hidden0"]["kernel"] - state.params["hidden0"]["kernel"])
    assert first.update_ratio == pytest.approx(moved / np.linalg.norm(state.params["hidden0"]["kernel"]), rel=1e-3)
    assert first.update_norm == pytest.approx(0.5 * first.gradient_norm, rel=1e-3)


@pytest.mark.parametrize("plan", [parallel.jit, parallel.pmap])
def test_fit_reports_layers(digits, plan):
    seen = []

    def keep(report):
        if report.evaluated:
            seen.append([each.name for each in report.layers])

    task = classification(Deep(depth=1), optax.sgd(0.1))
    options = {"steps": 4, "evaluate_every": 1, "observe_every": 2, "plan": plan(jax.devices()[:2])}
    fit(task, digits, batch_size=32, callbacks=[keep], validation=None, **options)
    assert seen == [[], ["hidden0", "head", ""], [], ["hidden0", "head", ""]]


def test_pictures(digits, trained, tmp_path):
    task, fitted = trained
    result = found(task, digits, fitted.state, fitted.history)
    files = diagnosis_pictures.write(result, fitted.state.params, tmp_path / "out", title="a $run")
    assert [file.name for file in files] == ["diagnosis.json", "gradient_flow.png", "histograms.png", "curves.png"]
    assert all(file.stat().st_size > 1000 for file in files)


def test_first_filters():
    model = zoo.create_model("lenet5", num_classes=3)
    x = np.zeros((2, 32, 32, 1), np.float32)
    variables = model.init(jax.random.key(0), x)
    images = diagnosis_pictures.first_filters(inspect(model, variables, x), variables["params"])
    assert images is not None
    assert images.shape == (6, 5, 5, 1)
    assert images.min() == 0
    assert images.max() == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3, {}, 0), "what is inspected is a task or a Flax module, not int"),
        ((Deep(), {}, 0), "with a model come its variables"),
        ((Deep(), {"params": {}}, {"image": 0}), "of a batch a model takes its input"),
        ((classification(Deep(), optax.sgd(1.0)), {}, 0), "with a task comes its state"),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises(ValueError, match=words):
        inspect(*arguments)
