"""Classes of sequences of tokens: the task of images, with another input."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import data
import zoo
from train.loop import parallel
from train.loop.fitting import evaluate, fit
from train.tasks import classification

pytestmark = pytest.mark.slow


def rows(examples, seed):
    """Rows of 4 to 12 tokens behind which stand zeros, of class 1 where a 7 is among them, and no 8."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 13, (examples, 1))
    tokens = rng.integers(1, 9, (examples, 12)) * (np.arange(12)[None] < lengths)
    label = (tokens == 7).any(axis=1) & ~(tokens == 8).any(axis=1)
    return data.ArraySource({"tokens": np.int32(tokens), "label": np.int32(label)})


def test_a_transformer_classifies_sequences_of_many_lengths():
    fields = {"tokens": data.Field((12,), "int32"), "label": data.Field((), "int32")}
    splits = {"train": rows(4096, 0), "test": rows(512, 1)}
    dataset = data.Dataset("rows", data.Spec(fields, ("no", "yes")), splits, lambda batch: batch)
    sizes = {"vocab_size": 9, "hidden_size": 16, "num_heads": 2, "mlp_dim": 32, "dropout_rate": 0.0}
    model = zoo.create_model("transformer_classifier", **sizes, pad_token=0)
    task = classification(model, optax.adam(1e-2), inputs="tokens")
    one_device = parallel.jit(jax.devices()[:1])
    fitted = fit(task, dataset, batch_size=64, steps=400, plan=one_device, evaluate_every=400)
    assert evaluate(task, dataset, fitted.state, plan=one_device)["accuracy"] > 0.97
    assert 0.2 < splits["test"].arrays["label"].mean() < 0.8


def test_a_bert_is_given_tokens_and_their_mask():
    sizes = {"vocab_size": 9, "max_len": 12, "hidden_size": 8, "num_heads": 2, "mlp_dim": 8}
    task = classification(
        zoo.create_model("bert_tiny", **sizes, num_classes=2), optax.sgd(0.1), inputs=("tokens", "token_mask")
    )
    batch = rows(8, 0).arrays
    batch = {**batch, "token_mask": batch["tokens"] > 0}
    state = task.init(jax.random.key(0), batch)
    evaluate_batch = jax.jit(task.eval_step)
    other = {**batch, "tokens": np.where(batch["token_mask"], batch["tokens"], 5)}
    np.testing.assert_array_equal(
        evaluate_batch(state, batch)["loss"].total, evaluate_batch(state, other)["loss"].total
    )
    unmasked = evaluate_batch(state, {**other, "token_mask": np.ones_like(batch["token_mask"])})
    assert unmasked["loss"].total != evaluate_batch(state, batch)["loss"].total
