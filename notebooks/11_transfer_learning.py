# %% [markdown]
# # Transfer learning
#
# What one task has taught helps with the next: chapter 11 of *Deep Learning & Neural Networks: a comprehensive guide*.
# We train a network on five classes of pictures. Then it gets five other classes, and only ten labelled pictures of
# each. It takes about a minute on a CPU.
#
# The pictures are a part of CIFAR-10 if the folder `cifar10_jpg_subset` is in `ZOO_DATA_DIR`, else the digits that come
# with scikit-learn.

# %%
try:
    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . flaxzoo
    import zoo

# %%
from functools import partial

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.decomposition import PCA

import data
from data import augment
from train import loop
from train.freezing import freeze
from train.tasks import classification
from train.transfer import frozen_layers

LARGE = jax.default_backend() != "cpu"  # on an accelerator we train longer
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## Two tasks
#
# The old task has many labels. The new task has other classes, and of its training pictures 50 with a label, ten of
# each class. The others are the validation split: in life we would not have them.


# %%
def halves():
    """Data sets of the old and of the new classes."""
    options = {"image_size": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    kinds = (("airplane", "automobile", "bird", "cat", "deer"), ("dog", "frog", "horse", "ship", "truck"))
    try:
        return [
            data.load("folder:cifar10_jpg_subset", classes=classes, validation=held, **options)
            for classes, held in zip(kinds, (100, 950), strict=True)
        ]
    except FileNotFoundError:
        print("the pictures of CIFAR-10 are not here: we take digits")
    digits = data.load("digits", upsample=4)
    sets = []
    for first, labelled in ((0, None), (5, 50)):
        splits = {}
        for split, source in digits.splits.items():
            examples = source[np.arange(len(source))]
            mine = (examples["label"] >= first) & (examples["label"] < first + 5)
            image = digits.preprocess({"image": examples["image"][mine]})["image"]
            splits[split] = {"image": image, "label": examples["label"][mine] - first}
        held = len(splits["train"]["label"]) - labelled if labelled else 70
        names = tuple("0123456789"[first : first + 5])
        sets.append(data.from_arrays(**splits["train"], test=splits["test"], validation=held, classes=names))
    return sets


old, new = halves()
for name, each in (("old", old), ("new", new)):
    print(f"{name} classes: {', '.join(each.spec.classes)}; {len(each.splits['train'])} labelled pictures")

examples = new.splits["test"][np.arange(len(new.splits["test"]))]
figure, panels = plt.subplots(2, 10, figsize=(9, 2.1))
for row, each in zip(panels, (old, new), strict=True):
    pictures = each.splits["train"][np.arange(len(each.splits["train"]))]
    chosen = np.concatenate([np.flatnonzero(pictures["label"] == number)[:2] for number in range(5)])
    for axes, index in zip(row, chosen, strict=True):
        axes.imshow(pictures["image"][index], cmap="gray_r")
        axes.set_title(each.spec.classes[pictures["label"][index]], fontsize=7)
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
plt.show()

# %% [markdown]
# ## The old task
#
# The guide's convolutional network (section 5.3), on pictures that are shifted and mirrored at random.

# %%
model = zoo.create_model("cnn", features=(16, 32, 64), num_classes=5, dropout_rate=0.3)
moved = partial(augment.apply, augment.policy("cifar", flip=old.name.startswith("folder")))
task = classification(model, optax.adam(2e-3))
first = loop.fit(task, old, batch_size=50, epochs=60 if LARGE else 16, augment=moved)
accuracy = loop.evaluate(task, old, first.state, split="test")["accuracy"]
print(f"old classes: {accuracy:.1%} of the test pictures")

# %% [markdown]
# ## What it knows of the new classes
#
# Nobody has shown them to it. But its last hidden layer, the features, already tells some of them apart. Each point is
# a test picture of a new class. On the left the pixels, on the right the features, both in the plane of their two main
# directions.

# %%
images = new.preprocess(examples)["image"]
features = model.clone(num_classes=0).apply(first.state.variables, images)
figure, panels = plt.subplots(1, 2, figsize=(11, 4))
palette = plt.get_cmap("tab10").colors
for axes, points, title in zip(panels, (images, features), ("pixels", "features of the old network"), strict=True):
    flat = PCA(2, random_state=0).fit_transform(np.asarray(points).reshape(len(points), -1))
    for number, name in enumerate(new.spec.classes):
        axes.scatter(*flat[examples["label"] == number].T, s=12, color=palette[number], label=name)
    axes.set(title=title, xticks=[], yticks=[])
panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## Three ways to begin (section 11.1)
#
# - **From nothing**: random weights.
# - **Feature extraction**: the old weights stay as they are, to the bit; a new last layer is trained. `frozen` tells
#   the task, which then computes no gradients for them, and their batch norm uses its old statistics.
# - **Fine-tuning**: once the new layer knows something, the convolutions are set free too, at a small rate. Were it
#   still random, it would wash away what they know. Batch norm stays frozen: of so few pictures its statistics would be
#   noise.

# %%
head = "Dense_1"  # the last layer: what it knows is of the old classes
known = {**first.state.variables, "params": {k: v for k, v in first.state.params.items() if k != head}}
but_the_head = frozen_layers(model, images[:1], trained_layers=1)
norms = frozen_layers(model, images[:1], layer_rates={"BatchNorm_*": 0})
extraction = classification(model, freeze(optax.adam(1e-2), but_the_head), frozen=but_the_head, start=known)
scratch = classification(model, optax.adam(2e-3))

runs = {"from nothing": [], "feature extraction": [], "fine-tuning": []}
for seed in range(5 if LARGE else 1):
    options = {"batch_size": 10, "seed": seed}
    runs["from nothing"].append(loop.fit(scratch, new, epochs=16, **options))
    runs["feature extraction"].append(loop.fit(extraction, new, epochs=8, **options))
    tuning = classification(
        model,
        freeze(optax.adam(5e-4), norms),
        frozen=norms,
        start=runs["feature extraction"][-1].state.variables,
    )
    runs["fine-tuning"].append(loop.fit(tuning, new, epochs=8, **options))

figure, axes = plt.subplots(figsize=(7.5, 3.6))
reached, shown = {}, {}
for (name, each), color in zip(runs.items(), ("C5", "C1", "C0"), strict=True):
    curves = np.array([[row["validation_accuracy"] for row in run.history] for run in each])
    epochs = np.array([row["epoch"] for row in each[0].history]) + (8 if name == "fine-tuning" else 0)
    axes.plot(epochs, curves.mean(axis=0), color=color, lw=2, label=name)
    axes.plot(epochs, curves.T, color=color, lw=0.7, alpha=0.5)
    shown[name] = curves[:, -1].mean()
    reached[name] = np.mean([loop.evaluate(scratch, new, run.state, split="test")["accuracy"] for run in each])
axes.axhline(1 / 5, color="C6", lw=1)
axes.set(xlabel="epoch", ylabel="validation accuracy")
axes.legend(loc="lower right")
plt.show()
print({name: f"{value:.1%}" for name, value in reached.items()}, "of the test pictures")

unchanged = runs["feature extraction"][0].state.params["Conv_0"]["kernel"]
np.testing.assert_array_equal(unchanged, first.state.params["Conv_0"]["kernel"])
assert shown["fine-tuning"] > shown["feature extraction"] - 0.03
assert shown["fine-tuning"] > shown["from nothing"] + 0.01 or old.name == "arrays"

# %% [markdown]
# Of the pictures, fifty are too few to learn from nothing what a dog is. The old network has seen other animals, and
# knows edges, fur and sky. Of digits, fifty are enough: there a network from nothing is as good in the end. Transfer
# pays where labels are few for what there is to learn.
#
# ## Exercise
#
# Give the new task more labels: `validation=500` in the place of 950. Does the old network still help? Then freeze only
# the first two convolutions, by wildcard: `layer_rates={"Conv_0": 0, "Conv_1": 0}` of `frozen_layers`.
#
# ## Where next
#
# Weights that were trained on millions of pictures help far more than these: `zoo.pretrained.load("resnet50",
# "timm/resnet50.a1_in1k", num_classes=5, head="new")`. With pictures of your own, a folder for each class: `zoo train
# finetune data=folder:PICTURES weights=…`. [Notebook 18](18_image_classification.ipynb) does the same with
# EfficientNet, from data to report.
