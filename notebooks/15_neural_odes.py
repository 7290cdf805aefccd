# %% [markdown]
# # Neural ODEs
#
# A network with no layers, but a flow: section 13.3 of *Deep Learning & Neural Networks: a comprehensive guide*.
# Numbers in parentheses are the guide's equations. We solve a differential equation, train one, see what a flow cannot
# do, and bend a normal distribution into two moons. It takes about a minute on a CPU.

# %%
try:
    import diffrax  # noqa: F401

    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . "flaxzoo[ode]"
    import zoo

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import data
from train import loop
from train.schedules import schedule
from train.tasks import classification, density
from zoo.dynamics import solve

LARGE = jax.default_backend() != "cpu"  # on an accelerator we train longer
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## From layers to a flow
#
# A residual block adds a small change to its input, $\mathbf{h} + \mathcal{F}(\mathbf{h})$ (38). Take more and more
# blocks with smaller and smaller changes, and in the end the state flows: $d\mathbf{h}(t) / dt = f(\mathbf{h}(t), t,
# \theta)$ (80). The network is the field $f$: it says in which direction each point moves. The output is where a point
# is at time 1.
#
# A solver follows the flow in steps. `zoo.dynamics.solve` has several. Here is a pendulum with small swings, whose
# solution is known: a circle. Euler's method goes straight on for a whole step, Heun's looks twice, and Runge and
# Kutta's four times. Half the step makes their errors 2, 4 and 16 times as small.


# %%
def pendulum(t, y, args):
    """Position and speed `[batch, 2]` → how they change."""
    return jnp.stack([y[:, 1], -y[:, 0]], axis=1)


start, turn = jnp.array([[1.0, 0.0]]), 2 * np.pi
counts = np.array([10, 20, 40, 80, 160])
errors = {
    solver: [
        float(jnp.linalg.norm(solve(pendulum, start, (0.0, turn), solver=solver, num_steps=int(n)).values[-1] - start))
        for n in counts
    ]
    for solver in ("fixed_euler", "fixed_heun", "fixed_rk4")
}
colors = dict(zip(errors, ("C5", "C1", "C0"), strict=True))

figure, panels = plt.subplots(1, 2, figsize=(11, 4))
moments = jnp.linspace(0, turn, 21)
for solver, color in colors.items():
    way = solve(pendulum, start, moments, solver=solver, num_steps=1).values[:, 0]
    panels[0].plot(*way.T, "o-", color=color, ms=3, label=solver)
    panels[1].loglog(counts, errors[solver], "o-", color=color, label=solver)
panels[0].set(aspect="equal", xlabel="position", ylabel="speed", title="20 steps for one turn")
panels[1].set(xlabel="steps for one turn", ylabel="error at the end")
panels[1].legend()
plt.show()

for solver, order in (("fixed_euler", 1), ("fixed_heun", 2)):
    ratio = errors[solver][2] / errors[solver][3]
    assert 0.7 * 2**order < ratio < 1.6 * 2**order, (solver, ratio)
adaptive = solve(pendulum, start, (0.0, turn), solver="tsit5", rtol=1e-5, atol=1e-6)
print(
    f"tsit5 chooses its steps: {int(adaptive.steps[0])} of them, error {jnp.abs(adaptive.values[-1] - start).max():.1e}"
)

# %% [markdown]
# ## What a flow cannot do
#
# Two points that flow never meet, and never change places along a line: paths do not cross. So a disc inside a ring
# stays inside, wherever the two flow in the plane. A neural ODE cannot separate them by a straight line. With one
# dimension more, which begins at 0, the disc is lifted out of the ring (Dupont, Doucet & Teh 2019). We train both
# networks in the same way.

# %%
rings = data.load("rings")
solver = {"solver": "fixed_rk4", "num_steps": 6}
models = {
    "in the plane": zoo.create_model("neural_ode", hidden_sizes=(32, 32), **solver),
    "one dimension more": zoo.create_model("augmented_neural_ode", hidden_sizes=(32, 32), **solver),
}
steps = 1200 if LARGE else 300
states = {}
for name, model in models.items():
    task = classification(model, optax.adam(schedule("cosine", 1e-2, steps)), inputs="features")
    states[name] = loop.fit(task, rings, batch_size=100, steps=steps).state
    print(f"{name:20} test accuracy {loop.evaluate(task, rings, states[name], split='test')['accuracy']:.1%}")
assert loop.evaluate(task, rings, states[name], split="test")["accuracy"] > 0.97

# %% [markdown]
# The paths of 60 points: blue ones start in the disc, orange ones in the ring, dots are where they arrive. In the plane
# the network squeezes the disc through the ring, where there is a gap between the points that it has seen. With a third
# dimension it needs no such force.


