"""The recipes learn: those on embedded data in full, to what their docstrings say; those on MNIST for some steps."""

import os

import jax
import numpy as np
import pytest
import scipy.sparse
import scipy.special
from sklearn.linear_model import LogisticRegression

import data
import train.recipes  # noqa: F401
from tests.compiling import optimised
from train.inference.image_sampling import draw
from train.inference.loading import Run
from train.loop import parallel
from train.loop.fitting import evaluate, fit
from train.recipe import get_recipe, override
from train.runs.build import build
from train.runs.transfer import resolve

one_device = parallel.jit(jax.devices()[:1])


@pytest.fixture(autouse=True, scope="module")
def long_trainings():
    with optimised():
        yield


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("perceptron_iris", 1.0),
        pytest.param("backprop_digits", 0.95, marks=pytest.mark.slow),
        pytest.param("mlp_digits", 0.975, marks=pytest.mark.slow),
        pytest.param("lenet5_digits", 0.97, marks=pytest.mark.slow),
    ],
)
def test_recipes_on_embedded_data_reach_what_they_say(name, least):
    recipe = get_recipe(name)
    parts = build(recipe)
    fitted = fit(
        parts.task, parts.dataset, batch_size=recipe.batch_size, epochs=recipe.epochs, seed=recipe.seed, plan=one_device
    )
    assert evaluate(parts.task, parts.dataset, fitted.state, plan=one_device)["accuracy"] >= least


def trained(name, *settings, **options):
    recipe = override(get_recipe(name), settings)
    parts = build(recipe)
    fitted = fit(
        parts.task,
        parts.dataset,
        batch_size=recipe.batch_size,
        steps=parts.steps,
        seed=recipe.seed,
        plan=one_device,
        **options,
    )
    variables = jax.device_get(fitted.state.variables)
    return fitted, Run(recipe, parts.dataset, parts.model, variables)


def pixel_variance():
    """Of the digits about their mean image: the error of a model that knows nothing of the one before it."""
    images = data.load("digits").splits["train"][np.arange(1437)]["image"]
    return images.var(axis=0).mean()


@pytest.mark.slow
def test_the_autoencoder_keeps_what_tells_digits_apart():
    fitted, _ = trained("autoencoder_digits", "epochs=20", evaluate_every=200)
    assert fitted.history[-1]["validation_mse"] < 0.35 * pixel_variance()


@pytest.mark.exhaustive
def test_the_vae_uses_its_latents():
    """The bound rises above that of a decoder that ignores them, which at best gives each pixel its mean."""
    fitted, run = trained("vae_digits", "epochs=30", evaluate_every=1200)
    images = data.load("digits").splits["train"][np.arange(1437)]["image"]
    mean = images.mean(axis=0, dtype=np.float64)
    blind = -(scipy.special.xlogy(mean, mean) + scipy.special.xlogy(1 - mean, 1 - mean)).sum()
    row = fitted.history[-1]
    assert row["validation_loss"] < blind - 1.5
    assert row["validation_kl"] > 1.5
    assert row["validation_loss"] == pytest.approx(row["validation_reconstruction"] + row["validation_kl"], rel=1e-4)
    assert spread(draw(run, 64)) > 0.25, "of the pixels' means alone"


@pytest.mark.exhaustive
def test_the_gan_draws_strokes_and_not_one_image():
    _, run = trained("gan_digits", "epochs=25", evaluate_every=1000)
    images = data.load("digits").splits["train"][np.arange(1437)]["image"]
    drawn = draw(run, 64)
    assert np.corrcoef(drawn.mean(axis=0).ravel(), images.mean(axis=0).ravel())[0, 1] > 0.7
    assert spread(drawn) > 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "share"),
    [
        pytest.param("lstm_sum", 0.5, marks=pytest.mark.exhaustive),
        pytest.param("gru_sum", 0.5, marks=pytest.mark.exhaustive),
        ("bilstm_sum", 0.2),
        ("attention_sum", 0.7),
    ],
)
def test_recurrent_networks_add_up(name, share):
    """50 is the variance of a sum of 50 numbers, and so the error of a model that knows nothing."""
    fitted, _ = trained(name, "epochs=4", evaluate_every=50)
    assert fitted.history[-1]["validation_loss"] < share * 50
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]


