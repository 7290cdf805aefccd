"""Autoencoders, VAE, GAN and diffusion against PyTorch, with the same weights and the same noise."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import zoo
from tests.descriptors import random_variables
from tests.parity.torch_weights import channels_last, images
from train.tasks import diffusion, gan, reconstruction, vae
from train.tasks import step as steps
from train.tasks.vae import bernoulli_nll, kl_to_standard_normal

torch = pytest.importorskip("torch")
F = torch.nn.functional

KEY = jax.random.key(0, impl="rbg")  # its generator compiles faster than threefry's
SLOPE = 0.2
SMALL = {
    "conv_autoencoder": {"image_shape": (8, 4, 1), "features": (4, 6), "latent_size": 3},
    "vae": {"image_shape": (8, 4, 1), "features": (4, 6), "hidden_size": 7, "latent_size": 3},
    "gan": {
        "image_shape": (8, 4, 1),
        "latent_size": 5,
        "generator_features": (6, 5, 4),
        "discriminator_features": (4, 6),
        "dropout_rate": 0.0,
    },
}


def uniform(*shape, seed=3):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def normal(*shape, seed=3):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_close(actual, wanted, rtol=1e-5):
    """The greatest deviation in each array is within `rtol` of that array's greatest value."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a), b.detach().numpy() if isinstance(b, torch.Tensor) else np.asarray(b)
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(np.abs(b).max(), 1e-3))


def parameters(tree):
    """Leaf tensors in this project's layout, so that their gradients have it too."""
    return jax.tree.map(lambda leaf: torch.tensor(np.array(leaf), requires_grad=True), tree)


def statistics(variables):
    return jax.tree.map(torch.tensor, variables["batch_stats"]["generator"])


def gradients(tree):
    return jax.tree.map(lambda leaf: leaf.grad.numpy(), tree)


# ---- the networks, as functions of the parameters; images are NCHW ----


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def conv(p, x, stride):
    """Keras's `same`: at stride 2 and an even size the one row of padding is at the end."""
    before = 1 if stride == 1 else 0
    return F.conv2d(F.pad(x, (before, 1, before, 1)), p["kernel"].permute(3, 2, 0, 1), p["bias"], stride)


def conv_transpose(p, x, stride):
    kernel = p["kernel"].permute(2, 3, 0, 1)
    if kernel.shape[-1] == 4 or stride == 1:
        return F.conv_transpose2d(x, kernel, p.get("bias"), stride, padding=1)
    return F.conv_transpose2d(x, kernel, p["bias"], stride)[:, :, :-1, :-1]


def flat(x):
    return x.permute(0, 2, 3, 1).flatten(1)


def unflat(x, rows, columns):
    return x.reshape(len(x), rows, columns, -1).permute(0, 3, 1, 2)


def encoder(p, x):
    return flat(conv(p["conv2"], conv(p["conv1"], x, 2).relu(), 2).relu())


def decoder(p, z, rows, columns):
    x = unflat(dense(p["dense"], z).relu(), rows, columns)
    x = conv_transpose(p["deconv2"], conv_transpose(p["deconv1"], x, 2).relu(), 2).relu()
    return conv_transpose(p["pixels"], x, 1)


def posterior(p, x):
    x = dense(p["hidden"], encoder(p["encoder"], x)).relu()
    return torch.distributions.Normal(dense(p["mean"], x), (dense(p["log_var"], x) / 2).exp())


def batch_norm(p, stats, x, train):
    return F.batch_norm(x, stats["mean"], stats["var"], p["scale"], p["bias"], train, momentum=0.1, eps=1e-5)


def generator(p, stats, z, rows, columns, train=False):
    x = unflat(dense(p["dense"], z), rows, columns)
    x = F.leaky_relu(batch_norm(p["norm0"], stats["norm0"], x, train), SLOPE)
    for i in (1, 2):
        x = conv_transpose(p[f"deconv{i}"], x, 2)
        x = F.leaky_relu(batch_norm(p[f"norm{i}"], stats[f"norm{i}"], x, train), SLOPE)
    return conv(p["pixels"], x, 1).tanh()


def discriminator(p, x):
    for i in (1, 2):
        x = F.leaky_relu(conv(p[f"conv{i}"], x, 2), SLOPE)
    return dense(p["head"], flat(x))


