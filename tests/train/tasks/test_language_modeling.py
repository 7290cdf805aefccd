"""Language modelling: metrics in closed form, the batches that it takes, and that it learns."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

import data
import zoo
from data.text.tokens import encode
from train.inference.text_generation import decode, generate
from train.loop import parallel
from train.loop.feed import feed
from train.loop.fitting import evaluate, fit
from train.metrics import merge, summarize
from train.tasks import language_modeling

VOCAB = 7
RNG = np.random.default_rng(0)


class Bigram(nn.Module):
    """The logits of a token depend on the one before it alone."""

    @nn.compact
    def __call__(self, tokens, *, train=False):
        return self.param("table", nn.initializers.normal(1.0), (VOCAB, VOCAB))[tokens]


@pytest.fixture(scope="module")
def bigram():
    task = language_modeling(Bigram(), optax.sgd(1.0))
    state = task.init(jax.random.key(0), {"tokens": np.zeros((1, 3), np.int32)})
    return task._replace(train_step=jax.jit(task.train_step), eval_step=jax.jit(task.eval_step)), state


def closed_form(state, tokens, weights):
    table = np.asarray(state.params["table"], np.float64)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    nats = -np.take_along_axis(scipy.special.log_softmax(table, axis=1)[inputs], targets[..., None], axis=-1)[..., 0]
    loss = (nats * weights).sum() / weights.sum()
    right = table[inputs].argmax(axis=-1) == targets
    return {
        "loss": loss,
        "accuracy": (right * weights).sum() / weights.sum(),
        "perplexity": np.exp(loss),
        "bits_per_character": loss / np.log(2),
    }


def tokens_of(batch, time=9):
    return RNG.integers(0, VOCAB, (batch, time + 1), np.int32)


def test_metrics_are_those_of_the_closed_form(bigram):
    task, state = bigram
    tokens, weights, mask = tokens_of(6), RNG.uniform(size=(6, 9)), np.array([1, 1, 0, 1, 1, 0], bool)
    weights[1, 4:] = 0
    for batch, kept in (
        ({"tokens": tokens}, np.ones((6, 9))),
        ({"tokens": tokens, "weights": weights}, weights),
        ({"tokens": tokens, "mask": mask}, mask[:, None] * np.ones((6, 9))),
        ({"tokens": tokens, "weights": weights, "mask": mask}, mask[:, None] * weights),
        ({"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}, weights),
    ):
        wanted = closed_form(state, tokens, kept)
        assert summarize(jax.jit(task.eval_step)(state, batch)) == pytest.approx(wanted, rel=1e-5)
        assert summarize(jax.jit(task.train_step)(state, batch)[1]) == pytest.approx(wanted, rel=1e-5)


def test_metrics_of_batches_are_those_of_all_tokens(bigram):
    """A perplexity is no mean of perplexities."""
    task, state = bigram
    tokens, weights = tokens_of(8), RNG.uniform(size=(8, 9))
    parts = [
        jax.jit(task.eval_step)(state, {"tokens": tokens[rows], "weights": weights[rows]})
        for rows in ([0, 1], range(2, 8))
    ]
    assert summarize(merge(*parts)) == pytest.approx(closed_form(state, tokens, weights), rel=1e-5)


def test_a_step_takes_the_mean_over_tokens(bigram):
    task, state = bigram
    tokens, weights = tokens_of(5), RNG.uniform(size=(5, 9))
    stepped, _ = jax.jit(task.train_step)(state, {"tokens": tokens, "weights": weights})
    table = np.asarray(state.params["table"], np.float64)
    slope = scipy.special.softmax(table, axis=1)[tokens[:, :-1]] - np.eye(VOCAB)[tokens[:, 1:]]
    wanted = table.copy()
    np.add.at(wanted, tokens[:, :-1], -slope * (weights / weights.sum())[..., None])
    np.testing.assert_allclose(stepped.params["table"], wanted, atol=1e-6)


def test_a_huge_loss_has_an_infinite_perplexity(bigram):
    task, state = bigram
    state = state.replace(params={"table": 1e5 * state.params["table"]})
    assert summarize(jax.jit(task.eval_step)(state, {"tokens": tokens_of(2)}))["perplexity"] == np.inf


def test_a_model_that_gives_something_else_is_refused():
    class Wrong(nn.Module):
        @nn.compact
        def __call__(self, tokens, *, train=False):
            return nn.Dense(3)(jnp.float32(tokens))

    task = language_modeling(Wrong(), optax.sgd(1.0))
    batch = {"tokens": tokens_of(2)}
    with pytest.raises(ValueError, match=r"a language model gives logits \[\*\[2, 9\], vocab_size\], not \[2, 3\]"):
        task.eval_step(task.init(jax.random.key(0), batch), batch)


@pytest.fixture(scope="module")
def verses(tmp_path_factory):
    """A text that each character of which can be told from the eight before it."""
    path = tmp_path_factory.mktemp("text") / "verses.txt"
    path.write_text("one for sorrow, two for joy,\nthree for a girl, four for a boy;\n" * 40)
    return data.load(f"text:{path}", length=20)


def test_windows_on_the_device_are_those_on_the_host(verses):
    """Of a text, the device holds each character once."""
    source = verses.splits["train"]
    rows = np.array([0, 5, len(source) - 1, -1])
    training = feed(verses, "train", parallel.jit(jax.devices()[:1]))
    batch = jax.jit(training.load)(rows, training.shared)
    np.testing.assert_array_equal(batch["tokens"], source[np.maximum(rows, 0)]["tokens"])
    np.testing.assert_array_equal(batch["mask"], [True, True, True, False])
    assert training.shared["text"].size == 63 * 40 * 9 // 10


@pytest.mark.slow
def test_char_lstm_learns_a_text_by_heart(verses):
    model = zoo.create_model("char_lstm", vocab_size=len(verses.spec.vocabulary), hidden_size=48, dropout_rate=0.0)
    task = language_modeling(model, optax.adam(2e-2))
    plan = parallel.jit(jax.devices()[:1])
    fitted = fit(task, verses, batch_size=32, steps=150, plan=plan, evaluate_every=150)
    row = fitted.history[-1]
    assert row["validation_perplexity"] == pytest.approx(np.exp(row["validation_loss"]))
    reached = evaluate(task, verses, fitted.state, plan=plan)
    assert reached["accuracy"] > 0.85
    assert reached["bits_per_character"] < 1, "the first characters of a window must be guessed"
    prompt = np.array([encode("one for sorrow, two for", verses.spec.vocabulary)])
    text = decode(generate(model, fitted.state.variables, prompt, 40, greedy=True)[0], verses.spec.vocabulary)
    assert text == " joy,\nthree for a girl, four for a boy;\n"
