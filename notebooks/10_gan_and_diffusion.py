# %% [markdown]
# # GAN and diffusion
#
# Two ways to make images out of noise: chapter 10 of *Deep Learning & Neural Networks: a comprehensive guide*, and what
# came after it. Numbers in parentheses are the guide's equations. A GAN lets two networks compete; a diffusion model
# learns to take noise away, a little at a time. Both draw digits of 8×8 pixels here. It takes about a minute on a CPU.

# %%
try:
    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . flaxzoo
    import zoo

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import data
from train import loop
from train.fidelity import frechet_distance
from train.schedules import schedule
from train.tasks import classification, diffusion, gan

LARGE = jax.default_backend() != "cpu"  # on an accelerator we train longer
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## A judge
#
# How good is a drawn image? We ask a network that reads digits. It says how sure it is of what it sees, and which digit
# it is; and its last hidden layer gives each image 64 numbers. Where these numbers are distributed as those of real
# images, the drawn images are as sharp and as different from each other as real ones. The distance between the two
# distributions is called the Fréchet distance. (The "FID" of the literature takes another network.)

# %%
digits = data.load("digits", validation=0.1)
judge = zoo.create_model("mlp", dropout_rate=0.2)
task = classification(judge, optax.adam(2e-3))
verdict = loop.fit(task, digits, batch_size=32, epochs=40).state
accuracy = loop.evaluate(task, digits, verdict, split="test")["accuracy"]
print(f"the judge reads {accuracy:.1%} of the test images")
assert accuracy > 0.93

features = jax.jit(judge.clone(num_classes=0).apply)
real, others = (digits.preprocess(digits.splits[split][np.arange(360)])["image"] for split in ("test", "train"))


def judged(images):
    """How sure the judge is, how many digits there are, and the distance to real images."""
    probabilities = jax.nn.softmax(judge.apply(verdict.variables, images))
    kinds = np.bincount(probabilities.argmax(axis=-1), minlength=10)
    distance = frechet_distance(*(np.asarray(features(verdict.variables, each)) for each in (images, real)))
    return {"sure": float(probabilities.max(axis=-1).mean()), "digits": int((kinds >= 4).sum()), "distance": distance}