# ---- autoencoders ----


def test_dense_autoencoder():
    model, x = zoo.create_model("autoencoder"), uniform(3, 28, 28, 1)
    variables = random_variables(model, x)
    p = parameters(variables["params"])
    z = torch.from_numpy(x).flatten(1)
    for name in ("encoder_0", "encoder_1"):
        z = dense(p[name], z).relu()
    z = dense(p["code"], z)
    assert_close(model.apply(variables, x, method="encode"), z)
    for name in ("decoder_0", "decoder_1"):
        z = dense(p[name], z).relu()
    assert_close(model.apply(variables, x), dense(p["pixels"], z).reshape(x.shape))


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_conv_autoencoder_learns_by_the_same_gradient(loss):
    model, x = zoo.create_model("conv_autoencoder", **SMALL["conv_autoencoder"]), uniform(5, 8, 4, 1)
    params = random_variables(model, x)["params"]
    p = parameters(params)
    logits = decoder(p["decoder"], dense(p["code"], encoder(p["encoder"], images(x))), 2, 1)
    wanted = {
        "mse": F.mse_loss(logits.sigmoid(), images(x)),
        "bce": F.binary_cross_entropy_with_logits(logits, images(x)),
    }
    wanted[loss].backward()
    task = reconstruction(model, optax.sgd(1.0), loss=loss)
    batch = {"image": x}
    state = task.init(KEY, batch).replace(params=params)
    after, metrics = jax.jit(task.train_step)(state, batch)
    assert_close(metrics["loss"].total / 5, wanted[loss])
    assert_close(metrics["mse"].total / 5, wanted["mse"])
    assert_close(jax.tree.map(np.subtract, params, after.params), gradients(p), 1e-4)


# ---- the VAE ----


def test_kl_and_likelihood():
    mean, log_var = normal(6, 4), 2 * normal(6, 4, seed=1)
    q = torch.distributions.Normal(torch.from_numpy(mean), torch.from_numpy(log_var).div(2).exp())
    wanted = torch.distributions.kl_divergence(q, torch.distributions.Normal(0, 1)).sum(1)
    assert_close(kl_to_standard_normal(jnp.asarray(mean), jnp.asarray(log_var)), wanted)
    logits, pixels = 3 * normal(6, 5, 4, 1), uniform(6, 5, 4, 1).round()
    p = torch.distributions.Bernoulli(logits=torch.from_numpy(logits))
    assert_close(bernoulli_nll(logits, pixels), -p.log_prob(torch.from_numpy(pixels)).sum((1, 2, 3)))


def test_vae_of_the_guide():
    model, x = zoo.create_model("vae"), uniform(3, 28, 28, 1)
    variables = random_variables(model, x)
    p = parameters(variables["params"])
    q = posterior(p, images(x))
    output = jax.jit(model.apply)(variables, x)
    assert_close(output.mean, q.mean)
    assert_close(np.exp(output.log_var / 2), q.stddev)
    np.testing.assert_array_equal(output.latent, output.mean)
    assert_close(output.logits, channels_last(decoder(p["decoder"], q.mean, 7, 7)))


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_elbo_and_its_reparameterised_gradient(beta):
    """The noise is recovered from the z that our model drew."""
    model, x = zoo.create_model("vae", **SMALL["vae"]), uniform(5, 8, 4, 1)
    task, batch = vae(model, optax.sgd(1.0), beta=beta), {"image": x}
    state = task.init(KEY, batch).replace(params=random_variables(model, x)["params"])
    key = jax.random.fold_in(steps.step_key(state), steps._LATENT)
    output = model.apply(state.variables, x, train=True, rngs={"latent": key})
    noise = torch.tensor(np.array((output.latent - output.mean) / jnp.exp(output.log_var / 2)))
    assert noise.abs().max() > 0.5

    p = parameters(state.params)
    q = posterior(p, images(x))
    logits = decoder(p["decoder"], q.mean + q.stddev * noise, 2, 1)
    reconstruction = F.binary_cross_entropy_with_logits(logits, images(x), reduction="sum") / 5
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0, 1)).sum() / 5
    loss = reconstruction + beta * kl
    loss.backward()

    after, metrics = jax.jit(task.train_step)(state, batch)
    wanted = {"loss": loss, "elbo": -reconstruction - kl, "kl": kl, "reconstruction": reconstruction}
    assert_close({name: metric.total / 5 for name, metric in metrics.items()}, wanted)
    assert_close(jax.tree.map(np.subtract, state.params, after.params), gradients(p), 1e-4)


