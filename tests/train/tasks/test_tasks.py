"""Tasks: over every registered model, and in numbers on models small enough for NumPy and scikit-learn."""

from __future__ import annotations

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from jax import export
from sklearn.linear_model import LogisticRegression, Perceptron, Ridge

import data
import zoo
from tests.descriptors import MODELS
from train.metrics import summarize
from train.optim.optimizers import optimizer
from train.state import State
from train.tasks import OF_UNIT_IMAGES, TASKS, classification, regression
from train.tasks.classification import class_probabilities, predicted_class

BATCH = 8
KEY = jax.random.key(
    0, impl="rbg"
)  # for a deep network its initialisation compiles several times faster than threefry's

# Of variants that are the same module when they are small, the first stands for all.
distinct = {zoo.create_model(name, **row.small): name for name, row in reversed(MODELS.items())}.values()
every_model = pytest.mark.parametrize("name", distinct)
# One model of each class, that with the fewest blocks, for what depends on the task more than on the model.
deepest_first = sorted(MODELS, key=lambda name: -sum(MODELS[name].small.get("stage_sizes", ())))
families = {type(zoo.create_model(name)): name for name in deepest_first}.values()
every_family = pytest.mark.parametrize("name", families)
every_classifier = pytest.mark.parametrize(
    "name", [name for name in families if zoo.model_card(name).task == "classification"]
)


@functools.cache
def batch_of(name, batch_size=BATCH):
    row, card, rng = MODELS[name], zoo.model_card(name), np.random.default_rng(1)
    if card.task in OF_UNIT_IMAGES:
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
    task = task_of(name, optimizer("adam", 1e-2), model_options=options)
    return task, jax.jit(task.train_step), jax.jit(task.eval_step), task.init(KEY, batch_of(name))


def linear(num_outputs=3, **options):
    """Softmax regression, or linear regression: all in closed form."""
    return zoo.create_model("mlp", hidden_sizes=(), num_classes=num_outputs, **options)


def assert_same_state(first, second):
    def data_of(state):
        return state.replace(key=jax.random.key_data(state.key))

    chex.assert_trees_all_equal(data_of(first), data_of(second))


def kernel_and_bias(state):
    (layer,) = state.params.values()
    return np.asarray(layer["kernel"], np.float64), np.asarray(layer["bias"], np.float64)


# ---- every registered model, or one of each family ----


@every_classifier
def test_the_loss_falls(name):
    _, step, _, state = trainer(name)
    losses = []
    for _ in range(25):
        state, metrics = step(state, batch_of(name))
        losses.append(summarize(metrics)["loss"])
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0], losses
    assert int(state.step) == 25


@every_family
def test_a_step_is_a_function_of_state_and_batch(name):
    _, step, _, state = trainer(name)
    first, metrics = step(state, batch_of(name))
    second, again = step(state, batch_of(name))
    assert_same_state(first, second)
    chex.assert_trees_all_equal(metrics, again)
    np.testing.assert_array_equal(jax.random.key_data(first.key), jax.random.key_data(state.key))


@every_model
def test_a_step_lowers_for_every_platform(name):
    """With dropout, where the model has it, and with the state as a pytree with its typed key."""
    options = {} if zoo.model_card(name).task == "gan" else {"ema_decay": 0.99}
    task = task_of(name, optimizer("adamw", 1e-3, clip_norm=1.0), **options)
    state = jax.eval_shape(task.init, jax.random.key(0), batch_of(name))
    exported = export.export(jax.jit(task.train_step), platforms=["cpu", "cuda", "tpu"])(state, batch_of(name))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    inputs = jax.tree.leaves(state)
    assert [(a.shape, a.dtype) for a in exported.out_avals[: len(inputs)]] == [(a.shape, a.dtype) for a in inputs]


