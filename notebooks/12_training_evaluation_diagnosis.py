# %% [markdown]
# # Training, evaluation, diagnosis
#
# The craft: chapter 12 of *Deep Learning & Neural Networks: a comprehensive guide*. Numbers in parentheses are the
# guide's equations. How to find a learning rate, when to stop, what a score hides, and how to see what is wrong with a
# network that does not learn. It takes about half a minute on a CPU.

# %%
try:
    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . flaxzoo
    import zoo

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import data
from data import augment
from train import callbacks, loop
from train.inference.scores import ClassPredictions, class_report, confusion_matrix, top_label_bins
from train.measure.diagnosis import diagnose
from train.optimizers import optimizer
from train.schedules import schedule
from train.tasks import classification

LARGE = jax.default_backend() != "cpu"  # on an accelerator the network is wider
plt.style.use("train.measure.pictures")


def column(history, name):
    """One metric over the epochs."""
    return [row[name] for row in history]


# %% [markdown]
# ## Which learning rate?
#
# Train for a hundred steps, and let the rate rise from step to step, from far too small to far too large. At first
# nothing happens, then the loss falls, and in the end it flies away. A good rate is where the loss falls fastest.
# `find_rate` does this (Smith 2017) on a copy, and suggests the rate at which half of the way down is done.

# %%
digits = data.load("digits", flat=True, standardize=True, validation=0.1)
wide = (512, 256) if LARGE else (128, 64)
model = zoo.create_model("mlp", hidden_sizes=wide)
test = loop.find_rate(lambda rate: classification(model, optax.adam(rate)), digits, batch_size=32)
print(f"suggested: {test.suggestion:.4f}")

figure, axes = plt.subplots(figsize=(7, 3.2))
axes.semilogx(test.rates, test.losses, color="C6", label="loss of each step")
axes.semilogx(test.rates, test.smoothed, color="C0", lw=2, label="smoothed")
axes.axvline(test.suggestion, color="C1", label="suggested")
axes.set(xlabel="learning rate", ylabel="loss", ylim=(0, 2 * test.smoothed[0]))
axes.legend()
plt.show()
assert 1e-4 < test.suggestion < 1e-1

# %% [markdown]
# ## A rate that changes, and a gradient with a limit (section 12.1)
#
# Large steps find the valley, small ones its floor. So the rate falls while we train. The guide's schedule multiplies
# it by a factor again and again (73); half a cosine and one cycle are used more often today. And where a single batch
# gives a huge gradient, it is shortened to a limit, $\mathbf{g} := \min(1, \text{limit} / \|\mathbf{g}\|)\,\mathbf{g}$
# (74).

# %%
steps = 400
curves = {
    "exponential (73)": schedule("exponential", 1.0, steps, decay_factor=0.9, decay_steps=20),
    "cosine, after a warm-up": schedule("cosine", 1.0, steps, warmup_steps=40),
    "one cycle": schedule("one_cycle", 1.0, steps),
}
figure, axes = plt.subplots(figsize=(7, 3))
for (name, rate), color in zip(curves.items(), ("C5", "C0", "C1"), strict=True):
    axes.plot(jax.vmap(rate)(jnp.arange(steps)), color=color, lw=2, label=name)
axes.set(xlabel="step", ylabel="learning rate, of the highest")
axes.legend()
plt.show()
np.testing.assert_allclose(curves["exponential (73)"](100), 0.9 ** (100 / 20), rtol=1e-4)

gradient = jnp.array([3.0, 4.0])  # of length 5
clipped, _ = optax.clip_by_global_norm(1.0).update(gradient, optax.EmptyState())
np.testing.assert_allclose(clipped, min(1, 1.0 / 5) * gradient, rtol=1e-5)
print("a gradient of length 5, clipped to 1:", clipped)

# %% [markdown]
# ## When to stop
#
# With few examples a network knows them by heart, and goes on to worse. Here it has 200 images. We train it three
# times: to the end; stopped once the validation loss has not got better for ten epochs; and with images that are
# shifted and turned a little, anew in each step. `restore_best` gives back the weights of the best evaluation.

# %%
few = data.load("digits", flat=True, validation=1237)
task = classification(
    zoo.create_model("mlp", hidden_sizes=wide, dropout_rate=0.0), optimizer("adam", 2e-3, clip_norm=1.0)
)
moved = partial(augment.apply, augment.policy(rotation=10, shift=0.1, zoom=0.1))
stop = callbacks.early_stopping("validation_loss", patience=10)
options = {"batch_size": 20, "epochs": 60}
runs = {
    "to the end": loop.fit(task, few, **options),
    "stopped early": loop.fit(task, few, callbacks=[stop], restore_best="validation_loss", **options),
    "images moved": loop.fit(task, few, augment=moved, restore_best="validation_loss", **options),
}

figure, panels = plt.subplots(1, 2, figsize=(11, 3.4), sharey=True)
for axes, name in zip(panels, ("to the end", "images moved"), strict=True):
    history = runs[name].history
    axes.plot(column(history, "epoch"), column(history, "loss"), color="C0", label="training")
    axes.plot(column(history, "epoch"), column(history, "validation_loss"), color="C1", label="validation")
    axes.set(xlabel="epoch", title=name, ylim=(0, 1))
panels[0].axvline(column(runs["stopped early"].history, "epoch")[-1], color="C5", ls="--", label="would stop here")
panels[0].set_ylabel("loss")
panels[0].legend()
plt.show()

reached = {name: loop.evaluate(task, few, run.state, split="test") for name, run in runs.items()}
for name, found in reached.items():
    epochs = column(runs[name].history, "epoch")[-1]
    print(f"{name:14} {epochs:3.0f} epochs, test loss {found['loss']:.3f}, accuracy {found['accuracy']:.1%}")
