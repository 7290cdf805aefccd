"""Drawing from generative runs, and how good it is in the eyes of a classifier."""

from __future__ import annotations

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.special
from PIL import Image

import data
import zoo
from tests.draws import assert_all_differ, keys_drawn_from
from train import cli
from train.inference.evaluation import evaluate, likelihood_bound
from train.inference.fidelity import fidelity, frechet_distance
from train.inference.image_sampling import decode, generator, interpolate, manifold, sample, slerp
from train.inference.loading import load
from train.recipe import override
from zoo.generative.gan import resample


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A few steps of each generative recipe, made small, and a classifier."""
    folder = tmp_path_factory.mktemp("runs")
    small = {
        "vae": ["model_options.features=[4]", "model_options.latent_size=4"],
        "gan": ["model_options.generator_features=[8, 4]", "model_options.discriminator_features=[4]"],
        "diffusion": ["model_options.features=[8]", "task_options.num_steps=10"],
        "autoencoder": [],
    }
    for name, settings in small.items():
        settings = [*settings, "epochs=0.5", "evaluate_every=8", "steps_per_dispatch=1"]
        cli.main(["train", f"{name}_digits", *settings, "--run", str(folder / name), "--json"])
    cli.main(["train", "mlp_digits", "epochs=4", "--run", str(folder / "mlp"), "--json"])
    return folder


generative = pytest.mark.parametrize("name", ["vae", "gan", "diffusion"])


@pytest.mark.slow
@generative
def test_samples_depend_on_the_seed_and_not_on_their_number(runs, name, monkeypatch):
    monkeypatch.setattr("train.inference.image_sampling._BATCH", 2)
    found = sample(runs / name, 5, seed=3)
    assert found.shape == (5, 8, 8, 1)
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_allclose(sample(runs / name, 3, seed=3), found[:3], atol=1e-5)
    assert np.abs(sample(runs / name, 5, seed=4) - found).max() > 1e-3
    for first, second in itertools.combinations(found, 2):
        assert np.abs(first - second).max() > 1e-3


@pytest.mark.slow
def test_samples_are_what_the_model_makes_of_noise(runs):
    latents = jax.random.normal(jax.random.key(0), (3, 4))
    model, variables = zoo.load_model(runs / "vae")
    wanted = scipy.special.expit(model.apply(variables, latents, method="decode"))
    np.testing.assert_allclose(sample(runs / "vae", 3), wanted, atol=1e-5)


@pytest.mark.slow
def test_the_discriminator_has_a_say_in_what_a_gan_draws(runs):
    """Where it was trained to; a key is needed besides, and without one images are functions of the latents."""
    run, key = load(runs / "gan"), jax.random.key(0)
    latents = jax.random.normal(key, (3, 32))

    def images(latents):
        return (run.model.apply(run.variables, latents, method="generate") + 1) / 2

    wanted = images(resample(run.model, run.variables, latents, jax.random.fold_in(key, 0)))
    np.testing.assert_allclose(sample(runs / "gan", 3), wanted, atol=1e-5)
    assert np.abs(wanted - images(latents)).max() > 1e-3
    np.testing.assert_allclose(decode(generator(run), latents), images(latents), atol=1e-5)
    critic = run._replace(recipe=override(run.recipe, ["task_options.loss=hinge"]))
    np.testing.assert_allclose(decode(generator(critic), latents, key), images(latents), atol=1e-5)


@pytest.mark.slow
def test_a_diffusion_model_adds_noise_on_the_way(runs, monkeypatch):
    """The fresh noise of images that begin alike is their own: they end apart, in one batch and in two."""
    monkeypatch.setattr("train.inference.image_sampling._BATCH", 2)
    source = generator(load(runs / "diffusion"))
    same = jnp.tile(jax.random.normal(jax.random.key(0), source.latent_shape), (4, 1, 1, 1))
    plain, noisy = decode(source, same), decode(source, same, jax.random.key(1))
    np.testing.assert_allclose(plain, plain[:1].repeat(4, axis=0), atol=1e-5)
    for first, second in itertools.combinations(noisy, 2):
        assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(decode(source, same, jax.random.key(1)), noisy)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "draws"), [("gan", 15 + 16), ("diffusion", 10)])
def test_no_two_draws_of_a_sample_share_a_key(runs, name, draws, monkeypatch):
    """The first latents; and in each of two batches the other candidates and their lots, or the noise of each step."""
    monkeypatch.setattr("train.inference.image_sampling._BATCH", 2)
    with keys_drawn_from() as keys:
        sample(runs / name, 3)
    assert_all_differ(keys, at_least=1 + 2 * draws)


@pytest.mark.slow
def test_no_two_draws_of_a_bound_share_a_key(runs):
    """Pixels and latents, of all batches of the split."""
    run = load(runs / "vae")
    binarized = run._replace(recipe=override(run.recipe, ["task_options.pixels=binarized", "batch_size=50"]))
    with pytest.MonkeyPatch.context() as patch, keys_drawn_from() as keys:
        patch.setattr("train.inference.evaluation.load", lambda folder: binarized)
        likelihood_bound(runs / "vae", samples=3)
    assert_all_differ(keys, at_least=2 * (1 + 3))


@pytest.mark.slow
@generative
def test_each_evaluation_leaves_samples(runs, name):
    last = json.loads((runs / name / "report.json").read_text())["steps"]
    names = [path.name for path in sorted((runs / name / "samples").iterdir())]
    assert names == [f"step_{step:06d}.png" for step in [*range(8, last, 8), last]]
    with Image.open(runs / name / "samples" / names[-1]) as image:
        assert image.size == (8 * (7 * 8 + 7),) * 2, "8 × 8 images, enlarged 7 times, and a line after each"


@pytest.mark.slow
def test_the_newest_gan_is_the_best(runs):
    report = json.loads((runs / "gan" / "report.json").read_text())
    assert zoo.checkpoint.best_first(runs / "gan")[0].name == str(report["steps"])


@pytest.mark.slow
@generative
def test_interpolations_begin_and_end_at_samples(runs, name):
    found = interpolate(runs / name, rows=3, columns=4, seed=1)
    assert found.shape == (3, 4, 8, 8, 1)
    source = generator(load(runs / name))
    ends = decode(source, jax.random.normal(jax.random.key(1), (6, *source.latent_shape)))
    np.testing.assert_allclose(found[:, 0], ends[:3], atol=1e-4)
    np.testing.assert_allclose(found[:, -1], ends[3:], atol=1e-4)
    assert np.abs(found[:, 1] - found[:, 2]).max() > 1e-4


def test_slerp():
    """A quarter of a circle in thirds; lengths stay."""
    first, last = jnp.array([[2.0, 0.0, 0.0]]), jnp.array([[0.0, 2.0, 0.0]])
    np.testing.assert_allclose(slerp(first, last, 0.0), first, atol=1e-6)
    np.testing.assert_allclose(slerp(first, last, 1 / 3), [[2 * np.cos(np.pi / 6), 1, 0]], atol=1e-6)
    np.testing.assert_allclose(slerp(first, last, 1.0), last, atol=1e-6)


@pytest.mark.slow
def test_the_manifold_is_the_plane_of_the_principal_components(runs):
    found = manifold(runs / "vae", 3)
    model, variables = zoo.load_model(runs / "vae")
    digits = data.load("digits")
    image = digits.splits["train"][np.arange(1437)]["image"]
    codes = np.asarray(model.apply(variables, image, method="encode")[0], np.float64)
    center = codes.mean(axis=0)
    _, scales, axes = np.linalg.svd(codes - center, full_matrices=False)
    steps = 2 * scales / np.sqrt(1436)

    def decoded(z):
        return scipy.special.expit(model.apply(variables, z[None], method="decode"))[0]

    np.testing.assert_allclose(found[1, 1], decoded(center), atol=1e-3)
    for ends, axis in (((found[1, 0], found[1, 2]), 0), ((found[2, 1], found[0, 1]), 1)):
        wanted = [decoded(center + sign * steps[axis] * axes[axis]) for sign in (-1, 1)]  # the sign is arbitrary
        distances = [
            max(np.abs(a - b).max() for a, b in zip(ends, pair, strict=True)) for pair in (wanted, wanted[::-1])
        ]
        assert min(distances) < 2e-3
        assert max(distances) > min(distances)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda runs: sample(runs / "mlp", 3), "this run does classification, and draws no images"),
        (lambda runs: sample(runs / "autoencoder", 3), "this run does reconstruction, and draws no images"),
        (lambda runs: sample(runs / "vae", 0), "n, the number of images, must be at least 1"),
        (lambda runs: interpolate(runs / "vae", 0, 4), "at least 1 row and 2 columns"),
        (lambda runs: manifold(runs / "gan"), "this run does gan; only a VAE"),
        (lambda runs: manifold(runs / "vae", 1), "at least 2 images"),
        (lambda runs: likelihood_bound(runs / "gan"), "this run is no VAE, but does gan"),
        (lambda runs: likelihood_bound(runs / "vae", samples=0), "samples must be at least 1"),
        (
            lambda runs: likelihood_bound(runs / "vae", "holdout"),
            "has no split 'holdout'; it has test, train, validation",
        ),
        (lambda runs: fidelity(runs / "vae", runs / "gan"), "this run is no classifier, but does gan"),
        (lambda runs: fidelity(runs / "mlp", runs / "mlp"), "this run does classification, and draws no images"),
        (lambda runs: fidelity(runs / "vae", runs / "mlp", "holdout"), "has no split 'holdout'; it has test, train"),
    ],
)
def test_what_a_run_cannot_do(runs, call, message):
    with pytest.raises(ValueError, match=message):
        call(runs)


@pytest.mark.slow
def test_sample_on_the_command_line(runs, tmp_path, capsys):
    for kind, n, name in (("samples", 5, "gan"), ("interpolation", 9, "gan"), ("manifold", 4, "vae")):
        out = tmp_path / kind / "grid.png"
        cli.main(["sample", str(runs / name), "--n", str(n), "--out", str(out), "--kind", kind, "--seed", "1"])
        assert f"{n} images in {out}" in capsys.readouterr().out
        with Image.open(out) as image:
            assert image.size[0] == 63 * {5: 3, 9: 3, 4: 2}[n]
    with pytest.raises(
        SystemExit, match="--kind interpolation fills a square: n is a square number such as 64 or 225, not 5"
    ):
        cli.main(["sample", str(runs / "gan"), "--n", "5", "--kind", "interpolation"])


# ---- how good it is ----


def test_frechet_distance_is_that_of_normal_distributions():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)) + 1
    second = rng.normal(size=(400, 4)) @ rng.normal(size=(4, 4))
    a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    wanted = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert frechet_distance(first, second) == pytest.approx(wanted, rel=1e-8)
    assert frechet_distance(second, first) == pytest.approx(wanted, rel=1e-8)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-8)
    line = rng.normal(size=(300, 1))
    assert frechet_distance(line, 3 * line + 2) == pytest.approx(
        np.square(2 * line.mean() + 2) + np.square(2 * line.std(ddof=1)), rel=1e-8
    )


def test_frechet_distance_of_features_that_lie_in_a_plane():
    rng = np.random.default_rng(0)
    features = np.pad(rng.normal(size=(50, 2)), ((0, 0), (0, 98)))
    assert frechet_distance(features, features + np.eye(100)[99]) == pytest.approx(1, rel=1e-6)


@pytest.mark.slow
def test_fidelity_of_a_run(runs, monkeypatch, capsys):
    cli.main(["evaluate", str(runs / "diffusion"), "--classifier", str(runs / "mlp"), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert {"test_loss", "classifier_frechet_distance"} < set(report)
    assert report["classifier_frechet_distance"] > 3 * report["classifier_frechet_distance_of_real"] > 0
    assert 0.1 < report["classifier_confidence"] < 1
    assert sum(report["class_shares"].values()) == pytest.approx(1)
    # A run that draws the real images is perfect.
    test = data.load("digits").splits["test"][np.arange(360)]["image"]
    monkeypatch.setattr("train.inference.fidelity.draw", lambda run, n, seed: test[:n])
    perfect = fidelity(runs / "diffusion", runs / "mlp")
    assert perfect["classifier_frechet_distance"] == pytest.approx(0, abs=1e-4)
    assert perfect["classifier_confidence"] == perfect["classifier_confidence_in_real"]
    assert perfect["class_coverage"] == 1
    ones = np.repeat(test[:1], 360, axis=0)
    monkeypatch.setattr("train.inference.fidelity.draw", lambda run, n, seed: ones[:n])
    assert fidelity(runs / "diffusion", runs / "mlp")["class_coverage"] == 0.1
    ones[0] = test[1]  # a class that is found in one image of 360 is not covered, in four of them it is
    found = fidelity(runs / "diffusion", runs / "mlp")
    assert sum(share > 0 for share in found["class_shares"].values()) == 2
    assert found["class_coverage"] == 0.1
    ones[:4] = test[1]
    assert fidelity(runs / "diffusion", runs / "mlp")["class_coverage"] == 0.2


@pytest.mark.slow
def test_the_bound_of_a_run(runs, capsys):
    cli.main(["evaluate", str(runs / "vae"), "--importance-samples", "8", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["test_elbo"] == pytest.approx(evaluate(runs / "vae")["test_elbo"])
    assert report["test_elbo"] < report["test_bound_with_8_samples"] < report["test_elbo"] + 10


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "export"])
def test_generative_runs_do_not_classify(runs, command, tmp_path):
    arguments = {"predict": ["image.png"], "export": ["--out", str(tmp_path / "x")]}[command]
    with pytest.raises(SystemExit, match="this run is no classifier, but does vae"):
        cli.main([command, str(runs / "vae"), *arguments])
