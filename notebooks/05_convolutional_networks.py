# %% [markdown]
# # Convolutional networks, and what their filters see
#
# A convolution lays a small filter on each place of a picture and sums up products: $(\mathbf{I} * \mathbf{K})(i, j) =
# \sum_m\sum_n \mathbf{I}(i+m, j+n)\,\mathbf{K}(m, n)$ (33). The same few weights look everywhere. So a filter finds its
# pattern wherever it is, and a layer has few parameters. Pooling, (35) and (36), then makes the picture smaller. A
# convolutional network repeats the two, and ends with dense layers (37). Sections 5.1 to 5.3 of the guide.

# %%
try:
    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . flaxzoo
    import zoo

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import data
from train.loop import evaluate, fit
from train.tasks import classification
from zoo.convolution import avg_pool, conv, max_pool
from zoo.observe import observe

LARGE = jax.default_backend() != "cpu"  # on a GPU or a TPU: ten times as many steps
REAL = LARGE or "ZOO_DATA_DIR" in os.environ  # MNIST lies there, or is downloaded; else the digits of scikit-learn do
plt.style.use("train.measure.pictures")


def show(panels, images, titles=(), **options):
    """Draws an image into each panel."""
    for axes, image in zip(np.ravel(panels), images, strict=True):
        axes.imshow(image, **options)
        axes.set_axis_off()
    for axes, title in zip(np.ravel(panels), titles, strict=False):
        axes.set_title(title)


# %% [markdown]
# ## Filters by hand
#
# Four filters, written down in place of learnt. `conv` takes images `[batch, height, width, channels]` and kernels
# `[height, width, inputs, outputs]`. Each output channel is the picture as one filter sees it (purple is positive,
# orange negative). That the function is (33), a loop over $m$ and $n$ confirms.

# %%
digits = data.load("mnist") if REAL else data.load("digits", upsample=4)
test = digits.preprocess(digits.splits["test"][np.arange(200)])
image = jnp.asarray(test["image"][:1])  # [1, height, width, 1]

kernels = {
    "left edges": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "top edges": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    "blurred": [[1, 2, 1], [2, 4, 2], [1, 2, 1]],
    "points": [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]],
}
bank = jnp.moveaxis(jnp.array(list(kernels.values()), jnp.float32), 0, -1)[:, :, None] / 8  # [3, 3, 1, 4]
filtered = conv(image, bank)  # "SAME" padding keeps the size

height, width = image.shape[1:3]
padded = jnp.pad(image[0, :, :, 0], 1)
by_hand = sum(padded[m : m + height, n : n + width] * bank[m, n, 0, 0] for m in range(3) for n in range(3))
np.testing.assert_allclose(filtered[0, :, :, 0], by_hand, atol=1e-5)

figure, panels = plt.subplots(1, 5, figsize=(10, 2.2))
show(panels[:1], image[..., 0], ["picture"])
show(panels[1:], jnp.moveaxis(filtered[0], -1, 0), kernels, cmap="PuOr", vmin=-1, vmax=1)
plt.show()

# %% [markdown]
# How large the output is follows from input $n$, filter $f$, padding $p$ and stride $s$: $\lfloor (n + 2p - f) / s
# \rfloor + 1$ (34). Pooling keeps the largest value of each window (35), or the mean (36): a quarter of the numbers,
# and the digit is still there.

# %%
for n, f, p, s in [(28, 3, 1, 1), (28, 5, 0, 1), (224, 7, 3, 2), (227, 11, 0, 4)]:
    shape = jax.eval_shape(
        lambda x, k, s=s, p=p: conv(x, k, strides=(s, s), padding=p), jnp.zeros((1, n, n, 1)), jnp.zeros((f, f, 1, 8))
    ).shape
    assert shape[1] == (n + 2 * p - f) // s + 1
    print(f"n = {n:3}, f = {f:2}, p = {p}, s = {s}: {shape[1]:3} × {shape[2]}")

edges = jnp.abs(filtered[..., :1])
figure, panels = plt.subplots(1, 4, figsize=(9, 2.4))
show(
    panels,
    [edges[0, ..., 0], max_pool(edges)[0, ..., 0], avg_pool(edges)[0, ..., 0], max_pool(edges, (4, 4))[0, ..., 0]],
    ["left and right edges", "max, 2 × 2 (35)", "mean, 2 × 2 (36)", "max, 4 × 4"],
)
plt.show()

# %% [markdown]
# ## Filters that are learnt
#
# `cnn` is the guide's network (section 5.3.1): three times convolution, ReLU, batch norm and max-pooling, then two
# dense layers. The recipe `cnn_mnist` trains it for ten epochs to 99.3 %. A few hundred steps are enough to look
# inside.

# %%
model = zoo.create_model("cnn")
task = classification(model, optax.adam(1e-3))
fitted = fit(task, digits, batch_size=128, steps=1000 if LARGE else 100, validation=None)
accuracy = evaluate(task, digits, fitted.state)["accuracy"]
print(f"{accuracy:.1%} of the {len(digits.splits['test'])} test pictures are read right")
assert accuracy > 0.95

