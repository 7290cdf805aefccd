# %% [markdown]
# # Project: image classification
#
# The first project of the guide (section 14.1), from a folder of pictures to a network that is used: pictures that are
# held out, others that are changed at random, weights that come from other pictures, a learning rate that falls on a
# plateau, training that stops by itself, the best checkpoint, TensorBoard, a report. All of it is one recipe,
# `efficientnet_folder`.
#
# On a CPU we take a narrow EfficientNet and few epochs, on an accelerator the recipe as it stands. The pictures are a
# part of CIFAR-10 if the folder `cifar10_jpg_subset` is in `ZOO_DATA_DIR`, else the digits that come with scikit-learn.

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
import matplotlib.pyplot as plt
import numpy as np

import data
from train.inference import examine, load_with_data
from train.recipe import get_recipe, override
from train.run import train
from train.runs.preview import augmented

LARGE = jax.default_backend() != "cpu"  # on an accelerator: EfficientNet-B0, as in the guide
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## Two recipes
#
# A recipe is plain data, and `override` changes it as `zoo train NAME FIELD=VALUE` does. The first one trains on five
# classes, the second starts from its weights and learns five others. Names and values are checked before anything
# long begins.

# %%
temporary = tempfile.TemporaryDirectory()
runs = Path(temporary.name)
small = ['model_options={"width": 0.5, "stage_sizes": [1, 1, 1]}', "data_options.image_size=32", "batch_size=25"]
settings = ["precision=bfloat16"] if LARGE else small
first = override(get_recipe("pretrain_efficientnet_folder"), [*settings, *([] if LARGE else ["epochs=8"])])
second = override(
    get_recipe("efficientnet_folder"), [*settings, f"weights={runs / 'first'}", *([] if LARGE else ["epochs=8"])]
)
try:
    data.load(first.data, **first.data_options)
except FileNotFoundError:
    print("the pictures of CIFAR-10 are not here: we take digits, both times the same")
    digits = ["data=digits", 'data_options={"upsample": 4}', "augmentation=shift", "epochs=3"]
    first, second = override(first, digits), override(second, digits)

print(zoo.create_model(first.model, **first.model_options, num_classes=5))

# %% [markdown]
# ## What the network sees
#
# Each row is one training picture, and what it is in five epochs: shifted, turned and mirrored, anew each time. That is
# cheaper than more pictures, and it is the best of all regularisers (section 4).

# %%
pictures = augmented(second, rows=4, columns=5)
figure, panels = plt.subplots(4, 6, figsize=(5, 3.4))
for axes, picture in zip(panels.flat, pictures.reshape(-1, *pictures.shape[2:]), strict=True):
    axes.imshow(np.clip(picture, 0, 1).squeeze(), cmap="gray_r")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
plt.show()

# %% [markdown]
# ## Training
#
# `train` is what `zoo train` calls. The run folder has the recipe, the history, curves, checkpoints, TensorBoard's
# events and a report; were the program killed, the same call with `resume=True` would go on.

# %%
reports = {name: train(recipe, runs / name, progress=False) for name, recipe in (("first", first), ("second", second))}
print(*sorted(path.name for path in (runs / "second").iterdir() if not path.name.startswith(".")), sep="\n")

# %% [markdown]
# The second network begins with what the first one knows, but for its last layer. Against random weights,
# [transfer learning](11_transfer_learning.ipynb) compares it.

# %%
figure, axes = plt.subplots(figsize=(7, 3.4))
for name, color, label in (("first", "C5", "five classes, from nothing"), ("second", "C0", "five others, from these")):
    history = np.genfromtxt(runs / name / "history.csv", delimiter=",", names=True)
    axes.plot(history["epoch"], history["validation_accuracy"], color=color, lw=2, label=label)
axes.set(xlabel="epoch", ylabel="validation accuracy")
axes.legend(loc="lower right")
plt.show()

print(f"{reports['second']['test_accuracy']:.1%} of the test pictures")
assert reports["second"]["test_accuracy"] > 1.5 / 5

# %% [markdown]
# ## The report
#
# The test split is looked at once, with the best checkpoint. The confusion matrix tells which classes are taken for
# which (section 12.2), the pictures where the network was most sure and wrong. `zoo evaluate RUN --out FOLDER` writes
# these and more.

# %%
run = load_with_data(runs / "second")
judged = examine(run, "test")
names = run.dataset.spec.classes
actual, told, probabilities, _ = judged.predictions
counts = np.zeros((len(names), len(names)), int)
np.add.at(counts, (actual, told), 1)

figure, axes = plt.subplots(figsize=(4.2, 3.8))
axes.imshow(counts / counts.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
for row, column in np.ndindex(counts.shape):
    axes.text(column, row, counts[row, column], ha="center", va="center", color="white" if row == column else "C4")
axes.set_xticks(range(len(names)), names)
axes.set_yticks(range(len(names)), names)
axes.set(xlabel="told", ylabel="actual")
axes.grid(False)
plt.show()
assert abs(counts.trace() / counts.sum() - judged.report["test_accuracy"]) < 1e-6

# %%
wrong = np.flatnonzero(told != actual)
worst = wrong[np.argsort(-probabilities[wrong, told[wrong]])][:6]
examples = run.dataset.splits["test"][worst]["image"]
figure, panels = plt.subplots(1, 6, figsize=(9, 2))
for axes in panels:
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
for axes, index, picture in zip(panels, worst, examples, strict=False):
    axes.imshow(picture.squeeze(), cmap="gray_r")
    axes.set_title(f"{names[actual[index]]}, told {names[told[index]]}\n({probabilities[index].max():.0%})", fontsize=8)
plt.show()

# %% [markdown]
# ## Exercise
#
# Train the last layer alone, as the guide does: `trained_layers=1` of the second recipe. Why is that worse here, where
# the first run saw 900 pictures, and good with ImageNet's weights (`weights=timm/efficientnet_b0.ra_in1k`)?
#
# ## Where next
#
# With pictures of your own: `zoo train efficientnet_folder data=folder:PICTURES weights=efficientnet_b0`. The other
# project is [the generation of text](19_text_generation.ipynb). All recipes stand in the
# [table of recipes](../README.md#on-the-command-line).

# %%
temporary.cleanup()
