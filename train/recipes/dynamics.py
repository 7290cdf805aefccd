"""Recipes of neural differential equations."""

from typing import Any

from train.recipe import Recipe, recipe


def _ode_net(model: str, options: dict[str, Any]) -> Recipe:
    """Adam with one cycle and small shifts of the images; the same for the network with and without its ODE."""
    return Recipe(
        model=model,
        model_options=options,
        data="mnist",
        batch_size=128,
        epochs=6.0,
        learning_rate=4e-3,
        schedule="one_cycle",
        augmentation_options={"shift": 0.07},
        validation=5000,
        monitor="validation_loss",
    )


@recipe
def ode_mnist() -> Recipe:
    """ODE-Net on MNIST."""
    return _ode_net("ode_net", {"solver": "fixed_heun", "num_steps": 2})


@recipe
def ode_mnist_ablation() -> Recipe:
    """ODE-Net's network on MNIST without its ODE."""
    return _ode_net("ode_net_without_block", {})


@recipe
def latent_ode_spirals() -> Recipe:
    """A latent ODE on spirals."""
    return Recipe(
        model="latent_ode",
        data="spirals",
        task="latent_ode",
        batch_size=100,
        epochs=150.0,
        learning_rate=1e-2,
        schedule="cosine",
        optimizer_options={"clip_norm": 10.0},
        evaluate_every=100,
        checkpoint_every=5,
        monitor="validation_loss",
    )


@recipe
def cnf_moons() -> Recipe:
    """FFJORD on two moons."""
    return Recipe(
        model="ffjord",
        data="moons",
        task="density",
        batch_size=500,
        epochs=20.0,
        learning_rate=5e-3,
        schedule="cosine",
        evaluate_every=36,
        checkpoint_every=2,
        monitor="validation_loss",
    )


@recipe
def anode_rings() -> Recipe:
    """An augmented neural ODE on rings."""
    return Recipe(
        model="augmented_neural_ode",
        data="rings",
        task_options={"inputs": "features"},
        batch_size=100,
        epochs=30.0,
        learning_rate=5e-3,
        schedule="cosine",
        monitor="validation_loss",
        checkpoint_every=5,
    )
