"""Weight decay and penalties for groups of parameters by wildcard; Muon's matrices; the max-norm constraint."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.optim.freezing import WildcardError, freeze
from train.optim.optimizers import optimizer

PARAMS = {
    "conv1": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0)},
    "conv2": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0)},
    "head": {"kernel": jnp.full((3, 2), 2.0), "bias": jnp.full(2, 2.0)},
}
ZERO = jax.tree.map(jnp.zeros_like, PARAMS)


def decayed(tx, gradients=ZERO):
    """The first update of each parameter, which all its components have alike."""
    updates, _ = jax.jit(tx.update)(gradients, tx.init(PARAMS), PARAMS)
    flat = {f"{layer}/{name}": np.unique(u) for layer, of in updates.items() for name, u in of.items()}
    return {path: float(np.round(values.item(), 6)) for path, values in flat.items()}


def drawn(rng):
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), PARAMS)


def by_layer(conv1, conv2, head):
    return {
        f"{layer}/{name}": v
        for layer, v in zip(PARAMS, (conv1, conv2, head), strict=True)
        for name in ("kernel", "bias")
    }


@pytest.mark.parametrize("name", ["adamw", "muon", "lion", "lars"])
def test_one_decay_is_of_all(name):
    tx = optimizer(
        name, 0.1, weight_decay=0.5, **({"trust_ratio_mask": False, "momentum": 0.0} if name == "lars" else {})
    )
    assert set(decayed(tx).values()) == {-0.1}


def test_a_decay_for_each_group():
    """As GCNII wants it: one for the convolutions, one for the dense layers; the rest has none."""
    tx = optimizer("adamw", 0.1, weight_decay={"conv2": 0.5, "conv*": 0.25})
    assert decayed(tx) == by_layer(-0.05, -0.1, 0.0)
    tx = optimizer("adamw", 0.1, weight_decay={"conv2": 0.5, "*": 0.25}, mask="kernels")
    assert decayed(tx) == {**by_layer(-0.05, -0.1, -0.05), **{f"{layer}/bias": 0.0 for layer in PARAMS}}


def test_a_penalty_for_each_group():
    """λ w of eq. 27, in the gradient; biases too where a wildcard means them."""
    tx = optimizer("sgd", 1.0, l2={"conv1": 0.5, "*/kernel": 0.25})
    assert decayed(tx) == {**by_layer(-1.0, -0.5, -0.5), "conv2/bias": 0.0, "head/bias": 0.0}


def test_decays_and_rates_by_wildcard_are_apart():
    tx = optimizer("adamw", 0.1, layer_rates={"head": 0.01}, weight_decay={"*/kernel": 0.5, "conv1": 0.25})
    wanted = {**by_layer(-0.1, -0.1, -0.01), "conv1/bias": -0.05, "conv2/bias": 0.0, "head/bias": 0.0}
    assert decayed(tx) == wanted


def test_groups_walk_as_one_optimizer_where_they_have_one_decay():
    rng = np.random.default_rng(0)
    one, many = (optimizer("adamw", 0.1, weight_decay=w) for w in (0.5, {"conv*": 0.5, "head": 0.5}))
    params = [PARAMS, PARAMS]
    states = [one.init(PARAMS), many.init(PARAMS)]
    for _ in range(3):
        gradients = drawn(rng)
        for index, tx in enumerate((one, many)):
            updates, states[index] = tx.update(gradients, states[index], params[index])
            params[index] = optax.apply_updates(params[index], updates)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), *params)


@pytest.mark.parametrize(
    "options", [{"weight_decay": {"conv3": 0.1}}, {"l2": {"conv3": 0.1}}, {"layer_rates": {"conv3": 0.1}}]
)
def test_a_wildcard_that_matches_nothing(options):
    (what,) = options
    tx = optimizer("adamw", 0.1, **options)
    with pytest.raises(WildcardError, match=f"{what}: 'conv3' matches none of the trained parameters: conv1/bias"):
        tx.init(PARAMS)


def test_frozen_parameters_are_no_longer_there_to_match():
    tx = freeze(optimizer("adamw", 0.1, weight_decay={"head": 0.5}), lambda path: path.startswith("conv"))
    assert decayed(tx) == by_layer(0.0, 0.0, -0.1)
    with pytest.raises(WildcardError, match="'head' matches none"):
        freeze(optimizer("adamw", 0.1, weight_decay={"head": 0.5}), lambda path: path.startswith("head")).init(PARAMS)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adamw", {"weight_decay": {"*": -0.1}}, "weight_decay of optimizer 'adamw' must be at least 0, not -0.1"),
        ("adamw", {"weight_decay": {"*": "much"}}, "weight_decay of optimizer 'adamw' must be a number, not 'much'"),
        ("sgd", {"weight_decay": 0.1}, "weight_decay is no option of optimizer 'sgd': take l2, the penalty of eq. 27"),
        ("adam", {"weight_decay": {"*": 0.1}}, "weight_decay is no option of optimizer 'adam': take l2"),
        ("sgd", {"l2": {"*": -0.1}}, "l2 of optimizer 'sgd' must be at least 0, not -0.1"),
        ("sgd", {"l2": {"*": "much"}}, "l2 of optimizer 'sgd' must be a number or values by name"),
        ("sgd", {"max_norm": 0}, "max_norm of optimizer 'sgd' must be greater than 0, not 0"),
        ("muon", {"adam_factor": float("nan")}, "adam_factor of optimizer 'muon' must be finite, not nan"),
        ("heavy_ball", {"momentum": 1.0}, r"momentum of optimizer 'heavy_ball' must be in \[0, 1\), not 1.0"),
    ],
)
def test_what_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        optimizer(name, 0.1, **options)


def newton_schulz(singular, steps=5):
    """What the quintic makes of singular values whose squares sum to 1."""
    x = singular / np.sqrt((singular**2).sum())
    for _ in range(steps):
        x = 3.4445 * x - 4.775 * x**3 + 2.0315 * x**5
    return x


@pytest.mark.parametrize("shape", [(4, 3), (3, 5)])
def test_muon_keeps_the_directions_of_a_matrix_and_makes_it_nearly_orthogonal(shape):
    """U φ(S) Vᵀ, by a singular value decomposition; wide layers take longer steps. A bias goes by Adam."""
    rng = np.random.default_rng(0)
    gradients = {"kernel": rng.normal(size=shape), "bias": rng.normal(size=shape[1])}
    params = jax.tree.map(jnp.zeros_like, jax.tree.map(jnp.float32, gradients))
    tx = optimizer("muon", 0.1, adam_factor=0.5)
    updates, _ = tx.update(jax.tree.map(jnp.float32, gradients), tx.init(params), params)
    u, s, v = np.linalg.svd(gradients["kernel"], full_matrices=False)
    wanted = -0.1 * max(1, shape[1] / shape[0]) ** 0.5 * (u * newton_schulz(s)) @ v
    np.testing.assert_allclose(updates["kernel"], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(updates["bias"], -0.05 * np.sign(gradients["bias"]), rtol=1e-4)


@pytest.mark.parametrize("name", ["sgd", "adam", "muon"])
def test_no_column_is_longer_than_the_constraint(name):
    tx = optimizer(name, 1.0, max_norm=0.5, accumulate_steps=2)
    params, state = PARAMS, tx.init(PARAMS)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        gradients = drawn(rng)
        updates, state = jax.jit(tx.update)(gradients, state, params)
        params = optax.apply_updates(params, updates)
    for layer in params.values():
        assert np.linalg.norm(layer["kernel"], axis=0).max() < 0.5 + 1e-6
        assert np.abs(layer["bias"]).max() > 0.5


def test_the_constraint_lets_zero_and_nan_be():
    tx = optimizer("sgd", 1.0, max_norm=0.5)
    params = {"kernel": jnp.zeros((2, 3)), "embedding": jnp.ones((2, 3))}
    updates, _ = tx.update({"kernel": jnp.zeros((2, 3)), "embedding": jnp.zeros((2, 3))}, tx.init(params), params)
    assert not np.any(updates["kernel"])
    assert not np.any(updates["embedding"]), "rows of a table are no weights that come into a unit"
    updates, _ = tx.update(
        {"kernel": jnp.full((2, 3), jnp.nan), "embedding": jnp.zeros((2, 3))}, tx.init(params), params
    )
    assert np.isnan(updates["kernel"]).all()
