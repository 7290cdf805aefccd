"""Sequence to sequence: the task's metrics, greedy and beam decoding, and texts through a run."""

from __future__ import annotations

import functools
import itertools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import data
import zoo
from data.text.tokens import END, PAD, START
from tests.descriptors import random_variables
from train import cli
from train.inference.beam_search import decode, exact_match
from train.metrics import merge, summarize
from train.tasks import seq2seq

SOURCE = np.array([[4, 5, 3, 2], [3, 2, 0, 0], [5, 5, 5, 4], [3, 4, 5, 0]], np.int32)


@pytest.fixture(scope="module")
def small():
    """Six tokens, of which three make up texts."""
    sizes = {"vocab_size": 6, "max_len": 5, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "mlp_dim": 8}
    model = zoo.create_model("transformer_tiny", **sizes)
    return model, random_variables(model, SOURCE, seed=1)


@functools.partial(jax.jit, static_argnums=0)
def log_probabilities(model, variables, source, targets):
    """log p of each target `[targets, time]` for one source `[time]`; after its end a target is padded."""
    before = jnp.concatenate([jnp.full((len(targets), 1), START), targets[:, :-1]], axis=1)
    logits = model.apply(variables, jnp.broadcast_to(source[None], (len(targets), len(source))), before)
    logits = logits.at[..., jnp.array([PAD, START])].set(-jnp.inf)
    each = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
    return jnp.where(targets == PAD, 0, each).sum(axis=-1)


def all_targets(length):
    """Every target of at most `length` tokens, that ends with an end or with its length."""
    words = itertools.product((END, 3, 4, 5), repeat=length)
    cut = {word[: word.index(END) + 1] if END in word else word for word in words}
    return np.array([[*word, *[PAD] * (length - len(word))] for word in sorted(cut)])


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 3.0])
def test_a_beam_of_all_targets_is_brute_force(small, length_penalty):
    targets = all_targets(3)
    assert len(targets) == 40
    found = decode(*small, jnp.asarray(SOURCE), max_length=3, beams=40, length_penalty=length_penalty)
    for row, source in enumerate(SOURCE):
        scores = np.asarray(log_probabilities(*small, jnp.asarray(source), jnp.asarray(targets)))
        order = np.argsort(-scores / ((5 + (targets != PAD).sum(axis=1)) / 6) ** length_penalty)
        np.testing.assert_array_equal(found.tokens[row], targets[order])
        np.testing.assert_allclose(found.log_probability[row], scores[order], atol=1e-5)


def test_one_beam_is_greedy_decoding(small):
    model, variables = small
    logits_of = jax.jit(model.apply)
    before, wanted = np.full((4, 6), START), np.full((4, 5), PAD)
    for t in range(5):  # what stands behind t changes nothing at t
        logits = np.array(logits_of(variables, SOURCE, before[:, :5]))[:, t]
        logits[:, [PAD, START]] = -np.inf
        ended = (wanted[:, :t] == END).any(axis=1)
        wanted[:, t] = np.where(ended, PAD, logits.argmax(axis=1))
        before[:, t + 1] = wanted[:, t]
    found = decode(model, variables, jnp.asarray(SOURCE), max_length=5)
    np.testing.assert_array_equal(found.tokens[:, 0], wanted)


@pytest.mark.slow
def test_more_beams_find_more_probable_targets(small):
    few, many = (decode(*small, jnp.asarray(SOURCE), max_length=5, beams=n, length_penalty=0) for n in (1, 4))
    gain = np.asarray(many.log_probability[:, 0] - few.log_probability[:, 0])
    assert (gain > -1e-5).all()
    assert gain.max() > 1e-3
    assert (np.diff(many.log_probability, axis=1) <= 0).all()
    for row, source in enumerate(SOURCE):
        again = log_probabilities(*small, jnp.asarray(source), many.tokens[row])
        np.testing.assert_allclose(again, many.log_probability[row], atol=1e-5)


def test_a_beam_that_makes_no_sense(small):
    for options in ({"beams": 0, "max_length": 3}, {"max_length": 6}, {"max_length": 0}):
        with pytest.raises(ValueError, match=r"beams must be at least 1 and max_length from 1 to 5 \(the model's"):
            decode(*small, jnp.asarray(SOURCE), **options)


class Table(nn.Module):
    """Logits that depend on nothing but the place in the target, and on the token before."""

    @nn.compact
    def __call__(self, source, before, *, train=False):
        table = self.param("table", nn.initializers.normal(2.0), (7, before.shape[1], 7))
        return table[before, jnp.arange(before.shape[1])[None]]


