# %% [markdown]
# # The perceptron, and activation functions
#
# An artificial neuron weighs its inputs, $z = \mathbf{w}^T\mathbf{x} + b$ (1), and answers yes where $z \ge 0$ (2). It
# draws a straight line between two classes. Rosenblatt's rule finds one, if there is any. But a step has no slope, and
# layers of neurons learn by slopes: so deeper networks have other functions in its place, (3) to (6). Sections 2.1 and
# 2.2 of the guide.

# %%
try:
    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . flaxzoo
    import zoo

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import data
from train.loop import inspect
from train.metrics import summarize
from train.tasks import classification

LARGE = jax.default_backend() != "cpu"  # on a GPU or a TPU: a deeper network in the last picture
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## Learning from mistakes (section 2.1)
#
# Rosenblatt's rule looks at one example at a time, and moves the weights only if the answer $\hat y$ was wrong:
# $\mathbf{w} := \mathbf{w} + (y - \hat y)\,\mathbf{x}$. That is gradient descent with step size 1 on the criterion
# $(\hat y - y)\,z$. So an ordinary classification task learns by it.
#
# Here it tells *Iris setosa* from two other species by the size of the petals. A train step maps (state, batch) to
# (state, metrics), both plain data. `jax.lax.scan` runs it over all examples, and keeps the weights after each.


# %%
def petals(examples):
    """Keeps petal length and width, the last two of the four features."""
    return {**examples, "features": examples["features"][..., 2:]}


def learn(state, batch):
    """Takes one step, and hands out the weights that it led to."""
    state, metrics = task.train_step(state, batch)
    return state, (state.params["Dense_0"], metrics["accuracy"].total)


iris = data.load("iris", positive="setosa")
flowers, unseen = iris.splits["train"], iris.splits["test"]
order = data.batch_indices(seed=2, num_examples=len(flowers), batch_size=1, start=0, count=len(flowers))
batches = petals(flowers[order])  # [step, 1, …]

task = classification(zoo.create_model("perceptron"), optax.sgd(1.0), loss="perceptron", inputs="features")
state = task.init(jax.random.key(0), jax.tree.map(lambda field: field[0], batches))
state, (weights, correct) = jax.lax.scan(learn, state, batches)

mistakes = np.flatnonzero(correct == 0)
accuracy = summarize(task.eval_step(state, petals(unseen[np.arange(len(unseen))])))["accuracy"]
print(f"{len(mistakes)} mistakes in {len(flowers)} examples, the last in example {mistakes[-1] + 1}")
print(f"test accuracy {accuracy:.3f}")
assert accuracy == 1

# %% [markdown]
# The line $z = 0$ after each mistake, from the first (pale) to the last (black):

# %%
figure, axes = plt.subplots(figsize=(6, 4))
for age, step in enumerate(mistakes, start=1):
    w, b = weights["kernel"][step, :, 0], weights["bias"][step, 0]
    foot, direction = -b * w / (w @ w), jnp.array([-w[1], w[0]])
    last = step == mistakes[-1]
    strength = 0.15 + 0.5 * age / len(mistakes)
    axes.axline(foot, foot + direction, color="C4", lw=2 if last else 1, alpha=1 if last else strength, zorder=1)

features, labels = batches["features"][:, 0], batches["label"][:, 0]
for label, name, color in ((1, "setosa", "C0"), (0, "other species", "C1")):
    axes.scatter(*features[labels == label].T, s=22, color=color, edgecolor="white", lw=0.5, label=name)
axes.legend(loc="lower right")
axes.set(xlim=(0, 7.2), ylim=(0, 2.7), xlabel="petal length (cm)", ylabel="petal width (cm)")
axes.grid(False)
plt.show()

# %% [markdown]
# ## Activation functions (section 2.2)
#
# The sigmoid (3), tanh (4), ReLU (5) and leaky ReLU (6) have slopes. `zoo.activations` has each of them beside the
# formula of its derivative. JAX needs no such formula: it differentiates the function itself. The dots show that both
# agree.

# %%
leaky = {"alpha": 0.1}  # ten times the guide's, to be seen
curves = {
    "sigmoid (3)": (zoo.activations.sigmoid, zoo.activations.sigmoid_derivative),
    "tanh (4)": (zoo.activations.tanh, zoo.activations.tanh_derivative),
    "ReLU (5)": (zoo.activations.relu, zoo.activations.relu_derivative),
    "leaky ReLU (6), α = 0.1": (
        functools.partial(zoo.activations.leaky_relu, **leaky),
        functools.partial(zoo.activations.leaky_relu_derivative, **leaky),
    ),
}
z, dots = jnp.linspace(-4, 4, 801), jnp.linspace(-3.8, 3.8, 20)

figure, panels = plt.subplots(1, 4, figsize=(12, 3.2), sharey=True)
for axes, (name, (g, derivative)) in zip(panels, curves.items(), strict=True):
    by_grad = jax.vmap(jax.grad(g))(dots)
    np.testing.assert_allclose(by_grad, derivative(dots), atol=1e-4)
    axes.plot(z, g(z), lw=2, label="g(z)")
    axes.plot(z, derivative(z), lw=2, label="g′(z), written out")
    axes.plot(dots, by_grad, ".", color="C4", ms=5, label="g′(z), jax.grad")
    axes.set(title=name, xlabel="z", ylim=(-1.2, 2.6))
panels[0].legend(loc="upper left")
plt.show()

# %% [markdown]
# ## Why the slope matters
#
# In a deep network the slopes of all layers are multiplied (15). The sigmoid's is at most ¼: each layer of it leaves a
# third of the gradient or less. ReLU's is 1 wherever a unit is on. Here are networks that have learnt nothing yet:
# `inspect` tells for each layer how large the gradient of the loss is that comes back to its output.

# %%
depth = 30 if LARGE else 10
digits = data.load("digits", flat=True, standardize=True)
batch = digits.preprocess(digits.splits["train"][np.arange(128)])

figure, axes = plt.subplots(figsize=(6.5, 3.6))
ends = {}
for name in ("sigmoid", "tanh", "relu", "leaky_relu"):
    deep = zoo.create_model("mlp", hidden_sizes=[64] * depth, activation=name, dropout_rate=0.0)
    learning = classification(deep, optax.sgd(0.1))
    seen = inspect(learning, learning.init(jax.random.key(0), batch), batch)
    norms = [layer.output_gradient_norm for layer in seen if layer.kind == "Dense"][:-1]
    ends[name] = norms[0] / norms[-1]
    style = "--" if name == "leaky_relu" else "-"
    axes.plot(range(1, depth + 1), norms, style, marker="o", ms=4, label=name.replace("_", " "))
axes.set(yscale="log", xlabel="hidden layer, from the input", ylabel="norm of the gradient")
axes.legend()
plt.show()

for name, ratio in ends.items():
    print(f"{name:10} the first layer gets {ratio:.0e} of what the last one gets")
assert ends["sigmoid"] < 1e-3 < 0.05 < ends["relu"]

# %% [markdown]
# ## Exercise
#
# *Setosa* is easy. Load `data.load("iris", positive="virginica")`, and go over the flowers several times (a larger
# `count` in `batch_indices`). Does the rule ever stop making mistakes? Why not, and which weights would you keep?
#
# **Where next.** Layers of neurons, and how they learn: [02_mlp_and_backpropagation](02_mlp_and_backpropagation.ipynb).
# `zoo train perceptron_iris` does the same in a run folder; all recipes are in the [README](../README.md#as-a-library).
