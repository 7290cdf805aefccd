# %% [markdown]
# # Famous networks, and how to know that they are right
#
# From LeNet-5 to EfficientNet: eight networks that each changed what came after. LeNet-5 has 61,706 parameters, VGG-16
# 138 million; ResNet-50 has a fifth of those and is better, for its blocks compute $\mathbf{H}(\mathbf{x}) =
# \mathcal{F}(\mathbf{x}) + \mathbf{x}$ (38), so that fifty layers can be trained. A zoo must not only have them. They
# must compute what the published ones compute, to the last digit: this notebook shows how one finds out. Section 5.4 of
# the guide.

# %%
try:
    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . flaxzoo
    import zoo

# %%
import importlib.util
import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from safetensors.numpy import save_file

from zoo.summary import flops, layers

LARGE = jax.default_backend() != "cpu"  # on a GPU or a TPU: receptive fields at full resolution
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## Size and work
#
# A model's card knows its parameters. Nothing is computed for that: JAX follows shapes alone. XLA counts the operations
# of one inference; a multiply-add is two.

# %%
years = {
    "lenet5": 1998,
    "alexnet": 2012,
    "vgg16": 2014,
    "resnet18": 2015,
    "resnet50": 2015,
    "densenet121": 2017,
    "mobilenet_v3_large": 2019,
    "efficientnet_b0": 2019,
}
table = {}
print(f"{'network':20}{'year':>5}{'parameters':>13}{'GFLOPs':>9}{'convolutions':>14}{'dense':>7}")
for name, year in years.items():
    card, model = zoo.model_card(name), zoo.create_model(name)
    kinds = [layer.kind for layer in layers(model, card.example())]
    table[name] = card.num_parameters, flops(model, card.example()) / 1e9
    counts = f"{kinds.count('Conv'):>14}{kinds.count('Dense'):>7}"
    print(f"{name:20}{year:>5}{card.num_parameters:>13,}{table[name][1]:>9.3f}{counts}")

figure, axes = plt.subplots(figsize=(7, 4))
for name, (parameters, work) in table.items():
    axes.plot(parameters, work, "o", ms=9, color="C0" if years[name] <= 2014 else "C1")
    left = name in ("densenet121", "efficientnet_b0", "mobilenet_v3_large")
    options = {"xytext": (-8 if left else 8, -3), "ha": "right" if left else "left", "fontsize": 9}
    axes.annotate(f"{name} {years[name]}", (parameters, work), textcoords="offset points", **options)
axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="GFLOPs for one picture", xlim=(3e4, 3e9))
plt.show()
assert table["resnet50"][0] < table["vgg16"][0] / 5
assert table["efficientnet_b0"][1] < table["resnet50"][1] / 8

# %% [markdown]
# ## Residual blocks (38)
#
# A block of the zoo's ResNets adds its input to what two convolutions make of it. The last scale in a block begins at
# zero (Goyal et al. 2017), so that $\mathcal{F} = 0$ and $\mathbf{H}(\mathbf{x}) = \mathbf{x}$: at the start, the
# network is a shallow one. Depth comes in as it learns.
#
# That can be seen. The gradient of one unit in the middle of a feature map, by the picture, is the part of the picture
# that the unit depends on: its receptive field. Above at the start, below with all scales set to 1, as later in
# training.

# %%
side = 448 if LARGE else 224
resnet = zoo.create_model("resnet18")
image = jax.random.normal(jax.random.key(0), (1, side, side, 3))
start = jax.jit(resnet.init)(jax.random.key(1), image)
deep = jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.ones_like(leaf) if "'scale'" in jax.tree_util.keystr(path) else leaf, start
)
stages = ("stem", "stage1", "stage2", "stage3", "stage4")


