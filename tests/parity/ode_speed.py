"""The time of a gradient step of a neural ODE here, in plain diffrax and in torchdiffeq, turn by turn.

    python -m tests.parity.ode_speed

All solve the same problem: a field 2 → 64 → 64 → 2 with tanh on a batch of 128 from time 0 to 1, Dormand & Prince's
method, rtol 1e-3 and atol 1e-4; the whole batch is one state with one error. Gradients are for the weights. Plain
diffrax is Equinox's MLP under `jax.vmap`, with the adjoint and limit of steps that are its defaults.
"""

from __future__ import annotations

import statistics
import time

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchdiffeq

import zoo
from zoo.dynamics.neural_ode import MLPField

BATCH, RTOL, ATOL, GAIN, TURNS, _CALLS = 128, 1e-3, 1e-4, 2.0, 10, 20


def main() -> None:
    x = np.random.default_rng(0).normal(size=(BATCH, 2)).astype(np.float32)
    field = MLPField((64, 64), "tanh", time=False)
    params = jax.tree.map(lambda leaf: GAIN * leaf, field.init(jax.random.key(0), x, jnp.float32(0))["params"])
    layers = [params[name] for name in ("hidden1", "hidden2", "out")]

    def ours(params):
        solved = zoo.dynamics.solve(
            lambda t, y, params: field.apply({"params": params}, y, t),
            x,
            (0.0, 1.0),
            params,
            solver="dopri5",
            rtol=RTOL,
            atol=ATOL,
        )
        return jnp.square(solved.values[-1]).mean(), solved.steps[0]

    mlp = eqx.nn.MLP(2, 2, 64, 2, activation=jnp.tanh, key=jax.random.key(0))
    weights = [layer["kernel"].T for layer in layers] + [layer["bias"] for layer in layers]
    mlp = eqx.tree_at(lambda m: [n.weight for n in m.layers] + [n.bias for n in m.layers], mlp, weights)

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def plain(mlp):
        solved = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, mlp: jax.vmap(mlp)(y)),
            diffrax.Dopri5(),
            0.0,
            1.0,
            None,
            jnp.asarray(x),
            mlp,
            stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL),
        )
        return jnp.square(solved.ys[-1]).mean(), solved.stats["num_steps"]

    kernels = [[torch.tensor(np.array(layer[n]), requires_grad=True) for n in ("kernel", "bias")] for layer in layers]

    def torch_field(t, y):
        for index, (kernel, bias) in enumerate(kernels):
            y = torch.addmm(bias, y, kernel)
            y = y if index == len(kernels) - 1 else torch.tanh(y)
        return y

    start, times = torch.tensor(x), torch.tensor([0.0, 1.0])

    def theirs():
        for parameter in (p for layer in kernels for p in layer):
            parameter.grad = None
        loss = torchdiffeq.odeint(torch_field, start, times, method="dopri5", rtol=RTOL, atol=ATOL)[-1].square().mean()
        loss.backward()
        return loss.item()

    step = jax.jit(jax.value_and_grad(ours, has_aux=True))
    calls = {
        "zoo": lambda: jax.block_until_ready(step(params)),
        "diffrax": lambda: jax.block_until_ready(plain(mlp)),
        "torchdiffeq": theirs,
    }
    (loss, steps), gradients = calls["zoo"]()
    (other, other_steps), other_gradients = calls["diffrax"]()
    np.testing.assert_allclose([other, theirs()], loss, rtol=1e-3)
    for layer, mine in zip(other_gradients.layers, ("hidden1", "hidden2", "out"), strict=True):
        np.testing.assert_allclose(layer.weight.T, gradients[mine]["kernel"], rtol=1e-3, atol=1e-5)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            for index in range(_CALLS):  # the first ones share the cores with threads of the one before, which wait
                began = time.perf_counter()
                call()
                if index >= _CALLS // 2:
                    seconds[name].append(time.perf_counter() - began)
    print(f"steps: zoo {steps}, diffrax {other_steps}")
    for name, taken in seconds.items():
        share = statistics.median(seconds["zoo"]) / statistics.median(taken)
        print(f"{name:12} {1e3 * statistics.median(taken):6.2f} ms, the zoo's time is {share:.2f} of it")


if __name__ == "__main__":
    main()
