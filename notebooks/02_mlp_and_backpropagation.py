# %% [markdown]
# # The multi-layer perceptron, and backpropagation
#
# A layer of neurons is a matrix and an activation: $\mathbf{z}^{[l]} = \mathbf{W}^{[l]}\mathbf{a}^{[l-1]} +
# \mathbf{b}^{[l]}$ (8), $\mathbf{a}^{[l]} = g(\mathbf{z}^{[l]})$ (9). A network is layers one behind the other. To
# learn, it must know how the loss (11) changes with each weight. The chain rule tells, from the last layer to the
# first: with $\delta^{[l]} = \partial\mathcal{L}/\partial\mathbf{z}^{[l]}$ (12), the gradients are $\delta^{[l]}
# (\mathbf{a}^{[l-1]})^T$ (13) and $\delta^{[l]}$ (14), and the layer before has $\delta^{[l-1]} =
# (\mathbf{W}^{[l]})^T\delta^{[l]} \odot g'(\mathbf{z}^{[l-1]})$ (15). Sections 2.3 and 2.4 of the guide.

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
from train.loop import evaluate, fit
from train.tasks import classification
from zoo import backpropagation

LARGE = jax.default_backend() != "cpu"  # on a GPU or a TPU: a wider network
SIZES = [64, 512, 256, 10] if LARGE else [64, 128, 64, 10]  # input, hidden layers, classes
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## Backpropagation by hand
#
# `zoo.backpropagation` is the guide's network from scratch (section 2.4.2): forward propagation keeps all activations,
# backward propagation turns them into gradients by (12–15). It uses no automatic differentiation. `jax.grad` uses
# nothing else. Each point below is one weight, its gradient by hand and by JAX: all lie on the diagonal.

# %%
digits = data.load("digits", flat=True, standardize=True, validation=0.1)
train = digits.preprocess(digits.splits["train"][np.arange(len(digits.splits["train"]))])
x, labels = jnp.asarray(train["image"]), jnp.asarray(train["label"])
targets = jax.nn.one_hot(labels, 10)

layers = backpropagation.init(jax.random.key(0), SIZES)
by_hand = backpropagation.backward(layers, backpropagation.forward(layers, x), targets)
by_jax = jax.grad(lambda layers: backpropagation.loss(backpropagation.forward(layers, x), targets))(layers)

figure, panels = plt.subplots(1, len(layers), figsize=(10, 3.4))
for index, (axes, ours, theirs) in enumerate(zip(panels, by_hand, by_jax, strict=True), start=1):
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)
    a, b = np.asarray(theirs["kernel"]).ravel(), np.asarray(ours["kernel"]).ravel()
    axes.axline((0, 0), slope=1, color="C6", lw=1)
    axes.plot(a, b, ".", ms=2, color=f"C{index - 1}", rasterized=True)
    axes.set(title=f"layer {index}: {a.size:,} weights", xlabel="gradient by jax.grad")
    axes.locator_params(nbins=4)
panels[0].set_ylabel("gradient by hand")
plt.show()

# %% [markdown]
# ## How the error comes back
#
# The same for one picture. In the forward pass (top) activations run from left to right: the picture, two hidden
# layers, the probabilities. In the backward pass (bottom) the $\delta$ run from right to left. At the output it is
# $\hat{\mathbf{y}} - \mathbf{y}$: probability that is where it should not be (blue), and what is missing at the right
# class (orange). In hidden layers, units that are off ($a = 0$) get no error at all: ReLU has no slope there (5).

# %%
one, goal = x[:1], targets[:1]
seen = backpropagation.forward(layers, one)
deltas = [layer["bias"] for layer in backpropagation.backward(layers, seen, goal)]  # of one example (14) is δ itself
for activation, delta in zip(seen.activations[1:-1], deltas[:-1], strict=True):
    assert not delta[activation[0] == 0].any()

figure, panels = plt.subplots(2, 4, figsize=(10, 3.2), width_ratios=[1, 1.6, 1, 1.4])
names = ["input", "hidden 1", "hidden 2", "output"]
for axes, name, values in zip(panels[0], names, seen.activations, strict=True):
    side = 8 if name == "input" else values.size // 8
    if name == "output":
        axes.bar(range(10), values[0], color="C0")
        axes.set(xticks=range(10), ylim=(0, 1))
    else:
        axes.imshow(values[0].reshape(8, side), cmap="gray_r")
        axes.set_axis_off()
    axes.set_title(name)
for axes, values in zip(panels[1, 1:-1], deltas[:-1], strict=True):
    most = float(jnp.abs(values).max())
    axes.imshow(values.reshape(8, -1), cmap="PuOr", vmin=-most, vmax=most)
    axes.set_axis_off()
