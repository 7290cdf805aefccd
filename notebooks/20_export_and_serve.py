# %% [markdown]
# # Restore, export and serve
#
# A trained network is worth something when others can use it: tomorrow, in another program, on another machine. There
# are three ways. Its *run folder* goes on training to the same bits, on any devices. Its *weights* come back as a model
# and its variables. And an *exported* file holds the computation itself, $\text{softmax}(f(\mathbf{x}))$ (7) with all
# weights and the preprocessing inside, and needs JAX alone.

# %%
try:
    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . flaxzoo
    import zoo

# %%
import io
import json
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from train.export import export
from train.inference import load, predict
from train.recipe import get_recipe, override
from train.run import train

LARGE = jax.default_backend() != "cpu"  # on a GPU or a TPU: larger batches in the last picture
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## A run
#
# `zoo train lenet5_digits` on the command line does the same as these lines. The recipe is plain data. The folder keeps
# all that is needed to go on, and a report of what was reached.

# %%
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
recipe = override(get_recipe("lenet5_digits"), ["epochs=5", "checkpoint_every=1"])
report = train(recipe, folder / "run", progress=False)

print(*sorted(path.name for path in (folder / "run").iterdir() if not path.name.startswith(".")), sep="\n")
print(f"{report['test_accuracy']:.1%} of the test pictures after {report['steps']} steps")
assert report["test_accuracy"] > 0.9

# %% [markdown]
# ## Going on
#
# With `resume=True` the same call continues from the newest checkpoint: after an interruption to the same bits as if
# nothing had happened, here to twice as many epochs. Parameters, the optimizer's memory, the step (and with it all
# randomness and the order of the data) are restored. Each array has a checksum.

# %%
longer = train(override(recipe, ["epochs=10"]), folder / "run", resume=True, progress=False)
print(f"{longer['test_accuracy']:.1%} after {longer['steps']} steps")
assert longer["steps"] == 2 * report["steps"]

# %% [markdown]
# ## Using it
#
# `load_model` gives the model and its variables, without the optimizer. `predict` takes files: it knows what the
# training data looked like, and prepares a picture in the same way. Here are some digits of the test split as PNG
# files, each in a size of its own, dark on light.

# %%
model, variables = zoo.load_model(folder / "run")
print(model)

run = load(folder / "run")
test = run.dataset.splits["test"][np.arange(12)]
files = []
for index, image in enumerate(test["image"][..., 0]):
    picture = Image.fromarray(np.uint8(255 * (1 - image))).resize([(60, 60), (90, 130), (200, 160)][index % 3])
    files.append(folder / f"{index:02}.png")
    picture.save(files[-1])

predictions = predict(folder / "run", files, invert=True)  # without, each picture is judged by its edge
figure, panels = plt.subplots(2, 6, figsize=(8, 3.4))
right = 0
for axes, file, prediction, label in zip(panels.flat, files, predictions, test["label"], strict=True):
    right += int(prediction.label) == label
    axes.imshow(Image.open(file), cmap="gray")
    color = "C0" if int(prediction.label) == label else "C1"
    axes.set_title(f"{prediction.label}: {prediction.probability:.0%}", color=color)
    axes.set_axis_off()
plt.show()
assert right >= 9

# %% [markdown]
# ## Exporting
#
# `export` writes StableHLO, the language that XLA compiles, for CPU, CUDA and TPU in one file. Weights and
# preprocessing are constants in it, the batch has any size. Whoever has the file needs neither this project nor Flax.

# %%
told = export(folder / "run", folder / "digits.stablehlo")
print(f"{told['bytes'] / 1000:.0f} KB for {', '.join(told['platforms'])}")
print(told["input"], "→", told["output"])

classify = jax.export.deserialize(bytearray((folder / "digits.stablehlo").read_bytes()))
probabilities = classify.call(test["image"])
mine = jax.nn.softmax(model.apply(variables, run.dataset.preprocess(test)["image"]))
np.testing.assert_allclose(probabilities, mine, atol=1e-5)

# %% [markdown]
# ## Serving
#
# A server is a loop around one function. This one takes an array of images in NumPy's format and answers with JSON. (It
# is for a demonstration: it knows neither errors nor limits.)


# %%
class Classifier(BaseHTTPRequestHandler):
    """POST images `[batch, 8, 8, 1]` as .npy → JSON: the probabilities of each."""

    def do_POST(self):
        images = np.load(io.BytesIO(self.rfile.read(int(self.headers["Content-Length"]))))
        answer = json.dumps(np.asarray(classify.call(images)).tolist()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        """Says nothing."""


with ThreadingHTTPServer(("localhost", 0), Classifier) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    body = io.BytesIO()
    np.save(body, test["image"])
    with urllib.request.urlopen(f"http://localhost:{server.server_port}", body.getvalue()) as answer:
        served = np.array(json.load(answer))
    server.shutdown()

np.testing.assert_allclose(served, probabilities, atol=1e-6)
print("served", served.shape, served.argmax(axis=-1).tolist())

# %% [markdown]
# ## How fast
#
# A program is compiled once for each shape, which takes up to thousands of times as long as a call. So a server pads
# batches to a few sizes, and calls each of them once before it opens its door. Larger batches cost less for each
# picture, until the processor is full.
#
# `zoo.fuse` computes once what depends on weights alone (of LeNet-5 that is little; of networks with batch norm, all
# their norms). An exported file must run anywhere, and so has XLA's own convolutions. Where the zoo is installed, it
# has faster ones on a CPU, as the larger batches show; on a GPU or a TPU both are the same.


# %%
def seconds(function, images):
    """The fastest of several calls, after one that compiles."""
    began = time.perf_counter()
    jax.block_until_ready(function(images))
    compiled = time.perf_counter() - began
    took = []
    for _ in range(20):
        began = time.perf_counter()
        jax.block_until_ready(function(images))
        took.append(time.perf_counter() - began)
    return compiled, min(took)


def prepared(apply):
    """The whole way from raw images to probabilities, compiled."""
    return jax.jit(lambda images: jax.nn.softmax(apply(run.dataset.preprocess({"image": images})["image"])))


ways = {
    "model.apply": prepared(lambda images: model.apply(variables, images)),
    "zoo.fuse": prepared(zoo.fuse(model, variables)),
    "exported": jax.jit(classify.call),
}
sizes = [2**power for power in range(0, 14 if LARGE else 10)]
pixels = np.random.default_rng(0).uniform(size=(sizes[-1], 8, 8, 1)).astype(np.float32)

figure, axes = plt.subplots(figsize=(6.5, 3.6))
for name, function in ways.items():
    times = [seconds(function, pixels[:size]) for size in sizes]
    (line,) = axes.plot(
        sizes, [1e6 * took / size for size, (_, took) in zip(sizes, times, strict=True)], "o-", label=name
    )
    if name == "exported":
        first = [1e6 * compiled / size for size, (compiled, _) in zip(sizes, times, strict=True)]
        axes.plot(sizes, first, "o:", color=line.get_color(), alpha=0.5, label="exported, first call")
axes.set(xscale="log", yscale="log", xlabel="pictures in a batch", ylabel="microseconds for each picture")
axes.legend()
plt.show()

temporary.cleanup()

# %% [markdown]
# ## Exercise
#
# Let the server answer a batch of 1000 pictures, then one of 999. Why is the second so much slower than the first was
# when you ask for it again? Pad batches to powers of two in `do_POST`, and cut the answer.
#
# **Where next.** The same on the command line is `zoo predict`, `zoo export` and `zoo bench`: the
# [README](../README.md#on-the-command-line). Back to the beginning: [00_quick_start](00_quick_start.ipynb).
