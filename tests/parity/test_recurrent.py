"""Recurrent layers beside PyTorch's and Keras's: outputs, states and gradients, with the same random weights."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from tests.descriptors import random_variables
from zoo.layers.recurrent import GRU, LSTM, RNN, Bidirectional, Stack

torch = pytest.importorskip("torch")

BATCH, TIME, FEATURES, HIDDEN = 4, 6, 3, 5
LENGTHS = np.array([6, 1, 4, 3])
KINDS = {"rnn": RNN, "relu": partial(RNN, activation="relu"), "lstm": LSTM, "gru": GRU}
every_kind = pytest.mark.parametrize("kind", KINDS)


def normal(*shape, seed=3):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torch_layer(kind, num_layers=1, bidirectional=False):
    make = {"rnn": torch.nn.RNN, "relu": partial(torch.nn.RNN, nonlinearity="relu")}
    make |= {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    return make[kind](FEATURES, HIDDEN, num_layers, batch_first=True, bidirectional=bidirectional)


def to_torch(tree, prefix=""):
    """The parameters of a stack under PyTorch's names; the recurrent biases are zero but for a GRU's candidate."""
    found = {}
    for index, layer in enumerate(tree[name] for name in sorted(tree)):
        for suffix, part in (("", layer.get("forward", layer)), ("_reverse", layer.get("backward"))):
            if part is None:
                continue
            width = part["bias"].shape[0]
            recurrent_bias = np.zeros(width, np.float32)
            if "recurrent_bias" in part:
                recurrent_bias[-HIDDEN:] = part["recurrent_bias"]
            arrays = {
                "weight_ih": np.asarray(part["kernel"]).T,
                "weight_hh": np.asarray(part["recurrent_kernel"]).T,
                "bias_ih": np.asarray(part["bias"]),
                "bias_hh": recurrent_bias,
            }
            found |= {f"{name}_l{index}{suffix}": np.array(array) for name, array in arrays.items()}
    return found


def assert_close(actual, wanted, rtol=1e-5):
    actual, wanted = np.asarray(actual), np.asarray(wanted)
    assert actual.shape == wanted.shape
    scale = np.abs(wanted).max()
    assert scale > 1e-3
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=rtol * scale)


def states_of(kind, states):
    """Our tuple of states of layers as PyTorch stacks it: (h, c) for an LSTM, else h, `[layers · directions, …]`."""
    flat = [one for state in states for one in (state if isinstance(state[0], tuple) else (state,))]
    if kind == "lstm":
        return np.stack([h for _, h in flat]), np.stack([c for c, _ in flat])
    return (np.stack([h for (h,) in flat]),)


@every_kind
@pytest.mark.parametrize(("num_layers", "bidirectional", "packed"), [(1, False, False), (2, True, True)])
def test_layers_are_pytorchs(kind, num_layers, bidirectional, packed):
    """Outputs, last states, and the gradients of all parameters, the inputs and the first states."""
    model = Stack(KINDS[kind], (HIDDEN,) * num_layers, bidirectional=bidirectional)
    x = normal(BATCH, TIME, FEATURES)
    params = random_variables(model, x)["params"]
    theirs = torch_layer(kind, num_layers, bidirectional)
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in to_torch(params).items()})

    directions = 2 if bidirectional else 1
    first = normal(2 if kind == "lstm" else 1, num_layers * directions, BATCH, HIDDEN, seed=4)
    tensors = [torch.from_numpy(part).requires_grad_() for part in first]
    tensor = torch.from_numpy(x).requires_grad_()
    given = torch.nn.utils.rnn.pack_padded_sequence(tensor, LENGTHS, True, False) if packed else tensor
    y, last = theirs(given, tuple(tensors) if kind == "lstm" else tensors[0])
    if packed:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
    last = last if kind == "lstm" else (last,)
    sum((leaf * torch.from_numpy(normal(*leaf.shape, seed=5))).sum() for leaf in (y, *last)).backward()

    def state(first):
        """(h, c) by layer and direction → (c, h), as ours has it."""
        one = [tuple(first[::-1, index]) for index in range(num_layers * directions)]
        return tuple(zip(one[::2], one[1::2], strict=True)) if bidirectional else tuple(one)

    mask = jnp.arange(TIME)[None] < LENGTHS[:, None] if packed else None

    @jax.jit
    def run(params, x, first):
        def loss(params, x, first):
            y, states = model.apply({"params": params}, x, state(first), mask=mask)
            flat = [one for each in states for one in (each if bidirectional else (each,))]
            last = [jnp.stack([one[part] for one in flat]) for part in range(len(first))][::-1]
            total = sum((leaf * normal(*leaf.shape, seed=5)).sum() for leaf in (y, *last))
            return total, (y, *last)

        return jax.grad(loss, (0, 1, 2), has_aux=True)(params, x, first)

    (d_params, d_x, d_first), outputs = run(params, x, first)
    for ours, wanted in zip(outputs, (y, *last), strict=True):
        assert_close(ours, wanted.detach())
    assert_close(d_x, tensor.grad)
    for ours, wanted in zip(d_first, tensors, strict=True):
        assert_close(ours, wanted.grad)
    ours = to_torch(d_params)
    for name, parameter in theirs.named_parameters():
        if not name.startswith("bias_hh"):
            assert_close(ours[name], parameter.grad)
        elif kind == "gru":  # the rest is merged into bias_ih
            assert_close(ours[name][-HIDDEN:], parameter.grad[-HIDDEN:])


def keras_weights(kind, part, reset_after=True):
    """Our parameters of one layer as Keras orders them: of a GRU update, reset, candidate."""
    if kind == "lstm":
        return [np.asarray(part[name]) for name in ("kernel", "recurrent_kernel", "bias")]

    def reorder(array):
        reset, update, candidate = np.split(np.asarray(array), 3, axis=-1)
        return np.concatenate([update, reset, candidate], axis=-1)

    bias = reorder(part["bias"])
    if reset_after:
        recurrent = np.zeros_like(bias)
        recurrent[-HIDDEN:] = part["recurrent_bias"]
        bias = np.stack([bias, recurrent])
    return [reorder(part["kernel"]), reorder(part["recurrent_kernel"]), bias]


@pytest.fixture
def keras():
    """Keras adds its biases by promoting their rank."""
    found = pytest.importorskip("keras")
    with jax.numpy_rank_promotion("allow"):
        yield found


@pytest.mark.parametrize(
    ("kind", "reset_after", "merge"),
    [("lstm", True, None), ("gru", True, None), ("gru", False, "sum"), ("lstm", True, "concat")],
)
def test_layers_are_kerass(keras, kind, reset_after, merge):
    """Both conventions of the reset gate, one direction and both, with lengths."""
    layer = partial(LSTM, HIDDEN) if kind == "lstm" else partial(GRU, HIDDEN, reset_after=reset_after)
    model = layer() if merge is None else Bidirectional(layer, merge)
    x = normal(BATCH, TIME, FEATURES)
    variables = random_variables(model, x)
    mask = np.arange(TIME)[None] < LENGTHS[:, None]
    options = {"return_sequences": True, **({} if kind == "lstm" else {"reset_after": reset_after})}
    theirs = (keras.layers.LSTM if kind == "lstm" else keras.layers.GRU)(HIDDEN, zero_output_for_mask=True, **options)
    if merge is not None:
        theirs = keras.layers.Bidirectional(theirs, merge_mode=merge)
    theirs.build(x.shape)
    params = variables["params"]
    parts = [params] if merge is None else [params["forward"], params["backward"]]
    theirs.set_weights([array for part in parts for array in keras_weights(kind, part, reset_after)])
    y, _ = model.apply(variables, x, mask=mask)
    assert_close(y, jax.jit(theirs)(x, mask=mask))


def test_the_update_gate_of_eq_52_is_ours_with_its_sign_changed():
    """The guide's equations 49–52 as they stand, in NumPy."""
    model, x = GRU(HIDDEN, reset_after=False), normal(BATCH, TIME, FEATURES)
    params = random_variables(model, x)["params"]

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    h, wanted = np.zeros((BATCH, HIDDEN)), []
    (w_r, w_z, w), (u_r, u_z, u), (b_r, b_z, b) = (
        np.split(np.asarray(params[name], np.float64), 3, axis=-1) for name in ("kernel", "recurrent_kernel", "bias")
    )
    for t in range(TIME):
        r = sigmoid(x[:, t] @ w_r + h @ u_r + b_r)
        z = sigmoid(-(x[:, t] @ w_z + h @ u_z + b_z))
        candidate = np.tanh(x[:, t] @ w + (r * h) @ u + b)
        h = (1 - z) * h + z * candidate
        wanted.append(h)
    assert_close(model.apply({"params": params}, x)[0], np.stack(wanted, axis=1))