@pytest.mark.exhaustive
def test_diffusion_draws_digits():
    fitted, run = trained("diffusion_digits", "epochs=15", evaluate_every=300)
    assert fitted.history[-1]["validation_loss"] < 0.3, "1 is the error of a model that knows nothing"
    images = data.load("digits").splits["train"][np.arange(1437)]["image"]
    drawn = draw(run, 64)
    assert np.corrcoef(drawn.mean(axis=0).ravel(), images.mean(axis=0).ravel())[0, 1] > 0.8
    assert spread(drawn) > 0.5


@pytest.mark.exhaustive
def test_the_transformer_reads_dates():
    """Better than by the most frequent character of each place, which needs no source."""
    settings = ["epochs=1", "data_options.size=10000", "batch_size=64", "schedule_options.warmup_steps=30"]
    settings += ["model_options.dropout_rate=0", "task_options.label_smoothing=0"]
    fitted, run = trained("transformer_dates", *settings, evaluate_every=140)
    targets = run.dataset.splits["train"][np.arange(9000)]["targets"]
    blind = np.mean([np.bincount(place).max() / len(place) for place in targets.T])
    assert fitted.history[-1]["validation_accuracy"] > blind + 0.15


def spread(drawn):
    """The variance of drawn images about their mean, as a share of that of the digits."""
    return drawn.var(axis=0).mean() / pixel_variance()


@pytest.mark.exhaustive
@pytest.mark.skipif("ZOO_DATA_DIR" not in os.environ, reason="needs Tiny Shakespeare in ZOO_DATA_DIR")
def test_char_lstm_begins_to_learn():
    """The frequencies of single characters alone would give 3.3 nats."""
    recipe = get_recipe("char_lstm")
    parts = build(recipe)
    fitted = fit(
        parts.task,
        parts.dataset,
        batch_size=16,
        steps=60,
        plan=one_device,
        evaluate_every=60,
    )
    assert fitted.history[-1]["validation_loss"] < 3.2


@pytest.mark.slow
@pytest.mark.skipif("ZOO_DATA_DIR" not in os.environ, reason="needs MNIST in ZOO_DATA_DIR")
@pytest.mark.parametrize(
    ("name", "steps", "most_loss"),
    [
        ("lenet5_mnist", 120, 0.5),
        pytest.param("cnn_mnist", 40, 0.7, marks=pytest.mark.exhaustive),
        pytest.param("resnet18_mnist", 12, 2.2, marks=pytest.mark.exhaustive),
        pytest.param("autoencoder_mnist", 400, 0.05, marks=pytest.mark.exhaustive),
        pytest.param("vae_mnist", 80, 520.0, marks=pytest.mark.exhaustive),
    ],
)
def test_recipes_on_mnist_begin_to_learn(name, steps, most_loss):
    recipe = get_recipe(name)
    parts = build(recipe)
    fitted = fit(
        parts.task,
        parts.dataset,
        batch_size=recipe.batch_size,
        steps=steps,
        seed=recipe.seed,
        plan=one_device,
        validation=None,
        evaluate_every=steps // 4,
    )
    losses = [row["loss"] for row in fitted.history]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < most_loss


@pytest.mark.exhaustive
@pytest.mark.skipif("ZOO_DATA_DIR" not in os.environ, reason="needs Tiny Shakespeare in ZOO_DATA_DIR")
def test_speakers_are_told_better_than_by_a_bag_of_words():
    """Logistic regression on counts of words, its C the best of .03 to 10 by the accuracy on the validation split."""
    recipe = resolve(get_recipe("speakers"))
    parts = build(recipe)
    fitted = fit(
        parts.task, parts.dataset, batch_size=recipe.batch_size, steps=parts.steps, plan=one_device, validation=None
    )
    found = evaluate(parts.task, parts.dataset, fitted.state, plan=one_device)
    words = data.load("shakespeare_speakers")
    known = np.arange(2, len(words.spec.vocabulary))
    counts, labels = {}, {}
    for split in ("train", "test"):
        arrays = words.splits[split].arrays
        labels[split] = arrays["label"]
        counts[split] = np.stack([np.bincount(row, minlength=len(known) + 2)[2:] for row in arrays["tokens"]])
    bag = LogisticRegression(C=1.0, max_iter=1000).fit(scipy.sparse.csr_matrix(counts["train"]), labels["train"])
    right = bag.score(counts["test"], labels["test"])
    assert 0.29 < right < 0.31
    assert found["accuracy"] > right
