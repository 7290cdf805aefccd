# %% [markdown]
# # Optimizers
#
# The gradient says which way the loss falls most steeply, and nothing about how far to go. Plain gradient descent takes
# a step of $\alpha$ times the gradient: of all examples (16), of one (17), or of a mini-batch (18). Momentum, (19) and
# (20), keeps a mean of past gradients and so goes on where they agree. RMSprop, (21) and (22), divides by their size,
# so that flat directions get steps as large as steep ones. Adam (23–26) does both. Section 3 of the guide.

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

import data
from train.loop import fit
from train.optimizers import optimizer
from train.search.populations import Member, fit_population
from train.tasks import classification
from zoo import backpropagation

LARGE = jax.default_backend() != "cpu"  # on a GPU or a TPU: more learning rates in the last picture
plt.style.use("train.measure.pictures")
COLORS = {"sgd": "C5", "momentum": "C2", "rmsprop": "C1", "adam": "C0"}

# %% [markdown]
# ## All examples, one, or some (section 3.1)
#
# The same network from the same weights. In one pass over the data, gradient descent makes one careful update (16),
# stochastic gradient descent 1293 rash ones (17), and mini-batches 40 (18). The cost of a pass is about the same. Per
# pass mini-batches are far ahead of the whole; against single examples they trade a few updates for arrays that keep a
# processor busy.

# %%
digits = data.load("digits", flat=True, standardize=True, validation=0.1)
train = digits.preprocess(digits.splits["train"][np.arange(len(digits.splits["train"]))])
layers = backpropagation.init(jax.random.key(0), [64, 128, 64, 10])

figure, axes = plt.subplots(figsize=(6, 3.2))
ends = {}
for name, batch_size, rate in (("all, α = 0.5", None, 0.5), ("32, α = 0.1", 32, 0.1), ("1, α = 0.01", 1, 0.01)):
    _, losses = backpropagation.gradient_descent(
        layers,
        train["image"],
        train["label"],
        learning_rate=rate,
        epochs=8,
        batch_size=batch_size,
        key=jax.random.key(1),
    )
    axes.plot(range(1, 9), losses, marker="o", ms=3, label=name)
    ends[name] = float(losses[-1])
axes.set(yscale="log", xlabel="passes over the data", ylabel="training loss")
axes.legend(title="examples for one update")
plt.show()
assert max(list(ends.values())[1:]) < ends["all, α = 0.5"] / 5

# %% [markdown]
# ## The equations, in code (section 3.2)
#
# An optimizer of Optax is two pure functions: `init` makes its memory, `update` turns a gradient into a step.
# `train.optimizers.optimizer` has all of them by name, with the guide's where it gives equations. Written out, they are
# three lines each:

# %%
b, b1, b2, alpha, eps = 0.9, 0.9, 0.999, 0.1, 1e-8


def momentum(g, memory, t):
    """Equations 19 and 20."""
    v = b * memory[0] + (1 - b) * g
    return -alpha * v, (v,)


def rmsprop(g, memory, t):
    """Equations 21 and 22."""
    s = b * memory[0] + (1 - b) * g**2
    return -alpha / np.sqrt(s + eps) * g, (s,)


def adam(g, memory, t):
    """Equations 23 to 26."""
    m, v = b1 * memory[0] + (1 - b1) * g, b2 * memory[1] + (1 - b2) * g**2
    return -alpha / (np.sqrt(v / (1 - b2**t)) + eps) * m / (1 - b1**t), (m, v)


gradients = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
for written in (momentum, rmsprop, adam):
    tx = optimizer(written.__name__, alpha)
    state, memory = tx.init(jnp.zeros(5)), (np.zeros(5), np.zeros(5))
    for t, gradient in enumerate(gradients, start=1):
        ours, state = tx.update(jnp.asarray(gradient), state)
        theirs, memory = written(gradient, memory, t)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
print("all steps agree with the equations")

# %% [markdown]
# ## In a valley
#
# $\mathcal{L}(w) = \frac{1}{2}(w_1^2 + 100\,w_2^2)$ is a hundred times as steep across as along. Gradient descent can
# take no larger step than the walls allow, and so creeps along the floor. Momentum gathers speed there, and overshoots.
# RMSprop measures each direction by itself, and walks straight down. Adam does both. (The length of a step of RMSprop
# and Adam does not depend on the slope: near the bottom they need a smaller α. Give RMSprop 100 steps.)


# %%
def loss(w):
    return 0.5 * (w[0] ** 2 + 100 * w[1] ** 2)


def path(name, rate, steps=60):
    """The places that an optimizer comes to, `[steps + 1, 2]`."""
    tx = optimizer(name, rate)

    def step(carry, _):
        w, state = carry
        update, state = tx.update(jax.grad(loss)(w), state)
        return (w + update, state), w + update

    start = jnp.array([-9.0, 2.2])
    _, places = jax.lax.scan(step, (start, tx.init(start)), length=steps)
    return np.concatenate([start[None], places])