def test_char_lstm_is_pytorchs():
    model = zoo.create_model("char_lstm", vocab_size=11, hidden_size=HIDDEN)
    tokens = np.random.default_rng(0).integers(0, 11, (BATCH, TIME), np.int32)
    params = random_variables(model, tokens)["params"]
    lstm = torch.nn.LSTM(11, HIDDEN, 2, batch_first=True)
    lstm.load_state_dict({name: torch.from_numpy(array) for name, array in to_torch(params["lstm"]).items()})
    x = torch.nn.functional.one_hot(torch.from_numpy(tokens).long(), 11).float()
    wanted = lstm(x)[0].detach().numpy() @ params["head"]["kernel"] + params["head"]["bias"]
    assert_close(model.apply({"params": params}, tokens), wanted)


def test_the_guides_regressors_are_kerass(keras):
    """Section 6.3.2, 6.4 and 7.2; dropout does nothing in inference."""
    layers, x = keras.layers, normal(2, 50, 1)

    def weights(*parts, kind="lstm", head):
        found = [array for part in parts for array in gates(kind, part)]
        return [*found, head["kernel"], head["bias"]]

    def gates(kind, part):
        size = part["recurrent_kernel"].shape[0]
        if kind == "lstm":
            return keras_weights(kind, part)
        kernel, recurrent, bias = keras_weights(kind, part, reset_after=False)
        second = np.zeros_like(bias)
        second[-size:] = part["recurrent_bias"]
        return [kernel, recurrent, np.stack([bias, second])]

    for name, kind in (("lstm_regressor", "lstm"), ("gru_regressor", "gru"), ("bilstm_regressor", "lstm")):
        model = zoo.create_model(name)
        params = random_variables(model, x)["params"]
        layer = layers.LSTM if kind == "lstm" else layers.GRU
        both = layers.Bidirectional if name == "bilstm_regressor" else lambda layer: layer
        theirs = keras.Sequential(
            [layers.Input((50, 1)), both(layer(64, return_sequences=True)), both(layer(32)), layers.Dense(1)]
        )
        stack = [params["recurrent"][f"layer{index}"] for index in (1, 2)]
        parts = (
            [part for one in stack for part in (one["forward"], one["backward"])] if "forward" in stack[0] else stack
        )
        theirs.set_weights(weights(*parts, kind=kind, head=params["head"]))
        assert_close(jax.jit(model.apply)({"params": params}, x), jax.jit(theirs)(x))


