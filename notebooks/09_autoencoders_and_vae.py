# %% [markdown]
# # Autoencoders and VAE
#
# A network that squeezes an image into two numbers and paints it again: chapter 9 of *Deep Learning & Neural Networks:
# a comprehensive guide*. Numbers in parentheses are the guide's equations. First an ordinary autoencoder, then a
# variational one, whose two numbers make a map: walk over it, and digits turn into one another. It takes about half a
# minute on a CPU.

# %%
try:
    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . flaxzoo
    import zoo

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.stats import norm
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

import data
from train import loop
from train.schedules import schedule
from train.tasks import reconstruction, vae

LARGE = jax.default_backend() != "cpu"  # on an accelerator we train longer
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## An autoencoder (section 9.1)
#
# An encoder makes a short code of an image, $\mathbf{z} = f_\text{enc}(\mathbf{x})$ (65). A decoder paints the image
# again, $\hat{\mathbf{x}} = f_\text{dec}(\mathbf{z})$ (66). Both are trained together, to make the squared difference
# between image and painting small (67). Nothing else tells the network what a digit is. The code is the narrow place
# through which all must pass: here it has two numbers, for 64 pixels.
#
# The classical way to do this is principal component analysis: it is the best that *linear* encoders and decoders can
# do. So it is the one to beat.

# %%
digits = data.load("digits", validation=0.1)
train_images, test_images = (
    digits.preprocess(digits.splits[split][np.arange(len(digits.splits[split]))])["image"]
    for split in ("train", "test")
)
train_labels, labels = (
    digits.splits[split][np.arange(len(digits.splits[split]))]["label"] for split in ("train", "test")
)

coder = zoo.create_model("autoencoder", image_shape=(8, 8, 1), hidden_sizes=(128, 64), latent_size=2)
epochs = 300 if LARGE else 120
steps = epochs * data.steps_per_epoch(len(digits.splits["train"]), 64)
task = reconstruction(coder, optax.adam(schedule("cosine", 4e-3, steps)))
squeezed = loop.fit(task, digits, batch_size=64, steps=steps).state

painted = jax.nn.sigmoid(coder.apply(squeezed.variables, test_images))
components = PCA(2).fit(train_images.reshape(-1, 64))
by_pca = components.inverse_transform(components.transform(test_images.reshape(-1, 64))).reshape(test_images.shape)
error, error_of_pca = (float(np.mean((test_images - each) ** 2)) for each in (painted, by_pca))
print(f"mean squared error on the test images: autoencoder {error:.4f}, principal components {error_of_pca:.4f}")
assert error < 0.9 * error_of_pca

