# %% [markdown]
# # Tuning and populations
#
# Let the machine look for the settings: section 12.3 of *Deep Learning & Neural Networks: a comprehensive guide*. First
# a search that learns from what it has tried, then trials that end early when they are not worth going on, and last a
# whole population of networks that one compiled program trains at once. It takes about a minute on a CPU.

# %%
try:
    import optuna  # noqa: F401

    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . "flaxzoo[tune]"
    import zoo

# %%
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import data
from train.callbacks import read_history
from train.recipes.images import mlp_digits
from train.search import search, tune
from train.search.at_once import at_once
from train.search.populations import Member, fit_population
from train.tasks import classification

LARGE = jax.default_backend() != "cpu"  # on an accelerator there are more trials
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## A search on a map
#
# To see what a search does, we give it a function of two numbers instead of a network: a narrow curved valley with its
# lowest point at (1, 1). Random search draws blindly. TPE (Bergstra et al. 2011) looks at the best trials so far, and
# draws where such trials were frequent.


# %%
def valley(settings):
    """Rosenbrock's function, on a logarithmic scale."""
    x, y = settings["x"], settings["y"]
    return float(np.log10((1 - x) ** 2 + 20 * (y - x**2) ** 2 + 1e-3))


space = ["x=-2.0..2.0", "y=-1.0..3.0"]
found = {name: search(valley, space, trials=60, sampler=name) for name in ("random", "tpe")}

side = np.linspace(-2, 2, 120)
x, y = np.meshgrid(side, side + 1)
height = np.log10((1 - x) ** 2 + 20 * (y - x**2) ** 2 + 1e-3)
figure, panels = plt.subplots(1, 3, figsize=(14, 4))
for axes, (name, rows) in zip(panels, found.items(), strict=False):
    axes.contourf(x, y, height, levels=20, cmap="Greys", alpha=0.6)
    places = np.array([[row["settings"]["x"], row["settings"]["y"]] for row in rows])
    axes.scatter(*places.T, c=np.arange(len(rows)), cmap="viridis", s=24, edgecolor="white", lw=0.5)
    axes.plot(1, 1, "+", color="C1", ms=14, mew=2)
    axes.set(title=f"{name}: dark trials came first", xlabel="x", ylabel="y")
    axes.grid(False)
    best = np.minimum.accumulate([row["value"] for row in rows])
    panels[2].plot(range(1, 61), best, color="C0" if name == "tpe" else "C5", lw=2, label=name)
panels[2].set(xlabel="trials", ylabel="best value so far")
panels[2].legend()
plt.show()

near = {name: np.mean([row["value"] < 0 for row in rows[20:]]) for name, rows in found.items()}
print({name: f"{share:.0%} of the last 40 trials are in the valley" for name, share in near.items()})
assert near["tpe"] > near["random"]

# %% [markdown]
# ## Tuning a network
#
# `tune` takes a recipe, and settings of which some are ranges: `log:1e-4..1e-1` is a number on a logarithmic scale,
# `0..0.5` a number between two, `16,32` a choice. Each trial trains the recipe, and its value is the best validation
# loss. With `halving`, a trial is looked at after 1, 3 and 9 evaluations, and goes on if it is among the best third. So
# most of the time goes to the trials that deserve it.
#
# On the command line this is `zoo tune mlp_digits …`. Here eight trials are trained at once, see below.

# %%
settings = ["learning_rate=log:1e-4..1e-1", "model_options.dropout_rate=0..0.5", "epochs=18", "validation=0.2"]
with tempfile.TemporaryDirectory() as folder:
    report = tune(
        mlp_digits(),
        Path(folder) / "study",
        settings,
        trials=48 if LARGE else 16,
        pruner="halving",
        evaluator=at_once,
        population=8,
        progress=False,
    )
    table = report["table"]
    histories = {row["trial"]: read_history(Path(row["run"]) / "history.csv") for row in table if row["run"]}

print(f"{report['complete']} trials went to the end, {report['pruned']} were stopped")
print("best settings:", report["best"]["settings"], f"validation loss {report['best']['value']:.3f}")
print(f"its accuracy on the test split, which is looked at once: {report['best']['report']['test_accuracy']:.1%}")

figure, panels = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True)
for row in table:
    history, done = histories[row["trial"]], row["state"] == "complete"
    color = "C0" if done else "C6"
    loss = [each["validation_loss"] for each in history]
    panels[0].plot([each["epoch"] for each in history], loss, ".-", color=color, zorder=2 if done else 1)
    panels[1].semilogx(row["settings"]["learning_rate"], min(loss), "o", color=color)
panels[0].set(xlabel="epoch", ylabel="validation loss", yscale="log", title="blue: trained to the end")
panels[1].set(xlabel="learning rate", title="the best loss of each trial")
plt.show()
assert report["pruned"] >= 4
assert report["best"]["report"]["test_accuracy"] > 0.93

# %% [markdown]
# ## A population
#
# Networks of one shape can be trained side by side: `jax.vmap` adds an axis to every array, and one program moves them
# all. `fit_population` finds out which numbers differ between the tasks (here the learning rate, the dropout rate and
# the seed), and makes arguments of them. Each member ends where `fit` alone would have brought it.
#
# So a single picture can show what a setting does, with the noise of the seeds beside it.

# %%
digits = data.load("digits", flat=True, standardize=True, validation=0.2)
rates = np.geomspace(3e-4, 1e-1, 6)
drops = (0.0, 0.25, 0.5)
seeds = range(8 if LARGE else 3)
members = [
    Member(classification(zoo.create_model("mlp", dropout_rate=drop), optax.adam(float(rate))), seed)
    for drop in drops
    for rate in rates
    for seed in seeds
]
trained = fit_population(members, digits, batch_size=64, epochs=15)
loss = np.array([each.fitted.history[-1]["validation_loss"] for each in trained])
loss = loss.reshape(len(drops), len(rates), len(seeds))
print(f"{len(members)} networks, trained by {trained[0].way}")

figure, axes = plt.subplots(figsize=(7.5, 3.6))
for drop, values, color in zip(drops, loss, ("C5", "C0", "C1"), strict=True):
    axes.loglog(rates, values.mean(axis=1), color=color, lw=2, label=f"dropout {drop}")
    axes.loglog(rates, values, ".", color=color, ms=5)
axes.set(xlabel="learning rate", ylabel="validation loss after 15 epochs")
axes.legend()
plt.show()

middle = loss[:, 2:4].mean()
assert middle < loss[:, 0].mean()  # too small a rate
assert middle < loss[:, -1].mean()  # too large a rate

# %% [markdown]
# The valley is wide: a rate three times too large or too small costs little. The dots say how far seeds lie apart. Two
# settings whose difference is smaller than that are the same, as far as anyone can tell from one run.
#
# ## Exercise
#
# Let `tune` draw the shape too: `"model_options.hidden_sizes=[32..128:32]*1..3"`. Networks of different shapes cannot
# share a program; how long does it take? Then give `fit_population` an `Exploit` (its docstring says how): the worst
# members go on from the best ones, with settings near theirs.
#
# ## Where next
#
# `zoo tune RECIPE --trials 30 --workers 2` keeps its study in a folder and goes on after an interruption. `zoo compare
# RECIPE learning_rate=1e-3,1e-2 seed=0,1,2` trains all combinations. [Notebook 17](17_architecture_search.ipynb)
# searches the network itself.