def test_the_attention_regressor_is_kerass(keras):
    """Section 7.2 with its three dense layers; a bias of the last would make no difference."""
    layers, x = keras.layers, normal(2, 50, 1)
    model = zoo.create_model("attention_regressor")
    params = random_variables(model, x)["params"]
    values, query = layers.LSTM(64, return_sequences=True), layers.LSTM(64)
    w1, w2, v, head = layers.Dense(64), layers.Dense(64), layers.Dense(1), layers.Dense(1)
    for layer, shape in ((values, (2, 50, 1)), (query, (2, 50, 1)), (w1, (2, 64)), (w2, (2, 64)), (v, (2, 64))):
        layer.build(shape)
    head.build((2, 64))
    for layer, tree in ((values, params["values"]), (query, params["query"])):
        layer.set_weights(keras_weights("lstm", tree))
    attention = params["attention"]
    for layer, tree in ((w1, attention["query"]), (w2, attention["key"]), (head, params["head"])):
        layer.set_weights([tree["kernel"], tree["bias"]])
    v.set_weights([attention["score"]["kernel"], np.float32([0.7])])

    @jax.jit
    def guides(x):
        lstm_out, q = values(x), query(x)
        weights = jax.nn.softmax(v(jnp.tanh(w1(q[:, None]) + w2(lstm_out))), axis=1)
        return head((weights * lstm_out).sum(axis=1)), weights

    wanted, weights = guides(x)
    y, extra = model.apply({"params": params}, x, mutable=["intermediates"])
    assert_close(y, wanted)
    assert_close(extra["intermediates"]["attention_weights"], weights[..., 0])
