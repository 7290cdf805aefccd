"""Generation beside a loop that computes everything anew for each token, and draws beside NumPy's probabilities."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import zoo
from data.text.tokens import encode
from tests.descriptors import random_variables
from tests.draws import assert_all_differ, keys_drawn_from
from train.inference import text_generation
from train.inference.text_generation import TextRun, choose, decode, generate, load, stream, write

VOCAB, MAX_LEN = 11, 8


def make(name):
    if name == "char_lstm":
        model = zoo.create_model(name, vocab_size=VOCAB, hidden_size=6)
    else:
        small = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "mlp_dim": 6}
        model = zoo.create_model(name, vocab_size=VOCAB, max_len=MAX_LEN, **small)
    variables = random_variables(model, np.zeros((1, 3), np.int32))
    return model, jax.tree.map(lambda leaf: 4 * leaf, variables)  # so that texts are not one token again and again


MODELS = {name: make(name) for name in ("char_lstm", "char_gpt")}
every_model = pytest.mark.parametrize("name", MODELS)


def prompts(batch, time=3):
    return np.random.default_rng(5).integers(0, VOCAB, (batch, time), np.int32)


@pytest.mark.slow
@every_model
def test_greedy_text_is_that_of_full_recomputation(name):
    """A model of a longest context reads the last half of it anew when that is full."""
    model, variables = MODELS[name]
    max_len = getattr(model, "max_len", None)
    apply = jax.jit(model.apply)
    prompt = prompts(2)
    text, begin, wanted = prompt, 0, []
    for _ in range(20):
        if max_len is not None and text.shape[1] - begin > max_len:
            begin = text.shape[1] - max_len // 2
        width = text.shape[1] - begin
        seen = np.zeros((2, MAX_LEN if max_len else 23), np.int32)  # one shape for all, filled up behind
        seen[:, :width] = text[:, begin:]
        wanted.append(np.asarray(apply(variables, seen))[:, width - 1].argmax(axis=-1))
        text = np.concatenate([text, wanted[-1][:, None]], axis=1)
    assert len(np.unique(wanted)) > 2
    np.testing.assert_array_equal(generate(model, variables, prompt, 20, greedy=True), np.stack(wanted, axis=1))


@pytest.mark.slow
@every_model
@pytest.mark.parametrize("options", [{"greedy": True}, {"temperature": 0.8, "seed": 3, "stop": [4]}])
def test_rows_of_several_lengths_are_as_alone(name, options):
    """Also where one row's context is full before the others'."""
    model, variables = MODELS[name]
    rows = [prompts(1, time)[0] for time in (1, 3, 7, 8)]
    whole = generate(model, variables, rows, 24, **options)
    for index, row in enumerate(rows):
        # Rows of one length need no mask; the others are there for the random numbers of this one.
        alone = generate(model, variables, np.tile(row, (len(rows), 1)), 24, **options)[index]
        wanted = np.full(whole.shape[1], -1)
        wanted[: len(alone)] = alone[: whole.shape[1]]
        np.testing.assert_array_equal(whole[index], wanted)
    mask = np.array([np.arange(8) >= 8 - len(row) for row in rows])
    padded = np.where(mask, np.stack([np.pad(row, (8 - len(row), 0)) for row in rows]), VOCAB + 5)
    np.testing.assert_array_equal(generate(model, variables, padded, 24, mask=mask, **options), whole)


@pytest.mark.slow
@every_model
@pytest.mark.parametrize("time", [1, 2, 8])
def test_a_prompt_that_is_read_one_by_one_gives_the_same_text(name, time, monkeypatch):
    """In parts of three, by one program for all lengths."""
    model, variables = MODELS[name]
    monkeypatch.setattr(text_generation, "_MOST_STEPS", 3)
    wanted = generate(model, variables, prompts(2, time), 20, seed=2)
    before = text_generation._read_some._cache_size()
    np.testing.assert_array_equal(generate(model, variables, prompts(2, time), 20, seed=2, one_by_one=True), wanted)
    assert text_generation._read_some._cache_size() <= before + 1
    with pytest.raises(ValueError, match="one by one must have one length"):
        stream(model, variables, [[1], [1, 2]], 20, one_by_one=True)


@pytest.mark.parametrize(
    ("prompt", "mask", "message"),
    [
        ([[1, 2], []], None, "row 1 of the prompt has no tokens"),
        ([[1, 2], [1]], np.ones((2, 2)), "give a mask with an array alone"),
        (np.ones((1, 3), int), np.ones((1, 2)), r"the mask has the shape \[1, 2\], and the prompt has \[1, 3\]"),
        (np.ones((1, 3), int), [[1, 1, 0]], "padding stands on the left"),
        (np.ones((2, 3), int), [[0, 1, 1], [0, 0, 0]], "each row has at least one token"),
    ],
)
def test_masks_that_are_refused(prompt, mask, message):
    model, variables = MODELS["char_lstm"]
    with pytest.raises(ValueError, match=message):
        generate(model, variables, prompt, 3, mask=mask)


@pytest.mark.slow
@every_model
def test_a_text_depends_on_seed_row_and_place_alone(name):
    model, variables = MODELS[name]
    same = np.repeat(prompts(1), 3, axis=0)
    whole = generate(model, variables, same, 90, seed=1)
    assert whole.shape == (3, 90)
    assert ((whole >= 0) & (whole < VOCAB)).all()
    np.testing.assert_array_equal(generate(model, variables, same, 90, seed=1), whole)
    np.testing.assert_array_equal(generate(model, variables, same[:1], 90, seed=1), whole[:1])
    np.testing.assert_array_equal(generate(model, variables, same[:1], 17, seed=1), whole[:1, :17])
    pieces = list(stream(model, variables, same, 90, seed=1))
    assert len(pieces) > 2
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
    assert np.any(whole[0] != whole[1]), "rows draw their own numbers"
    assert np.any(generate(model, variables, same, 90, seed=2) != whole)


@pytest.mark.slow
def test_each_token_has_a_key_of_its_own():
    """Of two rows, the first and the 64 that one call of the loop may make."""
    model, variables = MODELS["char_lstm"]
    with keys_drawn_from() as keys:
        generate(model, variables, prompts(2), 5)
    assert_all_differ(keys, at_least=2 * (1 + 64))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, None, None),
        (0.5, None, None),
        (1.0, 4, None),
        (2.0, None, 0.6),
        (1.0, 5, 0.8),
        (1.0, VOCAB, 1.0),
        (1.0, 1, None),
        (1.0, None, 1e-6),
    ],
)
def test_draws_have_the_probabilities_that_numpy_computes(temperature, top_k, top_p):
    logits = np.random.default_rng(0).normal(size=VOCAB).astype(np.float32)
    logits[[2, 5]] = logits.max() + 0.3  # two are equally probable
    noise = jax.random.gumbel(jax.random.key(0), (20_000, VOCAB))
    tokens = np.asarray(choose(jnp.broadcast_to(logits, noise.shape), noise, temperature, top_k, top_p))

    order = np.argsort(-logits, kind="stable")[:top_k]
    kept = scipy.special.softmax(logits[order].astype(np.float64) / temperature)
    least = len(kept) if top_p is None else np.searchsorted(np.cumsum(kept), min(top_p, 1 - 1e-9)) + 1
    wanted = np.zeros(VOCAB)
    wanted[order[:least]] = kept[:least] / kept[:least].sum()
    counts = np.bincount(tokens, minlength=VOCAB)
    assert set(np.flatnonzero(counts)) == set(np.flatnonzero(wanted))
    np.testing.assert_allclose(counts / len(tokens), wanted, atol=4 * np.sqrt(0.25 / len(tokens)))


def test_the_options_reach_the_loop():
    model, variables = MODELS["char_lstm"]
    wanted = generate(model, variables, prompts(2), 20, greedy=True)
    np.testing.assert_array_equal(generate(model, variables, prompts(2), 20, top_k=1, top_p=0.9), wanted)


def test_rows_end_at_a_stop_token():
    model, variables = MODELS["char_lstm"]
    free = generate(model, variables, prompts(3), 100, seed=3)
    stop = [int(free[0, 4]), int(free[1, 70])]
    lengths = [int(np.flatnonzero(np.isin(row, stop))[0]) + 1 for row in free]
    ended = generate(model, variables, prompts(3), 100, seed=3, stop=stop)
    assert ended.shape == (3, max(lengths))
    for row, wanted, length in zip(ended, free, lengths, strict=True):
        np.testing.assert_array_equal(row[:length], wanted[:length])
        assert (row[length:] == -1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be finite and at least 0.0001, not 0.0; greedy"),
        ({"temperature": -1.0}, "temperature must be finite"),
        ({"temperature": float("nan")}, "temperature must be finite"),
        ({"top_p": 0.0}, r"top_p must be in \[0.0001, 1\], not 0.0"),
        ({"top_p": 1.1}, r"top_p must be in \[0.0001, 1\]"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"length": 0}, "length must be from 1 to 100,000,000, not 0"),
        ({"prompt": np.zeros((1, 0))}, r"at least one token, not \[1, 0\]"),
        ({"prompt": np.zeros(3)}, r"shape \[batch, time\]"),
        ({"prompt": np.zeros((1, MAX_LEN + 1))}, "the prompt has 9 tokens, and the model reads 8; shorten it"),
    ],
)
def test_bad_requests_are_told_at_once(options, message):
    model, variables = MODELS["char_gpt"]
    with pytest.raises(ValueError, match=message):
        stream(model, variables, **{"prompt": prompts(1), "length": 5, **options})


VOCABULARY = tuple("\n abcdefghi")


@pytest.mark.slow
def test_text_goes_in_and_comes_out():
    run = TextRun(*MODELS["char_lstm"], VOCABULARY)
    tokens = encode("a bad\nhide", VOCABULARY)
    assert decode(np.append(tokens, [-1, -1]), VOCABULARY) == "a bad\nhide"
    pieces = list(write(run, "abc", 80, n=2, seed=4))
    texts = ["".join(parts) for parts in zip(*pieces, strict=True)]
    prompt = np.tile(encode("abc", VOCABULARY), (2, 1))
    assert texts == [decode(row, VOCABULARY) for row in generate(run.model, run.variables, prompt, 80, seed=4)]
    assert list(write(run, "", 9)) == list(write(run, "\n", 9)), "an empty prompt is the beginning of a line"
    text = "".join(piece for (piece,) in write(run, "a", 200, stop=" "))
    assert text.endswith(" ")
    assert text.count(" ") == 1


def test_text_that_the_model_cannot_read_is_told():
    run = TextRun(*MODELS["char_lstm"], VOCABULARY)
    with pytest.raises(ValueError, match=r"the model knows no 'X', 'ß'; the characters .* are '\\n abcdefghi'"):
        write(run, "aßbX", 5)
    with pytest.raises(ValueError, match="the model knows no 'z'"):
        write(run, "a", 5, stop="z")
    with pytest.raises(ValueError, match=r"the model knows no '\\n'"):
        write(run._replace(vocabulary=tuple("abc")), "", 5)
    with pytest.raises(ValueError, match="n must be at least 1"):
        write(run, "a", 5, n=0)


def test_a_run_without_its_vocabulary_is_told(tmp_path):
    from train.recipe import Recipe

    zoo.save_model(tmp_path / "checkpoints" / "1", "char_lstm", MODELS["char_lstm"][1], vocab_size=VOCAB, hidden_size=6)
    recipe = Recipe(model="char_lstm", data="text:nowhere", task="language_modeling")
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    meta = tmp_path / "checkpoints" / "1" / "meta" / "metadata"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "score": 0.0, "checksum": None}))
    with pytest.raises(ValueError, match="lacks what its tokens stand for"):
        load(tmp_path)
    (tmp_path / "vocabulary.json").write_text(json.dumps(VOCABULARY))
    run = load(tmp_path)
    assert run.vocabulary == VOCABULARY
    assert "".join(piece for (piece,) in write(run, "a", 10))


@pytest.mark.parametrize(("bad", "place"), [(-1, [0, 2]), (7, [0, 2]), (2**40, [0, 2])])
def test_tokens_outside_the_vocabulary_are_refused(bad, place):
    model = zoo.create_model("char_lstm", vocab_size=7, hidden_size=4, num_layers=1)
    variables = random_variables(model, np.zeros((1, 2), np.int32))
    with pytest.raises(ValueError, match=rf"the prompt holds tokens outside 0 … 6.*the first is {bad}, at \{place}"):
        generate(model, variables, np.array([[1, 2, bad]]), 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 1e-45}, "temperature must be finite and at least 0.0001, not 1e-45; greedy"),
        ({"temperature": float("inf")}, "temperature must be finite"),
        ({"top_p": 1e-30}, r"top_p must be in \[0.0001, 1\], not 1e-30; greedy"),
    ],
)
def test_extremes_that_single_precision_cannot_draw_from(options, message):
    model = zoo.create_model("char_lstm", vocab_size=7, hidden_size=4, num_layers=1)
    variables = random_variables(model, np.zeros((1, 2), np.int32))
    with pytest.raises(ValueError, match=message):
        generate(model, variables, np.array([[1, 2]]), 3, **options)


def test_a_text_is_not_longer_than_can_be_written():
    model = zoo.create_model("char_lstm", vocab_size=7, hidden_size=4, num_layers=1)
    with pytest.raises(ValueError, match="length must be from 1 to 100,000,000, not 1000000000000000"):
        generate(model, {}, np.array([[1, 2]]), 10**15)