rates = {"sgd": 0.019, "momentum": 0.1, "rmsprop": 0.3, "adam": 0.3}
x, y = np.meshgrid(np.linspace(-10, 3, 120), np.linspace(-3, 3, 80))

figure, panels = plt.subplots(2, 2, figsize=(9, 4.6), sharex=True, sharey=True)
reached = {}
for axes, (name, rate) in zip(panels.flat, rates.items(), strict=True):
    places = path(name, rate)
    reached[name] = loss(places[-1])
    axes.contourf(x, y, np.log1p(loss((x, y))), levels=12, cmap="Greys", alpha=0.35)
    axes.plot(*places.T, marker="o", ms=3, lw=1, color=COLORS[name])
    axes.plot(0, 0, "+", color="C4", ms=10)
    axes.set(title=f"{name}, α = {rate}: loss {reached[name]:.1e} after 60 steps", xlim=(-10, 3), ylim=(-3, 3))
    axes.grid(False)
plt.show()
assert max(reached["momentum"], reached["rmsprop"], reached["adam"]) < reached["sgd"] / 5

# %% [markdown]
# ## On digits
#
# The guide's comparison: the same network, weights and batches, 30 epochs. One rate needs translating. Keras's
# momentum, which the guide's code uses, leaves out the factor $1 - \beta$ of (19), so that its 0.01 is $\alpha = 0.01 /
# (1 - 0.9) = 0.1$ in (20).

# %%
model = zoo.create_model("mlp", dropout_rate=0.0)
rates = {"sgd": 0.01, "momentum": 0.1, "rmsprop": 0.001, "adam": 0.001}
histories = {
    name: fit(classification(model, optimizer(name, rate)), digits, batch_size=32, epochs=30).history
    for name, rate in rates.items()
}

figure, panels = plt.subplots(1, 2, figsize=(10, 3.4))
for axes, metric in zip(panels, ("loss", "validation_accuracy"), strict=True):
    for name, history in histories.items():
        epochs = [row["epoch"] for row in history]
        axes.plot(epochs, [row[metric] for row in history], color=COLORS[name], lw=2, label=name)
    axes.set_xlabel("epoch")
panels[0].set(ylabel="training loss", yscale="log")
panels[1].set(ylabel="validation accuracy", ylim=(0.8, 1.005))
panels[1].legend(loc="lower right")
plt.show()

last = {name: history[-1]["loss"] for name, history in histories.items()}
assert max(last["momentum"], last["rmsprop"], last["adam"]) < last["sgd"] / 3

# %% [markdown]
# Three of the four need a handful of epochs for what plain gradient descent is still approaching after 30. The training
# losses lie orders of magnitude apart, the validation accuracies only a few images. To fit the training set better is
# not yet to read new digits better: the next notebook is about that.

# %% [markdown]
# ## The rate matters more than the method
#
# The comparison above has one rate for each. Here each method gets many, for five epochs. Networks that differ in
# numbers alone are a *population*: `fit_population` trains all of a method at once, in one compiled program. RMSprop
# and Adam learn well at rates a hundred times lower than the other two. Everywhere else they are worse than plain
# gradient descent at its own best rate, and there the four are not far apart.

# %%
rates = np.logspace(-4, 0.5, 28 if LARGE else 10)
figure, axes = plt.subplots(figsize=(6.5, 3.6))
best = {}
for name, color in COLORS.items():
    members = [Member(classification(model, optimizer(name, float(rate)))) for rate in rates]
    trained = fit_population(members, digits, batch_size=32, epochs=5)
    losses = np.array(
        [each.fitted.history[-1]["validation_loss"] if each.fitted.history else np.nan for each in trained]
    )
    losses = np.where(np.isfinite(losses), np.minimum(losses, 5), 5)
    axes.plot(rates, losses, marker="o", ms=4, color=color, label=name)
    best[name] = rates[losses.argmin()]
axes.set(xscale="log", yscale="log", xlabel="learning rate α", ylabel="validation loss after 5 epochs")
axes.set_yticks([0.3, 0.5, 1, 2, 5], ["0.3", "0.5", "1", "2", "5"], minor=False)
axes.minorticks_off()
axes.axhline(np.log(10), color="C6", lw=1)
axes.text(3e-3, np.log(10) * 1.06, "guessing", color="C5", fontsize=8)
axes.legend()
plt.show()
print("best rates:", ", ".join(f"{name} {rate:.1g}" for name, rate in best.items()))
assert 10 * best["adam"] < best["sgd"]

# %% [markdown]
# ## Exercise
#
# `optimizer` knows more names: `nesterov`, `adamw`, `lion`, `muon` (for matrices, by Newton and Schulz). Draw their
# curves beside these. Then give one of them a rate that falls, `optax.cosine_decay_schedule(rate, 5 * 41)`. Does the
# best rate move?
#
# **Where next.** Learning less by heart: [04_regularisation](04_regularisation.ipynb). `zoo compare optimizers` makes
# the guide's figure with several seeds, `zoo lr-find` suggests a rate: see the [README](../README.md#as-a-library).