def test_metrics_are_means_over_tokens_and_over_sequences():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 5, 12)
    targets = np.where(np.arange(4)[None] < lengths[:, None], rng.integers(3, 7, (12, 4)), PAD).astype(np.int32)
    batch = {"inputs": np.ones((12, 2), np.int32), "targets": targets}
    task = seq2seq(Table(), optax.sgd(0.1), label_smoothing=0.2)
    state = task.init(jax.random.key(0), batch)
    table = np.asarray(state.params["table"], np.float64)
    before = np.concatenate([np.full((12, 1), START), targets[:, :-1]], axis=1)
    logits = table[before, np.arange(4)[None]]
    # Right in every token of some rows, whatever the table says.
    targets[:6] = np.where(targets[:6] != PAD, 0, PAD)
    for row in range(6):
        last = START
        for t in range(lengths[row]):
            targets[row, t] = last = 1 + table[last, t, 1:].argmax()
    before = np.concatenate([np.full((12, 1), START), targets[:, :-1]], axis=1)
    logits = table[before, np.arange(4)[None]]
    state = state.replace(params={"table": state.params["table"].at[:, :, PAD].add(-100)})
    logits[..., PAD] -= 100

    kept = np.array([True] * 11 + [False])
    halves = [slice(0, 5), slice(5, 12)]
    evaluate = jax.jit(task.eval_step)
    metrics = [evaluate(state, {"inputs": batch["inputs"][h], "targets": targets[h], "mask": kept[h]}) for h in halves]
    found = summarize(merge(*metrics))
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    smooth = 0.8 * np.eye(7)[targets] + 0.2 / 7
    counted = (targets != PAD) & kept[:, None]
    right = logits.argmax(axis=-1) == targets
    assert found["loss"] == pytest.approx(-(smooth * log_p).sum(axis=-1)[counted].mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(right[counted].mean())
    whole = (right | (targets == PAD)).all(axis=1)[kept]
    assert 6 <= whole.sum() < 11
    assert found["sequence_accuracy"] == pytest.approx(whole.mean())
    nll = -np.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    assert found["perplexity"] == pytest.approx(np.exp(nll[counted].mean()), rel=1e-5), "without the smoothing"
    assert set(found) == {"loss", "accuracy", "perplexity", "sequence_accuracy"}


def test_a_model_of_something_else_is_refused():
    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, source, before, *, train=False):
            return nn.Embed(6, 7)(source[:, 0])

    batch = {"inputs": SOURCE, "targets": SOURCE}
    task = seq2seq(Classifier(), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"a model of sequences gives logits \[\*\[4, 4\], vocab_size\], not \[4, 7\]"):
        task.eval_step(task.init(jax.random.key(0), batch), batch)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a few steps, by the command line, and its report."""
    folder = tmp_path_factory.mktemp("runs") / "dates"
    sizes = [f"model_options.{name}={n}" for name, n in (("hidden_size", 16), ("num_layers", 1), ("mlp_dim", 16))]
    settings = ["epochs=1", "data_options.size=400", "validation=40", "batch_size=40", *sizes]
    cli.main(
        ["train", "transformer_dates", *settings, "schedule_options.warmup_steps=2", "--run", str(folder), "--json"]
    )
    return folder


@pytest.mark.slow
def test_a_run_reports_what_decoding_finds(run, capsys):
    report = json.loads((run / "report.json").read_text())
    assert {"test_loss", "test_accuracy", "test_sequence_accuracy", "test_exact_match"} <= set(report)
    model, variables = zoo.load_model(run)
    dataset = data.load("dates")
    assert report["test_exact_match"] == exact_match(model, variables, dataset, "test")


@pytest.mark.slow
def test_exact_match_counts_sequences(run):
    """Of a data set that holds for targets what the model makes of the sources, but for a token of each tenth."""
    model, variables = zoo.load_model(run)
    dates = data.load("dates")
    source = dates.splits["test"].arrays["inputs"][:300]
    found = [decode(model, variables, jnp.asarray(source[rows]), max_length=11) for rows in np.split(np.arange(300), 3)]
    targets = np.concatenate([np.array(part.tokens[:, 0]) for part in found])
    targets[::10, 2] += 1
    made = data.Dataset("made", dates.spec, {"test": data.ArraySource({"inputs": source, "targets": targets})}, dict)
    assert exact_match(model, variables, made, "test", batch_size=100) == 0.9
    assert exact_match(model, variables, made, "test", batch_size=200) == 0.9, "the last batch is filled up"


@pytest.mark.slow
def test_translating_on_the_command_line(run, capsys):
    command = ["translate", str(run), "3 March 1998", "1.2.2003", "--beams", "2"]
    cli.main([*command, "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["source"] for row in rows] == ["3 March 1998", "1.2.2003"]
    assert all(set(row["text"]) <= set(data.load("dates").spec.vocabulary) for row in rows)
    assert all(0 < row["probability"] <= 1 for row in rows)
    cli.main(command)
    assert capsys.readouterr().out == "".join(f"{row['text']} ({row['probability']:.1%})\n" for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no text given: zoo translate RUN"),
        (["3 März 1998"], "the model knows no 'z', 'ä'"),
        (["1" * 37], "a text has from 1 to 36 characters, not 37"),
        ([""], "a text has from 1 to 36 characters, not 0"),
    ],
)
def test_texts_that_cannot_be_translated(run, texts, message):
    with pytest.raises(SystemExit, match=f"zoo: error: {message}"):
        cli.main(["translate", str(run), *texts])


def test_a_run_of_something_else_translates_nothing(run):
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps({**recipe, "task": "regression"}))
    try:
        with pytest.raises(SystemExit, match="this run does regression, and translates no texts"):
            cli.main(["translate", str(run), "3 March 1998"])
    finally:
        (run / "recipe.json").write_text(json.dumps(recipe))