# %%
def paths(name, points, moments):
    """Where points are at some moments, `[times, points, dimensions]`."""
    model, variables = models[name], states[name].variables

    def field(t, y, variables):
        return model.vector_field(variables, y, t)

    start = jnp.pad(points, ((0, 0), (0, model.augment)))
    return np.asarray(solve(field, start, moments, variables, method=model.method).values)


examples = rings.splits["test"][np.arange(60)]
moments = jnp.linspace(0, 1, 25)
flat, lifted = (paths(name, examples["features"], moments) for name in models)

figure = plt.figure(figsize=(9, 3.8))
axes = figure.add_subplot(1, 2, 1)
space = figure.add_subplot(1, 2, 2, projection="3d")
for point, kind in enumerate(examples["label"]):
    color = "C1" if kind else "C0"
    axes.plot(*flat[:, point].T, color=color, lw=0.8, alpha=0.8)
    axes.plot(*flat[-1, point], "o", color=color, ms=4)
    space.plot(*lifted[:, point].T, color=color, lw=0.8, alpha=0.8)
    space.plot(*lifted[-1, point], "o", color=color, ms=4)
side = np.linspace(-1.05, 1.05, 15) * np.abs(flat).max()
grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2).astype(np.float32)
arrows = models["in the plane"].vector_field(states["in the plane"].variables, grid, jnp.float32(0.5))
axes.quiver(*grid.T, *arrows.T, color="C6", angles="xy", zorder=0)
axes.set(title="in the plane, and the field at time 1/2", aspect="equal")
axes.grid(False)
space.set_title("one dimension more")
plt.show()

# %% [markdown]
# ## A flow of probability
#
# A flow can be turned back, so it also moves a density: where points move together it rises, where they spread it
# falls, $d \log p / dt = -\mathrm{tr}(\partial f / \partial \mathbf{h})$. FFJORD (Grathwohl et al. 2019) flows from a
# normal distribution at time 0 to the data at time 1. Training makes the data probable, and nothing else. The density
# of these moons is known, so we can say how far we are from it.

# %%
moons = data.load("moons", size=20_000 if LARGE else 8000, validation=1000)
flow = zoo.create_model("ffjord", hidden_sizes=(64, 64), solver="fixed_rk4", num_steps=6)
steps = 1500 if LARGE else 250
task = density(flow, optax.adam(schedule("cosine", 1e-2, steps)))
fitted = loop.fit(task, moons, batch_size=400, steps=steps, evaluate_every=25)
reached = loop.evaluate(task, moons, fitted.state, split="test")
print(f"{reached['loss']:.3f} nats for a test point, {reached['kl']:.3f} above the true density")
assert reached["kl"] < 0.4

# %% [markdown]
# The density at five times, and the same points on their way. At time 0 all is noise; at time 1 there are two moons.

# %%
times = (0.0, 0.25, 0.5, 0.75, 1.0)
variables = fitted.state.variables
drawn = flow.flow(variables, jax.random.normal(jax.random.key(0), (600, 2)), times)
x, y = np.linspace(-2.6, 3.2, 100), np.linspace(-2.4, 2.8, 90)
grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)

figure, panels = plt.subplots(2, 5, figsize=(10, 3.8), sharex=True, sharey=True)
for (above, below), time, points in zip(panels.T, times, drawn, strict=True):
    log_density = jax.jit(lambda points, time=time: flow.log_density_at(variables, points, time))(grid)
    above.imshow(
        np.exp(log_density).reshape(90, 100), origin="lower", extent=(x[0], x[-1], y[0], y[-1]), cmap="viridis"
    )
    above.set_title(f"time {time:g}")
    below.scatter(*points.T, s=3, color="C0")
    for axes in (above, below):
        axes.set(aspect="equal", xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
        axes.grid(False)
plt.show()

total = np.exp(log_density).sum() * (x[1] - x[0]) * (y[1] - y[0])
print(f"the density at time 1 sums up to {total:.3f}")
assert abs(total - 1) < 0.05

# %% [markdown]
# ## Exercise
#
# Flow the moons back: take test points and solve from time 1 to time 0 with `flow.log_density_at`'s field, or by
# `solve(…, times=(1.0, 0.0))`. Are they normally distributed? Then load `eight_gaussians` in the place of `moons`.
#
# ## Where next
#
# `zoo train cnf_moons` uses an adaptive solver and trains longer. `zoo train latent_ode_spirals` learns from series
# that are observed at irregular times, and `zoo train ode_mnist` puts a flow into a network for images. `num_steps` and
# `solver` are options of all of them: more steps cost time, fewer cost accuracy, and the network need not be trained
# anew. [Notebook 16](16_meta_learning.ipynb) learns to learn.