# ---- the GAN ----


def test_gan_of_the_guide():
    model, z = zoo.create_model("gan"), normal(3, 100)
    variables = random_variables(model, z)
    p, stats = parameters(variables["params"]), statistics(variables)
    wanted = generator(p["generator"], stats, torch.from_numpy(z), 7, 7)
    generated = jax.jit(functools.partial(model.apply, method="generate"))(variables, z)
    assert_close(generated, channels_last(wanted))
    assert generated.shape == (3, 28, 28, 1)
    assert_close(jax.jit(model.apply)(variables, z), discriminator(p["discriminator"], wanted))


def torch_losses(loss, logits, fake, labels):
    """Of the discriminator and of the generator, for logits `[batch, 2]` of real and of generated images."""
    if loss == "non_saturating":
        return (
            lambda: F.binary_cross_entropy_with_logits(logits(), labels),
            lambda: F.binary_cross_entropy_with_logits(fake(), torch.ones(len(labels))),
        )
    if loss == "hinge":
        return (lambda: (1 - logits()[:, 0]).relu().mean() + (1 + logits()[:, 1]).relu().mean()), lambda: -fake().mean()
    return (lambda: (logits()[:, 1] - logits()[:, 0]).mean()), lambda: -fake().mean()


@pytest.mark.parametrize("loss", ["non_saturating", "hinge", "wgan_gp"])
def test_one_step_moves_both_players(loss):
    """Gradient descent, the discriminator first: parameters, statistics and losses."""
    rate, batch_size = 0.1, 6
    model, batch = zoo.create_model("gan", **SMALL["gan"]), {"image": uniform(batch_size, 8, 4, 1)}
    task = gan(model, optax.sgd(rate), loss=loss, gradient_penalty=5.0)
    variables = random_variables(model, normal(1, 5))
    state = task.init(KEY, batch)
    state = state.replace(params=variables["params"], model_state={"batch_stats": variables["batch_stats"]})
    latent_key, label_key, penalty_key, *_ = jax.random.split(steps.step_key(state), 5)

    def drawn(sample, key, *shape):
        return torch.tensor(np.array(sample(key, shape)))

    z = drawn(jax.random.normal, latent_key, batch_size, 5)
    labels = torch.tensor([[1.0, 0.0]]) - 0.05 * drawn(jax.random.uniform, label_key, batch_size, 2)
    share = drawn(jax.random.uniform, jax.random.split(penalty_key)[0], batch_size, 1, 1, 1)

    p = parameters(variables["params"])
    stats = statistics(variables)
    real = 2 * images(batch["image"]) - 1
    generated = generator(p["generator"], stats, z, 2, 1, train=True)
    fixed = generated.detach()

    def judge(x):
        return discriminator(p["discriminator"], x)

    of_discriminator, of_generator = torch_losses(
        loss, lambda: torch.cat([judge(real), judge(fixed)], 1), lambda: judge(generated)[:, 0], labels
    )
    lost = of_discriminator()
    if loss == "wgan_gp":
        between = (share * real + (1 - share) * fixed).requires_grad_()
        (slope,) = torch.autograd.grad(judge(between).sum(), between, create_graph=True)
        lost = lost + 5 * (slope.flatten(1).norm(dim=1) - 1).square().mean()
    lost.backward()
    with torch.no_grad():
        for leaf in jax.tree.leaves(p["discriminator"]):
            leaf -= rate * leaf.grad
    lost_by_generator = of_generator()
    lost_by_generator.backward()
    with torch.no_grad():
        for leaf in jax.tree.leaves(p["generator"]):
            leaf -= rate * leaf.grad

    after, metrics = jax.jit(task.train_step)(state, batch)
    assert_close(metrics["discriminator_loss"].total / batch_size, lost)
    assert_close(metrics["generator_loss"].total / batch_size, lost_by_generator)
    assert_close(metrics["loss"].total / batch_size, lost + lost_by_generator)
    assert_close(after.params, p)
    for player, name in (("generator", "dense"), ("discriminator", "conv1")):
        assert np.abs(after.params[player][name]["kernel"] - variables["params"][player][name]["kernel"]).max() > 1e-3
    ours = after.model_state["batch_stats"]["generator"]
    for name in stats:
        assert_close(ours[name]["mean"], stats[name]["mean"])
        count = batch_size * {"norm0": 2, "norm1": 8, "norm2": 32}[name]  # PyTorch keeps the unbiased variance
        kept = 0.9 * variables["batch_stats"]["generator"][name]["var"]
        assert_close(ours[name]["var"], kept + (stats[name]["var"].numpy() - kept) * (count - 1) / count)


