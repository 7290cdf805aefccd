"""Transformers: caches, masks, packing, and that nothing leaks from the future."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from tests.descriptors import MODELS, random_variables
from zoo.summary import abstract_variables, count_parameters
from zoo.text.transformer import mean_over_tokens

SMALL = {"vocab_size": 11, "max_len": 8, "hidden_size": 8, "num_layers": 2, "num_heads": 4, "mlp_dim": 12}
OPTIONS = {
    "gpt2": {},
    "llama_15m": {"num_kv_heads": 2},
    "transformer_tiny": {"norm_first": False},
}
LANGUAGE_MODELS = ("gpt2", "llama_15m")
TOKENS = np.random.default_rng(2).integers(1, 11, (3, 8), np.int32)
SOURCE = np.array([[4, 7, 2, 9, 1], [3, 3, 8, 0, 0], [5, 0, 0, 0, 0]], np.int32)


@functools.cache
def built(name):
    model = zoo.create_model(name, **SMALL, **OPTIONS[name])
    return model, random_variables(model, TOKENS)


@functools.partial(jax.jit, static_argnums=0, static_argnames="method")
def run(model, variables, *args, method="__call__"):
    return model.apply(variables, *args, method=method)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(name, tokens, state=None, mask=None):
    """Of the decoder behind a fixed source, or of the language model."""
    model, variables = built(name)
    if name in LANGUAGE_MODELS:
        return model.apply(variables, tokens, state, mask=mask)
    memory = model.apply(variables, SOURCE, method="encode")
    return model.apply(variables, tokens, memory, state, method="decode")


def assert_close(actual, wanted):
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


every_decoder = pytest.mark.parametrize("name", OPTIONS)
every_language_model = pytest.mark.parametrize("name", LANGUAGE_MODELS)


@pytest.mark.slow
@every_decoder
@pytest.mark.parametrize("pieces", [[1] * 8, [3, 1, 4], [8]])
def test_cached_decoding_is_full_recomputation(name, pieces):
    wanted = np.asarray(logits_of(name, TOKENS))
    state, start = built(name)[0].init_state(3), 0
    for piece in pieces:
        logits, state = logits_of(name, TOKENS[:, start : start + piece], state)
        assert_close(logits, wanted[:, start : start + piece])
        start += piece
    assert int(state.length) == 8
    logits, _ = logits_of(name, TOKENS[:, :1], state)
    assert np.isnan(logits).all(), "the room has run out"


@pytest.mark.slow
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_state_has_room_for_as_many_tokens_as_are_asked_for(name):
    model, _ = built(name)
    wanted = np.asarray(logits_of(name, TOKENS[:, :5]))
    first, state = logits_of(name, TOKENS[:, :3], model.init_state(3, 5))
    second, state = logits_of(name, TOKENS[:, 3:5], state)
    assert_close(np.concatenate([first, second], axis=1), wanted)
    assert {leaf.shape[1] for leaf in jax.tree.leaves(state.layers)} == {5}
    with pytest.raises(ValueError, match=r"room for \[3, 5\] tokens \[batch, time\], not for \[3, 6\]"):
        model.apply(built(name)[1], TOKENS[:, :6], model.init_state(3, 5))


@pytest.mark.slow
@every_decoder
def test_nothing_leaks_from_the_future(name):
    """The gradient of the logits at t with respect to the embedded token at s is exactly zero for s > t, else not."""

    def logits(delta):
        def shifted(next_call, args, kwargs, context):
            y = next_call(*args, **kwargs)
            is_target = isinstance(context.module, nn.Embed) and context.method_name == "__call__" and y.shape[1] == 8
            return y + delta if is_target else y

        with nn.intercept_methods(shifted):
            return jnp.square(logits_of.__wrapped__(name, TOKENS)).sum(axis=(0, 2))

    slopes = jax.jit(jax.jacrev(logits))(jnp.zeros((3, 8, 8)))  # [time of logits, batch, time of tokens, features]
    reach = np.abs(slopes).sum(axis=(1, 3))
    assert not np.triu(reach, 1).any()
    assert reach[np.tril_indices(8)].all()


@pytest.mark.slow
@every_language_model
@pytest.mark.parametrize("mask", ["00011111", "11111000", "11000111", "10101101"])
def test_padding_changes_nothing(name, mask):
    short, mask = TOKENS[:1, :5], np.array([[each == "1" for each in mask]])
    tokens = TOKENS[1:2].copy()
    tokens[mask] = short[0]
    logits = logits_of(name, tokens, mask=mask)
    assert_close(logits[mask], logits_of(name, short)[0])
    assert np.isfinite(logits).all()


@pytest.mark.slow
@every_language_model
def test_prompts_of_two_lengths_go_on_together(name):
    """A prompt of three tokens and one of five, padded on the left, and three more tokens of each from the cache."""
    tokens = np.stack([np.r_[0, 0, TOKENS[0, :3]], TOKENS[1, :5]])
    mask = np.array([[0, 0, 1, 1, 1], [1] * 5], bool)
    first, state = logits_of(name, tokens, built(name)[0].init_state(2), mask)
    assert_close(first[0, 2:], logits_of(name, TOKENS[:1, :3])[0])
    nexts = np.stack([TOKENS[0, 3:6], TOKENS[1, 5:8]])
    for t in range(3):
        logits, state = logits_of(name, nexts[:, t : t + 1], state)
        assert_close(logits[0, 0], logits_of(name, TOKENS[:1, : 4 + t])[0, -1])
        assert_close(logits[1, 0], logits_of(name, TOKENS[1:2, : 6 + t])[0, -1])


@pytest.mark.slow
@every_language_model
def test_packed_sequences_do_not_see_one_another(name):
    a, b = TOKENS[:1, :5], TOKENS[1:2, :2]
    packed = np.concatenate([a, b, [[0]]], axis=1)
    segments = np.array([[1, 1, 1, 1, 1, 2, 2, 0]])
    logits = logits_of(name, packed, mask=segments)
    assert_close(logits[:, :5], logits_of(name, a))
    assert_close(logits[:, 5:7], logits_of(name, b))


@pytest.mark.slow
def test_what_pads_a_source_does_not_matter():
    model, variables = built("transformer_tiny")
    whole = run(model, variables, SOURCE, TOKENS)
    assert_close(run(model, variables, SOURCE[1:2, :3], TOKENS[1:2]), whole[1:2])
    assert_close(logits_of("transformer_tiny", TOKENS), whole)


@pytest.mark.slow
def test_a_bert_sees_no_padding():
    model = zoo.create_model("bert_tiny", **SMALL)
    variables = random_variables(model, TOKENS)
    mask = np.arange(8)[None] < np.array([8, 5, 3])[:, None]
    features, hidden = (run(model, variables, TOKENS, mask, method=method) for method in ("__call__", "encode"))
    sentences = mean_over_tokens(hidden, mask)
    for row, length in enumerate((8, 5, 3)):
        short = TOKENS[row : row + 1, :length]
        assert_close(features[row : row + 1], run(model, variables, short))
        assert_close(sentences[row], run(model, variables, short, method="encode").mean(axis=(0, 1)))
    assert not np.any(mean_over_tokens(hidden, np.zeros((3, 8), bool)))
    np.testing.assert_allclose(
        mean_over_tokens(hidden, np.arange(8)[None] == [[2], [0], [7]]), hidden[[0, 1, 2], [2, 0, 7]]
    )
    second = run(model, variables, TOKENS, mask, np.ones((3, 8), np.int32))
    assert np.abs(second - features).max() > 0.01, "of another segment"


@every_decoder
def test_a_cache_is_as_wide_as_what_goes_into_it(name):
    """In half precision it takes half the memory, and grouped heads a part."""
    for dtype in ("float32", "bfloat16"):
        model = built(name)[0].clone(dtype=jnp.dtype(dtype))
        heads = getattr(model, "num_kv_heads", model.num_heads)
        for leaf in jax.tree.leaves(model.init_state(3).layers):
            assert (leaf.shape, leaf.dtype.name) == ((3, 8, heads, 2), dtype)


def test_a_classifier_does_not_count_padding():
    model = zoo.create_model("transformer_classifier", **MODELS["transformer_classifier"].small)
    variables = random_variables(model, TOKENS)
    padded = np.concatenate([TOKENS[:, :5], np.zeros((3, 3), np.int32)], axis=1)
    assert_close(run(model, variables, padded), run(model, variables, TOKENS[:, :5]))
    guide = model.clone(pad_token=None)
    assert np.abs(run(guide, variables, padded) - run(guide, variables, TOKENS[:, :5])).max() > 0.01


def test_tokens_that_training_leaves_out_are_padding():
    """A text of one token is read as it is, or as none; without training nothing is left out."""
    options = {**MODELS["transformer_classifier"].small, "dropout_rate": 0.0}
    model = zoo.create_model("transformer_classifier", **options, token_dropout_rate=0.3)
    variables = random_variables(model, TOKENS)
    one = np.full((2000, 1), 5, np.int32)
    outputs = np.asarray(
        jax.jit(lambda v: model.apply(v, one, train=True, rngs={"dropout": jax.random.key(0)}))(variables)
    )
    whole, none = (run(model, variables, np.full((1, 1), token, np.int32)) for token in (5, 0))
    left_out = np.abs(outputs - none).max(axis=1) < 1e-5
    assert_close(outputs[~left_out], np.broadcast_to(whole, outputs[~left_out].shape))
    assert left_out.mean() == pytest.approx(0.3, abs=0.04)


def test_parameters_of_the_guides_classifier():
    """Each of the 8 heads has 128 features in the guide, and 16 in the paper, where together they have 128."""
    model = zoo.create_model("transformer_classifier", head_dim=128)
    embedding, dense, norms, head = 10_000 * 128, 128 * 512 + 512 + 512 * 128 + 128, 2 * 256, 128 * 20 + 20 + 20 * 2 + 2
    attention = 3 * (128 * 1024 + 1024) + 1024 * 128 + 128
    params = abstract_variables(model, TOKENS)["params"]
    assert count_parameters(params) == embedding + attention + dense + norms + head == 1_942_334


def test_parameters_of_nano_gpt():
    """nanoGPT counts its parameters without the positions, and tells 0.80 million."""
    params = abstract_variables(zoo.create_model("char_gpt"), TOKENS)["params"]
    assert count_parameters(params) - params["position_embedding"].size == 65 * 128 + 4 * (12 * 128**2 + 256) + 128
    assert not [path for path, _ in jax.tree.leaves_with_path(params) if "bias" in jax.tree_util.keystr(path)]


def test_a_masked_bert_has_the_published_number_of_parameters():
    params = abstract_variables(zoo.create_model("bert_base", masked_lm=True), TOKENS)["params"]
    assert count_parameters(params) == 109_514_298


def test_gpt_starts_small_in_front_of_sums():
    model = zoo.create_model("gpt2", **{**SMALL, "hidden_size": 64, "mlp_dim": 128})
    params = jax.jit(model.init)(jax.random.key(0, impl="rbg"), TOKENS)["params"]["decoder_block1"]
    for kernel in (params["attention"]["out"]["kernel"], params["fc2"]["kernel"]):
        assert np.std(kernel) == pytest.approx(0.02 / 2, rel=0.05)
    for kernel in (params["attention"]["query"]["kernel"], params["fc1"]["kernel"]):
        assert np.std(kernel) == pytest.approx(0.02, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OPTIONS, "bert_tiny", "transformer_classifier"])
def test_refuses_what_are_no_tokens(name):
    model = zoo.create_model(name, **MODELS[name].small)
    for tokens in (jnp.zeros((2, 4)), jnp.zeros(4, jnp.int32), jnp.zeros((2, 0), jnp.int32)):
        with pytest.raises(ValueError, match=r"tokens must be integers \[batch, time\].*, not "):
            model.init(jax.random.key(0), tokens)
    if name != "transformer_classifier":
        with pytest.raises(ValueError, match=r"at most 8 \(max_len\), not int32 \[1, 9\]"):
            model.init(jax.random.key(0), jnp.zeros((1, 9), jnp.int32))


def test_refuses_a_mask_and_a_state_of_other_shapes():
    model, variables = built("gpt2")
    with pytest.raises(ValueError, match=r"the mask has the shape \[3, 7\], and the tokens have \[3, 8\]"):
        model.apply(variables, TOKENS, mask=np.ones((3, 7), bool))
    with pytest.raises(
        ValueError, match=r"room for \[2, 8\] tokens \[batch, time\], not for \[3, 8\] of at most 8; make it"
    ):
        model.apply(variables, TOKENS, model.init_state(2))


def test_a_bert_has_one_output():
    model = zoo.create_model("bert_tiny", **SMALL, num_classes=3, masked_lm=True)
    with pytest.raises(ValueError, match="num_classes or masked_lm, not both"):
        model.init(jax.random.key(0), TOKENS)