def show(images, rows=2, title=""):
    """A grid of images in [0, 1]."""
    tiles = np.asarray(images).reshape(rows, -1, 8, 8)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (1, 1), (1, 1))).transpose(0, 2, 1, 3).reshape(rows * 10, -1)
    _, axes = plt.subplots(figsize=(12, 12 * tiles.shape[0] / tiles.shape[1] + 0.4 * bool(title)))
    axes.imshow(tiles, cmap="gray_r", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    plt.show()


show(real[:32], title="real images")

# %% [markdown]
# ## A game of two (section 10.1)
#
# The generator makes an image of noise. The discriminator sees real and generated images and says which is which. Each
# is the other's teacher: $\min_G \max_D\; \mathbb{E}[\log D(\mathbf{x})] + \mathbb{E}[\log(1 - D(G(\mathbf{z})))]$
# (72). At the start the discriminator wins easily, and then $\log(1 - D)$ has hardly a slope. So in practice the
# generator makes $\log D(G(\mathbf{z}))$ large, which has the same aim.
#
# The task `gan` moves both in each step. We keep what the generator makes of the same noise at each evaluation.

# %%
model = zoo.create_model(
    "gan",
    image_shape=(8, 8, 1),
    latent_size=32,
    generator_features=(64, 64, 32),
    discriminator_features=(32, 64, 128),
    dropout_rate=0.0,
)
paint = jax.jit(lambda variables, z: (model.apply(variables, z, method="generate") + 1) / 2)
noise = jax.random.normal(jax.random.key(1), (360, model.latent_size))
progress = []


def watch(state, history):
    """Called after each evaluation; the state goes on as it is."""
    progress.append((int(state.step), judged(paint(state.variables, noise)), paint(state.variables, noise[:16])))
    return state


steps = 6000 if LARGE else 1200
task = gan(model, optax.adam(1e-3, b1=0.5), ema_decay=0.99)
fitted = loop.fit(task, digits, batch_size=32, steps=steps, evaluate_every=steps // 6, adapt=watch)
by_gan = paint(fitted.state.variables, noise)

show(
    np.concatenate([images for _, _, images in progress]),
    rows=6,
    title="the same noise, from the first steps (top) to the last",
)

# %%
figure, panels = plt.subplots(1, 2, figsize=(11, 3.2))
history = fitted.history
for name, color in (("discriminator_loss", "C0"), ("generator_loss", "C1")):
    panels[0].plot([row["step"] for row in history], [row[name] for row in history], "o-", color=color, label=name)
panels[1].plot([step for step, _, _ in progress], [found["distance"] for _, found, _ in progress], "o-", color="C4")
panels[0].set(xlabel="step", ylabel="loss", ylim=(0, None))
panels[1].set(xlabel="step", ylabel="Fréchet distance", ylim=(0, None))
panels[0].legend()
plt.show()

# %% [markdown]
# The losses on the left say who is ahead in the game. They do not say how good the images are: each loss is measured by
# an opponent that learns too. For that one needs a judge from outside, on the right.
#
# ## Diffusion
#
# The other way is slower and calmer (Ho, Jain & Abbeel 2020). Mix an image with noise, a little more at each of 1000
# times: $\mathbf{x}_t = \sqrt{\bar\alpha_t}\,\mathbf{x}_0 + \sqrt{1 - \bar\alpha_t}\,\boldsymbol\epsilon$. At the last
# time nothing but noise is left.

# %%
shares = zoo.diffusion.cosine_schedule(1000)  # ᾱ: how much of the image's variance is left at each time
moments = np.array([0, 100, 200, 300, 400, 500, 600, 700, 800, 999])
image = 2 * np.repeat(real[3:5], 10, axis=0) - 1
dust = jax.random.normal(jax.random.key(2), image.shape)
show((zoo.diffusion.add_noise(shares, image, np.tile(moments, 2), dust) + 1) / 2, title="from an image to noise")

# %% [markdown]
# A network sees the mixture and the time, and learns to tell the noise in it. The loss is the squared error (10) of the
# noise. There is no opponent, and the loss says how well it goes: 1 is a network that knows nothing.

# %%
unet = zoo.create_model("ddpm_unet", features=(16, 32))
steps = 6000 if LARGE else 600
task = diffusion(unet, optax.adam(schedule("cosine", 4e-3, steps)), schedule="cosine", ema_decay=0.99)
fitted = loop.fit(task, digits, batch_size=64, steps=steps, evaluate_every=50)
figure, axes = plt.subplots(figsize=(6.5, 3))
axes.plot(
    [row["step"] for row in fitted.history], [row["loss"] for row in fitted.history], color="C0", label="training"
)
axes.set(xlabel="step", ylabel="squared error of the noise", ylim=(0, None))
plt.show()
assert fitted.history[-1]["loss"] < 0.4

# %% [markdown]
# To draw, begin with noise and go back: tell the noise, take a part of it away, add a little fresh noise, and so on. We
# visit 50 of the 1000 times. A row is one image on its way.


# %%
@jax.jit
def back(image, time, before, key):
    """One step from a time to a time before it."""
    told = unet.apply(fitted.state.variables, image, time)
    fresh = jax.random.normal(key, image.shape)
    return zoo.diffusion.remove_noise(shares, image, told, time, before, eta=1.0, noise=fresh)


image = jax.random.normal(jax.random.key(3), (360, 8, 8, 1))
times = np.linspace(999, 0, 50).round().astype(np.int32)
way = [image[:4]]
for number, (time, before) in enumerate(zip(times, [*times[1:], np.int32(-1)], strict=True)):
    image = back(image, time, before, jax.random.fold_in(jax.random.key(4), number))
    way.append(image[:4])
by_diffusion = np.clip((image + 1) / 2, 0, 1)
stages = jnp.stack([way[stage] for stage in (0, 10, 20, 25, 30, 35, 40, 44, 47, 50)], axis=1)
show((stages.reshape(-1, 8, 8, 1) + 1) / 2, rows=4, title="from noise to an image")

# %% [markdown]
# `zoo.diffusion.generate` is this loop. Now the judge compares. The last row is of real training images beside real
# test images: nobody can be better. Look at the row of noise: the judge is sure of what it sees there too. A network
# has no word for "that is no digit". So the distance counts, not how sure it is.

# %%
show(by_gan[:32], title="GAN")
show(by_diffusion[:32], title="diffusion")
table = {
    "noise": judged(jax.random.uniform(jax.random.key(5), real.shape)),
    "GAN": judged(by_gan),
    "diffusion": judged(by_diffusion),
    "real": judged(others),
}
for name, found in table.items():
    print(f"{name:10} sure {found['sure']:.0%}, {found['digits']:2} of 10 digits, distance {found['distance']:6.2f}")
for name in ("GAN", "diffusion"):
    assert table[name]["distance"] < 0.3 * table["noise"]["distance"]
    assert table[name]["digits"] >= 8

# %% [markdown]
# ## Exercise
#
# Draw with 5 and with 200 steps instead of 50, and with `eta=0.0`, which adds no fresh noise. What do you pay for
# speed? Then let the discriminator choose: `zoo.gan.resample(model, variables, noise, key)` gives latents that it
# prefers.
#
# ## Where next
#
# `zoo train gan_mnist` and `zoo train diffusion_mnist` draw MNIST's digits. `zoo sample RUN` draws with any of them,
# and `zoo evaluate RUN --classifier OTHER` is the judge of this notebook. [Notebook 11](11_transfer_learning.ipynb)
# takes what one network knows to another task.