# ---- diffusion ----


def group_norm(p, x, groups=2):
    return F.group_norm(x, groups, p["scale"], p["bias"], eps=1e-5)


def pointwise(p, x):
    return F.conv2d(x, p["kernel"].permute(3, 2, 0, 1), p["bias"])


def residual_block(p, x, time):
    y = conv(p["conv1"], F.silu(group_norm(p["norm1"], x)), 1)
    y = y + dense(p["time"], F.silu(time))[:, :, None, None]
    y = conv(p["conv2"], F.silu(group_norm(p["norm2"], y)), 1)
    return y + (pointwise(p["shortcut"], x) if "shortcut" in p else x)


def attention(p, x):
    batch, features, rows, columns = x.shape
    y = group_norm(p["norm_attention"], x).flatten(2).transpose(1, 2)
    query, key, value = (dense(p["attention"][name], y) for name in ("query", "key", "value"))
    y = dense(p["attention"]["out"], F.scaled_dot_product_attention(query, key, value))
    return x + y.transpose(1, 2).reshape(batch, features, rows, columns)


def embedding(p, time, features):
    """As in the PyTorch version of Ho's code."""
    half = features // 2
    angle = time.float()[:, None] * torch.exp(torch.arange(half) * -(np.log(10000) / (half - 1)))[None]
    t = torch.cat([angle.sin(), angle.cos()], dim=1)
    return dense(p["time2"], F.silu(dense(p["time1"], t)))


def test_unet_and_the_gradient_of_the_simple_loss():
    """Two levels; the step's noise and times are read from the batch that the task prepares."""
    model, x = zoo.create_model("ddpm_unet", features=(4, 6), num_groups=2), uniform(3, 4, 8, 1)
    task, batch = diffusion(model, optax.sgd(1.0), num_steps=50), {"image": x}
    state = task.init(KEY, batch).replace(params=random_variables(model, x)["params"])
    key = jax.random.fold_in(steps.step_key(state), steps._PREPARE)
    time_key, noise_key = jax.random.split(key)
    time = (int(jax.random.randint(time_key, (), 0, 50)) + np.array([0, 16, 33])) % 50
    noise = np.array(jax.random.normal(noise_key, x.shape))
    signal = torch.tensor(np.cumprod(1 - np.linspace(1e-4, 0.02, 50) * 20)[time], dtype=torch.float32)
    signal = signal.reshape(-1, 1, 1, 1)
    noisy = signal.sqrt() * (2 * images(x) - 1) + (1 - signal).sqrt() * images(noise)

    p = parameters(state.params)
    t = embedding(p, torch.tensor(time), 4)
    h1 = residual_block(p["down1_block1"], conv(p["conv_in"], noisy, 1), t)
    h2 = residual_block(p["down2_block1"], F.avg_pool2d(h1, 2), t)
    h = residual_block(p["middle_block2"], attention(p, residual_block(p["middle_block1"], h2, t)), t)
    h = residual_block(p["up2_block1"], torch.cat([h, h2], 1), t)
    h = F.interpolate(h, scale_factor=2, mode="nearest")
    h = residual_block(p["up1_block1"], torch.cat([h, h1], 1), t)
    predicted = conv(p["conv_out"], F.silu(group_norm(p["norm_out"], h)), 1)
    loss = F.mse_loss(predicted, images(noise))
    loss.backward()

    after, metrics = jax.jit(task.train_step)(state, batch)
    assert_close(metrics["loss"].total / 3, loss)
    assert_close(model.apply(state.variables, channels_last(noisy), time), channels_last(predicted), 1e-4)
    assert_close(jax.tree.map(np.subtract, state.params, after.params), gradients(p), 1e-3)