@every_classifier
def test_evaluation_of_a_padded_batch_is_that_of_the_batch(name):
    _, _, evaluate, state = trainer(name)
    batch, more = batch_of(name), batch_of(name, 11)
    padded = {
        "image": np.concatenate([batch["image"], more["image"][:3]]),
        "label": np.concatenate([batch["label"], np.int32([0, -1, 99])]),
        "mask": np.arange(11) < BATCH,
    }
    metrics, wanted = evaluate(state, padded), evaluate(state, batch)
    assert float(metrics["loss"].weight) == BATCH
    chex.assert_trees_all_close(metrics, wanted, rtol=1e-4)


@every_classifier
def test_evaluation_is_the_loss_of_the_models_logits(name):
    _, _, evaluate, state = trainer(name)
    batch = batch_of(name)
    model = zoo.create_model(name, **MODELS[name].small)
    logits = np.asarray(jax.jit(model.apply)(state.variables, batch["image"]), np.float64)
    wanted = -scipy.special.log_softmax(logits, axis=1)[np.arange(BATCH), batch["label"]]
    found = summarize(evaluate(state, batch))
    assert found["loss"] == pytest.approx(wanted.mean(), rel=1e-4)
    assert found["accuracy"] == np.mean(logits.argmax(axis=1) == batch["label"])


def test_regression_lowers_for_every_platform():
    task = regression(zoo.create_model("mlp", hidden_sizes=(4,), num_classes=2), optimizer("sgd", 0.1))
    batch = {"inputs": np.zeros((4, 3), np.float32), "target": np.zeros((4, 2), np.float32)}
    state = jax.eval_shape(task.init, jax.random.key(0), batch)
    exported = export.export(jax.jit(task.train_step), platforms=["cpu", "cuda", "tpu"])(state, batch)
    assert exported.platforms == ("cpu", "cuda", "tpu")


# ---- randomness ----


def dropping(rate=0.5):
    model = zoo.create_model("mlp", hidden_sizes=(32,), num_classes=3, dropout_rate=rate)
    return classification(model, optimizer("sgd", 0.0))


def test_each_step_drops_other_units():
    task, batch = dropping(), batch_of("mlp")
    state, step = task.init(jax.random.key(0), batch), jax.jit(task.train_step)
    losses = []
    for _ in range(4):  # at a rate of 0 nothing but the step changes
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"].total))
    assert len(set(losses)) == 4
    again = step(state.replace(step=jnp.int32(2)), batch)[1]
    assert float(again["loss"].total) == losses[2]
    other = step(state.replace(step=jnp.int32(2), key=jax.random.key(1)), batch)[1]
    assert float(other["loss"].total) != losses[2]


def test_evaluation_drops_nothing():
    batch = batch_of("mlp")
    task, without = dropping(), dropping(0.0)
    state = task.init(jax.random.key(0), batch)
    wanted = without.eval_step(state, batch)
    for step in range(3):
        chex.assert_trees_all_equal(task.eval_step(state.replace(step=jnp.int32(step)), batch), wanted)


def test_evaluation_uses_the_running_statistics():
    _, step, evaluate, state = trainer("cnn")
    state, _ = step(state, batch_of("cnn"))
    one = {name: value[:1] for name, value in batch_of("cnn").items()}
    rest = {name: value[1:] for name, value in batch_of("cnn").items()}
    total = evaluate(state, one)["loss"].total + evaluate(state, rest)["loss"].total
    np.testing.assert_allclose(total, evaluate(state, batch_of("cnn"))["loss"].total, rtol=1e-4)


def test_init_looks_at_shapes_alone():
    task, _, _, state = trainer("cnn")
    zeros = jax.tree.map(lambda x: np.zeros((1, *x.shape[1:]), x.dtype), batch_of("cnn"))
    assert_same_state(task.init(KEY, zeros), state)


def test_init_depends_on_the_key():
    task, _, _, state = trainer("mlp")
    other = task.init(jax.random.key(1, impl="rbg"), batch_of("mlp"))
    first, second = state.params["Dense_0"]["kernel"], other.params["Dense_0"]["kernel"]
    assert np.all(first != second)
    assert np.any(jax.random.key_data(state.key) != jax.random.key_data(other.key))


# ---- the update itself ----


