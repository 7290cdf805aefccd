# %% [markdown]
# # Regularisation
#
# A network with more weights than examples can know all of them by heart. It then reads the training set without a
# mistake, and new examples worse than it could. Regularisation makes that harder: a penalty on large weights,
# $\mathcal{L} + \frac{\lambda}{2}\sum_l\|\mathbf{W}^{[l]}\|_F^2$ (27); dropout, which switches units off at random
# (28); batch normalisation (29–32), which is there for the sake of speed, and adds noise by the way. Section 4 of the
# guide.

# %%
try:
    import zoo
except ImportError:
    # %pip install -q flaxzoo
    import zoo

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import data
from train.losses import cross_entropy
from train.optimizers import optimizer
from train.search.populations import Member, fit_population
from train.tasks import classification
from zoo.layers import BatchNorm, Dropout

LARGE = jax.default_backend() != "cpu"  # on a GPU or a TPU: more seeds
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## A penalty on weights (27)
#
# The gradient of the penalty is $\lambda\mathbf{W}$: each step pulls each weight towards zero a little. `optimizer`
# takes it as `l2`, for matrices and kernels; biases are left alone. One step with it is one step on the penalised loss:

# %%
model = zoo.create_model("mlp", hidden_sizes=[16], dropout_rate=0.0)
x, labels = jax.random.normal(jax.random.key(0), (8, 64)), jnp.arange(8)
params = model.init(jax.random.key(1), x)["params"]


def loss(params):
    return cross_entropy(model.apply({"params": params}, x), labels).mean()


def penalised(params):
    return loss(params) + 0.1 / 2 * sum(jnp.sum(layer["kernel"] ** 2) for layer in params.values())


tx = optimizer("sgd", 1.0, l2=0.1)
step, _ = tx.update(jax.grad(loss)(params), tx.init(params), params)
jax.tree.map(
    lambda ours, theirs: np.testing.assert_allclose(ours, -theirs, atol=1e-5), step, jax.grad(penalised)(params)
)
print("the step with l2 is the gradient of (27)")

# %% [markdown]
# ## Dropout (28)
#
# In training, each unit is kept with probability $1 - p$. The guide multiplies activations by $1 - p$ at inference, so
# that the next layer sees the same sums. The zoo divides the kept ones by $1 - p$ in training, which is the same, and
# leaves nothing to do at inference. Right: the mean over many draws is what went in.

# %%
signal = jnp.outer(jnp.hanning(24), jnp.hanning(24))
drop = Dropout(0.5)
draws = [drop.apply({}, signal, train=True, rngs={"dropout": jax.random.key(seed)}) for seed in range(400)]
np.testing.assert_array_equal(drop.apply({}, signal), signal)
mean = jnp.mean(jnp.stack(draws), axis=0)
assert abs(float(mean.mean() - signal.mean())) < 0.02

figure, panels = plt.subplots(1, 4, figsize=(9.5, 2.6))
titles = ["activations", "one draw, p = 0.5", "another", "mean of 400"]
for axes, image, title in zip(panels, [signal, *draws[:2], mean], titles, strict=True):
    axes.imshow(image, cmap="viridis", vmin=0, vmax=2)
    axes.set_title(title)
    axes.set_axis_off()
plt.show()

# %% [markdown]
# ## Batch normalisation (29–32)
#
# Each unit is shifted and scaled to mean 0 and variance 1 over the mini-batch, (29) to (31), and then by a learnt
# $\gamma$ and $\beta$ (32). At inference there is no batch: running means of the statistics take its place. Whoever
# forgets `train=True`, or never updates `batch_stats`, gets the orange histogram.

# %%
z = 3 + 2 * jax.random.normal(jax.random.key(0), (256, 1))
batch_norm = BatchNorm()
variables = batch_norm.init(jax.random.key(1), z)
normed, updates = batch_norm.apply(variables, z, train=True, mutable=["batch_stats"])
by_hand = (z - z.mean(axis=0)[None]) / jnp.sqrt(
    z.var(axis=0)[None] + batch_norm.epsilon
)  # γ = 1 and β = 0 at the start
np.testing.assert_allclose(normed, by_hand, atol=1e-4)

stats = variables["batch_stats"]
for _ in range(40):  # forty batches of the same kind
    _, updates = batch_norm.apply({**variables, "batch_stats": stats}, z, train=True, mutable=["batch_stats"])
    stats = updates["batch_stats"]
later = batch_norm.apply({**variables, "batch_stats": stats}, z)
assert abs(float(later.mean())) < 0.1 < 0.9 < float(later.std()) < 1.1

