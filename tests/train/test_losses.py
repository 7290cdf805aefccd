"""Losses against NumPy, SciPy and scikit-learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from train import losses

BATCH, CLASSES = 6, 4
sweep = settings(max_examples=40, deadline=None)
reals = st.floats(-50, 50, width=32, allow_subnormal=False)
matrices = hnp.arrays(np.float32, (BATCH, CLASSES), elements=reals)
vectors = hnp.arrays(np.float32, BATCH, elements=reals)
classes = hnp.arrays(np.int32, BATCH, elements=st.integers(0, CLASSES - 1))
bits = hnp.arrays(np.int32, BATCH, elements=st.integers(0, 1))


def one_hot(labels, classes=CLASSES):
    return np.eye(classes, dtype=np.float32)[labels]


def assert_close(actual, wanted, rtol=1e-5, atol=1e-5):
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(actual), wanted, rtol=rtol, atol=atol)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@sweep
@given(matrices, matrices)
def test_regression_losses(prediction, target):
    p, t = prediction.astype(np.float64), target.astype(np.float64)
    assert_close(losses.mean_squared_error(prediction, target), ((p - t) ** 2).mean(axis=1))
    assert_close(losses.mean_absolute_error(prediction, target), np.abs(p - t).mean(axis=1))
    mse = sklearn.metrics.mean_squared_error(p, t)
    assert_close(losses.mean_squared_error(prediction, target).mean(), mse, atol=1e-4)
    mae = sklearn.metrics.mean_absolute_error(p, t)
    assert_close(losses.mean_absolute_error(prediction, target).mean(), mae, atol=1e-4)


@pytest.mark.parametrize("delta", [0.1, 1.0, 2.5, 100.0])
def test_huber(delta):
    target = normal(3)
    prediction = target + np.float32([0.0, 0.5, -3.0]) * np.float32(delta)
    wanted = scipy.special.huber(delta, (prediction - target).astype(np.float64))
    assert_close(losses.huber(prediction, target, delta=delta), wanted, rtol=1e-4)
    # By hand: d² (0, ½·½², 3 − ½).
    assert_close(losses.huber(prediction, target, delta=delta), np.array([0, 0.125, 2.5]) * delta**2, rtol=1e-4)


def test_huber_is_half_the_square_within_delta_and_has_a_bounded_gradient():
    prediction, target = normal(5, 3), normal(5, 3, seed=1)
    assert_close(losses.huber(prediction, target, delta=1e3), losses.mean_squared_error(prediction, target) / 2)
    slope = jax.grad(lambda p: losses.huber(p, jnp.zeros(4), delta=2.0).sum())(jnp.array([-9.0, -1.0, 1.0, 9.0]))
    assert_close(slope, [-2, -1, 1, 2])


@pytest.mark.parametrize("name", ["mean_squared_error", "mean_absolute_error", "huber"])
def test_regression_averages_all_axes_but_the_first(name):
    function = getattr(losses, name)
    prediction, target = normal(3, 4, 5), normal(3, 4, 5, seed=1)
    assert_close(function(prediction, target), function(prediction.reshape(3, 20), target.reshape(3, 20)))
    flat = function(prediction.reshape(60), target.reshape(60))
    assert_close(function(prediction, target), np.asarray(flat).reshape(3, 20).mean(axis=1))


@sweep
@given(matrices, classes)
def test_cross_entropy(logits, labels):
    wanted = -scipy.special.log_softmax(logits.astype(np.float64), axis=1)[np.arange(BATCH), labels]
    assert_close(losses.cross_entropy(logits, labels), wanted)
    assert_close(losses.cross_entropy(logits, one_hot(labels)), wanted)
    assert_close(losses.cross_entropy(logits, labels.astype(np.uint8)), wanted)


@sweep
@given(matrices, matrices)
def test_cross_entropy_of_probabilities(logits, others):
    y = scipy.special.softmax(others.astype(np.float64), axis=1)
    wanted = -(y * scipy.special.log_softmax(logits.astype(np.float64), axis=1)).sum(axis=1)
    assert_close(losses.cross_entropy(logits, y.astype(np.float32)), wanted)


def test_cross_entropy_is_scikit_learns_log_loss():
    logits, labels = normal(64, 5) * 3, np.random.default_rng(1).integers(0, 5, 64)
    probabilities = scipy.special.softmax(logits.astype(np.float64), axis=1)
    wanted = sklearn.metrics.log_loss(labels, probabilities, labels=range(5))
    assert_close(losses.cross_entropy(logits, labels).mean(), wanted)


def test_binary_cross_entropy_is_scikit_learns_log_loss():
    logits, labels = normal(64) * 3, np.random.default_rng(1).integers(0, 2, 64)
    wanted = sklearn.metrics.log_loss(labels, scipy.special.expit(logits.astype(np.float64)))
    assert_close(losses.binary_cross_entropy(logits, labels).mean(), wanted)


@pytest.mark.parametrize("smoothing", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("hot", [False, True])
def test_label_smoothing(smoothing, hot):
    """(1 − ε) H(y, p) + ε H(u, p), u uniform (Szegedy et al. 2016, section 7)."""
    logits, labels = normal(BATCH, CLASSES) * 2, np.array([0, 1, 2, 3, 0, 1], np.int32)
    log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=1)
    wanted = -(1 - smoothing) * log_p[np.arange(BATCH), labels] - smoothing * log_p.mean(axis=1)
    y = one_hot(labels) if hot else labels
    assert_close(losses.cross_entropy(logits, y, label_smoothing=smoothing), wanted)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 2.0, float("nan")])
def test_smoothing_out_of_range(smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\)"):
        losses.cross_entropy(jnp.zeros((2, 3)), jnp.zeros(2, int), label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("jitted", [False, True])
def test_a_class_that_does_not_exist_gives_nan_for_that_example_alone(smoothing, jitted):
    logits, labels = normal(5, CLASSES), np.array([0, -1, CLASSES, CLASSES - 1, 100], np.int32)

    def function(z, y):
        return losses.cross_entropy(z, y, label_smoothing=smoothing)

    loss = (jax.jit(function) if jitted else function)(logits, labels)
    np.testing.assert_array_equal(np.isnan(loss), [False, True, True, False, True])
    slope = jax.grad(lambda z: jnp.where(labels >= 0, function(z, labels), 0)[:2].sum())(logits)
    assert np.isfinite(slope).all(), "what is taken out of the loss has no gradient"


def test_cross_entropy_keeps_leading_axes():
    logits, labels = normal(2, 3, 4), np.random.default_rng(1).integers(0, 4, (2, 3))
    wanted = losses.cross_entropy(logits.reshape(6, 4), labels.reshape(6)).reshape(2, 3)
    assert_close(losses.cross_entropy(logits, labels), wanted)


def test_extreme_logits_stay_finite():
    logits, labels = jnp.array([[1e30, -1e30], [-1e30, 1e30], [3e38, 3e38]]), np.array([0, 0, 1])
    for y in (labels, one_hot(labels, 2)):
        loss, slope = jax.vjp(lambda z, y=y: losses.cross_entropy(z, y), logits)
        assert_close(loss, [0, 2e30, np.log(2)])
        assert_close(slope(jnp.ones(3))[0], [[0, 0], [-1, 1], [0.5, -0.5]])
    z = jnp.array([1e30, -1e30, 1e30, -1e30])
    y = jnp.array([1, 0, 0, 1])
    loss, slope = jax.vjp(lambda z: losses.binary_cross_entropy(z, y), z)
    assert_close(loss, [0, 0, 1e30, 1e30])
    assert_close(slope(jnp.ones(4))[0], [0, 0, 1, -1])


@sweep
@given(matrices, classes)
def test_gradient_of_cross_entropy_is_softmax_minus_label(logits, labels):
    slope = jax.grad(lambda z: losses.cross_entropy(z, labels).sum())(logits)
    assert_close(slope, scipy.special.softmax(logits.astype(np.float64), axis=1) - one_hot(labels))


@sweep
@given(vectors, bits)
def test_binary_cross_entropy(logits, labels):
    z = logits.astype(np.float64)
    wanted = -labels * scipy.special.log_expit(z) - (1 - labels) * scipy.special.log_expit(-z)
    assert_close(losses.binary_cross_entropy(logits, labels), wanted)
    slope = jax.grad(lambda z: losses.binary_cross_entropy(z, labels).sum())(logits)
    assert_close(slope, scipy.special.expit(z) - labels)
    two = np.stack([np.zeros_like(logits), logits], axis=1)
    assert_close(losses.cross_entropy(two, labels), wanted)


@sweep
@given(vectors, bits)
def test_perceptron_criterion(logits, labels):
    fired = (logits >= 0).astype(np.float32)
    assert_close(losses.perceptron(logits, labels), (fired - labels) * logits)
    slope = jax.grad(lambda z: losses.perceptron(z, labels).sum())(logits)
    np.testing.assert_array_equal(slope, fired - labels)


@sweep
@given(hnp.arrays(np.float32, 5, elements=reals), hnp.arrays(np.float32, 5, elements=reals), st.integers(0, 1))
def test_gradient_of_the_perceptron_criterion_is_rosenblatts_rule(w, x, label):
    z = jnp.dot(w, x)
    slope = jax.grad(lambda w: losses.perceptron(jnp.dot(w, x)[None], jnp.array([label])).sum())(w)
    np.testing.assert_array_equal(slope, (np.float32(z >= 0) - label) * x)


def test_at_zero_the_perceptron_fires():
    """Eq. 2: y = 1 where z ≥ 0; so from weights of zero a negative example is a mistake and is learnt from."""
    slope = jax.grad(lambda z: losses.perceptron(z, jnp.array([0, 1])).sum())(jnp.zeros(2))
    np.testing.assert_array_equal(slope, [1, 0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_float32(dtype):
    """The loss of rounded logits, to float32's precision, not half's."""
    logits, labels = jnp.asarray(normal(BATCH, CLASSES) * 5, dtype), np.array([0, 1, 2, 3, 0, 1])
    wide = np.asarray(logits, np.float64)
    wanted = -scipy.special.log_softmax(wide, axis=1)[np.arange(BATCH), labels]
    assert_close(losses.cross_entropy(logits, labels), wanted, rtol=1e-6, atol=1e-6)
    target = jnp.asarray(normal(BATCH, CLASSES, seed=1), dtype)
    difference = wide - np.asarray(target, np.float64)
    assert_close(losses.mean_squared_error(logits, target), (difference**2).mean(axis=1), rtol=1e-6, atol=1e-6)
    assert_close(losses.mean_absolute_error(logits, target), np.abs(difference).mean(axis=1), rtol=1e-6, atol=1e-6)
    huber = scipy.special.huber(1.0, difference).mean(axis=1)
    assert_close(losses.huber(logits, target), huber, rtol=1e-6, atol=1e-6)
    z, y = logits[:, 0], np.array([0, 1, 0, 1, 0, 1])
    binary = np.logaddexp(0, np.where(y == 1, -wide[:, 0], wide[:, 0]))
    assert_close(losses.binary_cross_entropy(z, y), binary, rtol=1e-6, atol=1e-6)
    assert_close(losses.perceptron(z, y), ((wide[:, 0] >= 0) - y) * wide[:, 0], rtol=1e-6, atol=1e-6)


def test_float16_does_not_overflow_in_the_loss():
    assert_close(losses.mean_squared_error(jnp.float16([300.0]), jnp.float16([-300.0])), [360_000])


@pytest.mark.parametrize(
    "function",
    [
        losses.mean_squared_error,
        losses.mean_absolute_error,
        losses.huber,
        losses.binary_cross_entropy,
        losses.perceptron,
    ],
)
@pytest.mark.parametrize("shape", [(4,), (1, 1), (4, 2), ()])
def test_shapes_that_would_broadcast_are_refused(function, shape):
    with pytest.raises(ValueError, match=r"differ in shape: \[4, 1\] and \["):
        function(jnp.zeros((4, 1)), jnp.zeros(shape))


@pytest.mark.parametrize(
    "labels", [np.zeros((4, 1), int), np.zeros(3, int), np.zeros(4), np.zeros((4, 2)), np.zeros((1, 3)), np.int32(0)]
)
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match=r"integers of shape \[4\] or probabilities of shape \[4, 3\], not "):
        losses.cross_entropy(jnp.zeros((4, 3)), jnp.asarray(labels))
