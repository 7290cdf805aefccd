# %% [markdown]
# # Recurrent networks
#
# Networks with a memory: chapter 6 of *Deep Learning & Neural Networks: a comprehensive guide*, from the simple RNN to
# LSTM, GRU and both directions. Numbers in parentheses are the guide's equations. We let them add up numbers, and look
# at how far back each can remember. It takes about half a minute on a CPU.

# %%
try:
    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . flaxzoo
    import zoo

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import data
from train import loop
from train.schedules import schedule
from train.tasks import regression
from zoo.recurrent import RNN

LARGE = jax.default_backend() != "cpu"  # on an accelerator there is more data
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## A loop with a state (section 6.1)
#
# A recurrent network reads a sequence step by step. It keeps a state, and at each step makes a new one of the old one
# and of the input: $\mathbf{h}_t = \tanh(\mathbf{W}_{hh}\mathbf{h}_{t-1} + \mathbf{W}_{xh}\mathbf{x}_t + \mathbf{b}_h)$
# (39). A dense layer reads the answer from the state (40). The weights are the same at all steps.
#
# In JAX the loop is `lax.scan`. `zoo.recurrent.RNN` gives what the formula says:

# %%
layer = RNN(hidden_size=8)
x = jax.random.normal(jax.random.key(0), (3, 20, 5))  # [batch, time, features]
variables = layer.init(jax.random.key(1), x)
outputs, _ = layer.apply(variables, x)

weights = variables["params"]


def step(h, x):
    """Equation 39."""
    h = jnp.tanh(h @ weights["recurrent_kernel"] + x @ weights["kernel"] + weights["bias"])
    return h, h


_, by_scan = jax.lax.scan(step, jnp.zeros((3, 8)), x.swapaxes(0, 1))
np.testing.assert_allclose(outputs, by_scan.swapaxes(0, 1), atol=1e-4)
print("outputs", outputs.shape)

# %% [markdown]
# ## Why the simple loop forgets
#
# To learn from an early input, the gradient must come back through all steps behind it (41). It is multiplied by a
# matrix at each of them (42). If the matrix shrinks vectors, the gradient vanishes; if it stretches them, the gradient
# explodes. Here are three networks that differ in one number: how much the first recurrent matrix stretches. The curve
# is the size of the gradient of the last state by the input at each step. The inputs are tiny, so that tanh is a line.

# %%
sequence = 1e-7 * jax.random.normal(jax.random.key(2), (1, 60, 1))
figure, axes = plt.subplots(figsize=(7.5, 3.4))
slopes = {}
for stretch, color in ((0.8, "C0"), (1.0, "C4"), (1.2, "C1")):
    layer = RNN(32, recurrent_init=nn.initializers.orthogonal(stretch))
    variables = layer.init(jax.random.key(3), sequence)
    slope = jax.jacobian(lambda x, layer=layer, variables=variables: layer.apply(variables, x)[0][0, -1])(sequence)
    size = jnp.linalg.norm(slope[:, 0, :, 0], axis=0)  # [time]
    slopes[stretch] = size
    axes.semilogy(60 - np.arange(60), size, color=color, lw=2, label=f"stretched by {stretch}")
axes.set(xlabel="steps back", ylabel="size of the gradient")
axes.legend()
plt.show()
assert slopes[0.8][0] < 1e-4 * slopes[0.8][-1]  # vanishes
assert slopes[1.2][0] > 1e2 * slopes[1.2][-1]  # explodes

# %% [markdown]
# ## Gates (sections 6.2 and 6.3)
#
# An LSTM keeps a second state, the cell. It changes by sum and not by matrix: $\mathbf{C}_t = \mathbf{f}_t \odot
# \mathbf{C}_{t-1} + \mathbf{i}_t \odot \tilde{\mathbf{C}}_t$ (46). Gates with values between 0 and 1 say what is
# forgotten (43), what is written (44–45) and what is shown (47–48). Where the forget gate is open, the gradient passes
# unchanged. A GRU does it with one state and two gates (49–52), and so with fewer weights. In both directions (53–55),
# two networks read the sequence, one from each end.
#
# The guide lets them add up 50 random numbers. The right answer treats all 50 alike, the first as well as the last. All
# four networks below have 32 units and learn for as long.