variables = fitted.state.variables
filters = np.asarray(variables["params"]["Conv_0"]["kernel"])[:, :, 0]  # [3, 3, 32]
most = np.abs(filters).max()
figure, panels = plt.subplots(2, 16, figsize=(10, 1.6))
show(panels, np.moveaxis(filters, -1, 0), cmap="PuOr", vmin=-most, vmax=most)
figure.suptitle("the 32 filters of the first layer", fontsize="medium")
plt.show()

# %% [markdown]
# ## What they see
#
# The model hands out what is behind each block, if it is asked for. The first block finds edges of one direction each.
# Further in, pictures are coarser, and what makes a channel answer is larger and stranger.

# %%
_, seen = model.apply(variables, image, mutable=["intermediates"])
figure, grid = plt.subplots(3, 13, figsize=(11, 2.9))
for row, block in zip(grid, ("block1", "block2", "block3"), strict=True):
    maps = np.asarray(seen["intermediates"][block][0])  # [height, width, channels]
    strongest = maps.std(axis=(0, 1)).argsort()[::-1][:12]
    show(row[:1], image[..., 0], [f"{maps.shape[0]} × {maps.shape[1]}"])
    show(row[1:], np.moveaxis(maps[..., strongest], -1, 0), cmap="viridis")
plt.show()

# %% [markdown]
# ## Where it looks
#
# Three questions to a trained network, about the score $z_c$ of the class that it reads:
#
# - **Gradient.** Which pixels would change $z_c$ most? That is $|\partial z_c / \partial x|$ (Simonyan et al. 2014).
# - **Grad-CAM.** Which places of the last feature maps $A_k$ count for $z_c$? Weigh the maps by the mean of their
#   gradients: $\max(0, \sum_k \overline{\partial z_c / \partial A_k}\,A_k)$ (Selvaraju et al. 2017). `observe` gives
#   what a layer computed, and the gradient that came back to it, of any function that calls models.
# - **Cover.** How much does $z_c$ fall when a grey square hides a part of the picture? This asks for no gradient: it is
#   slow, and hard to fool.
#
# The gradient is noisy: single pixels matter little. The other two agree on some digits and not on others, for each
# answers a question of its own. Whoever shows one of them as the reason of a decision should say which question it was.

# %%
chosen = np.array([np.flatnonzero(test["label"] == label)[0] for label in (2, 4, 5, 7, 8, 9)])
images = jnp.asarray(test["image"][chosen])
read = model.apply(variables, images).argmax(axis=-1)


def score(params, images):
    """The sum over pictures of the logit of what was read: each picture changes its own term only."""
    logits = model.apply({**variables, "params": params}, images)
    return jnp.take_along_axis(logits, read[:, None], axis=-1).sum()


@jax.jit
def saliency(images):
    return jnp.abs(jax.grad(score, argnums=1)(variables["params"], images))[..., 0]


@jax.jit
def grad_cam(images):
    _, seen = observe(jax.grad(score))(variables["params"], images)
    last = next(call for call in seen.calls if call.path == ("BatchNorm_2",))
    cams = (last.gradient.mean(axis=(1, 2), keepdims=True) * last.output).sum(axis=-1)
    return jax.image.resize(jax.nn.relu(cams), images.shape[:3], "linear")


@jax.jit
def scores(images):
    """The logits of what was read, for pictures `[position, picture, height, width, 1]`."""
    logits = model.apply(variables, images.reshape(-1, height, width, 1)).reshape(*images.shape[:2], -1)
    return jnp.take_along_axis(logits, read[None, :, None], axis=-1)[..., 0]


corners = range(0, height - 7, 3)
covered = np.stack([np.asarray(images)] * len(corners) ** 2)
for position, (top, left) in enumerate((top, left) for top in corners for left in corners):
    covered[position, :, top : top + 8, left : left + 8] = 0.5
lost = jax.nn.relu(scores(images[None]) - scores(covered))  # [position, picture]
lost = lost.T.reshape(-1, len(corners), len(corners))

figure, grid = plt.subplots(4, len(images), figsize=(9, 6.2))
show(grid[0], images[..., 0], [f"read: {label}" for label in read])
show(grid[1], saliency(images), cmap="magma")
for panel, cam, picture in zip(grid[2], grad_cam(images), images[..., 0], strict=True):
    panel.imshow(picture)
    panel.imshow(cam, cmap="magma", alpha=0.65)
    panel.set_axis_off()
show(grid[3], lost, cmap="magma")
for panel, name in zip(grid[:, 0], ("picture", "gradient", "Grad-CAM", "cover"), strict=True):
    panel.text(-0.1, 0.5, name, rotation=90, ha="right", va="center", transform=panel.transAxes)
plt.show()

# %% [markdown]
# ## Exercise
#
# A filter finds its pattern anywhere, but the dense layers behind know places. Shift the test pictures by 1, 2, 4 and 6
# pixels (`jnp.roll`) and draw the accuracy. Then let `fit` shift the training pictures at random: after `from data
# import augment`, with `augment=functools.partial(augment.apply, augment.policy(shift=0.2))`. What changes?
#
# **Where next.** Networks that made history: [06_famous_networks](06_famous_networks.ipynb). All models for images are
# in the [README](../README.md#models).