panels[1, -1].bar(range(10), deltas[-1], color=["C0" if value > 0 else "C1" for value in deltas[-1]])
panels[1, -1].set(xticks=range(10), ylim=(-1, 1), xlabel=f"class (this is a {int(labels[0])})")
panels[1, 0].text(0.5, 0.5, "δ, backward", ha="center", va="center")
panels[1, 0].set_axis_off()
plt.show()

# %% [markdown]
# ## It learns
#
# Gradient descent with these gradients, on mini-batches of 32 (18). Then the same network as the zoo's model `mlp`,
# whose gradients JAX makes, from the same weights and on batches of the same size: the two curves differ by the order
# of the batches alone.

# %%
epochs = 20
trained, losses = backpropagation.gradient_descent(
    layers, x, labels, learning_rate=0.1, epochs=epochs, batch_size=32, key=jax.random.key(1)
)

model = zoo.create_model("mlp", hidden_sizes=SIZES[1:-1], dropout_rate=0.0)
task = classification(model, optax.sgd(0.1))
state = task.init(jax.random.key(0), train)
state = state.replace(params=backpropagation.params_of(layers))  # a State is plain data: parts of it can be replaced
fitted = fit(task, digits, batch_size=32, epochs=epochs, state=state)

figure, axes = plt.subplots(figsize=(6, 3.2))
axes.plot(range(1, epochs + 1), losses, lw=3, color="C6", label="gradients by hand")
axes.plot([row["epoch"] for row in fitted.history], [row["loss"] for row in fitted.history], label="gradients by JAX")
axes.set(yscale="log", xlabel="epoch", ylabel="training loss (11)")
axes.legend()
plt.show()

test = digits.preprocess(digits.splits["test"][np.arange(len(digits.splits["test"]))])
ours = backpropagation.forward(trained, test["image"]).activations[-1].argmax(axis=-1) == test["label"]
accuracies = {"by hand": float(ours.mean()), "by JAX": evaluate(task, digits, fitted.state)["accuracy"]}
print(", ".join(f"{name} {accuracy:.1%}" for name, accuracy in accuracies.items()), "of the test pictures right")
assert min(accuracies.values()) > 0.94

# %% [markdown]
# ## The guide's network
#
# Section 2.4.3 trains the network with dropout and Adam for 50 epochs; these are the defaults of `mlp`. At first
# training lags behind validation, for dropout makes its task the harder one. Then it overtakes.

# %%
model = zoo.create_model("mlp", hidden_sizes=SIZES[1:-1])
task = classification(model, optax.adam(1e-3))
fitted = fit(task, digits, batch_size=32, epochs=50)

figure, panels = plt.subplots(1, 2, figsize=(9, 3))
for axes, metric in zip(panels, ("loss", "accuracy"), strict=True):
    epoch = [row["epoch"] for row in fitted.history]
    axes.plot(epoch, [row[metric] for row in fitted.history], label="training, with dropout")
    axes.plot(epoch, [row[f"validation_{metric}"] for row in fitted.history], label="validation")
    axes.set(xlabel="epoch", ylabel=metric)
panels[0].legend()
panels[1].set_ylim(0.6, 1.005)
plt.show()

# %% [markdown]
# These are the eight test pictures whose true digit got the least probability (7), with what was read (orange where
# wrong), and how sure the network was:

# %%
logits = model.apply(fitted.state.variables, test["image"])
probabilities = np.asarray(zoo.activations.softmax(logits))
read = probabilities.argmax(axis=-1)
hardest = np.argsort(probabilities[np.arange(len(read)), test["label"]])[:8]

figure, panels = plt.subplots(1, 8, figsize=(11, 2.1))
raw = digits.splits["test"][hardest]["image"]
for axes, index, image in zip(panels, hardest, raw, strict=True):
    axes.imshow(image[..., 0])
    color = "C0" if read[index] == test["label"][index] else "C1"
    axes.set_title(f"read {read[index]} ({probabilities[index].max():.0%})", fontsize=10, color=color)
    axes.set(xlabel=f"is {test['label'][index]}", xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color="C6")
    axes.grid(False)
plt.show()
print(f"{(read != test['label']).sum()} of {len(read)} are wrong")
assert (read == test["label"]).mean() > 0.95

# %% [markdown]
# ## Exercise
#
# The guide begins with weights of standard deviation 0.01: `backpropagation.init(key, SIZES, std=0.01)`. Draw the
# $\delta$ again. How large are those of the first layer now, and what does that do to the first epochs of training?
#
# **Where next.** Other ways down the slope: [03_optimizers](03_optimizers.ipynb). Gradients of your own network are
# checked against differences of the loss by `check_gradients`, in the [README](../README.md#as-a-library).
