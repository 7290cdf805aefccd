"""The gradient check: passes what is right, finds what is wrong, and says where."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from train.losses import cross_entropy
from train.measure.gradient_check import check_gradients

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(6, 5)).astype(np.float32), np.arange(6) % 3


def wrong(x, factor):
    """The identity, with a gradient that is a little too great."""

    @jax.custom_vjp
    def identity(x):
        return x

    identity.defvjp(lambda x: (x, None), lambda _, g: (factor * g,))
    return identity(x)


def network(params, x, y, factor=1.0):
    hidden = jnp.tanh(x @ params["first"]["kernel"] + wrong(params["first"]["bias"], factor)[None])
    return cross_entropy(hidden @ params["last"]["kernel"], y).mean()


PARAMS = {
    "first": {"kernel": rng.normal(size=(5, 4)).astype(np.float32), "bias": rng.normal(size=4).astype(np.float32)},
    "last": {"kernel": rng.normal(size=(4, 3)).astype(np.float32)},
}


def test_a_right_gradient_passes():
    check = check_gradients(network, PARAMS, X, Y, coordinates=3)
    assert check.ok
    assert check.dtype == "float64"
    assert len(check.slopes) == 3 * (2 + 3)
    assert {slope.parameter for slope in check.slopes} == {"first/kernel", "first/bias", "last/kernel"}
    for slope in check.slopes:
        assert slope.difference == pytest.approx(slope.gradient, rel=1e-7, abs=1e-11)
    assert str(check).startswith("ok: the worst relative error is ")


@pytest.mark.parametrize("factor", [1.0001, 0.5, -1.0, 0.0, np.nan])
def test_a_wrong_custom_gradient_is_found_and_named(factor):
    check = check_gradients(lambda p, x, y: network(p, x, y, factor), PARAMS, X, Y)
    assert not check.ok
    assert check.worst.parameter == "first/bias"
    assert {slope.parameter for slope in check.slopes if not slope.error <= check.tolerance} == {"first/bias"}
    assert str(check).startswith("WRONG: ")
    if np.isfinite(factor):
        assert check.worst.error == pytest.approx(abs(1 - factor) / max(1, abs(factor)), rel=1e-2)


def test_one_wrong_component_is_found_among_coordinates():
    def gradient(params, x, y):
        found = jax.grad(network)(params, x, y)
        found["last"]["kernel"] = found["last"]["kernel"].at[2, 1].add(0.1)
        return found

    check = check_gradients(network, PARAMS, X, Y, gradient=gradient, directions=0, coordinates=100)
    assert [slope.along for slope in check.slopes if slope.error > check.tolerance] == [(2, 1)]
    assert "of last/kernel[2, 1]: gradient " in str(check)
    assert not check_gradients(network, PARAMS, X, Y, gradient=gradient).ok, "along a direction too"


def test_a_loss_in_single_precision_has_a_wider_tolerance():
    def narrow(factor):
        return lambda p, x, y: network(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), p), x, y, factor)

    check = check_gradients(narrow(1.0), PARAMS, X, Y, directions=4)
    assert (check.ok, check.dtype, check.tolerance) == (True, "float32", 2e-2)
    assert not check_gradients(narrow(1.1), PARAMS, X, Y).ok


def test_kinks_do_not_make_a_right_gradient_wrong():
    """Of ten thousand ReLUs some are within the longest step of their kink."""
    weights = {"w": rng.normal(size=10_000).astype(np.float32) * 1e-4}
    check = check_gradients(lambda p: jnp.square(jax.nn.relu(p["w"])).sum() + jax.nn.relu(p["w"]).sum(), weights)
    assert check.ok, check


def test_scales_that_are_large_or_small():
    for scale in (1e-6, 1e6):
        check = check_gradients(lambda p, s=scale: s * jnp.sin(p["w"] / 3).sum(), {"w": 5 * rng.normal(size=9)})
        assert check.ok, check


# With norms, custom gradients, convolutions, recurrence and attention.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"), [("mini_resnet", {"features": 2, "hidden_size": 3}), ("mlp", {"norm": "group"})]
)
def test_models_of_the_zoo(name, options):
    x = rng.normal(size=(4, 4, 4, 1)).astype(np.float32)
    options = {"dropout_rate": 0.25, "num_classes": 3, **options}
    model = zoo.create_model(name, **options)
    variables = model.init(jax.random.key(0), x)

    def loss(params, x, y):
        rest = {"batch_stats": variables["batch_stats"]} if "batch_stats" in variables else {}
        logits, _ = model.apply(
            {"params": params, **rest}, x, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"]
        )
        return cross_entropy(logits, y, label_smoothing=0.1).mean()

    # Residual blocks start with scales of zero, where ReLU is at its kink.
    params = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), variables["params"])
    check = check_gradients(loss, params, x, np.arange(4) % 3, directions=1)
    assert check.ok, check
    assert check.dtype == "float64"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"directions": 0}, "take at least one direction or coordinate, not 0 and 0"),
        ({"directions": -1}, "take at least one direction or coordinate"),
        ({"params": {}}, "there are no parameters"),
        ({"params": {"w": np.arange(3)}}, "parameters are real numbers; w is int"),
        ({"loss": lambda p: p["w"]}, "the loss must be a real scalar, not ShapeDtypeStruct"),
        ({"loss": lambda p: jnp.int32(3)}, "the loss must be a real scalar"),
        ({"gradient": lambda p: {"w": p["w"][:2]}}, r"the gradient of w is \[2\], and the parameter \[3\]"),
        ({"gradient": lambda p: {"v": p["w"]}}, r"the gradient of v is \[3\], and the parameter nothing"),
    ],
)
def test_what_cannot_be_checked_is_refused(arguments, message):
    given = {"loss": lambda p: p["w"].sum(), "params": {"w": np.ones(3, np.float32)}, **arguments}
    with pytest.raises(ValueError, match=message):
        check_gradients(**given)
    assert not jax.config.jax_enable_x64
