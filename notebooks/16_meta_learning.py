# %% [markdown]
# # Learning to learn
#
# A network that learns a new task from five examples: section 13.2 of *Deep Learning & Neural Networks: a comprehensive
# guide*. Numbers in parentheses are the guide's equations. We train weights from which one step of gradient descent
# gives a good answer, and compare with weights that were trained in the ordinary way. It takes about half a minute on a
# CPU.

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
from train import loop
from train.losses import mean_squared_error
from train.schedules import schedule
from train.tasks import maml, regression
from train.tasks.few_shot.maml import solve

LARGE = jax.default_backend() != "cpu"  # on an accelerator we train longer
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## Many small tasks
#
# An example is a whole task here: a sine wave with its own height and shift. Five of its points are shown (the support
# set), ten others are asked (the query set). No two tasks have the same wave. This is the experiment of Finn, Abbeel &
# Levine (2017).

# %%
waves = data.load("sinusoid", shots=5, queries=10, episodes=1_000_000)
batch = waves.splits["test"][np.arange(200)]

figure, axes = plt.subplots(figsize=(7.5, 3.2))
for task, color in zip(range(4), ("C0", "C1", "C4", "C5"), strict=True):
    axes.plot(batch["support_inputs"][task], batch["support_target"][task], "o", color=color)
    axes.plot(batch["query_inputs"][task], batch["query_target"][task], "x", color=color, alpha=0.6)
axes.set(xlabel="x", ylabel="y", title="four tasks: dots are shown, crosses are asked")
plt.show()

# %% [markdown]
# ## Two ways to begin
#
# **The ordinary way**: train one network on the points of all waves together. It cannot know which wave a point is
# from, so the best it can do is the mean of all waves.
#
# **MAML**: let each task take a step of its own from the shared weights, $\theta^*_i = \theta - \alpha \nabla_\theta
# \mathcal{L}_i(f_\theta)$ (79), on its support set. Then judge the *new* weights $\theta^*_i$ on its query set, and
# move the *shared* weights $\theta$ so that this gets better. The gradient goes through the step. The weights do not
# learn an answer; they learn to be near many answers.


# %%
def network():
    """The network of the paper."""
    return zoo.create_model("mlp", hidden_sizes=(40, 40), num_classes=1, dropout_rate=0.0, init_std=0.1)


steps = 40_000 if LARGE else 8000
tx = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule("cosine", 2e-3, steps)))
task = maml(network(), tx, loss="mse", inputs="support_inputs", inner_rate=0.01, test_steps=10)
learner = loop.fit(task, waves, batch_size=25, steps=steps, evaluate_every=steps // 20)

points = waves.splits["train"][np.arange(2000)]
points = {name: points[f"query_{name}"].reshape(-1, 1) for name in ("inputs", "target")}
ordinary = loop.fit(regression(network(), optax.adam(1e-3)), points, batch_size=250, epochs=40)

figure, axes = plt.subplots(figsize=(7.5, 3.2))
for count, color in ((1, "C6"), (5, "C5"), (10, "C0")):
    loss = [row[f"validation_loss_after_{count}"] for row in learner.history]
    axes.plot([row["step"] for row in learner.history], loss, color=color, lw=2, label=f"inner steps: {count}")
axes.set(xlabel="step of MAML", ylabel="squared error on new waves", ylim=(0, 4))
axes.legend()
plt.show()

# %% [markdown]
# Where a curve has a peak or a gap, ten steps diverged on one of the 200 waves: these weights are trained for one step,
# and not for ten. From here on we look at the middle one of many waves, which a single one cannot spoil.
#
# ## A new wave
#
# `solve` takes the inner steps for one task. One step is nothing but equation (79), so we check it by hand, then look
# at three waves that neither network has seen. The dots are all that they are shown.

# %%
adapt = partial(solve, network(), inner_rate=0.01, transductive=False, loss="mse")
variables = {"MAML": learner.state.variables, "ordinary": ordinary.state.variables}
x = np.linspace(-5, 5, 200, dtype=np.float32)[:, None]
shown, told = batch["support_inputs"], batch["support_target"]


def loss(params):
    """On the support set of the first task."""
    return mean_squared_error(network().apply({"params": params}, shown[0]), told[0]).mean()


params = variables["MAML"]["params"]
moved = jax.tree.map(lambda p, g: p - 0.01 * g, params, jax.grad(loss)(params))
by_hand = network().apply({"params": moved}, x)
np.testing.assert_allclose(adapt(variables["MAML"], shown[0], told[0], x, steps=1), by_hand, atol=1e-3)

figure, panels = plt.subplots(2, 3, figsize=(13, 5.6), sharex=True, sharey=True)
for row, (name, start) in zip(panels, variables.items(), strict=True):
    for axes, task in zip(row, (1, 2, 3), strict=True):
        order = np.argsort(batch["query_inputs"][task][:, 0])
        axes.plot(
            batch["query_inputs"][task][order], batch["query_target"][task][order], "x", color="C5", label="asked"
        )
        for count, color in ((0, "C6"), (1, "C1"), (10, "C0")):
            y = adapt(start, shown[task], told[task], x, steps=count)
            axes.plot(x, y, color=color, lw=2, label=f"inner steps: {count}")
        axes.plot(shown[task], told[task], "o", color="C4", label="shown", zorder=3)
        axes.set_ylim(-6, 6)
    row[0].set_ylabel(name)
figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right center")
plt.show()

# %% [markdown]
# Look at the places without dots. MAML's curve bends into a wave there too: it knows that all tasks are waves, and the
# five points tell it which. The ordinary network moves only where it is pulled.
#
# ## Over 200 new waves


# %%
@partial(jax.jit, static_argnums=1)
def error(variables, count):
    """The squared error on the queries of the middle one of 200 tasks after so many inner steps."""
    one = partial(adapt, variables, steps=count)
    answers = jax.vmap(one)(shown, told, batch["query_inputs"])
    return jnp.nanmedian(mean_squared_error(answers, batch["query_target"]))


counts = (0, 1, 2, 5, 10)
errors = {name: [float(error(start, count)) for count in counts] for name, start in variables.items()}
figure, axes = plt.subplots(figsize=(7, 3.2))
for (name, values), color in zip(errors.items(), ("C0", "C1"), strict=True):
    axes.plot(counts, values, "o-", color=color, label=name)
axes.set(xlabel="inner steps", ylabel="squared error of the middle wave", ylim=(0, None))
axes.legend()
plt.show()
print(
    {
        name: f"{values[0]:.2f} before, {values[1]:.2f} after 1 step, {values[-1]:.2f} after 10"
        for name, values in errors.items()
    }
)
assert errors["MAML"][1] < 0.6 * errors["ordinary"][1]
assert errors["MAML"][-1] < errors["MAML"][1] < errors["MAML"][0]

# %% [markdown]
# ## Exercise
#
# Give `maml` the option `first_order=True`: the gradient does not go through the inner step then. How much faster is
# it, and how much worse? Show ten points instead of five (`shots=10`). Which of the two networks makes more of them?
#
# ## Where next
#
# `zoo train maml_sinusoid` trains seven times as long, as in the paper. `zoo train maml_omniglot` tells characters of
# alphabets that it has never seen, from one drawing each, and `zoo adapt RUN --support FOLDER --query FILE` does so
# with pictures of your own. `train.tasks` has `prototypical`, `reptile` and `anil` too. [Notebook
# 17](17_architecture_search.ipynb) searches the network itself.