@jax.jit
def fields(variables):
    """How much each pixel counts for the unit in the middle, `[stage, height, width]`."""

    def middle(image):
        _, seen = resnet.apply(variables, image, mutable=["intermediates"])
        maps = [seen["intermediates"][stage] for stage in stages]
        return jnp.stack([m[0, m.shape[1] // 2, m.shape[2] // 2].sum() for m in maps])

    return jnp.abs(jax.jacrev(middle)(image)[:, 0]).max(axis=-1)


figure, grid = plt.subplots(2, 5, figsize=(10, 4.4))
widths = {}
for row, (name, variables) in zip(grid, (("start", start), ("all scales 1", deep)), strict=True):
    for axes, stage, field in zip(row, stages, np.asarray(fields(variables)), strict=True):
        rows = np.flatnonzero(field.max(axis=1))
        widths[name, stage] = int(rows[-1] - rows[0] + 1)
        axes.imshow((field / field.max()) ** 0.3, cmap="magma")
        axes.set_title(f"{stage}: {widths[name, stage]} pixels")
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
    row[0].set_ylabel(name)
plt.show()
assert widths["start", "stage1"] == widths["start", "stem"] < widths["all scales 1", "stage1"]

# %% [markdown]
# The widths follow from (34) read backwards: a filter $f$ adds $f - 1$ steps of the strides before it. For `stage1`:
# the stem sees 11 pixels in steps of 4, and four 3×3 convolutions add $4 \cdot 2 \cdot 4$:

# %%
width, stride = 1, 1
for f, s in [(7, 2), (3, 2)]:
    width, stride = width + (f - 1) * stride, stride * s
assert widths["start", "stem"] == width
for f in [3, 3, 3, 3]:
    width += (f - 1) * stride
assert widths["all scales 1", "stage1"] == width
print(f"stem and stage1: {width} pixels")

# %% [markdown]
# ## Weights that others have trained
#
# `zoo.pretrained.load("resnet50", "timm/resnet50.a1_in1k")` takes weights from the hub. It works the same with a file:
# a model's tensors by their names in timm or torchvision, as safetensors or as what `torch.save` wrote. Here such a
# file is made on the spot. The rules that say which name and which order of axes a tensor has work in both directions.

# %%
picture = jax.random.normal(jax.random.key(2), (2, 64, 64, 3))
with tempfile.TemporaryDirectory() as folder:
    tensors = zoo.pretrained.to_torch("resnet18", deep)
    save_file(tensors, Path(folder) / "model.safetensors")
    loaded, variables = zoo.pretrained.load("resnet18", Path(folder) / "model.safetensors")

for name in ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.running_mean", "fc.weight"):
    print(f"{name:28} {tensors[name].shape}")
np.testing.assert_array_equal(loaded.apply(variables, picture), resnet.apply(deep, picture))

# %% [markdown]
# ## Parity
#
# A file that loads proves little. A wrong ε, or padding on the other side, loads without complaint and costs accuracy
# ever after. So the zoo's tests compare outputs with those of PyTorch, timm and Keras, on random weights *and random
# batch statistics*. The comparison for one network, where timm is installed:

# %% tags=["varies"]
if importlib.util.find_spec("timm"):
    import torch

    from train.measure.peers.pytorch_networks import import_timm

    warnings.filterwarnings("ignore", message="IProgress not found")  # timm loads a progress bar
    timm = import_timm(torch)  # as `import timm`, beside any build of PyTorch
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", zero_init_last=False).eval()
    for name, buffer in theirs.named_buffers():  # means of 0 and variances of 1 would hide a mistake
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    ours, variables = zoo.pretrained.from_torch("resnet18", theirs.state_dict())
    with torch.no_grad():
        expected = theirs(torch.from_numpy(np.moveaxis(np.array(picture), -1, 1))).numpy()
    assert expected.std(axis=0).max() > 0.1  # the logits depend on the picture
    difference = np.abs(np.asarray(ours.apply(variables, picture)) - expected).max() / np.abs(expected).max()
    print(f"resnet18 differs from timm's by {difference:.0e} of the largest logit")
    assert difference < 1e-5
else:
    print("timm is not installed here: pip install timm, and run this cell again")

# %% [markdown]
# ## Exercise
#
# `zoo.resnet.ResNet` has a field `epsilon`. Create `resnet18` with ten times the ε of batch norm, give it the same
# variables, and measure the difference. Would you have seen it in the accuracy? Then try padding: which of the networks
# above use `SAME` at stride 2, and which pad by a number as PyTorch does?
#
# **Where next.** Networks for sequences: [07_recurrent_networks](07_recurrent_networks.ipynb). All models, their counts
# and papers, and the largest differences that were measured: the [README](../README.md#models).
