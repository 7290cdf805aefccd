"""Trains in a folder and kills itself: run by test_killed.py as a process of its own.

usage: interrupted.py FOLDER KILL_STEP "MODEL PLAN"…, where MODEL is mlp, cnn, gan, ffjord or latent_ode; a kill step of
0 trains to the end. Each case has a folder of its name in FOLDER.
"""

import os
import signal
import sys

import jax
import numpy as np
import optax

import data
import zoo
from train.loop import parallel
from train.loop.checkpoints import Checkpoints
from train.loop.fitting import fit
from train.tasks import classification, density, gan, latent_ode

OPTIONS = {
    "mlp": {"num_classes": 10},
    "cnn": {"num_classes": 10, "features": (4, 4), "hidden_size": 8},
    "gan": {"image_shape": (8, 8, 1), "generator_features": (4, 4), "discriminator_features": (4,), "latent_size": 3},
    "ffjord": {"hidden_sizes": (5, 4), "trace": "hutchinson", "solver": "fixed_rk4", "num_steps": 2},
    "latent_ode": {"hidden_size": 5, "encoder_size": 4, "latent_size": 3},
}


def task_and_data(name):
    model = zoo.create_model(name, **OPTIONS[name])
    if name == "ffjord":
        return density(model, optax.adam(1e-2)), data.load("moons", size=400, validation=0.1)
    if name == "latent_ode":
        return latent_ode(model, optax.adam(1e-2)), data.load("spirals", size=400, validation=0.1)
    digits = data.load("digits", flat=name == "mlp", validation=0.1)
    if name == "gan":
        return gan(model, optax.adam(2e-4, b1=0.5), discriminator_tx=optax.adam(1e-3)), digits
    return classification(model, optax.adamw(1e-2), ema_decay=0.9), digits


def train(folder, name, plan, kill_step):
    def kill(report):
        if kill_step and report.step >= kill_step:
            os.kill(os.getpid(), signal.SIGKILL)

    task, dataset = task_and_data(name)
    checkpoints = Checkpoints(folder, {"model": name, "model_options": OPTIONS[name]}, monitor="validation_loss")
    fitted = fit(
        task,
        dataset,
        batch_size=32,
        steps=50,
        seed=3,
        evaluate_every=10,
        steps_per_dispatch=3,
        plan=parallel.plan(plan),
        callbacks=[kill],
        checkpoints=checkpoints,
    )
    checkpoints.close()
    leaves = jax.tree.leaves((fitted.state.params, fitted.state.model_state, fitted.state.opt_state, fitted.state.ema))
    rows = [[value for name, value in row.items() if name != "seconds"] for row in fitted.history]
    np.savez(f"{folder}/result.npz", *map(np.asarray, leaves), history=np.array(rows))


for case in sys.argv[3:]:
    train(f"{sys.argv[1]}/{case}", *case.split(), int(sys.argv[2]))