assert len(runs["stopped early"].history) <= len(runs["to the end"].history)
assert reached["images moved"]["loss"] < reached["to the end"]["loss"]

# %% [markdown]
# ## What a score hides (section 12.2)
#
# Accuracy is one number for all classes (75). The confusion matrix tells which digit is taken for which. From its rows
# and columns follow precision (of those that I call a 3, how many are one?), recall (how many of the 3s do I find?) and
# their mean F1 (76–78).

# %%
state = runs["images moved"].state
examples = few.splits["test"][np.arange(len(few.splits["test"]))]
logits = jax.jit(zoo.create_model("mlp", hidden_sizes=wide).apply)(state.variables, few.preprocess(examples)["image"])
found = ClassPredictions.of_logits(examples["label"], np.asarray(logits), few.spec.classes)
matrix, report = confusion_matrix(found), class_report(found)

right = np.diag(matrix)
np.testing.assert_allclose([report[name]["precision"] for name in few.spec.classes], right / matrix.sum(axis=0))
np.testing.assert_allclose([report[name]["recall"] for name in few.spec.classes], right / matrix.sum(axis=1))

figure, panels = plt.subplots(1, 2, figsize=(11, 4.4))
panels[0].imshow(np.sqrt(matrix), cmap="Blues")
for (row, place), count in np.ndenumerate(matrix):
    if count:
        panels[0].annotate(count, (place, row), ha="center", va="center", color="white" if count > 15 else "C4")
panels[0].set(xlabel="read as", ylabel="is", xticks=range(10), yticks=range(10), title="confusion matrix")
panels[0].grid(False)

count, confident, share = top_label_bins(found)
panels[1].plot([0, 1], [0, 1], color="C6")
panels[1].scatter(confident, share, s=4 * count + 10, color="C0", zorder=2)
panels[1].set(xlabel="how sure it is", ylabel="how often it is right", title="calibration", xlim=(0, 1), ylim=(0, 1.03))
plt.show()

worst = min(few.spec.classes, key=lambda name: report[name]["f1-score"])
print(f"accuracy {np.mean(found.predicted == found.labels):.1%}; the hardest digit is {worst}:", end=" ")
print(", ".join(f"{name} {report[worst][name]:.2f}" for name in ("precision", "recall", "f1-score")))

# %% [markdown]
# On the right is another question: when the network says "90 %", is it right nine times of ten? Dots on the line would
# be honest; dots below it mean that the network is too sure. The size of a dot is the number of images.
#
# ## What is wrong? (section 12.4)
#
# Some networks do not learn, and the loss does not say why. `diagnose` looks into the layers during a train step, and
# tells in words what it finds. Here are four patients.

# %% tags=["varies"]
deep = {"hidden_sizes": (64,) * 8, "dropout_rate": 0.0}
patients = {
    "deep, with sigmoid": (zoo.create_model("mlp", activation="sigmoid", **deep), optax.adam(1e-3)),
    "deep, with ReLU": (zoo.create_model("mlp", activation="relu", **deep), optax.adam(1e-3)),
    "steps too long": (zoo.create_model("mlp", dropout_rate=0.0), optax.sgd(3.0)),
    "huge weights and tanh": (
        zoo.create_model("mlp", activation="tanh", init_std=2.0, dropout_rate=0.0),
        optax.adam(1e-3),
    ),
}
layers, illnesses = {}, {}
for name, (network, tx) in patients.items():
    task = classification(network, tx)
    try:
        state, history = loop.fit(task, digits, batch_size=32, epochs=2)
    except loop.DivergedError as error:
        print(f"{name}: {error}\n")
        illnesses[name] = {"diverged"}
        continue
    diagnosis = diagnose(task, digits, state, batch_size=32, history=history)
    layers[name] = diagnosis.layers
    illnesses[name] = {finding.illness for finding in diagnosis.findings}
    words = [finding.words for finding in diagnosis.findings[:2]] or ["nothing is wrong"]
    print(f"{name}: accuracy {history[-1]['validation_accuracy']:.0%}", *words, sep="\n  - ", end="\n\n")

assert "vanishing" in illnesses["deep, with sigmoid"]
assert "vanishing" not in illnesses["deep, with ReLU"]
assert illnesses["steps too long"] & {"diverged", "rate too high", "dead", "exploding"}
assert "saturated" in illnesses["huge weights and tanh"]

# %% [markdown]
# The first patient in a picture: how large the gradient is at each layer, from the first on the left to the last. At
# each sigmoid it loses at least three quarters (3), for its slope is never above 1/4. The first layers learn next to
# nothing.

# %%
figure, axes = plt.subplots(figsize=(7, 3.2))
for name, color in (("deep, with sigmoid", "C1"), ("deep, with ReLU", "C0")):
    dense = [layer for layer in layers[name] if layer.kind == "Dense"]
    axes.semilogy(
        range(1, len(dense) + 1), [layer.output_gradient_norm for layer in dense], "o-", color=color, label=name
    )
axes.set(xlabel="layer", ylabel="size of the gradient")
axes.legend()
plt.show()

# %% [markdown]
# ## Exercise
#
# Heal the first patient without taking its sigmoids away: `norm="batch"` in its options, or a larger `init_std`. Does
# the accuracy follow the picture?
#
# ## Where next
#
# `zoo diagnose RUN`, `zoo lr-find RECIPE` and `zoo evaluate RUN --out report` do all of this on the command line. A
# recipe takes `patience=10`, `augmentation=guide` and `optimizer_options.clip_norm=1`. [Notebook
# 13](13_tuning_and_populations.ipynb) lets the machine look for the settings.
