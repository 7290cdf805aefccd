"""Losses, optimizers and schedules against PyTorch, on the same numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import zoo
from train import losses
from train.optim.optimizers import optimizer
from train.optim.schedules import schedule
from train.tasks import classification

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def with_gradient(function, z):
    """Sum and gradient by PyTorch."""
    z = torch.tensor(z, requires_grad=True)
    value = function(z)
    value.sum().backward()
    return value.detach().numpy(), z.grad.numpy()


def assert_same(ours, theirs, z):
    value, slope = with_gradient(theirs, z)
    found, pull = jax.vjp(ours, jnp.asarray(z))
    np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pull(jnp.ones_like(found))[0], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_cross_entropy(smoothing, scale):
    labels = np.array([0, 4, 2, 2, 1, 3])
    assert_same(
        lambda z: losses.cross_entropy(z, labels, label_smoothing=smoothing),
        lambda z: F.cross_entropy(z, torch.tensor(labels), label_smoothing=smoothing, reduction="none"),
        scale * normal(6, 5),
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_probabilities(smoothing):
    y = np.asarray(jax.nn.softmax(normal(6, 5, seed=1)))
    assert_same(
        lambda z: losses.cross_entropy(z, y, label_smoothing=smoothing),
        lambda z: F.cross_entropy(z, torch.tensor(y), label_smoothing=smoothing, reduction="none"),
        normal(6, 5),
    )


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_binary_cross_entropy(scale):
    y = np.float32([0, 1, 0, 1, 0.3, 0.9])
    assert_same(
        lambda z: losses.binary_cross_entropy(z, y),
        lambda z: F.binary_cross_entropy_with_logits(z, torch.tensor(y), reduction="none"),
        scale * normal(6),
    )


@pytest.mark.parametrize("delta", [0.3, 1.0, 4.0])
def test_regression_losses(delta):
    target = normal(6, 5, seed=1)
    pairs = [
        (losses.mean_squared_error, F.mse_loss),
        (losses.mean_absolute_error, F.l1_loss),
        (lambda p, t: losses.huber(p, t, delta=delta), lambda p, t, **k: F.huber_loss(p, t, delta=delta, **k)),
    ]
    for ours, theirs in pairs:
        assert_same(
            lambda z, ours=ours: ours(z, target),
            lambda z, theirs=theirs: theirs(z, torch.tensor(target), reduction="none").mean(dim=1),
            3 * normal(6, 5),
        )


RATE = 0.05
OPTIMIZERS = {
    "sgd": ({}, torch.optim.SGD, {}),
    "sgd with momentum": ({"momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
    "sgd with nesterov": (
        {"momentum": 0.9, "nesterov": True},
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True},
    ),
    "momentum": ({}, torch.optim.SGD, {"momentum": 0.9, "dampening": 0.9}),
    "adam": ({}, torch.optim.Adam, {}),
    "adam with l2": ({"l2": 0.1}, torch.optim.Adam, {"weight_decay": 0.1}),
    "adamw": ({"weight_decay": 0.1}, torch.optim.AdamW, {"weight_decay": 0.1}),
    "adamax": ({}, torch.optim.Adamax, {}),
    "adadelta": ({"rho": 0.9, "eps": 1e-6}, torch.optim.Adadelta, {"rho": 0.9, "eps": 1e-6}),
    "adagrad": (
        {"initial_accumulator_value": 0.1, "eps": 1e-10},
        torch.optim.Adagrad,
        {"initial_accumulator_value": 0.1, "eps": 1e-10},
    ),
    "heavy_ball": ({"momentum": 0.8}, torch.optim.SGD, {"momentum": 0.8}),
    "nesterov": ({}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": ({"eps": 0.1, "eps_in_sqrt": False}, torch.optim.RMSprop, {"alpha": 0.9, "eps": 0.1}),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_optimizers(case):
    options, reference, theirs = OPTIMIZERS[case]
    start = normal(4, 3)
    weight = torch.nn.Parameter(torch.tensor(start))
    torch_optimizer = reference([weight], lr=RATE, **theirs)
    if case == "momentum":  # eq. 19 begins at v₀ = 0, and PyTorch, which damps from the second step on, at v₁ = g₁
        weight.grad = torch.zeros(4, 3)
        torch_optimizer.step()
    tx = optimizer(case.partition(" ")[0], RATE, **options)
    params = jnp.asarray(start)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for index in range(1, 12):
        gradient = normal(4, 3, seed=index)
        weight.grad = torch.tensor(gradient)
        torch_optimizer.step()
        updates, state = update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, weight.detach().numpy(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("shape", [(4, 3), (3, 5)])
def test_muon(shape):
    """PyTorch computes the orthogonal factor in bfloat16, and has its matrices the other way round."""
    start = normal(*shape)
    weight = torch.nn.Parameter(torch.tensor(start.T))
    theirs = torch.optim.Muon([weight], lr=RATE, weight_decay=0.3, nesterov=False)
    tx = optimizer("muon", RATE, weight_decay=0.3, nesterov=False)
    params = jnp.asarray(start)
    state = tx.init(params)
    for index in range(1, 6):
        gradient = normal(*shape, seed=index)
        weight.grad = torch.tensor(gradient.T)
        theirs.step()
        updates, state = jax.jit(tx.update)(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, weight.detach().numpy().T, atol=0.05 * RATE * index)
    assert np.abs(params - start).max() > RATE


def of_keras(theirs, start, gradients):
    """Where an optimizer of Keras comes to from one place on these gradients."""
    keras = pytest.importorskip("keras")
    weight = keras.Variable(start)
    made = theirs(keras)
    made.build([weight])
    for gradient in gradients:
        made.apply([jnp.asarray(gradient)])
    return np.asarray(weight)


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("rmsprop", {"eps": 0.1}, lambda k: k.optimizers.RMSprop(RATE, rho=0.9, epsilon=0.1)),  # ε under the root
        ("heavy_ball", {}, lambda k: k.optimizers.SGD(RATE, momentum=0.9)),
        ("nesterov", {}, lambda k: k.optimizers.SGD(RATE, momentum=0.9, nesterov=True)),
        ("adamw", {"weight_decay": 0.1, "eps": 1e-7}, lambda k: k.optimizers.AdamW(RATE, weight_decay=0.1)),
    ],
)
def test_optimizers_of_keras(name, options, theirs):
    start, gradients = normal(4, 3), [normal(4, 3, seed=index) for index in range(1, 8)]
    tx, params = optimizer(name, RATE, **options), jnp.asarray(start)
    state = tx.init(params)
    for gradient in gradients:
        updates, state = jax.jit(tx.update)(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, of_keras(theirs, start, gradients), rtol=2e-5, atol=2e-6)


def test_max_norm():
    """Keras constrains what comes into a unit after each step: axis 0 of a dense kernel, all but the last of others."""
    keras = pytest.importorskip("keras")
    grads = {"dense": {"kernel": normal(4, 3, seed=1)}, "conv": {"kernel": normal(2, 2, 3, 5, seed=2)}}
    start = {"dense": {"kernel": normal(4, 3)}, "conv": {"kernel": 0.1 * normal(2, 2, 3, 5)}}
    tx = optimizer("sgd", 0.1, max_norm=0.9)
    updates, _ = tx.update(grads, tx.init(start), start)
    moved = optax.apply_updates(start, updates)
    for name, axis in (("dense", 0), ("conv", [0, 1, 2])):
        plain = jnp.asarray(start[name]["kernel"] - 0.1 * grads[name]["kernel"])
        wanted = keras.constraints.MaxNorm(0.9, axis=axis)(plain)
        assert np.abs(plain - wanted).max() > 0.1 or name == "conv"
        np.testing.assert_allclose(moved[name]["kernel"], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.5, 3.0, 100.0])
def test_clip_norm(threshold):
    grads = {"bias": normal(3, seed=1), "kernel": normal(4, 3)}
    weights = [torch.nn.Parameter(torch.zeros(g.shape)) for g in grads.values()]
    for weight, g in zip(weights, grads.values(), strict=True):
        weight.grad = torch.tensor(g)
    torch.nn.utils.clip_grad_norm_(weights, threshold)
    tx = optimizer("sgd", 1.0, clip_norm=threshold)
    updates, _ = tx.update(grads, tx.init(grads), grads)
    for weight, update in zip(weights, updates.values(), strict=True):
        np.testing.assert_allclose(-update, weight.grad.numpy(), rtol=1e-5)


STEPS = 40
SCHEDULES = {
    "cosine": ({}, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS)),
    "exponential": ({"decay_steps": 1}, lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.96)),
    "step": ({"milestones": [0.25, 0.5]}, lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [10, 20])),
    "polynomial": ({}, lambda o: torch.optim.lr_scheduler.PolynomialLR(o, STEPS, power=2.0)),
    "linear": ({"final_fraction": 0.1}, lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, STEPS)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    options, reference = SCHEDULES[name]
    torch_optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    scheduler = reference(torch_optimizer)
    wanted = []
    for _ in range(STEPS):
        wanted.append(scheduler.get_last_lr()[0])
        torch_optimizer.step()
        scheduler.step()
    alpha = schedule(name, 0.2, STEPS, **options)
    np.testing.assert_allclose([float(alpha(t)) for t in range(STEPS)], wanted, rtol=1e-4, atol=1e-7)


def test_a_whole_training():
    """Ten steps of AdamW on cross-entropy with label smoothing: losses and weights of both networks stay together."""
    model = zoo.create_model("mlp", hidden_sizes=(16,), num_classes=4, dropout_rate=0.0, activation="tanh")
    tx = optimizer("adamw", 1e-2, weight_decay=0.1, clip_norm=0.5)
    task = classification(model, tx, label_smoothing=0.1)
    batch = {"image": normal(32, 8), "label": np.arange(32) % 4}
    state = task.init(jax.random.key(0), batch)
    theirs = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    layers = list(zip((theirs[0], theirs[2]), ("Dense_0", "Dense_1"), strict=True))
    for layer, name in layers:
        layer.weight.data = torch.tensor(np.array(state.params[name]["kernel"]).T)
        layer.bias.data = torch.tensor(np.array(state.params[name]["bias"]))
    torch_optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1)
    x, y = torch.tensor(batch["image"]), torch.tensor(batch["label"])
    step = jax.jit(task.train_step)
    for _ in range(10):
        torch_optimizer.zero_grad()
        loss = F.cross_entropy(theirs(x), y, label_smoothing=0.1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        torch_optimizer.step()
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"].total / metrics["loss"].weight, loss.item(), rtol=1e-4)
    for layer, name in layers:
        np.testing.assert_allclose(state.params[name]["kernel"], layer.weight.detach().numpy().T, atol=1e-4)
        np.testing.assert_allclose(state.params[name]["bias"], layer.bias.detach().numpy(), atol=1e-4)