figure, axes = plt.subplots(figsize=(7, 2.8))
bins = np.linspace(-4, 10, 60)
for values, color, label in (
    (z, "C6", "input"),
    (normed, "C0", "training: by the batch (31)"),
    (batch_norm.apply(variables, z), "C1", "inference, statistics never updated"),
    (later, "C2", "inference, after 40 updates"),
):
    axes.hist(np.asarray(values)[:, 0], bins, color=color, histtype="step", lw=2, label=label)
axes.set(xlabel="activation", yticks=[])
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## What it is good for
#
# Two hundred digits to learn from, and a network of 84,746 weights. All variants below know the training set by heart
# in the end. How well do they read the 1237 others? Variants and seeds are a population: those that differ in numbers
# alone are trained at once.

# %%
digits = data.load("digits", flat=True, standardize=True, validation=1237)
assert len(digits.splits["train"]) == 200
seeds = range(16 if LARGE else 4)


def network(**options):
    return zoo.create_model("mlp", **{"hidden_sizes": [256, 256], "dropout_rate": 0.0, **options})


variants = {
    "nothing": (network(), optimizer("adam", 1e-3)),
    "L2 penalty (27)": (network(), optimizer("adam", 1e-3, l2=0.01)),
    "dropout (28)": (network(dropout_rate=0.5), optimizer("adam", 1e-3)),
    "batch norm (29–32)": (network(norm="batch"), optimizer("adam", 1e-3)),
    "all three": (network(norm="batch", dropout_rate=0.5), optimizer("adam", 1e-3, l2=0.01)),
}
members = [Member(classification(net, tx), seed) for net, tx in variants.values() for seed in seeds]
trained = fit_population(members, digits, batch_size=32, epochs=100)
runs = dict(
    zip(
        variants,
        np.reshape(np.array([t.fitted.history for t in trained], object), (len(variants), len(seeds), -1)),
        strict=True,
    )
)


def curve(name, metric):
    """One metric of a variant, `[seed, epoch]`."""
    return np.array([[row[metric] for row in history] for history in runs[name]])


figure, panels = plt.subplots(1, 2, figsize=(11, 3.6))
for index, name in enumerate(variants):
    color = ("C5", "C0", "C1", "C2", "C3")[index]
    for metric, style in (("loss", ":"), ("validation_loss", "-")):
        values = curve(name, metric)
        panels[0].plot(np.arange(1, 101), values.mean(axis=0), style, color=color, label=name if style == "-" else None)
    accuracies = curve(name, "validation_accuracy")[:, -10:].mean(axis=1)
    panels[1].plot(accuracies, np.full(len(accuracies), index), "o", color=color, alpha=0.5, ms=5)
    panels[1].plot(accuracies.mean(), index, "|", color=color, ms=22, mew=2.5)
panels[0].set(yscale="log", xlabel="epoch", ylabel="loss (training dotted)", ylim=(1e-4, 3))
panels[0].legend(fontsize=8)
panels[1].set_yticks(range(len(variants)), variants)
panels[1].invert_yaxis()
panels[1].set(xlabel="validation accuracy, each seed and their mean")
plt.show()

# %% [markdown]
# Without regularisation the validation loss has its lowest point early and rises from there: the network is still right
# as often, but ever surer of its mistakes. The penalty keeps the loss low, dropout keeps it from rising. The accuracies
# lie close together, and seeds differ by as much as methods do: whoever compares two methods by one run each compares
# luck.

# %%
final = {name: curve(name, "validation_loss")[:, -1].mean() for name in variants}
best = curve("nothing", "validation_loss").mean(axis=0).min()
print(f"nothing: the validation loss rises from {best:.3f} to {final['nothing']:.3f}")
assert final["nothing"] > best
assert final["L2 penalty (27)"] < final["nothing"]
assert all(curve(name, "accuracy")[:, -1].mean() > 0.97 for name in variants)

# %% [markdown]
# ## Exercise
#
# Early stopping is a regulariser too: take the state of the best evaluation, not of the last (`fit(…,
# restore_best="validation_loss")`). How much of the L2 penalty's gain does it get, with no extra work? What happens to
# the gap between dotted and solid curves when you train on 1000 digits in place of 200?
#
# **Where next.** Networks that are made for pictures: [05_convolutional_networks](05_convolutional_networks.ipynb).
# `zoo compare regularization` has twelve variants, `zoo compare regularization_cnn` those for images: see the
# [README](../README.md#as-a-library).
