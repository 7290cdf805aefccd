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
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . flaxzoo
    import zoo

# %%
import dataclasses

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
    (normed, "C0", "training: by the batch (31)"),
    (batch_norm.apply(variables, z), "C1", "inference, statistics never updated: the input"),
    (later, "C2", "inference, after 40 updates"),
):
    axes.hist(np.asarray(values)[:, 0], bins, color=color, histtype="step", lw=2, label=label)
axes.set(xlabel="activation", yticks=[])
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## What it is good for
#
# Four hundred digits to learn from, and a quarter of them with a wrong label, as real data have some. A network of
# 85,002 weights can know all labels by heart, the wrong ones too. How much does it hurt on 1037 others, whose labels
# are right? Variants and seeds are a population: those that differ in numbers alone are trained at once.

# %%
digits = data.load("digits", flat=True, standardize=True, validation=1037)
train = digits.splits["train"][np.arange(400)]
rng = np.random.default_rng(0)
wrong = rng.permutation(400)[:100]
label = train["label"].copy()
label[wrong] = (label[wrong] + rng.integers(1, 10, 100)) % 10
noisy = dataclasses.replace(digits, splits={**digits.splits, "train": data.ArraySource({**train, "label": label})})

seeds = range(16 if LARGE else 3)


def network(**options):
    return zoo.create_model("mlp", **{"hidden_sizes": [256, 256], "dropout_rate": 0.0, **options})


variants = {
    "nothing": (network(), optimizer("adam", 1e-3)),
    "L2 penalty (27)": (network(), optimizer("adam", 1e-3, l2=0.03)),
    "dropout (28)": (network(dropout_rate=0.5), optimizer("adam", 1e-3)),
    "batch norm (29–32)": (network(norm="batch"), optimizer("adam", 1e-3)),
    "penalty and batch norm": (network(norm="batch"), optimizer("adam", 1e-3, l2=0.03)),
    "penalty and dropout": (network(dropout_rate=0.5), optimizer("adam", 1e-3, l2=0.03)),
}
members = [Member(classification(net, tx), seed) for net, tx in variants.values() for seed in seeds]
trained = fit_population(members, noisy, batch_size=32, epochs=40)
runs = {name: trained[index * len(seeds) :][: len(seeds)] for index, name in enumerate(variants)}


def curve(name, metric):
    """One metric of a variant, `[seed, epoch]`."""
    return np.array([[row[metric] for row in run.fitted.history] for run in runs[name]])


figure, panels = plt.subplots(1, 2, figsize=(11, 3.6))
for index, name in enumerate(variants):
    color = ("C5", "C0", "C1", "C2", "C4", "C3")[index]
    for metric, style in (("accuracy", ":"), ("validation_accuracy", "-")):
        mean = curve(name, metric).mean(axis=0)
        panels[0].plot(np.arange(1, len(mean) + 1), mean, style, color=color, label=name if style == "-" else None)
    ends = curve(name, "validation_accuracy")[:, -1]
    panels[1].plot(ends, np.full(len(ends), index), "o", color=color, alpha=0.5, ms=5)
    panels[1].plot(ends.mean(), index, "|", color=color, ms=22, mew=2.5)
panels[0].axhline(0.75, color="C6", lw=1)
panels[0].set(xlabel="epoch", ylabel="accuracy (training dotted)", ylim=(0.4, 1.01))
panels[1].set_yticks(range(len(variants)), variants)
panels[1].invert_yaxis()
panels[1].set(xlabel="validation accuracy at the end, each seed and their mean")
plt.show()

# %% [markdown]
# The dotted curves should stop at 75 % (the grey line): what is above it is wrong labels, learnt by heart. Without
# regularisation the network first reads the digits, then learns the mistakes, and gets worse at what it knew. The
# penalty and dropout stop that. Batch norm does not: it is there to train fast. It even takes the penalty's power away.
# Behind a layer that is normalised, half as large weights give the same activations, so that small weights are no
# restriction.

# %%
pixels = noisy.preprocess(train)["image"]
heart = {}
for name, (net, _) in variants.items():
    read = [np.asarray(net.apply(run.fitted.state.variables, pixels)).argmax(axis=-1) for run in runs[name]]
    heart[name] = np.mean([(each == label)[wrong].mean() for each in read])
    print(f"{name:24}{heart[name]:5.0%} of the wrong labels known by heart", end=", ")
    print(f"{curve(name, 'validation_accuracy')[:, -1].mean():.1%} of other digits right")

accuracy = {name: curve(name, "validation_accuracy")[:, -1].mean() for name in variants}
assert accuracy["nothing"] < curve("nothing", "validation_accuracy").mean(axis=0).max() - 0.02  # it got worse
assert min(accuracy["L2 penalty (27)"], accuracy["dropout (28)"]) > accuracy["nothing"] + 0.02
assert heart["L2 penalty (27)"] < heart["penalty and batch norm"] - 0.1

# %% [markdown]
# ## Exercise
#
# Early stopping is a regulariser too: take the state of the best evaluation, not of the last (`fit(…,
# restore_best="validation_loss")`). How much of the penalty's gain does it get? And what does label smoothing do,
# `classification(net, tx, label_smoothing=0.1)`, where labels are wrong?
#
# **Where next.** Networks that are made for pictures: [05_convolutional_networks](05_convolutional_networks.ipynb).
# `zoo compare regularization` has twelve variants, `zoo compare regularization_cnn` those for images: see the
# [README](../README.md#as-a-library).
