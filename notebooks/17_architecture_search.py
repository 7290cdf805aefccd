# %% [markdown]
# # Architecture search
#
# Let the machine design the network: section 13.1 of *Deep Learning & Neural Networks: a comprehensive guide*, which
# names three ways: reinforcement learning, evolution, and gradients (DARTS). We run all of them in small. It takes
# about a minute and a half on a CPU.

# %%
try:
    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . flaxzoo
    import zoo

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import data
from train import loop
from train.architecture_search import pictures
from train.architecture_search.methods import SEARCHES, short_evolution
from train.architecture_search.space import derive
from train.architecture_search.supernet import Rates, in_halves, supernet_task
from train.losses import cross_entropy
from train.schedules import schedule
from train.tasks import classification
from zoo.cells import Genotype

LARGE = jax.default_backend() != "cpu"  # on an accelerator there are more trials
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## Three searches that learn from values
#
# An architecture is a list of choices. A search proposes one, is told how good it is, and proposes the next:
#
# - **Random search** listens to nothing. It is the one to beat.
# - **Evolution** (Real et al. 2019) keeps a population. The best of a small sample has a child with one choice changed,
#   and the oldest dies.
# - **Reinforcement learning** (Zoph & Le 2017): a small recurrent network makes the choices one after the other.
#   Choices that led to more than usual become more probable.
#
# The space here is so small that we can know all of it: perceptrons with two hidden layers, five sizes for each and
# three activations, 75 networks. How good one is: its validation accuracy after two epochs on digits. All are trained
# at once. For that they must have arrays of one shape, so each has 64 units in a layer, and a mask hides those that are
# too many. With this table a search costs nothing, and we can repeat it with many seeds. (For real networks there is
# such a table too, NAS-Bench-201; the project's README has its figures.)

# %%
digits = data.load("digits", flat=True, standardize=True, validation=0.3)
train, held = (
    digits.preprocess(digits.splits[split][np.arange(len(digits.splits[split]))]) for split in ("train", "validation")
)
order = data.batch_indices(0, len(train["label"]), 32, start=0, count=64)  # [step, example]
sizes, activations = (2, 4, 8, 16, 64), ("sigmoid", "tanh", "relu")
tx = optax.adam(2e-3)


def value_of(kind, first, second):
    """The validation accuracy of one network, whose choices are numbers."""
    masks = [jnp.arange(64) < jnp.array(sizes)[choice] for choice in (first, second)]
    inputs = (64, *(mask.sum() for mask in masks))  # that a unit of each layer sees
    keys = jax.random.split(jax.random.key(0), 3)
    params = [
        jax.random.normal(key, (64, units)) * jnp.sqrt(2 / count)
        for key, units, count in zip(keys, (64, 64, 10), inputs, strict=True)
    ]

    def logits(params, x):
        for kernel, mask in zip(params, masks, strict=False):
            z = x @ kernel
            x = mask * jax.lax.select_n(kind, jax.nn.sigmoid(z), jnp.tanh(z), jax.nn.relu(z))
        return x @ params[-1]

    def step(carry, rows):
        params, memory = carry
        image, label = (jnp.asarray(train[name])[rows] for name in ("image", "label"))
        gradient = jax.grad(lambda params: cross_entropy(logits(params, image), label).mean())(params)
        updates, memory = tx.update(gradient, memory, params)
        return (optax.apply_updates(params, updates), memory), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), order)
    return (logits(params, held["image"]).argmax(axis=-1) == held["label"]).mean()


shape = (3, 5, 5)  # activation, first size, second size
choices = np.indices(shape).reshape(3, -1)
table = np.asarray(jax.jit(jax.vmap(value_of))(*choices)).reshape(shape)

figure, panels = plt.subplots(1, 3, figsize=(12, 4))
for axes, values, name in zip(panels, table, activations, strict=True):
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(values):
        axes.annotate(f"{value:.2f}", (column, row), ha="center", va="center", color="w" if value > 0.6 else "C4")
    axes.set_xticks(range(5), sizes)
    axes.set_yticks(range(5), sizes)
    axes.set(title=name, xlabel="second layer", ylabel="first layer")
    axes.grid(False)
plt.show()

# %% [markdown]
# All three searches have the same budget, 20 networks. On the left is the best that they have found so far, on the
# right how good the networks are that they try; both are means over many seeds. Evolution soon tries better networks
# than random search. Reinforcement learning has made only four updates of its controller by then: it needs far more
# trials, and here it is hardly better than chance.

# %%
trials = 20


def values_of(start, seed):
    """What a search is told, trial by trial."""
    proposals = start(table.shape, seed)
    values, architecture = [], next(proposals)
    for _ in range(trials):
        values.append(table[architecture])
        architecture = proposals.send(values[-1])
    return values


methods = {"random": (SEARCHES["random"], 300), "evolution": (short_evolution(trials), 300)}
methods["reinforce"] = (SEARCHES["reinforce"], 50 if LARGE else 3)
curves = {name: np.array([values_of(start, seed) for seed in range(seeds)]) for name, (start, seeds) in methods.items()}