def softmax_gradient(kernel, bias, x, labels):
    p = scipy.special.softmax(x @ kernel + bias, axis=1) - np.eye(kernel.shape[1])[labels]
    return x.T @ p / len(x), p.mean(axis=0)


def test_the_update_is_the_mean_gradient():
    """Softmax regression by hand: W := W − α xᵀ(p − y)/n."""
    task = classification(linear(), optimizer("sgd", 0.5))
    batch = batch_of("mlp")
    state = task.init(jax.random.key(0), batch)
    x = batch["image"].astype(np.float64)
    kernel, bias = kernel_and_bias(state)
    step = jax.jit(task.train_step)
    for _ in range(3):
        wanted_loss = -scipy.special.log_softmax(x @ kernel + bias, axis=1)[np.arange(BATCH), batch["label"]].mean()
        slope = softmax_gradient(kernel, bias, x, batch["label"])
        kernel, bias = kernel - 0.5 * slope[0], bias - 0.5 * slope[1]
        state, metrics = step(state, batch)
        assert summarize(metrics)["loss"] == pytest.approx(wanted_loss, rel=1e-5)
        found = kernel_and_bias(state)
        np.testing.assert_allclose(found[0], kernel, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[1], bias, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["perceptron", "mlp", "lenet5"])
def test_training_on_a_padded_batch_is_that_on_the_batch(name):
    batch = batch_of(name)
    padded = {
        "image": np.concatenate([batch["image"], np.ones((4, *MODELS[name].shape), np.float32)]),
        "label": np.concatenate([batch["label"], np.int32([0, -1, 99, 1])]),
        "mask": np.arange(12) < BATCH,
    }
    # Adam divides gradients that are nearly zero by their own size; plain descent shows what was averaged.
    options = {"dropout_rate": 0.0} if "dropout_rate" in zoo.model_card(name).options else {}
    task = classification(zoo.create_model(name, **{**MODELS[name].small, **options}), optimizer("sgd", 1.0))
    state, step = task.init(KEY, batch), jax.jit(task.train_step)
    (wanted, wanted_metrics), (found, metrics) = step(state, batch), step(state, padded)
    chex.assert_trees_all_close(found.params, wanted.params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(metrics, wanted_metrics, rtol=1e-5)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(found.params, state.params, rtol=1e-3)


def test_ema():
    """θ̄ := d θ̄ + (1 − d) θ after each step, from θ̄ = θ at the beginning; evaluation takes θ̄."""
    decay, batch = 0.7, batch_of("mlp")
    task = classification(linear(), optimizer("sgd", 1.0), ema_decay=decay)
    plain = classification(linear(), optimizer("sgd", 1.0))
    state = task.init(jax.random.key(0), batch)
    chex.assert_trees_all_equal(state.ema, {"params": state.params})
    step = jax.jit(task.train_step)
    wanted = np.asarray(state.params["Dense_0"]["kernel"], np.float64)
    for _ in range(5):
        state, _ = step(state, batch)
        wanted = decay * wanted + (1 - decay) * np.asarray(state.params["Dense_0"]["kernel"], np.float64)
        np.testing.assert_allclose(state.ema["params"]["Dense_0"]["kernel"], wanted, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_equal(state.variables, state.ema)
    averaged = plain.eval_step(state.replace(params=state.ema["params"], ema=None), batch)
    chex.assert_trees_all_equal(task.eval_step(state, batch), averaged)
    assert float(plain.eval_step(state.replace(ema=None), batch)["loss"].total) != float(averaged["loss"].total)


def test_variables_are_those_of_the_model():
    state = trainer("cnn")[-1]
    assert set(state.variables) == {"params", "batch_stats"}
    assert state.variables["params"] is state.params
    ema = {"params": {"w": 3}, "batch_stats": 4}
    assert State(state.step, {"w": 1}, {"batch_stats": 2}, (), state.key, ema=ema).variables == ema


def test_batch_statistics_are_averaged_with_the_parameters():
    task = classification(zoo.create_model("cnn", **MODELS["cnn"].small), optimizer("sgd", 0.1), ema_decay=0.75)
    batch = batch_of("cnn")
    state = task.init(KEY, batch)
    step = jax.jit(task.train_step)
    wanted = state.variables
    for _ in range(3):
        state, _ = step(state, batch)
        live = {"params": state.params, **state.model_state}
        wanted = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, wanted, live)
    chex.assert_trees_all_close(state.ema, wanted, rtol=1e-5, atol=1e-7)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(state.ema["batch_stats"], state.model_state["batch_stats"], rtol=1e-2)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("loss_scaling", [False, True])
def test_a_state_can_be_donated(ema_decay, loss_scaling):
    """Its buffers are its own: neither shared among themselves nor with the key that was passed in."""
    key, batch = jax.random.key(0), batch_of("mlp")
    task = classification(linear(), optimizer("adam", 0.1), ema_decay=ema_decay, loss_scaling=loss_scaling)
    step = jax.jit(task.train_step, donate_argnums=0)
    state = task.init(key, batch)
    old = state
    for _ in range(2):
        state, _ = step(state, batch)
    assert old.params["Dense_0"]["kernel"].is_deleted()
    assert old.key.is_deleted()
    assert not key.is_deleted()
    chex.assert_trees_all_equal(jax.random.key_data(task.init(key, batch).key), jax.random.key_data(state.key))
    assert int(state.step) == 2


# ---- against scikit-learn ----


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


@pytest.mark.parametrize("l2", [0.01, 0.1])
def test_softmax_regression_ends_where_scikit_learn_does(l2):
    """Cross-entropy with λ/2 ‖W‖² of eq. 27 is LogisticRegression with C = 1/(nλ)."""
    x, labels = iris()
    task = classification(linear(), optimizer("sgd", 0.5, l2=l2, momentum=0.9, nesterov=True))
    state, _ = train_on(task, {"image": x, "label": labels}, 1500)
    reference = LogisticRegression(C=1 / (len(x) * l2), tol=1e-8, max_iter=2000).fit(x, labels)
    logits = linear().apply(state.variables, x)
    np.testing.assert_allclose(class_probabilities(logits), reference.predict_proba(x), atol=1e-3)
    np.testing.assert_array_equal(predicted_class(logits), reference.predict(x))


def test_a_single_logit_ends_where_scikit_learn_does():
    x, labels = iris()
    labels = (labels == 1).astype(np.int32)
    task = classification(linear(1), optimizer("sgd", 0.5, l2=0.05, momentum=0.9))
    state, losses = train_on(task, {"image": x, "label": labels}, 1500)
    reference = LogisticRegression(C=1 / (len(x) * 0.05), tol=1e-8, max_iter=2000).fit(x, labels)
    logits = linear(1).apply(state.variables, x)
    np.testing.assert_allclose(class_probabilities(logits), reference.predict_proba(x), atol=1e-3)
    np.testing.assert_array_equal(predicted_class(logits), reference.predict(x))
    assert losses[-1] < losses[0]


def test_linear_regression_ends_where_ridge_does():
    """The mean of squares with λ/2 ‖w‖² is Ridge with α = nλ/2."""
    x, _ = iris()
    inputs, target = x[:, :3], x[:, 3:]
    task = regression(linear(1), optimizer("sgd", 0.1, l2=0.02, momentum=0.9))
    state, _ = train_on(task, {"inputs": inputs, "target": target}, 800)
    reference = Ridge(alpha=len(x) * 0.01).fit(inputs, target[:, 0])
    kernel, bias = kernel_and_bias(state)
    np.testing.assert_allclose(kernel[:, 0], reference.coef_, atol=1e-4)
    np.testing.assert_allclose(bias, reference.intercept_, atol=1e-4)


# ---- regression ----


@pytest.mark.parametrize("loss", ["mse", "huber", "mae"])
def test_regression_loss_and_update(loss):
    rng = np.random.default_rng(0)
    batch = {
        "inputs": rng.normal(size=(BATCH, 3)).astype(np.float32),
        "target": 2 * rng.normal(size=(BATCH, 2)).astype(np.float32),
    }
    task = regression(linear(2), optimizer("sgd", 0.3), loss=loss)
    state = task.init(jax.random.key(0), batch)
    kernel, bias = kernel_and_bias(state)
    x = batch["inputs"].astype(np.float64)
    error = x @ kernel + bias - batch["target"]
    assert np.any(np.abs(error) > 1)
    assert np.any(np.abs(error) < 1)
    value = {"mse": error**2, "huber": scipy.special.huber(1.0, error), "mae": np.abs(error)}[loss]
    slope = {"mse": 2 * error, "huber": np.clip(error, -1, 1), "mae": np.sign(error)}[loss] / error.size
    new, metrics = jax.jit(task.train_step)(state, batch)
    assert summarize(metrics) == {
        "loss": pytest.approx(value.mean(), rel=1e-5),
        "mae": pytest.approx(np.abs(error).mean(), rel=1e-5),
    }
    found = kernel_and_bias(new)
    np.testing.assert_allclose(found[0], kernel - 0.3 * x.T @ slope, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[1], bias - 0.3 * slope.sum(axis=0), rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(task.eval_step(state, batch), metrics, rtol=1e-5)


def test_regression_with_another_shape_is_refused():
    task = regression(linear(1), optimizer("sgd", 0.1))
    batch = {"inputs": jnp.zeros((4, 3)), "target": jnp.zeros(4)}
    with pytest.raises(ValueError, match=r"differ in shape: \[4, 1\] and \[4\]"):
        task.eval_step(task.init(jax.random.key(0), batch), batch)


# ---- one logit for two classes, and Rosenblatt's rule ----


def test_one_logit_is_two_classes():
    """The logit z of one class is the pair (0, z)."""
    x, labels = iris()
    batch = {"image": x, "label": (labels == 1).astype(np.int32)}
    one, two = (classification(linear(n), optimizer("sgd", 0.1)) for n in (1, 2))
    state = one.init(jax.random.key(0), batch)
    kernel = state.params["Dense_0"]["kernel"]
    params = {"Dense_0": {"kernel": jnp.concatenate([0 * kernel, kernel], axis=1), "bias": jnp.array([0.0, 0.3])}}
    state = state.replace(params={"Dense_0": {"kernel": kernel, "bias": jnp.array([0.3])}})
    first, second = one.eval_step(state, batch), two.eval_step(state.replace(params=params), batch)
    chex.assert_trees_all_close(first, second, rtol=1e-5)
    assert 0 < summarize(first)["accuracy"] < 1
    logits = linear(1).apply(state.variables, x)
    two_logits = linear(2).apply({"params": params}, x)
    np.testing.assert_allclose(class_probabilities(logits), class_probabilities(two_logits), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(predicted_class(logits), predicted_class(two_logits))


def test_class_probabilities_of_extreme_logits():
    np.testing.assert_array_equal(class_probabilities(jnp.array([[1e4], [-1e4]])), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(class_probabilities(jnp.array([[1e4, -1e4, 0.0]])), [[1, 0, 0]])
    assert class_probabilities(jnp.zeros((1, 3), jnp.float16)).dtype == jnp.float32


def test_half_precision_probabilities_sum_to_one():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 100)), jnp.bfloat16)
    np.testing.assert_allclose(class_probabilities(logits).sum(axis=1), 1, rtol=1e-5)


def test_at_zero_the_output_fires():
    np.testing.assert_array_equal(predicted_class(jnp.array([[0.0], [-1e-9], [1e-9]])), [1, 0, 1])


@functools.cache
def rosenblatt():
    """Iris setosa in the order of five epochs, and what the recipe's task makes of it step by step."""
    dataset = data.load("iris", positive="setosa")
    source = dataset.splits["train"]
    rows = data.batch_indices(0, len(source), 1, 0, 5 * len(source))[:, 0]
    task = classification(zoo.create_model("perceptron"), optimizer("sgd", 1.0), loss="perceptron", inputs="features")
    examples = {name: array[:, None] for name, array in dataset.preprocess(source[rows]).items()}
    state = task.init(jax.random.key(0), dataset.spec.example())

    def step(state, batch):
        state, metrics = task.train_step(state, batch)
        return state, (state.params["Dense_0"], metrics)

    state, (params, metrics) = jax.jit(lambda s: jax.lax.scan(step, s, examples))(state)
    return dataset, examples, task, state, params, metrics


def test_rosenblatts_rule():
    """w := w + α (y − ŷ) x for one example after another, literally."""
    _, examples, _, _, params, metrics = rosenblatt()
    w, b, mistakes = np.zeros(4, np.float32), np.float32(0), []
    for index, (x, y) in enumerate(zip(examples["features"][:, 0], examples["label"][:, 0], strict=True)):
        fired = int(w @ x + b >= 0)
        w, b = w + (y - fired) * x, b + np.float32(y - fired)
        mistakes.append(fired != y)
        np.testing.assert_allclose(params["kernel"][index, :, 0], w, atol=1e-5)
        assert params["bias"][index, 0] == b
    np.testing.assert_array_equal(metrics["accuracy"].total, ~np.array(mistakes))
    assert 1 <= sum(mistakes) < 20
    assert not any(mistakes[-120:]), "the perceptron convergence theorem: the species is linearly separable"


def test_the_perceptron_agrees_with_scikit_learns():
    dataset, _, task, state, _, _ = rosenblatt()
    train, test = (dataset.splits[split][np.arange(len(dataset.splits[split]))] for split in ("train", "test"))
    reference = Perceptron(shuffle=False, tol=None, max_iter=20).fit(train["features"], train["label"])
    for split in (train, test):
        logits = zoo.create_model("perceptron").apply(state.variables, split["features"])
        np.testing.assert_array_equal(predicted_class(logits), reference.predict(split["features"]))
        metrics = task.eval_step(state, split)
        assert summarize(metrics) == {"loss": 0.0, "accuracy": 1.0}


# ---- errors ----


def test_tasks_by_name():
    assert TASKS["classification"] is classification
    assert TASKS["regression"] is regression


def test_unknown_losses():
    with pytest.raises(ValueError, match=r'loss must be "cross_entropy" or "perceptron", not \'hinge\''):
        classification(linear(), optax.sgd(0.1), loss="hinge")
    with pytest.raises(ValueError, match=r"loss must be one of mse, huber, mae, not 'l2'"):
        regression(linear(), optax.sgd(0.1), loss="l2")


def test_the_perceptron_criterion_takes_one_logit():
    task = classification(linear(3), optax.sgd(0.1), loss="perceptron")
    with pytest.raises(ValueError, match="takes one logit, not 3"):
        task.eval_step(task.init(jax.random.key(0), batch_of("mlp")), batch_of("mlp"))


def test_unknown_options():
    with pytest.raises(TypeError, match="momentum"):
        classification(linear(), optax.sgd(0.1), momentum=0.9)


class Sequences(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(3)(x)


def test_logits_of_another_rank_are_refused():
    task = classification(Sequences(), optax.sgd(0.1))
    batch = {"image": jnp.zeros((4, 6, 5)), "label": jnp.zeros(4, jnp.int32)}
    state = task.init(jax.random.key(0), batch)
    with pytest.raises(ValueError, match=r"a classifier gives logits \[batch, classes\], not \[4, 6, 3\]"):
        task.train_step(state, batch)


def test_a_missing_field_is_named():
    task, _, _, state = trainer("mlp")
    with pytest.raises(KeyError, match="label"):
        task.train_step(state, {"image": batch_of("mlp")["image"]})


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_does_not_exist_is_seen_in_the_loss(label):
    _, step, _, state = trainer("mlp")
    batch = {**batch_of("mlp"), "label": np.full(BATCH, label, np.int32)}
    assert np.isnan(summarize(step(state, batch)[1])["loss"])
