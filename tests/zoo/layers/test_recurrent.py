"""Recurrent layers: state, masks, and what they refuse. That they compute the right thing: see tests/parity."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from tests.compiling import optimised
from tests.descriptors import random_variables
from zoo.layers import lowering
from zoo.layers.recurrent import GRU, LSTM, RNN, Bidirectional, Stack
from zoo.sequence import AdditiveAttention
from zoo.summary import abstract_variables

LAYERS = {"rnn": RNN, "lstm": LSTM, "gru": GRU, "gru_reset_before": partial(GRU, reset_after=False)}
every_layer = pytest.mark.parametrize("name", LAYERS)
X = np.random.default_rng(0).normal(size=(3, 7, 4)).astype(np.float32)


@partial(jax.jit, static_argnums=0)
def apply(model, variables, *args, mask=None):
    return model.apply(variables, *args) if mask is None else model.apply(variables, *args, mask=mask)


def close(actual, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), actual, wanted)


@pytest.mark.slow
@every_layer
def test_two_pieces_are_one(name):
    model = Stack(LAYERS[name], (5, 6))
    variables = random_variables(model, X)
    wanted, last = apply(model, variables, X)
    state, pieces = (LAYERS[name](5).init_state(3), LAYERS[name](6).init_state(3)), []
    for piece in (X[:, :3], X[:, 3:4], X[:, 4:]):
        y, state = apply(model, variables, piece, state)
        pieces.append(y)
    close(jnp.concatenate(pieces, axis=1), wanted)
    close(state, last)


@every_layer
def test_backwards_is_forwards_on_the_reversed_sequence(name):
    model = LAYERS[name](5)
    variables = random_variables(model, X)
    y, state = apply(model.clone(reverse=True), variables, X)
    wanted, last = apply(model, variables, X[:, ::-1])
    close((y[:, ::-1], state), (wanted, last))


@pytest.mark.slow
@every_layer
def test_what_a_mask_hides_has_no_effect(name):
    """However great it is, and not on gradients either; a gap in the middle is as if it were not there."""
    model = LAYERS[name](5)
    variables = random_variables(model, X)
    mask = np.ones(X.shape[:2], bool)
    mask[:, 2:4] = False
    hidden = np.where(mask[..., None], X, 1e9)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def run(variables, x, mask):
        y, state = model.apply(variables, x, mask=mask)
        return sum(jnp.square(part).sum() for part in state), (y, state)

    (_, (y, state)), gradients = run(variables, hidden, mask)
    (_, (wanted, last)), wanted_gradients = run(variables, X[:, [0, 1, 4, 5, 6]], np.ones((3, 5), bool))
    close((y[:, [0, 1, 4, 5, 6]], state), (wanted, last))
    assert not np.any(y[:, 2:4])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), gradients, wanted_gradients)


@pytest.mark.slow
@pytest.mark.parametrize("merge", ["concat", "sum"])
def test_both_directions_see_a_sequence_as_long_as_it_is(merge):
    """What lies behind its end reaches neither of them; backwards, a sequence begins at its own end."""
    model = Stack(LSTM, (3, 2), bidirectional=True, merge=merge)
    variables, lengths = random_variables(model, X), np.array([7, 1, 4])
    mask = np.arange(7)[None] < lengths[:, None]
    y, states = apply(model, variables, np.where(mask[..., None], X, 1e9), mask=mask)
    assert not np.any(np.where(mask[..., None], 0, y))
    for row, length in enumerate(lengths):
        wanted, last = apply(model, variables, X[row : row + 1, :length])
        close(y[row : row + 1, :length], wanted)
        close(jax.tree.map(lambda part, row=row: part[row : row + 1], states), last)


def test_the_gradient_of_the_layer_that_has_its_own_is_that_of_a_plain_loop():
    """An LSTM written as a Python loop, differentiated by JAX, with the first state and the last among it all."""
    model = LSTM(5)
    variables = random_variables(model, X)

    def loop(params, x):
        c = h = jnp.zeros((3, 5))
        outputs = []
        for t in range(x.shape[1]):
            z = x[:, t] @ params["kernel"] + h @ params["recurrent_kernel"] + params["bias"][None]
            i, f, g, o = jnp.split(z, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            outputs.append(h)
        return jnp.square(jnp.stack(outputs, axis=1) - 1).sum() + (c * h).sum()

    def ours(params, x):
        y, (c, h) = model.apply({"params": params}, x)
        return jnp.square(y - 1).sum() + (c * h).sum()

    wanted = jax.jit(jax.grad(loop, (0, 1)))(variables["params"], X)
    actual = jax.jit(jax.grad(ours, (0, 1)))(variables["params"], X)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), actual, wanted)


def test_parameters_start_as_they_should():
    params = jax.jit(LSTM(5).init)(jax.random.key(0), X)["params"]
    np.testing.assert_array_equal(params["bias"], np.repeat([0.0, 1.0, 0.0, 0.0], 5))
    np.testing.assert_allclose(params["recurrent_kernel"] @ params["recurrent_kernel"].T, np.eye(5), atol=1e-5)
    sizes = {name: jax.tree.map(jnp.shape, abstract_variables(LAYERS[name](5), X)["params"]) for name in LAYERS}
    assert sizes["gru"] == {**sizes["gru_reset_before"], "recurrent_bias": (5,)}
    assert set(abstract_variables(GRU(5, use_bias=False), X)["params"]) == {"kernel", "recurrent_kernel"}


def test_dropout_acts_between_layers_and_not_after_the_last():
    one, two = Stack(LSTM, (5,), 0.5), Stack(LSTM, (5, 6), 0.5)
    run = jax.jit(
        lambda model, variables, train: model.apply(variables, X, train=train, rngs=rngs)[0], static_argnums=(0, 2)
    )
    rngs = {"dropout": jax.random.key(0)}
    for model, differs in ((one, False), (two, True)):
        variables = random_variables(model, X)
        assert np.any(run(model, variables, True) != run(model, variables, False)) == differs


def test_the_weights_of_attention_are_a_distribution_over_what_there_is():
    model = AdditiveAttention(6)
    query, mask = X[:, 0], np.arange(7)[None] < np.array([7, 1, 4])[:, None]
    variables = jax.jit(model.init)(jax.random.key(0), query, X)
    context, weights = apply(model, variables, query, X, mask=mask)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    assert np.all((weights > 0) == mask)
    close(context, np.einsum("bt,btf->bf", weights, X))


def test_an_lm_goes_on_from_its_state():
    model = zoo.create_model("char_lstm", vocab_size=11, hidden_size=5)
    tokens = np.random.default_rng(0).integers(0, 11, (2, 7), np.int32)
    variables = random_variables(model, tokens)
    wanted = apply(model, variables, tokens)
    state, logits = model.init_state(2), []
    for token in tokens.T:
        one, state = apply(model, variables, token[:, None], state)
        logits.append(one)
    close(jnp.concatenate(logits, axis=1), wanted)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: LSTM(5).init(jax.random.key(0), X[0]),
            r"LSTM takes sequences of shape \[batch, time, .* not \[7, 4\]",
        ),
        (
            lambda: GRU(5).init(jax.random.key(0), X, mask=np.ones((3, 6), bool)),
            r"mask of sequences \[3, 7, 4\] is \[3, 7\], not \[3, 6\]",
        ),
        (
            lambda: LSTM(5).init(jax.random.key(0), X, (jnp.zeros((3, 5)),)),
            r"state of LSTM is 2 × \[3, 5\], not \[3, 5\]",
        ),
        (lambda: abstract_variables(RNN(5, activation="cube"), X), 'activation must be "tanh" or "relu"'),
        (lambda: abstract_variables(Bidirectional(partial(RNN, 5), "both"), X), 'merge must be "concat" or "sum"'),
        (
            lambda: abstract_variables(zoo.create_model("char_lstm"), X[0, 0]),
            r"tokens must be integers \[batch, time\]",
        ),
    ],
)
def test_what_does_not_fit_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
@every_layer
def test_bfloat16_is_float32_rounded_at_each_step(name, reverse):
    """With a mask, and gradients too. What is stacked over time are bits, which a CPU does not copy at each step."""
    layer = LAYERS[name](5, reverse=reverse)
    low = layer.clone(dtype=jnp.bfloat16)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), random_variables(layer, X))
    x = jnp.asarray(X).astype(jnp.bfloat16).astype(jnp.float32)
    mask = np.random.default_rng(1).random(X.shape[:2]) < 0.8

    @partial(jax.jit, static_argnums=0)
    @partial(jax.value_and_grad, argnums=1, has_aux=True)
    def loss(model, variables):
        outputs, state = model.apply(variables, x, mask=mask)
        return jnp.square(outputs.astype(jnp.float32)).sum(), (outputs, state[-1])

    (_, made), gradients = loss(low, variables)
    (_, wanted), expected = loss(layer, variables)
    assert {part.dtype.name for part in made} == {"bfloat16"}
    for a, b in zip(jax.tree.leaves((made, gradients)), jax.tree.leaves((wanted, expected)), strict=True):
        a = np.asarray(a, np.float32)
        np.testing.assert_allclose(a, b, atol=4e-2 * max(1, np.abs(b).max()))
    if name == "gru_reset_before":
        return  # differentiated by JAX, which keeps what it needs
    stacked = loss.lower(low, variables).as_text()
    assert "tensor<7x3x5xui16>" in stacked
    assert not [line for line in stacked.splitlines() if "dynamic_update_slice" in line and "bf16" in line]
    with pytest.raises(TypeError, match="no derivatives in bfloat16"):
        jax.hessian(lambda x: low.apply(variables, x)[0].astype(jnp.float32).sum())(x[:1, :2])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "reverse"), [("rnn", False), ("lstm", True), ("gru", False)])
def test_loops_write_where_they_have_read(name, reverse, monkeypatch):
    """With the gradients of the loop that does not, and no copy of a whole stack at each step."""
    layer = LAYERS[name](8, reverse=reverse)
    x = np.random.default_rng(0).normal(size=(16, 9, 4)).astype(np.float32)
    mask = np.arange(9)[None] < np.arange(16)[:, None]
    variables = random_variables(layer, x)

    def gradient():
        def loss(variables, x):
            outputs, state = layer.apply(variables, x, mask=mask)
            return jnp.square(outputs).sum() + jnp.sin(state[0]).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(variables, x).compile()

    with optimised():
        in_place = gradient()
    monkeypatch.setattr(lowering, "ENABLED", False)
    for a, b in zip(*(jax.tree.leaves(program(variables, x)) for program in (in_place, gradient())), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    bodies = re.findall(r"^%\S*(?:region|body|while)\S* .*?^}", in_place.as_text(), re.MULTILINE | re.DOTALL)
    assert any("dynamic-update-slice" in body for body in bodies)
    assert not re.findall(r"f32\[9,16,\d+\]\S* copy\(", "".join(bodies))