# %%
figure, panels = plt.subplots(3, 10, figsize=(11, 3.5))
for row, (name, images) in enumerate(
    {"image": test_images, "autoencoder": painted, "2 principal\ncomponents": by_pca}.items()
):
    for digit, axes in enumerate(panels[row]):
        axes.imshow(images[np.flatnonzero(labels == digit)[0], ..., 0], cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color="C6")
        axes.grid(False)
    panels[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()

# %% [markdown]
# ## Its codes have holes
#
# Take two numbers at random: what does the decoder paint? The codes lie where the training happened to put them. Some
# digits are far out, others are crowded, and in between nobody has asked for anything. To *make* digits we need to know
# where codes lie.
#
# ## A variational autoencoder (section 9.2)
#
# The encoder of a VAE does not give one code, but a cloud of them: a mean (68) and a variance (69). A code is drawn
# from the cloud, $\mathbf{z} = \boldsymbol\mu + \boldsymbol\sigma \odot \boldsymbol\epsilon$ (70). The noise comes from
# outside, so that gradients flow through $\boldsymbol\mu$ and $\boldsymbol\sigma$. The loss has two parts (71): how
# badly the image is painted, and how far its cloud is from the standard normal distribution. The first pulls the clouds
# apart, the second pulls them together, until they fill the land without holes. Then any standard normal code is a good
# one. The task `vae` counts both in nats for an image.

# %%
model = zoo.create_model("vae", image_shape=(8, 8, 1), features=(16, 32), hidden_size=64, latent_size=2)
epochs = 200 if LARGE else 50
steps = epochs * data.steps_per_epoch(len(digits.splits["train"]), 64)
fitted = loop.fit(vae(model, optax.adam(schedule("cosine", 5e-3, steps))), digits, batch_size=64, steps=steps)


def column(history, name):
    """One metric over the epochs."""
    return [row[name] for row in history]


figure, axes = plt.subplots(figsize=(7, 3.2))
for name, color in (("reconstruction", "C0"), ("kl", "C1")):
    axes.plot(column(fitted.history, "epoch"), column(fitted.history, name), color=color, label=name)
axes.set(xlabel="epoch", ylabel="nats for an image", ylim=(0, 40))
axes.legend()
plt.show()

first, last = fitted.history[0], fitted.history[-1]
print(f"bound on the log likelihood of validation images: {last['validation_elbo']:.1f} nats")
assert last["validation_elbo"] > first["validation_elbo"] + 3
assert last["kl"] > 1  # the codes carry something

# %% [markdown]
# ## Two maps
#
# For the first epochs the second part of the loss is 0: the decoder does without the code, and paints the mean image.
# Then the code is found to be of use, and both parts move.
#
# Each point is a test image; its colour is its digit, which neither network has ever been told. On the left are the
# codes of the autoencoder: look at the numbers at the axes. On the right are the means of the VAE's clouds, near zero
# and close together.

# %%
codes = coder.apply(squeezed.variables, test_images, method="encode")
means, log_var = model.apply(fitted.state.variables, test_images, method="encode")

figure, panels = plt.subplots(1, 2, figsize=(11, 4.6))
for axes, points, title in zip(panels, (codes, means), ("autoencoder", "VAE"), strict=True):
    dots = axes.scatter(*points.T, c=labels, cmap="tab10", s=14, vmin=-0.5, vmax=9.5)
    axes.set(title=title, xlabel="first number", ylabel="second number")
figure.colorbar(dots, ax=panels, ticks=range(10), label="digit")
plt.show()

# %% [markdown]
# ## The land in between
#
# We walk over the VAE's map in even steps of probability and paint what stands there. Each digit has a region, and at
# the borders one turns into the other.

# %%
side = 15
quantiles = norm.ppf(np.linspace(0.02, 0.98, side))
grid = np.stack(np.meshgrid(quantiles, quantiles[::-1]), axis=-1).reshape(-1, 2).astype(np.float32)
paint = jax.jit(lambda z: jax.nn.sigmoid(model.apply(fitted.state.variables, z, method="decode")))
tiles = np.pad(paint(grid).reshape(side, side, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
land = tiles.transpose(0, 2, 1, 3).reshape(10 * side, 10 * side)

figure, axes = plt.subplots(figsize=(6.5, 6.5))
axes.imshow(land, cmap="gray_r")
axes.set(xticks=[], yticks=[])
axes.grid(False)
plt.show()

# %% [markdown]
# ## Drawing at random
#
# The same standard normal numbers go into both decoders. They meet the whole of the VAE's map, but only a small place
# in the middle of the autoencoder's, so that it paints few kinds of digits. Which ones they are, the nearest training
# image tells.

# %%
noise = jax.random.normal(jax.random.key(7), (500, 2))
blind = jax.nn.sigmoid(coder.apply(squeezed.variables, noise, method="decode"))
nearest = KNeighborsClassifier(1).fit(train_images.reshape(-1, 64), train_labels)
for name, images in {"autoencoder": blind, "VAE": paint(noise)}.items():
    kinds = np.bincount(nearest.predict(np.asarray(images).reshape(-1, 64)), minlength=10)
    print(f"{name:11} how many of 500 images are 0, 1 … 9:", *kinds)
places = {"autoencoder": codes, "VAE": means}
inside = {name: np.mean(np.linalg.norm(points, axis=1) < 2.5) for name, points in places.items()}
print({name: f"{share:.0%} of the test images lie where normal numbers fall" for name, share in inside.items()})
assert inside["VAE"] > inside["autoencoder"] + 0.3

figure, panels = plt.subplots(2, 12, figsize=(12, 2.3))
for row, (name, images) in enumerate({"autoencoder": blind, "VAE": paint(noise)}.items()):
    for axes, image in zip(panels[row], images, strict=False):
        axes.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color="C6")
        axes.grid(False)
    panels[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()

# %% [markdown]
# ## Exercise
#
# Give `vae` the option `beta=8`: the second part of the loss weighs eight times as much. What becomes of the map, and
# of the digits? Then try `beta=0.1`. Which numbers of the history tell you what happened?
#
# ## Where next
#
# `zoo train vae_mnist` trains a VAE of 32 numbers on MNIST, and `zoo sample RUN --kind manifold` draws such a map of
# it. The paintings here are soft, for a mean over many possible strokes is soft. [Notebook
# 10](10_gan_and_diffusion.ipynb) has two cures: networks that compete, and diffusion.