# %%
sums = data.load("sum_sequence", size=8000 if LARGE else 2000, validation=0.1)
networks = {
    "RNN": zoo.sequence.SequenceRegressor(RNN, hidden_sizes=(32,), dropout_rate=0.0),
    "LSTM": zoo.create_model("lstm_regressor", hidden_sizes=(32,), dropout_rate=0.0),
    "GRU": zoo.create_model("gru_regressor", hidden_sizes=(32,), dropout_rate=0.0),
    "LSTM, both directions": zoo.create_model("bilstm_regressor", hidden_sizes=(16,)),
}
colors = dict(zip(networks, ("C5", "C0", "C1", "C4"), strict=True))
steps = 20 * data.steps_per_epoch(len(sums.splits["train"]), 50)
rate = schedule("cosine", 8e-3, steps)
fitted = {
    name: loop.fit(regression(model, optax.adam(rate)), sums, batch_size=50, steps=steps)
    for name, model in networks.items()
}


def column(history, name):
    """One metric over the epochs."""
    return [row[name] for row in history]


figure, axes = plt.subplots(figsize=(7.5, 3.4))
for name, (_, history) in fitted.items():
    axes.semilogy(column(history, "epoch"), column(history, "validation_loss"), color=colors[name], lw=2, label=name)
axes.axhline(50, color="C6", lw=1)
axes.annotate("who always says 0", (20, 50), ha="right", va="bottom", color="C5")
axes.set(xlabel="epoch", ylabel="squared error on validation")
axes.legend(loc="lower left")
plt.show()

for name, (_, history) in fitted.items():
    print(f"{name:22} squared error {history[-1]['validation_loss']:.2f}")

# %% [markdown]
# ## What each one remembers
#
# The derivative of a sum by each of its numbers is 1. So we ask each trained network for the derivative of its answer
# by each input, as a mean over test sequences. A network that adds up draws a flat line at 1. Where the line falls
# towards the early steps, the network forgets.

# %%
inputs = sums.splits["test"][np.arange(200)]["inputs"]
figure, axes = plt.subplots(figsize=(7.5, 3.4))
memory = {}
for name, model in networks.items():
    variables = fitted[name].state.variables
    answer = jax.grad(lambda x, model=model, variables=variables: model.apply(variables, x).sum())
    memory[name] = jax.jit(answer)(inputs)[..., 0].mean(axis=0)  # [time]
    axes.plot(np.arange(1, 51), memory[name], color=colors[name], lw=2, label=name)
axes.axhline(1, color="C6", lw=1)
axes.set(xlabel="step of the sequence", ylabel="derivative of the answer", ylim=(-0.1, 1.4))
axes.legend(loc="lower right")
plt.show()
for name in ("LSTM", "GRU"):
    assert fitted[name].history[-1]["validation_loss"] < 10
    assert memory[name][:10].mean() > 0.5  # the first numbers count

# %% [markdown]
# ## Sequences of several lengths
#
# A batch is an array, so that shorter sequences are filled up. A mask says which steps there are; at the others the
# state stays as it is. The answer is that of the short sequence alone:

# %%
model, variables = networks["LSTM, both directions"], fitted["LSTM, both directions"].state.variables
lengths = np.array([50, 30, 7])
mask = np.arange(50)[None] < lengths[:, None]
padded = np.where(mask[..., None], inputs[:3], 99.0).astype(np.float32)  # whatever stands behind the end
together = model.apply(variables, padded, mask=mask)
alone = [model.apply(variables, inputs[i : i + 1, :length])[0] for i, length in enumerate(lengths)]
np.testing.assert_allclose(together, np.stack(alone), atol=1e-3)
for i, length in enumerate(lengths):
    print(f"{length:2} numbers: sum {inputs[i, :length].sum():6.2f}, the network says {together[i, 0]:6.2f}")

# %% [markdown]
# ## Exercise
#
# Train the same networks on sequences of 100 numbers (`data.load("sum_sequence", length=100)`). Which ones still learn?
# Then give the optimizer a limit for the gradient, `optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3))`
# (74). Does it help the RNN?
#
# ## Where next
#
# `zoo compare runs/lstm_sum runs/gru_sum` draws the guide's two networks side by side once they are trained, and `zoo
# train char_lstm` learns to write. [Notebook 08](08_attention_and_transformers.ipynb) does without the loop: each step
# looks at all others at once.
