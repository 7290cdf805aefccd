# %% [markdown]
# # Quick start
#
# Create a model, train it, see what it does, save it: everything once, in a minute on two CPU cores. The same cells run
# on a GPU and on the eight cores of a TPU.
#
# The model is a network that reads handwritten digits. It gives a number for each class, and softmax (7) makes
# probabilities $\hat y$ of them. Training makes the cross-entropy (11), $-\log \hat y$ of the right class, small by
# following its gradient, here with Adam (23–26). Numbers in parentheses are equations of *Deep Learning & Neural
# Networks: A Comprehensive Guide*, in these notebooks "the guide".

# %%
try:
    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . flaxzoo
    import zoo

# %%
import tempfile

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import data
from train import parallel
from train.loop import evaluate, fit
from train.tasks import classification

LARGE = jax.default_backend() != "cpu"  # on a GPU or a TPU there is time for more
PLAN = "jit"  # or "fsdp", or "pmap"
plt.style.use("train.measure.pictures")
print(f"backend {jax.default_backend()}, number of devices {jax.device_count()}")

# %% [markdown]
# ## A model
#
# Models have names: `zoo.list_models()` tells all of them. A model is a Flax module without parameters in it. `init`
# makes the parameters, `apply` takes them. Nothing is hidden: what goes in and what comes out are arrays.

# %%
model = zoo.create_model("lenet5")
card = zoo.model_card("lenet5")
variables = model.init(jax.random.key(0), card.example())
logits = model.apply(variables, card.example(batch_size=4))

print(f"{card.num_parameters:,} parameters, {card.paper}")
print(f"images {card.example(4).shape} → logits {logits.shape}")

# %% [markdown]
# ## Data
#
# Data sets have names too. `digits` comes with scikit-learn, so that nothing is downloaded: 1797 pictures of 8×8 grey
# levels. LeNet-5 wants 32×32, so each pixel is repeated. A tenth of the training pictures is put aside for validation.

# %%
digits = data.load("digits", upsample=4, validation=0.1)
print(digits)
print({name: len(split) for name, split in digits.splits.items()})

some = digits.preprocess(digits.splits["train"][np.arange(20)])
figure, panels = plt.subplots(2, 10, figsize=(9, 2.2))
for axes, image, label in zip(panels.flat, some["image"], some["label"], strict=True):
    axes.imshow(image[..., 0])
    axes.set_title(f"{label}", color="C5")
    axes.set_axis_off()
plt.show()

# %% [markdown]
# ## Training
#
# A **task** pairs the model with a loss and an optimizer. It is three pure functions: `init`, `train_step` and
# `eval_step`. A **plan** says how such functions meet the devices: `jit` cuts the batch, `fsdp` cuts the parameters as
# well, `pmap` runs a copy on each device. Change `PLAN` above and run on: that is all there is to it, also on a machine
# with one device. `fit` does the rest.

# %%
task = classification(model, optax.adam(2e-3))
fitted = fit(task, digits, batch_size=64, epochs=40 if LARGE else 12, plan=parallel.plan(PLAN))

figure, panels = plt.subplots(1, 2, figsize=(9, 3))
for axes, metric in zip(panels, ("loss", "accuracy"), strict=True):
    epochs = [row["epoch"] for row in fitted.history]
    axes.plot(epochs, [row[metric] for row in fitted.history], label="training")
    axes.plot(epochs, [row[f"validation_{metric}"] for row in fitted.history], label="validation")
    axes.set(xlabel="epoch", ylabel=metric)
panels[0].legend()
plt.show()

# %% [markdown]
# ## What it can do
#
# The test pictures were not looked at so far. `zoo.fuse` prepares a model and its variables for inference; it gives a
# function of images. Shown are the pictures that the network is least sure of, with what it reads (orange where that is
# wrong), and the probability that it gives to this.

# %%
metrics = evaluate(task, digits, fitted.state)
print(f"{metrics['accuracy']:.1%} of the {len(digits.splits['test'])} test pictures are read right")
assert metrics["accuracy"] > 0.93

test = digits.preprocess(digits.splits["test"][np.arange(len(digits.splits["test"]))])
probabilities = np.asarray(zoo.activations.softmax(zoo.fuse(model, fitted.state.variables)(test["image"])))
unsure = probabilities.max(axis=-1).argsort()[:10]

figure, panels = plt.subplots(1, 10, figsize=(11, 1.8))
for axes, index in zip(panels, unsure, strict=True):
    read = probabilities[index].argmax()
    axes.imshow(test["image"][index, ..., 0])
    axes.set_title(f"{read}: {probabilities[index, read]:.0%}", color="C0" if read == test["label"][index] else "C1")
    axes.set_axis_off()
plt.show()

# %% [markdown]
# ## The plans agree
#
# Twenty steps of gradient descent (18) under each plan, from the same start, on the same batches. The parameters differ
# by rounding only, on one device as on eight. (To see eight on a CPU, set
# `XLA_FLAGS=--xla_force_host_platform_device_count=8` before Python starts.)

# %%
descent = classification(model, optax.sgd(0.1))
ends = {
    name: fit(descent, digits, batch_size=64, steps=20, plan=parallel.plan(name), validation=None).state.params
    for name in ("jit", "fsdp", "pmap")
}
for name, params in ends.items():
    apart = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), params, ends["jit"])
    print(f"{name:5} differs from jit by {max(jax.tree.leaves(apart)):.0e}")
    assert max(jax.tree.leaves(apart)) < 1e-4

# %% [markdown]
# ## Saving and restoring
#
# A saved model is a folder that knows the model's name, its options and its weights. They come back to the bit.

# %%
with tempfile.TemporaryDirectory() as folder:
    zoo.save_model(f"{folder}/reader", "lenet5", fitted.state.variables)
    restored, variables = zoo.load_model(f"{folder}/reader")

jax.tree.map(np.testing.assert_array_equal, variables, fitted.state.variables)
again = zoo.activations.softmax(zoo.fuse(restored, variables)(test["image"]))
np.testing.assert_allclose(again, probabilities, atol=1e-5)
print(restored)

# %% [markdown]
# ## Exercise
#
# Let another network read the digits: `zoo.list_models("*net*")` has some. `mini_resnet` is small, and takes images of
# any size. How many parameters does it have, and how many epochs does it need for 97 %?
#
# **Where next.** What an artificial neuron is: [01_perceptron_and_activations](01_perceptron_and_activations.ipynb).
# The same from the command line, `zoo train` and `zoo predict`, and the functions of these cells in more detail: the
# [README](../README.md#as-a-library). What a trained network is good for outside of Python's notebooks:
# [20_export_and_serve](20_export_and_serve.ipynb).