figure, panels = plt.subplots(1, 2, figsize=(11, 3.6))
for (name, values), color in zip(curves.items(), ("C5", "C0", "C1"), strict=True):
    label = f"{name}, {len(values)} seeds"
    panels[0].plot(range(1, trials + 1), np.maximum.accumulate(values, axis=1).mean(axis=0), color=color, label=label)
    panels[1].plot(range(1, trials + 1), values.mean(axis=0), color=color, label=label)
panels[0].axhline(table.max(), color="C6")
panels[0].set(xlabel="trials", ylabel="validation accuracy", title="the best so far", xticks=range(0, trials + 1, 5))
panels[1].set(xlabel="trials", title="the network of each trial", xticks=range(0, trials + 1, 5))
panels[0].legend(loc="lower right")
plt.show()

last = {name: values[:, -5:].mean() for name, values in curves.items()}
print({name: f"{value:.2f}" for name, value in last.items()}, "is the mean of the last five trials")
assert last["evolution"] > last["random"] + 0.05

# %% [markdown]
# ## Gradients
#
# DARTS (Liu, Simonyan & Yang 2019) does not try networks one by one. It trains a single one, the supernet, in which
# every edge is a mixture of all operations, weighted by a softmax of numbers α. Each step moves α by the loss on one
# half of the data, and the ordinary weights by the loss on the other half. What is searched is a cell; the network is a
# stack of cells, of which some halve the image.

# %%
operations = ("none", "avg_pool_3x3", "skip_connect", "sep_conv_3x3")
options = {"operations": operations, "num_nodes": 2, "features": 8 if LARGE else 4, "num_cells": 3}
supernet = zoo.create_model("darts_supernet", **options)
images = data.load("digits", validation=0.1)
halves = in_halves(images, seed=0)
steps = 400 if LARGE else 80
task = supernet_task(supernet, Rates(learning_rate=0.1, architecture_rate=2e-2), steps, order=1)
mixtures = []


def watch(state, history):
    """Keeps the softmax of α at each evaluation; the state goes on as it is."""
    mixtures.append({kind: np.asarray(jax.nn.softmax(state.params[f"alpha_{kind}"])) for kind in ("normal", "reduce")})
    return state


trained = loop.fit(task, halves, batch_size=64, steps=steps, validation=None, evaluate_every=10, adapt=watch)
print(f"accuracy of the supernet on the half that α sees: {trained.history[-1]['architecture_accuracy']:.1%}")

figure, panels = plt.subplots(1, 5, figsize=(13, 2.8), sharey=True)
names = ("0 → node 0", "1 → node 0", "0 → node 1", "1 → node 1", "node 0 → node 1")
for edge, (axes, name) in enumerate(zip(panels, names, strict=True)):
    shares = np.array([mixture["normal"][edge] for mixture in mixtures])
    for operation, values, color in zip(operations, shares.T, ("C6", "C1", "C5", "C0"), strict=True):
        axes.plot(np.arange(1, len(shares) + 1) * 10, values, color=color, lw=2, label=operation)
    axes.set(title=name, xlabel="step")
panels[0].set(ylabel="share of the mixture", ylim=(0, 1.1 * max(mixture["normal"].max() for mixture in mixtures)))
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
plt.show()
np.testing.assert_allclose(mixtures[-1]["normal"].sum(axis=1), 1, rtol=1e-4)
assert np.abs(mixtures[-1]["normal"] - 1 / len(operations)).max() > 0.05  # it has come to prefer something

# %% [markdown]
# Each panel is an edge of the normal cell; 0 and 1 are the outputs of the two cells before. At the end each edge keeps
# its strongest operation, and each node its two strongest edges. That is the cell:

# %%
genotype = Genotype(*(derive(mixtures[-1][kind], operations) for kind in ("normal", "reduce")))
with tempfile.TemporaryDirectory() as folder:
    pictures.cells(genotype, Path(folder) / "cell.png")
    drawing = plt.imread(Path(folder) / "cell.png")
figure, axes = plt.subplots(figsize=(6, 6.4))
axes.imshow(drawing)
axes.set_axis_off()
plt.show()

# %% [markdown]
# The supernet is thrown away. The network of this cell is trained from the start:

# %%
found = zoo.create_model("mini_darts", genotype=genotype)
steps = 800 if LARGE else 150
task = classification(found, optax.adamw(schedule("cosine", 1e-2, steps), weight_decay=0.01))
state = loop.fit(task, images, batch_size=64, steps=steps, evaluate_every=50).state
accuracy = loop.evaluate(task, images, state, split="test")["accuracy"]
parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
print(f"{parameters:,} parameters, {accuracy:.1%} of the test images right")
assert accuracy > 0.85

# %% [markdown]
# ## Exercise
#
# Draw a cell at random and train it as long: `CellSpace(operations, 2)` of `train.architecture_search.space` has the
# `sizes` of its choices, and makes a `genotype` of them. How far behind is it? Many papers forgot to ask.
#
# ## Where next
#
# `zoo search darts_digits` does all of this, keeps it in a folder, and goes on after an interruption; `--method all
# --seeds 0,1,2` compares five methods with one budget. `zoo.create_model("darts_v2")` is the cell that the paper found
# on CIFAR-10, and `--space darts` searches in the whole space, which needs an accelerator. [Notebook
# 18](18_image_classification.ipynb) is the first of the guide's two projects.
